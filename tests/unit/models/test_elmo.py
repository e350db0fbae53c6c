"""ELMo's parts against definitions by hand, and the original implementation's outputs."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch

from mcse.encoders.contextual import ElmoEncoder
from mcse.encoders.elmo_scorer import ElmoScorer
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.models.elmo_language_model import (
    ElmoLanguageModel,
    load_language_model,
    save_language_model,
)
from mcse.models.elmo_model import ElmoConfig, ElmoModel
from mcse.models.weights import load_own
from mcse.nn.charcnn import CharCNN
from mcse.nn.projected_lstm import LSTMState, ProjectedLSTM
from mcse.nn.scalar_mix import ScalarMix
from mcse.text.characters import PAD_CHARACTER, character_ids, word_characters
from mcse.text.vocab import Vocab

SENTENCES = [
    ["They", "play", "music", "at", "the", "old", "theatre", "."],
    ["A", "play", "."],
    ["Zürich", "internationalisation-of-everything-that-is-longer-than-fifty-characters", "!"],
]


def small_config(**changes):
    sizes = {"character_dim": 5, "filters": [[1, 4], [3, 6], [5, 7]], "cell_dim": 12, "projection_dim": 6}
    return ElmoConfig(**{**sizes, "dropout": 0.0, **changes})


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ElmoModel(small_config()).eval()


# --- characters


def test_characters_are_those_of_the_released_code():
    row = word_characters("aé")
    assert row.tolist() == [259, 98, 0xC3 + 1, 0xA9 + 1, 260] + [261] * 45
    assert len(word_characters("x" * 80)) == 50
    assert word_characters("x" * 80)[-1] == 260, "the mark of the end stays"
    ids = character_ids([["a"], ["b", "c"]], marks=True)
    assert ids.shape == (2, 4, 50)
    assert ids[0, 0, :4].tolist() == [259, 257, 260, 261]
    assert ids[0, 2, :4].tolist() == [259, 258, 260, 261]
    assert not ids[0, 3].any()


def test_an_empty_token_is_refused():
    with pytest.raises(ValueError, match="sentence 1, token 0: is empty"):
        character_ids([["a"], [""]])


# --- blocks


def char_cnn(**changes):
    torch.manual_seed(1)
    keys = {"characters": 262, "character_dim": 4, "filters": [(1, 3), (4, 5)], "highway_layers": 2, "out_dim": 6}
    return CharCNN(**{**keys, "pad_id": PAD_CHARACTER, **changes}).double()


def by_loops(cnn, row_C):
    """One word's vector, place by place."""
    embedded = [cnn.embedding.weight[i] for i in row_C.tolist()]
    features = []
    for convolution in cnn.convolutions:
        width = convolution.kernel_size[0]
        for weight, bias in zip(convolution.weight, convolution.bias, strict=True):
            sums = [
                sum(weight[:, k] @ embedded[start + k] for k in range(width)) + bias
                for start in range(len(embedded) - width + 1)
            ]
            features.append(torch.relu(torch.stack(sums).max()))
    x = torch.stack(features)
    for gate, mapped in zip(cnn.highway.gates, cnn.highway.maps, strict=True):
        g = torch.sigmoid(gate.weight @ x + gate.bias)
        x = g * torch.relu(mapped.weight @ x + mapped.bias) + (1 - g) * x
    return cnn.projection.weight @ x + cnn.projection.bias


def test_char_cnn_equals_its_definition_over_all_places():
    cnn = char_cnn()
    with torch.no_grad():
        cnn.embedding.weight[PAD_CHARACTER] *= 3  # padding wins some maxima, so leaving it out would show
        words = ["a", "theatre", "x" * 48]
        ids = torch.from_numpy(np.stack([word_characters(word) for word in words]))
        found = cnn(ids)
        for row, word in zip(found, words, strict=True):
            torch.testing.assert_close(row, by_loops(cnn, torch.from_numpy(word_characters(word))))
        torch.testing.assert_close(cnn(ids[:1]), found[:1], msg="a word depends on the words beside it")
        bare = torch.stack([cnn.embedding(ids[:1, :3]).transpose(1, 2).amax()])
        assert bare < cnn.embedding.weight[PAD_CHARACTER].amax()


def test_char_cnn_refuses_words_shorter_than_a_filter():
    with pytest.raises(ValueError, match="widest filter takes 4"):
        char_cnn()(torch.zeros(1, 3, dtype=torch.long))


def lstm(**changes):
    torch.manual_seed(2)
    return ProjectedLSTM(5, 7, 3, **changes).double()


def test_projected_lstm_without_clips_equals_pytorchs():
    ours = lstm()
    theirs = torch.nn.LSTM(5, 7, proj_size=3, batch_first=True).double()

    def reordered(matrix):  # i g f o to i f g o, and the forget gate's one
        i, g, f, o = matrix.chunk(4)
        return torch.cat([i, f, g, o])

    with torch.no_grad():
        theirs.weight_ih_l0.copy_(reordered(ours.input.weight))
        theirs.weight_hh_l0.copy_(reordered(ours.recurrent.weight))
        bias = ours.input.bias.clone()
        bias[14:21] += 1
        theirs.bias_ih_l0.copy_(reordered(bias))
        theirs.bias_hh_l0.zero_()
        theirs.weight_hr_l0.copy_(ours.projection.weight)
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    found, state = ours(x)
    expected, (hidden, cell) = theirs(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(state.hidden_BP, hidden[0])
    torch.testing.assert_close(state.cell_BH, cell[0])


def test_cells_and_projections_are_clipped_at_every_step():
    plain, clipped = lstm(), lstm(cell_clip=0.2, projection_clip=0.05)
    x = 5 * torch.randn(4, 6, 5, dtype=torch.float64)
    assert plain(x)[1].cell_BH.abs().max() > 0.2
    found, state = clipped(x)
    assert found.abs().max().item() == pytest.approx(0.05)
    assert state.cell_BH.abs().max().item() == pytest.approx(0.2)
    # By hand, one step after another from the clipped state.
    carried = LSTMState(torch.zeros(4, 3).double(), torch.zeros(4, 7).double())
    for step in range(6):
        output, carried = clipped(x[:, step : step + 1], state=carried)
        torch.testing.assert_close(output[:, 0], found[:, step])


def test_a_masked_token_leaves_the_state():
    layer = lstm(cell_clip=3.0)
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
    found, state = layer(x, mask)
    short, after_short = layer(x[:1, :3])
    late, after_late = layer(x[1:, 1:])
    torch.testing.assert_close(found[0, :3], short[0])
    torch.testing.assert_close(found[1, 1:], late[0])
    assert not found[0, 3:].any()
    torch.testing.assert_close(state.cell_BH, torch.cat([after_short.cell_BH, after_late.cell_BH]))


def test_a_fresh_token_is_read_as_the_first_of_a_sequence():
    layer, x = lstm(cell_clip=0.5), torch.randn(2, 5, 5).double()
    fresh = torch.tensor([[False, False, True, False, False], [True, False, False, False, True]])
    _, before = layer(x)
    found, state = layer(x, state=before, fresh_BT=fresh)
    torch.testing.assert_close(found[0, 2:], layer(x[:1, 2:])[0][0])
    torch.testing.assert_close(found[1, :4], layer(x[1:, :4])[0][0])
    torch.testing.assert_close(state.cell_BH[1:], layer(x[1:, 4:])[1].cell_BH)
    torch.testing.assert_close(found[0, :2], layer(x, state=before)[0][0, :2])


def test_scalar_mix_is_a_weighted_sum_and_trains():
    mix = ScalarMix(3).double()
    layers = [torch.randn(2, 4, 5, dtype=torch.float64) for _ in range(3)]
    mask = torch.ones(2, 4)
    torch.testing.assert_close(mix(layers, mask), sum(layers) / 3)
    with torch.no_grad():
        mix.weight_L.copy_(torch.tensor([0.0, 1.0, 2.0]))
        mix.gamma.fill_(2.0)
    share = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    torch.testing.assert_close(mix(layers, mask), 2 * sum(s * layer for s, layer in zip(share, layers, strict=True)))
    mix(layers, mask).square().sum().backward()
    assert mix.weight_L.grad.abs().min() > 0
    assert mix.gamma.grad.item() != 0
    assert ScalarMix(3, layer=1).shares.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="layers 0 to 2, not 3"):
        ScalarMix(3, layer=3)


def test_layer_norm_is_over_all_real_tokens_of_a_layer():
    mix = ScalarMix(1, layer_norm=True).double()
    layer = torch.randn(2, 4, 5, dtype=torch.float64) * 7 + 3
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    mixed = mix([layer], mask)
    real = mixed[mask.bool()]
    assert real.mean().item() == pytest.approx(0, abs=1e-9)
    assert real.var(unbiased=False).item() == pytest.approx(1, abs=1e-9)


# --- the model


def test_padding_and_order_change_nothing(model):
    encoder = ElmoEncoder(model)
    together = encoder.embed(SENTENCES, batch_size=3)
    for words, rows in zip(SENTENCES, together, strict=True):
        assert rows.shape == (len(words), 12)
        np.testing.assert_allclose(encoder.embed([words])[0], rows, atol=1e-6)
    backwards = encoder.embed(SENTENCES[::-1], batch_size=3)[::-1]
    for rows, other in zip(together, backwards, strict=True):
        np.testing.assert_allclose(rows, other, atol=1e-6)


def test_directions_see_only_their_side(model):
    words, changed = ["a", "b", "c", "d"], ["a", "b", "x", "d"]
    first, second = ElmoEncoder(model).embed_layers([words, changed])
    for layer in (1, 2):
        forward = np.abs(first[layer][:, :6] - second[layer][:, :6]).max(axis=1)
        backward = np.abs(first[layer][:, 6:] - second[layer][:, 6:]).max(axis=1)
        assert (forward[:2] < 1e-7).all()
        assert (forward[2:] > 1e-6).all()
        assert (backward[3:] < 1e-7).all()
        assert (backward[:3] > 1e-6).all()
    np.testing.assert_allclose(first[0][[0, 1, 3]], second[0][[0, 1, 3]], atol=1e-7)


def test_a_word_has_one_vector_below_and_another_above_in_each_context(model):
    first, second = ElmoEncoder(model).embed_layers([SENTENCES[0], SENTENCES[1]])
    np.testing.assert_allclose(first[0][1], second[0][1], atol=1e-7)
    np.testing.assert_allclose(first[0][:, :6], first[0][:, 6:])
    assert all(np.abs(first[layer][1] - second[layer][1]).max() > 1e-4 for layer in (1, 2))


def test_stateless_repeats_itself_and_stateful_goes_on(model):
    encoder = ElmoEncoder(model)
    batch = SENTENCES[:2]
    once, again = encoder.word_layers(batch), encoder.word_layers(batch)
    assert all(torch.equal(a, b) for a, b in zip(once.layers, again.layers, strict=True))
    after = encoder.word_layers_after(batch, state=once.state)
    torch.testing.assert_close(after.layers[0], once.layers[0])
    assert (after.layers[1][0] - once.layers[1][0]).abs().max() > 1e-5
    with pytest.raises(ValueError, match="3 sentences cannot follow 2"):
        encoder.word_layers_after(SENTENCES, state=once.state)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    model = ElmoModel(small_config(dropout=0.5))
    encoder = ElmoEncoder(model)
    ids = torch.from_numpy(character_ids(SENTENCES, marks=True))
    assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
    np.testing.assert_array_equal(encoder.encode(["a b"]), encoder.encode(["a b"]))
    assert model.training, "the mode is restored"


def test_a_sentence_as_one_string_is_no_list_of_words(model):
    with pytest.raises(ValueError, match=r"text 1 is one string, 'He plays .'; give its words, such as \['He', "):
        ElmoEncoder(model).embed([["He"], "He plays ."])


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is no run and no checkpoint at .*absent"):
        ElmoEncoder.from_pretrained(tmp_path / "absent")
    with pytest.raises(ValueError, match="there is no folder 'absent/run' here"):
        load_encoder("absent/run")


def test_encode_is_the_mean_of_embed(model):
    for pooling in (None, "mean_layer0", "mean_layer2"):
        encoder = ElmoEncoder(model, pooling=pooling)
        rows = encoder.encode(["A play .", "Music", ""], normalize=False)
        np.testing.assert_allclose(rows[0], encoder.embed([["A", "play", "."]])[0].mean(axis=0), atol=1e-6)
        assert not rows[2].any()
        np.testing.assert_allclose(np.linalg.norm(encoder.encode(["A play ."]), axis=1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="mean, mean_layer0, mean_layer1, mean_layer2"):
        ElmoEncoder(model, pooling="cls")


# --- folders


def test_saved_and_loaded_model_gives_the_same_rows(model, tmp_path):
    language = ElmoLanguageModel(model, vocabulary_size=7)
    vocab = Vocab.from_sentences([["a", "b", "c"]], lower_case=False)
    save_language_model(tmp_path / "model", language, vocab)
    loaded, words = load_language_model(tmp_path / "model")
    assert words == vocab
    assert all(torch.equal(a, b) for a, b in zip(language.parameters(), loaded.parameters(), strict=True))
    assert torch.equal(
        ElmoModel.from_pretrained(tmp_path / "model").state_dict()["words.projection.bias"], model.words.projection.bias
    )
    encoder = load_encoder(str(tmp_path / "model"))
    assert isinstance(encoder, ElmoEncoder)
    np.testing.assert_allclose(encoder.encode(["a b"]), ElmoEncoder(model).encode(["a b"]), atol=1e-6)
    assert len(encoder_digest(str(tmp_path / "model"))) == 64


def test_weights_that_do_not_fit_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"layers": 3}))
    with pytest.raises(ValueError, match="weights do not fit config.json"):
        load_own(ElmoModel, tmp_path / "model")
    with pytest.raises(ValueError, match="holds no softmax"):
        load_language_model(tmp_path / "model")


def test_a_folder_that_is_no_release_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found none of these"):
        ElmoModel.from_original(tmp_path)
    (tmp_path / "lm_weights.hdf5").write_bytes(b"no")
    for text in ("{}", "[]", '{"lstm": [], "char_cnn": null}', '{"lstm": {}, "char_cnn": 5}', "[" * 100_000, "\0"):
        (tmp_path / "options.json").write_text(text)
        with pytest.raises(ValueError, match=r"options\.json: no options of an ELMo release"):
            ElmoModel.from_original(tmp_path)


# --- the original implementation


@pytest.mark.parity
def test_original_release_gives_the_original_outputs(real_data, tmp_path):
    """Three streams as batches of three, the state carried: the original outputs, to 1e-6 · (1 + |x|)."""
    folder = real_data / "elmo_fixture"
    streams = json.loads((folder / "sentences.json").read_text())
    files = [h5py.File(folder / f"lm_embeddings_{number}.hdf5", "r") for number in range(3)]
    encoder = load_encoder(str(folder))
    assert isinstance(encoder, ElmoEncoder)
    ElmoModel.from_original(folder).save_pretrained(tmp_path / "ours")
    ours = ElmoEncoder.from_pretrained(tmp_path / "ours")
    state, compared, largest_stateless = None, 0, 0.0
    for number in range(10):
        batch = [stream[number].split() for stream in streams]
        found = encoder.word_layers_after(batch, state=state)
        alike = ours.word_layers_after(batch, state=state)
        alone = encoder.word_layers(batch)
        for place, words in enumerate(batch):
            forward, backward = files[place][str(number)][...]
            expected = np.concatenate([forward, backward], axis=-1)
            rows = found.layers[-1][place, : len(words)].numpy()
            assert rows.shape == expected.shape
            np.testing.assert_allclose(rows, expected, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(rows, alike.layers[-1][place, : len(words)].numpy(), rtol=1e-6, atol=1e-6)
            compared += len(words)
            stateless = alone.layers[-1][place, : len(words)].numpy()
            largest_stateless = max(largest_stateless, float(np.abs(stateless - expected).max()))
        state = found.state
    assert compared > 600
    assert largest_stateless > 1e-3, "the carried state matters, or the test could not fail"


# --- as a language model


@pytest.fixture
def scorer(model):
    vocab = Vocab.from_sentences(SENTENCES, lower_case=False)
    torch.manual_seed(3)
    return ElmoScorer(ElmoLanguageModel(model, vocabulary_size=len(vocab)), vocab)


@pytest.mark.parametrize("backward", [False, True])
def test_nll_is_that_of_every_word_and_the_end(scorer, model, backward):
    softmax, vocab = scorer._model.softmax, scorer.vocab
    for words, nll in zip(SENTENCES, scorer.nll(SENTENCES, backward=backward, batch_size=2), strict=True):
        hidden = model(torch.from_numpy(character_ids([words], marks=True))).last_hidden_state[0]
        logp = torch.log_softmax(softmax(hidden[:, 6:] if backward else hidden[:, :6]), dim=-1)
        ids = [vocab.index["<s>"], *vocab.ids(words), vocab.index["</s>"]]
        if backward:
            expected = [-logp[place, ids[place - 1]].item() for place in range(len(words) + 1, 0, -1)]
        else:
            expected = [-logp[place, ids[place + 1]].item() for place in range(len(words) + 1)]
        np.testing.assert_allclose(nll, expected, atol=1e-5)
