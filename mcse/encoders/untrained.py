"""Encoders of random weights: the control that says what an architecture gives by itself."""

from __future__ import annotations

import torch
from torch import nn

from mcse.encoders.loading import AnyEncoder
from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import fresh_backbone


def draw_weights(encoder: AnyEncoder, *, seed: int) -> None:
    """Gives an encoder new weights in place, as its architecture is initialised before training.

    Args:
        encoder: Its weights are all those of transformers' models and of PyTorch's own layers.
        seed: Names the draw.

    Raises:
        ValueError: It has no such weights, or others; names their module.
    """
    modules = encoder._modules()
    if not any(True for module in modules for _ in module.parameters()):
        raise ValueError(f"{encoder.name!r} has no weights to draw anew")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in modules:
            _draw(module, name=encoder.name)


def _draw(module: nn.Module, *, name: str) -> None:
    if isinstance(module, TextEncoder):
        fresh = fresh_backbone(module.backbone)
        module.backbone.load_state_dict(fresh.state_dict())
        return
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    elif any(True for _ in module.parameters(recurse=False)):
        raise ValueError(f"{name!r}: how the weights of {type(module).__name__} are initialised is unknown")
    for child in module.children():
        _draw(child, name=name)
