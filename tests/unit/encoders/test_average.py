"""Averages of encoders, spelled as one name."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.manifest import AveragePart, Reading, parts_of_average
from tests.fixtures.tiny_models import build_tiny_bert

TEXTS = ["a dog runs", "two cats sleep", "one bird", "zzz", ""]


@pytest.fixture
def models(tmp_path):
    vectors = tmp_path / "v.txt"
    vectors.write_text("a 1 2\ndog 3 -4\ncats 0 2\nsleep 1 0\none -1 1\nbird 2 2\n")
    bert = str(build_tiny_bert(tmp_path / "bert", texts=TEXTS))
    load_encoder(bert, pooling="cls").encode(TEXTS)  # what is imported with the first one is no part of a test
    return bert, str(vectors)


def test_cosines_are_the_weighted_average_of_the_parts(models):
    bert, vectors = models
    encoder = load_encoder(f"average:1={bert}@cls+3={vectors}+4={bert}@mean")
    parts = [load_encoder(bert, pooling="cls"), load_encoder(vectors), load_encoder(bert, pooling="mean")]
    wanted = sum(
        share * part.similarity(TEXTS[:3], TEXTS[:3]).astype(np.float64)
        for share, part in zip((0.125, 0.375, 0.5), parts, strict=True)
    )
    np.testing.assert_allclose(encoder.encode(TEXTS[:3]) @ encoder.encode(TEXTS[:3]).T, wanted, atol=1e-5)
    assert encoder.dimension == 66
    assert encoder.pooling == "average"
    assert encoder.encode(TEXTS, batch_size=2).shape == (5, 66)
    np.testing.assert_allclose(encoder.encode(TEXTS, batch_size=2), encoder.encode(TEXTS), atol=1e-6)


def test_an_average_of_one_is_that_one(models):
    bert, _ = models
    encoder, itself = load_encoder(f"average:1={bert}@mean"), load_encoder(bert, pooling="mean")
    assert encoder.pooling == "mean"
    np.testing.assert_allclose(encoder.encode(TEXTS, normalize=False), itself.encode(TEXTS, normalize=False), atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS, max_length=3), itself.encode(TEXTS, max_length=3), atol=1e-6)


def test_names_are_parted_at_weights_and_poolings_alone(tmp_path):
    assert parts_of_average("0.5=a/b+.5=c+d=e@cls+2=x:y/z@last2_mean") == [
        AveragePart(0.5, "a/b", None),
        AveragePart(0.5, "c+d=e", "cls"),
        AveragePart(2.0, "x:y/z", "last2_mean"),
    ]
    folder = tmp_path / "me@home"
    folder.mkdir()
    assert parts_of_average(f"1={folder}") == [AveragePart(1.0, str(folder), None)]
    assert parts_of_average(f"1={folder}@mean") == [AveragePart(1.0, str(folder), "mean")]
    for wrong in ("", "a", "a+b", "0=a", "1=", "-1=a", "1=a+0=b"):
        with pytest.raises(ValueError, match=r"expected WEIGHT=MODEL\+WEIGHT=MODEL with positive weights"):
            parts_of_average(wrong)


def test_its_digest_is_that_of_all_parts_weights_and_poolings(models):
    bert, vectors = models
    names = [f"average:1={bert}@cls+1={vectors}", f"average:2={bert}@cls+1={vectors}", f"average:1={bert}@cls"]
    names += [f"average:1={bert}@mean+1={vectors}", f"average:1={vectors}+1={bert}@cls"]
    digests = {encoder_digest(name) for name in names}
    assert len(digests) == len(names)
    assert None not in digests


def test_a_prompt_and_a_pooling_are_of_parts(models):
    bert, vectors = models
    name = f"average:1={bert}@cls+1={vectors}"
    with pytest.raises(ValueError, match="each part has its own prompt"):
        load_encoder(name, reading=Reading(prompt="x"))
    with pytest.raises(ValueError, match="each part has its own, as NAME@POOLING"):
        load_encoder(name, pooling="cls")
