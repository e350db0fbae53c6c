"""Word vectors' files in every form, read the same; what is wrong is named by file and line; averages are averages."""

from __future__ import annotations

import gzip
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from mcse.data.test_sets.sts import load_stsbenchmark
from mcse.encoders.word_vectors import Coverage, WordVectorEncoder
from mcse.text.word_vectors import WordVectors, load_word_vectors
from mcse.types import Encoder

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
    assert "1 words are not UTF-8" in caplog.text


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
    "a header alone": ("v.txt", b"4 3\n", r"v.txt: holds no word vectors"),
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


@pytest.fixture
def encoder(tmp_path: Path) -> WordVectorEncoder:
    return WordVectorEncoder.from_file(_write(tmp_path / "v.txt", _text()))


def test_rows_are_means_of_the_known_words(encoder: WordVectorEncoder) -> None:
    assert isinstance(encoder, Encoder)
    assert (encoder.pooling, encoder.dimension) == ("mean", 3)
    assert encoder.name.endswith("v.txt")
    sentences = ["the dog", "the the dog unheard", "nothing here", ""]
    plain = encoder.encode(sentences, normalize=False)
    the, dog = np.array(ROWS["the"]), np.array(ROWS["dog"])
    np.testing.assert_allclose(plain[0], (the + dog) / 2, rtol=1e-6)
    np.testing.assert_allclose(plain[1], (2 * the + dog) / 3, rtol=1e-6)
    assert plain[2:].tolist() == [[0, 0, 0], [0, 0, 0]]
    unit = encoder.encode(sentences)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit[:2], plain[:2] / np.linalg.norm(plain[:2], axis=1, keepdims=True), rtol=1e-6)
    assert unit[2:].tolist() == [[0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(encoder.encode("the dog"), unit[0])
    assert encoder.encode([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("token", "word"),
    [
        ("Paris", "Paris"),
        ("paris", "Paris"),
        ("PARIS", "Paris"),
        ("THE", "the"),
        ("The", "the"),
        ("“Dog!”", "dog"),
        ("paris,", "Paris"),
        ("CAFÉ", "café"),
        ("dogs", None),
        ("'the", None),
        ("...", None),
    ],
)
def test_forms_of_a_token(encoder: WordVectorEncoder, token: str, word: str | None) -> None:
    expected = [0, 0, 0] if word is None else ROWS[word]
    assert encoder.encode([token], normalize=False)[0].tolist() == expected


def test_the_exact_form_counts_first() -> None:
    vectors = WordVectors(("us", "US", "Us"), {"us": 0, "US": 1, "Us": 2}, np.eye(3, dtype=np.float32))
    encoder = WordVectorEncoder(vectors)
    assert encoder.encode(["us", "US", "Us", "uS", "US,"]).argmax(1).tolist() == [0, 1, 2, 0, 1]


def test_coverage_counts_known_tokens_and_sentences_without_any(encoder: WordVectorEncoder) -> None:
    assert encoder.coverage_of([]).share == 0.0
    first = encoder.coverage_of(iter(["the dog barks", "unheard of"]))
    assert first == Coverage(tokens=5, known_tokens=2, sentences=2, unknown_sentences=1)
    assert first.share == pytest.approx(0.4)
    assert first.text == "40.00% of 5 tokens have a vector; 1 of 2 sentences have no known word"
    second = encoder.coverage_of(["", "Paris"])
    assert second == Coverage(tokens=1, known_tokens=1, sentences=2, unknown_sentences=1)


def test_reading_only_what_sentences_need_changes_no_row(tmp_path: Path, encoder: WordVectorEncoder) -> None:
    sentences = ["THE café.", "paris barks"]
    small = WordVectorEncoder.from_file(tmp_path / "v.txt", sentences=iter(sentences), name="small")
    assert small.name == "small"
    np.testing.assert_array_equal(small.encode(sentences), encoder.encode(sentences))
    assert not small.encode(["dog"]).any()


def test_bad_sentences_are_refused(encoder: WordVectorEncoder) -> None:
    with pytest.raises(ValueError, match=r"sentences\[1\] is a float, not a string: nan"):
        encoder.encode(["a", float("nan")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encoder.encode(["a"], batch_size=0)


REAL = {"glove.100d.10k.txt.gz": (10_000, 100, 35.7), "googlenews.300d.8k.bin": (8_000, 300, 45.0)}
"""Words, width, and Spearman's correlation × 100 on STS-B test. All words weigh alike here, full stops too, and few
words are stored: the whole GloVe gives 58 (SimCSE's Table 5), over tokens of its own."""


@pytest.mark.parity
@pytest.mark.parametrize("name", REAL)
def test_real_vectors_on_stsbenchmark(real_data: Path, name: str) -> None:
    words, width, expected = REAL[name]
    path = real_data / "wordvec" / name
    vectors = load_word_vectors(path)
    assert vectors.row_VD.shape == (words, width)
    pairs = load_stsbenchmark(real_data, split="test")
    encoder = WordVectorEncoder.from_file(path, sentences=(*pairs.sentence1, *pairs.sentence2))
    left, right = encoder.encode(pairs.sentence1), encoder.encode(pairs.sentence2)
    assert 100 * spearmanr((left * right).sum(1), pairs.gold).statistic == pytest.approx(expected, abs=0.5)
    coverage = encoder.coverage_of((*pairs.sentence1, *pairs.sentence2))
    assert coverage.sentences == 2 * len(pairs)
    assert coverage.unknown_sentences == 0
    assert 0.7 < coverage.share < 0.95
    # Another way to the same rows: word by word, in float64.
    for sentence, row in zip(pairs.sentence1[:200], left, strict=False):
        found = [vectors.index[token] for token in sentence.split() if token in vectors.index]
        others = [token for token in sentence.split() if token not in vectors.index]
        if any(encoder.coverage_of([token]).known_tokens for token in others):
            continue
        mean = vectors.row_VD[found].astype(np.float64).sum(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
