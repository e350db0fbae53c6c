"""The masked language model: logits of masked tokens alone, packed or not; word pieces learned from a text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from mcse.models.config import ScratchConfig
from mcse.models.masked_model import MaskedLanguageModel
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.scratch import scratch_model, train_word_pieces
from mcse.models.text_loading import load_masked_lm, text_encoder_around
from mcse.recipes.mlm.model import evaluated_nll
from mcse.types import IGNORED_LABEL, MaskedTokens, TokenBatch
from mcse.types.batches import pad_rows
from tests.fixtures.architectures import ARCHITECTURES, VOCABULARY, widen
from tests.fixtures.tiny_models import TEXTS, build_tiny_bert, build_tiny_roberta

# All that transformers has masked language models of, but for what no recipe trains: Reformer pads inside, YOSO hashes
# at random, and the tiny Nyströmformer takes whole segments alone.
KINDS = sorted(ARCHITECTURES.keys() & MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys() - {"reformer", "yoso", "nystromformer"})


def a_batch() -> MaskedTokens:
    """Four sentences of several lengths with their masked tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(10, 100, (length,), generator=generator).tolist() for length in (6, 9, 6, 3)]
    labels = [[IGNORED_LABEL] * len(row) for row in rows]
    for row, place in ((0, 2), (0, 3), (1, 8), (3, 1)):
        labels[row][place] = rows[row][place]
        rows[row][place] = 7
    return MaskedTokens(TokenBatch.padded(rows, pad_id=1), pad_rows(labels, fill=IGNORED_LABEL))


def build(kind: str, folder: Path) -> None:
    config = AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, **ARCHITECTURES[kind]})
    config.architectures = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(config)
        widen(model)
    model.tie_weights()
    model.save_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers_at_the_masked_tokens(kind: str, tmp_path: Path) -> None:
    build(kind, tmp_path / kind)
    own = AutoModelForMaskedLM.from_pretrained(tmp_path / kind).eval()
    model = load_masked_lm(str(tmp_path / kind))
    masked = MaskedLanguageModel(model, text_encoder_around(model.base_model, kind, pooling="mean")).eval()
    batch = a_batch()
    with torch.no_grad():
        rows = masked(batch)
        # Sentence by sentence, since some architectures let padding change their rows.
        expected = [
            own(input_ids=ids_T[None, :length]).logits[0][label_T[:length] != IGNORED_LABEL]
            for ids_T, label_T, length in zip(
                batch.tokens.input_ids_BT, batch.label_BT, batch.tokens.lengths(), strict=True
            )
        ]
    torch.testing.assert_close(rows.logit_MW, torch.cat(expected), rtol=1e-3, atol=1e-3)
    assert rows.label_M.tolist() == batch.label_BT[batch.label_BT != IGNORED_LABEL].tolist()
    assert {id(p) for p in masked.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("build_tiny", [build_tiny_bert, build_tiny_roberta])
def test_a_packed_batch_has_the_loss_and_gradient_of_a_padded_one(build_tiny, tmp_path: Path) -> None:
    build_tiny(tmp_path / "lm")
    found = []
    for packing in (False, True):
        model = load_masked_lm(str(tmp_path / "lm"), dropout=0.0)
        encoder = text_encoder_around(model.base_model, "lm", pooling="mean", dropout=0.0, packing=packing)
        masked = MaskedLanguageModel(model, encoder).train().double()
        rows = masked(a_batch())
        torch.nn.functional.cross_entropy(rows.logit_MW, rows.label_M).backward()
        found.append((rows.logit_MW, {name: p.grad for name, p in masked.named_parameters()}))
    (padded, gradients), (packed, packed_gradients) = found
    torch.testing.assert_close(packed, padded)
    torch.testing.assert_close(packed_gradients, gradients)


def test_the_loss_is_the_library_s(tmp_path: Path) -> None:
    folder = build_tiny_bert(tmp_path / "lm")
    model = load_masked_lm(str(folder))
    masked = MaskedLanguageModel(model, text_encoder_around(model.base_model, "lm", pooling="mean")).eval()
    batch = a_batch()
    with torch.no_grad():
        expected = AutoModelForMaskedLM.from_pretrained(folder)(
            input_ids=batch.tokens.input_ids_BT,
            attention_mask=batch.tokens.attention_mask_BT,
            labels=batch.label_BT,
        ).loss
    assert evaluated_nll(masked, batch).mean() == pytest.approx(expected.item(), rel=1e-5)


def test_an_encoder_without_a_head_gets_one_that_is_tied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = AutoModelForMaskedLM.from_pretrained(build_tiny_bert(tmp_path / "lm"))
    model.bert.save_pretrained(tmp_path / "encoder")
    with caplog.at_level("WARNING"):
        found = load_masked_lm(str(tmp_path / "encoder"))
    assert "stores no language-model head" in caplog.text
    assert "starts untrained, with an output matrix tied to the embeddings" in caplog.text
    assert found.get_output_embeddings().weight is found.get_input_embeddings().weight
    assert torch.equal(found.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_an_encoder_that_lacks_weights_of_its_own_is_refused(tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(build_tiny_bert(tmp_path / "lm"))
    state = {key: value for key, value in model.state_dict().items() if "layer.1.output.dense" not in key}
    model.save_pretrained(tmp_path / "lacking", state_dict=state)
    with pytest.raises(ValueError, match=r"lacks 2 weights that its config\.json promises, first bert\.encoder"):
        load_masked_lm(str(tmp_path / "lacking"))


# --- from nothing

SMALL = ScratchConfig(vocabulary_size=200, layers=1, width=16, heads=2, inner_width=24, positions=32)


def test_word_pieces_are_the_same_every_time_and_spell_the_text(tmp_path: Path) -> None:
    texts = [*TEXTS, "Ünïcode wörds: Straße, 犬 and 猫."]
    first, second = (train_word_pieces(lambda: iter(texts), SMALL) for _ in range(2))
    assert first.inner.get_vocab() == second.inner.get_vocab()
    assert len(first) == SMALL.vocabulary_size
    first.check(rows=len(first))
    assert first.longest == 32
    [ids] = first.ids(["The company said"])
    pieces = first.inner.convert_ids_to_tokens(ids)
    assert (pieces[0], pieces[-1]) == ("[CLS]", "[SEP]")
    assert "".join(piece.removeprefix("##") for piece in pieces[1:-1]) == "thecompanysaid"
    # Of 120 pieces 3 letters are listed; a word with another one is unknown.
    first.save(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("The company said").input_ids == ids


def test_a_model_from_nothing_has_the_sizes_asked_for() -> None:
    tokenizer = train_word_pieces(lambda: iter(TEXTS), SMALL)
    model = scratch_model(tokenizer, SMALL, dropout=0.2)
    config = model.config
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (len(tokenizer), 16, 1)
    assert (config.num_attention_heads, config.intermediate_size, config.max_position_embeddings) == (2, 24, 32)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.2)
    assert config.pad_token_id == tokenizer.pad_id
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("build_tiny", "text", "words"),
    [
        (build_tiny_bert, "onion puddle unheard", ["onion", "puddle", "unheard"]),
        (build_tiny_roberta, "onion puddle unheard", ["onion", "puddle", "unheard"]),
    ],
)
def test_pieces_say_which_word_they_go_on_with(build_tiny, text: str, words: list[str], tmp_path: Path) -> None:
    tokenizer = PieceTokenizer(AutoTokenizer.from_pretrained(build_tiny(tmp_path / "lm")))
    continues = tokenizer.continuing_pieces()
    assert continues is not None
    [ids] = tokenizer.ids([text])
    ids = ids[1:-1]
    starts = [place for place, token in enumerate(ids) if place == 0 or not continues[token]]
    groups = [ids[start:stop] for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True)]
    assert [tokenizer.inner.decode(group).strip() for group in groups] == words
    assert any(len(group) > 1 for group in groups)
