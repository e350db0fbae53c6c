"""What a suite is: data prepared once, then models evaluated on it one after the other, as scores by key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mcse.data.source_variants import ScoredTable
from mcse.data.table_config import DevTable
from mcse.data.test_sets.contamination import nearly_seen, unseen
from mcse.data.test_sets.sts import ScoredPairs
from mcse.evaluation.encoding import Rows, RowStore
from mcse.evaluation.row_forms import AS_THEY_ARE, FormedRows, RowForm, headlines, in_form
from mcse.evaluation.uncertainty import add_intervals
from mcse.files import digest_of, sha256_file
from mcse.types import Encoder, SuiteScores

TransferMode = Literal["test", "dev", "fasttest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteOptions:
    """What the command line says to every suite.

    ``pairs`` are those of sts by the columns of a table, in place of ``data``. ``captions``, ``features`` and
    ``images`` are the data of retrieval, in ``folds`` parts, and of regularities; ``contents`` says what the images
    truly show; ``tasks`` are the names of mteb's tasks; ``tables`` are one's own test sets, whose relative paths start
    at ``tables_root``; ``allow_missing``: whether a task of which files are missing is left out, and not an error.
    """

    data: str | None = None
    pairs: ScoredTable | None = None
    batch_size: int = 64
    transfer_mode: TransferMode = "test"
    captions: str | None = None
    features: str | None = None
    images: str | None = None
    contents: str | None = None
    folds: int = 1
    tasks: tuple[str, ...] = ()
    tables: tuple[DevTable, ...] = ()
    tables_root: Path = Path()
    allow_missing: bool = False

    def check_whole(self, cut: Sequence[str], absent: Mapping[str, str]) -> None:
        """Refuses tasks ``cut``, of which some files are there and some are not, unless that was asked for.

        Raises:
            ValueError: Names each task and what it lacks.
        """
        if cut and not self.allow_missing:
            reasons = "; ".join(f"{name}: {absent[name]}" for name in cut)
            raise ValueError(f"{reasons}; fetch what is missing, or evaluate the other tasks with --allow-missing")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be positive, got {self.batch_size}")
        if self.folds < 1:
            raise ValueError(f"--folds must be positive, got {self.folds}")
        if self.transfer_mode not in get_args(TransferMode):
            raise ValueError(f"--transfer-mode must be one of {', '.join(get_args(TransferMode))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The model under evaluation.

    ``seen``: the normalised sentences of its training text; ``None`` where that is unknown, which ``why_unknown``
    explains of a run. ``form`` is that of ``rows``.
    """

    encoder: Encoder
    rows: Rows
    form: RowForm = AS_THEY_ARE
    seen: frozenset[str] | None = None
    why_unknown: str = ""

    @classmethod
    def of(
        cls, encoder: Encoder, *, batch_size: int = 64, seen: frozenset[str] | None = None, why_unknown: str = ""
    ) -> Subject:
        """A subject whose rows are not yet encoded."""
        rows = RowStore(encoder, batch_size=batch_size)
        return cls(encoder=encoder, rows=rows, seen=seen, why_unknown=why_unknown)

    def as_stored(self, form: RowForm) -> Subject:
        """The same subject with rows of another form."""
        return self if form == AS_THEY_ARE else replace(self, rows=FormedRows(self.rows, form), form=form)

    def unseen(self, sentence1: Sequence[str], sentence2: Sequence[str]) -> NDArray[np.bool_] | None:
        """(P,) whether neither sentence of a pair is in the training text; ``None`` where that is unknown."""
        return None if self.seen is None else unseen(sentence1, sentence2, seen=self.seen)

    def nearly_seen(self, sentence1: Sequence[str], sentence2: Sequence[str]) -> NDArray[np.bool_]:
        """(P,) whether a sentence of a pair is nearly one of the known training text."""
        return nearly_seen(sentence1, sentence2, seen=self.seen or frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSuite:
    """A suite whose data has been read and found good.

    Args:
        summary: What the data is, in words.
        digest: Of everything that the numbers depend on.
        score: Gives scores without intervals.
        is_joint: Whether it takes rows of captions and images, too, which have a width of their own.
    """

    summary: str
    digest: str
    score: Callable[[Subject], SuiteScores]
    is_joint: bool = False

    def run(self, subject: Subject) -> SuiteScores:
        """The scores with their intervals; of another form of rows the headlines. Every process must call it."""
        found = self.score(subject)
        if subject.form == AS_THEY_ARE:
            return add_intervals(found)
        # Named after they are drawn, so that every form has the draws of the same items.
        return in_form(add_intervals(headlines(found)), subject.form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite that ``evaluate.py`` can name. ``prepare`` raises where the data is missing or bad.

    ``version`` is raised when the same data and model give other numbers: results kept from before are then void.
    """

    name: str
    version: int
    needs: str
    prepare: Callable[[SuiteOptions], PreparedSuite]


def pairs_digest(parts: Iterable[ScoredPairs]) -> str:
    """Of names, sentences and gold, wherever they were read from."""
    return digest_of(
        *(repr((part.name, part.subset, part.sentence1, part.sentence2, part.gold.tolist())) for part in parts)
    )


def data_digest(files: Iterable[str | Path], *settings: object) -> str:
    """Of the bytes of files and of settings. A name that is no file, such as a hub data set, counts as itself."""
    names = sorted({str(file) for file in files})
    return digest_of(
        *map(repr, settings), *(sha256_file(Path(name)) if Path(name).is_file() else name for name in names)
    )


def why_no_average(names: Sequence[str], known: Iterable[str]) -> str:
    """Which of the tasks that papers average are missing; empty where none is."""
    missing = [name for name in names if name not in set(known)]
    verb = "is" if len(missing) == 1 else "are"
    return f"no average: it is over {len(names)} tasks, and {', '.join(missing)} {verb} missing" if missing else ""
