"""The demo, shortened, on a world of another seed than the one `make demo` shows; and the null world.

Training files of a null world equal those of the pixel world byte for byte, so both evaluate the same checkpoints.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
from dataclasses import asdict
from pathlib import Path

import pytest

from mcse.commands.demo import IMPORTS
from mcse.commands.demo_report import _shown_seed
from mcse.commands.main import main
from mcse.data.test_sets.sts import load_own_task
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation.suite import Subject
from mcse.evaluation.suites.sts import score_sts
from mcse.files import claimed
from mcse.scenes import WorldConfig, build_world, read_scenes
from mcse.types import ScoreKey

WORLD_SEED = 5


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(output.parent)
        arguments = ["--seeds", "1", "--max-steps", "150", "--world-seed", str(WORLD_SEED), "--output", str(output)]
        assert main(["demo", *arguments]) == 0
    return output


@pytest.mark.slow
def test_images_help_where_gold_is_about_them(demo: Path) -> None:
    recipes = json.loads((demo / "results.json").read_text())["recipes"]
    score = {name: statistics.fmean(entry["spearman"]) for name, entry in recipes.items()}
    assert set(score) == {"untrained", "simcse", "mcse", "mcse_shuffled"}
    assert all(len(entry["spearman"]) == 1 for entry in recipes.values())
    assert score["mcse"] > max(score["simcse"], score["mcse_shuffled"]) + 30
    assert recipes["mcse"]["image_to_text_recall@5"][0] > 30
    assert recipes["mcse_shuffled"]["image_to_text_recall@5"][0] < 5


@pytest.mark.slow
def test_images_do_not_help_where_gold_is_not_about_them(demo: Path, tmp_path: Path) -> None:
    null = build_world(tmp_path / "null", config=WorldConfig(seed=WORLD_SEED, gold="null"))
    assert (null / "captions.csv").read_bytes() == (demo / "world" / "captions.csv").read_bytes()
    task = load_own_task(null / "sts" / "test.tsv")
    assert len(task) == 1000
    key = ScoreKey("sts", task.name, "spearman")
    score = {
        system: score_sts(Subject.of(SentenceEncoder.from_pretrained(str(demo / system / "seed0"))), [task]).scores[key]
        for system in ("simcse", "mcse", "mcse_shuffled")
    }
    # Over 1,000 pairs an uninformed correlation has a standard deviation of 3.2.
    assert all(abs(value) < 4 * 3.2 for value in score.values()), score
    assert score["mcse"] - max(score["simcse"], score["mcse_shuffled"]) < 2 * 3.2, score


@pytest.mark.slow
def test_the_report_is_one_file(demo: Path) -> None:
    text = (demo / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") >= 6
    assert 'src="http' not in text
    assert "MCSE, shuffled images" in text
    assert "Seed 0 is the only one." in text
    assert "✓ true" in text
    assert "by a program: 3,000 images" in text
    latex = (demo / "report.tex").read_text(encoding="utf-8")
    assert latex.count(r"\begin{table}") == 1
    for whole in (text, latex, (demo / "report.md").read_text(encoding="utf-8")):
        assert "mcse demo" in whole.partition("How this was made")[2]


@pytest.mark.parametrize(("spearman", "seed"), [((30.0,), 0), ((30.0, 50.0, 40.0), 2), ((10.0, 40.0, 20.0, 30.0), 2)])
def test_the_seed_that_is_shown_is_the_median(spearman: tuple[float, ...], seed: int) -> None:
    found, why = _shown_seed(spearman)
    assert found == seed
    assert f"eed {seed}" in why


def test_what_an_image_shows_is_read_back(tmp_path: Path) -> None:
    config = WorldConfig(num_train_images=4, num_dev_images=8, num_test_images=8, num_sentences=5, num_sts_pairs=4)
    world = build_world(tmp_path / "world", config=config)
    scenes = read_scenes(world)
    lines = list(map(json.loads, (world / "contents.jsonl").read_text().splitlines()))
    assert [asdict(scenes[line["image"]]) for line in lines] == [line["scene"] for line in lines]
    assert [type(scenes[line["image"]]).__name__ for line in lines] == [line["kind"] for line in lines]
    (world / "contents.jsonl").write_text('{"image": "a.png"}\n')
    with pytest.raises(ValueError, match=r"contents.jsonl, line 1: scene"):
        read_scenes(world)


def test_what_its_runs_are_forked_with_is_there() -> None:
    """Python passes over what it cannot import then, and each run would import everything again."""
    assert all(importlib.util.find_spec(name) is not None for name in IMPORTS)


def test_a_demo_that_runs_is_not_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claimed(tmp_path / "demo"):
        assert main(["demo", "--output", str(tmp_path / "demo")]) == 2
    assert f"demo is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_not_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "was not made by 'mcse demo'" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_wrong_arguments_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--seeds", "0"]) == 2
    assert "--seeds must be 1 or more, got 0" in capsys.readouterr().err
    assert main(["demo", "--train-images", "0"]) == 2
    assert "--train-images must be 1 or more, got 0" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
