"""Saving and restoring what resuming needs, and replacing folders so that a crash at any moment loses nothing.

Only safetensors and JSON are written and read: nothing in a run folder can execute code.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mcse import distributed
from mcse.types import Stateful

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """How far a run is: optimizer steps done, and the best score so far."""

    step: int = 0
    best_score: float | None = None
    best_step: int | None = None


@dataclass(frozen=True, slots=True)
class Resumable:
    """Everything that a resume must put back."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    scaler: Any
    stateful: Mapping[str, Stateful]


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a folder beside its place and moves it there whole.

    A crash leaves the old folder, the new one, or for an instant the old one as ``<name>.old``, which
    ``recover_folder`` puts back; never a half-written one.
    """
    partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        _sync(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Undoes what a crash inside ``replace_folder`` left."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(folder.with_name(folder.name + ".partial"), ignore_errors=True)


def recover_states(folder: Path) -> None:
    """``recover_folder`` for every saved state, whose number nobody may ask for again."""
    for path in [*folder.glob("step-*.old"), *folder.glob("step-*.partial")]:
        recover_folder(path.with_suffix(""))


def save_state(folder: Path, resumable: Resumable, progress: Progress, *, keep: int) -> None:
    """Saves ``folder/step-N`` on the main process and drops all but the newest ``keep``.

    Every process's random states and ``Stateful`` parts are gathered, so all processes must call this.
    """
    rng = distributed.all_gather_object(_rng_state())
    parts = {name: distributed.all_gather_object(part.state_dict()) for name, part in resumable.stateful.items()}
    model_state = distributed.whole_state(resumable.model.state_dict())
    optimizer_state = distributed.whole_state(resumable.optimizer.state_dict())
    if not distributed.is_main():
        return

    def write(partial: Path) -> None:
        save_file(_unique(model_state), partial / "model.safetensors")
        tensors, plain = _split(optimizer_state)
        save_file(tensors, partial / "optimizer.safetensors")
        save_file(
            {f"{rank}.{name}": t for rank, (t_by_name, _) in enumerate(rng) for name, t in t_by_name.items()},
            partial / "rng.safetensors",
        )
        facts = {
            "progress": asdict(progress),
            "world_size": distributed.world_size(),
            "optimizer": plain,
            "schedule": {"last_epoch": resumable.schedule.last_epoch},
            "scaler": resumable.scaler.state_dict() if resumable.scaler is not None else None,
            "rng": [plain_rng for _, plain_rng in rng],
            "stateful": {name: [_plain_of(state) for state in states] for name, states in parts.items()},
        }
        save_file(
            {
                f"{name}.{rank}.{key}": value.detach().cpu().contiguous().clone()
                for name, states in parts.items()
                for rank, state in enumerate(states)
                for key, value in state.items()
                if isinstance(value, Tensor)
            },
            partial / "stateful.safetensors",
        )
        (partial / "state.json").write_text(json.dumps(facts), encoding="utf-8")

    replace_folder(folder / f"step-{progress.step:08d}", write)
    for path in saved_states(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def saved_states(folder: Path) -> list[Path]:
    """Whole saved states, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())


def restore_state(folder: Path, resumable: Resumable) -> Progress | None:
    """Puts back the newest saved state; ``None`` if there is none.

    Raises:
        ValueError: It was saved by another number of processes, whose shares of the random draws would not fit; or a
            file of it is missing or damaged.
    """
    saved = saved_states(folder)
    if not saved:
        return None
    path = saved[-1]
    facts = _read_json(path / "state.json")
    if facts["world_size"] != distributed.world_size():
        raise ValueError(
            f"train.resume: {path} was saved by {facts['world_size']} processes and cannot go on with "
            f"{distributed.world_size()}: each process's dropout would differ"
        )
    _load_model(resumable.model, _read_tensors(path / "model.safetensors"))
    _load_optimizer(resumable.optimizer, _join(_read_tensors(path / "optimizer.safetensors"), facts["optimizer"]))
    resumable.schedule.last_epoch = facts["schedule"]["last_epoch"]
    _apply_schedule(resumable)
    if resumable.scaler is not None and facts["scaler"] is not None:
        resumable.scaler.load_state_dict(facts["scaler"])
    rank = distributed.rank()
    tensors = _read_tensors(path / "stateful.safetensors")
    for name, part in resumable.stateful.items():
        prefix = f"{name}.{rank}."
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        part.load_state_dict({**facts["stateful"][name][rank], **own})
    tensors = _read_tensors(path / "rng.safetensors")
    prefix = f"{rank}."
    own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    _set_rng_state(own, facts["rng"][rank])
    return Progress(**facts["progress"])


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    return tensors


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"train.resume: {path} cannot be read ({error}); delete {path.parent} to go on from an earlier save where "
        "there is one, or leave train.resume out and give --overwrite to start over"
    )


def _apply_schedule(resumable: Resumable) -> None:
    factor = resumable.schedule.lr_lambdas[0](resumable.schedule.last_epoch)
    for group, base in zip(resumable.optimizer.param_groups, resumable.schedule.base_lrs, strict=True):
        group["lr"] = base * factor


def _sync(folder: Path) -> None:
    """Forces what was written to the disk, so that the rename cannot overtake it, and lets others read it.

    safetensors makes its files readable for their owner alone; a checkpoint is as public as its folder.
    """
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _unique(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, without those that share memory with an earlier one (safetensors refuses them)."""
    seen: set[int] = set()
    unique = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        unique[name] = tensor.detach().cpu().contiguous()
    return unique


def _restore_tied(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The saved tensors and, for names that share memory with one, the same tensor again."""
    first: dict[int, str] = {}
    for name, tensor in model.state_dict().items():
        known = first.setdefault(tensor.data_ptr(), name)
        if name not in tensors and known in tensors:
            tensors[name] = tensors[known]
    return tensors


def _load_model(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Whole tensors into a model, each process taking the part that it holds."""
    held = model.state_dict()
    whole = _restore_tied(tensors, model)
    model.load_state_dict({name: distributed.cut_like(tensor, held[name]) for name, tensor in whole.items()})


def _load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Whole tensors into an optimizer, each process taking the part of the parameters that it holds."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entry in state["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.shape == parameters[index].shape:
                entry[name] = distributed.cut_like(value, parameters[index])
    optimizer.load_state_dict(state)


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by ``parameter.name`` and plain values."""
    tensors, plain = {}, {}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous().clone()
            else:
                plain[f"{index}.{name}"] = value
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def _join(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *plain["state"].items()]:
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": plain["param_groups"]}


def _plain_of(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not isinstance(value, Tensor)}


def _rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    version, keys, gauss = random.getstate()
    kind, vector, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(vector, dtype=np.int64))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    plain = {
        "python": [version, list(keys), gauss],
        "numpy": [str(kind), int(position), int(has_gauss), float(cached)],
    }
    return tensors, plain


def _set_rng_state(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    version, keys, gauss = plain["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, position, has_gauss, cached = plain["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
