"""Model of DiffCSE: a text tower, a frozen masked language model that edits sentences, and a discriminator of edits.

B examples a process, R = 2·B rows, one dropout view after the other, T tokens, D width,
W words that are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcse.models.backbone import probe_tokens
from mcse.models.sentence_model import SentenceModel, SentenceRows
from mcse.models.text_encoder import TextEncoder
from mcse.nn.heads import BatchNormHead
from mcse.types import SentenceBatch, TokenBatch
from mcse.types.batches import concatenate


@dataclass(frozen=True, slots=True)
class DifferenceRows:
    """What the model makes of a batch.

    ``text`` are the rows that are contrasted. Of the edited sentences ``logit_RT2`` says of every token, padding
    included, whether it was replaced, ``replaced_RT`` is true where it was, ``real_RT`` where it is no padding.
    """

    text: SentenceRows
    logit_RT2: Tensor
    replaced_RT: Tensor
    real_RT: Tensor


class Generator(nn.Module):
    """A masked language model that works inside the step and is no part of training.

    Its parameters are those of no module, so that no optimizer, DDP or saved state sees them.

    Args:
        model: From ``load_generator``.
        num_words: Ids that the tokenizer gives; a model may have rows beyond them, which stand for nothing.
        dropout: Whether it drops out although it does not train.
    """

    def __init__(self, model: nn.Module, *, num_words: int, dropout: bool) -> None:
        super().__init__()
        self.num_words = num_words
        self._held = (model.train(dropout).requires_grad_(False),)  # a tuple, which nn.Module does not look into

    @torch.no_grad()
    def forward(self, tokens: TokenBatch) -> Tensor:
        """(R, T) ids of the likeliest word at every position, masked or not."""
        model, device = self._held[0], tokens.input_ids_BT.device
        if any(parameter.device != device for parameter in model.parameters()):
            model.to(device)  # it does not move with the module that holds this one
        logit_RTW = model(input_ids=tokens.input_ids_BT, attention_mask=tokens.attention_mask_BT).logits
        id_RT: Tensor = logit_RTW[..., : self.num_words].argmax(-1)
        return id_RT


class Discriminator(nn.Module):
    """Tells which tokens of an edited sentence are not the original's, from the edited one and the original's row.

    The row stands in the first token's place: it replaces what the module ``embeddings`` gives there, after its norm
    and dropout.

    Args:
        encoder: Its model is trained as a whole; nothing else of it is used.

    Raises:
        ValueError: The architecture has no ``embeddings`` whose output alone feeds its layers, or padding changes its
            rows.

    Source: Chuang et al. 2022, section 3.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        _check_takes_rows(encoder)
        self.backbone = encoder.backbone
        self.pad_id = int(getattr(encoder.backbone.config, "pad_token_id", None) or 0)
        self.head = nn.Linear(encoder.width, 2)

    def forward(self, tokens: TokenBatch, row_RD: Tensor) -> Tensor:
        """(R, T, 2) logits of original and replaced, at every position, padding included."""
        logit_RT2: Tensor = self.head(_states(self.backbone, tokens, row_RD))
        return logit_RT2


def _states(backbone: Any, tokens: TokenBatch, row_RD: Tensor) -> Tensor:
    """(R, T, D) of the last layer, with a row in the place of each first token's embedding."""

    def put(module: nn.Module, given: Any, embedded_RTD: Tensor) -> Tensor:
        del module, given
        return torch.cat([row_RD[:, None].to(embedded_RTD.dtype), embedded_RTD[:, 1:]], dim=1)

    hook = backbone.embeddings.register_forward_hook(put)
    try:
        output = backbone(input_ids=tokens.input_ids_BT, attention_mask=tokens.attention_mask_BT)
    finally:
        hook.remove()
    state_RTD: Tensor = output.last_hidden_state
    return state_RTD


@torch.no_grad()
def _check_takes_rows(encoder: TextEncoder) -> None:
    """Puts rows in the place of first tokens: they must count, and the tokens themselves no more."""
    backbone: Any = encoder.backbone
    was_training = backbone.training
    tokens = probe_tokens(backbone)
    other = replace(tokens, input_ids_BT=tokens.input_ids_BT.clone())
    other.input_ids_BT[:, 0] = tokens.input_ids_BT[:, 1]
    ones_RD = torch.ones(len(tokens), encoder.width)
    try:
        backbone.eval()
        same, changed = (_states(backbone, given, ones_RD) for given in (tokens, other))
        moved = _states(backbone, tokens, ones_RD.cumsum(1))
        fits = torch.equal(same, changed) and not torch.equal(same[:, 1:], moved[:, 1:])
        # XLM's is the table of words alone, to which positions and a norm are still to come.
        fits = fits and encoder.facts.masks_padding and not isinstance(backbone.embeddings, nn.Embedding)
    except (AttributeError, TypeError, RuntimeError):
        fits = False
    finally:
        backbone.train(was_training)
    if not fits:
        raise ValueError(
            f"encoder.name_or_path: {encoder.facts.name!r} ({backbone.config.model_type}) cannot be DiffCSE's "
            "discriminator: it has no module `embeddings` whose output alone feeds its layers, as BERT and RoBERTa have"
        )


class DifferenceModel(nn.Module):
    """DiffCSE: contrasted rows, and a discriminator that is shown each of them beside an edited sentence.

    Args:
        text: The text side, which alone is exported; its own head is ``None`` where ``head`` is given.
        head: Applied to the pooled rows of both views together; ``None`` leaves them to the text side's own.
        generator: Edits the masked copies.
        discriminator: Trained beside the text side and thrown away.
        stop_gradient: Whether the discriminator teaches the text side nothing: the ablation.
        widest: The width of this process's batch → the width to pad to before the discriminator: where the loss counts
            padding, that of the widest process.
    """

    def __init__(
        self,
        text: SentenceModel,
        *,
        head: BatchNormHead | None,
        generator: Generator,
        discriminator: Discriminator,
        stop_gradient: bool,
        widest: Callable[[int], int],
    ) -> None:
        super().__init__()
        self.text, self.head = text, head
        self.generator, self.discriminator = generator, discriminator
        self.stop_gradient, self._widest = stop_gradient, widest

    def forward(self, batch: SentenceBatch) -> DifferenceRows:
        """One forward of each of the three models over both views at once; a sentence is its own positive."""
        assert batch.masked is not None
        rows = self.text(batch)
        row_RD = torch.cat([rows.query_BD, rows.positive_BD])
        if self.head is not None:
            row_RD = self.head(row_RD)
            query_BD, positive_BD = row_RD.chunk(2)
            rows = replace(rows, query_BD=query_BD, positive_BD=positive_BD)
        # Masked copies are of the sentence, also where its positive repeats some of its words.
        original = concatenate([batch.query, batch.query])
        edited_RT = self.generator(batch.masked.tokens)
        edited_RT[:, 0] = original.input_ids_BT[:, 0]
        edited, replaced_RT = self._widened(original, edited_RT)
        logit_RT2 = self.discriminator(edited, row_RD.detach() if self.stop_gradient else row_RD)
        return DifferenceRows(rows, logit_RT2, replaced_RT, edited.attention_mask_BT.bool())

    def _widened(self, original: TokenBatch, edited_RT: Tensor) -> tuple[TokenBatch, Tensor]:
        """The edited sentences as all processes together would pad them, and where they differ from the original."""
        mask_RT, pad_id = original.attention_mask_BT, self.discriminator.pad_id
        width = mask_RT.shape[1]
        added = (0, self._widest(width) - width)
        replaced_RT = (edited_RT != original.input_ids_BT) & mask_RT.bool()
        edited_RT = edited_RT.masked_fill(mask_RT == 0, pad_id)
        edited = TokenBatch(F.pad(edited_RT, added, value=pad_id), F.pad(mask_RT, added))
        return edited, F.pad(replaced_RT, added)
