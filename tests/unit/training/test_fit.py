"""Which folders a run may be written into."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mcse.files import claimed
from mcse.run_folder import is_run
from mcse.training.fit import begin_folder, check_folder, claimed_folder


def put(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    return folder


def test_a_new_or_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        check_folder(tmp_path / name, resume=False, overwrite=False)


def test_only_what_the_loop_wrote_is_deleted(tmp_path: Path) -> None:
    """Looking like a run is not enough: somebody else's ``best/`` is no reason to delete what lies beside it."""
    others = put(tmp_path / "others", "best/config.json", "thesis.txt")
    assert is_run(others)
    with pytest.raises(ValueError, match=r"others holds no run \(no config.yaml\), so --overwrite does not delete it"):
        check_folder(others, resume=False, overwrite=True)
    ours = put(tmp_path / "ours", "config.yaml", "best/config.json")
    with pytest.raises(ValueError, match="ours is not empty; give --train.resume auto"):
        check_folder(ours, resume=False, overwrite=False)
    check_folder(ours, resume=False, overwrite=True)
    check_folder(ours, resume=True, overwrite=False)


@pytest.mark.parametrize("file", ["config.yaml", "run.json", "metrics.jsonl", "best/mcse.json"])
def test_a_run_inside_a_run_is_refused_by_whatever_makes_it_one(tmp_path: Path, file: str) -> None:
    run = put(tmp_path / "run", file)
    with pytest.raises(ValueError, match="again would be inside a run, or hold one; runs are siblings"):
        check_folder(run / "again", resume=False, overwrite=False)
    with pytest.raises(ValueError, match="would be inside a run, or hold one"):
        check_folder(tmp_path, resume=True, overwrite=False)


@pytest.mark.parametrize("resume", [False, True])
def test_a_living_run_is_neither_deleted_nor_gone_on_with(tmp_path: Path, resume: bool) -> None:
    run = put(tmp_path / "run", "config.yaml", "best/config.json")
    with claimed(run):  # as the other run has it
        with (
            pytest.raises(ValueError, match="run is in use by process"),
            claimed_folder(run, resume=resume, overwrite=not resume),
        ):
            pass
        assert (run / "best" / "config.json").is_file()
    with claimed_folder(run, resume=resume, overwrite=not resume):
        assert (run / "best").exists(), "deleted before the run that takes its place could be built"
        begin_folder(run, resume=resume)
        assert (run / "best").exists() == resume


def test_a_run_that_has_just_begun_is_one_in_use(tmp_path: Path) -> None:
    """Found by ``make faults``: before its config.yaml was there, it was refused as a folder that holds no run."""
    put(tmp_path / "run", "config.yaml.0123abcd-1.partial")
    with (
        claimed(tmp_path / "run"),
        pytest.raises(ValueError, match="run is in use by process"),
        claimed_folder(tmp_path / "run", resume=False, overwrite=True),
    ):
        pass


def test_a_kill_while_a_run_is_deleted_leaves_one_to_delete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = put(tmp_path / "run", "config.yaml", "a.txt", "best/config.json", "run.json", "state/step-1/state.json")
    remove, left = shutil.rmtree, 4
    while left:  # killed before the first, the second, ... is deleted

        def killed(path: Path, left: int = left) -> None:
            if len(list(run.iterdir())) <= left:
                raise KeyboardInterrupt
            remove(path) if path.is_dir() else os.unlink(path)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", killed)
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                begin_folder(run, resume=False)
        assert len(list(run.iterdir())) == left
        check_folder(run, resume=False, overwrite=True)
        left -= 1
    begin_folder(run, resume=False)
    assert not list(run.iterdir())


def test_where_a_link_leads_is_not_deleted(tmp_path: Path) -> None:
    """Of an output folder that is a link to a larger disk, what is in it is deleted; of a link inside, the link."""
    put(tmp_path / "disk", "config.yaml")
    put(tmp_path / "others", "thesis.txt")
    (tmp_path / "disk" / "link").symlink_to(tmp_path / "others")
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    begin_folder(tmp_path / "run", resume=False)
    assert (tmp_path / "run").is_symlink()
    assert not list((tmp_path / "disk").iterdir())
    assert (tmp_path / "others" / "thesis.txt").is_file()


def test_a_run_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    check_folder(run, resume=False, overwrite=False)
    put(run, "config.yaml")
    with pytest.raises(ValueError, match="is not empty"), claimed_folder(run, resume=False, overwrite=False):
        pass
    assert (run / "config.yaml").is_file()
