"""Results kept by what they depend on: a second call is instant, and changed weights or data are seen."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcse.errors import said
from mcse.files import digest_of, replacing
from mcse.reading import parse_json
from mcse.types import Column, ModelScores, PairList, Sample, ScoreKey, SuiteScores
from mcse.types.scores import Statistic

logger = logging.getLogger(__name__)

FORMAT = 5

ITEMS = "items"
"""The folder beside ``results.json`` that ``write_items`` writes."""

_CONTENT = "content"
_PARTS = {"value_P": "fiu", "gold_P": "fiu", "group_P": "iu", "cluster_P": "iu", "clean_P": "b"}
"""The arrays of a sample, and NumPy's letters for the kinds of numbers in each."""

_MOST_BYTES = 2**29


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


@dataclass(frozen=True, slots=True)
class _Scores:
    """``SuiteScores`` as JSON can hold them, without the arrays of samples."""

    scores: dict[str, float]
    protocols: dict[str, str]
    columns: tuple[Column, ...]
    details: tuple[Column, ...]
    absent: dict[str, str]
    samples: dict[str, Statistic]
    means: dict[str, dict[str, float]]
    pairs: dict[str, PairList]
    form: str


@dataclass(frozen=True, slots=True)
class _Content:
    pooling: str
    notes: tuple[str, ...]
    scores: _Scores


def write_items(model: ModelScores, folder: Path) -> None:
    """Writes every suite's scores with the items behind them, without the sentences, a file each.

    Raises:
        OSError: They cannot be written.
    """
    for suite in model.suites:
        if suite.columns:
            result = KeptResult(pooling=model.pooling, scores=replace(suite, pairs={}), notes=model.notes)
            write_result(folder / f"{suite.columns[0].key.suite}.npz", result)


def read_items(folder: Path, *, name: str) -> ModelScores:
    """The scores of a model, as it is to be called, whose items ``write_items`` wrote.

    Raises:
        ValueError: There are none, or a file is damaged.
    """
    results = [read_result(path) for path in sorted(folder.glob("*.npz"))]
    if not results:
        raise ValueError(f"{folder} holds no items of scores; mcse evaluate --items writes them")
    suites = tuple(result.scores for result in results)
    return ModelScores(name=name, pooling=results[0].pooling, suites=suites, notes=results[0].notes)


def load_result(key: str) -> KeptResult | None:
    """What was kept under ``key``; ``None`` where there is nothing, or, with a warning, where it is damaged."""
    path = cache_folder() / f"{key}.npz"
    if not path.exists():
        return None
    try:
        return _read(path)
    except Exception as error:
        # NumPy and zip raise a dozen kinds of errors; whichever it is, the result can be computed.
        logger.warning("%s is damaged and is computed anew: %s", path, error or type(error).__name__)
        return None


def read_result(path: Path) -> KeptResult:
    """What ``write_result`` wrote.

    Raises:
        ValueError: It is damaged; names the file.
    """
    try:
        return _read(path)
    except Exception as error:
        raise ValueError(f"{path} is damaged: {said(error)}") from None


def _read(path: Path) -> KeptResult:
    arrays = _arrays(path)
    content = parse_json(arrays.pop(_CONTENT).tobytes(), _Content, where=_CONTENT)
    return KeptResult(pooling=content.pooling, notes=content.notes, scores=_restored(content.scores, arrays))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The file's arrays; refused by what it says of their sizes before any is unpacked."""
    with zipfile.ZipFile(path) as stored:
        size = sum(member.file_size for member in stored.infolist())
    if size > _MOST_BYTES:
        raise ValueError(f"it holds {size:,} bytes, unpacked")
    with np.load(path, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def save_result(key: str, result: KeptResult) -> None:
    """Keeps ``result``. A cache that cannot be written is said and does not lose the result."""
    try:
        write_result(cache_folder() / f"{key}.npz", result)
    except OSError as error:
        logger.warning("the result is not kept for the next call: %s", error)


def write_result(path: Path, result: KeptResult) -> None:
    """Writes ``result`` with the items behind its scores.

    Raises:
        OSError: It cannot be written.
    """
    scores = result.scores
    arrays: dict[str, NDArray[Any]] = {}
    for name, sample in scores.samples.items():
        for part in _PARTS:
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
            "form": scores.form,
        },
    }
    arrays[_CONTENT] = np.frombuffer(json.dumps(content).encode(), dtype=np.uint8)
    with replacing(path) as draft, draft.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def _restored(content: _Scores, arrays: Mapping[str, NDArray[Any]]) -> SuiteScores:
    return SuiteScores(
        scores=_by_key(content.scores),
        protocols=content.protocols,
        columns=content.columns,
        details=content.details,
        absent=content.absent,
        samples={ScoreKey.parse(name): _sample(name, statistic, arrays) for name, statistic in content.samples.items()},
        means={ScoreKey.parse(name): _by_key(weights) for name, weights in content.means.items()},
        pairs={ScoreKey.parse(name): pairs for name, pairs in content.pairs.items()},
        form=content.form,
    )


def _sample(name: str, statistic: Statistic, arrays: Mapping[str, NDArray[Any]]) -> Sample:
    parts = {part: arrays.get(f"{name} {part}") for part in _PARTS}
    length = len(arrays[f"{name} value_P"])
    for part, array in parts.items():
        if array is not None and (array.shape != (length,) or array.dtype.kind not in _PARTS[part]):
            raise ValueError(f"{name} {part} has the shape {array.shape} and the type {array.dtype}")
    return Sample(statistic=statistic, **parts)  # type: ignore[arg-type]  # the values are there, as was just asked


def _by_text(values: Mapping[ScoreKey, float]) -> dict[str, float]:
    return {str(key): value for key, value in values.items()}


def _by_key(values: Mapping[str, float]) -> dict[ScoreKey, float]:
    return {ScoreKey.parse(name): value for name, value in values.items()}
