"""What a report is made of: score tables, learning curves and galleries, and how a number is worded."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ABSENT = "–"


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """A heading, which way is better, and how many digits are printed where the table's number does not suit."""

    label: str
    higher_is_better: bool = True
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One system: for each column the values of its seeds; one value is a single run, none an absent score.

    ``is_rival``: whether it may win a column; the best seed of a system, chosen by its score, may not.
    """

    name: str
    values: tuple[tuple[float, ...], ...]
    is_rival: bool = True


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
        if len(self.steps) != len(self.values):
            raise ValueError(f"curve {self.label!r} has {len(self.steps)} steps and {len(self.values)} values")


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption that a system found for an image; ``is_right`` is ``None`` where nobody says."""

    text: str
    is_right: bool | None = None


@dataclass(frozen=True, slots=True)
class Gallery:
    """One image (PNG bytes) and, by system, the captions nearest to it, nearest first."""

    title: str
    image: bytes
    captions: Mapping[str, Sequence[Caption]]


def single_run_table(title: str, scores: Mapping[str, Mapping[str, float]], *, caption: str = "") -> ScoreTable:
    """A table of single runs: row name → column label → score, columns in order of first appearance."""
    labels = list(dict.fromkeys(label for row in scores.values() for label in row))
    rows = tuple(
        ScoreRow(name, tuple((row[label],) if label in row else () for label in labels)) for name, row in scores.items()
    )
    return ScoreTable(title=title, columns=tuple(ScoreColumn(label) for label in labels), rows=rows, caption=caption)


def cell_text(values: Sequence[float], *, decimals: int) -> str:
    """``77.15``, or ``77.15 ± 0.40`` (mean ± sample standard deviation) over several seeds, or a dash."""
    if not values:
        return ABSENT
    mean = f"{statistics.fmean(values):.{decimals}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{decimals}f}"


def decimals_of(table: ScoreTable, column: int) -> int:
    """How many digits a column prints."""
    own = table.columns[column].decimals
    return table.decimals if own is None else own


def cell_of(table: ScoreTable, number: int, column: int) -> str:
    """The text of row ``number`` in a column."""
    return cell_text(table.rows[number].values[column], decimals=decimals_of(table, column))


def best_rows(table: ScoreTable, column: int) -> frozenset[int]:
    """Rows with the best printed mean of a column: ties share it, one system alone or no contest has none."""
    means = {
        number: round(statistics.fmean(row.values[column]), decimals_of(table, column))
        for number, row in enumerate(table.rows)
        if row.values[column] and row.is_rival
    }
    if len(means) < 2 or not table.is_contest:
        return frozenset()
    best = (max if table.columns[column].higher_is_better else min)(means.values())
    return frozenset(number for number, mean in means.items() if mean == best)
