"""Settings of the recipe ``diffcse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import DataConfig
from mcse.data.controls_config import Mix, PairControls
from mcse.data.source_variants import TableSentences
from mcse.models.config import EncoderConfig
from mcse.recipes.base import RunConfig, check_num_pairs, resolve_mix


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """The frozen masked language model that edits sentences."""

    name_or_path: str
    """A masked language model with the encoder's vocabulary: a hub id or a folder. Source: DistilBERT for BERT."""

    dropout: bool = True
    """Whether it drops out although it does not train. Source: the released code leaves it in training mode."""

    mask_share: float = 0.3
    """Share of the words of a copy that are masked for it: 80 % as the mask token, 10 % as a random one."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_share <= 1:
            raise ValueError(f"generator.mask_share: must be above 0 and at most 1, got {self.mask_share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The contrastive term, and one of telling replaced tokens."""

    temperature: float = 0.05
    """Divides cosines. Source: DiffCSE."""

    rtd_weight: float = 0.005
    """λ, the weight of the term of replaced tokens; the published value is for ``rtd_reduction: all``."""

    rtd_reduction: Literal["all", "real"] = "all"
    """Tokens that the term is a mean over.

    ``all`` counts padding as original, up to the longest sentence of the global batch, as the released code does in one
    process. ``real`` leaves padding out: once padding is told without error, its mean is that of ``all`` times all
    tokens over the real ones, so that λ times the real ones over all (of a padded batch) weighs the same.
    """

    stop_gradient: bool = False
    """Whether the term trains the discriminator alone: the ablation that takes its gradient from the encoder."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"loss.temperature: must be positive, got {self.temperature}")
        if self.rtd_weight < 0:
            raise ValueError(f"loss.rtd_weight: must be 0 or more, got {self.rtd_weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete DiffCSE run.

    With ``data.captions`` captions are trained on as text, as ``simcse`` does.
    """

    recipe: Literal["diffcse"]
    """Sentence embeddings that also tell a sentence from an edited one."""

    encoder: EncoderConfig
    """The encoder of sentences; the discriminator starts from the same weights, with the same dropout."""

    generator: GeneratorConfig
    """The frozen masked language model that edits sentences."""

    data: DataConfig
    """Sentences, captions as text, or both."""

    head: Literal["batch_norm", "tanh"] = "batch_norm"
    """What stands on the embedding in training: DiffCSE's, whose statistics are of the global batch, or SimCSE's."""

    loss: LossConfig = field(default_factory=LossConfig)
    """The terms of the loss."""

    mix: Mix | None = None
    """How batches of captions are spread among those of sentences; ``null`` is as published, if both are there."""

    controls: PairControls = field(default_factory=PairControls)
    """How many captions there are."""

    def __post_init__(self) -> None:
        if self.train.cached_chunk_size is not None:
            raise ValueError(
                "train.cached_chunk_size: diffcse needs a whole batch in one forward pass, whose statistics its head "
                "takes and whose padding its loss counts"
            )
        if self.encoder.pooling == "cls_with_head" and self.head == "batch_norm":
            raise ValueError(
                "encoder.pooling: cls_with_head would save a head that normalises by a batch; choose cls, or head: tanh"
            )
        if self.encoder.frozen is True:
            raise ValueError("encoder.frozen: true would train a head and a discriminator that no embedding has")
        if isinstance(self.data.sentences, TableSentences):
            raise ValueError("data.sentences.table: diffcse makes its positives by dropout; give sentences alone")
        check_num_pairs(self.data, self.controls)
        object.__setattr__(self, "mix", resolve_mix(self.mix, self.data))
