"""Images through a text encoder's own layers: by a hand-written forward pass, and which encoders cannot."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from transformers import ViTConfig, ViTModel

from mcse.models.sentence_model import SentenceModel
from mcse.models.text_loading import load_text_encoder
from mcse.models.unpaired_model import PatchEmbeddings, UnpairedModel, find_layers, load_patch_embeddings
from mcse.nn.heads import TanhHead
from mcse.types import SentenceBatch, TokenBatch, UnpairedBatch, ViewBatch
from tests.fixtures.architectures import build_architecture
from tests.fixtures.tiny_models import build_tiny_bert, build_tiny_roberta

SIZE, PATCH, WIDTH = 16, 8, 32


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return build_tiny_bert(tmp_path_factory.mktemp("bert"))


def model_of(folder, *, embeddings=True, **keys):
    encoder = load_text_encoder(str(folder), pooling="cls", **keys)
    text = SentenceModel(encoder, head=TanhHead(WIDTH, WIDTH))
    drawn = PatchEmbeddings(WIDTH, patch_size=PATCH, image_size=SIZE) if embeddings else None
    return UnpairedModel(text, embeddings=drawn)


def batch_of(views=6, *, images=True):
    generator = torch.Generator().manual_seed(0)
    tokens = TokenBatch.padded([[5, 9, 11, 7], [5, 30, 7]])
    pixels = torch.randn(views, 3, SIZE, SIZE, generator=generator)
    given = ViewBatch(pixels, torch.arange(views // 2), dropout_seed=4) if images else None
    return UnpairedBatch(SentenceBatch(tokens), given)


def by_hand(weights, pixels, *, heads, prefix="text.encoder.backbone.encoder.layer"):
    """ViT's embedding layer, then BERT's layers, in plain products."""
    kernel_D3RR = weights["embeddings.projection.weight"]
    rows = []
    for top in range(0, SIZE, PATCH):
        for left in range(0, SIZE, PATCH):
            patch_V3RR = pixels[:, :, top : top + PATCH, left : left + PATCH]
            rows.append(torch.einsum("vcij,dcij->vd", patch_V3RR, kernel_D3RR) + weights["embeddings.projection.bias"])
    token_VD = weights["embeddings.class_token_11D"][0].expand(len(pixels), -1)
    hidden = torch.stack([token_VD, *rows], dim=1) + weights["embeddings.position_1PD"]
    number = 0
    while f"{prefix}.{number}.output.dense.weight" in weights:

        def linear(x, name, layer=f"{prefix}.{number}"):
            return x @ weights[f"{layer}.{name}.weight"].T + weights[f"{layer}.{name}.bias"]

        def norm(x, name, layer=f"{prefix}.{number}"):
            scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-12).sqrt()
            return scaled * weights[f"{layer}.{name}.LayerNorm.weight"] + weights[f"{layer}.{name}.LayerNorm.bias"]

        parts = [linear(hidden, f"attention.self.{name}").chunk(heads, dim=-1) for name in ("query", "key", "value")]
        mixed = []
        for query, key, value in zip(*parts, strict=True):
            scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
            mixed.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ value)
        hidden = norm(hidden + linear(torch.cat(mixed, -1), "attention.output.dense"), "attention.output")
        inner = linear(hidden, "intermediate.dense")
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        hidden = norm(hidden + linear(inner, "output.dense"), "output")
        number += 1
    assert number == 2
    first = hidden[:, 0]
    return torch.tanh(first @ weights["image_head.linear.weight"].T + weights["image_head.linear.bias"])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("build", [build_tiny_bert, build_tiny_roberta])
def test_views_are_those_of_a_forward_pass_by_hand(build, attention, tmp_path):
    model = model_of(build(tmp_path / "model"), attention=attention).double().eval()
    batch = batch_of()
    pixels = batch.images.pixel_V3HW.double()
    found = model(UnpairedBatch(batch.text, ViewBatch(pixels, batch.images.label_B, 0))).view_VD
    torch.testing.assert_close(found, by_hand(model.state_dict(), pixels, heads=2), rtol=1e-6, atol=1e-8)


def test_images_teach_the_layers_and_not_the_words(bert):
    model = model_of(bert).train()
    model(batch_of()).view_VD.square().sum().backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.split(".")[0] for name in taught} == {"embeddings", "image_head", "text"}
    assert all(".encoder.layer." in name for name in taught if name.startswith("text."))
    assert any("layer.0.attention.self.query.weight" in name for name in taught)


def test_layers_are_counted_once(bert):
    names = [name for name, _ in model_of(bert).named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names))
    assert not any("_layers" in name for name in names)


def test_dropout_of_text_is_what_it_is_without_images(bert):
    rows, states = [], []
    for images in (True, False):
        torch.manual_seed(6)
        model = model_of(bert, embeddings=images).train()
        torch.manual_seed(7)
        rows.append([model(batch_of(images=images)).text.query_BD.detach() for _ in range(3)])
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert all(torch.equal(*pair) for pair in zip(*rows, strict=True))
    assert not torch.equal(rows[0][0], rows[0][1]), "each pass draws its own"


def test_dropout_of_images_is_drawn_by_the_batch(bert):
    model, batch = model_of(bert).train(), batch_of()
    first, again = model(batch).view_VD, model(batch).view_VD
    assert torch.equal(first, again)
    other = UnpairedBatch(batch.text, ViewBatch(batch.images.pixel_V3HW, batch.images.label_B, dropout_seed=5))
    assert not torch.equal(first, model(other).view_VD)
    model.eval()
    assert not torch.equal(first, model(batch).view_VD)


# --- which encoders


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "electra", "camembert"])
def test_layers_are_found(kind, tmp_path):
    build_architecture(tmp_path, kind)
    find_layers(load_text_encoder(str(tmp_path), pooling="mean"))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("distilbert", "no module 'encoder'"),
        ("modernbert", "no module 'encoder'"),
        ("albert", "they read rows of 16"),
        ("deberta-v2", "attention_mask"),
        ("mpnet", "positions of words"),
        ("clip_text_model", "do not give its rows"),
    ],
)
def test_other_encoders_are_refused_by_name(kind, why, tmp_path):
    build_architecture(tmp_path, kind)
    encoder = load_text_encoder(str(tmp_path), pooling="mean").train()
    with pytest.raises(ValueError, match=f"encoder.name_or_path: .*{tmp_path.name}.*{why}"):
        find_layers(encoder)
    assert encoder.training


def test_embeddings_of_another_width_are_refused(bert):
    text = SentenceModel(load_text_encoder(str(bert), pooling="cls"), head=None)
    with pytest.raises(ValueError, match="image.embeddings: they are 48 wide"):
        UnpairedModel(text, embeddings=PatchEmbeddings(48, patch_size=PATCH, image_size=SIZE))


# --- embeddings of a ViT


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    config = ViTConfig(
        **{"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48},
        **{"image_size": 32, "patch_size": PATCH, "hidden_dropout_prob": 0.0},
    )
    folder = tmp_path_factory.mktemp("vit")
    model = ViTModel(config)
    torch.nn.init.normal_(model.embeddings.cls_token)
    model.save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize("size", [32, 48, 16])
def test_a_vits_embedding_layer_is_transformers_own(vit, size):
    folder, model = vit
    pixels = torch.randn(3, 3, size, size)
    wanted = model.embeddings(pixels, interpolate_pos_encoding=True)
    found = load_patch_embeddings(str(folder), image_size=size)
    torch.testing.assert_close(found(pixels), wanted, rtol=1e-5, atol=1e-6)
    assert all(parameter.requires_grad for parameter in found.parameters())


def test_timms_vits_have_the_same():
    found = load_patch_embeddings("timm:vit_tiny_patch16_224/none", image_size=224)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = timm.create_model("vit_tiny_patch16_224")
    pixels = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(found(pixels), body._pos_embed(body.patch_embed(pixels)), rtol=1e-5, atol=1e-6)


def test_what_is_no_vit_is_refused_by_name(bert, vit, tmp_path):
    with pytest.raises(ValueError, match=r"image\.embeddings: .*bert.* has no embedding layer"):
        load_patch_embeddings(str(bert), image_size=16)
    with pytest.raises(ValueError, match=r"image\.embeddings: no vision transformer at .*absent"):
        load_patch_embeddings(str(tmp_path / "absent"), image_size=16)
    with pytest.raises(ValueError, match=r"image\.embeddings: 'timm:resnet18/none' has no embedding layer"):
        load_patch_embeddings("timm:resnet18/none", image_size=32)
    with pytest.raises(ValueError, match=r"image\.size: 20 is no multiple of 8"):
        load_patch_embeddings(str(vit[0]), image_size=20)


def test_fresh_embeddings_start_as_a_vits():
    drawn = PatchEmbeddings(WIDTH, patch_size=PATCH, image_size=SIZE)
    assert drawn(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, 5, WIDTH)
    for weight in (drawn.projection.weight, drawn.position_1PD):
        assert float(weight.std()) == pytest.approx(0.02, rel=0.3)
    assert not drawn.projection.bias.any()
