"""STS scores in the shape of mteb's result files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mcse.report.mteb_files import write_mteb_files
from mcse.types import ModelScores, SuiteScores, keyed_scores
from tests.fixtures.model_scores import make_scores


def sts_scores(**scores: dict[str, float]) -> ModelScores:
    suite = SuiteScores(
        scores=keyed_scores("sts", scores), protocols={f"sts.{task}": f"words on {task}" for task in scores}, columns=()
    )
    return replace(make_scores("runs/mcse", noise=0.1), suites=(suite,))


def task(spearman: float, pearson: float, pairs: int) -> dict[str, float]:
    return {"spearman": spearman, "spearman_low": spearman - 2, "pearson": pearson, "pairs": pairs}


def test_files_have_the_shape_and_the_scores_as_fractions(tmp_path: Path) -> None:
    model = sts_scores(
        STS13=task(80.1234567, 79.5, 1500),
        SICKRelatedness=task(77.15, 80.0, 4927),
        SICKRelatedness9927=task(77.58, 81.0, 9927),
        average={"spearman": 78.0},
    )
    written = write_mteb_files(tmp_path / "new" / "mteb", model)
    assert sorted(path.name for path in (tmp_path / "new" / "mteb").iterdir()) == ["SICK-R.json", "STS13.json"]
    assert [path.name for path in written] == ["STS13.json", "SICK-R.json", "mteb_protocol.json"]
    result = json.loads(written[0].read_text())
    assert result.keys() == {
        "dataset_revision",
        "task_name",
        "mteb_version",
        "scores",
        "evaluation_time",
        "kg_co2_emissions",
        "date",
        "evaluation_phases",
    }
    assert (result["task_name"], result["mteb_version"]) == ("STS13", None)
    assert result["date"] > 1.7e9
    (entry,) = result["scores"]["test"]
    assert entry["main_score"] == entry["cosine_spearman"] == entry["spearman"] == 0.801235
    assert entry["cosine_pearson"] == entry["pearson"] == 0.795
    assert (entry["hf_subset"], entry["languages"]) == ("default", ["eng-Latn"])
    # mteb's SICK-R is over all 9,927 pairs: the 4,927 of SentEval must not pass for it.
    sick = json.loads(written[1].read_text())
    assert (sick["task_name"], sick["scores"]["test"][0]["main_score"]) == ("SICK-R", 0.7758)


def test_the_protocol_says_what_the_files_cannot(tmp_path: Path) -> None:
    model = sts_scores(
        STS13=task(80.0, 79.5, 1500), SICKRelatedness=task(77.15, 80.0, 4927), average={"spearman": 79.0}
    )
    protocol = json.loads(write_mteb_files(tmp_path / "mteb", model)[-1].read_text())
    assert (protocol["model"], protocol["pooling"]) == ("runs/mcse", "cls")
    assert protocol["tasks"] == {"STS13": {"mcse_task": "STS13", "pairs": 1500, "protocol": "words on STS13"}}
    assert protocol["left_out"] == {
        "SICKRelatedness": "mteb has no task over these pairs",
        "average": "an average over tasks",
    }


def test_a_model_without_such_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs/mcse has mine"):
        write_mteb_files(tmp_path / "mteb", sts_scores(mine=task(80.0, 79.5, 10)))
    with pytest.raises(ValueError, match="has no STS task"):
        write_mteb_files(tmp_path / "mteb", replace(sts_scores(), suites=()))
    assert not list(tmp_path.iterdir())
