"""Where a run's data came from, and how its training text is read again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingText:
    """How text that a run trained on is read again.

    Attributes:
        reader: ``lines`` of a file as they stand, ``sentences`` of a file or hub dataset, a ``stream`` of such,
            ``captions`` of a table, those of ``shards``, the ``columns`` of a ``table``, or the captions of an
            ``image_table``, of which ``columns`` are image and caption.
        source: What the reader opens: a path or a hub dataset, with ``::split`` or ``::column``.
        images: For captions, the file that lists the images whose captions were used; all of them by default.
        tests: The folder with the STS test files whose sentences were left out, ``None`` where nothing was.
        columns: The names of a table's columns of texts.
        skips_empty: Whether a table's rows with an empty cell were left out.
        line_breaks: Whether cells of a table might hold line breaks.
    """

    reader: Literal["lines", "sentences", "stream", "captions", "shards", "table", "image_table"]
    source: str
    images: str | None = None
    tests: str | None = None
    columns: tuple[str, ...] = ()
    skips_empty: bool = False
    line_breaks: bool = False


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file or data set that the run reads.

    Attributes:
        role: Its part in the run.
        path: Where it is.
        digest: Of its content.
        text: How the training text in it is read again; ``None`` where it holds none.
    """

    role: str
    path: str
    digest: str
    text: TrainingText | None = None
