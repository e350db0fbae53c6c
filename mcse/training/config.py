"""The configuration groups ``train`` and ``optim``: how long, how often and by what a run is trained; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
Graphs = Literal["off", "compile", "cuda_graphs"]
_MOST_MINUTES = 365 * 24 * 60

Tracker = Literal["wandb", "tensorboard"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Length, cadence and selection of a run; give ``max_steps`` or ``epochs``."""

    batch_size: int
    """Examples in a process's forward pass; with several processes, the negatives are those of all of them."""

    max_steps: int | None = None
    """Optimizer steps of the whole run; ``null`` if ``epochs`` says how long it is."""

    epochs: float | None = None
    """Passes over the data, also fractions; ``null`` if ``max_steps`` says how long the run is."""

    accumulation_steps: int = 1
    """Batches whose gradients are averaged into one optimizer step; this adds no negatives."""

    cached_chunk_size: int | None = None
    """Examples that pass through the model at a time, with the loss, negatives and gradient of the whole batch.

    For batches beyond memory, at the price of a second forward pass; ``null`` passes the batch in one piece.
    Source: GradCache (Gao et al. 2021).
    """

    eval_steps: int = 125
    """Optimizer steps between evaluations on the dev set. Source: SimCSE's run_unsup_example.sh."""

    save_steps: int | None = None
    """Optimizer steps between states that a run can resume from; ``null`` is as often as it evaluates."""

    save_total_limit: int = 2
    """States that are kept; with 2, a damaged newest one costs the steps since the one before, not the run."""

    keep_state: bool = True
    """Whether the states of a finished run stay, so that more ``max_steps`` extend it; they are most of its bytes."""

    timeout_minutes: float = 30.0
    """Minutes a process waits for another that hangs. Source: gloo's own default."""

    log_steps: int = 10
    """Optimizer steps between lines of ``metrics.jsonl``; each costs a wait for the device."""

    precision: Precision = "fp32"
    """Of forward passes; weights and sums stay in fp32.

    ``fp16`` needs a CUDA device. A step whose gradient is not finite is skipped; 50 of them in a row end the run.
    """

    tf32: bool = False
    """Whether matrix products in float32 on a GPU are rounded to TF32: faster, to three decimal digits.

    Convolutions and recurrent layers take TF32 there either way, as PyTorch has it.
    """

    graphs: Graphs = "off"
    """How the encoder's training passes are launched: one kernel at a time, compiled, or replayed as CUDA graphs.

    With either kind of graph batches are padded to a few widths, which are quantiles of the batches' own, so that there
    are few graphs. ``cuda_graphs`` needs a CUDA device, and packs where ``encoder.packing`` allows it.
    """

    select_by: str | None = "stsb_dev.spearman"
    """The dev score that picks ``best/``; ``null`` keeps the last weights, and needs none. Source: SimCSE: STS-B dev.

    With a file as ``data.sts``, or tables to ``evaluate`` on, the default is the score of that file or first table.
    """

    resume: Literal["never", "auto"] = "never"
    """``auto`` goes on from the newest state in ``output_dir``, or starts where there is none."""

    trackers: tuple[Tracker, ...] = ()
    """Services that get the numbers of ``metrics.jsonl`` too."""

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("train.max_steps, train.epochs: give exactly one of them, and null for the other")
        for key in (
            "batch_size",
            "max_steps",
            "accumulation_steps",
            "cached_chunk_size",
            "eval_steps",
            "save_steps",
            "save_total_limit",
            "log_steps",
        ):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"train.{key}: must be 1 or more, got {value}")
        if self.cached_chunk_size is not None and self.cached_chunk_size >= self.batch_size:
            raise ValueError(
                f"train.cached_chunk_size: {self.cached_chunk_size} would do nothing, since train.batch_size is "
                f"{self.batch_size}"
            )
        for key in ("epochs", "timeout_minutes"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"train.{key}: must be positive, got {value}")
        if self.timeout_minutes > _MOST_MINUTES:
            raise ValueError(
                f"train.timeout_minutes: must be at most {_MOST_MINUTES} (a year), got {self.timeout_minutes}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule."""

    learning_rate: float
    """The peak rate, reached after ``warmup_steps``."""

    max_grad_norm: float = 1.0
    """L2 norm that the gradient of all parameters together is scaled down to. Source: transformers' ``Trainer``."""

    weight_decay: float = 0.0
    """Decay a step, times the rate, of weight matrices; biases and norms have none. Source: SimCSE uses none."""

    beta1: float = 0.9
    """AdamW's decay of the gradient's running mean. Source: Kingma & Ba 2015, algorithm 1."""

    beta2: float = 0.999
    """AdamW's decay of the squared gradient's running mean. Source: Kingma & Ba 2015, algorithm 1."""

    epsilon: float = 1e-8
    """AdamW's addition to the denominator. Source: Kingma & Ba 2015, algorithm 1."""

    schedule: Literal["linear", "constant"] = "linear"
    """After the warm-up, ``linear`` falls to 0 at the last step. Source: transformers' ``Trainer``, used by SimCSE."""

    warmup_steps: int = 0
    """Optimizer steps in which the rate rises linearly to its peak. Source: SimCSE uses none."""

    optimizer: Literal["adamw", "adamw_hf", "adagrad", "sgd"] = "adamw"
    """``adamw`` unless a published run needs another.

    ``adamw_hf`` adds epsilon before the bias correction, as transformers' own AdamW did until version 4; its default
    epsilon was 1e-6. Source: MCSE's released code, with transformers 4.8.2.
    """

    initial_accumulator: float = 0.0
    """Where ``adagrad``'s sums of squares start; 0 for other optimizers."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"optim.learning_rate: must be positive, got {self.learning_rate}")
        if self.max_grad_norm <= 0:
            raise ValueError(f"optim.max_grad_norm: must be positive, got {self.max_grad_norm}")
        if self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps: must be 0 or more, got {self.warmup_steps}")
        if self.initial_accumulator < 0 or (self.initial_accumulator and self.optimizer != "adagrad"):
            raise ValueError(
                f"optim.initial_accumulator: must be 0 or more, and 0 but for adagrad, got {self.initial_accumulator} "
                f"for {self.optimizer}"
            )
        for key, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"optim.{key}: must be in [0, 1), got {value}")
        if self.epsilon < 0:
            raise ValueError(f"optim.epsilon: must be 0 or more, got {self.epsilon}")
        if self.optimizer not in ("adamw", "adamw_hf") and (self.beta1, self.beta2, self.epsilon) != (0.9, 0.999, 1e-8):
            raise ValueError(f"optim.beta1, optim.beta2, optim.epsilon: {self.optimizer} has none of them")

    def factor(self, step: int, *, total_steps: int) -> float:
        """What the peak learning rate is multiplied by at ``step``, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        return max(0.0, (total_steps - step) / max(1, total_steps - self.warmup_steps))


@dataclass(frozen=True, kw_only=True, slots=True)
class SteppedOptimConfig(OptimConfig):
    """``OptimConfig`` whose rate also falls in steps."""

    decay_steps: int | None = None
    """Optimizer steps after each of which the rate is multiplied by ``decay_factor``; ``null`` leaves it alone."""

    decay_factor: float = 0.1
    """What the rate is multiplied by after each ``decay_steps``. Source: VSE++'s training script."""

    def __post_init__(self) -> None:
        # A slotted dataclass is another class than the one that super() without arguments means.
        OptimConfig.__post_init__(self)
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ValueError(f"optim.decay_steps: must be 1 or more, got {self.decay_steps}")
        if not 0 < self.decay_factor <= 1:
            raise ValueError(f"optim.decay_factor: must be above 0 and at most 1, got {self.decay_factor}")
        if self.decay_steps is None and self.decay_factor != 0.1:
            raise ValueError(f"optim.decay_factor: {self.decay_factor} would do nothing without optim.decay_steps")

    def factor(self, step: int, *, total_steps: int) -> float:
        """As ``OptimConfig.factor``, times the decay so far."""
        plain = OptimConfig.factor(self, step, total_steps=total_steps)
        return plain if self.decay_steps is None else plain * self.decay_factor ** (step // self.decay_steps)


def count_steps(config: TrainConfig, *, steps_per_epoch: int | None) -> int:
    """Optimizer steps of the whole run.

    Raises:
        ValueError: ``train.epochs`` is less than one step, or given although the length of an epoch is unknown.
    """
    if config.max_steps is not None:
        return config.max_steps
    assert config.epochs is not None
    if steps_per_epoch is None:
        raise ValueError(
            "train.epochs: data.sentences.stream does not count them, so the length of an epoch is unknown; give "
            "train.max_steps"
        )
    steps = math.floor(config.epochs * steps_per_epoch / config.accumulation_steps)
    if steps < 1:
        raise ValueError(f"train.epochs: {config.epochs} of {steps_per_epoch} batches is less than one step")
    return steps
