"""Saving and restoring what resuming needs, and replacing folders so that a crash at any moment loses nothing.

Only safetensors and JSON are written and read: nothing in a run folder can execute code. The last file written into a
state holds the SHA-256 of all the others; a state that does not agree with it is never gone on from.
"""

from __future__ import annotations

import contextlib
import hashlib
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
from mcse.run_folder import saved_states
from mcse.types import Stateful

logger = logging.getLogger(__name__)

_DIGESTS = "digests.json"


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

    Raises:
        OSError: The disk is full, cannot be written to or fails; the old folder is still there.
    """
    partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        _sync(partial)
    except SafetensorError as error:
        shutil.rmtree(partial, ignore_errors=True)
        # safetensors has an error of its own for a full disk.
        raise OSError(f"{folder} cannot be written: {error}") from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(partial, folder)
    _sync_names(folder.parent)
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
        digests = {path.name: _digest(path) for path in sorted(partial.iterdir())}
        (partial / _DIGESTS).write_text(json.dumps(digests, indent=2), encoding="utf-8")

    replace_folder(folder / f"step-{progress.step:08d}", write)
    for path in [*saved_states(folder)[:-keep], *folder.glob("step-*.damaged")]:
        _remove(path)


def restore_state(folder: Path, resumable: Resumable) -> Progress | None:
    """Puts back the newest saved state that is whole; ``None`` if there is none at all.

    Damaged ones are warned of by file and renamed to ``step-N.damaged``, so that they no longer count as kept; the next
    save deletes them. All processes must call this, and all take the same state.

    Raises:
        ValueError: It was saved by another number of processes, whose shares of the random draws would not fit; or
            every saved state is damaged, with the first damaged file of each.
    """
    found = distributed.broadcast_object(_find_whole(folder) if distributed.is_main() else None)
    assert found is not None
    path, damages = found
    if path is None:
        if not damages:
            return None
        raise ValueError(
            f"train.resume: no saved state in {folder} is whole: {'; '.join(damages.values())}. Leave train.resume out "
            "and give --overwrite to start over (copy best/ first if you want to keep it)"
        )
    # Everything is read before anything is put back, and a process that cannot read it stops all of them.
    content = distributed.fail_together(lambda: _read_state(path))
    if distributed.is_main():
        for name, damage in damages.items():
            logger.warning("train.resume: %s; going on from %s, the state before", damage, path)
            damaged = folder / f"{name}.damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            os.rename(folder / name, damaged)
    return _put_back(content, resumable)


@dataclass(frozen=True, slots=True)
class _Content:
    """The files of a saved state."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]
    stateful: dict[str, Tensor]
    facts: dict[str, Any]


def _find_whole(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The newest whole state, and what is wrong with each newer one, by the name of its folder."""
    damages: dict[str, str] = {}
    for path in reversed(saved_states(folder)):
        damage = _damage(path)
        if damage is None:
            return path, damages
        damages[path.name] = damage
    return None, damages


def _damage(path: Path) -> str | None:
    """What is wrong with the files of a saved state, naming the first such file; ``None`` if nothing is."""
    file = path / _DIGESTS
    try:
        digests = json.loads(file.read_text(encoding="utf-8"))
        for name, digest in digests.items():
            file = path / name
            if _digest(file) != digest:
                return f"{file} is damaged (its SHA-256 is not the one noted when it was saved)"
    except FileNotFoundError:
        return f"{file} is missing"
    except (ValueError, AttributeError, OSError) as error:
        return f"{file} cannot be read ({error})"
    return None


def _read_state(path: Path) -> _Content:
    """A whole state.

    Raises:
        ValueError: Another number of processes saved it, or it cannot be read from here.
    """
    try:
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if facts["world_size"] != distributed.world_size():
            raise ValueError(
                f"train.resume: {path} was saved by {facts['world_size']} processes and cannot go on with "
                f"{distributed.world_size()}: each process's dropout would differ"
            )
        parts = {name: load_file(path / f"{name}.safetensors") for name in ("model", "optimizer", "rng", "stateful")}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"train.resume: {path} cannot be read by process {distributed.rank()}: {error}") from None
    return _Content(**parts, facts=facts)


def _put_back(content: _Content, resumable: Resumable) -> Progress:
    facts, rank = content.facts, distributed.rank()
    _load_model(resumable.model, content.model)
    _load_optimizer(resumable.optimizer, _join(content.optimizer, facts["optimizer"]))
    resumable.schedule.last_epoch = facts["schedule"]["last_epoch"]
    _apply_schedule(resumable)
    if resumable.scaler is not None and facts["scaler"] is not None:
        resumable.scaler.load_state_dict(facts["scaler"])
    for name, part in resumable.stateful.items():
        own = _with_prefix(content.stateful, f"{name}.{rank}.")
        part.load_state_dict({**facts["stateful"][name][rank], **own})
    _set_rng_state(_with_prefix(content.rng, f"{rank}."), facts["rng"][rank])
    return Progress(**facts["progress"])


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    """Deletes a state; renamed first, so that a kill in the middle leaves no state that looks whole."""
    partial = folder.with_name(folder.name + ".partial")
    with contextlib.suppress(OSError):
        os.rename(folder, partial)
        shutil.rmtree(partial)


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
        else:
            _sync_names(path)
    _sync_names(folder)


def _sync_names(folder: Path) -> None:
    """Forces to the disk which files a folder holds; some network file systems cannot, and need not."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


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
