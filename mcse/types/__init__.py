"""Types that cross folder borders: batches, loss terms, protocols."""

from mcse.types.batches import IGNORED_LABEL, MaskedTokens, PairBatch, SentenceBatch, TokenBatch, TweetBatch, to_device
from mcse.types.losses import LossTerm, LossTerms
from mcse.types.protocols import (
    Encoder,
    Entity,
    Evaluator,
    FloatArray,
    ImageTextEncoder,
    Score,
    Stateful,
    Stream,
    Tagger,
    Tagging,
)
from mcse.types.scores import Column, ComparedScore, PairList, Sample, Statistic, SuiteScores, TaskScores, Verdict
from mcse.types.sources import DataFile

__all__ = [
    "IGNORED_LABEL",
    "Column",
    "ComparedScore",
    "DataFile",
    "Encoder",
    "Entity",
    "Evaluator",
    "FloatArray",
    "ImageTextEncoder",
    "LossTerm",
    "LossTerms",
    "MaskedTokens",
    "PairBatch",
    "PairList",
    "Sample",
    "Score",
    "SentenceBatch",
    "Stateful",
    "Statistic",
    "Stream",
    "SuiteScores",
    "Tagger",
    "Tagging",
    "TaskScores",
    "TokenBatch",
    "TweetBatch",
    "Verdict",
    "to_device",
]
