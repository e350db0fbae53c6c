"""``ElmoLanguageModel``: an ``ElmoModel`` with the softmax that trains it, and the folder that keeps both.

B sequences, T places, M predicted words, S sampled words, P projected width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from mcse.models.elmo_model import DIRECTIONS, Direction, ElmoModel, ElmoState
from mcse.models.text_loading import quiet_transformers
from mcse.models.weights import load_own, load_weights, save_tensors
from mcse.nn.charcnn import look_up
from mcse.text.vocab import Vocab
from mcse.types import LaneBatch

_SOFTMAX, _VOCAB = "language_model.safetensors", "vocab.json"


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one direction says of the words that follow.

    Either ``logit_MV`` over the whole vocabulary, or the labels' own logits and those of sampled words.
    """

    label_M: Tensor
    logit_MV: Tensor | None = None
    true_logit_M: Tensor | None = None
    negative_logit_MS: Tensor | None = None


class ElmoLanguageModel(nn.Module):
    """Both directions with one softmax.

    Args:
        elmo: The model that is kept.
        vocabulary_size: V.

    Source: Peters et al. 2018, equation in section 3.1; the softmax's N(0, 1/√P) and zero bias as in the released code.
    """

    def __init__(self, elmo: ElmoModel, *, vocabulary_size: int) -> None:
        super().__init__()
        self.elmo = elmo
        width = elmo.config.projection_dim
        self.softmax = nn.Linear(width, vocabulary_size)
        nn.init.normal_(self.softmax.weight, std=width**-0.5)
        nn.init.zeros_(self.softmax.bias)

    def forward(
        self, batch: LaneBatch, state: ElmoState | None = None
    ) -> tuple[dict[Direction, Predictions], ElmoState]:
        """Predictions of both directions, and the states to go on from, without their history."""
        word_WP = self.elmo.words(batch.character_WC, longest=batch.longest)
        predictions: dict[Direction, Predictions] = {}
        after: ElmoState = {}
        for direction in DIRECTIONS:
            lane = batch.forward if direction == "forward" else batch.backward
            before = None if state is None else state[direction]
            rows_BTP = look_up(word_WP, lane.word_BT)
            outputs, ends = self.elmo.read(direction, rows_BTP, state=before, fresh_BT=lane.fresh_BT)
            after[direction] = tuple(end.detach() for end in ends)
            counted_M = lane.counted()
            top_MP, label_M = outputs[-1].flatten(0, 1)[counted_M], lane.target_BT.flatten()[counted_M]
            if lane.negatives is None:
                predictions[direction] = Predictions(label_M, logit_MV=self.softmax(top_MP))
            else:
                weight, bias, id_S = self.softmax.weight, self.softmax.bias, lane.negatives.id_S
                true_M = (top_MP * look_up(weight, label_M)).sum(dim=-1) + bias[label_M]
                negative_MS = F.linear(top_MP, look_up(weight, id_S), bias[id_S])
                predictions[direction] = Predictions(label_M, true_logit_M=true_M, negative_logit_MS=negative_MS)
        return predictions, after


def save_language_model(folder: Path, model: ElmoLanguageModel, vocab: Vocab) -> None:
    """Writes ``config.json`` and ``model.safetensors`` of the ``ElmoModel``, its softmax, and the vocabulary."""
    with quiet_transformers():
        model.elmo.save_pretrained(folder)
    save_tensors(folder / _SOFTMAX, model.softmax.state_dict())
    vocab.save(folder / _VOCAB)


def load_language_model(folder: Path) -> tuple[ElmoLanguageModel, Vocab]:
    """Reads what ``save_language_model`` wrote, on the CPU, in evaluation mode.

    Raises:
        ValueError: The folder holds no ELMo with its softmax, or a file is damaged.
    """
    if not (folder / _SOFTMAX).is_file():
        raise ValueError(f"{folder} holds no softmax ({_SOFTMAX}), so it can embed words but not predict them")
    elmo, vocab = load_own(ElmoModel, folder), Vocab.load(folder / _VOCAB)
    model = ElmoLanguageModel(elmo, vocabulary_size=len(vocab))
    load_weights(model.softmax, folder / _SOFTMAX, title=f"a softmax over the {len(vocab)} words of {_VOCAB}")
    return model.eval(), vocab
