"""Contextual word vectors as encoders: each word's own vectors, and a sentence by the mean of its words.

B sentences of one batch, T tokens, D width of one layer or of several side by side.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from mcse.encoders.base import BaseEncoder
from mcse.encoders.inputs import Precision, autocast, check_word_lists, evaluating, in_batches
from mcse.manifest import Located
from mcse.models.cove_model import CoveModel, load_cove
from mcse.models.elmo_model import ElmoModel, ElmoState
from mcse.models.weights import load_own
from mcse.text.characters import character_ids
from mcse.text.vocab import Vocab, split_words
from mcse.types import FloatArray, TokenBatch, to_device


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


class ContextualEncoder(BaseEncoder[list[str]]):
    """What ELMo and CoVe share: batches of words, a choice among the layers, the mean over words.

    Args:
        model: Turns sentences into layers.
        name: As for every encoder.
        pooling: "mean", or "mean_layerN" for one layer alone.
        split: Text to words, for ``encode``.
        precision: As for every encoder.

    Raises:
        ValueError: There is no such pooling.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str = "",
        pooling: str | None = None,
        split: Callable[[str], list[str]] = split_words,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(name=name, precision=precision)
        self._model, self._split = model, split
        poolings = ["mean", *(f"mean_layer{number}" for number in range(self.layers))]
        if pooling is not None and pooling not in poolings:
            raise ValueError(f"{name!r}: pooling {pooling!r} is not available; choose one of {', '.join(poolings)}")
        self.pooling = pooling or "mean"
        self.layer = None if self.pooling == "mean" else int(self.pooling.removeprefix("mean_layer"))

    @property
    @abstractmethod
    def layers(self) -> int:
        """How many there are, the words' own counted."""

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
        """One (T, D) float32 array a tokenised sentence; which does not depend on the other sentences.

        Raises:
            ValueError: ``batch_size`` is below 1, or a token is empty.
        """
        empty = np.zeros((0, self.dimension), dtype=np.float32)
        found = self._by_layer(sentences, lambda layers: [self.chosen(layers)], batch_size=batch_size)
        return [layers[0] if layers else empty for layers in found]

    def embed_layers(self, sentences: Sequence[Sequence[str]], *, batch_size: int = 64) -> list[list[FloatArray]]:
        """All layers of each sentence, (T, D) each."""
        return self._by_layer(sentences, list, batch_size=batch_size)

    def _modules(self) -> list[nn.Module]:
        return [self._model]

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[list[str]]:
        return [self._split(text)[:max_length] for text in texts]

    def _forward(self, tokens: Sequence[list[str]]) -> Tensor:
        """Means over words."""
        found = self.word_layers(tokens)
        mask_BT1 = found.mask_BT.unsqueeze(-1).float()
        return (self.chosen(found.layers).float() * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1).clamp(min=1)

    def _by_layer(
        self,
        sentences: Sequence[Sequence[str]],
        choose: Callable[[Sequence[Tensor]], list[Tensor]],
        *,
        batch_size: int,
    ) -> list[list[FloatArray]]:
        """(T, D) of each sentence by each of the layers that ``choose`` makes of all; none of one without words."""
        check_word_lists(sentences)

        def work(numbers: list[int]) -> list[list[FloatArray]]:
            found = self.word_layers([sentences[number] for number in numbers])
            layers = [layer.float().cpu().numpy() for layer in choose(found.layers)]
            return [[layer[row, : len(sentences[n])].copy() for layer in layers] for row, n in enumerate(numbers)]

        with evaluating([self._model]), torch.inference_mode(), autocast(self.device, precision=self.precision):
            return in_batches(map(len, sentences), work, batch_size=batch_size, empty=[])


class ElmoEncoder(ContextualEncoder):
    """Words and sentences by an ``ElmoModel``. Under "mean" a word is the mean of all its layers.

    Source: Peters et al. 2018; the mean of the layers is the mixture that a task starts from (w = 0, γ = 1).
    """

    _model: ElmoModel

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        folder = located.expect("elmo", "elmo_release").folder
        is_release = located.kind == "elmo_release"
        model = ElmoModel.from_original(folder) if is_release else load_own(ElmoModel, folder)
        return cls(model, name=located.name, pooling=pooling, precision=precision)

    @property
    def layers(self) -> int:
        """The words' own, and one an LSTM."""
        return self._model.layers

    @property
    def dimension(self) -> int:
        """2P."""
        return self._model.width

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
        ids_BTC = character_ids(sentences, length=self._model.config.max_characters, marks=True)
        with evaluating([self._model]), torch.inference_mode():
            output = self._model(torch.from_numpy(ids_BTC).to(self.device), state=state)
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

    _model: CoveModel

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
        super().__init__(model, name=name, pooling=pooling, split=split, precision=precision)
        self.words = words

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        model, words = load_cove(located.expect("cove").folder)
        return cls(model, words, name=located.name, pooling=pooling, precision=precision)

    @property
    def layers(self) -> int:
        """The static vectors, and one an LSTM."""
        return int(self._model.config.layers) + 1

    @property
    def dimension(self) -> int:
        """Of the static vectors and the last layer together, or of the one layer that the pooling names."""
        vectors = int(self._model.config.vector_dim)
        return {None: vectors + self._model.width, 0: vectors}.get(self.layer, self._model.width)

    def word_layers(self, sentences: Sequence[Sequence[str]]) -> WordLayers:
        """The static vectors and all layers; unknown words are zeros."""
        if not sentences or not all(sentences):
            raise ValueError("every sentence needs a word")
        batch = to_device(TokenBatch.padded([self.words.ids(words) for words in sentences]), self.device)
        output = self._model(batch.input_ids_BT, batch.attention_mask_BT)
        return WordLayers(tuple(output.hidden_states), batch.attention_mask_BT)

    def chosen(self, layers: Sequence[Tensor]) -> Tensor:
        """The static vectors beside the last layer, or the one layer that the pooling names."""
        return torch.cat([layers[0], layers[-1]], dim=-1) if self.layer is None else layers[self.layer]
