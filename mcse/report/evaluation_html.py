"""The report of an evaluation: one HTML file with every table and plot, which needs nothing beside it.

P pairs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mcse.metrics.breakdown import BinScore, binned_spearman, first_places, mean_length, quartile_edges, word_overlap
from mcse.report.page import write_page
from mcse.report.plots import Point, Profile, plot_curves, plot_points, plot_profiles
from mcse.report.seed_groups import System, build_systems
from mcse.report.svg import Scale, pair_density, score_bar, series_colour, spanning_scale
from mcse.report.tables import Curve, ScoreColumn, ScoreRow, ScoreTable
from mcse.types import Column, PairList, Sample, Verdict

_MAX_PANELS = 6
"""Systems of which pairs are drawn: the file would grow with every further one, and nobody would see more."""

_Z = 1.96
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class _Bar:
    name: str
    text: str
    image: Markup
    is_clean: bool
    has_interval: bool


@dataclass(frozen=True, slots=True)
class _BarChart:
    title: str
    ends: tuple[str, str, str]
    bars: tuple[_Bar, ...]


@dataclass(frozen=True, slots=True)
class _BarGroup:
    suite: str
    has_clean: bool
    has_intervals: bool
    charts: tuple[_BarChart, ...]


@dataclass(frozen=True, slots=True)
class _Panel:
    name: str
    score: str
    colour: str
    image: Markup


@dataclass(frozen=True, slots=True, eq=False)
class _BinnedPairs:
    """All STS pairs of a model, each once: cosines, gold, tasks' numbers, and by what they are binned."""

    cosine_P: NDArray[np.float64]
    gold_P: NDArray[np.float64]
    task_P: NDArray[np.int64]
    length_P: NDArray[np.float64]
    overlap_P: NDArray[np.float64]


_PROPERTIES: tuple[tuple[str, str, Callable[[_BinnedPairs], NDArray[np.float64]]], ...] = (
    ("By sentence length", "words a sentence, mean of the two", lambda pairs: pairs.length_P),
    ("By lexical overlap", "shared words over all words of a pair", lambda pairs: pairs.overlap_P),
)


def write_evaluation_report(
    path: str | Path,
    *,
    verdicts: Sequence[Verdict],
    tables: Sequence[ScoreTable],
    systems: Sequence[str] = (),
    curves: Sequence[Curve] = (),
    notes: Sequence[str] = (),
) -> None:
    """Writes what was found of one or several models to ``path``. What a suite did not measure has no section.

    Args:
        path: Of the file; folders are made, an old file is replaced as a whole.
        verdicts: One for each model.
        tables: The scores as the terminal shows them, and a comparison's, in the order of the page.
        systems: For each verdict the name of what it is a seed of; without it, each model is a system of its own.
        curves: Learning curves, labelled by their verdict's model.
        notes: Sentences for the head of the page.

    Raises:
        ValueError: There are no verdicts, or not one system a verdict.
    """
    found = build_systems(verdicts, names=systems)
    said = [f"{verdict.model}: {note}" for verdict in verdicts for note in verdict.notes]
    domains = _domain_table(found)
    is_shown = any(_labels(table) == _labels(domains) for table in tables)
    content = {
        "title": found[0].name if len(found) == 1 else f"{len(found)} systems compared",
        "systems": [(system, Markup(series_colour(system.number))) for system in found],
        "notes": list(dict.fromkeys([*notes, *said])),
        "tables": tables,
        "bar_groups": _bar_groups(found),
        "has_seeds": any(len(system.verdicts) > 1 for system in found),
        "domains": domains if domains.rows and not is_shown else None,
        "geometry": _geometry_plots(found),
        "scatters": _scatters(found),
        "breakdowns": _breakdown_plots(found),
        "curves": _curve_plots(found, curves),
        "absent": _by_text(found, lambda verdict: verdict.absent),
        "protocols": _by_text(found, lambda verdict: verdict.protocols),
    }
    write_page(path, template="evaluation.html.j2", content=content)


def _labels(table: ScoreTable) -> list[str]:
    return [column.label for column in table.columns]


def _bar_groups(systems: Sequence[System]) -> list[_BarGroup]:
    """By suite a chart for each headline number; geometry has a plot of its own and is not on a scale from 0."""
    columns: dict[str, Column] = {}
    for system in systems:
        columns |= {column.key: column for verdict in system.verdicts for column in verdict.columns}
    groups: dict[str, list[_BarChart]] = {}
    for column in columns.values():
        if column.suite != "geometry" and (chart := _bar_chart(systems, column)).bars:
            groups.setdefault(column.suite, []).append(chart)
    return [_bar_group(suite, charts) for suite, charts in groups.items()]


def _bar_group(suite: str, charts: Sequence[_BarChart]) -> _BarGroup:
    bars = [bar for chart in charts for bar in chart.bars]
    return _BarGroup(
        suite=suite,
        has_clean=any(bar.is_clean for bar in bars),
        has_intervals=any(bar.has_interval for bar in bars),
        charts=tuple(charts),
    )


def _bar_chart(systems: Sequence[System], column: Column) -> _BarChart:
    suites = {column.suite: False, f"{column.suite}_clean": True}
    numbers = [
        number
        for system in systems
        for suite in suites
        for number in (
            *system.values(suite, column.task, column.metric),
            *(system.interval(suite, column.task, column.metric) or ()),
        )
    ]
    scale = _bar_scale([0.0, *numbers], higher_is_better=column.higher_is_better)
    bars = []
    for system in systems:
        for suite, is_clean in suites.items():
            values = system.values(suite, column.task, column.metric)
            if not values:
                continue
            mean = statistics.fmean(values)
            interval = system.interval(suite, column.task, column.metric)
            image = score_bar(
                mean,
                scale=scale,
                series=system.number,
                interval=interval,
                dots=values if len(values) > 1 else (),
                is_pale=is_clean,
            )
            name = "clean" if is_clean else system.short
            bars.append(_Bar(name, f"{mean:.2f}", Markup(image), is_clean, interval is not None))
    ends = tuple(f"{end:g}".replace("-", "−") for end in (scale.low, (scale.low + scale.high) / 2, scale.high))
    better = "" if column.higher_is_better else " (lower is better)"
    return _BarChart(f"{column.label}{better}", (ends[0], ends[1], ends[2]), tuple(bars))


def _bar_scale(numbers: Sequence[float], *, higher_is_better: bool) -> Scale:
    """From 0 to 100 where the numbers allow it, so that charts can be compared with each other."""
    low = -100.0 if min(numbers) < 0 else 0.0
    if higher_is_better and max(numbers) < 100 + _ROUNDING:
        return Scale(low, 100.0)
    top = max(*numbers, 1.0)
    power = 10.0 ** (len(f"{top:.0f}") - 1)
    return Scale(low, float(np.ceil(top / power) * power))


def _domain_table(systems: Sequence[System]) -> ScoreTable:
    """Of one model with the ends of the intervals, of several side by side."""
    names = dict.fromkeys(
        name for system in systems for verdict in system.verdicts for name in verdict.scores.get("sts_domains", {})
    )
    metrics = {"": "spearman"}
    if len(systems) == 1 and len(systems[0].verdicts) == 1:
        metrics |= {"95 % interval, low": "spearman_low", "95 % interval, high": "spearman_high"}
    rows = [
        ScoreRow(label or system.short, tuple(system.values("sts_domains", name, metric) for name in names))
        for system in systems
        for label, metric in metrics.items()
    ]
    return ScoreTable(
        title="STS by domain",
        columns=tuple(ScoreColumn(name) for name in names),
        rows=tuple(row for row in rows if any(row.values)),
        caption="Mean of Spearman × 100 of a domain's subsets.",
        is_contest=len(systems) > 1,
    )


def _geometry_plots(systems: Sequence[System]) -> list[tuple[str, Markup]]:
    """A scatter of all models for each task that the geometry suite judged."""
    tasks = dict.fromkeys(
        task for system in systems for verdict in system.verdicts for task in verdict.scores.get("geometry", {})
    )
    plots = []
    for task in tasks:
        points = [point for system in systems for point in _points(system, task)]
        if points:
            image = plot_points(
                points,
                x_label="uniformity (lower is better)",
                y_label="alignment (lower is better)",
                series={system.short: system.number for system in systems},
            )
            plots.append((task, Markup(image)))
    return plots


def _points(system: System, task: str) -> Iterator[Point]:
    for verdict in system.verdicts:
        scores = verdict.scores.get("geometry", {}).get(task, {})
        if {"alignment", "uniformity"} <= scores.keys():
            seed = replace(system, verdicts=(verdict,))
            yield Point(
                label=system.short,
                x=scores["uniformity"],
                y=scores["alignment"],
                x_interval=seed.interval("geometry", task, "uniformity"),
                y_interval=seed.interval("geometry", task, "alignment"),
            )


def _scatters(systems: Sequence[System]) -> list[tuple[str, list[_Panel]]]:
    """For each STS task a panel a system, all on the same axes."""
    shown = systems[:_MAX_PANELS]
    keys = dict.fromkeys(key for system in shown for key in system.verdicts[0].pairs if key.startswith("sts."))
    columns = [column for system in shown for column in system.verdicts[0].columns if column.suite == "sts"]
    labels = {column.task: column.label for column in columns}
    scatters = []
    for key in keys:
        samples = [(system, _sample(system.verdicts[0], key)) for system in shown]
        known = [(system, sample, sample.gold_P) for system, sample in samples if sample and sample.gold_P is not None]
        if not known:
            continue
        cosines = spanning_scale([float(end(sample.value_P)) for _, sample, _ in known for end in (np.min, np.max)])
        golds = spanning_scale([float(end(gold_P)) for _, _, gold_P in known for end in (np.min, np.max)])
        task = key.removeprefix("sts.")
        panels = []
        for system, sample, gold_P in known:
            image = pair_density(sample.value_P, gold_P, cosines=cosines, golds=golds, series=system.number)
            score = system.verdicts[0].scores.get("sts", {}).get(task, {}).get("spearman")
            words = f"{score:.2f}" if score is not None else ""
            panels.append(_Panel(system.short, words, series_colour(system.number), Markup(image)))
        scatters.append((labels.get(task, task), panels))
    return scatters


def _sample(verdict: Verdict, key: str) -> Sample | None:
    return verdict.samples.get(f"{key}.spearman")


def _breakdown_plots(systems: Sequence[System]) -> list[tuple[str, Markup]]:
    """Spearman by length and by overlap, in the quartiles of the first model's pairs."""
    binned = {system.short: [_pairs(verdict) for verdict in system.verdicts] for system in systems}
    pairs = {short: known for short, seeds in binned.items() if (known := [seed for seed in seeds if seed])}
    if not pairs:
        return []
    series = {system.short: system.number for system in systems}
    plots = []
    for title, x_label, by in _PROPERTIES:
        edges = quartile_edges(by(next(iter(pairs.values()))[0]))
        found = {
            short: [
                binned_spearman(seed.cosine_P, seed.gold_P, task_P=seed.task_P, by_P=by(seed), edges=edges)
                for seed in seeds
            ]
            for short, seeds in pairs.items()
        }
        ticks = [f"{_short(one.smallest)} – {_short(one.largest)}" for one in next(iter(found.values()))[0]]
        profiles = [_profile(short, seeds) for short, seeds in found.items()]
        if any(value is not None for profile in profiles for value in profile.values):
            image = plot_profiles(profiles, ticks=ticks, x_label=x_label, y_label="Spearman × 100", series=series)
            plots.append((title, Markup(image)))
    return plots


def _pairs(verdict: Verdict) -> _BinnedPairs | None:
    """The STS pairs of a verdict. One that stands in several tasks, as SICK's do, counts in the first."""
    parts: list[tuple[PairList, Sample, NDArray[np.float64]]] = []
    for key, pairs in verdict.pairs.items():
        sample = _sample(verdict, key) if key.startswith("sts.") else None
        if sample is not None and sample.gold_P is not None:
            parts.append((pairs, sample, sample.gold_P))
    both = [pair for pairs, _, _ in parts for pair in zip(pairs.sentence1, pairs.sentence2, strict=True)]
    if not both:
        return None
    kept_P = first_places(both)
    return _BinnedPairs(
        cosine_P=np.concatenate([sample.value_P for _, sample, _ in parts])[kept_P],
        gold_P=np.concatenate([gold_P for _, _, gold_P in parts])[kept_P],
        task_P=np.repeat(np.arange(len(parts)), [len(gold_P) for _, _, gold_P in parts])[kept_P],
        length_P=np.array([mean_length(*pair) for pair, is_kept in zip(both, kept_P, strict=True) if is_kept]),
        overlap_P=np.array([word_overlap(*pair) for pair, is_kept in zip(both, kept_P, strict=True) if is_kept]),
    )


def _profile(short: str, seeds: Sequence[Sequence[BinScore]]) -> Profile:
    """The mean over seeds; an interval where there is one."""
    values: list[float | None] = []
    reaches: list[float | None] = []
    for here in zip(*seeds, strict=True):
        scores = [one.score for one in here if one.score is not None]
        values.append(statistics.fmean(scores) if scores else None)
        reaches.append(_Z * here[0].error if len(seeds) == 1 and scores else None)
    return Profile(label=short, values=tuple(values), reaches=tuple(reaches))


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _curve_plots(systems: Sequence[System], curves: Sequence[Curve]) -> list[tuple[str, Markup]]:
    """A plot for each panel; a curve of a verdict's model is a seed of its system."""
    shorts = {verdict.model: system.short for system in systems for verdict in system.verdicts}
    named = [replace(curve, label=shorts.get(curve.label, curve.label)) for curve in curves if curve.steps]
    series = {system.short: system.number for system in systems}
    for curve in named:
        series.setdefault(curve.label, len(series))
    panels = dict.fromkeys(curve.panel for curve in named)
    return [
        (panel, Markup(plot_curves([curve for curve in named if curve.panel == panel], series=series)))
        for panel in panels
    ]


def _by_text(
    systems: Sequence[System], notes: Callable[[Verdict], dict[str, str]]
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Each text once: the names that it is said of, and the systems where it is not said of all."""
    owners: dict[tuple[str, str], dict[str, None]] = {}
    for system in systems:
        for verdict in system.verdicts:
            for name, text in notes(verdict).items():
                owners.setdefault((text, name), {})[system.short] = None
    names: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (text, name), shorts in owners.items():
        names.setdefault((text, () if len(shorts) == len(systems) else tuple(shorts)), []).append(name)
    return [(", ".join(same), text, shorts) for (text, shorts), same in names.items()]
