"""A few widths that batches are padded to, so that passes have few shapes and a graph of each can be kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LADDER = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""For batches whose widths are not known in advance; at most half of a row is padding that the batch had no need of."""

_MULTIPLE = 8
_COUNT = 4


def choose_widths(found: Sequence[int], *, longest: int | None = None, count: int = _COUNT) -> tuple[int, ...]:
    """At most ``count`` widths, rising: quantiles of the ``found`` ones, so that each serves as many batches.

    Args:
        found: Tokens of the longest sentence of some batches.
        longest: Tokens that the model takes; no width is beyond.
        count: Of widths.
    """
    shares = np.arange(1, count + 1) / count
    quantiles = np.quantile(np.asarray(found), shares, method="higher")
    return tuple(sorted({round_up(int(width), (), longest=longest) for width in quantiles}))


def round_up(width: int, widths: Sequence[int], *, longest: int | None = None) -> int:
    """The smallest of ``widths`` that is enough; else a multiple of 8, but never beyond ``longest``."""
    whole = -(-width // _MULTIPLE) * _MULTIPLE
    enough = next((choice for choice in widths if choice >= width), whole)
    return enough if longest is None else max(width, min(enough, longest))
