"""One name for any encoder: loading it, and a digest of the files that make it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import torch

from mcse.encoders.contextual import CoveEncoder, ElmoEncoder
from mcse.encoders.inputs import Precision
from mcse.encoders.joint_encoder import JointEncoder
from mcse.encoders.open_clip_encoder import OpenClipEncoder
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.encoders.sentence_transformers_folder import list_modules
from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.files import digest_of, sha256_file
from mcse.hub import commit_of
from mcse.manifest import MANIFEST, Kind, Located, locate
from mcse.models.open_clip_model import open_clip_source
from mcse.run_folder import CONFIG, FACTS, NoModelError

AnyEncoder: TypeAlias = SentenceEncoder | JointEncoder | OpenClipEncoder | WordVectorEncoder | ElmoEncoder | CoveEncoder
"""Every kind has ``name``, ``pooling`` and ``dimension`` beside ``encode``."""

_CLASSES: Mapping[Kind, type[AnyEncoder]] = {
    "sentence": SentenceEncoder,
    "sentence_transformers": SentenceEncoder,
    "transformers": SentenceEncoder,
    "hub": SentenceEncoder,
    "joint": JointEncoder,
    "open_clip": OpenClipEncoder,
    "vectors": WordVectorEncoder,
    "grounded_words": WordVectorEncoder,
    "elmo": ElmoEncoder,
    "elmo_release": ElmoEncoder,
    "cove": CoveEncoder,
}
"""Every kind that encodes sentences."""

# README.md is none of them: reports are written into model cards.
_SENTENCE_FILES = (".safetensors", ".json", ".txt", ".model", ".bin", ".hdf5")
_OPEN_CLIP_FILES = (*_SENTENCE_FILES, ".pt", ".pth")


def load_encoder(
    name: str,
    *,
    pooling: str | None = None,
    precision: Precision = "float32",
    device: str | torch.device | None = None,
) -> AnyEncoder:
    """Loads an encoder of any kind.

    Args:
        name: As ``locate`` takes it. Word vectors, an ELMo or a CoVe give the mean of their words' vectors.
        pooling: Of sentence encoders, where it overrides what the folder says. Word vectors know "mean" alone,
            open_clip and joint models only their own, contextual word vectors "mean" and "mean_layerN".
        precision: Of the matrix products. Word vectors are averaged alike under each.
        device: CUDA where there is one, by default. Word vectors stay in main memory.

    Raises:
        ValueError: Nothing that encodes sentences is there, or ``pooling`` is needed and not given, or given and not
            known.
    """
    located = locate(name).expect(*_CLASSES)
    return _CLASSES[located.kind].from_pretrained(located, pooling=pooling, precision=precision, device=device)


def encoder_digest(name: str) -> str | None:
    """What tells two encoders of one name apart, as hexadecimal digits; ``None`` where it cannot be known.

    A SHA-256 over the names inside the model's folder and the contents of the files that make it: weights,
    configuration, tokenizer; of a run, ``best/``, ``config.yaml`` and ``run.json``; of word vectors, the file. It does
    not depend on where the folder lies. Of a model of the hub it is the commit that loading takes now (asked of the
    hub, or of the cache where the hub cannot be reached).

    Raises:
        ValueError: An unknown model of open_clip, a package that is not installed, or a damaged ``mcse.json`` or
            ``modules.json``.
    """
    try:
        located = locate(name)
    except NoModelError:
        return None
    if located.kind == "hub":
        return commit_of(located.path)
    if located.kind == "open_clip":
        return _open_clip_digest(located)
    if located.kind == "vectors":
        return sha256_file(Path(located.path)) if Path(located.path).is_file() else None
    files = model_files(located)
    if files and located.run is not None:
        files += [located.run / CONFIG, located.run / FACTS]
    return _files_digest(located.run or located.folder, files)


def _open_clip_digest(located: Located) -> str | None:
    source = open_clip_source(located.path, title=f"text tower {located.name!r}")
    if source.repository is not None:
        commit = commit_of(source.repository)
        return commit if commit is None or not source.architecture else digest_of(source.architecture, commit)
    if source.path is None:
        return digest_of(source.architecture) if source.is_random else None
    if source.path.is_dir():
        return _files_digest(source.path, _listed(source.path, _OPEN_CLIP_FILES))
    return digest_of(source.architecture, sha256_file(source.path)) if source.path.is_file() else None


def model_files(located: Located) -> list[Path]:
    """What loading a folder may read: what its manifest lists, or its own files and those of its modules' folders."""
    folder = located.folder
    if located.manifest is not None:
        return [folder / name for name in (MANIFEST, *located.manifest.files)]
    modules = [folder / module.path for module in list_modules(str(folder)) or ()]
    return [file for inside in {folder, *modules} for file in _listed(inside, _SENTENCE_FILES)]


def _listed(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix in suffixes] if folder.is_dir() else []


def _files_digest(folder: Path, files: Iterable[Path]) -> str | None:
    found = sorted(file for file in files if file.is_file())
    parts = [part for file in found for part in (file.relative_to(folder).as_posix(), sha256_file(file))]
    return digest_of(*parts) if parts else None
