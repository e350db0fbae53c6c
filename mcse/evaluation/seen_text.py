"""The training text of a run under evaluation, as far as its folder names it."""

from __future__ import annotations

from pathlib import Path

from mcse.data.run_text import UnknownTrainingTextError, read_training_text
from mcse.types import Sample, Verdict


def seen_by(run: Path) -> tuple[frozenset[str] | None, str]:
    """The normalised sentences that a run read while training, or ``None`` and why nobody knows them."""
    if not (run / "run.json").is_file():
        return None, ""
    try:
        return read_training_text(run), ""
    except UnknownTrainingTextError as error:
        return None, str(error)


def contaminated_pairs(verdict: Verdict) -> list[dict[str, str | float]]:
    """The scored pairs of which a sentence stands in the model's training text, task by task."""
    found: list[dict[str, str | float]] = []
    for name, pairs in verdict.pairs.items():
        sample = verdict.samples[f"{name}.spearman"]
        if sample.clean_P is None:
            continue
        for place in (~sample.clean_P).nonzero()[0]:
            found.append(
                {
                    "task": name.partition(".")[2],
                    "gold": _gold(sample, int(place)),
                    "sentence1": pairs.sentence1[place],
                    "sentence2": pairs.sentence2[place],
                }
            )
    return found


def _gold(sample: Sample, place: int) -> float:
    assert sample.gold_P is not None
    return float(sample.gold_P[place])
