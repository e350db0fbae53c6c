"""Feature stores: rows by index, joined to captions by name, refusals."""

from __future__ import annotations

import json
import logging
import multiprocessing
import pickle

import h5py
import numpy as np
import pytest

from mcse.data.captions.table import CaptionTable
from mcse.data.images import features as features_module
from mcse.data.images.feature_writer import FeatureWriter
from mcse.data.images.features import captions_to_features, open_features, without_skipped
from mcse.data.images.sources import SkippedImage
from tests.fixtures.tiny_features import NAMES, F, N, finished, plan


@pytest.fixture
def matrix():
    return np.random.default_rng(0).standard_normal((N, F)).astype(np.float32)


def hdf5(path, matrix, *, names=None, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=matrix, **options)
        if names is not None:
            file.create_dataset("image_names", data=np.array(names, dtype="S"))
    return path


def stores(folder, matrix):
    np.save(folder / "bare.npy", matrix)
    strings = hdf5(folder / "strings.hdf5", matrix.astype(np.float64))
    with h5py.File(strings, "a") as file:
        file.create_dataset("image_names", data=list(NAMES))
    return {
        "contiguous": hdf5(folder / "plain.hdf5", matrix),
        "compressed": hdf5(folder / "zip.hdf5", matrix, names=NAMES, compression="gzip", chunks=(7, 2)),
        "float64, text names": strings,
        "ours": finished(folder / "ours", matrix),
        "npy": folder / "bare.npy",
    }


def fetch(store, index, queue):
    queue.put(store.rows(index))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", ["contiguous", "compressed", "float64, text names", "ours", "npy"])
def test_rows_equal_the_matrix_in_any_order_also_in_copies(kind, in_memory, tmp_path, matrix, monkeypatch):
    if not in_memory:
        monkeypatch.setattr(features_module, "_IN_MEMORY_BYTES", 0)
    store = open_features(stores(tmp_path, matrix)[kind])
    assert (len(store), store.width) == (N, F)
    assert store.names == (NAMES if kind in ("compressed", "float64, text names", "ours") else None)
    index = np.array([29, 3, 3, 0, 17])
    rows = store.rows(index)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, matrix[index])
    rows[:] = 0  # the caller's copy: the store stays as it is
    np.testing.assert_array_equal(store.rows(index), matrix[index])
    assert store.rows(np.array([], dtype=np.int64)).shape == (0, F)
    pickled = pickle.dumps(store)
    np.testing.assert_array_equal(pickle.loads(pickled).rows(index), matrix[index])
    queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=fetch, args=(store, index, queue))
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=20), matrix[index])
    child.join()


def test_a_pickled_store_does_not_carry_its_rows(tmp_path):
    big = np.ones((2000, 50), dtype=np.float32)
    store = open_features(hdf5(tmp_path / "f.hdf5", big, compression="gzip"))
    store.rows(np.array([0]))
    assert len(pickle.dumps(store)) < 5000


@pytest.mark.parametrize("index", [[-1], [0, N]])
def test_rows_outside_the_store_are_refused(index, tmp_path, matrix):
    store = open_features(hdf5(tmp_path / "f.hdf5", matrix))
    with pytest.raises(IndexError, match="there are 30"):
        store.rows(np.array(index))


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_nan_and_infinity_are_refused_with_row_and_name(value, word, compression, tmp_path, matrix, monkeypatch):
    matrix[[23, 28], 4] = value
    monkeypatch.setattr(features_module, "_SCAN_BYTES", 5 * F * 4)  # several blocks
    path = hdf5(tmp_path / "f.hdf5", matrix, names=NAMES, compression=compression)
    with pytest.raises(ValueError, match=rf"f.hdf5: {word} in the features of row 23 \(23.jpg\)"):
        open_features(path)


def test_float64_that_float32_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="infinity in the features of row 1"):
        open_features(hdf5(tmp_path / "f.hdf5", np.array([[1.0], [1e300]])))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((3, 4, 5), np.float32), r"matrix \(images, width\), got shape \(3, 4, 5\)"),
        (np.zeros(3, np.float32), r"got shape \(3,\)"),
        (np.zeros((0, 4), np.float32), r"got shape \(0, 4\)"),
        (np.zeros((3, 4), np.int64), "floating point, got int64"),
    ],
)
@pytest.mark.parametrize("kind", ["hdf5", "npy"])
def test_what_is_no_matrix_of_floats_is_refused(kind, value, message, tmp_path):
    path = tmp_path / f"f.{kind}"
    if kind == "npy":
        np.save(path, value)
    else:
        hdf5(path, value)
    with pytest.raises(ValueError, match=message):
        open_features(path)


def test_files_that_are_no_stores_are_refused(tmp_path, matrix):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_features(tmp_path / "absent.hdf5")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file.create_dataset("vectors", data=matrix)
    with pytest.raises(ValueError, match=r"no dataset 'features' in it; it holds 'vectors'"):
        open_features(tmp_path / "other.hdf5")
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(ValueError, match=r"text.hdf5"):
        open_features(tmp_path / "text.hdf5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a feature store"):
        open_features(tmp_path / "empty")


@pytest.mark.parametrize("kind", ["contiguous", "compressed", "ours", "npy"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_truncated_files_are_refused(kind, keep, tmp_path):
    matrix = np.random.default_rng(0).standard_normal((N, 2000)).astype(np.float32)
    path = stores(tmp_path, matrix)[kind]
    file = path / "features.npy" if path.is_dir() else path
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=file.name):
        open_features(path)


def test_wrong_names_are_refused(tmp_path, matrix):
    with pytest.raises(ValueError, match="29 image names for 30 feature rows"):
        open_features(hdf5(tmp_path / "short.hdf5", matrix, names=NAMES[:-1]))
    with pytest.raises(ValueError, match=r"1 repeated image names, first '4.jpg'"):
        open_features(hdf5(tmp_path / "twice.hdf5", matrix, names=[*NAMES[:-1], "4.jpg"]))


def table(names, count=None):
    return CaptionTable(names, tuple(("x",) for _ in range(len(names) if count is None else count)), "captions.txt", ())


def test_images_match_by_name_and_the_store_may_hold_more(tmp_path, matrix):
    store = open_features(hdf5(tmp_path / "f.hdf5", matrix, names=NAMES))
    assert captions_to_features(table(("7.jpg", "train/29.jpg", "0")), store).tolist() == [7, 29, 0]


def test_images_without_features_are_refused_by_count_and_first_name(tmp_path, matrix):
    store = open_features(hdf5(tmp_path / "f.hdf5", matrix, names=NAMES))
    with pytest.raises(ValueError, match=r"captions.txt: 2 of 3 images have no features in .*, first 'q.jpg'"):
        captions_to_features(table(("7.jpg", "q.jpg", "r.jpg")), store)


def test_without_names_order_and_equal_count_decide_and_it_is_said(tmp_path, matrix, caplog):
    nameless, named = hdf5(tmp_path / "n.hdf5", matrix), hdf5(tmp_path / "f.hdf5", matrix, names=NAMES)
    for captions, path in ((table(None, N), nameless), (table(None, N), named), (table(NAMES), nameless)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert captions_to_features(captions, open_features(path)).tolist() == list(range(N))
        assert "matched by order (30)" in caplog.text
    with pytest.raises(
        ValueError, match=r"captions.txt has 29 images and .*n.hdf5 30 features; captions.txt has no image"
    ):
        captions_to_features(table(None, N - 1), open_features(nameless))
    with pytest.raises(ValueError, match=r"n.hdf5 has no image names"):
        captions_to_features(table(("a.jpg",)), open_features(nameless))


def test_skipped_images_can_be_left_out_of_the_captions(tmp_path, matrix, caplog):
    with FeatureWriter(tmp_path, plan()) as writer:
        writer.append(matrix[1:], skipped=[SkippedImage("0.jpg", "corrupt")])
        writer.finish()
    store, captions = open_features(tmp_path), table(NAMES[:3])
    with pytest.raises(ValueError, match="its extraction skipped 1 unreadable images"):
        captions_to_features(captions, store)
    with caplog.at_level(logging.WARNING):
        left = without_skipped(captions, store, on_bad_image="skip")
    assert f"left out 1 images of {captions.source} that cannot be read: 0.jpg" in caplog.text
    assert left.image_names == ("1.jpg", "2.jpg")
    np.testing.assert_array_equal(store.rows(captions_to_features(left, store)), matrix[1:3])
    with pytest.raises(
        ValueError, match=r"skipped 1 of the 3 images of .* as unreadable, first '0.jpg'; data.images.on_bad"
    ):
        without_skipped(captions, store, on_bad_image="error")
    assert without_skipped(left, store, on_bad_image="error") is left
    nameless = CaptionTable(None, captions.captions, "c.txt", ())
    assert without_skipped(nameless, store, on_bad_image="error") is nameless


def test_a_store_of_another_version_is_refused(tmp_path, matrix):
    folder = finished(tmp_path / "s", matrix)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "schema": 2}))
    with pytest.raises(ValueError, match="schema 2, this version reads 1"):
        open_features(folder)


def test_moments_are_those_of_the_rows_asked_for(tmp_path):
    rows = np.random.default_rng(0).normal(3, 2, size=(50, 4)).astype(np.float32)
    rows[:, 2] = 7.0
    np.save(tmp_path / "rows.npy", rows)
    index = np.arange(10, 40)
    mean_F, std_F = open_features(tmp_path / "rows.npy").moments(index)
    np.testing.assert_allclose(mean_F, rows[10:40].mean(0), rtol=1e-5)
    np.testing.assert_allclose(std_F[[0, 1, 3]], rows[10:40].std(0)[[0, 1, 3]], rtol=1e-4)
    assert std_F[2] == 1.0
