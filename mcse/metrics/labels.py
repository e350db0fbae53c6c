"""Labelled pairs: how well a similarity parts those that belong together from the others.

P pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, precision_recall_curve

from mcse.metrics.correlation import UndefinedScoreError


def average_precision(similarity_P: ArrayLike, label_P: ArrayLike) -> float:
    """Average precision × 100 of the pairs by falling similarity.

    Raises:
        UndefinedScoreError: Not both labels occur, or similarities are not finite.
    """
    similarity, label = _checked(similarity_P, label_P)
    return 100 * float(average_precision_score(label, similarity))


def best_f1(similarity_P: ArrayLike, label_P: ArrayLike) -> tuple[float, float]:
    """The highest F1 × 100 that a threshold gives, and that threshold: pairs at least as similar count as together.

    Raises:
        UndefinedScoreError: As for ``average_precision``.
    """
    similarity, label = _checked(similarity_P, label_P)
    precision, recall, threshold = precision_recall_curve(label, similarity)
    total = precision + recall
    f1 = 2 * precision * recall / np.where(total == 0, 1, total)
    best = int(np.argmax(f1[:-1]))
    return 100 * float(f1[best]), float(threshold[best])


def _checked(similarity_P: ArrayLike, label_P: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    similarity, label = np.asarray(similarity_P, dtype=np.float64), np.asarray(label_P)
    if not np.isfinite(similarity).all():
        raise UndefinedScoreError("similarities must be finite")
    if set(np.unique(label).tolist()) != {0, 1}:
        raise UndefinedScoreError("labels of both kinds are needed, 0 and 1")
    return similarity, label
