"""The text tower of an open_clip model gives open_clip's own rows, in one space with its images' features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mcse.encoders.open_clip_encoder import OpenClipEncoder
from mcse.models.image_tower import load_image_tower
from mcse.models.open_clip_text import load_open_clip_text, used_positions
from mcse.types import Encoder, FeatureTextEncoder
from tests.fixtures.tiny_open_clip import CONTEXT, WIDTH, build_tiny_open_clip, reload_open_clip

SENTENCES = [
    "A man plays the guitar.",
    "",
    "Two dogs run across a green field while the children watch them from the fence.",
    "a man plays the guitar.",
    "Dogs!",
    "word " * 100,
]

KINDS = {
    "clip": {},
    "own module": {"custom_text": True},
    "eos pooling": {"pool_type": "eos", "eos_id": 49407},
    "last position, both directions": {"custom_text": True, "no_causal_mask": True, "pool_type": "last"},
    "last position": {"pool_type": "last"},
    "first position": {"custom_text": True, "no_causal_mask": True, "pool_type": "first"},
    "a class token": {"custom_text": True, "embed_cls": True},
}
SHORTENED = {"clip", "own module", "eos pooling"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_open_clip(tmp_path_factory.mktemp("tiny") / "clip")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OpenClipEncoder:
    return OpenClipEncoder.from_pretrained(f"open_clip:local-dir:{folder}", device="cpu")


def _images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(5)]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_open_clip(tmp_path: Path, kind: str) -> None:
    folder = build_tiny_open_clip(tmp_path / "clip", **KINDS[kind])
    encoder = OpenClipEncoder.from_pretrained(f"open_clip:local-dir:{folder}", device="cpu")
    model, tokenizer = reload_open_clip(folder)
    with torch.no_grad():
        # One by one and at full length: neither batches nor what is left out of them may show.
        expected = np.concatenate([model.encode_text(tokenizer([text])).numpy() for text in SENTENCES])
    for batch_size in (1, 2, 64):
        rows = encoder.encode(SENTENCES, batch_size=batch_size, normalize=False)
        np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode(SENTENCES), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5
    )
    assert np.ptp(expected, axis=0).max() > 0.1, "sentences must differ for this to say anything"


@pytest.mark.parametrize("kind", KINDS)
def test_empty_positions_are_left_out_where_they_cannot_matter(tmp_path: Path, kind: str) -> None:
    folder = build_tiny_open_clip(tmp_path / "clip", **KINDS[kind])
    text = load_open_clip_text(f"open_clip:local-dir:{folder}")
    lengths = []
    handle = text._side.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    text(text.tokenize(["Dogs!", "a dog"]))
    handle.remove()
    assert lengths == [4 if kind in SHORTENED else CONTEXT]


def test_used_positions() -> None:
    id_BT = torch.tensor([[5, 0, 7, 0], [1, 2, 3, 4], [9, 0, 0, 0], [0, 0, 0, 0]])
    assert used_positions(id_BT).tolist() == [3, 4, 1, 0]


def test_what_the_encoder_says_of_itself(encoder: OpenClipEncoder, folder: Path) -> None:
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, FeatureTextEncoder)
    assert encoder.name == encoder.image_tower == f"open_clip:local-dir:{folder}"
    assert (encoder.pooling, encoder.dimension, encoder.has_image_heads) == ("joint", WIDTH, True)
    row = encoder.encode("Dogs!")
    assert row.shape == (WIDTH,)
    assert row.dtype == np.float32
    np.testing.assert_allclose(row, encoder.encode(["Dogs!"])[0], atol=1e-6)
    assert encoder.encode([]).shape == (0, WIDTH)
    assert not any(part.training for part in encoder._text.modules())
    assert not any("visual" in name for name, _ in encoder._text.named_parameters())


def test_captions_and_images_are_in_one_space(encoder: OpenClipEncoder, folder: Path) -> None:
    tower = load_image_tower(f"open_clip:local-dir:{folder}")
    model, tokenizer = reload_open_clip(folder)
    pixels = torch.stack([tower.preprocess(image) for image in _images()])
    with torch.no_grad():
        features = tower(pixels).numpy()
        logits = model.get_logits(pixels, tokenizer(SENTENCES))[1] / model.logit_scale.exp()
    images = encoder.encode_image_features(features, batch_size=2)
    np.testing.assert_allclose(images, F.normalize(torch.from_numpy(features), dim=-1).numpy(), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_captions(SENTENCES) @ images.T, logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(_images(), batch_size=2), images, atol=1e-5)
    assert encoder.encode_images(_images()[0]).shape == (1, WIDTH)
    assert encoder.encode_captions("Dogs!").shape == (1, WIDTH)


def test_bfloat16_is_close_and_comes_out_as_float32(folder: Path, encoder: OpenClipEncoder) -> None:
    half = OpenClipEncoder.from_pretrained(f"open_clip:local-dir:{folder}", device="cpu", precision="bfloat16")
    rows, exact = half.encode(SENTENCES), encoder.encode(SENTENCES)
    assert rows.dtype == np.float32
    assert (rows * exact).sum(1).min() > 0.99
    assert not np.array_equal(rows, exact), "bfloat16 must have been used"


def test_loading_draws_nothing_from_the_global_generator(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_open_clip_text(f"open_clip:local-dir:{folder}")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.slow
def test_a_built_in_model_with_weights_of_a_file(tmp_path: Path) -> None:
    import open_clip

    random = load_open_clip_text("open_clip:ViT-S-32-alt/none")
    clip = open_clip.create_model("ViT-S-32-alt", pretrained=None).eval()
    torch.save({"state_dict": clip.state_dict()}, tmp_path / "clip.pt")
    encoder = OpenClipEncoder.from_pretrained(f"open_clip:ViT-S-32-alt/{tmp_path / 'clip.pt'}", device="cpu")
    with torch.no_grad():
        id_NT = open_clip.get_tokenizer("ViT-S-32-alt")(SENTENCES[:3])
        expected = clip.encode_text(id_NT, normalize=True)
        drawn = F.normalize(random(id_NT), dim=-1)
        again = F.normalize(load_open_clip_text("open_clip:ViT-S-32-alt/none")(id_NT), dim=-1)
    np.testing.assert_allclose(encoder.encode(SENTENCES[:3]), expected.numpy(), atol=1e-5)
    assert torch.equal(drawn, again)
    assert (drawn - expected).abs().max() > 0.01


def test_long_text_is_cut_the_same_every_time(tmp_path: Path) -> None:
    folder = build_tiny_open_clip(tmp_path / "clip", tokenizer_kwargs={"reduction_mask": "simple"})
    encoder = OpenClipEncoder.from_pretrained(f"open_clip:local-dir:{folder}", device="cpu")
    text = " ".join(f"word{number}" for number in range(100))
    np.testing.assert_array_equal(encoder.encode([text]), encoder.encode([text]))
    id_1T = encoder._text.tokenize([text])
    assert torch.equal(id_1T[:, :7], encoder._text.tokenize([text[:17]])[:, :7]), "cut at the end, not somewhere"
    assert torch.equal(id_1T, encoder._text.tokenize([text + " and more"]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-B-32/openai", "text tower .*: expected open_clip:MODEL/PRETRAINED, such as open_clip:ViT-B-32/openai"),
        ("open_clip:", "expected open_clip:MODEL/PRETRAINED"),
        ("open_clip:RN50", "text tower 'open_clip:RN50': say which weights, such as open_clip:RN50/openai"),
        ("open_clip:RN50/best", "'best' is neither a checkpoint file nor a tag of RN50; its tags: openai, yfcc15m"),
        ("open_clip:ViT-B-33/none", "unknown model 'ViT-B-33'; did you mean ViT-B-32"),
        ("open_clip:hf_hub:org/name", "open_clip writes hf-hub:, with a hyphen"),
        ("open_clip:hf-hub:org/name", "its weights cannot be loaded"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "its weights cannot be loaded"),
        ("open_clip:local-dir:/nowhere", "its weights cannot be loaded: .*nowhere"),
        pytest.param("open_clip:ViT-B-16-SigLIP/none", "its tokenizer cannot be loaded", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_loaded_is_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_open_clip_text(spec)


def test_a_folder_without_good_weights_never_gives_random_ones(tmp_path: Path) -> None:
    folder = build_tiny_open_clip(tmp_path / "clip")
    weights = folder / "open_clip_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    for load in (load_open_clip_text, load_image_tower):
        with pytest.raises(ValueError, match="its weights cannot be loaded"):
            load(f"open_clip:local-dir:{folder}")
    weights.unlink()
    for load in (load_open_clip_text, load_image_tower):
        with pytest.raises(ValueError, match="its weights cannot be loaded: .*could not be loaded"):
            load(f"open_clip:local-dir:{folder}")
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="its weights cannot be loaded"):
        load_open_clip_text(f"open_clip:local-dir:{folder}")
    path = folder / "open_clip_config.json"
    (folder / "open_clip_pytorch_model.bin").unlink()
    weights.write_bytes(whole)
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["layers"] = 3
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its weights cannot be loaded: (?s:.*)resblocks.2"):
        load_open_clip_text(f"open_clip:local-dir:{folder}")


@pytest.mark.parametrize("place", ["the tokenizer", "the tokenizer, as it says itself", "the text tower"])
def test_code_that_a_model_brings_along_is_never_run_nor_asked_for(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked whether to run it"))
    folder, mark = build_tiny_open_clip(tmp_path / "clip"), tmp_path / "mark"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w')\nclass Tokenizer: pass\n")
    described = {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}, "tokenizer_class": "Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "code.Tokenizer"}}))
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    text = {"hf_model_name": str(folder)} if place == "the text tower" else {"hf_tokenizer_name": "any"}
    text |= {"tokenizer_kwargs": {"trust_remote_code": True}} if "itself" in place else {}
    config["model_cfg"]["text_cfg"] |= text
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be loaded: (?s:.*)trust_remote_code"):
        load_open_clip_text(f"open_clip:local-dir:{folder}")
    assert not mark.exists()


def test_bad_input_is_refused(encoder: OpenClipEncoder, folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match=rf"image features have shape \(2, 5\); .*clip' was trained on \(N, {WIDTH}\)",
    ):
        encoder.encode_image_features(np.zeros((2, 5), dtype=np.float32))
    broken = np.ones((4, WIDTH), dtype=np.float32)
    broken[3, 0] = np.nan
    with pytest.raises(ValueError, match="image features: row 3 is not finite"):
        encoder.encode_image_features(broken, batch_size=2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encoder.encode_image_features(broken, batch_size=0)
    with pytest.raises(ValueError, match=r"sentences\[0\] is a NoneType"):
        encoder.encode([None])
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, got 'int8'"):
        OpenClipEncoder.from_pretrained(f"open_clip:local-dir:{folder}", precision="int8")
    text = load_open_clip_text(f"open_clip:local-dir:{folder}")
    with pytest.raises(ValueError, match="'alone' knows no image tower"):
        OpenClipEncoder(text, name="alone").encode_images(_images())
