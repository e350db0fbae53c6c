"""A full disk is said with the file that did not fit, whoever writes; tried on a real one of 64 kB."""

from __future__ import annotations

import errno
import logging
import subprocess
import tempfile

import datasets
import numpy as np
import pytest

from mcse.data.images.feature_writer import FeatureWriter
from mcse.data.sentences.tokens import tokenise
from mcse.data.shards.tars import open_shards
from mcse.evaluation.encoding import RowStore
from mcse.evaluation.result_cache import KeptResult, save_result
from mcse.files import append_line, write_json, write_text
from mcse.models.text_loading import load_tokenizer
from mcse.report.evaluation_files import write_model
from mcse.search.embedding_index import EmbeddingIndex
from tests.fixtures.model_scores import make_scores
from tests.fixtures.stub_encoders import HashEncoder
from tests.fixtures.tiny_features import F, plan
from tests.fixtures.tiny_models import build_tiny_bert
from tests.fixtures.tiny_shards import write_tar


@pytest.fixture
def full(tmp_path):
    """A folder on a disk of 64 kB, of which 16 kB are left."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a disk")
    try:
        (folder / "ballast").write_bytes(bytes(48 * 1024))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def token_cache(full, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", full)
    tokenizer = load_tokenizer(str(build_tiny_bert(tmp_path / "bert")))
    rows = ((f"a dog {row} runs",) for row in range(20_000))
    tokenise(rows, tokenizer, columns=1, max_length=16, digest="x")


def tar_index(full, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", full)
    members = {f"{row:05d}.txt": b"a dog" for row in range(3000)}
    write_tar(tmp_path / "a.tar", members)
    open_shards("a.tar", root=tmp_path)


def extraction(full, tmp_path, monkeypatch):
    del tmp_path, monkeypatch
    names = tuple(f"{row}.jpg" for row in range(2000))
    with FeatureWriter(full / "store", plan(names=names)) as writer:
        for start in range(0, 2000, 100):
            writer.append(np.ones((100, F), dtype=np.float32) * start)


def search_index(full, tmp_path, monkeypatch):
    del tmp_path, monkeypatch
    index = EmbeddingIndex(HashEncoder())
    index.add([f"a dog {row}" for row in range(1000)])
    index.save(full / "index")


def metrics(full, tmp_path, monkeypatch):
    del tmp_path, monkeypatch
    for step in range(2000):
        append_line(full / "run" / "metrics.jsonl", f'{{"step": {step}, "loss": 0.1234567, "rate": 0.001}}')


def report(full, tmp_path, monkeypatch):
    del tmp_path, monkeypatch
    write_model(make_scores("kept", noise=0.2, seen=[3]), full / "evaluation", digest="0", precision="float32")


def embeddings(full, tmp_path, monkeypatch):
    del tmp_path
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    RowStore(HashEncoder(), batch_size=64).encode([f"a dog {row}" for row in range(5000)])


def settings(full, tmp_path, monkeypatch):
    del tmp_path, monkeypatch
    write_json(full / "a" / "run.json", ["x" * 70] * 400)


WRITERS = [token_cache, tar_index, extraction, search_index, metrics, report, embeddings, settings]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_full_disk_names_the_file(write, full, tmp_path, monkeypatch):
    (full / "run").mkdir()
    with pytest.raises(OSError, match="No space left on device") as raised:
        write(full, tmp_path, monkeypatch)
    assert raised.value.errno in (errno.ENOSPC, None), "safetensors has words alone"
    assert str(full) in str(raised.value)


def test_a_cache_that_is_full_does_not_lose_the_result(full, monkeypatch, caplog):
    monkeypatch.setenv("MCSE_CACHE", str(full))
    scores = make_scores("kept", noise=0.2, seen=[3])
    with caplog.at_level(logging.WARNING):
        for number in range(50):
            save_result(f"{number}", KeptResult(pooling="mean", scores=scores.suites[0], notes=()))
    assert "is not kept for the next call" in caplog.text
    assert str(full) in caplog.text
    write_text(full.parent / "elsewhere", "goes on")
