"""Judges sentence encoders: loads each model, runs the suites, prints one table and writes the reports."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation import SUITES, Column, PreparedSuite, SuiteOptions, SuiteScores, is_main, join_world
from mcse.report.markdown import markdown_notes, markdown_table
from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable
from mcse.report.terminal import print_table

SCHEMA = 1
"""Version of ``results.json``; raised when a key changes its meaning or goes away."""

_VARIANTS = {
    "spearman": "Spearman, all pairs together",
    "spearman_mean": "Spearman, mean of subsets",
    "spearman_wmean": "Spearman, weighted mean of subsets",
    "pearson": "Pearson, all pairs together",
}
_WEIGHTS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the suites found for one model."""

    model: str
    pooling: str
    suites: tuple[SuiteScores, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The headline numbers of all suites."""
        return tuple(column for suite in self.suites for column in suite.columns)

    @property
    def scores(self) -> dict[str, Mapping[str, Mapping[str, float]]]:
        """Suite → task → metric → value."""
        return {name: tasks for suite in self.suites for name, tasks in suite.scores.items()}

    @property
    def absent(self) -> dict[str, str]:
        """What is missing, and why."""
        return {name: reason for suite in self.suites for name, reason in suite.absent.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where a model or the data cannot be used; what was judged by then is written."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    options = _parse(arguments)
    try:
        join_world()
        suite_options = SuiteOptions(data=options.data, batch_size=options.batch_size)
        if options.list:
            _list_suites(suite_options)
            return 0
        suites = [SUITES[name].prepare(suite_options) for name in options.suite]
    except (ValueError, OSError) as error:
        return _failed(error)
    verdicts, failures = _judge(options, suites)
    if is_main() and verdicts:
        _show(verdicts)
        if len(options.models) > 1:
            _write_comparison(verdicts, options.output)
    return max([0, *failures])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="run folder, checkpoint, hub id, package:NAME/FOLDER"
    )
    parser.add_argument("--suite", nargs="+", choices=sorted(SUITES), default=["sts"], help="suites to run (sts)")
    parser.add_argument("--pooling", help="overrides the model's own pooling; needed where a model states none")
    parser.add_argument("--data", help="SentEval folder, or one file of scored pairs (.tsv, .csv, .jsonl)")
    parser.add_argument(
        "--output", type=Path, help="folder of the reports (a run's evaluation/, or evaluation/<digest>/)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="sentences a forward pass (64)")
    parser.add_argument(
        "--list", action="store_true", help="name the suites, what data they need and whether it is there"
    )
    options = parser.parse_args(arguments)
    if not options.models and not options.list:
        parser.error("give at least one MODEL, or --list")
    if len(set(options.models)) < len(options.models):
        parser.error("the same MODEL is given twice")
    return options


def _list_suites(options: SuiteOptions) -> None:
    for suite in SUITES.values():
        try:
            state = f"there: {suite.prepare(options).summary}"
        except (ValueError, OSError) as error:
            state = f"not there: {error}"
        if is_main():
            print(f"{suite.name}\n  needs {suite.needs}\n  {state}")


def _judge(options: argparse.Namespace, suites: Sequence[PreparedSuite]) -> tuple[list[Verdict], list[int]]:
    """Model after model, each written as soon as it is judged; a model that fails does not lose the others."""
    verdicts: list[Verdict] = []
    failures: list[int] = []
    for model in options.models:
        if is_main():
            print(f"judging {model} by {'; '.join(suite.summary for suite in suites)}", file=sys.stderr)
        try:
            encoder = SentenceEncoder.from_pretrained(model, pooling=options.pooling)
            verdict = Verdict(
                model=encoder.name, pooling=encoder.pooling, suites=tuple(suite.run(encoder) for suite in suites)
            )
            if is_main():
                _write_verdict(verdict, _output_folder(model, options))
        except (ValueError, OSError) as error:
            failures.append(_failed(error, model=model))
            continue
        verdicts.append(verdict)
    return verdicts, failures


def _failed(error: Exception, *, model: str = "") -> int:
    """Says what is wrong in one line."""
    if is_main():
        message = " ".join(str(error).split())
        print(f"evaluate.py: error: {f'{model}: ' if model and model not in message else ''}{message}", file=sys.stderr)
    return 2


def _output_folder(model: str, options: argparse.Namespace) -> Path:
    if options.output is not None:
        if len(options.models) == 1:
            return Path(options.output)
        slugs = [_slug(name) for name in options.models]
        slug = _slug(model)
        return Path(options.output) / (slug if slugs.count(slug) == 1 else f"{slug}-{_digest([model])[:8]}")
    path = Path(model)
    if (path / "best").is_dir():
        return path / "evaluation"
    return Path("evaluation") / _model_digest(path, model)


def _slug(model: str) -> str:
    parts = [part for part in re.split(r"[/:\\]", model) if part not in ("", ".", "..")]
    return re.sub(r"[^\w.-]", "_", "-".join(parts[-2:])) or "model"


def _model_digest(path: Path, model: str) -> str:
    """Of the files that make the model, wherever they stand; of its name where it is not a folder."""
    if not path.is_dir():
        return _digest([model])
    files = sorted({file for pattern in _WEIGHTS for file in path.rglob(pattern) if file.is_file()})
    return _digest(f"{file.relative_to(path)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _show(verdicts: Sequence[Verdict]) -> None:
    table = _variants_table(verdicts[0]) if len(verdicts) == 1 else _comparison_table(verdicts)
    notes = [f"{name}: {reason}" for verdict in verdicts for name, reason in verdict.absent.items()]
    print_table(table, notes=list(dict.fromkeys(notes)), console=Console())


def _comparison_table(verdicts: Sequence[Verdict]) -> ScoreTable:
    """A row a model, with the headline numbers."""
    columns = verdicts[0].columns
    return ScoreTable(
        title="Scores",
        columns=tuple(ScoreColumn(column.label, column.higher_is_better) for column in columns),
        rows=tuple(
            ScoreRow(_title(verdict), tuple(_cell(verdict, column, column.metric) for column in columns))
            for verdict in verdicts
        ),
        caption='Spearman × 100 over all pairs of a task together (SentEval\'s "all"); the best is bold.',
    )


def _variants_table(verdict: Verdict) -> ScoreTable:
    """A row for each way to aggregate: the headline first, then those that other papers print."""
    columns = verdict.columns
    rows = tuple(
        ScoreRow(label, tuple(_cell(verdict, column, metric) for column in columns))
        for metric, label in _VARIANTS.items()
    )
    return ScoreTable(
        title=_title(verdict),
        columns=tuple(ScoreColumn(column.label) for column in columns),
        rows=rows,
        caption='Correlations × 100. Papers print SentEval\'s "all": the pairs of all subsets together.',
        is_contest=False,
    )


def _cell(verdict: Verdict, column: Column, metric: str) -> tuple[float, ...]:
    task = verdict.scores[column.suite][column.task]
    return (task[metric],) if metric in task else ()


def _title(verdict: Verdict) -> str:
    return f"{verdict.model} ({verdict.pooling})"


def _write_verdict(verdict: Verdict, folder: Path) -> None:
    _write(folder / "report.md", _report(verdict))
    _write(folder / "results.json", _json(_results(verdict)))
    print(f"wrote {folder / 'results.json'} and report.md")


def _results(verdict: Verdict) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": verdict.model,
        "pooling": verdict.pooling,
        "protocols": {name: words for suite in verdict.suites for name, words in suite.protocols.items()},
        "scores": verdict.scores,
        "subsets": {name: tasks for suite in verdict.suites for name, tasks in suite.subsets.items()},
        "absent": verdict.absent,
    }


def _report(verdict: Verdict) -> str:
    parts = [markdown_table(_variants_table(verdict))]
    parts += [
        markdown_table(_subset_table(task, subsets))
        for suite in verdict.suites
        for tasks in suite.subsets.values()
        for task, subsets in tasks.items()
    ]
    parts.append(markdown_notes("Missing", [f"{name}: {reason}" for name, reason in verdict.absent.items()]))
    protocols = [f"{name}: {words}" for suite in verdict.suites for name, words in suite.protocols.items()]
    parts.append(markdown_notes("Protocols", protocols))
    return "\n".join(part for part in parts if part)


def _subset_table(task: str, subsets: Mapping[str, Mapping[str, float]]) -> ScoreTable:
    metrics = list(dict.fromkeys(metric for scores in subsets.values() for metric in scores if metric != "pairs"))
    rows = tuple(
        ScoreRow(f"{name} ({scores['pairs']:,} pairs)", tuple((scores[metric],) for metric in metrics))
        for name, scores in subsets.items()
    )
    columns = tuple(ScoreColumn(name) for name in metrics)
    return ScoreTable(title=f"{task} by subset", columns=columns, rows=rows, is_contest=False)


def _write_comparison(verdicts: Sequence[Verdict], output: Path | None) -> None:
    folder = output or Path("evaluation") / _digest(verdict.model for verdict in verdicts)
    models = [{"model": v.model, "pooling": v.pooling, "scores": v.scores} for v in verdicts]
    _write(folder / "comparison.json", _json({"schema": SCHEMA, "models": models}))
    _write(folder / "comparison.md", markdown_table(_comparison_table(verdicts)))
    print(f"wrote {folder / 'comparison.json'} and comparison.md")


def _json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    """Written under another name first: a full disk leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


if __name__ == "__main__":
    sys.exit(main())
