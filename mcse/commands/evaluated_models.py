"""Models by name → scores of suites, tables and differences: what ``mcse evaluate`` and ``mcse.evaluate`` share.

Prints and writes nothing of its own; a ``Listener`` is told what happens, and decides what a failure means.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from mcse.distributed import is_main
from mcse.encoders.loading import AnyEncoder, encoder_digest, load_encoder
from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.evaluation.compare import compare
from mcse.evaluation.row_forms import row_forms
from mcse.evaluation.runner import PooledEncoder, Precision, Runner
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.evaluation.teachers import teachers_of
from mcse.manifest import Reading, Runtime, locate
from mcse.metrics.significance import DRAWS
from mcse.progress import phase
from mcse.report.made import Made, how_made, short_digest, training_facts
from mcse.report.results import compared_tables, contest_tables, model_tables
from mcse.report.seed_groups import System, short_names
from mcse.report.tables import ScoreTable
from mcse.run_folder import is_run, seed_runs
from mcse.stored_rows import RowKind
from mcse.types import ComparedScore, ModelScores

logger = logging.getLogger(__name__)

DEFAULT_SUITES = ("sts",)
"""Those of whoever asks for none, which is told by this very tuple."""


class Listener(Protocol):
    """Whom an evaluation tells what happens."""

    def on_start(self, model: str, suites: str) -> None:
        """A model is evaluated on suites now."""

    def on_failure(self, name: str, error: Exception) -> None:
        """A model, or a suite of one, failed. Raising ends the evaluation; otherwise the others go on."""

    def on_scores(self, scores: ModelScores, made: Made, *, is_seed: bool) -> None:
        """A model is evaluated, as one of several seeds or alone; ``made`` says how."""


@dataclass(slots=True)
class NamedModels:
    """The models of an evaluation: what each row of the tables stands for, and what reports call it.

    Args:
        models: As the caller names them.
        reading: What is asked beside every name.
        backends: The libraries that run every model, each in a row of its own; none for the model's own.
        loaded: Encoders that are in memory already, by their names among ``models``.
        chosen: What reports call a model, by its name.
        takes_teachers: Whether the teachers of runs are evaluated beside them.
    """

    models: Sequence[str]
    _: KW_ONLY
    reading: Reading = field(default_factory=Reading)
    backends: Sequence[Runtime] = ()
    loaded: Mapping[str, PooledEncoder] = field(default_factory=dict)
    chosen: Mapping[str, str] = field(default_factory=dict)
    takes_teachers: bool = False
    teachers: dict[str, list[str]] = field(default_factory=dict, init=False)
    """By title, as the groups of models."""

    shown: dict[str, str] = field(default_factory=dict, init=False)
    """What reports call a model, or a group of seeds, by its name in the tables."""

    digests: dict[str, str | None] = field(default_factory=dict, init=False)

    def is_teacher(self, name: str) -> bool:
        """Whether a model, or what a failure names as one with a suite behind it, was not named by the caller."""
        return any(name == teacher or name.startswith(f"{teacher}, ") for [teacher] in self.teachers.values())

    def asked(self, name: str) -> tuple[str, Reading]:
        """The model that a row of the tables is of, and what is asked beside its name."""
        if self.is_teacher(name):
            return name, Reading()
        for backend in self.backends:
            if name.endswith(_by(backend)):
                return name.removesuffix(_by(backend)), replace(self.reading, backend=backend)
        return name, self.reading

    def digest(self, name: str) -> str | None:
        """Of a model, and of what is asked beside its name."""
        if name not in self.digests:
            # What is in memory may be no longer what was read.
            self.digests[name] = None if name in self.loaded else encoder_digest(*self.asked(name))
        return self.digests[name]

    def groups(self, on_failure: Callable[[str, Exception], None]) -> dict[str, list[str]]:
        """For each name its models: itself, or the seeds below it. One that is neither fails, and the others stay."""
        groups = {}
        for name in self.models:
            folder = Path(name)
            if name in self.loaded:
                groups[name] = [name]
                continue
            try:
                is_parent = folder.is_dir() and not is_run(folder) and any(is_run(child) for child in folder.iterdir())
                found = [str(run) for run in seed_runs(folder)] if is_parent else [name]
                for model in found:
                    locate(model)  # before anything is read for it or said of it
                for backend in self.backends or (None,):
                    suffix = "" if backend is None else _by(backend)
                    groups[name + suffix] = [model + suffix for model in found]
            except (ValueError, OSError) as error:
                on_failure(name, error)
        self._call(groups)
        if self.takes_teachers:
            self.teachers = _teachers({name: models for name, models in groups.items() if name not in self.loaded})
            self.shown |= {title: title for title in self.teachers}
        return groups

    def load(self, name: str, runner: Runner) -> PooledEncoder:
        """The encoder of a row of the tables."""
        return self.loaded.get(name) or _load(*self.asked(name), runner)

    def _call(self, groups: Mapping[str, Sequence[str]]) -> None:
        """Names models and groups of seeds for reports: as was chosen, or by what tells them apart."""
        chosen = {**{name: name for name in self.loaded}, **self.chosen}
        shorts = dict(zip(groups, short_names(list(groups)), strict=True))
        for group, models in groups.items():
            model, reading = self.asked(group)
            behind = _by(reading.backend) if self.backends and reading.backend else ""
            self.shown[group] = chosen[model] + behind if model in chosen else shorts[group]
            for seed in models:
                self.shown.setdefault(seed, f"{self.shown[group]}, {Path(seed).name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What an evaluation found.

    Args:
        systems: The scores of every model, or of the seeds of one; teachers of runs follow them.
        tables: What is printed of them.
        notes: What the tables do not say.
        compared: The differences, where two were compared.
        digests: Of each model by its name, where it is known.
        made: How all of it came about.
    """

    systems: tuple[System, ...]
    tables: tuple[ScoreTable, ...]
    notes: tuple[str, ...]
    compared: tuple[ComparedScore, ...]
    digests: Mapping[str, str | None]
    made: Made

    @property
    def models(self) -> list[ModelScores]:
        """The scores of every single model."""
        return [seed for system in self.systems for seed in system.seeds]


@dataclass(slots=True)
class Evaluation:
    """Evaluates models, one after another.

    Args:
        names: The models.
        listener: Is told what happens, in every process.
        default_data: What is evaluated on, where the caller named no data.
    """

    names: NamedModels
    listener: Listener
    default_data: str = ""
    failed: list[str] = field(default_factory=list, init=False)
    """Models, and suites of models, that could not be evaluated."""

    _data: tuple[tuple[str, str], ...] = field(default=(), init=False)

    def run(self, runner: Callable[[], Runner]) -> list[System]:
        """The scores of every model that could be evaluated; teachers come last.

        Args:
            runner: Prepares the suites. Called once the folders of the models are read.

        Raises:
            ValueError: A suite's files do not fit.
            OSError: A file of the suites cannot be read.
        """
        groups = self.names.groups(self._fail)
        if not groups:
            return []
        with phase("reading the test sets", is_shown=is_main()):
            prepared = runner()
        self._data = tuple(
            (f"test data of {name}", f"{suite.summary}; {short_digest(suite.digest)}")
            for name, suite in prepared.suites.items()
        )
        systems: list[System] = []
        for name, models in (groups | self.names.teachers).items():
            seeds = []
            for model in models:
                try:
                    scores = prepared.scores(
                        model,
                        run=Path(self.names.asked(model)[0]),
                        digest=self.names.digest(model),
                        load=lambda name: self.names.load(name, prepared),
                        notes=_notes,
                        on_start=self.listener.on_start,
                        on_failure=self._fail,
                    )
                    seeds.append(scores)
                    self.listener.on_scores(scores, self._made([scores]), is_seed=len(models) > 1)
                except Exception as error:  # of whatever library reads a model of whatever kind; the next may be good
                    self._fail(model, error)
            if seeds:
                systems.append(System(name, tuple(seeds), short=self.names.shown[name]))
        return systems

    def summary(self, systems: Sequence[System], *, is_compared: bool) -> Evaluated:
        """Tables, notes and, where they are wanted, the differences of the two systems, of which there is at least one.

        Raises:
            ValueError: The two cannot be compared.
        """
        models = [seed for system in systems for seed in system.seeds]
        shown = replace(models[0], name=self.names.shown.get(models[0].name, models[0].name))
        tables = contest_tables(systems) if len(models) > 1 else model_tables(shown)
        notes = [f"{name}: {reason}" for model in models for name, reason in model.all.absent.items()]
        notes += [f"{model.name}: {note}" for model in models for note in model.notes]
        compared: tuple[ComparedScore, ...] = ()
        if is_compared and self.failed:
            notes.append("not compared: not every model could be evaluated")
        elif is_compared:
            with phase(f"comparing {systems[0].title} with {systems[1].title}"):
                compared = compare(systems[0].seeds, systems[1].seeds)
            tables += compared_tables(systems, compared)
        return Evaluated(
            systems=tuple(systems),
            tables=tuple(tables),
            notes=tuple(dict.fromkeys(notes)),
            compared=compared,
            digests=self.names.digests,
            made=self._made(models),
        )

    def _fail(self, name: str, error: Exception) -> None:
        self.failed.append(name)
        self.listener.on_failure(name, error)

    def _made(self, models: Sequence[ModelScores]) -> Made:
        """How a report of these models came about."""
        runs = [Path(self.names.asked(model.name)[0]) for model in models]
        own = [
            (
                f"model {self.names.shown.get(model.name, model.name)}",
                f"{model.name}, pooling {model.pooling}, {short_digest(self.names.digest(model.name) or '')}",
            )
            for model in models
        ]
        draws = ("seeds of the test", f"{DRAWS} bootstrap draws of items, seeded by each score's name")
        default = [("data by default", self.default_data)] if self.default_data else []
        return how_made([*own, *training_facts(runs), *self._data, *default, draws])


def check_models(
    models: Sequence[str], suites: Sequence[str], options: SuiteOptions, *, names: Sequence[str], compared: bool
) -> None:
    """Refuses what does not go together; ``names`` are what reports are to call the models.

    Raises:
        ValueError: No model, one twice, other names than models, or options of suites that are not asked for.
    """
    if not models:
        raise ValueError("give at least one MODEL, or --list")
    if len(set(models)) < len(models):
        raise ValueError("the same MODEL is given twice")
    if options.contents and "regularities" not in suites:
        raise ValueError("--contents is for --suite regularities")
    if options.folds != 1 and "retrieval" not in suites:
        raise ValueError("--folds parts the images of --suite retrieval")
    if options.tasks and "mteb" not in suites:
        raise ValueError("--tasks names tasks of --suite mteb")
    if compared and len(models) != 2:
        raise ValueError(f"--compare takes exactly two models or two parents of seed folders, got {len(models)}")
    if names and len(names) != len(models):
        raise ValueError(f"--names takes a name for each MODEL: {len(models)}, got {len(names)}")
    if twice := [name for name, count in Counter(names).items() if count > 1 or not name.strip()]:
        raise ValueError(f"--names: {twice[0]!r} is empty or is given twice")


def runner_of(
    suites: Sequence[str],
    options: SuiteOptions,
    *,
    pooling: str | None,
    precision: Precision,
    use_cache: bool,
    dims: Sequence[int] = (),
    rows: Sequence[RowKind] = (),
) -> Callable[[], Runner]:
    """What prepares suites by their names, and the forms of embeddings that they are run on."""

    def prepare() -> Runner:
        return Runner(
            {name: SUITES[name].prepare(options) for name in suites},
            pooling=pooling,
            precision=precision,
            batch_size=options.batch_size,
            use_cache=use_cache,
            forms=row_forms(dims, rows),
        )

    return prepare


def _by(backend: Runtime) -> str:
    """What stands behind a model's name where several libraries run it."""
    return f" ({backend})"


def _teachers(groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The teachers of runs, and their averages: the controls of what they taught. What cannot be is a warning."""
    found: dict[str, list[str]] = {}
    for models in groups.values():
        run = Path(models[0])  # seeds have the same teachers
        if not is_run(run):
            continue
        try:
            teachers = teachers_of(run)
        except (ValueError, OSError) as error:
            logger.warning("%s: its teachers are unknown: %s", run, error)
            continue
        for problem in teachers.problems:
            logger.warning("%s: not evaluated beside it: %s", run, problem)
        for title, model in teachers.models.items():
            if [model] not in found.values():
                found[title if title not in found else f"{title} of {run}"] = [model]
    return found


def _load(name: str, reading: Reading, runner: Runner) -> AnyEncoder:
    """The encoder; of a run that another library is to run, an export made, and compared, for this evaluation."""
    backend = reading.backend
    if backend is None or backend == "torch" or locate(name).kind == "exported":
        pooling = None if locate(name).kind == "average" else runner.pooling
        return load_encoder(name, pooling=pooling, precision=runner.precision, reading=reading)
    from mcse.export.folders import export_model

    if reading.prompt_name is not None or reading.trust_remote_code:
        flag = "--trust-remote-code" if reading.trust_remote_code else "--prompt-name"
        raise ValueError(f"{flag} is for sentence-transformers:NAME, which --backend {backend} cannot export")
    if runner.precision != "float32":
        raise ValueError(f"--precision {runner.precision} is torch's; {backend} runs an export, in its own precision")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "export"
        export_model(name, to=backend, output=folder, pooling=runner.pooling, prompt=reading.prompt)
        return load_encoder(str(folder), reading=replace(reading, prompt=None))


def _notes(subject: Subject) -> tuple[str, ...]:
    """What the scores do not say: the prompt, and how many words of the sentences a table of vectors knows."""
    encoder, notes = subject.encoder, []
    if prompt := getattr(encoder, "prompt", ""):
        notes.append(f"prompt before every sentence: {prompt!r}")
    if isinstance(encoder, WordVectorEncoder):
        sentences = subject.rows.sentences
        notes.append(f"of {len(sentences):,} distinct sentences: {encoder.coverage_of(sentences).text}")
    return tuple(notes)
