"""Readers of SentEval's transfer tasks, the classifier behind them, and the suite."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from torch import nn

from mcse.data.test_sets import transfer as data
from mcse.data.test_sets.transfer import TRANSFER_TASKS, find_transfer, load_transfer, load_transfer_task
from mcse.evaluation.encoding import RowStore
from mcse.evaluation.softmax import DECAYS, Fit, Fitted, Training, best_decay, fit_all, stratified_folds
from mcse.evaluation.suite import Subject, SuiteOptions, why_no_average
from mcse.evaluation.suites import transfer
from mcse.evaluation.suites.transfer import MODES, prepare_transfer, score_transfer
from mcse.types import ScoreKey, score_tree
from tests.fixtures.senteval import write, write_transfer

QUICK = MODES["fasttest"].training
WIDTH = 6


class WordCounts:
    """Rows that count the label words ``w0`` … ``w5``, blurred by noise drawn from the sentence; not unit rows."""

    def __init__(self, *, noise: float = 1.0) -> None:
        self.noise = noise
        self.encoded: list[str] = []
        self.normalized: list[bool] = []

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> np.ndarray:
        self.encoded += sentences
        self.normalized.append(normalize)
        count = np.array([[text.split().count(f"w{label}") for label in range(WIDTH)] for text in sentences])
        seeds = [int.from_bytes(text.encode()[-8:], "big") for text in sentences]
        noise = np.array([np.random.default_rng(seed).normal(size=WIDTH) for seed in seeds])
        return (3 * count + self.noise * noise).astype(np.float32)


@pytest.fixture
def senteval(tmp_path: Path) -> Path:
    return write_transfer(tmp_path / "data")


# --- readers


@pytest.mark.parametrize("parent", ["", "downstream", "senteval", "senteval/downstream"])
def test_folder_is_found(tmp_path: Path, parent: str) -> None:
    home = write_transfer(tmp_path / parent, each=3)
    assert find_transfer(tmp_path) == home
    assert [task.name for task in load_transfer(tmp_path).tasks] == list(TRANSFER_TASKS)


def test_what_is_read(senteval: Path) -> None:
    tasks = {task.name: task for task in load_transfer(senteval).tasks}
    for name in ("MR", "CR", "SUBJ", "MPQA"):
        (split,) = tasks[name].splits
        assert split == "train"
        assert len(tasks[name].splits["train"]) == 60
    assert list(tasks["SST2"].splits) == ["train", "dev", "test"]
    assert tasks["TREC"].classes == 6
    trec = tasks["TREC"].splits["test"]
    assert set(trec.label_P.tolist()) == set(range(6))
    assert sum("ð" in text for text in trec.sentences) == 1, "byte 0xf0 is Latin-1, not UTF-8"
    assert all(not text.startswith("sub") for text in trec.sentences)
    mrpc = tasks["MRPC"].splits["train"]
    assert len(mrpc) == len(mrpc.second) == 60
    assert all(left.startswith("w0 ") for left in mrpc.sentences)
    for text in tasks["MR"].splits["train"].sentences:
        assert text == " ".join(text.split())


def test_positive_sentences_and_objective_ones_have_label_1(senteval: Path) -> None:
    write(senteval / "SUBJ/subj.objective", "an objective one\n" * 3)
    write(senteval / "SUBJ/subj.subjective", "mine\n" * 2)
    text = load_transfer_task(senteval, "SUBJ").splits["train"]
    assert text.sentences == ("mine",) * 2 + ("an objective one",) * 3
    assert text.label_P.tolist() == [0, 0, 1, 1, 1]


def test_order_is_by_words_then_label_then_file(tmp_path: Path) -> None:
    write(tmp_path / "MR/rt-polarity.pos", "b b\nlonger than all\na\n")
    write(tmp_path / "MR/rt-polarity.neg", "z z\n\ny y\n")
    text = load_transfer_task(tmp_path, "MR").splits["train"]
    assert text.sentences == ("", "a", "z z", "y y", "b b", "longer than all")
    assert text.label_P.tolist() == [0, 1, 0, 0, 1, 1]


def test_missing_files_make_a_task_absent(senteval: Path) -> None:
    (senteval / "TREC/TREC_10.label").unlink()
    (senteval / "CR/custrev.pos").unlink()
    (senteval / "CR/custrev.neg").unlink()
    found = load_transfer(senteval)
    assert [task.name for task in found.tasks] == ["MR", "SUBJ", "MPQA", "SST2", "MRPC"]
    assert found.absent["TREC"] == f"missing file {senteval}/TREC/TREC_10.label"
    assert "custrev.pos" in found.absent["CR"]
    assert "custrev.neg" in found.absent["CR"]


def test_no_data_at_all(tmp_path: Path, senteval: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give --data a SentEval folder"):
        load_transfer(None)
    with pytest.raises(FileNotFoundError, match="no folder at .*nowhere"):
        load_transfer(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="none of CR/, MPQA/, MR/.* in .*empty"):
        load_transfer(tmp_path / "empty")
    (tmp_path / "half/MR").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no transfer task is complete: missing file .*rt-polarity.pos"):
        load_transfer(tmp_path / "half")
    with pytest.raises(ValueError, match="unknown transfer task 'SST5'"):
        load_transfer_task(senteval, "SST5")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("MR", "MR/rt-polarity.neg", "\n \n", "rt-polarity.neg is empty"),
        ("SST2", "SST/binary/sentiment-dev", "good\t1\nbad\n", "sentiment-dev, line 2: expected sentence<TAB>label"),
        ("SST2", "SST/binary/sentiment-dev", "good\t1\nbad\t2\n", "sentiment-dev, line 2: label '2' is neither"),
        ("SST2", "SST/binary/sentiment-dev", "good\t1\n", "sentiment-dev: no line has label 0"),
        ("SST2", "SST/binary/sentiment-dev", b"good\t1\nb\xe4d\t0\n", "sentiment-dev, line 2: not UTF-8"),
        ("TREC", "TREC/TREC_10.label", "NUM:x how\nWHAT:x so\n", "TREC_10.label, line 2: expected one of ABBR"),
        ("TREC", "TREC/TREC_10.label", "NUM:x how\nLOC:x\n", "TREC_10.label, line 2: empty sentence"),
        ("MRPC", "MRPC/msr_paraphrase_test.txt", "1\t2\t3\ta\tb\n", "test.txt, line 1: expected MRPC's header"),
        ("MRPC", "MRPC/msr_paraphrase_test.txt", "Quality\t\n1\t2\t3\ta\n", "line 2: 4 tab-separated columns"),
        ("MRPC", "MRPC/msr_paraphrase_test.txt", "Quality\t\nyes\t2\t3\ta\tb\n", "line 2: label 'yes' is neither"),
    ],
)
def test_damaged_files(senteval: Path, name: str, file: str, content: str | bytes, message: str) -> None:
    write(senteval / file, content)
    with pytest.raises(ValueError, match=message):
        load_transfer_task(senteval, name)


def test_what_is_not_published_is_said(senteval: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        task = load_transfer_task(senteval, "SUBJ")
    assert "SUBJ: not the published data, so its scores are not comparable" in caplog.text
    assert any(fault.startswith("SUBJ/subj.objective has SHA-256") for fault in task.altered)
    assert "60 instead of 10,000 in train" in task.altered
    prepared = prepare_transfer(SuiteOptions(data=str(senteval)))
    assert "NOT the published data: MR, CR, SUBJ" in prepared.summary


@pytest.mark.slow
def test_published_data(real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tasks = load_transfer(real_data).tasks
    assert [task.name for task in tasks] == list(TRANSFER_TASKS)
    assert not caplog.records
    counts = {task.name: {split: len(text) for split, text in task.splits.items()} for task in tasks}
    assert counts == data.PUBLISHED_COUNTS
    assert all(not task.altered for task in tasks)
    # One letter less, on as many lines.
    for file in data._TWO_FILES["SUBJ"]:
        content = (find_transfer(real_data) / file).read_bytes()
        write(tmp_path / file, content[1:] if file.endswith("objective") else content)
    faults = load_transfer_task(tmp_path, "SUBJ").altered
    assert len(faults) == 1
    assert faults[0].startswith("SUBJ/subj.objective has SHA-256")


# --- folds and classifier


@pytest.mark.parametrize("folds", [3, 5, 10])
@pytest.mark.parametrize("classes", [2, 6])
def test_folds_are_those_of_scikit_learn(folds: int, classes: int) -> None:
    label = np.random.default_rng(folds).choice(
        classes, size=437, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2)
    )
    for labels in (label, np.sort(label)[::-1].copy()):
        ours = stratified_folds(labels, folds=folds)
        theirs = list(StratifiedKFold(folds, shuffle=True, random_state=1111).split(labels, labels))
        assert len(ours) == len(theirs) == folds
        for (train, held), (expected_train, expected_held) in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(train, expected_train)
            np.testing.assert_array_equal(held, expected_held)


def test_too_small_a_class() -> None:
    with pytest.raises(ValueError, match="a class of 4 rows cannot be spread over 5 folds"):
        stratified_folds(np.repeat([0, 1], [4, 20]), folds=5)


def blobs(count: int, *, classes: int, width: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label = random.integers(classes, size=count)
    center = random.normal(size=(classes, width))
    return (center[label] + 1.5 * random.normal(size=(count, width))).astype(np.float32), label


def plain_fit(
    row: np.ndarray, label: np.ndarray, fit: Fit, decay: float, *, classes: int, training: Training
) -> tuple[nn.Linear, np.ndarray]:
    """One fit the plain way: a linear layer, PyTorch's optimizer, one batch after another."""
    state = torch.random.get_rng_state()
    torch.manual_seed(1111)
    model = nn.Linear(row.shape[1], classes)
    torch.random.set_rng_state(state)
    draws = np.random.RandomState(1111)
    train, held = fit.train_T, fit.held_H
    if held is None:
        order = draws.permutation(len(train))
        held, train = train[order[: int(0.05 * len(train))]], train[order[int(0.05 * len(train)) :]]
    make = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[training.optimizer]
    optimizer = make(model.parameters(), weight_decay=decay)
    x, y = torch.from_numpy(row), torch.from_numpy(label)
    best, misses, epochs, kept, right = -1.0, 0, 0, model, np.array([])
    while epochs <= 200:
        for _ in range(training.epochs_per_check):
            order = train[draws.permutation(len(train))]
            for start in range(0, len(order), training.batch_size):
                at = order[start : start + training.batch_size]
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[at]), y[at]).backward()
                optimizer.step()
        epochs += training.epochs_per_check
        hit = (model(x[held]).argmax(1) == y[held]).numpy()
        if hit.mean() > best:
            best, kept, right = hit.mean(), copy.deepcopy(model), hit
        elif misses >= training.tenacity:
            break
        else:
            misses += 1
    return kept, right


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_fits_side_by_side_are_single_fits(classes: int, optimizer: Literal["adam", "rmsprop"]) -> None:
    """Folds of unequal size, some with rows still to hold out, all decays: as by a linear layer trained alone."""
    row, label = blobs(122, classes=classes)
    training = Training(optimizer=optimizer, batch_size=32, epochs_per_check=2, tenacity=1)
    fits = [Fit(train_T=train, held_H=held) for train, held in stratified_folds(label, folds=4)]
    fits += [Fit(train_T=train, held_H=None, decays=(1e-2,)) for train, _ in stratified_folds(label, folds=3)]
    assert len({len(fit.train_T) for fit in fits}) > 2
    found = fit_all(row, label, fits, classes=classes, training=training)
    for fit, fitted in zip(fits, found, strict=True):
        for number, decay in enumerate(fit.decays):
            model, right = plain_fit(row, label, fit, decay, classes=classes, training=training)
            expected = torch.cat([model.weight, model.bias[:, None]], dim=1).detach()
            torch.testing.assert_close(fitted.weight_RCD[number], expected, rtol=1e-3, atol=1e-4)
            np.testing.assert_array_equal(fitted.right_RH[number], right)
            predicted = model(torch.from_numpy(row)).argmax(1).numpy()
            np.testing.assert_array_equal(fitted.predict(row, decay=number), predicted)


def test_decays_differ_and_global_seeds_stay() -> None:
    row, label = blobs(200, classes=2)
    np.random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    fit = Fit(train_T=np.arange(150), held_H=np.arange(150, 200), decays=(1e-5, 1.0))
    (fitted,) = fit_all(row, label, [fit], classes=2, training=QUICK)
    norm = fitted.weight_RCD.norm(dim=(1, 2))
    assert norm[1] < 0.8 * norm[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_fits_do_not_depend_on_their_company() -> None:
    row, label = blobs(240, classes=2, width=2000)
    fits = [Fit(train_T=train, held_H=held) for train, held in stratified_folds(label, folds=6)]
    together = fit_all(row, label, fits, classes=2, training=QUICK)
    assert 4 * QUICK.batch_size * 2001 * 6 > 2**21, "too few to go in more than one batch of fits"
    for fit, expected in zip(fits, together, strict=True):
        (alone,) = fit_all(row, label, [fit], classes=2, training=QUICK)
        np.testing.assert_array_equal(alone.right_RH, expected.right_RH)


def test_too_few_rows_to_hold_out() -> None:
    row, label = blobs(19, classes=2)
    with pytest.raises(ValueError, match="19 rows are too few to hold out 5%"):
        fit_all(row, label, [Fit(train_T=np.arange(19), held_H=None)], classes=2, training=QUICK)


def fitted_with(accuracies: Sequence[float]) -> Fitted:
    right = np.arange(100_000) < 100_000 * np.array(accuracies)[:, None]
    return Fitted(weight_RCD=torch.zeros(len(accuracies), 2, 1), right_RH=right)


def test_best_decay_is_the_smallest_of_equals() -> None:
    assert best_decay([fitted_with([0.5, 0.7, 0.6, 0.7])]) == 1
    assert best_decay([fitted_with([0.5, 0.7, 0.6, 0.71]), fitted_with([0.5, 0.7, 0.6, 0.68])]) == 1
    assert best_decay([fitted_with([0.70002, 0.70004, 0.7, 0.7])]) == 0, "equal to two decimals of a per cent"
    assert best_decay([fitted_with([0.70002, 0.70008, 0.7, 0.7])]) == 1


# --- the suite


@pytest.fixture
def small_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Training(optimizer="rmsprop", batch_size=16, epochs_per_check=4, tenacity=0)
    for name, scores_dev in (("test", False), ("dev", True), ("fasttest", False)):
        monkeypatch.setitem(transfer.MODES, name, transfer.Mode(folds=3, training=quick, scores_dev=scores_dev))


def test_settings_are_those_of_senteval() -> None:
    assert MODES["test"].folds == 10
    assert MODES["test"].training == Training(optimizer="adam", batch_size=64, epochs_per_check=4, tenacity=5)
    for name in ("dev", "fasttest"):
        assert MODES[name].folds == 5
        assert MODES[name].training == Training(optimizer="rmsprop", batch_size=128, epochs_per_check=2, tenacity=3)
    assert [MODES[name].scores_dev for name in ("test", "dev", "fasttest")] == [False, True, False]
    assert DECAYS == (1e-5, 1e-4, 1e-3, 1e-2)


@pytest.mark.usefixtures("small_modes")
def test_suite(senteval: Path) -> None:
    encoder = WordCounts()
    prepared = prepare_transfer(SuiteOptions(data=str(senteval)))
    found = prepared.run(Subject.of(encoder, batch_size=8))
    scores = score_tree(found.scores)["transfer"]
    assert list(scores) == [*TRANSFER_TASKS, "average"]
    for name in TRANSFER_TASKS:
        assert 80 < scores[name]["accuracy"] <= 100, name
        assert scores[name]["accuracy_low"] <= scores[name]["accuracy"] <= scores[name]["accuracy_high"]
        sample = found.samples[ScoreKey.parse(f"transfer.{name}.accuracy")]
        assert sample.statistic == "mean"
        assert scores[name]["accuracy"] == pytest.approx(sample.value_P.mean())
        assert scores[name]["pairs"] == len(sample.value_P) == (180 if name == "TREC" else 60)
        assert set(sample.value_P) <= {0.0, 100.0}
    mean = np.mean([scores[name]["accuracy"] for name in TRANSFER_TASKS])
    assert scores["average"]["accuracy"] == pytest.approx(mean)
    assert scores["average"]["accuracy_low"] < mean < scores["average"]["accuracy_high"]
    sample = found.samples[ScoreKey.parse("transfer.MRPC.f1")]
    assert scores["MRPC"]["f1"] == pytest.approx(100 * f1_score(sample.gold_P, sample.value_P))
    assert scores["MRPC"]["f1_low"] <= scores["MRPC"]["f1"] <= scores["MRPC"]["f1_high"]
    assert [column.label for column in found.columns] == [*TRANSFER_TASKS, "Avg."]
    assert not found.absent
    assert "NOT the published data" in found.protocols["transfer.SUBJ"]
    assert len(encoder.encoded) == len(set(encoder.encoded)), "a sentence was encoded twice"
    assert set(encoder.normalized) == {False}


def test_features_of_a_pair(senteval: Path) -> None:
    text = load_transfer_task(senteval, "MRPC").splits["test"]
    encoder = WordCounts()
    left, right = encoder.encode(text.sentences), encoder.encode(text.second)
    found = transfer._features(text, RowStore(encoder))
    assert found.shape == (len(text), 2 * WIDTH)
    for number in range(len(text)):
        for width in range(WIDTH):
            assert found[number, width] == abs(left[number, width] - right[number, width])
            assert found[number, WIDTH + width] == left[number, width] * right[number, width]


@pytest.mark.usefixtures("small_modes")
def test_noise_is_at_chance(senteval: Path) -> None:
    """Rows that say nothing: near a half, within the interval, with every sentence judged by who has not seen it."""
    encoder = WordCounts()
    encoder.encode = lambda sentences, **_: np.random.default_rng(0).normal(size=(len(sentences), 4)).astype(np.float32)
    scores = score_tree(prepare_transfer(SuiteOptions(data=str(senteval))).run(Subject.of(encoder)).scores)["transfer"]
    for name in ("MR", "CR", "SUBJ", "MPQA", "SST2"):
        assert scores[name]["accuracy_low"] < 62, name
        assert 30 < scores[name]["accuracy"] < 70, name


@pytest.mark.usefixtures("small_modes")
def test_dev_does_not_score_the_test_split(senteval: Path) -> None:
    """Other labels in the test splits move nothing under ``dev``; it judges the folds, or the dev split."""
    options = SuiteOptions(data=str(senteval), transfer_mode="dev")
    first = prepare_transfer(options).run(Subject.of(WordCounts()))
    for file, old, new in (("SST/binary/sentiment-test", "\t1", "\t0"), ("TREC/TREC_10.label", "LOC:", "NUM:")):
        text = (senteval / file).read_bytes().replace(old.encode(), new.encode(), 25)
        write(senteval / file, text)
    second = prepare_transfer(options).run(Subject.of(WordCounts()))
    assert first.scores == second.scores
    assert first.absent == {"transfer.MRPC.f1": "mode dev does not score the test split"}
    assert "f1" not in score_tree(first.scores)["transfer"]["MRPC"]
    assert score_tree(first.scores)["transfer"]["SST2"]["pairs"] == 60
    mr = first.samples[ScoreKey.parse("transfer.MR.accuracy")].value_P
    assert set(np.unique(mr).tolist()) <= {0.0, 50.0, 100.0}, (
        "a sentence is held out once within each of two outer folds"
    )
    test = score_tree(prepare_transfer(SuiteOptions(data=str(senteval))).run(Subject.of(WordCounts())).scores)[
        "transfer"
    ]
    assert test["SST2"]["accuracy"] < score_tree(first.scores)["transfer"]["SST2"]["accuracy"]


@pytest.mark.usefixtures("small_modes")
def test_nested_folds_against_a_plain_loop(senteval: Path) -> None:
    (task,) = [task for task in load_transfer(senteval).tasks if task.name == "MR"]
    encoder, mode = WordCounts(noise=3.0), MODES["test"]
    text = task.splits["train"]
    row, label = encoder.encode(text.sentences, normalize=False), text.label_P
    right, dev = np.zeros(len(text)), []
    plain = {"classes": 2, "training": mode.training}
    for train, test in StratifiedKFold(mode.folds, shuffle=True, random_state=1111).split(row, label):
        means = []
        for decay in DECAYS:
            inner = StratifiedKFold(mode.folds, shuffle=True, random_state=1111).split(row[train], label[train])
            hits = [
                plain_fit(row, label, Fit(train_T=train[kept], held_H=train[held]), decay, **plain)[1]
                for kept, held in inner
            ]
            means.append(round(100 * np.mean([hit.mean() for hit in hits]), 2))
        dev.append(max(means))
        model, _ = plain_fit(row, label, Fit(train_T=train, held_H=None), DECAYS[int(np.argmax(means))], **plain)
        right[test] = (model(torch.from_numpy(row[test])).argmax(1).numpy() == label[test]).astype(float)
    (found,) = score_transfer(RowStore(encoder), [task], mode="test")
    np.testing.assert_array_equal(found.right_P, right)
    assert 55 < found.accuracy < 95, "a task too easy or too hard to tell"
    (found,) = score_transfer(RowStore(encoder), [task], mode="dev")
    assert found.accuracy == pytest.approx(np.mean(dev), abs=0.5), "apart by folds that differ by one sentence"


@pytest.mark.usefixtures("small_modes")
def test_missing_task_gives_no_average(senteval: Path) -> None:
    (senteval / "TREC/TREC_10.label").unlink()
    with pytest.raises(ValueError, match=r"TREC: missing file .*TREC_10\.label; fetch .*--allow-missing"):
        prepare_transfer(SuiteOptions(data=str(senteval)))
    prepared = prepare_transfer(SuiteOptions(data=str(senteval), allow_missing=True))
    assert "without TREC" in prepared.summary
    found = prepared.run(Subject.of(WordCounts()))
    assert "average" not in score_tree(found.scores)["transfer"]
    assert "Avg." not in [column.label for column in found.columns]
    assert found.absent["transfer.average"] == "no average: it is over 7 tasks, and TREC is missing"
    assert found.absent["transfer.TREC"].endswith("TREC_10.label")
    assert why_no_average(TRANSFER_TASKS, ()).endswith(f"{', '.join(TRANSFER_TASKS)} are missing")


def test_too_few_sentences_name_the_task(tmp_path: Path) -> None:
    write_transfer(tmp_path, each=6)
    with pytest.raises(ValueError, match="MR: a class of 6 rows cannot be spread over 10 folds"):
        prepare_transfer(SuiteOptions(data=str(tmp_path))).run(Subject.of(WordCounts()))


def test_digest_follows_files_and_mode(senteval: Path) -> None:
    def digest(mode: Literal["test", "dev", "fasttest"] = "test") -> str:
        return prepare_transfer(SuiteOptions(data=str(senteval), transfer_mode=mode)).digest

    first = digest()
    assert digest("fasttest") != first
    assert digest("dev") != digest("fasttest")
    assert digest() == first
    write(senteval / "CR/custrev.pos", (senteval / "CR/custrev.pos").read_bytes() + b"one more\n")
    assert digest() != first
