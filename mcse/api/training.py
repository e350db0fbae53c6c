"""``mcse.train``: from a configuration to a finished run, in the process that calls it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcse.api.extras import import_pandas
from mcse.api.wording import names_arguments
from mcse.commands.configs import config_path
from mcse.config import to_dict
from mcse.recipes import launch
from mcse.run_folder import Metrics, read_run

if TYPE_CHECKING:
    import pandas as pd

    from mcse.encoders.loading import AnyEncoder


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FinishedRun:
    """A run that has been trained to its last step.

    Attributes:
        folder: The run folder; ``mcse.evaluate`` and every command take it.
        score_name: The dev score that chose ``best/`` (``train.select_by``); ``None`` where none did.
        score: Its best value; ``None`` where it was never defined, and ``best/`` is then the last step's model.
        best_step: The step at which it was reached.
        steps: How many steps were trained.
        metrics: Every number of ``metrics.jsonl`` by name, and of each score which way is better.
    """

    folder: Path
    score_name: str | None
    score: float | None
    best_step: int | None
    steps: int
    metrics: Metrics

    @classmethod
    def read(cls, folder: str | Path) -> FinishedRun:
        """The run in a folder, as ``mcse.train`` returned it when it ended.

        Raises:
            ValueError: The folder holds no finished run, or a file of it is damaged.
        """
        run = read_run(Path(folder))
        if run.state != "finished":
            raise ValueError(f"{folder} is {run.state}, after step {run.steps}; train={{'resume': 'auto'}} goes on")
        step, score = run.best or (None, None)
        return cls(
            folder=run.folder,
            score_name=run.select_by,
            score=score,
            best_step=step,
            steps=run.steps,
            metrics=run.metrics,
        )

    def __repr__(self) -> str:
        best = "" if self.score is None else f", best {self.score_name} {self.score:.2f} after step {self.best_step}"
        return f"run in {self.folder}: {self.steps} steps{best}"

    @property
    def history(self) -> pd.DataFrame:
        """Losses and dev scores: a row a step that was written down, a column a number, NaN where it lacks.

        Raises:
            ImportError: pandas is not installed; ``metrics.series`` holds the same numbers without it.
        """
        pandas = import_pandas("history")
        columns = {name: pandas.Series(dict(points)) for name, points in self.metrics.series.items()}
        return pandas.DataFrame(columns).sort_index().rename_axis("step")

    def encoder(self, *, device: str | None = None) -> AnyEncoder:
        """The model of ``best/``, as what encodes sentences.

        Args:
            device: Such as ``cuda:1``; CUDA where there is one, by default.

        Raises:
            ValueError: The recipe trains no encoder of sentences (``maf``, ``word_features``).
        """
        from mcse.encoders.loading import load_encoder

        return load_encoder(str(self.folder), device=device)


@names_arguments
def train(
    config: str | Path | Mapping[str, Any] | Any,
    *,
    overwrite: bool = False,
    show_progress: bool = True,
    **overrides: Any,
) -> FinishedRun:
    """Trains a recipe in this process, and returns when the run has ended; ``mcse train`` does the same.

    Both write the same run folder, and the same numbers. Afterwards Python's, NumPy's and PyTorch's random generators
    stand where training left them. Under ``accelerate launch`` every process must call this.

    Args:
        config: A YAML file, or ``mcse:NAME`` of one that comes with the package; the same keys as a mapping; or a
            recipe's ``Config``.
        overwrite: Delete a run that is in ``output_dir``.
        show_progress: Show what the run will do, how far it is, and its scores.
        **overrides: Keys that win over ``config``: a group as a mapping (``train={"max_steps": 100}``), or one key by
            its dotted name (``**{"train.max_steps": 100}``).

    Returns:
        The finished run.

    Raises:
        ValueError: Wrong configuration or data; ``output_dir`` is not empty, and neither ``overwrite`` nor
            ``train.resume`` was given.
        NotFiniteError: A loss or gradient is not finite; nothing was saved since.
        LostProcessError: Another process of the run has ended, or hangs.
        KeyboardInterrupt: The run was asked to stop (Ctrl-C, a notebook's stop button, SIGTERM, SIGUSR1). It has saved
            its state after the step that it was at; the same call with ``train={"resume": "auto"}`` goes on.

    Examples:
        >>> run = mcse.train("mcse:simcse/bert_base_unsup", output_dir="runs/simcse", seed=1)
        >>> run.score_name, run.score
        >>> run.encoder().encode(["A man plays the guitar."])
    """
    resolved = _resolved(config, overrides)
    source = str(config) if isinstance(config, str | Path) else ""
    if code := launch.train(resolved, overwrite=overwrite, source=source, show_progress=show_progress):
        how = "interrupted" if code == 130 else "asked to stop by a signal"
        raise KeyboardInterrupt(
            f"{how}; the run is saved in {resolved.output_dir}, and train={{'resume': 'auto'}} goes on"
        )
    from mcse import distributed

    distributed.barrier()  # the main process has written what all read
    return FinishedRun.read(resolved.output_dir)


def _resolved(config: Any, overrides: Mapping[str, Any]) -> Any:
    if isinstance(config, str | Path):
        return launch.load_config(config_path(str(config)), keys=overrides, check_files=True)
    if isinstance(config, Mapping):
        return launch.load_config(config, keys=overrides, check_files=True)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(
            f"config: expected a file, mcse:NAME, a mapping or a recipe's Config, got {type(config).__name__}"
        )
    return launch.load_config(to_dict(config), keys=overrides) if overrides else config
