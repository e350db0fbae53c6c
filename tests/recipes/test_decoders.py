"""A causal model, pooled by its last token: trained, exported, and read by sentence-transformers with equal rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

from sentence_transformers import SentenceTransformer

from mcse import SentenceEncoder
from mcse.nn.pooling import pool
from tests.fixtures.launch import run
from tests.fixtures.library_models import build_tiny_decoder
from tests.fixtures.tiny_models import TEXTS
from tests.fixtures.tiny_run import build_tiny_run

SENTENCES = [*TEXTS, "a", "Two dogs run. " * 30]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("recipe", ["simcse", "mcse"])
def test_a_decoder_trains_and_its_rows_are_those_of_sentence_transformers(tiny, tmp_path, recipe, side):
    decoder = build_tiny_decoder(tmp_path / side, padding_side=side)
    keys = {"encoder.name_or_path": str(decoder), "encoder.pooling": "last", "encoder.dropout": 0.1}
    assert run(tiny, recipe, tmp_path / "run", keys) == 0
    encoder = SentenceEncoder.from_pretrained(tmp_path / "run", device="cpu")
    assert encoder.pooling == "last"
    best = tmp_path / "run" / "best"
    assert json.loads((best / "1_Pooling" / "config.json").read_text())["pooling_mode_lasttoken"]
    rows = encoder.encode(SENTENCES, batch_size=5)
    for padding_side in ("left", "right"):
        library = SentenceTransformer(str(best), device="cpu")
        library.tokenizer.padding_side = padding_side
        np.testing.assert_allclose(rows, library.encode(SENTENCES, batch_size=4), atol=1e-5)
    trained = abs(rows - SentenceEncoder.from_pretrained(str(decoder), pooling="last").encode(SENTENCES)).max()
    assert trained > 1e-4
    assert np.ptp(rows, axis=0).max() > 0.1


@pytest.mark.parametrize("keys", [{}, {"encoder.lora": {"rank": 2, "dropout": 0.1}}], ids=["whole", "adapters"])
def test_a_decoder_without_dropout_is_refused_with_what_to_set(keys, tiny, tmp_path, capsys):
    """Dropout of adapters makes no views: they add nothing at the start."""
    keys = keys | {"encoder.name_or_path": str(build_tiny_decoder(tmp_path)), "encoder.pooling": "last"}
    assert run(tiny, "simcse", tmp_path / "run", keys) == 2
    said = capsys.readouterr().err
    assert "encoder.dropout: a sentence is its own positive here, and two training passes of" in said
    assert "set encoder.dropout (BERT has 0.1)" in said
    assert run(tiny, "tables", tmp_path / "run", keys) == 0, "pairs need none"


def test_the_last_token_is_found_on_either_side_of_the_padding():
    hidden_BTD = torch.randn(3, 4, 5)
    mask_BT = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    row_BD = pool([hidden_BTD], mask_BT, pooling="last")
    torch.testing.assert_close(row_BD, torch.stack([hidden_BTD[0, 1], hidden_BTD[1, 3], hidden_BTD[2, 3]]))
