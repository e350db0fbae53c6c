"""Scores as files and tables: ``results.json`` of a model, ``comparison.json`` of several, and what is printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import methodcaller
from pathlib import Path
from typing import Any

from mcse.report.made import Made, made_markdown
from mcse.report.markdown import markdown_notes, markdown_table
from mcse.report.seed_groups import System
from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable
from mcse.types import Column, ComparedScore, ModelScores, Sample, ScoreKey, SuiteScores, score_tree, subset_tree
from mcse.types.scores import ScoreTree

SCHEMA = 1
"""Version of the files; raised when a key changes its meaning or goes away."""

_ALL_CLEAN = "No item is left out as seen: none occurs in a known training text."

_VARIANTS = {
    "spearman_mean": "mean of subsets",
    "spearman_wmean": "weighted mean",
    "pearson": "Pearson",
    "coverage": "coverage %",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierResults:
    """A model's ``results.json``, as far as its scores are kept."""

    schema: int
    pooling: str
    precision: str
    digest: str
    scores: ScoreTree
    protocols: dict[str, str]
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    subsets: dict[str, ScoreTree] = field(default_factory=dict)


def results_json(model: ModelScores, *, digest: str, precision: str, earlier: EarlierResults | None) -> dict[str, Any]:
    """The content of ``results.json``; tasks that ``earlier`` holds of the very same model stay beside the new ones.

    Args:
        model: What was found now.
        digest: Of the model; empty where it is unknown.
        precision: Of its matrix products.
        earlier: The file's content so far; ``None`` where there is none.
    """
    own = {"schema": SCHEMA, "pooling": model.pooling, "precision": precision, "digest": digest}
    every = model.all
    found: dict[str, dict[str, Any]] = {
        "protocols": dict(every.protocols),
        "scores": dict(score_tree(every.scores)),
        "higher_is_better": {str(column.key): column.higher_is_better for column in every.compared},
        "subsets": dict(subset_tree(every.scores)),
    }
    if digest and earlier is not None and all(getattr(earlier, key) == value for key, value in own.items()):
        for suite, tasks in earlier.scores.items():
            found["scores"][suite] = {**tasks, **found["scores"].get(suite, {})}
        for name in ("protocols", "higher_is_better", "subsets"):
            found[name] = {**getattr(earlier, name), **found[name]}
    return {"model": model.name, **own, **found, "absent": every.absent, "notes": list(model.notes)}


def comparison_json(systems: Sequence[System], compared: Sequence[ComparedScore]) -> dict[str, Any]:
    """The content of ``comparison.json``: every model's scores, and the differences where two were compared."""
    content: dict[str, Any] = {"schema": SCHEMA, "models": [_system_json(system) for system in systems]}
    if compared:
        content["comparison"] = {
            "first": systems[0].name,
            "second": systems[1].name,
            "scores": [
                {
                    "suite": (key := score.column.key).written_suite,
                    "task": key.task,
                    "metric": key.metric,
                    "is_clean": key.part == "clean",
                    "higher_is_better": score.column.higher_is_better,
                    **{name: value for name, value in asdict(score).items() if name != "column"},
                }
                for score in compared
            ],
        }
    return content


def report_markdown(model: ModelScores, *, made: Made | None = None) -> str:
    """``report.md``: every number of a model, what is missing, and how the numbers came about."""
    parts = [markdown_table(table) for table in model_tables(model)]
    for tasks in subset_tree(model.all.scores).values():
        parts += [markdown_table(_subset_table(task, subsets)) for task, subsets in tasks.items()]
    parts.append(markdown_notes("Notes", model.notes))
    parts.append(markdown_notes("Missing", [f"{name}: {reason}" for name, reason in model.all.absent.items()]))
    parts.append(markdown_notes("Protocols", [f"{name}: {words}" for name, words in model.all.protocols.items()]))
    parts.append(made_markdown(made))
    return "\n".join(part for part in parts if part)


def model_tables(model: ModelScores) -> list[ScoreTable]:
    """One table a suite: the headline with its interval, and the other ways to count; then STS by domain.

    Of rows in other forms one table a suite follows, a form a row.
    """
    plain = [suite for suite in model.suites if not suite.form]
    tables = [table for suite in plain if (table := _suite_table(model, suite)).rows]
    tables += [table for suite in plain if (table := _form_table(model, suite)).rows]
    return tables + _domain_table([System(model.name, (model,))])


def contest_tables(systems: Sequence[System]) -> list[ScoreTable]:
    """One table a suite with a row for each system, and of the clean scores another; then STS by domain."""
    tables = []
    for number in range(len(systems[0].seeds[0].suites)):
        columns = _all_columns(systems, number)
        if not columns:
            continue
        rows = []
        for system in systems:
            rows.append(ScoreRow(system.title, tuple(system.values(column.key) for column in columns)))
            if len(system.seeds) > 1:
                rows.append(_best_seed(system, columns))
        form = next((seed.suites[number].form for system in systems for seed in system.seeds), "")
        recalls = recalls_in_words([seed.suites[number] for system in systems for seed in system.seeds])
        caption = " ".join(filter(None, (_contest_caption(columns) if number == 0 else "", recalls)))
        tables.append(_contest(columns, rows, caption=caption, form=form))
        clean = [
            ScoreRow(system.title, tuple(system.values(column.key.clean) for column in columns)) for system in systems
        ]
        if any(any(row.values) for row in clean):
            caption = (
                "Clean: without the test pairs with a sentence from the model's own training text. Models "
                "that read different texts are evaluated on different pairs here, so nothing is bold; --compare takes "
                "the same pairs."
            )
            tables.append(replace(_contest(columns, clean, caption=caption, form="clean"), is_contest=False))
    return tables + _domain_table(systems)


def compared_tables(systems: Sequence[System], compared: Sequence[ComparedScore]) -> list[ScoreTable]:
    """The differences, over all items and over the clean ones."""
    labels = ("first", "second", "diff.", "low", "high", "p", "Holm", "smallest")
    tables = []
    for is_clean in (False, True):
        scores = [score for score in compared if (score.column.key.part == "clean") == is_clean]
        if not scores or (is_clean and is_all_clean(compared)):
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
        tables.append(
            ScoreTable(
                title=f"{systems[0].shown} (first) − {systems[1].shown} (second), "
                f"{_over_clean(systems) if is_clean else 'over all items'}",
                columns=tuple(
                    ScoreColumn(label, decimals=3, is_probability=True)
                    if label in ("p", "Holm")
                    else ScoreColumn(label)
                    for label in labels
                ),
                rows=rows,
                caption=("" if is_clean or not is_all_clean(compared) else f"{_ALL_CLEAN} ")
                + f"Low, high: 95 % interval of the difference. Test: {scores[0].test}. Holm: p corrected for "
                "the tasks of a suite; averages are tests of their own. Smallest: the smallest true difference that "
                "this test detects with 80 % power at level 0.05.",
                is_contest=False,
            )
        )
    return tables


def is_all_clean(compared: Sequence[ComparedScore]) -> bool:
    """Whether the clean items are all items, so that a second look at them shows nothing."""
    items = {score.column.key: score.items for score in compared}
    clean = [key for key in items if key.part == "clean"]
    return bool(clean) and all(items[key] == items.get(replace(key, part=None)) for key in clean)


def _over_clean(systems: Sequence[System]) -> str:
    """Which items the clean comparison is over: a side whose training text is unknown leaves none out."""
    of_seed = {system.shown: [seed.all.samples for seed in system.seeds] for system in systems}
    # A suite may be kept from a day on which the text was known, and another be new.
    parted = {key for several in of_seed.values() for samples in several for key in samples if _is_parted(samples[key])}
    unknown = [
        name
        for name, several in of_seed.items()
        if not parted or any(not _is_parted(samples[key]) for samples in several for key in parted & samples.keys())
    ]
    if not unknown:
        return "over the items that no training text of either side holds"
    return f"over the items that no known training text holds (that of {' and '.join(unknown)} is not known)"


def _is_parted(sample: Sample) -> bool:
    return sample.clean_P is not None


def _system_json(system: System) -> dict[str, Any]:
    first = system.seeds[0]
    own = {"model": system.name, "name": system.shown, "pooling": first.pooling}
    if len(system.seeds) == 1:
        return {**own, "scores": score_tree(first.all.scores)}
    return {
        **own,
        "seeds": [{"model": seed.name, "scores": score_tree(seed.all.scores)} for seed in system.seeds],
        "scores": _over_seeds(system, statistics.fmean),
        "sd": _over_seeds(system, statistics.stdev),
    }


def _over_seeds(system: System, summary: Callable[[Sequence[float]], float]) -> ScoreTree:
    """Of every score that all seeds have; the seeds' own intervals are left out, as theirs is another question."""
    values = {key: system.values(key) for key in system.seeds[0].all.scores if key.bound is None}
    return score_tree({key: summary(of) for key, of in values.items() if len(of) == len(system.seeds)})


def _suite_table(model: ModelScores, suite: SuiteScores) -> ScoreTable:
    # Of one model coverage stands below its score; in a contest beside it.
    columns = [column for column in suite.columns if column.key.metric != "coverage"]
    correlations = bool(columns) and all(column.key.metric == "spearman" for column in columns)

    def row(label: str, key_of: Callable[[ScoreKey], ScoreKey]) -> ScoreRow:
        return ScoreRow(label, tuple(_value(suite, key_of(column.key)) for column in columns))

    variants = _VARIANTS if correlations else {}
    rows = [
        row("Spearman" if correlations else "score", lambda key: key),
        row("95 % low", lambda key: key.ends[0]),
        row("95 % high", lambda key: key.ends[1]),
        *(row(label, methodcaller("with_metric", metric)) for metric, label in variants.items()),
        row("clean", lambda key: key.clean),
    ]
    has_clean = any(rows[-1].values)
    return ScoreTable(
        title=f"{model.name} ({model.pooling})",
        columns=tuple(ScoreColumn(column.label) for column in columns),
        rows=tuple(row for row in rows if any(row.values)),
        caption=_suite_caption(suite, columns, has_clean=has_clean) if correlations else recalls_in_words([suite]),
        is_contest=False,
    )


def _form_table(model: ModelScores, plain: SuiteScores) -> ScoreTable:
    """A suite's headlines on rows as they are and in other forms, each with its interval; empty without such."""
    names = [(column.key.task, column.key.metric) for column in plain.columns]
    several = [
        suite
        for suite in model.suites
        if suite.form
        and [(column.key.task, column.key.metric) for column in suite.columns] == names
        and suite.columns[0].key.suite.startswith(f"{plain.columns[0].key.suite}_")
    ]
    rows: list[ScoreRow] = []
    for suite in [plain, *several] if several else []:
        keys = [column.key for column in suite.columns]
        rows.append(ScoreRow(suite.form or "as they are", tuple(_value(suite, key) for key in keys)))
        for end, label in enumerate(("  95 % low", "  95 % high")):
            rows.append(ScoreRow(label, tuple(_value(suite, key.ends[end]) for key in keys)))
    return ScoreTable(
        title=f"{model.name} by form of its rows",
        columns=tuple(ScoreColumn(column.label) for column in plain.columns),
        rows=tuple(row for row in rows if any(row.values)),
        caption="Width: rows cut to their first numbers, then unit norm. int8, uint8, binary: as an index stores rows.",
        is_contest=False,
    )


_FOUND = {
    "image_to_text": "image→text: an image finds one of its own captions among {targets} captions",
    "text_to_image": "text→image: a caption finds its image among {targets} images",
    "sentence_to_sentence": "sentence→sentence: a caption finds another, different caption of its image among the "
    "{targets} other captions, by embeddings of sentences alone",
}
"""What is a query of the tasks of retrieval, and what counts as found."""


def recalls_in_words(suites: Sequence[SuiteScores]) -> str:
    """What the recalls of image and caption mean that suites have; nothing where they have none."""
    sizes: dict[str, dict[str, None]] = {}  # several tables of images may be of several sizes
    for suite in suites:
        for column in suite.columns:
            task, targets = column.key.task.rpartition(".")[2], column.key.with_metric("targets")
            if task in _FOUND and targets in suite.scores:
                sizes.setdefault(task, {})[f"{suite.scores[targets]:,.0f}"] = None
    if not sizes:
        return ""
    parts = [_FOUND[task].format(targets=" or ".join(several)) for task, several in sizes.items()]
    if any(column.key.metric == "score" for suite in suites for column in suite.columns):
        parts.append("rsum: the sum of the six recalls of image and text")
    return f"R@K: percent of queries with a right answer among the K most similar. {'; '.join(parts)}."


def _suite_caption(suite: SuiteScores, columns: Sequence[Column], *, has_clean: bool) -> str:
    caption = {
        "sts": 'Correlations × 100 over all pairs of a task together, SentEval\'s "all", which papers print.',
        "table": "Correlations × 100 of cosines with scores.",
    }.get(columns[0].key.suite)
    if caption is None:
        caption = "Correlations × 100 over the pairs of which both words are known; coverage is their share in percent."
    if not has_clean:
        return caption
    counts = [(column.label, column.key.with_metric("pairs")) for column in columns]
    sizes = [
        f"{label} {suite.scores[pairs.clean]:,.0f}"
        for label, pairs in counts
        if pairs.clean in suite.scores and suite.scores[pairs.clean] != suite.scores.get(pairs)
    ]
    return (
        f"{caption} Clean: without the pairs with a sentence from the training text "
        f"({', '.join(sizes) + ' left' if sizes else 'there are none'})."
    )


def _domain_table(systems: Sequence[System]) -> list[ScoreTable]:
    """The means over subsets of one domain; nothing where no suite gives them."""
    models = [seed.all for system in systems for seed in system.seeds]
    scores = [key for model in models for key in model.scores]
    keys = list(dict.fromkeys(key for key in scores if key == ScoreKey("sts_domains", key.task, "spearman")))
    rows = [ScoreRow(system.title, tuple(map(system.values, keys))) for system in systems]
    for end, label in enumerate(("95 % low", "95 % high") if len(models) == 1 else ()):
        rows.append(ScoreRow(label, tuple(_value(models[0], key.ends[end]) for key in keys)))
    table = ScoreTable(
        title="STS by domain",
        columns=tuple(ScoreColumn(key.task) for key in keys),
        rows=tuple(row for row in rows if any(row.values)),
        caption="Mean of Spearman × 100 of a domain's subsets.",
        is_contest=len(systems) > 1,
    )
    return [table] if keys else []


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


def _all_columns(systems: Sequence[System], number: int) -> list[Column]:
    """Of the suite ``number`` every column that a model has, in order: not every model can be evaluated on all."""
    seeds = [seed for system in systems for seed in system.seeds]
    fullest = max((seed.suites[number].columns for seed in seeds), key=len)
    others = [column for seed in seeds for column in seed.suites[number].columns]
    return list(dict.fromkeys([*fullest, *others]))


def _contest(columns: Sequence[Column], rows: Sequence[ScoreRow], *, caption: str, form: str = "") -> ScoreTable:
    return ScoreTable(
        title=f"Scores, {form}" if form else "Scores",
        columns=tuple(ScoreColumn(column.label, column.higher_is_better) for column in columns),
        rows=tuple(rows),
        caption=caption,
    )


def _contest_caption(columns: Sequence[Column]) -> str:
    if any(column.key.metric == "coverage" for column in columns):
        return "Spearman × 100 over the pairs of which both words are known, and their share; the best is bold."
    if columns[0].key.suite == "sts":
        return 'Spearman × 100 over all pairs of a task together (SentEval\'s "all"); the best is bold.'
    return "The best is bold."


def _best_seed(system: System, columns: Sequence[Column]) -> ScoreRow:
    """The seed with the best average, or first number where there is none."""
    chief = next((column for column in columns if column.key.task in ("average", "rsum")), columns[0])
    sign = 1 if chief.higher_is_better else -1

    def rank(seed: ModelScores) -> float:
        value = seed.get(chief.key)
        return -math.inf if value is None else sign * value

    best = replace(system, seeds=(max(system.seeds, key=rank),))
    name = f"  best of them: {Path(best.seeds[0].name).name}"
    return ScoreRow(name, tuple(best.values(column.key) for column in columns), is_rival=False)


def _value(suite: SuiteScores, key: ScoreKey) -> tuple[float, ...]:
    return (suite.scores[key],) if key in suite.scores else ()
