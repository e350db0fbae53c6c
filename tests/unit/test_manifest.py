"""The manifest of a checkpoint, the one writer of checkpoints, and what names of models mean."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from mcse.encoders.contextual import CoveEncoder, ElmoEncoder
from mcse.encoders.loading import load_encoder
from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.files import sha256_file
from mcse.manifest import (
    _TITLES,
    FORMAT_VERSION,
    ImageSide,
    Kind,
    Manifest,
    check_files,
    locate,
    read_manifest,
    resolve_name,
    writing_checkpoint,
)
from mcse.models.cove_model import CoveConfig, CoveModel, save_cove, vocab_of
from mcse.models.elmo_language_model import ElmoLanguageModel, save_language_model
from mcse.models.elmo_model import ElmoConfig, ElmoModel
from mcse.models.feature_model import FeatureClassifier, FeatureSizes, load_feature_model
from mcse.models.grounded_checkpoint import open_grounded_words, save_grounded_words
from mcse.models.weights import save_tensors
from mcse.run_folder import NoModelError
from mcse.text.vocab import SPECIALS, Vocab
from mcse.text.word_map import WordMap
from mcse.text.word_vectors import WordBlock, WordVectors

WORDS = WordVectors.of(("dog", "cat"), np.eye(2, 3, dtype=np.float32))
PLAIN = Manifest(kind="sentence", recipe="mcse", pooling="cls")


def write(folder: Path, manifest: Manifest = PLAIN) -> Path:
    """A checkpoint of two files that nothing could load."""
    with writing_checkpoint(folder, manifest, card="# card\n"):
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


# --- writing and reading


def test_a_manifest_comes_back_whole_with_the_digest_of_every_file(tmp_path: Path) -> None:
    manifest = replace(
        PLAIN,
        images=ImageSide(tower="pixels:4", is_trained=True),
        details={"heads": {"text_head": "tanh"}},
        scores={"dev.perplexity_forward": 90.0},
        higher_is_better={"dev.perplexity_forward": False},
        config={"seed": 1},
    )
    folder = write(tmp_path / "a", manifest)
    read = read_manifest(folder)
    assert replace(read, files={}) == manifest
    names = ("1_Pooling/config.json", "model.safetensors")
    assert read.files == {name: sha256_file(folder / name) for name in names}
    assert (folder / "README.md").read_text() == "# card\n"
    assert read.image_tower == "pixels:4"


def test_a_checkpoint_is_written_into_a_new_folder_and_only_when_all_of_it_is_there(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(ValueError, match="a is not empty; a checkpoint is written into a new folder"):
        write(tmp_path / "a")
    folder = tmp_path / "b"
    with pytest.raises(FileNotFoundError), writing_checkpoint(folder, PLAIN, card=""):
        (folder / "no such folder" / "model.safetensors").touch()
    assert folder.is_dir()
    assert not (folder / "mcse.json").exists()


def test_files_are_checked_by_name_and_only_those_that_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "notes.txt").write_text("somebody's")
    check_files(folder)
    (folder / "1_Pooling" / "config.json").write_text("[]")
    check_files(folder, only=("model*.safetensors",))
    check_files(folder, but=("1_Pooling/*",))
    with pytest.raises(ValueError, match=r"1_Pooling/config\.json is damaged: its SHA-256 .* under 'files' there"):
        check_files(folder)
    for name in ("adapter_config.json", "added_tokens.json", "model.safetensors.index.json", "special_tokens_map.json"):
        (folder / name).write_text("{}")
        with pytest.raises(ValueError, match=f"{name} is none of the files that were saved"):
            check_files(folder, but=("1_Pooling/*",))
        (folder / name).unlink()
    # A missing file is never left for later.
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing, though .*mcse\.json lists it"):
        check_files(folder, only=("model*",))
    check_files(tmp_path / "no folder")
    check_files(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "newer than this mcse, which reads up to"),
        ({"kind": "poem"}, "kind must be 'sentence', 'joint'"),
        ({"surprise": 1}, "surprise"),
        ({"files": ["model.safetensors"]}, "files must be an object, got a list"),
        ({"images": {"towel": 1}}, "unknown keys towel"),
        ({"images": []}, "images must be an object, got a list"),
        ({"pooling": 1}, "pooling must be text, got 1"),
        ({"scores": {"dev": "81"}}, "scores.dev must be a"),
        ({"files": {"../../secret": "0"}}, "files: '../../secret' is no file of the folder"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = write(tmp_path / "a") / "mcse.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=rf"a/mcse\.json: .*{said}"):
        read_manifest(tmp_path / "a")


def test_other_folders_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone is not a checkpoint: no such folder"):
        read_manifest(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"is not a checkpoint: it lacks mcse\.json"):
        read_manifest(tmp_path)
    with pytest.raises(ValueError, match="holds a sentence encoder, not a joint model.*; mcse.SentenceEnc"):
        read_manifest(write(tmp_path / "a"), "joint")


# --- what names mean


def test_every_kind_of_folder_is_known_by_what_it_holds(tmp_path: Path) -> None:
    for name, files in {
        "sentence_transformers": {"modules.json": "[]", "config.json": "{}"},
        "transformers": {"config.json": '{"model_type": "bert"}'},
        "elmo": {"config.json": json.dumps({"model_type": ElmoConfig.model_type})},
        "cove": {"config.json": json.dumps({"model_type": CoveConfig.model_type})},
        "elmo_release": {"options.json": "{}", "elmo_2x_weights.hdf5": ""},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        found = locate(tmp_path / name)
        assert (found.kind, found.path, found.run, found.manifest) == (name, str(tmp_path / name), None, None)
    (tmp_path / "transformers" / "config.json").write_text("{")
    assert locate(tmp_path / "transformers").kind == "transformers", "whoever loads it says that it is damaged"


def test_a_run_is_its_best_checkpoint_whatever_its_kind(tmp_path: Path) -> None:
    for kind in ("sentence", "joint", "tagger", "grounded_words", "elmo", "cove", "word_features"):
        best = write(tmp_path / kind / "best", replace(PLAIN, kind=kind))
        for name, run in ((tmp_path / kind, tmp_path / kind), (best, None)):
            found = locate(str(name))
            assert (found.name, found.kind, found.folder, found.run) == (str(name), kind, best, run)
            assert found.manifest == read_manifest(best)
        assert locate(found) is found
    with pytest.raises(ValueError, match="tagger holds a tagger of entities, not a sentence encoder; mcse.TweetTagger"):
        load_encoder(str(tmp_path / "tagger"))
    with pytest.raises(ValueError, match="word_features holds a model on word features"):
        load_encoder(str(tmp_path / "word_features"))


def test_a_damaged_manifest_does_not_make_a_checkpoint_something_else(tmp_path: Path) -> None:
    (write(tmp_path / "a") / "mcse.json").write_text("{")
    (tmp_path / "a" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"mcse\.json: broken JSON"):
        locate(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("package:os/model", "names 'os', a module and no package"),
        ("package:json/model", "package 'json' holds no folder 'model'"),
        ("package:no_such_package/model", "which is not installed"),
        ("package:__main__/model", "which is not installed"),
        ("package:/model", "which is not installed"),
        ("package:.x/model", "which is not installed"),
        ("package:a b/model", "which is not installed"),
    ],
)
def test_names_of_packages_that_hold_no_model(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        locate(name)


def test_a_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_package_with_code" / "model").mkdir(parents=True)
    (tmp_path / "a_package_with_code" / "__init__.py").write_text("raise SystemExit('ran')")
    (tmp_path / "a_package_with_code" / "model" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:a_package_with_code/model").kind == "transformers"


def test_names_that_are_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b/c.vec.gz", "GoogleNews.BIN.gz", "x.y.bin", "vectors:anything"):
        assert (locate(name).kind, locate(name).path) == ("vectors", name.removeprefix("vectors:"))
    for name in ("a", "a.gz", "org/model", "a.safetensors", "txt", "a.bin.zip"):
        assert (locate(name).kind, locate(name).path) == ("hub", name)
    assert locate("open_clip:ViT-B-32/openai").path == "ViT-B-32/openai"
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(NoModelError, match="is a file, and none of word vectors"):
        locate(tmp_path / "model.safetensors")
    with pytest.raises(NoModelError, match="there is no run and no checkpoint at absent/run"):
        locate("absent/run").expect("elmo")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("/absent/run", "./run", "../run", "runs/absent", "runs/mcse/absent", "run/", "a b", "~/run"):
        for given in (name, f"sentence-transformers:{name}", f"model2vec:{name}"):
            with pytest.raises(NoModelError, match=f"there is no run and no checkpoint at {given}"):
                locate(given)
    with pytest.raises(ValueError, match="'no_such_package', which is not installed"):
        locate("package:no_such_package/model")
    assert resolve_name("package:tests/unit") == str(Path(__file__).parent)


def test_what_messages_call_the_loader_of_a_kind_is_there() -> None:
    assert set(_TITLES) == set(get_args(Kind))
    for title, loader in _TITLES.values():
        module, _, name = loader.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name)), title


@pytest.mark.slow
def test_names_are_understood_without_torch() -> None:
    code = "import sys, mcse.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- every kind refuses damaged files by name


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["vectors.safetensors", "word_map.safetensors", "vocab.json"])
def test_grounded_words_with_a_damaged_file_are_refused(tmp_path: Path, file: str) -> None:
    """House review: only sentence, joint and tagger checkpoints noticed damaged weights."""
    with_words = Vocab((*SPECIALS, "dog"))
    manifest = Manifest(kind="grounded_words", recipe="grounded_words", details={"source": "a", "source_digest": "b"})
    block, word_map = WordBlock(WORDS.words, WORDS.row_VD), WordMap(np.ones((3, 2), dtype=np.float32))
    save_grounded_words(tmp_path / "best", [block], word_map=word_map, vocab=with_words, manifest=manifest, card="")
    assert isinstance(load_encoder(str(tmp_path)), WordVectorEncoder)
    assert open_grounded_words(tmp_path)[0] == tmp_path / "best"
    _flip(tmp_path / "best" / file)
    with pytest.raises(ValueError, match=f"{file} is damaged: its SHA-256"):
        load_encoder(str(tmp_path)) if file == "vectors.safetensors" else open_grounded_words(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "vocab.json", "language_model.safetensors"])
def test_an_elmo_with_a_damaged_file_is_refused(tmp_path: Path, file: str) -> None:
    """House review: as above."""
    sizes = ElmoConfig(filters=[[1, 4]], character_dim=2, cell_dim=4, projection_dim=2, highway_layers=1, layers=1)
    vocab = Vocab((*SPECIALS, "dog"))
    with writing_checkpoint(tmp_path / "best", replace(PLAIN, kind="elmo", pooling="mean"), card=""):
        model = ElmoLanguageModel(ElmoModel(sizes), vocabulary_size=len(vocab))
        save_language_model(tmp_path / "best", model, vocab)
    assert isinstance(load_encoder(str(tmp_path)), ElmoEncoder)
    _flip(tmp_path / "best" / file)
    with pytest.raises(ValueError, match=f"{file} is damaged: its SHA-256"):
        load_encoder(str(tmp_path))


def test_a_cove_with_damaged_words_is_refused(tmp_path: Path) -> None:
    """House review: as above."""
    with writing_checkpoint(tmp_path / "best", replace(PLAIN, kind="cove", pooling="mean"), card=""):
        save_cove(tmp_path / "best", CoveModel.from_vectors(WORDS, hidden_dim=2, layers=1), vocab_of(WORDS))
    assert isinstance(load_encoder(str(tmp_path)), CoveEncoder)
    _flip(tmp_path / "best" / "vocab.json")
    with pytest.raises(ValueError, match=r"vocab\.json is damaged: its SHA-256"):
        load_encoder(str(tmp_path))


def test_a_model_on_word_features_with_damaged_weights_is_refused(tmp_path: Path) -> None:
    """House review: as above."""
    sizes = {"static_dim": 3, "layers": 0, "layer_dim": 0, "hidden_dim": 2, "classes": 2}
    manifest = replace(PLAIN, kind="word_features", pooling=None, details={"sizes": sizes, "types": None})
    with writing_checkpoint(tmp_path / "best", manifest, card=""):
        save_tensors(tmp_path / "best" / "model.safetensors", FeatureClassifier(FeatureSizes(**sizes)).state_dict())
    assert isinstance(load_feature_model(tmp_path / "best"), FeatureClassifier)
    _flip(tmp_path / "best" / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: its SHA-256"):
        load_feature_model(tmp_path / "best")
