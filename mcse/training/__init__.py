"""The training loop: steps, precision, processes, checkpoints; never tasks."""

from mcse.training.fit import check_folder, claim_folder, fit
from mcse.training.loop import Loop, NotFiniteError, TrainConfig, check_run, count_steps, total_loss
from mcse.training.optim import OptimConfig, SteppedOptimConfig, build_optimizer, build_schedule
from mcse.training.run import Run
from mcse.training.runtime import Runtime, start_runtime

__all__ = [
    "Loop",
    "NotFiniteError",
    "OptimConfig",
    "Run",
    "Runtime",
    "SteppedOptimConfig",
    "TrainConfig",
    "build_optimizer",
    "build_schedule",
    "check_folder",
    "check_run",
    "claim_folder",
    "count_steps",
    "fit",
    "start_runtime",
    "total_loss",
]
