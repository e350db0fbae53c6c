"""Settings of the recipe ``grounded_words``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import WordDataConfig, WordsConfig
from mcse.data.controls_config import ControlsConfig
from mcse.models.config import ModelConfig, TasksConfig
from mcse.recipes.base import RunConfig, check_uncached


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the three tasks, and the retention of text vectors."""

    forward_weight: float = 1.0
    """Of the language model that reads forwards. Source: the article."""

    backward_weight: float = 1.0
    """Of the language model that reads backwards. Source: the article."""

    match_weight: float = 1.0
    """Of matching captions and images. Source: the article."""

    alpha: float = 1.0
    """Weighs the mean over words of \\|β − cos(tuned, original)\\|; the article does not say."""

    beta: float = 1.0
    """The cosine that a tuned vector is drawn to; the article does not say."""

    negatives: int = 1
    """False pairs a caption in the matching task; the article does not say."""

    def __post_init__(self) -> None:
        for key in ("forward_weight", "backward_weight", "match_weight", "alpha"):
            if getattr(self, key) < 0:
                raise ValueError(f"loss.{key}: must be 0 or more, got {getattr(self, key)}")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"loss.beta: must lie in [0, 1], got {self.beta}")
        if self.negatives < 1:
            raise ValueError(f"loss.negatives: must be 1 or more, got {self.negatives}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete run on captions with stored features of their images."""

    recipe: Literal["grounded_words"]
    """Visually grounded word vectors."""

    words: WordsConfig
    """Which words, and what is written of them."""

    data: WordDataConfig
    """Captions and features of their images."""

    model: ModelConfig = field(default_factory=TasksConfig)
    """What is learned."""

    loss: LossConfig | None = None
    """Weights of the tasks; ``null`` is as published for ``tasks``, and image regression has none."""

    controls: ControlsConfig = field(default_factory=ControlsConfig)
    """Which image a caption is shown with, and how many captions there are."""

    def __post_init__(self) -> None:
        check_uncached(self.train)
        if self.words.similarity is None and self.train.select_by is not None:
            raise ValueError("train.select_by: give words.similarity to select by, or null, which keeps the last")
        if isinstance(self.model, TasksConfig):
            object.__setattr__(self, "loss", self.loss or LossConfig())
        elif self.loss is not None:
            raise ValueError("loss: would do nothing, since model.objective is image_regression")
