"""SentenceEncoder: rows equal the definition whatever the batch, nothing is disturbed, errors say what is missing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mcse.encoders.base as module
from mcse import SentenceEncoder
from mcse.manifest import Manifest
from mcse.models.checkpoint import load_stored_pooler, save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.nn.heads import TanhHead
from mcse.types import Encoder, FeatureTextEncoder
from tests.fixtures.tiny_models import MAX_TOKENS, TEXTS, build_tiny_bert, build_tiny_roberta

BUILDERS = {"bert": build_tiny_bert, "roberta": build_tiny_roberta}
ALL_POOLINGS = ("cls", "cls_with_head", "mean", "first_last_mean", "last2_mean", "max", "last")
SENTENCES = [*TEXTS, "", "a", "A man plays the guitar. " * 8, "ümlaut 漢字 \N{GRINNING FACE}", " "]


@pytest.fixture(scope="module", params=BUILDERS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bert(tmp_path_factory.mktemp("bert"))


def make(base: Path, *, pooling: str = "cls", head: nn.Module | None = None) -> SentenceEncoder:
    encoder, tokenizer = load_text_encoder(str(base), pooling=pooling).eval(), load_tokenizer(str(base))
    return SentenceEncoder(encoder, tokenizer, pooling=pooling, text_head=head or TanhHead(32, 16, init_std=0.3))


def save(base: Path, folder: Path, *, pooling: str = "cls", head: bool = True, images: bool = True) -> Path:
    heads = {"grounding_head": TanhHead(32, 8), "image_head": TanhHead(12, 8)} if images else {}
    save_checkpoint(
        folder,
        encoder=load_text_encoder(str(base), pooling=pooling),
        tokenizer=load_tokenizer(str(base)),
        manifest=Manifest(kind="sentence", recipe="mcse", pooling=pooling),
        text_head=TanhHead(32, 32, init_std=0.2) if head else None,
        image_heads=heads,
        card="",
    )
    return folder


@pytest.mark.parametrize("pooling", ALL_POOLINGS)
def test_rows_equal_one_sentence_at_a_time_by_the_definition(base: Path, pooling: str) -> None:
    encoder, tokenizer = load_text_encoder(str(base), pooling=pooling).eval(), load_tokenizer(str(base))
    head = TanhHead(32, 16, init_std=0.3)
    rows_ND = SentenceEncoder(encoder, tokenizer, pooling=pooling, text_head=head).encode(SENTENCES, batch_size=3)
    for text, row_D in zip(SENTENCES, rows_ND, strict=True):
        tokens = tokenizer.inner([text], return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
        with torch.no_grad():
            hidden = encoder.backbone(**tokens, output_hidden_states=True).hidden_states
            wanted_1D = {
                "cls": lambda h: h[-1][:, 0],
                "cls_with_head": lambda h: head(h[-1][:, 0]),
                "mean": lambda h: h[-1].mean(1),
                "max": lambda h: h[-1].amax(1),
                "first_last_mean": lambda h: (h[1] + h[-1]).mean(1) / 2,
                "last": lambda h: h[-1][:, -1],
                "last2_mean": lambda h: (h[-2] + h[-1]).mean(1) / 2,
            }[pooling](hidden)
        np.testing.assert_allclose(row_D, F.normalize(wanted_1D)[0].numpy(), atol=1e-6)
    assert rows_ND.dtype == np.float32
    assert rows_ND.shape == (len(SENTENCES), 16 if pooling == "cls_with_head" else 32)
    # A test of rows that all look alike would see nothing.
    cosine_NN = rows_ND[:10] @ rows_ND[:10].T
    assert cosine_NN[~np.eye(10, dtype=bool)].max() < 0.9999


def test_order_batch_size_and_chunks_change_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make(base)
    rows_ND = encoder.encode(SENTENCES)
    for batch_size in (1, 2, 7, 1000):
        np.testing.assert_allclose(encoder.encode(SENTENCES, batch_size=batch_size), rows_ND, atol=1e-6)
    order = list(range(len(SENTENCES)))
    random.Random(3).shuffle(order)
    np.testing.assert_allclose(encoder.encode([SENTENCES[i] for i in order]), rows_ND[order], atol=1e-6)
    monkeypatch.setattr(module, "_CHUNK", 4)
    np.testing.assert_allclose(encoder.encode(SENTENCES, batch_size=3), rows_ND, atol=1e-6)


def test_a_dev_set_is_tokenised_once(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sentences, and another length, are tokenised anew."""
    encoder, calls = make(bert), []
    plain = type(encoder._tokenizer).ids

    def counted(self: object, texts: list[str], *, max_length: int | None) -> object:
        calls.append((len(texts), max_length))
        return plain(self, texts, max_length=max_length)

    monkeypatch.setattr(type(encoder._tokenizer), "ids", counted)
    expected, short = encoder.encode(TEXTS), encoder.encode(TEXTS, max_length=4)
    encoder.keeps_tokens = True
    calls.clear()
    for _ in range(3):
        np.testing.assert_array_equal(encoder.encode(TEXTS), expected)
    assert len(calls) == 1
    np.testing.assert_array_equal(encoder.encode(TEXTS, max_length=4), short)
    np.testing.assert_array_equal(encoder.encode(TEXTS[:2]), encoder.encode(list(TEXTS[:2])))
    assert len(calls) == 3


def test_a_string_a_list_and_nothing(bert: Path) -> None:
    encoder = make(bert, pooling="cls_with_head")
    assert encoder.dimension == 16
    assert encoder.encode("A man.").shape == (16,)
    np.testing.assert_array_equal(encoder.encode("A man."), encoder.encode(["A man."])[0])
    empty = encoder.encode([])
    assert (empty.shape, empty.dtype) == ((0, 16), np.float32)
    assert encoder.encode(np.array(["A man.", "A dog."])).shape == (2, 16)
    tensor_ND = encoder.encode(["A man."], convert_to_tensor=True)
    assert isinstance(tensor_ND, torch.Tensor)
    np.testing.assert_array_equal(tensor_ND.numpy(), encoder.encode(["A man."]))
    # Not an inference tensor: a classifier may be trained on it.
    (tensor_ND * torch.ones(16, requires_grad=True)).sum().backward()


def test_raw_rows_keep_their_length(bert: Path) -> None:
    encoder = make(bert)
    raw_ND = encoder.encode(SENTENCES, normalize=False)
    assert np.abs(np.linalg.norm(raw_ND, axis=1) - 1).min() > 0.1
    unit_ND = raw_ND / np.linalg.norm(raw_ND, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(SENTENCES), unit_ND, atol=1e-6)


def test_an_item_that_is_no_string_is_refused_by_index(bert: Path) -> None:
    encoder = make(bert)
    with pytest.raises(ValueError, match=r"sentences\[1\] is a NoneType, not a string: None"):
        encoder.encode(["a", None])
    with pytest.raises(ValueError, match=r"sentences\[0\] is a float"):
        encoder.encode([float("nan")])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        encoder.encode(["a"], batch_size=0)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16"):
        encoder.encode(["a"], precision="fp8")


def test_only_the_models_own_maximum_cuts(base: Path) -> None:
    encoder = make(base)
    assert encoder.max_length == MAX_TOKENS
    # The fox is far behind the 32 tokens of training, and still seen; what lies beyond the maximum is not.
    start = "A man plays the guitar. " * 10
    assert np.abs(encoder.encode(start + "dogs") - encoder.encode(start + "onion")).max() > 1e-4
    beyond = "A man plays the guitar. " * 60
    np.testing.assert_allclose(encoder.encode(beyond + "dogs"), encoder.encode(beyond), atol=1e-6)
    assert np.abs(encoder.encode(start, max_length=8) - encoder.encode(start)).max() > 1e-4
    np.testing.assert_allclose(
        encoder.encode(start + "dogs", max_length=8), encoder.encode(start, max_length=8), atol=1e-6
    )
    with pytest.raises(ValueError, match=f"max_length must be 1 to {MAX_TOKENS} tokens"):
        encoder.encode(["a"], max_length=MAX_TOKENS + 1)


def test_rows_that_are_not_finite_are_left_to_the_caller(bert: Path) -> None:
    text_encoder = load_text_encoder(str(bert), pooling="cls")
    with torch.no_grad():
        text_encoder.backbone.embeddings.word_embeddings.weight[load_tokenizer(str(bert)).inner.vocab["man"]] = float(
            "nan"
        )
    rows_ND = SentenceEncoder(text_encoder, load_tokenizer(str(bert)), pooling="cls").encode(["a dog", "a man"])
    assert np.isfinite(rows_ND[0]).all()
    assert np.isnan(rows_ND[1]).all()


def test_encoding_disturbs_no_training(bert: Path) -> None:
    text_encoder, tokenizer = load_text_encoder(str(bert), pooling="cls"), load_tokenizer(str(bert))
    head = TanhHead(32, 32)
    text_encoder.train()
    text_encoder.backbone.embeddings.eval()  # somebody froze a part
    modes = {name: part.training for name, part in text_encoder.named_modules()}
    assert set(modes.values()) == {True, False}
    tokenizer.inner(["a b c"], truncation=True, max_length=4)
    truncation = dict(tokenizer.inner.backend_tokenizer.truncation)
    encoder = SentenceEncoder(text_encoder, tokenizer, pooling="cls_with_head", text_head=head)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first_ND, second_ND = encoder.encode(SENTENCES), encoder.encode(SENTENCES)
    np.testing.assert_array_equal(first_ND, second_ND)  # no dropout
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert {name: part.training for name, part in text_encoder.named_modules()} == modes
    assert all(part.training for part in head.modules())
    assert tokenizer.inner.backend_tokenizer.truncation == truncation
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in text_encoder.parameters())
    with pytest.raises(ValueError, match="sentences"):
        encoder.encode([1])
    assert text_encoder.training


def test_a_live_model_is_followed_and_trains_on(bert: Path) -> None:
    text_encoder, tokenizer = load_text_encoder(str(bert), pooling="cls"), load_tokenizer(str(bert))
    encoder = SentenceEncoder(text_encoder, tokenizer, pooling="mean")
    assert text_encoder.pooling == "cls"
    before_ND = encoder.encode(SENTENCES)
    # Inside a caller's autocast, whose cache must not hand on what was cast in inference mode.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder.encode(SENTENCES, precision="bfloat16")
        tokens = tokenizer.inner(["A man."], return_tensors="pt")
        text_encoder.backbone(**tokens).last_hidden_state[:, 0, 0].sum().backward()
    gradients = [p.grad for p in text_encoder.parameters() if p.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in gradients) > 0
    torch.optim.SGD(text_encoder.parameters(), lr=0.1).step()
    assert np.abs(encoder.encode(SENTENCES) - before_ND).max() > 1e-3


def test_bfloat16_is_close_and_comes_out_as_float32(base: Path) -> None:
    encoder = make(base)
    exact_ND, rough_ND = encoder.encode(SENTENCES), encoder.encode(SENTENCES, precision="bfloat16")
    assert rough_ND.dtype == np.float32
    assert 1e-5 < np.abs(exact_ND - rough_ND).max() < 0.05
    assert (exact_ND * rough_ND).sum(1).min() > 0.995


def test_similarity_is_the_cosine_matrix(bert: Path) -> None:
    encoder = make(bert)
    rows_ND = encoder.encode(SENTENCES, normalize=False)
    unit_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    cosine_NM = encoder.similarity(SENTENCES, SENTENCES[:3])
    np.testing.assert_allclose(cosine_NM, unit_ND @ unit_ND[:3].T, atol=1e-6)
    np.testing.assert_allclose(encoder.similarity(5 * rows_ND, rows_ND[0]), cosine_NM[:, :1], atol=1e-6)
    assert encoder.similarity("a man", "a dog").shape == (1, 1)
    with pytest.raises(ValueError, match="32 and 4 wide"):
        encoder.similarity(SENTENCES, np.ones((1, 4), dtype=np.float32))


def test_the_protocols_are_satisfied(bert: Path) -> None:
    assert isinstance(make(bert), Encoder)
    assert isinstance(make(bert), FeatureTextEncoder)


def test_images_and_captions_in_one_space(base: Path, tmp_path: Path) -> None:
    folder = save(base, tmp_path / "checkpoint", pooling="cls")
    encoder = SentenceEncoder.from_pretrained(str(folder))
    assert encoder.has_image_heads
    feature_MF = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    caption_NH, image_MH = encoder.encode_captions(SENTENCES, batch_size=4), encoder.encode_image_features(feature_MF)
    heads = encoder._heads
    pooled_ND = torch.from_numpy(encoder.encode(SENTENCES, normalize=False))
    with torch.no_grad():
        wanted_NH = F.normalize(heads["grounding_head"](pooled_ND)).numpy()
        wanted_MH = F.normalize(heads["image_head"](torch.from_numpy(feature_MF))).numpy()
    np.testing.assert_allclose(caption_NH, wanted_NH, atol=1e-6)
    np.testing.assert_allclose(image_MH, wanted_MH, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_image_features(feature_MF, batch_size=2), image_MH, atol=1e-6)
    np.testing.assert_allclose(encoder.image_similarity(SENTENCES, feature_MF), caption_NH @ image_MH.T, atol=1e-6)
    # The heads stand on the rows they were trained on, whatever rows the user asks for.
    other = SentenceEncoder.from_pretrained(str(folder), pooling="mean")
    np.testing.assert_allclose(other.encode_captions(SENTENCES), caption_NH, atol=1e-6)
    assert np.abs(other.encode(SENTENCES) - encoder.encode(SENTENCES)).max() > 1e-3


def test_image_features_that_do_not_fit_are_refused(bert: Path, tmp_path: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(str(save(bert, tmp_path / "checkpoint")))
    with pytest.raises(ValueError, match=r"shape \(2, 7\); .*checkpoint' was trained on \(N, 12\)"):
        encoder.encode_image_features(np.ones((2, 7), dtype=np.float32))
    feature_NF = np.ones((300, 12), dtype=np.float32)
    feature_NF[280, 3] = np.inf
    with pytest.raises(ValueError, match="row 280 is not finite"):
        encoder.encode_image_features(feature_NF)
    bare = SentenceEncoder.from_pretrained(str(save(bert, tmp_path / "bare", images=False)))
    assert not bare.has_image_heads
    for call in (lambda: bare.encode_captions(["a"]), lambda: bare.encode_image_features(feature_NF)):
        with pytest.raises(ValueError, match="bare' has no image heads"):
            call()


def test_a_run_folder_gives_its_best(bert: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save(bert, run / "last", pooling="mean")
    with pytest.raises(ValueError, match="has no best/ yet; name .*last"):
        SentenceEncoder.from_pretrained(str(run))
    save(bert, run / "best", pooling="cls")
    (run / "config.yaml").touch()
    encoder = SentenceEncoder.from_pretrained(str(run))
    assert (encoder.pooling, encoder.name) == ("cls", str(run))
    with pytest.raises(ValueError, match=r"holds several runs \(run\); name one"):
        SentenceEncoder.from_pretrained(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no model"):
        SentenceEncoder.from_pretrained(str(tmp_path / "empty"))


def test_a_stated_pooling_overrides_with_the_head_only_if_stored(bert: Path, tmp_path: Path) -> None:
    with_head, without = save(bert, tmp_path / "a"), save(bert, tmp_path / "b", head=False)
    headed = SentenceEncoder.from_pretrained(str(with_head), pooling="cls_with_head")
    assert headed.pooling == "cls_with_head"
    assert (
        np.abs(headed.encode(SENTENCES) - SentenceEncoder.from_pretrained(str(with_head)).encode(SENTENCES)).max() > 0
    )
    with pytest.raises(ValueError, match="'cls_with_head': .*b stores no text head"):
        SentenceEncoder.from_pretrained(str(without), pooling="cls_with_head")
    assert SentenceEncoder.from_pretrained(str(without), pooling="first_last_mean").pooling == "first_last_mean"


def test_a_plain_encoder_needs_its_pooling_said(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not say how its embeddings are pooled; .* cls, cls_with_head, mean"):
        SentenceEncoder.from_pretrained(str(bert))
    with pytest.raises(ValueError, match="unknown pooling 'avg'; choose one of cls"):
        SentenceEncoder.from_pretrained(str(bert), pooling="avg")
    rows_ND = SentenceEncoder.from_pretrained(str(bert), pooling="mean").encode(SENTENCES)
    np.testing.assert_allclose(rows_ND, make(bert, pooling="mean").encode(SENTENCES), atol=1e-6)
    # SimCSE's published models keep their head in the pooler.
    rows_ND = SentenceEncoder.from_pretrained(str(bert), pooling="cls_with_head").encode(SENTENCES)
    wanted = make(bert, pooling="cls_with_head", head=load_stored_pooler(str(bert)))
    np.testing.assert_allclose(rows_ND, wanted.encode(SENTENCES), atol=1e-6)
    roberta = build_tiny_roberta(tmp_path / "roberta")
    with pytest.raises(ValueError, match="stores no head"):
        SentenceEncoder.from_pretrained(str(roberta), pooling="cls_with_head")
    with pytest.raises(ValueError, match="no encoder at 'nobody/nothing'"):
        SentenceEncoder.from_pretrained("nobody/nothing", pooling="cls")
    with pytest.raises(ValueError, match="package 'no_such_package', which is not installed"):
        SentenceEncoder.from_pretrained("package:no_such_package/model")
    with pytest.raises(ValueError, match="needs a text head"):
        SentenceEncoder(load_text_encoder(str(bert), pooling="cls"), load_tokenizer(str(bert)), pooling="cls_with_head")


def test_progress_goes_to_stderr_and_only_if_asked(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = make(bert)
    encoder.encode(SENTENCES)
    assert capfd.readouterr() == ("", "")
    encoder.encode(SENTENCES, show_progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{len(SENTENCES)} of {len(SENTENCES)}" in err


def test_the_package_gives_its_public_classes() -> None:
    import mcse

    assert mcse.SentenceEncoder is SentenceEncoder
    with pytest.raises(ImportError, match="Nothing"):
        from mcse import Nothing  # noqa: F401
