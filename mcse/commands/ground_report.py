"""``mcse words report``: does grounding gain by images? Always five rows, because a linear map can gain without any.

Text vectors; the same whitened; the same without their first components; grounded on shuffled images; on true ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mcse.commands.ground_words import check_source
from mcse.data.test_sets.sts import StsTask, load_sts
from mcse.data.test_sets.wordsim import WordPairs, load_wordsim
from mcse.encoders.word_vectors import WordVectorEncoder, load_space
from mcse.evaluation.encoding import RowStore
from mcse.evaluation.suite import Subject
from mcse.evaluation.suites.sts import score_sts
from mcse.evaluation.suites.wordsim import POLICY, WordsimScore, score_wordsim
from mcse.files import claimed, write_json, write_text
from mcse.metrics.correlation import UndefinedScoreError
from mcse.models.grounded_checkpoint import VOCAB_FILE, open_grounded_words
from mcse.text.vocab import SPECIALS, Vocab
from mcse.text.word_map import WordMap
from mcse.text.word_spaces import all_but_the_top, whiten
from mcse.text.word_vectors import WordBlock, WordVectors, load_word_vectors
from mcse.types import ScoreKey

ROWS = ("text", "whitened text", "all-but-the-top", "shuffled images", "true images")


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a row: its values by seed, the pairs that it is over, and their share of those asked for, in %."""

    values: tuple[float, ...]
    pairs: int
    coverage: float | None

    @property
    def text(self) -> str:
        """Mean and, of several seeds, standard deviation."""
        if not self.values:
            return "–"
        if len(self.values) == 1:
            return f"{self.values[0]:.1f}"
        return f"{statistics.fmean(self.values):.1f} ± {statistics.stdev(self.values):.1f}"


Table = dict[str, dict[str, Cell]]
"""Row → column → cell."""


def run(
    *,
    text: Path,
    true: Sequence[Path],
    shuffled: Sequence[Path],
    data: Path,
    output: Path,
    sts: Path | None = None,
    ground_text: bool = False,
    components: int | None = None,
) -> int:
    """Evaluates, prints the tables and writes them; returns 0.

    Raises:
        ValueError: A run that is none of grounded_words, runs of different captions, rows that are evaluated on other
            pairs, or data that cannot be read.
    """
    seen = _seen_words([*true, *shuffled])
    _check_controls("--true", true, wanted=(True,))
    _check_controls("--shuffled", shuffled, wanted=("shuffled_images", "shuffled_pairs"))
    for run in (*true, *shuffled) if ground_text else ():
        check_source(run, text, hint="its map is of no use here")
    vectors = load_word_vectors(text)
    grounded = vectors if ground_text else None
    spaces: dict[str, list[Callable[[], WordVectors]]] = {
        "text": [lambda: vectors],
        "whitened text": [lambda: whiten(vectors)],
        "all-but-the-top": [lambda: all_but_the_top(vectors, components=components)],
        "shuffled images": [_loader(run, grounded) for run in shuffled],
        "true images": [_loader(run, grounded) for run in true],
    }
    sets = load_wordsim(data).sets
    tasks = load_sts(sts).tasks if sts is not None else ()
    words: Table = {}
    sentences: Table = {}
    for row in ROWS:
        evaluated = [_evaluate(load(), sets, tasks, seen=seen) for load in spaces[row]]
        for found, _ in evaluated:
            _check_pairs(words["text"] if words else found, found, row)
        words[row] = _joined([found for found, _ in evaluated])
        sentences[row] = _joined([found for _, found in evaluated])
    markdown = _report(words, sentences, seen=seen, sets=sets)
    content = {name: _plain(table) for name, table in (("wordsim", words), ("sts", sentences)) if any(table.values())}
    with claimed(output):
        write_text(output / "report.md", markdown)
        write_json(output / "report.json", {"policy": POLICY, **content})
    print(markdown)
    return 0


def _seen_words(runs: Sequence[Path]) -> frozenset[str]:
    """The words of the captions that all runs read."""
    vocabs = {run: Vocab.load(open_grounded_words(run)[0] / VOCAB_FILE) for run in runs}
    found = {run: frozenset(vocab.words[len(SPECIALS) :]) for run, vocab in vocabs.items()}
    for run, words in found.items():
        if words != found[runs[0]]:
            raise ValueError(f"{runs[0]} and {run} saw different words, so seen and unseen are not the same for both")
    return found[runs[0]]


def _check_controls(flag: str, runs: Sequence[Path], *, wanted: tuple[bool | str, ...]) -> None:
    """True runs saw true images, the others shuffled ones: a report with mixed-up rows would be believed."""
    for run in runs:
        controls = open_grounded_words(run)[1].config["controls"]
        if controls["images"] not in wanted:
            raise ValueError(f"{flag}: {run} was trained with controls.images {controls['images']}")
        if share := controls.get("wrong_images"):
            raise ValueError(f"{flag}: {run} was trained with controls.wrong_images {share}")


def _check_pairs(text: dict[str, Cell], cells: dict[str, Cell], row: str) -> None:
    """Every row is evaluated on the pairs of the first: other pairs are another task."""
    for column, cell in cells.items():
        if text[column].pairs != cell.pairs:
            raise ValueError(
                f"{column}: --text has vectors for {text[column].pairs} pairs, a run of {row} for {cell.pairs}; runs "
                "with words.export captions store few words, --ground-text grounds all of --text"
            )


def _loader(run: Path, text: WordVectors | None) -> Callable[[], WordVectors]:
    """A run's own vectors, or ``text`` by its map."""
    if text is None:
        return lambda: load_space(run)
    block = WordBlock(text.words, text.row_VD)
    return lambda: WordVectors.of(text.words, WordMap.load(open_grounded_words(run)[0]).ground(block).row_ND)


def _evaluate(
    vectors: WordVectors, sets: Sequence[WordPairs], tasks: Sequence[StsTask], *, seen: frozenset[str]
) -> tuple[dict[str, Cell], dict[str, Cell]]:
    """Word similarity by set and part of it, and STS by task."""
    encoder = WordVectorEncoder(vectors)
    words: dict[str, Cell] = {}
    for score in score_wordsim(RowStore(encoder), sets):
        both_P = np.array(
            [{left, right} <= seen for left, right in zip(score.pairs.word1, score.pairs.word2, strict=True)]
        )
        for part, among_P in (("all", None), ("seen", both_P), ("unseen", ~both_P)):
            words[f"{score.pairs.name} {part}"] = _cell(score, among_P)
    if not tasks:
        return words, {}
    scores = score_sts(Subject.of(encoder), tasks).scores
    keys = {name: ScoreKey("sts", name, "spearman") for name in (*(task.name for task in tasks), "average")}
    found = {
        "average of seven" if name == "average" else name: Cell(
            (scores[key],), int(scores[key.with_metric("pairs")]), None
        )
        for name, key in keys.items()
        if key in scores
    }
    return words, found


def _cell(score: WordsimScore, among_P: np.ndarray[tuple[int], np.dtype[np.bool_]] | None) -> Cell:
    try:
        values: tuple[float, ...] = (score.spearman(among_P),)
    except (ValueError, UndefinedScoreError):
        values = ()
    return Cell(values, score.count(among_P), score.coverage(among_P))


def _joined(evaluated: Sequence[dict[str, Cell]]) -> dict[str, Cell]:
    """Over seeds, all evaluated on the same pairs."""
    return {
        column: Cell(tuple(value for cells in evaluated for value in cells[column].values), cell.pairs, cell.coverage)
        for column, cell in evaluated[0].items()
    }


def _report(words: Table, sentences: Table, *, seen: frozenset[str], sets: Sequence[WordPairs]) -> str:
    seeds = {row: len(next(iter(words[row].values())).values) for row in ROWS}
    parts = [
        "# Grounded word vectors: five rows",
        f"{POLICY}. Seen: both words occur in the captions ({len(seen):,} different words do). Mean ± standard "
        f"deviation over {seeds['true images']} seeds of true and {seeds['shuffled images']} of shuffled images.",
        _markdown(words, header="vectors"),
    ]
    if any(sentences.values()):
        parts += ["## STS by averaging vectors", _markdown(sentences, header="vectors")]
    return "\n\n".join(parts) + "\n"


def _markdown(table: Table, *, header: str) -> str:
    columns = list(table["text"])
    lines = [f"| {header} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row, cells in table.items():
        lines.append(f"| {row} | {' | '.join(cells[column].text for column in columns)} |")
    sizes = [cells for cells in (table["text"][column] for column in columns)]
    lines.append(f"| pairs | {' | '.join(f'{cell.pairs:,}' for cell in sizes)} |")
    if any(cell.coverage is not None for cell in sizes):
        lines.append(f"| coverage % | {' | '.join(f'{cell.coverage or 0:.1f}' for cell in sizes)} |")
    return "\n".join(lines)


def _plain(table: Table) -> dict[str, dict[str, object]]:
    return {row: {column: asdict(cell) for column, cell in cells.items()} for row, cells in table.items()}
