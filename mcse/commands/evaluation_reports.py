"""What ``mcse evaluate`` says while it works, and prints, writes and lists of what it found."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from mcse.commands import exit_code
from mcse.commands.evaluated_models import Evaluated, NamedModels
from mcse.distributed import is_main
from mcse.encoders.loading import hub_commit
from mcse.errors import in_words, is_out_of_memory, printable
from mcse.evaluation.result_cache import ITEMS, write_items
from mcse.evaluation.seen_text import contaminated_pairs
from mcse.evaluation.worst_pairs import worst_pairs
from mcse.files import claimed
from mcse.progress import phase, say
from mcse.report.evaluation_files import (
    comparison_folder,
    model_folder,
    update_card,
    write_comparison,
    write_listing,
    write_model,
)
from mcse.report.made import Made
from mcse.report.mteb_files import write_mteb_files
from mcse.report.seed_groups import System
from mcse.report.tables import ScoreTable
from mcse.report.terminal import print_table
from mcse.run_folder import EVALUATION, is_run
from mcse.types import ModelScores

_SECONDS_TO_WAIT = 60.0
"""For another evaluation of the model to finish writing its report, which takes one or two."""


@dataclass(slots=True)
class Reports:
    """Listens to an evaluation: says what is done, writes the report of every model, and collects exit codes.

    Args:
        names: The models.
        output: The folder that was asked for.
        precision: Of the matrix products.
        mteb_files: Whether scores are written in MTEB's form, too.
        items: Whether every item's score is written.
    """

    names: NamedModels
    _: KW_ONLY
    output: Path | None
    precision: str
    mteb_files: bool
    items: bool
    has_cards: bool = field(default=True, init=False)
    """Whether a run's card gets its scores: not those of other embeddings than the run's own."""

    exit_codes: list[int] = field(default_factory=list, init=False)

    def on_start(self, model: str, suites: str) -> None:
        """Says so, with the commit of a model of the hub."""
        if is_main():
            commit = hub_commit(self.names.asked(model)[0])
            pinned = f" at commit {commit}" if commit else ""
            say(f"evaluating {model}{pinned} on {suites}")

    def on_failure(self, name: str, error: Exception) -> None:
        """Says what is wrong in one line; nobody named a teacher on the command line, so this is no failure."""
        if not self.names.is_teacher(name):
            self.exit_codes.append(exit_code(error))
        if is_main():
            message = in_words(error) + (". Lower --batch-size" if is_out_of_memory(error) else "")
            whole = f"mcse evaluate: {f'{name}: ' if name not in message else ''}{message}"
            print(printable(whole), file=sys.stderr)

    def on_scores(self, scores: ModelScores, made: Made, *, is_seed: bool) -> None:
        """Writes the report of one model."""
        if not is_main():
            return
        folder = self._folder(scores, is_seed=is_seed)
        with claimed(folder, wait=_SECONDS_TO_WAIT), phase(f"writing the report of {scores.name}"):
            write_model(
                scores,
                folder,
                digest=self.names.digest(scores.name),
                precision=self.precision,
                shown=self.names.shown.get(scores.name, ""),
                made=made,
            )
        print(printable(f"wrote {folder / 'results.json'}, report.md, report.tex and report.html"))
        if self.has_cards:
            try:
                update_card(scores, folder)
            except OSError as error:
                print(f"mcse evaluate: the model card does not get the table: {error}", file=sys.stderr)
        if self.items:
            write_items(scores, folder / ITEMS)
        if self.mteb_files:
            write_mteb_files(folder / "mteb", scores)

    def write(self, found: Evaluated) -> Path:
        """Prints the tables, and writes them where there are several models; returns the folder of what is written."""
        _print(found.tables, notes=found.notes)
        if len(found.models) == 1:
            return self._folder(found.models[0], is_seed=False)
        titles = [system.title for system in found.systems]
        folder = comparison_folder(titles, output=self._beside() or self.output)
        with claimed(folder, wait=_SECONDS_TO_WAIT), phase("writing the comparison"):
            write_comparison(found.systems, folder, tables=found.tables, compared=found.compared, made=found.made)
        print(printable(f"wrote {folder / 'comparison.json'}, comparison.md, comparison.tex and report.html"))
        return folder

    def _folder(self, model: ModelScores, *, is_seed: bool) -> Path:
        """Where the report of one model goes."""
        digest = self.names.digest(model.name)
        if self.names.is_teacher(model.name):
            return model_folder(model, digest=digest, output=self._beside() or self.output, is_alone=False)
        is_alone = len(self.names.models) == 1 and not is_seed and len(self.names.backends) < 2
        return model_folder(model, digest=digest, output=self.output, is_alone=is_alone)

    def _beside(self) -> Path | None:
        """Where the reports of one run's teachers go, and those of all of them together."""
        models = self.names.models
        if not self.names.teachers or len(models) > 1 or not is_run(Path(models[0])):
            return None
        return (self.output or Path(models[0]) / EVALUATION) / "teachers"


def _print(tables: Sequence[ScoreTable], *, notes: Sequence[str]) -> None:
    console = Console()
    for table in tables:
        print_table(table, console=console)
    for note in notes:
        console.print(printable(note), style="dim", markup=False, highlight=False)


def list_pairs(systems: Sequence[System], folder: Path, *, errors: int | None, contamination: bool) -> None:
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
