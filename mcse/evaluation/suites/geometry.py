"""The geometry suite: alignment, uniformity and anisotropy of an encoder's rows of STS-B's test sentences.

P pairs, N distinct sentences, D width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.sts import (
    HUB_REPOSITORIES,
    ScoredPairs,
    load_scored_pairs,
    load_sts_from_hub,
    load_stsbenchmark,
)
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions, pairs_digest
from mcse.evaluation.uncertainty import sharing_pairs
from mcse.metrics.geometry import (
    alignment,
    batchwise_geometry,
    mean_cosine,
    mean_cosine_parts,
    spectrum,
    squared_distances,
    uniformity,
    uniformity_parts,
)
from mcse.types import Column, FloatArray, Sample, ScoreKey, SuiteScores, keyed_scores

POSITIVE_ABOVE = 4.0
"""Gold of STS-B, 0 to 5, above which the sentences of a pair count as saying the same."""

_TASK = "STSBenchmark"
_LABELS = {"alignment": "alignment", "uniformity": "uniformity", "mean_cosine": "mean cosine"}
"""Headline numbers; of each, lower is better."""


def score_geometry(subject: Subject, pairs: ScoredPairs) -> SuiteScores:
    """Everything the suite says, under ``geometry.<pairs.name>``.

    Pairs of which a sentence has no direction (a row of zeros) are left out, and said.

    Args:
        subject: The encoder and its rows.
        pairs: With gold from 0 to 5.

    Raises:
        ValueError, UndefinedScoreError: As for ``encode_distinct``; or no pair of which both sentences have a row.
    """
    rows = subject.rows
    rows.encode((*pairs.sentence1, *pairs.sentence2))
    left_PD, right_PD = rows.unit(pairs.sentence1), rows.unit(pairs.sentence2)
    placed_P = left_PD.any(1) & right_PD.any(1)
    left_PD, right_PD, gold_P = left_PD[placed_P], right_PD[placed_P], pairs.gold[placed_P]
    sentences = [pairs.sentence1[place] for place in np.flatnonzero(placed_P)]
    sentences += [pairs.sentence2[place] for place in np.flatnonzero(placed_P)]
    row_ND = rows.unit(list(dict.fromkeys(sentences)))
    positive_P = gold_P > POSITIVE_ABOVE

    metrics, absent = _scores(left_PD, right_PD, gold_P, row_ND)
    metrics |= {"pairs": len(gold_P), "positive_pairs": int(positive_P.sum()), "sentences": len(row_ND)}
    samples = {}
    if placed_P.all():
        # Of other encoders the pairs would be others, and a comparison pair by pair would be of different items.
        sides = (pairs.sentence1, pairs.sentence2)
        samples = _samples(
            left_PD, right_PD, positive_P, row_ND, clean_P=subject.unseen(*sides), cluster_P=sharing_pairs(*sides)
        )
    else:
        gone = f"{int((~placed_P).sum())} of {len(pairs)} pairs are left out: the encoder has no row for a sentence"
        absent["intervals"] = f"{gone}, and so the numbers have no intervals"
    by_key = {ScoreKey("geometry", pairs.name, metric): sample for metric, sample in samples.items()}
    return SuiteScores(
        scores=keyed_scores("geometry", {pairs.name: metrics}),
        protocols=_protocols(pairs.name),
        columns=_columns(pairs.name, metrics),
        absent={f"geometry.{pairs.name}.{metric}": reason for metric, reason in absent.items()},
        samples=by_key,
    )


def prepare_geometry(options: SuiteOptions) -> PreparedSuite:
    """Reads STS-B's test pairs, or a user's own.

    Raises:
        FileNotFoundError: They are not there.
        ValueError: A file cannot be read.
    """
    pairs = _load_pairs(options.data)
    positive = int((pairs.gold > POSITIVE_ABOVE).sum())
    summary = f"{len(pairs):,} pairs of {pairs.name}, {positive:,} of them with gold above {POSITIVE_ABOVE:g}"
    return PreparedSuite(
        summary=summary, digest=pairs_digest([pairs]), score=lambda subject: score_geometry(subject, pairs)
    )


SUITE = Suite(
    name="geometry",
    version=3,
    needs="STS-B's test pairs: a SentEval folder by --data (or an own file of pairs, gold from 0 to 5); otherwise "
    "mteb's copy on the hub",
    prepare=prepare_geometry,
)


def _load_pairs(data: str | None) -> ScoredPairs:
    if data is None:
        return load_sts_from_hub({_TASK: HUB_REPOSITORIES[_TASK]}).tasks[0].subsets[0]
    path = Path(data)
    if path.is_file():
        return load_scored_pairs(path)
    if not path.exists():
        raise FileNotFoundError(f"--data: neither a folder nor a file at {path}")
    return load_stsbenchmark(path, split="test")


def _scores(
    left_PD: FloatArray, right_PD: FloatArray, gold_P: NDArray[np.float64], row_ND: FloatArray
) -> tuple[dict[str, float], dict[str, str]]:
    """Values by metric, and why one is missing."""
    positive_P = gold_P > POSITIVE_ABOVE
    both_ND = np.concatenate([left_PD, right_PD])
    shares = spectrum(row_ND)
    scores = {
        "uniformity": uniformity(both_ND),
        "mean_cosine": mean_cosine(row_ND),
        "variance_top1": 100 * shares.top1_share,
        "variance_top10": 100 * shares.top10_share,
        "effective_rank": shares.effective_rank,
    }
    batches = batchwise_geometry(left_PD, right_PD, gold_P=gold_P, threshold=POSITIVE_ABOVE)
    scores["batchwise_uniformity"] = batches.uniformity
    if not positive_P.any():
        reason = f"no pair has gold above {POSITIVE_ABOVE:g}; the largest is {gold_P.max():g}"
        return scores, {"alignment": reason, "batchwise_alignment": reason}
    scores["alignment"] = alignment(left_PD[positive_P], right_PD[positive_P])
    scores["batchwise_alignment"] = batches.alignment
    return scores, {}


def _samples(
    left_PD: FloatArray,
    right_PD: FloatArray,
    positive_P: NDArray[np.bool_],
    row_ND: FloatArray,
    *,
    clean_P: NDArray[np.bool_] | None,
    cluster_P: NDArray[np.int64],
) -> dict[str, Sample]:
    """By metric. Uniformity and mean cosine are means over pairs of rows, drawn by each item's part in them."""
    samples = {
        "uniformity": Sample(statistic="mean", value_P=uniformity_parts(left_PD, right_PD), cluster_P=cluster_P),
        "mean_cosine": Sample(statistic="mean", value_P=mean_cosine_parts(row_ND)),
    }
    if positive_P.any():
        distance_P = squared_distances(left_PD[positive_P], right_PD[positive_P])
        own_P = None if clean_P is None else clean_P[positive_P]
        samples["alignment"] = Sample(
            statistic="mean", value_P=distance_P, cluster_P=cluster_P[positive_P], clean_P=own_P
        )
    return samples


def _columns(name: str, metrics: dict[str, float]) -> tuple[Column, ...]:
    return tuple(
        Column(label=label, key=ScoreKey("geometry", name, metric), higher_is_better=False)
        for metric, label in _LABELS.items()
        if metric in metrics
    )


def _protocols(name: str) -> dict[str, str]:
    return {
        f"geometry.{name}": f"alignment: mean squared distance of the pairs with gold > {POSITIVE_ABOVE:g}; "
        "uniformity: log mean exp(-2 · squared distance) over all pairs of the rows of both sides, repeats included",
        "geometry batchwise": f"MCSE's own estimate: means over batches of 128 pairs in file order, gold >= "
        f"{POSITIVE_ABOVE:g}; not comparable with the global values",
        "geometry anisotropy": "over distinct sentences; mean cosine of all pairs of them; variance (% along the first "
        "and the first ten principal directions) and effective rank (exp of the entropy of the singular values) of "
        "centred rows",
        "geometry intervals": "95 % percentile bootstrap, 1,000 draws of pairs, with all that share a sentence with "
        "them (mean cosine: of sentences); uniformity and mean cosine to first order, without copies of a "
        "pair compared with each other; none for the others",
    }
