"""Every reader of data is fed its own valid file, damaged: it returns, or names the file in a ValueError or OSError."""

from __future__ import annotations

import gzip
import io
import json
import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import datasets
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from mcse.commands import mine
from mcse.commands.prepare import Prepared, write_manifest
from mcse.data.captions.table import load_captions
from mcse.data.conll import read_conll
from mcse.data.images.feature_writer import FeatureWriter
from mcse.data.images.features import open_features
from mcse.data.images.names import read_name_list
from mcse.data.images.sources import open_images
from mcse.data.named_columns import open_named_columns
from mcse.data.sentences.files import open_sentences
from mcse.data.sentences.streaming import open_texts
from mcse.data.shards.pairs import ShardFeatures
from mcse.data.shards.tars import open_shards
from mcse.data.table_config import NamedTable, TableDataConfig, TrainingTable
from mcse.data.table_rows import load_tables
from mcse.data.teacher_rows import TeacherStore, TextPlan, text_key
from mcse.data.test_sets.sts import load_scored_pairs, load_senteval_subset, load_sick, load_stsbenchmark
from mcse.data.test_sets.transfer import load_transfer_task
from mcse.data.test_sets.wordsim import load_wordsim
from mcse.scenes import WorldConfig, build_world
from mcse.text.vocab import Vocab
from mcse.text.word_vectors import load_word_vectors
from tests.fixtures.mutations import mutated
from tests.fixtures.senteval import write, write_senteval
from tests.fixtures.tiny_features import NAMES, finished, plan
from tests.fixtures.tiny_shards import npy, png, write_tar

MUTATIONS = 200
"""Of the file of each reader; they are the same in every run."""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Reading `.npy`")]

MATRIX = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
PAIRS = [(str(row % 6), f'a "dog" {row} runs', f"a cat, {row} sits") for row in range(8)]
WORDS = ["the", "Paris", "café", "dog"]


def rows(cells, delimiter, *, header):
    def shown(cell):
        return '"' + cell.replace('"', '""') + '"' if delimiter == "," and any(sign in cell for sign in ',"') else cell

    return "\n".join(delimiter.join(map(shown, row)) for row in [header, *cells]).encode() + b"\n"


def lines(records):
    return "\n".join(map(json.dumps, records)).encode() + b"\n"


CAPTIONS = [(name, f'a "dog" {name}, runs') for name in ("a.jpg", "a.jpg", "b.jpg", "c.jpg")]
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"id": row, "image_id": 1 + row % 2, "caption": f"a dog {row}"} for row in range(4)],
}
KARPATHY = {
    "images": [
        {"filename": name, "split": "train", "sentences": [{"raw": "a dog", "tokens": ["a", "dog"]}, "a cat"]}
        for name in ("a.jpg", "b.jpg")
    ]
}
TEXT = "\n".join(f"a dog runs {row}" for row in range(9)).encode()
VECTORS = "\n".join(f"{word} {row} 0.5 -1.25" for row, word in enumerate(WORDS)).encode() + b"\n"
BINARY = b"4 3\n" + b"".join(word.encode() + b" " + struct.pack("<3f", 1, 2, row) for row, word in enumerate(WORDS))
TRIPLETS = [(f"a dog {row}", f'an "animal", {row}', f"a cat {row}") for row in range(6)]
MINED_NAMES = ("query", "positive", "negative_1", "negative_2")
MINED = [(*triplet, f"a bird {row}") for row, triplet in enumerate(TRIPLETS)]
CONLL = b"IMGID:10\nthe\tO\nnew\tB-LOC\nyork\tI-LOC\n\nIMGID:11\nold\tB-PER\ndog\tO\n"
SIMLEX = "word1\tword2\tPOS\tSimLex999\tconcQ\tSimAssoc333\tx\ty\tz\tu\nold\tnew\tA\t1.58\t2\t1\t0\t0\t0\t0\n"


def mined(suffix):
    """As ``mcse mine`` writes it."""
    file = io.StringIO(newline="")
    write = mine.table_writer(file, list(MINED_NAMES), suffix=suffix)
    for row in MINED:
        write(list(row))
    return file.getvalue().encode()


def sentences(path):
    list(open_sentences(path.name, root=path.parent).rows())


def table(path):
    """By plain names, and by names that a configuration gives."""
    for named in ({}, {"query": "query", "positive": "positive"}):
        list(open_named_columns(NamedTable(path=path.name, **named), root=path.parent, key="data.table").rows())


def training_table(path):
    """What the recipe ``tables`` keeps of one: tokens and scores."""
    load_tables(TableDataConfig(root=path.parent, table=TrainingTable(path=path.name)), Spelled())


class Spelled:
    """Stands in for a tokenizer: a sentence is its characters."""

    digest, pad_id = "spelled", 0

    def ids(self, texts, *, max_length=None):
        return [[ord(sign) for sign in text][:max_length] for text in texts]


def stream(path):
    list(open_texts(path.name, root=path.parent).rows(0, start=0))


FILES: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "pairs.tsv": (rows(PAIRS, "\t", header=("score", "sentence1", "sentence2")), load_scored_pairs),
    "pairs.csv": (rows(PAIRS, ",", header=("score", "sentence1", "sentence2")), load_scored_pairs),
    "pairs.txt": (rows(PAIRS, "\t", header=PAIRS[0]), load_scored_pairs),
    "pairs.jsonl": (
        lines({"score": float(a), "sentence1": b, "sentence2": c} for a, b, c in PAIRS),
        load_scored_pairs,
    ),
    "nli.csv": (rows(TRIPLETS, ",", header=("sent0", "sent1", "hard_neg")), sentences),
    "nli.csv.gz": (gzip.compress(rows(TRIPLETS, ",", header=("sent0", "sent1", "hard_neg"))), sentences),
    "nli.tsv": (rows(TRIPLETS, "\t", header=("anchor", "positive", "negative")), sentences),
    "nli.jsonl": (lines({"query": a, "pos": b, "neg": c} for a, b, c in TRIPLETS), sentences),
    "table.csv": (rows(MINED, ",", header=MINED_NAMES), table),
    "table.tsv": (rows(MINED, "\t", header=MINED_NAMES), table),
    "table.jsonl": (lines(dict(zip(MINED_NAMES, row, strict=True)) for row in MINED), table),
    "table.jsonl.gz": (gzip.compress(lines(dict(zip(MINED_NAMES, row, strict=True)) for row in MINED)), table),
    "mined.csv": (mined(".csv"), table),
    "mined.tsv": (mined(".tsv"), table),
    "mined.jsonl": (mined(".jsonl"), table),
    "scored.csv": (rows(PAIRS, ",", header=("score", "sentence1", "sentence2")), training_table),
    "scored.jsonl": (
        lines({"score": float(a), "sentence1": b, "sentence2": c} for a, b, c in PAIRS),
        training_table,
    ),
    "labelled.tsv": (
        rows(
            [(str(row % 2), b, c) for row, (_, b, c) in enumerate(PAIRS)], "\t", header=("label", "query", "positive")
        ),
        training_table,
    ),
    "text.txt": (TEXT, sentences),
    "text.txt.gz": (gzip.compress(TEXT), sentences),
    "stream.txt.gz": (gzip.compress(TEXT), stream),
    "captions.csv": (rows(CAPTIONS, ",", header=("image", "caption")), lambda path: load_captions(str(path))),
    "captions.tsv": (rows(CAPTIONS, "\t", header=("image", "caption")), lambda path: load_captions(str(path))),
    "captions.csv.gz": (
        gzip.compress(rows(CAPTIONS, ",", header=("image", "caption"))),
        lambda path: load_captions(str(path)),
    ),
    "bars.txt": (
        rows(
            [(name, " 0", f" {text}") for name, text in CAPTIONS],
            "|",
            header=("image_name", " comment_number", " comment"),
        ),
        lambda path: load_captions(str(path)),
    ),
    "tokens.txt": (
        "".join(f"{name}#0\t{text}\n" for name, text in CAPTIONS).encode(),
        lambda path: load_captions(str(path)),
    ),
    "coco.json": (json.dumps(COCO).encode(), lambda path: load_captions(str(path))),
    "coco.json.gz": (gzip.compress(json.dumps(COCO).encode()), lambda path: load_captions(str(path))),
    "karpathy.json": (json.dumps(KARPATHY).encode(), lambda path: load_captions(str(path))),
    "records.json": (
        json.dumps([{"image": a, "caption": [b, "x"]} for a, b in CAPTIONS]).encode(),
        lambda path: load_captions(str(path)),
    ),
    "records.jsonl": (
        lines({"image": a, "caption": b, "split": "train"} for a, b in CAPTIONS),
        lambda path: load_captions(str(path)),
    ),
    "plain.txt": (TEXT, lambda path: load_captions(str(path))),
    "tweets.txt": (CONLL, read_conll),
    "names.txt": ("\n".join(NAMES).encode(), read_name_list),
    "vectors.txt": (VECTORS, load_word_vectors),
    "vectors.vec": (b"4 3\n" + VECTORS, load_word_vectors),
    "vectors.txt.gz": (gzip.compress(VECTORS), load_word_vectors),
    "vectors.bin": (BINARY, load_word_vectors),
    "vectors.bin.gz": (gzip.compress(BINARY), load_word_vectors),
    "words.tsv": (b"cat\tdog\t6\tanimals\nold\tnew\t2\tothers\n", load_wordsim),
    "combined.csv": (b"Word 1,Word 2,Human (mean)\ncat,dog,6\nold,new,2\n", load_wordsim),
    "simlex-999.txt": (SIMLEX.encode(), load_wordsim),
    "vocab.json": (
        json.dumps({"lower_case": True, "words": ["<pad>", "<unk>", "<s>", "</s>", *WORDS]}).encode(),
        Vocab.load,
    ),
    "manifest.json": (
        b'{"schema": 1, "datasets": {"sts": {"source": "x", "counts": {}, "files": [], "notes": []}}}',
        lambda path: write_manifest(path.parent, "coco", Prepared("x", (), {}, ())),
    ),
}


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch, caplog):
    """Caches of their own, and no log of thousands of warnings."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.CRITICAL)


def feed(path: Path, read: Callable[[Path], object], *, named: str = "") -> None:
    """Damages the file at ``path`` again and again; reading it returns or names it, and then as it was reads well."""
    valid = path.read_bytes()
    read(path)
    refused = 0
    for number in range(MUTATIONS):
        path.write_bytes(mutated(valid, seed=zlib.crc32(path.name.encode()) + number))
        said = said_of(read, path)
        assert not said or ((named or path.name) in said and len(said) < 2000), f"mutation {number}: {said[:3000]}"
        refused += bool(said)
    path.write_bytes(valid)
    read(path)
    assert refused, "no mutation was noticed"


def feed_anew(path: Path, read: Callable[[Path], object], *, named: str) -> None:
    """As ``feed``, of a file that stays mapped: each mutation is a file of its own in its place."""
    valid = path.read_bytes()
    read(path)
    refused = 0
    for number in range(MUTATIONS):
        path.unlink()
        path.write_bytes(mutated(valid, seed=zlib.crc32(path.name.encode()) + number))
        said = said_of(read, path)
        assert not said or (named in said and len(said) < 2000), f"mutation {number}: {said[:3000]}"
        refused += bool(said)
    assert refused, "no mutation was noticed"


def said_of(read: Callable[[Path], object], path: Path) -> str:
    """The message with which a file is refused; nothing where it is read. Any other error is a failure."""
    try:
        read(path)
    except (ValueError, OSError) as error:
        return str(error) or repr(error)
    return ""


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_named(tmp_path, name):
    content, read = FILES[name]
    (tmp_path / name).write_bytes(content)
    feed(tmp_path / name, read)


@pytest.mark.parametrize("file", ["meta.json", "names.json", "features.npy"])
def test_a_damaged_store_is_read_or_named(tmp_path, file):
    folder = finished(tmp_path / "store", MATRIX)
    feed(folder / file, lambda path: open_features(folder).rows(np.arange(1)), named="store")


@pytest.mark.parametrize("file", ["meta.json", "names.json", "features.npy"])
def test_a_damaged_store_of_texts_is_read_or_named(tmp_path, file):
    texts = TextPlan(
        names=tuple(map(text_key, NAMES)),
        encoder="a",
        weights="0",
        pooling="mean",
        prompt="",
        joint=False,
        length=None,
        precision="float32",
        dtype="float32",
        untrained=None,
        width=MATRIX.shape[1],
    )
    with FeatureWriter(tmp_path / "store", texts) as writer:
        writer.append(MATRIX)
        writer.finish()

    def read(path):
        store = TeacherStore(path.parent)
        store.rows(store.places(NAMES[:3]))

    feed(tmp_path / "store" / file, read, named="store")


def test_damaged_progress_is_read_or_named(tmp_path):
    with FeatureWriter(tmp_path / "store", plan()) as writer:
        writer.append(MATRIX[:5])
    rows = (tmp_path / "store" / "features.npy").read_bytes()

    def go_on(path):
        (path.parent / "features.npy").write_bytes(rows)
        with FeatureWriter(path.parent, plan()):
            pass

    feed(tmp_path / "store" / "progress.json", go_on, named="store")


@pytest.mark.parametrize("kind", ["bare.npy", "wide.npy", "plain.hdf5", "packed.hdf5"])
def test_damaged_features_are_read_or_named(tmp_path, kind):
    path = tmp_path / kind
    if path.suffix == ".npy":
        np.save(path, MATRIX if kind == "bare.npy" else np.asfortranarray(MATRIX.astype(np.float64)))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=MATRIX, **({"compression": "gzip"} if kind == "packed.hdf5" else {}))
            file.create_dataset("image_names", data=np.array(NAMES, dtype="S"))
    feed(path, lambda path: open_features(path).rows(np.arange(1)))


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_damaged_tars_are_read_or_named(tmp_path, ending):
    members = {}
    for number in range(3):
        text = b"a dog runs" if ending == "txt" else b'{"captions": ["a dog", "a cat"]}'
        members |= {f"{number}.{ending}": text, f"{number}.npy": npy(MATRIX[number])}

    def read(path):
        shards = open_shards(path.name, root=path.parent)
        for sample in range(len(shards)):
            shards.captions(sample)
        if shards.lacking["row"] < len(shards):
            features = ShardFeatures(shards)
            for sample in set(range(len(shards))) - set(shards.without("row").tolist()):
                features.check(sample)

    feed(write_tar(tmp_path / "pairs.tar", members), read)


def test_damaged_safetensors_are_read_or_named(tmp_path):
    words = np.frombuffer("\n".join(WORDS).encode(), dtype=np.uint8)
    save_file({"vectors": np.ones((4, 3), dtype=np.float32), "words": words}, tmp_path / "vectors.safetensors")
    feed(tmp_path / "vectors.safetensors", load_word_vectors)


SENTEVAL = {
    "STS/STS15-en-test/STS.input.images.txt": lambda root: load_senteval_subset(root, "STS15", subset="images"),
    "STS/STS15-en-test/STS.gs.images.txt": lambda root: load_senteval_subset(root, "STS15", subset="images"),
    "STS/STSBenchmark/sts-test.csv": lambda root: load_stsbenchmark(root, split="test"),
    "SICK/SICK_trial.txt": lambda root: load_sick(root, splits=("dev",)),
    "SST/binary/sentiment-dev": lambda root: load_transfer_task(root, "SST2"),
    "TREC/TREC_10.label": lambda root: load_transfer_task(root, "TREC"),
    "MRPC/msr_paraphrase_test.txt": lambda root: load_transfer_task(root, "MRPC"),
}


@pytest.fixture
def senteval_root(tmp_path):
    root = write_senteval(tmp_path / "data")
    for split in ("train", "dev", "test"):
        write(root / f"SST/binary/sentiment-{split}", "a dog\t1\na cat sat\t0\n")
    for name in ("train_5500", "TREC_10"):
        write(root / f"TREC/{name}.label", "NUM:dist How far is it ?\nHUM:ind Who is it ?\n")
    for name in ("train", "test"):
        header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        write(root / f"MRPC/msr_paraphrase_{name}.txt", header + "1\t7\t8\ta dog\ta cat\n0\t7\t8\ta dog\ta cat\n")
    return root


@pytest.mark.parametrize("file", SENTEVAL)
def test_a_damaged_test_set_is_read_or_named(senteval_root, file):
    feed(senteval_root / file, lambda path: SENTEVAL[file](senteval_root))


def test_damaged_parquet_is_read_or_named(tmp_path):
    pq.write_table(pa.table({"text": [f"a dog {row}" for row in range(20)]}), tmp_path / "text.parquet")
    feed(tmp_path / "text.parquet", stream)


@pytest.mark.parametrize("read", [table, training_table])
def test_a_damaged_parquet_table_is_read_or_named(tmp_path, read):
    columns = {name: [row[place] for row in MINED] for place, name in enumerate(MINED_NAMES)}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    feed(tmp_path / "table.parquet", read)


def test_a_damaged_dataset_is_read_or_named(tmp_path):
    image = {"bytes": png(np.zeros((2, 2, 3), dtype=np.uint8)), "path": "a.png"}
    columns = {"image": [image, image], "caption": ["a dog", "a cat"], "file_name": ["a.png", "a.png"]}
    features = {"image": datasets.Image(), "caption": datasets.Value("string"), "file_name": datasets.Value("string")}
    datasets.disable_progress_bars()
    path = tmp_path / "set" / "train.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)

    def read(path):
        load_captions(str(path.parent))
        open_images(str(path.parent)).load(0)

    feed(path, read, named="/set")


@pytest.mark.parametrize("kind", ["captions", "table"])
@pytest.mark.parametrize("file", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
def test_a_damaged_saved_dataset_is_read_or_named(tmp_path, kind, file):
    """What its Arrow file says of itself is checked first: otherwise a cut one ends the process with a bus error."""
    datasets.disable_progress_bars()
    image = {"bytes": png(np.zeros((2, 2, 3), dtype=np.uint8)), "path": "a.png"}
    columns = {"query": [f"a {row}" for row in range(40)], "positive": [f"b {row}" for row in range(40)]}
    features = {name: datasets.Value("string") for name in columns}
    if kind == "captions":
        columns |= {"image": [image] * 40, "caption": columns["query"]}
        features |= {"image": datasets.Image(), "caption": datasets.Value("string")}
    folder = tmp_path / "set"
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(str(folder))

    def read(path):
        if kind == "captions":
            load_captions(str(path.parent))
        else:
            table = open_named_columns(NamedTable(path=str(path.parent)), root=Path(), key="data.table")
            list(table.rows())

    feed_anew(folder / file, read, named="/set")


def test_a_damaged_world_is_kept_or_named(tmp_path):
    config = WorldConfig(
        num_train_images=8, num_dev_images=8, num_test_images=8, num_sentences=5, num_sts_pairs=5, image_size=16
    )
    world = build_world(tmp_path / "world", config=config)
    feed(world / "manifest.json", lambda path: build_world(world, config=config), named="world")
