"""What a run writes down: ``config.yaml``, ``run.json``, ``metrics.jsonl``, and trackers where configured."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcse.files import append_line, read_lines, write_json, write_text
from mcse.origin import git_revision, machine, versions
from mcse.reading import parse_json
from mcse.run_folder import CONFIG, FACTS, HIGHER_IS_BETTER, METRICS, flatten
from mcse.training.runtime import Runtime
from mcse.types import DataFile, Score

logger = logging.getLogger(__name__)


def write_run_facts(
    folder: Path, *, config_yaml: str, runtime: Runtime, data: Sequence[DataFile], facts: Mapping[str, Any]
) -> None:
    """Writes the resolved config, and versions, git revision, machine, world size and data digests."""
    write_text(folder / CONFIG, config_yaml)
    run = {
        "versions": {"python": platform.python_version(), **versions()},
        "git_revision": git_revision(),
        "machine": machine(),
        "world_size": runtime.world_size,
        "device": str(runtime.device),
        "precision": runtime.precision,
        "tf32": runtime.tf32,
        "distributed_type": runtime.accelerator.distributed_type.value,
        "facts": dict(facts),
        "data": [asdict(file) for file in data],
    }
    write_json(folder / FACTS, run)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line, of which only this is looked at."""

    step: int


class Journal:
    """Appends to ``metrics.jsonl`` and to trackers, on the main process alone."""

    def __init__(self, folder: Path, runtime: Runtime, *, name: str, config: Mapping[str, Any]) -> None:
        self.path, self.runtime = folder / METRICS, runtime
        self.writes = runtime.rank == 0
        if runtime.accelerator.log_with:
            plain = {key: _plain(value) for key, value in flatten(config).items()}
            runtime.accelerator.init_trackers(name, config=plain)

    def forget_after(self, step: int) -> None:
        """Drops entries later than ``step``: a resumed run writes them again. A line cut short by a kill goes too."""
        if not self.writes or not (step or self.path.exists()):
            return
        kept = []
        for line in read_lines(self.path) if self.path.exists() else ():
            with contextlib.suppress(ValueError):
                if parse_json(line, _Entry, where=str(self.path)).step <= step:
                    kept.append(line + "\n")
        if step and not kept:
            logger.warning("%s holds none of the numbers up to step %d; they are lost", self.path, step)
        write_text(self.path, "".join(kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line; a value that is not finite is written as null, which JSON can hold."""
        self._append(step, values, {})

    def write_scores(self, step: int, scores: Mapping[str, Score]) -> None:
        """One line of scores, which also says which way each of them is better."""
        directions = {name: score.higher_is_better for name, score in scores.items()}
        self._append(step, {name: score.value for name, score in scores.items()}, {HIGHER_IS_BETTER: directions})

    def _append(self, step: int, values: Mapping[str, float], more: Mapping[str, object]) -> None:
        if not self.writes:
            return
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        append_line(self.path, json.dumps({"step": step, **numbers, **more}))
        self.runtime.accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Lets trackers finish."""
        self.runtime.accelerator.end_training()


def _plain(value: Any) -> int | float | str | bool:
    return value if isinstance(value, int | float | str | bool) else str(value)
