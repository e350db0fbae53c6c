"""Word-similarity sets: published formats, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mcse.data.test_sets.wordsim import EXPECTED_PAIRS, load_wordsim

PUBLISHED = {
    "RW": ("rw/rw.txt", "squishing\tsquirt\t5.88\t7\t6\ncat\tdog\t6\t6\t6\n"),
    "MEN": ("MEN/MEN_dataset_natural_form_full", "squishing squirt 5.880000\ncat dog 6.0\n"),
    "WordSim-353": ("combined.csv", "Word 1,Word 2,Human (mean)\nsquishing,squirt,5.88\ncat,dog,6\n"),
    "MTurk-771": ("MTURK-771.csv", "squishing,squirt,5.88\ncat,dog,6\n"),
    "SimVerb-3500": ("SimVerb-3500.txt", "squishing\tsquirt\tV\t5.88\tNONE\ncat\tdog\tV\t6\tNONE\n"),
}


SIMLEX = (
    "word1\tword2\tPOS\tSimLex999\tconc(w1)\tconc(w2)\tconcQ\tAssoc(USF)\tSimAssoc333\tSD(SimLex)\n"
    "old\tnew\tA\t1.58\t2.72\t2.81\t2\t7.25\t1\t0.41\n"
    "cat\tdog\tN\t6\t2\t2\t4\t0\t0\t1\n"
    "go\tcome\tV\t2.5\t2\t2\t1\t0\t1\t1\n"
)


def _write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_formats(name: str, tmp_path: Path) -> None:
    _write(tmp_path, *PUBLISHED[name])
    data = load_wordsim(tmp_path)
    (pairs,) = data.sets
    assert (pairs.name, pairs.word1, pairs.word2) == (name, ("squishing", "cat"), ("squirt", "dog"))
    assert pairs.gold_P.tolist() == [5.88, 6.0]
    assert set(data.absent) == set(EXPECTED_PAIRS) - {name}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EN-MEN-TR-3k.txt", "cat\tdog\t6\n"),
        ("MEN_dataset_lemma_form_full", "cat-n dog-n 6\n"),
        ("EN-SimVerb-3500.txt", "cat\tdog\t6\n"),
        ("combined.tab", "Word 1\tWord 2\tHuman (mean)\ncat\tdog\t6\n"),
        ("EN-WS-353-ALL.txt", "cat\tdog\t6\n"),
        ("EN-MTurk-771.txt", "cat dog 6\n"),
        ("EN-SIMLEX-999.txt", "cat\tdog\t6\n"),
    ],
)
def test_formats_of_collections(name: str, text: str, tmp_path: Path) -> None:
    _write(tmp_path / "wordsim", name, text)
    (pairs,) = load_wordsim(tmp_path).sets
    assert (pairs.word1, pairs.word2, pairs.gold_P.tolist()) == (("cat",), ("dog",), [6.0])


def test_simlex_has_parts_of_speech_concreteness_and_the_hard_pairs(tmp_path: Path) -> None:
    _write(tmp_path, "SimLex-999.txt", SIMLEX)
    (pairs,) = load_wordsim(tmp_path).sets
    marked = {name: np.flatnonzero(mask).tolist() for name, mask in pairs.subsets.items()}
    assert marked["adjectives"] == [0]
    assert marked["nouns"] == [1]
    assert marked["verbs"] == [2]
    assert [marked[f"concreteness {number}"] for number in (1, 2, 3, 4)] == [[2], [0], [], [1]]
    assert marked["hard"] == [0, 2]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own.tsv", "cat\tdog\thigh\n", "own.tsv, line 1: score 'high'"),
        ("own.tsv", "cat\tdog\t1\ncat\n", "own.tsv, line 2: 1 columns"),
        ("SimLex-999.txt", "a\tb\tc\td\te\tf\tg\th\ti\tj\n", "lacks POS, SimLex999"),
        ("own.txt", "cat dog 1\n", "no published name"),
        ("own.tsv", "score\tword1\tword2\n1\tcat\tdog\n", "own.tsv, line 1: score 'word2'"),
    ],
)
def test_bad_files_are_refused_by_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    _write(tmp_path, name, text)
    with pytest.raises(ValueError, match=message):
        load_wordsim(tmp_path / name)


def test_a_folder_without_sets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no word-similarity set"):
        load_wordsim(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a folder nor a file"):
        load_wordsim(tmp_path / "absent")


def test_a_no_break_space_is_part_of_a_word(tmp_path: Path) -> None:
    _write(tmp_path, "EN-MTurk-771.txt", "new\u00a0york city 6\n")
    (pairs,) = load_wordsim(tmp_path).sets
    assert (pairs.word1, pairs.word2) == (("new\u00a0york",), ("city",))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("combined.csv", 'a,b,Human\ncat,"dog,6\nnew,york,7\n', "line 2: a quotation mark is opened and not closed"),
        ("SimLex-999.txt", SIMLEX + "cat\tdog\t6\n", "line 5: fewer columns than the 10 of the header"),
        ("EN-RW-STANFORD.txt", "cat\tdog\t6\nca\0t\tdog\t6\n", "line 2: a NUL byte"),
    ],
)
def test_broken_tables_are_refused_by_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    _write(tmp_path, name, text)
    with pytest.raises(ValueError, match=f"{name}, {message}"):
        load_wordsim(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.csv", '"cat",dog,6\nnew york,city,1\n'),
        ("own.csv", "word1,word2,score\ncat,dog,6\nnew york,city,1\n"),
        ("own.tsv", "Word 1\tWord 2\tHuman (Mean)\ncat\tdog\t6\nnew york\tcity\t1\n"),
    ],
)
def test_pairs_of_ones_own(name: str, text: str, tmp_path: Path) -> None:
    _write(tmp_path, name, text)
    (pairs,) = load_wordsim(tmp_path / name).sets
    assert (pairs.name, pairs.word1, pairs.word2) == ("own", ("cat", "new york"), ("dog", "city"))
    assert pairs.gold_P.tolist() == [6.0, 1.0]
