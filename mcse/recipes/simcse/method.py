"""SimCSE: a sentence under two dropout masks is its own positive; or, supervised, entailments against contradictions.

Source: Gao, Yao and Chen 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings", EMNLP.
"""

from __future__ import annotations

from torch import nn

from mcse.data.source_variants import TableSentences
from mcse.recipes.simcse.config import Config
from mcse.recipes.taught import build_taught_text, text_run
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerms, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one SimCSE run."""
    has_triplets = isinstance(config.data.sentences, TableSentences)
    taught = build_taught_text(
        config, runtime, own_positive=not has_triplets, hard_negative_weight=config.loss.hard_negative_weight
    )

    def step(model: nn.Module, batch: SentenceBatch) -> LossTerms:
        batch = taught.teachers.with_rows(batch)
        return taught.terms(model(batch), batch)

    return text_run(config, taught, runtime, step=step)
