"""Types that cross folder borders: batches, loss terms, protocols."""

from mcse.types.batches import IGNORED_LABEL, MaskedTokens, PairBatch, SentenceBatch, TokenBatch, TweetBatch, to_device
from mcse.types.language import FeatureBatch, Lane, LaneBatch, SampledWords, TranslationBatch
from mcse.types.losses import LossTerm, LossTerms
from mcse.types.protocols import (
    Encoder,
    Entity,
    Evaluator,
    FloatArray,
    ImageTextEncoder,
    LanguageModel,
    Score,
    Stateful,
    Stream,
    Tagger,
    Tagging,
    Translator,
    WordEncoder,
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
    "FeatureBatch",
    "FloatArray",
    "ImageTextEncoder",
    "Lane",
    "LaneBatch",
    "LanguageModel",
    "LossTerm",
    "LossTerms",
    "MaskedTokens",
    "PairBatch",
    "PairList",
    "Sample",
    "SampledWords",
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
    "TranslationBatch",
    "Translator",
    "TweetBatch",
    "Verdict",
    "WordEncoder",
    "to_device",
]
