"""The mteb suite: mteb's own scores on our rows, and what is said where a task cannot be run."""

from __future__ import annotations

import importlib.util
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from mcse.data.test_sets.contamination import normalise
from mcse.evaluation.encoding import RowStore
from mcse.evaluation.row_forms import RowForm
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites.mteb_tasks import MtebEncoder, prepare_mteb
from mcse.types import FloatArray, ScoreKey, score_tree

# Importing mteb takes seconds.
pytestmark = pytest.mark.slow

needs_mteb = pytest.mark.skipif(importlib.util.find_spec("mteb") is None, reason="mteb is not installed")
WORDS = ("a", "man", "plays", "the", "guitar", "two", "dogs", "run", "across", "green", "field", "she", "reads")


class WordSums:
    """Sums of random rows of words, far from unit norm."""

    calls = 0

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        self.calls += len(sentences)
        rows = [
            sum(np.random.default_rng(zlib.crc32(word.encode())).standard_normal(12) for word in text.split())
            for text in sentences
        ]
        row_ND = np.asarray(rows, dtype=np.float32)
        return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True) if normalize else row_ND


@pytest.fixture
def own_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_pairs(folder: Path, *, pairs: int = 30) -> list[tuple[str, str, float]]:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(pairs):
        left = generator.choice(WORDS, 6)
        right = left.copy()
        changed = int(generator.integers(0, 6))
        right[:changed] = generator.choice(WORDS, changed)
        rows.append((" ".join(left), " ".join(right), 5 - changed + number % 3 / 4))
    lines = [json.dumps(dict(zip(("sentence1", "sentence2", "score"), row, strict=True))) for row in rows]
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows


@needs_mteb
def test_local_task_scores_equal_the_definition(tmp_path: Path, own_datasets: None) -> None:
    rows = write_pairs(tmp_path / "mteb" / "STS13")
    prepared = prepare_mteb(SuiteOptions(data=str(tmp_path), tasks=("STS13", "STS16")))
    assert prepared.summary == "mteb's STS13; without STS16"
    encoder = WordSums()
    subject = Subject.of(encoder, seen=frozenset({normalise(rows[0][0]), normalise(rows[1][1])}))
    found = prepared.run(subject)
    cosine = []
    for left, right, _ in rows:
        a, b = (WordSums().encode([text], normalize=False)[0].astype(np.float64) for text in (left, right))
        cosine.append(a @ b / np.sqrt(a @ a * (b @ b)))
    expected = 100 * stats.spearmanr(cosine, [gold for _, _, gold in rows]).statistic
    scores = score_tree(found.scores)["mteb"]["STS13"]
    assert scores["main_score"] == pytest.approx(expected, abs=0.01)
    assert 20 < expected < 99
    assert scores["cosine_spearman"] == scores["main_score"]
    assert scores["main_score_low"] < scores["main_score"] < scores["main_score_high"]
    assert scores["pairs"] == 30
    assert encoder.calls == len({text for left, right, _ in rows for text in (left, right)})
    clean_P = found.samples[ScoreKey.parse("mteb.STS13.main_score")].clean_P
    assert clean_P is not None
    assert list(np.flatnonzero(~clean_P)) == [0, 1]
    assert [str(column.key) for column in found.columns] == ["mteb.STS13.main_score"]
    assert found.absent["STS16"].startswith("mteb/sts16-sts at revision ")
    assert "local files (test.jsonl)" in found.protocols["mteb.STS13"]


@needs_mteb
def test_the_digest_follows_data_and_tasks(tmp_path: Path, own_datasets: None) -> None:
    write_pairs(tmp_path / "mteb" / "STS13")
    write_pairs(tmp_path / "mteb" / "STS16")

    def digest(*tasks: str) -> str:
        return prepare_mteb(SuiteOptions(data=str(tmp_path), tasks=tasks)).digest

    first = digest("STS13")
    assert digest("STS13") == first
    assert digest("STS16") != first
    assert digest("STS13", "STS16") != first
    path = tmp_path / "mteb" / "STS13" / "test.jsonl"
    path.write_text(path.read_text().replace("guitar", "violin"))
    assert digest("STS13") != first


@needs_mteb
def test_what_mteb_sees_is_an_encoder_of_unit_rows() -> None:
    from mteb.models import CrossEncoderProtocol, EncoderProtocol

    encoder = MtebEncoder(RowStore(WordSums()))
    assert isinstance(encoder, EncoderProtocol)
    assert not isinstance(encoder, CrossEncoderProtocol)
    batches = [{"text": ["a man", "two dogs"]}, {"text": ["a man", "the old guitar"]}]
    row_ND = encoder.encode(batches, task_metadata=None, hf_split="test", hf_subset="default", batch_size=2)
    np.testing.assert_allclose(row_ND, WordSums().encode(["a man", "two dogs", "a man", "the old guitar"]), atol=1e-6)
    assert encoder.similarity(row_ND, row_ND).shape == (4, 4)
    np.testing.assert_allclose(encoder.similarity_pairwise(row_ND, row_ND), np.ones(4), atol=1e-6)


@needs_mteb
@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (("sts13",), "no task 'sts13'; the nearest names are STS13, "),
        (("Banking77",), "Banking77Classification"),
        (("zzzzzzzz",), "no task 'zzzzzzzz'; nor one like it"),
        (("STSBenchmarkMultilingualVisualSTS",), "draws the sentences of an STS task as pictures"),
        (("STS16",), "STS16: mteb/sts16-sts at revision .* neither reachable nor in the local cache"),
    ],
)
def test_tasks_that_cannot_be_run_say_why(tasks: tuple[str, ...], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare_mteb(SuiteOptions(tasks=tasks))


@needs_mteb
def test_bad_local_data_is_refused_by_file_and_line(tmp_path: Path, own_datasets: None) -> None:
    def prepare(task: str) -> None:
        prepare_mteb(SuiteOptions(data=str(tmp_path), tasks=(task,)))

    write_pairs(tmp_path / "mteb" / "STS13")
    path = tmp_path / "mteb" / "STS13" / "test.jsonl"
    path.write_text(path.read_text() + '{"sentence1": "a", "sentence2": "b", "score": "high"}\n')
    with pytest.raises(ValueError, match=r"test\.jsonl, line 31: score 'high' is not a finite number"):
        prepare("STS13")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"STS13: missing file .*test\.jsonl"):
        prepare("STS13")
    (tmp_path / "mteb" / "STS17").mkdir()
    with pytest.raises(ValueError, match="STS17 is STS, in several languages"):
        prepare("STS17")
    (tmp_path / "mteb" / "Banking77Classification").mkdir()
    with pytest.raises(ValueError, match="Banking77Classification is Classification"):
        prepare("Banking77Classification")


def test_refusals_that_need_no_mteb(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--suite mteb needs --tasks"):
        prepare_mteb(SuiteOptions())
    with pytest.raises(ValueError, match="--tasks names a task twice: STS13, STS13"):
        prepare_mteb(SuiteOptions(tasks=("STS13", "STS13")))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed \(pip install 'mcse\[mteb\]'\)"):
        prepare_mteb(SuiteOptions(tasks=("STS13",)))


class ColourSpace:
    """Images by their mean colour, captions by the colours that they name."""

    name = "colours"
    COLOURS = ("red", "green", "blue")

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        return self.encode_captions(sentences)

    def encode_captions(self, sentences: Sequence[str], *, batch_size: int = 64) -> FloatArray:
        return self._unit([[0.1 + text.split().count(colour) for colour in self.COLOURS] for text in sentences])

    def encode_images(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> FloatArray:
        return self._unit([np.asarray(image.convert("RGB")).reshape(-1, 3).mean(0) + 1 for image in images])

    def encode_image_features(self, features: FloatArray, *, batch_size: int = 256) -> FloatArray:
        return self._unit(features)

    @staticmethod
    def _unit(rows: object) -> FloatArray:
        row_ND = np.asarray(rows, dtype=np.float32)
        return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)


def write_winoground(folder: Path) -> None:
    """Three right, and one whose captions name no colour, so that both images are as near."""
    import datasets

    full = {
        name: tuple(255 * (place == number) for place in range(3)) for number, name in enumerate(ColourSpace.COLOURS)
    }
    rows = [("red", "green"), ("blue", "red"), ("green", "blue"), ("red", "blue")]
    columns: dict[str, list[object]] = {f"{kind}_{side}": [] for side in (0, 1) for kind in ("image", "caption")}
    for number, pair in enumerate(rows):
        for side, colour in enumerate(pair):
            columns[f"image_{side}"].append(Image.new("RGB", (8, 8), full[colour]))
            columns[f"caption_{side}"].append("a thing" if number == 3 else f"a {colour} thing")
    data = datasets.Dataset.from_dict(columns)
    for side in (0, 1):
        data = data.cast_column(f"image_{side}", datasets.Image())
    folder.mkdir(parents=True)
    data.to_parquet(folder / "test-00000-of-00001.parquet")


@needs_mteb
def test_a_task_on_images_and_captions_asks_the_joint_space(tmp_path: Path, own_datasets: None) -> None:
    write_winoground(tmp_path / "mteb" / "Winoground")
    prepared = prepare_mteb(SuiteOptions(data=str(tmp_path), tasks=("Winoground",)))
    found = score_tree(prepared.run(Subject.of(ColourSpace())).scores)["mteb"]["Winoground"]
    assert found["main_score"] == found["accuracy"] == pytest.approx(75)
    assert found["text_acc"] == pytest.approx(75)
    with pytest.raises(KeyError, match="mteb"):  # no scores of a model of text alone
        score_tree(prepared.run(Subject.of(WordSums())).scores)["mteb"]
    absent = prepared.score(Subject.of(WordSums())).absent["Winoground"]
    assert "no space in common" in absent
    moved = prepared.score(Subject.of(ColourSpace()).as_stored(RowForm(dim=2))).absent["Winoground"]
    assert "on rows as they are" in moved
    file = next((tmp_path / "mteb" / "Winoground").iterdir())
    file.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="not a copy of the data of Winoground"):
        prepare_mteb(SuiteOptions(data=str(tmp_path), tasks=("Winoground",)))


@needs_mteb
@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("STS13VisualSTS", "draws the sentences of an STS task as pictures"),
        ("CIRRIT2IRetrieval", "needs one embedding of an image and a text together"),
        ("ESC50", "is a task on audio, not on text and images alone"),
    ],
)
def test_tasks_that_say_nothing_of_such_rows_are_left_out_by_name(task: str, reason: str) -> None:
    with pytest.raises(FileNotFoundError, match=reason):
        prepare_mteb(SuiteOptions(tasks=(task,)))
