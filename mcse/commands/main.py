"""The ``mcse`` command line: reads the arguments, imports the command that is meant, calls it, and ends with a code.

Exit codes are the same for every command: 0 done, 2 wrong arguments or data, 1 anything else that failed and can be
said in one line (a disk, the network, some of several models), 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence

from mcse.commands.arguments import COMMANDS, Command, Group


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = build_parser()
    options = vars(parser.parse_args(argv))
    if "work" not in options:
        parser.print_help(sys.stderr)
        return 2
    name, work = options.pop("name"), options.pop("work")
    logging.basicConfig(format="%(message)s")
    module, _, function = work.partition(".")
    run = getattr(importlib.import_module(f"mcse.commands.{module}"), function or "run")
    try:
        code: int = run(**options)
    except (ValueError, OSError) as error:
        return _fail(name, error, code=exit_code(error))
    except KeyboardInterrupt:
        return _fail(name, "stopped", code=130)
    return code


def exit_code(error: Exception) -> int:
    """2 where the input is wrong, a missing file included; 1 for a failing disk or network."""
    return 2 if isinstance(error, ValueError | FileNotFoundError) else 1


def build_parser() -> ArgumentParser:
    """The parser of all commands; ``work`` and ``name`` of what it returns are the chosen command's."""
    parser = ArgumentParser(
        prog="mcse", description="Train and evaluate sentence encoders that have seen images.", allow_abbrev=False
    )
    _add(parser, COMMANDS, prefix="")
    return parser


def _add(parser: ArgumentParser, commands: Mapping[str, Command | Group], *, prefix: str) -> None:
    below = parser.add_subparsers(metavar="COMMAND", required=bool(prefix))
    for name, command in commands.items():
        if isinstance(command, Group):
            group = below.add_parser(name, help=command.summary, description=command.summary)
            _add(group, command.commands, prefix=f"{prefix}{name} ")
            continue
        one = below.add_parser(
            name,
            help=command.summary,
            description=inspect.getdoc(command.arguments),
            argument_default=SUPPRESS,
            formatter_class=RawDescriptionHelpFormatter,
        )
        command.arguments(one)
        one.set_defaults(work=command.work, name=prefix + name)


def _fail(command: str, error: object, *, code: int) -> int:
    print(f"mcse {command}: {error}", file=sys.stderr)
    return code
