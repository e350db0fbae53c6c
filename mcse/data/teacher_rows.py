"""Stored rows of teachers: what a frozen encoder gives to texts, found again by what a text says.

A store is one of features (``data/images``) whose names are digests of texts; so it may hold more texts than a run has,
in any order, and shuffling, leaving out and repeating texts changes nothing.

B texts of this process, N texts, D width of a teacher's rows, F of all teachers' together.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
from numpy.typing import NDArray

from mcse.data.images.features import META_FILE, open_features, read_store_json
from mcse.data.seeds import Draw
from mcse.data.streams import TeacherColumn
from mcse.files import claimed, digest_of, is_kept, keeping
from mcse.stored_rows import unit
from mcse.types import DataFile, FloatArray

_AT_ONCE = 65_536
"""Texts that are looked up at a time."""

_KEY = "S16"


def text_key(text: str) -> str:
    """What names a text in a store: 32 hexadecimal digits."""
    return digest_of(text)[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPlan:
    """What an extraction of texts' rows computes.

    Attributes:
        names: Keys of the texts.
        encoder: Its name.
        weights: A digest of the encoder.
        pooling: Which vector stands for a text.
        prompt: Put before every text.
        joint: Whether rows are of the space that the encoder shares with images, where that is another one.
        length: Tokens that a text keeps; ``None`` is as many as the encoder takes.
        precision: Of matrix products.
        dtype: Of the numbers on the disk.
        untrained: The seed of random weights in place of the encoder's own.
        width: D.
    """

    names: tuple[str, ...]
    encoder: str
    weights: str
    pooling: str
    prompt: str
    joint: bool
    length: int | None
    precision: str
    dtype: Literal["float32", "float16"]
    untrained: int | None
    width: int

    @property
    def maker(self) -> str:
        """The encoder."""
        return self.encoder

    def identity(self) -> dict[str, str]:
        """All of it as short strings, the texts as a digest; what is not asked for is empty."""
        own = {key: "" if value is None or value is False else str(value) for key, value in asdict(self).items()}
        del own["names"]
        return {**own, "texts": f"{len(self.names)} texts, digest {digest_of(*self.names)[:16]}"}


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What ``meta.json`` says of a store of texts' rows; texts, of which an empty one is what was not asked for."""

    encoder: str
    weights: str
    pooling: str
    prompt: str
    joint: str
    length: str
    untrained: str
    texts: str

    @property
    def maker(self) -> str:
        """Whose rows they are, in words: the encoder, and what was asked of it."""
        asked = {"prompt": f"prompt {self.prompt!r}", "joint": "in its space of images"}
        asked |= {"length": f"cut to {self.length} tokens", "untrained": f"untrained, seed {self.untrained}"}
        said = [words for key, words in asked.items() if getattr(self, key)]
        return ", ".join([self.encoder, self.pooling, *said])

    @property
    def command(self) -> str:
        """What makes such a store of other texts."""
        flags = {"--encoder": self.encoder, "--pooling": self.pooling, "--prompt": self.prompt}
        flags |= {"--max-length": self.length, "--untrained": self.untrained}
        given = [f"{flag} {shlex.quote(value)}" for flag, value in flags.items() if value]
        given += ["--joint"] if self.joint else []
        return f"mcse extract-features --texts FILE … {' '.join(given)} --output DIR"


class TeacherStore:
    """The rows of a store, by text.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is damaged, unfinished, or holds rows of images; names the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = read_store_facts(path)
        self._features = open_features(path)
        self.width = self._features.width
        assert self._features.names is not None
        joined = "".join(self._features.names)
        try:
            keys = bytes.fromhex(joined)
        except ValueError:
            keys = b""
        if len(keys) != 16 * len(self._features):
            raise ValueError(
                f"{path}: its names are not those of texts; mcse extract-features --overwrite extracts them again"
            )
        key_N = np.frombuffer(keys, dtype=_KEY)
        self._order = np.argsort(key_N, kind="stable")
        self._key_N = key_N[self._order]
        self.digest = digest_of(joined)

    def file(self) -> DataFile:
        """The whole store, whichever rows are read."""
        found = self._features.file(self._order)
        return DataFile("teacher", found.path, found.digest)

    def places(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """(N,) where each text stands among the store's, in the order of their keys; -1 where it does not."""
        wanted_N = np.frombuffer(b"".join(bytes.fromhex(text_key(text)) for text in texts), dtype=_KEY)
        place_N = np.minimum(np.searchsorted(self._key_N, wanted_N), len(self._key_N) - 1)
        return np.where(self._key_N[place_N] == wanted_N, place_N, -1)

    def __len__(self) -> int:
        return len(self._order)

    def rows(self, place_B: NDArray[np.int64]) -> FloatArray:
        """(B, D) unit rows; a row of zeros stays one."""
        return unit(self._features.rows(self._order[place_B]))

    def lacks(self, *, source: str, missing: int, total: int, first: str) -> ValueError:
        """The error of texts without a row."""
        return ValueError(
            f"teachers: {self.path} has no row for {missing:,} of {total:,} texts of {source}, first {first!r:.80}; "
            f"'{self.facts.command}' makes a store of them"
        )


def read_store_facts(path: Path) -> StoreFacts:
    """What a store of texts' rows says of itself.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is no such store, unfinished, or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"teachers: nothing at {path}; mcse extract-features --texts … makes a store")
    if path.is_dir() and not (path / META_FILE).is_file():
        open_features(path)  # says what it is instead
    if not path.is_dir() or "encoder" not in read_store_json(path / META_FILE, dict[str, object]):
        raise ValueError(
            f"teachers: {path} holds no rows of texts (perhaps features of images); "
            "mcse extract-features --texts … makes a store of them"
        )
    return read_store_json(path / META_FILE, StoreFacts)


class StoredTeachers:
    """The stored rows of several teachers as one: √weight times each one's unit row, side by side.

    The product of two such rows is the weighted average of the teachers' cosines.

    Args:
        stores: Of the teachers.
        weights: Of their cosines.
        shuffled: Permutes rows among texts by this seed: the control in which every text has another's.
    """

    def __init__(self, stores: Sequence[TeacherStore], weights: Sequence[float], *, shuffled: int | None) -> None:
        self.stores, self.shuffled = tuple(stores), shuffled
        self._scales = [np.float32(math.sqrt(weight)) for weight in weights]
        # Stores of the same texts have the same order, so that a text gets the rows of one other from all of them.
        self._partners = [None if shuffled is None else partners(len(store), seed=shuffled) for store in self.stores]

    @property
    def width(self) -> int:
        """F."""
        return sum(store.width for store in self.stores)

    def of_texts(self, texts: Sequence[str], *, source: str) -> FloatArray:
        """(B, F) rows of texts, looked up now; ``shuffled`` permutes among all texts of a store.

        Raises:
            ValueError: A store lacks one; names it.
        """
        parts = []
        for store, other_N in zip(self.stores, self._partners, strict=True):
            place_B = store.places(texts)
            if (absent_B := place_B < 0).any():
                first = texts[int(np.argmax(absent_B))]
                raise store.lacks(source=source, missing=int(absent_B.sum()), total=len(texts), first=first)
            parts.append(place_B if other_N is None else other_N[place_B])
        return self.at(parts)

    def at(self, places: Sequence[NDArray[np.int64]]) -> FloatArray:
        """(B, F) rows at the places of each store."""
        rows = (store.rows(place_B) for store, place_B in zip(self.stores, places, strict=True))
        return np.concatenate([row_BD * scale for row_BD, scale in zip(rows, self._scales, strict=True)], axis=1)

    def column(self, texts: Callable[[], Iterable[str]], *, digest: str, number: int, source: str) -> TeacherColumn:
        """The rows of the texts of a table; where each one's stands is kept beside the tokens.

        Args:
            texts: Reads the table, one text a row; ``shuffled`` permutes among its different texts.
            digest: Names the content of ``texts``.
            number: How many there are.
            source: Where they are, for messages.

        Raises:
            ValueError: A store lacks some: how many, and the first.
        """
        places = [_kept_places(store, texts, digest=digest, number=number, source=source) for store in self.stores]
        if self.shuffled is not None:
            _, first_U, own_N = np.unique(places[0], return_index=True, return_inverse=True)
            if len(first_U) < 2:
                raise ValueError(f"controls.teachers: shuffled needs two different texts, and {source} has one")
            other_N = first_U[partners(len(first_U), seed=self.shuffled)][own_N]
            places = [place_N[other_N] for place_N in places]
        return _Column(self, places)


@dataclass(frozen=True, slots=True)
class _Column:
    teachers: StoredTeachers
    places: Sequence[NDArray[np.int64]]

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        """(B, F) rows of the texts at ``index``."""
        return self.teachers.at([np.asarray(place_N[index]) for place_N in self.places])


@dataclass(frozen=True, slots=True)
class TextsColumn:
    """Rows of texts that are read as they are asked for.

    Attributes:
        teachers: Have the rows.
        texts: The texts at some numbers.
        source: Where they are, for messages.
    """

    teachers: StoredTeachers
    texts: Callable[[NDArray[np.int64]], Sequence[str]]
    source: str

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        """(B, F) rows of the texts at ``index``."""
        return self.teachers.of_texts(self.texts(index), source=self.source)


def partners(number: int, *, seed: int) -> NDArray[np.int64]:
    """(N,) for each of ``number`` things another one, and for no two the same: the next in an order that is drawn."""
    order = np.random.default_rng([seed, Draw.TEACHERS]).permutation(number)
    other_N = np.empty(number, dtype=np.int64)
    other_N[order] = np.roll(order, -1)
    return other_N


def _kept_places(
    store: TeacherStore, texts: Callable[[], Iterable[str]], *, digest: str, number: int, source: str
) -> NDArray[np.int64]:
    path = Path(datasets.config.HF_DATASETS_CACHE) / "mcse" / f"{digest_of('teacher', digest, store.digest)}.npy"
    # Another process that makes the same is waited for, and leaves nothing to be done.
    with claimed(path, wait=math.inf):
        if not is_kept(path):
            place_N = _places(store, texts(), number=number, source=source)
            with keeping(path) as draft, draft.open("wb") as file:
                np.save(file, place_N)
    mapped: NDArray[np.int64] = np.load(path, mmap_mode="r")
    return mapped


def _places(store: TeacherStore, texts: Iterable[str], *, number: int, source: str) -> NDArray[np.int64]:
    parts, rest = [np.empty(0, dtype=np.int64)], iter(texts)
    first = ""
    while several := list(itertools.islice(rest, _AT_ONCE)):
        parts.append(store.places(several))
        if not first and (parts[-1] < 0).any():
            first = several[int(np.argmax(parts[-1] < 0))]
    place_N = np.concatenate(parts)
    if len(place_N) != number:
        raise ValueError(f"{source}: {len(place_N):,} texts, of which {number:,} have tokens; it has changed meanwhile")
    if missing := int((place_N < 0).sum()):
        raise store.lacks(source=source, missing=missing, total=number, first=first)
    return place_N
