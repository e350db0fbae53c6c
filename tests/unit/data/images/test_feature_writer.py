"""Feature stores as an extraction writes them: continued after a kill, and never somebody else's."""

import os

import numpy as np
import pytest

from mcse.data.images import feature_writer
from mcse.data.images.feature_writer import FeatureWriter
from mcse.data.images.features import open_features
from mcse.data.images.sources import SkippedImage
from tests.fixtures.tiny_features import NAMES, F, N, finished, plan


@pytest.fixture
def matrix():
    return np.random.default_rng(0).standard_normal((N, F)).astype(np.float32)


def test_a_finished_store_holds_rows_names_and_how_they_were_made(tmp_path, matrix):
    store = open_features(finished(tmp_path / "s", matrix))
    assert (store.tower, store.preprocessing, store.skipped) == ("pixels:1", "p", ())
    assert {path.name for path in store.files} == {"features.npy", "names.json", "meta.json"}
    np.testing.assert_array_equal(np.load(tmp_path / "s" / "features.npy"), matrix)  # readable by NumPy alone


def test_a_writer_continues_and_drops_what_was_not_recorded(tmp_path, matrix):
    folder = tmp_path / "s"
    gone = SkippedImage("10.jpg", "image 10.jpg: cannot be read")
    with FeatureWriter(folder, plan()) as writer:
        writer.append(matrix[:8])
        writer.append(np.delete(matrix[8:12], 2, axis=0), skipped=[gone])
    with (folder / "features.npy").open("ab") as file:
        file.write(b"\x00" * 37)  # half a block, as a kill leaves it
    with pytest.raises(ValueError, match="unfinished extraction, 12 of 30 images"):
        open_features(folder)
    with FeatureWriter(folder, plan()) as writer:
        assert writer.done == 12
        assert writer.skipped == [gone]
        writer.append(matrix[12:])
        writer.finish()
    store = open_features(folder)
    assert store.names == tuple(name for name in NAMES if name != "10.jpg")
    assert store.skipped == (gone,)
    np.testing.assert_array_equal(store.rows(np.arange(N - 1)), np.delete(matrix, 10, axis=0))


def test_a_kill_between_the_steps_of_finishing_is_made_good(tmp_path, matrix, monkeypatch):
    folder, write = tmp_path / "s", feature_writer.write_json
    for last in ("names.json", "meta.json"):

        def cut_off(path, value, last=last):
            if path.name == last:
                raise KeyboardInterrupt
            write(path, value)

        monkeypatch.setattr(feature_writer, "write_json", cut_off)
        with FeatureWriter(folder, plan()) as writer:
            if writer.done < N:
                writer.append(matrix)
            with pytest.raises(KeyboardInterrupt):
                writer.finish()
        with pytest.raises(ValueError, match="unfinished"):
            open_features(folder)
    monkeypatch.setattr(feature_writer, "write_json", write)
    with FeatureWriter(folder, plan()) as writer:
        assert writer.done == N
        writer.finish()
    np.testing.assert_array_equal(open_features(folder).rows(np.arange(N)), matrix)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (plan(tower="pixels:2"), "unfinished extraction with tower pixels:1, not pixels:2"),
        (plan(weights="1"), "with weights 0, not 1"),
        (plan(NAMES[:-1]), "with images 30 images, .* not 29 images"),
        (plan(width=F + 1), "with width 6, not 7"),
    ],
)
def test_another_plan_is_refused_unless_it_overwrites(other, message, tmp_path, matrix):
    with FeatureWriter(tmp_path, plan()) as writer:
        writer.append(matrix[:5])
    with pytest.raises(ValueError, match=message):
        FeatureWriter(tmp_path, other)
    with FeatureWriter(tmp_path, plan()) as writer:
        assert writer.done == 5
    with FeatureWriter(tmp_path, other, overwrite=True) as writer:
        assert writer.done == 0


def test_a_finished_store_and_a_foreign_folder_are_kept(tmp_path, matrix):
    finished(tmp_path / "s", matrix)
    with pytest.raises(ValueError, match="finished feature store; use --overwrite"):
        FeatureWriter(tmp_path / "s", plan())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "features.npy").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="not empty and holds no feature store"):
            FeatureWriter(tmp_path / "mine", plan(), overwrite=overwrite)
    assert (tmp_path / "mine" / "features.npy").read_text() == "mine"


def test_two_writers_of_one_store_are_refused(tmp_path, matrix):
    with FeatureWriter(tmp_path, plan()) as writer:
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on "):
            FeatureWriter(tmp_path, plan())
        writer.append(matrix)


def test_a_matrix_shorter_than_the_record_is_refused(tmp_path, matrix):
    with FeatureWriter(tmp_path, plan()) as writer:
        writer.append(matrix[:5])
    (tmp_path / "features.npy").unlink()
    with pytest.raises(ValueError, match="5 rows are recorded as written; use --overwrite"):
        FeatureWriter(tmp_path, plan())


def test_a_writer_refuses_what_does_not_fit(tmp_path, matrix):
    with FeatureWriter(tmp_path / "s", plan()) as writer:
        with pytest.raises(ValueError, match=r"rows of shape \(2, 5\) for width 6"):
            writer.append(matrix[:2, :5])
        with pytest.raises(ValueError, match="1 skipped images are not the next ones"):
            writer.append(matrix[:2], skipped=[SkippedImage("29.jpg", "")])
        with pytest.raises(ValueError, match="0 of 30 images done"):
            writer.finish()
        matrix[1, 0] = np.nan
        with pytest.raises(ValueError, match=r"pixels:1 gave NaN or infinity for '1.jpg'"):
            writer.append(matrix)
    with FeatureWriter(tmp_path / "none", plan(NAMES[:1])) as writer:
        writer.append(matrix[:0], skipped=[SkippedImage("0.jpg", "image 0.jpg: no such file")])
        with pytest.raises(ValueError, match=r"all 1 images were skipped, first image 0.jpg"):
            writer.finish()
