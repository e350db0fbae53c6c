"""``mcse mine``: a table of pairs with hard negatives that a model finds, for the recipe ``tables``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from mcse.data.named_columns import open_named_columns
from mcse.data.table_config import NamedTable
from mcse.data.tables import in_one_line
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.errors import printable
from mcse.evaluation.result_cache import cache_folder
from mcse.files import claimed, digest_of, replacing, text_lines
from mcse.manifest import Reading
from mcse.progress import phase, progress_bar
from mcse.search.mining import EncodedPairs, MiningRule, Pairs, encode_pairs, mine

_SUFFIXES = (".jsonl", ".csv", ".tsv")


def run(
    table: str,
    *,
    model: str,
    output: Path,
    query: str | None = None,
    positive: str | None = None,
    corpus: Path | None = None,
    number: int = 1,
    from_rank: int = 1,
    to_rank: int = 50,
    margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    guide: str | None = None,
    guide_margin: float = 0.0,
    pooling: str | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int = 64,
    device: str | None = None,
    overwrite: bool = False,
) -> int:
    """Writes ``output``, with the columns query, positive, negative_1, negative_2 and so on, as its ending says.

    Ranks, margins, number and ``max_score`` make a ``MiningRule``; prompts and code are a ``Reading`` of ``model``.

    Raises:
        ValueError: A table without pairs, a rule that cannot be met, or another ending.
        FileNotFoundError: No table, or no corpus.
    """
    reading = Reading(prompt=prompt, prompt_name=prompt_name, trust_remote_code=trust_remote_code)
    rule = MiningRule(number, from_rank, to_rank, margin, relative_margin, max_score)
    encode = partial(_encoded, batch_size=batch_size, device=device)
    with claimed_table(output, overwrite=overwrite, suffixes=_SUFFIXES):
        pairs = _read(NamedTable(path=table, query=query, positive=positive), corpus, rule)
        find = partial(mine, pairs, encode(pairs, model, pooling=pooling, reading=reading), rule)
        guided = None if guide is None else encode(pairs, guide)
        _write(output, pairs, partial(find, guide=guided, guide_margin=guide_margin), rule)
    return 0


@contextmanager
def claimed_table(output: Path, *, overwrite: bool, suffixes: Sequence[str]) -> Iterator[None]:
    """Claims a table that is to be written.

    Raises:
        ValueError: It has another ending, or is there.
    """
    with claimed(output):
        if output.suffix not in suffixes:
            raise ValueError(f"--output: {output} must end in one of {', '.join(suffixes)}")
        if output.exists() and not overwrite:
            raise ValueError(f"--output: {output} is there; give --overwrite to replace it")
        yield


def _say(output: Path, pairs: Pairs, written: int, *, number: int) -> None:
    left = len(pairs.pairs) - written
    found = f"{written:,} of {len(pairs.pairs):,} pairs, each with {number} of {len(pairs.targets):,} texts"
    print(f"{printable(output)}: {found}; {left:,} pairs have fewer and are left out")


def _read(table: NamedTable, corpus: Path | None, rule: MiningRule) -> Pairs:
    """The pairs of a table, and the lines of a corpus beside them."""
    columns = open_named_columns(table, root=Path(), key="TABLE")
    if len(columns.texts) < 2:
        raise ValueError(f"{columns.source}: has no column of positives; give --query and --positive")
    if table.query is None and columns.value is not None:
        raise ValueError(
            f"{columns.source}: has the column {columns.value!r}, and not every pair may be an answer; name "
            "--query and --positive to take all of them for answers"
        )
    # In one line as the table's cells are: an answer with other blanks would be its own hard negative.
    others = [] if corpus is None else [text for line in text_lines(corpus) if (text := in_one_line(line))]
    pairs = Pairs.of(((example.texts[0], example.texts[1]) for example in columns.rows()), others=others)
    if len(pairs.targets) <= rule.from_rank:
        raise ValueError(f"{columns.source}: {len(pairs.targets)} texts are too few for ranks from {rule.from_rank} on")
    return pairs


def _encoded(
    pairs: Pairs,
    model: str,
    *,
    batch_size: int,
    device: str | None,
    pooling: str | None = None,
    reading: Reading = Reading(),  # noqa: B008 - a value, not a state
) -> EncodedPairs:
    with phase(f"loading {model}"):
        digest = encoder_digest(model, reading)
        encoder = load_encoder(model, pooling=pooling, device=device, reading=reading)
    return encode_pairs(
        pairs,
        encoder,
        digest=digest if digest is None or pooling is None else digest_of(digest, pooling),
        cache=cache_folder().with_name("embeddings"),
        batch_size=batch_size,
        title=model,
    )


def _write(
    output: Path, pairs: Pairs, mined: Callable[..., Iterator[tuple[int, int, tuple[int, ...]]]], rule: MiningRule
) -> None:
    """Writes the pairs that have enough negatives, in the form that the name of the file says, and says how many."""
    names = ["query", "positive", *(f"negative_{place + 1}" for place in range(rule.number))]
    written = 0
    with (
        replacing(output) as draft,
        progress_bar(total=len(pairs.queries), unit="query", title="search") as bar,
        draft.open("w", encoding="utf-8", newline="") as file,
    ):
        write = table_writer(file, names, suffix=output.suffix)
        for query, answer, negatives in mined(done=bar.update):
            write([pairs.queries[query], *(pairs.targets[target] for target in (answer, *negatives))])
            written += 1
        if not written:
            raise ValueError(
                f"no pair has {rule.number} negatives from rank {rule.from_rank} to {rule.to_rank} below its margin"
            )
    _say(output, pairs, written, number=rule.number)


def table_writer(file: TextIO, names: list[str], *, suffix: str) -> Callable[[list[Any]], object]:
    """Writes a row of numbers and of texts, which are of one line; the header is written here."""
    if suffix == ".jsonl":
        return lambda row: file.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")
    if suffix == ".tsv":
        # There is no quoting, and no text has a tab.
        table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    else:
        table = csv.writer(file)
    table.writerow(names)
    return table.writerow
