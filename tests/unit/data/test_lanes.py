"""Lanes, sampled softmax and the n-gram models against definitions by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from mcse.data.config import LanguageDataConfig
from mcse.data.lanes import Corpus, LaneStream, LogUniformSampler
from mcse.data.language import load_language_data
from mcse.data.streams import Share
from mcse.evaluation.evaluators.perplexity import PerplexityEvaluator
from mcse.losses.sampled_softmax import log_expected_count, log_uniform_probability, sampled_softmax_nll
from mcse.metrics.perplexity import TrigramModel, UnigramModel, perplexity
from mcse.text.characters import word_characters
from mcse.text.vocab import Vocab

SENTENCES = [["a", "b", "c"], ["d"], ["a", "d", "e", "f"], ["g", "b"], ["c", "c"]] * 4


@pytest.fixture
def vocab():
    return Vocab.from_sentences(SENTENCES, min_count=5, lower_case=False)


@pytest.fixture
def corpus(vocab):
    return Corpus.build(SENTENCES, vocab)


def words_of(corpus):
    names = ["<s>", "</s>", *dict.fromkeys(word for sentence in SENTENCES for word in sentence)]
    return {tuple(row): name for row, name in zip(corpus.character_FC.tolist(), names, strict=True)}


def read(corpus, batches, direction, lane):
    """What one lane sees, and the targets beside it."""
    names = words_of(corpus)
    seen, targets = [], []
    for batch in batches:
        part = getattr(batch, direction)
        seen += [names[tuple(batch.character_WC[row].tolist())] for row in part.word_BT[lane]]
        targets += part.target_BT[lane].tolist()
    return seen, targets


def test_corpus_packs_sentences_with_marks_either_way(corpus):
    order = np.array([2, 0])
    forms = ["<s>", "</s>", "a", "b", "c", "d", "e", "f", "g"]
    texts = [" ".join(forms[i] for i in corpus.packed(order, backward=way)) for way in (False, True)]
    assert texts == ["<s> a d e f </s> <s> a b c </s>", "</s> f e d a <s> </s> c b a <s>"]
    assert corpus.character_FC[2].tolist() == word_characters("a").tolist()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_lanes_go_on_and_predict_what_follows(direction, corpus, vocab):
    stream = LaneStream(corpus, Share(batch_size=3), unroll=4, seed=5)
    batches = [stream.batch(step) for step in range(stream.steps_per_epoch)]
    start = "<s>" if direction == "forward" else "</s>"
    for lane in range(3):
        seen, targets = read(corpus, batches, direction, lane)
        assert len(seen) == 4 * stream.steps_per_epoch
        for word, target in zip(seen[1:], targets[:-1], strict=True):
            expected = -100 if word == start else vocab.index.get(word, 1)
            assert target == expected
        assert -100 in targets
    batch = batches[0]
    assert len(batch.character_WC) == len(batch.character_WC.unique(dim=0)), "a word is there once"


def test_epochs_and_directions_are_shuffled_apart_and_steps_are_pure(corpus):
    stream = LaneStream(corpus, Share(batch_size=2), unroll=5, seed=5)
    first = read(corpus, [stream.batch(0)], "forward", 0)
    other_epoch = read(corpus, [stream.batch(stream.steps_per_epoch)], "forward", 0)
    assert first != other_epoch
    assert read(corpus, [stream.batch(0)], "forward", 0) == first
    epoch = [stream.batch(step) for step in range(stream.steps_per_epoch)]
    forward, backward = (read(corpus, epoch, direction, 0)[0] for direction in ("forward", "backward"))
    assert [word for word in forward if "s>" not in word] != [word for word in backward if "s>" not in word][::-1]


def test_two_processes_read_the_lanes_of_one(corpus):
    sampler = LogUniformSampler(size=9, samples=4, seed=1)
    whole = LaneStream(corpus, Share(batch_size=4), unroll=3, seed=2, sampler=sampler).batch(1)
    halves = [
        LaneStream(corpus, Share(batch_size=2, rank=rank, world_size=2), unroll=3, seed=2, sampler=sampler).batch(1)
        for rank in range(2)
    ]
    for direction in ("forward", "backward"):
        targets = torch.cat([getattr(half, direction).target_BT for half in halves])
        assert torch.equal(targets, getattr(whole, direction).target_BT)
        for half in halves:
            assert torch.equal(getattr(half, direction).negatives.id_S, getattr(whole, direction).negatives.id_S)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_share_of_the_sentences_starts_anew(direction, corpus):
    start = "<s>" if direction == "forward" else "</s>"
    marked = {}
    for share in (0.0, 0.5, 1.0):
        stream = LaneStream(corpus, Share(batch_size=2), unroll=5, seed=5, fresh_share=share)
        epochs = [stream.batch(step) for step in range(40 * stream.steps_per_epoch)]
        if share == 0:
            assert all(getattr(batch, direction).fresh_BT is None for batch in epochs)
            continue
        fresh = [flag for batch in epochs for flag in getattr(batch, direction).fresh_BT[0].tolist()]
        seen, _ = read(corpus, epochs, direction, 0)
        assert not any(flag and word != start for word, flag in zip(seen, fresh, strict=True))
        marked[share] = sum(fresh) / seen.count(start)
    assert marked[1.0] == 1
    assert 0.3 < marked[0.5] < 0.7


def test_a_text_too_short_for_its_lanes_is_refused(corpus):
    with pytest.raises(ValueError, match="do not fill 64 lanes of 20"):
        LaneStream(corpus, Share(batch_size=64), unroll=20, seed=0)


# --- sampled softmax


def test_the_sampler_draws_by_its_probabilities():
    probability = log_uniform_probability(torch.arange(50), size=50)
    assert probability.sum() == pytest.approx(1)
    sampler = LogUniformSampler(size=50, samples=5, seed=0)
    drawn = Counter()
    expected = torch.zeros(50, dtype=torch.float64)
    steps = 3000
    for step in range(steps):
        sample = sampler.draw(step, part=0)
        ids = sample.id_S.tolist()
        assert len(set(ids)) == 5
        drawn.update(ids)
        expected += log_expected_count(torch.arange(50), size=50, draws=sample.draws).exp()
    share = torch.tensor([drawn[word] / steps for word in range(50)], dtype=torch.float64)
    torch.testing.assert_close(share, expected / steps, rtol=0, atol=0.03)
    again, other = sampler.draw(3, part=0), sampler.draw(3, part=1)
    assert again.id_S.tolist() == sampler.draw(3, part=0).id_S.tolist() != other.id_S.tolist()
    with pytest.raises(ValueError, match="loss.samples"):
        LogUniformSampler(size=5, samples=5, seed=0)


def test_sampled_softmax_equals_its_definition():
    torch.manual_seed(0)
    true, negative = torch.randn(3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    label, sampled = torch.tensor([2, 7, 5]), torch.tensor([0, 7, 3, 9])

    def count(word):
        p = math.log((word + 2) / (word + 1)) / math.log(11)
        return 1 - (1 - p) ** 6

    expected = 0.0
    for row in range(3):
        top = true[row].item() - math.log(count(label[row].item()))
        rest = [
            negative[row, s].item() - math.log(count(word))
            for s, word in enumerate(sampled.tolist())
            if word != label[row]
        ]
        expected -= top - math.log(sum(map(math.exp, [top, *rest])))
    found = sampled_softmax_nll(true, negative, label_M=label, negative_S=sampled, size=10, draws=6)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_sampling_every_other_word_is_the_whole_softmax():
    """With all words sampled very often their expected counts are 1 and nothing is corrected."""
    torch.manual_seed(1)
    logit = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 5, 2, 2])
    whole = torch.nn.functional.cross_entropy(logit, label, reduction="sum")
    (expected,) = torch.autograd.grad(whole, logit)
    found = sampled_softmax_nll(
        logit[torch.arange(4), label], logit, label_M=label, negative_S=torch.arange(6), size=6, draws=10_000
    )
    (gradient,) = torch.autograd.grad(found, logit)
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(gradient, expected)


# --- perplexity


def test_perplexity_of_a_fair_die():
    assert perplexity(np.full(10, math.log(6))) == pytest.approx(6)
    with pytest.raises(ValueError, match="no words"):
        perplexity([])


def test_unigram_adds_one():
    nll = UnigramModel([[0, 1, 1], [1]], size=4).nll([[1, 3], [0]])
    assert [np.exp(-row).tolist() for row in nll] == [pytest.approx([4 / 8, 1 / 8]), pytest.approx([2 / 8])]


def test_trigram_sums_to_one_in_every_history():
    rng = np.random.default_rng(0)
    sentences = [rng.integers(0, 6, size=rng.integers(1, 6)).tolist() for _ in range(40)]
    model = TrigramModel(sentences, size=8)
    for u, v in product(range(-1, 8), repeat=2):
        total = sum(model.probability((u, v), word) for word in range(8))
        assert total == pytest.approx(1, abs=1e-12), (u, v)


def test_trigram_equals_kneser_ney_by_hand():
    sentences = [[0, 1, 2], [0, 1, 3], [4, 1, 2]]
    model = TrigramModel(sentences, size=5, discount=0.5)
    # After (0, 1): 2 and 3 once each. After 1: 2 was seen behind two different words, 3 behind one.
    # As a word: behind how many different words. 0: {-1}, 1: {0, 4}, 2: {1}, 3: {1}, 4: {-1}; six in all.
    word = (1 - 0.5) / 6 + 0.5 * 5 / 6 / 5
    pair = (2 - 0.5) / 3 + 0.5 * 2 / 3 * word
    triple = (1 - 0.5) / 2 + 0.5 * 2 / 2 * pair
    assert model.probability((0, 1), 2) == pytest.approx(triple)
    assert model.probability((3, 3), 2) == pytest.approx(word)
    assert np.exp(-model.nll([[0, 1, 2]])[0][2]) == pytest.approx(triple)


def test_trigram_uses_what_came_before():
    sentences = [[1, 2, 3, 4]] * 20 + [[4, 3, 2, 1]] * 20
    ordered = np.concatenate(TrigramModel(sentences, size=6).nll([[1, 2, 3, 4]]))
    mixed = np.concatenate(TrigramModel(sentences, size=6).nll([[2, 4, 1, 3]]))
    assert perplexity(ordered) < 2 < 10 < perplexity(mixed)


class Uniform:
    """Every word costs log 4 forward and log 9 backward."""

    def nll(self, sentences, *, backward=False, batch_size=64):
        return [np.full(len(words) + 1, math.log(9 if backward else 4)) for words in sentences]


def test_perplexity_evaluator_judges_each_way_and_both():
    scores = PerplexityEvaluator(Uniform(), SENTENCES)()
    values = {name: score.value for name, score in scores.items()}
    assert values == pytest.approx({"dev.perplexity": 6, "dev.perplexity_forward": 4, "dev.perplexity_backward": 9})
    assert not any(score.higher_is_better for score in scores.values())
    with pytest.raises(ValueError, match="no sentences"):
        PerplexityEvaluator(Uniform(), [])


# --- data


def test_language_data_holds_out_the_first_sentences(tmp_path):
    (tmp_path / "a.txt").write_text("One, two.\n\nThree four\nfive six\nseven eight\nnine\n")
    config = LanguageDataConfig(sentences="a.txt", root=tmp_path, dev_sentences=2, max_sentences=2)
    data = load_language_data(config, max_characters=50)
    assert data.dev == [["One", ",", "two", "."], ["Three", "four"]]
    assert data.corpus.sentences == 2
    assert set(data.vocab.words[4:]) == {"five", "six", "seven", "eight"}
    spaced = LanguageDataConfig(sentences="*.txt", root=tmp_path, dev="a.txt", dev_sentences=1, splitting="spaces")
    data = load_language_data(spaced, max_characters=50)
    assert data.dev == [["One,", "two."]]
    assert data.corpus.sentences == 5
    assert [file.role for file in data.files] == ["sentences", "dev"]
    with pytest.raises(FileNotFoundError, match="data.sentences: no file"):
        load_language_data(LanguageDataConfig(sentences="b.txt", root=tmp_path), max_characters=50)
    with pytest.raises(ValueError, match="data.unroll"):
        LanguageDataConfig(sentences="a.txt", unroll=0)
