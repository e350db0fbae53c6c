"""The ``mcse`` console script: one subcommand a module of this folder."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Iterable, Sequence

COMMANDS = (
    "demo",
    "prepare",
    "extract-features",
    "search",
    "sweep",
    "runs",
    "ground-words",
    "ground-report",
    "neighbors",
    "contexts",
    "perplexity",
    "translate",
    "tag",
)
"""Each module has ``add_parser(subparsers)``, which sets ``run(args) -> int`` as the parser's default."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 wrong arguments or data, 1 a failing disk or network, 130 stopped by Ctrl-C."""
    arguments = sys.argv[1:] if argv is None else argv
    # Only the module of the command that is meant: all of them together take seconds to import.
    parser = build_parser([name for name in COMMANDS if arguments[:1] == [name]] or COMMANDS)
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code: int = args.run(args)
    except (ValueError, FileNotFoundError) as error:
        return _fail(args.command, error, code=2)
    except OSError as error:
        return _fail(args.command, error, code=1)
    except KeyboardInterrupt:
        return _fail(args.command, "stopped", code=130)
    return code


def build_parser(commands: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of these commands; ``args.run`` is the chosen command's function."""
    parser = argparse.ArgumentParser(
        prog="mcse",
        description="The demo, data and image features for train.py, search among images, sweeps, and run folders.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in commands:
        importlib.import_module(f"mcse.commands.{name.replace('-', '_')}").add_parser(subparsers)
    return parser


def _fail(command: str, error: object, *, code: int) -> int:
    print(f"mcse {command}: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
