"""Train a recipe: ``accelerate launch train.py --config configs/simcse/bert_base_unsup.yaml --seed 1``.

Every key of the configuration can be given as ``--key value`` or ``--group.key value``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcse.config import ConfigError, build_config, merge, read_overrides, read_yaml, to_yaml
from mcse.recipes import RECIPES
from mcse.training import NotFiniteError, check_folder, claim_folder, fit, start_runtime

USAGE = "train.py [--config FILE] [--print-config] [--overwrite] [--key value | --group.key value ...]"


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 finished, 2 a wrong configuration, 130 or 143 stopped by a signal after saving, 1 anything else."""
    parser = argparse.ArgumentParser(usage=USAGE, description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, help="YAML file of one complete run")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    parser.add_argument("--overwrite", action="store_true", help="delete a run that already stands in output_dir")
    options, rest = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "httpcore", "datasets", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        config = load_config(options.config, rest)
        if options.print_config:
            print(to_yaml(config), end="")
            return 0
        return train(config, overwrite=options.overwrite)
    except (ValueError, FileNotFoundError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except NotFiniteError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1


def load_config(path: Path | None, overrides: Sequence[str]) -> Any:
    """The recipe's Config from a file and command-line overrides."""
    tree = merge(read_yaml(path) if path is not None else {}, read_overrides(overrides))
    name = tree.get("recipe")
    if name not in RECIPES:
        raise ConfigError(f"recipe: choose one of {', '.join(RECIPES)}, got {name!r}" + ("" if path else f"\n{USAGE}"))
    return build_config(RECIPES[name].Config, tree, source=str(path or "command line"))


def train(config: Any, *, overwrite: bool) -> int:
    """Builds the recipe and fits it."""
    folder = config.output_dir
    resume = config.train.resume == "auto"
    runtime = start_runtime(
        precision=config.train.precision, seed=config.seed, trackers=config.train.trackers, project_dir=folder
    )
    check_folder(folder, resume=resume, overwrite=overwrite)
    run = RECIPES[config.recipe].build(config, runtime)
    # Only now that the run could be built: an overwritten run must not be lost to a misspelt path.
    claim_folder(folder, resume=resume)
    return fit(run, config, runtime=runtime, folder=folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
