"""Results kept by what they depend on: a second call is instant, and changed weights or data are seen."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcse.files import digest_of, replacing
from mcse.types import Column, PairList, Sample, ScoreKey, SuiteScores

logger = logging.getLogger(__name__)

FORMAT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptResult:
    """What one suite found, how the model's embeddings were pooled, and what else is to be said of the model."""

    pooling: str
    scores: SuiteScores
    notes: tuple[str, ...] = ()


def cache_folder() -> Path:
    """``MCSE_CACHE``, or ``mcse`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MCSE_CACHE") or Path(base) / "mcse") / "results"


def cache_key(*parts: object) -> str:
    """A file name for everything that a result depends on."""
    return digest_of(str(FORMAT), *map(str, parts))[:32]


def load_result(key: str) -> KeptResult | None:
    """What was kept under ``key``; ``None`` where there is nothing, or, with a warning, where it is damaged."""
    path = cache_folder() / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        content = json.loads(arrays.pop("content").item())
        return KeptResult(
            pooling=content["pooling"], notes=tuple(content["notes"]), scores=_restored(content["scores"], arrays)
        )
    except FileNotFoundError:
        return None
    except Exception as error:
        # NumPy, zip and JSON raise a dozen kinds of errors; whichever it is, the result can be computed.
        logger.warning("%s is damaged and is computed anew: %s", path, error or type(error).__name__)
        return None


def save_result(key: str, result: KeptResult) -> None:
    """Keeps ``result``. A cache that cannot be written is said and does not lose the result."""
    scores = result.scores
    arrays: dict[str, NDArray[Any]] = {}
    for name, sample in scores.samples.items():
        for part in ("value_P", "gold_P", "group_P", "cluster_P", "clean_P"):
            if (array := getattr(sample, part)) is not None:
                arrays[f"{name} {part}"] = array
    content = {
        "pooling": result.pooling,
        "notes": result.notes,
        "scores": {
            "scores": _by_text(scores.scores),
            "protocols": scores.protocols,
            "columns": [asdict(column) for column in scores.columns],
            "details": [asdict(column) for column in scores.details],
            "absent": scores.absent,
            "samples": {str(name): sample.statistic for name, sample in scores.samples.items()},
            "means": {str(name): _by_text(weights) for name, weights in scores.means.items()},
            "pairs": {str(name): asdict(pairs) for name, pairs in scores.pairs.items()},
        },
    }
    arrays["content"] = np.array(json.dumps(content))
    try:
        with replacing(cache_folder() / f"{key}.npz") as draft, draft.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
    except OSError as error:
        logger.warning("the result is not kept for the next call: %s", error)


def _restored(content: dict[str, Any], arrays: Mapping[str, Any]) -> SuiteScores:
    return SuiteScores(
        scores=_by_key(content["scores"]),
        protocols=content["protocols"],
        columns=tuple(map(_column, content["columns"])),
        details=tuple(map(_column, content["details"])),
        absent=content["absent"],
        samples={
            ScoreKey.parse(name): Sample(
                statistic=statistic,
                value_P=arrays[f"{name} value_P"],
                **{part: arrays.get(f"{name} {part}") for part in ("gold_P", "group_P", "cluster_P", "clean_P")},
            )
            for name, statistic in content["samples"].items()
        },
        means={ScoreKey.parse(name): _by_key(weights) for name, weights in content["means"].items()},
        pairs={
            ScoreKey.parse(name): PairList(sentence1=tuple(pairs["sentence1"]), sentence2=tuple(pairs["sentence2"]))
            for name, pairs in content["pairs"].items()
        },
    )


def _column(fields: dict[str, Any]) -> Column:
    return Column(**{**fields, "key": ScoreKey(**fields["key"])})


def _by_text(values: Mapping[ScoreKey, float]) -> dict[str, float]:
    return {str(key): value for key, value in values.items()}


def _by_key(values: Mapping[str, float]) -> dict[ScoreKey, float]:
    return {ScoreKey.parse(name): value for name, value in values.items()}
