"""Settings of the recipe ``tables``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.table_config import DevTable, TableDataConfig, check_names
from mcse.models.config import EncoderConfig
from mcse.recipes.base import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftNegatives:
    """Negatives that are to be somewhat less similar than the positive, as negations are. Source: SNCSE."""

    lower: float = 0.1
    """The least that a negative's cosine must lie below the positive's."""

    upper: float = 0.3
    """The most."""

    weight: float = 1e-3
    """Of the term beside the contrast."""

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ValueError(f"loss.soft_negatives.lower: must be below upper, got {self.lower} and {self.upper}")
        if self.weight <= 0:
            raise ValueError(f"loss.soft_negatives.weight: must be positive, got {self.weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Guide:
    """A model that finds the negatives of a batch that are probably correct answers. Source: GISTEmbed."""

    model: str
    """As ``mcse evaluate`` takes it. Its embeddings are computed once, and kept on disk."""

    margin: float = 0.0
    """A key counts as no negative whose cosine with the query lies above the positive's less this."""

    pooling: str | None = None
    """Overrides the model's own pooling; needed where a model states none."""

    @staticmethod
    def reads(text: str) -> bool:
        """Any name."""
        return bool(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The losses of all tables; each table's ``loss`` says which is its."""

    temperature: float = 0.05
    """Divides cosines under ``contrast``; a scale of 20 is the same. Source: SimCSE."""

    directions: Literal["one", "both"] = "one"
    """``contrast``: the query looks for its positive, or each of them for the other, too."""

    false_negatives: Literal["equal_text", "keep"] = "equal_text"
    """``contrast``: rows with an equal query or positive are no negatives of each other, or are nevertheless."""

    guide: Guide | None = None
    """``contrast``: leave out keys that a guide holds to be nearer than the positive; ``null`` leaves out none so."""

    scale: float = 20.0
    """Multiplies differences of similarities under ``cosent`` and ``angle``. Source: CoSENT, AnglE."""

    soft_negatives: SoftNegatives | None = None
    """``contrast``: negatives are held at a distance from the positive; ``null`` has them among the wrong keys."""

    dims: tuple[int, ...] = ()
    """Widths at which the first dimensions are trained to do alone, beside the whole. Source: Matryoshka."""

    def __post_init__(self) -> None:
        for key in ("temperature", "scale"):
            if getattr(self, key) <= 0:
                raise ValueError(f"loss.{key}: must be positive, got {getattr(self, key)}")
        if any(width < 1 for width in self.dims) or len(set(self.dims)) < len(self.dims):
            raise ValueError(f"loss.dims: must be different numbers of 1 or more, got {list(self.dims)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete run on tables.

    The loss sees the embeddings that are exported: there is no text head.
    """

    recipe: Literal["tables"]
    """Sentence embeddings from your own tables of pairs, hard negatives, scores or labels."""

    encoder: EncoderConfig
    """The encoder of sentences."""

    data: TableDataConfig
    """The tables."""

    loss: LossConfig = field(default_factory=LossConfig)
    """The losses of all tables."""

    evaluate: tuple[DevTable, ...] = ()
    """Tables to evaluate on, each by what its columns are; none is STS-B dev, or the file of ``data.sts``."""

    def __post_init__(self) -> None:
        if self.encoder.frozen is True:
            raise ValueError("encoder.frozen: true would leave nothing to train, since this recipe has no heads")
        check_names(self.evaluate)
        if images := [table.name for table in self.evaluate if table.image is not None]:
            raise ValueError(
                f"evaluate: {images[0]}: this recipe has no images; mcse evaluate --suite table takes them"
            )
        if self.evaluate and self.data.sts is not None and not self.data.decontaminate:
            raise ValueError("evaluate, data.sts: give one of them, since both choose what is evaluated on")
