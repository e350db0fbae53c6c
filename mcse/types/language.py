"""Typed batches of language models and translation.

B sequences of this process, T places, W different words, C characters a word, S sampled words, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mcse.types.batches import TokenBatch


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
    such marks before which the state is set to zero; ``None`` if it is always carried on.
    """

    word_BT: Tensor
    target_BT: Tensor
    negatives: SampledWords | None = None
    fresh_BT: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LaneBatch:
    """One step of truncated back-propagation: the different words of both directions, and where they stand."""

    character_WC: Tensor
    forward: Lane
    backward: Lane


@dataclass(frozen=True, slots=True)
class TranslationBatch:
    """Sentences and their translations, which begin and end with the vocabulary's marks."""

    source: TokenBatch
    target: TokenBatch


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Sentences as frozen features, B × T words.

    ``static_BTE`` are static vectors, ``layer_LBTD`` a contextual model's layers; either may be absent. ``mask_BT`` is
    true on words. ``label`` are (B, T) tags, or (B,) classes.
    """

    static_BTE: Tensor | None
    layer_LBTD: Tensor | None
    mask_BT: Tensor
    label: Tensor
