"""Settings of the terms that several recipes share, one group a term; ``null`` leaves a term out. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

_OF_OWN_VIEWS = (
    "off_dropout",
    "dimension_contrast",
    "list_net",
    "list_mle",
    "consistency",
    "similarity_kl",
    "queue",
)
"""Terms that compare a sentence's two views."""


def check_angle(key: str, value: float) -> None:
    """Refuses a margin that is no angle up to a right one.

    Raises:
        ValueError: Names ``key``.
    """
    if not 0 <= value <= math.pi / 2:
        raise ValueError(f"{key}: must be between 0 and π/2 radians, got {value}")


def check_positive(group: object, key: str, *names: str) -> None:
    """Refuses settings of ``group``, which stands at ``key``, that are 0 or less.

    Raises:
        ValueError: Names the key.
    """
    for name in names:
        if getattr(group, name) <= 0:
            raise ValueError(f"{key}.{name}: must be positive, got {getattr(group, name)}")


def check_not_negative(group: object, key: str, *names: str) -> None:
    """Refuses settings below 0. A weight of 0 is a control: the term is logged and changes nothing.

    Raises:
        ValueError: Names the key.
    """
    for name in names:
        if getattr(group, name) < 0:
            raise ValueError(f"{key}.{name}: must be 0 or more, got {getattr(group, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OffDropout:
    """Negatives come from a third pass, without dropout and with its gradient. Source: SimCSE++."""

    positive_weight: float = 1.0
    """Multiplies the positive's logit. Source: SimCSE++ has 1 with ``dimension_contrast``, 0.9 without."""

    def __post_init__(self) -> None:
        check_positive(self, "loss.off_dropout", "positive_weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class DimensionContrast:
    """Each dimension of one view finds itself among those of the other, by correlation. Source: SimCSE++."""

    weight: float = 0.1
    """Of the term. Source: SimCSE++."""

    temperature: float = 5.0
    """Divides correlations. Source: SimCSE++ has 5 with ``off_dropout``, 10 without."""

    def __post_init__(self) -> None:
        check_positive(self, "loss.dimension_contrast", "temperature")
        check_not_negative(self, "loss.dimension_contrast", "weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class AngularMargin:
    """Logits are made harder by an angle."""

    negative: float = 0.0
    """Radians by which a negative's angle shrinks. Source: KDMCSE has 0.15."""

    positive: float = 0.0
    """Radians by which the positive's angle grows. Source: ArcCSE has 10°, which is 0.175."""

    by_teacher: bool = False
    """Whether ``negative`` is multiplied by one minus the teachers' cosine. Source: KDMCSE, of images."""

    def __post_init__(self) -> None:
        for key in ("negative", "positive"):
            check_angle(f"loss.margin.{key}", getattr(self, key))
        if self.negative == 0 and self.by_teacher:
            raise ValueError("loss.margin.by_teacher: would do nothing, since loss.margin.negative is 0")
        if self.negative == 0 and self.positive == 0:
            raise ValueError("loss.margin: would do nothing; give negative, positive or both")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFilter:
    """Keys that the teachers hold to be too near to a query are no negatives of it. Source: GISTEmbed."""

    threshold: float | None = None
    """The teachers' cosine above which a key is left out; ``null`` goes by ``margin``. Source: KDMCSE has 0.8."""

    margin: float | None = None
    """The filter begins this far below the teachers' cosine of a sentence and its positive (1 if that is itself)."""

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.margin is None):
            raise ValueError("loss.teacher_filter.threshold, loss.teacher_filter.margin: give one of them")
        if self.threshold is not None and not -1 < self.threshold < 1:
            raise ValueError(f"loss.teacher_filter.threshold: must be a cosine, got {self.threshold}")
        # Of a sentence that is its own positive the teachers' cosine is 1, and nothing is nearer.
        if self.margin is not None and self.margin <= 0:
            raise ValueError(f"loss.teacher_filter.margin: must be positive, got {self.margin}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ListNet:
    """The student's distribution over the other sentences of the batch is to be the teachers'. Source: RankCSE."""

    weight: float = 1.0
    """Of the term. Source: RankCSE."""

    temperature: float = 0.05
    """Divides the student's cosines. Source: RankCSE."""

    teacher_temperature: float = 0.025
    """Divides the teachers'. Source: RankCSE's paper has half of the student's; its code 0.05."""

    def __post_init__(self) -> None:
        check_positive(self, "loss.list_net", "temperature", "teacher_temperature")
        check_not_negative(self, "loss.list_net", "weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class ListMLE:
    """The student is to put the batch in the teachers' order: a sum over its places. Source: RankCSE."""

    weight: float = 1.0
    """Of the term, which at a batch of 128 starts at hundreds of nats. Source: RankCSE."""

    temperature: float = 0.05
    """Divides the student's cosines. Source: RankCSE."""

    def __post_init__(self) -> None:
        check_positive(self, "loss.list_mle", "temperature")
        check_not_negative(self, "loss.list_mle", "weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Consistency:
    """Jensen–Shannon divergence between the distributions of the two dropout views. Source: RankCSE's paper."""

    weight: float = 1.0
    """Of the term. Source: RankCSE."""

    temperature: float = 0.05
    """Divides cosines. Source: RankCSE."""

    def __post_init__(self) -> None:
        check_positive(self, "loss.consistency", "temperature")
        check_not_negative(self, "loss.consistency", "weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityKL:
    """KL from the teachers' distribution over the batch to the student's. Source: DALR."""

    weight: float = 1.0
    """Of the term."""

    temperature: float = 0.05
    """Divides the student's cosines."""

    teacher_temperature: float = 0.05
    """Divides the teachers'."""

    def __post_init__(self) -> None:
        check_positive(self, "loss.similarity_kl", "temperature", "teacher_temperature")
        check_not_negative(self, "loss.similarity_kl", "weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """Rows of earlier sentences, from a slowly following copy of the encoder, are negatives. Source: ESimCSE."""

    size: int = 160
    """Rows that are kept. Source: ESimCSE has 160 for base and 128 for large models."""

    momentum: float = 0.995
    """Share of the copy that a batch leaves as it was. Source: ESimCSE."""

    def __post_init__(self) -> None:
        check_positive(self, "loss.queue", "size")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"loss.queue.momentum: must be in [0, 1], got {self.momentum}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLossConfig:
    """The terms of sentences."""

    temperature: float = 0.05
    """Divides cosines of sentences. Source: SimCSE."""

    mlm_weight: float = 0.0
    """Weight of the masked-language-model term. Source: SimCSE has 0.1, which helps transfer and hurts STS."""

    off_dropout: OffDropout | None = None
    """Negatives without dropout."""

    dimension_contrast: DimensionContrast | None = None
    """A term that contrasts dimensions."""

    margin: AngularMargin | None = None
    """Angular margins of sentences."""

    teacher_filter: TeacherFilter | None = None
    """Leaves out false negatives."""

    list_net: ListNet | None = None
    """A term of the teachers' distributions."""

    list_mle: ListMLE | None = None
    """A term of the teachers' orders."""

    consistency: Consistency | None = None
    """A term of the two views' distributions."""

    similarity_kl: SimilarityKL | None = None
    """A term of the teachers' distributions, a query itself included."""

    queue: Queue | None = None
    """More negatives."""

    def __post_init__(self) -> None:
        check_positive(self, "loss", "temperature")
        check_not_negative(self, "loss", "mlm_weight")
        if self.off_dropout is not None and self.queue is not None:
            raise ValueError("loss.queue: its rows are negatives of a view with dropout, which off_dropout has none of")
        if self.off_dropout is not None and self.margin is not None and self.margin.positive:
            raise ValueError("loss.margin.positive: off_dropout weighs the positive itself; give one of them")

    @property
    def reads_teachers(self) -> tuple[str, ...]:
        """The keys of the terms that read teachers' rows."""
        found = [key for key in ("teacher_filter", "list_net", "list_mle", "similarity_kl") if getattr(self, key)]
        if self.margin is not None and self.margin.by_teacher:
            found.append("margin.by_teacher")
        return tuple(f"loss.{key}" for key in found)

    def check_own_positives(self, *, what: str) -> None:
        """Refuses terms that are of a sentence's two views where positives are other sentences.

        Raises:
            ValueError: One is asked for.
        """
        for key in _OF_OWN_VIEWS:
            if getattr(self, key) is not None:
                raise ValueError(f"loss.{key}: is of a sentence's own two views, and {what}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedWeight:
    """How probable a small head, which learns to tell pairs from shifted ones, holds a pair to be. Source: MAF."""

    kind: Literal["learned"]
    """``learned``: by a head of the run's own."""

    weight: float = 1.0
    """Of the head's term, whose gradient reaches the head alone; 0 is a control: all pairs weigh the same."""

    learning_rate: float = 1e-3
    """Peak learning rate of the head."""

    def __post_init__(self) -> None:
        check_not_negative(self, "loss.match_weight", "weight")
        check_positive(self, "loss.match_weight", "learning_rate")


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidedWeight:
    """How similar the teacher finds a caption and its image: sigmoid((cosine − threshold) / width)."""

    kind: Literal["guided"]
    """``guided``: by the one teacher's rows of captions, and ``data.images`` of the same image–text encoder."""

    threshold: float
    """The teacher's cosine at which a pair weighs half."""

    width: float = 0.05
    """How far above the threshold, in cosines, a pair weighs 0.73; the smaller, the nearer to a filter."""

    def __post_init__(self) -> None:
        if not -1 < self.threshold < 1:
            raise ValueError(f"loss.match_weight.threshold: must be a cosine, got {self.threshold:g}")
        check_positive(self, "loss.match_weight", "width")


MatchWeight: TypeAlias = LearnedWeight | GuidedWeight


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedLossConfig(TextLossConfig):
    """The terms of sentences, and λ times the contrast of sentences and images."""

    image_weight: float
    """λ, the weight of the image term. Source: MCSE has 0.01 with Wikipedia, 0.05 without; KDMCSE 0.01, DALR 0.1."""

    image_temperature: float = 0.05
    """Divides cosines of sentences and images. Source: MCSE."""

    joint_dim: int = 256
    """Width of the space that sentences and images are projected to. Source: MCSE."""

    def __post_init__(self) -> None:
        TextLossConfig.__post_init__(self)
        check_positive(self, "loss", "image_temperature", "joint_dim")
        check_not_negative(self, "loss", "image_weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedLossConfig(PairedLossConfig):
    """The terms of sentences, and λ times the contrast of sentences and images, whose pairs may be weighed."""

    match_weight: MatchWeight | None = None
    """Weighs pairs of the image term, with a mean of 1 over a batch; ``null`` weighs all equally."""

    @property
    def guided(self) -> tuple[str, ...]:
        """The key of the weights, where they are a teacher's."""
        return ("loss.match_weight",) if isinstance(self.match_weight, GuidedWeight) else ()
