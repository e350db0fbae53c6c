"""Asking an index of images: by a sentence or an image, with words added and taken away.

K images found, W words, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mcse.encoders.loading import load_encoder
from mcse.files import sha256_file
from mcse.images import BadImageError, load_image
from mcse.manifest import Reading
from mcse.metrics.regularities import arithmetic_row, rerank
from mcse.report.html_tables import html_notes
from mcse.search.builder import is_inside
from mcse.search.embedding_index import Hit, Hits
from mcse.search.image_index import ImageIndex, check_same_model
from mcse.search.together import Together
from mcse.stored_rows import unit
from mcse.types import FeatureTextEncoder, FloatArray, ImageTextEncoder, KnownWords

MAX_TOP = 1000
MAX_TEXT = 1000
"""Characters of a sentence or word."""

MAX_WORDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to look for: a sentence, one of the index's images, or another image; then words.

    Exactly one of ``text``, ``place``, ``image`` and ``embedding`` is given.

    Args:
        text: A sentence.
        place: Position of an image of the index, which is then not found.
        image: File of an image; a copy of one in the index counts as that one.
        embedding: Of an image that was encoded before, of length 1.
        image_sha256: Digest of that image's file; its copies in the index are not found.
        minus: Words, or phrases, to take away.
        plus: Words to add.
        top: How many images are wanted.
        rerank: How many are found first and sorted anew by their centroid; 0: none.
    """

    text: str | None = None
    place: int | None = None
    image: Path | None = None
    embedding: FloatArray | None = None
    image_sha256: str | None = None
    minus: tuple[str, ...] = ()
    plus: tuple[str, ...] = ()
    top: int = 12
    rerank: int = 0

    def __post_init__(self) -> None:
        given = [name for name in ("text", "place", "image", "embedding") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("ask by a sentence or by an image, and by one of them")
        if not 1 <= self.top <= MAX_TOP:
            raise ValueError(f"top must be from 1 to {MAX_TOP}, got {self.top}")
        if self.rerank and not self.top <= self.rerank <= MAX_TOP:
            raise ValueError(f"rerank must be from top ({self.top}) to {MAX_TOP}, got {self.rerank}")
        if len(self.minus) + len(self.plus) > MAX_WORDS:
            raise ValueError(f"at most {MAX_WORDS} words can be added and taken away")
        for text in (*self.minus, *self.plus, *([] if self.text is None else [self.text])):
            if not text.strip():
                raise ValueError("a sentence or word is empty")
            if len(text) > MAX_TEXT:
                raise ValueError(f"a sentence or word has {len(text)} characters, at most {MAX_TEXT} are read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Images found, the best first (a hit's id is its position in the index), and what to know about them."""

    hits: tuple[Hit, ...]
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        return Hits(self.hits)._repr_html_() + html_notes(self.notes)


class ImageSearch:
    """An index with the encoder that made it. Several threads may ask at once.

    Args:
        index: What is searched.
        encoder: Of the model that made it.

    Attributes:
        thread: The one that uses the model.
    """

    def __init__(self, index: ImageIndex, encoder: FeatureTextEncoder) -> None:
        self.index = index
        self.folder = Path(index.origin.folder)
        self._encoder = encoder
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._encode_captions = Together(encoder.encode_captions, self.thread)
        self._searcher = index.searcher(encoder)
        width = encoder.encode_captions([]).shape[1]  # of no text, which no vocabulary lacks
        if width != index.rows.width:
            raise ValueError(f"the index holds embeddings of width {index.rows.width}, the model gives {width}")

    @property
    def takes_images(self) -> bool:
        """Whether images that are not in the index can be encoded."""
        return self.index.origin.features is None and isinstance(self._encoder, ImageTextEncoder)

    def ask(self, question: Question) -> Answer:
        """The nearest images.

        Raises:
            ValueError: Words that the encoder does not know (known ones are suggested), words that cancel, an image
                that is not there or cannot be read, or no image at this place.
        """
        notes: list[str] = []
        start_D, own = self._start(question, notes)
        query_D = start_D
        if question.minus or question.plus:
            minus_WD, plus_WD = (self._word_rows(words) for words in (question.minus, question.plus))
            query_D = arithmetic_row(start_D, minus_WD=minus_WD, plus_WD=plus_WD)
        wanted = max(question.top, question.rerank)
        found = self._searcher.search_by_embeddings(query_D[None], top_k=wanted + len(own))[0]
        hits = [hit for hit in found if hit.id not in own][:wanted]
        if question.rerank and hits:
            row_KD = self.index.rows.restored([int(hit.id) for hit in hits])
            hits = [hits[rank] for rank in rerank(np.arange(len(hits))[None], row_KD)[0].tolist()]
        if not self.index.is_complete:
            notes.append("The index is not complete: its making was stopped, and goes on with the same command.")
        return Answer(hits=tuple(hits[: question.top]), notes=tuple(notes))

    def encode_image(self, image: Image.Image | Path) -> FloatArray:
        """(D,) embedding of an image that is not in the index, of length 1.

        Raises:
            ValueError: The encoder takes no images, or this one cannot be read.
        """
        if not self.takes_images:
            raise ValueError(
                f"{self.index.origin.model} cannot read images here, since the index was made from stored features; "
                "ask by one of the index's own images"
            )
        assert isinstance(self._encoder, ImageTextEncoder)
        if isinstance(image, Path):
            image = load_image(image)
        row_1D = self.thread.submit(self._encoder.encode_images, [image]).result()
        if not np.isfinite(row_1D).all() or abs(float(np.linalg.norm(row_1D[0])) - 1) > 1e-3:
            raise ValueError("the model gives this image no embedding of length 1")
        row_D: FloatArray = row_1D[0]
        return row_D

    def image_file(self, place: int) -> Path:
        """The file of an image of the index, which lies in the indexed folder.

        Raises:
            ValueError: No image at this place, it is not there any more, or leads elsewhere.
        """
        name = self.index.images[self._checked(place)].path
        if not is_inside(self.folder, name):
            raise BadImageError(f"{name} is not in {self.folder} any more")
        return self.folder / name

    def open_image(self, place: int) -> Image.Image:
        """An image of the index in RGB, upright.

        Raises:
            ValueError: As for ``image_file``, or it cannot be read.
        """
        return load_image(self.image_file(place))

    def _start(self, question: Question, notes: list[str]) -> tuple[FloatArray, set[int]]:
        """The embedding to start from, and the images that are the question's own."""
        if question.embedding is not None:
            own = set() if question.image_sha256 is None else self._copies(question.image_sha256)
            return question.embedding, own
        if question.text is not None:
            return self._sentence_row(question.text, notes), set()
        if question.place is not None:
            place = self._checked(question.place)
            return self._row(place), self._copies(self.index.images[place].sha256)
        assert question.image is not None
        if not question.image.is_file():
            raise BadImageError(f"no image at {question.image}")
        own = self._copies(sha256_file(question.image))
        return self._row(min(own)) if own else self.encode_image(question.image), own

    def _row(self, place: int) -> FloatArray:
        """(D,) the embedding of an image of the index, of length 1."""
        row_D: FloatArray = unit(self.index.rows.restored([place]))[0]
        return row_D

    def _sentence_row(self, text: str, notes: list[str]) -> FloatArray:
        if isinstance(self._encoder, KnownWords):
            self._encoder.check_query(text)
        row_D: FloatArray = self._encode_captions([text])[0]
        self._check_row(row_D, text)
        if hints := self._hints(text):
            notes.append(f"Not known, and so not looked for: {'; '.join(hints)}.")
        return row_D

    def _word_rows(self, words: Sequence[str]) -> FloatArray:
        for word in words:
            if hints := self._hints(word):
                raise ValueError(f"unknown words: {'; '.join(hints)}")
        if not words:
            return np.zeros((0, self.index.rows.width or 0), dtype=np.float32)
        row_WD = self._encode_captions(list(words))
        for word, row_D in zip(words, row_WD, strict=True):
            self._check_row(row_D, word)
        return row_WD

    def _hints(self, text: str) -> list[str]:
        """Each unknown word, with the nearest known ones."""
        if not isinstance(self._encoder, KnownWords):
            return []
        hints = []
        for word in dict.fromkeys(self._encoder.unknown_words(text)):
            near = self._encoder.nearest_words(word, number=3)
            hints.append(f"{word!r} (did you mean {' or '.join(near)}?)" if near else repr(word))
        return hints

    def _check_row(self, row_D: FloatArray, text: str) -> None:
        if not np.isfinite(row_D).all():
            raise ValueError(f"the model's embedding of {text!r} is not finite")
        if not row_D.any():
            raise ValueError(f"the model knows no word of {text!r}")

    def _copies(self, sha256: str) -> set[int]:
        return self._places_of.get(sha256, set())

    @functools.cached_property
    def _places_of(self) -> dict[str, set[int]]:
        places: dict[str, set[int]] = {}
        for place, image in enumerate(self.index.images):
            places.setdefault(image.sha256, set()).add(place)
        return places

    def _checked(self, place: int) -> int:
        if not 0 <= place < len(self.index):
            raise ValueError(f"no image {place} in the index; it has {len(self.index)}, counted from 0")
        return place


def open_search(
    folder: Path,
    *,
    model: str | None = None,
    images: Path | None = None,
    reading: Reading = Reading(),  # noqa: B008 - a value, not a state
) -> ImageSearch:
    """Loads an index with the model that made it.

    Args:
        folder: Of the index.
        model: Where the model lies now, if not where it was.
        images: Where the images lie now, if not where they were.
        reading: A prompt before sentences, which changes no image's embedding; or that the model's code may run.

    Raises:
        ValueError: No index there, a damaged one, or the model is another one.
    """
    index = ImageIndex.load(folder)
    name = model or index.origin.model
    check_same_model(index.origin, name, where=str(folder))
    search = ImageSearch(index, check_joint(load_encoder(name, reading=reading), name))
    if images is not None:
        if not images.is_dir():
            raise FileNotFoundError(f"--images: no folder {images}")
        search.folder = images
    return search


def check_joint(encoder: object, name: str) -> FeatureTextEncoder:
    """The encoder, where it has a joint space of sentences and images.

    Raises:
        ValueError: It has none.
    """
    if not isinstance(encoder, FeatureTextEncoder) or not getattr(encoder, "has_image_heads", True):
        raise ValueError(
            f"{name} compares sentences alone; searching images takes a checkpoint of the recipes mcse or vse, or "
            "open_clip:MODEL/PRETRAINED"
        )
    return encoder
