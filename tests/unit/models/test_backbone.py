"""What is asked of a Hugging Face model when it is loaded, and that its rows are transformers' own in every batch.

The reference is ``AutoModel`` as transformers loads it, given one sentence at a time: no padding, no mask to get wrong.
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from mcse.models.packing import ATTENTION
from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import load_text_encoder
from mcse.types import TokenBatch
from tests.fixtures.architectures import ARCHITECTURES, POSITIONS, build_architecture

PAGE = Path(__file__).parents[3] / "docs" / "encoders.md"
START, END = "<!-- written by tests/unit/models/test_backbone.py -->\n", "<!-- end -->"

REFUSED = ("canine", "nystromformer")
UNTRAINABLE = ("reformer",)
DEPEND_ON_PADDING = {"convbert", "fnet", "funnel", "mobilebert", "reformer", "yoso"}
CAUSAL = {"biogpt", "bloom", "clip_text_model", "gemma2", "gpt2", "gpt_oss", "llama", "opt", "qwen2"}
ENCODERS = [kind for kind in ARCHITECTURES if kind not in REFUSED]
# Longer than the windows of those that have one; more than one of a length; not sorted.
LENGTHS = (9, 3, 17, 3, 6, 12)


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    """Removed at the end."""
    return tempfile.TemporaryDirectory()


@functools.cache
def _folder(kind: str) -> Path:
    folder = Path(_root().name) / kind
    build_architecture(folder, kind)
    return folder


@functools.cache
def _encoder(kind: str) -> TextEncoder:
    """Packed where that is claimed to be exact; every dropout at 0, so that training can be compared."""
    dropout = None if kind in UNTRAINABLE else 0.0
    encoder = load_text_encoder(str(_folder(kind)), pooling="mean", dropout=dropout, packing="auto")
    encoder.packs_on = ()
    return encoder


def _tokens(pad: int) -> tuple[TokenBatch, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(10, 100, (length,), generator=generator) for length in LENGTHS]
    return TokenBatch.padded([row.numpy() for row in rows], pad_id=pad), rows


def _alone(model: Any, rows: list[Tensor]) -> list[Tensor]:
    return [model(input_ids=row[None], attention_mask=torch.ones_like(row)[None]).last_hidden_state[0] for row in rows]


def _assert_near(found: Tensor, expected: Tensor, *, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ENCODERS)
def test_rows_are_transformers_own(kind: str) -> None:
    """Every token's row and the pooled ones, beside other sentences, in evaluation and in training; also packed."""
    encoder, model = _encoder(kind), AutoModel.from_pretrained(_folder(kind)).eval()
    tokens, rows = _tokens(model.config.pad_token_id or 0)
    with torch.no_grad():
        expected = _alone(model, rows)
        for trains in (False, *([] if kind in UNTRAINABLE else [True])):
            encoder.train(trains)
            token_BTD, pooled_BD = encoder.token_rows(tokens), encoder(tokens)
            for row_TD, found_TD, found_D in zip(expected, token_BTD, pooled_BD, strict=True):
                _assert_near(found_TD[: len(row_TD)], row_TD, tolerance=1e-5)
                _assert_near(found_D, row_TD.mean(0), tolerance=1e-5)
        if encoder.first_position is not None:
            packed_BD = encoder.packed_rows(tokens, first_position=encoder.first_position)
            _assert_near(packed_BD, torch.stack([row_TD.mean(0) for row_TD in expected]), tolerance=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind != "deberta"])
def test_rows_are_transformers_own_in_bf16(kind: str) -> None:
    """Products in bfloat16, as training has them: far coarser, and still far below what padding does.

    DeBERTa itself fails there.
    """
    encoder, model = _encoder(kind), AutoModel.from_pretrained(_folder(kind)).eval()
    tokens, rows = _tokens(model.config.pad_token_id or 0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = _alone(model, rows)
        for trains in (False, *([] if kind in UNTRAINABLE else [True])):
            token_BTD = encoder.train(trains).token_rows(tokens)
            for row_TD, found_TD in zip(expected, token_BTD, strict=True):
                _assert_near(found_TD[: len(row_TD)].float(), row_TD.float(), tolerance=0.05)


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind not in UNTRAINABLE])
def test_gradients_are_transformers_own(kind: str) -> None:
    encoder, model = _encoder(kind).train(), AutoModel.from_pretrained(_folder(kind)).eval()
    tokens, rows = _tokens(model.config.pad_token_id or 0)
    weight_D = torch.linspace(-1, 1, encoder.width)
    encoder.zero_grad()
    sum((row_TD.mean(0) * weight_D).sum() for row_TD in _alone(model, rows)).backward()
    (encoder(tokens) * weight_D).sum().backward()
    found = dict(encoder.backbone.named_parameters())
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert len(expected) > 10
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].grad, gradient, rtol=0, atol=1e-4 * largest, msg=name)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_longest_input_is_what_the_model_can_take(kind: str) -> None:
    facts, model = _encoder(kind).facts, AutoModel.from_pretrained(_folder(kind)).eval()
    if facts.longest is None:
        assert kind in {"bloom", "funnel", "xlnet"}, "their positions are distances"
        return
    assert facts.longest == {"esm": POSITIONS + 2}.get(kind, POSITIONS), "ESM's rotate: its configuration says how far"
    ids = torch.full((1, POSITIONS), 20)
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
        if {"position_embeddings", "wpe", "embed_positions"} & {
            name.split(".")[-1] for name, _ in model.named_modules()
        }:
            more = torch.full((1, POSITIONS + 1), 20)
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                model(input_ids=more, attention_mask=torch.ones_like(more))


def test_what_was_found_is_what_the_documentation_says() -> None:
    lines = ["| architecture | attention | padding is masked | packed |", "|---|---|---|---|"]
    for kind in ARCHITECTURES:
        if kind in REFUSED:
            lines.append(f"| {kind} | refused | | |")
            continue
        encoder = _encoder(kind)
        name = {"mcse": "ours", "sdpa": "PyTorch's", "eager": "its own"}[encoder.facts.attention]
        masked = "yes" if encoder.facts.masks_padding else "no: equal lengths together"
        lines.append(f"| {kind} | {name} | {masked} | {'no' if encoder.first_position is None else 'yes'} |")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    found, _, after = rest.partition(END)
    assert after, f"{PAGE} lacks the marks"
    table = "\n".join(lines) + "\n"
    if os.environ.get("MCSE_WRITE_DOCS") == "1":
        PAGE.write_text(before + START + table + END + after, encoding="utf-8")
        return
    assert found == table, "run MCSE_WRITE_DOCS=1 pytest tests/unit/models/test_backbone.py"


def test_facts_are_those_of_the_architectures() -> None:
    facts = {kind: _encoder(kind).facts for kind in ENCODERS}
    assert {kind for kind in ENCODERS if not facts[kind].masks_padding} == DEPEND_ON_PADDING
    assert {kind for kind in ENCODERS if not facts[kind].looks_ahead} == CAUSAL
    assert {kind for kind in ENCODERS if facts[kind].cannot_train} == set(UNTRAINABLE)
    ours = {kind for kind in ENCODERS if facts[kind].attention == ATTENTION}
    assert ours >= {"bert", "roberta", "xlm-roberta", "distilbert", "electra"}
    assert not ours & (CAUSAL | DEPEND_ON_PADDING | {"mpnet", "roformer", "longformer", "splinter", "modernbert"})
    assert {kind for kind in ours if _encoder(kind).first_position is None} == set()
