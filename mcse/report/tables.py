"""What a report is made of: score tables, learning curves and galleries, and how a number is worded.

Names come from files and folders; here, once for every kind of report, they lose what would steer a terminal.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcse.errors import printable

ABSENT = "–"


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """A heading and which way is better.

    ``decimals``: how many digits are printed where the table's number does not suit; ``is_probability``: a value that
    rounds to 0 is printed as less than the smallest that does not.
    """

    label: str
    higher_is_better: bool = True
    decimals: int | None = None
    is_probability: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", printable(self.label))


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One system: for each column the values of its seeds; one value is a single run, none an absent score.

    ``is_rival``: whether it may win a column; the best seed of a system, chosen by its score, may not.
    """

    name: str
    values: tuple[tuple[float, ...], ...]
    is_rival: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """Systems by scores.

    ``caption`` says what the numbers are; ``decimals`` how many digits are printed; ``is_contest`` whether the rows are
    rivals, of which the best is bold.
    """

    title: str
    columns: tuple[ScoreColumn, ...]
    rows: tuple[ScoreRow, ...]
    caption: str = ""
    decimals: int = 2
    is_contest: bool = True

    def __post_init__(self) -> None:
        for name in ("title", "caption"):
            object.__setattr__(self, name, printable(getattr(self, name)))
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"row {row.name!r} has {len(row.values)} cells for {len(self.columns)} columns")


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's values over training steps. Curves of one label are seeds of a system; of one panel, one plot."""

    label: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    panel: str = "Spearman × 100"

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", printable(self.label))
        if len(self.steps) != len(self.values):
            raise ValueError(f"curve {self.label!r} has {len(self.steps)} steps and {len(self.values)} values")


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption that a system found for an image.

    ``alike``: how like what the image shows what it says is, in [0, 1]; 1 is true of it, ``None`` is unknown.
    """

    text: str
    alike: float | None = None


@dataclass(frozen=True, slots=True)
class Gallery:
    """One image (PNG bytes) and, by system, the captions nearest to it, nearest first."""

    title: str
    image: bytes
    captions: Mapping[str, Sequence[Caption]]


@dataclass(frozen=True, slots=True)
class Cell:
    """A score as it is printed: its mean, its standard deviation over several seeds, whether it is its column's best.

    Without a score the mean is empty, without several seeds the deviation is.
    """

    mean: str
    deviation: str
    is_best: bool

    @property
    def text(self) -> str:
        """``77.15``, or ``77.15 ± 0.40``, or a dash."""
        if not self.mean:
            return ABSENT
        return f"{self.mean} ± {self.deviation}" if self.deviation else self.mean


def table_cells(table: ScoreTable) -> list[tuple[str, list[Cell]]]:
    """Each row's name and cells; every writer of tables prints these."""
    best = [_best_rows(table, column) for column in range(len(table.columns))]
    return [
        (row.name, [_cell(table, number, column, is_best=number in best[column]) for column in range(len(best))])
        for number, row in enumerate(table.rows)
    ]


def cell_text(values: Sequence[float], *, decimals: int) -> str:
    """``77.15``, or ``77.15 ± 0.40`` (mean ± sample standard deviation) over several seeds, or a dash."""
    return Cell(*_words(values, decimals), is_best=False).text


def _cell(table: ScoreTable, number: int, column: int, *, is_best: bool) -> Cell:
    values, heading = table.rows[number].values[column], table.columns[column]
    mean, deviation = _words(values, _decimals(table, column))
    if heading.is_probability and mean and not float(mean):
        mean = f"< {10 ** -_decimals(table, column):g}"
    return Cell(mean, deviation, is_best)


def _words(values: Sequence[float], decimals: int) -> tuple[str, str]:
    return (
        f"{statistics.fmean(values):.{decimals}f}" if values else "",
        f"{statistics.stdev(values):.{decimals}f}" if len(values) > 1 else "",
    )


def _decimals(table: ScoreTable, column: int) -> int:
    own = table.columns[column].decimals
    return table.decimals if own is None else own


def _best_rows(table: ScoreTable, column: int) -> frozenset[int]:
    """Rows with the best printed mean of a column: ties share it, one system alone or no contest has none."""
    means = {
        number: round(statistics.fmean(row.values[column]), _decimals(table, column))
        for number, row in enumerate(table.rows)
        if row.values[column] and row.is_rival
    }
    if len(means) < 2 or not table.is_contest:
        return frozenset()
    best = (max if table.columns[column].higher_is_better else min)(means.values())
    return frozenset(number for number, mean in means.items() if mean == best)
