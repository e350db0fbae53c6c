"""Search among sentences: embeddings, ids and texts kept together.

N sentences in the index, Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcse.report.html_tables import html_rows
from mcse.search.index_files import read_index, save_index
from mcse.search.rows import Found, IndexRows, in_blocks
from mcse.stored_rows import RowKind
from mcse.types import Encoder, FloatArray

KIND = "sentences"

Id = str | int


@dataclass(frozen=True, slots=True)
class Hit:
    """A sentence found, and its cosine with the query."""

    id: Id
    text: str
    score: float


class Hits(list[Hit]):
    """The hits of a query, nearest first. A notebook shows them as a table."""

    def _repr_html_(self) -> str:
        rows = ((str(hit.id), (hit.text, f"{hit.score:.3f}")) for hit in self)
        return html_rows(("text", "cosine"), rows)


class HitLists(list[list[Hit]]):
    """The ``Hits`` of several queries, in their order."""

    def _repr_html_(self) -> str:
        return "".join(Hits(hits)._repr_html_() for hits in self)


@dataclass(frozen=True, slots=True)
class _Content:
    """An index on disk, beside its embeddings."""

    encoder: str
    ids: list[Id]
    texts: list[str]


class EmbeddingIndex:
    """Sentences that can be searched by meaning. Search is exact: every embedding is compared with every query.

    Args:
        encoder: Encodes what is added and what is asked.
        rows: How embeddings are stored (``mcse.stored_rows``): fewer bytes a number, and cosines that are less exact.
            ``int8`` and ``uint8`` are calibrated on what is added first.
        rescore: Stores the embeddings a second time, finer, to score four times as many as are wanted again.

    Raises:
        ValueError: No such way, or ``rescore`` is no finer than ``rows``.
    """

    def __init__(self, encoder: Encoder, *, rows: RowKind = "float32", rescore: RowKind | None = None) -> None:
        self._encoder = encoder
        self._rows = IndexRows(rows=rows, rescore=rescore)
        self._ids: list[Id] = []
        self._texts: list[str] = []
        self._taken: set[Id] | None = None  # made when something is added, as an index that is only searched needs none

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        sentences: Sequence[str],
        *,
        ids: Sequence[Id] | None = None,
        batch_size: int = 64,
        rows: RowKind = "float32",
        rescore: RowKind | None = None,
    ) -> EmbeddingIndex:
        """An index of ``sentences``; ids are their positions where none are given."""
        index = cls(encoder, rows=rows, rescore=rescore)
        index.add(sentences, ids=ids, batch_size=batch_size)
        return index

    @classmethod
    def of_rows(cls, encoder: Encoder, rows: IndexRows, *, texts: Sequence[str]) -> EmbeddingIndex:
        """An index around embeddings that are stored already; ids are positions."""
        index = cls(encoder)
        index._rows, index._ids, index._texts = rows, list(range(len(texts))), list(texts)
        return index

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def width(self) -> int:
        """D, of the embeddings; 0 of an index that holds none."""
        return self._rows.width or 0

    @property
    def num_bytes(self) -> int:
        """Of the embeddings, without ids and texts."""
        return self._rows.num_bytes

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
    ) -> HitLists:
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
            return HitLists()
        return self.search_by_embeddings(self._encode(texts, batch_size=batch_size), top_k=top_k, threshold=threshold)

    def search_by_embeddings(self, query_QD: FloatArray, *, top_k: int = 5, threshold: float | None = None) -> HitLists:
        """As ``search``, for (Q, D) embeddings of length 1 that were made elsewhere.

        Raises:
            ValueError: As for ``search``.
        """
        self._check_search(top_k)
        query_QD = self._checked(query_QD, [f"query {number}" for number in range(len(query_QD))])
        return HitLists(self._hits(found, threshold=threshold) for found in self._rows.nearest(query_QD, top_k=top_k))

    def save(self, folder: str | Path) -> None:
        """Writes the index, in place of one that is there; the encoder is not part of it. A kill leaves either whole.

        Raises:
            ValueError: The index is empty.
        """
        if not len(self):
            raise ValueError("the index is empty; there is nothing to save")
        content = {"encoder": str(getattr(self._encoder, "name", "")), "ids": self._ids, "texts": self._texts}
        save_index(Path(folder), content, self._rows, kind=KIND)

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder) -> EmbeddingIndex:
        """Reads an index back, to be searched with the encoder that it was built with.

        Raises:
            ValueError: The folder holds no whole index, or ``encoder`` gives other embeddings than the index holds.
        """
        index = cls(encoder)
        with read_index(Path(folder), _Content, kind=KIND) as (content, rows):
            ids, texts, built_with = content.ids, content.texts, content.encoder
            if not len(rows) == len(ids) == len(texts) > 0:
                raise ValueError(f"{len(rows)} embeddings, {len(ids)} ids, {len(texts)} texts")
        index._rows, index._ids, index._texts = rows, ids, texts
        # One sentence of the index tells: an encoder of equal width could be another one all the same.
        stored_D = rows.restored([0])[0]
        given_D = index._encode(texts[:1], batch_size=1)[0]
        cosine = float(np.mean((given_D > 0) == (stored_D > 0)) if rows.is_bits else given_D @ stored_D)
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
        if self._rows.width not in (None, rows_ND.shape[1]):
            raise ValueError(
                f"the index holds embeddings of width {self._rows.width}, the encoder gives {rows_ND.shape[1]}: "
                "search with the encoder that built it"
            )
        start = 0
        for rows_RD in in_blocks(rows_ND):
            finite_R = np.isfinite(rows_RD).all(axis=1)
            if not finite_R.all():
                name = names[start + int(np.argmin(finite_R))]
                raise ValueError(f"the encoder's embedding of {name!r:.80} is not finite")
            start += len(rows_RD)
        return rows_ND

    def _append(self, rows_ND: FloatArray, ids: Sequence[Id], texts: Sequence[str]) -> None:
        assert self._taken is not None
        self._rows.append(rows_ND)
        self._ids += ids
        self._texts += texts
        self._taken.update(ids)

    def _check_search(self, top_k: int) -> None:
        if not len(self):
            raise ValueError("the index is empty; add sentences before searching")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")

    def _check_ids(self, ids: Sequence[Id], *, number: int) -> None:
        if len(ids) != number:
            raise ValueError(f"{number} sentences, but {len(ids)} ids")
        if self._taken is None:
            self._taken = set(self._ids)
        new: set[Id] = set()
        for position, given in enumerate(ids):
            if not isinstance(given, str | int) or isinstance(given, bool):
                raise ValueError(f"ids[{position}] is a {type(given).__name__}; ids are strings or integers")
            if given in self._taken or given in new:
                raise ValueError(f"ids[{position}] is {given!r}, which the index holds already")
            new.add(given)

    def _hits(self, found: Found, *, threshold: float | None) -> Hits:
        return Hits(
            Hit(self._ids[position], self._texts[position], float(score))
            for score, position in zip(*found, strict=True)
            if threshold is None or score >= threshold
        )
