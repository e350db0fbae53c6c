"""Scores in the hub's two forms: ``model-index`` in the card's front matter, and files below ``.eval_results/``.

The hub now documents the files, each of which names a benchmark among its datasets; ``model-index`` is the older form,
takes any score, and is what its pages of models without a benchmark show. A push has both.

Source: https://huggingface.co/docs/hub/eval-results and modelcard.md of huggingface/hub-docs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from mcse.report.mteb_files import MTEB_TASKS
from mcse.report.results import EarlierResults
from mcse.types import ScoreKey
from mcse.version import __version__
from mcse.yaml_files import dump_yaml

FOLDER = ".eval_results"
"""Where the hub looks for files of scores."""

DEV = "dev"
"""What dev scores are of."""

_DATASETS = {
    **{f"STS{year}": f"mteb/sts{year}-sts" for year in range(12, 17)},
    "STSBenchmark": "mteb/stsbenchmark-sts",
    "SICKRelatedness9927": "mteb/sickr-sts",
}
"""Our task → the hub's dataset of these pairs, of those that mteb's tasks read."""

_DATASET_TASKS = {"sts": "sentence-similarity", "transfer": "text-classification"}
_OTHER = "feature-extraction"
"""What the hub calls the tasks of our suites."""


def model_index(results: EarlierResults | None, dev: Mapping[str, float]) -> list[EvalResult]:
    """Every headline score, and the dev scores of the exported step, in their order; correlations × 100.

    Args:
        results: What ``mcse evaluate`` found; ``None`` before.
        dev: By name.
    """
    rows = [
        EvalResult(
            task_type=_OTHER,
            dataset_type=DEV,
            dataset_name=DEV,
            dataset_split="validation",
            metric_type=name,
            metric_value=value,
        )
        for name, value in dev.items()
    ]
    for key, value in _headlines(results):
        name = key.task if key.suite == "sts" else f"{key.suite} {key.task}"
        rows.append(
            EvalResult(
                task_type=_DATASET_TASKS.get(key.suite, _OTHER),
                # Results of one type are one dataset to the hub's library, whatever their names.
                dataset_type=_dataset_of(key) or re.sub(r"[^\w.-]+", "-", name),
                dataset_name=name,
                dataset_split="test",
                # sentence-transformers' name of it, under which the hub finds other models' scores
                metric_type=f"{key.metric}_cosine" if key.suite == "sts" else key.metric,
                metric_value=value,
            )
        )
    return rows


def result_files(results: EarlierResults | None) -> dict[str, str]:
    """Files for the folder of a model, YAML by path, of the tasks that the hub has datasets of.

    The datasets' revisions are left out, since local files may replace them.
    """
    files = {}
    for key, value in _headlines(results):
        if key.metric == "spearman" and (dataset := _dataset_of(key)) is not None:
            task = MTEB_TASKS[key.task]
            entry = EvalResultEntry(
                dataset_id=dataset,
                task_id=task,
                value=round(value, 5),
                notes=f"scored by mcse {__version__} on SentEval's files: Spearman of cosines × 100",
            )
            files[result_file(task)] = dump_yaml(eval_result_entries_to_yaml([entry]))
    return files


def result_file(task: str) -> str:
    """The file of the scores of one of mteb's tasks."""
    return f"{FOLDER}/{task}.yaml"


def _headlines(results: EarlierResults | None) -> list[tuple[ScoreKey, float]]:
    if results is None:
        return []
    rows = [
        (ScoreKey(suite, task, metric), value)
        for suite, tasks in results.scores.items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
    ]
    return [(key, value) for key, value in rows if str(key) in results.higher_is_better]


def _dataset_of(key: ScoreKey) -> str | None:
    return _DATASETS.get(key.task) if key.suite == "sts" else None
