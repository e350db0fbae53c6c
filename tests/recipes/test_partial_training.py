"""Runs that train a part of the encoder: adapters, heads alone, or all but what is frozen by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mcse import SentenceEncoder
from mcse.recipes import method, shared
from mcse.recipes.launch import load_config
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import arguments_of, assert_same_run, one_thread, own_cache, run
from tests.fixtures.tiny_run import build_tiny_run

SENTENCES = ["the dog runs in the park", "a", "the horse jumps in the river number 3", "number"]
LORA = {"encoder.lora": {"rank": 3, "alpha": 6, "dropout": 0.1, "modules": ["query", "value", "intermediate"]}}
FROZEN = {"encoder.frozen": ["embeddings", "layer.0"]}
RECIPES = ("simcse", "mcse", "tables")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


def weights(folder):
    """The encoder's own, without the pooler of the base model."""
    state = load_file(folder / "model.safetensors")
    return {
        name.removeprefix("bert."): value
        for name, value in state.items()
        if not name.startswith(("cls.", "bert.pooler"))
    }


def changed(tiny, output):
    before, after = weights(tiny / "bert"), weights(output / "last")
    assert after.keys() == before.keys() - {"pooler.dense.weight", "pooler.dense.bias"}
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def state_names(output, part):
    return set(load_file(max((output / "state").iterdir()) / f"{part}.safetensors"))


def facts(output):
    return json.loads((output / "run.json").read_text())["facts"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_of_adapters_the_merged_layers_change_and_nothing_else(recipe, tiny, tmp_path):
    assert run(tiny, recipe, tmp_path / "run", LORA | {"encoder.packing": recipe == "mcse"}) == 0
    layers = {
        f"encoder.layer.{number}.{layer}.weight"
        for number in range(2)
        for layer in ("attention.self.query", "attention.self.value", "intermediate.dense")
    }
    # A step moves B alone, since it starts at 0; then both.
    assert changed(tiny, tmp_path / "run") == layers
    assert facts(tmp_path / "run")["adapters"] == "rank 3 in 6 linear layers"
    trained, _, everything = facts(tmp_path / "run")["parameters trained"].replace(",", "").partition(" of ")
    saved = load_file(max((tmp_path / "run" / "state").iterdir()) / "model.safetensors")
    adapters = {name: value for name, value in saved.items() if ".lora_" in name}
    assert len(adapters) == 12
    assert not [name for name in saved if "base_layer" in name or "LayerNorm.weight" in name]
    heads = {name: value for name, value in saved.items() if name not in adapters and value.is_floating_point()}
    assert int(trained) == sum(value.numel() for value in (adapters | heads).values()) < int(everything)
    names = state_names(tmp_path / "run", "optimizer")
    assert {name.rpartition(".")[0] for name in names} == (adapters | heads).keys()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("keys", [LORA, FROZEN], ids=["adapters", "frozen"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(recipe, keys, tiny, tmp_path):
    keys = keys | {"optim.schedule": "constant"}
    assert run(tiny, recipe, tmp_path / "straight", keys) == 0
    assert run(tiny, recipe, tmp_path / "parts", keys | {"train.max_steps": 3}) == 0
    assert run(tiny, recipe, tmp_path / "parts", keys | {"train.resume": "auto"}) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "parts")


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_frozen_by_name_stays_and_has_no_moments(recipe, tiny, tmp_path):
    assert run(tiny, recipe, tmp_path / "run", FROZEN) == 0
    moved = changed(tiny, tmp_path / "run")
    assert moved
    assert all(name.startswith("encoder.layer.1.") for name in moved)
    for part in ("model", "optimizer"):
        names = state_names(tmp_path / "run", part)
        assert any("layer.1." in name for name in names)
        assert not [name for name in names if "layer.0." in name or "embeddings.word" in name]
    assert facts(tmp_path / "run")["encoder frozen"] == "embeddings, layer.0"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("keys", [LORA, FROZEN], ids=["adapters", "frozen"])
def test_the_optimizer_holds_what_trains_and_nothing_else(recipe, keys, tiny, tmp_path):
    with one_thread(), own_cache(tiny):
        config = load_config(None, arguments_of(tiny, recipe, tmp_path / "unused", keys))
        built = method(recipe).build(config, start_runtime(precision="fp32", seed=0))
    held = [id(parameter) for group in built.optimizer.param_groups for parameter in group["params"]]
    trained = {id(parameter) for parameter in built.model.parameters() if parameter.requires_grad}
    assert set(held) == trained
    assert len(held) == len(trained) < len(list(built.model.parameters()))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_with_the_encoder_frozen_sentences_keep_their_embeddings(pooling, chunk, tiny, tmp_path, monkeypatch):
    """Bit for bit, and image and grounding head learn; so a decoder without dropout may be given, too."""
    plain, seen = shared.dev_encoder, []

    def watched(*given, **keys):
        encoder = plain(*given, **keys)
        seen.append((encoder, encoder.encode(SENTENCES)))
        return encoder

    monkeypatch.setattr(shared, "dev_encoder", watched)
    keys = {"encoder.frozen": True, "encoder.pooling": pooling, "train.cached_chunk_size": chunk}
    assert run(tiny, "mcse", tmp_path / "run", keys | {"encoder.dropout": 0.0}) == 0
    [(encoder, before)] = seen
    np.testing.assert_array_equal(encoder.encode(SENTENCES), before)
    assert not changed(tiny, tmp_path / "run")
    untrained = SentenceEncoder.from_pretrained(str(tiny / "bert"), pooling=pooling, device="cpu")
    exported = SentenceEncoder.from_pretrained(tmp_path / "run", device="cpu")
    np.testing.assert_allclose(exported.encode(SENTENCES), untrained.encode(SENTENCES), atol=1e-6)
    states = sorted((tmp_path / "run" / "state").iterdir())
    first, last = (load_file(state / "model.safetensors") for state in (states[0], states[-1]))
    moved = {name.partition(".")[0] for name, value in last.items() if not torch.equal(value, first[name])}
    assert {"grounding_head", "image_head"} <= moved
    assert not [name for name in last if ".encoder.layer." in name]
    assert facts(tmp_path / "run")["encoder frozen"] == "all"


def test_a_head_that_is_part_of_embeddings_trains_alone(tiny, tmp_path):
    keys = {"encoder.frozen": True, "encoder.pooling": "cls_with_head"}
    assert run(tiny, "simcse", tmp_path / "run", keys) == 0
    before, after = weights(tiny / "bert"), weights(tmp_path / "run" / "last")
    moved = {name for name, value in after.items() if not torch.equal(value, before.get(name, value[:0]))}
    assert moved == {"pooler.dense.weight", "pooler.dense.bias"}  # where SimCSE's head is stored
    assert state_names(tmp_path / "run", "model") == {"head.linear.weight", "head.linear.bias"}


REFUSED = {
    "simcse": ({"encoder.frozen": True}, "encoder.frozen: true would train a head that no embedding has"),
    "tables": ({"encoder.frozen": True}, "encoder.frozen: true would leave nothing to train"),
    "mcse": ({"encoder.frozen": ["layers.0"]}, "encoder.frozen: 'layers.0' is in the name of no weight of"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_would_train_nothing_is_refused_before_a_folder_is_made(recipe, tiny, tmp_path, capsys):
    keys, said = REFUSED[recipe]
    assert run(tiny, recipe, tmp_path / "run", keys) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
