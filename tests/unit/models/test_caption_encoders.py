"""Word-level caption encoders: padding and batch order change nothing; words, marks and vectors; what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from mcse.config import build_config
from mcse.models.config import CAPTION_ENCODERS, CaptionEncoderConfig, JointConfig
from mcse.models.joint_model import build_caption_encoder, build_joint_model
from mcse.models.word_init import fill_words
from mcse.nn.bow import BowEncoder
from mcse.nn.recurrent import RecurrentEncoder
from mcse.text.vocab import Vocab, split_words
from mcse.text.word_tokenizer import WordTokenizer
from mcse.text.word_vectors import WordVectors
from mcse.types import TokenBatch

SENTENCES = ("A dog runs.", "Two men in red coats play with a dog on the beach.", "Children.")
VOCAB = Vocab.from_sentences(split_words(sentence) for sentence in SENTENCES)


def batch(ids, *, width=None):
    width = width or max(map(len, ids))
    id_BT = torch.zeros(len(ids), width, dtype=torch.long)
    mask_BT = torch.zeros(len(ids), width, dtype=torch.long)
    for i, row in enumerate(ids):
        id_BT[i, : len(row)], mask_BT[i, : len(row)] = torch.tensor(row), 1
    return TokenBatch(id_BT, mask_BT)


def encoder_of(kind, **keys):
    torch.manual_seed(0)
    config = CAPTION_ENCODERS[kind](kind=kind, word_dim=6, **keys)
    return build_caption_encoder(config, vocab_size=len(VOCAB), dim=10).double().eval()


def ids_of(*sentences):
    return WordTokenizer(VOCAB).ids(sentences)


@pytest.mark.parametrize("kind", ["lstm", "gru", "bow"])
def test_padding_and_batch_order_change_nothing(kind):
    encoder = encoder_of(kind)
    ids = ids_of(*SENTENCES)
    together = encoder(batch(ids))
    for row, alone in zip(together, ids, strict=True):
        torch.testing.assert_close(encoder(batch([alone]))[0], row, rtol=0, atol=1e-12)
        torch.testing.assert_close(encoder(batch([alone], width=30))[0], row, rtol=0, atol=1e-12)
    torch.testing.assert_close(encoder(batch(ids[::-1])), together.flip(0), rtol=0, atol=1e-12)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_row_is_the_state_after_the_last_word_by_hand(kind):
    """Cell by cell, with PyTorch's single-step cells and the same weights."""
    encoder = encoder_of(kind)
    layers = encoder.layers
    cell = (nn.LSTMCell if kind == "lstm" else nn.GRUCell)(6, 10).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layers.state_dict().items()})
    (ids,) = ids_of(SENTENCES[1])
    state = torch.zeros(1, 10, dtype=torch.float64)
    memory = state.clone()
    for word in ids:
        row = encoder.embedding.weight[word][None]
        if kind == "lstm":
            state, memory = cell(row, (state, memory))
        else:
            state = cell(row, state)
    torch.testing.assert_close(encoder(batch([ids])), state, rtol=0, atol=1e-12)


def test_a_gru_resets_after_the_matrix_product():
    """The reference code's convention: candidate = tanh(r * (U h) + W x)."""
    encoder = encoder_of("gru")
    weights = {name: value.detach().numpy() for name, value in encoder.layers.named_parameters()}
    (ids,) = ids_of("Two men play")
    h = np.zeros(10)
    for word in ids:
        x = encoder.embedding.weight[word].detach().numpy()
        of_x, of_h = weights["weight_ih_l0"] @ x, weights["weight_hh_l0"] @ h
        r, u = (1 / (1 + np.exp(-(of_x + of_h)[i * 10 : (i + 1) * 10])) for i in (0, 1))
        h = u * h + (1 - u) * np.tanh(of_x[20:] + r * of_h[20:])
    np.testing.assert_allclose(encoder(batch([ids]))[0].detach().numpy(), h, atol=1e-12)


def test_bow_is_the_sum_of_its_words():
    encoder = encoder_of("bow")
    (ids,) = ids_of("dog dog beach")
    weight = encoder.embedding.weight
    torch.testing.assert_close(encoder(batch([ids]))[0], 2 * weight[ids[0]] + weight[ids[2]])
    assert (encoder(batch(ids_of("zebra"))) == 0).all(), "an unknown word adds nothing"


def test_reference_initialisation():
    torch.manual_seed(0)
    for encoder in (RecurrentEncoder(50, 8, 12, cell="lstm"), RecurrentEncoder(50, 8, 12, cell="gru", layers=2)):
        for name, value in encoder.layers.named_parameters():
            if "bias" in name:
                assert (value == 0).all()
            elif "weight_hh" in name:
                for gate in value.split(12):
                    torch.testing.assert_close(gate @ gate.T, torch.eye(12), rtol=0, atol=1e-5)
            else:
                assert 0.09 < value.abs().max() <= 0.1
        assert (encoder.embedding.weight[:2] == 0).all()
        assert 0.09 < encoder.embedding.weight.abs().max() <= 0.1
    uniform = RecurrentEncoder(50, 8, 12, cell="lstm", init_range=0.08)
    for value in uniform.parameters():
        assert 0.07 < value.abs().max() <= 0.08
    assert isinstance(BowEncoder(5, 3), nn.Module)


def test_dropout_is_on_in_training_alone():
    for kind in ("lstm", "gru", "bow"):
        encoder = encoder_of(kind, dropout=0.5)
        words = batch(ids_of(*SENTENCES))
        assert torch.equal(encoder(words), encoder(words))
        encoder.train()
        assert not torch.equal(encoder(words), encoder(words))


def test_words_start_from_vectors():
    words = ("dog", "Men", "zebra")
    row_VD = np.arange(12, dtype=np.float32).reshape(3, 4)
    vectors = WordVectors(words, {word: i for i, word in enumerate(words)}, row_VD)
    embedding = nn.Embedding(len(VOCAB), 4)
    before = embedding.weight.detach().clone()
    assert fill_words(embedding, VOCAB, vectors) == 2
    dog, men = VOCAB.index["dog"], VOCAB.index["men"]
    assert embedding.weight[dog].tolist() == row_VD[0].tolist()
    assert embedding.weight[men].tolist() == row_VD[1].tolist()
    others = [row for row in range(len(VOCAB)) if row not in (dog, men)]
    assert torch.equal(embedding.weight[others], before[others])
    with pytest.raises(ValueError, match=r"encoder.word_dim: 5, but encoder.word_vectors are 4 wide"):
        fill_words(nn.Embedding(len(VOCAB), 5), VOCAB, vectors)
    none = WordVectors(("zebra",), {"zebra": 0}, row_VD[:1])
    with pytest.raises(ValueError, match="no word of the training captions has a vector"):
        fill_words(embedding, VOCAB, none)


@dataclass(frozen=True, kw_only=True)
class Given:
    encoder: CaptionEncoderConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "transformer"}, "missing key 'encoder.name_or_path'"),
        (
            {"kind": "transformer", "name_or_path": "x", "word_dim": 5},
            r"unknown key 'encoder.word_dim'; it goes with kind: lstm \| gru or kind: bow, not with kind: transformer",
        ),
        (
            {"kind": "bow", "layers": 2},
            r"unknown key 'encoder.layers'; it goes with kind: lstm \| gru, not with kind: bow",
        ),
        ({"kind": "gru", "name_or_path": "x"}, "unknown key 'encoder.name_or_path'; it goes with kind: transformer"),
        ({"kind": "lstm", "pooling": "cls"}, "unknown key 'encoder.pooling'; it goes with kind: transformer"),
        ({"kind": "rnn"}, "encoder: kind: input should be 'lstm', 'gru', 'bow' or 'transformer', got 'rnn'"),
        ({}, r"encoder: give one of kind: lstm \| gru, kind: bow or kind: transformer; got no key"),
        ({"kind": "lstm", "train_words": False}, "encoder.train_words: false would keep random words"),
        ({"kind": "lstm", "dropout": 1.0}, "encoder.dropout: must be from 0 to below 1"),
        ({"kind": "lstm", "word_dim": 0}, "encoder.word_dim: must be 1 or more, got 0"),
        ({"kind": "lstm", "init_range": 0.0}, "encoder.init_range: must be positive, got 0.0"),
    ],
)
def test_settings_that_do_nothing_or_wrong_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        build_config(Given, {"encoder": keys}, source="run.yaml")


def test_joint_heads():
    text = BowEncoder(len(VOCAB), 10)
    with pytest.raises(ValueError, match=r"joint.dim: 10 must be 7, the width of the image features"):
        build_joint_model(text, JointConfig(dim=10, image_map="none"), image_width=7)
    with pytest.raises(ValueError, match=r"joint.feature_dropout"):
        JointConfig(feature_dropout=1.5)
    plain = build_joint_model(text, JointConfig(dim=10, image_map="none", unit_features=False), image_width=10)
    assert not plain.heads()
    feature = torch.randn(3, 10)
    assert torch.equal(plain.images(feature), feature)
    mapped = build_joint_model(text, JointConfig(dim=4), image_width=7)
    assert mapped.heads().keys() == {"text_head", "image_head"}
    assert mapped.text_head.bias is None
    assert (mapped.image_head.bias == 0).all()
    # Unit features: their length does not matter.
    feature = torch.randn(3, 7)
    torch.testing.assert_close(mapped.images(feature), mapped.images(9 * feature))
    assert (
        build_joint_model(text, JointConfig(dim=4, image_map="linear_without_bias"), image_width=7).image_head.bias
        is None
    )
