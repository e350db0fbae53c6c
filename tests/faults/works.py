"""What writes files that somebody reads later: a table of commands, and how to tell that what they left is right.

A *site* is a folder with a work's output and the caches that it keeps; its inputs lie elsewhere and stay as they are.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from mcse.commands.main import main
from mcse.config import to_yaml
from mcse.data.images.features import open_features
from mcse.data.named_columns import open_named_columns
from mcse.data.table_config import NamedTable
from mcse.encoders.loading import load_encoder
from mcse.files import sha256_file
from mcse.manifest import MANIFEST, Manifest, check_files
from mcse.models.checkpoint import save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.recipes.launch import load_config
from mcse.run_folder import METRICS, read_run, saved_states
from mcse.search import EmbeddingIndex, builder, mining
from mcse.search.embedding_files import read_embeddings
from mcse.search.image_index import ImageIndex
from mcse.training.state import _damage
from tests.fixtures.colour_model import build_colour_model, draw_colours
from tests.fixtures.launch import TIMING, flags_of
from tests.fixtures.processes import ready_server
from tests.fixtures.tiny_run import build_tiny_run, tiny_keys
from tests.fixtures.tiny_shards import shards_of_tiny_run
from tests.unit.commands.test_prepare import tar_into, write_senteval

Content = dict[str, Any]
"""What can be read, by name."""

RUN = {"train.resume": "auto", "train.max_steps": 12, "train.save_steps": 2, "train.log_steps": 1}
TARS = {"data.captions": "shards/pairs-{000..003}.tar", "data.images": {"shards": "features"}}
SENTENCES = [str(number) for number in range(300)]
PROMPTS = ("cat ", "fox ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A writer.

    Attributes:
        commands: What is typed, with ``{inputs}`` and ``{output}``; of several that start at once each takes the next.
        read: What stands in the output. Whatever it reads must be right; at the end nothing may be lacking.
        together: How many start at once.
        second: How one that comes when the first has ended is refused, if it is.
        resumes: Whether the first command, given again, goes on after a kill.
    """

    commands: tuple[str, ...]
    read: Callable[[Path], Content]
    together: int = 2
    second: str = "never"
    resumes: bool = True


def build_inputs(folder: Path) -> Path:
    """All that the works read."""
    tiny = build_tiny_run(folder)
    shards_of_tiny_run(tiny)
    build_checkpoint(tiny / "bert", folder / "checkpoint")
    build_colour_model(folder / "joint")
    draw_colours(folder / "images")
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:02d}.png")
    tar_into(folder / "mirror", write_senteval(folder / "made"), prefix=".")
    for name, recipe, more in (
        ("text", "simcse", {}),
        ("tars", "mcse", TARS),
        ("tables", "tables", {}),
        ("once", "simcse", {"train.resume": ...}),
    ):
        keys = {**tiny_keys(tiny, recipe, folder / "unused"), **RUN, **more}
        (folder / f"{name}.yaml").write_text(to_yaml(load_config(None, flags_of(keys))))
    return folder


def build_checkpoint(bert: Path, folder: Path) -> None:
    """A sentence encoder that says how it pools."""
    save_checkpoint(
        folder,
        encoder=load_text_encoder(str(bert), pooling="mean"),
        tokenizer=load_tokenizer(str(bert)),
        manifest=Manifest(kind="sentence", recipe="simcse", pooling="mean"),
        text_head=None,
        image_heads={},
        card="",
    )


class Words:
    """An encoder of numbers; another one for each ``shift``."""

    name = "words"

    def __init__(self, shift: int) -> None:
        row_ND = np.random.default_rng(shift).standard_normal((len(SENTENCES), 64)).astype(np.float32)
        self._row_ND = row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)

    def encode(self, sentences: list[str], *, batch_size: int = 64, normalize: bool = True) -> Any:
        return self._row_ND[[int(sentence) for sentence in sentences]]


def read_a_run(output: Path) -> Content:
    """Numbers and seed of a run and, where it has ended, its weights; states and models are whole at any time."""
    if not (output / "config.yaml").is_file():
        return {}
    run = read_run(output)
    found: Content = {"seed": run.seed}
    for state in saved_states(output / "state"):
        damage = _damage(state)
        assert damage is None, damage
    for name in ("best", "last"):
        check_files(output / name)
    for line in (output / METRICS).read_text().splitlines() if run.steps else ():
        if line.endswith("}"):  # ``read_run`` refuses all damage but a last line that was cut short
            entry = {name: value for name, value in json.loads(line).items() if name not in TIMING}
            found[f"step {entry['step']}: {', '.join(entry)}"] = entry
    if run.state == "finished":
        parts = [output / "best", output / "last", saved_states(output / "state")[-1]]
        files = [path for part in parts for path in sorted(part.glob("*.safetensors"))]
        found |= {str(path.relative_to(output)): sha256_file(path) for path in files}
    return found


def read_an_index(output: Path) -> Content:
    index = ImageIndex.load(output)
    return {image.path: row.tolist() for image, row in zip(index.images, index.rows_ND, strict=True)}


def read_features(output: Path) -> Content:
    store = open_features(output)
    rows = store.rows(np.arange(len(store)))
    return {name: row.tolist() for name, row in zip(store.names or (), rows, strict=True)}


def read_prepared(output: Path) -> Content:
    """What the manifest says is there, which must be."""
    if not (output / "manifest.json").is_file():
        return {}
    files = json.loads((output / "manifest.json").read_text())["datasets"]["sts"]["files"]
    for file in files:
        assert sha256_file(output / file["path"]) == file["sha256"], f"{file['path']} was verified and is another file"
    return {file["path"]: file["sha256"] for file in files}


def read_a_report(output: Path) -> Content:
    if not (output / "results.json").is_file():
        return {}
    return {"scores": json.loads((output / "results.json").read_text())["scores"]}


def read_mined(output: Path) -> Content:
    if not (output / "mined.jsonl").is_file():
        return {}
    table = open_named_columns(NamedTable(path=str(output / "mined.jsonl")), root=Path(), key="TABLE")
    assert len(table.texts) == 3
    return {str(number): row.texts for number, row in enumerate(table.rows())}


def read_embedded(output: Path) -> Content:
    """Other copies of the weights may give other last bits, so that rows are compared here."""
    inputs, found = output.parents[1] / "inputs", list(read_embeddings(output))
    texts = (inputs / "sentences.txt").read_text().splitlines()
    expected_ND = load_encoder(str(inputs / "checkpoint")).encode(texts)
    for ids, rows in found:
        np.testing.assert_allclose(rows, expected_ND[ids], atol=1e-6)
    return {str(name): "right" for ids, _ in found for name in ids}


def read_an_export(output: Path) -> Content:
    """Of an export over which another one is made again and again: one of the two, which gives what it says."""
    found = output if output.exists() else output.with_name(f"{output.name}.old")
    if not found.exists():
        return {}
    assert (found / MANIFEST).is_file(), f"{found}: half an export"
    encoder = load_encoder(str(found))
    assert encoder.prompt in PROMPTS, encoder.prompt
    original = load_encoder(str(output.parents[1] / "inputs" / "checkpoint"))
    np.testing.assert_allclose(encoder.encode(["the dog"]), original.encode([f"{encoder.prompt}the dog"]), atol=1e-5)
    return {"an export": "whole"}


def read_sentences(output: Path) -> Content:
    """Of an index over which another one is saved again and again: one of the two."""
    if not (output / "index.json").is_file():
        return {}
    for shift in (1, 0):
        try:
            index = EmbeddingIndex.load(output, Words(shift))
        except ValueError as error:
            if "another encoder" not in str(error):
                raise
            continue
        hits = index.search(SENTENCES, top_k=1)
        assert [hit.text for (hit,) in hits] == SENTENCES
        return {"an index": "whole"}
    raise AssertionError(f"{output}: texts of one index with embeddings of another")


TRAIN = "train --config {inputs}/NAME.yaml --output_dir {output}"

WORKS: dict[str, Work] = {
    "train, token cache, states": Work(
        commands=tuple(f"{TRAIN.replace('NAME', 'text')} --seed {seed}" for seed in (0, 1)),
        read=read_a_run,
        second="was trained with seed",
    ),
    "train on tars, their index": Work(commands=(TRAIN.replace("NAME", "tars"),), read=read_a_run),
    "train on tables": Work(commands=(TRAIN.replace("NAME", "tables"),), read=read_a_run),
    "train twice": Work(
        commands=(TRAIN.replace("NAME", "once"),), read=read_a_run, second="is not empty", resumes=False
    ),
    "train over a living run": Work(
        commands=(TRAIN.replace("NAME", "once"), f"{TRAIN.replace('NAME', 'once')} --overwrite"),
        read=read_a_run,
        second="is not empty",
        resumes=False,
    ),
    "prepare": Work(commands=("prepare sts --root {output} --mirror {inputs}/mirror",), read=read_prepared),
    "search index": Work(
        commands=("search index {inputs}/images --model {inputs}/joint --batch-size 2 --output {output}",),
        read=read_an_index,
        together=3,
    ),
    "evaluate, kept results": Work(
        commands=("evaluate {inputs}/bert --pooling mean --data {inputs}/dev.tsv --output {output}",),
        read=read_a_report,
    ),
    "extract-features": Work(
        commands=("extract-features --images {inputs}/images --tower pixels:8 --batch-size 2 --output {output}",),
        read=read_features,
        second="finished feature store",
    ),
    "mine": Work(
        commands=("mine {inputs}/nli.csv --model {inputs}/checkpoint --batch-size 2 --output {output}/mined.jsonl",),
        read=read_mined,
        second="mined.jsonl is there; give --overwrite",
    ),
    "embed": Work(
        commands=("embed {inputs}/checkpoint --input {inputs}/sentences.txt --rows-a-file 8 --output {output}",),
        read=read_embedded,
    ),
    "export over an export": Work(
        commands=("export {inputs}/checkpoint --to onnx --overwrite --output {output}",),
        read=read_an_export,
        together=3,
    ),
    "EmbeddingIndex.save": Work(commands=("save {output}",), read=read_sentences, together=3),
}


def start(command: str, inputs: Path, site: Path, *, log: Path) -> ForkServerProcess:
    """A command in a process of its own, which keeps its output and its caches in ``site``."""
    words = [word.format(inputs=inputs, output=site / "output") for word in command.split()]
    process = ready_server().Process(target=_work, args=(words, site, log))
    process.start()
    return process


def _work(words: list[str], site: Path, log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    sys.exit(work_here(words, site))


def work_here(words: list[str], site: Path) -> int:
    """A command in this process, which is a child."""
    torch.set_num_threads(1)
    builder._SAVE_SECONDS = 0.0
    mining._TEXTS_A_PART = 8
    os.environ["MCSE_CACHE"] = str(site / "cache")
    datasets.config.HF_DATASETS_CACHE = site / "cache"
    logging.captureWarnings(True)
    if words[0] == "export":
        return next((code for prompt in PROMPTS if (code := main([*words, "--prompt", prompt]))), 0)
    if words[0] != "save":
        return main(words)
    for shift in (1, 0, 1, 0, 1):
        EmbeddingIndex.build(Words(shift), SENTENCES).save(words[1])
    return 0


def leftovers(site: Path) -> list[str]:
    """What only an end in the middle of a write leaves."""
    return [str(path) for path in site.rglob("*") if path.name.endswith((".partial", ".old", ".lock", ".damaged"))]
