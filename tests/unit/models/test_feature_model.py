"""Models on word features: where mixtures join, padding, likelihood."""

from __future__ import annotations

import pytest
import torch

from mcse.models.feature_model import FeatureClassifier, FeatureSizes, FeatureTagger
from mcse.text.tags import TagSet
from mcse.types import FeatureBatch


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
