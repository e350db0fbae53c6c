"""The report of an evaluation: one HTML file with every table and plot, which needs nothing beside it.

P pairs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mcse.metrics.breakdown import BinScore, binned_spearman, first_places, mean_length, quartile_edges, word_overlap
from mcse.report.made import Made
from mcse.report.page import write_page
from mcse.report.plots import Plot, Point, Profile, plot_curves, plot_points, plot_profiles
from mcse.report.seed_groups import System, numbered
from mcse.report.svg import Scale, near_scales, pair_density, score_dot, series_colour, spanning_scale
from mcse.report.tables import Curve, ScoreTable
from mcse.types import Column, ModelScores, ScoreKey

_MAX_PANELS = 6
"""Systems of which pairs are drawn: the file would grow with every further one, and a reader would see no more."""

_NAME_WIDTH = 24
"""Characters of a name beside its dot; the rest goes on in the next line."""

_Z = 1.96

_LEAST_STEP = 0.5
"""Between ticks of scores: below it, a difference is rarely one."""

_SHARES = 1.5
"""Scores up to this are shares and no percentages."""


@dataclass(frozen=True, slots=True)
class _Dot:
    name: str
    text: str
    image: Markup
    is_clean: bool
    has_interval: bool


@dataclass(frozen=True, slots=True)
class _Chart:
    title: str
    ticks: tuple[str, ...]
    dots: tuple[_Dot, ...]


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
    systems: Sequence[System],
    tables: Sequence[ScoreTable],
    curves: Sequence[Curve] = (),
    notes: Sequence[str] = (),
    differences: Sequence[Plot] = (),
    made: Made | None = None,
) -> None:
    """Writes what was found of one or several systems to ``path``. What a suite did not measure has no section.

    Args:
        path: Of the file; folders are made, an old file is replaced as a whole.
        systems: Models, or groups of seeds.
        tables: The scores as the terminal shows them, and a comparison's, in the order of the page.
        curves: Learning curves, labelled by the name of the seed.
        notes: Sentences for the head of the page.
        differences: Of the two systems, where they were compared.
        made: How the report was made.

    Raises:
        ValueError: There are no systems.
    """
    found = numbered(systems)
    said = [f"{seed.name}: {note}" for system in found for seed in system.seeds for note in seed.notes]
    content = {
        "title": found[0].shown if len(found) == 1 else f"{len(found)} systems compared",
        "systems": [(system, Markup(series_colour(system.number))) for system in found],
        "notes": list(dict.fromkeys([*notes, *said])),
        "differences": [(plot.title, Markup(plot.image)) for plot in differences],
        "tables": tables,
        "chart_groups": _chart_groups(found),
        "name_width": min(_NAME_WIDTH, max(len(system.short) for system in found)),
        "has_seeds": any(len(system.seeds) > 1 for system in found),
        "geometry": _geometry_plots(found),
        "scatters": _scatters(found),
        "breakdowns": _breakdown_plots(found),
        "curves": _curve_plots(found, curves),
        "absent": _by_text(found, lambda seed: seed.all.absent),
        "protocols": _by_text(found, lambda seed: seed.all.protocols),
        "made": made,
    }
    write_page(path, template="evaluation.html.j2", content=content)


def _chart_groups(systems: Sequence[System]) -> dict[str, list[_Chart]]:
    """By suite a chart for each headline number; geometry has a plot of its own."""
    columns = {column.key: column for system in systems for seed in system.seeds for column in seed.all.columns}
    alike: dict[tuple[str, str], list[Column]] = {}
    for key, column in columns.items():
        if key.suite != "geometry" and any(system.values(part) for system in systems for part in (key, key.clean)):
            alike.setdefault((key.suite, key.metric.partition("@")[0]), []).append(column)
    charts: dict[ScoreKey, _Chart] = {}
    for several in alike.values():
        numbers = [_numbers(systems, column.key) for column in several]
        least = (
            _LEAST_STEP if max(abs(number) for chart in numbers for number in chart) > _SHARES else _LEAST_STEP / 100
        )
        for column, scale in zip(several, near_scales(numbers, least_step=least), strict=True):
            charts[column.key] = _chart(systems, column, scale)
    groups: dict[str, list[_Chart]] = {}
    for key in columns:
        if key in charts:
            groups.setdefault(key.suite, []).append(charts[key])
    return groups


def _numbers(systems: Sequence[System], key: ScoreKey) -> list[float]:
    """All that a chart shows."""
    return [
        number
        for system in systems
        for part in (key, key.clean)
        for number in (*system.values(part), *(system.interval(part) or ()))
    ]


def _chart(systems: Sequence[System], column: Column, scale: Scale) -> _Chart:
    dots = []
    for system in systems:
        for key in (column.key, column.key.clean):
            values = system.values(key)
            if not values:
                continue
            mean, interval, is_clean = statistics.fmean(values), system.interval(key), key.part == "clean"
            image = score_dot(
                mean,
                scale=scale,
                series=system.number,
                interval=interval,
                seeds=values if len(values) > 1 else (),
                is_pale=is_clean,
            )
            name = "clean" if is_clean else system.short
            dots.append(_Dot(name, f"{mean:.2f}", Markup(image), is_clean, interval is not None))
    ticks = [f"{tick:g}".replace("-", "−") for tick in scale.ticks]
    better = "" if column.higher_is_better else " (lower is better)"
    return _Chart(f"{column.label}{better}", tuple(ticks), tuple(dots))


def _geometry_plots(systems: Sequence[System]) -> list[tuple[str, Markup]]:
    """A scatter of all models for each task of the geometry suite."""
    keys = [key for system in systems for seed in system.seeds for key in seed.all.scores if key.suite == "geometry"]
    plots = []
    for task in dict.fromkeys(key.task for key in keys):
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
    x_key, y_key = (ScoreKey("geometry", task, metric) for metric in ("uniformity", "alignment"))
    for seed in system.seeds:
        x, y = seed.get(x_key), seed.get(y_key)
        if x is not None and y is not None:
            single = replace(system, seeds=(seed,))
            yield Point(
                label=system.short,
                x=x,
                y=y,
                x_interval=single.interval(x_key),
                y_interval=single.interval(y_key),
            )


def _scatters(systems: Sequence[System]) -> list[tuple[str, list[_Panel]]]:
    """For each STS task a panel a system, all on the same axes."""
    first = {system: system.seeds[0] for system in systems[:_MAX_PANELS]}
    labels = {column.key: column.label for seed in first.values() for column in seed.all.columns}
    scatters = []
    for key in dict.fromkeys(key for seed in first.values() for key in seed.all.pairs if key.suite == "sts"):
        known = {system: pairs for system, seed in first.items() if (pairs := _scored(seed, key)) is not None}
        if not known:
            continue
        cosines, golds = (
            spanning_scale([float(end(value_P)) for value_P in side for end in (np.min, np.max)])
            for side in zip(*known.values(), strict=True)
        )
        panels = []
        for system, (cosine_P, gold_P) in known.items():
            image = pair_density(cosine_P, gold_P, cosines=cosines, golds=golds, series=system.number)
            score = first[system].get(key)
            words = f"{score:.2f}" if score is not None else ""
            panels.append(_Panel(system.short, words, series_colour(system.number), Markup(image)))
        scatters.append((labels.get(key, key.task), panels))
    return scatters


def _scored(seed: ModelScores, key: ScoreKey) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Cosines and gold of the pairs behind a score."""
    sample = seed.all.samples.get(key)
    return None if sample is None or sample.gold_P is None else (sample.value_P, sample.gold_P)


def _breakdown_plots(systems: Sequence[System]) -> list[tuple[str, Markup]]:
    """Spearman by length and by overlap, in the quartiles of the first model's pairs."""
    binned = {system.short: [_pairs(seed) for seed in system.seeds] for system in systems}
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


def _pairs(seed: ModelScores) -> _BinnedPairs | None:
    """The STS pairs of a model. One that belongs to several tasks, as SICK's do, counts in the first."""
    parts = [
        (pairs, *scored)
        for key, pairs in seed.all.pairs.items()
        if key.suite == "sts" and (scored := _scored(seed, key)) is not None
    ]
    both = [pair for pairs, *_ in parts for pair in zip(pairs.sentence1, pairs.sentence2, strict=True)]
    if not both:
        return None
    kept_P = first_places(both)
    kept = [pair for pair, is_kept in zip(both, kept_P, strict=True) if is_kept]
    return _BinnedPairs(
        cosine_P=np.concatenate([cosine_P for _, cosine_P, _ in parts])[kept_P],
        gold_P=np.concatenate([gold_P for *_, gold_P in parts])[kept_P],
        task_P=np.repeat(np.arange(len(parts)), [len(gold_P) for *_, gold_P in parts])[kept_P],
        length_P=np.array([mean_length(*pair) for pair in kept]),
        overlap_P=np.array([word_overlap(*pair) for pair in kept]),
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
    """A plot for each panel; a curve is one of the system that has a seed of its name."""
    shorts = {seed.name: system.short for system in systems for seed in system.seeds}
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
    systems: Sequence[System], notes: Callable[[ModelScores], Mapping[str, str]]
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Each text once: the names that it is said of, and the systems where it is not said of all."""
    owners: dict[tuple[str, str], dict[str, None]] = {}
    for system in systems:
        for seed in system.seeds:
            for name, text in notes(seed).items():
                owners.setdefault((text, name), {})[system.short] = None
    names: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (text, name), shorts in owners.items():
        names.setdefault((text, () if len(shorts) == len(systems) else tuple(shorts)), []).append(name)
    return [(", ".join(same), text, shorts) for (text, shorts), same in names.items()]
