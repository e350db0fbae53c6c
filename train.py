"""Train a recipe: ``accelerate launch train.py --config configs/simcse/bert_base_unsup.yaml --seed 1``.

Every key of the configuration can be given as ``--key value`` or ``--group.key value``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mcse.config import to_yaml
from mcse.distributed import LostProcessError
from mcse.recipes.launch import load_config, train
from mcse.training.meter import NotFiniteError

USAGE = "train.py [--config FILE] [--print-config] [--overwrite] [--key value | --group.key value ...]"
EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 finished, 2 wrong configuration or data, 130 or 143 stopped by a signal after saving, else 1."""
    parser = argparse.ArgumentParser(usage=USAGE, description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, help="YAML file of one complete run")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    parser.add_argument("--overwrite", action="store_true", help="delete a run that already stands in output_dir")
    options, overrides = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "httpcore", "datasets", "filelock", "accelerate", "torch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        config = load_config(options.config, overrides)
        if options.print_config:
            print(to_yaml(config), end="")
            return 0
        return train(config, overwrite=options.overwrite)
    except (ValueError, FileNotFoundError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        print(
            "train.py: stopped at once; nothing was saved since the last save, if there was one. "
            "--train.resume auto goes on, or begins anew",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    except (NotFiniteError, LostProcessError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
