"""The transfer suite: accuracy of softmax regression on frozen rows, under SentEval's protocols and settings.

P sentences or sentence pairs under test, D width, F width of a classifier's features.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.transfer import TRANSFER_TASKS, LabelledText, TransferData, TransferTask, load_transfer
from mcse.evaluation.encoding import Rows
from mcse.evaluation.softmax import DECAYS, Fit, Labels, Training, best_decay, fit_all, stratified_folds
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions, TransferMode, data_digest, why_no_average
from mcse.progress import in_phase, phase
from mcse.types import Column, FloatArray, Sample, ScoreKey, SuiteScores, keyed_scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One of SentEval's settings; ``scores_dev`` reports accuracy on held-out folds or the dev split, not on test."""

    folds: int
    training: Training
    scores_dev: bool


_THOROUGH = Training(optimizer="adam", batch_size=64, epochs_per_check=4, tenacity=5)
_QUICK = Training(optimizer="rmsprop", batch_size=128, epochs_per_check=2, tenacity=3)

MODES: Mapping[TransferMode, Mode] = {
    "test": Mode(folds=10, training=_THOROUGH, scores_dev=False),
    "dev": Mode(folds=5, training=_QUICK, scores_dev=True),
    "fasttest": Mode(folds=5, training=_QUICK, scores_dev=False),
}
"""As SimCSE's evaluation sets SentEval."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TransferTaskScore:
    """Accuracy × 100 and what it is the mean of: ``right_P``, 1 or 0, or under ``dev`` the share of nested folds.

    ``predicted_P`` and ``label_P`` are there where F1 is (MRPC on its test split), and ``f1`` is × 100.
    """

    name: str
    accuracy: float
    right_P: NDArray[np.float64]
    f1: float | None = None
    predicted_P: Labels | None = None
    label_P: Labels | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    right_P: NDArray[np.float64]
    predicted_P: Labels | None = None


def score_transfer(rows: Rows, tasks: Sequence[TransferTask], *, mode: TransferMode) -> list[TransferTaskScore]:
    """Scores in the order of ``tasks``, from raw rows; each distinct sentence of all tasks is encoded once.

    Raises:
        ValueError: An encoder that does not give one row a sentence, or a class with fewer sentences than folds.
        UndefinedScoreError: NaN rows, or one row for all sentences.
    """
    rows.encode([sentence for task in tasks for sentence in task.sentences])
    scores = []
    for number, task in enumerate(tasks, 1):
        try:
            with phase(f"classifiers of {task.name} ({number} of {len(tasks)} tasks)", is_shown=in_phase()):
                scores.append(_score_task(task, rows, MODES[mode]))
        except ValueError as error:
            raise ValueError(f"{task.name}: {error}") from None
        logger.info("%s: accuracy %.2f", task.name, scores[-1].accuracy)
    return scores


def prepare_transfer(options: SuiteOptions) -> PreparedSuite:
    """Reads the transfer tasks below ``options.data``.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A file cannot be read.
    """
    data = load_transfer(options.data)
    options.check_whole(data.cut, data.absent)
    mode = options.transfer_mode

    def score(subject: Subject) -> SuiteScores:
        return _suite_scores(score_transfer(subject.rows, data.tasks, mode=mode), data, mode)

    summary = f"{len(data.tasks)} tasks, {sum(len(task.sentences) for task in data.tasks):,} sentences, mode {mode}"
    if data.absent:
        summary += f"; without {', '.join(data.absent)}"
    if altered := [task.name for task in data.tasks if task.altered]:
        summary += f"; NOT the published data: {', '.join(altered)}"
    files = [file for task in data.tasks for file in task.files]
    return PreparedSuite(summary=summary, digest=data_digest(files, mode), score=score)


SUITE = Suite(
    name="transfer",
    version=1,
    needs="a SentEval folder (MR/, CR/, SUBJ/, MPQA/, SST/binary/, TREC/, MRPC/) by --data",
    prepare=prepare_transfer,
)


def _score_task(task: TransferTask, rows: Rows, mode: Mode) -> TransferTaskScore:
    outcome = (_fit_fixed if "dev" in task.splits else _fit_folds)(task, rows, mode)
    accuracy = 100 * float(outcome.right_P.mean())
    if outcome.predicted_P is None or not task.splits["train"].second:
        return TransferTaskScore(name=task.name, accuracy=accuracy, right_P=outcome.right_P)
    label_P = task.splits["test"].label_P
    return TransferTaskScore(
        name=task.name,
        accuracy=accuracy,
        right_P=outcome.right_P,
        f1=_f1(outcome.predicted_P, label_P),
        predicted_P=outcome.predicted_P,
        label_P=label_P,
    )


def _fit_folds(task: TransferTask, rows: Rows, mode: Mode) -> _Outcome:
    """The test split, by a classifier on train whose folds choose the weight decay.

    Without a test split every sentence once, by the classifier that has not seen its fold; folds inside the rest choose
    the weight decay. Under ``dev`` a sentence's share of right answers among the folds that chose.
    """
    text = task.splits["train"]
    row_PF, label_P = _features(text, rows), text.label_P
    every = np.arange(len(text))
    outer = [(every, every[:0])] if "test" in task.splits else stratified_folds(label_P, folds=mode.folds)
    inner = [
        [
            Fit(train_T=train[kept], held_H=train[held])
            for kept, held in stratified_folds(label_P[train], folds=mode.folds)
        ]
        for train, _ in outer
    ]
    tried = iter(fit_all(row_PF, label_P, list(chain(*inner)), classes=task.classes, training=mode.training))
    fitted = [[next(tried) for _ in group] for group in inner]
    choices = [best_decay(group) for group in fitted]
    right_P = np.zeros(len(text))
    if mode.scores_dev:
        for folds, group, choice in zip(inner, fitted, choices, strict=True):
            for fold, one in zip(folds, group, strict=True):
                right_P[fold.held_H] += one.right_RH[choice]
        return _Outcome(right_P / max(1, len(outer) - 1))
    chosen = [
        Fit(train_T=train, held_H=None, decays=(DECAYS[choice],))
        for (train, _), choice in zip(outer, choices, strict=True)
    ]
    final = fit_all(row_PF, label_P, chosen, classes=task.classes, training=mode.training)
    if "test" in task.splits:
        return _on_test(final[0].predict(_features(task.splits["test"], rows)), task)
    for (_, test), one in zip(outer, final, strict=True):
        right_P[test] = one.predict(row_PF[test]) == label_P[test]
    return _Outcome(right_P)


def _fit_fixed(task: TransferTask, rows: Rows, mode: Mode) -> _Outcome:
    """The test split, by the classifier on the train split that is best on the dev split; under ``dev`` that split."""
    train, dev = task.splits["train"], task.splits["dev"]
    row_PF = np.concatenate([_features(train, rows), _features(dev, rows)])
    label_P = np.concatenate([train.label_P, dev.label_P])
    fit = Fit(train_T=np.arange(len(train)), held_H=np.arange(len(train), len(label_P)))
    (fitted,) = fit_all(row_PF, label_P, [fit], classes=task.classes, training=mode.training)
    choice = best_decay([fitted])
    if mode.scores_dev:
        return _Outcome(fitted.right_RH[choice].astype(np.float64))
    return _on_test(fitted.predict(_features(task.splits["test"], rows), decay=choice), task)


def _on_test(predicted_P: Labels, task: TransferTask) -> _Outcome:
    return _Outcome((predicted_P == task.splits["test"].label_P).astype(np.float64), predicted_P)


def _features(text: LabelledText, rows: Rows) -> FloatArray:
    """(P, F) a sentence's raw row; of a pair |u - v| and u · v, element by element, side by side."""
    left_PD = rows.raw(text.sentences)
    if not text.second:
        return left_PD
    right_PD = rows.raw(text.second)
    return np.concatenate([np.abs(left_PD - right_PD), left_PD * right_PD], axis=1)


def _f1(predicted_P: Labels, label_P: Labels) -> float:
    """F1 × 100 of label 1; 0 where it is neither predicted nor true."""
    hits = int((predicted_P & label_P).sum())
    return 200 * hits / max(1, int(predicted_P.sum() + label_P.sum()))


def _suite_scores(tasks: Sequence[TransferTaskScore], data: TransferData, mode: TransferMode) -> SuiteScores:
    samples: dict[ScoreKey, Sample] = {}
    scores: dict[str, dict[str, float]] = {}
    absent = {f"transfer.{name}": reason for name, reason in data.absent.items()}
    for task in tasks:
        samples[_key(task.name)] = Sample(statistic="mean", value_P=100 * task.right_P)
        scores[task.name] = {"accuracy": task.accuracy, "pairs": len(task.right_P)}
        if task.f1 is not None and task.predicted_P is not None and task.label_P is not None:
            predicted_P, label_P = task.predicted_P.astype(np.float64), task.label_P.astype(np.float64)
            samples[_key(task.name, "f1")] = Sample(statistic="f1", value_P=predicted_P, gold_P=label_P)
            scores[task.name]["f1"] = task.f1
        elif task.name == "MRPC":
            absent["transfer.MRPC.f1"] = f"mode {mode} does not score the test split"
    means = {}
    if missing := why_no_average(TRANSFER_TASKS, scores):
        absent["transfer.average"] = missing
    else:
        average = float(np.mean([scores[name]["accuracy"] for name in TRANSFER_TASKS]))
        scores["average"] = {"accuracy": average, "pairs": sum(len(task.right_P) for task in tasks)}
        means[_key("average")] = {_key(name): 1.0 for name in TRANSFER_TASKS}
    return SuiteScores(
        scores=keyed_scores("transfer", scores),
        protocols=_protocols(data.tasks, mode),
        columns=tuple(
            Column(label="Avg." if name == "average" else name, key=_key(name))
            for name in (*TRANSFER_TASKS, "average")
            if name in scores
        ),
        absent=absent,
        samples=samples,
        means=means,
    )


def _key(task: str, metric: str = "accuracy") -> ScoreKey:
    return ScoreKey("transfer", task, metric)


def _protocols(tasks: Sequence[TransferTask], mode: TransferMode) -> dict[str, str]:
    setting = MODES[mode]
    training = setting.training
    protocols = {
        "transfer": f"SentEval's setting {mode}: softmax regression on raw rows, {training.optimizer} in batches of "
        f"{training.batch_size}, stopped early, weight decay chosen among {', '.join(f'{decay:g}' for decay in DECAYS)}"
    }
    for task in tasks:
        words = _how(task, setting)
        if task.altered:
            words += f"; NOT the published data: {'; '.join(task.altered)}"
        protocols[f"transfer.{task.name}"] = words
    protocols["transfer intervals"] = (
        "95 % percentile bootstrap, 1,000 draws of the sentences under test; classifiers as fitted"
    )
    return protocols


def _how(task: TransferTask, setting: Mode) -> str:
    sizes = ", ".join(f"{split} {len(text):,}" for split, text in task.splits.items())
    if "test" not in task.splits:
        if setting.scores_dev:
            return f"accuracy in the inner folds of nested stratified {setting.folds}-fold cross-validation ({sizes})"
        return f"accuracy in nested stratified {setting.folds}-fold cross-validation, over all sentences ({sizes})"
    if "dev" in task.splits:
        return f"accuracy on the {'dev' if setting.scores_dev else 'test'} split, fixed splits ({sizes})"
    if setting.scores_dev:
        return f"accuracy in {setting.folds} stratified folds of train ({sizes})"
    return f"accuracy on test, weight decay by {setting.folds} stratified folds of train ({sizes})"
