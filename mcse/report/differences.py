"""The differences of two systems as forest plots."""

from __future__ import annotations

from collections.abc import Sequence

from mcse.report.plots import DifferenceLine, Plot, plot_differences
from mcse.report.results import is_all_clean
from mcse.report.seed_groups import System
from mcse.types import ComparedScore


def difference_plots(systems: Sequence[System], compared: Sequence[ComparedScore]) -> tuple[Plot, ...]:
    """A plot for each suite and kind of score, as those have scales of their own; clean items below all items."""
    alike: dict[tuple[str, str], list[ComparedScore]] = {}
    skips_clean = is_all_clean(compared)
    for score in compared:
        key = score.column.key
        if key.part == "clean" and skips_clean:
            continue
        alike.setdefault((key.suite, key.metric.partition("@")[0]), []).append(score)
    plots: list[Plot] = []
    for (suite, metric), scores in alike.items():
        # By column over all items and over the clean ones, which come later in the list.
        names = list(dict.fromkeys((score.column.key.task, score.column.key.metric) for score in scores))
        scores = sorted(scores, key=lambda score: names.index((score.column.key.task, score.column.key.metric)))
        of = f"{suite.replace('_', ' ')}, {metric.replace('_', ' ')}"
        first, second = (system.shown for system in systems)
        x_label = f"difference, {metric.replace('_', ' ')}"
        image = plot_differences([_line(score) for score in scores], x_label=x_label, names=(first, second))
        name = f"differences_{len(plots)}" if plots else "differences"
        plots.append(Plot(name=name, title=f"{of}: {first} − {second}", image=image))
    return tuple(plots)


def better_side(score: ComparedScore) -> int | None:
    """0 where the first is clearly better, 1 where the second is, ``None`` where the interval holds 0."""
    if score.low <= 0 <= score.high:
        return None
    return 0 if (score.difference > 0) == score.column.higher_is_better else 1


def _line(score: ComparedScore) -> DifferenceLine:
    is_clean = score.column.key.part == "clean"
    lower = "" if score.column.higher_is_better else " (lower is better)"
    return DifferenceLine(
        label="clean" if is_clean else f"{score.column.label}{lower}",
        value=score.difference,
        low=score.low,
        high=score.high,
        better=better_side(score),
        is_pale=is_clean,
    )
