"""The benchmark of nearness to captions: measures in loops, the line by another library, intervals that hold."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from benchmarks import domain_nearness
from benchmarks.domain_nearness import fit, nearness


def unit(number, *, seed):
    rows = np.random.default_rng(seed).normal(size=(number, 5))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_nearness_is_its_definition() -> None:
    sentences, captions = unit(11, seed=0), unit(7, seed=1)
    found = nearness(sentences, captions, block=4)
    expected = np.mean([max(float(s @ c) for c in captions) for s in sentences])
    left, right = sum(sentences), sum(captions)
    centroids = float(left @ right / np.sqrt((left @ left) * (right @ right)))
    assert (found.sentences, found.nearest, found.centroids) == (11, pytest.approx(expected), pytest.approx(centroids))


def drawn(slope, *, seed, subsets=24, seeds=5):
    """Scores whose gain rises with nearness by ``slope``, with noise of subsets and of seeds."""
    generator = np.random.default_rng(seed)
    near_S = generator.uniform(0.3, 0.8, size=subsets)
    second_GS = generator.normal(60, 1, size=(seeds, subsets))
    gain_S = 1 + slope * near_S + generator.normal(0, 0.5, size=subsets)
    return near_S, generator.normal(60, 1, size=(seeds, subsets)) + gain_S, second_GS, [s // 4 for s in range(subsets)]


def test_the_line_is_that_of_least_squares_and_its_interval_covers() -> None:
    near_S, first_FS, second_GS, domain_S = drawn(4.0, seed=0)
    line = fit(near_S, first_FS, second_GS, domain_S, draws=200)
    slope, intercept = np.polyfit(near_S, first_FS.mean(0) - second_GS.mean(0), 1)
    assert (line.slope, line.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    assert line == fit(near_S, first_FS, second_GS, domain_S, draws=200)
    inside = [
        found.low <= 4.0 <= found.high for found in (fit(*drawn(4.0, seed=seed), draws=200) for seed in range(1, 61))
    ]
    # Percentiles of few subsets cover a little less than 95 %.
    assert 0.85 <= np.mean(inside) <= 1


def test_it_reads_evaluated_seeds_and_writes_a_page(tmp_path, monkeypatch, capsys) -> None:
    names = ("images", "headlines", "belief")
    texts = {name: [f"{name} {word} here" for word in ("dog", "cat", "cow")] for name in names}
    texts["images"].append("A dog runs.")
    monkeypatch.setattr(
        domain_nearness,
        "sentences_of",
        lambda _: {f"STS15/{n}": t for n, t in texts.items()} | {"SICKRelatedness": ["a man sings"]},
    )
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog runs\nb.jpg,images of a cow\n")
    for side, gain in (("first", 2.0), ("second", 0.0)):
        for seed in range(2):
            # As `mcse evaluate` writes them, and as a study does.
            folder = tmp_path / side / f"seed{seed}" / ("evaluation" if side == "first" else "evaluation/sts")
            folder.mkdir(parents=True)
            scores = {name: {"spearman": 50 + seed + gain * (name == "images")} for name in names}
            clean = {"STS15": {"pairs": 7 if side == "first" else 8}}
            tasks = {"STS15": {"pairs": 8}, "SICKRelatedness": {"spearman": 60.0, "pairs": 5}}
            results = {"subsets": {"sts": {"STS15": scores}}, "scores": {"sts": tasks, "sts_clean": clean}}
            (folder / "results.json").write_text(json.dumps(results))

    class Letters:
        """Rows of counted letters."""

        def encode(self, sentences):
            rows = np.array([[text.count(letter) for letter in "abcdeghimnorstuw"] for text in sentences], dtype=float)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    given = argparse.Namespace(
        first=str(tmp_path / "first"),
        second=str(tmp_path / "second"),
        captions=str(tmp_path / "captions.csv"),
        data=None,
        model="letters",
        draws=100,
        output=tmp_path / "out",
    )
    found = domain_nearness.run(given, Letters())
    assert {name: round(one["gain"], 6) for name, one in found["subsets"].items()} == {
        "STS15/images": 2.0,
        "STS15/headlines": 0.0,
        "STS15/belief": 0.0,
        "SICKRelatedness": 0.0,
    }
    assert found["subsets"]["STS15/images"]["sentences"] == 3, "a sentence that is a caption is left out"
    assert found["subsets"]["STS15/images"]["spread"] == pytest.approx(1.0)
    said = capsys.readouterr().out
    assert said.count("test pairs stood in its training text") == 2
    assert "| STS15/images | captions | 3 |" in (tmp_path / "out" / "domain_nearness.md").read_text()
    assert (tmp_path / "out" / "domain_nearness.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="mcse evaluate"):
        domain_nearness.read_side(tmp_path / "none")
