"""Trainable models behind grounded word vectors: language models and matching on a shared map, or image regression.

B captions of a process, T tokens, V vocabulary, D text width, C grounded width, F image feature width, H width of the
regression's LSTM, M predicted tokens, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcse.models.config import MapStart, RegressionConfig, TasksConfig
from mcse.nn.heads import TanhHead
from mcse.types import MatchBatch, PairBatch, TokenBatch
from mcse.types.batches import from_host

DIRECTIONS = ("forward_lm", "backward_lm")


@dataclass(frozen=True, slots=True)
class TokenPredictions:
    """Logits and the words that were there, of every real token that is predicted."""

    logit_MV: Tensor
    label_M: Tensor


@dataclass(frozen=True, slots=True)
class GroundedWordRows:
    """What the losses need: each direction's predictions, the matches, and the words' vectors now and at the start."""

    forward: TokenPredictions
    backward: TokenPredictions
    match_logit_P: Tensor
    match_label_P: Tensor
    tuned_VD: Tensor
    original_VD: Tensor


class WordTable(nn.Module):
    """Text vectors of the vocabulary: what they were, and what training makes of them.

    Args:
        text_VD: Rows of the whole vocabulary, the specials' among them.
        specials: How many rows at the top are no words; they train freely.
        trains: Whether words' rows may move.
    """

    original_VD: Tensor
    tuned_VD: Tensor

    def __init__(self, text_VD: Tensor, *, specials: int, trains: bool) -> None:
        super().__init__()
        self.specials = specials
        self.register_buffer("original_VD", text_VD.clone())
        if trains:
            self.tuned_VD = nn.Parameter(text_VD.clone())
        else:
            self.register_buffer("tuned_VD", text_VD.clone())

    def forward(self, ids_BT: Tensor) -> Tensor:
        """(B, T, D) rows of word ids."""
        return F.embedding(ids_BT, self.tuned_VD)

    def words(self) -> tuple[Tensor, Tensor]:
        """Tuned and original rows without the specials'."""
        return self.tuned_VD[self.specials :], self.original_VD[self.specials :]


class GroundedWordsModel(nn.Module):
    """Three tasks over one map M from text vectors to grounded ones: two language models and matching.

    Each task has a GRU of its own, whose first state is made of the image. The language models predict through M
    transposed, so that M must carry words into a space where the image helps, and back.

    Args:
        table: The words.
        config: Its keys of the tasks.
        image_dim: F.

    Source: Shahmohammadi, Lensch and Baayen 2021, "Learning Zero-Shot Multifaceted Visually Grounded Word Embeddings
    via Multi-Task Training", CoNLL.
    """

    def __init__(self, table: WordTable, config: TasksConfig, image_dim: int) -> None:
        super().__init__()
        vocab_size, text_width = table.tuned_VD.shape
        width = config.width
        self.table = table
        self.map_DC = start_map(text_width, width, start=config.map_start)
        tasks = (*DIRECTIONS, "match")
        count = 1 if config.share_image_layer else len(tasks)
        self.image_layers = nn.ModuleList(TanhHead(image_dim, width) for _ in range(count))
        self.grus = nn.ModuleDict({task: nn.GRU(width, width, batch_first=True) for task in tasks})
        self.dropout = nn.Dropout(config.dropout)
        self.output = None if config.tie_output else nn.Linear(text_width, vocab_size, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        self.match_layer = nn.Linear(width, 1)

    def forward(self, batch: MatchBatch) -> GroundedWordRows:
        """Predictions of the true captions, and of all pairs whether they belong together."""
        tokens, image_BF = batch.true.caption, batch.true.image_BF
        true_P, false_P = self._match(batch.true), self._match(batch.false)
        tuned_VD, original_VD = self.table.words()
        return GroundedWordRows(
            forward=self._predict("forward_lm", tokens, image_BF),
            backward=self._predict("backward_lm", reverse(tokens), image_BF),
            match_logit_P=torch.cat([true_P, false_P]),
            match_label_P=torch.cat([torch.ones_like(true_P), torch.zeros_like(false_P)]),
            tuned_VD=tuned_VD,
            original_VD=original_VD,
        )

    def _predict(self, direction: str, tokens: TokenBatch, image_BF: Tensor) -> TokenPredictions:
        """Every token but the first from those before it; padding stands behind and so reaches no real token."""
        state_BTC = self._states(direction, tokens.input_ids_BT[:, :-1], image_BF)
        target_BT = tokens.input_ids_BT[:, 1:]
        # Where a token follows: found on the host, which would wait for a GPU to count what a mask holds.
        follows_BT = np.arange(target_BT.shape[1]) < tokens.lengths()[:, None] - 1
        (place_M,) = from_host([np.flatnonzero(follows_BT)], target_BT.device)
        back_MD = self.dropout(state_BTC.flatten(0, 1)[place_M] @ self.map_DC.T)
        weight_VD = self.table.tuned_VD if self.output is None else self.output.weight
        return TokenPredictions(
            logit_MV=F.linear(back_MD, weight_VD, self.output_bias), label_M=target_BT.flatten()[place_M]
        )

    def _match(self, pairs: PairBatch) -> Tensor:
        """(B,) logits from the state after each caption's last token."""
        state_BTC = self._states("match", pairs.caption.input_ids_BT, pairs.image_BF)
        logit_B: Tensor = self.match_layer(last_states(state_BTC, pairs.caption)).squeeze(-1)
        return logit_B

    def _states(self, task: str, ids_BT: Tensor, image_BF: Tensor) -> Tensor:
        tasks = list(self.grus)
        image_layer = self.image_layers[tasks.index(task) if len(self.image_layers) > 1 else 0]
        word_BTC = self.dropout(self.table(ids_BT) @ self.map_DC)
        state_BTC: Tensor = self.grus[task](word_BTC, image_layer(image_BF)[None])[0]
        return state_BTC


@dataclass(frozen=True, slots=True)
class ImageRegression:
    """Standardised features, and what the captions say they are."""

    predicted_BF: Tensor
    image_BF: Tensor


class ImageRegressionModel(nn.Module):
    """The follow-up's simplest variant: from frozen text vectors times M, an LSTM tells the image's features.

    Args:
        table: The words, which do not train.
        config: Its keys of the regression.
        image_mean_F: Of the training images, to standardise features by.
        image_std_F: Likewise; positive.

    Source: the code of Shahmohammadi et al. 2023 ("V2"). There the LSTM's bounded state itself is the prediction of
    unbounded features; we standardise these and add a linear layer.
    """

    image_mean_F: Tensor
    image_std_F: Tensor

    def __init__(self, table: WordTable, config: RegressionConfig, image_mean_F: Tensor, image_std_F: Tensor) -> None:
        super().__init__()
        self.table = table
        self.map_DC = start_map(table.tuned_VD.shape[1], config.width, start=config.map_start)
        self.lstm = nn.LSTM(config.width, config.state_width, batch_first=True)
        self.head = nn.Linear(config.state_width, len(image_mean_F))
        self.register_buffer("image_mean_F", image_mean_F)
        self.register_buffer("image_std_F", image_std_F)

    def forward(self, batch: PairBatch) -> ImageRegression:
        """The images' features as the captions tell them."""
        state_BTH, _ = self.lstm(self.table(batch.caption.input_ids_BT) @ self.map_DC)
        return ImageRegression(
            predicted_BF=self.head(last_states(state_BTH, batch.caption)),
            image_BF=(batch.image_BF - self.image_mean_F) / self.image_std_F,
        )


def start_map(text_width: int, width: int, *, start: MapStart) -> nn.Parameter:
    """(D, C) M before training; with C at least D an orthogonal one changes no cosine."""
    map_DC = torch.empty(text_width, width)
    return nn.Parameter(nn.init.orthogonal_(map_DC) if start == "orthogonal" else nn.init.xavier_uniform_(map_DC))


def reverse(tokens: TokenBatch) -> TokenBatch:
    """Every row's real tokens from the last to the first; padding stays behind."""
    length_B1 = tokens.attention_mask_BT.sum(1, keepdim=True)
    place_T = torch.arange(tokens.input_ids_BT.shape[1], device=length_B1.device)[None]
    from_BT = torch.where(place_T < length_B1, length_B1 - 1 - place_T, place_T)
    turned = TokenBatch(tokens.input_ids_BT.gather(1, from_BT), tokens.attention_mask_BT)
    object.__setattr__(turned, "length_B", tokens.length_B)
    return turned


def last_states(state_BTC: Tensor, tokens: TokenBatch) -> Tensor:
    """(B, C) states at each row's last real token."""
    last_B = tokens.attention_mask_BT.sum(1) - 1
    return state_BTC[torch.arange(len(last_B), device=last_B.device), last_B]
