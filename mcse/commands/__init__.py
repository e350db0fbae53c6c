"""The commands of ``mcse``: what they take stands in ``arguments.py``, what each does in a module of its own.

The work of a command is a plain function, ``run``, whose parameters are the flags.
"""


class CommandError(Exception):
    """A command failed, though nothing is wrong with its input: exit code 1."""
