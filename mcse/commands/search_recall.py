"""``mcse search recall``: what is saved, and lost, where embeddings are stored in fewer bytes.

N sentences, Q queries, D width.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from mcse.encoders.loading import load_encoder
from mcse.errors import printable
from mcse.files import text_lines
from mcse.progress import phase
from mcse.report.terminal import print_rows
from mcse.search.rows import IndexRows
from mcse.stored_rows import RowKind
from mcse.types import FloatArray

WAYS: tuple[tuple[RowKind, RowKind | None], ...] = (
    ("float32", None),
    ("float16", None),
    ("int8", None),
    ("uint8", None),
    ("binary", None),
    ("binary", "int8"),
    ("binary", "float16"),
)
"""How embeddings are stored, and what scores again what was found."""

_EVERY = 100


def run(
    model: str,
    *,
    text: Path,
    queries: Path | None = None,
    pooling: str | None = None,
    dim: int | None = None,
    limit: int | None = None,
    top: int = 10,
    batch_size: int = 64,
) -> int:
    """Encodes, searches each way, prints; returns 0.

    Raises:
        ValueError: No such model or file, or too few sentences.
    """
    if top < 1:
        raise ValueError(f"--top must be 1 or more, got {top}")
    sentences = list(dict.fromkeys(itertools.islice((line for line in text_lines(text) if line), limit)))
    if queries is None:
        asked = sentences[::_EVERY]
        sentences = [sentence for number, sentence in enumerate(sentences) if number % _EVERY]
    else:
        asked = [line for line in text_lines(queries) if line]
    if len(sentences) < top or not asked:
        raise ValueError(f"{text}: {len(sentences)} sentences and {len(asked)} queries are too few for --top {top}")
    with phase(f"loading {model}"):
        encoder = load_encoder(model, pooling=pooling)
    row_ND, query_QD = (
        encoder.encode(part, batch_size=batch_size, dim=dim, show_progress=True) for part in (sentences, asked)
    )
    lines = [
        (rows + (f", then {rescore}" if rescore else ""), f"{size / 1e6:.2f}", f"{share:.4f}")
        for rows, rescore, size, share in recalls(row_ND, query_QD, top=top)
    ]
    width = row_ND.shape[1]
    print(printable(f"{len(sentences):,} sentences, {len(asked):,} queries, width {width}, {encoder.name}"))
    print_rows(("rows", "MB", f"recall@{top}"), lines)
    return 0


def recalls(row_ND: FloatArray, query_QD: FloatArray, *, top: int) -> list[tuple[RowKind, RowKind | None, int, float]]:
    """Of each way its bytes, and which share of the ``top`` nearest by exact search it finds, the mean over queries."""
    exact: list[set[int]] = []
    found_by = []
    for rows, rescore in WAYS:
        index = IndexRows(rows=rows, rescore=rescore)
        index.append(row_ND)
        found = [set(positions.tolist()) for _, positions in index.nearest(query_QD, top_k=top)]
        exact = exact or found
        share = sum(len(wanted & got) for wanted, got in zip(exact, found, strict=True)) / sum(map(len, exact))
        found_by.append((rows, rescore, index.num_bytes, share))
    return found_by
