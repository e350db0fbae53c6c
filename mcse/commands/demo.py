"""``mcse demo``: the main job on the embedded picture world, from nothing to a report, without a download.

It trains SimCSE on captions as text, MCSE on captions with their images, and MCSE with the images shuffled, several
seeds each, and evaluates them by scored sentence pairs about images that no training saw.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mcse.commands import extract_features
from mcse.commands.configs import config_path
from mcse.commands.demo_report import TITLES, Scores, held_out_images, write_report
from mcse.data.test_sets.sts import load_own_task
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.errors import printable
from mcse.evaluation.suite import Subject
from mcse.evaluation.suites.retrieval import score_retrieval
from mcse.evaluation.suites.sts import score_sts
from mcse.files import claimed, write_json
from mcse.models.small_encoder import build_small_encoder
from mcse.progress import phase, progress_bar
from mcse.recipes.launch import load_config, train
from mcse.run_folder import read_metrics
from mcse.scenes import WorldConfig, build_world
from mcse.types import ScoreKey

SYSTEMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "simcse": ("mcse:demo/simcse", ()),
    "mcse": ("mcse:demo/mcse", ()),
    "mcse_shuffled": ("mcse:demo/mcse", ("--controls.images", "shuffled_images")),
}
BUILT = "built.json"
"""The last file that a demo without training writes."""

IMPORTS = [
    "mcse.training.fit",
    "mcse.recipes.simcse.method",
    "mcse.recipes.mcse.method",
    "transformers.models.bert.modeling_bert",
]
"""What a run needs, in seconds of imports."""

_SECONDS = 1.0
"""Between two looks at how far the runs are."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a system and a seed."""

    system: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    steps: int


def run(
    *,
    output: Path = Path("runs/demo"),
    seeds: int = 3,
    world_seed: int = 0,
    train_images: int = 3000,
    gold: Literal["pixels", "null"] = "pixels",
    processes: int | None = None,
    max_steps: int | None = None,
    no_training: bool = False,
) -> int:
    """Builds, trains, evaluates, reports; returns 0.

    Raises:
        ValueError: Fewer than one seed or image, or a run that failed.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, got {seeds}")
    if train_images < 1:
        raise ValueError(f"--train-images must be 1 or more, got {train_images}")
    with claimed(output):
        started = time.perf_counter()
        config = WorldConfig(seed=world_seed, num_train_images=train_images, gold=gold)
        world, jobs = _build(output, config, seeds=seeds, steps=max_steps)
        if no_training:
            built = {"seeds": seeds, "world_seed": world_seed, "train_images": train_images, "gold": gold}
            write_json(output / BUILT, built)
            return 0
        return _run(output, world, jobs, seeds=seeds, processes=processes, started=started)


def _build(output: Path, config: WorldConfig, *, seeds: int, steps: int | None) -> tuple[Path, list[Job]]:
    """The world with its images' features, and every seed's encoder."""
    _fresh(output)
    with phase("drawing the picture world"):
        world = build_world(output / "world", config=config)
    extract_features.run(
        str(world / "images"), tower="pixels:16", output=world / "features", device="cpu", overwrite=True
    )
    return world, _plan(output, world, seeds=seeds, max_steps=steps)


def _run(
    output: Path,
    world: Path,
    jobs: Sequence[Job],
    *,
    seeds: int,
    processes: int | None,
    started: float,
) -> int:
    _train_all(jobs, processes=processes or os.cpu_count() or 1)
    scores = _evaluate_all(output, world, jobs, seeds=seeds)
    runs = {system: [job.folder for job in jobs if job.system == system] for system in SYSTEMS}
    write_report(output, world, runs, scores)
    minutes = (time.perf_counter() - started) / 60
    print(printable(f"report: {output / 'report.html'} ({minutes:.1f} minutes)"))
    return 0


def _fresh(output: Path) -> None:
    """Makes the demo's own folder, or empties it; a folder with anything else in it is refused."""
    marker = output / "demo.json"
    if output.is_dir() and any(output.iterdir()):
        if not marker.is_file():
            raise ValueError(f"--output: {output} is not empty and was not made by 'mcse demo'")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    write_json(marker, {})


def _plan(output: Path, world: Path, *, seeds: int, max_steps: int | None) -> list[Job]:
    """Every seed has an untrained encoder of its own, the same for all systems."""
    with (world / "captions.csv").open(encoding="utf-8", newline="") as stream:
        texts = [row["caption"] for row in csv.DictReader(stream)]
    texts += (world / "sentences.txt").read_text(encoding="utf-8").splitlines()
    jobs = []
    for seed in range(seeds):
        with phase(f"making the untrained encoder of seed {seed}"):
            encoder = build_small_encoder(output / "encoder" / f"seed{seed}", texts=texts, seed=seed)
        for system, (name, arguments) in SYSTEMS.items():
            folder = output / system / f"seed{seed}"
            keys = {
                "output_dir": folder,
                "encoder.name_or_path": encoder,
                "data.root": world,
                "seed": seed,
            } | ({"train.max_steps": max_steps} if max_steps else {})
            overrides = [text for key, value in keys.items() for text in (f"--{key}", str(value))]
            path, given = config_path(name), (*arguments, *overrides)
            steps = load_config(path, given).train.max_steps
            jobs.append(Job(system, seed, folder, ("--config", str(path), *given), steps))
    return jobs


def _train_all(jobs: Sequence[Job], *, processes: int) -> None:
    """Runs side by side, one thread each: small models gain more from that than from threads.

    They are forked from a process that has imported what they need, which would take each of them seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    with ProcessPoolExecutor(max_workers=processes, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(_train, job.arguments) for job in jobs]
        total = sum(job.steps for job in jobs)
        with progress_bar(total=total, unit="step", title=f"training {len(jobs)} runs", smoothing=0.0) as bar:
            for job, future in zip(jobs, futures, strict=True):
                while not wait([future], timeout=_SECONDS).done:
                    bar.update(sum(map(_steps_done, jobs)) - bar.n)
                if code := future.result():
                    raise ValueError(f"{job.system}, seed {job.seed} ended with exit code {code}; see {job.folder}")
            bar.update(total - bar.n)


def _steps_done(job: Job) -> int:
    """What a run has written so far; its last line may be half there."""
    with contextlib.suppress(ValueError, OSError):
        return read_metrics(job.folder).steps
    return 0


def _train(arguments: tuple[str, ...]) -> int:
    """One run, in a process of its own; the bar over all runs stands for its own bar."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    return train(load_config(Path(arguments[1]), arguments[2:]), overwrite=True, show_progress=False)


def _evaluate_all(output: Path, world: Path, jobs: Sequence[Job], *, seeds: int) -> dict[str, Scores]:
    """By system and score, one value a seed. Systems without an image side have no recall."""
    task = load_own_task(world / "sts" / "test.tsv")
    images = held_out_images(world)

    def evaluate(folder: Path, pooling: str | None = None) -> dict[str, float]:
        subject = Subject.of(SentenceEncoder.from_pretrained(str(folder), pooling=pooling, device="cpu"))
        found = {**score_sts(subject, [task]).scores, **score_retrieval(subject, images).scores}
        return {name: found[key] for name, key in _keys(task.name).items() if key in found}

    folders = {"untrained": [output / "encoder" / f"seed{seed}" for seed in range(seeds)]}
    folders |= {system: [job.folder for job in jobs if job.system == system] for system in SYSTEMS}
    scores = {}
    for system, runs in folders.items():
        with phase(f"evaluating {TITLES[system]}"):
            found = [evaluate(run, "mean" if system == "untrained" else None) for run in runs]
        scores[system] = {name: [values[name] for values in found] for name in found[0]}
    return scores


def _keys(task: str) -> dict[str, ScoreKey]:
    recalls = {f"image_to_text_recall@{k}": ScoreKey("retrieval", "image_to_text", f"recall@{k}") for k in (1, 5)}
    return {"spearman": ScoreKey("sts", task, "spearman"), **recalls}
