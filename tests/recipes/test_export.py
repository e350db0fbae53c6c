"""Exports of every recipe's checkpoint: the rows are those of other people's code, or the refusal names why not."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("openvino", reason="OpenVINO is not installed")

import onnxruntime
from tokenizers import Tokenizer

from mcse import JointEncoder, SentenceEncoder
from mcse.commands.main import main
from mcse.encoders.exported import ExportedEncoder
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.export import folders
from mcse.manifest import Manifest, locate, writing_checkpoint
from tests.fixtures.architectures import build_architecture
from tests.fixtures.launch import run
from tests.fixtures.tiny_run import build_tiny_run

SENTENCES = [
    "the dog",
    "the dog runs in the park number 3",
    "the cat sleeps in the house number 4 the bear eats in the river number 12 the fox jumps",
    "dog " * 60,
]
RUNS = {
    "simcse": ("simcse", {}),
    "simcse with head": ("simcse", {"encoder.pooling": "cls_with_head"}),
    "mcse": ("mcse", {"encoder.pooling": "mean"}),
    "tables": ("tables", {"encoder.pooling": "last"}),
    "vse gru": ("vse", {}),
    "vse lstm": ("vse", {"encoder.kind": "lstm", "encoder.marks": "both"}),
    "vse bow": ("vse", {"encoder.kind": "bow"}),
    "vse transformer": ("vse", {"encoder.kind": "transformer", "encoder.word_dim": ...}),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A finished run of each, made when it is first asked for."""
    made: dict[str, Path] = {}

    def run_of(name: str) -> Path:
        if name not in made:
            recipe, keys = RUNS[name]
            if name == "vse transformer":
                keys = keys | {"encoder.name_or_path": str(tiny / "bert")}
            made[name] = tmp_path_factory.mktemp("run") / "run"
            assert run(tiny, recipe, made[name], keys | {"train.max_steps": 2, "train.eval_steps": 2}) == 0
        return made[name]

    return run_of


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """Exports, made when they are first asked for; not to be changed."""
    made: dict[tuple[str, ...], Path] = {}

    def folder_of(name: str, to: str = "onnx", *more: str) -> Path:
        key = (name, to, *more)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("export") / "export"
            assert main(["export", str(runs(name)), "--to", to, "--output", str(made[key]), *more]) == 0
        return made[key]

    return folder_of


def rows_elsewhere(folder: Path, sentences: list[str]) -> np.ndarray:
    """Without any code of ours: the tokenizer's file by its library, a batch padded by hand, onnxruntime."""
    facts = json.loads((folder / "export.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if facts["max_length"]:
        tokenizer.enable_truncation(facts["max_length"])
    ids = [tokenizer.encode(text).ids for text in sentences]
    width = max(map(len, ids)) + 3
    id_BT = np.array([row + [facts["pad_id"]] * (width - len(row)) for row in ids])
    mask_BT = np.array([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(["embeddings"], {"input_ids": id_BT, "attention_mask": mask_BT})[0]


@pytest.mark.parametrize("name", RUNS)
def test_rows_of_onnx_are_those_that_were_evaluated_in_any_batch(name, runs, exported):
    folder = exported(name)
    wanted = load_encoder(str(runs(name))).encode(SENTENCES)
    together = rows_elsewhere(folder, SENTENCES)
    alone = np.concatenate([rows_elsewhere(folder, [text]) for text in SENTENCES])
    np.testing.assert_allclose(together, wanted, atol=1e-6)
    np.testing.assert_allclose(alone, wanted, atol=1e-6)
    assert np.abs(wanted[0] - wanted[2]).max() > 1e-3  # the sentences are told apart
    stored = json.loads((folder / "export.json").read_text())
    assert stored["largest_difference"] <= 1e-6
    assert (stored["precision"], stored["dim"], stored["sentences_compared"]) == ("fp32", wanted.shape[1], 320)
    assert set(stored["files"]) >= {"model.onnx", "tokenizer.json"}


@pytest.mark.parametrize("name", RUNS)
def test_openvino_gives_the_same_rows(name, runs, exported):
    folder = exported(name, "openvino")
    encoder = SentenceEncoder.from_pretrained(folder, backend="openvino")
    np.testing.assert_allclose(encoder.encode(SENTENCES), load_encoder(str(runs(name))).encode(SENTENCES), atol=1e-6)
    with pytest.raises(ValueError, match="was exported for OpenVINO, which onnxruntime cannot read"):
        SentenceEncoder.from_pretrained(folder, backend="onnx")


def test_rows_of_bert_are_those_of_transformers(tiny, runs, exported):
    """By hand: AutoModel one sentence at a time, the mean of its tokens, unit norm."""
    folder = exported("mcse")
    best = runs("mcse") / "best"
    model, tokenizer = AutoModel.from_pretrained(best).eval(), AutoTokenizer.from_pretrained(best)
    for text, row in zip(
        SENTENCES, SentenceEncoder.from_pretrained(folder, backend="onnx").encode(SENTENCES), strict=True
    ):
        with torch.no_grad():
            token_TD = model(**tokenizer(text, truncation=True, max_length=128, return_tensors="pt"))[0][0]
        mean_D = token_TD.mean(0)
        np.testing.assert_allclose(row, mean_D / mean_D.norm(), atol=1e-6)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_an_export_is_an_encoder_like_any_other(backend, runs, exported, capsys):
    folder = exported("mcse")
    encoder = SentenceEncoder.from_pretrained(folder, backend=backend)
    assert isinstance(encoder, ExportedEncoder)
    assert (encoder.pooling, encoder.dimension, encoder.max_length) == ("mean", 32, 128)
    torch_encoder = SentenceEncoder.from_pretrained(runs("mcse"))
    np.testing.assert_allclose(encoder.encode(["the dog", ""]), torch_encoder.encode(["the dog", ""]), atol=1e-6)
    assert encoder.encode("the dog", dim=8).shape == (8,)
    np.testing.assert_allclose(encoder.encode_captions(SENTENCES), torch_encoder.encode_captions(SENTENCES), atol=1e-6)
    with pytest.raises(ValueError, match="max_length must be 1 to 128 tokens"):
        encoder.encode("the dog", max_length=129)
    with pytest.raises(ValueError, match="pooling 'cls' is not available; it was exported with mean"):
        SentenceEncoder.from_pretrained(folder, backend=backend, pooling="cls")


def test_the_image_side_is_a_second_file(runs, exported):
    """Of features, since the tiny runs name no image encoder."""
    feature_NF = np.random.default_rng(3).normal(size=(5, 12)).astype(np.float32)
    for name, kind in (("mcse", SentenceEncoder), ("vse gru", JointEncoder)):
        session = onnxruntime.InferenceSession(exported(name) / "image_model.onnx")
        found = session.run(["embeddings"], {"features": feature_NF})[0]
        wanted = kind.from_pretrained(runs(name)).encode_image_features(feature_NF)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        stored = json.loads((exported(name) / "export.json").read_text())["images"]
        assert (stored["input"], stored["dim"]) == ("features", wanted.shape[1])
    assert not (exported("simcse") / "image_model.onnx").exists()


def test_an_image_encoder_goes_into_the_file(tiny, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    draw = np.random.default_rng(0)
    for number in range(48):
        pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number:04d}.png")
    keys = {"data.images": {"folder": str(images), "tower": "pixels:4"}, "train.max_steps": 2, "train.eval_steps": 2}
    assert run(tiny, "mcse", tmp_path / "run", keys) == 0
    assert main(["export", str(tmp_path / "run"), "--to", "onnx", "--output", str(tmp_path / "out")]) == 0
    encoder = SentenceEncoder.from_pretrained(tmp_path / "run")
    stored = json.loads((tmp_path / "out" / "export.json").read_text())["images"]
    assert (stored["input"], stored["tower"]) == ("pixel_values", "pixels:4")
    paths = sorted(images.iterdir())[:3]
    pixels = torch.stack([encoder.tower.preprocess(Image.open(path).convert("RGB")) for path in paths]).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "image_model.onnx")
    found = session.run(["embeddings"], {"pixel_values": pixels})[0]
    np.testing.assert_allclose(found, encoder.encode_images(paths), atol=1e-6)


@pytest.mark.parametrize("name", ["simcse", "simcse with head", "mcse", "tables", "vse transformer"])
def test_a_folder_of_sentence_transformers_is_read_by_that_library(name, runs, exported):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = exported(name, "sentence-transformers")
    found = library.SentenceTransformer(str(folder), device="cpu").encode(SENTENCES)
    np.testing.assert_allclose(found, load_encoder(str(runs(name))).encode(SENTENCES), atol=1e-5)
    np.testing.assert_allclose(load_encoder(str(folder)).encode(SENTENCES), found, atol=1e-5)
    assert not (folder / "mcse.json").exists()


def test_every_file_is_listed_whatever_its_name(runs, tmp_path, monkeypatch):
    saved = folders.save_sentence_transformers

    def save(folder, **parts):
        saved(folder, **parts)
        (folder / "1_Pooling" / "LICENSE").write_text("free")

    monkeypatch.setattr(folders, "save_sentence_transformers", save)
    asked = ["export", str(runs("mcse")), "--to", "sentence-transformers", "--output", str(tmp_path / "out")]
    assert main(asked) == 0
    there = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    listed = json.loads((tmp_path / "out" / "export.json").read_text())["files"]
    assert set(listed) == there - {"export.json", "README.md"}
    assert listed["1_Pooling/LICENSE"] == hashlib.sha256(b"free").hexdigest()


def test_grounded_words_become_a_file_of_word2vec(tiny, tmp_path, capsys):
    assert run(tiny, "grounded_words", tmp_path / "run") == 0
    assert main(["export", str(tmp_path / "run"), "--to", "word2vec", "--output", str(tmp_path / "out")]) == 0
    content = (tmp_path / "out" / "vectors.bin").read_bytes()
    head, _, body = content.partition(b"\n")
    count, width = map(int, head.split())
    stored = load_file(tmp_path / "run" / "best" / "vectors.safetensors")
    words = stored["words"].numpy().tobytes().decode().split("\n")
    kept = [(word, row) for word, row in zip(words, stored["vectors"].numpy(), strict=True) if " " not in word]
    assert count == len(kept) == len(words) - 1  # "New York" cannot stand there
    for word, row in kept:
        name, _, body = body.partition(b" ")
        assert name.decode() == word
        np.testing.assert_array_equal(np.frombuffer(body[: 4 * width], "<f4"), row)
        body = body[4 * width + 1 :]
    assert not body
    for to in ("onnx", "openvino", "sentence-transformers"):
        assert main(["export", str(tmp_path / "run"), "--to", to, "--output", str(tmp_path / "more")]) == 2
        assert "looked up by the word: --to word2vec exports it" in capsys.readouterr().err


REFUSED = {
    "elmo": "its words are made of characters, which no input_ids hold",
    "cove": "its static vectors are looked up by words",
    "tagger": "it tags words, and has no embedding of a sentence",
    "word_features": "it scores texts, and has no embedding of a sentence",
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("to", ["onnx", "openvino", "sentence-transformers", "word2vec"])
def test_what_no_format_expresses_is_refused_by_name(kind, to, tmp_path, capsys):
    with writing_checkpoint(tmp_path / "model", Manifest(kind=kind, recipe="maf"), card=""):
        pass
    assert main(["export", str(tmp_path / "model"), "--to", to, "--output", str(tmp_path / "out")]) == 2
    assert f"cannot be exported: {REFUSED[kind]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("simcse", ["--to", "word2vec"], "word2vec holds one vector a word, and this is a model of sentences"),
        ("vse gru", ["--to", "word2vec"], "word2vec holds one vector a word, and this is a model of sentences"),
        ("vse gru", ["--to", "sentence-transformers"], "reads words by a vocabulary of its own"),
        ("simcse", ["--to", "sentence-transformers", "--precision", "int8"], "--precision is for onnx and openvino"),
        ("simcse", ["--to", "onnx", "--calibrate", "x"], "--calibrate sets ranges for --precision int8"),
        ("simcse", ["--to", "openvino", "--precision", "int8"], "takes --calibrate FILE"),
        ("simcse", ["--to", "sentence-transformers", "--pooling", "last2_mean"], "format has no such pooling"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(name, asked, said, runs, tmp_path, capsys):
    assert main(["export", str(runs(name)), "--output", str(tmp_path / "out"), *asked]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_padding_disturbs_is_refused(tiny, tmp_path, capsys):
    known = len(AutoTokenizer.from_pretrained(tiny / "bert"))
    build_architecture(tmp_path / "fnet", "fnet", vocab_size=known + 1, pad_token_id=0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / "bert" / name, tmp_path / "fnet")
    asked = ["export", str(tmp_path / "fnet"), "--pooling", "mean", "--to", "onnx", "--output", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "lets padding change a sentence's embedding" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["pooling", "padding", "norm"])
def test_an_export_that_is_not_what_was_evaluated_is_not_written(damage, runs, tmp_path, capsys, monkeypatch):
    """The complaint of a dozen threads: pooling lost, padding averaged in, no unit norm."""
    whole = folders.write_text_graph

    def damaged(path, parts, modules, **more):
        rows = {
            "pooling": lambda batch: parts.text.token_rows(batch)[:, 0],
            "padding": lambda batch: parts.text.token_rows(batch).mean(1),
            "norm": parts.rows,
        }[damage]
        if damage == "norm":
            monkeypatch.setattr(
                "mcse.export.graphs._Graph.forward", lambda self, *inputs: tuple(f(*inputs) for f in self.functions)
            )
        whole(path, replace(parts, rows=rows), modules, **more)

    monkeypatch.setattr(folders, "write_text_graph", damaged)
    assert main(["export", str(runs("mcse")), "--to", "onnx", "--output", str(tmp_path / "out")]) == 2
    assert "for onnx in fp32 is not what was evaluated: largest difference from PyTorch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_weights_are_smaller_and_rank_alike(name, precision, runs, exported, monkeypatch):
    monkeypatch.setattr("mcse.export.precision._LEAST", 16)  # tiny models have no larger tensors
    folder = exported(name, "onnx", "--precision", precision)
    stored = json.loads((folder / "export.json").read_text())
    assert stored["rank_correlation"] > {"fp16": 0.9999, "int8": 0.95}[precision]
    assert 1e-6 < stored["largest_difference"] < {"fp16": 5e-3, "int8": 0.3}[precision]
    assert stored["quantisation"] == {"fp16": None, "int8": "dynamic"}[precision]
    if (name, precision) == ("mcse", "fp16"):  # smaller models grow by the names of what is added
        assert (folder / "model.onnx").stat().st_size < 0.8 * (exported(name) / "model.onnx").stat().st_size
    found = SentenceEncoder.from_pretrained(folder, backend="onnx").encode(SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)


@pytest.mark.parametrize(("name", "to"), [("mcse", "onnx"), ("mcse", "openvino"), ("vse gru", "onnx")])
def test_static_ranges_come_of_the_sentences_given(name, to, tiny, runs, tmp_path, capsys):
    asked = ["export", str(runs(name)), "--to", to, "--precision", "int8", "--output", str(tmp_path / "out")]
    assert main([*asked, "--calibrate", str(tiny / "sentences.txt"), "--sentences", str(tiny / "sentences.txt")]) == 0
    assert json.loads((tmp_path / "out" / "export.json").read_text())["quantisation"] == "static"
    (tmp_path / "few.txt").write_text("the dog\n")
    assert main([*asked, "--overwrite", "--calibrate", str(tmp_path / "few.txt")]) == 2
    assert "few.txt: 1 lines of text, of which at least 16 are needed" in capsys.readouterr().err
    assert (tmp_path / "out" / "export.json").is_file()  # the export before is as it was


def test_one_wide_column_does_not_spoil_static_ranges(tiny, tmp_path):
    """As in MiniLM, where a column of what the second feed-forward product gives is 200 times as wide as another."""
    model = AutoModel.from_pretrained(tiny / "bert")
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.output.dense.weight[3] *= 100
            layer.output.LayerNorm.weight[3] = 0
    model.save_pretrained(tmp_path / "wide")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / "bert" / name, tmp_path / "wide")
    asked = ["export", str(tmp_path / "wide"), "--pooling", "mean", "--to", "onnx", "--precision", "int8"]
    asked += ["--calibrate", str(tiny / "sentences.txt"), "--sentences", str(tiny / "sentences.txt")]
    assert main([*asked, "--output", str(tmp_path / "out")]) == 0  # refused where that product is stored in 8 bits


def test_a_prompt_is_part_of_the_export(runs, tmp_path):
    asked = ["export", str(runs("mcse")), "--to", "onnx", "--output", str(tmp_path / "out"), "--prompt", "the fox "]
    assert main(asked) == 0
    encoder = SentenceEncoder.from_pretrained(tmp_path / "out", backend="onnx")
    wanted = SentenceEncoder.from_pretrained(runs("mcse")).encode(["the fox eats"])
    np.testing.assert_allclose(encoder.encode(["eats"]), wanted, atol=1e-6)


def test_damaged_and_exchanged_files_are_named(runs, exported, tmp_path):
    folder = shutil.copytree(exported("mcse"), tmp_path / "copy")
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.onnx is damaged: its SHA-256 is not the one in"):
        load_encoder(str(folder))
    shutil.copy(exported("tables") / "model.onnx", folder)
    with pytest.raises(ValueError, match=r"model\.onnx is damaged: its SHA-256 is not the one in"):
        SentenceEncoder.from_pretrained(folder, backend="onnx")
    # Without the line of the manifest, the library's own words.
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])
    manifest = json.loads((folder / "mcse.json").read_text())
    del manifest["files"]["model.onnx"]
    (folder / "mcse.json").write_text(json.dumps(manifest))
    for backend in ("onnx", "openvino"):
        with pytest.raises(ValueError, match=rf"model\.onnx: {backend} cannot read it"):
            SentenceEncoder.from_pretrained(folder, backend=backend)
    with pytest.raises(ValueError, match="is no exported graph; mcse export .* --to onnx --output FOLDER makes one"):
        SentenceEncoder.from_pretrained(runs("mcse"), backend="onnx")


def test_only_an_export_is_replaced(runs, exported, tmp_path, capsys):
    asked = ["export", str(runs("mcse")), "--to", "onnx", "--output", str(tmp_path)]
    (tmp_path / "mine.txt").write_text("mine")
    assert main([*asked, "--overwrite"]) == 2
    assert "is not empty; and holds no export" in capsys.readouterr().err
    assert main([*asked[:-1], str(exported("mcse"))]) == 2
    assert "is not empty; give --overwrite to replace it" in capsys.readouterr().err
    assert main(["export", str(exported("mcse")), "--to", "openvino", "--output", str(tmp_path / "again")]) == 2
    assert "it is an export already" in capsys.readouterr().err


def test_the_digest_of_an_export_follows_its_files(exported):
    first, second = (encoder_digest(str(exported(name))) for name in ("mcse", "tables"))
    assert first
    assert first != second
    assert locate(str(exported("mcse"))).kind == "exported"


def test_evaluate_gives_a_row_to_each_library(tiny, runs, exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MCSE_CACHE", str(tmp_path / "cache"))
    asked = ["evaluate", "--data", str(tiny / "dev.tsv"), "--output", str(tmp_path / "out")]
    model = str(runs("mcse"))
    assert main([*asked, model, "--backend", "torch", "onnx", "openvino"]) == 0
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    names = [f"{model} ({backend})" for backend in ("torch", "onnx", "openvino")]
    assert [found["model"] for found in stored["models"]] == names if "models" in stored else True
    files = sorted((tmp_path / "out").glob("*/results.json"))
    scores = [json.loads(path.read_text())["scores"]["sts"]["dev"]["spearman"] for path in files]
    assert len(scores) == 3
    assert max(scores) - min(scores) < 1e-3
    monkeypatch.setattr(folders, "export_model", lambda *_, **__: pytest.fail("it was to be exported"))
    assert main([*asked, model, "--backend", "onnx", "--prompt-name", "query"]) == 2
    assert "--prompt-name is for sentence-transformers:NAME, which --backend onnx cannot" in capsys.readouterr().err
    assert main([*asked, str(exported("mcse", "onnx", "--precision", "int8"))]) == 0
    assert main([*asked, str(exported("mcse")), "--backend", "torch"]) == 2
    assert "holds a graph for onnx; name the run it was exported from for torch" in capsys.readouterr().err


def test_a_folder_that_was_exported_says_how_it_is_loaded(exported):
    folder = exported("simcse", "onnx")
    with pytest.raises(ValueError, match='give backend="onnx" or backend="openvino"'):
        SentenceEncoder.from_pretrained(folder)
    with pytest.raises(ValueError, match="backend must be one of torch, onnx, openvino, got 'tensorrt'"):
        SentenceEncoder.from_pretrained(folder, backend="tensorrt")
    assert 'from_pretrained(".", backend="onnx")  # this folder' in (folder / "README.md").read_text()
