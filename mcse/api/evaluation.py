"""``mcse.evaluate``: models on suites, as ``mcse evaluate`` does it, and what it finds as an object."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mcse.api.results import EvaluationResults
from mcse.api.training import FinishedRun
from mcse.commands.evaluated_models import DEFAULT_SUITES, Evaluated, Evaluation, NamedModels, check_models, runner_of
from mcse.commands.own_tables import default_data, with_tables
from mcse.distributed import join_world
from mcse.errors import in_words
from mcse.evaluation.runner import PooledEncoder, Runner
from mcse.evaluation.suite import SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.report.made import Made
from mcse.types import ModelScores

logger = logging.getLogger(__name__)

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
    named = NamedModels(names, loaded=loaded, takes_teachers=teachers and not compare)
    prepared = partial(runner_of, pooling=pooling, precision=precision, use_cache=use_cache)
    found = _evaluated(named, prepared, options, suites=chosen, columns=columns, is_compared=compare)
    return EvaluationResults(found, precision)


def _evaluated(
    names: NamedModels,
    prepared: Callable[..., Callable[[], Runner]],
    options: SuiteOptions,
    *,
    suites: Sequence[str] | None,
    columns: Sequence[str],
    is_compared: bool,
) -> Evaluated:
    """``prepared`` takes suites and options."""
    join_world()
    told = ""
    if options.data is None:
        data, told = default_data([name for name in names.models if name not in names.loaded], suites)
        options = replace(options, data=data)
    suites = DEFAULT_SUITES if suites is None else suites
    check_models(names.models, suites, options, compared=is_compared)
    evaluation = Evaluation(names, _Raises(names), default_data=told)
    systems = evaluation.run(prepared(suites, with_tables(options, suites, columns)))
    found = evaluation.summary(systems, is_compared=is_compared)
    return replace(found, notes=(told.replace("--data", "data"), *found.notes)) if told else found


@dataclass(frozen=True, slots=True)
class _Raises:
    """Listens to an evaluation: prints and writes nothing, and ends it at the first failure of a named model."""

    names: NamedModels

    def on_start(self, model: str, suites: str) -> None:
        """Says nothing."""

    def on_failure(self, name: str, error: Exception) -> None:
        """Raises, with the model's name; a teacher's failure is a warning."""
        if self.names.is_teacher(name.partition(", ")[0]):
            logger.warning("%s: not evaluated: %s", name, in_words(error))
            return
        if not getattr(error, "__notes__", None):
            error.add_note(f"while evaluating {name}")
        raise error

    def on_scores(self, scores: ModelScores, made: Made, *, is_seed: bool) -> None:
        """Writes nothing."""


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
