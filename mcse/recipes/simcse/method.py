"""SimCSE: a sentence under two dropout masks is its own positive; or, supervised, entailments against contradictions.

Source: Gao, Yao and Chen 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings", EMNLP.
"""

from __future__ import annotations

from torch import nn

from mcse.data.config import ControlsConfig
from mcse.data.load import load_pairs
from mcse.data.mixing import carried_part
from mcse.data.source_variants import TableSentences
from mcse.data.streams import SentenceStream, Share
from mcse.recipes import export, shared
from mcse.recipes.simcse.config import Config
from mcse.recipes.teachers import Teachers, open_teachers
from mcse.recipes.terms.text import build_text_terms
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerms, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one SimCSE run."""
    has_triplets = isinstance(config.data.sentences, TableSentences)
    text = shared.build_text_side(
        config.encoder,
        config.data,
        mlm=config.loss.mlm_weight > 0,
        own_positive=not has_triplets,
        clean_view=config.loss.off_dropout is not None,
    )
    terms = build_text_terms(config.loss, text.model, hard_negative_weight=config.loss.hard_negative_weight)
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    teachers = open_teachers(config, text)
    captions = _caption_feed(config, text, share, teachers)
    feed = shared.mixed_feed(
        config.data, text, captions, mix=config.mix, share=share, seed=config.seed, teachers=teachers.stored
    )
    dev = shared.build_dev_evaluator(config.data, text, precision=config.train.precision)

    def step(model: nn.Module, batch: SentenceBatch) -> LossTerms:
        batch = teachers.with_rows(batch)
        return terms(model(batch), batch)

    return Run(
        model=text.model,
        step=step,
        stream=feed.stream,
        carried=carried_part(feed.stream),
        optimizer=build_optimizer(text.model, config.optim),
        export=export.sentence_exporter(config, text, feed.files),
        evaluators=(dev.evaluator,),
        metrics=dev.metrics,
        state=terms.state,
        facts={**text.facts, **teachers.facts, **feed.facts},
        data=(*feed.files, *text.files, *teachers.files, *dev.files),
    )


def _caption_feed(config: Config, text: shared.TextSide, share: Share, teachers: Teachers) -> shared.Feed | None:
    """Captions as text, on the batches that MCSE would pair with images."""
    if config.data.captions is None:
        return None
    seed = shared.pair_seed(config.seed)
    controls = ControlsConfig(num_pairs=config.controls.num_pairs)
    pairs = load_pairs(config.data, text.tokenizer, controls=controls, seed=seed, images=None)
    order, masker = pairs.order(share, seed), text.masker(seed=seed)
    stream = SentenceStream(
        pairs.captions,
        order,
        pad_id=text.tokenizer.pad_id,
        masker=masker,
        repeater=text.repeater(config.data, seed=seed),
        teachers=pairs.teacher_rows(teachers.stored),
    )
    return shared.Feed(stream, pairs.files, {"captions": len(pairs.captions)})
