"""open_clip's models: what their names mean, and building one with the very weights that its name asks for."""

from __future__ import annotations

import difflib
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import dynamic_module_utils

from mcse.hub import at_commit

RANDOM_WEIGHTS = "none"

WHOLE_NAMES = ("hf-hub:", "hf_hub:", "local-dir:")
"""open_clip's and timm's own notation for weights and config in one place."""

Tokenize = Callable[[Sequence[str], int | None], Tensor]
"""Sentences, and how many positions they get, the model's context by default."""

_UNREADABLE = (RuntimeError, OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)


@contextmanager
def _as_pinned() -> Iterator[None]:
    """Reads every repository of the hub at the one commit of this process, and refuses code that a model brings along.

    Transformers would ask on the terminal whether to run it, and open_clip would not even ask where a model's own
    settings of its tokenizer say ``trust_remote_code``. Nor does open_clip take a commit.
    """
    from open_clip import factory, pretrained

    def tokenizer(name: str, *given: Any, **keys: Any) -> Any:
        return of_library(name, *given, **{**keys, "trust_remote_code": False, **at_commit(name)})

    def download(model_id: str, *given: Any, **keys: Any) -> Any:
        return from_hub(model_id, *given, **{**keys, **at_commit(model_id)})

    seconds, of_library, from_hub = (
        dynamic_module_utils.TIME_OUT_REMOTE_CODE,
        factory.HFTokenizer,
        pretrained.download_pretrained_from_hf,
    )
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # to answer; then it is refused
    factory.HFTokenizer = tokenizer
    factory.download_pretrained_from_hf = pretrained.download_pretrained_from_hf = download
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE, factory.HFTokenizer = seconds, of_library
        factory.download_pretrained_from_hf = pretrained.download_pretrained_from_hf = from_hub


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClipSource:
    """What makes a model: its architecture in words, and a local file or folder, or a repository of the hub.

    Neither: random weights, where ``is_random``, or weights of a plain address.
    """

    architecture: str
    path: Path | None = None
    repository: str | None = None
    is_random: bool = False


def split_name(name: str) -> tuple[str, str | None]:
    """MODEL and PRETRAINED of ``MODEL/PRETRAINED``; a whole name is a MODEL with nothing behind it."""
    if name.startswith(WHOLE_NAMES):
        return name, None
    model, slash, pretrained = name.partition("/")
    return model, pretrained if slash else None


def check_known(model_name: str, known: Iterable[str], *, title: str) -> None:
    """Refuses a model that a library does not know with a ``ValueError`` that begins with ``title``."""
    names = list(known)
    if model_name not in names:
        near = difflib.get_close_matches(model_name, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {len(names)}, such as {names[0]}"
        raise ValueError(f"{title}: unknown model {model_name!r}; {hint}")


def build_open_clip(name: str, *, title: str, weights: bool = True) -> tuple[Any, Callable[[Image.Image], Tensor]]:
    """The whole model and its evaluation transform of images, on the CPU.

    Args:
        name: ``MODEL/PRETRAINED`` (a tag of open_clip, the path of a checkpoint, or ``none`` for random weights, drawn
            from the global generator), ``hf-hub:ID`` or ``local-dir:FOLDER``.
        title: Begins every error.
        weights: Without them it is the architecture alone: the named ones are not looked for.

    Raises:
        ValueError: Unknown model or tag, or weights that are not available, or damaged.
    """
    import open_clip  # seconds to import

    model_name, pretrained = _checked_name(name, title=title, weights=weights)
    is_trained = weights and pretrained != RANDOM_WEIGHTS
    tag = _tag(model_name, pretrained)
    try:
        with _as_pinned():
            model, _, preprocess = open_clip.create_model_and_transforms(
                model_name,
                pretrained=pretrained if is_trained else None,
                load_weights=is_trained,
                weights_only=True,
                # Without this a folder or repository that lacks weights gives random ones.
                require_pretrained=is_trained,
                pretrained_text=False,
                # A tag's weights want its own activation and preprocessing, also where they come from elsewhere.
                force_quick_gelu=bool(tag.get("quick_gelu")),
                **_tag_preprocessing(tag),
            )
    except _UNREADABLE as error:
        raise ValueError(f"{title}: its weights cannot be loaded: {error}") from error
    return model, preprocess


def load_open_clip_tokenizer(name: str, *, title: str) -> Tokenize:
    """Sentences to (B, T) ids, T the model's context length; longer sentences are cut.

    Raises:
        ValueError: Its files are not available.
    """
    import open_clip

    try:
        with _as_pinned():
            tokenizer: Any = open_clip.get_tokenizer(split_name(name)[0])
    except _UNREADABLE as error:
        raise ValueError(f"{title}: its tokenizer cannot be loaded: {error}") from error
    if getattr(tokenizer, "reduction_fn", None) is not None:
        # Training's way to cut long sentences draws at random; without it they are cut at the end.
        tokenizer.reduction_fn = None
    loaded: Tokenize = tokenizer
    return loaded


def open_clip_source(name: str, *, title: str) -> OpenClipSource:
    """Where the model that ``build_open_clip`` builds comes from; nothing is loaded.

    Raises:
        ValueError: Unknown model or tag, or no such checkpoint.
    """
    import open_clip

    model_name, pretrained = _checked_name(name, title=title, weights=True)
    if model_name.startswith("local-dir:"):
        return OpenClipSource(architecture="", path=Path(model_name.removeprefix("local-dir:")))
    if model_name.startswith("hf-hub:"):
        return OpenClipSource(architecture="", repository=model_name.removeprefix("hf-hub:"))
    tag = _tag(model_name, pretrained)
    words = json.dumps([model_name, open_clip.get_model_config(model_name), tag], sort_keys=True, default=str)
    if tag:
        repository = str(tag.get("hf_hub", "")).rpartition("/")[0]
        return OpenClipSource(architecture=words, repository=repository or None)
    if pretrained == RANDOM_WEIGHTS:
        return OpenClipSource(architecture=words, is_random=True)
    return OpenClipSource(architecture=words, path=Path(str(pretrained)))


def _checked_name(name: str, *, title: str, weights: bool) -> tuple[str, str | None]:
    import open_clip

    model_name, pretrained = split_name(name)
    if model_name.startswith("hf_hub:"):
        raise ValueError(f"{title}: open_clip writes hf-hub:, with a hyphen")
    if model_name.startswith(WHOLE_NAMES):
        return model_name, None
    if pretrained is None:
        raise ValueError(
            f"{title}: say which weights, such as open_clip:{model_name}/openai, a checkpoint's path, "
            f"or /{RANDOM_WEIGHTS} for random ones"
        )
    check_known(model_name, open_clip.list_models(), title=title)
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    found = pretrained == RANDOM_WEIGHTS or pretrained in tags or Path(pretrained).is_file()
    if weights and not found:
        raise ValueError(
            f"{title}: {pretrained!r} is neither a checkpoint file nor a tag of {model_name}; "
            f"its tags: {', '.join(tags) or 'none'}"
        )
    return model_name, pretrained


def is_tag(model_name: str, pretrained: str) -> bool:
    """Whether open_clip itself knows where these weights come from."""
    import open_clip

    return pretrained in open_clip.list_pretrained_tags_by_model(model_name)


def _tag(model_name: str, pretrained: str | None) -> Mapping[str, Any]:
    """What open_clip knows of a tag; empty where ``pretrained`` is none."""
    import open_clip

    if pretrained is None or not is_tag(model_name, pretrained):
        return {}
    known: Mapping[str, Any] = open_clip.get_pretrained_cfg(model_name, pretrained)
    return known


def _tag_preprocessing(tag: Mapping[str, Any]) -> dict[str, Any]:
    """What open_clip reads out of a tag only where it also fetches the tag's weights."""
    names = {"mean": "image_mean", "std": "image_std", "interpolation": "image_interpolation"}
    names["resize_mode"] = "image_resize_mode"
    return {argument: tag[key] for key, argument in names.items() if key in tag}
