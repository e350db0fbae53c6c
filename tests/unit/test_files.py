"""Whole writes, digests and lines of text."""

import errno
import gzip
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import threading

import pytest
import torch
from safetensors.torch import save_file

from mcse.files import (
    append_line,
    claimed,
    creating_folder,
    digest_of,
    is_kept,
    keeping,
    read_lines,
    read_text,
    recover_folder,
    remove_folder,
    replacing,
    replacing_folder,
    seed_of,
    sha256_bytes,
    sha256_file,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as draft:
        draft.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert names(path.parent) == ["a.txt"]


def test_a_failed_block_leaves_the_file_and_no_draft(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as draft:
        draft.write_text("half", encoding=0)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_do_not_share_a_draft(tmp_path):
    with replacing(tmp_path / "a") as draft:
        draft.write_text("x")
        assert str(os.getpid()) in draft.name


def _die_writing(folder):
    with replacing(folder / "a.bin") as file, creating_folder(folder / "world") as below:
        file.write_bytes(b"half")
        (below / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_drafts_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path):
    (tmp_path / "mine.partial").touch()
    (tmp_path / f"theirs.0123abcd-{2**22 + 1}.partial").touch()  # numbered on another machine
    kept = names(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_die_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert len(names(tmp_path)) == 4
    with replacing(tmp_path / "b.txt") as draft:
        draft.write_text("other work")
        write_json(tmp_path / "c.json", [])
        assert draft.exists()
    assert names(tmp_path) == sorted(["b.txt", "c.json", *kept])


def test_a_full_disk_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match=r"a\.txt cannot be written: No space left") as caught,
        replacing(tmp_path / "a.txt"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC


def test_writes_are_forced_to_the_disk_before_they_take_their_place(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    with replacing(tmp_path / "a") as draft:
        draft.write_text("x")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "f"
    for text in ("one", "two"):
        with replacing_folder(folder) as draft:
            (draft / "in").mkdir()
            (draft / "in" / "a").write_text(text)
        assert (folder / "in" / "a").read_text() == text
        assert names(tmp_path) == ["f"]
    with pytest.raises(TypeError), replacing_folder(folder) as draft:
        (draft / "b").write_text("half", encoding=0)
    assert names(folder) == ["in"]
    assert names(tmp_path) == ["f"]


def test_a_folder_is_made_by_the_first_who_is_ready(tmp_path):
    folder = tmp_path / "world"
    folder.mkdir()  # an empty one is in nobody's way
    with creating_folder(folder) as draft:
        (draft / "a").write_text("first")
        assert str(os.getpid()) in draft.name
    with pytest.raises(FileExistsError, match="world"), creating_folder(folder) as draft:
        (draft / "a").write_text("second")
    with pytest.raises(TypeError), creating_folder(tmp_path / "other") as draft:
        raise TypeError
    assert (folder / "a").read_text() == "first"
    assert names(tmp_path) == ["world"]


def test_a_folder_of_many_files_is_as_public_as_others(tmp_path):
    for umask in (0o022, 0o027):
        before = os.umask(umask)
        try:
            with creating_folder(tmp_path / f"f{umask}") as draft:
                for number in range(40):
                    (draft / str(number)).touch(mode=0o600)
            modes = {path.stat().st_mode & 0o777 for path in (tmp_path / f"f{umask}").iterdir()}
            assert modes == {0o666 & ~umask}
            assert os.umask(umask) == umask  # threads that read the mask do not lose it
        finally:
            os.umask(before)


def test_what_a_kill_left_is_put_back(tmp_path):
    (tmp_path / "f.old").mkdir()
    (tmp_path / "f.partial").mkdir()
    recover_folder(tmp_path / "f")
    assert names(tmp_path) == ["f"]
    remove_folder(tmp_path / "f")
    assert names(tmp_path) == []


@pytest.mark.parametrize("moment", ["between the renames", "after both"])
def test_a_kill_while_a_folder_is_replaced_is_undone(tmp_path, moment):
    folder, old = tmp_path / "f", tmp_path / "f.old"
    write_json(folder / "a.json", "old")
    os.rename(folder, old)
    (tmp_path / "f.partial").mkdir()
    if moment == "after both":
        write_json(folder / "a.json", "new")
    recover_folder(folder)
    assert json.loads((folder / "a.json").read_text()) == ("new" if moment == "after both" else "old")
    assert names(tmp_path) == ["f"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    previous = os.umask(0o022)
    try:
        with replacing_folder(tmp_path / "f") as draft:
            save_file({"a": torch.ones(1)}, draft / "x.safetensors")
    finally:
        os.umask(previous)
    assert (tmp_path / "f" / "x.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_disk_that_refuses_safetensors_is_an_os_error(tmp_path):
    """safetensors raises an error of its own where the system's write fails; here it does fail."""
    write_json(tmp_path / "f" / "a.json", "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with (
            pytest.raises(OSError, match=r"f cannot be written: .*too large"),
            replacing_folder(tmp_path / "f") as draft,
        ):
            save_file({"a": torch.ones(9999)}, draft / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["f"]
    assert json.loads((tmp_path / "f" / "a.json").read_text()) == "old"


def test_lines_of_text_plain_and_packed(tmp_path):
    data = "\ufeff a \r\n\nb\u0085c\u2028d\n".encode()
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    for name in ("a.txt", "a.txt.gz"):
        assert list(read_lines(tmp_path / name)) == ["a", "", "b\u0085c\u2028d"]
        assert read_text(tmp_path / name) == " a \r\n\nb\u0085c\u2028d\n"


def test_unreadable_text_names_file_and_line(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"a\nb\xe9\n")
    with pytest.raises(ValueError, match=r"l\.txt, line 2: not UTF-8 \(byte 0xe9\)"):
        list(read_lines(tmp_path / "l.txt"))
    whole = gzip.compress(os.urandom(200_000).hex().encode())
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.gz, line 1: damaged gzip"):
        list(read_lines(tmp_path / "cut.gz"))


def test_digests_are_sha256_and_tell_parts_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"d" * 2**21)
    assert sha256_file(tmp_path / "a") == sha256_bytes(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert sha256_file(tmp_path / "a", tmp_path / "b") == sha256_bytes(b"abc", memoryview(b"d" * 2**21))
    assert sha256_bytes(b"ab", b"c") == sha256_bytes(b"abc")
    assert digest_of("ab", "c") != digest_of("a", "bc") != digest_of("abc")
    assert digest_of("ab") == digest_of(b"ab")
    assert len(digest_of()) == 64


def test_a_seed_of_a_text_stays_what_it_was():
    assert seed_of("tweets 0 names") == 0xE22616FF35BDD703


def _hold(path, taken):
    with claimed(path):
        taken.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """A process that holds ``tmp_path / "run"``."""
    context = multiprocessing.get_context("fork")
    taken = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "run", taken))
    process.start()
    assert taken.wait(30)
    yield process
    process.kill()
    process.join()


def test_a_claimed_folder_is_refused_by_its_owners_number_until_the_owner_ends_however_it_ends(tmp_path, holder):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for name in ("run", "link"):
        with pytest.raises(ValueError, match=f"run is in use by process {holder.pid} on "), claimed(tmp_path / name):
            pass
    holder.kill()
    holder.join()
    with claimed(tmp_path / "run"):
        assert not (tmp_path / "run").exists()
    assert names(tmp_path) == ["link"]


def test_a_folder_is_claimed_also_where_nothing_may_lie_beside_it(tmp_path, monkeypatch):
    """Such as the one folder of a container that keeps what is written to it."""
    (tmp_path / "run").mkdir()
    before, folder = os.access, tmp_path.resolve()
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder and before(path, mode))
    with claimed(tmp_path / "run"):
        assert names(tmp_path) == ["run"]
        with pytest.raises(ValueError, match="run is in use by another process"), claimed(tmp_path / "run"):
            pass
    with claimed(tmp_path / "run"):
        pass
    assert names(tmp_path) == ["run"]


def test_an_owner_that_has_just_come_is_named(tmp_path):
    """Found by ``make faults``: between taking the lock and writing into it nobody was named."""
    with claimed(tmp_path / "run"):
        lock = tmp_path / ".run.lock"
        said = lock.read_text()
        lock.write_text("")
        threading.Timer(0.2, lambda: lock.write_text(said)).start()
        with pytest.raises(ValueError, match=f"is in use by process {os.getpid()} on "), claimed(tmp_path / "run"):
            pass


def test_a_claim_can_be_waited_for(tmp_path, holder):
    threading.Timer(0.3, holder.kill).start()
    with claimed(tmp_path / "run", wait=30):
        pass


def test_a_claim_ends_with_an_error_inside(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), claimed(tmp_path / "run"):
            raise KeyError


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(len("computed"))),
        lambda path: path.with_name("a.npz.sha256").write_bytes(b""),
        lambda path: path.with_name("a.npz.sha256").unlink(),
    ],
)
def test_what_is_kept_and_damaged_is_said_and_made_anew(tmp_path, damage, caplog):
    path = tmp_path / "a.npz"
    assert not is_kept(path)
    for _ in range(2):
        with keeping(path) as draft:
            draft.write_text("computed")
        assert is_kept(path)
        assert not caplog.messages
        damage(path)
        assert not is_kept(path)
        assert caplog.messages == [f"{path} is damaged, or was not written to its end; it is made anew"]
        caplog.clear()


def test_what_is_kept_is_never_there_without_its_digest(tmp_path, monkeypatch):
    """A power cut, or another process that reads it at once, would find it damaged."""
    path, before = tmp_path / "a.npz", os.replace

    def replace(draft, target):
        assert target != path or (tmp_path / "a.npz.sha256").read_text() == sha256_bytes(b"computed")
        before(draft, target)

    monkeypatch.setattr(os, "replace", replace)
    with keeping(path) as draft:
        draft.write_text("computed")
    assert is_kept(path)


def test_a_line_is_on_the_disk_when_it_was_added(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    path = tmp_path / "metrics.jsonl"
    append_line(path, "one")
    append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    assert synced == [str(path), str(tmp_path), str(path)]
