"""What the settings of all recipes have in common. Imports no torch; not a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcse.data.config import DataConfig
from mcse.data.controls_config import Mix, PairControls, PublishedMix
from mcse.models.config import EncoderConfig
from mcse.training.config import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One complete run."""

    recipe: str
    """What is trained."""

    output_dir: Path
    """The run folder, which must be empty or absent unless a run goes on in it."""

    optim: OptimConfig
    """The optimizer and its learning-rate schedule."""

    train: TrainConfig
    """Length, cadence and selection of the run."""

    seed: int = 42
    """Of everything that is drawn: weights, order, dropout, captions, controls."""


def check_uncached(train: TrainConfig) -> None:
    """Refuses chunks of a batch whose loss is a sum over its examples, of which a smaller batch is the same.

    Raises:
        ValueError: There are chunks.
    """
    if train.cached_chunk_size is not None:
        raise ValueError(
            "train.cached_chunk_size: this recipe contrasts no examples, so a smaller train.batch_size with "
            "train.accumulation_steps takes the same step in the same memory"
        )


def check_frozen(encoder: EncoderConfig) -> None:
    """Refuses a frozen encoder where a head alone would train, which is not part of the embedding.

    Raises:
        ValueError: There is one.
    """
    if encoder.frozen is True and encoder.pooling != "cls_with_head":
        raise ValueError(
            "encoder.frozen: true would train a head that no embedding has; encoder.pooling cls_with_head keeps it"
        )


def check_num_pairs(data: DataConfig, controls: PairControls) -> None:
    """Refuses a number of captions or of their images where there are none.

    Raises:
        ValueError: There is one.
    """
    for key in ("num_pairs", "num_images"):
        number = getattr(controls, key)
        if data.captions is None and number is not None:
            raise ValueError(f"controls.{key}: {number} would do nothing, since there is no data.captions")


def resolve_mix(mix: Mix | None, data: DataConfig) -> Mix | None:
    """How sentences and captions are mixed: by default as published, and not at all where one of them is absent.

    Raises:
        ValueError: A mixture of what is not mixed.
    """
    if data.sentences is not None and data.captions is not None:
        return mix or PublishedMix()
    if mix is not None:
        absent = "data.sentences" if data.sentences is None else "data.captions"
        raise ValueError(f"mix: would do nothing, since there is no {absent} to mix")
    return None
