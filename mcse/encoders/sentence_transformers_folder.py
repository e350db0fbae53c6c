"""Reads how a sentence-transformers folder makes embeddings: its schema up to version 5, and that of version 6.

Only JSON and safetensors are read, and what is not understood is refused by name: a module left out would give other
embeddings than sentence-transformers gives, silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import nn

from mcse.files import read_json

_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
_NEW_POOLINGS = ("cls", "mean", "max")

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.Sigmoid": nn.Sigmoid,
    "torch.nn.modules.linear.Identity": nn.Identity,
}


@dataclass(frozen=True, slots=True)
class SentenceTransformersModules:
    """A folder's modules: where the transformer is, its pooling, the layers after it, and the longest input in tokens.

    ``pooling`` is ``cls_with_head`` where layers stand on the ``[CLS]`` rows. ``lowercases``: whether the folder asks
    for lower case, whatever its tokenizer does.
    """

    transformer_path: str
    pooling: str
    dense: nn.Module | None
    max_length: int | None
    lowercases: bool


def fetch_json(name_or_path: str, file: str) -> Any:
    """The content of a JSON file of a folder or hub repository; ``None`` where it has no such file.

    Raises:
        ValueError: The file is not JSON.
    """
    path = _fetch(name_or_path, file)
    return None if path is None else read_json(path)


def read_modules(name_or_path: str, modules: Sequence[Mapping[str, str]]) -> SentenceTransformersModules:
    """What ``modules.json`` lists.

    Raises:
        ValueError: A module, pooling, activation or setting is not one that ``SentenceEncoder`` can follow.
    """
    listed = [(module["type"].rsplit(".", 1)[-1], module["path"]) for module in modules]
    kinds = [kind for kind, _ in listed]
    layout = [kind for kind in kinds if kind != "Dense"]
    if layout not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or kinds[:2] != layout[:2]:
        raise ValueError(
            _unknown(name_or_path, f"modules {', '.join(kinds)}", "Transformer, Pooling, Dense and Normalize")
        )
    if "Normalize" in kinds and kinds[-1] != "Normalize":
        raise ValueError(_unknown(name_or_path, f"a module after Normalize ({kinds[-1]})", "Normalize as the last one"))
    _check_prompt(name_or_path)
    pooling = _read_pooling(name_or_path, listed[1][1])
    layers = [_read_dense(name_or_path, path) for kind, path in listed if kind == "Dense"]
    inside = listed[0][1]
    settings = fetch_json(name_or_path, str(Path(inside) / "sentence_bert_config.json")) or {}
    length = settings.get("max_seq_length")
    return SentenceTransformersModules(
        transformer_path=_transformer_path(name_or_path, inside),
        pooling="cls_with_head" if layers and pooling == "cls" else pooling,
        dense=nn.Sequential(*layers).eval() if layers else None,
        max_length=None if length is None else int(length),
        lowercases=bool(settings.get("do_lower_case")),
    )


def _fetch(name_or_path: str, file: str) -> Path | None:
    if Path(name_or_path).is_dir():
        path = Path(name_or_path) / file
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name_or_path, file))
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
        # Whether the model itself is available is for its own loader to say.
        return None


def _transformer_path(name_or_path: str, inside: str) -> str:
    if not inside:
        return name_or_path
    if not Path(name_or_path).is_dir():
        raise ValueError(f"{name_or_path!r} keeps its transformer in {inside!r}; download it and name the local folder")
    return str(Path(name_or_path) / inside)


def _read_pooling(name_or_path: str, inside: str) -> str:
    config = fetch_json(name_or_path, f"{inside}/config.json")
    if config is None:
        raise ValueError(f"{name_or_path} lacks {inside}/config.json, which says how embeddings are pooled")
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else list(mode)
    else:
        modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    names = [_POOLINGS.get(mode, mode if mode in _NEW_POOLINGS else None) for mode in modes]
    if len(names) != 1 or names[0] is None:
        raise ValueError(_unknown(name_or_path, f"pooling {' + '.join(modes) or 'none'}", "one of cls, mean, max"))
    return names[0]


def _read_dense(name_or_path: str, inside: str) -> nn.Module:
    config = fetch_json(name_or_path, f"{inside}/config.json")
    path = _fetch(name_or_path, f"{inside}/model.safetensors")
    if config is None or path is None:
        raise ValueError(f"{name_or_path} lacks {inside}/{'config.json' if config is None else 'model.safetensors'}")
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        raise ValueError(_unknown(name_or_path, f"activation {activation} in {inside}", ", ".join(_ACTIVATIONS)))
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise ValueError(_unknown(name_or_path, f"the wiring of {inside}", "a plain Dense on sentence embeddings"))
    with torch.device("meta"):
        linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    linear.load_state_dict({key.removeprefix("linear."): value for key, value in load_file(path).items()}, assign=True)
    return nn.Sequential(linear.float(), _ACTIVATIONS[activation]())


def _check_prompt(name_or_path: str) -> None:
    settings = fetch_json(name_or_path, "config_sentence_transformers.json") or {}
    name = settings.get("default_prompt_name")
    if name is not None and settings.get("prompts", {}).get(name):
        raise ValueError(_unknown(name_or_path, f"the default prompt {name!r}", "no prompt"))


def _unknown(name: str, found: str, known: str) -> str:
    return (
        f"{name}: SentenceEncoder does not know {found}; it knows {known}. Load it with sentence-transformers instead."
    )
