"""Word vectors' files in every form, read the same; what is wrong is named by file and line."""

from __future__ import annotations

import gzip
import logging
import struct
from pathlib import Path

import numpy as np
import pytest

from mcse.text.word_vectors import load_word_vectors, stream_word_vectors

ROWS = {
    "the": [0.5, -1.25, 2.0],
    "Paris": [1.0, 0.0, -3.5],
    "café": [-0.125, 4.0, 0.25],
    "dog": [2.0, 2.0, 2.0],
}


def _text(rows: dict[str, list[float]] = ROWS, *, header: bool = False, gap: str = " ", end: str = "\n") -> bytes:
    lines = [f"{len(rows)} 3"] if header else []
    lines += [gap.join([word, *map(str, row)]) for word, row in rows.items()]
    return "".join(line + end for line in lines).encode()


def _binary(rows: dict[str, list[float]] = ROWS, *, newline: bytes = b"\n", promised: int | None = None) -> bytes:
    head = f"{len(rows) if promised is None else promised} 3\n".encode()
    return head + b"".join(word.encode() + b" " + struct.pack("<3f", *row) + newline for word, row in rows.items())


def _turned(rows: dict[str, list[float]]) -> bytes:
    """As a machine with the other order of bytes writes it."""
    width = len(next(iter(rows.values())))
    parts = (word.encode() + b" " + struct.pack(f">{width}f", *row) for word, row in rows.items())
    return f"{len(rows)} {width}\n".encode() + b"".join(parts)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix.lower() == ".gz" else content)
    return path


FORMS = {
    "glove.txt": _text(),
    "glove.6B.txt.gz": _text(),
    "fasttext.vec": _text(header=True, end=" \n"),
    "word2vec.txt": _text(header=True),
    "windows.txt": _text(end="\r\n"),
    "tabs.vec": _text(gap="\t"),
    "marked.txt": b"\xef\xbb\xbf" + _text(header=True),
    "blank.txt": _text() + b"\n\n",
    "cut.txt": _text().removesuffix(b"\n"),
    "google.bin": _binary(newline=b""),
    "word2vec.bin": _binary(),
    "WORD2VEC.BIN.GZ": _binary(),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / name, FORMS[name])
    vectors = load_word_vectors(path)
    assert vectors.words == tuple(ROWS)
    assert len(vectors) == 4
    assert vectors.width == 3
    assert vectors.row_VD.dtype == np.float32
    assert {word: vectors.row_VD[vectors.index[word]].tolist() for word in vectors.words} == ROWS


@pytest.mark.parametrize("name", ["v.txt", "v.bin"])
def test_only_what_is_asked_for_is_kept(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / name, _text() if name == "v.txt" else _binary())
    vectors = load_word_vectors(path, keep={"dog", "café", "cat"})
    assert vectors.words == ("café", "dog")
    assert vectors.row_VD.tolist() == [ROWS["café"], ROWS["dog"]]
    assert vectors.row_VD.base is None, "the rows of the other words must not live on behind a view"
    none = load_word_vectors(path, keep=set())
    assert none.row_VD.shape == (0, 3)


def test_more_rows_than_fit_at_first_are_kept_in_order(tmp_path: Path) -> None:
    number = 5000
    rows = np.random.default_rng(0).normal(size=(number, 3)).astype(np.float32)
    named = {f"w{i}": row.tolist() for i, row in enumerate(rows)}
    for name, content in (("v.txt", _text(named)), ("v.bin", _binary(named))):
        vectors = load_word_vectors(_write(tmp_path / name, content))
        assert vectors.words == tuple(named)
        np.testing.assert_array_equal(vectors.row_VD, rows)


def test_words_wider_than_a_block_of_the_binary_reader(tmp_path: Path) -> None:
    width = 300_000
    rows = np.random.default_rng(1).normal(size=(5, width)).astype("<f4")
    content = f"5 {width}\n".encode() + b"".join(f"w{i} ".encode() + row.tobytes() for i, row in enumerate(rows))
    vectors = load_word_vectors(_write(tmp_path / "v.bin", content))
    np.testing.assert_array_equal(vectors.row_VD, rows)


def test_white_space_inside_words_is_theirs(tmp_path: Path) -> None:
    content = "a 1 2 3\n. . . 4 5 6\nat name@domain.com 7 8 9\nnew\u00a0york 1 1 1\n\u2028 2 2 2\n\u0085 3 3 3\n"
    vectors = load_word_vectors(_write(tmp_path / "v.txt", content.encode()))
    assert vectors.words == ("a", ". . .", "at name@domain.com", "new\u00a0york", "\u2028", "\u0085")
    assert vectors.row_VD[1].tolist() == [4, 5, 6]


def test_of_a_repeated_word_the_first_row_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _write(tmp_path / "v.txt", b"a 1 2 3\nb 4 5 6\na 7 8 9\nb 0 0 0\n")
    with caplog.at_level(logging.WARNING):
        vectors = load_word_vectors(path)
    assert vectors.row_VD.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert f"{path}: 2 words come again (first 'a' at 3)" in caplog.text


def test_words_that_are_no_text_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _write(tmp_path / "v.bin", _binary().replace("café".encode(), b"caf\xe9"))
    with caplog.at_level(logging.WARNING):
        assert load_word_vectors(path).words == ("the", "Paris", "dog")
    assert "3 of 4 words read (1 not UTF-8)" in caplog.text


FASTTEXT = struct.pack("<2i", 793712314, 12) + bytes(100)
WRONG = {
    "a line too short": ("v.txt", b"a 1 2 3\nb 4 5\n", r"v.txt, line 2: the vector of 'b' has 2 numbers, not the 3"),
    "a line too long": ("v.txt", b"a 1 2 3\nb 4 5 6 7\n", r"v.txt, line 2: the vector of 'b' has 4 numbers, not the 3"),
    "not the header's width": (
        "v.vec",
        b"2 3\na 1 2\nb 1 2\n",
        r"v.vec, line 2: .* has 2 numbers, not the 3 of",
    ),
    "two spaces for a number": ("v.txt", b"a 1 2 3\nb  4 5\n", r"v.txt, line 2: has 2 numbers, not the 3"),
    "not a number": ("v.txt", b"a 1 2 3\n\nb 4 x5 6\n", r"v.txt, line 3: 'x5' is not a number"),
    "not finite": ("v.txt", b"a 1 nan 3\n", r"v.txt, line 1: the vector of 'a' holds a number that is not finite"),
    "too large for float32": ("v.txt", b"a 1 1e60 3\n", r"line 1: the vector of 'a' .* not finite"),
    "no word": ("v.txt", b"a 1 2 3\n 4 5 6\n", r"v.txt, line 2: begins with white space"),
    "nothing": ("v.txt", b"", r"v.txt, line 1: expected a word and its numbers, or the header 'N D', got ''"),
    "a header alone": ("v.txt", b"4 3\n", r"v.txt, line 1: the header promises 4 words of 3 numbers, more than"),
    "a header of nothing": ("v.txt", b"0 3\n", r"v.txt, line 1: the header promises 0 words of 3 numbers"),
    "fewer than promised": ("v.vec", b"3 2\na 1 2\nb 1 2\n", r"v.vec, line 1: promises 3 words, but 2 follow"),
    "more than promised": ("v.vec", b"1 2\na 1 2\nb 1 2\n", r"v.vec, line 1: promises 1 words, but 2 follow"),
    "binary cut off in a row": ("v.bin", _binary()[:-9], r"v.bin: is cut off in word 4 of the 4 that line 1 promises"),
    "binary cut off at a word": ("v.bin", _binary(promised=5), r"v.bin: is cut off in word 5 of the 5"),
    "binary that goes on": ("v.bin", _binary(promised=3), r"v.bin: goes on after the 3 words"),
    "binary without a header": (
        "v.bin",
        _text(),
        r"v.bin, line 1: expected word2vec binary's header .* \.txt or \.vec",
    ),
    "text named binary": ("v.bin", _text(header=True), r"v.bin: holds text, not word2vec binary; rename it"),
    "binary of no words": ("v.bin", b"9 3\n" + b"x" * 5000, r"v.bin, word 1: no word ends within 4096 bytes"),
    "binary of the other order": ("v.bin", _turned(ROWS), r"v.bin, word 1: its numbers are big-endian"),
    "binary of the other order, real vectors": (
        "v.bin",
        _turned({f"w{row}": np.random.default_rng(row).normal(scale=0.1, size=300).tolist() for row in range(20)}),
        r"v.bin, word 1: its numbers are big-endian",
    ),
    "binary not finite": ("v.bin", _binary({"a": [1, 2, float("inf")]}), r"v.bin, word 1: the vector of 'a' .* finite"),
    "fastText's model": ("cc.bin", FASTTEXT, r"cc.bin: is a model of fastText.*\.vec file.*print-word-vectors"),
    "packed fastText": ("cc.bin.gz", FASTTEXT, r"cc.bin.gz: is a model of fastText"),
    "another suffix": ("v.npz", b"", r"v.npz: word vectors are read from \.txt, \.vec \(text\) or \.bin"),
    "nothing but gz": ("v.gz", _text(), r"v.gz: word vectors are read from"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, case: str) -> None:
    name, content, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        load_word_vectors(_write(tmp_path / name, content))


def test_damaged_gzip_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "v.txt.gz"
    path.write_bytes(gzip.compress(_text() * 50)[:-20])
    with pytest.raises(ValueError, match=r"v.txt.gz: damaged gzip"):
        load_word_vectors(path)
    with pytest.raises(ValueError, match=r"gone.vec: no such file"):
        load_word_vectors(tmp_path / "gone.vec")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.bin", b"3000000000 300\nthe " + b"\0" * 1200),
        ("a.bin", b"1 900000000000\nthe " + b"\0" * 1200),
        ("a.bin", b"9" * 2000 + b" 3\nthe " + b"\0" * 12),
        ("a.vec", b"3000000000 300\nthe 0.1 0.2 0.3\n"),
        ("a.vec", b"1 900000000000\nthe 0.1 0.2 0.3\n"),
        ("a.vec", b"9" * 5000 + b" 3\nthe 0.1 0.2 0.3\n"),
        ("a.vec.gz", b"9000000000 300\nthe 0.1 0.2 0.3\n"),
    ],
)
def test_a_header_is_held_against_the_files_size(name: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.(bin|vec)(\.gz)?, line 1: the header promises .* more than"):
        load_word_vectors(_write(tmp_path / name, content))


def test_a_table_of_very_wide_rows_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcse.text.word_vectors._BLOCK_BYTES", 12)
    path = _write(tmp_path / "a.vec", _text(header=True))
    assert load_word_vectors(path).row_VD.tolist() == list(ROWS.values())
    assert [block.row_ND.tolist() for block in stream_word_vectors(path)] == [[row] for row in ROWS.values()]


def test_binary_words_hold_no_line_breaks(tmp_path: Path) -> None:
    """A word with a space ends there, and its rest and the next word become numbers and a word."""
    spaced = _binary({"New York": [1.0, 2.0, 3.0], "b": [3.0, 4.0, 5.0]})
    with pytest.raises(ValueError, match=r"v.bin, word 2: .* may hold a space"):
        load_word_vectors(_write(tmp_path / "v.bin", spaced))
    assert load_word_vectors(_write(tmp_path / "w.bin", _binary(newline=b"\r\n"))).words == tuple(ROWS)


def test_a_number_with_an_underscore_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="v.txt, line 2: '1_0' is not a number"):
        load_word_vectors(_write(tmp_path / "v.txt", b"new_york 1 2\nb 1_0 2\n"))
