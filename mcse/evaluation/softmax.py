"""Softmax regression on frozen rows as SentEval trains it, many fits at once, and the folds that it is tested on.

SentEval's classifier is not the minimum of its loss: it stops early, on the sentences that it is then chosen by, and
published accuracies hold for that. So its draws, updates and stops are repeated here, fit by fit. It is fast because
fits on equally many rows draw the same batches, so that folds and weight decays go side by side.

N rows, D their width with a 1 behind for the bias, C classes, R weight decays, K = R · C, G fits side by side, T rows
to train on, H held-out rows, B rows of a batch, P rows to predict.

Source: Conneau and Kiela, SentEval: An Evaluation Toolkit for Universal Sentence Representations (2018), and the
toolkit's behaviour under the settings that SimCSE's evaluation gives it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcse.types import FloatArray

Labels = NDArray[np.int64]
Rows = NDArray[np.int64]
"""Numbers of rows."""

SEED = 1111
DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Weight decays that held-out rows choose from, of weights and bias alike: the gradient of decay / 2 · |w|²."""

MAX_EPOCHS = 200
HELD_SHARE = 0.05

_GATHERED_BYTES = 2**21
"""Rows of one step over all fits side by side: more would fall out of a core's own cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How one classifier is trained. It stops at the first check without gain after ``tenacity`` of them, in all."""

    optimizer: Literal["adam", "rmsprop"]
    batch_size: int
    epochs_per_check: int
    tenacity: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """One set of rows, fitted under each of R weight decays.

    The accuracy on ``held_H`` picks the checkpoint; ``None`` holds out 5 % of ``train_T``, drawn by the seed.
    """

    train_T: Rows
    held_H: Rows | None
    decays: tuple[float, ...] = DECAYS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """The best checkpoint under each weight decay; ``right_RH`` says which held-out rows it got right."""

    weight_RCD: Tensor
    right_RH: NDArray[np.bool_]

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Of each weight decay on the held-out rows, in [0, 1]."""
        accuracy_R: NDArray[np.float64] = self.right_RH.mean(1)
        return accuracy_R

    def predict(self, row_PD: FloatArray, *, decay: int = 0) -> Labels:
        """(P,) labels under the weight decay number ``decay``."""
        score_PC = _with_one(row_PD) @ self.weight_RCD[decay].T
        label_P: Labels = score_PC.argmax(1).numpy()
        return label_P


def fit_all(
    row_ND: FloatArray, label_N: Labels, fits: Sequence[Fit], *, classes: int, training: Training
) -> list[Fitted]:
    """Every fit, in order. Nothing depends on which fits are asked for together, and no global seed is touched.

    Raises:
        ValueError: A fit has fewer than 20 rows of which to hold out 5 %.
    """
    row_ND1 = _with_one(row_ND)
    data = _Data(row_ND=row_ND1, label_N=torch.from_numpy(label_N), classes=classes)
    side_by_side = max(1, _GATHERED_BYTES // (4 * training.batch_size * row_ND1.shape[1]))
    done: dict[int, Fitted] = {}
    with torch.inference_mode():
        for numbers in _of_equal_draws(fits, side_by_side):
            draws = np.random.RandomState(SEED)  # SentEval draws from this older generator
            held_out = _hold_out([fits[number] for number in numbers], draws)
            done.update(zip(numbers, _fit_side_by_side(data, held_out, draws, training), strict=True))
    return [done[number] for number in range(len(fits))]


def stratified_folds(label_N: Labels, *, folds: int) -> list[tuple[Rows, Rows]]:
    """(train, held-out) rows of every fold, with each class spread evenly; the folds of scikit-learn's StratifiedKFold.

    The sorted labels are dealt out in turn, which says how many of a class every fold gets; which ones is then drawn.

    Raises:
        ValueError: A class has fewer rows than there are folds.
    """
    _, first, class_N = np.unique(label_N, return_index=True, return_inverse=True)
    # Classes count from the one that comes first, because draws go class by class.
    class_N = np.argsort(np.argsort(first))[class_N]
    size_C = np.bincount(class_N)
    if size_C.min() < folds:
        raise ValueError(f"a class of {size_C.min()} rows cannot be spread over {folds} folds")
    draws = np.random.RandomState(SEED)  # SentEval draws from this older generator
    sorted_N = np.sort(class_N)
    share_FC = np.stack([np.bincount(sorted_N[fold::folds], minlength=len(size_C)) for fold in range(folds)])
    fold_N = np.empty(len(label_N), dtype=np.int64)
    for number in range(len(size_C)):
        dealt = np.repeat(np.arange(folds), share_FC[:, number])
        draws.shuffle(dealt)
        fold_N[class_N == number] = dealt
    return [(np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)) for fold in range(folds)]


def best_decay(fitted: Sequence[Fitted]) -> int:
    """Number of the weight decay with the best mean accuracy over folds.

    Means that are equal to two decimals of a per cent tie, and the smallest decay wins, as in SentEval.
    """
    mean_R = np.mean([fit.accuracies for fit in fitted], axis=0)
    return int(np.round(100 * mean_R, 2).argmax())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Data:
    row_ND: Tensor
    label_N: Tensor
    classes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _HeldOut:
    train_T: Tensor
    held_H: Tensor
    decays: tuple[float, ...]


def _with_one(row_ND: FloatArray) -> Tensor:
    one_N1 = np.ones((len(row_ND), 1), dtype=np.float32)
    return torch.from_numpy(np.concatenate([row_ND, one_N1], axis=1, dtype=np.float32))


def _of_equal_draws(fits: Sequence[Fit], side_by_side: int) -> Iterator[list[int]]:
    """Numbers of fits that draw alike, ``side_by_side`` at most at a time."""
    alike: dict[tuple[int, bool, int], list[int]] = {}
    for number, fit in enumerate(fits):
        alike.setdefault((len(fit.train_T), fit.held_H is None, len(fit.decays)), []).append(number)
    for numbers in alike.values():
        for start in range(0, len(numbers), side_by_side):
            yield numbers[start : start + side_by_side]


def _hold_out(fits: Sequence[Fit], draws: np.random.RandomState) -> list[_HeldOut]:
    """The fits with rows held out; ``draws`` moves on if that is drawn."""
    rows = len(fits[0].train_T)
    parts = [(fit.train_T, fit.held_H) for fit in fits if fit.held_H is not None]
    if not parts:
        held = int(HELD_SHARE * rows)
        if not held:
            raise ValueError(f"{rows} rows are too few to hold out {HELD_SHARE:.0%} of them")
        order = draws.permutation(rows)
        parts = [(fit.train_T[order[held:]], fit.train_T[order[:held]]) for fit in fits]
    return [
        _HeldOut(train_T=torch.from_numpy(train), held_H=torch.from_numpy(held), decays=fit.decays)
        for fit, (train, held) in zip(fits, parts, strict=True)
    ]


def _fit_side_by_side(
    data: _Data, fits: Sequence[_HeldOut], draws: np.random.RandomState, training: Training
) -> list[Fitted]:
    """Fits on equally many rows under equally many decays, which share ``draws``."""
    decay_GR = torch.tensor([fit.decays for fit in fits])
    decay_GK1 = decay_GR.repeat_interleave(data.classes, dim=1)[:, :, None]
    state = _State(
        weight_GKD=_first_weights(data).repeat(len(fits), decay_GR.shape[1], 1),
        decay_GK1=decay_GK1,
        train_GT=torch.stack([fit.train_T for fit in fits]),
    )
    best = [_Best(data, fit) for fit in fits]
    going = list(range(len(fits)))
    one_hot_NC = torch.nn.functional.one_hot(data.label_N, data.classes).float()
    epochs = 0
    while going and epochs <= MAX_EPOCHS:
        for _ in range(training.epochs_per_check):
            order_GT = state.train_GT[:, torch.from_numpy(draws.permutation(state.train_GT.shape[1]))]
            for at_GB in torch.split(order_GT, training.batch_size, dim=1):
                state.step(data, one_hot_NC, at_GB, training.optimizer)
        epochs += training.epochs_per_check
        stays = [
            not best[fit].check(weight_KD, training) for fit, weight_KD in zip(going, state.weight_GKD, strict=True)
        ]
        if not all(stays):
            state.keep(torch.tensor(stays))
            going = [fit for fit, stay in zip(going, stays, strict=True) if stay]
    return [one.fitted() for one in best]


def _first_weights(data: _Data) -> Tensor:
    """(C, D) what a linear layer of PyTorch starts from: uniform within ± 1 / √inputs, weights first, then the bias."""
    inputs = data.row_ND.shape[1] - 1
    generator = torch.Generator().manual_seed(SEED)
    bound = 1 / math.sqrt(inputs)
    weight_CD = torch.empty(data.classes, inputs).uniform_(-bound, bound, generator=generator)
    bias_C1 = torch.empty(data.classes, 1).uniform_(-bound, bound, generator=generator)
    return torch.cat([weight_CD, bias_C1], dim=1)


class _State:
    """Weights of the fits that still go on, with what their optimizer remembers."""

    def __init__(self, *, weight_GKD: Tensor, decay_GK1: Tensor, train_GT: Tensor) -> None:
        self.weight_GKD = weight_GKD
        self.decay_GK1 = decay_GK1
        self.train_GT = train_GT
        self._mean_GKD = torch.zeros_like(weight_GKD)
        self._square_GKD = torch.zeros_like(weight_GKD)
        self._steps = 0

    def step(self, data: _Data, one_hot_NC: Tensor, at_GB: Tensor, optimizer: str) -> None:
        """One update of every fit on the rows ``at_GB``: gradient of the mean cross-entropy and of the weight decay."""
        fits, size = at_GB.shape
        row_GBD = data.row_ND.index_select(0, at_GB.reshape(-1)).view(fits, size, -1)
        one_hot_G1CB = one_hot_NC.index_select(0, at_GB.reshape(-1)).view(fits, size, -1).transpose(1, 2)[:, None]
        score_GKB = torch.bmm(self.weight_GKD, row_GBD.transpose(1, 2))
        # Classes stand before rows: a softmax along a last axis of two is twenty times slower.
        error_GRCB = score_GKB.view(fits, -1, data.classes, size).softmax(2)
        error_GRCB.sub_(one_hot_G1CB).div_(size)
        gradient_GKD = torch.bmm(error_GRCB.view(fits, -1, size), row_GBD)
        gradient_GKD.addcmul_(self.decay_GK1, self.weight_GKD)
        self._steps += 1
        if optimizer == "adam":
            self._adam(gradient_GKD)
        else:
            self._rmsprop(gradient_GKD)

    def keep(self, stays_G: Tensor) -> None:
        """Drops the other fits."""
        self.weight_GKD, self.decay_GK1 = self.weight_GKD[stays_G], self.decay_GK1[stays_G]
        self._mean_GKD, self._square_GKD = self._mean_GKD[stays_G], self._square_GKD[stays_G]
        self.train_GT = self.train_GT[stays_G]

    def _adam(
        self, gradient_GKD: Tensor, *, rate: float = 1e-3, decay: float = 0.9, square_decay: float = 0.999
    ) -> None:
        self._mean_GKD.lerp_(gradient_GKD, 1 - decay)
        self._square_GKD.mul_(square_decay).addcmul_(gradient_GKD, gradient_GKD, value=1 - square_decay)
        scale = math.sqrt(1 - square_decay**self._steps)
        root_GKD = self._square_GKD.sqrt().div_(scale).add_(1e-8)
        self.weight_GKD.addcdiv_(self._mean_GKD, root_GKD, value=-rate / (1 - decay**self._steps))

    def _rmsprop(self, gradient_GKD: Tensor, *, rate: float = 1e-2, square_decay: float = 0.99) -> None:
        self._square_GKD.mul_(square_decay).addcmul_(gradient_GKD, gradient_GKD, value=1 - square_decay)
        self.weight_GKD.addcdiv_(gradient_GKD, self._square_GKD.sqrt().add_(1e-8), value=-rate)


class _Best:
    """The best checkpoint so far of one fit under each of its weight decays."""

    def __init__(self, data: _Data, fit: _HeldOut) -> None:
        self._row_HD = data.row_ND[fit.held_H]
        self._label_H = data.label_N[fit.held_H]
        decays = len(fit.decays)
        self._weight_RCD = torch.zeros(decays, data.classes, data.row_ND.shape[1])
        self._right_RH = torch.zeros(decays, len(fit.held_H), dtype=torch.bool)
        self._most_R = torch.full((decays,), -1)
        self._misses_R = torch.zeros(decays, dtype=torch.long)
        self._stopped_R = torch.zeros(decays, dtype=torch.bool)

    def check(self, weight_KD: Tensor, training: Training) -> bool:
        """Tries weights on the held-out rows; whether every weight decay has now come to its end.

        Misses are never forgotten: the fit under a decay ends at the first one past ``tenacity``, however far apart.
        """
        weight_RCD = weight_KD.view_as(self._weight_RCD)
        right_RH = (weight_RCD @ self._row_HD.T).argmax(1) == self._label_H
        most_R = right_RH.sum(1)
        better_R = (most_R > self._most_R) & ~self._stopped_R
        self._most_R = torch.where(better_R, most_R, self._most_R)
        self._weight_RCD[better_R] = weight_RCD[better_R]
        self._right_RH[better_R] = right_RH[better_R]
        self._stopped_R |= ~better_R & (self._misses_R >= training.tenacity)
        self._misses_R += ~better_R
        return bool(self._stopped_R.all())

    def fitted(self) -> Fitted:
        """What there was at the best check."""
        return Fitted(weight_RCD=self._weight_RCD, right_RH=self._right_RH.numpy())
