"""Verdicts as files and tables: ``results.json`` of a model, ``comparison.json`` of several, and what is printed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mcse.report.markdown import markdown_notes, markdown_table
from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable
from mcse.types import Column, ComparedScore, SuiteScores, TaskScores, Verdict

SCHEMA = 1
"""Version of the files; raised when a key changes its meaning or goes away."""

_VARIANTS = {
    "spearman": "Spearman",
    "spearman_mean": "mean of subsets",
    "spearman_wmean": "weighted mean",
    "pearson": "Pearson",
    "coverage": "coverage %",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What was named on the command line: one model, or a parent of seed folders and their verdicts."""

    name: str
    verdicts: tuple[Verdict, ...]

    @property
    def title(self) -> str:
        """For a table's row."""
        seeds = f", {len(self.verdicts)} seeds" if len(self.verdicts) > 1 else ""
        return f"{self.name} ({self.verdicts[0].pooling}{seeds})"


def results_json(verdict: Verdict, *, digest: str, precision: str, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``results.json``; tasks that ``earlier`` holds of the very same model stay beside the new ones.

    Args:
        verdict: What was found now.
        digest: Of the model; empty where nobody knows it.
        precision: Of its matrix products.
        earlier: The file's content so far, or nothing.
    """
    own = {"schema": SCHEMA, "pooling": verdict.pooling, "precision": precision, "digest": digest}
    scores, protocols, subsets = dict(verdict.scores), verdict.protocols, verdict.subsets
    if digest and all(earlier.get(key) == value for key, value in own.items()):
        for suite, tasks in earlier["scores"].items():
            scores[suite] = {**tasks, **scores.get(suite, {})}
        protocols = {**earlier["protocols"], **protocols}
        subsets = {**earlier["subsets"], **subsets}
    return {
        "model": verdict.model,
        **own,
        "protocols": protocols,
        "scores": scores,
        "subsets": subsets,
        "absent": verdict.absent,
        "notes": list(verdict.notes),
    }


def comparison_json(entries: Sequence[Entry], compared: Sequence[ComparedScore]) -> dict[str, Any]:
    """The content of ``comparison.json``: every model's scores, and the differences where two were compared."""
    content: dict[str, Any] = {"schema": SCHEMA, "models": [_entry_json(entry) for entry in entries]}
    if compared:
        content["comparison"] = {
            "first": entries[0].name,
            "second": entries[1].name,
            "scores": [
                {
                    **{name: value for name, value in asdict(score).items() if name != "column"},
                    "suite": f"{score.column.suite}_clean" if score.is_clean else score.column.suite,
                    "task": score.column.task,
                    "metric": score.column.metric,
                }
                for score in compared
            ],
        }
    return content


def report_markdown(verdict: Verdict) -> str:
    """``report.md``: every number of a model, what is missing, and how the numbers came about."""
    parts = [markdown_table(table) for table in verdict_tables(verdict)]
    for tasks in verdict.subsets.values():
        parts += [markdown_table(_subset_table(task, subsets)) for task, subsets in tasks.items()]
    parts.append(markdown_notes("Notes", verdict.notes))
    parts.append(markdown_notes("Missing", [f"{name}: {reason}" for name, reason in verdict.absent.items()]))
    parts.append(markdown_notes("Protocols", [f"{name}: {words}" for name, words in verdict.protocols.items()]))
    return "\n".join(part for part in parts if part)


def verdict_tables(verdict: Verdict) -> list[ScoreTable]:
    """One table a suite: the headline with its interval, and the other ways to count."""
    return [
        table
        for suite in verdict.suites
        for table in (_suite_table(verdict, suite), _domain_table(suite))
        if table.rows
    ]


def contest_tables(entries: Sequence[Entry]) -> list[ScoreTable]:
    """One table a suite with a row for each model or group, and for each with clean scores a second row of these."""
    tables = []
    for number in range(len(entries[0].verdicts[0].suites)):
        columns = _all_columns(entries, number)
        if not columns:
            continue
        rows = []
        for entry in entries:
            rows.append(ScoreRow(entry.title, tuple(_cell(entry, column) for column in columns)))
            if len(entry.verdicts) > 1:
                rows.append(_best_seed(entry, columns))
        tables.append(_contest(columns, rows, caption=_contest_caption(columns) if number == 0 else ""))
        clean = [
            ScoreRow(entry.title, tuple(_cell(entry, column, suite=f"{column.suite}_clean") for column in columns))
            for entry in entries
        ]
        if any(any(row.values) for row in clean):
            caption = (
                "Clean: without the test pairs of which a sentence stands in the model's own training text. Models "
                "that read different texts are judged on different pairs here, so nothing is bold; --compare takes the "
                "same pairs."
            )
            tables.append(replace(_contest(columns, clean, caption=caption), is_contest=False))
    return tables


def compared_tables(entries: Sequence[Entry], compared: Sequence[ComparedScore]) -> list[ScoreTable]:
    """The differences, over all items and over the clean ones."""
    labels = ("first", "second", "diff.", "low", "high", "p", "Holm", "smallest")
    tables = []
    for is_clean in (False, True):
        scores = [score for score in compared if score.is_clean == is_clean]
        if not scores:
            continue
        rows = tuple(
            ScoreRow(
                score.column.label,
                (
                    *((value,) for value in (score.first, score.second, score.difference, score.low, score.high)),
                    (score.p,),
                    () if score.p_holm is None else (score.p_holm,),
                    (score.smallest,),
                ),
            )
            for score in scores
        )
        over = "over the items that no training text of either side holds" if is_clean else "over all items"
        tables.append(
            ScoreTable(
                title=f"{entries[0].name} (first) − {entries[1].name} (second), {over}",
                columns=tuple(ScoreColumn(label, decimals=3 if label in ("p", "Holm") else None) for label in labels),
                rows=rows,
                caption=f"Low, high: 95 % interval of the difference. Test: {scores[0].test}. Holm: p corrected for "
                "the tasks of a suite; averages are tests of their own. Smallest: the true difference that is found in "
                "four of five cases at level 0.05.",
                is_contest=False,
            )
        )
    return tables


def _entry_json(entry: Entry) -> dict[str, Any]:
    first = entry.verdicts[0]
    if len(entry.verdicts) == 1:
        return {"model": entry.name, "pooling": first.pooling, "scores": first.scores}
    trees = [verdict.scores for verdict in entry.verdicts]
    return {
        "model": entry.name,
        "pooling": first.pooling,
        "seeds": [{"model": verdict.model, "scores": verdict.scores} for verdict in entry.verdicts],
        "scores": _over_seeds(trees, statistics.fmean),
        "sd": _over_seeds(trees, statistics.stdev),
    }


def _over_seeds(trees: Sequence[Mapping[str, TaskScores]], summary: Any) -> dict[str, dict[str, dict[str, float]]]:
    """Of every score that all seeds have; the seeds' own intervals are left out, as theirs is another question."""
    return {
        suite: {
            task: {
                metric: summary([tree[suite][task][metric] for tree in trees])
                for metric in metrics
                if not metric.endswith(("_low", "_high"))
                and all(metric in tree.get(suite, {}).get(task, {}) for tree in trees)
            }
            for task, metrics in tasks.items()
            if all(task in tree.get(suite, {}) for tree in trees)
        }
        for suite, tasks in trees[0].items()
    }


def _suite_table(verdict: Verdict, suite: SuiteScores) -> ScoreTable:
    # Of one model coverage stands below its score; in a contest beside it.
    columns = [column for column in suite.columns if column.metric != "coverage"]
    rows = [ScoreRow("score", tuple(_value(verdict, column) for column in columns))]
    correlations = any(column.metric == "spearman" for column in columns)
    if correlations:
        rows = [
            ScoreRow(label, tuple(_value(verdict, column, metric=metric) for column in columns))
            for metric, label in _VARIANTS.items()
        ]
    intervals = [
        ScoreRow(f"95 % {end}", tuple(_value(verdict, column, metric=f"{column.metric}_{end}") for column in columns))
        for end in ("low", "high")
    ]
    clean = tuple(_value(verdict, column, suite=f"{column.suite}_clean") for column in columns)
    rows = [rows[0], *intervals, *rows[1:], ScoreRow("clean", clean)]
    return ScoreTable(
        title=f"{verdict.model} ({verdict.pooling})",
        columns=tuple(ScoreColumn(column.label) for column in columns),
        rows=tuple(row for row in rows if any(row.values)),
        caption=_suite_caption(verdict, columns, has_clean=any(clean)) if correlations else "",
        is_contest=False,
    )


def _suite_caption(verdict: Verdict, columns: Sequence[Column], *, has_clean: bool) -> str:
    caption = "Correlations × 100 over the pairs of which both words are known; coverage is their share in percent."
    if any(column.suite == "sts" for column in columns):
        caption = 'Correlations × 100 over all pairs of a task together, SentEval\'s "all", which papers print.'
    if not has_clean:
        return caption
    sizes = [
        f"{column.label} {pairs[0]:,.0f}"
        for column in columns
        if (pairs := _value(verdict, column, metric="pairs", suite=f"{column.suite}_clean"))
        and pairs != _value(verdict, column, metric="pairs")
    ]
    return (
        f"{caption} Clean: without the pairs of which a sentence stands in the training text "
        f"({', '.join(sizes) + ' left' if sizes else 'there are none'})."
    )


def _domain_table(suite: SuiteScores) -> ScoreTable:
    domains = suite.scores.get("sts_domains", {})
    values = tuple((scores["spearman"],) for scores in domains.values())
    return ScoreTable(
        title="By domain",
        columns=tuple(ScoreColumn(domain) for domain in domains),
        rows=(ScoreRow("Spearman, mean of subsets", values),) if domains else (),
        is_contest=False,
    )


def _subset_table(task: str, subsets: Mapping[str, Mapping[str, float]]) -> ScoreTable:
    metrics = list(dict.fromkeys(metric for scores in subsets.values() for metric in scores if metric != "pairs"))
    rows = tuple(
        ScoreRow(
            f"{name} ({scores['pairs']:,.0f} pairs)",
            tuple((scores[metric],) if metric in scores else () for metric in metrics),
        )
        for name, scores in subsets.items()
    )
    columns = tuple(ScoreColumn(name) for name in metrics)
    return ScoreTable(title=f"{task} by subset", columns=columns, rows=rows, is_contest=False)


def _all_columns(entries: Sequence[Entry], number: int) -> list[Column]:
    """Of the suite ``number`` every column that a model has, in order: not every model can be judged by all."""
    verdicts = [verdict for entry in entries for verdict in entry.verdicts]
    fullest = max((verdict.suites[number].columns for verdict in verdicts), key=len)
    others = [column for verdict in verdicts for column in verdict.suites[number].columns]
    return list(dict.fromkeys([*fullest, *others]))


def _contest(columns: Sequence[Column], rows: Sequence[ScoreRow], *, caption: str) -> ScoreTable:
    return ScoreTable(
        title="Scores",
        columns=tuple(ScoreColumn(column.label, column.higher_is_better) for column in columns),
        rows=tuple(rows),
        caption=caption,
    )


def _contest_caption(columns: Sequence[Column]) -> str:
    if any(column.metric == "coverage" for column in columns):
        return "Spearman × 100 over the pairs of which both words are known, and their share; the best is bold."
    if any(column.metric == "spearman" for column in columns):
        return 'Spearman × 100 over all pairs of a task together (SentEval\'s "all"); the best is bold.'
    return "The best is bold."


def _best_seed(entry: Entry, columns: Sequence[Column]) -> ScoreRow:
    """The seed with the best average, or first number where there is none."""
    chief = next((column for column in columns if column.task in ("average", "rsum")), columns[0])
    known = [verdict for verdict in entry.verdicts if _value(verdict, chief)] or list(entry.verdicts)
    sign = 1 if chief.higher_is_better else -1
    best = max(known, key=lambda verdict: sign * sum(_value(verdict, chief)))
    name = f"  best of them: {best.model}"
    return ScoreRow(name, tuple(_value(best, column) for column in columns), is_rival=False)


def _cell(entry: Entry, column: Column, *, suite: str = "") -> tuple[float, ...]:
    return tuple(value for verdict in entry.verdicts for value in _value(verdict, column, suite=suite))


def _value(verdict: Verdict, column: Column, *, metric: str = "", suite: str = "") -> tuple[float, ...]:
    task = verdict.scores.get(suite or column.suite, {}).get(column.task, {})
    return (task[metric or column.metric],) if (metric or column.metric) in task else ()
