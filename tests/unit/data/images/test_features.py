"""Feature stores: rows by index, joined to captions by name, refusals."""

from __future__ import annotations

import json
import logging
import multiprocessing
import pickle
import re

import h5py
import numpy as np
import pytest

from mcse.data.captions.table import CaptionTable
from mcse.data.images import features as features_module
from mcse.data.images import hdf5 as hdf5_module
from mcse.data.images.feature_writer import FeatureWriter
from mcse.data.images.features import captions_to_features, join_equal_rows, open_features, without_skipped
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
        monkeypatch.setattr(hdf5_module, "_IN_MEMORY_BYTES", 0)
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


@pytest.mark.parametrize("copies", [2, 5])
def test_rows_that_repeat_for_every_caption_are_one_image(tmp_path, matrix, caplog, copies):
    np.save(tmp_path / "f.npy", np.repeat(matrix, copies, axis=0))
    store = open_features(tmp_path / "f.npy")
    assert store.copies == copies
    assert store.first_equal(np.arange(3 * copies)).tolist() == np.repeat([0, copies, 2 * copies], copies).tolist()
    lines = CaptionTable(None, tuple((f"c{row}",) for row in range(copies * N)), "captions.txt", ())
    joined, rows = join_equal_rows(lines, captions_to_features(lines, store), store)
    assert joined.captions[1] == tuple(f"c{row}" for row in range(copies, 2 * copies))
    assert f"{(copies - 1) * N} of {copies * N} images have the same features as others" in caplog.text
    np.testing.assert_array_equal(store.rows(rows), matrix)
    # Captions that already stand by image find the first of each image's rows.
    by_image = table(NAMES)
    again, rows = join_equal_rows(by_image, captions_to_features(by_image, store), store)
    assert again is by_image
    np.testing.assert_array_equal(store.rows(rows), matrix)


def test_named_images_that_look_alike_stay_apart(tmp_path, matrix):
    matrix[7] = matrix[3]
    matrix[[9, 11]] = 0
    store = open_features(hdf5(tmp_path / "f.hdf5", matrix, names=NAMES))
    assert store.copies == 1
    assert join_equal_rows(table(NAMES), np.arange(N), store)[0].image_names == NAMES
    nameless, rows = join_equal_rows(table(None, N), np.arange(N), store)
    assert len(nameless) == N - 1, "rows of zeros are no images of one kind"
    assert nameless.captions[3] == ("x", "x")
    assert rows.tolist() == [row for row in range(N) if row != 7]


def test_every_row_is_compared_with_every_other_as_in_plain_loops(tmp_path):
    draw = np.random.default_rng(0)
    rows = draw.integers(-1, 2, size=(200, 3)).astype(np.float32)
    rows[0] = [-0.0, 0.0, 1.0]
    np.save(tmp_path / "f.npy", rows)
    expected = [
        row if not rows[row].any() else next(other for other in range(200) if (rows[other] == rows[row]).all())
        for row in range(200)
    ]
    assert open_features(tmp_path / "f.npy").first_equal(np.arange(200)).tolist() == expected


def with_names(path, matrix, name, values):
    with h5py.File(hdf5(path, matrix), "a") as file:
        file.create_dataset(name, data=values)
    return path


def test_names_of_rows_are_found_or_asked_for(tmp_path, matrix):
    other = with_names(tmp_path / "other.hdf5", matrix, "names", np.array(NAMES, dtype="S"))
    assert open_features(other).names == NAMES, "they were matched by order"
    tall = with_names(tmp_path / "tall.hdf5", matrix, "image_names", np.array(NAMES, dtype="S")[:, None])
    assert open_features(tall).names == NAMES
    with pytest.raises(ValueError, match=r"titles\.hdf5: 'titles' may hold the images' names; call it 'image_names'"):
        open_features(with_names(tmp_path / "titles.hdf5", matrix, "titles", np.array(NAMES, dtype="S")))
    splits = with_names(tmp_path / "splits.hdf5", matrix, "split", np.array(["train"] * N, dtype="S"))
    captions = with_names(
        tmp_path / "captions.hdf5", matrix, "text", np.array([f"a {name}" for name in NAMES], dtype="S")
    )
    assert open_features(splits).names is open_features(captions).names is None
    with pytest.raises(ValueError, match=r"one\.hdf5: 'image_names' must hold one name a row"):
        open_features(with_names(tmp_path / "one.hdf5", matrix, "image_names", 5))
    latin = [name.encode() for name in NAMES[:-1]] + [b"caf\xe9.jpg"]
    with pytest.raises(ValueError, match=r"latin\.hdf5: 'image_names' holds a name that is not UTF-8, b'caf"):
        open_features(with_names(tmp_path / "latin.hdf5", matrix, "image_names", np.array(latin, dtype="S")))
    with pytest.raises(ValueError, match=r"wide\.hdf5: 'image_names' must hold one name a row"):
        open_features(with_names(tmp_path / "wide.hdf5", matrix, "image_names", np.array([NAMES, NAMES], dtype="S").T))


def test_links_to_nothing_and_promises_without_content_are_refused(tmp_path):
    with h5py.File(tmp_path / "link.hdf5", "w") as file:
        file["features"] = h5py.SoftLink("/nowhere")
    with pytest.raises(ValueError, match=r"link\.hdf5"):
        open_features(tmp_path / "link.hdf5")
    with h5py.File(tmp_path / "names.hdf5", "w") as file:
        file["features"] = np.ones((2, 2), dtype=np.float32)
        file["image_names"] = h5py.SoftLink("/nowhere")
    with pytest.raises(ValueError, match=r"names\.hdf5"):
        open_features(tmp_path / "names.hdf5")
    with h5py.File(tmp_path / "bomb.hdf5", "w") as file:
        file.create_dataset("features", shape=(10**9, 2048), dtype="f4", chunks=(64, 2048))
    with pytest.raises(ValueError, match=r"bomb\.hdf5: promises 8,192,000,000,000 bytes of features, and 0 are stored"):
        open_features(tmp_path / "bomb.hdf5")


@pytest.mark.parametrize(
    "shape", ["(10000000000, 2048)", "(3, 4)", "(-1, 8)", "(99999999999999999999, 1)", "(2, 4, 0)"]
)
def test_a_header_is_held_against_the_files_size(tmp_path, shape):
    np.save(tmp_path / "f.npy", np.ones((2, 8), dtype=np.float32))
    data = (tmp_path / "f.npy").read_bytes()
    (tmp_path / "f.npy").write_bytes(data.replace(b"(2, 8), }" + b" " * (len(shape) - 6), shape.encode() + b", }", 1))
    with pytest.raises(ValueError, match=r"f\.npy"):
        open_features(tmp_path / "f.npy")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "meta.json",
            "[]",
            "meta.json must be an object, got a list; mcse extract-features --overwrite extracts the features again",
        ),
        ("meta.json", '{"schema": "1"}', 'meta.json: schema must be a whole number, got "1"'),
        ("meta.json", '{"schema": 1, "tower": 5}', "meta.json: tower must be text, got 5"),
        ("meta.json", '{"schema": 1, "regions": []}', "meta.json: regions must be a whole number or text, got a list"),
        ("meta.json", '{"schema": 1, "regions": "0"}', "meta.json: 0 regions do not divide rows"),
        ("meta.json", '{"schema": 1, "skipped": [{"name": "a"}]}', "meta.json: skipped.0.reason is missing"),
        ("names.json", '{"0": "a"}', "names.json must be a list, got an object"),
        ("names.json", "[1, 2]", "names.json: 0 must be text, got 1"),
    ],
)
def test_facts_of_another_shape_are_refused_by_key(tmp_path, matrix, file, content, message):
    folder = finished(tmp_path / "s", matrix)
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        open_features(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("done", "x", 'done must be a whole number, got "x"'),
        ("rows", 4, "counts that do not fit each other"),
        ("done", -1, "counts that do not fit each other"),
        ("plan", [], "plan must be an object, got a list"),
        ("skipped", None, "skipped must be a list, got null"),
    ],
)
def test_progress_of_another_shape_is_refused_by_key(tmp_path, matrix, key, value, message):
    with FeatureWriter(tmp_path, plan()) as writer:
        writer.append(matrix[:3])
    progress = json.loads((tmp_path / "progress.json").read_text())
    (tmp_path / "progress.json").write_text(json.dumps({**progress, key: value}))
    with pytest.raises(ValueError, match=re.escape(message)):
        FeatureWriter(tmp_path, plan())


def test_hdf5_that_gives_other_rows_than_its_own_is_refused(tmp_path, matrix):
    """Zeros for what was never written, and this file's bytes for a matrix that lies in another one."""
    other = hdf5(tmp_path / "other.h5", matrix)
    with h5py.File(tmp_path / "partial.h5", "w") as file:
        file.create_dataset("features", shape=matrix.shape, dtype="f4", chunks=(1, F))[: N - 1] = matrix[: N - 1]
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["features"] = h5py.ExternalLink(str(other), "features")
        file["padding"] = np.ones((N, 2 * F))  # so that the place of the other's rows lies inside this file
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(shape=matrix.shape, dtype="f4")
        layout[:] = h5py.VirtualSource(str(other), "features", shape=matrix.shape)
        file.create_virtual_dataset("features", layout)
    with pytest.raises(ValueError, match=rf"partial.h5: only {N - 1} of the {N} chunks of its features were ever"):
        open_features(tmp_path / "partial.h5")
    for name in ("link.h5", "virtual.h5"):
        with pytest.raises(ValueError, match=rf"{name}: its 'features' lie in another file"):
            open_features(tmp_path / name)


def test_numbers_beside_the_features_may_be_names(tmp_path, matrix):
    numbers = {"cocoid": np.arange(N)[::-1] + 391, "order": np.arange(N)[::-1], "row": np.arange(N), "size": np.ones(N)}
    for name, values in numbers.items():
        with h5py.File(hdf5(tmp_path / f"{name}.h5", matrix), "a") as file:
            file[name] = values
    assert open_features(tmp_path / "cocoid.h5").names == tuple(str(number) for number in numbers["cocoid"])
    with pytest.raises(ValueError, match="'order' may hold the images' names"):
        open_features(tmp_path / "order.h5")
    with h5py.File(hdf5(tmp_path / "attribute.h5", matrix), "a") as file:
        file["features"].attrs["image_names"] = list(NAMES[::-1])
    with pytest.raises(ValueError, match="attribute.h5: 'image_names' is an attribute"):
        open_features(tmp_path / "attribute.h5")
    assert open_features(tmp_path / "row.h5").names is None
    assert open_features(tmp_path / "size.h5").names is None
