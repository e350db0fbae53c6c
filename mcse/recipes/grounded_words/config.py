"""Settings of the recipe ``grounded_words``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from mcse.config import refuse_idle
from mcse.data.config import (
    ControlsConfig,
    DataConfig,
    WordsConfig,
)
from mcse.models.config import ModelConfig
from mcse.training.config import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the tasks (published: 1 each), ``alpha`` and ``beta`` of R(α, β), ``negatives`` false pairs a caption.

    α weighs the mean over words of |β − cos(tuned, original)|; the article states neither α, β nor the negatives.
    """

    forward_weight: float = 1.0
    backward_weight: float = 1.0
    match_weight: float = 1.0
    alpha: float = 1.0
    beta: float = 1.0
    negatives: int = 1

    def __post_init__(self) -> None:
        for key in ("forward_weight", "backward_weight", "match_weight", "alpha"):
            if getattr(self, key) < 0:
                raise ValueError(f"loss.{key}: must be 0 or more, got {getattr(self, key)}")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"loss.beta: must lie in [0, 1], got {self.beta}")
        if self.negatives < 1:
            raise ValueError(f"loss.negatives: must be 1 or more, got {self.negatives}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One complete run on captions with stored features of their images."""

    recipe: Literal["grounded_words"]
    output_dir: Path
    words: WordsConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    seed: int = 42
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)

    def __post_init__(self) -> None:
        for key in ("captions", "features"):
            if getattr(self.data, key) is None:
                raise ValueError(f"data.{key}: grounded_words needs captions and the stored features of their images")
        refuse_idle("data", self.data, keys=("sentences", "image_folder"), why="grounded_words reads captions")
        if not self.data.decontaminate:
            refuse_idle("data", self.data, keys=("sts",), why="grounded_words selects by words.similarity")
        if self.words.similarity is None and self.train.select_by is not None:
            raise ValueError("train.select_by: give words.similarity to select by, or null, which keeps the last")
        if self.model.objective == "tasks":
            refuse_idle("model", self.model, keys=("state_width",), why="only image_regression has it")
        else:
            why = "model.objective is image_regression"
            keys = ("dropout", "share_image_layer", "tie_output")
            refuse_idle("model", self.model, keys=keys, why=why)
            refuse_idle("loss", self.loss, keys=[key.name for key in fields(LossConfig)], why=why)
            refuse_idle("words", self.words, keys=("ground",), why=f"{why}, which tunes no rows")
