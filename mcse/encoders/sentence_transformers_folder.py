"""Reads how a sentence-transformers folder makes embeddings: its schema up to version 5, and that of version 6.

Only JSON and tensors are read. Classes, files and keys form a closed list, and what is not on it is refused by name: a
module or a setting left out would give other embeddings than sentence-transformers gives, silently.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from torch import nn

from mcse.hub import commit_of, fetch_file
from mcse.models.weights import load_tensors
from mcse.reading import read_json

T = TypeVar("T")

MODULES = "modules.json"


class NotFollowedError(ValueError):
    """The folder is sound as far as it was read, and only sentence-transformers itself can follow it."""


_HOMES = {
    "Transformer": "sentence_transformers.base.modules.transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling",
    "Dense": "sentence_transformers.base.modules.dense",
    "Normalize": "sentence_transformers.base.modules.normalize",
}
_CLASSES = {
    name: kind
    for kind, home in _HOMES.items()
    for name in (
        f"sentence_transformers.models.{kind}",  # what versions up to 5.3 write
        f"sentence_transformers.models.{kind}.{kind}",
        f"sentence_transformers.sentence_transformer.modules.{kind}",
        f"{home}.{kind}",  # what later ones write
    )
}
"""Every name of the four classes that are followed, each in full: a folder's own ``x.Transformer`` is another class."""

_SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where the transformer's settings may stand; the first that holds any is taken."""

_NOT_FOLLOWED = {
    "adapter_config.json": "an adapter beside the weights (merge it into them with peft's merge_and_unload)",
    "processor_config.json": "a processor of images or sound",
    "preprocessor_config.json": "a processor of images or sound",
}
"""Files that sentence-transformers reads beside those that are read here."""

_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "lasttoken": "last",
}
"""Ours, by their names in both schemas."""

_EMBEDDING = "sentence_embedding"

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


# The schemas of a folder's files. A key whose value is not followed must have the value that it has here.


@dataclass(frozen=True, slots=True)
class Module:
    """An entry of ``modules.json``."""

    type: str
    path: str
    idx: int = 0
    name: str = ""
    kwargs: list[str] | None = None


@dataclass(frozen=True, slots=True)
class _Model:
    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    model_type: str = "SentenceTransformer"
    truncate_dim: int | None = None
    requirements: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Transformer:
    max_seq_length: int | None = None
    do_lower_case: bool = False
    unpad_inputs: bool | None = None  # a matter of speed
    transformer_task: str = "feature-extraction"
    modality_config: dict[str, Any] = field(
        default_factory=lambda: {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    )
    module_output_name: str = "token_embeddings"
    processing_kwargs: dict[str, Any] | None = None
    model_args: dict[str, Any] | None = None
    model_kwargs: dict[str, Any] | None = None
    tokenizer_args: dict[str, Any] | None = None
    processor_kwargs: dict[str, Any] | None = None
    config_args: dict[str, Any] | None = None
    config_kwargs: dict[str, Any] | None = None
    tokenizer_name_or_path: str | None = None
    query_length: int | None = None
    document_length: int | None = None
    query_expansion: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Pooling:
    embedding_dimension: int | None = None
    word_embedding_dimension: int | None = None
    include_prompt: bool = True  # without a prompt there is nothing to leave out
    pooling_mode: str | list[str] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False


@dataclass(frozen=True, slots=True)
class _Dense:
    in_features: int
    out_features: int
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    module_input_name: str = _EMBEDDING
    module_output_name: str | None = _EMBEDDING
    use_residual: bool = False


@dataclass(frozen=True, slots=True)
class _Normalize:
    module_input_name: str = _EMBEDDING
    module_output_name: str | None = _EMBEDDING


def list_modules(name_or_path: str) -> tuple[Module, ...] | None:
    """What ``modules.json`` of a folder or hub repository lists; ``None`` where there is none.

    Raises:
        ValueError: It is damaged, holds a key that is not known, or a path leads out of the folder.
    """
    path = fetch(name_or_path, MODULES)
    if path is None:
        return None
    for entry in read_json(path, list[dict[str, Any]]):
        _check_keys(name_or_path, MODULES, entry, Module)
    modules = tuple(read_json(path, list[Module]))
    for module in modules:
        place = PurePosixPath(module.path)
        if place.is_absolute() or ".." in place.parts or "\\" in module.path or "\0" in module.path:
            raise ValueError(f"{path}: the path {module.path!r} leads out of the folder")
        if module.kwargs:
            raise _unknown(name_or_path, f"kwargs of {module.type} in {MODULES}", "none")
    return modules


def read_modules(name_or_path: str, modules: Sequence[Module]) -> SentenceTransformersModules:
    """What ``list_modules`` gave, followed.

    Raises:
        ValueError: A class, file, key or setting is not one that ``SentenceEncoder`` can follow, or a file is damaged.
    """
    kinds = [_CLASSES.get(module.type, module.type) for module in modules]
    layout = [kind for kind in kinds if kind != "Dense"]
    if layout not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or kinds[:2] != layout[:2]:
        raise _unknown(
            name_or_path,
            f"the modules {', '.join(kinds) or 'of an empty list'}",
            "sentence-transformers' own Transformer, Pooling, Dense and Normalize, in this order",
        )
    if "Normalize" in kinds and kinds[-1] != "Normalize":
        raise _unknown(name_or_path, f"a module after Normalize ({kinds[-1]})", "Normalize as the last one")
    _check_model(name_or_path)
    inside = {kind: module.path for kind, module in zip(kinds, modules, strict=True)}
    if "Normalize" in inside:
        _read(name_or_path, f"{inside['Normalize']}/config.json", _Normalize)
    pooling = _read_pooling(name_or_path, inside["Pooling"])
    dense = [module.path for kind, module in zip(kinds, modules, strict=True) if kind == "Dense"]
    layers = [_read_dense(name_or_path, path) for path in dense]
    for (before, _), (after, _) in itertools.pairwise(layers):
        if before.out_features != after.in_features:
            raise ValueError(
                f"{name_or_path}: a Dense layer takes {after.in_features} values, but is given {before.out_features}"
            )
    settings = _read_settings(name_or_path, inside["Transformer"])
    return SentenceTransformersModules(
        transformer_path=_transformer_path(name_or_path, inside["Transformer"]),
        pooling="cls_with_head" if layers and pooling == "cls" else pooling,
        dense=nn.Sequential(*(nn.Sequential(*layer) for layer in layers)).eval() if layers else None,
        max_length=settings.max_seq_length,
        lowercases=settings.do_lower_case,
    )


def fetch(name_or_path: str, file: str) -> Path | None:
    """A file of a folder or hub repository; ``None`` where it has no such file."""
    if Path(name_or_path).is_dir():
        path = Path(name_or_path) / file
        return path if path.is_file() else None
    # Whether the model itself is available is for its own loader to say.
    return fetch_file(name_or_path, file) if commit_of(name_or_path) else None


def _transformer_path(name_or_path: str, inside: str) -> str:
    for file, what in _NOT_FOLLOWED.items():
        if fetch(name_or_path, str(PurePosixPath(inside) / file)) is not None:
            raise _unknown(name_or_path, f"{file}, {what}", "a transformer's own files")
    if not inside:
        return name_or_path
    if not Path(name_or_path).is_dir():
        raise _unknown(name_or_path, f"a repository with its transformer in {inside!r}", "it of local folders alone")
    return str(Path(name_or_path) / inside)


def _read_settings(name_or_path: str, inside: str) -> _Transformer:
    for file in _SETTINGS:
        place = str(PurePosixPath(inside) / file)
        path = fetch(name_or_path, place)
        if path is None or not read_json(path, dict[str, Any]):
            continue
        settings = _read(
            name_or_path, place, _Transformer, followed=("max_seq_length", "do_lower_case", "unpad_inputs")
        )
        assert settings is not None
        if settings.max_seq_length is not None and settings.max_seq_length < 1:
            raise ValueError(f"{path}: max_seq_length must be at least 1, got {settings.max_seq_length}")
        return settings
    return _Transformer()


def _read_pooling(name_or_path: str, inside: str) -> str:
    config = _read(name_or_path, f"{inside}/config.json", _Pooling, followed=_names(_Pooling))
    if config is None:
        raise ValueError(f"{name_or_path} lacks {inside}/config.json, which says how embeddings are pooled")
    if config.pooling_mode is not None:
        modes = [config.pooling_mode] if isinstance(config.pooling_mode, str) else config.pooling_mode
    else:
        modes = [key for key in _names(_Pooling) if key.startswith("pooling_mode_") and getattr(config, key)]
    names = [_POOLINGS.get(mode) for mode in modes]
    if len(names) != 1 or names[0] is None:
        raise _unknown(name_or_path, f"pooling {' + '.join(modes) or 'none'}", "one of cls, mean, max, lasttoken")
    return names[0]


def _read_dense(name_or_path: str, inside: str) -> tuple[nn.Linear, nn.Module]:
    """A layer and its activation; its weights may also be a pickle, of which nothing but tensors is read."""
    followed = ("in_features", "out_features", "bias", "activation_function")
    config = _read(name_or_path, f"{inside}/config.json", _Dense, followed=followed)
    path = fetch(name_or_path, f"{inside}/model.safetensors") or fetch(name_or_path, f"{inside}/pytorch_model.bin")
    if config is None or path is None:
        raise ValueError(f"{name_or_path} lacks {inside}/{'config.json' if config is None else 'model.safetensors'}")
    if config.activation_function not in _ACTIVATIONS:
        told = f"activation {config.activation_function} in {inside}"
        raise _unknown(name_or_path, told, ", ".join(_ACTIVATIONS))
    state = {key.removeprefix("linear."): value for key, value in load_tensors(path).items()}
    wanted: dict[str, tuple[int, ...]] = {"weight": (config.out_features, config.in_features)}
    if config.bias:
        wanted["bias"] = (config.out_features,)
    found = {key: tuple(value.shape) for key, value in state.items()}
    if found != wanted:
        raise ValueError(f"{path} holds {found}, but {inside}/config.json describes {wanted}")
    with torch.device("meta"):
        linear = nn.Linear(config.in_features, config.out_features, bias=config.bias)
    linear.load_state_dict(state, assign=True)
    return linear.float(), _ACTIVATIONS[config.activation_function]()


def _check_model(name_or_path: str) -> None:
    followed = ("prompts", "default_prompt_name", "similarity_fn_name", "__version__")
    settings = _read(name_or_path, "config_sentence_transformers.json", _Model, followed=followed)
    if settings is None or settings.default_prompt_name is None:
        return
    if (settings.prompts or {}).get(settings.default_prompt_name) != "":
        raise _unknown(name_or_path, f"the default prompt {settings.default_prompt_name!r}", "no prompt")


def _read(name_or_path: str, file: str, schema: type[T], *, followed: Collection[str] = ()) -> T | None:
    """A file's settings; ``None`` where there is no such file.

    Raises:
        ValueError: A key is not one of ``schema`` or ``followed``, or has another value than the schema's although
            it is not followed.
    """
    path = fetch(name_or_path, file)
    if path is None:
        return None
    _check_keys(name_or_path, file, read_json(path, dict[str, Any]), schema, followed=followed)
    settings = read_json(path, schema)
    neutral = {
        key.name: key.default if key.default_factory is dataclasses.MISSING else key.default_factory()
        for key in dataclasses.fields(schema)  # type: ignore[arg-type]  # mypy does not know that T is a dataclass
    }
    for key, default in neutral.items():
        value = getattr(settings, key)
        if key not in followed and value != default and value not in (None, {}):
            raise _unknown(name_or_path, f"{file}: {key} = {json.dumps(value)}", json.dumps(default))
    return settings


def _check_keys(
    name_or_path: str, file: str, found: Mapping[str, Any], schema: type, *, followed: Collection[str] = ()
) -> None:
    if unknown := [key for key in found if key not in (*_names(schema), *followed)]:
        raise _unknown(name_or_path, f"{file}: {', '.join(unknown)}", ", ".join(_names(schema)))


def _names(schema: type) -> tuple[str, ...]:
    return tuple(key.name for key in dataclasses.fields(schema))


def _unknown(name: str, found: str, known: str) -> NotFollowedError:
    return NotFollowedError(
        f"{name}: SentenceEncoder does not know {found[:200]}; it knows {known}. This folder needs "
        f"sentence-transformers itself: sentence-transformers:{name}"
    )
