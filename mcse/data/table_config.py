"""Tables that people bring: which column holds what. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mcse.data.config import DataRoot, TokenConfig
from mcse.data.source_variants import CaptionedTable, ScoredPairsSource, check_roles

TableLoss: TypeAlias = Literal["contrast", "cosent", "angle", "cosine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedTable:
    """A table of texts. Without any column named, they are found by their names where these are plain."""

    path: str
    """``.csv``, ``.tsv``, ``.jsonl`` (also ``.gz``), ``.parquet``, a folder of ``save_to_disk``, or a hub dataset."""

    query: str | None = None
    """The column of texts; the first ones of pairs."""

    positive: str | None = None
    """The column of the texts that belong to them, or that are compared with them under ``score`` or ``label``."""

    negatives: tuple[str, ...] = ()
    """Columns of texts that do not belong to them: hard negatives."""

    score: str | None = None
    """The column of numbers that say how similar a pair is; more is more."""

    label: str | None = None
    """The column of 1 for pairs that belong together and 0 for others."""

    id: str | None = None
    """The column of texts or whole numbers that are equal in rows that belong together, such as one product's rows.

    Under ``contrast`` the queries and positives of such rows, also of two tables of a mixed batch, are no negatives of
    each other.
    """

    image: str | None = None
    """The column of images, to evaluate on with their captions; training on images is of the recipes mcse and vse."""

    caption: str | None = None
    """The column of the images' captions, of texts or lists of texts."""

    score_range: tuple[float, float] | None = None
    """The least and the greatest score there may be; ``null`` takes any number."""

    line_breaks: bool = False
    """Whether a quoted cell may hold line breaks, which are otherwise refused as an unclosed quotation mark."""

    empty_rows: Literal["error", "skip"] = "error"
    """Whether a row with an empty cell stops the run, or is counted and left out."""

    @staticmethod
    def reads(text: str) -> bool:
        """Any path."""
        return bool(text)

    def __post_init__(self) -> None:
        if self.score_range is not None and not self.score_range[0] < self.score_range[1]:
            raise ValueError(f"score_range: must grow, got {list(self.score_range)}")
        check_roles(self.query, self.positive, *self.negatives, self.score, self.label, self.image, self.caption)
        if self.score is not None and self.label is not None:
            raise ValueError("score, label: a table has one of them")
        if (self.image is None) != (self.caption is None):
            raise ValueError("image, caption: a table has both of them or none")
        if self.image is not None and (self.query or self.id or self.score_range):
            raise ValueError("image, caption: a table of these has no other columns")
        if self.query is None and any((self.positive, self.negatives, self.score, self.label, self.id)):
            raise ValueError("query: name its column too, or no column at all")
        if self.positive is None and any((self.negatives, self.score, self.label)):
            raise ValueError("positive: name the column of the second texts")
        if self.negatives and (self.score is not None or self.label is not None):
            raise ValueError("negatives: would do nothing beside score or label")
        if self.id is not None and (self.score is not None or self.label is not None):
            raise ValueError("id: would do nothing beside score or label")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingTable(NamedTable):
    """A table to train on."""

    loss: TableLoss | None = None
    """``null`` is ``contrast``, or ``cosent`` of a table with scores or labels. ``angle`` and ``cosine`` need these."""

    share: float | None = None
    """Of the steps, in proportion to the other tables' shares; ``null`` everywhere is as many as fill their batches."""

    def __post_init__(self) -> None:
        # A slotted dataclass is another class than the one that super() without arguments means.
        NamedTable.__post_init__(self)
        if self.image is not None:
            raise ValueError(
                "image, caption: this recipe trains on texts alone; for images train mcse or vse, with "
                "data.captions.table and data.images.table"
            )
        if self.share is not None and self.share <= 0:
            raise ValueError(f"share: must be positive, got {self.share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DevTable(NamedTable):
    """A table to evaluate on."""

    name: str
    """Before its scores, such as ``NAME.spearman``, for ``train.select_by``."""

    def __post_init__(self) -> None:
        # As above.
        NamedTable.__post_init__(self)
        if not self.name.strip() or "/" in self.name:
            raise ValueError(f"name: stands before scores; must be some text without '/', got {self.name!r}")
        if self.id is not None:
            raise ValueError(f"{self.name}: id: would do nothing here; it is of tables to train on")

    @property
    def captioned(self) -> CaptionedTable:
        """The same as a table of images with captions."""
        return CaptionedTable(
            path=self.path,
            image=self.image,
            caption=self.caption,
            line_breaks=self.line_breaks,
            empty_rows=self.empty_rows,
        )


def first_metric(*, has_values: bool, is_label: bool, has_negatives: bool) -> str:
    """The score that stands for a table: the best checkpoint is kept by it unless the configuration names another."""
    if has_values:
        return "average_precision" if is_label else "spearman"
    return "accuracy" if has_negatives else "ndcg@10"


def check_names(tables: Sequence[DevTable]) -> None:
    """Refuses two tables of one name.

    Raises:
        ValueError: There are such.
    """
    names = [table.name for table in tables]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"evaluate: the name {doubled[0]!r} stands there twice")


@dataclass(frozen=True, kw_only=True, slots=True)
class TestTables:
    """Test sets of one's own, as a file lists them for ``mcse evaluate``."""

    __test__ = False

    evaluate: tuple[DevTable, ...]
    """The tables."""

    data: DataRoot = field(default_factory=DataRoot)
    """Where they are."""

    def __post_init__(self) -> None:
        check_names(self.evaluate)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableDataConfig(TokenConfig):
    """Tables of texts, and the scored pairs that select the checkpoint."""

    table: TrainingTable | None = None
    """The table; its path alone will do."""

    tables: tuple[TrainingTable, ...] = ()
    """Several tables; every batch is of one of them, unless they are ``mixed``."""

    mixed: bool = False
    """Whether every batch holds rows of all ``tables``, in proportion to their ``share``, else to their rows."""

    decontaminate: bool = False
    """Whether rows with a text that occurs in the STS test files are left out."""

    sts: ScoredPairsSource | None = None
    """A file of scored pairs to select by, or SentEval's folder; ``null`` looks below ``root``, then at the hub.

    With the keys below it may be a table whose columns have other names than sentence1, sentence2 and score.
    """

    def __post_init__(self) -> None:
        # As above.
        TokenConfig.__post_init__(self)
        if (self.table is None) == (not self.tables):
            raise ValueError("data.table, data.tables: give one of them")
        if self.mixed and len(self.tables) < 2:
            raise ValueError("data.mixed: would do nothing, since there are no several data.tables")
        shares = [table.share for table in self.tables]
        if any(shares) and not all(shares):
            raise ValueError("data.tables: give share to all of them, or to none")

    @property
    def named(self) -> dict[str, TrainingTable]:
        """The tables by the key that each stands under."""
        if self.table is not None:
            return {"data.table": self.table}
        return {f"data.tables[{number}]": table for number, table in enumerate(self.tables)}

    @property
    def tests(self) -> str | None:
        """Where the STS test files are; ``None`` if nothing is left out."""
        return self.tests_in(self.sts) if self.decontaminate else None
