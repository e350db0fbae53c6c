"""One number for each thing that a seed draws, so that no two draws of one run are the same draw."""

from __future__ import annotations

from enum import IntEnum


class Draw(IntEnum):
    """Second entry of every generator's seed, after the run's own; numbers are never reused."""

    ORDER = 1
    MASKS = 2
    CAPTIONS = 3
    CONTROLS = 4
    PAIRS = 5
    WRONG_IMAGES = 6
    IMAGES = 7
    FALSE_PAIRS = 21
    SAMPLED_WORDS = 31
    SHUFFLED_TARGETS = 32
    DEV_IMAGES = 40
    WINDOWS = 41
    SWAPS = 71
    SUBSET = 33
    HELD_OUT = 34
    FRESH_STARTS = 35
    TABLES = 36
    TEXT_IDS = 37
    TEACHERS = 51
    REPEATED = 52
    VIEWS = 61
    VIEW_DROPOUT = 62
    RANDOM_CLASSES = 63
