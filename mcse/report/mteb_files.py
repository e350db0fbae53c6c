"""STS scores as files in the shape of mteb's results, for tools that read those.

The scores are ours and not computed by mteb, so its version is left open in the files, and so is the data set's
revision, which local data cannot vouch for. What they are instead is said in a file beside the folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcse.files import write_json
from mcse.types import ModelScores, score_tree

SCHEMA = 1
"""Version of the protocol file; raised when a key changes its meaning or goes away."""

MTEB_TASKS = {
    "STS12": "STS12",
    "STS13": "STS13",
    "STS14": "STS14",
    "STS15": "STS15",
    "STS16": "STS16",
    "STSBenchmark": "STSBenchmark",
    "SICKRelatedness9927": "SICK-R",
}
"""Ours → mteb's, where both are over the same pairs."""

_NO_REVISION = "no_revision_available"
"""mteb's own placeholder."""

_DIGITS = 6
"""As mteb rounds in its files."""


def write_mteb_files(folder: str | Path, model: ModelScores) -> tuple[Path, ...]:
    """Writes ``<task>.json`` for each STS task that mteb has, and ``<folder>_protocol.json`` beside the folder.

    mteb's readers take every JSON file of a folder for a result: nothing else is put there.

    Args:
        folder: Made where absent; files of the same names are replaced.
        model: With scores of the suite ``sts``.

    Returns:
        What was written, the protocol last.

    Raises:
        ValueError: The model has a score on none of the tasks.
    """
    folder = Path(folder)
    scores = score_tree(model.all.scores).get("sts", {})
    known = {task: name for task, name in MTEB_TASKS.items() if task in scores}
    if not known:
        found = ", ".join(scores) or "no STS task"
        raise ValueError(f"mteb's result files are for the STS tasks that mteb has; {model.name} has {found}")
    files = {folder / f"{name}.json": _result(name, scores[task]) for task, name in known.items()}
    files[folder.with_name(f"{folder.name}_protocol.json")] = _protocol(model, scores, known)
    for path, content in files.items():
        write_json(path, content)
    return tuple(files)


def _result(name: str, scores: Mapping[str, float]) -> dict[str, Any]:
    spearman, pearson = (round(scores[metric] / 100, _DIGITS) for metric in ("spearman", "pearson"))
    entry = {
        "pearson": pearson,
        "spearman": spearman,
        "cosine_pearson": pearson,
        "cosine_spearman": spearman,
        "main_score": spearman,
        "hf_subset": "default",
        "languages": ["eng-Latn"],
    }
    return {
        "dataset_revision": _NO_REVISION,
        "task_name": name,
        "mteb_version": None,
        "scores": {"test": [entry]},
        "evaluation_time": None,
        "kg_co2_emissions": None,
        "date": round(time.time(), 3),
        "evaluation_phases": None,
    }


def _protocol(
    model: ModelScores, scores: Mapping[str, Mapping[str, float]], known: Mapping[str, str]
) -> dict[str, Any]:
    left_out = {
        task: "an average over tasks" if task == "average" else "mteb has no task over these pairs"
        for task in scores
        if task not in known
    }
    return {
        "schema": SCHEMA,
        "model": model.name,
        "pooling": model.pooling,
        "scored_by": "mcse, not mteb: correlations of cosines; mteb's manhattan and euclidean scores are not computed",
        "data": "the data sets' revisions on the hub are not known, since local files may replace them",
        "tasks": {
            name: {
                "mcse_task": task,
                "pairs": int(scores[task]["pairs"]),
                "protocol": model.all.protocols.get(f"sts.{task}", ""),
            }
            for task, name in known.items()
        },
        "left_out": left_out,
    }
