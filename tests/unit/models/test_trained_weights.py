"""Which weights train: by name, and adapters by their definition, by peft's own merging, and in other architectures."""

from __future__ import annotations

import copy
import re
import sys

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

from mcse.models.config import EncoderConfig, LoraConfig
from mcse.models.trained_weights import add_adapters, freeze, merged_state
from tests.fixtures.architectures import build_architecture

peft = pytest.importorskip("peft", reason="peft is not installed")

KINDS = ("albert", "bert", "distilbert", "eurobert", "gpt2", "llama", "modernbert", "mpnet", "opt", "qwen2", "roformer")
IDS = torch.tensor([[3, 9, 21, 40, 5], [3, 17, 8, 60, 5]])


def small_bert(layers: int = 3) -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12, "num_hidden_layers": layers}
    return BertModel(BertConfig(vocab_size=64, **sizes), add_pooling_layer=False).eval()


def train_adapters(model: torch.nn.Module) -> None:
    """Adapters as if they had been trained: B is 0 at the start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.2)


def rows(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).last_hidden_state


def frozen(model: torch.nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if not weight.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_give_what_adapters_give(kind, tmp_path):
    """Of GPT-2 the layers are turned round, and peft says so too: its own merging is the other witness."""
    model = build_architecture(tmp_path / kind, kind)
    before, names = rows(model), set(model.state_dict())
    assert add_adapters(model, LoraConfig(rank=2, alpha=6), name=kind) > 4
    torch.testing.assert_close(rows(model), before, rtol=0, atol=0)
    assert frozen(model) == {name for name, _ in model.named_parameters() if ".lora_" not in name}
    train_adapters(model)
    adapted, state = rows(model), merged_state(model)
    assert (adapted - before).abs().max() > 1e-3 * before.abs().max()
    assert set(state) == names
    loaded = AutoModel.from_pretrained(tmp_path / kind).eval()
    loaded.load_state_dict(state)
    size = adapted.abs().max()
    torch.testing.assert_close(rows(loaded) / size, adapted / size, rtol=0, atol=1e-5)
    for module in model.modules():
        if hasattr(module, "get_delta_weight"):
            module.merge()
    torch.testing.assert_close(rows(model) / size, rows(loaded) / size, rtol=0, atol=1e-6)


def test_an_adapter_adds_alpha_over_rank_times_b_a():
    model = small_bert()
    add_adapters(model, LoraConfig(rank=2, alpha=5, modules=("layer.1.attention.self.query",)), name="bert")
    train_adapters(model)
    layer = model.encoder.layer[1].attention.self.query
    down, up = layer.lora_A.default.weight, layer.lora_B.default.weight
    base = layer.base_layer.weight
    expected = base.detach().clone()
    for out in range(8):
        for own in range(8):
            for rank in range(2):
                expected[out, own] += 5 / 2 * (up[out, rank] * down[rank, own]).item()
    found = merged_state(model)["encoder.layer.1.attention.self.query.weight"]
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, base)
    assert not [name for name in frozen(model) if "lora" in name]


@pytest.mark.parametrize(
    ("modules", "count"),
    [
        ((), 18),
        (("query", "value"), 6),
        (("layer.1-2.attention.self",), 6),
        (("output.dense",), 6),
        (("*_proj",), None),
    ],
)
def test_layers_are_named_by_parts_of_their_names(modules, count):
    if count is None:
        with pytest.raises(ValueError, match=r"encoder.lora.modules: '\*_proj' is in the name of no linear layer"):
            add_adapters(small_bert(), LoraConfig(modules=modules), name="bert")
    else:
        assert add_adapters(small_bert(), LoraConfig(modules=modules), name="bert") == count


def test_all_that_a_name_means_is_frozen_and_nothing_else():
    model = small_bert()
    freeze(model, ["embeddings", "layer.0-1", "layer.2.output.LayerNorm.bias"], name="bert")
    kept = frozen(model)
    expected = {name for name, _ in model.named_parameters() if name.startswith("embeddings.")}
    for name, _ in model.named_parameters():
        if name.startswith(("encoder.layer.0.", "encoder.layer.1.")):
            expected.add(name)
    assert kept == expected | {"encoder.layer.2.output.LayerNorm.bias"}
    freeze(model, True, name="bert")
    assert frozen(model) == {name for name, _ in model.named_parameters()}
    other = small_bert()
    freeze(other, False, name="bert")
    assert not frozen(other)


def test_a_number_is_a_whole_part_of_a_name():
    model = small_bert(layers=12)
    freeze(model, ["layer.1"], name="bert")
    assert {name.split(".")[2] for name in frozen(model)} == {"1"}


THERE = "encoder.layer.0-2, embeddings, attention, self, query, key, value, output, dense, LayerNorm, intermediate"
REFUSED = {
    "embedings": "encoder.frozen: 'embedings' is in the name of no weight of 'bert'; did you mean 'embeddings'? There "
    f"are {THERE}",
    "layer.0-3": f"encoder.frozen: 'layer.3' is in the name of no weight of 'bert'; there are {THERE}",
    "layer.2-1": "encoder.frozen: 'layer.2-1': 2-1 holds no number",
    "layer.[0-1]": "encoder.frozen: 'layer.[0-1]': numbers are given as layer.0-3, and * stands for any part of a name",
    "ayer.0": f"encoder.frozen: 'ayer.0' is in the name of no weight of 'bert'; there are {THERE}",
    "*": "encoder.frozen: names every weight of 'bert'; give true, if that is meant",
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_names_that_mean_nothing_are_refused_with_those_that_are_there(pattern):
    with pytest.raises(ValueError, match=f"^{re.escape(REFUSED[pattern])}$"):
        freeze(small_bert(), [pattern], name="bert")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lora": LoraConfig(), "frozen": True}, "encoder.lora, encoder.frozen: adapters train beside"),
        ({"lora": LoraConfig(), "frozen": ("embeddings",)}, "encoder.lora, encoder.frozen: adapters train beside"),
        ({"frozen": True, "gradient_checkpointing": True}, "encoder.gradient_checkpointing: would do nothing"),
    ],
)
def test_what_cannot_work_together_is_refused(keys, said):
    with pytest.raises(ValueError, match=said):
        EncoderConfig(name_or_path="x", **keys)


@pytest.mark.parametrize(("key", "value"), [("rank", 0), ("alpha", 0.0), ("dropout", 1.0)])
def test_adapters_of_no_size_are_refused(key, value):
    with pytest.raises(ValueError, match=f"encoder.lora.{key}: must be"):
        LoraConfig(**{key: value})


def test_without_peft_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"encoder.lora: needs the package peft.*pip install 'mcse\[lora\]'"):
        add_adapters(small_bert(), LoraConfig(), name="bert")


def test_a_model_without_adapters_keeps_its_state():
    model = small_bert()
    state, expected = merged_state(model), copy.deepcopy(model.state_dict())
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
