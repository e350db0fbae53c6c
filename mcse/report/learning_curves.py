"""Learning curves of a run folder."""

from __future__ import annotations

import json
from pathlib import Path

from mcse.report.tables import Curve


def read_learning_curves(run: Path) -> list[Curve]:
    """Every dev score and loss that the run's ``metrics.jsonl`` holds; none where there is no such file.

    A line that is cut short, as a kill leaves it, is left out.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    points: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        for name, value in entry.items():
            if value is not None and (name == "loss" or name.startswith("loss.") or name.endswith(".spearman")):
                points.setdefault(name, []).append((entry["step"], value))
    return [
        Curve(
            label=str(run),
            steps=tuple(step for step, _ in values),
            values=tuple(value for _, value in values),
            panel=name,
        )
        for name, values in points.items()
    ]
