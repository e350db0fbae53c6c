"""Small inputs in the shape of public bug reports, kept outside the project: each is read, or refused by its name.

What is right to read of each kind stands in the unit tests, which make files of their own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest

from mcse.data.captions.table import load_captions
from mcse.data.conll import read_conll
from mcse.data.images.features import open_features
from mcse.data.images.sources import open_images
from mcse.data.sentences.files import open_sentences
from mcse.data.shards.tars import open_shards
from mcse.data.test_sets.sts import load_scored_pairs
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation.joint_space import load_captioned_images
from mcse.images import load_image
from mcse.text.word_vectors import load_word_vectors
from tests.conftest import REPOSITORY

ROOT = Path("/")
RIGHT = "real60_right.tsv"
SENTENCES = ["a dog runs", "two men and a child in the snow " * 6, "the cat"]


def _features(path: Path) -> None:
    if path.suffix != ".csv":
        store = open_features(path)
        store.rows(np.arange(min(2, len(store))))


def _hub(path: Path) -> None:
    load_captions(str(path))
    images = open_images(str(path))
    for place in range(len(images.names)):
        images.load(place)


def _retrieval(path: Path) -> None:
    if path.suffix != ".npy":
        for features in path.parent.glob("*.npy"):
            load_captioned_images(str(path), features=str(features))


def _images(path: Path) -> None:
    if path.suffix != ".txt":
        assert load_image(path).mode == "RGB"


def _sentence_transformers(path: Path) -> None:
    """What is read gives that library's own rows."""
    row_ND = SentenceEncoder.from_pretrained(str(path)).encode(SENTENCES)
    library = pytest.importorskip("sentence_transformers")
    expected_ND = library.SentenceTransformer(str(path), device="cpu").encode(SENTENCES, normalize_embeddings=True)
    np.testing.assert_allclose(row_ND, expected_ND, atol=1e-5)


def _scored_pairs(path: Path) -> None:
    """The 60 pairs have one right reading; whatever their file looks like, they are read so or not at all."""
    pairs = load_scored_pairs(path)
    if path.name.startswith("real60"):
        right = load_scored_pairs(path.parent / RIGHT)
        assert (pairs.sentence1, pairs.sentence2) == (right.sentence1, right.sentence2)
        assert pairs.gold.tolist() == right.gold.tolist()


READERS: dict[str, Callable[[Path], object]] = {
    "captions": lambda path: load_captions(str(path)),
    "conll": read_conll,
    "features": _features,
    "folders": lambda path: load_captions(str(path)),
    "hub": _hub,
    "images": _images,
    "nli": lambda path: list(open_sentences(str(path), root=ROOT).rows()),
    "retrieval": _retrieval,
    "sentences": lambda path: list(open_sentences(str(path), root=ROOT).rows()),
    "shards": lambda path: open_shards(str(path), root=ROOT),
    "st_folders": _sentence_transformers,
    "sts": _scored_pairs,
    "vectors": load_word_vectors,
}


@pytest.fixture
def copies(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    cases = Path(os.environ.get("MCSE_CASES", REPOSITORY.parent / "shared" / "cases"))
    if not cases.is_dir():
        pytest.skip(f"no cases at {cases} (set MCSE_CASES)")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    kind = request.getfixturevalue("kind")
    shutil.copytree(cases / kind, tmp_path / kind)
    return sorted((tmp_path / kind).iterdir())


@pytest.mark.parametrize("kind", READERS)
def test_each_case_is_read_or_refused_by_its_name(kind: str, copies: list[Path]) -> None:
    assert copies
    for path in copies:
        try:
            READERS[kind](path)
        except (ValueError, OSError) as error:
            if path.name.partition(".")[0] not in str(error):
                raise AssertionError(f"{path.name} is not named") from error


@pytest.mark.parametrize("kind", ["sts"])
def test_a_row_that_would_be_swallowed_or_shifted_is_refused_at_its_line(kind: str, copies: list[Path]) -> None:
    by_name = {path.name: path for path in copies}
    for name, line in {"real60_id_first.tsv": 1, "real60_unclosed_quote.csv": 13}.items():
        with pytest.raises(ValueError, match=f"{name}, line {line}: "):
            load_scored_pairs(by_name[name])
