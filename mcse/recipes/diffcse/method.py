"""DiffCSE: SimCSE, and λ times telling from a sentence's row which tokens of an edited copy were replaced.

Every view of a sentence is masked at random, a frozen masked language model fills in its likeliest word at every
position, and a second encoder, which has the view's row in the place of its first token, says of each token whether it
is the original's. Only the sentence encoder is exported.

B queries of this process, R = 2·B rows, T tokens.

Source: Chuang et al. 2022, "DiffCSE: Difference-based Contrastive Learning for Sentence Embeddings", NAACL.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from mcse import distributed
from mcse.data.mixing import carried_part
from mcse.distributed import gather_rows
from mcse.losses.likelihood import token_nll
from mcse.models.difference_model import DifferenceModel, DifferenceRows, Discriminator, Generator
from mcse.models.text_loading import load_generator, load_text_encoder
from mcse.nn.heads import BatchNormHead
from mcse.recipes import export, shared
from mcse.recipes.diffcse.config import Config, LossConfig
from mcse.recipes.terms.config import TextLossConfig
from mcse.recipes.terms.text import build_text_terms
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import IGNORED_LABEL, LossTerm, LossTerms, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one DiffCSE run."""
    text = shared.build_text_side(config.encoder, config.data, mlm=False, own_positive=True, head=config.head == "tanh")
    text = replace(text, mask_share=config.generator.mask_share)
    text_terms = build_text_terms(TextLossConfig(temperature=config.loss.temperature), text.model)
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    captions = shared.caption_feed(config.data, config.controls, text, share=share, seed=config.seed)
    feed = shared.mixed_feed(config.data, text, captions, mix=config.mix, share=share, seed=config.seed)
    model = _build_model(config, text)
    dev = shared.build_dev_evaluator(config.data, text, config.train)
    generator_files = shared.encoder_files(config.generator.name_or_path, role="generator")

    def step(model: nn.Module, batch: SentenceBatch) -> LossTerms:
        rows: DifferenceRows = model(batch)
        return {**text_terms(rows.text, batch), **rtd_terms(rows, config.loss)}

    return Run(
        model=model,
        step=step,
        stream=feed.stream,
        carried=carried_part(feed.stream),
        optimizer=build_optimizer(model, config.optim),
        export=export.sentence_exporter(config, text, feed.files),
        evaluators=dev.evaluators,
        metrics=dev.metrics,
        facts={**text.facts, **feed.facts},
        data=(
            *feed.files,
            *text.files,
            *(replace(file, role="discriminator") for file in text.files),
            *generator_files,
            *dev.files,
        ),
    )


def rtd_terms(rows: DifferenceRows, loss: LossConfig) -> LossTerms:
    """``rtd``, the cross-entropy of replaced and original tokens, and ``rtd_replaced``, the share of replaced ones.

    The share is of real tokens, and no part of the loss.
    """
    label_RT = rows.replaced_RT.long()
    real = rows.real_RT.sum()
    if loss.rtd_reduction == "real":
        label_RT = label_RT.masked_fill(~rows.real_RT, IGNORED_LABEL)
    nll = token_nll(rows.logit_RT2.flatten(0, 1), label_RT.flatten(), ignored=IGNORED_LABEL)
    count = real if loss.rtd_reduction == "real" else label_RT.numel()
    replaced = rows.replaced_RT.sum().to(nll.dtype)
    return {
        "rtd": LossTerm(nll, count=count, weight=loss.rtd_weight),
        "rtd_replaced": LossTerm(replaced, count=real, is_loss=False),
    }


def _build_model(config: Config, text: shared.TextSide) -> DifferenceModel:
    encoder = text.model.encoder
    generator = load_generator(config.generator.name_or_path, text.tokenizer, max_length=config.data.max_length)
    second = load_text_encoder(
        config.encoder.name_or_path,
        pooling=config.encoder.pooling,
        attention="eager" if config.encoder.attention == "eager" else "sdpa",
        dropout=config.encoder.dropout,
        gradient_checkpointing=config.encoder.gradient_checkpointing,
    )
    head = None
    if config.head == "batch_norm":
        head = BatchNormHead(encoder.width, gather=gather_rows, init_std=encoder.init_std)
    return DifferenceModel(
        text.model,
        head=head,
        generator=Generator(generator, num_words=len(text.tokenizer), dropout=config.generator.dropout),
        discriminator=Discriminator(second),
        stop_gradient=config.loss.stop_gradient,
        widest=_widest if config.loss.rtd_reduction == "all" else int,
    )


def _widest(width: int) -> int:
    """Processes pad their own parts of a batch; only where padding counts must all pad to one length."""
    return max(distributed.all_gather_object(width))
