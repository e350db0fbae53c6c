"""Types that cross folder borders: batches, loss terms, protocols."""

from mcse.types.batches import IGNORED_LABEL, MaskedTokens, MatchBatch, PairBatch, SentenceBatch, TokenBatch, to_device
from mcse.types.losses import LossTerm, LossTerms
from mcse.types.protocols import (
    Encoder,
    Evaluator,
    FloatArray,
    ImageTextEncoder,
    Score,
    Stateful,
    Stream,
)
from mcse.types.scores import Column, ComparedScore, PairList, Sample, Statistic, SuiteScores, TaskScores, Verdict
from mcse.types.sources import DataFile

__all__ = [
    "IGNORED_LABEL",
    "Column",
    "ComparedScore",
    "DataFile",
    "Encoder",
    "Evaluator",
    "FloatArray",
    "ImageTextEncoder",
    "LossTerm",
    "LossTerms",
    "MaskedTokens",
    "MatchBatch",
    "PairBatch",
    "PairList",
    "Sample",
    "Score",
    "SentenceBatch",
    "Stateful",
    "Statistic",
    "Stream",
    "SuiteScores",
    "TaskScores",
    "TokenBatch",
    "Verdict",
    "to_device",
]
