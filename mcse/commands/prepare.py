"""``mcse prepare``: puts training and test data, verified, where the configs look for them; runs then need no network.

Under the root: ``wiki1m_for_simcse.txt``, ``nli_for_simcse.csv``, ``senteval/``, and for ``flickr30k`` and ``coco`` a
folder with ``captions.csv`` (all captions of the chosen images), ``train_images.txt`` (their names), ``images/`` and
``resnet50/`` (``mcse extract-features``). ``manifest.json`` says what was found, with checksums.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mcse.commands.downloads import (
    Fetch,
    HubFile,
    copy_file,
    fetch_from_folder,
    fetch_from_hub,
    unpack,
)
from mcse.data.captions.table import CaptionTable, load_captions
from mcse.data.images.features import captions_to_features, open_features
from mcse.data.images.names import find_all
from mcse.data.images.sources import open_images
from mcse.data.sentences.files import open_sentences
from mcse.data.test_sets.sts import (
    EXPECTED_PAIRS,
    SENTEVAL_SUBSETS,
    STS_TASKS,
    find_senteval,
    load_hub_dev,
    load_sts_from_hub,
    load_sts_from_senteval,
    load_stsbenchmark,
)
from mcse.errors import printable
from mcse.files import claimed, creating_folder, read_lines, replacing, sha256_file, write_json, write_text
from mcse.progress import phase
from mcse.reading import read_json

MANIFEST = "manifest.json"
_SCHEMA = 1
_FIRST_CAPTIONS = 5  # MCSE drew among the first five; some COCO images have six or seven


@dataclass(frozen=True, slots=True)
class Sentences:
    """A training text on the hub; ``rows`` is its published number of lines, where there is one."""

    hub: HubFile
    columns: int
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Images:
    """A captioned image collection whose files are downloaded by hand.

    Attributes:
        name: Its folder under the root.
        count: Images that MCSE trained on.
        ids: The list of them in the folder; ``None`` where they are all that the captions have.
        captions: Caption sources looked for in the folder, the first found is read.
        archive: A zip of captions, and the part of a member's path that marks what is taken from it.
        hub: Captions that ``--from-hub`` fetches.
        own: MCSE's own caption and feature files, which serve as they are.
        captions_by_hand: What to download, from where, and where to put it; ``{folder}`` is filled in.
        images_by_hand: The same for the images.
    """

    name: str
    count: int
    ids: str | None
    captions: tuple[str, ...]
    archive: tuple[str, str]
    hub: HubFile | None
    own: tuple[str, str]
    captions_by_hand: str
    images_by_hand: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is there now; ``notes`` are for people: what is still to do, what differs from the published data."""

    source: str
    files: tuple[Path, ...]
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()


_SIMCSE = "princeton-nlp/datasets-for-simcse"
_SIMCSE_REVISION = "e145e8bb659b2aa2669f32ef79cb4cdef6c58fef"

SENTENCES: Mapping[str, Sentences] = {
    "wiki1m": Sentences(
        HubFile(
            _SIMCSE,
            "wiki1m_for_simcse.txt",
            revision=_SIMCSE_REVISION,
            sha256="7b1825863a99aa76479b0456f7c210539dfaeeb69598b41fb4de4f524dd5a706",
        ),
        columns=1,
        rows=1_000_000,
    ),
    "nli": Sentences(
        HubFile(
            _SIMCSE,
            "nli_for_simcse.csv",
            revision=_SIMCSE_REVISION,
            sha256="0747687ec3594fa449d2004fd3757a56c24bf5f7428976fb5b67176775a68d48",
        ),
        columns=3,
    ),
}

SENTEVAL = HubFile(_SIMCSE, "senteval.tar", revision=_SIMCSE_REVISION)
_SENTEVAL_FOLDERS = ("STS", "SICK", "MR", "CR", "SUBJ", "MPQA", "SST", "TREC", "MRPC")

STS_DIGESTS: Mapping[str, str] = {
    "STS12": "b701cd147b17a9ad386b43aa67cbaab5404d5f1f67ef6d088cccedd9f1f83440",
    "STS13": "2f62ec9cfcf96c878cb8737589ca7883a2439a5dfb6cad1a10970961992324b8",
    "STS14": "3a4fa19806c88d435a94c4ec14e6ad09beacc07120b7c16c88c12c6deb37f915",
    "STS15": "7bfd61e79270e3a89b0c412c30e6a5d124862bfc554c13161af2889fb8276f13",
    "STS16": "62526ead237c5443c6407bca42ad67cb2491a5cc28ebe01872682b50a038586a",
    "STSBenchmark": "1d37dbf504a729d41ef821e9a5d3e3188f2d8ed7126e76e27434e2603faf85d6",
    "SICKRelatedness": "183f260b8a12aaeef1714969fc26200041c765e7fb07642841504c3fe391ce31",
}
"""SHA-256 over each task's files one after another, of the SentEval files that we measured; no publisher states any."""

_MCSE_README = "https://github.com/uds-lsv/MCSE"

IMAGES: Mapping[str, Images] = {
    "flickr30k": Images(
        name="flickr30k",
        count=29_783,
        ids="train.txt",
        captions=("Sentences", "results.csv", "results_20130124.token", "flickr_annotations_30k.csv"),
        archive=("annotations.zip", "Sentences"),
        hub=HubFile("nlphuji/flickr30k", "flickr_annotations_30k.csv"),
        own=("flickr_random_captions.txt", "flickr_resnet.hdf5"),
        captions_by_hand=(
            "captions and ids: download annotations.zip and train.txt from "
            "https://github.com/BryanPlummer/flickr30k_entities into {folder}\n"
            "or captions of 31,014 of the 31,783 images (Karpathy's selection): --from-hub, with --ids FILE"
        ),
        images_by_hand=(
            "images (for MCSE; SimCSE on captions needs none): fill in the form for the Flickr30k images at "
            "https://shannon.cs.illinois.edu/DenotationGraph/ and unpack flickr30k-images.tar.gz into {folder}/images"
        ),
    ),
    "coco": Images(
        name="coco",
        count=82_783,
        ids=None,
        captions=("captions_train2014.json", "annotations/captions_train2014.json"),
        archive=("annotations_trainval2014.zip", "captions_train2014.json"),
        hub=None,
        own=("coco_random_captions.txt", "coco_resnet.hdf5"),
        captions_by_hand=(
            'captions: download "2014 Train/Val annotations" (annotations_trainval2014.zip) from '
            "https://cocodataset.org/#download into {folder}"
        ),
        images_by_hand=(
            'images (for MCSE; SimCSE on captions needs none): download "2014 Train images" (train2014.zip, 13 GB) '
            "from https://cocodataset.org/#download and unpack it into {folder}/images"
        ),
    ),
}


def run(
    dataset: str,
    *,
    root: Path | None = None,
    ids: Path | None = None,
    from_hub: bool = False,
    mirror: Path | None = None,
) -> int:
    """Prepares one dataset and records it in the manifest; returns 0.

    Raises:
        ValueError: Wrong arguments, counts or checksums.
        FileNotFoundError: Files are missing; the message says what to download and where to put it.
    """
    if root is None and "MCSE_DATA" in os.environ:
        root = Path(os.environ["MCSE_DATA"])
    if root is None:
        raise ValueError("--root: say which folder the data goes to, or set MCSE_DATA")
    if dataset not in IMAGES and ids is not None:
        raise ValueError(f"--ids selects images of {' or '.join(IMAGES)}; {dataset} has none")
    if from_hub and (dataset not in IMAGES or IMAGES[dataset].hub is None):
        raise ValueError(f"--from-hub: the hub has no captions for {dataset}")
    fetch = fetch_from_hub if mirror is None else fetch_from_folder(mirror)
    root.mkdir(parents=True, exist_ok=True)
    with claimed(root / MANIFEST), phase(f"fetching and verifying {dataset}"):
        if dataset in SENTENCES:
            prepared = prepare_sentences(root, SENTENCES[dataset], fetch=fetch)
        elif dataset in IMAGES:
            captions_from = fetch if from_hub else None
            prepared = prepare_images(root, IMAGES[dataset], ids=ids, fetch=captions_from)
        else:
            prepared = prepare_sts(root, fetch=fetch)
            if mirror is None:
                prepared = replace(prepared, notes=(*prepared.notes, *cache_hub_sts()))
        write_manifest(root, dataset, prepared)
    _report(dataset, root, prepared)
    return 0


def prepare_sentences(root: Path, spec: Sentences, *, fetch: Fetch) -> Prepared:
    """A training text under its own name in ``root``, fetched if absent.

    Raises:
        ValueError: Its checksum or number of sentences is not the published one, or it is broken (file and line).
        FileNotFoundError: It is not there and cannot be fetched.
    """
    path = root / spec.hub.name
    if not path.is_file():
        copy_file(_fetched(fetch, spec.hub, to=str(path)), path)
    if spec.hub.sha256 is not None and (found := sha256_file(path)) != spec.hub.sha256:
        raise ValueError(
            f"{path}: SHA-256 {found[:16]}…, but that of {spec.hub.repository} is {spec.hub.sha256[:16]}…; "
            "delete the file and run this again, or use it under another name"
        )
    table = open_sentences(str(path), root=root)
    if table.columns != spec.columns:
        raise ValueError(f"{path}: {table.columns} columns, expected {spec.columns}")
    # Blank lines count: the published number is one of lines.
    rows = sum(1 for _ in (table.rows() if spec.columns > 1 else read_lines(path)))
    if spec.rows is not None and rows != spec.rows:
        raise ValueError(f"{path}: {rows:,} lines, expected {spec.rows:,}")
    return Prepared(source=spec.hub.url, files=(path,), counts={"rows": rows})


def prepare_sts(root: Path, *, fetch: Fetch) -> Prepared:
    """SentEval's folder under ``root``, with the seven STS tasks and their published numbers of pairs.

    Raises:
        ValueError: A task has another number of pairs, or a file is broken.
        FileNotFoundError: A task is missing.
    """
    source = "found"
    try:
        folder = find_senteval(root)
    except FileNotFoundError:
        source = SENTEVAL.url
        _unpack_senteval(_fetched(fetch, SENTEVAL, to=f"{root / 'senteval'}, unpacked"), root / "senteval")
        folder = find_senteval(root)
    data = load_sts_from_senteval(folder)
    counts = {task.name: len(task) for task in data.tasks}
    for name in STS_TASKS:
        if name not in counts:
            raise FileNotFoundError(f"{folder}: no {name} ({data.absent[name]}); move the folder away to fetch it anew")
        if counts[name] != EXPECTED_PAIRS[name]:
            raise ValueError(f"{folder}: {name} has {counts[name]:,} pairs, expected {EXPECTED_PAIRS[name]:,}")
    counts["STSBenchmark dev"] = len(load_stsbenchmark(folder, split="dev"))
    files = {name: _task_files(folder, name) for name in STS_TASKS}
    changed = [name for name in STS_TASKS if sha256_file(*files[name]) != STS_DIGESTS[name]]
    notes = (
        (f"the files of {', '.join(changed)} are not byte for byte those that we measured; counts agree",)
        if changed
        else ()
    )
    return Prepared(source, tuple(path for paths in files.values() for path in paths), counts, notes)


def cache_hub_sts() -> tuple[str, ...]:
    """Puts the hub's copies of the tasks into its local cache, which ``evaluate.py`` reads where no folder is given."""
    try:
        absent = load_sts_from_hub().absent
        load_hub_dev()
    except FileNotFoundError:
        return ("the hub's own copies of the tasks cannot be had now; evaluate.py needs --data with the root folder",)
    missing = [name for name in absent if name != "SICKRelatedness"]
    return (f"not in the hub's local cache: {', '.join(missing)}",) if missing else ()


def prepare_images(root: Path, spec: Images, *, ids: Path | None, fetch: Fetch | None) -> Prepared:
    """``captions.csv`` and ``train_images.txt`` of the chosen images; images and features are checked where present.

    Args:
        root: The data folder.
        spec: Which collection.
        ids: The images to use; by default those that MCSE used, whose number is then checked.
        fetch: Fetches captions from the hub; ``None`` wants them in the folder.

    Raises:
        ValueError: Other counts than the published ones, ids without captions, or images or features missing.
        FileNotFoundError: Captions or ids are not there; the message says what to download.
    """
    folder = root / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    own = _check_own(folder, spec)
    source = _find_captions(folder, spec, fetch=fetch)
    if source is None and own is not None and ids is None:
        return own
    if source is None:
        raise FileNotFoundError(_captions_to_do(f"no captions in {folder}", folder, spec))
    wanted = ids if ids is not None or spec.ids is None else folder / spec.ids
    if wanted is not None and not wanted.is_file():
        raise FileNotFoundError(_captions_to_do(f"no list of images at {wanted}", folder, spec))
    table = load_captions(str(source), images=wanted)
    if ids is None and len(table) != spec.count:
        raise ValueError(
            f"{source if wanted is None else wanted}: {len(table):,} images, expected {spec.count:,}; "
            "--ids FILE takes a selection of your own"
        )
    files, num_captions = _write_selection(folder, table)
    notes = (*_check_images(folder, table, spec), *_check_features(folder, table))
    if len(table) != spec.count:
        notes = (f"{len(table):,} images chosen; MCSE trained on {spec.count:,}", *notes)
    counts = {"images": len(table), "captions": num_captions}
    origin = source.relative_to(root).as_posix()
    return Prepared(origin, (*files, *(() if own is None else own.files)), counts, notes)


@dataclass(frozen=True, slots=True)
class _Manifest:
    """``manifest.json``."""

    schema: int
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_manifest(root: Path, name: str, prepared: Prepared) -> None:
    """Records a dataset in ``manifest.json``; other datasets' entries stay.

    Raises:
        ValueError: The manifest there is not one.
    """
    path = root / MANIFEST
    manifest = _read_manifest(path)
    manifest.datasets[name] = {
        "source": prepared.source,
        "counts": dict(prepared.counts),
        "files": [
            {"path": file.relative_to(root).as_posix(), "bytes": file.stat().st_size, "sha256": sha256_file(file)}
            for file in prepared.files
        ],
        "notes": list(prepared.notes),
    }
    write_json(path, asdict(manifest))


def _fetched(fetch: Fetch, file: HubFile, *, to: str) -> Path:
    try:
        return fetch(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}\n  and put it at {to}") from error


def _unpack_senteval(archive: Path, folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        unpack(archive, folder, wanted=_SENTEVAL_FOLDERS)
        return
    with creating_folder(folder) as draft:
        unpack(archive, draft, wanted=_SENTEVAL_FOLDERS)


def _task_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The files of a task in the order that ``STS_DIGESTS`` were taken in."""
    if name == "SICKRelatedness":
        return tuple(folder / "SICK" / f"SICK_{split}.txt" for split in ("train", "trial", "test_annotated"))
    if name == "STSBenchmark":
        return tuple(folder / "STS" / name / f"sts-{split}.csv" for split in ("train", "dev", "test"))
    home = folder / "STS" / f"{name}-en-test"
    return tuple(home / f"STS.{part}.{subset}.txt" for subset in SENTEVAL_SUBSETS[name] for part in ("input", "gs"))


def _find_captions(folder: Path, spec: Images, *, fetch: Fetch | None) -> Path | None:
    for name in spec.captions:
        if (folder / name).exists():
            return folder / name
    archive, part = spec.archive
    if (folder / archive).is_file():
        unpack(folder / archive, folder, wanted=(part,))
        return folder / part
    if fetch is not None and spec.hub is not None:
        copy_file(_fetched(fetch, spec.hub, to=str(folder)), folder / spec.hub.name)
        return folder / spec.hub.name
    return None


def _check_own(folder: Path, spec: Images) -> Prepared | None:
    """MCSE's own files: a caption a line, and features in the same order without names."""
    captions, features = (folder / name for name in spec.own)
    if not captions.is_file():
        return None
    table = load_captions(str(captions))
    if len(table) != spec.count:
        raise ValueError(f"{captions}: {len(table):,} captions, expected {spec.count:,}")
    use = f"--data.captions {spec.name}/{captions.name} --data.captions.images null"
    if not features.is_file():
        return Prepared(
            captions.name,
            (captions,),
            {"captions": len(table)},
            (f"MCSE's own captions serve SimCSE: {use}", f"no {features}, so they do not serve MCSE"),
        )
    store = open_features(features)
    if len(store) != len(table):
        raise ValueError(f"{features}: {len(store):,} rows, but {captions.name} has {len(table):,} captions")
    return Prepared(
        captions.name,
        (captions, features),
        {"captions": len(table), "features": len(store), "width": store.width},
        (f"MCSE's own files: train with {use} --data.images {spec.name}/{features.name}",),
    )


def _write_selection(folder: Path, table: CaptionTable) -> tuple[tuple[Path, Path], int]:
    """``captions.csv`` and ``train_images.txt``, and how many captions were written."""
    assert table.image_names is not None
    captions, names = folder / "captions.csv", folder / "train_images.txt"
    rows = [
        (name, caption)
        for name, several in zip(table.image_names, table.captions, strict=True)
        for caption in several[:_FIRST_CAPTIONS]
    ]
    with replacing(captions) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("image", "caption"))
        writer.writerows(rows)
    write_text(names, "".join(f"{name}\n" for name in table.image_names))
    return (captions, names), len(rows)


def _check_images(folder: Path, table: CaptionTable, spec: Images) -> tuple[str, ...]:
    assert table.image_names is not None
    images = folder / "images"
    if not images.is_dir():
        return (_indented(f"no images in {images}", spec.images_by_hand.format(folder=folder)),)
    find_all(table.image_names, open_images(str(images)).names, where=str(images))
    return ()


def _check_features(folder: Path, table: CaptionTable) -> tuple[str, ...]:
    store = folder / "resnet50"
    if not store.exists():
        return (
            f"next, for MCSE: mcse extract-features --tower timm:resnet50.tv_in1k --images {folder / 'images'} "
            f"--names {folder / 'train_images.txt'} --output {store}",
        )
    captions_to_features(table, open_features(store))
    return ()


def _captions_to_do(what: str, folder: Path, spec: Images) -> str:
    own = f"or, ready-made, {' and '.join(spec.own)}, linked in the README of {_MCSE_README}, into {folder}"
    return _indented(what, f"{spec.captions_by_hand}\n{spec.images_by_hand}\n".format(folder=folder) + own)


def _indented(what: str, lines: str) -> str:
    return what + "".join(f"\n  {line}" for line in lines.split("\n"))


def _read_manifest(path: Path) -> _Manifest:
    if not path.is_file():
        return _Manifest(_SCHEMA)
    try:
        manifest = read_json(path, _Manifest)
    except ValueError as error:
        raise ValueError(f"{error}: no manifest of mcse prepare, or a damaged one; move it away") from None
    if manifest.schema != _SCHEMA:
        raise ValueError(f"{path}: no manifest of mcse prepare (schema {_SCHEMA}); move it away")
    return manifest


def _report(name: str, root: Path, prepared: Prepared) -> None:
    counts = ", ".join(f"{count:,} {what}" for what, count in prepared.counts.items())
    print(printable(f"{name}: {counts}; verified, recorded in {root / MANIFEST}"))
    for note in prepared.notes:
        print(printable(f"note: {note}"))
