"""Results kept by what they depend on: they come back the same, or damaged ones are named and computed anew."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from mcse.evaluation import result_cache
from mcse.evaluation.compare import compare
from mcse.evaluation.result_cache import (
    KeptResult,
    cache_folder,
    cache_key,
    load_result,
    read_items,
    save_result,
    write_items,
)
from tests.fixtures.model_scores import make_scores

SCORES = make_scores("kept", noise=0.2, seen=[3]).suites[0]


def test_results_are_kept_and_come_back_the_same() -> None:
    name = cache_key("digest", None, "sts", 1)
    assert load_result(name) is None
    save_result(name, KeptResult(pooling="cls", scores=SCORES, notes=("covered",)))
    kept = load_result(name)
    assert kept is not None
    assert (kept.pooling, kept.notes) == ("cls", ("covered",))
    for field in ("scores", "protocols", "columns", "details", "absent", "means"):
        assert getattr(kept.scores, field) == getattr(SCORES, field), field
    assert str(kept.scores.pairs) == str(SCORES.pairs)
    assert kept.scores.samples.keys() == SCORES.samples.keys()
    for key, sample in SCORES.samples.items():
        back = kept.scores.samples[key]
        assert back.statistic == sample.statistic
        for part in ("value_P", "gold_P", "clean_P"):
            np.testing.assert_array_equal(getattr(back, part), getattr(sample, part))
        assert back.group_P is None
    assert cache_key("digest", None, "sts", 2) != name


def test_items_that_were_written_compare_as_the_scores_themselves(tmp_path: Path) -> None:
    first, second = make_scores("first", noise=0.2, seen=[3]), make_scores("second", noise=0.3, seen=[5])
    write_items(first, tmp_path / "items")
    back = read_items(tmp_path / "items", name="first")
    assert compare([back], [second]) == compare([first], [second])
    assert back.all.pairs == {}, "sentences are not copied"
    with pytest.raises(ValueError, match="holds no items of scores; mcse evaluate --items writes them"):
        read_items(tmp_path, name="none")
    path = tmp_path / "items" / "sts.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path} is damaged: "):
        read_items(tmp_path / "items", name="first")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b"no archive at all"),
        lambda path: path.write_text(json.dumps({"pooling": "cls"})),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
        lambda path: np.savez(path, content=np.array("{}")),
        lambda path: np.savez(path, content=np.array("[1")),
        lambda path: np.savez(path, content=np.array(json.dumps({"pooling": "cls", "notes": [], "scores": []}))),
        lambda path: path.write_bytes(path.read_bytes().replace(b"value_P", b"value_Q")),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_damaged_result_is_named_and_computed_anew(damage, caplog: pytest.LogCaptureFixture) -> None:
    save_result("key", KeptResult(pooling="cls", scores=SCORES))
    path = cache_folder() / "key.npz"
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert load_result("key") is None
    assert f"{path} is damaged and is computed anew" in caplog.text


def test_a_result_that_unpacks_to_too_much_is_not_unpacked(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 4 MB can hold 4 GiB of zeros."""
    save_result("odd", KeptResult(pooling="cls", scores=SCORES))
    np.savez_compressed(cache_folder() / "odd.npz", content=np.zeros(2**21, np.uint8))
    assert (cache_folder() / "odd.npz").stat().st_size < 2**13
    monkeypatch.setattr(result_cache, "_MOST_BYTES", 2**20)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("unpacked"))
    assert load_result("odd") is None
    assert "it holds 2,097,280 bytes, unpacked" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, name: arrays | {f"{name} value_P": arrays[f"{name} value_P"][:-1]},
        lambda arrays, name: arrays | {f"{name} value_P": arrays[f"{name} value_P"].astype(str)},
        lambda arrays, name: arrays | {f"{name} gold_P": arrays[f"{name} gold_P"][None]},
        lambda arrays, _: tampered(
            arrays, lambda content: content["scores"]["scores"].update({"sts.A.spearman": "99"})
        ),
        lambda arrays, _: tampered(arrays, lambda content: content["scores"].update(columns={})),
        lambda arrays, _: tampered(arrays, lambda content: content["scores"]["columns"][0].update(key=None)),
        lambda arrays, _: tampered(arrays, lambda content: content.update(pooling=1)),
    ],
)
def test_a_tampered_result_is_computed_anew(change, caplog: pytest.LogCaptureFixture) -> None:
    save_result("odd", KeptResult(pooling="cls", scores=SCORES))
    path = cache_folder() / "odd.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = next(iter(SCORES.samples))
    np.savez(path, **change(arrays, str(name)))
    assert load_result("odd") is None
    assert "is damaged and is computed anew" in caplog.text


def tampered(arrays, change):
    content = json.loads(arrays["content"].tobytes())
    change(content)
    return arrays | {"content": np.frombuffer(json.dumps(content).encode(), np.uint8)}


def test_a_cache_that_cannot_be_written_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    monkeypatch.setenv("MCSE_CACHE", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        save_result("key", KeptResult(pooling="cls", scores=SCORES))
    assert "not kept" in caplog.text
