"""Word-similarity sets in the formats that their authors publish: pairs of words and what people say of them.

P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcse.data.tables import quoted_rows
from mcse.data.test_sets.lines import file_lines, finite_number

WORDSIM_SETS = ("RW", "MEN", "WordSim-353", "MTurk-771", "SimVerb-3500", "SimLex-999")
"""In the order of published tables, which average over all six."""

EXPECTED_PAIRS: Mapping[str, int] = {
    "RW": 2034,
    "MEN": 3000,
    "WordSim-353": 353,
    "MTurk-771": 771,
    "SimVerb-3500": 3500,
    "SimLex-999": 999,
}

_FILES: Mapping[str, tuple[str, ...]] = {
    "RW": ("rw.txt", "en-rw-stanford.txt"),
    "MEN": ("men_dataset_natural_form_full", "men_dataset_lemma_form_full", "en-men-tr-3k.txt"),
    "WordSim-353": ("combined.csv", "combined.tab", "wordsim353.csv", "wordsim353.tsv", "en-ws-353-all.txt"),
    "MTurk-771": ("mturk-771.csv", "en-mturk-771.txt"),
    "SimVerb-3500": ("simverb-3500.txt", "en-simverb-3500.txt"),
    "SimLex-999": ("simlex-999.txt", "en-simlex-999.txt"),
}
"""Names in lower case that the sets' files have where their authors, or collections of them, publish them."""

_PARENTS = ("wordsim", "word-similarity", ".")
_PARTS_OF_SPEECH = {"A": "adjectives", "N": "nouns", "V": "verbs"}
_QUARTILES = ("1", "2", "3", "4")
_OWN_SUFFIXES = (".tsv", ".csv")
_SCORES = ("score", "similarity", "rating", "gold", "human (mean)")
"""What a header may call the third column of one's own pairs."""


@dataclass(frozen=True, slots=True, eq=False)
class WordPairs:
    """P pairs of words with gold (the higher, the more similar), and named subsets as masks over the pairs."""

    name: str
    word1: tuple[str, ...]
    word2: tuple[str, ...]
    gold_P: NDArray[np.float64]
    subsets: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    file: str = ""

    def __len__(self) -> int:
        return len(self.word1)

    @property
    def words(self) -> frozenset[str]:
        """All words of the set."""
        return frozenset((*self.word1, *self.word2))


@dataclass(frozen=True, slots=True)
class WordsimData:
    """The sets that were found, and for every other why not."""

    sets: tuple[WordPairs, ...]
    absent: Mapping[str, str]


def load_wordsim(source: str | Path) -> WordsimData:
    """The word-similarity sets of a folder, or one file of pairs.

    Args:
        source: A folder that holds the sets' files, in ``wordsim/`` or itself, or one folder deeper; or a file under
            one of the published names, or one's own ``.tsv`` or ``.csv`` of word1, word2 and score, with or without a
            header that calls the third so, and, if wanted, a fourth column that names the subset of each pair.

    Raises:
        FileNotFoundError: Nothing is there, or a folder without any of the sets.
        ValueError: A file cannot be read; with file and line.
    """
    path = Path(source)
    if path.is_file():
        return WordsimData(sets=(_load_file(path),), absent={})
    if not path.is_dir():
        raise FileNotFoundError(f"word similarity: neither a folder nor a file at {path}")
    for parent in _PARENTS:
        found = _find(path / parent)
        if found:
            sets = tuple(_load_set(name, found[name]) for name in WORDSIM_SETS if name in found)
            absent = {name: f"none of {', '.join(_FILES[name])}" for name in WORDSIM_SETS if name not in found}
            return WordsimData(sets=sets, absent=absent)
    named = "; ".join(f"{name}: {' or '.join(files)}" for name, files in _FILES.items())
    raise FileNotFoundError(f"{path} holds no word-similarity set, nor does its wordsim/ folder ({named})")


def _find(folder: Path) -> dict[str, Path]:
    """The file of each set, in the folder or in one below it."""
    files = [*sorted(folder.glob("*/*")), *sorted(folder.glob("*"))]
    by_name = {file.name.lower(): file for file in files if file.is_file()}
    found = {name: [by_name[file] for file in files if file in by_name] for name, files in _FILES.items()}
    return {name: files[0] for name, files in found.items() if files}


def _load_file(path: Path) -> WordPairs:
    for name, files in _FILES.items():
        if path.name.lower() in files:
            return _load_set(name, path)
    if path.suffix.lower() not in _OWN_SUFFIXES:
        raise ValueError(
            f"{path}: no published name of a word-similarity set; pairs of one's own are .tsv or .csv files of "
            "word1, word2 and score"
        )
    rows = list(_rows(path, least=3))
    if rows and rows[0][1][2].lower() in _SCORES:
        del rows[0]
    kinds = [row[3] if len(row) > 3 else "" for _, row in rows]
    subsets = {kind: np.array([other == kind for other in kinds]) for kind in dict.fromkeys(kinds) if kind}
    return _pairs(path.stem, path, [(row[0], row[1], finite_number(row[2], path, line)) for line, row in rows], subsets)


def _load_set(name: str, path: Path) -> WordPairs:
    if name == "SimLex-999":
        return _load_simlex(path)
    readers: Mapping[str, Callable[[Path], list[tuple[str, str, float]]]] = {
        "MEN": _men,
        "WordSim-353": _with_header,
        "SimVerb-3500": _simverb,
    }
    return _pairs(name, path, readers.get(name, _plain)(path), {})


def _load_simlex(path: Path) -> WordPairs:
    """SimLex-999 with its parts of speech, concreteness quartiles, and the 333 most associated pairs ("hard").

    Collections of sets have kept words and scores alone, without a header and so without subsets.
    """
    rows = list(_rows(path, least=3))
    if rows and len(rows[0][1]) == 3:
        return _pairs("SimLex-999", path, _plain(path), {})
    (_, header), *rows = rows
    places = {title: place for place, title in enumerate(header)}
    if missing := [title for title in ("POS", "SimLex999", "concQ", "SimAssoc333") if title not in places]:
        raise ValueError(f"{path}, line 1: expected SimLex-999's header, it lacks {', '.join(missing)}")
    if short := [line for line, row in rows if len(row) < len(header)]:
        raise ValueError(f"{path}, line {short[0]}: fewer columns than the {len(header)} of the header")
    pairs = [(row[0], row[1], finite_number(row[places["SimLex999"]], path, line)) for line, row in rows]

    def column(title: str) -> NDArray[np.str_]:
        return np.array([row[places[title]] for _, row in rows])

    subsets = {words: column("POS") == letter for letter, words in _PARTS_OF_SPEECH.items()}
    subsets |= {f"concreteness {number}": column("concQ") == number for number in _QUARTILES}
    subsets["hard"] = column("SimAssoc333") == "1"
    return _pairs("SimLex-999", path, pairs, subsets)


def _men(path: Path) -> list[tuple[str, str, float]]:
    """Spaces or tabs; words of the lemma form end in their part of speech."""
    is_lemma = "lemma" in path.name.lower()
    rows = []
    for line, row in _rows(path, least=3):
        words = [word.rpartition("-")[0] if is_lemma else word for word in row[:2]]
        rows.append((words[0], words[1], finite_number(row[2], path, line)))
    return rows


def _simverb(path: Path) -> list[tuple[str, str, float]]:
    """The authors' file has a column "V" before the score, collections of sets have left it out."""
    return [
        (row[0], row[1], finite_number(row[3] if len(row) > 3 and row[2] == "V" else row[2], path, line))
        for line, row in _rows(path, least=3)
    ]


def _with_header(path: Path) -> list[tuple[str, str, float]]:
    rows = list(_rows(path, least=3))
    try:
        finite_number(rows[0][1][2] if rows else "0", path, 1)
    except ValueError:
        del rows[0]
    return [(row[0], row[1], finite_number(row[2], path, line)) for line, row in rows]


def _plain(path: Path) -> list[tuple[str, str, float]]:
    return [(row[0], row[1], finite_number(row[2], path, line)) for line, row in _rows(path, least=3)]


def _rows(path: Path, *, least: int) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and columns, parted by commas in ``.csv``, else by tabs, or spaces where a line has no tab."""
    for number, row in _cells(path):
        row = [cell.strip() for cell in row]
        if len(row) < least or not row[0] or not row[1]:
            raise ValueError(f"{path}, line {number}: {len(row)} columns, expected two words and a score")
        yield number, row


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    if path.suffix.lower() == ".csv":
        yield from (row for row in quoted_rows(path, ",") if any(map(str.strip, row[1])))
        return
    for number, line in enumerate(file_lines(path), start=1):
        if line.strip():
            yield number, line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]


def _pairs(
    name: str, path: Path, rows: Sequence[tuple[str, str, float]], subsets: Mapping[str, NDArray[np.bool_]]
) -> WordPairs:
    if not rows:
        raise ValueError(f"{path} holds no pairs of words")
    return WordPairs(
        name=name,
        word1=tuple(row[0] for row in rows),
        word2=tuple(row[1] for row in rows),
        gold_P=np.array([row[2] for row in rows], dtype=np.float64),
        subsets=subsets,
        file=str(path),
    )
