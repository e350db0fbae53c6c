"""Files by path or pattern."""

from pathlib import Path

import pytest

from mcse.data.patterns import files_named, is_pattern


def test_paths_and_patterns_name_files(tmp_path, monkeypatch):
    odd = tmp_path / "odd [1]"  # the root's own name is no pattern
    for name in ("b.txt", "a.txt", "sub/c.txt", "folder.txt/x"):
        (odd / name).parent.mkdir(parents=True, exist_ok=True)
        (odd / name).touch()
    assert files_named("*.txt", root=odd) == [odd / "a.txt", odd / "b.txt"]
    assert files_named("?.txt", root=odd) == files_named("[ab].txt", root=odd) == [odd / "a.txt", odd / "b.txt"]
    assert files_named("*/*.txt", root=odd) == [odd / "sub" / "c.txt"]
    assert files_named("a.txt", root=odd) == files_named(str(odd / "a.txt"), root=tmp_path) == [odd / "a.txt"]
    assert files_named("folder.txt", root=odd) == files_named("gone.txt", root=odd) == []
    assert files_named(f"{tmp_path}/odd*/a.*", root=Path("elsewhere")) == [odd / "a.txt"]
    monkeypatch.chdir(odd)
    assert files_named("*.txt", root=Path()) == [Path("a.txt"), Path("b.txt")]


@pytest.mark.parametrize(("name", "expected"), [("a*", True), ("a?", True), ("[a]", True), ("a-{0..3}", False)])
def test_signs_make_a_pattern(name, expected):
    assert is_pattern(name) is expected
