"""The ``mcse`` console script: one subcommand a module of this folder."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from mcse.commands import (
    contexts,
    demo,
    extract_features,
    ground_report,
    ground_words,
    neighbors,
    perplexity,
    prepare,
    runs,
    search,
    sweep,
    tag,
    translate,
)

COMMANDS = (
    demo,
    prepare,
    extract_features,
    search,
    sweep,
    runs,
    ground_words,
    ground_report,
    neighbors,
    contexts,
    perplexity,
    translate,
    tag,
)
"""Each has ``add_parser(subparsers)``, which sets ``run(args) -> int`` as the parser's default."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 wrong arguments or data, 1 a failing disk or network, 130 stopped by Ctrl-C."""
    parser = build_parser()
    args = parser.parse_args(argv)
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


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``args.run`` is the chosen command's function."""
    parser = argparse.ArgumentParser(
        prog="mcse",
        description="The demo, data and image features for train.py, search among pictures, sweeps, and run folders.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def _fail(command: str, error: object, *, code: int) -> int:
    print(f"mcse {command}: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
