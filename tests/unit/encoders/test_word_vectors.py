"""A sentence is the mean of its known words' vectors; what is known is counted."""

from __future__ import annotations

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


@pytest.fixture
def encoder(tmp_path: Path) -> WordVectorEncoder:
    lines = [" ".join([word, *map(str, row)]) for word, row in ROWS.items()]
    (tmp_path / "v.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return WordVectorEncoder.from_file(tmp_path / "v.txt")


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
        encoder.encode(["a", float("nan")])
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
