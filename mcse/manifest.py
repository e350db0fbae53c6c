"""``mcse.json``, the manifest of every checkpoint; the one writer of checkpoints; and what the name of a model means.

A checkpoint's manifest says what kind of model it is, how it came about, and the SHA-256 of every file that makes its
embeddings. ``locate`` turns any name that people may give, of our models and of others', into a kind and a place.
A further kind of model is a line in ``_TITLES`` here and one in ``mcse/encoders/loading.py``.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, get_args

from mcse.files import sha256_file, write_json, write_text
from mcse.reading import FiniteNumber, parse_json, read_json
from mcse.run_folder import NoModelError, best_of

T = TypeVar("T")

FORMAT_VERSION = 1
MANIFEST, CARD = "mcse.json", "README.md"
HEADS_FILE, IMAGE_TOWER_FILE = "heads.safetensors", "image_tower.safetensors"
"""What may stand beside the files of the encoder itself."""

Kind = Literal[
    "sentence",
    "joint",
    "tagger",
    "grounded_words",
    "elmo",
    "cove",
    "word_features",
    "sentence_transformers",
    "transformers",
    "hub",
    "elmo_release",
    "vectors",
    "open_clip",
    "library",
    "model2vec",
    "exported",
    "average",
]

Runtime = Literal["torch", "onnx", "openvino"]
"""What runs a model."""

_TITLES: Mapping[Kind, tuple[str, str]] = {
    "sentence": ("a sentence encoder", "mcse.SentenceEncoder"),
    "joint": ("a joint model of captions and images", "mcse.JointEncoder"),
    "tagger": ("a tagger of entities", "mcse.TweetTagger"),
    "grounded_words": ("grounded word vectors", "mcse.encoders.word_vectors.WordVectorEncoder"),
    "elmo": ("an ELMo", "mcse.encoders.contextual.ElmoEncoder"),
    "cove": ("a CoVe", "mcse.encoders.contextual.CoveEncoder"),
    "word_features": ("a model on word features", "mcse.models.feature_model.load_feature_model"),
    "sentence_transformers": ("a sentence-transformers model", "mcse.SentenceEncoder"),
    "transformers": ("a transformers model", "mcse.SentenceEncoder"),
    "hub": ("a model of the hub", "mcse.SentenceEncoder"),
    "elmo_release": ("an ELMo of the original release", "mcse.encoders.contextual.ElmoEncoder"),
    "vectors": ("a file of word vectors", "mcse.encoders.word_vectors.WordVectorEncoder"),
    "open_clip": ("an open_clip model", "mcse.encoders.open_clip_encoder.OpenClipEncoder"),
    "library": (
        "a model for sentence-transformers itself",
        "mcse.encoders.sentence_transformers_encoder.SentenceTransformersEncoder",
    ),
    "model2vec": ("a model2vec table", "mcse.encoders.model2vec_encoder.Model2VecEncoder"),
    "exported": ("an exported graph", "mcse.encoders.exported.ExportedEncoder"),
    "average": ("an average of encoders", "mcse.encoders.average.AverageEncoder"),
}
"""Every kind of model, ours first: what to call it, and what loads it."""

_PREFIXES: Mapping[str, Kind] = {
    "vectors:": "vectors",
    "open_clip:": "open_clip",
    "sentence-transformers:": "library",
    "model2vec:": "model2vec",
    "average:": "average",
}
"""Names that say their kind themselves."""

_MODEL_TYPES: Mapping[str, Kind] = {"mcse_elmo": "elmo", "mcse_cove": "cove", "model2vec": "model2vec"}
"""Architectures of ours that may also be saved without a manifest, and model2vec's, by their ``model_type``."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_VECTOR_ENDINGS = (".txt", ".vec", ".bin")

ELMO_OPTIONS, ELMO_WEIGHTS = "options.json", "*weights.hdf5"
"""What the folder of an original ELMo holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSide:
    """The images that a model was trained with.

    Attributes:
        tower: Names the network behind the image features.
        preprocessing: What it does to an image first.
        weights: A digest of a frozen tower's weights; those of a trained one are in the checkpoint.
        is_trained: Whether the tower was trained.
        features: Describes the features (file, width, digest), or the images.
    """

    tower: str | None = None
    preprocessing: str | None = None
    weights: str | None = None
    is_trained: bool = False
    features: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``mcse.json``: what a checkpoint holds, and how it came about.

    Attributes:
        kind: What loads it.
        recipe: What trained it.
        pooling: How a sentence's embedding is made; ``None`` where there is none.
        images: The image side, ``None`` of models of text alone.
        details: What this kind alone needs to be rebuilt, such as sizes and the kinds of heads.
        scores: Dev scores of the exported step, by name.
        higher_is_better: The direction of each of them.
        config: The run's resolved configuration; of absolute paths the last part.
        files: SHA-256 of every file but this one and the card, by path inside the folder, with ``/``.
    """

    kind: Kind
    recipe: str
    pooling: str | None = None
    images: ImageSide | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, FiniteNumber] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def image_tower(self) -> str | None:
        """The name of the network behind the image features, as far as it is known."""
        return None if self.images is None else self.images.tower


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is asked of a model's loader beside its name; it changes the rows, and so the digest.

    Attributes:
        prompt: Put before every sentence.
        prompt_name: Of a prompt that the model itself lists, instead.
        trust_remote_code: Whether Python code that lies with the model may run. No configuration and no checkpoint can
            ask for it.
        backend: What runs it; ``None`` is PyTorch, or what an exported graph was written for.
    """

    prompt: str | None = None
    prompt_name: str | None = None
    trust_remote_code: bool = False
    backend: Runtime | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("--prompt and --prompt-name: give one of them")
        if self.backend is not None and self.backend not in get_args(Runtime):
            raise ValueError(f"backend must be one of {', '.join(get_args(Runtime))}, got {self.backend!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A model's name, understood.

    Attributes:
        name: As it was given.
        kind: What loads it.
        path: What is loaded: a folder, a file, the id of a hub repository, or an open_clip model's name.
        run: The run folder whose ``best/`` it is.
        manifest: Of a checkpoint of ours.
        reading: What is asked of its loader.
    """

    name: str
    kind: Kind
    path: str
    run: Path | None = None
    manifest: Manifest | None = None
    reading: Reading = Reading()

    @property
    def folder(self) -> Path:
        """``path``, of models that are folders."""
        return Path(self.path)

    def expect(self, *kinds: Kind) -> Located:
        """Itself.

        Raises:
            ValueError: It is of another kind; names what loads it.
        """
        if self.kind == "hub" and "hub" not in kinds:
            raise NoModelError(f"there is no run and no checkpoint at {self.name}")
        if self.kind not in kinds:
            title, loader = _TITLES[self.kind]
            how = 'give backend="onnx" or backend="openvino"' if self.kind == "exported" else f"{loader} loads it"
            raise ValueError(f"{self.name} holds {title}, not {_TITLES[kinds[0]][0]}; {how}")
        return self


@dataclass(frozen=True, slots=True)
class _Config:
    """What ``config.json`` of any model says of its kind."""

    model_type: str = ""


@contextmanager
def writing_checkpoint(folder: Path, manifest: Manifest, *, card: str) -> Iterator[Path]:
    """The folder to write a model's files into; its manifest, with their digests, and its card follow.

    The folder is not replaced as a whole: that is the caller's part.

    Args:
        folder: Empty or absent.
        manifest: All but the digests.
        card: The model card, Markdown with its front matter.

    Raises:
        ValueError: ``folder`` holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; a checkpoint is written into a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): sha256_file(path) for path in written}
    write_json(folder / MANIFEST, {**without_folders(asdict(manifest)), "files": files})
    write_text(folder / CARD, card)


_FOLDERS = re.compile(r"(?:^|(?<=[^:/]/)|(?<=[:=,(\"']))(?:[A-Za-z]:)?[/\\](?![/\s])(?:[^/\\]+[/\\]+)*")
"""The folders of a file that is named from the root of a disk, wherever in a text; an address is none."""


def without_folders(tree: Any) -> Any:
    """Plain data in which files named from the root of this machine's disk keep their own names alone.

    A checkpoint goes to other people. The folders of its data are useless there, and reveal who made it.
    """
    if isinstance(tree, Mapping):
        # A prompt is no file, and must stay as it is.
        return {key: value if key == "prompt" else without_folders(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_folders(value) for value in tree]
    return _FOLDERS.sub("", tree) if isinstance(tree, str) else tree


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` says that it is one of ours."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path, *kinds: Kind) -> Manifest:
    """The manifest of a checkpoint folder.

    Args:
        folder: The checkpoint.
        kinds: What it may be; anything, by default.

    Raises:
        ValueError: The folder is no checkpoint, the manifest is damaged or of a newer version, or of another kind.
    """
    if not is_checkpoint(folder):
        raise ValueError(
            f"{folder} is not a checkpoint: {f'it lacks {MANIFEST}' if folder.is_dir() else 'no such folder'}"
        )
    path = folder / MANIFEST
    stored = read_json(path, dict[str, Any])
    version = stored.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(f"{path}: version {version} is newer than this mcse, which reads up to {FORMAT_VERSION}")
    for schema, found in ((Manifest, stored), (ImageSide, stored.get("images"))):
        if isinstance(found, dict) and (unknown := found.keys() - {key.name for key in fields(schema)}):
            raise ValueError(f"{path}: not written by this version of mcse: unknown keys {', '.join(sorted(unknown))}")
    manifest = read_json(path, Manifest)
    for name in manifest.files:
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise ValueError(f"{path}: files: {name!r} is no file of the folder")
    if kinds:
        Located(name=str(folder), kind=manifest.kind, path=str(folder)).expect(*kinds)
    return manifest


def read_detail(folder: Path, manifest: Manifest, key: str, schema: type[T]) -> T:
    """One of a checkpoint's details, as ``schema`` says.

    Raises:
        ValueError: It is missing, or not of that shape; names the manifest's file and key.
    """
    where = f"{folder / MANIFEST}: details.{key}"
    if key not in manifest.details:
        raise ValueError(f"{where} is missing")
    return parse_json(json.dumps(manifest.details[key]), schema, where=where)


_ALSO_READ = ("adapter_config.json", "added_tokens.json", "model.safetensors.index.json", "special_tokens_map.json")
"""What transformers reads where it lies beside a model: an adapter, tokens, other weights. We save none of these."""


def check_files(folder: Path, *, only: Sequence[str] = ("*",), but: Sequence[str] = ()) -> None:
    """Refuses files of a checkpoint that are not those that were saved; a folder of another make is taken as it is.

    Args:
        folder: A checkpoint of ours, any other folder, or no folder.
        only: Patterns of the files that are going to be read.
        but: Patterns of files among them that are read later, or checked elsewhere.

    Raises:
        ValueError: Any file is missing, one of these is damaged, or one has come that would be read, by name; or the
            manifest is damaged.
    """
    if not is_checkpoint(folder):
        return
    files = read_manifest(folder).files
    for name in _ALSO_READ:
        if name not in files and (folder / name).exists():
            raise ValueError(
                f"{folder / name} is none of the files that were saved, and would change the embeddings; remove it"
            )
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing, though {folder / MANIFEST} lists it")
        if _fits(name, only) and not _fits(name, but) and sha256_file(folder / name) != digest:
            raise ValueError(
                f"{folder / name} is damaged: its SHA-256 is not the one in {folder / MANIFEST}, noted when it was "
                "saved (was it changed on purpose? then delete its line under 'files' there)"
            )


def locate(name: str | Path | Located) -> Located:
    """What the name of a model means.

    Args:
        name: A run folder (its ``best/`` is taken), a checkpoint of any recipe, a sentence-transformers folder, any
            other model's folder, a hub id, ``package:NAME/FOLDER``; any of these after ``sentence-transformers:`` or
            ``model2vec:``, to be loaded by that library; ``open_clip:MODEL/PRETRAINED``; ``vectors:FILE`` or the plain
            path of a ``.txt``, ``.vec`` or ``.bin`` file, also with ``.gz``; the folder of an original ELMo;
            ``average:WEIGHT=MODEL+WEIGHT=MODEL``.

    Raises:
        NoModelError: It is a folder or a file without a model, or a path where nothing is.
        ValueError: It names a package that is not installed, or a checkpoint whose manifest is damaged.
    """
    if isinstance(name, Located):
        return name
    given = str(name)
    for prefix, kind in _PREFIXES.items():
        if given.startswith(prefix):
            path = given.removeprefix(prefix)
            if kind == "vectors" and Path(path).is_dir():
                return replace(locate(path).expect("grounded_words"), name=given)
            if kind in ("library", "model2vec"):
                path = resolve_name(path)
                path = str(best_of(Path(path))) if Path(path).is_dir() else _hub_id(given, path)
            return Located(name=given, kind=kind, path=path)
    path = resolve_name(given)
    if Path(path).is_dir():
        return _in_folder(given, Path(path))
    if _is_word_vectors_name(path):
        return Located(name=given, kind="vectors", path=path)
    if Path(path).is_file():
        endings = ", ".join(_VECTOR_ENDINGS)
        raise NoModelError(
            f"{given!r} is a file, and none of word vectors ({endings}, also .gz); a model is named by its folder"
        )
    return Located(name=given, kind="hub", path=_hub_id(given, path))


@dataclass(frozen=True, slots=True)
class AveragePart:
    """A part of an average: its weight, the model's name, and its pooling where that is not the model's own."""

    weight: float
    name: str
    pooling: str | None


_PART = re.compile(r"(?P<weight>\d+(?:\.\d*)?|\.\d+)=(?P<name>.+)", re.S)
_NEXT_PART = re.compile(r"\+(?=(?:\d+(?:\.\d*)?|\.\d+)=)")
_POOLED = re.compile(r"(?P<name>.+)@(?P<pooling>[a-z][a-z0-9_]*)", re.S)


def parts_of_average(path: str) -> list[AveragePart]:
    """What ``average:WEIGHT=MODEL+WEIGHT=MODEL`` is made of; ``MODEL@POOLING`` says how a part is pooled.

    Raises:
        ValueError: It is spelled otherwise, or a weight is 0.
    """
    parts = []
    for text in _NEXT_PART.split(path):
        found = _PART.fullmatch(text)
        if found is None or float(found["weight"]) == 0:
            raise ValueError(
                f"average:{path}: expected WEIGHT=MODEL+WEIGHT=MODEL with positive weights, such as "
                f"average:0.5=A@cls+0.5=B; got {text!r}"
            )
        name, pooled = found["name"], _POOLED.fullmatch(found["name"])
        is_pooled = pooled is not None and not Path(name).exists()
        own, pooling = (pooled["name"], pooled["pooling"]) if pooled is not None and is_pooled else (name, None)
        parts.append(AveragePart(float(found["weight"]), own, pooling))
    return parts


def absolute_name(name: str) -> str:
    """The name under which a model is found from any folder."""
    prefix = next((prefix for prefix in ("open_clip:local-dir:", *_PREFIXES) if name.startswith(prefix)), "")
    path = Path(name.removeprefix(prefix))
    return f"{prefix}{path.resolve()}" if path.exists() else name


def resolve_name(name_or_path: str) -> str:
    """A hub id or folder as it is; ``package:NAME/FOLDER`` as the folder inside the installed package.

    Raises:
        ValueError: The package is not installed, or holds no such folder.
    """
    if not name_or_path.startswith("package:"):
        return name_or_path
    package, _, inside = name_or_path.removeprefix("package:").partition("/")
    # Found and not imported, which would run its code.
    is_name = package.isidentifier() and package != "__main__"
    spec = importlib.util.find_spec(package) if is_name else None
    if spec is None:
        raise ValueError(
            f"encoder.name_or_path: {name_or_path!r} names the package {package!r}, which is not installed "
            f"(pip install {package.replace('_', '-')})"
        )
    if spec.submodule_search_locations is None:
        raise ValueError(f"encoder.name_or_path: {name_or_path!r} names {package!r}, a module and no package")
    folders = [Path(place) / inside for place in spec.submodule_search_locations]
    if (folder := next((folder for folder in folders if folder.is_dir()), None)) is None:
        raise ValueError(f"encoder.name_or_path: package {package!r} holds no folder {inside!r}")
    return str(folder)


def _in_folder(given: str, folder: Path) -> Located:
    # The original release of ELMo has none of the files that other models have.
    if (folder / ELMO_OPTIONS).is_file() and len(list(folder.glob(ELMO_WEIGHTS))) == 1:
        return Located(name=given, kind="elmo_release", path=str(folder))
    inside = best_of(folder)
    manifest = read_manifest(inside) if is_checkpoint(inside) else None
    kind = _foreign_kind(inside) if manifest is None else manifest.kind
    run = None if inside == folder else folder
    return Located(name=given, kind=kind, path=str(inside), run=run, manifest=manifest)


def _hub_id(given: str, path: str) -> str:
    """``path``, of which nothing is here; refused where it can be no id of the hub, or begins with a folder that is."""
    if not _HUB_ID.fullmatch(path) or ("/" in path and Path(path).parent.is_dir()):
        raise NoModelError(f"there is no run and no checkpoint at {given}")
    return path


def _foreign_kind(folder: Path) -> Kind:
    """Of a folder without a manifest. A damaged ``config.json`` is for whoever loads it to refuse."""
    if (folder / "modules.json").is_file():
        return "sentence_transformers"
    try:
        return _MODEL_TYPES.get(read_json(folder / "config.json", _Config).model_type, "transformers")
    except (OSError, ValueError):
        return "transformers"


def _is_word_vectors_name(name: str) -> bool:
    """Models end in ``.safetensors``, too, so that ending says nothing."""
    return name.lower().removesuffix(".gz").endswith(_VECTOR_ENDINGS)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
