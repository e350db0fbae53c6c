"""From a built ``Run`` to a finished run folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcse import distributed
from mcse.config import to_dict, to_yaml, with_defaults
from mcse.files import claimed, recover_folder
from mcse.progress import panel
from mcse.run_folder import (
    BEST,
    CONFIG,
    FACTS,
    KEYS_OF_LENGTH,
    KEYS_WITHOUT_EFFECT,
    LAST,
    STATE,
    differing_keys,
    is_run,
    read_config,
    read_facts,
    read_run,
    saved_states,
)
from mcse.training.config import OptimConfig, TrainConfig, count_steps
from mcse.training.journal import Journal, write_run_facts
from mcse.training.loop import Loop
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.training.screen import start_panel
from mcse.types import DataFile

logger = logging.getLogger(__name__)


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a folder that may not be written to.

    Raises:
        ValueError: It holds something already, and neither resuming nor overwriting was asked for; or it holds
            something that is no run, which is never deleted.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir: {folder} is a file")
    if resume and overwrite:
        raise ValueError("--overwrite and --train.resume auto ask for opposite things; give one of them")
    if is_run(folder.parent) or any(is_run(below) for below in folder.glob("*")):
        raise ValueError(f"output_dir: {folder} would be inside a run, or hold one; runs are siblings")
    if not folder.is_dir() or not any(folder.iterdir()) or resume:
        return
    if not overwrite:
        raise ValueError(
            f"output_dir: {folder} is not empty; give --train.resume auto to go on with it, --overwrite to delete it, "
            "or another folder"
        )
    # Deleting asks for more than looking like a run: for what this very module writes first.
    if not (folder / CONFIG).is_file():
        raise ValueError(f"output_dir: {folder} holds no run (no {CONFIG}), so --overwrite does not delete it")


@contextmanager
def claimed_folder(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """The run folder, looked at and claimed by the main process for all while the block runs; nothing in it changes.

    Raises:
        ValueError: Another run has it, or it may not be written to, as in ``check_folder``.
    """
    with ExitStack() as claim:

        def take() -> None:
            if distributed.is_main():
                # Claimed first: what another run has just begun looks like a folder that holds no run.
                claim.enter_context(claimed(folder))
                check_folder(folder, resume=resume, overwrite=overwrite)

        distributed.fail_together(take)
        yield


def begin_folder(folder: Path, *, resume: bool) -> None:
    """Makes the claimed run folder anew, or keeps it for resuming. All processes must call this."""
    # All processes have read what they need before the main one deletes anything.
    distributed.barrier()
    if distributed.is_main():
        if folder.is_dir() and not resume:
            # The file by which a run is known goes last, so that after a kill --overwrite still takes the folder.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
    distributed.barrier()


def fit(run: Run, config: Any, *, runtime: Runtime, folder: Path, source: str = "") -> int:
    """Trains ``run`` in ``folder`` and returns the exit code: 0 finished, 130 or 143 stopped by a signal.

    Args:
        run: What a recipe built.
        config: The recipe's config; has ``train``, ``optim`` and ``recipe``.
        runtime: Device and processes.
        folder: A claimed run folder.
        source: Where the configuration came from, to be shown.
    """
    train: TrainConfig = config.train
    optim: OptimConfig = config.optim
    plain = to_dict(config)
    if train.resume == "auto":
        finished_at = finished_without_state(folder)
        if finished_at is not None or saved_states(folder / STATE):
            check_resumed(folder, config, run)
        if finished_at is not None:
            return _end_again(folder, finished_at, count_steps(train, steps_per_epoch=run.stream.steps_per_epoch))
    distributed.barrier()
    facts = start_facts(run, train, runtime)
    if distributed.is_main():
        write_run_facts(folder, config_yaml=to_yaml(config), runtime=runtime, data=run.data, facts=facts)
        if runtime.show_progress:
            panel("mcse train", start_panel(run, config, facts=facts, folder=folder, source=source))
        warn_of_accumulation(train, runtime)
    distributed.barrier()
    journal = Journal(folder, runtime, name=str(config.recipe), config=plain)
    return Loop(run, train, optim=optim, runtime=runtime, folder=folder, journal=journal).fit()


def finished_without_state(folder: Path) -> int | None:
    """The step that a run ended with whose states are gone, by ``train.keep_state`` or by hand; else ``None``."""
    if saved_states(folder / STATE) or not ((folder / BEST).is_dir() and (folder / LAST).is_dir()):
        return None
    found = read_run(folder)
    return found.steps if found.state == "finished" else None


def _end_again(folder: Path, finished_at: int, steps: int) -> int:
    """Leaves a finished run as it is.

    Raises:
        ValueError: More steps are asked for, which nothing is left to go on from.
    """
    if steps > finished_at:
        raise ValueError(
            f"train.resume: {folder} finished after step {finished_at} and kept no state (train.keep_state), so it "
            f"cannot go on to step {steps}. Give --overwrite to train it anew, or another output_dir with "
            f"encoder.name_or_path {folder / LAST} to train on from its weights"
        )
    if distributed.is_main():
        recover_folder(folder / STATE)  # what a kill left of deleting it
        logger.info("finished already, after step %d; kept in %s", finished_at, folder / BEST)
    return 0


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What ``run.json`` says of a run that goes on."""

    world_size: int
    data: list[DataFile]


def check_resumed(folder: Path, config: Any, run: Run) -> None:
    """Refuses to go on with a run under other settings or on other data.

    Raises:
        ValueError: Names the first key or file that differs, or a file of the run that is damaged.
    """
    try:
        recorded = read_facts(folder, _Recorded)
    except ValueError as error:
        damage = f"{folder / FACTS} is damaged, so it is unknown what was trained here"
        raise ValueError(f"train.resume: {damage}: {error}") from None
    ignored = KEYS_WITHOUT_EFFECT | KEYS_OF_LENGTH
    before = with_defaults(read_config(folder), type(config))
    for key, (old, new) in differing_keys(before, to_dict(config), ignored=ignored).items():
        raise ValueError(
            f"train.resume: {folder} was trained with {key} = {old!r}, not {new!r}; "
            "give it as it was, or another output_dir"
        )
    if recorded.world_size != distributed.world_size():
        raise ValueError(
            f"train.resume: {folder} was trained by {recorded.world_size} processes and cannot go on with "
            f"{distributed.world_size()}: each process's dropout would differ"
        )
    _check_same_data(folder, recorded.data, run.data)


def _check_same_data(folder: Path, before: Sequence[DataFile], now: Sequence[DataFile]) -> None:
    roles = {file.role for file in before}
    if unknown := sorted({file.role for file in now} - roles):
        logger.warning("train.resume: %s does not say which %s it was trained with", folder / FACTS, ", ".join(unknown))
    old, new = ({(file.role, file.digest): file for file in files} for files in (before, now))
    changed = [file for key, file in new.items() if key not in old and file.role in roles]
    gone = [file for key, file in old.items() if key not in new]
    for file in (*changed, *gone):
        raise ValueError(
            f"train.resume: {folder} was trained with other files: {file.path} ({file.role}) has changed since; put it "
            "back, or give another output_dir"
        )


def warn_of_accumulation(train: TrainConfig, runtime: Runtime) -> None:
    """Says what accumulation does not do, and which setting does."""
    if train.accumulation_steps > 1:
        batch = train.batch_size * runtime.world_size
        logger.warning(
            "train.accumulation_steps: %d batches an update average their gradients, but a query still meets the "
            "negatives of its own batch alone (%d examples, not %d). To contrast more at once in the same memory, "
            "raise train.batch_size and set train.cached_chunk_size",
            train.accumulation_steps,
            batch,
            batch * train.accumulation_steps,
        )


def start_facts(run: Run, train: TrainConfig, runtime: Runtime) -> Mapping[str, str | int | float]:
    """What people get wrong: how many processes really train together, and how large a batch really is."""
    world_size, an_epoch = runtime.world_size, run.stream.steps_per_epoch
    sizes = [(p.numel(), p.requires_grad) for p in run.model.parameters()]
    trained = sum(size for size, trains in sizes if trains)
    return {
        "processes (world size)": world_size,
        "device": str(runtime.device),
        "precision": runtime.precision,
        **({"graphs": train.graphs} if train.graphs != "off" else {}),
        "batch a process": train.batch_size,
        "global batch": train.batch_size * world_size,
        "batches an update": train.accumulation_steps,
        **({"cached chunks of": train.cached_chunk_size} if train.cached_chunk_size else {}),
        "steps": count_steps(train, steps_per_epoch=an_epoch),
        "steps an epoch": "unknown" if an_epoch is None else an_epoch // train.accumulation_steps,
        "parameters trained": f"{trained:,} of {sum(size for size, _ in sizes):,}",
        **({"best by": train.select_by} if run.metrics and train.select_by is not None else {}),
        **run.facts,
    }
