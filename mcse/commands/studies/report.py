"""The report of a study, from what its folder holds."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcse.commands.launchers import Failure, Task, last_line
from mcse.commands.planned_runs import Cell, Planned, run_result
from mcse.commands.studies.cells import (
    Pair,
    Places,
    Row,
    StudyCell,
    evaluation_folder,
    is_evaluated,
    row_commands,
)
from mcse.commands.studies.declaration import Study
from mcse.commands.studies.history import History, Spent, read_cpu, read_history
from mcse.commands.studies.results import Findings, Tested, find
from mcse.config_fields import plain
from mcse.files import read_text, write_json
from mcse.report.differences import better_side
from mcse.report.made import Made, how_made, training_facts
from mcse.report.plots import DifferenceLine, Plot, ValueLine, plot_differences, plot_values
from mcse.report.study_files import Note, StudyReport, write_study_report
from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable
from mcse.report.terminal import print_table
from mcse.run_folder import is_run

SCHEMA = 1
"""Version of ``results.json``; raised when a key changes its meaning or goes away."""

_SHOWN = 80


def write_report(
    study: Study,
    cells: Sequence[StudyCell],
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    places: Places,
    *,
    file: Path,
    failures: Mapping[Path, Failure],
) -> list[tuple[str, str]]:
    """Writes the report of what is there and prints its tables; returns what is missing, by row or of all ("")."""
    found = find(study, rows, pairs, places)
    missing = _missing(study, rows, places, failures)
    history, spent = read_history(places.output), read_cpu(places.output)
    reasons = [f"{test.pair.name}, {test.score}: {test.reason}" for test in found.tests if test.reason]
    report = StudyReport(
        title=study.name,
        question=" ".join(study.question.split()),
        facts=_declared(study, cells, rows, history),
        changes=_changes(history),
        scores=_score_table(study, found),
        tests=_test_tables(study, found),
        plots=_plots(study, found),
        missing=tuple(
            # The folder is the reader's own, wherever it is read.
            sentence.replace(f"{places.output}/", "$OUTPUT/")
            for sentence in (*(sentence for _, sentence in missing), *found.missing, *reasons)
        ),
        notes=(Note(title="CPU time", lines=_cost(rows, spent)),),
        commands=(
            *([Note(title="first", lines=tuple(f"mcse {one.run}" for one in study.prepare))] if study.prepare else []),
            *(Note(title=row.name, lines=tuple(row_commands(study, row, file))) for row in rows),
        ),
        declaration=read_text(file),
        made=_made(rows, spent),
    )
    write_study_report(report, places.output)
    write_json(places.output / "results.json", _as_json(study, found, history, spent))
    for table in (report.scores, *report.tests):
        print_table(table)
    print(f"wrote {places.output / 'report.html'}, report.md, report.tex and results.json")
    return [*missing, *(("", sentence) for sentence in found.missing)]


def _missing(
    study: Study, rows: Sequence[Row], places: Places, failures: Mapping[Path, Failure]
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for row in rows:
        for place in range(len(row.models)):
            label = row.label(place)
            if row.cell is not None:
                home = Cell(row.name, Path(row.models[place]).parent)
                one = Planned(home, row.seeds[place], None)
                state = run_result(one, failures.get(one.folder))
                if state.state != "finished":
                    reason = state.reason or state.state
                    found.append((row.name, _unfinished(label, reason, Task(label, one.folder).log)))
                    continue
            for evaluation in study.evaluations:
                if not is_evaluated(row, place, evaluation, places):
                    folder = evaluation_folder(row, place, evaluation, places)
                    failure = failures.get(folder)
                    reason = f"not evaluated ({evaluation.name})" + (f": {failure.reason}" if failure else "")
                    found.append((row.name, _unfinished(label, reason, Task(label, folder).log)))
    return found


def _unfinished(label: str, reason: str, log: Path) -> str:
    """Why something is not there; where it was started, its log."""
    said = last_line(log) if log.is_file() else ""
    last = f"; the last line of {log}: {said}" if said and said not in reason else f" (log: {log})" if said else ""
    return f"{label}: {reason}{last}"


def _declared(study: Study, cells: Sequence[StudyCell], rows: Sequence[Row], history: History) -> tuple[str, ...]:
    lines = [
        f"{len(cells)} cells of {len(study.systems)} systems under seeds {study.seeds}"
        + (f"; references: {', '.join(one.name for one in study.references)}" if study.references else ""),
        *(f"factor {one.name}: {', '.join(one.settings)}" for one in study.factors),
        *([f"baseline: {study.baseline}"] if study.baseline else []),
        *([f"controls: {', '.join(study.controls)}"] if study.controls else []),
        f"primary: {', '.join(study.primary_scores)}; the other scores are beside it and in no correction",
        f"a difference of {study.difference:g} is held to be worth seeing",
    ]
    if history.declarations:
        first, last = history.declarations[0], history.declarations[-1]
        lines.append(f"declared on {first.date} UTC, before the first run: SHA-256 {first.digest[:16]}…")
        changed = len(history.declarations) - 1
        lines.append(
            "not changed since"
            if not changed
            else f"changed since ({changed} × so far), last on {last.date} UTC: SHA-256 {last.digest[:16]}… (see below)"
        )
    return tuple(lines)


def _changes(history: History) -> tuple[Note, ...]:
    dated = []
    for entry in history.declarations[1:]:
        lines = [f"{key}: {_words(old)} → {_words(new)}" for key, (old, new) in entry.changes.items()]
        lines += [
            f"row {name} was taken out; {count} of its runs were finished then" for name, count in entry.removed.items()
        ]
        title = f"{entry.date} UTC, when {entry.finished} runs were finished"
        dated.append((entry.date, Note(title=title, lines=tuple(lines or ["the order of keys or rows"]))))
    for one in history.replaced:
        lines = [f"{key}: {_words(old)} → {_words(new)}" for key, (old, new) in one.changes.items()]
        title = f"{one.date} UTC, {one.run} was trained anew; what it was before lies in {one.moved_to}"
        dated.append((one.date, Note(title=title, lines=tuple(lines))))
    return tuple(note for _, note in sorted(dated, key=lambda pair: pair[0]))


def _words(value: Any) -> str:
    text = "nothing" if value is None else plain(tuple(value) if isinstance(value, list) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _score_table(study: Study, found: Findings) -> ScoreTable:
    columns: list[ScoreColumn] = []
    for score in study.scores:
        higher = found.columns[score].higher_is_better if score in found.columns else True
        columns.append(ScoreColumn(score, higher))
        if score in study.primary_scores:
            columns += [ScoreColumn("low"), ScoreColumn("high")]
    rows = []
    for row in found.rows:
        values: list[tuple[float, ...]] = []
        for score in study.scores:
            own = found.scores.get((row.row.name, score))
            values.append(own.values if own else ())
            if score in study.primary_scores:
                values += [(end,) for end in own.interval] if own and own.interval else [(), ()]
        rows.append(ScoreRow(_title(row.row, max(map(len, row.scores.values()), default=0)), tuple(values)))
    lower = [column.label for column in columns if not column.higher_is_better]
    return ScoreTable(
        title="Scores",
        columns=tuple(columns),
        rows=tuple(rows),
        caption="Mean ± standard deviation over seeds. Low, high: 95 % interval of the mean, over seeds and test items "
        "(of one seed, over items)."
        + (f" Lower is better: {', '.join(lower)}." if lower else "")
        + (
            " Clean scores are over the items that the row's own training text does not hold; comparisons take the "
            "same items on both sides."
            if any(score.split(".")[0].endswith("_clean") for score in study.scores)
            else ""
        ),
        is_contest=False,
    )


def _title(row: Row, seeds: int) -> str:
    kind = " (control)" if row.is_control else " (reference)" if row.cell is None else ""
    lacking = f", {seeds} of {len(row.models)} seeds" if seeds < len(row.models) else ""
    return f"{row.name}{kind}{lacking}"


def _test_tables(study: Study, found: Findings) -> tuple[ScoreTable, ...]:
    tables = []
    for score in dict.fromkeys(test.score for test in found.tests):
        tests = [test for test in found.tests if test.score == score]
        is_primary = score in study.primary_scores
        families = {test.pair.family for test in tests}
        sizes = [
            f"{len(study.primary_scores) * sum(test.pair.family == family for test in tests)} declared comparisons"
            + (f" of the family {family}" if len(families) > 1 else "")
            for family in sorted(families)
        ]
        holm = (
            f"Holm: p corrected over the {' and over the '.join(sizes)}; one that is still missing counts as p = 1."
            if is_primary
            else "This score is not primary: its p is not corrected."
        )
        words = {test.found.test for test in tests if test.found is not None}
        tables.append(
            ScoreTable(
                title=f"Differences, {score}",
                columns=_test_columns(study),
                rows=tuple(_test_row(test, with_family=len(families) > 1) for test in tests),
                caption=f"First − second, low, high: its 95 % interval. {holm} Smallest: the smallest true difference "
                f"that this comparison finds with 80 % power at level 0.05. Seeds for {study.difference:g}: how many "
                f"on each side would find a true difference of {study.difference:g} with that power, by the variances "
                "measured here; a dash: no number would, since the test items alone vary too much, or a side has one "
                f"seed. Test: {'; '.join(sorted(words)) or 'none so far'}.",
                is_contest=False,
            )
        )
    return tuple(tables)


def _test_columns(study: Study) -> tuple[ScoreColumn, ...]:
    plain_columns = [ScoreColumn(label) for label in ("first", "second", "diff.", "low", "high")]
    p_columns = [ScoreColumn(label, decimals=3, is_probability=True) for label in ("p", "Holm")]
    needed = f"seeds for {study.difference:g}"
    return (
        *plain_columns,
        *p_columns,
        ScoreColumn("smallest"),
        ScoreColumn("seeds", decimals=0),
        ScoreColumn(needed, decimals=0),
    )


def _test_row(test: Tested, *, with_family: bool) -> ScoreRow:
    one = test.found
    name = test.pair.name + (f" ({test.pair.family})" if with_family else "")
    if one is None:
        return ScoreRow(name, ((),) * 10)
    numbers = [one.first, one.second, one.difference, one.low, one.high, one.p, test.p_holm, one.smallest]
    numbers += [min(test.seeds), test.needed]
    return ScoreRow(name, tuple(() if number is None else (float(number),) for number in numbers))


def _plots(study: Study, found: Findings) -> tuple[Plot, ...]:
    plots = []
    series = {name: number for number, name in enumerate(dict.fromkeys(row.row.system for row in found.rows))}
    for number, score in enumerate(study.primary_scores):
        end = f"_{number}" if number else ""
        lines = [_difference(test, series) for test in found.tests if test.score == score and test.found is not None]
        if lines:
            image = plot_differences(lines, x_label=f"difference, {score}", names=list(series))
            title = f"{score}: first − second, with 95 % intervals"
            plots.append(Plot(name=f"differences{end}", title=title, image=image))
        for factor in study.factors:
            if all(not isinstance(value, str) for value, _ in factor.settings.values()):
                plots += _value_plot(factor.name, score, found, end, series)
    return tuple(plots)


def _difference(test: Tested, series: Mapping[str, int]) -> DifferenceLine:
    assert test.found is not None
    side = better_side(test.found)
    better = None if side is None else series[(test.pair.first, test.pair.second)[side].system]
    one = test.found
    return DifferenceLine(label=test.pair.name, value=one.difference, low=one.low, high=one.high, better=better)


def _value_plot(factor: str, score: str, found: Findings, end: str, series: Mapping[str, int]) -> list[Plot]:
    """The score against a factor of numbers, a line for each system and values of the other factors."""
    points: dict[tuple[str, str], list[tuple[float, float, tuple[float, float] | None]]] = {}
    for row in found.rows:
        own = found.scores.get((row.row.name, score))
        if own is None or not own.values or factor not in row.row.values:
            continue
        others = [f"{name}={plain(value)}" for name, value in row.row.values.items() if name != factor]
        value = row.row.values[factor]
        assert not isinstance(value, str)
        point = (float(value), statistics.fmean(own.values), own.interval)
        points.setdefault((", ".join([row.row.system, *others]), row.row.system), []).append(point)
    lines = []
    for (label, system), several in points.items():
        x, values, intervals = zip(*sorted(several, key=lambda point: point[0]), strict=True)
        lines.append(ValueLine(label=label, series=series[system], x=x, values=values, intervals=intervals))
    if not any(len(line.x) > 1 for line in lines):
        return []
    image = plot_values(lines, x_label=factor, y_label=score)
    title = f"{score} against {factor}, with 95 % intervals"
    return [Plot(name=f"{re.sub(r'[^A-Za-z0-9_]', '_', factor)}{end}", title=title, image=image)]


def _cost(rows: Sequence[Row], spent: Sequence[Spent]) -> tuple[str, ...]:
    total = sum(one.seconds for one in spent)
    lines = [f"{_hours(total)}: " + ", ".join(f"{kind} {_hours(seconds)}" for kind, seconds in _by_kind(spent).items())]
    for row in rows:
        if own := [one.seconds for one in spent if one.row == row.name]:
            lines.append(f"{row.name}: {_hours(sum(own))} in {len(own)} processes")
    if lost := _unrecorded(rows, spent):
        lines.append(f"not counted: {lost} trainings that were killed together with the command, or ran without it")
    return tuple(lines)


def _by_kind(spent: Sequence[Spent]) -> dict[str, float]:
    kinds = ("preparation", "training", "evaluation", "report")
    found = {kind: sum(one.seconds for one in spent if one.kind == kind) for kind in kinds}
    return {kind: seconds for kind, seconds in found.items() if seconds}


def _unrecorded(rows: Sequence[Row], spent: Sequence[Spent]) -> int:
    """How many trainings there were, by their logs and runs, of which no line of CPU time is written."""
    lost = 0
    for row in rows:
        for place, model in enumerate(row.models if row.cell is not None else ()):
            label = row.label(place)
            log, starts = Task(label, Path(model)).log, 0
            if log.is_file():
                text = log.read_text(encoding="utf-8", errors="replace")
                starts = len(re.findall(r"^--- \d{4}-\d\d-\d\d ", text, flags=re.MULTILINE))
            lost += max(0, max(starts, is_run(Path(model))) - sum(one.label == label for one in spent))
    return lost


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} CPU hours" if seconds >= 360 else f"{seconds:.0f} CPU seconds"


def _made(rows: Sequence[Row], spent: Sequence[Spent]) -> Made:
    """How the report came about; the machines are those that processes of the study ran on."""
    runs = [Path(model) for row in rows if row.cell is not None for model in row.models]
    machines = dict.fromkeys(one.machine for one in spent)
    return how_made([*(("runs on", machine) for machine in machines), *training_facts(runs)])


def _as_json(study: Study, found: Findings, history: History, spent: Sequence[Spent]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": study.name,
        "question": study.question,
        "primary": list(study.primary_scores),
        "digest": history.declarations[-1].digest if history.declarations else None,
        "changes_after_the_first_run": max(0, len(history.declarations) - 1),
        "rows": [
            {
                "name": row.row.name,
                "system": row.row.system,
                "values": dict(row.row.values),
                "is_control": row.row.is_control,
                "is_reference": row.row.cell is None,
                "seeds": list(row.row.seeds),
                "scores": {score: _score_json(found, row.row.name, score) for score in study.scores},
            }
            for row in found.rows
        ],
        "comparisons": [_test_json(test) for test in found.tests],
        "cpu_seconds": _by_kind(spent),
    }


def _score_json(found: Findings, row: str, score: str) -> dict[str, Any] | None:
    own = found.scores.get((row, score))
    if own is None or not own.values:
        return None
    low, high = own.interval or (None, None)
    return {
        "values": list(own.values),
        "mean": statistics.fmean(own.values),
        "sd": statistics.stdev(own.values) if len(own.values) > 1 else None,
        "low": low,
        "high": high,
    }


def _test_json(test: Tested) -> dict[str, Any]:
    names = {"first": test.pair.first.name, "second": test.pair.second.name, "family": test.pair.family}
    if test.found is None:
        return {**names, "score": test.score, "reason": test.reason}
    one = test.found
    numbers = ("difference", "low", "high", "p", "smallest", "item_sd", "first_sd", "second_sd", "test", "items")
    return {
        **names,
        "score": test.score,
        "first_mean": one.first,
        "second_mean": one.second,
        **{name: getattr(one, name) for name in numbers},
        "p_holm": test.p_holm,
        "seeds": list(test.seeds),
        "seeds_needed": test.needed,
    }
