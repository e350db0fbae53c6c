"""Which weights of a Hugging Face encoder train: all, all but some by name, none, or adapters beside frozen ones.

R adapter rank, I and O width of a layer's input and output.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mcse.models.config import LoraConfig

_RANGE = re.compile(r"(\d+)-(\d+)")
_ADAPTER = "default"


def freeze(backbone: nn.Module, frozen: bool | Sequence[str], *, name: str) -> None:
    """Takes weights out of training: all, or those of the modules that ``frozen`` names.

    Args:
        backbone: The model; ``name`` is what it was loaded as.
        frozen: ``encoder.frozen``: each item is some parts of a weight's dotted name, one after the other.
        name: For messages.

    Raises:
        ValueError: A name is that of no weight, or all weights are named.
    """
    weights = dict(backbone.named_parameters())
    chosen: Collection[str] = weights if frozen is True else ()
    if frozen and frozen is not True:
        chosen = _named(frozen, weights, key="encoder.frozen", what="weight", of=name)
        if len(chosen) == len(weights):
            raise ValueError(f"encoder.frozen: names every weight of {name!r}; give true, if that is meant")
    for weight in chosen:
        weights[weight].requires_grad_(False)


def add_adapters(backbone: nn.Module, config: LoraConfig, *, name: str) -> int:
    """Freezes a model and puts trainable adapters into its linear layers; how many.

    A layer's output gains (α / R) · B_OR A_RI x; B is 0 at the start, so that the model gives what it gave.

    Source: Hu et al. 2021, "LoRA", section 4.1; by the package peft, which draws A.

    Raises:
        ValueError: peft is not installed, or a name is that of no linear layer.
    """
    try:
        import peft
    except ImportError as error:
        if error.name != "peft":
            raise
        raise ValueError(
            "encoder.lora: needs the package peft, which is not installed (pip install 'mcse[lora]')"
        ) from None
    layers = [path for path, module in backbone.named_modules() if type(module) in (nn.Linear, Conv1D)]
    if not layers:
        raise ValueError(f"encoder.lora: {name!r} has no linear layers to put adapters into")
    if config.modules:
        layers = sorted(_named(config.modules, layers, key="encoder.lora.modules", what="linear layer", of=name))
    peft.inject_adapter_in_model(
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=layers,
            fan_in_fan_out=any(type(backbone.get_submodule(path)) is Conv1D for path in layers),
        ),
        backbone,
        adapter_name=_ADAPTER,
    )
    return len(layers)


def merged_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The weights of a model by the names that they had before ``add_adapters``, with what adapters add to them."""
    adapted: dict[str, Any] = {
        path: module for path, module in backbone.named_modules() if hasattr(module, "get_delta_weight")
    }
    state: dict[str, Tensor] = {}
    for name, value in backbone.state_dict().items():
        owner, _, own = name.rpartition(".")
        layer, _, last = owner.rpartition(".")
        if last == "base_layer" and layer in adapted:
            added = adapted[layer].get_delta_weight(_ADAPTER) if own == "weight" else 0
            state[f"{layer}.{own}"] = value + added
        elif not any(name.startswith(f"{path}.lora_") for path in adapted):
            state[name] = value
    return state


def _named(patterns: Iterable[str], names: Collection[str], *, key: str, what: str, of: str) -> set[str]:
    """The names that patterns mean, each of which must mean one."""
    found: set[str] = set()
    for pattern in patterns:
        for one in _expanded(pattern, key=key):
            meant = {name for name in names if _means(one.split("."), name.split("."))}
            if not meant:
                listed = _summary(names)
                near = [name for name in difflib.get_close_matches(one, listed) if name not in one]
                hint = f"did you mean {near[0]!r}? There" if near else "there"
                raise ValueError(
                    f"{key}: {one!r} is in the name of no {what} of {of!r}; {hint} are {', '.join(listed)}"
                )
            found |= meant
    return found


def _expanded(pattern: str, *, key: str) -> list[str]:
    """``layer.0-2`` as ``layer.0``, ``layer.1`` and ``layer.2``."""
    if set(pattern) & set("[]!"):
        raise ValueError(f"{key}: {pattern!r}: numbers are given as layer.0-3, and * stands for any part of a name")
    choices = []
    for part in pattern.split("."):
        numbers = _RANGE.fullmatch(part)
        if numbers is None:
            choices.append([part])
            continue
        first, last = map(int, numbers.groups())
        if first > last:
            raise ValueError(f"{key}: {pattern!r}: {part} holds no number")
        choices.append([str(number) for number in range(first, last + 1)])
    return [".".join(parts) for parts in itertools.product(*choices)]


def _means(pattern: Sequence[str], name: Sequence[str]) -> bool:
    """Whether the parts of a pattern occur in a name, one after the other."""
    runs = (name[start : start + len(pattern)] for start in range(len(name) - len(pattern) + 1))
    return any(all(map(fnmatchcase, run, pattern)) for run in runs)


def _summary(names: Iterable[str]) -> list[str]:
    """What there is, as patterns: ``embeddings``, ``encoder.layer.0-11``; of layers with numbers their last parts."""
    numbers: dict[str, list[int]] = {}
    ends: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
        if place is None:
            ends[parts[0]] = None
            continue
        numbers.setdefault(".".join(parts[:place]), []).append(int(parts[place]))
        ends |= dict.fromkeys(part for part in parts[place + 1 :] if part not in ("weight", "bias"))
    ranges = (f"{path}.{min(found)}-{max(found)}".replace(".0-0", ".0") for path, found in numbers.items())
    return [*ranges, *ends]
