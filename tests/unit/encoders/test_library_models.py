"""Models that sentence-transformers, model2vec and open_clip run themselves: rows are theirs, the frame is ours."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

import mcse.encoders.sentence_transformers_encoder as module
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.encoders.model2vec_encoder import Model2VecEncoder
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.encoders.sentence_transformers_encoder import SentenceTransformersEncoder
from mcse.manifest import Reading
from mcse.types import Encoder, ImageTextEncoder
from tests.fixtures.library_models import LibraryModel, build_library_models, edit_json
from tests.fixtures.tiny_models import TEXTS

HAS_MODEL2VEC = find_spec("model2vec") is not None
SENTENCES = [*TEXTS, "", "a", "Two dogs run. " * 80, "ümlaut 漢字"]
KINDS = (
    *("mean", "cls", "max", "mean, Normalize", "weighted mean", "mean of square-root length", "cls and mean"),
    *("last token of a decoder", "weighted mean of a decoder", "Dense, Normalize", "LayerNorm", "Router"),
    *("StaticEmbedding", "default prompt", "prompt outside the pooling", "prompt by name", "prompt as text"),
    *("truncate_dim", "CLIP", "open_clip", "model2vec"),
)
OURS = ("mean", "cls", "max", "mean, Normalize", "Dense, Normalize", "last token of a decoder")
"""Plain folders that our own reader follows."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LibraryModel]:
    return build_library_models(tmp_path_factory.mktemp("models"), with_model2vec=HAS_MODEL2VEC)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "model2vec" and not HAS_MODEL2VEC:
        pytest.skip("model2vec is not installed")
    return str(request.param)


def folder_of(model: LibraryModel) -> Path:
    return Path(model.name.partition(":")[2])


def load(model: LibraryModel, *, name: str | None = None) -> Encoder:
    return load_encoder(name or model.name, device="cpu", reading=model.reading)


def test_rows_are_those_of_the_library_itself(models: dict[str, LibraryModel], kind: str) -> None:
    model, encoder = models[kind], load(models[kind])
    expected = model.rows(model.load(), SENTENCES)
    assert isinstance(encoder, Encoder)
    assert encoder.dimension == expected.shape[1]
    for batch_size in (4, 64):
        rows = encoder.encode(SENTENCES, batch_size=batch_size)
        np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.1  # or all would agree


def test_raw_rows_are_those_before_the_final_normalize(models: dict[str, LibraryModel], kind: str) -> None:
    model = models[kind]
    if kind in ("open_clip", "model2vec"):
        pytest.skip("has no modules")
    library = model.load()
    if isinstance(library[-1], Normalize):
        library = SentenceTransformer(
            modules=list(library)[:-1], device="cpu", prompts=library.prompts, truncate_dim=library.truncate_dim
        )
    asked = {"prompt": model.reading.prompt, "prompt_name": model.reading.prompt_name}
    expected = library.encode(SENTENCES, batch_size=5, **asked)
    raw = load(model).encode(SENTENCES, normalize=False, batch_size=4)
    np.testing.assert_allclose(raw, expected, atol=1e-5 * max(1.0, float(abs(expected).max())))
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1)


def test_a_folder_that_our_reader_refuses_is_loaded_by_the_library_which_is_said(
    models: dict[str, LibraryModel], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind in ("open_clip", "model2vec"):
        pytest.skip("is no folder of sentence-transformers")
    model = models[kind]
    encoder = load(model, name=str(folder_of(model)))
    is_ours = kind in OURS and model.reading == Reading()
    assert type(encoder) is (SentenceEncoder if is_ours else SentenceTransformersEncoder)
    assert ("Loaded by that library" in caplog.text) == (not is_ours)
    np.testing.assert_allclose(encoder.encode(SENTENCES), model.rows(model.load(), SENTENCES), atol=1e-5)


@pytest.mark.skipif(not HAS_MODEL2VEC, reason="model2vec is not installed")
def test_a_model2vec_folder_is_known_by_what_it_says(models: dict[str, LibraryModel]) -> None:
    model = models["model2vec"]
    for name in (model.name, f"sentence-transformers:{folder_of(model)}", str(folder_of(model))):
        np.testing.assert_allclose(load(model, name=name).encode(TEXTS), model.rows(model.load(), TEXTS), atol=1e-5)
    encoder = load(model)
    assert isinstance(encoder, Model2VecEncoder)
    zeros = encoder.encode(["", "漢"])
    assert not zeros.any()
    cut = model.load().encode(["two dogs run"], max_length=1, normalize=True)
    np.testing.assert_allclose(encoder.encode(["two dogs run"], max_length=1), cut, atol=1e-6)
    raw = encoder.encode(TEXTS, normalize=False)
    np.testing.assert_allclose(raw, model.load().encode(TEXTS, normalize=False), atol=1e-6)
    with pytest.raises(ValueError, match="pooling 'cls' is not available, only 'mean': a table's vectors are averaged"):
        load_encoder(model.name, pooling="cls")


def test_a_shorter_input_is_cut_as_the_library_cuts_it(models: dict[str, LibraryModel]) -> None:
    model = models["weighted mean"]
    cut = {"text": {"max_length": 4, "truncation": True}}
    expected = model.load().encode(SENTENCES, normalize_embeddings=True, processing_kwargs=cut)
    np.testing.assert_allclose(load(model).encode(SENTENCES, max_length=4), expected, atol=1e-5)
    with pytest.raises(ValueError, match="max_length must be 1 to 128 tokens"):
        load(model).encode(SENTENCES, max_length=129)
    with pytest.raises(ValueError, match="cannot be given another max_length than its own"):
        load(models["StaticEmbedding"]).encode(SENTENCES, max_length=4)


def test_what_is_asked_in_vain_is_named(models: dict[str, LibraryModel], tmp_path: Path) -> None:
    folder = folder_of(models["default prompt"])
    with pytest.raises(ValueError, match=r"--prompt-name 'quary': .* lists 'query', 'document', 'passage'"):
        load_encoder(str(folder), reading=Reading(prompt_name="quary"))
    with pytest.raises(ValueError, match="give one of them"):
        Reading(prompt="a", prompt_name="b")
    with pytest.raises(ValueError, match="does not know pooling weightedmean.*sentence-transformers:"):
        load_encoder(str(folder_of(models["weighted mean"])), pooling="mean")
    with pytest.raises(ValueError, match="only 'own': sentence-transformers pools as the model's own files say"):
        load_encoder(models["weighted mean"].name, pooling="mean")
    with pytest.raises(ValueError, match="lists no prompts by name; --prompt takes one as text"):
        load_encoder(models["open_clip"].name, reading=Reading(prompt_name="query"))
    with pytest.raises(ValueError, match="--trust-remote-code is for sentence-transformers:NAME"):
        load_encoder(models["open_clip"].name, reading=Reading(trust_remote_code=True))
    with pytest.raises(ValueError, match=f"no run and no checkpoint at sentence-transformers:{tmp_path / 'gone'}"):
        load_encoder(f"sentence-transformers:{tmp_path / 'gone'}")
    with pytest.raises(ValueError, match="holds no model"):
        load_encoder(f"sentence-transformers:{tmp_path}")
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "model.safetensors").write_bytes(b"{")
    with pytest.raises(ValueError, match="sentence-transformers cannot load it: "):
        load_encoder(f"sentence-transformers:{damaged}")


def test_other_kinds_put_a_prompt_before_every_sentence(models: dict[str, LibraryModel]) -> None:
    plain, prompted = (load_encoder(models["open_clip"].name, reading=Reading(prompt=text)) for text in (None, "a: "))
    expected = plain.encode([f"a: {text}" for text in TEXTS])
    np.testing.assert_allclose(prompted.encode(list(TEXTS)), expected, atol=1e-6)
    assert abs(plain.encode(list(TEXTS)) - expected).max() > 0.01


def test_a_library_that_is_missing_or_old_is_named_with_the_line_that_installs_it(
    models: dict[str, LibraryModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module.importlib.metadata, "version", lambda name: "5.4.1")
        with pytest.raises(ValueError, match=r"needs sentence-transformers 6 or later.*5\.4\.1 is installed"):
            load(models["mean"])
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"not installed \(pip install 'mcse\[sentence-transformers\]'\)"):
        load(models["mean"])
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(ValueError, match=r"not installed \(pip install 'mcse\[model2vec\]'\)"):
        load_encoder("model2vec:anything/else")


CODE = """
import torch
from pathlib import Path
from sentence_transformers.base.modules import Module

Path(__file__).with_name("ran").touch()


class Doubled(Module):
    config_keys = []

    def forward(self, features):
        features["sentence_embedding"] = features["sentence_embedding"] + 1
        return features

    def save(self, output_path, *args, **kwargs):
        pass

    @classmethod
    def load(cls, model_name_or_path, **kwargs):
        return cls()
"""


def test_code_of_a_model_runs_only_where_the_caller_says_so(
    models: dict[str, LibraryModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "coded"
    shutil.copytree(folder_of(models["mean"]), folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Doubled", "type": "doubled.Doubled"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "doubled.py").write_text(CODE)
    (folder / "2_Doubled").mkdir()
    # A folder cannot ask for its own code.
    edit_json(folder / "sentence_bert_config.json", model_args={"trust_remote_code": True})
    edit_json(folder / "config_sentence_transformers.json", trust_remote_code=True)
    for name in (str(folder), f"sentence-transformers:{folder}"):
        with pytest.raises(ValueError, match="if you trust its code, --trust-remote-code runs it"):
            load_encoder(name)
    assert not list(tmp_path.rglob("ran"))
    trusting = Reading(trust_remote_code=True)
    raw = load_encoder(str(folder), device="cpu", reading=trusting).encode(TEXTS, normalize=False)
    plain = load(models["mean"]).encode(TEXTS, normalize=False)
    np.testing.assert_allclose(raw, plain + 1, atol=1e-5)
    before = encoder_digest(str(folder), trusting)
    assert before != encoder_digest(str(folder))
    (folder / "doubled.py").write_text(CODE.replace("+ 1", "+ 2"))
    assert encoder_digest(str(folder), trusting) != before


def test_the_digest_is_of_every_file_that_the_library_may_read_and_of_the_prompt(
    models: dict[str, LibraryModel], tmp_path: Path
) -> None:
    folder = tmp_path / "router"
    shutil.copytree(folder_of(models["Router"]), folder)
    name = f"sentence-transformers:{folder}"
    first = encoder_digest(name)
    assert first == encoder_digest(models["Router"].name) == encoder_digest(str(folder))
    (folder / "README.md").write_text("scores")
    assert encoder_digest(name) == first
    readings = [Reading(), Reading(prompt="a"), Reading(prompt="b"), Reading(prompt_name="query")]
    assert len({encoder_digest(name, reading) for reading in readings}) == 4
    nested = [path for path in folder.rglob("*.safetensors") if path.parent != folder]
    assert nested
    for path in nested:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"?")
        assert encoder_digest(name) != first
        path.write_bytes(content)
    assert encoder_digest(name) == first


def test_images_and_captions_stand_in_one_space(models: dict[str, LibraryModel], tmp_path: Path) -> None:
    encoder = load(models["CLIP"])
    assert isinstance(encoder, ImageTextEncoder)
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, size=(20, 24, 3), dtype=np.uint8)) for _ in range(5)]
    images[1].save(tmp_path / "one.png")
    expected = models["CLIP"].load().encode(images, normalize_embeddings=True)
    rows = encoder.encode_images([images[0], tmp_path / "one.png", *images[2:]], batch_size=2)
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(encoder.encode_captions(TEXTS), encoder.encode(TEXTS), atol=1e-6)
    features = encoder.image_features(images)
    np.testing.assert_allclose(encoder.encode_image_features(features), expected, atol=1e-5)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"images\[1\], .*bad\.png"):
        encoder.encode_images([images[0], tmp_path / "bad.png"])
    text = load(models["mean"])
    assert not text.has_image_heads
    with pytest.raises(ValueError, match="takes no images, so it cannot compare sentences with them"):
        text.encode_images(images)


def test_encoding_leaves_the_model_in_the_mode_it_had(models: dict[str, LibraryModel]) -> None:
    library = models["mean, Normalize"].load()
    encoder = SentenceTransformersEncoder(library)
    library.train()
    first, second = encoder.encode(TEXTS), encoder.encode(TEXTS)
    np.testing.assert_array_equal(first, second)
    assert library.training
    assert library[0].training
    assert torch.is_grad_enabled()
