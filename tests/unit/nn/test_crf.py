"""The CRF against sums and maxima over every tag sequence, written in plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from mcse.nn.crf import LinearChainCRF
from mcse.text.tags import TagSet

TAGS = TagSet(("LOC", "PER"))


def build(*, constrained=True, seed=0):
    torch.manual_seed(seed)
    follow, start = torch.from_numpy(TAGS.may_follow()), torch.from_numpy(TAGS.may_start())
    if not constrained:
        follow, start = torch.ones_like(follow), torch.ones_like(start)
    crf = LinearChainCRF(follow, start).double()
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf


def score(crf, emission_WK, path):
    """Of one tag sequence; -inf where it is forbidden."""
    if not crf.may_start_K[path[0]]:
        return -math.inf
    total = crf.start_K[path[0]] + crf.end_K[path[-1]]
    for word, tag in enumerate(path):
        total = total + emission_WK[word, tag]
    for before, after in itertools.pairwise(path):
        if not crf.may_follow_KK[before, after]:
            return -math.inf
        total = total + crf.transition_KK[before, after]
    return float(total.detach())


def every_path(length):
    return list(itertools.product(range(len(TAGS)), repeat=length))


def batch(lengths, *, seed=1):
    torch.manual_seed(seed)
    emission = torch.randn(len(lengths), max(lengths), len(TAGS), dtype=torch.float64)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return emission, mask


@pytest.mark.parametrize("constrained", [True, False])
def test_probabilities_of_all_sequences_sum_to_one(constrained):
    crf = build(constrained=constrained)
    emission, mask = batch([4])
    paths = [p for p in every_path(4) if math.isfinite(score(crf, emission[0], p))]
    assert (len(paths) < 5**4) == constrained
    tags = torch.tensor(paths)
    nll = crf.nll(emission.expand(len(paths), -1, -1), tags, mask.expand(len(paths), -1))
    assert float((-nll).exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("constrained", [True, False])
def test_partition_path_and_best_path_equal_brute_force(constrained):
    crf = build(constrained=constrained)
    lengths = [4, 1, 3]
    emission, mask = batch(lengths)
    decoded = crf.decode(emission, mask)
    partition = crf.log_partition(emission, mask)
    for row, length in enumerate(lengths):
        scores = {path: score(crf, emission[row], path) for path in every_path(length)}
        total = math.log(sum(math.exp(value) for value in scores.values()))
        assert float(partition[row].detach()) == pytest.approx(total, abs=1e-10)
        best = max(scores, key=scores.get)
        assert tuple(decoded[row, :length].tolist()) == best
        assert not decoded[row, length:].any()
        tags = torch.tensor([[*best] + [3] * (4 - length)])
        nll = crf.nll(emission[row : row + 1], tags, mask[row : row + 1])
        assert float(nll.detach()) == pytest.approx(total - scores[best], abs=1e-10)


def test_what_is_masked_changes_nothing():
    crf = build()
    emission, mask = batch([4, 2])
    other = emission.clone()
    other[1, 2:] = 100.0
    tags = torch.tensor([[0, 1, 2, 0], [3, 4, 0, 0]])
    changed = tags.clone()
    changed[1, 2:] = 4
    torch.testing.assert_close(crf.nll(emission, tags, mask), crf.nll(other, changed, mask))
    alone = crf.nll(emission[1:, :2], tags[1:, :2], mask[1:, :2])
    torch.testing.assert_close(crf.nll(emission, tags, mask)[1:], alone)
    assert torch.equal(crf.decode(emission, mask), crf.decode(other, mask))
    full = torch.ones_like(mask)
    assert not torch.allclose(crf.nll(emission, tags, mask)[1], crf.nll(emission, tags, full)[1]), "masks matter"


def test_constrained_probability_equals_the_sum_of_its_paths():
    crf = build()
    emission, mask = batch([4])
    allowed = torch.ones(1, 4, len(TAGS), dtype=torch.bool)
    allowed[0, 1] = allowed[0, 2] = allowed[0, 3, 2] = False
    allowed[0, 1, 1] = allowed[0, 2, 2] = True  # B-LOC I-LOC at words 1 and 2, and no I-LOC behind
    weight = {path: math.exp(score(crf, emission[0], path)) for path in every_path(4)}
    kept = sum(w for path, w in weight.items() if path[1:3] == (1, 2) and path[3] != 2)
    assert float(crf.probability(emission, mask, allowed)) == pytest.approx(kept / sum(weight.values()), abs=1e-12)


def test_gradients_are_finite_and_no_weight_moves_what_is_forbidden():
    crf = build()
    emission, mask = batch([4, 1, 3])
    emission.requires_grad_()
    crf.nll(emission, torch.tensor([[0, 1, 2, 0], [3, 0, 0, 0], [0, 0, 1, 0]]), mask).sum().backward()
    for tensor in (emission, *crf.parameters()):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0
    assert not crf.transition_KK.grad[~crf.may_follow_KK].any()
    assert not emission.grad[1, 1:].any()


def test_gold_that_no_bio_allows_has_no_likelihood():
    """Why tags are repaired on load."""
    crf = build()
    emission, mask = batch([2])
    assert crf.nll(emission, torch.tensor([[0, 2]]), mask).isinf().all()


def test_scores_are_summed_in_float32_under_bfloat16():
    crf = build().float()
    emission, mask = batch([4])
    exact = crf.nll(emission.bfloat16().float(), torch.tensor([[0, 1, 2, 0]]), mask)
    torch.testing.assert_close(crf.nll(emission.bfloat16(), torch.tensor([[0, 1, 2, 0]]), mask), exact)
