"""Stored rows of teachers: found by what a text says, joined so that products are averages of cosines."""

from __future__ import annotations

import itertools
import json
import shutil

import datasets
import numpy as np
import pytest

from mcse.data.images.feature_writer import FeatureWriter
from mcse.data.teacher_rows import StoredTeachers, TeacherStore, TextPlan, partners, text_key
from tests.fixtures.tiny_features import finished as finished_images

TEXTS = [f"text {number}" for number in range(20)]


def plan(texts, *, width, **changes):
    settings = {
        "encoder": "A",
        "weights": "0",
        "pooling": "mean",
        "prompt": "",
        "joint": False,
        "length": None,
        "precision": "float32",
        "dtype": "float32",
        "untrained": None,
    }
    return TextPlan(names=tuple(map(text_key, texts)), width=width, **(settings | changes))


def write(folder, texts, matrix, **changes):
    with FeatureWriter(folder, plan(texts, width=matrix.shape[1], **changes)) as writer:
        writer.append(matrix)
        writer.finish()
    return folder


def rows_of(number, width, seed=0):
    return np.random.default_rng(seed).standard_normal((number, width)).astype(np.float32) * 3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stored(tmp_path):
    """Two teachers of different widths whose stores have other texts, in other orders; rows by text."""
    order = np.random.default_rng(1).permutation(20)
    first, second = rows_of(20, 5), rows_of(23, 3, seed=2)
    write(tmp_path / "a", [TEXTS[i] for i in order], first[order])
    write(tmp_path / "b", [*TEXTS, "x", "y", "z"], second)
    return StoredTeachers([TeacherStore(tmp_path / name) for name in "ab"], [0.3, 0.7], shuffled=None), first, second


def cosine(u, v):
    dot = sum(float(a) * float(b) for a, b in zip(u, v, strict=True))
    return dot / (sum(float(a) ** 2 for a in u) * sum(float(b) ** 2 for b in v)) ** 0.5


def test_a_product_of_two_rows_is_the_weighted_average_of_the_teachers_cosines(stored):
    teachers, first, second = stored
    row_BF = teachers.of_texts(TEXTS, source="here")
    assert row_BF.shape == (20, 8)
    for i, j in itertools.product(range(20), repeat=2):
        wanted = 0.3 * cosine(first[i], first[j]) + 0.7 * cosine(second[i], second[j])
        assert float(row_BF[i] @ row_BF[j]) == pytest.approx(wanted, abs=1e-5)


def test_a_table_finds_its_rows_whatever_its_order_and_however_often_a_text_stands_there(stored, tmp_path):
    teachers, *_ = stored
    texts = [TEXTS[i] for i in (7, 3, 7, 19, 0, 3)]
    reads = []

    def read():
        reads.append(1)
        return iter(texts)

    column = teachers.column(read, digest="d", number=6, source="t.txt")
    wanted = teachers.of_texts(texts, source="t.txt")
    np.testing.assert_array_equal(column.rows(np.array([5, 0, 0, 4])), wanted[[5, 0, 0, 4]])
    again = teachers.column(read, digest="d", number=6, source="t.txt")
    np.testing.assert_array_equal(again.rows(np.arange(6)), wanted)
    assert len(reads) == 2, "once a store, and kept"


def test_a_digest_is_of_the_whole_text():
    keys = {text_key(text) for text in ("a", "b", "a ", "A", "ä", "ab", "", "\udc80")}
    assert len(keys) == 8
    assert all(len(bytes.fromhex(key)) == 16 for key in keys)


def test_keys_that_end_in_zeros_are_told_apart(tmp_path, monkeypatch):
    # NumPy's texts of bytes forget zeros at their end; all keys are of one length, so that nothing is lost.
    keys = {"p": "00" * 16, "q": "ab" + "00" * 15, "r": "ab00" + "00" * 13 + "01"}
    monkeypatch.setattr("mcse.data.teacher_rows.text_key", keys.__getitem__)
    with FeatureWriter(tmp_path / "s", plan([], width=1)) as writer:
        object.__setattr__(writer.plan, "names", ())
    shutil.rmtree(tmp_path / "s")
    settings = plan([], width=2)
    object.__setattr__(settings, "names", tuple(keys.values()))
    with FeatureWriter(tmp_path / "s", settings) as writer:
        writer.append(np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32))
        writer.finish()
    store = TeacherStore(tmp_path / "s")
    np.testing.assert_array_equal(store.rows(store.places(["r", "p", "q"])), [[-1, 0], [1, 0], [0, 1]])


def test_missing_texts_are_counted_and_the_first_is_named(stored, tmp_path):
    teachers, *_ = stored
    texts = [TEXTS[0], "not there", TEXTS[1], "nor this"]
    message = (
        rf"teachers: {tmp_path}/a has no row for 2 of 4 texts of t.txt, first 'not there'; "
        "'mcse extract-features --texts FILE … --encoder A --pooling mean --output DIR' makes a store"
    )
    with pytest.raises(ValueError, match=message):
        teachers.column(lambda: texts, digest="d", number=4, source="t.txt")
    with pytest.raises(ValueError, match=message):
        teachers.of_texts(texts, source="t.txt")
    with pytest.raises(ValueError, match=r"t.txt: 3 texts, of which 4 have tokens"):
        teachers.column(lambda: TEXTS[:3], digest="e", number=4, source="t.txt")


def test_shuffled_gives_every_text_the_rows_of_one_other_from_all_teachers(stored):
    teachers, *_ = stored
    shuffled = StoredTeachers(teachers.stores, [0.3, 0.7], shuffled=4)
    texts = [*TEXTS, *TEXTS[:5]]
    own = teachers.of_texts(texts, source="t.txt")
    found = shuffled.column(lambda: texts, digest="d", number=25, source="t.txt").rows(np.arange(25))
    given = [next(j for j in range(20) if np.array_equal(found[i], own[j])) for i in range(25)]
    assert all(i % 20 != j for i, j in enumerate(given))
    assert sorted(given[:20]) == list(range(20)), "each text's rows are those of one other"
    assert given[20:] == given[:5], "equal texts stay equal"
    # Looked up one by one, texts are permuted among all of a store, whichever the batch holds.
    pair = StoredTeachers(teachers.stores[:1], [1.0], shuffled=4)
    each = np.concatenate([pair.of_texts([text], source="t") for text in TEXTS])
    np.testing.assert_array_equal(each, pair.of_texts(TEXTS, source="t"))
    assert not np.array_equal(partners(20, seed=4), partners(20, seed=5))


def test_float16_rows_are_brought_to_unit_norm_again(tmp_path):
    matrix = rows_of(20, 7)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    store = TeacherStore(write(tmp_path / "s", TEXTS, matrix, dtype="float16"))
    row_BD = store.rows(store.places(TEXTS))
    assert np.load(tmp_path / "s" / "features.npy").dtype == np.float16
    np.testing.assert_allclose(row_BD, matrix, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(row_BD.astype(np.float64), axis=1), 1, atol=1e-6)


def test_a_row_of_zeros_stays_one(tmp_path):
    store = TeacherStore(write(tmp_path / "s", TEXTS[:2], np.array([[0, 0], [3, 4]], dtype=np.float32)))
    np.testing.assert_allclose(store.rows(store.places(TEXTS[:2])), [[0, 0], [0.6, 0.8]], rtol=1e-6)


def edit(name, change):
    def damage(folder):
        path = folder / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


def cut(folder):
    with (folder / "features.npy").open("r+b") as file:
        file.truncate(200)


def stop(folder):
    (folder / "meta.json").unlink()


FAULTS = {
    "truncated rows": (cut, r"features.npy.* promises .* bytes"),
    "another schema": (
        edit("meta.json", lambda meta: meta | {"schema": 9}),
        r"meta.json: schema 9, this version reads 1",
    ),
    "a row too few": (edit("names.json", lambda names: [*names, "00" * 16]), r"21 image names for 20 feature rows"),
    "names of images": (edit("names.json", lambda names: ["a.jpg", *names[1:]]), r"its names are not those of texts"),
    "a name of another length": (edit("names.json", lambda names: ["00", *names[1:]]), r"not those of texts"),
    "no pooling": (
        edit("meta.json", lambda meta: {key: value for key, value in meta.items() if key != "pooling"}),
        r"meta.json: pooling is missing",
    ),
    "a number for a text": (
        edit("meta.json", lambda meta: meta | {"prompt": 3}),
        r"meta.json: prompt must be text, got 3",
    ),
    "no end": (stop, r"not a feature store \(no meta.json\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_store_is_refused_by_name(fault, tmp_path):
    damage, message = FAULTS[fault]
    folder = write(tmp_path / "s", TEXTS, rows_of(20, 5))
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        TeacherStore(folder)
    assert str(folder) in str(caught.value)


def test_what_is_no_store_of_texts_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path}/i holds no rows of texts \(perhaps features of images\)"):
        TeacherStore(finished_images(tmp_path / "i", rows_of(30, 6)))
    np.save(tmp_path / "m.npy", rows_of(3, 2))
    with pytest.raises(ValueError, match=r"m.npy holds no rows of texts"):
        TeacherStore(tmp_path / "m.npy")
    with pytest.raises(FileNotFoundError, match=rf"nothing at {tmp_path}/none"):
        TeacherStore(tmp_path / "none")
    with FeatureWriter(tmp_path / "half", plan(TEXTS, width=5)) as writer:
        writer.append(rows_of(4, 5))
    with pytest.raises(ValueError, match="half: unfinished extraction, 4 of 20"):
        TeacherStore(tmp_path / "half")
