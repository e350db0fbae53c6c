"""Saving and restoring what resuming needs.

Only safetensors and JSON are written and read: nothing in a run folder can execute code. The last file written into a
state holds the SHA-256 of all the others; a state that does not agree with it is never gone on from.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
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
from mcse.files import move, recover_folder, remove_folder, replacing_folder, sha256_file
from mcse.reading import read_json
from mcse.run_folder import saved_states
from mcse.types import Stateful

logger = logging.getLogger(__name__)

_DIGESTS = "digests.json"
_TENSORS = ("model", "optimizer", "stateful")
"""The safetensors files of a state."""


_MOST_BYTES = 2**32
"""A stream may save what it has read of."""


@dataclass(slots=True)
class Progress:
    """How far a run is: optimizer steps done, and the best score so far."""

    step: int = 0
    best_score: float | None = None
    best_step: int | None = None


@dataclass(frozen=True, slots=True)
class Resumable:
    """Everything that a resume must put back, beside the random states."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    scaler: Any
    stateful: Mapping[str, Stateful]

    def own_parts(self) -> dict[str, Stateful]:
        """What each process has of its own; the random states last, since putting back the others may draw."""
        return {**self.stateful, "rng": _RandomStates()}


class _RandomStates:
    """The generators of Python, NumPy and PyTorch in this process."""

    def state_dict(self) -> dict[str, Any]:
        version, keys, gauss = random.getstate()
        kind, vector, position, has_gauss, cached = np.random.get_state(legacy=True)
        return {
            "python": [version, list(keys), gauss],
            "numpy": [str(kind), int(position), int(has_gauss), float(cached)],
            "numpy_keys": torch.from_numpy(np.asarray(vector, dtype=np.int64)),
            "torch": torch.get_rng_state(),
            **({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        version, keys, gauss = state["python"]
        random.setstate((version, tuple(keys), gauss))
        kind, *rest = state["numpy"]
        np.random.set_state((kind, state["numpy_keys"].numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])


def recover_states(folder: Path) -> None:
    """``recover_folder`` for every saved state, whose number is not asked for again."""
    for path in [*folder.glob("step-*.old"), *folder.glob("step-*.partial")]:
        recover_folder(path.with_suffix(""))


def copy_state(folder: Path, resumable: Resumable, progress: Progress, *, keep: int) -> Callable[[], None]:
    """Copies the state as it is now; what is returned writes it, whatever training does meanwhile.

    It writes ``folder/step-N`` on the main process and drops all but the newest ``keep``. Every process's random states
    and ``Stateful`` parts are gathered here, so all processes must call this.
    """
    parts = {name: distributed.all_gather_object(part.state_dict()) for name, part in resumable.own_parts().items()}
    weights, optimizer = distributed.whole_states(resumable.model, resumable.optimizer)
    if not distributed.is_main():
        return lambda: None
    facts = {
        "progress": asdict(progress),
        "world_size": distributed.world_size(),
        "optimizer": optimizer["param_groups"],
        "schedule": {"last_epoch": resumable.schedule.last_epoch},
        "scaler": resumable.scaler.state_dict() if resumable.scaler is not None else None,
        "stateful": {
            name: [{key: value for key, value in state.items() if not isinstance(value, Tensor)} for state in states]
            for name, states in parts.items()
        },
    }
    own = {
        f"{name}.{rank}.{key}": value.clone()  # may be views of one, which safetensors refuses
        for name, states in parts.items()
        for rank, state in enumerate(states)
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    moments = {f"{name}.{key}": value for name, entry in optimizer["state"].items() for key, value in entry.items()}
    tensors = dict(zip(_TENSORS, (weights, moments, own), strict=True))
    return partial(_write, folder, f"step-{progress.step:08d}", tensors=tensors, facts=json.dumps(facts), keep=keep)


def _write(folder: Path, name: str, *, tensors: Mapping[str, dict[str, Tensor]], facts: str, keep: int) -> None:
    with replacing_folder(folder / name) as draft:
        for kind, content in tensors.items():
            contiguous = {key: value.detach().contiguous() for key, value in content.items()}
            save_file(contiguous, draft / f"{kind}.safetensors")
        (draft / "state.json").write_text(facts, encoding="utf-8")
        digests = {path.name: sha256_file(path) for path in sorted(draft.iterdir())}
        (draft / _DIGESTS).write_text(json.dumps(digests, indent=2), encoding="utf-8")
    for path in [*saved_states(folder)[:-keep], *folder.glob("step-*.damaged")]:
        remove_folder(path)


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
            move(folder / name, folder / f"{name}.damaged")
    return _put_back(content, resumable)


@dataclass(frozen=True, slots=True)
class _Content:
    """The files of a saved state."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
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
        digests = read_json(file, dict[str, str])
        if lacking := {"state.json", *(f"{name}.safetensors" for name in _TENSORS)} - digests.keys():
            return f"{file} lacks the digest of {min(lacking)}"
        for name, digest in digests.items():
            file = path / name
            if sha256_file(file) != digest:
                return f"{file} is damaged (its SHA-256 is not the one noted when it was saved)"
    except FileNotFoundError:
        return f"{file} is missing"
    except (ValueError, OSError) as error:
        return f"{file} cannot be read ({error})"
    return None


def _read_state(path: Path) -> _Content:
    """A whole state.

    Raises:
        ValueError: Another number of processes saved it, or it cannot be read from here.
    """
    try:
        facts = read_json(path / "state.json", dict[str, Any], most_bytes=_MOST_BYTES)
        if facts["world_size"] != distributed.world_size():
            raise ValueError(
                f"train.resume: {path} was saved by {facts['world_size']} processes and cannot go on with "
                f"{distributed.world_size()}: each process's dropout would differ"
            )
        return _Content(**{name: load_file(path / f"{name}.safetensors") for name in _TENSORS}, facts=facts)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"train.resume: {path} cannot be read by process {distributed.rank()}: {error}") from None


def _put_back(content: _Content, resumable: Resumable) -> Progress:
    facts = content.facts
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in content.optimizer.items():
        name, _, moment = key.rpartition(".")
        state.setdefault(name, {})[moment] = tensor
    distributed.put_back_states(
        resumable.model,
        resumable.optimizer,
        weights=content.model,
        state={"state": state, "param_groups": facts["optimizer"]},
    )
    resumable.schedule.last_epoch = facts["schedule"]["last_epoch"]
    _apply_schedule(resumable)
    if resumable.scaler is not None and facts["scaler"] is not None:
        resumable.scaler.load_state_dict(facts["scaler"])
    for name, part in resumable.own_parts().items():
        plain = facts["stateful"][name][distributed.rank()]
        part.load_state_dict({**plain, **dict(_below(content.stateful, f"{name}.{distributed.rank()}."))})
    return Progress(**facts["progress"])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return ((name.removeprefix(prefix), tensor) for name, tensor in tensors.items() if name.startswith(prefix))


def _apply_schedule(resumable: Resumable) -> None:
    factor = resumable.schedule.lr_lambdas[0](resumable.schedule.last_epoch)
    for group, base in zip(resumable.optimizer.param_groups, resumable.schedule.base_lrs, strict=True):
        group["lr"] = base * factor
