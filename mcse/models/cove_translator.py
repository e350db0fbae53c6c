"""``CoveTranslator``: the attentional decoder that trains a ``CoveModel``, and the search for translations.

B sentences, K kept translations of each, T source tokens, S target tokens, D encoder width (2H), E target word width,
V target vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mcse.models.cove_model import CoveModel, load_cove, save_cove
from mcse.models.weights import load_tensors, save_tensors
from mcse.nn.global_attention import GlobalAttention
from mcse.text.vocab import Vocab
from mcse.types import TokenBatch, TranslationBatch

_DECODER, _TARGET_WORDS = "decoder.safetensors", "target_vocab.json"


@dataclass(frozen=True, slots=True)
class DecoderState:
    """Where translations stand: each layer's hidden state and cell, and the attentional state fed back."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    fed_BD: Tensor

    def rows(self, index: Tensor) -> DecoderState:
        """The same of chosen rows."""
        return DecoderState(tuple((h[index], c[index]) for h, c in self.layers), self.fed_BD[index])


class CoveTranslator(nn.Module):
    """A decoder of as many layers as the encoder, with input feeding.

    Args:
        encoder: What is kept.
        target_words: V.
        target_dim: E.

    Source: McCann et al. 2017, section 3; the decoder starts from the encoder's last states, initial values U(-.1, .1).
    """

    def __init__(self, encoder: CoveModel, *, target_words: int, target_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.width
        self.words = nn.Embedding(target_words, target_dim)
        widths = [target_dim + width, *[width] * (encoder.config.layers - 1)]
        self.cells = nn.ModuleList(nn.LSTMCell(before, width) for before in widths)
        self.attention = GlobalAttention(width)
        self.softmax = nn.Linear(width, target_words)
        self.dropout = nn.Dropout(encoder.config.dropout)
        for part in (self.words, self.cells, self.attention, self.softmax):
            for parameter in part.parameters():
                nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, batch: TranslationBatch) -> Tensor:
        """(B, S - 1, V) logits of every target word but the first, each given those before it."""
        source_BTD, state = self.start(batch.source)
        word_BSE = self.dropout(self.words(batch.target.input_ids_BT[:, :-1]))
        outputs = []
        for word_BE in word_BSE.unbind(dim=1):
            state = self.step(word_BE, state, source_BTD, batch.source.attention_mask_BT)
            outputs.append(state.fed_BD)
        logit: Tensor = self.softmax(self.dropout(torch.stack(outputs, dim=1)))
        return logit

    def start(self, source: TokenBatch) -> tuple[Tensor, DecoderState]:
        """The encoder's outputs, and the decoder before its first word."""
        output = self.encoder(source.input_ids_BT, source.attention_mask_BT, source.lengths())
        source_BTD = self.dropout(output.last_hidden_state)
        return source_BTD, DecoderState(output.final_states, torch.zeros_like(source_BTD[:, 0]))

    def step(self, word_BE: Tensor, state: DecoderState, source_BTD: Tensor, mask_BT: Tensor) -> DecoderState:
        """After one more target word."""
        input_BD = torch.cat([word_BE, state.fed_BD], dim=-1)
        layers = []
        for number, (cell, before) in enumerate(zip(self.cells, state.layers, strict=True)):
            hidden_BD, cell_BD = cell(self.dropout(input_BD) if number else input_BD, before)
            layers.append((hidden_BD, cell_BD))
            input_BD = hidden_BD
        fed_BD, _ = self.attention(input_BD, source_BTD, mask_BT)
        return DecoderState(tuple(layers), fed_BD)

    @torch.no_grad()
    def search(self, source: TokenBatch, *, beams: int, begin: int, end: int, longest: int) -> list[list[int]]:
        """The best translation of each sentence, without marks; ``beams`` 1 is greedy.

        A translation's score is the mean log-probability of its words, the end among them; one that has not ended after
        ``longest`` words counts as it stands.

        Args:
            source: B sentences.
            beams: K, how many unfinished translations of a sentence are followed.
            begin: Number of the mark that starts a translation.
            end: Number of the mark that ends it.
            longest: Words a translation may have.
        """
        source_BTD, state = self.start(source)
        count = len(source_BTD)
        row = torch.arange(count, device=source_BTD.device).repeat_interleave(beams)
        source_BTD, mask_BT, state = source_BTD[row], source.attention_mask_BT[row], state.rows(row)
        words = torch.full((count * beams, 1), begin, device=row.device)
        # All but the first copy of a sentence start out impossible, so that the first words differ.
        sums_BK = torch.full((count, beams), -torch.inf, device=row.device, dtype=source_BTD.dtype)
        sums_BK[:, 0] = 0.0
        best: list[tuple[float, list[int]]] = [(-torch.inf, [])] * count
        for length in range(1, longest + 1):
            state = self.step(self.words(words[:, -1]), state, source_BTD, mask_BT)
            logp = torch.log_softmax(self.softmax(state.fed_BD).float(), dim=-1).to(sums_BK.dtype)
            logp[:, begin] = -torch.inf
            total_BKV = sums_BK[:, :, None] + logp.view(count, beams, -1)
            ended_BK = total_BKV[:, :, end] / length
            for number, scores in enumerate(ended_BK.tolist()):
                beam = max(range(beams), key=scores.__getitem__)
                # Greedy ends the first time that the end is the likeliest word; a search keeps what ends best.
                is_ready = beams > 1 or (best[number][0] == -torch.inf and int(logp[number].argmax()) == end)
                if is_ready and scores[beam] > best[number][0]:
                    best[number] = (scores[beam], words[number * beams + beam, 1:].tolist())
            total_BKV[:, :, end] = -torch.inf
            sums_BK, flat = total_BKV.flatten(1).topk(beams, dim=1)
            from_beam = (torch.arange(count, device=row.device)[:, None] * beams + flat // total_BKV.shape[2]).flatten()
            state = state.rows(from_beam)
            words = torch.cat([words[from_beam], (flat % total_BKV.shape[2]).view(-1, 1)], dim=1)
            if _is_over(best, sums_BK, beams=beams, longest=longest):
                break
        # What never ended counts as it stands.
        return [
            found if score > -torch.inf else words[number * beams, 1:].tolist()
            for number, (score, found) in enumerate(best)
        ]


def _is_over(best: list[tuple[float, list[int]]], sums_BK: Tensor, *, beams: int, longest: int) -> bool:
    """Whether no unfinished translation can come to score better: its sum can only fall."""
    if beams == 1:
        return all(score > -torch.inf for score, _ in best)
    return all(score >= top / longest for (score, _), top in zip(best, sums_BK[:, 0].tolist(), strict=True))


def save_translator(folder: Path, model: CoveTranslator, source_words: Vocab, target_words: Vocab) -> None:
    """Writes the encoder as ``save_cove`` does, and the decoder and the target words beside it."""
    save_cove(folder, model.encoder, source_words)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    save_tensors(folder / _DECODER, own)
    target_words.save(folder / _TARGET_WORDS)


def load_translator(folder: Path) -> tuple[CoveTranslator, Vocab, Vocab]:
    """Model, source words and target words, on the CPU, in evaluation mode.

    Raises:
        ValueError: The folder holds no CoVe with its decoder, or a file is damaged.
    """
    if not (folder / _DECODER).is_file():
        raise ValueError(f"{folder} holds no decoder ({_DECODER}), so it can embed words but not translate")
    encoder, source_words = load_cove(folder)
    target_words = Vocab.load(folder / _TARGET_WORDS)
    state = load_tensors(folder / _DECODER)
    try:
        model = CoveTranslator(encoder, target_words=len(target_words), target_dim=state["words.weight"].shape[1])
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{folder / _DECODER}: no decoder of this encoder: {error}") from None
    lacking = [name for name in missing if not name.startswith("encoder.")]
    if lacking or unexpected:
        raise ValueError(f"{folder / _DECODER}: weights do not fit: {sorted([*lacking, *unexpected])}")
    return model.eval(), source_words, target_words
