"""Writing the picture world to disk, whole or not at all, in the formats that the loaders of real data read.

A world folder holds::

    images/train_00000.png …       square RGB images
    captions.csv                   ``image,caption`` with that header, several rows an image (Flickr8k's layout)
    train_images.txt, dev_images.txt, test_images.txt      image names, one a line
    sentences.txt                  text-only sentences about scenes that are drawn nowhere
    sts/dev.tsv, sts/test.tsv      ``score<TAB>sentence1<TAB>sentence2``, no header
    sts/dev_pairs.csv, sts/test_pairs.csv      row by row: kind of the pair and the two images it is about
    contents.jsonl                 what each image shows, for probes and reports; no training reads it
    manifest.json                  configuration, counts, SHA-256 of every other file

Contents of training, dev and test images and of the text-only sentences are disjoint. Everything follows from the
seed; images' bytes also from Pillow's PNG writer. Worlds with gold "pixels" and "null" differ only in ``sts/``.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from mcse.files import creating_folder, read_lines, sha256_bytes, sha256_file
from mcse.reading import parse_json, read_json
from mcse.scenes.drawing import draw_marks
from mcse.scenes.grammar import Dialect, draw_dialect, draw_style, draw_told, write_sentence
from mcse.scenes.similarity import FAMILY, Gold, ScoredPair, draw_families, write_pairs
from mcse.scenes.world import (
    GROUP_SHARE,
    GroupScene,
    PairScene,
    Scene,
    Unseen,
    all_groups,
    all_pairs,
    draw_unseen,
    lay_out,
)

FORMAT = 1
"""Raised whenever the same configuration would give other files."""

MANIFEST, CONTENTS = "manifest.json", "contents.jsonl"

_log = logging.getLogger(__name__)

_TOLD_RATE = 0.35  # probability that a caption tells a given unseen fact
_TEXT_ONLY_SHARE = 0.25  # of the contents that are not held out
_MAX_HELD_OUT = 800  # beyond, the 432 group contents run short
_MAX_CAPTIONS = 20
_MIN_IMAGE_SIZE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """Sizes and seed of a world; the defaults suit the demo (two cores, minutes)."""

    seed: int = 0
    num_train_images: int = 3000
    num_dev_images: int = 200
    num_test_images: int = 400
    captions_per_image: int = 5
    num_sentences: int = 10_000
    num_sts_pairs: int = 1000  # in dev and in test, each
    image_size: int = 32  # pixels a side
    gold: Gold = "pixels"

    def __post_init__(self) -> None:
        counts = {
            "num_train_images": (self.num_train_images, 1, None),
            "num_dev_images": (self.num_dev_images, 2 * FAMILY, None),
            "num_test_images": (self.num_test_images, 2 * FAMILY, None),
            "num_dev_images + num_test_images": (self.num_dev_images + self.num_test_images, 1, _MAX_HELD_OUT),
            "captions_per_image": (self.captions_per_image, 1, _MAX_CAPTIONS),
            "num_sentences": (self.num_sentences, 1, None),
            "num_sts_pairs": (self.num_sts_pairs, 1, None),
            "image_size": (self.image_size, _MIN_IMAGE_SIZE, None),
        }
        for name, (value, least, most) in counts.items():
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
            if most is not None and value > most:
                raise ValueError(f"{name} must be at most {most}, got {value}")
        if self.gold not in ("pixels", "null"):
            raise ValueError(f"gold must be 'pixels' or 'null', got {self.gold!r}")


def build_world(folder: Path, *, config: WorldConfig) -> Path:
    """Makes the world in ``folder`` and returns it; a folder that already holds this very world is kept as it is.

    The world is written beside ``folder`` under a temporary name and then renamed, so ``folder`` is never half a world.

    Raises:
        ValueError: ``folder`` holds something else: another world, a world whose files were changed, other files.
    """
    folder = Path(folder)
    if _holds(folder, config):
        _log.info("scenes: %s already holds this world, kept", folder)
        return folder
    try:
        with creating_folder(folder) as draft:
            _write_world(draft, config)
    except FileExistsError:
        # Another process may have finished the same world meanwhile; anything else is an error.
        if not _holds(folder, config):
            raise
    return folder


def read_scenes(folder: Path) -> dict[str, Scene]:
    """What each image of a world shows, by the image's name.

    Raises:
        ValueError: ``contents.jsonl`` is damaged: the line.
        OSError: It cannot be read.
    """
    scenes: dict[str, Scene] = {}
    path = folder / CONTENTS
    for number, line in enumerate(read_lines(path), 1):
        content = parse_json(line, _Content, where=f"{path}, line {number}")
        scenes[content.image] = content.scene
    return scenes


@dataclass(frozen=True, slots=True)
class _Content:
    """A line of ``contents.jsonl``, of which only this is looked at."""

    image: str
    scene: PairScene | GroupScene


@dataclass(frozen=True, slots=True)
class _Image:
    name: str
    split: str
    scene: Scene
    unseen: Unseen
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What ``manifest.json`` says that is looked at."""

    format: int
    config: dict[str, Any]
    files: dict[str, str]


def _holds(folder: Path, config: WorldConfig) -> bool:
    """Whether ``folder`` is this world, unchanged. False when absent or empty; refuses anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} exists and is no picture world (no {MANIFEST}); choose another folder or empty it")
    try:
        manifest = read_json(path, _Manifest)
    except ValueError as error:
        raise ValueError(f"{path} is not a picture world's manifest ({error}); delete the folder") from error
    found, digests = {"format": manifest.format, **manifest.config}, manifest.files
    wanted = {"format": FORMAT, **asdict(config)}
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise ValueError(
                f"{folder} holds another picture world: {key} is {found.get(key)!r} there, {wanted[key]!r} was asked; "
                "choose another folder or delete it"
            )
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file() or sha256_file(file) != digest:
            raise ValueError(f"{file} is missing or was changed since the world was made; delete {folder}")
    return True


def _write_world(folder: Path, config: WorldConfig) -> None:
    for name, content in _make_files(config).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def _make_files(config: WorldConfig) -> dict[str, bytes]:
    """Every file of the world by its name, the manifest last."""
    splits, text_only = _split_contents(config)
    images = [
        _describe(f"{split}_{number:05d}.png", split, scene, config)
        for split, scenes in splits.items()
        for number, scene in enumerate(scenes)
    ]
    files = {f"images/{image.name}": _png_bytes(image, config) for image in images}
    captions = [(image.name, caption) for image in images for caption in image.captions]
    files["captions.csv"] = _csv_bytes(("image", "caption"), captions)
    files[CONTENTS] = _lines(json.dumps(_content(image), sort_keys=True) for image in images)
    files["sentences.txt"] = _lines(_write_text_only(text_only, config))
    for split in splits:
        files[f"{split}_images.txt"] = _lines(image.name for image in images if image.split == split)
    for split in ("dev", "test"):
        pairs = write_pairs(splits[split], config.num_sts_pairs, rng=_random(config, f"sts {split}"), gold=config.gold)
        files |= _pair_files(split, pairs)
    manifest = {
        "format": FORMAT,
        "config": asdict(config),
        "counts": {
            **{f"{split}_images": len(scenes) for split, scenes in splits.items()},
            "captions": len(captions),
            "sentences": config.num_sentences,
            "dev_pairs": config.num_sts_pairs,
            "test_pairs": config.num_sts_pairs,
        },
        "files": {name: sha256_bytes(content) for name, content in sorted(files.items())},
    }
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    return files


def _png_bytes(image: _Image, config: WorldConfig) -> bytes:
    rng = _random(config, f"drawing {image.name}")
    buffer = io.BytesIO()
    draw_marks(lay_out(image.scene), image_size=config.image_size, rng=rng).save(buffer, format="PNG")
    return buffer.getvalue()


def _split_contents(config: WorldConfig) -> tuple[dict[str, list[Scene]], list[Scene]]:
    """Scenes by split (test first, so that dev and training keep clear of it), and the contents for text only."""
    test = draw_families(config.num_test_images, rng=_random(config, "test scenes"), taken=set())
    dev = draw_families(config.num_dev_images, rng=_random(config, "dev scenes"), taken=set(test))
    held_out = {*test, *dev}
    rng = _random(config, "training scenes")
    drawn_pools: list[list[Scene]] = []
    text_only: list[Scene] = []
    for contents in (all_groups(), all_pairs()):
        free = [scene for scene in contents if scene not in held_out]
        rng.shuffle(free)
        cut = round(len(free) * _TEXT_ONLY_SHARE)
        text_only += free[:cut]
        drawn_pools.append(free[cut:])
    groups, pairs = drawn_pools
    train = _draw(groups, pairs, config.num_train_images, rng)
    return {"train": train, "dev": dev, "test": test}, text_only


def _describe(name: str, split: str, scene: Scene, config: WorldConfig) -> _Image:
    """An image's captions: different sentences, all in the dialect of its one describer."""
    rng = _random(config, f"captions {name}")
    dialect, unseen = draw_dialect(rng), draw_unseen(rng)
    captions: list[str] = []
    while len(captions) < config.captions_per_image:
        caption = _write(scene, unseen, dialect, rng)
        if caption not in captions:
            captions.append(caption)
    return _Image(name, split, scene, unseen, tuple(captions))


def _write_text_only(contents: Sequence[Scene], config: WorldConfig) -> list[str]:
    rng = _random(config, "sentences")
    groups = [scene for scene in contents if isinstance(scene, GroupScene)]
    pairs = [scene for scene in contents if isinstance(scene, PairScene)]
    scenes = _draw(groups, pairs, config.num_sentences, rng)
    return [_write(scene, draw_unseen(rng), draw_dialect(rng), rng) for scene in scenes]


def _draw(groups: Sequence[Scene], pairs: Sequence[Scene], num_scenes: int, rng: Random) -> list[Scene]:
    """Scenes with repeats; the share of groups does not depend on how many contents are left of each kind."""
    return [rng.choice(groups if rng.random() < GROUP_SHARE else pairs) for _ in range(num_scenes)]


def _write(scene: Scene, unseen: Unseen, dialect: Dialect, rng: Random) -> str:
    style = draw_style(rng, told=draw_told(rng, rate=_TOLD_RATE))
    return write_sentence(scene, unseen, dialect=dialect, style=style)


def _content(image: _Image) -> dict[str, object]:
    return {
        "image": image.name,
        "split": image.split,
        "kind": type(image.scene).__name__,
        "scene": asdict(image.scene),
        "unseen": asdict(image.unseen),
    }


def _pair_files(split: str, pairs: Sequence[ScoredPair]) -> dict[str, bytes]:
    rows = [(pair.kind, f"{split}_{pair.image1:05d}.png", f"{split}_{pair.image2:05d}.png") for pair in pairs]
    return {
        f"sts/{split}.tsv": _lines(f"{pair.score:.3f}\t{pair.sentence1}\t{pair.sentence2}" for pair in pairs),
        f"sts/{split}_pairs.csv": _csv_bytes(("kind", "image1", "image2"), rows),
    }


def _random(config: WorldConfig, purpose: str) -> Random:
    """A generator of its own for each purpose, so that changing one count leaves all other draws as they were."""
    return Random(f"{config.seed}: {purpose}")


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def _csv_bytes(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue().encode()
