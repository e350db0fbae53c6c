"""SimCSE: a sentence under two dropout masks is its own positive; or, supervised, entailments against contradictions.

Source: Gao, Yao and Chen 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings", EMNLP.
"""

from __future__ import annotations

from torch import nn

from mcse.data.mixing import carried_part
from mcse.data.source_variants import TableSentences
from mcse.recipes import export, shared
from mcse.recipes.simcse.config import Config
from mcse.recipes.taught import build_taught_text
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerms, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one SimCSE run."""
    has_triplets = isinstance(config.data.sentences, TableSentences)
    taught = build_taught_text(
        config, runtime, own_positive=not has_triplets, hard_negative_weight=config.loss.hard_negative_weight
    )
    text, teachers = taught.side, taught.teachers
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    captions = shared.caption_feed(
        config.data, config.controls, text, share=share, seed=config.seed, teachers=teachers.stored
    )
    feed = shared.mixed_feed(
        config.data, text, captions, mix=config.mix, share=share, seed=config.seed, teachers=teachers.stored
    )
    dev = shared.build_dev_evaluator(config.data, text, precision=config.train.precision)

    def step(model: nn.Module, batch: SentenceBatch) -> LossTerms:
        batch = teachers.with_rows(batch)
        return taught.terms(model(batch), batch)

    return Run(
        model=text.model,
        step=step,
        stream=feed.stream,
        carried=carried_part(feed.stream),
        optimizer=build_optimizer(text.model, config.optim),
        export=export.sentence_exporter(config, text, feed.files),
        evaluators=(dev.evaluator,),
        metrics=dev.metrics,
        state=taught.terms.state,
        facts={**text.facts, **teachers.facts, **feed.facts},
        data=(*feed.files, *text.files, *teachers.files, *dev.files),
    )
