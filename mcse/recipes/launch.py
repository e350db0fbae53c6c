"""From a configuration to a finished run: what ``train.py`` and the demo both do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcse.config import ConfigError, build_config, merge, read_keys, read_overrides, read_yaml
from mcse.config_fields import describe
from mcse.data.config import missing_files
from mcse.data.source_variants import ScoredTable
from mcse.data.table_config import DevTable, first_metric
from mcse.progress import phase
from mcse.recipes import RECIPES, config_class, method
from mcse.training.config import TrainConfig

if TYPE_CHECKING:
    from mcse.training.run import Run
    from mcse.training.runtime import Runtime


def load_config(
    given: Path | Mapping[str, Any] | None,
    overrides: Sequence[str] = (),
    *,
    keys: Mapping[str, Any] | None = None,
    check_files: bool = False,
) -> Any:
    """The recipe's ``Config`` from a YAML file, or its keys, and from overrides, which win. Imports no torch.

    Args:
        given: A file, or nested plain values.
        overrides: ``--key value`` arguments.
        keys: Overrides in Python instead, nested or by their dotted names.
        check_files: Whether files that are not there are refused, too.

    Raises:
        ConfigError: Unknown recipe; unknown, missing or wrong keys, and missing files: all of them, one a line.
    """
    over = "command line" if keys is None else "overrides"
    tree = read_yaml(given) if isinstance(given, Path) else dict(given or {})
    tree = merge(tree, read_overrides(overrides) if keys is None else read_keys(keys))
    source = str(given) if isinstance(given, Path) else over if given is None else "config"
    if "systems" in tree and "recipe" not in tree:
        raise ConfigError(f"{source} is a study; mcse study takes it")
    recipe = tree.get("recipe")
    config = build_config(
        config_class(recipe),
        tree,
        source=source,
        typed_source=over,
        elsewhere=partial(_of_other_recipes, recipe),
        check=missing_files(tree) if check_files else lambda path, group: (),
    )
    if config.seed < 0:
        raise ConfigError(f"{source}: seed: must be 0 or more, got {config.seed}")
    if "select_by" not in (tree.get("train") or {}) and (score := _own_score(config)):
        return replace(config, train=replace(config.train, select_by=score))
    return config


def _of_other_recipes(recipe: object, key: str) -> str:
    """Which other recipes have a key."""
    have = [
        name
        for name in RECIPES
        if name != recipe and any(f"{info.key}.".startswith(f"{key}.") for info in describe(config_class(name)))
    ]
    if not have:
        return ""
    owners = f"the recipes {', '.join(have)} have" if len(have) > 1 else f"the recipe {have[0]} has"
    return f"{owners} this key; {recipe} does not"


def _own_score(config: Any) -> str | None:
    """The first score of the first dev table that a configuration brings; ``None`` where it brings none.

    A recipe whose default is a score of its own keeps that.
    """
    if config.train.select_by != TrainConfig(batch_size=1, epochs=1).select_by:
        return None
    data, tables = config.data, getattr(config, "evaluate", ())
    if tables:
        return f"{tables[0].name}.{_metric(tables[0], data.folder)}"
    own = getattr(data, "sts", None)
    if isinstance(own, str):
        own = ScoredTable(path=own) if (data.folder / own).is_file() else None
    return None if own is None else f"{own.name}.spearman"


def _metric(table: DevTable, folder: Path) -> str:
    """What a table is evaluated by first; of one without named columns its header says it."""
    if table.query is None:
        from mcse.data.named_columns import open_named_columns

        with contextlib.suppress(OSError, ValueError):  # told again, with its key, when the run is built
            found = open_named_columns(table, root=folder, key=table.name)
            return first_metric(
                has_values=found.value is not None, is_label=found.is_label, has_negatives=len(found.texts) > 2
            )
    return first_metric(
        has_values=table.score is not None or table.label is not None,
        is_label=table.label is not None,
        has_negatives=bool(table.negatives),
    )


def build(config: Any, runtime: Runtime) -> Run:
    """What the recipe trains, with its passes in graphs if ``train.graphs`` says so.

    Raises:
        ValueError: Wrong data, or keys that do not go together.
    """
    run: Run = method(config.recipe).build(config, runtime)
    if config.train.graphs == "off":
        return run
    from mcse.recipes.graphs import with_graphs

    return with_graphs(run, config.train, device=runtime.device)


def train(
    config: Any,
    *,
    overwrite: bool,
    source: str = "",
    show_progress: bool = True,
    tell: Callable[[Mapping[str, str]], None] | None = None,
) -> int:
    """Builds the recipe and fits it; exit code 0 finished, 130 or 143 stopped by a signal after saving.

    With ``tell`` what the run will need is handed to it, on the main process, and nothing is trained or written.
    ``source`` is shown as where the configuration came from.

    Raises:
        LostProcessError: Another process of the run has ended, or hangs for ``train.timeout_minutes``.
    """
    # Here, since a wrong configuration should be told before seconds of imports.
    with phase("loading libraries", is_shown=show_progress):
        from mcse import distributed
        from mcse.data.scratch_cache import scratch_cache
        from mcse.training.fit import begin_folder, check_folder, claimed_folder, fit
        from mcse.training.loop import check_run
        from mcse.training.runtime import start_runtime

    folder = config.output_dir
    resume = config.train.resume == "auto"
    with distributed.naming_lost_processes():
        runtime = start_runtime(
            precision=config.train.precision,
            seed=config.seed,
            trackers=config.train.trackers,
            project_dir=folder,
            show_progress=show_progress,
            timeout_minutes=config.train.timeout_minutes,
            tf32=config.train.tf32,
            graphs=config.train.graphs,
        )
        if tell is not None:
            check_folder(folder, resume=resume, overwrite=overwrite)
            with scratch_cache():
                run = _built(config, runtime)
                check_run(run, config.train, optim=config.optim)
                _foresee(run, config, runtime, tell)
            return 0
        with claimed_folder(folder, resume=resume, overwrite=overwrite):
            run = _built(config, runtime)
            check_run(run, config.train, optim=config.optim)
            # Clear the folder only after the run builds, so that a typo cannot delete an old run.
            begin_folder(folder, resume=resume)
            return fit(run, config, runtime=runtime, folder=folder, source=source)


def _built(config: Any, runtime: Runtime) -> Run:
    with phase("loading the encoder and the data", is_shown=runtime.show_progress and runtime.rank == 0):
        return build(config, runtime)


def _foresee(run: Run, config: Any, runtime: Runtime, tell: Callable[[Mapping[str, str]], None]) -> None:
    from mcse import distributed
    from mcse.training.forecast import forecast

    if distributed.is_main():
        tell(forecast(run, config.train, config.optim, runtime))
