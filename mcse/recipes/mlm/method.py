"""A masked language model: hidden words are filled in from what stands around them.

M masked tokens of this process, W vocabulary.

Source: Devlin, Chang, Lee and Toutanova 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", NAACL; masks are drawn anew in every epoch, and there is no second sentence, as in Liu et al. 2019,
"RoBERTa".
"""

from __future__ import annotations

from functools import partial

from torch import nn

from mcse.data.streams import MaskedStream, Sampler
from mcse.evaluation.evaluators.masked_perplexity import MaskedPerplexityEvaluator
from mcse.losses.likelihood import token_nll
from mcse.models.masked_model import MaskedRows
from mcse.recipes import export, shared
from mcse.recipes.mlm.config import Config
from mcse.recipes.mlm.model import build_model, evaluated_nll
from mcse.recipes.mlm.text import dev_batches, read_text
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import IGNORED_LABEL, DataFile, Evaluator, LossTerm, LossTerms, MaskedTokens


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluators and export of one run."""
    text, max_length = read_text(config.data), config.data.max_length
    model, side = build_model(config.encoder, text.training, max_length=max_length)
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    sentences = text.training.tokenised(side.tokenizer, max_length=max_length)
    sampler = Sampler(len(sentences.table), share, seed=config.seed, name="data.sentences")
    masker = shared.build_masker(
        side.tokenizer, seed=config.seed, share=config.loss.mask_share, whole_word=config.loss.whole_word
    )
    perplexity = MaskedPerplexityEvaluator(
        partial(evaluated_nll, model), dev_batches(text.dev, side.tokenizer, config.loss, max_length=max_length)
    )
    evaluators: tuple[Evaluator, ...] = (perplexity,)
    metrics = perplexity.metrics
    dev_files: tuple[DataFile, ...] = ()
    if config.data.sts is not None:
        scored = shared.build_dev_evaluator(config.data, side, config.train)
        evaluators, metrics, dev_files = (perplexity, *scored.evaluators), (*metrics, *scored.metrics), scored.files

    def step(model: nn.Module, batch: MaskedTokens) -> LossTerms:
        rows: MaskedRows = model(batch)
        nll = token_nll(rows.logit_MW, rows.label_M, ignored=IGNORED_LABEL)
        return {"mlm": LossTerm(nll, count=len(rows.label_M))}

    return Run(
        model=model,
        step=step,
        stream=MaskedStream(sentences.table, sampler, pad_id=side.tokenizer.pad_id, masker=masker),
        optimizer=build_optimizer(model, config.optim),
        export=export.sentence_exporter(config, side, text.files, language_model=model),
        evaluators=evaluators,
        metrics=metrics,
        facts={
            **side.facts,
            "sentences": len(sentences.table),
            "held out": len(text.dev),
            "vocabulary": len(side.tokenizer),
            "masked": f"{100 * config.loss.mask_share:g} % of the {'words' if config.loss.whole_word else 'tokens'}",
        },
        data=(*text.files, *side.files, *dev_files),
    )
