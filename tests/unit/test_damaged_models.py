"""Files of models and runs, each made wrong 200 times: read, or refused with an error that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mcse.commands.runs import list_runs
from mcse.encoders.sentence_transformers_folder import list_modules, read_modules
from mcse.evaluation.result_cache import KeptResult, cache_folder, load_result, save_result
from mcse.evaluation.seen_text import read_run_text
from mcse.manifest import locate, read_manifest
from mcse.models.joint_checkpoint import load_joint
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.models.weights import load_tensors
from mcse.report import evaluation_files
from mcse.run_folder import read_run
from mcse.search.image_index import ImageIndex, IndexedImage, IndexOrigin
from mcse.search.rows import IndexRows, RowBlocks
from tests.fixtures.colour_model import build_colour_model
from tests.fixtures.model_scores import make_scores
from tests.fixtures.mutations import mutated
from tests.fixtures.run_folders import make_run
from tests.fixtures.tiny_models import build_tiny_bert

MUTATIONS = 200
EMBEDDING = "sentence_embedding"
SCORES = make_scores("kept", noise=0.2, seen=[3])


def sentence_transformers_folder(folder: Path) -> None:
    files = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(
                [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
            )
        ],
        "sentence_bert_config.json": {"max_seq_length": 64, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": ""}, "default_prompt_name": None, "__version__": {}},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"in_features": 4, "out_features": 3, "bias": True, "module_input_name": EMBEDDING},
        "3_Normalize/config.json": {"module_input_name": EMBEDDING},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    weights = {"linear.weight": torch.ones(3, 4), "linear.bias": torch.zeros(3)}
    save_file(weights, folder / "2_Dense" / "model.safetensors")


def read_sentence_transformers(folder: Path) -> None:
    read_modules(str(folder), list_modules(str(folder)) or ())


def pickled(folder: Path) -> None:
    torch.save({"linear.weight": torch.ones(3, 4)}, folder / "weights.bin")


def run_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    make_run(folder, sts=70.0)
    facts = json.loads((folder / "run.json").read_text())
    text = {"reader": "lines", "source": str(folder / "text"), "images": None, "tests": None}
    data = [{"role": "sentences", "path": str(folder / "text"), "digest": "0", "text": text}]
    (folder / "run.json").write_text(json.dumps({**facts, "world_size": 1, "data": data}))


def results(folder: Path) -> None:
    evaluation_files.write_model(SCORES, folder, digest="d", precision="float32")


def listed(folder: Path) -> None:
    """What cannot be read is named beside the others."""
    for reason in list_runs([folder])[1].values():
        raise ValueError(f"{folder}: {reason}")


def transformer(folder: Path) -> None:
    shutil.rmtree(folder)
    build_tiny_bert(folder, layers=1)


def image_index(folder: Path) -> None:
    ImageIndex(
        origin=IndexOrigin(folder="/images", model="m", model_digest=None, tower=None, features=None),
        images=(IndexedImage(path="a.png", num_bytes=1, mtime_ns=1, sha256="0"),),
        rows=IndexRows.of(RowBlocks(np.ones((1, 1), np.float32))),
        skipped=(),
        is_complete=True,
    ).save(folder)


def colour_model(folder: Path) -> None:
    build_colour_model(folder)
    path = folder / "mcse.json"  # without the digests, which find most damage
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": {}}))


READERS: dict[str, tuple[Callable[[Path], object], str, Callable[[Path], object]]] = {
    **{
        f"sentence-transformers, {file}": (sentence_transformers_folder, file, read_sentence_transformers)
        for file in (
            "modules.json",
            "sentence_bert_config.json",
            "config_sentence_transformers.json",
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "3_Normalize/config.json",
        )
    },
    "weights in a pickle": (pickled, "weights.bin", lambda folder: load_tensors(folder / "weights.bin")),
    "a manifest": (colour_model, "mcse.json", read_manifest),
    "a manifest, by its name": (colour_model, "mcse.json", locate),
    "a joint model's manifest": (colour_model, "mcse.json", load_joint),
    "a run's configuration": (run_folder, "config.yaml", read_run),
    "a run's facts": (run_folder, "run.json", read_run),
    "a run's text": (run_folder, "run.json", read_run_text),
    "a run's numbers": (run_folder, "metrics.jsonl", read_run),
    "a run's results": (run_folder, "evaluation/results.json", listed),
    "a transformer's configuration": (
        transformer,
        "config.json",
        lambda folder: load_text_encoder(str(folder), pooling="mean"),
    ),
    "a tokenizer": (transformer, "tokenizer.json", lambda folder: load_tokenizer(str(folder))),
    "a tokenizer's settings": (transformer, "tokenizer_config.json", lambda folder: load_tokenizer(str(folder))),
    "a transformer's weights": (
        transformer,
        "model.safetensors",
        lambda folder: load_text_encoder(str(folder), pooling="mean"),
    ),
    "an index of images": (image_index, "index.json", ImageIndex.load),
    "earlier results": (results, "results.json", lambda folder: evaluation_files._earlier(folder / "results.json")),
}


def tried(read: Callable[[Path], object], folder: Path, file: str, *, count: int = MUTATIONS) -> list[str]:
    """What is said of those wrong versions of a file that are not read."""
    whole = (folder / file).read_bytes()
    read(folder)
    messages = []
    for seed in range(count):
        (folder / file).write_bytes(mutated(whole, seed=seed))
        try:
            read(folder)
        except (ValueError, OSError) as error:
            messages.append(str(error))
    return messages


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_file_made_wrong_is_read_or_refused_by_name(tmp_path: Path, name: str) -> None:
    build, file, read = READERS[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    build(folder)
    if name == "a run's text":
        (folder / "text").write_text("A dog.\n")
    messages = tried(read if name != "a run's text" else refused_text, folder, file)
    assert name == "earlier results" or len(messages) > 20
    assert not [message for message in messages if str(folder) not in message]


def refused_text(folder: Path) -> None:
    """The text of no test run is what the run read; other errors are what is asked here."""
    try:
        read_run_text(folder)
    except ValueError as error:
        if "has changed since" not in str(error):
            raise


def test_a_kept_result_made_wrong_is_computed_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MCSE_CACHE", str(tmp_path))
    save_result("key", KeptResult(pooling="cls", scores=SCORES.suites[0]))
    path = cache_folder() / "key.npz"
    whole = path.read_bytes()
    missing = 0
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(whole, seed=seed))
        missing += load_result("key") is None
    assert missing > MUTATIONS / 2
