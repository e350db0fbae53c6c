"""Device, precision, seed and processes of a run: where Accelerate is set up."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)
from torch import nn
from torch.optim import Optimizer

from mcse import distributed
from mcse.cpu import ensure_bfloat16
from mcse.training.config import Graphs, Precision

_DISTRIBUTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
_ACCELERATE_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True, slots=True)
class Runtime:
    """The processes and the device that a run has."""

    accelerator: Accelerator
    precision: Precision
    seed: int
    show_progress: bool = True

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return torch.device(self.accelerator.device)

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return distributed.rank()

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return distributed.world_size()

    @property
    def tf32(self) -> bool:
        """Whether matrix products in float32 on a GPU are rounded to TF32."""
        return bool(torch.backends.cuda.matmul.allow_tf32)

    @property
    def cuts_weights(self) -> bool:
        """Whether each process holds a part of the weights (FSDP)."""
        return bool(self.accelerator.is_fsdp2)

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
        """The model and optimizer for these processes; under FSDP the given ones are changed in place."""
        if self.cuts_weights:
            prepared: tuple[nn.Module, Any] = self.accelerator.prepare(model, optimizer)
            return prepared
        # Positions and the like are the same everywhere; running means are not, and evaluation reads them.
        moves = any(buffer.is_floating_point() for buffer in model.buffers())
        self.accelerator.ddp_handler = DistributedDataParallelKwargs(
            broadcast_buffers=moves, gradient_as_bucket_view=True
        )
        with warnings.catch_warnings():
            # Accelerate has no other name for it yet.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            wrapped = self.accelerator.prepare_model(model)
        return wrapped, self.accelerator.prepare_optimizer(optimizer)

    def whole_for_forward(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, parts of the model may be called alone; all processes must enter."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        return distributed.whole_for_forward(model, cuts_again=plugin is not None and plugin.reshard_after_forward)


def start_runtime(
    *,
    precision: Precision,
    seed: int,
    trackers: Sequence[str] = (),
    project_dir: Path | None = None,
    show_progress: bool = True,
    timeout_minutes: float = 30.0,
    tf32: bool = False,
    graphs: Graphs = "off",
) -> Runtime:
    """Joins the process group and seeds every generator the same, so that all processes build the same weights.

    ``timeout_minutes`` is how long a process waits for another in any exchange before it gives up.

    Raises:
        ValueError: A parallel training that is not supported; the precision, TF32 or CUDA graphs do not exist on this
            device; a tracker is not installed; or the processes that the launcher started did not find each other (they
            would each train alone and write into the same folder).
    """
    cuda = torch.cuda.is_available()
    for name in ("DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ValueError(f"{name}: not supported; launch with a file of configs/accelerate")
    _forget_other_precision(_ACCELERATE_PRECISION[precision])
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision=_ACCELERATE_PRECISION[precision],
        log_with=list(trackers) or None,
        project_dir=str(project_dir) if project_dir else None,
        # What is not given here, Accelerate takes from its environment variables: it would divide each loss by their
        # number of accumulation steps, beside train.accumulation_steps, and compile the model.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="NO",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=timeout_minutes))],
    )
    distributed.check_world()
    if accelerator.distributed_type not in _DISTRIBUTED:
        raise ValueError(
            f"{accelerator.distributed_type.value}: not supported; launch with a file of configs/accelerate"
        )
    _check_sharding(accelerator)
    started = {str(tracker) for tracker in accelerator.log_with}
    if lacking := sorted(set(trackers) - started):
        raise ValueError(f"train.trackers: {lacking[0]} is not installed (pip install 'mcse[{lacking[0]}]')")
    _check_device(accelerator, precision=precision, tf32=tf32, graphs=graphs)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    if precision == "bf16" and accelerator.device.type == "cpu":
        ensure_bfloat16()
    seed_everything(seed)
    return Runtime(accelerator=accelerator, precision=precision, seed=seed, show_progress=show_progress)


def _forget_other_precision(precision: str) -> None:
    """Lets a second run of a process have a precision of its own; Accelerate keeps the first one's for good.

    The process group stays.
    """
    if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()


def _check_device(accelerator: Accelerator, *, precision: Precision, tf32: bool, graphs: Graphs) -> None:
    """Refuses what only a GPU has elsewhere, and graphs of weights that are cut."""
    if accelerator.device.type != "cuda":
        if precision == "fp16":
            raise ValueError(f"train.precision: fp16 needs a CUDA device, not {accelerator.device}; use bf16 or fp32")
        if tf32:
            raise ValueError(f"train.tf32: needs a CUDA device, not {accelerator.device}; leave it false")
        if graphs == "cuda_graphs":
            raise ValueError(
                f"train.graphs: cuda_graphs needs a CUDA device, not {accelerator.device}; use compile or off"
            )
    if graphs != "off" and accelerator.is_fsdp2:
        raise ValueError("train.graphs: FSDP cuts the weights that a graph would hold; leave it off")


def _check_sharding(accelerator: Accelerator) -> None:
    """Refuses FSDP that Accelerate would leave out without a word, or of the older kind.

    Accelerate 1.15 looks at its FSDP settings only where processes have accelerators of their own; several processes on
    CPUs get DDP.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return
    if accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"FSDP: Accelerate leaves it out here ({accelerator.distributed_type.value} on {accelerator.device}), and "
            "each process would hold all weights; it needs GPUs. Launch with another file of configs/accelerate"
        )
    if not accelerator.is_fsdp2:
        raise ValueError("FSDP: fsdp_version 1 is not supported; set fsdp_version: 2 in the file that accelerate reads")


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
