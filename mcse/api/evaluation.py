"""``mcse.evaluate``: models on suites, as ``mcse evaluate`` does it, and what it finds as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mcse.api.results import EvaluationResults
from mcse.api.training import FinishedRun
from mcse.commands.evaluate import evaluate_models
from mcse.evaluation.runner import PooledEncoder, Runner
from mcse.evaluation.suite import SuiteOptions
from mcse.evaluation.suites import SUITES

Model: TypeAlias = str | Path | FinishedRun | PooledEncoder


def evaluate(
    models: Model | Sequence[Model],
    *,
    suites: str | Sequence[str] | None = None,
    data: str | Path | None = None,
    compare: bool = False,
    columns: Sequence[str] = (),
    captions: str | Path | None = None,
    features: str | Path | None = None,
    images: str | Path | None = None,
    pooling: str | None = None,
    batch_size: int = 64,
    precision: Literal["float32", "bfloat16"] = "float32",
    allow_missing: bool = False,
    use_cache: bool = True,
    teachers: bool = True,
) -> EvaluationResults:
    """Evaluates models as ``mcse evaluate`` does, and returns what that prints and writes.

    Args:
        models: One or several. Names that ``mcse evaluate`` takes: a run folder, a parent of seed folders, a hub id;
            a ``FinishedRun``; or encoders in memory, such as a ``SentenceEncoder``, whose results are not kept.
        suites: ``sts`` (by default), ``table``, ``geometry``, ``transfer``, ``retrieval``, ``regularities``,
            ``wordsim``, ``mteb``.
        data: SentEval's folder, or one file of scored pairs; of the suite ``table`` a table. By default a run's own
            ``data.sts``, where no suite is named, or the folder ``MCSE_DATA``, or the hub.
        compare: Also the differences of exactly two models, or two parents of seeds, with intervals and p-values.
        columns: Of ``table``: which column is which, such as ``["query=left", "positive=right"]``.
        captions: Of ``retrieval`` and ``regularities``: captions in any layout that training reads.
        features: Of the same: the images' stored features.
        images: Of the same: the folder of the images; beside ``features`` a file that lists those to use.
        pooling: Overrides the models' own; needed where a model states none.
        batch_size: Sentences a forward pass.
        precision: Of matrix products.
        allow_missing: Leave out tasks of which files are missing; otherwise they are an error.
        use_cache: Take results that an earlier call found of the very same model and data.
        teachers: Evaluate the teachers that a run was trained with beside it.

    Raises:
        ValueError: A model, suite or file that is not there or does not fit; a suite that cannot evaluate a model.
        OSError: A file cannot be read.

    Examples:
        >>> results = mcse.evaluate("runs/simcse", data="data/SentEval")
        >>> results.raw()["scores"]["sts"]["average"]["spearman"]
    """
    names, loaded = _named(models)
    chosen = [suites] if isinstance(suites, str) else suites
    _check(
        names, chosen or (), compare=compare, is_read=bool(loaded) and (pooling is not None or precision != "float32")
    )
    options = SuiteOptions(data=_text(data), captions=_text(captions), batch_size=batch_size)
    options = replace(options, features=_text(features), images=_text(images), allow_missing=allow_missing)
    made = partial(Runner, pooling=pooling, precision=precision, batch_size=batch_size, use_cache=use_cache)
    found = evaluate_models(
        names, made, options, suites=chosen, loaded=loaded, columns=columns, compared=compare, teachers=teachers
    )
    return EvaluationResults(found, precision)


def _check(models: Sequence[str], suites: Sequence[str], *, compare: bool, is_read: bool) -> None:
    """In the words of Python what the command line's parser refuses."""
    for suite in suites:
        if suite not in SUITES:
            raise ValueError(f"suites: there is no {suite!r}; known: {', '.join(SUITES)}")
    if compare and len(models) != 2:
        raise ValueError(f"compare: takes exactly two models or two parents of seed folders, got {len(models)}")
    if is_read:
        raise ValueError(
            "pooling, precision: an encoder in memory has its own; give them to SentenceEncoder.from_pretrained"
        )


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _named(models: Model | Sequence[Model]) -> tuple[list[str], dict[str, PooledEncoder]]:
    """Each model's name, and the encoders among them by theirs: none is another's."""
    listed: list[Any] = list(models) if isinstance(models, list | tuple) else [models]
    if not listed:
        raise ValueError("models: give at least one")
    given = [model.folder if isinstance(model, FinishedRun) else model for model in listed]
    taken, every = {str(model) for model in given if isinstance(model, str | Path)}, []
    loaded: dict[str, PooledEncoder] = {}
    for model in given:
        if isinstance(model, str | Path):
            every.append(str(model))
            continue
        if not all(hasattr(model, name) for name in ("encode", "pooling", "dimension")):
            raise ValueError(f"models: expected names or encoders, got {type(model).__name__}")
        own = str(getattr(model, "name", "")) or "encoder"
        name = next(each for each in (own, *(f"{own} ({n})" for n in range(2, len(given) + 2))) if each not in taken)
        taken.add(name)
        loaded[name] = model
        every.append(name)
    return every, loaded
