"""``ElmoModel``: characters to contextual word vectors, as a Hugging Face model; also reads the original release.

B sentences, T tokens, C characters a word, W different words, P projected width of one direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from mcse.manifest import ELMO_OPTIONS, ELMO_WEIGHTS
from mcse.nn.charcnn import CharCNN, grouped_words, look_up
from mcse.nn.projected_lstm import LSTMState, ProjectedLSTM
from mcse.reading import read_json
from mcse.text.characters import CHARACTERS, MAX_CHARACTERS, PAD_CHARACTER

Direction: TypeAlias = Literal["forward", "backward"]
DIRECTIONS: tuple[Direction, Direction] = ("forward", "backward")
ElmoState: TypeAlias = dict[Direction, tuple[LSTMState, ...]]
"""Where the sentences' streams stand, layer by layer of each direction."""

_PUBLISHED_FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))


class ElmoConfig(PretrainedConfig):
    """Sizes of an ELMo; the defaults are those of the published 93.6M model.

    ``filters`` are (width, number) pairs. ``cell_clip`` and ``projection_clip`` may be ``None``. ``dropout`` acts on
    the input of every layer and on the last output, in training.
    """

    model_type = "mcse_elmo"

    def __init__(
        self,
        *,
        characters: int = CHARACTERS,
        character_dim: int = 16,
        max_characters: int = MAX_CHARACTERS,
        filters: Sequence[Sequence[int]] = _PUBLISHED_FILTERS,
        highway_layers: int = 2,
        activation: str = "relu",
        cell_dim: int = 4096,
        projection_dim: int = 512,
        layers: int = 2,
        cell_clip: float | None = 3.0,
        projection_clip: float | None = 3.0,
        skip_connections: bool = True,
        dropout: float = 0.1,
        **others: Any,
    ) -> None:
        self.characters, self.character_dim, self.max_characters = characters, character_dim, max_characters
        self.filters = [[int(width), int(count)] for width, count in filters]
        self.highway_layers, self.activation = highway_layers, activation
        self.cell_dim, self.projection_dim, self.layers = cell_dim, projection_dim, layers
        self.cell_clip, self.projection_clip = cell_clip, projection_clip
        self.skip_connections, self.dropout = skip_connections, dropout
        super().__init__(**others)


@dataclass
class ElmoOutput(ModelOutput):
    """What ``ElmoModel`` gives.

    Attributes:
        last_hidden_state: (B, T, 2P), the top layer, forward beside backward; zeros where there is no token.
        hidden_states: All layers; the first is the word's own vector, twice.
        attention_mask: (B, T), 1 on tokens.
        state: To be given with the sentences that follow these.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attention_mask: Tensor | None = None
    state: ElmoState | None = None


class ElmoModel(PreTrainedModel):
    """A two-way language model without its softmax.

    Source: Peters et al. 2018, "Deep contextualized word representations", NAACL; the released weights' exact cell.
    """

    config_class = ElmoConfig
    base_model_prefix = "elmo"
    main_input_name = "character_ids"

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.words = CharCNN(
            characters=config.characters,
            character_dim=config.character_dim,
            filters=[(width, count) for width, count in config.filters],
            highway_layers=config.highway_layers,
            out_dim=config.projection_dim,
            pad_id=PAD_CHARACTER,
            activation=config.activation,
        )
        # Not keyed by direction alone: a module's "forward" is taken.
        self.readers = nn.ModuleDict({f"{direction}_reader": self._reader(config) for direction in DIRECTIONS})
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    @classmethod
    def from_original(cls, folder: str | Path) -> ElmoModel:
        """Reads the original release, ``options.json`` beside ``*weights.hdf5``, in evaluation mode.

        Raises:
            ValueError: A file is missing or damaged, or the weights have other shapes than the options say.
        """
        options, weights = original_files(Path(folder))
        model: ElmoModel = cls(_original_config(options))
        try:
            with h5py.File(weights, "r") as file, torch.no_grad():
                _fill(model, file)
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(f"{weights}: no weights of the model that {options} describes: {error}") from None
        model.eval()
        return model

    @property
    def width(self) -> int:
        """2P."""
        return 2 * int(self.config.projection_dim)

    @property
    def layers(self) -> int:
        """How many vectors a word has: its own, and one a recurrent layer."""
        return int(self.config.layers) + 1

    def reader(self, direction: Direction) -> nn.ModuleList:
        """The recurrent layers of one direction."""
        return cast(nn.ModuleList, self.readers[f"{direction}_reader"])

    def forward(
        self,
        character_ids: Tensor,
        attention_mask: Tensor | None = None,
        state: ElmoState | None = None,
    ) -> ElmoOutput:
        """Vectors of every word; the marks of a sentence's begin and end are words like others.

        Args:
            character_ids: (B, T, C), 0 where there is no word.
            attention_mask: (B, T); by default 1 where there are characters.
            state: Of the sentences before these, in the same order; by default every sentence begins anew.
        """
        mask_BT = (character_ids > 0).any(dim=-1) if attention_mask is None else attention_mask.bool()
        word_BTP = self.word_rows(character_ids) * mask_BT.unsqueeze(-1)
        layers, after = {}, {}
        for direction in DIRECTIONS:
            flips = direction == "backward"
            input_BTP, ordered_BT = (word_BTP.flip(1), mask_BT.flip(1)) if flips else (word_BTP, mask_BT)
            before = None if state is None else state[direction]
            read, after[direction] = self.read(direction, input_BTP, mask_BT=ordered_BT, state=before)
            layers[direction] = [layer.flip(1) if flips else layer for layer in read]
        hidden = tuple(torch.cat(pair, dim=-1) for pair in zip(*layers.values(), strict=True))
        hidden = (torch.cat([word_BTP, word_BTP], dim=-1), *hidden)
        return ElmoOutput(
            last_hidden_state=hidden[-1], hidden_states=hidden, attention_mask=mask_BT.long(), state=after
        )

    def word_rows(self, character_BTC: Tensor) -> Tensor:
        """(B, T, P): words' own vectors; a word that is there twice is computed once."""
        character_WC, word_BT = grouped_words(character_BTC)
        return look_up(self.words(character_WC), word_BT)

    def read(
        self,
        direction: Direction,
        word_BTP: Tensor,
        *,
        mask_BT: Tensor | None = None,
        state: tuple[LSTMState, ...] | None = None,
        fresh_BT: Tensor | None = None,
    ) -> tuple[list[Tensor], tuple[LSTMState, ...]]:
        """Outputs (B, T, P) of each layer of one direction, and the states afterwards.

        Args:
            direction: Which reader.
            word_BTP: Words' own vectors in the order in which this direction reads them.
            mask_BT: 1 on words; all are, by default.
            state: Of each layer; zeros by default.
            fresh_BT: True on words before which the state is set to zero; none by default.
        """
        input_BTP, outputs, after = self.dropout(word_BTP), [], []
        for number, layer in enumerate(self.reader(direction)):
            output_BTP, end = layer(input_BTP, mask_BT, None if state is None else state[number], fresh_BT=fresh_BT)
            # The first layer's input is the word itself, which the released models do not add.
            if number and self.config.skip_connections:
                output_BTP = output_BTP + input_BTP
            input_BTP = self.dropout(output_BTP)
            outputs.append(input_BTP)
            after.append(end)
        return outputs, tuple(after)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every block has drawn its own initial values."""

    @staticmethod
    def _reader(config: ElmoConfig) -> nn.ModuleList:
        return nn.ModuleList(
            ProjectedLSTM(
                config.projection_dim,
                config.cell_dim,
                config.projection_dim,
                cell_clip=config.cell_clip,
                projection_clip=config.projection_clip,
            )
            for _ in range(config.layers)
        )


def original_files(folder: Path) -> tuple[Path, Path]:
    """``options.json`` and the weights' file.

    Raises:
        ValueError: They are not there, or there are several files of weights.
    """
    options, weights = folder / ELMO_OPTIONS, sorted(folder.glob(ELMO_WEIGHTS))
    if not options.is_file() or len(weights) != 1:
        found = ", ".join(path.name for path in weights) or "none"
        raise ValueError(
            f"{folder}: an ELMo release holds {ELMO_OPTIONS} and one {ELMO_WEIGHTS}, found {found} of these"
        )
    return options, weights[0]


def _original_config(path: Path) -> ElmoConfig:
    try:
        options = read_json(path, dict[str, Any])
        lstm, words = options["lstm"], options["char_cnn"]
        return ElmoConfig(
            character_dim=words["embedding"]["dim"],
            max_characters=words["max_characters_per_token"],
            filters=words["filters"],
            highway_layers=words["n_highway"],
            activation=words["activation"],
            cell_dim=lstm["dim"],
            projection_dim=lstm["projection_dim"],
            layers=lstm["n_layers"],
            cell_clip=lstm.get("cell_clip"),
            projection_clip=lstm.get("proj_clip"),
            skip_connections=lstm["use_skip_connections"],
            dropout=options.get("dropout", 0.0),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no options of an ELMo release ({error!r})") from None


def _fill(model: ElmoModel, file: Any) -> None:
    """Copies the release's arrays; matrices stand there as (in, out), and characters without the mask's row."""
    _copy(model.words.embedding.weight[1:], file["char_embed"][...])
    for number, convolution in enumerate(model.words.convolutions):
        _copy(convolution.weight, file[f"CNN/W_cnn_{number}"][0].transpose(2, 1, 0))
        _copy(convolution.bias, file[f"CNN/b_cnn_{number}"][...])
    highway = model.words.highway
    for number, (gate, mapped) in enumerate(zip(highway.gates, highway.maps, strict=True)):
        group = file[f"CNN_high_{number}"]
        for linear, name in ((gate, "carry"), (mapped, "transform")):
            _copy(linear.weight, group[f"W_{name}"][...].T)
            _copy(linear.bias, group[f"b_{name}"][...])
    _copy(model.words.projection.weight, file["CNN_proj/W_proj"][...].T)
    _copy(model.words.projection.bias, file["CNN_proj/b_proj"][...])
    for place, direction in enumerate(DIRECTIONS):
        for number, layer in enumerate(cast(Sequence[ProjectedLSTM], model.reader(direction))):
            group = file[f"RNN_{place}/RNN/MultiRNNCell/Cell{number}/LSTMCell"]
            input_width = layer.input.in_features
            weight = group["W_0"][...]
            _copy(layer.input.weight, weight[:input_width].T)
            _copy(layer.recurrent.weight, weight[input_width:].T)
            _copy(layer.input.bias, group["B"][...])
            _copy(layer.projection.weight, group["W_P_0"][...].T)


def _copy(parameter: Any, array: Any) -> None:
    if tuple(parameter.shape) != array.shape:
        raise RuntimeError(f"a matrix of shape {tuple(parameter.shape)} was expected, found {array.shape}")
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
