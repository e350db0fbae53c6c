"""A run's training sentences, found, checked and tokenised as its ``data`` keys say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mcse.data.config import DataConfig, DataRoot, MaskedDataConfig
from mcse.data.sentences.files import SentenceTable, open_hub_sentences, open_sentences
from mcse.data.sentences.streaming import StreamedSentences, open_texts
from mcse.data.sentences.tokens import TokenTable, tokenise
from mcse.data.source_variants import (
    FileSentences,
    HubSentences,
    StreamSentences,
    TableSentences,
)
from mcse.data.streams import (
    Share,
    TokenMasker,
    TokenRepeater,
)
from mcse.data.teacher_rows import StoredTeachers
from mcse.data.test_sets.contamination import (
    normalise,
    sts_test_sentences,
    without_tests,
)
from mcse.files import digest_of
from mcse.reading import say_first
from mcse.types import DataFile, Tokenizer, TrainingText


@dataclass(frozen=True, slots=True)
class SentenceRows:
    """Training sentences and where they came from; ``rows`` reads them again, ``digest`` names them.

    ``count`` says how many they are, or a few more.
    """

    rows: Callable[[], Iterator[tuple[str, ...]]]
    columns: int
    source: str
    digest: str
    count: Callable[[], int]
    files: tuple[DataFile, ...]

    def tokenised(self, tokenizer: Tokenizer, *, max_length: int) -> Sentences:
        """Their token ids, computed once."""
        table = tokenise(
            self.rows(),
            tokenizer,
            columns=self.columns,
            max_length=max_length,
            digest=self.digest,
            expected=self.count,
            source=self.source,
        )
        roles = ("query", "positive", "negative") if self.columns > 1 else ("sentence",)
        if (first := next(self.rows(), None)) is not None:
            say_first(self.source, dict(zip(roles, first, strict=True)))
        return Sentences(table, self.files, self.rows, self.digest)


@dataclass(frozen=True, slots=True)
class Sentences:
    """Tokenised sentences and where they came from; ``rows`` reads them again, and ``digest`` names them."""

    table: TokenTable
    files: tuple[DataFile, ...]
    rows: Callable[[], Iterator[tuple[str, ...]]]
    digest: str


def open_sentence_table(config: DataRoot, source: TableSentences | FileSentences | HubSentences) -> SentenceTable:
    """Sentences of a file or dataset.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is empty, or a table where lines are expected, or the other way round.
    """
    if isinstance(source, HubSentences):
        return open_hub_sentences(source.hub)
    given = source.table.path if isinstance(source, TableSentences) else source.file
    try:
        opened = open_sentences(given, root=config.folder)
    except FileNotFoundError as error:
        raise config.absent(given, str(error)) from error
    if (opened.columns > 1) != isinstance(source, TableSentences):
        right, what = ("table", "triplets") if opened.columns > 1 else ("file", "sentences alone")
        instead = "sentences alone" if isinstance(config, MaskedDataConfig) else f"data.sentences.{right}"
        raise ValueError(f"data.sentences: {opened.source} holds {what}; give {instead}")
    return opened


def load_sentences(
    config: DataConfig, source: TableSentences | FileSentences | HubSentences, tokenizer: Tokenizer
) -> Sentences:
    """The training sentences of ``source``."""
    return read_sentences(config, source).tokenised(tokenizer, max_length=config.max_length)


def read_sentences(
    config: DataConfig | MaskedDataConfig, source: TableSentences | FileSentences | HubSentences
) -> SentenceRows:
    """The training sentences of ``source``, without those that ``data.decontaminate`` leaves out."""
    opened = open_sentence_table(config, source)
    known = sts_test_sentences(config.tests)

    def rows() -> Iterator[tuple[str, ...]]:
        return without_tests(opened.rows(), lambda row: row, known=known, source=opened.source, what="sentences")

    text = TrainingText(reader="sentences", source=opened.source, tests=config.tests)
    return SentenceRows(
        rows=rows,
        columns=opened.columns,
        source=opened.source,
        digest=opened.digest + (f"-without-{digest_of(*sorted(known))}" if known else ""),
        count=opened.count,
        files=(DataFile("sentences", opened.source, opened.digest, text), *left_out_files(config.tests)),
    )


def stream_sentences(
    config: DataConfig,
    source: StreamSentences,
    tokenizer: Tokenizer,
    *,
    share: Share,
    seed: int,
    pad_id: int,
    masker: TokenMasker | None,
    repeater: TokenRepeater | None = None,
    teachers: StoredTeachers | None = None,
) -> tuple[StreamedSentences, tuple[DataFile, ...]]:
    """The training sentences of ``source``, read as training goes on."""
    try:
        texts = open_texts(source.stream, root=config.folder)
    except FileNotFoundError as error:
        raise config.absent(source.stream, str(error)) from error
    known = sts_test_sentences(config.tests)
    stream = StreamedSentences(
        texts,
        tokenizer,
        share,
        seed=seed,
        window=source.window,
        max_length=config.max_length,
        pad_id=pad_id,
        masker=masker,
        repeater=repeater,
        teachers=teachers,
        wanted=(lambda sentence: normalise(sentence) not in known) if known else bool,
    )
    text = TrainingText(reader="stream", source=texts.source, tests=config.tests)
    return stream, (DataFile("sentences", texts.source, texts.digest, text), *left_out_files(config.tests))


def left_out_files(tests: str | None) -> tuple[DataFile, ...]:
    """The test sentences that ``data.decontaminate`` leaves out; none of ``None``."""
    if tests is None:
        return ()
    return (DataFile("test sentences left out", tests, digest_of(*sorted(sts_test_sentences(tests)))),)
