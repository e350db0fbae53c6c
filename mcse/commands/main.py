"""The ``mcse`` command line: reads the arguments, imports the command that is meant, calls it, and ends with a code.

Exit codes are the same for every command: 0 done, 2 wrong arguments or data, 1 anything else that failed and can be
said in one line (a disk, the network, some of several models), 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import logging
import os
import select
import shlex
import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter, _SubParsersAction
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from io import TextIOWrapper
from typing import Any, TextIO

from mcse import progress
from mcse.commands import CommandError, exit_code
from mcse.commands.arguments import COMMANDS
from mcse.commands.command_line import Command, Group
from mcse.errors import is_out_of_memory, printable, said
from mcse.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code, which is 141 if the reader of the output leaves early (``| head``)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names of files need not be text
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _main(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would write the rest at its end, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = shlex.join(["mcse", *arguments])
    if arguments[:1] == ["train"] and arguments[1:2] and not arguments[1].startswith("-"):
        # As a positional argument the parser would find the recipe behind any key that it does not know.
        arguments.insert(1, "--recipe")
    parser = build_parser()
    _check_command(parser, arguments)
    parsed, unknown = parser.parse_known_args(arguments)
    options = vars(parsed)
    chosen = _below(parser, str(options.get("command", "")))
    if unknown and options.get("work") == "train":
        for flag in unknown:
            if flag.startswith("--") and "." not in flag and (near := _meant(chosen, [flag], cutoff=0.85)):
                chosen.error(f"unrecognized arguments: {flag}{near} ({chosen.prog} --help)")
        options["overrides"] = unknown
    elif unknown:
        chosen.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(chosen, unknown)} ({chosen.prog} --help)")
    if "work" not in options:
        parser.print_help(sys.stderr)
        return 2
    name, work = options.pop("command"), options.pop("work")
    is_quiet = options.pop("quiet", False)
    handler = progress.LogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    is_told = name == "train" and not is_quiet and not progress.is_quiet()  # one process of a run tells
    logging.basicConfig(handlers=[handler], level=logging.INFO if is_told else logging.WARNING)
    with progress.hidden() if is_quiet else contextlib.nullcontext():
        return _carry_out(name, work, options, given=given)


def _check_command(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Ends with the nearest command where there is none of a name."""
    table: Mapping[str, Command | Group] = COMMANDS
    for given in arguments:
        below = table.get(given)
        if below is None:
            if not given.startswith("-") and (near := difflib.get_close_matches(given, table, n=1)):
                parser.error(f"no command {given!r}; did you mean {near[0]!r}? (mcse --help)")
            return
        if isinstance(below, Command):
            return
        table = below.commands


def _below(parser: ArgumentParser, command: str) -> ArgumentParser:
    """The parser of a command."""
    for name in command.split():
        (below,) = (action for action in parser._actions if isinstance(action, _SubParsersAction))
        parser = below.choices[name]
    return parser


def _meant(parser: ArgumentParser, unknown: Sequence[str], *, cutoff: float = 0.6) -> str:
    """The flag nearest to the first that is unknown."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    first = next((text for text in unknown if text.startswith("--")), "")
    near = difflib.get_close_matches(first.partition("=")[0], flags, n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def _carry_out(name: str, work: str, options: Mapping[str, Any], *, given: str) -> int:
    """The one boundary: what can be said in a line ends in a line."""
    run = None
    try:
        from mcse.origin import COMMAND  # not for help and refusals

        COMMAND.set(given)
        module, _, function = work.partition(".")
        with progress.phase("loading libraries"):
            run = getattr(importlib.import_module(f"mcse.commands.{module}"), function or "run")
        code: int = run(**options)
    except BrokenPipeError as error:
        if _is_read(sys.stdout):
            return _fail(name, error, code=exit_code(error))
        raise
    except (ValueError, OSError, CommandError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return _fail(name, f"{said(error)}. {_what_to_lower(name, run)}", code=1)
        if isinstance(error, RuntimeError):
            raise
        return _fail(name, error, code=exit_code(error))
    except KeyboardInterrupt as error:
        return _fail(name, str(error) or "stopped", code=130)
    return code


def _what_to_lower(name: str, run: Callable[..., int] | None) -> str:
    """Which setting takes less memory."""
    if name == "train":
        return (
            "Lower train.batch_size or data.max_length, or give train.cached_chunk_size (the same loss, in chunks) or "
            "encoder.gradient_checkpointing"
        )
    return "Lower --batch-size" if run and "batch_size" in signature(run).parameters else "Give it less at once"


def _is_read(stream: TextIO) -> bool:
    """Whether anybody has the other end of the pipe, if it is one; so that it was another pipe that broke."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def build_parser() -> ArgumentParser:
    """The parser of all commands; ``command`` and ``work`` of what it returns are the chosen command's."""
    parser = ArgumentParser(
        prog="mcse", description="Train and evaluate sentence encoders that have seen images.", allow_abbrev=False
    )
    _add_version(parser)
    _add(parser, COMMANDS, prefix="")
    return parser


def _add(parser: ArgumentParser, commands: Mapping[str, Command | Group], *, prefix: str) -> None:
    below = parser.add_subparsers(metavar="COMMAND", required=bool(prefix))
    for name, command in commands.items():
        if isinstance(command, Group):
            group = below.add_parser(name, help=command.summary, description=command.summary)
            _add_version(group, help=SUPPRESS)
            _add(group, command.commands, prefix=f"{prefix}{name} ")
            continue
        one = below.add_parser(
            name,
            help=command.summary,
            description=inspect.getdoc(command.arguments),
            argument_default=SUPPRESS,
            allow_abbrev=False,
            conflict_handler="resolve",
            formatter_class=RawDescriptionHelpFormatter,
        )
        command.arguments(one)
        _add_version(one, help=SUPPRESS)
        if command.shows_progress:
            one.add_argument("--quiet", action="store_true", help="show no progress; also with TQDM_DISABLE=1")
        one.set_defaults(command=prefix + name, work=command.work)


def _add_version(parser: ArgumentParser, help: str = "show the version and exit") -> None:
    parser.add_argument("--version", action="version", version=f"mcse {__version__}", help=help)


def _fail(command: str, error: object, *, code: int) -> int:
    print(printable(f"mcse {command}: {error}"), file=sys.stderr)
    return code
