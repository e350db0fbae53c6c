"""What a run shows of itself: a panel at its start, a bar with lines of losses and scores, and how it ended.

A log has no bar: its lines say how far the run is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from mcse import progress
from mcse.config import to_dict
from mcse.run_folder import BEST
from mcse.training.config import TrainConfig
from mcse.training.run import Run
from mcse.types import Score

_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Screen:
    """The screen of one run, between its first step and its last.

    Args:
        total: Steps.
        initial: Steps of an earlier call that this one goes on from.
        select_by: The score that the bar shows.
        is_shown: Whether there is a screen.
    """

    def __init__(self, *, total: int, initial: int, select_by: str | None, is_shown: bool) -> None:
        self._total, self._initial, self._select_by, self._is_shown = total, initial, select_by, is_shown
        self._started, self._last_line = time.monotonic(), float("-inf")
        self._loss, self._score, self._pace = "", "", ""
        self._bar = progress.progress_bar(
            total=total,
            initial=initial,
            unit="step",
            is_shown=is_shown and not progress.is_log(),
            stays=False,
            layout=_BAR,
            smoothing=0.0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    @property
    def finished(self) -> str:
        """All steps, and how long those of this call took."""
        own = f", the last {self._total - self._initial:,} of them" if self._initial else ""
        return f"finished {self._total:,} steps{own} in {self._elapsed}"

    @property
    def _elapsed(self) -> str:
        return progress.duration(time.monotonic() - self._started)

    def step(self) -> None:
        """One more is done."""
        self._bar.update()

    def losses(self, step: int, values: Mapping[str, float], *, is_due: bool) -> None:
        """What ``metrics.jsonl`` gets, on the bar; and as a line if one is due or the last was long ago."""
        self._loss, self._pace = f"loss {values['loss']:.3g}", f"{values['sentences_per_second']:,.0f} examples/s"
        self._refresh()
        now = time.monotonic()
        if not is_due and now - self._last_line < progress.SECONDS:
            return
        self._last_line = now
        terms = [f"{name.removeprefix('loss.')} {values[name]:.3g}" for name in values if name.startswith("loss.")]
        parts = [
            self._loss + (f" ({', '.join(terms)})" if len(terms) > 1 else ""),
            f"lr {values['learning_rate']:.2g}",
            f"gradient {values['grad_norm']:.2g}",
        ]
        if progress.is_log():  # elsewhere the bar says it
            parts += [self._pace, f"{self._elapsed} elapsed, {self._left(step)} left"]
        self._say(step, parts)

    def scores(self, step: int, scores: Mapping[str, Score], *, is_best: bool) -> None:
        """Those of a dev evaluation, the one that selects first."""
        names = sorted(scores, key=lambda name: (name != self._select_by, name))
        if (chosen := scores.get(self._select_by or "")) is not None:
            self._score = f"dev {chosen.value:.2f}"
        best = f" (best, kept in {BEST}/)" if is_best else ""
        self._say(step, [f"{name} {scores[name].value:.2f}{best if name == self._select_by else ''}" for name in names])
        self._refresh()

    def _refresh(self) -> None:
        self._bar.set_postfix_str(", ".join(filter(None, (self._loss, self._score, self._pace))))

    def _left(self, step: int) -> str:
        done = step - self._initial
        return progress.duration((time.monotonic() - self._started) / done * (self._total - step)) if done else "?"

    def _say(self, step: int, parts: list[str]) -> None:
        if self._is_shown and parts:
            progress.say(f"step {step:,}/{self._total:,}  {'  '.join(parts)}")


def start_panel(run: Run, config: Any, *, facts: Mapping[str, Any], folder: Path, source: str) -> dict[str, str]:
    """What a run is about to do, by name.

    Args:
        run: What the recipe built.
        config: The recipe's config.
        facts: As ``run.json`` has them.
        folder: The run folder.
        source: Where the configuration came from; may be empty.
    """
    train: TrainConfig = config.train
    plain = to_dict(config)
    counted = {name: value for name, value in run.facts.items() if isinstance(value, int)}
    an_epoch = {name.removesuffix(" an epoch"): value for name, value in counted.items() if name.endswith(" an epoch")}
    data = {name: value for name, value in counted.items() if not name.endswith((" an epoch", "negatives a query"))}
    other = [f"{name}: {value}" for name, value in run.facts.items() if name not in {*counted, "encoder", "losses"}]
    negatives = run.facts.get("negatives a query")
    chunks = f", in chunks of {train.cached_chunk_size:,}" if train.cached_chunk_size else ""
    rows = {
        "recipe": ", ".join(filter(None, (str(config.recipe), source, f"seed {config.seed}"))),
        "encoder": _encoder(plain.get("encoder"), run, trained=str(facts["parameters trained"])),
        "data": _counts(data),
        "read from": _files(run),
        "settings": "; ".join(other),
        "losses": str(run.facts.get("losses", "")) or _losses(plain.get("loss")),
        "batch": f"{facts['global batch']:,} examples{chunks}"
        + (f", {negatives:,} negatives a query" if negatives else ""),
        "steps": _steps(train, facts, _counts(an_epoch)),
        "selection": _selection(run, train),
        "where": _where(facts),
        "folder": str(folder),
    }
    return {name: text for name, text in rows.items() if text}


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items())


def _encoder(group: Any, run: Run, *, trained: str) -> str:
    keys = group if isinstance(group, dict) else {}
    name = run.facts.get("encoder") or keys.get("name_or_path") or ""
    pooling = f"pooling {keys['pooling']}" if keys.get("pooling") else ""
    some, _, every = trained.partition(" of ")
    size = f"{every} parameters" + (", all trained" if some == every else f", {some} trained")
    return ", ".join(filter(None, (str(name), pooling, size)))


def _files(run: Run) -> str:
    """The names of what is read beside models."""
    models = ("encoder", "teacher", "tower")
    names = [Path(file.path).name for file in run.data if not any(model in file.role for model in models)]
    return _first(list(dict.fromkeys(names)), 6)


def _first(names: list[str], number: int) -> str:
    more = f" and {len(names) - number:,} more" if len(names) > number else ""
    return ", ".join(names[:number]) + more


def _losses(group: Any) -> str:
    """The terms that are switched on, with their weights."""
    if not isinstance(group, dict):
        return ""
    found = [f"contrast at temperature {group['temperature']:g}"] if "temperature" in group else []
    for key, value in group.items():
        if key.endswith("_weight") and isinstance(value, int | float) and value:
            found.append(f"{key.removesuffix('_weight')} × {value:g}")
        elif isinstance(value, dict):
            weight = value.get("weight")
            found.append(key if weight is None else f"{key} × {weight:g}")
    return ", ".join(found)


def _steps(train: TrainConfig, facts: Mapping[str, Any], an_epoch: str) -> str:
    of_epoch = facts["steps an epoch"]
    epoch = "" if isinstance(of_epoch, str) else f"{of_epoch:,} an epoch" + (f" ({an_epoch})" if an_epoch else "")
    several = train.accumulation_steps
    average = f"each of {several} batches" if several > 1 else ""
    return ", ".join(filter(None, (f"{facts['steps']:,}", average, epoch)))


def _selection(run: Run, train: TrainConfig) -> str:
    if not run.evaluators or train.select_by is None:
        return "the last weights"
    return f"the best {train.select_by}, every {train.eval_steps:,} steps"


def _where(facts: Mapping[str, Any]) -> str:
    processes, device = facts["processes (world size)"], facts["device"]
    graphs = f", graphs {facts['graphs']}" if "graphs" in facts else ""
    threads = f" ({_number(torch.get_num_threads(), 'thread')})" if device.startswith("cpu") else ""
    return f"{device}{threads}, {_number(processes, 'process')}, {facts['precision']}{graphs}"


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}{'es' if what.endswith('s') else 's'}"
