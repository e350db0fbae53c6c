"""Settings of the recipe ``elmo``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import LanguageDataConfig
from mcse.recipes.base import RunConfig, check_uncached


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeConfig:
    """The model's sizes, as ``ElmoConfig`` calls them; defaults are those of the published model."""

    character_dim: int = 16
    """Width of a character's embedding."""

    max_characters: int = 50
    """Characters of a word, its marks of begin and end included; longer words are cut."""

    filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    """Convolutions over characters: the width and the number of each."""

    highway_layers: int = 2
    """Highway layers behind the convolutions."""

    cell_dim: int = 4096
    """Width of an LSTM's cell."""

    projection_dim: int = 512
    """Width of an LSTM's projected state, and of word vectors a direction."""

    layers: int = 2
    """LSTM layers of each direction."""

    cell_clip: float | None = 3.0
    """Bounds cells; ``null`` does not."""

    projection_clip: float | None = 3.0
    """Bounds projected states; ``null`` does not."""

    skip_connections: bool = True
    """Whether a layer's input is added to its output."""

    dropout: float = 0.1
    """Of layers' inputs and outputs while training."""

    def __post_init__(self) -> None:
        for key in ("character_dim", "cell_dim", "projection_dim", "layers"):
            if getattr(self, key) < 1:
                raise ValueError(f"encoder.{key}: must be 1 or more, got {getattr(self, key)}")
        widest = max((width for width, _ in self.filters), default=0)
        if not 1 <= widest <= self.max_characters:
            raise ValueError(f"encoder.filters: the widest takes {widest} of {self.max_characters} characters")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"encoder.dropout: must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The negative log-likelihood of both directions."""

    weight: float = 0.5
    """Of each direction's mean; published: 0.5, times the 20 places of a step for the gradients' scale."""

    samples: int | None = None
    """Words that the softmax runs over in training, beside the true one; ``null`` is the whole vocabulary."""

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"loss.weight: must be positive, got {self.weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete ELMo run. ``train.batch_size`` is the number of lanes of a process."""

    recipe: Literal["elmo"]
    """Word vectors in context, from language models of characters."""

    data: LanguageDataConfig
    """Text of a language model."""

    encoder: SizeConfig = field(default_factory=SizeConfig)
    """The model's sizes."""

    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""

    def __post_init__(self) -> None:
        check_uncached(self.train)
