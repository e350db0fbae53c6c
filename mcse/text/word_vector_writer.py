"""Files of word vectors, written block by block.

V words, N of one block, D width.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mcse.files import replacing
from mcse.text.word_vectors import BINARY_SUFFIXES, SAFE_SUFFIXES, TEXT_SUFFIXES, WordBlock

logger = logging.getLogger(__name__)

_COUNT_DIGITS = 12
"""Room for the number of words, which is known only when the last is written."""
_SAFE_HEADER = 512


class WordVectorWriter:
    """Writes a file of word vectors block by block; a context manager that leaves the whole file or none.

    ``.txt`` and ``.vec`` are text with the header "V D", ``.bin`` is word2vec binary, ``.safetensors`` our own. The
    count is filled in at the end, right-aligned where the header begins. Numbers in text are the shortest that read
    back the same. In word2vec binary a word ends at its first space: words that hold one are left out there, and
    counted in the log.

    Args:
        path: Replaced if it exists.
        width: D.

    Raises:
        ValueError: Another suffix; on ``append`` rows of another width or number; at the end, no word at all.
    """

    def __init__(self, path: str | Path, *, width: int) -> None:
        self._path, self._width = Path(path), width
        self._kind = self._path.suffix.lower()
        if self._kind not in (*TEXT_SUFFIXES, *BINARY_SUFFIXES, *SAFE_SUFFIXES):
            raise ValueError(f"{path}: word vectors are written as .txt, .vec, .bin (word2vec binary) or .safetensors")
        self._words: list[bytes] = []
        self._left_out = 0
        self.count = 0

    def __enter__(self) -> WordVectorWriter:
        self._writing = self._written()
        self._writing.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._writing.__exit__(*error)

    def append(self, block: WordBlock) -> None:
        """Writes the next words."""
        if block.row_ND.shape != (len(block.words), self._width):
            raise ValueError(
                f"{self._path}: rows of shape {block.row_ND.shape} for {len(block.words)} words of width {self._width}"
            )
        row_ND = np.ascontiguousarray(block.row_ND, dtype="<f4")
        encoded = [word.encode("utf-8") for word in block.words]
        if self._kind in SAFE_SUFFIXES:
            self._words += encoded
            self._stream.write(row_ND.tobytes())
        elif self._kind in BINARY_SUFFIXES:
            kept = [number for number, word in enumerate(encoded) if b" " not in word]
            self._left_out += len(encoded) - len(kept)
            self._stream.write(b"".join(encoded[i] + b" " + row_ND[i].tobytes() + b"\n" for i in kept))
        else:
            rows = row_ND.astype(str)  # numpy's shortest digits that read back the same
            lines = (word + b" " + " ".join(row).encode() for word, row in zip(encoded, rows, strict=True))
            self._stream.write(b"".join(line + b"\n" for line in lines))
        self.count += len(block.words)

    @contextmanager
    def _written(self) -> Iterator[None]:
        with replacing(self._path) as draft, draft.open("wb") as self._stream:
            self._stream.write(self._header())
            yield
            self._finish(self._stream)

    def _header(self) -> bytes:
        if self._kind not in SAFE_SUFFIXES:
            return f"{self.count - self._left_out:>{_COUNT_DIGITS}d} {self._width}\n".encode()
        vectors, words = 4 * self.count * self._width, len(b"\n".join(self._words))
        content = {
            "vectors": {"dtype": "F32", "shape": [self.count, self._width], "data_offsets": [0, vectors]},
            "words": {"dtype": "U8", "shape": [words], "data_offsets": [vectors, vectors + words]},
        }
        body = json.dumps(content).ljust(_SAFE_HEADER).encode()
        return len(body).to_bytes(8, "little") + body

    def _finish(self, stream: BinaryIO) -> None:
        if self.count == self._left_out:
            raise ValueError(f"{self._path}: no words to write")
        if self._kind in SAFE_SUFFIXES:
            stream.write(b"\n".join(self._words))
        stream.seek(0)
        stream.write(self._header())
        if self._left_out:
            logger.warning(
                "%s: left out %d words with a space in them, which word2vec binary cannot hold",
                self._path,
                self._left_out,
            )
