"""Contextual word vectors as encoders: each word's own vectors, and a sentence by the mean of its words.

B sentences of one batch, N of all, T tokens, D width of one layer or of several side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcse.encoders.inputs import Precision, as_texts, autocast, check_precision, check_word_lists, evaluating
from mcse.manifest import Located, locate
from mcse.models.cove_model import CoveModel, load_cove
from mcse.models.elmo_model import ElmoModel, ElmoState
from mcse.models.weights import load_own
from mcse.text.characters import character_ids
from mcse.text.vocab import Vocab, split_words
from mcse.types import FloatArray


@dataclass(frozen=True, slots=True)
class WordLayers:
    """Vectors of padded sentences, layer by layer, the words' own first.

    Attributes:
        layers: (B, T, D) each; zeros where there is no word.
        mask_BT: 1 on words.
        state: For ELMo, what the sentences that follow these start from.
    """

    layers: tuple[Tensor, ...]
    mask_BT: Tensor
    state: ElmoState | None = None


class ContextualEncoder(ABC):
    """What ELMo and CoVe share: batches, a choice among the layers, the mean over words.

    Args:
        model: Turns sentences into layers.
        name: What to call the encoder in messages and reports.
        pooling: "mean", or "mean_layerN" for one layer alone.
        layers: How many there are.
        split: Text to words, for ``encode``.
        precision: Of the matrix products.

    Raises:
        ValueError: There is no such pooling.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        pooling: str | None,
        layers: int,
        split: Callable[[str], list[str]] = split_words,
        precision: Precision = "float32",
    ) -> None:
        poolings = ["mean", *(f"mean_layer{number}" for number in range(layers))]
        if pooling is not None and pooling not in poolings:
            raise ValueError(f"{name!r}: pooling {pooling!r} is not to be had; choose one of {', '.join(poolings)}")
        self._model = model
        self._split = split
        self.name = name
        self.pooling = pooling or "mean"
        self.layer = None if self.pooling == "mean" else int(self.pooling.removeprefix("mean_layer"))
        self.precision = check_precision(precision)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self._model.parameters()).device
        return device

    @property
    @abstractmethod
    def dimension(self) -> int:
        """D, the width of the rows of ``encode`` and ``embed``."""

    @abstractmethod
    def word_layers(self, sentences: Sequence[Sequence[str]]) -> WordLayers:
        """All layers of tokenised sentences, as one batch, each sentence by itself (stateless).

        Raises:
            ValueError: There is no sentence, or a token is empty.
        """

    @abstractmethod
    def chosen(self, layers: Sequence[Tensor]) -> Tensor:
        """(B, T, D): what ``pooling`` takes of the layers."""

    def redraw(self) -> None:
        """Draws every trainable weight anew by the constructor's rules: an untrained control; word vectors stay."""
        fresh = type(self._model)(self._model.config)
        frozen = {name for name, parameter in self._model.named_parameters() if not parameter.requires_grad}
        state = {name: value for name, value in fresh.state_dict().items() if name not in frozen}
        self._model.load_state_dict(state, strict=False)

    def embed(self, sentences: Sequence[Sequence[str]], *, batch_size: int = 64) -> list[FloatArray]:
        """One (T, D) float32 array a tokenised sentence; a sentence's rows do not depend on the others.

        Raises:
            ValueError: ``batch_size`` is below 1, or a token is empty.
        """
        rows: list[FloatArray] = [np.zeros((0, self.dimension), dtype=np.float32) for _ in sentences]
        for numbers, found in self._batches(sentences, batch_size=batch_size):
            for row, number in zip(self.chosen(found.layers).float().cpu().numpy(), numbers, strict=True):
                rows[number] = row[: len(sentences[number])].copy()
        return rows

    def embed_layers(self, sentences: Sequence[Sequence[str]], *, batch_size: int = 64) -> list[list[FloatArray]]:
        """All layers of each sentence, (T, D) each."""
        rows: list[list[FloatArray]] = [[] for _ in sentences]
        for numbers, found in self._batches(sentences, batch_size=batch_size):
            layers = [layer.float().cpu().numpy() for layer in found.layers]
            for place, number in enumerate(numbers):
                rows[number] = [layer[place, : len(sentences[number])].copy() for layer in layers]
        return rows

    def encode(self, sentences: str | Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        """(N, D) float32 rows, the means over words; (D,) for one string; zeros for a sentence without words.

        Raises:
            ValueError: An item is not a string, or ``batch_size`` is below 1.
        """
        texts = as_texts(sentences, batch_size=batch_size)
        words = [self._split(text) for text in texts]
        row_ND = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for numbers, found in self._batches(words, batch_size=batch_size):
            mask_BT1 = found.mask_BT.unsqueeze(-1).float()
            mean_BD = (self.chosen(found.layers).float() * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1).clamp(min=1)
            row_ND[numbers] = mean_BD.cpu().numpy()
        if normalize:
            norm_N1 = np.linalg.norm(row_ND, axis=1, keepdims=True)
            row_ND /= np.where(norm_N1 == 0, 1, norm_N1)
        row: FloatArray = row_ND[0] if isinstance(sentences, str) else row_ND
        return row

    def _batches(
        self, sentences: Sequence[Sequence[str]], *, batch_size: int
    ) -> Iterator[tuple[list[int], WordLayers]]:
        """Sentences that have words, the longest first, with their numbers."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        check_word_lists(sentences)
        order = sorted((n for n, words in enumerate(sentences) if words), key=lambda n: -len(sentences[n]))
        with evaluating([self._model]), torch.inference_mode(), autocast(self.device, precision=self.precision):
            for first in range(0, len(order), batch_size):
                numbers = order[first : first + batch_size]
                yield numbers, self.word_layers([sentences[n] for n in numbers])


class ElmoEncoder(ContextualEncoder):
    """Words and sentences by an ``ElmoModel``. Under "mean" a word is the mean of all its layers.

    Source: Peters et al. 2018; the mean of the layers is the mixture that a task starts from (w = 0, γ = 1).
    """

    def __init__(
        self,
        model: ElmoModel,
        *,
        name: str = "",
        pooling: str | None = None,
        split: Callable[[str], list[str]] = split_words,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(model, name=name, pooling=pooling, layers=model.layers, split=split, precision=precision)
        self._elmo = model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Located,
        *,
        pooling: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> ElmoEncoder:
        """Loads a run folder (its ``best/``), a checkpoint folder, or the original release.

        Raises:
            ValueError: The folder is none of them, or damaged; or there is no such pooling.
        """
        located = locate(name_or_path).expect("elmo", "elmo_release")
        is_release, folder = located.kind == "elmo_release", located.folder
        model = ElmoModel.from_original(folder) if is_release else load_own(ElmoModel, folder)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, name=located.name, pooling=pooling, precision=precision)

    @property
    def dimension(self) -> int:
        """2P."""
        return self._elmo.width

    def word_layers(self, sentences: Sequence[Sequence[str]]) -> WordLayers:
        """All layers, each sentence by itself: the same text always gets the same vectors."""
        return self.word_layers_after(sentences, state=None)

    def word_layers_after(self, sentences: Sequence[Sequence[str]], *, state: ElmoState | None) -> WordLayers:
        """All layers of sentences that follow others: row i goes on where row i of the batch before ended.

        The original implementation always carries its state, so that a text's vectors depend on what was fed before;
        here that is asked for, and the state is the caller's.

        Args:
            sentences: As many as in the batch before.
            state: What the batch before returned; ``None`` for the first.

        Raises:
            ValueError: There is no sentence, a token is empty, or the state is of another number of sentences.
        """
        if state is not None and len(state["forward"][0].hidden_BP) != len(sentences):
            raise ValueError(f"{len(sentences)} sentences cannot follow {len(state['forward'][0].hidden_BP)}")
        ids_BTC = character_ids(sentences, length=self._elmo.config.max_characters, marks=True)
        with evaluating([self._elmo]), torch.inference_mode():
            output = self._elmo(torch.from_numpy(ids_BTC).to(self.device), state=state)
        length_B = torch.tensor([len(words) for words in sentences], device=self.device)
        mask_BT = (torch.arange(ids_BTC.shape[1] - 2, device=self.device)[None] < length_B[:, None]).long()
        # Without the two marks: the last one of a shorter sentence stands where its padding begins.
        layers = tuple(layer[:, 1:-1] * mask_BT.unsqueeze(-1) for layer in output.hidden_states)
        return WordLayers(layers, mask_BT, output.state)

    def chosen(self, layers: Sequence[Tensor]) -> Tensor:
        """The mean of the layers, or the one that the pooling names."""
        return torch.stack(list(layers)).mean(dim=0) if self.layer is None else layers[self.layer]


class CoveEncoder(ContextualEncoder):
    """Words and sentences by a ``CoveModel``.

    Under "mean" a word is its static vector beside the last layer's, [GloVe; CoVe], the published use; "mean_layer0"
    is the static vector alone, the last "mean_layerN" CoVe alone.
    """

    def __init__(
        self,
        model: CoveModel,
        words: Vocab,
        *,
        name: str = "",
        pooling: str | None = None,
        split: Callable[[str], list[str]] = split_words,
        precision: Precision = "float32",
    ) -> None:
        layers = int(model.config.layers) + 1
        super().__init__(model, name=name, pooling=pooling, layers=layers, split=split, precision=precision)
        self._cove, self.words = model, words

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Located,
        *,
        pooling: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> CoveEncoder:
        """Loads a run folder (its ``best/``) or a checkpoint folder.

        Raises:
            ValueError: The folder is neither, or damaged; or there is no such pooling.
        """
        located = locate(name_or_path).expect("cove")
        model, words = load_cove(located.folder)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, words, name=located.name, pooling=pooling, precision=precision)

    @property
    def dimension(self) -> int:
        """Of the static vectors and the last layer together, or of the one layer that the pooling names."""
        vectors = int(self._cove.config.vector_dim)
        return {None: vectors + self._cove.width, 0: vectors}.get(self.layer, self._cove.width)

    def word_layers(self, sentences: Sequence[Sequence[str]]) -> WordLayers:
        """The static vectors and all layers; unknown words are zeros."""
        if not sentences or not all(sentences):
            raise ValueError("every sentence needs a word")
        length_B = torch.tensor([len(words) for words in sentences])
        id_BT = torch.zeros(len(sentences), int(length_B.max()), dtype=torch.long)
        for row, words in zip(id_BT, sentences, strict=True):
            row[: len(words)] = torch.from_numpy(self.words.ids(words))
        mask_BT = (torch.arange(id_BT.shape[1])[None] < length_B[:, None]).long().to(self.device)
        output = self._cove(id_BT.to(self.device), mask_BT)
        return WordLayers(tuple(output.hidden_states), mask_BT)

    def chosen(self, layers: Sequence[Tensor]) -> Tensor:
        """The static vectors beside the last layer, or the one layer that the pooling names."""
        return torch.cat([layers[0], layers[-1]], dim=-1) if self.layer is None else layers[self.layer]
