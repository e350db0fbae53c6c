"""Packed sentences get the rows and gradients that they get alone; attention drops out; models it does not fit."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MPNetConfig, MPNetModel, modeling_flash_attention_utils

from mcse.manifest import Manifest
from mcse.models import packing
from mcse.models.checkpoint import trained_attention
from mcse.models.config import EncoderConfig
from mcse.models.packing import attend, attention_over, pack
from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import load_text_encoder
from mcse.nn.pooling import POOLINGS
from mcse.types import TokenBatch
from tests.fixtures.tiny_models import build_tiny_bert, build_tiny_roberta


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Without dropout, so that two routes can be compared."""
    root = tmp_path_factory.mktemp("tiny")
    found = {"bert": build_tiny_bert(root / "bert"), "roberta": build_tiny_roberta(root / "roberta")}
    for folder in found.values():
        path = folder / "config.json"
        without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        path.write_text(json.dumps(json.loads(path.read_text()) | without))
    return found


def _tokens() -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    length = torch.tensor([9, 3, 7, 3, 5, 12, 3])
    mask = (torch.arange(12)[None] < length[:, None]).long()
    # 1 is RoBERTa's padding id, for which it counts no position.
    return TokenBatch(torch.randint(5, 60, (7, 12), generator=generator) * mask + (1 - mask), mask)


def test_pack_takes_the_padding_out() -> None:
    tokens = _tokens()
    packed = pack(tokens)
    order = [1, 3, 6, 4, 2, 0, 5]
    assert packed.place_B[torch.tensor(order)].tolist() == list(range(7))
    assert packed.runs == ((3, 3), (1, 5), (1, 7), (1, 9), (1, 12))
    ids = [tokens.input_ids_BT[i, : tokens.attention_mask_BT[i].sum()].tolist() for i in order]
    assert packed.input_ids_N.tolist() == [token for row in ids for token in row]
    assert packed.position_N.tolist() == [place for row in ids for place in range(len(row))]
    assert packed.bound_S.tolist() == [0, 3, 6, 9, 14, 21, 30, 42]
    assert packed.start_B.tolist() == [0, 3, 6, 9, 14, 21, 30]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("kind", "first_position"), [("bert", 0), ("roberta", 2)])
def test_rows_and_gradients_are_those_of_padded_sentences(
    kind: str, first_position: int, pooling: str, folders: dict[str, Path]
) -> None:
    results = []
    for packs in (False, True):
        encoder = load_text_encoder(str(folders[kind]), pooling=pooling, packing=packs).double().train()
        assert encoder.first_position == (first_position if packs else None)
        rows = encoder(_tokens())
        (rows * torch.arange(1.0, 8.0)[:, None]).pow(2).sum().backward()
        results.append((rows.detach(), {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}))
    (padded, padded_gradients), (packed, packed_gradients) = results
    torch.testing.assert_close(packed, padded, rtol=1e-10, atol=1e-12)
    assert padded_gradients.keys() == packed_gradients.keys()
    for name, gradient in padded_gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


def test_encoders_around_a_model_leave_hooks_in_it_only_when_they_pack(folders: dict[str, Path]) -> None:
    encoder = load_text_encoder(str(folders["bert"]), pooling="cls")

    def hooks() -> int:
        return sum(len(module._forward_pre_hooks) for module in encoder.backbone.modules())

    for _ in range(3):
        TextEncoder(encoder.backbone, pooling="mean")(_tokens())
    assert hooks() == 0
    for _ in range(3):
        encoder.packed_rows(_tokens(), first_position=0)
    assert hooks() == 1


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_fillers_change_nothing(pooling: str, folders: dict[str, Path]) -> None:
    """42 tokens become 64, by sentences that nobody reads."""
    encoder = load_text_encoder(str(folders["bert"]), pooling=pooling, packing=True).double().train()
    results = []
    for rounds in (False, True):
        encoder.uses_graphs = rounds
        encoder.zero_grad()
        rows = encoder(_tokens())
        (rows * torch.arange(1.0, 8.0)[:, None]).pow(2).sum().backward()
        results.append((rows.detach(), {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}))
    (plain, gradients), (filled, filled_gradients) = results
    torch.testing.assert_close(filled, plain, rtol=1e-10, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(filled_gradients[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


def test_fillers_leave_few_shapes() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = set()
    for _ in range(100):
        length = torch.randint(5, 33, (128, 1), generator=generator).clamp(max=32)
        length[0] = 32
        mask = (torch.arange(32) < length).long()
        packed = pack(TokenBatch(mask, mask), rounded=True)
        shapes.add((len(packed.input_ids_N), len(packed.bound_S), packed.longest))
        total = int(length.sum())
        assert total <= len(packed.input_ids_N) <= total * 17 / 16
        assert len(packed.input_ids_N) == packed.bound_S[-1] == sum(count * tokens for count, tokens in packed.runs)
        assert torch.equal(packed.bound_S.diff()[:128].sort().values, length.flatten().sort().values)
        assert packed.bound_S.diff().max() <= packed.longest == 32
    assert len(shapes) <= 8


def test_in_the_last_layer_first_tokens_alone_are_computed(folders: dict[str, Path]) -> None:
    encoder = load_text_encoder(str(folders["bert"]), pooling="cls", packing=True).train()
    seen: list[int] = []
    for layer in encoder.backbone.encoder.layer:
        layer.intermediate.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    encoder(_tokens())
    assert seen == [42, 7]
    seen.clear()
    encoder.eval()(_tokens())
    assert seen == [12, 12], "only training packs"


def test_attention_drops_out_packed_and_padded(tmp_path: Path) -> None:
    path = build_tiny_bert(tmp_path / "bert") / "config.json"
    only_attention = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    path.write_text(json.dumps(json.loads(path.read_text()) | only_attention))
    for packs in (False, True):
        encoder = load_text_encoder(str(path.parent), pooling="cls", packing=packs).train()
        assert (encoder(_tokens()) != encoder(_tokens())).any(1).all()


@pytest.mark.parametrize("packs", [False, True])
def test_attention_equals_pytorchs_own_under_the_same_mask(packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences of 3, 3 and 5 tokens; the dropout mask is one of all ones, of the shape that was asked for."""
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(3, 2, 5, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    mask_BT = torch.arange(5) < torch.tensor([3, 3, 5])[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask_BT[:, None, None], scale=0.3
    ).transpose(1, 2)
    shapes = []

    def ones(shape, p, *, device=None):
        shapes.append((tuple(shape), p))
        return torch.ones(tuple(shape))

    monkeypatch.setattr(packing, "kept", ones)
    monkeypatch.setattr("mcse.nn.dropout.kept", ones)
    if packs:
        rows = (x.transpose(1, 2)[mask_BT].transpose(0, 1)[None] for x in (query, key, value))
        with attention_over(pack(TokenBatch(torch.ones(3, 5), mask_BT.long()))):
            found, _ = attend(torch.nn.Module(), *rows, None, dropout=0.2, scaling=0.3)
        torch.testing.assert_close(found[0], expected[mask_BT])
        assert shapes == [((2 * (9 + 9 + 25),), 0.2)]
    else:
        found, _ = attend(torch.nn.Module(), query, key, value, mask_BT[:, None, None], dropout=0.2, scaling=0.3)
        torch.testing.assert_close(found[mask_BT], expected[mask_BT])
        assert shapes == [((3, 2, 5, 5), 0.2)]


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    deterministic: bool = False,
) -> Tensor:
    """What flash-attn says its function of this name does, sentence by sentence; (N, A, E) each."""
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16
    assert cu_seqlens_q.dtype == torch.int32
    assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist()
    assert max_seqlen_q == max_seqlen_k >= int(cu_seqlens_q.diff().max())
    assert not causal
    assert window_size == (-1, -1)
    parts = []
    for start, end in itertools.pairwise(cu_seqlens_q.tolist()):
        query, key, value = (x[start:end].transpose(0, 1) for x in (q, k, v))
        score = query @ key.transpose(1, 2) * (q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale)
        parts.append((torch.dropout(score.softmax(-1), dropout_p, True) @ value).transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The stand-in where transformers would find the package, and on the host; gives the rates it was asked for."""
    rates: list[float] = []

    @functools.wraps(flash_attn_varlen_func)
    def noted(*given: Any, **named: Any) -> Tensor:
        rates.append(named["dropout_p"])
        return flash_attn_varlen_func(*given, **named)

    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    monkeypatch.setattr(modeling_flash_attention_utils, "_lazy_imports", lambda *_, **__: (None, noted, *3 * [None]))
    monkeypatch.setattr(packing, "is_flash_attn_2_available", lambda: True)
    return rates


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_flash_attns_kernel_gives_the_rows_and_gradients_of_padded_sentences(
    kind: str, folders: dict[str, Path], flash_attn: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for packs in (False, True):
        attention = packing.FLASH_ATTENTION if packs else "sdpa"
        encoder = load_text_encoder(str(folders[kind]), pooling="mean", packing=packs, attention=attention).train()
        if packs:
            assert encoder.flashes
            # As on a GPU.
            monkeypatch.setattr(packing, "_attend_by_length", packing._attend_by_flash_attn)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            row_BD = encoder(_tokens())
        (row_BD.float() * torch.linspace(-1, 1, row_BD.shape[1])).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
        results.append((row_BD.float(), gradient))
    assert flash_attn == [0.0, 0.0]
    for padded, packed in zip(*results, strict=True):
        assert (packed - padded).norm() < 2e-2 * padded.norm(), "but for bfloat16"


def test_flash_attns_kernel_is_asked_for_dropout(
    tmp_path: Path, flash_attn: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_text_encoder(
        str(build_tiny_bert(tmp_path / "bert")), pooling="cls", packing=True, attention=packing.FLASH_ATTENTION
    )
    monkeypatch.setattr(packing, "_attend_by_length", packing._attend_by_flash_attn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder.train()(_tokens())
    assert flash_attn == [0.1, 0.1]
    with pytest.raises(ValueError, match=r"half precision alone; set train\.precision: bf16"):
        encoder(_tokens())


def test_flash_attn_is_refused_where_it_is_not(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"encoder\.attention: .* needs a CUDA device and the package flash-attn"):
        load_text_encoder(str(folders["bert"]), pooling="cls", packing=True, attention=packing.FLASH_ATTENTION)
    with pytest.raises(ValueError, match=r"encoder\.attention: .* set encoder\.packing: true"):
        EncoderConfig(name_or_path="x", attention="flash_attention_2", packing="auto")
    # What was trained with it is evaluated anywhere.
    manifest = Manifest(kind="sentence", recipe="simcse", config={"encoder": {"attention": "flash_attention_2"}})
    assert trained_attention(manifest) == "sdpa"


def test_a_model_with_relative_positions_is_refused(tmp_path: Path) -> None:
    config = MPNetConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    model = MPNetModel(config)
    # As drawn the positions hardly matter.
    torch.nn.init.normal_(model.encoder.relative_attention_bias.weight, std=2.0)
    model.save_pretrained(tmp_path)
    assert isinstance(load_text_encoder(str(tmp_path), pooling="cls"), TextEncoder)
    with pytest.raises(ValueError, match=r"encoder\.packing: .* gives packed sentences other rows"):
        load_text_encoder(str(tmp_path), pooling="cls", packing=True)
    assert load_text_encoder(str(tmp_path), pooling="cls", packing="auto").first_position is None


@pytest.mark.parametrize("packing_is", [True, "auto"])
@pytest.mark.parametrize("packs_on", [("cpu",), ("cuda",)])
def test_auto_packs_on_the_devices_on_which_it_is_faster(
    packing_is: bool | str, packs_on: tuple[str], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcse.models.text_loading.FASTER_ON", packs_on)
    encoder = load_text_encoder(str(folders["bert"]), pooling="cls", packing=packing_is).train()
    calls = []
    monkeypatch.setattr(TextEncoder, "packed_rows", lambda *_, **__: calls.append(1))
    monkeypatch.setattr(TextEncoder, "_rows", lambda *_: None)
    encoder(_tokens())
    assert bool(calls) == (packing_is is True or packs_on == ("cpu",))


def test_a_gpu_is_not_asked_whether_there_is_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question would make the host wait; "meta" stands for a device that is not the host."""
    asked = []
    monkeypatch.setattr(packing, "sdpa_mask", lambda **settings: asked.append(settings["allow_is_bidirectional_skip"]))
    for device in ("cpu", "meta"):
        packing._mask(attention_mask=torch.ones(2, 3, device=device), allow_is_bidirectional_skip=True)
    packing._mask(attention_mask=None, allow_is_bidirectional_skip=True)
    assert asked == [True, False, True]


def test_settings_that_do_not_go_with_packing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.length_chunks: would do nothing"):
        EncoderConfig(name_or_path="x", packing=True, length_chunks=2)
    for other in ({"attention": "eager"}, {"gradient_checkpointing": True}):
        with pytest.raises(ValueError, match=r"encoder\.packing: needs"):
            EncoderConfig(name_or_path="x", packing=True, **other)
