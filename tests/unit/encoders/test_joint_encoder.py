"""A joint model's words: what is unknown gets zeros and a warning, and is refused where somebody asks for it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from mcse import JointEncoder
from mcse.types import Encoder, ImageTextEncoder, KnownWords
from tests.fixtures.colour_model import COLOURS, build_colour_model, draw_colours


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> JointEncoder:
    return JointEncoder.from_pretrained(build_colour_model(tmp_path_factory.mktemp("colours") / "model"), device="cpu")


def test_the_protocols_are_satisfied(encoder: JointEncoder) -> None:
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, ImageTextEncoder)
    assert isinstance(encoder, KnownWords)
    assert encoder.vocabulary is not None
    assert set(COLOURS) < set(encoder.vocabulary)


def test_a_sentence_without_a_known_word_is_zeros_and_a_warning(
    encoder: JointEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    sentences = ["red", "mauve", "a blue thing", "", "mauve red"]
    with caplog.at_level(logging.WARNING):
        rows = encoder.encode(sentences)
    assert np.linalg.norm(rows, axis=1).round(5).tolist() == [1, 0, 1, 0, 1]
    assert "embeddings of zeros for 2 sentences without a known word, first 'mauve', ''" in caplog.text
    caplog.clear()
    np.testing.assert_allclose(encoder.encode(["red", "a blue thing"]), rows[[0, 2]], atol=1e-6)
    assert not caplog.records


def test_unknown_words_are_named_with_their_neighbours(encoder: JointEncoder) -> None:
    assert encoder.unknown_words("a mauve and red") == ["a", "mauve", "and"]
    assert encoder.nearest_words("gren")[0] == "green"
    encoder.check_query("mauve red")
    with pytest.raises(ValueError, match="knows no word of 'gren'; known words like these: green"):
        encoder.check_query("gren")


def test_an_image_is_nearest_to_its_colour(encoder: JointEncoder, tmp_path: Path) -> None:
    folder = draw_colours(tmp_path / "images")
    images = encoder.encode_images([folder / f"{colour}.png" for colour in COLOURS])
    best = (encoder.encode_captions(list(COLOURS)) @ images.T).argmax(1)
    assert best.tolist() == list(range(len(COLOURS)))
