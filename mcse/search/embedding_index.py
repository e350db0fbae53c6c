"""Search among sentences: embeddings, ids and texts kept together.

N sentences in the index, Q queries, D width.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcse.search.index_files import read_index, save_index
from mcse.types import Encoder, FloatArray

KIND = "sentences"

# Scores are compared after rounding, so that equal sentences tie however a library adds up their products.
_DECIMALS = 6
_QUERIES_AT_ONCE = 256

Id = str | int
_Found = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Hit:
    """A sentence found, and its cosine with the query."""

    id: Id
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class _Content:
    """An index on disk, beside its embeddings."""

    encoder: str
    ids: list[Id]
    texts: list[str]


class EmbeddingIndex:
    """Sentences that can be searched by meaning. Search is exact, through FAISS where it is installed.

    Args:
        encoder: Encodes what is added and what is asked.
        use_faiss: ``None`` uses FAISS where it is installed; the results are the same either way.

    Raises:
        ValueError: ``use_faiss`` is true and FAISS is not installed.
    """

    def __init__(self, encoder: Encoder, *, use_faiss: bool | None = None) -> None:
        installed = importlib.util.find_spec("faiss") is not None
        if use_faiss and not installed:
            raise ValueError("use_faiss: FAISS is not installed (pip install 'mcse[faiss]')")
        self._encoder = encoder
        self._use_faiss = installed if use_faiss is None else use_faiss
        self._rows_ND: FloatArray | None = None
        self._ids: list[Id] = []
        self._texts: list[str] = []
        self._searcher: _Searcher | None = None

    @classmethod
    def build(
        cls, encoder: Encoder, sentences: Sequence[str], *, ids: Sequence[Id] | None = None, batch_size: int = 64
    ) -> EmbeddingIndex:
        """An index of ``sentences``; ids are their positions where none are given."""
        index = cls(encoder)
        index.add(sentences, ids=ids, batch_size=batch_size)
        return index

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, sentences: Sequence[str], *, ids: Sequence[Id] | None = None, batch_size: int = 64) -> None:
        """Encodes and adds sentences.

        Raises:
            ValueError: ``ids`` are of another number, repeat or are taken; the encoder's embeddings are of another
                width than those in the index, or not finite.
        """
        given = list(range(len(self), len(self) + len(sentences))) if ids is None else list(ids)
        self._check_ids(given, number=len(sentences))
        if sentences:
            self._append(self._encode(sentences, batch_size=batch_size), given, sentences)

    def add_embeddings(self, rows_ND: FloatArray, *, texts: Sequence[str], ids: Sequence[Id] | None = None) -> None:
        """Adds (N, D) embeddings of length 1 for ``texts``, such as images in a space that the encoder shares.

        Raises:
            ValueError: Another number of texts or ids than embeddings; ids repeat or are taken; or the embeddings are
                of another width than those in the index, or not finite.
        """
        if rows_ND.ndim != 2 or len(rows_ND) != len(texts):
            raise ValueError(f"embeddings of shape {rows_ND.shape} for {len(texts)} texts")
        given = list(range(len(self), len(self) + len(texts))) if ids is None else list(ids)
        self._check_ids(given, number=len(texts))
        if len(texts):
            self._append(self._checked(rows_ND, texts), given, texts)

    def search(
        self, queries: str | Sequence[str], *, top_k: int = 5, threshold: float | None = None, batch_size: int = 64
    ) -> list[list[Hit]]:
        """For every query the ``top_k`` nearest sentences, nearest first; equal ones in the order they were added.

        Args:
            queries: Several, or one (the answer is a list of one list).
            top_k: At most so many hits a query.
            threshold: Only hits with at least this cosine.
            batch_size: Queries a forward pass.

        Raises:
            ValueError: The index is empty, ``top_k`` is below 1, or the encoder's embeddings do not fit the index.
        """
        self._check_search(top_k)
        texts = [queries] if isinstance(queries, str) else list(queries)
        if not texts:
            return []
        return self.search_by_embeddings(self._encode(texts, batch_size=batch_size), top_k=top_k, threshold=threshold)

    def search_by_embeddings(
        self, query_QD: FloatArray, *, top_k: int = 5, threshold: float | None = None
    ) -> list[list[Hit]]:
        """As ``search``, for (Q, D) embeddings of length 1 that were made elsewhere.

        Raises:
            ValueError: As for ``search``.
        """
        self._check_search(top_k)
        assert self._rows_ND is not None
        query_QD = self._checked(query_QD, [f"query {number}" for number in range(len(query_QD))])
        if self._searcher is None:
            self._searcher = _Searcher(self._rows_ND, use_faiss=self._use_faiss)
        found: list[list[Hit]] = []
        for start in range(0, len(query_QD), _QUERIES_AT_ONCE):
            block = self._searcher.search(query_QD[start : start + _QUERIES_AT_ONCE], top_k=top_k)
            found += [self._hits(scores, positions, threshold=threshold) for scores, positions in block]
        return found

    def save(self, folder: str | Path) -> None:
        """Writes the index, in place of one that is there; the encoder is not part of it. A kill leaves either whole.

        Raises:
            ValueError: The index is empty.
        """
        if self._rows_ND is None:
            raise ValueError("the index is empty; there is nothing to save")
        content = {"encoder": str(getattr(self._encoder, "name", "")), "ids": self._ids, "texts": self._texts}
        save_index(Path(folder), content, self._rows_ND, kind=KIND)

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder, *, use_faiss: bool | None = None) -> EmbeddingIndex:
        """Reads an index back, to be searched with the encoder that it was built with.

        Raises:
            ValueError: The folder holds no whole index, or ``encoder`` gives other embeddings than the index holds.
        """
        index = cls(encoder, use_faiss=use_faiss)
        with read_index(Path(folder), _Content, kind=KIND) as (content, rows_ND):
            ids, texts, built_with = content.ids, content.texts, content.encoder
            if not len(rows_ND) == len(ids) == len(texts) > 0:
                raise ValueError(f"{len(rows_ND)} embeddings, {len(ids)} ids, {len(texts)} texts")
        index._rows_ND, index._ids, index._texts = rows_ND, ids, texts
        # One sentence of the index tells: an encoder of equal width could be another one all the same.
        cosine = float(index._encode(texts[:1], batch_size=1)[0] @ rows_ND[0])
        if cosine < 0.99:
            raise ValueError(
                f"{folder} was built with another encoder ({built_with or 'unnamed'}): the embedding of its first "
                f"sentence and this encoder's have cosine {cosine:.3f}"
            )
        return index

    def _encode(self, sentences: Sequence[str], *, batch_size: int) -> FloatArray:
        return self._checked(self._encoder.encode(sentences, batch_size=batch_size), sentences)

    def _checked(self, rows: FloatArray, names: Sequence[str]) -> FloatArray:
        rows_ND = np.ascontiguousarray(rows, dtype=np.float32)
        if self._rows_ND is not None and rows_ND.shape[1] != self._rows_ND.shape[1]:
            raise ValueError(
                f"the index holds embeddings of width {self._rows_ND.shape[1]}, the encoder gives {rows_ND.shape[1]}: "
                "search with the encoder that built it"
            )
        finite_N = np.isfinite(rows_ND).all(axis=1)
        if not finite_N.all():
            raise ValueError(f"the encoder's embedding of {names[int(np.argmin(finite_N))]!r:.80} is not finite")
        return rows_ND

    def _append(self, rows_ND: FloatArray, ids: Sequence[Id], texts: Sequence[str]) -> None:
        self._rows_ND = rows_ND if self._rows_ND is None else np.concatenate([self._rows_ND, rows_ND])
        self._ids += ids
        self._texts += texts
        self._searcher = None

    def _check_search(self, top_k: int) -> None:
        if self._rows_ND is None:
            raise ValueError("the index is empty; add sentences before searching")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")

    def _check_ids(self, ids: Sequence[Id], *, number: int) -> None:
        if len(ids) != number:
            raise ValueError(f"{number} sentences, but {len(ids)} ids")
        taken = set(self._ids)
        for position, given in enumerate(ids):
            if not isinstance(given, str | int) or isinstance(given, bool):
                raise ValueError(f"ids[{position}] is a {type(given).__name__}; ids are strings or integers")
            if given in taken:
                raise ValueError(f"ids[{position}] is {given!r}, which the index holds already")
            taken.add(given)

    def _hits(self, scores: NDArray[np.float32], positions: NDArray[np.int64], *, threshold: float | None) -> list[Hit]:
        return [
            Hit(self._ids[position], self._texts[position], float(score))
            for score, position in zip(scores, positions, strict=True)
            if threshold is None or score >= threshold
        ]


class _Searcher:
    """Nearest embeddings by inner product."""

    def __init__(self, rows_ND: FloatArray, *, use_faiss: bool) -> None:
        self._rows_ND = rows_ND
        self._faiss = None
        if use_faiss:
            import faiss

            self._faiss = faiss.IndexFlatIP(rows_ND.shape[1])
            self._faiss.add(rows_ND)

    def search(self, query_QD: FloatArray, *, top_k: int) -> list[_Found]:
        """For every query the scores and positions of its ``top_k``, best first, ties by position."""
        top_k = min(top_k, len(self._rows_ND))
        if self._faiss is None:
            candidates = [_candidates(score_N, top_k) for score_N in query_QD @ self._rows_ND.T]
        else:
            candidates = self._candidates_of_faiss(query_QD, top_k)
        found = []
        for scores, positions in candidates:
            order = np.lexsort((positions, -np.round(scores, _DECIMALS)))[:top_k]
            found.append((scores[order], positions[order]))
        return found

    def _candidates_of_faiss(self, query_QD: FloatArray, top_k: int) -> list[_Found]:
        """Widened until the last one is worse than the ``top_k``-th: which of several ties FAISS gives is chance."""
        assert self._faiss is not None
        number = min(top_k + 1, len(self._rows_ND))
        score_QK, position_QK = self._faiss.search(query_QD, number)
        found = list(zip(score_QK, position_QK, strict=True))
        for i in range(len(query_QD)):
            wider = number
            while wider < len(self._rows_ND) and _ties(found[i][0], top_k):
                wider = min(2 * wider, len(self._rows_ND))
                score_1K, position_1K = self._faiss.search(query_QD[i : i + 1], wider)
                found[i] = (score_1K[0], position_1K[0])
        return found


def _ties(scores: NDArray[np.float32], top_k: int) -> bool:
    """Whether the last of these sorted scores is as good as the ``top_k``-th."""
    return bool(np.round(scores[-1], _DECIMALS) >= np.round(scores[top_k - 1], _DECIMALS))


def _candidates(score_N: FloatArray, top_k: int) -> _Found:
    """Scores and positions that are as good as the ``top_k``-th best: these, and those that tie with the last."""
    rounded_N = np.round(score_N, _DECIMALS)
    worst = np.partition(rounded_N, -top_k)[-top_k]
    positions = np.flatnonzero(rounded_N >= worst)
    return score_N[positions], positions
