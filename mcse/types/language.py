"""Typed batches of language models and translation.

B sequences of this process, T places, W different words, C characters a word, S sampled words, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mcse.types.batches import IGNORED_LABEL, TokenBatch


@dataclass(frozen=True, slots=True)
class SampledWords:
    """S different words drawn as negatives, and how many draws with repetition that took."""

    id_S: Tensor
    draws: int


@dataclass(frozen=True, slots=True)
class Lane:
    """One direction's part of a step, in the order in which it reads.

    ``word_BT`` are rows of the batch's ``character_WC``; ``target_BT`` are the vocabulary's ids of the words that
    follow, ``IGNORED_LABEL`` where what follows is the mark that every sentence starts with. ``fresh_BT`` is true on
    such marks before which the state is set to zero; ``None`` if it is always carried on. ``counted_M``, the places of
    targets that count, is found when a batch is made on the host, and moves with it.
    """

    word_BT: Tensor
    target_BT: Tensor
    negatives: SampledWords | None = None
    fresh_BT: Tensor | None = None
    counted_M: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.target_BT.device.type == "cpu":
            object.__setattr__(self, "counted_M", self._find_counted())

    def counted(self) -> Tensor:
        """``counted_M``; of a lane that was made on a GPU they are looked for there."""
        return self._find_counted() if self.counted_M is None else self.counted_M

    def _find_counted(self) -> Tensor:
        return (self.target_BT != IGNORED_LABEL).flatten().nonzero()[:, 0]


@dataclass(frozen=True, slots=True)
class LaneBatch:
    """One step of truncated back-propagation: the different words of both directions, and where they stand.

    ``longest``: characters that no word has more of, marks included; absent if they were not counted.
    """

    character_WC: Tensor
    forward: Lane
    backward: Lane
    longest: int | None = None


@dataclass(frozen=True, slots=True)
class TranslationBatch:
    """Sentences and their translations, which begin and end with the vocabulary's marks."""

    source: TokenBatch
    target: TokenBatch


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Sentences as frozen features, B × T words.

    ``static_BTE`` are static vectors, ``layer_LBTD`` a contextual model's layers; either may be absent. ``mask_BT`` is
    true on words. ``label`` are (B, T) tags, or (B,) classes. ``length_B``, words a sentence, is counted when the batch
    is made on the host, and stays there.
    """

    static_BTE: Tensor | None
    layer_LBTD: Tensor | None
    mask_BT: Tensor
    label: Tensor
    length_B: NDArray[np.int64] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.mask_BT.device.type == "cpu":
            object.__setattr__(self, "length_B", self.mask_BT.sum(1).numpy())

    def lengths(self) -> NDArray[np.int64]:
        """(B,) words a sentence; of a batch that was made on a GPU they are fetched from there."""
        return self.mask_BT.sum(1).cpu().numpy() if self.length_B is None else self.length_B
