"""One name for any encoder: which kind it is, loading it, and a digest of the files that make it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from mcse.encoders.contextual import CoveEncoder, ElmoEncoder
from mcse.encoders.inputs import Precision
from mcse.encoders.joint_encoder import JointEncoder
from mcse.encoders.open_clip_text import OpenClipEncoder
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.encoders.sentence_transformers_folder import fetch_json
from mcse.encoders.sources import inside_run
from mcse.encoders.word_vectors import WordVectorEncoder, vectors_file
from mcse.models.cove_model import CoveConfig
from mcse.models.digests import file_sha256
from mcse.models.elmo_model import ElmoConfig, is_original_release
from mcse.models.grounded_checkpoint import find_grounded_words
from mcse.models.joint_checkpoint import is_joint_checkpoint
from mcse.models.open_clip_model import open_clip_source
from mcse.models.text_encoder import resolve_name
from mcse.run_folder import CONFIG, FACTS, model_in
from mcse.text.word_vectors import is_word_vectors_name

AnyEncoder: TypeAlias = SentenceEncoder | JointEncoder | OpenClipEncoder | WordVectorEncoder | ElmoEncoder | CoveEncoder
"""Every kind has ``name``, ``pooling`` and ``dimension`` beside ``encode``."""

_VECTORS, _OPEN_CLIP = "vectors:", "open_clip:"

# README.md is none of them: reports are written into model cards.
_SENTENCE_FILES = (".safetensors", ".json", ".txt", ".model", ".bin", ".hdf5")
_OPEN_CLIP_FILES = (*_SENTENCE_FILES, ".pt", ".pth")

_HUB_FILES = ("config.json", "modules.json")
"""A repository with an encoder has one of them; either says which commit is read."""


def load_encoder(
    name: str,
    *,
    pooling: str | None = None,
    precision: Precision = "float32",
    device: str | torch.device | None = None,
) -> AnyEncoder:
    """Loads an encoder of any kind.

    Args:
        name: A run folder or a checkpoint, of any recipe, a sentence-transformers folder, any other encoder's folder,
            a hub id or ``package:NAME/FOLDER``; ``open_clip:MODEL/PRETRAINED`` for a text tower; ``vectors:FILE``, or
            the plain path of a ``.txt``, ``.vec`` or ``.bin`` file, also with ``.gz``, or a run or checkpoint of
            grounded words, for averaged word vectors. An ELMo or CoVe, or the folder of an original release, gives
            the mean of its words' vectors.
        pooling: For the first group, where it overrides what the folder says. Word vectors know "mean" alone, open_clip
            models only their own, contextual word vectors "mean" and "mean_layerN".
        precision: Of the matrix products. Word vectors are averaged alike under each.
        device: CUDA where there is one, by default. Word vectors stay in main memory.

    Raises:
        ValueError: Nothing loadable is there, or ``pooling`` is needed and not given, or given and not known.
    """
    kind, rest = _kind(name)
    if kind == "vectors":
        if pooling not in (None, WordVectorEncoder.pooling):
            raise ValueError(f"{name!r}: pooling {pooling!r} is not to be had; word vectors are averaged ('mean')")
        return WordVectorEncoder.from_file(rest, name=name)
    if kind == "open_clip":
        if pooling is not None:
            raise ValueError(f"{name!r}: pooling {pooling!r} is not to be had; an open_clip model pools in its own way")
        return OpenClipEncoder.from_pretrained(name, device=device, precision=precision)
    if kind == "elmo":
        return ElmoEncoder.from_pretrained(name, pooling=pooling, device=device, precision=precision)
    if kind == "cove":
        return CoveEncoder.from_pretrained(name, pooling=pooling, device=device, precision=precision)
    if Path(name).is_file():
        raise ValueError(
            f"{name!r} is a file, and none of word vectors (.txt, .vec, .bin, also .gz); an encoder is named by its "
            "folder"
        )
    folder = Path(inside_run(resolve_name(name)))
    if is_joint_checkpoint(folder):
        if pooling not in (None, JointEncoder.pooling):
            raise ValueError(f"{name!r}: pooling {pooling!r} is not to be had; a joint model has one row a sentence")
        return JointEncoder.from_pretrained(name, device=device, precision=precision)
    return SentenceEncoder.from_pretrained(name, pooling=pooling, device=device, precision=precision)


def encoder_digest(name: str) -> str | None:
    """What tells two encoders of one name apart, as hexadecimal digits; ``None`` where it cannot be known.

    A SHA-256 over the names inside the model's folder and the contents of the files that make it: weights,
    configuration, tokenizer; of a run, ``best/``, ``config.yaml`` and ``run.json``; of word vectors, the file. It does
    not depend on where the folder lies. Of a model of the hub it is the commit that loading takes now (asked of the
    hub, or of the cache where the hub cannot be reached).

    Raises:
        ValueError: An unknown model of open_clip, a package that is not installed, or a damaged ``modules.json``.
    """
    kind, rest = _kind(name)
    if kind == "vectors":
        file = vectors_file(rest)
        return file_sha256(file) if file.is_file() else None
    if kind == "open_clip":
        return _open_clip_digest(name, rest)
    path = Path(resolve_name(name))
    if not path.is_dir():
        return None if path.is_file() else _commit(name, _HUB_FILES)
    folder = model_in(path) or path
    if folder == path:
        return _files_digest(path, _model_files(path))
    recorded = [path / file for file in (CONFIG, FACTS) if (path / file).is_file()]
    files = list(_model_files(folder))
    return _files_digest(path, [*files, *recorded]) if files else None


def _kind(name: str) -> tuple[Literal["vectors", "open_clip", "elmo", "cove", "sentences"], str]:
    """Of an encoder, and its name without the prefix."""
    if name.startswith(_VECTORS):
        return "vectors", name.removeprefix(_VECTORS)
    if name.startswith(_OPEN_CLIP):
        return "open_clip", name.removeprefix(_OPEN_CLIP)
    if is_word_vectors_name(name) and not Path(name).is_dir():
        return "vectors", name
    if find_grounded_words(name) is not None:
        return "vectors", name
    model_type = _model_type(folder) if (folder := model_in(Path(name))) is not None else None
    if is_original_release(Path(name)) or model_type == ElmoConfig.model_type:
        return "elmo", name
    if model_type == CoveConfig.model_type:
        return "cove", name
    return "sentences", name


def _model_type(folder: Path) -> str | None:
    """What ``config.json`` says, ``None`` where there is none or none that can be read."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return str(found)


def _open_clip_digest(name: str, rest: str) -> str | None:
    source = open_clip_source(rest, title=f"text tower {name!r}")
    if source.repository is not None:
        commit = _commit(source.repository, ("open_clip_config.json", *_HUB_FILES))
        return commit if commit is None or not source.architecture else _digest([source.architecture, commit])
    if source.path is None:
        return _digest([source.architecture]) if source.is_random else None
    if source.path.is_dir():
        return _files_digest(source.path, _listed(source.path, _OPEN_CLIP_FILES))
    return _digest([source.architecture, file_sha256(source.path)]) if source.path.is_file() else None


def _model_files(folder: Path) -> Iterator[Path]:
    """What loading a folder may read: its own files, and those of sentence-transformers' modules."""
    yield from _listed(folder, _SENTENCE_FILES)
    for module in fetch_json(str(folder), "modules.json") or ():
        inside = folder / module["path"]
        if inside != folder and inside.is_dir():
            yield from _listed(inside, _SENTENCE_FILES)


def _listed(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix in suffixes and file.is_file()] if folder.is_dir() else []


def _commit(repository: str, files: Iterable[str]) -> str | None:
    for file in files:
        try:
            # .../snapshots/COMMIT/FILE: the way that every loader takes, so it says what they will read.
            return Path(hf_hub_download(repository, file)).parent.name
        except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
            continue
    return None


def _files_digest(folder: Path, files: Iterable[Path]) -> str | None:
    lines = sorted(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}" for file in set(files))
    return _digest(lines) if lines else None


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
