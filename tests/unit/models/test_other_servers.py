"""What text-embeddings-inference and vLLM read of a checkpoint, file by file, as their sources read it.

Neither is run. Sources: text-embeddings-inference, ``router/src/lib.rs``, ``core/src/download.rs``,
``backends/candle/src/layers``; vLLM, ``vllm/transformers_utils/config.py`` and
``vllm/model_executor/models/adapters.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoModel

from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.manifest import Manifest
from mcse.models.checkpoint import save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.nn.heads import TanhHead
from tests.fixtures.tiny_models import MAX_TOKENS, TEXTS, build_tiny_bert, build_tiny_roberta

BUILDERS = {"bert": build_tiny_bert, "roberta": build_tiny_roberta}
MODULES = "sentence_transformers.models."
"""The names of types in the schema of versions 3 and 4, which both servers know."""


@pytest.fixture(scope="module", params=BUILDERS)
def base(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


def save(base: Path, folder: Path, *, pooling: str, prompt: str = "") -> Path:
    encoder = load_text_encoder(str(base), pooling=pooling).eval()
    tokenizer = load_tokenizer(str(base), prompt=prompt)
    head = TanhHead(32, 32, init_std=0.2) if pooling == "cls_with_head" else None
    manifest = Manifest(kind="sentence", recipe="simcse", pooling=pooling)
    made = {"encoder": encoder, "tokenizer": tokenizer, "manifest": manifest, "text_head": head}
    save_checkpoint(folder, **made, image_heads={}, card="")
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_with_head"])
def test_each_file_is_there_with_what_the_servers_take_from_it(base, tmp_path, pooling):
    kind, original = base
    folder = save(original, tmp_path / "checkpoint", pooling=pooling)

    config = read(folder / "config.json")
    assert config["model_type"] == kind
    assert config["architectures"]
    assert not any(name.endswith("Classification") for name in config["architectures"])
    # Positions of RoBERTa begin behind its padding: both servers take the offset from pad_token_id.
    offset = config["pad_token_id"] + 1 if kind == "roberta" else 0
    assert config["max_position_embeddings"] - offset == MAX_TOKENS

    settings = read(folder / "sentence_bert_config.json")
    assert settings == {"max_seq_length": MAX_TOKENS, "do_lower_case": False}

    switches = read(folder / "1_Pooling" / "config.json")
    needed = {f"pooling_mode_{mode}" for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}
    assert needed <= switches.keys()
    assert [key for key, value in switches.items() if value is True] == [
        "pooling_mode_mean_tokens" if pooling == "mean" else "pooling_mode_cls_token"
    ]

    modules = read(folder / "modules.json")
    kinds = ["Transformer", "Pooling", *(["Dense"] if pooling == "cls_with_head" else []), "Normalize"]
    assert [module["type"] for module in modules] == [MODULES + name for name in kinds]
    assert all((folder / module["path"]).is_dir() for module in modules)
    assert modules[1]["path"] == "1_Pooling"

    prompts = read(folder / "config_sentence_transformers.json")["prompts"]
    assert prompts == {}


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_with_head"])
def test_rows_made_of_these_files_alone_are_those_of_encode(base, tmp_path, pooling):
    """Tokenizer, weights, pooling, Dense and norm as a server puts them together."""
    folder = save(base[1], tmp_path / "checkpoint", pooling=pooling)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    model = AutoModel.from_pretrained(folder).eval()
    stored = set(load_file(folder / "model.safetensors"))
    assert stored == {name for name in model.state_dict() if not name.startswith("pooler.") or name in stored}
    expected = SentenceEncoder.from_pretrained(folder).encode(TEXTS)
    switches = read(folder / "1_Pooling" / "config.json")
    for text, row in zip(TEXTS, expected, strict=True):
        ids = tokenizer.encode(text).ids[:MAX_TOKENS]
        with torch.inference_mode():
            states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
        found = states.mean(axis=0) if switches["pooling_mode_mean_tokens"] else states[0]
        if pooling == "cls_with_head":
            shape, dense = read(folder / "2_Dense" / "config.json"), load_file(folder / "2_Dense" / "model.safetensors")
            assert shape == {
                "in_features": 32,
                "out_features": 32,
                "bias": True,
                "activation_function": "torch.nn.modules.activation.Tanh",
            }
            found = np.tanh(dense["linear.weight"] @ found + dense["linear.bias"])
        np.testing.assert_allclose(found / np.linalg.norm(found), row, rtol=0, atol=1e-5)


def test_a_prompt_stands_by_its_name(base, tmp_path):
    folder = save(base[1], tmp_path / "checkpoint", pooling="cls", prompt="query: ")
    assert read(folder / "config_sentence_transformers.json")["prompts"] == {"default": "query: "}
