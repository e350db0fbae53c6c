"""``WordTranslator``: text to text by a ``CoveTranslator``, for evaluation while training and afterwards.

B sentences of one batch, S target words, V target vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mcse.encoders.inputs import Found, evaluating, in_batches
from mcse.manifest import Located, locate
from mcse.models.cove_translator import CoveTranslator, load_translator
from mcse.text.vocab import BEGIN, END, PAD, UNKNOWN, Vocab, split_words
from mcse.types import TokenBatch, TranslationBatch, to_device

_LONGER = 10
"""A translation may have half as many words again as its source, and this many more."""


class WordTranslator:
    """A translator in the sense of ``types.Translator``. Translations are words parted by spaces.

    Args:
        model: May be in training; its mode is restored.
        source_words: Numbers of the encoder's words.
        target_words: What the decoder predicts.
    """

    def __init__(self, model: CoveTranslator, source_words: Vocab, target_words: Vocab) -> None:
        self._model, self._source, self._target = model, source_words, target_words

    @classmethod
    def from_pretrained(cls, folder: str | Path | Located) -> WordTranslator:
        """Of a run folder (its ``best/``) or a checkpoint folder.

        Raises:
            ValueError: The folder holds no CoVe with its decoder.
        """
        return cls(*load_translator(locate(folder).expect("cove").folder))

    def translate(self, sentences: Sequence[str], *, beams: int = 1, batch_size: int = 64) -> list[str]:
        """One translation a sentence; the unknown word is left out.

        Raises:
            ValueError: ``beams`` is below 1.
        """
        if beams < 1:
            raise ValueError(f"beams: must be 1 or more, got {beams}")

        def work(numbers: list[int]) -> list[str]:
            words = [split_words(sentences[number]) for number in numbers]
            found = self._model.search(
                self._batch([self._source.ids(tokens) for tokens in words]),
                beams=beams,
                begin=self._target.index[BEGIN],
                end=self._target.index[END],
                longest=_LONGER + 3 * max(map(len, words)) // 2,
            )
            hidden = (PAD, UNKNOWN, BEGIN, END)
            texts = [[self._target.words[word] for word in row] for row in found]
            return [" ".join(word for word in row if word not in hidden) for row in texts]

        return self._in_batches(sentences, work, batch_size=batch_size, empty="")

    def nll(
        self, sentences: Sequence[str], translations: Sequence[str], *, batch_size: int = 64
    ) -> list[NDArray[np.float64]]:
        """Nats of each word of a given translation and of its end; sentences without words are skipped."""

        def work(numbers: list[int]) -> list[NDArray[np.float64]]:
            begin, end = self._target.index[BEGIN], self._target.index[END]
            targets = [
                np.array([begin, *self._target.ids(split_words(translations[number])), end]) for number in numbers
            ]
            source = self._batch([self._source.ids(split_words(sentences[n])) for n in numbers])
            target = self._batch(targets)
            logit_BSV = self._model(TranslationBatch(source=source, target=target))
            nll_BS = F.cross_entropy(logit_BSV.transpose(1, 2).float(), target.input_ids_BT[:, 1:], reduction="none")
            rows = nll_BS.cpu().double().numpy()
            return [row[: len(words) - 1] for row, words in zip(rows, targets, strict=True)]

        return self._in_batches(sentences, work, batch_size=batch_size, empty=np.empty(0))

    def _batch(self, ids: Sequence[NDArray[np.int64]]) -> TokenBatch:
        return to_device(TokenBatch.padded(ids), self._model.softmax.weight.device)

    def _in_batches(
        self, sentences: Sequence[str], work: Callable[[list[int]], list[Found]], *, batch_size: int, empty: Found
    ) -> list[Found]:
        with evaluating([self._model]), torch.inference_mode():
            return in_batches((len(split_words(text)) for text in sentences), work, batch_size=batch_size, empty=empty)
