"""What lies in a folder, told by the readers that training reads with: the first that takes a file says what it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mcse.data.captions.files import folder_files
from mcse.data.captions.table import CaptionTable, load_captions
from mcse.data.images.features import FEATURES_FILE, open_features
from mcse.data.images.names import is_image_file
from mcse.data.images.sources import ImageFolder
from mcse.data.images.tables import open_image_table
from mcse.data.named_columns import NamedColumns, open_named_columns, open_source
from mcse.data.sentences.files import open_sentences
from mcse.data.sentences.streaming import open_texts
from mcse.data.source_variants import CaptionedTable, ScoredTable
from mcse.data.table_config import NamedTable
from mcse.data.tables import SCORED_PAIRS, TABLE_SUFFIXES, ending, find_columns, shown_names
from mcse.data.test_sets.sts import load_scored_pairs, load_scored_table
from mcse.files import text_lines
from mcse.run_folder import is_model, is_run

Role: TypeAlias = Literal["features", "captions", "scored", "table", "sentences"]

_ENDINGS = (*TABLE_SUFFIXES, ".txt", ".token", ".json", ".parquet", ".npy", ".hdf5", ".h5")
_SAVED = ("dataset_info.json", "dataset_dict.json")
_FIRST_ROWS = 20
_SCORES = {"score", "scores", "similarity", "relatedness", "gold"}
"""One of these words is in the name of a column of scores, ..."""

_BESIDE_SCORES = {"human", "mean", "average", "avg", "sentence", "semantic", "pair", "text", "sts"}
"""... beside these alone: a ``review_score`` or a ``dissimilarity`` is something else."""

_NO_DATA = ("readme", "license", "licence")


@dataclass(frozen=True, slots=True)
class Found:
    """A file or folder of data.

    Attributes:
        name: Its path, below the folder that was looked at.
        role: What it is.
        size: Its captions, pairs, rows, sentences or rows of features.
        words: The same in words.
        keys: What a configuration says of it, such as its columns.
        captions: Of ``captions`` the table.
        columns: Of ``table`` the columns of texts.
        has_images: Whether a table holds its images itself.
    """

    name: str
    role: Role
    size: int
    words: str
    keys: Any
    captions: CaptionTable | None = None
    columns: Sequence[str] = ()
    has_images: bool = False


@dataclass(frozen=True, slots=True)
class FolderData:
    """What was found in a folder: data, image files by their path, and files that no reader takes, with the reason."""

    found: tuple[Found, ...]
    images: tuple[str, ...]
    unused: Mapping[str, str] = field(default_factory=dict)

    def of(self, role: Role) -> list[Found]:
        """All that has a role, the largest first."""
        return sorted((one for one in self.found if one.role == role), key=lambda one: (-one.size, one.name))


class _WrongRowError(ValueError):
    """A file that has the columns of a kind, and a row that has not what these promise."""


def look_into(folder: Path) -> FolderData:
    """Looks at every file below a folder, except runs, models and what begins with a dot.

    Raises:
        ValueError: There is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}; name the one that holds your images, captions, sentences or pairs")
    found: list[Found] = []
    images: list[str] = []
    unused: dict[str, str] = {}
    for path in _candidates(folder):
        name = path.relative_to(folder).as_posix()
        if is_image_file(path):
            images.append(name)
            continue
        try:
            found.append(_told(folder, name))
        except (ValueError, OSError) as error:
            unused[name] = str(error).replace(f"{folder}/", "").removeprefix(f"{name}: ")
    return FolderData(tuple(found), tuple(images), unused)


def look_at(folder: Path, name: str, role: Role) -> Found:
    """A file as what somebody says it is.

    Raises:
        ValueError: It is not that; says why.
        OSError: It cannot be read.
    """
    return _READERS[role](folder, name)


def _candidates(folder: Path) -> Iterator[Path]:
    """Files of known endings, and folders that are one thing: datasets, stores, images with their captions."""
    if any((folder / name).is_file() for name in (*_SAVED, FEATURES_FILE)):
        yield folder
        return
    below = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    if captions := _captions_of_images(folder):
        yield folder
    for path in below:
        if path.is_dir():
            if not (is_run(path) or is_model(path)):
                yield from _candidates(path)
        elif is_image_file(path) or (_may_be_data(path) and path not in captions):
            yield path


def _may_be_data(path: Path) -> bool:
    return ending(path) in _ENDINGS and not path.name.lower().startswith(_NO_DATA)


def _captions_of_images(folder: Path) -> set[Path]:
    """The caption files that lie among the images of a folder: ``metadata.csv``, or ``a.txt`` beside ``a.jpg``."""
    try:
        files = folder_files(folder)
    except ValueError:
        return set()
    own = [path for path in files if path.parent == folder]
    stems = {path.with_suffix("") for path in folder.iterdir() if is_image_file(path)}
    return {path for path in own if path.stem == "metadata" or path.with_suffix("") in stems}


def _told(folder: Path, name: str) -> Found:
    faults = []
    for reader in _READERS.values():
        try:
            return reader(folder, name)
        except _WrongRowError:
            raise
        except (ValueError, OSError) as error:
            faults.append(error)
    if ending(folder / name) in TABLE_SUFFIXES and (header := open_source(name, root=folder, key=name).header):
        raise ValueError(
            f"its columns ({shown_names(header)}) do not say what it is; name them image, caption; or sentence1, "
            "sentence2, score; or query, positive, negative; or sentence"
        )
    raise faults[-1]


def _features(folder: Path, name: str) -> Found:
    path = folder / name
    if not path.is_dir() and ending(path) not in (".npy", ".hdf5", ".h5"):
        raise ValueError(f"{path}: no store of features, by its ending")
    store = open_features(path)
    words = f"features of {len(store):,} images, {store.width} numbers each"
    return Found(name, "features", len(store), words, {"features": name})


def _captions(folder: Path, name: str) -> Found:
    path = folder / name
    try:
        opened = open_image_table(CaptionedTable(path=name), root=folder, key=name)
    except (ValueError, OSError):
        if named := _captions_by_cells(folder, name):
            opened = open_image_table(named, root=folder, key=name)
        else:
            table = load_captions(str(path))
            if table.image_names is None:
                raise ValueError(f"{path}: names no images") from None
            return Found(name, "captions", table.num_captions, _counted(table), {"file": name}, table)
    try:
        table, images = opened.captions(), opened.images()
    except ValueError as error:
        raise _WrongRowError(str(error)) from None
    keys = {"table": {"path": name, "image": opened.image, "caption": opened.caption}}
    has_images = not isinstance(images, ImageFolder)
    words = f"{_counted(table)} (image = {opened.image!r}, caption = {opened.caption!r})"
    return Found(name, "captions", table.num_captions, words, keys, table, has_images=has_images)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of a table by what the cells of its first rows are: names of image files, texts, or numbers."""

    images: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)


def _by_cells(folder: Path, name: str) -> _Columns:
    try:
        table = open_source(name, root=folder, key=name)
        header = [str(column) for column in table.header]
        rows = [[str(cell).strip() for cell in cells] for _, cells in islice(table.read(header), _FIRST_ROWS)]
    except (ValueError, OSError):  # told by the reader that the file is for
        return _Columns()
    found = _Columns()
    for column, cells in zip(header, zip(*rows, strict=True), strict=bool(rows)):
        if all(is_image_file(Path(cell)) for cell in cells):
            found.images.append(column)
        elif all(map(_is_number, cells)):
            found.numbers.append(column)
        elif any(" " in cell for cell in cells):
            found.texts.append(column)
    return found


def _captions_by_cells(folder: Path, name: str) -> CaptionedTable | None:
    """Which column names images and which holds captions, whatever they are called; ``None`` where nothing tells."""
    found = _by_cells(folder, name)
    is_clear = len(found.images) == len(found.texts) == 1
    return CaptionedTable(path=name, image=found.images[0], caption=found.texts[0]) if is_clear else None


def _scores_by_cells(folder: Path, name: str) -> ScoredTable | None:
    """Which columns hold two sentences, whatever they are called, beside numbers that are called scores."""
    found = _by_cells(folder, name)
    scores = [column for column in found.numbers if _is_score(column)]
    if len(found.texts) != 2 or len(scores) != 1:
        return None
    return ScoredTable(path=name, query=found.texts[0], positive=found.texts[1], score=scores[0])


def _is_score(column: str) -> bool:
    words = set(re.findall(r"[^\W\d_]+", column.lower()))
    return bool(words & _SCORES) and words <= _SCORES | _BESIDE_SCORES


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _counted(table: CaptionTable) -> str:
    return f"{table.num_captions:,} captions of {len(table):,} images"


def _scored(folder: Path, name: str) -> Found:
    path = folder / name
    is_known = path.is_file() and ending(path) in TABLE_SUFFIXES and _has_columns(folder, name)
    keys: dict[str, Any] = {"path": name}
    try:
        pairs = load_scored_pairs(path)
    except (ValueError, OSError) as error:
        if is_known:
            raise _WrongRowError(str(error)) from None
        if (table := _scores_by_cells(folder, name)) is None:
            raise
        keys |= {"query": table.query, "positive": table.positive, "score": table.score}
        try:
            pairs = load_scored_table(table, root=folder, key="data.sts")
        except ValueError as wrong:
            raise _WrongRowError(str(wrong)) from None
    return Found(name, "scored", len(pairs), f"{len(pairs):,} scored pairs{_in_words(keys)}", keys)


def _has_columns(folder: Path, name: str) -> bool:
    header = open_source(name, root=folder, key=name).header
    return find_columns(header, SCORED_PAIRS, where=name).keys() == SCORED_PAIRS.keys()


def _table(folder: Path, name: str) -> Found:
    table = _open_table(folder, name)
    try:
        size = sum(1 for _ in table.rows())
    except ValueError as error:
        raise _WrongRowError(str(error)) from None
    query, positive, *negatives = table.texts
    value = {} if table.value is None else {"label" if table.is_label else "score": table.value}
    keys: dict[str, Any] = {"path": name, "query": query, "positive": positive, **value}
    keys |= {"negatives": negatives} if negatives else {}
    what = "labelled pairs" if table.is_label else "scored pairs" if value else "triples" if negatives else "pairs"
    return Found(name, "table", size, f"{size:,} {what}{_in_words(keys)}", keys, columns=table.texts)


def _open_table(folder: Path, name: str) -> NamedColumns:
    try:
        table = open_named_columns(NamedTable(path=name), root=folder, key=name)
        if len(table.texts) < 2:
            raise ValueError(f"{folder / name}: has one column of texts alone")
    except ValueError:
        if (scored := _scores_by_cells(folder, name)) is None:
            raise
        named = NamedTable(path=name, query=scored.query, positive=scored.positive, score=scored.score)
        return open_named_columns(named, root=folder, key=name)
    return table


def _in_words(keys: Mapping[str, Any]) -> str:
    """Which column is which."""
    named = ", ".join(f"{role} = {column!r}" for role, column in keys.items() if role != "path")
    return f" ({named})" if named else ""


def _sentences(folder: Path, name: str) -> Found:
    path = folder / name
    if path.is_file() and ending(path) == ".txt" and all(map(_is_image_name, islice(text_lines(path), 20))):
        raise ValueError(f"{path}: a list of images; data.captions.images takes it")
    if path.is_file() and ending(path) == ".parquet":
        texts = open_texts(name, root=folder)
        size = sum(1 for part in range(len(texts)) for _ in texts.rows(part, start=0))
        return Found(name, "sentences", size, f"{size:,} sentences", {"stream": name})
    opened = open_sentences(name, root=folder)
    if opened.columns > 1:
        raise ValueError(f"{path}: holds more than sentences")
    size = sum(1 for _ in opened.rows())
    return Found(name, "sentences", size, f"{size:,} sentences", {"file": name})


def _is_image_name(line: str) -> bool:
    return is_image_file(Path(line)) and " " not in line


_READERS: Mapping[Role, Callable[[Path, str], Found]] = {
    "features": _features,
    "captions": _captions,
    "scored": _scored,
    "table": _table,
    "sentences": _sentences,
}
"""What a file is, the most particular first."""
