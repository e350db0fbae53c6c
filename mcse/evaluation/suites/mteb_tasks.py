"""The mteb suite: mteb's own tasks, run by mteb itself, on the rows that all suites share.

mteb is an optional package, imported when the suite is asked for and never before.

P pairs or texts, D width.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np

from mcse.data.test_sets.sts import load_scored_pairs
from mcse.errors import said
from mcse.evaluation.encoding import Rows, cosines
from mcse.evaluation.joint_space import NoJointSpaceError, joint_encoder
from mcse.evaluation.row_forms import AS_THEY_ARE
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions, data_digest
from mcse.evaluation.uncertainty import sharing_pairs
from mcse.progress import in_phase, phase
from mcse.types import Column, FloatArray, ImageTextEncoder, Sample, ScoreKey, SuiteScores, keyed_scores

_NEAREST = 3
_FURTHER = ("cosine_spearman", "text_acc", "image_acc", "accuracy")
"""Beside a task's main score."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """One of mteb's tasks with its data in memory; ``files`` are local, none where the hub's cache holds the data."""

    name: str
    task: Any
    source: str
    files: tuple[Path, ...]


class MtebEncoder:
    """A row store in the shape that mteb 2 asks of an encoder (its ``EncoderProtocol``): unit rows, no prompts of mteb.

    Args:
        rows: Encodes what mteb asks for, each distinct text once.
        joint: Of tasks on images: puts them and their captions into one space.
    """

    def __init__(self, rows: Rows, joint: ImageTextEncoder | None = None) -> None:
        from mteb.models import ModelMeta

        self._rows, self._joint = rows, joint
        self.mteb_model_meta = ModelMeta.create_empty({} if joint is None else {"modalities": ["text", "image"]})

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> FloatArray:
        """(P, D) unit rows of mteb's batches, of texts or of images; its arguments for prompts change nothing."""
        if self._joint is None:
            return self._rows.unit([text for batch in inputs for text in batch["text"]])
        blocks = []
        for batch in inputs:
            if images := batch.get("image"):
                blocks.append(self._joint.encode_images(list(images)))
            else:
                blocks.append(self._joint.encode_captions(list(batch["text"])))
        return np.concatenate(blocks)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """All cosines, by mteb's own function."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(P,) cosines pair by pair, by mteb's own function."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def prepare_mteb(options: SuiteOptions) -> PreparedSuite:
    """Loads the data of the tasks that ``options.tasks`` names.

    An STS task's data is ``<data>/mteb/<task>/test.jsonl`` (``sentence1``, ``sentence2``, ``score``) where that folder
    exists, and that of a task of caption and image pairs (Winoground, SugarCrepe, ARO) a copy of its hub repository
    there; everything else comes from the hub or, offline, from its local cache.

    Raises:
        ValueError: No task is named, one twice, or one that mteb does not know; mteb is not installed; a local file
            cannot be read, or is given for a task of another kind.
        FileNotFoundError: None of the tasks has its data.
    """
    if not options.tasks:
        raise ValueError("--suite mteb needs --tasks, the names of mteb's tasks, such as STS13")
    if len(set(options.tasks)) < len(options.tasks):
        raise ValueError(f"--tasks names a task twice: {', '.join(options.tasks)}")
    if importlib.util.find_spec("mteb") is None:
        raise ValueError("--suite mteb needs the package mteb, which is not installed (pip install 'mcse[mteb]')")
    tasks, absent = _load_tasks(options.tasks, data=options.data)
    if not tasks:
        raise FileNotFoundError("no mteb task can be run: " + "; ".join(f"{name}: {absent[name]}" for name in absent))

    def score(subject: Subject) -> SuiteScores:
        return _suite_scores(tasks, absent, subject, batch_size=options.batch_size)

    summary = f"mteb's {', '.join(task.name for task in tasks)}"
    if absent:
        summary += f"; without {', '.join(absent)}"
    settings = (_version(), *(f"{task.name}: {task.source}" for task in tasks), *sorted(absent))
    digest = data_digest([file for task in tasks for file in task.files], *settings)
    return PreparedSuite(summary=summary, digest=digest, score=score)


SUITE = Suite(
    name="mteb",
    version=4,
    needs="the package mteb ('mcse[mteb]') and --tasks; data from the hub or its cache, or, for STS tasks, from "
    "mteb/<task>/test.jsonl in the folder that --data names; tasks on images and captions need image heads",
    prepare=prepare_mteb,
)


def _version() -> str:
    from importlib.metadata import version

    return version("mteb")


def _load_tasks(names: Sequence[str], *, data: str | None) -> tuple[tuple[_Task, ...], dict[str, str]]:
    """The tasks whose data is there, and for every other task why it is missing."""
    made = {name: _make_task(name) for name in names}
    tasks: list[_Task] = []
    absent: dict[str, str] = {}
    lost = False
    for name, task in made.items():
        if reason := _unfit(task):
            absent[name] = reason
            continue
        folder = Path(data) / "mteb" / name if data is not None else None
        try:
            if folder is not None and folder.is_dir():
                tasks.append(_local_task(name, task, folder))
            elif lost:
                absent[name] = "not tried, as the hub did not answer; HF_HUB_OFFLINE=1 reads the local cache alone"
            else:
                tasks.append(_hub_task(name, task))
        except (OSError, RuntimeError, ImportError) as error:
            absent[name] = " ".join(str(error).split())
            # Without a connection every further task would wait for the hub's retries.
            lost |= isinstance(error, ConnectionError) and not huggingface_hub.constants.HF_HUB_OFFLINE
    return tuple(tasks), absent


def _make_task(name: str) -> Any:
    import mteb
    from mteb.get_tasks import TASK_LIST

    known = {task.metadata.name.casefold(): task.metadata.name for task in TASK_LIST}
    if name not in known.values():
        nearest = difflib.get_close_matches(name.casefold(), known, n=_NEAREST, cutoff=0.5)
        hint = f"the nearest names are {', '.join(known[key] for key in nearest)}" if nearest else "nor one like it"
        raise ValueError(f"--tasks: mteb {_version()} has no task {name!r}; {hint}")
    return mteb.get_task(name)


def _unfit(task: Any) -> str:
    """Why a task cannot evaluate embeddings of sentences, or of sentences and images; empty where they can."""
    if task.is_aggregate:
        return f"stands for several tasks; name them: {', '.join(part.metadata.name for part in task.metadata.tasks)}"
    if task.metadata.type.startswith("VisualSTS"):
        return "draws the sentences of an STS task as pictures: it tests reading, not what images show"
    kinds = [str(kind) for kind in task.metadata.modalities]
    if not {*kinds} <= {"text", "image"}:
        return f"is a task on {' and '.join(kinds)}, not on text and images alone"
    if "it" in str(task.metadata.category).split("2"):
        return "needs one embedding of an image and a text together"
    return ""


def _local_task(name: str, task: Any, folder: Path) -> _Task:
    """Lets mteb read a folder in place of the hub's data set, once its files are known to be good."""
    if task.metadata.type == "Compositionality":
        return _local_images(name, task, folder)
    if not _is_plain_sts(task):
        languages = ", in several languages" if task.metadata.is_multilingual else ""
        kind = f"{task.metadata.type}{languages}"
        raise ValueError(
            f"{folder}: local data is read for STS tasks in one language and for pairs of captions and images; {name} "
            f"is {kind}"
        )
    files = tuple(folder / f"{split}.jsonl" for split in task.eval_splits)
    for file in files:
        load_scored_pairs(file)
    # On this object alone: the class keeps its own description.
    task.metadata = task.metadata.model_copy(update={"dataset": {"path": str(folder), "revision": "local"}})
    task.load_data()
    return _Task(name=name, task=task, source=f"local files ({', '.join(file.name for file in files)})", files=files)


def _local_images(name: str, task: Any, folder: Path) -> _Task:
    task.metadata = task.metadata.model_copy(update={"dataset": {"path": str(folder), "revision": "local"}})
    try:
        task.load_data()
    except Exception as error:
        # datasets raises many kinds of errors of its own.
        raise ValueError(f"{folder}: not a copy of the data of {name}: {said(error)}") from error
    files = tuple(file for file in sorted(folder.rglob("*")) if file.is_file())
    return _Task(name=name, task=task, source=f"local files ({len(files)})", files=files)


def _hub_task(name: str, task: Any) -> _Task:
    described = task.metadata.dataset
    source = f"{described['path']} at revision {described['revision']}"
    try:
        task.load_data()
    except ValueError as error:
        # What a cache with another configuration of the data set raises.
        raise FileNotFoundError(f"{source} cannot be loaded: {error}") from None
    except (ConnectionError, FileNotFoundError) as error:
        kind = ConnectionError if isinstance(error, ConnectionError) else FileNotFoundError
        raise kind(f"{source} is neither reachable nor in the local cache ({type(error).__name__})") from None
    return _Task(name=name, task=task, source=source, files=())


def _is_plain_sts(task: Any) -> bool:
    return task.metadata.type == "STS" and not task.metadata.is_multilingual


def _suite_scores(
    tasks: Sequence[_Task], absent: Mapping[str, str], subject: Subject, *, batch_size: int
) -> SuiteScores:
    missing = dict(absent)
    scores: dict[str, dict[str, float]] = {}
    samples: dict[ScoreKey, Sample] = {}
    protocols: dict[str, str] = {}
    for number, loaded in enumerate(tasks, 1):
        try:
            encoder = _encoder(loaded, subject)
        except NoJointSpaceError as error:
            missing[loaded.name] = str(error)
            continue
        with phase(f"{loaded.name} ({number} of {len(tasks)} tasks)", is_shown=in_phase()):
            result = _run(loaded, encoder, batch_size=batch_size)
        found = _result_scores(result)
        if not math.isfinite(found["main_score"]):
            missing[loaded.name] = f"mteb gives {found['main_score']} as its main score"
            continue
        scores[loaded.name] = found
        main_score = loaded.task.metadata.main_score
        protocols[f"mteb.{loaded.name}"] = (
            f"{main_score} by mteb {_version()} on unit rows without mteb's prompts; {loaded.source}; "
            f"{'mean over' if len(_entries(result)) > 1 else 'of'} {_parts(result)}"
        )
        if _is_plain_sts(loaded.task) and len(_entries(result)) == 1 and main_score == "cosine_spearman":
            sample = samples[_key(loaded.name)] = _sample(loaded.task, subject)
            found["pairs"] = len(sample.value_P)
    return SuiteScores(
        scores=keyed_scores("mteb", scores),
        protocols=protocols,
        columns=tuple(Column(label=name, key=_key(name)) for name in scores),
        absent=missing,
        samples=samples,
    )


def _encoder(loaded: _Task, subject: Subject) -> MtebEncoder:
    """What mteb is given.

    Raises:
        NoJointSpaceError: The task has images, and the subject takes none, or only rows as they are make sense.
    """
    if "image" not in loaded.task.metadata.modalities:
        return MtebEncoder(subject.rows)
    joint = joint_encoder(subject.encoder)
    if not isinstance(joint, ImageTextEncoder):
        raise NoJointSpaceError("the encoder takes stored features alone, not images")
    if subject.form != AS_THEY_ARE:
        raise NoJointSpaceError("a task on images is evaluated on rows as they are")
    return MtebEncoder(subject.rows, joint)


def _key(task: str) -> ScoreKey:
    return ScoreKey("mteb", task, "main_score")


def _run(loaded: _Task, encoder: MtebEncoder, *, batch_size: int) -> Any:
    import mteb

    found = mteb.evaluate(
        encoder,
        loaded.task,
        cache=None,
        co2_tracker=False,
        encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
        show_progress_bar=False,
    )
    return found.task_results[0]


def _entries(result: Any) -> list[Mapping[str, Any]]:
    """Scores as mteb gives them, one mapping for each subset of each split."""
    return [entry for split in result.scores.values() for entry in split]


def _parts(result: Any) -> str:
    names = [f"{split} {entry['hf_subset']}" for split, entries in result.scores.items() for entry in entries]
    return ", ".join(names)


def _result_scores(result: Any) -> dict[str, float]:
    """The main score and, where every part has them, some others; × 100."""
    scores = {"main_score": 100 * float(result.get_score())}
    for name in _FURTHER:
        if all(name in entry for entry in _entries(result)):
            scores[name] = 100 * float(result.get_score(getter=itemgetter(name)))
    return scores


def _sample(task: Any, subject: Subject) -> Sample:
    """The pairs behind a main score, for intervals and comparisons; their rows are in the store already."""
    (split,) = task.eval_splits
    parts = task.dataset if split in task.dataset else task.dataset["default"]
    column = parts[split][:]
    left, right = (column[name] for name in task.column_names)
    return Sample(
        statistic="spearman",
        value_P=cosines(subject.rows.unit(left), subject.rows.unit(right)),
        gold_P=np.asarray(column["score"], dtype=np.float64),
        cluster_P=sharing_pairs(left, right),
        clean_P=subject.unseen(left, right),
    )
