"""The training text of a run under evaluation, as far as its folder names it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcse.data.training_text import read_training_text
from mcse.run_folder import FACTS, read_facts
from mcse.types import DataFile, ModelScores, Sample


class UnknownTrainingTextError(ValueError):
    """A run's training text is not available any more, or is not what the run read."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What ``run.json`` says of the data."""

    data: list[DataFile]


def read_run_text(run: Path) -> frozenset[str]:
    """The normalised sentences of a run's training text, as ``run.json`` says how to read them.

    Raises:
        UnknownTrainingTextError: The run folder does not say what it read, the files are gone, or have changed.
    """
    try:
        files = read_facts(run, _Facts).data
        if not any(file.text for file in files):
            raise ValueError("none of the files in its run.json is said to hold training text")
    except (OSError, ValueError) as error:
        raise UnknownTrainingTextError(f"{run} does not say what it was trained on ({error})") from None
    try:
        return read_training_text(files)
    except (OSError, ValueError) as error:
        raise UnknownTrainingTextError(f"{run}: its training text cannot be read again: {error}") from None


def seen_by(model: Path) -> tuple[frozenset[str] | None, str]:
    """The normalised sentences that a run read while training, or ``None`` and why they are unknown."""
    if not (model / FACTS).is_file():
        return None, ""
    try:
        return read_run_text(model), ""
    except UnknownTrainingTextError as error:
        return None, str(error)


def contaminated_pairs(model: ModelScores) -> list[dict[str, str | float]]:
    """The scored pairs with a sentence from the model's training text, task by task."""
    found: list[dict[str, str | float]] = []
    for key, pairs in model.all.pairs.items():
        sample = model.all.samples[key]
        if sample.clean_P is None:
            continue
        for place in (~sample.clean_P).nonzero()[0]:
            found.append(
                {
                    "task": key.task,
                    "gold": _gold(sample, int(place)),
                    "sentence1": pairs.sentence1[place],
                    "sentence2": pairs.sentence2[place],
                }
            )
    return found


def _gold(sample: Sample, place: int) -> float:
    assert sample.gold_P is not None
    return float(sample.gold_P[place])
