"""``mcse.evaluate``: models on suites, as ``mcse evaluate`` does it, and what it finds as an object."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

from mcse.api.results import EvaluationResults
from mcse.api.training import FinishedRun
from mcse.api.wording import arguments_of, in_python, names_arguments
from mcse.commands.command_line import data_file
from mcse.commands.evaluated_models import DEFAULT_SUITES, Evaluated, Evaluation, NamedModels, check_models, runner_of
from mcse.commands.own_tables import on_default_data, with_tables
from mcse.distributed import join_world
from mcse.errors import in_words
from mcse.evaluation.runner import PooledEncoder, Runner
from mcse.evaluation.suite import SuiteOptions, TransferMode
from mcse.evaluation.suites import SUITES
from mcse.manifest import Reading, Runtime
from mcse.report.made import Made
from mcse.stored_rows import RowKind
from mcse.types import ModelScores

logger = logging.getLogger(__name__)

T = TypeVar("T")
Model: TypeAlias = str | Path | FinishedRun | PooledEncoder


@names_arguments
def evaluate(
    models: Model | Sequence[Model],
    *,
    suites: str | Sequence[str] | None = None,
    data: str | Path | None = None,
    compare: bool = False,
    columns: str | Sequence[str] = (),
    captions: str | Path | None = None,
    features: str | Path | None = None,
    images: str | Path | None = None,
    pooling: str | None = None,
    batch_size: int = 64,
    precision: Literal["float32", "bfloat16"] = "float32",
    allow_missing: bool = False,
    use_cache: bool = True,
    teachers: bool = True,
    names: str | Sequence[str] = (),
    prompt: str | None = None,
    prompt_name: str | None = None,
    trust_remote_code: bool = False,
    backends: Runtime | Sequence[Runtime] = (),
    dims: int | Sequence[int] = (),
    rows: RowKind | Sequence[RowKind] = (),
    contents: str | Path | None = None,
    folds: int = 1,
    transfer_mode: TransferMode = "test",
    tasks: str | Sequence[str] = (),
) -> EvaluationResults:
    """Evaluates models as ``mcse evaluate`` does, and returns what that prints and writes.

    Args:
        models: One or several names as ``mcse evaluate`` takes them (a run folder, a parent of seed folders, a hub
            id), a ``FinishedRun``, or encoders in memory, whose results are not kept.
        suites: ``sts`` by default; or those that ``mcse evaluate --list`` names.
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
        names: What tables and plots call each model, in their order; by default the parts of their paths that differ.
        prompt: Put before every sentence, instead of the model's own.
        prompt_name: Names one of the prompts that a model lists, instead.
        trust_remote_code: Whether Python code that comes with a sentence-transformers model may run.
        backends: What runs the models: ``torch``, ``onnx``, ``openvino``; several give a row each. Runs are exported
            first.
        dims: Also score embeddings cut to their first so many numbers, and normalised again.
        rows: Also score embeddings as an index would store them: ``float16``, ``int8``, ``uint8``, ``binary``.
        contents: Of ``regularities``: what each image truly shows (``contents.jsonl`` of a picture world).
        folds: Of ``retrieval``: into how many parts the images are split, each searched by itself.
        transfer_mode: Of ``transfer``: SentEval's ``test``, ``dev`` or ``fasttest``.
        tasks: Of ``mteb``: the names of the tasks.

    Raises:
        ValueError: A model, suite or file that is not there or does not fit; a suite that cannot evaluate a model.
        OSError: A file cannot be read.

    Examples:
        >>> mcse.evaluate("runs/simcse", data="data/SentEval").raw()["scores"]["sts"]["average"]["spearman"]
    """
    every, loaded = _named(models)
    suites = None if suites is None else _several(suites)
    names, backends, dims, rows = _several(names), _several(backends), _several(dims), _several(rows)
    reading = Reading(prompt=prompt, prompt_name=prompt_name, trust_remote_code=trust_remote_code)
    _check(suites or (), rows, backends)
    if loaded and (pooling is not None or precision != "float32" or reading != Reading() or backends):
        raise ValueError(_OWN_READING)
    options = SuiteOptions(
        data=_found(data),
        allow_missing=allow_missing,
        batch_size=batch_size,
        transfer_mode=transfer_mode,
        captions=_found(captions),
        features=_found(features),
        images=_found(images),
        contents=_found(contents),
        folds=folds,
        tasks=tuple(_several(tasks)),
    )
    chosen = dict(zip(every, names, strict=False))
    named = NamedModels(every, reading=reading, backends=backends, loaded=loaded, chosen=chosen)
    named.takes_teachers = teachers and not (compare or backends)
    prepared = partial(runner_of, pooling=pooling, precision=precision, use_cache=use_cache, dims=dims, rows=rows)
    found = _evaluated(
        named, prepared, options, suites=suites, names=names, columns=_several(columns), is_compared=compare
    )
    return EvaluationResults(found, precision)


def _several(given: T | Sequence[T]) -> Sequence[T]:
    """One text or number is a list of one, and not of its letters."""
    return (cast("T", given),) if isinstance(given, str | int) else cast("Sequence[T]", given)


def _found(path: str | Path | None) -> str | None:
    """Data below ``MCSE_DATA`` are found there, as those of the command are."""
    return None if path is None else data_file(str(path))


def _evaluated(
    models: NamedModels,
    prepared: Callable[..., Callable[[], Runner]],
    options: SuiteOptions,
    *,
    suites: Sequence[str] | None,
    names: Sequence[str],
    columns: Sequence[str],
    is_compared: bool,
) -> Evaluated:
    """``prepared`` takes suites and options."""
    join_world()
    told = ""
    if options.data is None:
        options, told = on_default_data(options, [name for name in models.models if name not in models.loaded], suites)
        told = in_python(told, _ARGUMENTS)
    suites = DEFAULT_SUITES if suites is None else suites
    check_models(models.models, suites, options, names=names, compared=is_compared)
    evaluation = Evaluation(models, _Raises(models), default_data=told)
    systems = evaluation.run(prepared(suites, with_tables(options, suites, columns)))
    found = evaluation.summary(systems, is_compared=is_compared)
    return replace(found, notes=(told, *found.notes)) if told else found


_ARGUMENTS = arguments_of(evaluate)


@dataclass(frozen=True, slots=True)
class _Raises:
    """Listens to an evaluation: prints and writes nothing, and ends it at the first failure of a named model."""

    names: NamedModels

    def on_start(self, model: str, suites: str) -> None:
        """Says nothing."""

    def on_failure(self, name: str, error: Exception) -> None:
        """Raises, with the model's name; a teacher's failure is a warning."""
        if self.names.is_teacher(name):
            logger.warning("%s: not evaluated: %s", name, in_python(in_words(error), _ARGUMENTS))
            return
        if not getattr(error, "__notes__", None):
            error.add_note(f"while evaluating {name}")
        raise error

    def on_scores(self, scores: ModelScores, made: Made, *, is_seed: bool) -> None:
        """Writes nothing."""


_OWN_READING = (
    "pooling, precision, prompt, prompt_name, trust_remote_code, backends: an encoder in memory has its own; give them "
    "to what loads it"
)


def _check(suites: Sequence[str], rows: Sequence[str], backends: Sequence[str]) -> None:
    """In the words of Python what the command line's parser refuses."""
    choices: dict[str, tuple[Sequence[str], Collection[str]]] = {
        "suites": (suites, SUITES),
        "rows": (rows, get_args(RowKind)),
        "backends": (backends, get_args(Runtime)),
    }
    for name, (given, known) in choices.items():
        if wrong := [one for one in given if one not in known]:
            raise ValueError(f"{name}: there is no {wrong[0]!r}; known: {', '.join(known)}")


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
