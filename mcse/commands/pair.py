"""``mcse pair``: captions of images that they never had, by a model that puts sentences and images into one space.

B images of a block, H width of that space.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcse.commands.extract_texts import NamedEncoder, open_named
from mcse.commands.mine import claimed_table, table_writer
from mcse.data.any_texts import read_texts
from mcse.data.captions.table import load_captions
from mcse.data.images.features import FeatureStore, open_features
from mcse.data.images.names import ABSENT, find_names
from mcse.data.images.sources import ImageSource
from mcse.data.images.tables import open_images_or_table
from mcse.data.teacher_rows import text_key
from mcse.data.test_sets.contamination import normalise
from mcse.errors import printable
from mcse.files import replacing
from mcse.manifest import Reading
from mcse.progress import progress_bar
from mcse.search.pairing import FoundPairs, PairingRule, TextBlock, pair_texts
from mcse.search.rows import RowBlocks
from mcse.types import FloatArray

_T = TypeVar("_T")
_TEXTS_AT_ONCE = 4096
_IMAGES_AT_ONCE = 256
_SUFFIXES = (".csv", ".jsonl")


def run(
    model: str,
    *,
    texts: Sequence[str],
    output: Path,
    images: str | None = None,
    features: Path | None = None,
    column: str | None = None,
    top: int = 1,
    minimum: float | None = None,
    mutual: bool = False,
    not_own: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int = 64,
    device: str | None = None,
    overwrite: bool = False,
) -> int:
    """Writes ``output``, with the columns image, caption and score, which ``data.captions`` reads.

    ``top``, ``minimum`` and ``mutual`` make a ``PairingRule``; ``not_own`` are captions whose images their texts must
    not get.

    Raises:
        ValueError: The model has no images, flags do not go together, or no pair is found.
        FileNotFoundError: Texts, images or captions are not there.
    """
    rule = PairingRule(top, minimum, mutual)
    if (images is None) == (features is None):
        raise ValueError("give one of --images and --features")
    if column is not None and images is None:
        raise ValueError("--column: is for --images")
    with claimed_table(output, overwrite=overwrite, suffixes=_SUFFIXES):
        reading = Reading(trust_remote_code=trust_remote_code)
        named = open_named(model, pooling=None, precision="float32", device=device, reading=reading, untrained=None)
        joint = named.joint
        source = (
            open_features(features)
            if features is not None
            else open_images_or_table(str(images), column=column, key="--images")
        )
        pool = _Pool.of(source, named)
        own = {} if not_own is None else pool.own_images(not_own)

        def blocks() -> Iterator[TextBlock]:
            with progress_bar(total=None, unit="text", title=named.name) as bar:
                for block in _in_blocks(_different(texts), _TEXTS_AT_ONCE):
                    rows = joint.encode_captions(block, batch_size=batch_size)
                    yield rows, [own.get(normalise(text), ()) for text in block]
                    bar.update(len(block))

        pairs = pair_texts(blocks(), pool.rows, rule)
        _write(output, pairs, pool.names, texts)
    return 0


@dataclass(frozen=True, slots=True)
class _Pool:
    """Images to choose from: each once, by name; ``place_of`` says which of them an image of the source is."""

    names: tuple[str, ...]
    rows: RowBlocks
    place_of: dict[str, int]
    where: str

    @classmethod
    def of(cls, source: FeatureStore | ImageSource, named: NamedEncoder) -> _Pool:
        """Raises ``ValueError`` for features without names, or of another tower than the model was trained with."""
        if source.names is None:
            raise ValueError(f"--features {source.path}: has no names of images, which captions would be given")
        where = str(source.path) if isinstance(source, FeatureStore) else "--images"
        rows, kept, place_of = RowBlocks(), list[str](), dict[str, int]()
        first: dict[Hashable, int] = {}
        with progress_bar(total=len(source.names), unit="image", title=named.name) as bar:
            for names, marks, row_BH in _embedded(source, named):
                new = []
                # Copies of one image count as one: a text's own image must not come back under another name.
                for place, (name, mark) in enumerate(zip(names, marks, strict=True)):
                    if mark not in first:
                        first[mark] = len(kept)
                        kept.append(name)
                        new.append(place)
                    place_of[name] = first[mark]
                rows.append(row_BH[new])
                bar.update(len(names))
        if unknown := len(source.names) - len(place_of):
            print(printable(f"{where}: {unknown:,} images have features of zeros, and are left out"))
        if copies := len(place_of) - len(kept):
            print(
                printable(
                    f"{where}: {copies:,} of {len(place_of):,} images look like others, and count as one with them"
                )
            )
        return cls(tuple(kept), rows, place_of, where)

    def own_images(self, captions: str) -> dict[str, Collection[int]]:
        """By what a caption says, without case and punctuation, the images that it is a caption of.

        Raises:
            ValueError: The captions name no images, or none that is here.
        """
        table = load_captions(captions)
        if table.image_names is None:
            raise ValueError(f"--not-own {captions}: has no names of images, so nothing says whose captions these are")
        names = list(self.place_of)
        found = find_names(table.image_names, names, where=f"--not-own {captions} against {self.where}")
        if (found == ABSENT).all():
            raise ValueError(f"--not-own {captions}: none of its {len(table):,} images is among {self.where}")
        own: dict[str, set[int]] = {}
        for several, row in zip(table.captions, found.tolist(), strict=True):
            for caption in several if row != ABSENT else ():
                own.setdefault(normalise(caption), set()).add(self.place_of[names[row]])
        return dict(own)


def _embedded(
    source: FeatureStore | ImageSource, named: NamedEncoder
) -> Iterator[tuple[list[str], Sequence[Hashable], FloatArray]]:
    """Names of images, what is equal for copies of one, and (B, H) unit rows in the space of the texts."""
    assert source.names is not None
    joint = named.joint
    is_joint = isinstance(source, FeatureStore) and (source.tower, source.weights) == (named.name, named.digest)
    if isinstance(source, FeatureStore) and not is_joint:
        source.check_tower(joint.image_tower)
    places = np.arange(len(source.names))
    first_N = source.first_equal(places) if isinstance(source, FeatureStore) else places
    for block in _in_blocks(places.tolist(), _IMAGES_AT_ONCE):
        if isinstance(source, FeatureStore):
            row_BF = source.rows(np.asarray(block))
            known_B: NDArray[np.bool_] = np.any(row_BF, axis=1)  # zeros say nothing of an image
            block = [place for place, is_known in zip(block, known_B.tolist(), strict=True) if is_known]
            marks: Sequence[Hashable] = first_N[block].tolist()
            row_BH = row_BF[known_B] if is_joint else joint.encode_image_features(row_BF[known_B])
        else:
            marks = list(map(source.digest, block))
            row_BH = joint.encode_images([source.load(place) for place in block])
        yield [source.names[place] for place in block], marks, row_BH


def _in_blocks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    remaining = iter(items)
    while block := list(islice(remaining, size)):
        yield block


def _different(sources: Sequence[str]) -> Iterator[str]:
    """Every text once, in order."""
    seen: set[str] = set()
    for source in sources:
        for text in read_texts(source, key="--texts"):
            if (key := text_key(text)) not in seen:
                seen.add(key)
                yield text


def _write(output: Path, pairs: FoundPairs, names: Sequence[str], texts: Sequence[str]) -> None:
    """Writes the pairs in the order of their texts, and says how many there are and how near they are."""
    if not len(pairs):
        raise ValueError("no text has an image that --minimum, --mutual and --not-own leave it")
    columns: tuple[list[Any], ...] = (pairs.text_P.tolist(), pairs.image_P.tolist(), pairs.score_P.tolist())
    upcoming = iter(zip(*columns, strict=True))
    number = 0
    with replacing(output) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        write = table_writer(file, ["image", "caption", "score"], suffix=output.suffix)
        following = next(upcoming, None)
        for number, text in enumerate(_different(texts)):
            while following is not None and following[0] == number:
                write([names[following[1]], text, round(following[2], 6)])
                following = next(upcoming, None)
    quartiles = ", ".join(f"{value:.3f}" for value in np.quantile(pairs.score_P, (0, 0.25, 0.5, 0.75, 1)))
    told = f"{len(pairs):,} pairs of {len(np.unique(pairs.text_P)):,} of {number + 1:,} texts"
    told += f" with {len(np.unique(pairs.image_P)):,} of {len(names):,} images"
    print(printable(f"{output}: {told}; cosines (least, quartiles, most): {quartiles}"))
