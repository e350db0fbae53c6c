"""Occurrences, neighbours and pseudo-words on encoders that one can see through; models on word features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcse.commands.main import main
from mcse.evaluation.contexts import Occurrence, find_occurrences, nearest_occurrences, pseudo_word_senses
from mcse.evaluation.evaluators.word_tasks import AccuracyEvaluator, SpanF1Evaluator
from mcse.models.elmo_language_model import ElmoLanguageModel, save_language_model
from mcse.models.elmo_model import ElmoConfig, ElmoModel
from mcse.models.feature_model import FeatureClassifier, FeatureSizes, FeatureTagger
from mcse.text.tags import TagSet
from mcse.text.vocab import Vocab
from mcse.types import FeatureBatch


class BesideEncoder:
    """A word is the word to its left, as a one-hot vector."""

    def embed(self, sentences, *, batch_size=64):
        lefts = [["", *words[:-1]] for words in sentences]
        return [np.stack([self.row(word) for word in words]) for words in lefts]

    def row(self, word):
        return np.eye(16, dtype=np.float32)[sum(map(ord, word)) % 16]


class StaticEncoder:
    """Every word is the same everywhere."""

    def embed(self, sentences, *, batch_size=64):
        return [np.ones((len(words), 2), dtype=np.float32) for words in sentences]


TEXT = [["she", "plays", "the", "play"], ["Play", "it"], ["no", "one"], ["they", "play", "and", "play"]]


def test_occurrences_are_found_in_any_case_and_counted_by_word():
    found = find_occurrences(TEXT, ["play"])
    assert [(occurrence.word, occurrence.place) for occurrence in found] == [
        ("play", 3),
        ("Play", 0),
        ("play", 1),
        ("play", 3),
    ]
    assert len(find_occurrences(TEXT, ["play", "no"], limit=1)) == 2


def test_neighbours_share_their_context_and_come_from_other_sentences():
    query = Occurrence(("see", "the", "play"), 2)
    found = nearest_occurrences(BesideEncoder(), query, find_occurrences(TEXT, ["play"]), k=2)
    assert found[0].occurrence.words == tuple(TEXT[0])
    assert found[0].cosine == pytest.approx(1)
    assert len(found) == 2
    assert found[1].cosine < 1
    with pytest.raises(ValueError, match="no occurrence of 'play'"):
        nearest_occurrences(BesideEncoder(), query, [query])


def test_pseudo_words_are_told_by_context_alone():
    text = [["red", "apple", "x"], ["blue", "sea", "y"]] * 20
    score = pseudo_word_senses(BesideEncoder(), text, [("apple", "sea")])[0]
    assert (score.accuracy, score.tested) == (100, 20)
    static = pseudo_word_senses(StaticEncoder(), text, [("apple", "sea")])[0]
    assert static.accuracy < 80
    assert static.most_frequent < 80
    own = [["apple"], ["sea"]] * 20  # nothing around tells them apart, and the word itself must not
    assert pseudo_word_senses(BesideEncoder(), own, [("apple", "sea")])[0].accuracy < 80
    with pytest.raises(ValueError, match="'pear' occurs 0 times"):
        pseudo_word_senses(BesideEncoder(), text, [("apple", "pear")])


@pytest.fixture
def elmo_folder(tmp_path):
    torch.manual_seed(0)
    config = ElmoConfig(character_dim=4, filters=[[1, 4], [3, 6]], cell_dim=12, projection_dim=6)
    vocab = Vocab.from_sentences(TEXT, lower_case=False)
    save_language_model(tmp_path / "elmo", ElmoLanguageModel(ElmoModel(config), vocabulary_size=len(vocab)), vocab)
    (tmp_path / "text.txt").write_text("\n".join(" ".join(words) for words in TEXT * 4) + "\n")
    return tmp_path


def test_contexts_command(elmo_folder, capsys):
    common = ["words", "contexts", str(elmo_folder / "elmo"), "--text", str(elmo_folder / "text.txt")]
    assert main([*common, "--query", "play", "we saw the play", "-k", "2", "--merge", "play", "one"]) == 0
    out = capsys.readouterr().out
    assert "we saw the [play]\n  among 16 occurrences:" in out
    assert out.count("[play]") == 3
    assert "play/one  10  10" in out
    assert main([*common, "--query", "sing", "we saw the play"]) == 2
    assert main(common) == 2
    assert "give --query" in capsys.readouterr().err


def test_perplexity_command_needs_to_know_its_text(elmo_folder, capsys):
    assert main(["elmo", "perplexity", str(elmo_folder / "elmo")]) == 2
    assert "does not say what the model was trained on" in capsys.readouterr().err


# --- models on word features


def sizes(**changes):
    keys = {"static_dim": 4, "layers": 3, "layer_dim": 5, "hidden_dim": 6, "classes": 5, "dropout": 0.0}
    return FeatureSizes(**{**keys, **changes})


def batch_of(lengths, *, seed=0, label=None):
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    static = torch.randn(len(lengths), longest, 4, generator=generator) * mask[..., None]
    layers = torch.randn(3, len(lengths), longest, 5, generator=generator) * mask[..., None]
    return FeatureBatch(static, layers, mask, torch.zeros(len(lengths), longest).long() if label is None else label)


def alone(batch, row, length):
    return FeatureBatch(
        batch.static_BTE[row : row + 1, :length],
        batch.layer_LBTD[:, row : row + 1, :length],
        batch.mask_BT[row : row + 1, :length],
        batch.label[row : row + 1, :length] if batch.label.ndim == 2 else batch.label[row : row + 1],
    )


def tagger(**changes):
    torch.manual_seed(0)
    tags = TagSet(("A", "B"))
    return FeatureTagger(
        sizes(**changes),
        may_follow_KK=torch.from_numpy(tags.may_follow()),
        may_start_K=torch.from_numpy(tags.may_start()),
    )


JOINS = [("input", {"input"}), ("output", {"output"}), ("both", {"input", "output"})]


@pytest.mark.parametrize(("join", "places"), JOINS)
def test_mixtures_stand_where_they_join_and_train(join, places):
    model = tagger(join=join)
    assert set(model.reader.mixes) == places
    assert model.reader.lstm.input_size == 4 + (5 if "input" in places else 0)
    assert model.reader.width == 12 + (5 if "output" in places else 0)
    model(batch_of([4, 2])).sum().backward()
    for mix in model.reader.mixes.values():
        assert mix.weight_L.grad.abs().max() > 0
        assert mix.gamma.grad.abs() > 0


@pytest.mark.parametrize("kind", ["tagger", "classifier"])
def test_padding_changes_nothing(kind):
    label = None if kind == "tagger" else torch.tensor([1, 4, 0])
    model = tagger(join="both") if kind == "tagger" else FeatureClassifier(sizes(join="both"))
    batch = batch_of([5, 2, 3], label=label)
    with torch.no_grad():
        nll, predicted = model(batch), model.predict(batch)
        for row, length in enumerate([5, 2, 3]):
            single = alone(batch, row, length)
            torch.testing.assert_close(model(single)[0], nll[row])
            expected = predicted[row, :length] if kind == "tagger" else predicted[row]
            assert torch.equal(model.predict(single)[0], expected)


def test_classifier_likelihood_is_that_of_its_logits():
    torch.manual_seed(0)
    model = FeatureClassifier(sizes(layers=0, layer_dim=0))
    batch = batch_of([3, 2], label=torch.tensor([2, 0]))
    logits = model.logits(batch)
    expected = -torch.log_softmax(logits, dim=1)[torch.arange(2), batch.label]
    torch.testing.assert_close(model(batch), expected)
    assert torch.equal(model.predict(batch), logits.argmax(1))


def test_features_that_leave_the_reader_nothing_are_refused():
    with pytest.raises(ValueError, match="nothing would enter"):
        sizes(static_dim=0, join="output")


def test_evaluators_of_words():
    gold = [("B-A", "O"), ("O", "B-B", "I-B")]
    assert SpanF1Evaluator(gold, lambda: gold, name="dev")()["dev.f1"].value == 100
    missed = [("O", "O"), ("O", "B-B", "I-B")]
    assert SpanF1Evaluator(gold, lambda: missed, name="dev")()["dev.f1"].value == pytest.approx(200 / 3)
    assert AccuracyEvaluator([1, 0, 2, 2], lambda: [1, 1, 2, 2], name="test")()["test.accuracy"].value == 75
    with pytest.raises(ValueError, match="no sentences"):
        AccuracyEvaluator([], lambda: [], name="dev")
