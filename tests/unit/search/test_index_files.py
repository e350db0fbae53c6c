"""Indexes on disk: the old one or the new one, whole, whenever the writer is killed, and no damage goes unnoticed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mcse import files
from mcse.search import EmbeddingIndex, index_files
from mcse.search.image_index import ImageIndex, IndexedImage, IndexOrigin
from mcse.search.index_files import is_unfinished, read_index, save_index
from mcse.search.rows import IndexRows, RowBlocks
from mcse.types import FloatArray

OLD, NEW = np.eye(3, 4, dtype=np.float32), np.eye(4, dtype=np.float32)[::-1].copy()


class OneHot:
    """Sentences that are numbers, as rows of ``NEW``."""

    name = "one-hot"

    def encode(self, sentences: list[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        return np.eye(4, dtype=np.float32)[[int(sentence) for sentence in sentences]]


def save_sentences(rows: FloatArray, folder: Path) -> None:
    index = EmbeddingIndex(OneHot())
    index.add_embeddings(rows, texts=[str(row.argmax()) for row in rows])
    index.save(folder)


def load_sentences(folder: Path) -> list[list[str]]:
    index = EmbeddingIndex.load(folder, OneHot())
    return [[hit.text for hit in index.search(text, top_k=1)[0]] for text in ("0", "1", "2", "3")[: len(index)]]


def save_images(rows: FloatArray, folder: Path) -> None:
    origin = IndexOrigin(folder="/images", model="m", model_digest=None, tower=None)
    names = [str(row.argmax()) for row in rows]
    images = tuple(IndexedImage(path=name, num_bytes=1, mtime_ns=1, sha256="") for name in names)
    ImageIndex(origin=origin, images=images, rows=IndexRows.of(RowBlocks(rows))).save(folder)


def load_images(folder: Path) -> list[list[str]]:
    index = ImageIndex.load(folder)
    return sorted(
        [[image.path] for image, row in zip(index.images, index.rows_ND, strict=True) if row[int(image.path)]]
    )


def killed_at(step: int, save: Callable[[], None]) -> bool:
    """Saves in a child that dies, as by SIGKILL, before the ``step``-th file is opened, renamed or removed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    done = 0

    def die(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        done += event in ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir")
        if done == step:
            os._exit(9)

    sys.addaudithook(die)
    try:
        save()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save", "load"), [(save_sentences, load_sentences), (save_images, load_images)], ids=["sentences", "images"]
)
def test_a_kill_at_any_step_leaves_the_old_index_or_the_new_one(save, load, tmp_path):
    old, folder = tmp_path / "old", tmp_path / "index"
    save(OLD, old)
    seen = []
    for step in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(old, folder)
        was_killed = killed_at(step, lambda: save(NEW, folder))
        seen.append(load(folder))
        save(NEW, folder)  # goes on
        assert load(folder) == [["0"], ["1"], ["2"], ["3"]]
        assert len([path for path in folder.iterdir() if path.suffix == ".safetensors"]) == 1
        if not was_killed:
            break
    else:
        pytest.fail("the save never came to its end")
    before, after = [["0"], ["1"], ["2"]], [["0"], ["1"], ["2"], ["3"]]
    assert seen[0] == before
    assert seen[-1] == after
    assert seen == sorted(seen)  # once new, never old again
    assert before in seen[2:]
    assert len(seen) > 6


@pytest.mark.slow
def test_a_kill_of_the_first_save_leaves_nothing_in_the_way_of_the_next(tmp_path):
    for step in range(1, 100):
        folder = tmp_path / str(step)
        was_killed = killed_at(step, lambda folder=folder: save_images(NEW, folder))
        if folder.is_dir() and not (folder / "index.json").is_file():
            assert is_unfinished(folder)
            (folder / "thesis.tex").touch()
            assert not is_unfinished(folder)
        save_images(NEW, folder)
        assert {path.name.partition("-")[0] for path in folder.iterdir()} <= {"embeddings", "index.json", "thesis.tex"}
        assert len(list(folder.glob("embeddings-*"))) == 1
        if not was_killed:
            return
    pytest.fail("the save never came to its end")


def test_an_index_is_read_whole_while_another_process_saves_it(tmp_path, monkeypatch):
    """Red team: 72 of 73 reads were damaged. The worst moment: between the two files."""
    save_sentences(OLD, tmp_path)
    before, saves = index_files.sha256_file, []

    def saving(path: Path) -> str:
        if not saves:
            saves.append(path)
            save_sentences(NEW, tmp_path)
        return before(path)

    monkeypatch.setattr(index_files, "sha256_file", saving)
    assert load_sentences(tmp_path) == [["0"], ["1"], ["2"], ["3"]]


def test_a_full_disk_leaves_the_old_index_and_nothing_else(tmp_path, monkeypatch):
    save_sentences(OLD, tmp_path)
    before = sorted(tmp_path.iterdir())

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mcse.search.index_files.write_json", full)
    with pytest.raises(OSError, match="No space"):
        save_sentences(NEW, tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr("mcse.search.index_files.write_json", files.write_json)
    (tmp_path / "notes.txt").write_text("mine")
    save_sentences(NEW, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def change(folder: Path, **changes: object) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@dataclass(frozen=True)
class Things:
    names: list[str]


def test_damage_is_refused(tmp_path):
    def refused(kind: str = "things") -> str:
        with (
            pytest.raises(ValueError, match=f"not an index of {kind}") as caught,
            read_index(tmp_path, Things, kind=kind),
        ):
            pass
        return str(caught.value)

    assert "there is no index.json in it" in refused()
    save_index(tmp_path, {"names": ["a", "b", "c"]}, IndexRows.of(RowBlocks(OLD)), kind="things")
    with read_index(tmp_path, Things, kind="things") as (content, rows):
        assert content.names == ["a", "b", "c"]
        np.testing.assert_array_equal(rows.restored(range(len(OLD))), OLD)
    with (
        pytest.raises(ValueError, match=r"index.json: damaged, or not an index of things: 3 names"),
        read_index(tmp_path, Things, kind="things") as (content, _),
    ):
        raise ValueError(f"{len(content.names)} names")
    assert "it is an index of things" in refused("images")
    content = json.loads((tmp_path / "index.json").read_text())
    stored = tmp_path / content["embeddings"]["file"]
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-1] + b"\x01")
    assert f"{stored.name} is not the file that was saved: its digest differs" in refused()
    stored.unlink()
    assert "No such file" in refused()
    for wrong, message in (
        ({"names": None}, "names must be a list, got null"),
        ({"names": ["a"], "schema": 1}, "schema 1, this version reads 2"),
        ({"schema": 2, "embeddings": {"file": "../x.safetensors", "sha256": ""}}, "is not a plain file name"),
        ({"embeddings": {"file": "x"}}, "embeddings.sha256 is missing"),
    ):
        change(tmp_path, **wrong)
        assert message in refused()
    (tmp_path / "index.json").write_text("[")
    assert "broken JSON" in refused()
