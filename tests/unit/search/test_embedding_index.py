"""The index: equal to sorting all the cosines, and back from disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mcse import EmbeddingIndex, SentenceEncoder
from mcse.search.embedding_index import Hit
from mcse.types import FloatArray
from tests.fixtures.tiny_models import TEXTS, build_tiny_bert


class HashedEncoder:
    """Rows drawn from the sentence's own letters: equal sentences, equal rows."""

    def __init__(self, width: int = 8, *, salt: int = 0) -> None:
        self.width, self.salt = width, salt
        self.name = f"hashed-{width}-{salt}"

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        rows = [np.random.default_rng([self.salt, *text.encode()]).standard_normal(self.width) for text in sentences]
        rows_ND = np.array(rows, dtype=np.float32).reshape(len(sentences), self.width)
        return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True) if normalize else rows_ND


SENTENCES = [f"sentence number {i}" for i in range(200)]


def build(sentences: Sequence[str] = SENTENCES) -> EmbeddingIndex:
    index = EmbeddingIndex(HashedEncoder())
    index.add(sentences)
    return index


@pytest.mark.parametrize("top_k", [1, 5, 199, 200, 1000])
def test_search_equals_sorting_all_cosines(top_k: int) -> None:
    queries = ["one", "two", "sentence number 7"]
    found = build().search(queries, top_k=top_k)
    encoder = HashedEncoder()
    score_QN = encoder.encode(queries) @ encoder.encode(SENTENCES).T
    for hits, score_N in zip(found, score_QN, strict=True):
        wanted = np.argsort(-score_N)[:top_k]
        assert [hit.id for hit in hits] == wanted.tolist()
        assert [hit.text for hit in hits] == [SENTENCES[i] for i in wanted]
        np.testing.assert_allclose([hit.score for hit in hits], score_N[wanted], atol=1e-6)
    assert found[2][0].text == "sentence number 7"
    assert found[2][0].score == pytest.approx(1, abs=1e-6)


def test_equal_sentences_come_in_the_order_they_were_added() -> None:
    sentences = ["same", "other", "same", "more", "same", "same", "else"] * 9
    wanted = [i for i, text in enumerate(sentences) if text == "same"]
    index = build(sentences)
    for top_k in (1, 2, 20, 36):
        assert [hit.id for hit in index.search("same", top_k=top_k)[0]] == wanted[:top_k]


class RoundingEncoder(HashedEncoder):
    """Equal sentences differ in their last bits, the later ones upwards, as other paddings make them differ."""

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        factor_N1 = 1 + 2e-9 * np.arange(len(sentences), dtype=np.float64)[:, None]
        return (super().encode(sentences) * factor_N1).astype(np.float32)


def test_differences_of_rounding_are_ties() -> None:
    sentences = ["same", "other"] * 100
    index = EmbeddingIndex(RoundingEncoder())
    index.add(sentences)
    assert len({row.tobytes() for row in np.concatenate(list(index._rows.coarse))[::2]}) > 1
    for top_k in (1, 3, 50):
        assert [hit.id for hit in index.search("same", top_k=top_k)[0]] == list(range(0, 2 * top_k, 2))


def test_a_notebook_shows_hits_as_tables() -> None:
    found = build(["a <b>dog</b>", "a cat"]).search(["one", "two"], top_k=2)
    for hits in found:
        assert [row.count("<td>") for row in hits._repr_html_().split("<tr>")[2:]] == [2, 2]
        assert f"<td>{hits[0].score:.3f}</td>" in hits._repr_html_()
        assert "a &lt;b&gt;dog&lt;/b&gt;" in hits._repr_html_()
    assert found._repr_html_() == found[0]._repr_html_() + found[1]._repr_html_()


def test_threshold_ids_and_adding() -> None:
    index = EmbeddingIndex(HashedEncoder())
    index.add(["a", "b"], ids=["first", 2])
    assert index.search("b", top_k=1) == [[Hit(2, "b", pytest.approx(1, abs=1e-6))]]
    index.add(["c"], ids=["third"])
    assert len(index) == 3
    assert index.search("c", threshold=0.999)[0][0].id == "third"
    assert len(index.search("c", threshold=0.999)[0]) == 1
    assert index.search("unheard of", threshold=1.0) == [[]]
    assert index.search([]) == []
    index.add([])
    assert len(index) == 3
    with pytest.raises(ValueError, match=r"ids\[1\] is 'third', which the index holds already"):
        index.add(["d", "e"], ids=["fourth", "third"])
    index.add(["d"], ids=["fourth"])
    assert index.search("d", top_k=1)[0][0].id == "fourth"


def test_an_index_comes_back_from_disk(tmp_path: Path) -> None:
    index = EmbeddingIndex(HashedEncoder())
    index.add(["a", "ü", "漢"], ids=["x", 7, "z"])
    index.save(tmp_path / "index")
    names = sorted(path.name for path in (tmp_path / "index").iterdir())
    assert [name.partition("-")[0] for name in names] == ["embeddings", "index.json"]
    loaded = EmbeddingIndex.load(tmp_path / "index", HashedEncoder())
    assert loaded.search(["ü", "b"], top_k=3) == index.search(["ü", "b"], top_k=3)
    loaded.add(["d"])
    assert loaded.search("d", top_k=1)[0][0].id == 3
    loaded.save(tmp_path / "index")
    assert len(EmbeddingIndex.load(tmp_path / "index", HashedEncoder())) == 4


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    index = EmbeddingIndex.build(HashedEncoder(), ["a", "b"])
    index.save(tmp_path)
    with pytest.raises(ValueError, match="embeddings of width 8, the encoder gives 5"):
        EmbeddingIndex.load(tmp_path, HashedEncoder(5))
    with pytest.raises(ValueError, match=r"built with another encoder \(hashed-8-0\)"):
        EmbeddingIndex.load(tmp_path, HashedEncoder(salt=1))
    index._encoder = HashedEncoder(5)
    with pytest.raises(ValueError, match="embeddings of width 8, the encoder gives 5"):
        index.search("a")


def test_bad_calls_are_refused_by_message(tmp_path: Path) -> None:
    empty = EmbeddingIndex(HashedEncoder())
    with pytest.raises(ValueError, match="the index is empty; add sentences"):
        empty.search("a")
    with pytest.raises(ValueError, match="nothing to save"):
        empty.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    index = build()
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        index.search("a", top_k=0)
    with pytest.raises(ValueError, match="2 sentences, but 1 ids"):
        index.add(["a", "b"], ids=[900])
    with pytest.raises(ValueError, match=r"ids\[1\] is 7, which the index holds already"):
        index.add(["a", "b"], ids=[900, 7])
    with pytest.raises(ValueError, match=r"ids\[1\] is 'x', which"):
        index.add(["a", "b"], ids=["x", "x"])
    with pytest.raises(ValueError, match=r"ids\[0\] is a float; ids are strings or integers"):
        index.add(["a"], ids=[1.5])
    assert len(index) == 200


def test_rows_that_are_not_finite_are_refused_by_sentence() -> None:
    class Broken(HashedEncoder):
        def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
            rows_ND = super().encode(sentences, batch_size=batch_size)
            rows_ND[[text == "bad" for text in sentences]] = np.nan
            return rows_ND

    with pytest.raises(ValueError, match="embedding of 'bad' is not finite"):
        EmbeddingIndex.build(Broken(), ["good", "bad"])


def test_a_folder_that_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not an index of sentences: there is no index\.json"):
        EmbeddingIndex.load(tmp_path, HashedEncoder())
    EmbeddingIndex.build(HashedEncoder(), ["a", "b"]).save(tmp_path)
    content = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**content, "texts": ["a"]}))
    with pytest.raises(ValueError, match="not an index of sentences: 2 embeddings, 2 ids, 1 texts"):
        EmbeddingIndex.load(tmp_path, HashedEncoder())


def test_it_works_with_a_real_encoder(tmp_path: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(str(build_tiny_bert(tmp_path / "bert")), pooling="mean")
    index = EmbeddingIndex.build(encoder, TEXTS)
    assert [hits[0].text for hits in index.search(TEXTS, top_k=1)] == list(TEXTS)
    index.save(tmp_path / "index")
    assert len(EmbeddingIndex.load(tmp_path / "index", encoder)) == len(TEXTS)


@pytest.mark.parametrize(("rows", "rescore"), [("int8", None), ("binary", "int8"), ("binary", None)])
def test_an_index_of_small_rows_is_saved_searched_and_refused(rows, rescore, tmp_path: Path) -> None:
    encoder = HashedEncoder(64)
    index = EmbeddingIndex.build(encoder, SENTENCES, rows=rows, rescore=rescore)
    whole = EmbeddingIndex.build(encoder, SENTENCES)
    assert index.num_bytes == {"int8": 64, "binary": 8}[rows] * 200 + (64 * 200 if rescore else 0)
    assert whole.num_bytes == 4 * 64 * 200
    index.save(tmp_path / "index")
    again = EmbeddingIndex.load(tmp_path / "index", encoder)
    again.add(["one more"])
    index.add(["one more"])
    queries = [*SENTENCES[:20], "one more"]
    for found, wanted in zip(again.search(queries), index.search(queries), strict=True):
        assert [hit.id for hit in found] == [hit.id for hit in wanted]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], abs=1e-6)
    assert [hits[0].text for hits in index.search(queries)] == queries
    exact = [hits[0].score for hits in whole.search(SENTENCES[:20], top_k=1)]
    if rescore or rows == "int8":
        np.testing.assert_allclose([hits[0].score for hits in index.search(SENTENCES[:20])], exact, atol=0.03)
    with pytest.raises(ValueError, match="was built with another encoder"):
        EmbeddingIndex.load(tmp_path / "index", HashedEncoder(64, salt=1))
    with pytest.raises(ValueError, match="holds embeddings of width 64, the encoder gives 8"):
        EmbeddingIndex.load(tmp_path / "index", HashedEncoder(8))
