"""The model of the recipe ``mlm`` with its tokenizer: one that trains on, or one from nothing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mcse.data.load_sentences import SentenceRows
from mcse.encoders.inputs import evaluating
from mcse.losses.likelihood import nll_of_each
from mcse.models.checkpoint import check_trainable
from mcse.models.config import MaskedModelConfig, ScratchMaskedConfig
from mcse.models.masked_model import MaskedLanguageModel, MaskedRows
from mcse.models.scratch import scratch_model, train_word_pieces
from mcse.models.sentence_model import SentenceModel
from mcse.models.text_loading import load_masked_lm, load_tokenizer, text_encoder_around
from mcse.recipes import shared
from mcse.types import DataFile, MaskedTokens, to_device

_BERT_DROPOUT = 0.1


def build_model(
    config: MaskedModelConfig, training: SentenceRows, *, max_length: int
) -> tuple[MaskedLanguageModel, shared.TextSide]:
    """A masked language model, and its encoder as a text side of its own, for evaluation and export.

    Args:
        config: The ``encoder`` keys.
        training: The text that a vocabulary from scratch is learned from.
        max_length: Tokens of the longest text.

    Raises:
        ValueError: The model cannot be loaded or trained, or texts may be longer than it takes.
    """
    if isinstance(config, ScratchMaskedConfig):
        name = "scratch"
        tokenizer = train_word_pieces(lambda: (text for (text,) in training.rows()), config.scratch)
        files: tuple[DataFile, ...] = (DataFile("vocabulary", f"learned from {training.source}", tokenizer.digest),)
        dropout = _BERT_DROPOUT if config.dropout is None else config.dropout
        whole = scratch_model(tokenizer, config.scratch, dropout=dropout)
    else:
        name = config.name_or_path
        tokenizer, files = load_tokenizer(name), shared.encoder_files(name)
        whole = load_masked_lm(name, dropout=config.dropout)
    encoder = text_encoder_around(
        whole.base_model,
        name,
        pooling=config.pooling,
        dropout=config.dropout,
        gradient_checkpointing=config.gradient_checkpointing,
        packing=config.packing,
    )
    check_trainable(encoder, tokenizer, max_length=max_length)
    side = shared.TextSide(SentenceModel(encoder, head=None), tokenizer, files)
    return MaskedLanguageModel(whole, encoder), side


@torch.no_grad()
def evaluated_nll(model: MaskedLanguageModel, batch: MaskedTokens) -> NDArray[np.float64]:
    """(M,) nats of a batch's masked tokens, in its order, by a model that may be in training."""
    device = next(model.parameters()).device
    with evaluating([model]):
        rows: MaskedRows = model(to_device(batch, device))
        nll_M: NDArray[np.float64] = nll_of_each(rows.logit_MW, rows.label_M).cpu().double().numpy()
    return nll_M
