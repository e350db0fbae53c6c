"""Every loader says how much of its file it has read, and what became of the rest."""

from __future__ import annotations

import json
import logging
import struct

import numpy as np
import pytest

from mcse.data.captions.table import load_captions
from mcse.data.conll import read_conll
from mcse.data.images.features import captions_to_features, open_features
from mcse.data.sentences.files import open_sentences
from mcse.data.shards.tars import open_shards
from mcse.data.test_sets.sts import load_scored_pairs, load_senteval_subset, load_sick, load_stsbenchmark
from mcse.data.test_sets.transfer import load_transfer_task
from mcse.reading import say_read
from mcse.text.word_vectors import load_word_vectors
from tests.fixtures.senteval import write_senteval
from tests.fixtures.tiny_features import F, finished
from tests.fixtures.tiny_shards import write_tar

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"image_id": 1, "caption": "a dog"}, {"image_id": 1, "caption": " "}],
}
KARPATHY = {
    "images": [
        {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog"}]},
        {"filename": "b.jpg", "split": "val", "sentences": [{"raw": "a cat"}, {"raw": "one"}]},
        {"filename": "c.jpg", "split": "val", "sentences": []},
    ]
}
VECTORS = b"3 2\n" + b"".join(word + b" " + struct.pack("<2f", 1, 2) for word in (b"a", b"caf\xe9", b"a"))
SST = "a film that works\t1\na film that does not\t0\n"


def sentences(path):
    list(open_sentences(path.name, root=path.parent).rows())


def captions(path):
    return load_captions(str(path))


def features(path):
    matrix = np.random.default_rng(0).standard_normal((3, F)).astype(np.float32)
    store = open_features(finished(path.parent / "store", matrix, names=("a.jpg", "b.jpg", "c.jpg")))
    captions_to_features(captions(path), store)


def tar(path):
    members = {"1.txt": b"a dog", "1.json": b"{}", "2.json": b'{"caption": "a cat"}', "2.cls": b"7"}
    write_tar(path, members)
    open_shards(path.name, root=path.parent)


def sst(path):
    for part in ("train", "dev", "test"):
        place = path.parent / "SST" / "binary" / f"sentiment-{part}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(SST)
    load_transfer_task(path.parent, "SST2")


def senteval(path):
    root = write_senteval(path.parent / "senteval")
    load_senteval_subset(root, "STS12", subset="MSRpar")
    load_stsbenchmark(root, split="dev")
    load_sick(root, splits=("test",))


LOADERS = {
    "lines": ("a.txt", b"one\n\ntwo\n", sentences, ["WARNING", "a.txt: 2 of 3 lines read (1 blank)"]),
    "whole lines": ("a.txt", b"one\ntwo\n", sentences, ["INFO", "a.txt: 2 of 2 lines read"]),
    "triplets": (
        "a.csv",
        b"sent0,sent1,hard_neg\na,b,c\n\n,b,c\n",
        sentences,
        ["WARNING", "a.csv: 2 of 3 rows read (1 blank)", "a.csv: 1 of 2 rows of sentences read (1 blank)"],
    ),
    "captions": (
        "a.csv",
        b'image,caption\na.jpg,"a\ndog"\nb.jpg,\n',
        captions,
        ["WARNING", "a.csv: 2 of 2 rows read", "a.csv: 1 of 2 captions read (1 blank)"],
    ),
    "captions without names": ("a.txt", b"a dog\n\na cat\n\n", captions, ["a.txt: 2 of 4 captions read (2 blank)"]),
    "COCO": (
        "a.json",
        json.dumps(COCO).encode(),
        captions,
        ["a.json: 1 of 2 images read (1 without a caption)", "a.json: 1 of 2 captions read (1 blank)"],
    ),
    "Karpathy": (
        "a.json",
        json.dumps(KARPATHY).encode(),
        lambda path: load_captions(f"{path}::train"),
        ["a.json: 2 of 3 images read (1 without a caption)", "a.json: 1 of 3 captions read (2 of other splits)"],
    ),
    "features": (
        "a.csv",
        b"image,caption\na.jpg,a dog\nc.jpg,a cat\n",
        features,
        ["INFO", "store: 2 of 3 images read (1 without captions here)"],
    ),
    "scored pairs": (
        "a.tsv",
        b"score\tsentence1\tsentence2\n1\ta\tb\n\n2\tc\td\n",
        load_scored_pairs,
        ["a.tsv: 2 of 3 rows read (1 blank)"],
    ),
    "JSON lines": (
        "a.jsonl",
        b'{"score": 1, "sentence1": "a", "sentence2": "b"}\n\n',
        load_scored_pairs,
        ["a.jsonl: 1 of 2 rows read (1 blank)"],
    ),
    "SentEval": (
        "a",
        b"",
        senteval,
        [
            "STS.input.MSRpar.txt: 4 of 5 lines read (1 without gold)",
            "sts-dev.csv: 6 of 6 lines read",
            "SICK_test_annotated.txt: 5 of 5 pairs read",
        ],
    ),
    "transfer": ("a", b"", sst, ["sentiment-test: 2 of 2 sentences read"]),
    "tags": (
        "a.txt",
        b"-DOCSTART-\n\nIMGID:1\nthe\tO\ndog\tB-LOC\n\n",
        read_conll,
        ["INFO", "a.txt: 2 of 6 lines read (1 between documents, 2 blank, 1 naming images)"],
    ),
    "word vectors": (
        "a.bin",
        VECTORS,
        load_word_vectors,
        ["WARNING", "a.bin: 1 of 3 words read (1 not UTF-8, 1 that come again)"],
    ),
    "some word vectors": (
        "a.txt",
        b"a 1 2\nb 3 4\nc 5 6\n",
        lambda path: load_word_vectors(path, keep={"b"}),
        ["INFO", "a.txt: 1 of 3 words read (2 not asked for)"],
    ),
    "shards": (
        "a.tar",
        b"",
        tar,
        ["WARNING", "a.tar: 2 of 4 members read (1 of .cls, 1 of .json beside a .txt)"],
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_accounts_for_every_row(kind, tmp_path, caplog):
    name, content, load, messages = LOADERS[kind]
    (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.INFO):
        load(tmp_path / name)
    for message in messages:
        assert message in caplog.text


def test_numbers_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="a: only 3 of 5 rows are accounted for"):
        say_read("a", read=2, total=5, unit="rows", passed_over={"blank": 1})
