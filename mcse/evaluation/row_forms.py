"""Scores by width and by kind of stored row: the rows of a store, cut, and as an index would give them back.

N sentences, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from mcse.evaluation.encoding import Rows
from mcse.stored_rows import RowKind, quantize, restore, unit, value_ranges
from mcse.types import FloatArray, ScoreKey, SuiteScores

_BLOCK = 16384
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class RowForm:
    """Rows cut to their first ``dim`` numbers, all of them where it is ``None``, then stored as ``kind``."""

    dim: int | None = None
    kind: RowKind = "float32"

    @property
    def name(self) -> str:
        """As keys of scores hold it, such as ``dim128_int8``; empty for rows as they are."""
        parts = [f"dim{self.dim}"] if self.dim is not None else []
        return "_".join(parts + ([self.kind] if self.kind != "float32" else []))

    @property
    def label(self) -> str:
        """As tables hold it."""
        width = "full width" if self.dim is None else f"width {self.dim}"
        return f"{width}, {self.kind}"

    @property
    def protocol(self) -> str:
        """How such rows come about, in words."""
        cut = f"rows cut to their first {self.dim} numbers, then brought to unit norm; " if self.dim else ""
        of = {
            "float32": "",
            "float16": "numbers rounded to float16",
            "binary": "of each number of a unit row its sign alone",
        }.get(
            self.kind, f"unit rows in {self.kind}, each column's range over the sentences evaluated cut into 255 steps"
        )
        return (cut + of).removesuffix("; ")

    def cut(self, row_ND: FloatArray) -> FloatArray:
        """The first ``dim`` numbers of each row.

        Raises:
            ValueError: Rows are not so wide.
        """
        if self.dim is not None and self.dim > row_ND.shape[1]:
            raise ValueError(f"--dims {self.dim}: the model's rows have a width of {row_ND.shape[1]}")
        return row_ND[:, : self.dim]

    def stored(self, row_ND: FloatArray, range_2D: FloatArray) -> FloatArray:
        """What the stored rows stand for, of rows of ``cut``; integers and bits are made of unit rows."""
        rows = row_ND if self.kind in ("float32", "float16") else unit(row_ND)
        return restore(quantize(rows, self.kind, range_2D=range_2D), self.kind, range_2D=range_2D)

    def joint(self, *several: FloatArray) -> list[FloatArray]:
        """Unit rows of one space, such as captions and images, each as unit rows of this form again."""
        if self == AS_THEY_ARE:
            return list(several)
        cut = [unit(self.cut(row_ND)) for row_ND in several]
        range_2D = value_ranges(np.concatenate([value_ranges(row_ND) for row_ND in cut]))
        return [unit(self.stored(row_ND, range_2D)) for row_ND in cut]


AS_THEY_ARE = RowForm()


def row_forms(dims: Iterable[int], kinds: Iterable[RowKind]) -> tuple[RowForm, ...]:
    """Rows as they are, then each of ``dims`` in each of ``kinds``; either may be empty.

    Raises:
        ValueError: A width below 1, or one twice.
    """
    widths, stored = list(dims), list(kinds)
    for flag, several in (("--dims", widths), ("--rows", stored)):
        if len(set(several)) < len(several):
            raise ValueError(f"{flag} names one twice: {' '.join(map(str, several))}")
    if bad := [width for width in widths if width < 1]:
        raise ValueError(f"--dims must be 1 or more, got {bad[0]}")
    cuts: list[int | None] = [*widths] or [None]
    forms = [RowForm(dim, kind) for dim in cuts for kind in stored or [AS_THEY_ARE.kind]]
    return tuple(dict.fromkeys([AS_THEY_ARE, *forms]))


class FormedRows:
    """The rows of a store in another form; nothing is encoded twice.

    ``int8`` and ``uint8`` are calibrated on all sentences of the first call, so that a suite that asks for all of its
    sentences at first is calibrated on these.

    Args:
        base: The rows as they are.
        form: What becomes of them.
    """

    def __init__(self, base: Rows, form: RowForm) -> None:
        self._base, self._form = base, form
        self._range_2D: FloatArray | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """The distinct sentences encoded so far."""
        return self._base.sentences

    def encode(self, sentences: Sequence[str]) -> None:
        """As for the base; the first call calibrates."""
        self._base.encode(sentences)
        if self._range_2D is None:
            distinct = list(dict.fromkeys(sentences))
            blocks = (distinct[start : start + _BLOCK] for start in range(0, len(distinct), _BLOCK))
            ranges = [value_ranges(unit(self._form.cut(self._base.raw(block)))) for block in blocks]
            self._range_2D = value_ranges(np.concatenate(ranges))

    def raw(self, sentences: Sequence[str]) -> FloatArray:
        """(P, D) float32 numbers that stored rows stand for, before their norm is taken away.

        Raises:
            ValueError: As for the base; the rows are not so wide.
        """
        self.encode(sentences)
        assert self._range_2D is not None
        return self._form.stored(self._form.cut(self._base.raw(sentences)), self._range_2D)

    def unit(self, sentences: Sequence[str]) -> FloatArray:
        """(P, D) float32 unit rows; a row of zeros stays one."""
        return unit(self.raw(sentences))


def headlines(found: SuiteScores) -> SuiteScores:
    """Of what a suite found its headlines, and what they are means of."""
    columns = {column.key for column in found.columns}
    kept = columns | {part for key in columns for part in found.means.get(key, {})}
    kept |= {key.clean for key in kept}
    kept |= {key.with_metric("pairs") for key in kept}

    def part(values: Mapping[ScoreKey, _Value]) -> dict[ScoreKey, _Value]:
        return {key: value for key, value in values.items() if key in kept}

    return replace(
        found,
        scores=part(found.scores),
        details=(),
        samples=part(found.samples),
        means=part(found.means),
        pairs={},
    )


def in_form(found: SuiteScores, form: RowForm) -> SuiteScores:
    """What a suite found on rows of a form, whose name stands behind the suite's: ``sts_dim128_int8``."""

    def moved(key: ScoreKey) -> ScoreKey:
        return replace(key, suite=f"{key.suite}_{form.name}")

    suites = dict.fromkeys(column.key.suite for column in found.columns)
    return replace(
        found,
        scores={moved(key): score for key, score in found.scores.items()},
        protocols={**found.protocols, **{f"{suite}_{form.name}": form.protocol for suite in suites}},
        columns=tuple(replace(column, key=moved(column.key)) for column in found.columns),
        samples={moved(key): sample for key, sample in found.samples.items()},
        means={moved(key): {moved(part): of[part] for part in of} for key, of in found.means.items()},
        form=form.label,
    )
