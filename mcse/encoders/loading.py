"""One name for any encoder: loading it, and a digest of the files that make it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

import torch

from mcse.encoders.average import AverageEncoder
from mcse.encoders.contextual import CoveEncoder, ElmoEncoder
from mcse.encoders.exported import ExportedEncoder
from mcse.encoders.inputs import Precision
from mcse.encoders.joint_encoder import JointEncoder
from mcse.encoders.located import located_anywhere
from mcse.encoders.model2vec_encoder import Model2VecEncoder
from mcse.encoders.open_clip_encoder import OpenClipEncoder
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.encoders.sentence_transformers_encoder import SentenceTransformersEncoder, repository
from mcse.encoders.sentence_transformers_folder import MODULES, NotFollowedError, fetch
from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.files import digest_of, sha256_file
from mcse.hub import commit_of
from mcse.manifest import MANIFEST, Kind, Located, Reading, locate, parts_of_average
from mcse.models.open_clip_model import open_clip_source
from mcse.run_folder import CONFIG, FACTS, NoModelError

logger = logging.getLogger(__name__)

AnyEncoder: TypeAlias = (
    SentenceEncoder
    | JointEncoder
    | OpenClipEncoder
    | SentenceTransformersEncoder
    | Model2VecEncoder
    | WordVectorEncoder
    | ElmoEncoder
    | CoveEncoder
    | ExportedEncoder
    | AverageEncoder
)
"""Every kind has ``name``, ``pooling`` and ``dimension`` beside ``encode``."""

_CLASSES: Mapping[Kind, type[AnyEncoder]] = {
    "sentence": SentenceEncoder,
    "sentence_transformers": SentenceEncoder,
    "transformers": SentenceEncoder,
    "hub": SentenceEncoder,
    "joint": JointEncoder,
    "open_clip": OpenClipEncoder,
    "library": SentenceTransformersEncoder,
    "model2vec": Model2VecEncoder,
    "vectors": WordVectorEncoder,
    "grounded_words": WordVectorEncoder,
    "elmo": ElmoEncoder,
    "elmo_release": ElmoEncoder,
    "cove": CoveEncoder,
    "exported": ExportedEncoder,
    "average": AverageEncoder,
}
"""Every kind that encodes sentences."""

# README.md is none of them: reports are written into model cards.
_SENTENCE_FILES = (".safetensors", ".json", ".txt", ".model", ".bin", ".hdf5")
_OPEN_CLIP_FILES = (*_SENTENCE_FILES, ".pt", ".pth")
_LIBRARY_FILES = (*_SENTENCE_FILES, ".py", ".jinja")
_FOREIGN: tuple[Kind, ...] = ("library", "model2vec", "sentence_transformers")


def load_encoder(
    name: str,
    *,
    pooling: str | None = None,
    precision: Precision = "float32",
    device: str | torch.device | None = None,
    reading: Reading = Reading(),  # noqa: B008 - a value, not a state
) -> AnyEncoder:
    """Loads an encoder of any kind.

    A sentence-transformers folder that ``SentenceEncoder`` does not follow is loaded by that library, which is said in
    a warning; so is every such folder under a prompt, as only the library knows what its pooling does with it.

    Args:
        name: As ``locate`` takes it. Word vectors, an ELMo or a CoVe give the mean of their words' vectors.
        pooling: Of sentence encoders, where it overrides what the folder says. Word vectors know "mean" alone,
            open_clip and joint models only their own, contextual word vectors "mean" and "mean_layerN".
        precision: Of the matrix products. Word vectors are averaged the same way under each.
        device: CUDA where there is one, by default. Word vectors stay in main memory.
        reading: What is asked beside the name: a prompt, or that a model's own code may run.

    Raises:
        ValueError: Nothing that encodes sentences is there, or ``pooling`` is needed and not given, or given and not
            known.
    """
    located = replace(located_anywhere(name).expect(*_CLASSES), reading=reading)
    try:
        if located.kind != "exported" and reading.backend not in (None, "torch"):
            raise ValueError(
                f"{name} is no exported graph; mcse export {name} --to {reading.backend} --output FOLDER makes one"
            )
        if replace(reading, backend=None) != Reading() and _has_modules(located):
            raise NotFollowedError(f"{name}: prompts and code of sentence-transformers are that library's own")
        return _CLASSES[located.kind].from_pretrained(located, pooling=pooling, precision=precision, device=device)
    except NotFollowedError as error:
        if pooling is not None:
            raise
        logger.warning("%s. Loaded by that library", str(error).removesuffix(f": sentence-transformers:{name}"))
        itself = replace(located, kind="library")
        return SentenceTransformersEncoder.from_pretrained(itself, precision=precision, device=device)


def encoder_digest(name: str, reading: Reading = Reading()) -> str | None:  # noqa: B008 - a value, not a state
    """What tells two encoders of one name apart, as hexadecimal digits; ``None`` where it cannot be known.

    A SHA-256 over the names inside the model's folder and the contents of the files that make it: weights,
    configuration, tokenizer; of a run, ``best/``, ``config.yaml`` and ``run.json``; of word vectors, the file. It does
    not depend on where the folder lies. Of a model of the hub it is the commit that loading takes now (asked of the
    hub, or of the cache where the hub cannot be reached). What ``reading`` asks is part of it.

    Raises:
        ValueError: An unknown model of open_clip, a package that is not installed, or a damaged ``mcse.json`` or
            ``modules.json``.
    """
    try:
        located = locate(name)
    except NoModelError:
        return None
    digest = _digest(located)
    return digest if digest is None or reading == Reading() else digest_of(digest, repr(asdict(reading)))


def hub_commit(name: str) -> str | None:
    """The commit of the hub at which loading reads a name; ``None`` of what lies on this machine."""
    try:
        repository = _repository(locate(name))
    except NoModelError:
        return None
    return None if repository is None else commit_of(repository)


def _repository(located: Located) -> str | None:
    """The repository of the hub that a name stands for."""
    if located.kind == "hub" or (located.kind in _FOREIGN and not located.folder.is_dir()):
        return repository(located.path) if located.kind == "library" else located.path
    if located.kind == "open_clip":
        return open_clip_source(located.path, title=f"text tower {located.name!r}").repository
    return None


def _has_modules(located: Located) -> bool:
    return located.kind in ("sentence_transformers", "hub") and fetch(located.path, MODULES) is not None


def _digest(located: Located) -> str | None:
    if located.kind == "average":
        parts = [
            (str(part.weight), encoder_digest(part.name), str(part.pooling)) for part in parts_of_average(located.path)
        ]
        known = [text for part in parts for text in part if text is not None]
        return digest_of(*known) if len(known) == 3 * len(parts) else None
    if located.kind != "open_clip" and (name := _repository(located)) is not None:
        return commit_of(name)
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
    """What loading a folder may read: what its manifest lists, or its own files and those of modules inside it."""
    folder = located.folder
    if located.manifest is not None:
        return [folder / name for name in (MANIFEST, *located.manifest.files)]
    return _below(folder) if located.kind in _FOREIGN else _listed(folder, _SENTENCE_FILES)


def _below(folder: Path) -> list[Path]:
    """What sentence-transformers may read of a folder: modules may stand within modules, and have code."""
    files = (file for file in folder.rglob("*") if file.suffix in _LIBRARY_FILES)
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _listed(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix in suffixes] if folder.is_dir() else []


def _files_digest(folder: Path, files: Iterable[Path]) -> str | None:
    found = sorted(file for file in files if file.is_file())
    parts = [part for file in found for part in (file.relative_to(folder).as_posix(), sha256_file(file))]
    return digest_of(*parts) if parts else None
