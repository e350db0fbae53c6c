"""Hard negatives: texts that a model takes for an answer to a query although they are none.

Q queries, T texts that may be answers, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcse.files import digest_of, is_kept, keeping
from mcse.progress import progress_bar
from mcse.search.rows import RowBlocks, nearest
from mcse.types import Encoder, FloatArray

_QUERIES_AT_ONCE = 256
_TEXTS_A_PART = 8192


@dataclass(frozen=True, slots=True)
class MiningRule:
    """Which texts are a query's hard negatives.

    Attributes:
        number: Negatives of each pair; a pair for which fewer are found is left out.
        from_rank: The first rank that counts, from 1, among texts that are no answers; others may be unknown answers.
        to_rank: The last one.
        margin: How far a negative's cosine must lie below that of the query's positive.
        relative_margin: The same in parts of the positive's cosine.
        most: The highest cosine of a negative.
    """

    number: int = 1
    from_rank: int = 1
    to_rank: int = 50
    margin: float | None = None
    relative_margin: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        if self.number < 1 or not 1 <= self.from_rank <= self.to_rank:
            raise ValueError(
                f"ranks {self.from_rank} to {self.to_rank}, {self.number} negatives: ranks count from 1 and rise, and "
                "at least one negative is wanted"
            )

    def limit(self, positive: float) -> float:
        """The highest cosine that a negative may have beside a positive of cosine ``positive``."""
        limits = [np.inf if self.most is None else self.most]
        limits += [] if self.margin is None else [positive - self.margin]
        limits += [] if self.relative_margin is None else [positive - abs(positive) * self.relative_margin]
        return float(min(limits))


@dataclass(frozen=True, slots=True)
class Pairs:
    """Queries with their answers, each text once.

    Attributes:
        queries: Different texts.
        targets: Different texts, every answer and whatever else may be found.
        pairs: Numbers of a query and of its answer, row by row.
    """

    queries: tuple[str, ...]
    targets: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, rows: Iterator[tuple[str, str]], *, others: Sequence[str] = ()) -> Pairs:
        """Of rows of a query and its positive; ``others`` may be found, too."""
        queries: dict[str, int] = {}
        targets: dict[str, int] = {}
        pairs = [(queries.setdefault(q, len(queries)), targets.setdefault(p, len(targets))) for q, p in rows]
        for text in others:
            targets.setdefault(text, len(targets))
        return cls(tuple(queries), tuple(targets), tuple(dict.fromkeys(pairs)))


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """Unit embeddings of ``Pairs``, block by block."""

    queries: RowBlocks
    targets: RowBlocks


def encode_pairs(
    pairs: Pairs, encoder: Encoder, *, digest: str | None, cache: Path, batch_size: int = 64, title: str = ""
) -> EncodedPairs:
    """Embeddings of queries and targets, in parts that are kept: what was encoded before a kill is found again.

    Args:
        pairs: The texts.
        encoder: Encodes them.
        digest: Of the encoder; ``None`` keeps nothing.
        cache: Folder of what is kept.
        batch_size: Texts a forward pass.
        title: Before the progress.
    """
    texts = (*pairs.queries, *pairs.targets)
    blocks = (RowBlocks(), RowBlocks())
    with progress_bar(total=len(texts), unit="text", title=title) as bar:
        for block, part in zip(blocks, (pairs.queries, pairs.targets), strict=True):
            for start in range(0, len(part), _TEXTS_A_PART):
                chunk = part[start : start + _TEXTS_A_PART]
                block.append(_kept(chunk, encoder, digest=digest, cache=cache, batch_size=batch_size))
                bar.update(len(chunk))
    return EncodedPairs(*blocks)


def _kept(texts: Sequence[str], encoder: Encoder, *, digest: str | None, cache: Path, batch_size: int) -> FloatArray:
    if digest is None:
        return encoder.encode(texts, batch_size=batch_size)
    path = cache / f"{digest_of('mined', digest, *texts)}.npy"
    if not is_kept(path):
        rows_ND = encoder.encode(texts, batch_size=batch_size)
        with keeping(path) as draft, draft.open("wb") as file:
            np.save(file, rows_ND)
    kept: FloatArray = np.load(path, mmap_mode="r")
    return kept


def mine(
    pairs: Pairs,
    encoded: EncodedPairs,
    rule: MiningRule,
    *,
    guide: EncodedPairs | None = None,
    guide_margin: float = 0.0,
    done: Callable[[int], object] = lambda number: None,
) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """The pairs with their hard negatives, the nearest first: numbers of query, answer and negatives.

    No answer of a query counts as its negative, nor does its own text. Search is exact.

    Args:
        pairs: The texts.
        encoded: Their embeddings.
        rule: Which texts count.
        guide: Another model's embeddings: what it holds to be at least as near to the query as the answer is, less
            ``guide_margin``, is probably a correct answer that is not in the data, and is left out.
        guide_margin: In units of its cosine.
        done: Called with the number of queries that are through.
    """
    answers: dict[int, list[int]] = {}
    for query, answer in pairs.pairs:
        answers.setdefault(query, []).append(answer)
    place = {text: number for number, text in enumerate(pairs.targets)}
    most = max(map(len, answers.values()), default=0)
    first = 0
    for query_QD in _parts(encoded.queries):
        # Its answers, and its own text, may stand before every text that counts.
        found = nearest(query_QD, encoded.targets, top_k=rule.to_rank + most + 1)
        for offset, (score_K, target_K) in enumerate(found):
            query = first + offset
            own = {*answers[query], place.get(pairs.queries[query], -1)}
            ranked = [(float(s), int(t)) for s, t in zip(score_K, target_K, strict=True) if int(t) not in own]
            ranked = ranked[rule.from_rank - 1 : rule.to_rank]
            for answer in answers[query]:
                limit = rule.limit(float(query_QD[offset] @ _row(encoded.targets, answer)))
                kept = [target for score, target in ranked if score <= limit]
                if guide is not None:
                    kept = _unlike(query, answer, kept, guide, margin=guide_margin)
                if len(kept) >= rule.number:
                    yield query, answer, tuple(kept[: rule.number])
        first += len(query_QD)
        done(len(query_QD))


def _unlike(query: int, answer: int, targets: list[int], guide: EncodedPairs, *, margin: float) -> list[int]:
    """The targets that the guide holds to be further from the query than its answer is, by more than ``margin``."""
    query_D = _row(guide.queries, query)
    limit = float(query_D @ _row(guide.targets, answer)) - margin
    return [target for target in targets if float(query_D @ _row(guide.targets, target)) < limit]


def _parts(rows: RowBlocks) -> Iterator[FloatArray]:
    for rows_RD in rows:
        for start in range(0, len(rows_RD), _QUERIES_AT_ONCE):
            yield np.asarray(rows_RD[start : start + _QUERIES_AT_ONCE])


def _row(rows: RowBlocks, number: int) -> FloatArray:
    """(D,) one embedding."""
    for rows_RD in rows:
        if number < len(rows_RD):
            row_D: FloatArray = rows_RD[number]
            return row_D
        number -= len(rows_RD)
    raise IndexError(number)
