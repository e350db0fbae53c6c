"""Files of sentences, read strictly."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mcse.data.sentences.files import open_sentences
from mcse.files import read_lines


def test_sentences_are_read_strictly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(b"one\n\n  \ntwo \n"))
    assert list(open_sentences("text.txt.gz", root=tmp_path).rows()) == [("one",), ("two",)]
    assert "skipped 2 blank lines" in caplog.text
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"latin.txt, line 2: not UTF-8"):
        list(read_lines(tmp_path / "latin.txt"))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="empty.txt is empty"):
        open_sentences("empty.txt", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="data.sentences: no file at .*absent.txt"):
        open_sentences("absent.txt", root=tmp_path)
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no sentence"):
        list(open_sentences("blank.txt", root=tmp_path).rows())
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="line 1: expected a header of 3 columns, found 2"):
        list(open_sentences("two.csv", root=tmp_path).rows())
    (tmp_path / "short.csv").write_text("a,b,c\n1,2,3\n1,2\n")
    with pytest.raises(ValueError, match="line 3: 2 columns, not 3"):
        list(open_sentences("short.csv", root=tmp_path).rows())
    (tmp_path / "latin.csv").write_bytes(b"a,b,c\n1,2,caf\xe9\n")
    with pytest.raises(ValueError, match=r"latin.csv, line 2: not UTF-8"):
        list(open_sentences("latin.csv", root=tmp_path).rows())
    (tmp_path / "mac.csv").write_bytes(b"a,b,c\r1,2,3\r")
    with pytest.raises(ValueError, match=r"mac.csv, line \d: broken table"):
        list(open_sentences("mac.csv", root=tmp_path).rows())
    (tmp_path / "quoted.csv").write_bytes(b'\xef\xbb\xbfa,b,c\r\n"one\ntwo",2,3\r\n')
    assert list(open_sentences("quoted.csv", root=tmp_path).rows()) == [("one two", "2", "3")]


def test_damaged_gzip_and_marks_are_dealt_with(tmp_path: Path) -> None:
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"cut.txt.gz, line \d+: damaged gzip file"):
        list(read_lines(tmp_path / "cut.txt.gz"))
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfone\n")
    assert list(read_lines(tmp_path / "mark.txt")) == ["one"]
