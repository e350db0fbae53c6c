"""Masked language models: a text encoder, and a head that is computed at masked places alone.

M masked tokens of a batch, D width, W vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import quiet_transformers
from mcse.types import MaskedTokens


@dataclass(frozen=True, slots=True)
class MaskedRows:
    """Logits of the masked tokens of a batch, and what they were."""

    logit_MW: Tensor
    label_M: Tensor


class _Given(tuple[Tensor]):
    """What a base model would have returned, of which heads read the rows alone; all else is ``None``."""

    def __getattr__(self, name: str) -> Tensor | None:
        return self[0] if name == "last_hidden_state" else None


class MaskedLanguageModel(nn.Module):
    """A Hugging Face masked language model of any architecture.

    Args:
        model: The whole model.
        encoder: Around its base model; says how a batch goes through it.

    Raises:
        ValueError: Part of the model would not train.
    """

    def __init__(self, model: Any, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        parts = {name: part for name, part in model.named_children() if part is not model.base_model}
        self.head = nn.ModuleDict(parts)
        self._held = (model,)  # a tuple, which nn.Module does not look into: its weights are those of the two above
        if lacking := {id(p) for p in model.parameters()} - {id(p) for p in self.parameters()}:
            raise ValueError(
                f"encoder.name_or_path: {encoder.facts.name!r} has {len(lacking)} weights that are part of neither its "
                "encoder nor its head, and would not train"
            )

    def forward(self, batch: MaskedTokens) -> MaskedRows:
        """Of the masked tokens alone, in the order of the batch."""
        place_M = batch.chosen()
        return MaskedRows(self._logits(self.encoder.rows_at(batch.tokens, place_M)), batch.label_BT.flatten()[place_M])

    def _logits(self, row_MD: Tensor) -> Tensor:
        """The model's own way from rows to words: its base model gives the rows that are here already."""
        (model,) = self._held

        model.base_model.forward = lambda *_, **__: _Given((row_MD[None],))
        try:
            logit_1MW: Tensor = model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=row_MD.device)).logits
        finally:
            del model.base_model.forward
        return logit_1MW[0]

    def save(self, folder: Path) -> None:
        """Writes what ``AutoModelForMaskedLM`` and ``AutoModel`` load."""
        (model,) = self._held
        copied: dict[int, Tensor] = {}  # tied weights stay one, and are stored once
        state = {
            key: copied.setdefault(value.data_ptr(), value.detach().cpu().float())
            for key, value in model.state_dict().items()
        }
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=state)
