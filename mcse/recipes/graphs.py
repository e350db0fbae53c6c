"""Passes in graphs: which encoders of a run allow them, and the few widths that batches are padded to. Not a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mcse.models.packing import ATTENTION
from mcse.models.static_widths import LADDER, choose_widths
from mcse.models.text_encoder import TextEncoder
from mcse.training.config import TrainConfig
from mcse.training.run import Run
from mcse.types import TokenBatch

_LOOKED_AT = 16
"""Batches of an epoch whose widths stand for all."""


def with_graphs(run: Run, train: TrainConfig, *, device: torch.device) -> Run:
    """The run, whose encoder's training passes are compiled or captured from now on.

    Raises:
        ValueError: It has no Hugging Face encoder, or one whose passes cannot be put into graphs.
    """
    encoders = [module for module in run.model.modules() if isinstance(module, TextEncoder)]
    if len(encoders) != 1:
        raise ValueError("train.graphs: this run trains no Hugging Face encoder, so there is nothing to make graphs of")
    (encoder,) = encoders
    _check(encoder, train)
    packs = train.graphs == "cuda_graphs" and encoder.first_position is not None
    encoder.packs_on = None if packs else ()
    if packs:
        encoder.uses_graphs = True
        return replace(run, facts={**run.facts, "graphs of": "packed batches"})
    encoder.widths = _find_widths(run, encoder, train)
    if train.graphs == "compile":
        encoder.compile_passes()
    else:
        encoder.uses_graphs = True
    shown = ", ".join(map(str, encoder.widths))
    return replace(run, facts={**run.facts, "graphs of": f"batches padded to {shown} tokens"})


def _check(encoder: TextEncoder, train: TrainConfig) -> None:
    name = repr(encoder.facts.name)
    if not encoder.facts.masks_padding:
        raise ValueError(
            f"train.graphs: {name} takes sentences of equal length alone, so shapes are too many; leave it off"
        )
    if train.graphs == "compile":
        if encoder.first_position is not None and encoder.packs_on is None:
            raise ValueError("train.graphs: packed batches have too many shapes to compile; set encoder.packing: false")
        return
    if encoder.length_chunks > 1:
        raise ValueError("encoder.length_chunks: cuda_graphs take a batch in one piece; leave it 1")
    if getattr(encoder.backbone, "is_gradient_checkpointing", False):
        raise ValueError("encoder.gradient_checkpointing: cannot be captured; leave it false, or train.graphs off")
    if encoder.facts.attention != ATTENTION:
        raise ValueError(
            f"train.graphs: the attention of {name} ({encoder.facts.attention}) makes the host wait, which cannot be "
            "captured; use compile"
        )


def _find_widths(run: Run, encoder: TextEncoder, train: TrainConfig) -> tuple[int, ...]:
    """By the batches of the first epoch; where batches cannot be looked at ahead, a ladder of widths."""
    steps = run.stream.steps_per_epoch
    if run.carried is not None or steps is None:
        return LADDER
    rows = train.cached_chunk_size or train.batch_size
    found: list[int] = []
    for step in np.unique(np.linspace(0, steps - 1, _LOOKED_AT).astype(int)).tolist():
        for length_B in _lengths(run.stream.batch(step)):
            for start in range(0, len(length_B), rows):
                sorted_B = np.sort(length_B[start : start + rows])
                size = -(-len(sorted_B) // encoder.length_chunks)
                found += [int(part[-1]) for part in np.split(sorted_B, range(size, len(sorted_B), size))]
    return choose_widths(found, longest=encoder.facts.longest)


def _lengths(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Of each group of sentences in a batch."""
    if isinstance(value, TokenBatch):
        yield value.lengths()
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _lengths(getattr(value, field.name))
