"""RankCSE: SimCSE's term, the consistency of its two views, and the order that frozen teachers give a batch.

L = L_contrast + β · consistency + γ · list, where ``list`` is ListMLE or ListNet of the student's cosines between the
two views under the average of the teachers' cosines, weighted. Teachers see no dropout; their rows are stored, or
computed in the step.

What differs from the released code, which is not by the authors: consistency is a divergence and not minus an
entropy; β is used; the teachers' lists are of the batch of all processes; and stored teachers read sentences by their
own tokenizer.

Source: Liu et al. 2023, "RankCSE: Unsupervised Sentence Representations Learning via Learning to Rank", ACL.
"""

from __future__ import annotations

from torch import nn

from mcse.recipes.rankcse.config import Config
from mcse.recipes.taught import build_taught_text, text_run
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerms, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one RankCSE run."""
    taught = build_taught_text(config, runtime)

    def step(model: nn.Module, batch: SentenceBatch) -> LossTerms:
        batch = taught.teachers.with_rows(batch)
        return taught.terms(model(batch), batch)

    return text_run(config, taught, runtime, step=step)
