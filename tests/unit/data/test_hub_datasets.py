"""Datasets of the hub are read at one commit: in its cache, and that of the library, as downloads leave them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from mcse.data.captions.hub import load_split
from mcse.data.hub_datasets import load_hub_dataset
from mcse.data.named_columns import open_named_columns
from mcse.data.scratch_cache import scratch_cache
from mcse.data.sentences.files import open_sentences
from mcse.data.sentences.streaming import open_texts
from mcse.data.table_config import NamedTable
from mcse.data.test_sets.sts import load_hub_dev
from mcse.hub import commit_of
from tests.fixtures.hub import forget_commits

FIRST, SECOND = "ab" * 20, "cd" * 20
NAME = "org/pairs"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Of the hub's library and of datasets, with nothing in them."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()
    forget_commits()
    yield tmp_path
    forget_commits()


def download(cache, commit, *, word, name=NAME):
    """What a download of a dataset at a commit leaves, which is the newest then."""
    home = cache / "hub" / f"datasets--{name.replace('/', '--')}"
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "snapshots" / commit / "README.md").write_text("A dataset.\n")
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    prepared = cache / "datasets" / name.replace("/", "___") / "default" / "0.0.0" / commit
    rows = {"score": [0.0, 5.0], "sentence1": [f"{word} one", f"{word} two"], "sentence2": ["a", "b"]}
    for split in ("train", "validation"):
        datasets.Dataset.from_dict(rows).to_parquet(str(cache / word / f"{split}.parquet"))
    files = {split: str(cache / word / f"{split}.parquet") for split in ("train", "validation")}
    made = datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache / f"made {word}"))
    folder = next((cache / f"made {word}").rglob("dataset_info.json")).parent
    shutil.copytree(folder, prepared)
    short = name.rpartition("/")[2]
    for file in prepared.glob("*.arrow"):
        file.rename(prepared / file.name.replace("parquet", short, 1))
    info = json.loads((prepared / "dataset_info.json").read_text())
    info |= {"dataset_name": short, "config_name": "default", "builder_name": "parquet"}
    (prepared / "dataset_info.json").write_text(json.dumps(info))
    assert len(made["train"]) == 2


def test_a_dataset_is_read_at_its_commit_which_is_said(cache, caplog):
    download(cache, FIRST, word="first")
    with caplog.at_level(logging.INFO):
        assert load_hub_dataset(NAME, split="train")["sentence1"][:] == ["first one", "first two"]
    assert f"{NAME} at commit {FIRST}" in caplog.text
    assert commit_of(NAME, kind="dataset") == FIRST
    assert commit_of(NAME) is None, "a model of that name is another repository"


def test_a_dataset_that_moved_on_while_a_command_runs_is_refused(cache):
    """Without the hub the library takes the newest in its cache, whatever commit it is asked for."""
    download(cache, FIRST, word="first")
    load_hub_dataset(NAME, split="train")
    shutil.rmtree(cache / "datasets" / "org___pairs")
    download(cache, SECOND, word="second")
    with pytest.raises(ValueError, match=f"commit {FIRST} is wanted, but the cache holds {SECOND}"):
        load_hub_dataset(NAME, split="train")
    forget_commits()
    assert load_hub_dataset(NAME, split="train")["sentence1"][:] == ["second one", "second two"]


def test_every_reader_asks_for_the_commit(cache, monkeypatch):
    download(cache, FIRST, word="first")
    download(cache, FIRST, word="dev", name="org/dev")
    asked = []
    load = datasets.load_dataset

    def asking(name, **keys):
        asked.extend([keys["revision"]] if name.startswith("org/") else [])
        return load(name, **keys)

    monkeypatch.setattr(datasets, "load_dataset", asking)
    list(open_sentences(f"{NAME}::sentence1", root=cache).rows())
    streamed = open_texts(f"{NAME}::sentence1", root=cache)
    list(open_named_columns(NamedTable(path=NAME), root=cache, key="data.table").rows())
    load_split(NAME, split="train")
    load_hub_dev("org/dev")
    assert len(asked) >= 5
    assert set(asked) == {FIRST}
    digest = streamed.digest
    forget_commits()
    shutil.rmtree(cache / "datasets" / "org___pairs")
    download(cache, SECOND, word="second")
    assert open_texts(f"{NAME}::sentence1", root=cache).digest != digest


def test_a_scratch_cache_finds_datasets_that_were_prepared(tmp_path, monkeypatch):
    """Without a network a dry run knew no dataset of the hub, though training did."""
    cache = tmp_path / "cache"
    (cache / "org___pairs" / "default").mkdir(parents=True)
    (cache / "mcse").mkdir()
    (cache / "mcse" / "tokens").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    with scratch_cache():
        found = Path(datasets.config.HF_DATASETS_CACHE)
        assert found != cache
        assert (found / "org___pairs" / "default").is_dir()
        assert (found / "mcse" / "tokens").is_file()
        (found / "mcse" / "new").touch()
    assert Path(datasets.config.HF_DATASETS_CACHE) == cache
    assert {path.name for path in cache.rglob("*")} == {"org___pairs", "default", "mcse", "tokens"}
