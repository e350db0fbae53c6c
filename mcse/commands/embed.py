"""``mcse embed``: embeddings of a column of a table, to files; killed, it goes on; on several processes, if wanted."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcse.commands import CommandError
from mcse.data.text_column import EmptyRows, TextColumn, TextRow, open_text_column
from mcse.distributed import (
    LostProcessError,
    all_gather_object,
    broadcast_object,
    fail_together,
    is_main,
    join_world,
    naming_lost_processes,
    rank,
    world_size,
)
from mcse.encoders.inputs import Precision, check_batch_size
from mcse.encoders.loading import AnyEncoder, encoder_digest, load_encoder
from mcse.errors import printable
from mcse.files import claimed
from mcse.manifest import Reading, absolute_name
from mcse.progress import phase, progress_bar
from mcse.search.embedding_files import Asked, EmbedFacts, FileFormat, RowType, begin, finish, write_file

_TEXTS_A_PART = 1024
"""Encoded between two looks at the progress."""


def run(
    model: str,
    *,
    table: str,
    output: Path,
    column: str | None = None,
    id_column: str | None = None,
    empty_rows: EmptyRows = "error",
    line_breaks: bool = False,
    file_format: FileFormat = "npy",
    rows_a_file: int = 16384,
    dim: int | None = None,
    dtype: RowType = "float32",
    pooling: str | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int = 64,
    precision: Precision = "float32",
    device: str | None = None,
    overwrite: bool = False,
) -> int:
    """Encodes every row once, whatever kills it; 0 when all is done. Flags mean what ``Asked`` says.

    Texts are sorted by their length, and doubled ones found, among ``rows_a_file``; a kill loses at most the file that
    is being made.

    Raises:
        ValueError: Input, model or settings that do not fit, also to what an earlier call began in ``output``.
        CommandError: Another process of the same work is gone.
    """
    check_batch_size(batch_size)
    if rows_a_file < 1:
        raise ValueError(f"--rows-a-file must be at least 1, got {rows_a_file}")
    join_world()
    reading = Reading(prompt=prompt, prompt_name=prompt_name, trust_remote_code=trust_remote_code)

    def opened() -> tuple[TextColumn, AnyEncoder, Asked]:
        texts = open_text_column(
            table, column=column, id_column=id_column, empty_rows=empty_rows, line_breaks=line_breaks
        )
        with phase(f"loading {model}", is_shown=is_main()):
            encoder = load_encoder(model, pooling=pooling, precision=precision, device=device, reading=reading)
        width = _width(encoder, dim)
        asked = _asked(texts, encoder, model, dim=width, dtype=dtype, rows_a_file=rows_a_file, file_format=file_format)
        return texts, encoder, asked

    try:
        with naming_lost_processes(), contextlib.ExitStack() as held:
            fail_together(lambda: held.enter_context(claimed(output)) if is_main() else None)
            texts, encoder, asked = fail_together(opened)
            facts = _embed(texts, encoder, asked, output, batch_size=batch_size, overwrite=overwrite)
    except LostProcessError as error:
        raise CommandError(f"{error}. The same command goes on") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on after the files that are there") from None
    if facts is not None:
        shape = f"{facts.rows:,} rows of width {facts.dim} ({facts.dtype})"
        print(printable(f"{output}: {shape} in {len(facts.files)} file{'s' if len(facts.files) > 1 else ''}"))
    return 0


def _asked(
    texts: TextColumn,
    encoder: AnyEncoder,
    model: str,
    *,
    dim: int,
    dtype: RowType,
    rows_a_file: int,
    file_format: FileFormat,
) -> Asked:
    """What these embeddings are."""
    return Asked(
        model=absolute_name(model),
        model_digest=encoder_digest(model),
        pooling=encoder.pooling,
        prompt=encoder.prompt,
        precision=encoder.precision,
        dim=dim,
        dtype=dtype,
        input=str(Path(texts.source).resolve()) if Path(texts.source).exists() else texts.source,
        input_digest=texts.digest(),
        column=texts.column,
        id_column=texts.id_column,
        empty_rows=texts.empty_rows,
        rows_a_file=rows_a_file,
        format=file_format,
    )


def _width(encoder: AnyEncoder, dim: int | None) -> int:
    if dim is not None and not 1 <= dim <= encoder.dimension:
        raise ValueError(f"--dim must be from 1 to {encoder.dimension}, the model's width; got {dim}")
    return dim or encoder.dimension


def _embed(
    texts: TextColumn, encoder: AnyEncoder, asked: Asked, output: Path, *, batch_size: int, overwrite: bool
) -> EmbedFacts | None:
    """Makes the files that are not there yet; the main process gets what is written of all.

    Processes take turns at them, so that it does not matter how many.
    """
    if len(set(all_gather_object(asked.input_digest))) > 1:
        raise ValueError(f"{asked.input}: processes read different content under this name")
    total = fail_together(texts.count)
    if not total:
        raise ValueError(f"{asked.input} holds no text")
    begun = fail_together(lambda: begin(output, asked, overwrite=overwrite) if is_main() else {})
    done = broadcast_object({number: file.rows for number, file in begun.items()})
    number_of_files = -(-total // asked.rows_a_file)

    with progress_bar(total=total, initial=sum(done.values()), unit="row", is_shown=is_main()) as bar:
        for turn in _turns(_windows(texts, asked.rows_a_file), without=done):
            own = turn[rank()] if rank() < len(turn) else None
            before = bar.n

            def make(own: tuple[int, Sequence[TextRow]] | None = own) -> None:
                if own is not None:
                    number, rows = own
                    row_ND = _encoded(rows, encoder, asked, batch_size=batch_size, done=bar.update)
                    write_file(output, asked, number, [row.id for row in rows], row_ND)

            fail_together(make)
            bar.update(before + sum(len(rows) for _, rows in turn) - bar.n)  # and those of other processes
    if texts.digest() != asked.input_digest:
        raise ValueError(f"{asked.input} has changed while it was read; give the command again with --overwrite")
    return fail_together(
        lambda: finish(output, asked, number_of_files=number_of_files, rows=total) if is_main() else None
    )


def _windows(texts: TextColumn, size: int) -> Iterator[tuple[int, list[TextRow]]]:
    """The rows of each file, by its number."""
    rows = texts.rows()
    for number in itertools.count():
        if not (window := list(itertools.islice(rows, size))):
            return
        yield number, window


def _turns(
    windows: Iterator[tuple[int, list[TextRow]]], *, without: Container[int]
) -> Iterator[list[tuple[int, list[TextRow]]]]:
    """As many files as there are processes, again and again."""
    left = (window for window in windows if window[0] not in without)
    while turn := list(itertools.islice(left, world_size())):
        yield turn


def _encoded(
    rows: Sequence[TextRow], encoder: AnyEncoder, asked: Asked, *, batch_size: int, done: Callable[[int], object]
) -> NDArray[Any]:
    """(N, D) embeddings of one file; a text that stands there several times is encoded once."""
    place = {text: number for number, text in enumerate(dict.fromkeys(row.text for row in rows))}
    distinct = sorted(place, key=len, reverse=True)
    row_UD = np.empty((len(place), asked.dim), dtype=asked.dtype)
    for start in range(0, len(distinct), _TEXTS_A_PART):
        part = distinct[start : start + _TEXTS_A_PART]
        row_UD[[place[text] for text in part]] = encoder.encode(
            part, batch_size=batch_size, dim=asked.dim, dtype=asked.dtype
        )
        done(len(part))
    finite_U = np.isfinite(row_UD).all(axis=1)
    if not finite_U.all():
        text = list(place)[int(np.argmin(finite_U))]
        raise ValueError(f"the model's embedding of {text!r:.80} is not finite in {asked.dtype}")
    return row_UD[[place[row.text] for row in rows]]
