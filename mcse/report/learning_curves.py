"""Learning curves of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mcse.report.tables import Curve
from mcse.run_folder import read_metrics


def read_learning_curves(run: Path) -> list[Curve]:
    """Losses and dev correlations of a run, a panel each; none where it wrote no numbers.

    Raises:
        ValueError: The run's ``metrics.jsonl`` is damaged: where.
    """
    names = read_metrics(run).series
    shown = [name for name in names if name == "loss" or name.startswith("loss.") or name.endswith(".spearman")]
    return read_curves(run, label=str(run), panels={name: name for name in shown})


def read_curves(run: Path, *, label: str, panels: Mapping[str, str]) -> list[Curve]:
    """The numbers that ``panels`` names by the title of their panel, as far as the run has them.

    Raises:
        ValueError: As for ``read_learning_curves``.
    """
    series = read_metrics(run).series
    curves = []
    for panel, name in panels.items():
        if name in series:
            steps, values = zip(*series[name], strict=True)
            curves.append(Curve(label, steps, values, panel=panel))
    return curves
