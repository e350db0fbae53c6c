"""The loop: steps, logging, evaluation, best and last checkpoints, resume. It knows steps, never tasks."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mcse import distributed
from mcse.cpu import return_freed_memory
from mcse.files import recover_folder, remove_folder, replacing_folder
from mcse.progress import phase, say
from mcse.run_folder import BEST, LAST, STATE
from mcse.training.config import OptimConfig, TrainConfig, count_steps
from mcse.training.gradcache import CachedForward
from mcse.training.journal import Journal
from mcse.training.meter import Meter, NotFiniteError
from mcse.training.optim import build_schedule, check_schedule, clip_gradients
from mcse.training.prefetch import Prefetcher
from mcse.training.run import Run
from mcse.training.runtime import Runtime, seed_everything
from mcse.training.screen import Screen
from mcse.training.signals import StopRequest
from mcse.training.state import (
    Progress,
    Resumable,
    copy_state,
    recover_states,
    restore_state,
)
from mcse.training.writer import Writer
from mcse.types import LossTerms, Score, to_device

MOST_SKIPPED = 50
"""Steps in a row that fp16's scaler may skip; by then it has halved its scale of 65,536 to 1e-10, and it is no use."""

logger = logging.getLogger(__name__)


class Loop:
    """Fits one ``Run``; ``fit`` returns the exit code that the process should end with.

    Args:
        run: What the recipe built.
        config: Length and cadence.
        optim: For the schedule and clipping; the optimizer itself came with the run.
        runtime: Device and processes.
        folder: The run folder, already holding ``config.yaml`` and ``run.json``.
        journal: Where numbers go.
    """

    def __init__(
        self,
        run: Run,
        config: TrainConfig,
        *,
        optim: OptimConfig,
        runtime: Runtime,
        folder: Path,
        journal: Journal,
    ) -> None:
        self.total_steps = check_run(run, config, optim=optim)
        self.run, self.config, self.optim, self.runtime = run, config, optim, runtime
        self.folder, self.journal = folder, journal
        self.is_shown = distributed.is_main() and runtime.show_progress
        accelerator = runtime.accelerator
        if config.cached_chunk_size is not None and runtime.device.type == "cpu":
            return_freed_memory()
        self.schedule = build_schedule(run.optimizer, optim, total_steps=self.total_steps)
        self.model, self.optimizer = runtime.prepare(run.model, run.optimizer)
        self.progress = Progress()
        self.skipped = 0
        self.prefetcher: Prefetcher[Any] = Prefetcher(
            run.stream,
            end=self.total_steps * config.accumulation_steps,
            carried=run.carried,
            device=runtime.device,
            # In chunks a batch stays on the host, since it may be beyond the GPU's memory.
            copies=config.cached_chunk_size is None,
        )
        self.writer = Writer()
        self.resumable = Resumable(
            model=run.model,
            optimizer=run.optimizer,
            schedule=self.schedule,
            scaler=accelerator.scaler,
            stateful={**run.state, **({"stream": self.prefetcher} if run.carried is not None else {})},
        )

    def fit(self) -> int:
        """Trains to the last step, or until a signal asks to stop; 0, 130 or 143."""
        if distributed.is_main():
            for name in (BEST, LAST):
                recover_folder(self.folder / name)
            recover_states(self.folder / STATE)
        distributed.barrier()
        # The same weights everywhere, then different dropout on every process.
        seed_everything(self.runtime.seed + 1000 * self.runtime.rank)
        if self.config.resume == "auto":
            if restored := restore_state(self.folder / STATE, self.resumable):
                self.progress = restored
                logger.warning("resumed after step %d of %d", restored.step, self.total_steps)
            # Also from the start: a run that was killed before its first save has left lines.
            self.journal.forget_after(self.progress.step)
        self.prefetcher.begin_at(self.progress.step * self.config.accumulation_steps)
        self.screen = screen = Screen(
            total=self.total_steps,
            initial=self.progress.step,
            select_by=self.config.select_by,
            is_shown=self.is_shown,
        )
        with StopRequest() as stop, self.prefetcher, self.writer, screen, contextlib.closing(self.journal):
            self.meter = self._new_meter()
            while self.progress.step < self.total_steps:
                self._step()
                screen.step()
                self._after_step()
                if code := self._stop_code(stop):
                    self._check_finite()
                    if self.meter.steps:
                        self.journal.write(self.progress.step, self._numbers())
                    self._save(with_last=True)
                    logger.warning("stopped after step %d as asked; train.resume=auto goes on", self.progress.step)
                    return code
            # Inside, so that a signal cannot cut the last save short.
            self._finish()
        self._tell_result()
        return 0

    def _stop_code(self, stop: StopRequest) -> int:
        """The exit code that some process was asked for, the same on all of them; 0 to go on."""
        if self.runtime.world_size == 1:
            return stop.exit_code
        # Processes must agree, which costs a round trip: several of them ask every log_steps only, and after what takes
        # long, since whoever asked may not wait for long.
        config = self.config
        often = (config.log_steps, config.eval_steps, config.save_steps or config.eval_steps)
        if all(self.progress.step % steps for steps in often):
            return 0
        asked = torch.tensor([stop.exit_code == 130, stop.exit_code == 143], device=self.runtime.device).long()
        interrupted, terminated = distributed.sum_over_processes(asked).tolist()
        return 130 if interrupted else 143 if terminated else 0

    def _step(self) -> None:
        accumulation = self.config.accumulation_steps
        accelerator = self.runtime.accelerator
        self.model.train()
        for micro in range(accumulation):
            self._backward(self.prefetcher.next(), share=1 / accumulation, syncs=micro == accumulation - 1)
        accelerator.unscale_gradients(self.optimizer)
        self.meter.add_step(self.progress.step + 1, clip_gradients(self.run.model, self.optim.max_grad_norm))
        self.optimizer.step()
        # Also where fp16's scaler skipped the update: the schedule follows the step number and ends where the run ends.
        self.schedule.step()
        self.optimizer.zero_grad()
        self.progress.step += 1

    def _backward(self, batch: Any, *, share: float, syncs: bool) -> None:
        accelerator, device = self.runtime.accelerator, self.runtime.device
        cached = self._cached(batch) if self.config.cached_chunk_size is not None else None
        with contextlib.nullcontext() if syncs else accelerator.no_sync(self.model):
            with accelerator.autocast():
                # Images go to the device with their chunk alone; the loss reads ids and labels.
                moved = to_device(batch, device, images=cached is None)
                terms = self.run.step(cast(nn.Module, cached or self.model), moved)
            loss = total_loss(terms, device=device)
            accelerator.backward(loss * share)
        if cached is not None:
            cached.backward(syncs=syncs)
        self.meter.add_batch(self.progress.step + 1, loss, terms)

    def _cached(self, batch: Any) -> CachedForward:
        assert self.config.cached_chunk_size is not None
        accelerator = self.runtime.accelerator
        return CachedForward(
            self.model,
            batch,
            chunk_size=self.config.cached_chunk_size,
            device=self.runtime.device,
            autocast=accelerator.autocast,
            no_sync=lambda: accelerator.no_sync(self.model),
        )

    def _after_step(self) -> None:
        step, config = self.progress.step, self.config
        self.writer.check()
        is_last = step == self.total_steps
        evaluates = (step % config.eval_steps == 0 or is_last) and bool(self.run.evaluators)
        saves = step % (config.save_steps or config.eval_steps) == 0 and not is_last
        if not (evaluates or saves or is_last or step % config.log_steps == 0):
            return
        self._check_finite()
        values = self._numbers()
        self.journal.write(step, values)
        self.screen.losses(step, values, is_due=evaluates or is_last)
        if evaluates:
            self._evaluate()
        if saves:
            self._save(with_last=False)
        self.meter = self._new_meter()

    def _new_meter(self) -> Meter:
        return Meter(watches_gradients=self.resumable.scaler is None, skipped=self.skipped)

    def _check_finite(self) -> None:
        """Raises if a loss or gradient since the last check was not finite; before anything is saved or selected."""
        if found := self.meter.first_not_finite():
            step, kind = found
            raise NotFiniteError(
                f"the {kind} is not finite at step {step}; nothing was saved since. "
                f"{self._kept()} Lower optim.learning_rate, or train with train.precision fp32"
            )
        if self.resumable.scaler is None:
            return
        self.skipped = self.meter.skipped_in_a_row()
        if self.skipped >= min(MOST_SKIPPED, self.total_steps):
            raise NotFiniteError(
                f"the gradients of {self.skipped} steps in a row up to step {self.progress.step} were not finite, so "
                f"fp16's scaler skipped these steps and nothing was learnt in them. {self._kept()} Train with "
                "train.precision bf16 or fp32"
            )

    def _kept(self) -> str:
        kept = [str(self.folder / name) for name in (BEST, LAST) if (self.folder / name).is_dir()]
        return f"Kept: {', '.join(kept)}." if kept else "No checkpoint had been saved yet."

    def _numbers(self) -> dict[str, float]:
        """Means over all processes since the last line."""
        config = self.config
        return self.meter.numbers(
            learning_rate=float(self.run.optimizer.param_groups[0]["lr"]),
            examples_per_step=config.batch_size * config.accumulation_steps * self.runtime.world_size,
        )

    def _evaluate(self) -> None:
        with phase("dev evaluation", is_shown=self.is_shown):
            scores = self._scores()
        self.journal.write_scores(self.progress.step, scores)
        chosen = scores.get(self.config.select_by or "")
        is_best = chosen is not None and self._is_better(chosen)
        self.screen.scores(self.progress.step, scores, is_best=is_best)
        if chosen is None:
            if self.config.select_by is not None:
                logger.warning("step %d: %s is undefined, so best/ stays", self.progress.step, self.config.select_by)
            return
        if is_best:
            self.progress.best_score, self.progress.best_step = chosen.value, self.progress.step
            self._export(BEST, scores)

    def _is_better(self, score: Score) -> bool:
        best = self.progress.best_score
        if best is None:
            return math.isfinite(score.value)
        return score.value > best if score.higher_is_better else score.value < best

    def _scores(self) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        with self.runtime.whole_for_forward(self.run.model):
            for evaluator in self.run.evaluators:
                scores |= evaluator()
        return scores

    def _save(self, *, with_last: bool) -> None:
        self.writer.wait(STATE)
        write = copy_state(self.folder / STATE, self.resumable, self.progress, keep=self.config.save_total_limit)
        self.writer.submit(STATE, write)
        if with_last:
            self._export(LAST, {})
            self._wait()

    def _export(self, name: str, scores: Mapping[str, Score]) -> None:
        self.writer.wait(name)

        def write() -> None:
            with contextlib.ExitStack() as stack:
                draft = stack.enter_context(replacing_folder(self.folder / name))
                self.run.export(draft, scores)
                # The files hold the weights of now; forcing them to the disk and renaming takes longest.
                self.writer.submit(name, stack.pop_all().close)

        with phase(f"saving {self.folder / name}", is_shown=self.is_shown):
            distributed.on_main_with_whole_weights(self.run.model, write)
        distributed.barrier()

    def _finish(self) -> None:
        self._save(with_last=True)
        if self.progress.best_step is None:
            # Nothing selected: best is then the last.
            self._export(BEST, {})
            self._wait()
        if not self.config.keep_state and distributed.is_main():
            # Last of all, and by one rename: a kill before it leaves a run that resumes, one after it a finished run.
            remove_folder(self.folder / STATE)

    def _wait(self) -> None:
        with phase(f"writing {self.folder} to the disk", is_shown=self.is_shown):
            self.writer.wait()

    def _tell_result(self) -> None:
        progress, best = self.progress, ""
        if progress.best_step is not None:
            best = f"; best {self.config.select_by} {progress.best_score:.2f} at step {progress.best_step:,}"
        if self.is_shown:
            say(f"{self.screen.finished}{best}; the model is in {self.folder / BEST}")


def total_loss(terms: LossTerms, *, device: torch.device) -> Tensor:
    """The scalar this process differentiates: Σ weight · sum · processes / count over all processes.

    DDP averages gradients over processes, so the average is the gradient of Σ weight · (global sum / global count):
    what one process would get on the whole batch.
    """
    names = [name for name, term in terms.items() if term.is_loss]
    counts = torch.stack([terms[name].count_on(device) for name in names])
    counts = distributed.sum_over_processes(counts).clamp(min=1)
    world_size = distributed.world_size()
    parts = [
        terms[name].sum * (terms[name].weight * world_size) / count
        for name, count in zip(names, counts.unbind(), strict=True)
    ]
    return torch.stack(parts).sum()


def check_run(run: Run, config: TrainConfig, *, optim: OptimConfig) -> int:
    """The number of optimizer steps; to be asked before a folder is touched.

    Raises:
        ValueError: ``train.select_by`` names no score of this run, or the run is shorter than a step or its warm-up.
    """
    if run.metrics and config.select_by is not None and config.select_by not in run.metrics:
        raise ValueError(f"train.select_by: {config.select_by!r} is not among {', '.join(run.metrics)}")
    total_steps = count_steps(config, steps_per_epoch=run.stream.steps_per_epoch)
    check_schedule(optim, total_steps=total_steps)
    return total_steps
