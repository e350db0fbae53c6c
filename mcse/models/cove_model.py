"""``CoveModel``: frozen word vectors read by the encoder of a translation model, as a Hugging Face model.

B sentences, T tokens, D width of the word vectors, H width of one direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from mcse.models.text_loading import quiet_transformers
from mcse.models.weights import load_own
from mcse.nn.ragged import pack_rows, unpack_rows
from mcse.text.vocab import SPECIALS, Vocab
from mcse.text.word_vectors import WordVectors

_VOCAB = "vocab.json"
_RELEASED = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class CoveConfig(PretrainedConfig):
    """Sizes; the defaults are those of the published encoder on GloVe. ``dropout`` acts in training."""

    model_type = "mcse_cove"

    def __init__(
        self,
        *,
        words: int = 2_196_021,
        vector_dim: int = 300,
        hidden_dim: int = 300,
        layers: int = 2,
        dropout: float = 0.2,
        **others: Any,
    ) -> None:
        self.words, self.vector_dim, self.hidden_dim = words, vector_dim, hidden_dim
        self.layers, self.dropout = layers, dropout
        super().__init__(**others)


@dataclass
class CoveOutput(ModelOutput):
    """What ``CoveModel`` gives.

    Attributes:
        last_hidden_state: (B, T, 2H), zeros where there is no token.
        hidden_states: (B, T, D) word vectors, then (B, T, 2H) of every layer.
        final_states: For each layer the pair of (B, 2H) hidden states and cells at the ends of both directions.
        attention_mask: (B, T).
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    final_states: tuple[tuple[Tensor, Tensor], ...] | None = None
    attention_mask: Tensor | None = None


class CoveModel(PreTrainedModel):
    """MT-LSTM: layers of bidirectional LSTMs over word vectors that are never trained; unknown words are zeros.

    Source: McCann, Bradbury, Xiong and Socher 2017, "Learned in Translation: Contextualized Word Vectors", NIPS.
    """

    config_class = CoveConfig
    base_model_prefix = "cove"
    main_input_name = "input_ids"

    def __init__(self, config: CoveConfig) -> None:
        super().__init__(config)
        self.vectors = nn.Embedding(config.words, config.vector_dim)
        self.vectors.weight.requires_grad_(False).zero_()
        widths = [config.vector_dim, *[2 * config.hidden_dim] * (config.layers - 1)]
        self.readers = nn.ModuleList(
            nn.LSTM(width, config.hidden_dim, batch_first=True, bidirectional=True) for width in widths
        )
        for parameter in self.readers.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    @property
    def width(self) -> int:
        """2H."""
        return 2 * int(self.config.hidden_dim)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, length_B: NDArray[np.int64] | None = None
    ) -> CoveOutput:
        """Vectors of every word.

        Args:
            input_ids: (B, T) numbers of words; every sentence has at least one.
            attention_mask: (B, T), 1 on words, which stand on the left.
            length_B: Words a sentence, where the host knows them; else they are counted, for which it waits for a GPU.
        """
        if length_B is None:
            length_B = attention_mask.sum(dim=1).cpu().numpy()
        vector_BTD = self.vectors(input_ids)
        hidden, finals, input_BTD = [vector_BTD], [], self.dropout(vector_BTD)
        for reader in self.readers:
            output, (last_2BH, cell_2BH) = reader(pack_rows(input_BTD, length_B))
            output_BTD = unpack_rows(output, width=input_ids.shape[1])
            hidden.append(output_BTD)
            finals.append((_joined(last_2BH), _joined(cell_2BH)))
            input_BTD = self.dropout(output_BTD)
        return CoveOutput(
            last_hidden_state=hidden[-1],
            hidden_states=tuple(hidden),
            final_states=tuple(finals),
            attention_mask=attention_mask,
        )

    @classmethod
    def from_vectors(cls, vectors: WordVectors, *, hidden_dim: int, layers: int = 2, dropout: float = 0.2) -> CoveModel:
        """A model that is still to be trained, over these words and the specials of a ``Vocab``; these are zeros."""
        words = vocab_of(vectors)
        config = CoveConfig(
            words=len(words), vector_dim=vectors.width, hidden_dim=hidden_dim, layers=layers, dropout=dropout
        )
        model: CoveModel = cls(config)
        rows = [vectors.index[word] for word in words.words[len(SPECIALS) :]]
        with torch.no_grad():
            model.vectors.weight[len(SPECIALS) :] = torch.from_numpy(vectors.row_VD[rows])
        return model

    @classmethod
    def from_released(cls, weights: str | Path, vectors: WordVectors) -> CoveModel:
        """The published encoder's weights, over the given word vectors, in evaluation mode.

        Both layouts are read: ``rnn.weight_ih_l0`` and ``_l1`` for two layers in one, and ``rnn0.…``, ``rnn1.…``,
        whose names both end in ``_l0``.

        Args:
            weights: A PyTorch file of tensors; nothing else in it is read.
            vectors: GloVe 840B, 300 wide, for the published weights, which take words as
                ``vocab_of(vectors, lower_case=True)`` numbers them.

        Raises:
            ValueError: The file holds no such weights, or they are for vectors of another width.
        """
        try:
            state: Mapping[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
            layers = _released_layers(state)
            hidden_dim = layers[0]["weight_hh_l0"].shape[1]
            model = cls.from_vectors(vectors, hidden_dim=hidden_dim, layers=len(layers))
            for reader, tensors in zip(model.readers, layers, strict=True):
                reader.load_state_dict(tensors)
        except (OSError, RuntimeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"{weights}: no weights of a CoVe encoder on {vectors.width}-d vectors: {error}") from None
        model.eval()
        return model

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the constructor has drawn the initial values."""


def vocab_of(vectors: WordVectors, *, lower_case: bool = False) -> Vocab:
    """The words of the vectors after a vocabulary's specials.

    Args:
        vectors: Cased or not.
        lower_case: Text is lower-cased before it is looked up, as it was for the published weights although their
            vectors are cased; always so where the vectors have no capitals.
    """
    words = [word for word in vectors.words if word not in SPECIALS]
    has_capitals = any(word != word.lower() for word in words)
    return Vocab((*SPECIALS, *words), lower_case=lower_case or not has_capitals)


def save_cove(folder: Path, model: CoveModel, words: Vocab) -> None:
    """Writes ``config.json``, ``model.safetensors`` (the word vectors too) and the words."""
    with quiet_transformers():
        model.save_pretrained(folder)
    words.save(folder / _VOCAB)


def load_cove(folder: Path) -> tuple[CoveModel, Vocab]:
    """Reads what ``save_cove`` wrote, on the CPU, in evaluation mode.

    Raises:
        ValueError: Files are missing or damaged, or weights are missing in them.
    """
    model, words = load_own(CoveModel, folder), Vocab.load(folder / _VOCAB)
    if model.config.words != len(words):
        raise ValueError(f"{folder}: config.json and {_VOCAB} do not fit one another")
    return model, words


def _joined(state_2BH: Tensor) -> Tensor:
    """(B, 2H): both directions' ends side by side."""
    return torch.cat([state_2BH[0], state_2BH[1]], dim=-1)


def _released_layers(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Each layer's tensors under the names of a single layer."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        if not name.startswith(_RELEASED):
            continue
        kind, _, rest = name.rpartition("_l")
        number, _, way = rest.partition("_")
        layers.setdefault(f"{number} {module}", {})[f"{kind}_l0{'_' + way if way else ''}"] = value
    if not layers:
        raise KeyError(f"no recurrent layer among {', '.join(list(state)[:5])}")
    return [layers[key] for key in sorted(layers)]
