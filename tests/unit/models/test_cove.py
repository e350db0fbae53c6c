"""CoVe's encoder and decoder against definitions by hand, and the search against all translations there are."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from mcse.data.config import TranslationDataConfig
from mcse.data.streams import Share
from mcse.data.translation import TranslationStream, load_translation_data
from mcse.encoders.contextual import CoveEncoder
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.encoders.word_translator import WordTranslator
from mcse.evaluation.evaluators.translation import TranslationEvaluator
from mcse.metrics.bleu import corpus_bleu
from mcse.models.cove_model import CoveModel, load_cove, save_cove, vocab_of
from mcse.models.cove_translator import CoveTranslator, load_translator, save_translator
from mcse.nn.global_attention import GlobalAttention
from mcse.text.vocab import Vocab
from mcse.text.word_vectors import WordVectors
from mcse.types import TokenBatch, TranslationBatch

WORDS = ("a", "dog", "runs", "in", "the", "park", ".")
SENTENCES = [["a", "dog", "runs", "."], ["the", "park"], ["the", "unicorn", "in", "the", "park", "."]]


@pytest.fixture
def vectors():
    row_VD = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)
    return WordVectors(WORDS, {word: row for row, word in enumerate(WORDS)}, row_VD)


@pytest.fixture
def model(vectors):
    torch.manual_seed(0)
    return CoveModel.from_vectors(vectors, hidden_dim=4, dropout=0.0).eval()


@pytest.fixture
def translator(model):
    torch.manual_seed(1)
    return CoveTranslator(model, target_words=7, target_dim=3).eval()


@pytest.fixture
def sharp(translator):
    """Larger weights, so that translations differ in more than rounding."""
    with torch.no_grad():
        for name, parameter in translator.named_parameters():
            if parameter.requires_grad:
                parameter.mul_(0 if "bias" in name else 12)
    return translator


def batch_of(rows):
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return TokenBatch(ids, mask)


# --- the encoder


def test_layers_are_those_of_pytorchs_two_layer_lstm(model, vectors):
    both = torch.nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True)
    state = {
        f"{name[:-1]}{layer}" if not name.endswith("_reverse") else f"{name[:-9]}{layer}_reverse": value
        for layer, reader in enumerate(model.readers)
        for name, value in reader.state_dict().items()
    }
    both.load_state_dict(state)
    encoder = CoveEncoder(model, vocab_of(vectors))
    static, _, top = encoder.embed_layers([SENTENCES[0]])[0]
    np.testing.assert_array_equal(static, vectors.row_VD[[vectors.index[word] for word in SENTENCES[0]]])
    with torch.no_grad():
        np.testing.assert_allclose(top, both(torch.from_numpy(static)[None])[0][0], atol=1e-6)


def test_padding_and_order_change_nothing_and_unknown_words_are_zeros(model, vectors):
    encoder = CoveEncoder(model, vocab_of(vectors))
    together = encoder.embed(SENTENCES, batch_size=3)
    for words, rows in zip(SENTENCES, together, strict=True):
        assert rows.shape == (len(words), 5 + 8)
        np.testing.assert_allclose(encoder.embed([words])[0], rows, atol=1e-6)
    assert not together[2][1, :5].any()
    assert together[2][1, 5:].any()
    for pooling, width in (("mean_layer0", 5), ("mean_layer1", 8), ("mean_layer2", 8)):
        chosen = CoveEncoder(model, vocab_of(vectors), pooling=pooling)
        assert chosen.dimension == width == chosen.encode(["a dog"]).shape[1]
    with pytest.raises(ValueError, match="every sentence needs a word"):
        encoder.word_layers([[]])


def test_text_may_be_lower_cased_for_cased_vectors(model):
    cased = WordVectors.of(("Park", "park"), np.eye(2, 5, dtype=np.float32))
    assert vocab_of(cased).ids(["Park", "PARK"]).tolist() == [4, 1]
    assert vocab_of(cased, lower_case=True).ids(["Park", "PARK", "park"]).tolist() == [5, 5, 5]


def test_the_word_vectors_are_frozen(model):
    assert not model.vectors.weight.requires_grad
    assert all(parameter.requires_grad for parameter in model.readers.parameters())


def test_saved_and_loaded_encoder_gives_the_same_rows(model, vectors, tmp_path):
    save_cove(tmp_path / "model", model, vocab_of(vectors))
    encoder = load_encoder(str(tmp_path / "model"))
    assert isinstance(encoder, CoveEncoder)
    expected = CoveEncoder(model, vocab_of(vectors)).encode(["a dog runs in the park ."])
    np.testing.assert_allclose(encoder.encode(["a dog runs in the park ."]), expected, atol=1e-6)
    assert len(encoder_digest(str(tmp_path / "model"))) == 64
    Vocab.from_sentences([["a"]]).save(tmp_path / "model" / "vocab.json")
    with pytest.raises(ValueError, match="do not fit one another"):
        load_cove(tmp_path / "model")


@pytest.mark.parametrize("is_split", [False, True])
def test_released_weights_are_read_in_both_layouts(is_split, model, vectors, tmp_path):
    state = {}
    for layer, reader in enumerate(model.readers):
        for name, value in reader.state_dict().items():
            key = f"rnn{layer + 1}.{name}" if is_split else f"rnn.{name.replace('_l0', f'_l{layer}')}"
            state[key] = value
    torch.save(state, tmp_path / "cove.pth")
    loaded = CoveModel.from_released(tmp_path / "cove.pth", vectors)
    ours, theirs = (CoveEncoder(m, vocab_of(vectors)).encode(["a dog runs"]) for m in (model, loaded))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    wide = WordVectors(("a",), {"a": 0}, np.zeros((1, 6), dtype=np.float32))
    with pytest.raises(ValueError, match="on 6-d vectors"):
        CoveModel.from_released(tmp_path / "cove.pth", wide)


# --- the decoder


def test_attention_equals_its_definition_and_skips_padding():
    torch.manual_seed(0)
    attention = GlobalAttention(3).double()
    state, source = torch.randn(2, 3).double(), torch.randn(2, 4, 3).double()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    fed, share = attention(state, source, mask)
    for row, length in ((0, 4), (1, 2)):
        kept = source[row, :length]
        a = torch.softmax(kept @ (attention.score.weight @ state[row]), dim=0)
        torch.testing.assert_close(share[row, :length], a)
        assert not share[row, length:].any()
        context = torch.cat([kept.T @ a, state[row]])
        torch.testing.assert_close(fed[row], torch.tanh(attention.combine.weight @ context))


def test_logits_do_not_depend_on_padding_nor_on_later_words(sharp):
    translator = sharp
    source, target = batch_of([[4, 5, 6], [8]]), batch_of([[2, 4, 5, 3], [2, 6, 3]])
    both = translator(TranslationBatch(source, target))
    alone = translator(TranslationBatch(batch_of([[8]]), batch_of([[2, 6, 3]])))
    torch.testing.assert_close(both[1, :2], alone[0], atol=1e-6, rtol=0)
    changed = translator(TranslationBatch(source, batch_of([[2, 4, 1, 3], [2, 6, 3]])))
    torch.testing.assert_close(changed[0, :2], both[0, :2])
    assert (changed[0, 2] - both[0, 2]).abs().max() > 1e-4


def test_a_step_equals_its_definition(translator):
    """Input feeding, two cells, attention: the first two words by hand."""
    source, target = batch_of([[4, 5, 6]]), batch_of([[2, 4, 3]])
    logits = translator(TranslationBatch(source, target))[0]
    encoded = translator.encoder(source.input_ids_BT, source.attention_mask_BT)
    states, fed = list(encoded.final_states), torch.zeros(1, 8)
    for place, word in enumerate((2, 4)):
        x = torch.cat([translator.words.weight[word][None], fed], dim=1)
        for number, cell in enumerate(translator.cells):
            states[number] = cell(x, states[number])
            x = states[number][0]
        fed, _ = translator.attention(x, encoded.last_hidden_state, source.attention_mask_BT)
        torch.testing.assert_close(translator.softmax(fed)[0], logits[place], atol=1e-6, rtol=0)


def mean_logp(translator, source, words):
    """The score by which the search ranks a translation."""
    target = batch_of([[2, *words, 3]])
    logp = torch.log_softmax(translator(TranslationBatch(source, target))[0], dim=-1)
    return logp[torch.arange(len(words) + 1), target.input_ids_BT[0, 1:]].mean().item()


def test_a_wide_search_finds_the_best_of_all_translations(sharp):
    longest = 3
    kept = [word for word in range(7) if word not in (2, 3)]
    for row in ([4, 5, 6], [9], [10, 7]):
        source = batch_of([row])
        # The search ends a translation of at most ``longest`` - 1 words.
        everything = [list(words) for length in range(longest) for words in product(kept, repeat=length)]
        scores = {tuple(words): mean_logp(sharp, source, words) for words in everything}
        found = sharp.search(source, beams=49, begin=2, end=3, longest=longest)[0]
        assert tuple(found) == max(scores, key=scores.__getitem__)


def test_greedy_takes_the_likeliest_word_until_the_end(sharp):
    rows = [[4, 5, 6], [9], [10, 7], [6, 6, 6, 6]]
    together = sharp.search(batch_of(rows), beams=1, begin=2, end=3, longest=6)
    assert len(set(map(tuple, together))) > 1
    for row, found in zip(rows, together, strict=True):
        words = []
        while len(words) < 6:
            logits = sharp(TranslationBatch(batch_of([row]), batch_of([[2, *words, 3]])))[0, -1].clone()
            logits[2] = -torch.inf
            word = int(logits.argmax())
            if word == 3:
                break
            words.append(word)
        assert found == words


def test_more_beams_never_score_worse_here(sharp):
    source = batch_of([[4, 5, 6]])
    scores = [
        mean_logp(sharp, source, sharp.search(source, beams=beams, begin=2, end=3, longest=5)[0]) for beams in (4, 25)
    ]
    assert scores[1] >= scores[0] - 1e-6


# --- text to text


@pytest.fixture
def words(translator, vectors):
    return WordTranslator(
        translator, vocab_of(vectors), Vocab.from_sentences([["ein", "Hund", "Park"]], lower_case=False)
    )


def test_translator_round_trip_through_a_folder(words, translator, vectors, tmp_path):
    texts = ["a dog runs .", "", "the park"]
    before = words.translate(texts, beams=2)
    assert before[1] == ""
    save_translator(tmp_path / "model", translator, vocab_of(vectors), words._target)
    loaded = WordTranslator.from_pretrained(tmp_path / "model")
    assert loaded.translate(texts, beams=2) == before
    nll = words.nll(["a dog"], ["ein Hund"])[0]
    np.testing.assert_allclose(loaded.nll(["a dog"], ["ein Hund"])[0], nll, rtol=1e-5)
    assert len(nll) == 3
    save_cove(tmp_path / "encoder", translator.encoder, vocab_of(vectors))
    with pytest.raises(ValueError, match="holds no decoder"):
        load_translator(tmp_path / "encoder")
    with pytest.raises(ValueError, match="beams: must be 1 or more"):
        words.translate(texts, beams=0)


class Copier:
    """Translates every sentence to itself, and is sure of every word by a half."""

    def translate(self, sentences, *, beams=1, batch_size=64):
        return list(sentences)

    def nll(self, sentences, translations, *, batch_size=64):
        return [np.full(len(text.split()) + 1, np.log(2)) for text in translations]


def test_translation_evaluator():
    texts = ["a dog runs in the park .", "the cat sleeps in the house ."]
    scores = TranslationEvaluator(Copier(), texts, texts)()
    assert scores["dev.bleu"].value == pytest.approx(100)
    assert scores["dev.perplexity"].value == pytest.approx(2)
    assert scores["dev.bleu"].higher_is_better
    assert not scores["dev.perplexity"].higher_is_better
    wrong = TranslationEvaluator(Copier(), texts, texts[::-1])()
    assert wrong["dev.bleu"].value < 50
    with pytest.raises(ValueError, match="are no pairs"):
        TranslationEvaluator(Copier(), texts, texts[:1])


def test_bleu_takes_words_parted_by_spaces_as_plain_text():
    assert corpus_bleu(["Ein Mann schläft , hier ."], ["Ein Mann schläft, hier."]) == pytest.approx(100)
    with pytest.raises(ValueError, match="1 translations need as many references, got 2"):
        corpus_bleu(["a"], ["a", "b"])


# --- data


@pytest.fixture
def config(tmp_path):
    left = [f"a dog {'runs ' * (n % 5)}." for n in range(40)] + ["a " * 40]
    (tmp_path / "a.en").write_text("\n".join(left) + "\n")
    (tmp_path / "a.de").write_text("\n".join(f"Hund {n}" for n in range(41)) + "\n")
    (tmp_path / "v.txt").write_text("a 1 2\n")
    keys = {"source": "a.en", "target": "a.de", "dev_source": "a.en", "dev_target": "a.de", "vectors": "v.txt"}
    return TranslationDataConfig(**keys, root=tmp_path, max_length=20)


def test_pairs_stay_pairs_and_shuffled_targets_do_not(config, vectors, tmp_path):
    source_words = vocab_of(vectors)
    data = load_translation_data(config, source_words, seed=0)
    assert len(data.source) == 40, "the long pair is left out"
    names = [data.target_vocab.words[row[2]] for row in data.target]
    assert names == [str(n) for n in range(40)]
    assert data.target[0][[0, -1]].tolist() == [2, 3]
    shuffled = load_translation_data(replace(config, shuffled_targets=True), source_words, seed=0)
    others = [data.target_vocab.words[row[2]] for row in shuffled.target]
    assert sorted(others) == sorted(names)
    assert sum(a == b for a, b in zip(names, others, strict=True)) < 5
    (tmp_path / "a.de").write_text("zu wenig\n")
    with pytest.raises(ValueError, match="41 and 1 lines are not aligned"):
        load_translation_data(config, source_words, seed=0)


def test_batches_are_of_similar_length_and_shared_between_processes(config, vectors):
    data = load_translation_data(config, vocab_of(vectors), seed=0)
    whole = TranslationStream(data, Share(batch_size=8), seed=3)
    halves = [TranslationStream(data, Share(batch_size=4, rank=rank, world_size=2), seed=3) for rank in range(2)]
    seen = []
    for step in range(whole.steps_per_epoch):
        rows = {tuple(row[row != 0].tolist()) for row in whole.batch(step).target.input_ids_BT}
        parts = [tuple(row[row != 0].tolist()) for half in halves for row in half.batch(step).target.input_ids_BT]
        assert rows == set(parts)
        seen += parts
        lengths = whole.batch(step).source.attention_mask_BT.sum(1)
        assert lengths.max() - lengths.min() <= 1
    assert len(set(seen)) == 40
    first, later = (whole.batch(step).target.input_ids_BT for step in (0, whole.steps_per_epoch))
    assert not torch.equal(first, later)
