"""Work that processes share, each its own part: sentences and captions to encode, images to look through."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcse.data.images.sources import open_images
from mcse.data.test_sets.sts import ScoredPairs, StsTask
from mcse.evaluation.encoding import encode_distinct
from mcse.evaluation.joint_space import encode_captions
from mcse.evaluation.suite import Subject
from mcse.evaluation.suites.sts import score_sts
from mcse.recipes import image_side
from mcse.types import ScoreKey
from tests.fixtures.processes import run_processes


class HashEncoder:
    """Unit rows that depend on the sentence alone; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, sentences, *, batch_size=64, normalize=True):
        self.asked += sentences
        rows = [np.random.default_rng(zlib.crc32(sentence.encode())).normal(0.5, 1, 8) for sentence in sentences]
        return np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32)

    def encode_captions(self, sentences, *, batch_size=64):
        return self.encode(sentences)


def shares_of_sentences() -> tuple[NDArray[np.float32], list[str], float, int]:
    encoder, draw = HashEncoder(), np.random.default_rng(0)
    left, right = ([" ".join(draw.choice(list("abcdefghij"), size=1 + n % 5)) for n in range(31)] for _ in range(2))
    pairs = ScoredPairs("T", "all", tuple(left), tuple(right), draw.integers(0, 11, size=31) / 2, ("memory",))
    row = encode_distinct(encoder, list(dict.fromkeys((*left, *right))), batch_size=4)
    asked = list(encoder.asked)
    score = score_sts(Subject.of(encoder), [StsTask("T", (pairs,), "")]).scores[ScoreKey("sts", "T", "spearman")]
    alone = encode_distinct(HashEncoder(), ["only one"], batch_size=4)  # fewer sentences than processes
    return row, asked, score, len(alone)


def test_two_processes_share_the_sentences_and_agree_with_one() -> None:
    row, sentences, spearman, _ = shares_of_sentences()
    first, second = run_processes(shares_of_sentences, 2)
    assert sorted(first[1] + second[1]) == sorted(sentences)
    assert abs(len(first[1]) - len(second[1])) <= 1
    assert min(len(first[1]), len(second[1])) > 10
    for share in (first, second):
        np.testing.assert_array_equal(share[0], row)
        assert share[2:] == (spearman, 1)


def shares_of_captions() -> tuple[NDArray[np.float32], int]:
    encoder = HashEncoder()
    rows = encode_captions(encoder, tuple(f"{i % 9} {i % 9}" for i in range(20)), batch_size=4)
    return rows, len(encoder.asked)


def test_processes_share_the_distinct_captions() -> None:
    alone, count = shares_of_captions()
    assert count == 9
    results = run_processes(shares_of_captions, 2)
    assert [count for _, count in results] == [5, 4]
    for rows, _ in results:
        np.testing.assert_array_equal(rows, alone)


def bad_images(folder: Path) -> list[str]:
    source = open_images(str(folder))
    return [image.name for image in image_side.find_bad_together(source, range(len(source.names)))]


def test_processes_agree_on_the_bad_images(tmp_path: Path) -> None:
    for number in range(7):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    for number in (1, 2, 4):
        (tmp_path / f"{number}.png").write_bytes(b"no")
    alone, together = bad_images(tmp_path), run_processes(bad_images, 2, tmp_path)
    assert alone == ["1.png", "2.png", "4.png"]
    assert together[0] == together[1]
    assert sorted(together[0]) == alone
