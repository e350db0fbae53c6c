"""The suite of one's own tables: each test set is evaluated by what its named columns hold, texts or images.

P items of a table: pairs, triplets or queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcse.data.images.tables import open_image_table
from mcse.data.named_columns import Example, NamedColumns, open_named_columns
from mcse.data.table_config import DevTable
from mcse.data.test_sets.contamination import normalise
from mcse.evaluation.joint_space import CaptionedImages, captioned_table, images_digest
from mcse.evaluation.named_tables import METRICS, TableItems, check_values, items_of, kind_of
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions
from mcse.evaluation.suites.retrieval import score_retrieval
from mcse.evaluation.uncertainty import clean_samples, point_scores, sharing_pairs
from mcse.files import digest_of
from mcse.metrics.correlation import UndefinedScoreError
from mcse.types import Column, ModelScores, PairList, Sample, ScoreKey, SuiteScores

_NAMES = {"scores": "scored pairs", "labels": "labelled pairs", "triplets": "triplets", "answers": "pairs to find"}
_HEADLINES = {
    "scores": {"spearman": "Spearman"},
    "labels": {"average_precision": "AP", "f1": "best F1"},
    "triplets": {"accuracy": "accuracy"},
    "answers": {"recall@1": "R@1", "recall@10": "R@10", "mrr": "MRR", "ndcg@10": "nDCG@10"},
}
_PROTOCOLS = {
    "scores": "correlations of cosines with the column {value!r}",
    "labels": "average precision of the pairs by falling cosine, and the best F1 that a threshold gives, chosen on "
    "these pairs (f1_threshold); labels of the column {value!r}",
    "triplets": "share of rows whose positive has a higher cosine than every negative; a tie is none",
    "answers": "each distinct query among all distinct texts of {positive!r}, all its own of which are answers; a rank "
    "is that of its best answer, ties counted against the encoder; nDCG by scikit-learn",
}


@dataclass(frozen=True, slots=True)
class HeldOutImages:
    """Images with captions, to find each other."""

    name: str
    images: CaptionedImages

    @property
    def summary(self) -> str:
        """What it is, in words."""
        return f"{self.name}: {len(self.images):,} images with {len(self.images.captions):,} captions"

    @property
    def digest(self) -> str:
        """Of captions and images."""
        return images_digest(self.images)


@dataclass(frozen=True, slots=True)
class TestTable:
    """A table that has been read; ``kind`` is what it holds."""

    __test__ = False  # it is no test, whatever pytest makes of its name

    name: str
    kind: str
    columns: NamedColumns
    examples: Sequence[Example]

    @property
    def summary(self) -> str:
        """What it is, in words."""
        return f"{self.name}: {len(self.examples):,} {_NAMES[self.kind]}"

    @property
    def digest(self) -> str:
        """Of content and columns."""
        return f"{self.kind} {self.columns.rows_digest}"

    @property
    def protocol(self) -> str:
        """What its scores are, in words."""
        words = _PROTOCOLS[self.kind].format(value=self.columns.value, positive=self.columns.texts[1])
        return f"{words}; {len(self.examples):,} rows of {self.columns.source}"


def score_tables(subject: Subject, tables: Sequence[TestTable]) -> SuiteScores:
    """Scores of tables, and clean ones where the training text is known; a score that does not exist is in ``absent``.

    Raises:
        ValueError: An encoder that does not give one row a sentence.
        UndefinedScoreError: NaN rows.
    """
    subject.rows.encode([text for table in tables for example in table.examples for text in example.texts])
    samples: dict[ScoreKey, Sample] = {}
    settings: dict[ScoreKey, float] = {}
    for table in tables:
        items = items_of(table.kind, subject.rows, table.examples)
        cluster_P, clean_P = _clusters(table, items), _unseen(subject, items)
        for metric, sample in items.samples.items():
            samples[_key(table.name, metric)] = replace(sample, cluster_P=cluster_P, clean_P=clean_P)
        settings |= {_key(table.name, metric): value for metric, value in items.settings.items()}
    scores, undefined = point_scores(samples, {})
    absent = {str(key): reason for key, reason in undefined.items()}
    if subject.seen is not None:
        clean = clean_samples(samples)
        clean_scores, undefined = point_scores(clean, {})
        scores |= clean_scores
        undefined |= {key.clean: "fewer than two items are clean" for key in samples if key.clean not in clean}
        absent |= {str(key): reason for key, reason in undefined.items()}
    elif subject.why_unknown:
        absent["table_clean"] = subject.why_unknown
    columns = _columns(tables)
    return SuiteScores(
        scores={**scores, **{key: value for key, value in settings.items() if key.with_metric("f1") in scores}},
        protocols=_protocols(tables, is_clean=subject.seen is not None),
        columns=tuple(column for column in columns if column.key in scores),
        absent=absent,
        samples=samples,
        pairs=_pairs(tables, samples),
    )


def score_image_table(subject: Subject, table: HeldOutImages, *, batch_size: int) -> SuiteScores:
    """Image ↔ caption and caption → caption of one image, as the suite ``retrieval``; its tasks behind the name."""
    found = score_retrieval(subject, table.images, batch_size=batch_size)

    def moved(key: ScoreKey) -> ScoreKey:
        return replace(key, suite="table", task=f"{table.name}.{key.task}")

    def named(words: Mapping[str, str]) -> dict[str, str]:
        return {f"table.{table.name}{key.removeprefix('retrieval')}": value for key, value in words.items()}

    return replace(
        found,
        scores={moved(key): score for key, score in found.scores.items()},
        protocols=named(found.protocols),
        columns=tuple(
            replace(column, key=moved(column.key), label=f"{table.name} {column.label}") for column in found.columns
        ),
        absent=named(found.absent),
        samples={moved(key): sample for key, sample in found.samples.items()},
    )


def prepare_tables(options: SuiteOptions) -> PreparedSuite:
    """Reads the tables that ``options`` name.

    Raises:
        FileNotFoundError: One is not there.
        ValueError: None is named, or one cannot be read; names it, its row and column.
    """
    if not options.tables:
        raise ValueError("table needs --data: a table, or a .yaml whose 'evaluate' lists some")
    tables = [_opened(config, options) for config in options.tables]
    texts = [table for table in tables if isinstance(table, TestTable)]

    def score(subject: Subject) -> SuiteScores:
        parts = [score_tables(subject, texts)] if texts else []
        for table in tables:
            if isinstance(table, HeldOutImages):
                parts.append(_image_scores(subject, table, batch_size=options.batch_size))
        return ModelScores(name="", pooling="", suites=tuple(parts)).all

    digest = digest_of("table", *(f"{table.name} {table.digest}" for table in tables))
    summary = ", ".join(table.summary for table in tables)
    return PreparedSuite(summary=summary, digest=digest, score=score, is_joint=len(texts) < len(tables))


def _image_scores(subject: Subject, table: HeldOutImages, *, batch_size: int) -> SuiteScores:
    """An encoder without a joint space leaves the other tables their scores."""
    try:
        return score_image_table(subject, table, batch_size=batch_size)
    except UndefinedScoreError as error:
        return SuiteScores(scores={}, protocols={}, columns=(), absent={f"table.{table.name}": str(error)})


def _opened(config: DevTable, options: SuiteOptions) -> TestTable | HeldOutImages:
    root, key = options.tables_root, f"table {config.name}"
    try:
        if config.image is not None or _is_captioned(config, root=root, key=key):
            images = captioned_table(config.captioned, root=root, key=key, features=options.features)
            return HeldOutImages(config.name, images)
        columns = open_named_columns(config, root=root, key=key)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}" + (f"; relative paths start at {root}" if root != Path() else "")) from None
    try:
        kind, examples = kind_of(columns), list(columns.rows())
        check_values(columns, examples)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    return TestTable(config.name, kind, columns, examples)


def _is_captioned(config: DevTable, *, root: Path, key: str) -> bool:
    """Whether a table without named columns has those of images and captions by their plain names, and no pairs."""
    if config.query is not None:
        return False
    try:
        if len(open_named_columns(config, root=root, key=key).texts) > 1:
            return False
    except ValueError:  # no column of texts by a plain name
        pass
    try:
        open_image_table(config.captioned, root=root, key=key)
    except ValueError:  # told as a table of texts
        return False
    return True


SUITE = Suite(
    name="table",
    version=1,
    needs="your own test sets by --data: a table (.csv, .tsv, .jsonl, .parquet, a folder of save_to_disk or a hub "
    "dataset), of which --columns names the columns, or a .yaml whose 'evaluate' lists several, as in training; of "
    "images with captions, --features may name the images' stored features",
    prepare=prepare_tables,
)


def _key(table: str, metric: str) -> ScoreKey:
    return ScoreKey("table", table, metric)


def _clusters(table: TestTable, items: TableItems) -> NDArray[np.int64] | None:
    """What is drawn together: rows that share a text; queries are distinct, and each is drawn by itself."""
    if table.kind == "answers":
        return None
    return sharing_pairs([texts[0] for texts in items.texts], [texts[1] for texts in items.texts])


def _unseen(subject: Subject, items: TableItems) -> NDArray[np.bool_] | None:
    """(P,) whether no text of an item is in the training text; ``None`` where that is not known."""
    seen = subject.seen
    if seen is None:
        return None
    return np.array([not any(normalise(text) in seen for text in texts) for texts in items.texts], dtype=bool)


def _pairs(tables: Sequence[TestTable], samples: Mapping[ScoreKey, Sample]) -> dict[ScoreKey, PairList]:
    """The pairs behind scores and labels, for listings."""
    found = {}
    for table in tables:
        key = _key(table.name, METRICS[table.kind][0])
        if table.columns.value is not None and key in samples:
            left, right = zip(*(example.texts for example in table.examples), strict=True)
            found[key] = PairList(sentence1=left, sentence2=right)
    return found


def _columns(tables: Sequence[TestTable]) -> list[Column]:
    return [
        Column(label=f"{table.name} {label}", key=_key(table.name, metric))
        for table in tables
        for metric, label in _HEADLINES[table.kind].items()
    ]


def _protocols(tables: Sequence[TestTable], *, is_clean: bool) -> dict[str, str]:
    protocols = {f"table.{table.name}": table.protocol for table in tables}
    protocols["table intervals"] = (
        "95 % percentile bootstrap, 1,000 draws of rows with all that share a text with them, or of queries"
    )
    if is_clean:
        protocols["table_clean"] = (
            "without the items with a text from the model's training text, by letters and digits alone: of a "
            "pair both, of a triplet query and positive, of a query it and its answers"
        )
    return protocols
