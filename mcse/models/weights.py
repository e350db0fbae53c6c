"""Weights in files: written from whatever device, and read back whole or refused by file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from mcse.errors import said
from mcse.manifest import check_files
from mcse.models.text_loading import quiet_transformers

Own = TypeVar("Own", bound=PreTrainedModel)


def save_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, from whatever device."""
    save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, path, metadata={"format": "pt"})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of PyTorch's ``.bin``, on the CPU.

    A ``.bin`` is a pickle, which can name any function to be called. PyTorch's ``weights_only`` builds tensors and
    plain containers alone, and refuses whatever else one names.

    Raises:
        ValueError: It is missing or damaged, or holds anything but tensors.
    """
    try:
        is_pickle = path.suffix == ".bin"
        tensors = torch.load(path, map_location="cpu", weights_only=True) if is_pickle else load_file(path)
    except Exception as error:
        # PyTorch's own zip and pickle readers raise a dozen kinds of errors on damaged files.
        raise ValueError(f"{path}: damaged weights: {said(error)}") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path}: not only tensors by name")
    return {str(name): value for name, value in tensors.items()}


def load_weights(module: nn.Module, path: Path, *, title: str) -> None:
    """Fills a module from a file that ``save_tensors`` wrote; ``title`` says whose weights they must be.

    Raises:
        ValueError: The file is missing or damaged, or holds other weights.
    """
    try:
        module.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: no weights of {title}: {error}") from None


def load_own(kind: type[Own], folder: Path) -> Own:
    """A model of an architecture of ours from a folder as transformers writes it, in float32 and evaluation mode.

    Raises:
        ValueError: Files are missing or damaged, or weights are missing in them.
    """
    check_files(folder)
    try:
        with quiet_transformers():
            model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # transformers' own where config.json says what cannot be
        raise ValueError(f"{folder}: no {kind.__name__} that can be read: {error}") from None
    if wrong := sorted([*report["missing_keys"], *report["unexpected_keys"]]):
        raise ValueError(f"{folder}: weights do not fit config.json: {wrong}")
    loaded: Own = model.eval()
    return loaded
