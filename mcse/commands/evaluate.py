"""``mcse evaluate``: loads each model, runs the suites, prints the tables and writes the reports.

``evaluate.py`` is the same command.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from mcse.commands import exit_code
from mcse.commands.own_tables import default_data, read_test_tables
from mcse.distributed import is_main, join_world
from mcse.encoders.loading import AnyEncoder, encoder_digest, hub_commit, load_encoder
from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.errors import in_words, is_out_of_memory, printable
from mcse.evaluation.compare import compare
from mcse.evaluation.result_cache import ITEMS, write_items
from mcse.evaluation.row_forms import row_forms
from mcse.evaluation.runner import PooledEncoder, Runner
from mcse.evaluation.seen_text import contaminated_pairs
from mcse.evaluation.suite import PreparedSuite, Subject, SuiteOptions, TransferMode
from mcse.evaluation.suites import SUITES
from mcse.evaluation.teachers import teachers_of
from mcse.evaluation.worst_pairs import worst_pairs
from mcse.files import claimed
from mcse.manifest import Reading, Runtime, locate
from mcse.metrics.significance import DRAWS
from mcse.progress import phase, say
from mcse.report.evaluation_files import (
    comparison_folder,
    model_folder,
    update_card,
    write_comparison,
    write_listing,
    write_model,
)
from mcse.report.made import Made, how_made, short_digest, training_facts
from mcse.report.mteb_files import write_mteb_files
from mcse.report.results import compared_tables, contest_tables, model_tables
from mcse.report.seed_groups import System, short_names
from mcse.report.tables import ScoreTable
from mcse.report.terminal import print_table
from mcse.run_folder import EVALUATION, is_run, seed_runs
from mcse.stored_rows import RowKind
from mcse.types import ComparedScore, ModelScores

logger = logging.getLogger(__name__)

_SECONDS_TO_WAIT = 60.0
"""For another evaluation of the model to finish writing its report, which takes one or two."""

_SUITES = ("sts",)
"""Those of whoever asks for none, which is told by this very tuple."""


def _by(backend: Runtime) -> str:
    """What stands behind a model's name where several libraries run it."""
    return f" ({backend})"


@dataclass(slots=True)
class _Reports:
    """What is written of the models, and the exit codes of what failed."""

    output: Path | None
    precision: str
    pooling: str | None
    reading: Reading
    backends: Sequence[Runtime]
    _: KW_ONLY
    is_alone: bool
    mteb_files: bool
    items: bool = False
    failures: list[int] = field(default_factory=list)
    takes_teachers: bool = False
    teachers: set[str] = field(default_factory=set)
    beside: Path | None = None
    """Where the reports of one run's teachers go, and those of all of them together."""

    chosen: Mapping[str, str] = field(default_factory=dict)
    """By MODEL what ``--names`` calls it."""

    shown: dict[str, str] = field(default_factory=dict)
    """What reports call a model, or a group of seeds, by its name on the command line."""

    data: tuple[tuple[str, str], ...] = ()
    """What the models are evaluated on, for the end of reports."""

    told: str = ""
    """What was evaluated on where nobody named data."""

    loaded: Mapping[str, PooledEncoder] = field(default_factory=dict)
    """Encoders that are in memory already, by the name that a table calls them by."""

    digests: dict[str, str | None] = field(default_factory=dict)
    in_python: bool = False
    """Whether the first failure is raised, and nothing is printed or written."""

    @property
    def has_cards(self) -> bool:
        """Whether a run's card gets the table: not one of other rows than the run's own."""
        return self.pooling is None and self.reading == Reading() and not self.backends

    def fail(self, name: str, error: Exception) -> None:
        """Says what is wrong in one line; a teacher was not named on the command line, so this is no failure."""
        if name.partition(", ")[0] not in self.teachers:
            if self.in_python:
                if not getattr(error, "__notes__", None):
                    error.add_note(f"while evaluating {name}")
                raise error
            self.failures.append(exit_code(error))
        if is_main():
            message = in_words(error) + (". Lower --batch-size" if is_out_of_memory(error) else "")
            whole = f"mcse evaluate: {f'{name}: ' if name not in message else ''}{message}"
            print(printable(whole), file=sys.stderr)

    def folder(self, model: ModelScores, *, is_seed: bool = False) -> Path:
        """Where the report of one model goes."""
        if model.name in self.teachers:
            return model_folder(
                model, digest=self.digest(model.name), output=self.beside or self.output, is_alone=False
            )
        is_alone = self.is_alone and not is_seed and len(self.backends) < 2
        return model_folder(model, digest=self.digest(model.name), output=self.output, is_alone=is_alone)

    def digest(self, name: str) -> str | None:
        """Of a model, and of what is asked beside its name."""
        if name not in self.digests:
            # What is in memory may be no longer what was read.
            self.digests[name] = None if name in self.loaded else encoder_digest(*self.asked(name))
        return self.digests[name]

    def call(self, groups: Mapping[str, Sequence[str]]) -> None:
        """Settles what reports call models and groups of seeds: what was chosen by name, or what tells them apart."""
        # What is in memory has the name that the caller gave it.
        chosen = {**self.chosen, **{name: name for name in self.loaded}}
        shorts = dict(zip(groups, short_names(list(groups)), strict=True))
        for group, models in groups.items():
            model, reading = self.asked(group)
            behind = _by(reading.backend) if self.backends and reading.backend else ""
            self.shown[group] = chosen[model] + behind if model in chosen else shorts[group]
            for seed in models:
                self.shown.setdefault(seed, f"{self.shown[group]}, {Path(seed).name}")

    def made(self, models: Sequence[ModelScores]) -> Made:
        """How a report of these models came about."""
        runs = [Path(self.asked(model.name)[0]) for model in models]
        own = [
            (
                f"model {self.shown.get(model.name, model.name)}",
                f"{model.name}, pooling {model.pooling}, {short_digest(self.digest(model.name) or '')}",
            )
            for model in models
        ]
        draws = ("seeds of the test", f"{DRAWS} bootstrap draws of items, seeded by each score's name")
        default = [("data by default", self.told)] if self.told else []
        return how_made([*own, *training_facts(runs), *self.data, *default, draws])

    def asked(self, name: str) -> tuple[str, Reading]:
        """The model that a row of the tables is of, and what is asked beside its name."""
        if name in self.teachers:
            return name, Reading()
        for backend in self.backends:
            if name.endswith(_by(backend)):
                return name.removesuffix(_by(backend)), replace(self.reading, backend=backend)
        return name, self.reading

    def write(self, model: ModelScores, *, is_seed: bool) -> None:
        """Writes the report of one model."""
        folder = self.folder(model, is_seed=is_seed)
        with claimed(folder, wait=_SECONDS_TO_WAIT), phase(f"writing the report of {model.name}"):
            write_model(
                model,
                folder,
                digest=self.digest(model.name),
                precision=self.precision,
                shown=self.shown.get(model.name, ""),
                made=self.made([model]),
            )
        print(printable(f"wrote {folder / 'results.json'}, report.md, report.tex and report.html"))
        if self.has_cards:
            try:
                update_card(model, folder)
            except OSError as error:
                print(f"mcse evaluate: the model card does not get the table: {error}", file=sys.stderr)
        if self.items:
            write_items(model, folder / ITEMS)
        if self.mteb_files:
            write_mteb_files(folder / "mteb", model)


def run(
    models: Sequence[str] = (),
    *,
    suites: Sequence[str] = _SUITES,
    names: Sequence[str] = (),
    pooling: str | None = None,
    data: str | None = None,
    columns: Sequence[str] = (),
    allow_missing: bool = False,
    captions: str | None = None,
    features: str | None = None,
    images: str | None = None,
    contents: str | None = None,
    folds: int = 1,
    transfer_mode: TransferMode = "test",
    tasks: Sequence[str] = (),
    compared: bool = False,
    no_teachers: bool = False,
    errors: int | None = None,
    contamination: bool = False,
    mteb_files: bool = False,
    items: bool = False,
    output: Path | None = None,
    batch_size: int = 64,
    precision: Literal["float32", "bfloat16"] = "float32",
    no_cache: bool = False,
    prompt: str | None = None,
    prompt_name: str | None = None,
    trust_remote_code: bool = False,
    dims: Sequence[int] = (),
    rows: Sequence[RowKind] = (),
    backends: Sequence[Runtime] = (),
    list_suites: bool = False,
) -> int:
    """Evaluates; 0, or the code of a failure, after which others go on; ``ValueError`` for flags that do not fit."""
    join_world()
    data, told = (data, "") if data else _default_data(models, suites)
    options = SuiteOptions(
        data=data,
        allow_missing=allow_missing,
        batch_size=batch_size,
        transfer_mode=transfer_mode,
        captions=captions,
        features=features,
        images=images,
        contents=contents,
        folds=folds,
        tasks=tuple(tasks),
    )
    if list_suites:
        return _list_suites(options)
    options = _checked(models, suites, options, columns, compared=compared, errors=errors, mteb_files=mteb_files)
    _check_names(names, models)
    reading = Reading(prompt=prompt, prompt_name=prompt_name, trust_remote_code=trust_remote_code)
    reports = _Reports(output, precision, pooling, reading, backends, is_alone=len(models) == 1, mteb_files=mteb_files)
    reports.items, reports.told, reports.chosen = items, told, dict(zip(models, names, strict=False))
    made = partial(Runner, pooling=pooling, precision=precision, batch_size=batch_size, use_cache=not no_cache)
    runner = partial(_runner, made, suites, options, dims=dims, rows=rows)
    reports.takes_teachers = not (compared or no_teachers or backends)
    return _carry_out(models, runner, reports, is_compared=compared, errors=errors, contamination=contamination)


def _default_data(models: Sequence[str], suites: Sequence[str]) -> tuple[str | None, str]:
    """What is evaluated on where no data are named, and what is said of it."""
    data, told = default_data(models, None if suites is _SUITES else suites)
    if told and is_main():
        print(printable(told), file=sys.stderr)
    return data, told


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What an evaluation found.

    Args:
        systems: The scores of every model, or of the seeds of one.
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


def evaluate_models(
    models: Sequence[str],
    made: Callable[[Mapping[str, PreparedSuite]], Runner],
    options: SuiteOptions,
    *,
    suites: Sequence[str] | None,
    loaded: Mapping[str, PooledEncoder],
    columns: Sequence[str],
    compared: bool,
    teachers: bool,
) -> Evaluated:
    """As ``run``, for ``mcse.evaluate``: raises the first failure, and neither prints nor writes.

    ``made`` gives the runner of prepared suites; ``loaded`` are encoders in memory, by their names among ``models``.
    """
    join_world()
    told = ""
    if options.data is None:
        data, told = default_data([name for name in models if name not in loaded], suites)
        options = replace(options, data=data)
    suites = _SUITES if suites is None else suites
    options = _checked(models, suites, options, columns, compared=compared, errors=None, mteb_files=False)
    reports = _Reports(None, "", None, Reading(), (), is_alone=True, mteb_files=False)
    reports.loaded, reports.in_python, reports.told = loaded, True, told
    reports.takes_teachers = teachers and not compared
    systems, _ = _systems(models, lambda: made({name: SUITES[name].prepare(options) for name in suites}), reports)
    found = _found(systems, reports, is_compared=compared)
    return replace(found, notes=(told.replace("--data", "data"), *found.notes)) if told else found


def _runner(
    made: Callable[..., Runner],
    suites: Sequence[str],
    options: SuiteOptions,
    *,
    dims: Sequence[int],
    rows: Sequence[RowKind],
) -> Runner:
    return made({name: SUITES[name].prepare(options) for name in suites}, forms=row_forms(dims, rows))


def _check_names(names: Sequence[str], models: Sequence[str]) -> None:
    if names and len(names) != len(models):
        raise ValueError(f"--names takes a name for each MODEL: {len(models)}, got {len(names)}")
    if twice := [name for name, count in Counter(names).items() if count > 1 or not name.strip()]:
        raise ValueError(f"--names: {twice[0]!r} is empty or is given twice")


def _with_tables(options: SuiteOptions, suites: Sequence[str], columns: Sequence[str]) -> SuiteOptions:
    """With the tables that ``--data`` and ``--columns`` name for the suite ``table``."""
    if "table" not in suites:
        if columns:
            raise ValueError("--columns names the columns of --suite table")
        return options
    tables, root = ((), Path()) if options.data is None else read_test_tables(options.data, columns)
    return replace(options, tables=tables, tables_root=root)


def _carry_out(
    models: Sequence[str],
    runner: Callable[[], Runner],
    reports: _Reports,
    *,
    is_compared: bool,
    errors: int | None,
    contamination: bool,
) -> int:
    try:
        systems, own = _systems(models, runner, reports)
        if is_main() and own:
            folder = _report(_found(systems, reports, is_compared=is_compared), reports)
            _list_pairs(own, folder, errors=errors, contamination=contamination)
    except (ValueError, OSError) as error:
        reports.fail("", error)
    return max(reports.failures, default=0)


def _systems(
    models: Sequence[str], runner: Callable[[], Runner], reports: _Reports
) -> tuple[list[System], list[System]]:
    """What was evaluated, and what of it is no teacher of the rest."""
    groups = _groups(models, reports)
    named = {name: of for name, of in groups.items() if name not in reports.loaded}
    taught = _teachers(named) if reports.takes_teachers else {}
    reports.teachers |= {model for several in taught.values() for model in several}
    if taught and len(models) == 1 and is_run(Path(models[0])):
        reports.beside = (reports.output or Path(models[0]) / EVALUATION) / "teachers"
    reports.call(groups)
    reports.shown |= {title: title for title in taught}
    with phase("reading the test sets", is_shown=is_main()):
        prepared = runner()
    reports.data = tuple(
        (f"test data of {name}", f"{suite.summary}; {short_digest(suite.digest)}")
        for name, suite in prepared.suites.items()
    )
    systems = _evaluate(groups | taught, prepared, reports)
    return systems, [system for system in systems if system.name not in taught]


def _checked(
    models: Sequence[str],
    suites: Sequence[str],
    options: SuiteOptions,
    columns: Sequence[str],
    *,
    compared: bool,
    errors: int | None,
    mteb_files: bool,
) -> SuiteOptions:
    """The options with the tables of the suite ``table``, where the flags go together."""
    if not models:
        raise ValueError("give at least one MODEL, or --list")
    if len(set(models)) < len(models):
        raise ValueError("the same MODEL is given twice")
    if errors is not None and not {"sts", "table"} & {*suites}:
        raise ValueError("--errors needs --suite sts or table")
    if mteb_files and "sts" not in suites:
        raise ValueError("--mteb-files needs --suite sts")
    if options.contents and "regularities" not in suites:
        raise ValueError("--contents is for --suite regularities")
    if options.folds != 1 and "retrieval" not in suites:
        raise ValueError("--folds parts the images of --suite retrieval")
    if options.tasks and "mteb" not in suites:
        raise ValueError("--tasks names tasks of --suite mteb")
    if compared and len(models) != 2:
        raise ValueError(f"--compare takes exactly two models or two parents of seed folders, got {len(models)}")
    if errors is not None and (errors < 1 or len(models) > 2):
        raise ValueError("--errors takes a number from 1, and one model or two")
    return _with_tables(options, suites, columns)


def _list_suites(options: SuiteOptions) -> int:
    for suite in SUITES.values():
        try:
            state = f"available: {suite.prepare(options).summary}"
        except (ValueError, OSError) as error:
            state = f"not available: {error}"
        if is_main():
            print(f"{suite.name}\n  needs {suite.needs}\n  {state}")
    return 0


def _groups(models: Sequence[str], reports: _Reports) -> dict[str, list[str]]:
    """For each name its models: itself, or the seeds below it; one that is neither is said, and the others stay."""
    groups = {}
    for name in models:
        folder = Path(name)
        if name in reports.loaded:
            groups[name] = [name]
            continue
        try:
            is_parent = folder.is_dir() and not is_run(folder) and any(is_run(child) for child in folder.iterdir())
            found = [str(run) for run in seed_runs(folder)] if is_parent else [name]
            for backend in reports.backends or (None,):
                suffix = "" if backend is None else _by(backend)
                groups[name + suffix] = [model + suffix for model in found]
        except (ValueError, OSError) as error:
            reports.fail(name, error)
    return groups


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


def _evaluate(groups: Mapping[str, Sequence[str]], runner: Runner, reports: _Reports) -> list[System]:
    """Model after model, each written as soon as it is evaluated."""
    systems: list[System] = []
    for name, models in groups.items():
        seeds = []
        for model in models:
            try:
                found = runner.scores(
                    model,
                    run=Path(reports.asked(model)[0]),
                    digest=reports.digest(model),
                    load=lambda name: reports.loaded.get(name) or _load(*reports.asked(name), runner),
                    notes=_notes,
                    on_start=_pass_over if reports.in_python else partial(_say, reports),
                    on_failure=reports.fail,
                )
                seeds.append(found)
                if is_main() and not reports.in_python:
                    reports.write(found, is_seed=len(models) > 1)
            except Exception as error:  # of whatever library reads a model of whatever kind; the next may be good
                reports.fail(model, error)
        if seeds:
            systems.append(System(name, tuple(seeds), short=reports.shown[name]))
    return systems


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


def _say(reports: _Reports, model: str, suites: str) -> None:
    if is_main():
        commit = hub_commit(reports.asked(model)[0])
        pinned = f" at commit {commit}" if commit else ""
        say(f"evaluating {model}{pinned} on {suites}")


def _pass_over(model: str, suites: str) -> None:
    """Says nothing."""


def _notes(subject: Subject) -> tuple[str, ...]:
    """What the scores do not say: the prompt, and how many words of the sentences a table of vectors knows."""
    encoder, notes = subject.encoder, []
    if prompt := getattr(encoder, "prompt", ""):
        notes.append(f"prompt before every sentence: {prompt!r}")
    if isinstance(encoder, WordVectorEncoder):
        sentences = subject.rows.sentences
        notes.append(f"of {len(sentences):,} distinct sentences: {encoder.coverage_of(sentences).text}")
    return tuple(notes)


def _found(systems: Sequence[System], reports: _Reports, *, is_compared: bool) -> Evaluated:
    """What there is to print and write of the scores."""
    models = [seed for system in systems for seed in system.seeds]
    shown = replace(models[0], name=reports.shown.get(models[0].name, models[0].name))
    tables = contest_tables(systems) if len(models) > 1 else model_tables(shown)
    notes = [f"{name}: {reason}" for model in models for name, reason in model.all.absent.items()]
    notes += [f"{model.name}: {note}" for model in models for note in model.notes]
    compared: tuple[ComparedScore, ...] = ()
    if is_compared and reports.failures:
        notes.append("not compared: not every model could be evaluated")
    elif is_compared:
        try:
            with phase(f"comparing {systems[0].title} with {systems[1].title}"):
                compared = compare(systems[0].seeds, systems[1].seeds)
            tables += compared_tables(systems, compared)
        except ValueError as error:
            if reports.in_python:
                raise
            notes.append(f"not compared: {error}")
    return Evaluated(
        systems=tuple(systems),
        tables=tuple(tables),
        notes=tuple(dict.fromkeys(notes)),
        compared=compared,
        digests=reports.digests,
        made=reports.made(models),
    )


def _report(found: Evaluated, reports: _Reports) -> Path:
    """Prints the tables, and writes them where there are several models; returns the folder of what is written."""
    _print(found.tables, notes=found.notes)
    if len(found.models) == 1:
        return reports.folder(found.models[0])
    titles = [system.title for system in found.systems]
    folder = comparison_folder(titles, output=reports.beside or reports.output)
    with claimed(folder, wait=_SECONDS_TO_WAIT), phase("writing the comparison"):
        write_comparison(found.systems, folder, tables=found.tables, compared=found.compared, made=found.made)
    print(printable(f"wrote {folder / 'comparison.json'}, comparison.md, comparison.tex and report.html"))
    return folder


def _print(tables: Sequence[ScoreTable], *, notes: Sequence[str]) -> None:
    console = Console()
    for table in tables:
        print_table(table, console=console)
    for note in notes:
        console.print(printable(note), style="dim", markup=False, highlight=False)


def _list_pairs(systems: Sequence[System], folder: Path, *, errors: int | None, contamination: bool) -> None:
    """Lists what ``--errors`` and ``--contamination`` ask for; of a group of seeds the first stands for all."""
    console = Console()
    if errors is not None:
        pairs = [asdict(pair) for pair in worst_pairs([system.seeds[0] for system in systems], number=errors)]
        console.print(f"errors: {len(pairs):,} pairs", style="bold")
        for line, style in _pair_lines(pairs):
            console.print(printable(line), markup=False, style=style)
        write_listing(folder / "errors.jsonl", pairs)
    if not contamination:
        return
    models = [seed for system in systems for seed in system.seeds]
    found = [{"model": model.name, **pair} for model in models for pair in contaminated_pairs(model)]
    for model in models:
        if not any(sample.clean_P is not None for sample in model.all.samples.values()):
            print(printable(f"contamination: the training text of {model.name} is unknown"), file=sys.stderr)
    console.print(f"contamination: {len(found):,} pairs", style="bold")
    for (name, task), number in Counter((row["model"], row["task"]) for row in found).items():
        console.print(printable(f"  {name}, {task}: {number:,}"), markup=False)
    write_listing(folder / "contamination.jsonl", found)


def _pair_lines(pairs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str | None]]:
    for pair in pairs:
        numbers = " | ".join(
            f"cosine {cosine:.2f}, {error:.0f} % off"
            for cosine, error in zip(pair["cosines"], pair["errors"], strict=True)
        )
        yield f"  {pair['task']}, gold {pair['gold']:g}: {numbers}", None
        yield f"    {pair['sentence1']}\n    {pair['sentence2']}", "dim"
