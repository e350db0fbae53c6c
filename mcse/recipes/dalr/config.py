"""Settings of the recipe ``dalr``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import PairedDataConfig
from mcse.data.controls_config import Mix
from mcse.data.teacher_config import TaughtImageControls, Teacher, check_teachers
from mcse.models.config import EncoderConfig, ImageConfig
from mcse.recipes.base import RunConfig, resolve_mix
from mcse.recipes.terms.config import (
    AngularMargin,
    ListMLE,
    PairedLossConfig,
    SimilarityKL,
    check_angle,
    check_not_negative,
    check_positive,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """Sentences and images of a pair become similar, those of different pairs stay below a margin. Source: DALR."""

    weight: float = 0.001
    """Of the term. Source: DALR's code has 0.1 · 0.01."""

    margin: float = 0.2
    """Cosine up to which a wrong pair costs nothing. Source: DALR."""

    shift: int = 5
    """Places in the batch from a sentence to the image of its wrong pair. Source: DALR's code."""

    def __post_init__(self) -> None:
        check_not_negative(self, "loss.matching", "weight")
        if not -1 <= self.margin < 1:
            raise ValueError(f"loss.matching.margin: must be a cosine, got {self.margin}")
        if self.shift < 1:
            raise ValueError(f"loss.matching.shift: must be 1 or more, got {self.shift}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossKL:
    """Similarities of sentences and images are to follow the teachers' of sentences and of images. Source: DALR."""

    weight: float = 0.1
    """Of the term. Source: DALR's code."""

    temperature: float = 0.0225
    """Divides the student's cosines. Source: DALR's code divides by 0.05 and by 0.45."""

    teacher_temperature: float = 0.5
    """Divides the teachers'. Source: DALR's code."""

    def __post_init__(self) -> None:
        check_not_negative(self, "loss.cross_kl", "weight")
        check_positive(self, "loss.cross_kl", "temperature", "teacher_temperature")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig(PairedLossConfig):
    """The terms of sentences, and those of sentences and images."""

    image_margin: float = 0.18
    """Radians, multiplied by one minus the cosine of two images' features; 0 is none. Source: DALR's scripts."""

    margin: AngularMargin | None = field(default_factory=lambda: AngularMargin(negative=0.18))
    """Angular margin of sentences. Source: DALR's scripts."""

    matching: Matching | None = field(default_factory=Matching)
    """A term of matched and unmatched pairs."""

    cross_kl: CrossKL | None = field(default_factory=CrossKL)
    """A term of similarities across modalities."""

    list_mle: ListMLE | None = field(default_factory=lambda: ListMLE(weight=0.2))
    """A term of the teachers' orders. Source: DALR's code has 0.2."""

    similarity_kl: SimilarityKL | None = field(
        default_factory=lambda: SimilarityKL(weight=0.2, temperature=0.0225, teacher_temperature=0.5)
    )
    """A term of the teachers' distributions. Source: DALR's code."""

    teach_sentences: bool = False
    """Whether ``list_mle`` and ``similarity_kl`` are also of sentences without images. Source: DALR's are of pairs."""

    def __post_init__(self) -> None:
        PairedLossConfig.__post_init__(self)
        check_angle("loss.image_margin", self.image_margin)
        if self.teach_sentences and self.list_mle is None and self.similarity_kl is None:
            raise ValueError("loss.teach_sentences: would do nothing without loss.list_mle and loss.similarity_kl")

    @property
    def reads_teachers_of_captions(self) -> tuple[str, ...]:
        """The keys of all terms that read teachers' rows."""
        return (*self.reads_teachers, *(("loss.cross_kl",) if self.cross_kl is not None else ()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete DALR run; without ``data.sentences`` it trains on captions alone."""

    recipe: Literal["dalr"]
    """Sentence embeddings from text and images whose similarities follow those of frozen teachers."""

    encoder: EncoderConfig
    """The encoder of sentences."""

    data: PairedDataConfig
    """Captions with images, and sentences."""

    loss: LossConfig
    """The terms of the loss."""

    teachers: tuple[Teacher, ...] = ()
    """Frozen encoders of sentences whose cosines, averaged by weight, are followed."""

    image: ImageConfig = field(default_factory=ImageConfig)
    """How the image side learns."""

    mix: Mix | None = None
    """How paired batches are spread among those of sentences; ``null`` is as published, if there are sentences."""

    controls: TaughtImageControls = field(default_factory=TaughtImageControls)
    """Which image a caption is shown with, how many captions there are, and what replaces the teachers."""

    def __post_init__(self) -> None:
        check_teachers(self.teachers, self.controls.teachers, readers=self.loss.reads_teachers_of_captions)
        if self.loss.teach_sentences and self.data.sentences is None:
            raise ValueError("loss.teach_sentences: would do nothing, since there is no data.sentences")
        object.__setattr__(self, "mix", resolve_mix(self.mix, self.data))
