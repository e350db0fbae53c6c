"""mcse: train and evaluate sentence embeddings that have seen images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcse.version import __version__

if TYPE_CHECKING:
    from mcse.api.evaluation import evaluate as evaluate
    from mcse.api.results import EvaluationResults as EvaluationResults
    from mcse.api.training import FinishedRun as FinishedRun
    from mcse.api.training import train as train
    from mcse.encoders.joint_encoder import JointEncoder as JointEncoder
    from mcse.encoders.sentence_encoder import SentenceEncoder as SentenceEncoder
    from mcse.encoders.tweet_tagger import TweetTagger as TweetTagger
    from mcse.search.embedding_index import EmbeddingIndex as EmbeddingIndex

__all__ = [
    "EmbeddingIndex",
    "EvaluationResults",
    "FinishedRun",
    "JointEncoder",
    "SentenceEncoder",
    "TweetTagger",
    "__version__",
    "evaluate",
    "train",
]


def __getattr__(name: str) -> object:
    """What is public, on first use, so that ``import mcse`` does not load PyTorch."""
    if name == "train":
        from mcse.api.training import train

        return train
    if name == "FinishedRun":
        from mcse.api.training import FinishedRun

        return FinishedRun
    if name == "evaluate":
        from mcse.api.evaluation import evaluate

        return evaluate
    if name == "EvaluationResults":
        from mcse.api.results import EvaluationResults

        return EvaluationResults
    if name == "SentenceEncoder":
        from mcse.encoders.sentence_encoder import SentenceEncoder

        return SentenceEncoder
    if name == "EmbeddingIndex":
        from mcse.search.embedding_index import EmbeddingIndex

        return EmbeddingIndex
    if name == "TweetTagger":
        from mcse.encoders.tweet_tagger import TweetTagger

        return TweetTagger
    if name == "JointEncoder":
        from mcse.encoders.joint_encoder import JointEncoder

        return JointEncoder
    raise AttributeError(f"module 'mcse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
