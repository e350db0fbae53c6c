"""Results kept by what they depend on: a second call is instant, and changed weights or data are seen."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcse.types import Column, PairList, Sample, SuiteScores

logger = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptResult:
    """What one suite found, how the model's rows were pooled, and what else is to be said of the model."""

    pooling: str
    scores: SuiteScores
    notes: tuple[str, ...] = ()


def cache_folder() -> Path:
    """``MCSE_CACHE``, or ``mcse`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MCSE_CACHE") or Path(base) / "mcse") / "results"


def cache_key(*parts: object) -> str:
    """A file name for everything that a result depends on."""
    return hashlib.sha256(json.dumps([FORMAT, *map(str, parts)]).encode()).hexdigest()[:32]


def load_result(key: str) -> KeptResult | None:
    """What was kept under ``key``; ``None`` where there is nothing, or nothing whole."""
    path = cache_folder() / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        content = json.loads(arrays.pop("scores").item())
        scores = _restored(content, arrays)
        return KeptResult(pooling=content["pooling"], scores=scores, notes=tuple(content["notes"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged and is computed anew: %s", path, error)
        return None


def save_result(key: str, result: KeptResult) -> None:
    """Keeps ``result``. A cache that cannot be written is said and does not lose the result."""
    path = cache_folder() / f"{key}.npz"
    scores = result.scores
    arrays: dict[str, Any] = {}
    samples: dict[str, dict[str, Any]] = {}
    for number, (name, sample) in enumerate(scores.samples.items()):
        samples[name] = {"statistic": sample.statistic, "number": number}
        for part in ("value_P", "gold_P", "group_P", "clean_P"):
            if (array := getattr(sample, part)) is not None:
                arrays[f"{number}.{part}"] = array
    content = {
        "pooling": result.pooling,
        "notes": result.notes,
        "scores": scores.scores,
        "protocols": scores.protocols,
        "columns": [asdict(column) for column in scores.columns],
        "details": [asdict(column) for column in scores.details],
        "subsets": scores.subsets,
        "absent": scores.absent,
        "means": scores.means,
        "samples": samples,
        "pairs": {name: [pairs.sentence1, pairs.sentence2] for name, pairs in scores.pairs.items()},
    }
    target = io.BytesIO()
    np.savez_compressed(target, scores=np.array(json.dumps(content)), **arrays)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(target.getvalue())
        os.replace(draft, path)
    except OSError as error:
        logger.warning("the result is not kept for the next call: %s", error)


def _restored(content: dict[str, Any], arrays: dict[str, Any]) -> SuiteScores:
    samples = {
        name: Sample(
            statistic=fields["statistic"],
            value_P=arrays[f"{fields['number']}.value_P"],
            **{
                part: arrays[key]
                for part in ("gold_P", "group_P", "clean_P")
                if (key := f"{fields['number']}.{part}") in arrays
            },
        )
        for name, fields in content["samples"].items()
    }
    pairs = {
        name: PairList(sentence1=tuple(left), sentence2=tuple(right))
        for name, (left, right) in content["pairs"].items()
    }
    return SuiteScores(
        scores=content["scores"],
        protocols=content["protocols"],
        columns=tuple(Column(**column) for column in content["columns"]),
        details=tuple(Column(**column) for column in content["details"]),
        subsets=content["subsets"],
        absent=content["absent"],
        samples=samples,
        means=content["means"],
        pairs=pairs,
    )
