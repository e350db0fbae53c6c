"""``ElmoScorer``: how surprised an ELMo with its softmax is by sentences, word by word.

B sentences of one batch, T tokens, M predicted words, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mcse.encoders.inputs import evaluating, in_batches
from mcse.manifest import Located, locate
from mcse.models.elmo_language_model import ElmoLanguageModel, load_language_model
from mcse.models.elmo_model import Direction
from mcse.text.characters import character_ids
from mcse.text.vocab import BEGIN, END, Vocab

_PREDICTED_AT_ONCE = 1024
"""Bounds the memory of the whole vocabulary's logits."""


class ElmoScorer:
    """A language model in the sense of ``types.LanguageModel``, with the softmax over the whole vocabulary.

    Every sentence is read by itself. Words outside the vocabulary count as the unknown word.

    Args:
        model: May be in training; its mode is restored.
        vocab: What the softmax predicts.
    """

    def __init__(self, model: ElmoLanguageModel, vocab: Vocab) -> None:
        self._model, self.vocab = model, vocab

    @classmethod
    def from_pretrained(cls, folder: str | Path | Located) -> ElmoScorer:
        """Of a run folder (its ``best/``) or a checkpoint folder.

        Raises:
            ValueError: The folder holds no ELMo with its softmax.
        """
        return cls(*load_language_model(locate(folder).expect("elmo").folder))

    def nll(
        self, sentences: Sequence[Sequence[str]], *, backward: bool = False, batch_size: int = 64
    ) -> list[NDArray[np.float64]]:
        """Nats of a sentence's words in reading order and of its other end: T + 1 numbers a sentence.

        Raises:
            ValueError: A token is empty.
        """

        def work(numbers: list[int]) -> list[NDArray[np.float64]]:
            return self._batch([sentences[number] for number in numbers], backward=backward)

        # Of a sentence without words, too, the other end is predicted.
        predicted = (len(words) + 1 for words in sentences)
        with evaluating([self._model]), torch.inference_mode():
            return in_batches(predicted, work, batch_size=batch_size, empty=np.empty(0))

    def _batch(self, sentences: Sequence[Sequence[str]], *, backward: bool) -> list[NDArray[np.float64]]:
        elmo = self._model.elmo
        device = self._model.softmax.weight.device
        direction: Direction = "backward" if backward else "forward"
        # In reading order the marks change places too: what this direction sees first is its begin.
        ids_BTC = character_ids(sentences, length=elmo.config.max_characters, marks=True)
        if backward:
            for row_TC, words in zip(ids_BTC, sentences, strict=True):
                row_TC[: len(words) + 2] = row_TC[: len(words) + 2][::-1].copy()
        closing = self.vocab.index[BEGIN if backward else END]
        labels = [[*self.vocab.ids(words[::-1] if backward else words).tolist(), closing] for words in sentences]
        word_BTP = elmo.word_rows(torch.from_numpy(ids_BTC[:, :-1]).to(device))
        top_BTP = elmo.read(direction, word_BTP)[0][-1]
        length = [len(row) for row in labels]
        top_MP = torch.cat([row[:count] for row, count in zip(top_BTP, length, strict=True)])
        label_M = torch.tensor([label for row in labels for label in row], device=device)
        nll = [
            F.cross_entropy(
                self._model.softmax(top_MP[first : first + _PREDICTED_AT_ONCE]).float(),
                label_M[first : first + _PREDICTED_AT_ONCE],
                reduction="none",
            )
            for first in range(0, len(label_M), _PREDICTED_AT_ONCE)
        ]
        return np.split(torch.cat(nll).cpu().double().numpy(), np.cumsum(length)[:-1])
