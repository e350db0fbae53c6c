"""``mcse train``: from a configuration to a finished run. ``train.py`` is the same command."""

from __future__ import annotations

import logging
import os
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from mcse.commands import CommandError
from mcse.commands.configs import config_path
from mcse.config import to_yaml
from mcse.config_fields import describe
from mcse.data.test_sets.lines import senteval_parent
from mcse.errors import printable
from mcse.progress import say
from mcse.recipes import RECIPES, config_class
from mcse.recipes.launch import load_config, train
from mcse.run_folder import CONFIG

_STOPPED = (
    "stopped at once; nothing was saved since the last save, if there was one. --train.resume auto goes on, or begins "
    "anew"
)
_WIDTH = 100
_NEXT = {
    "mlm": "mcse train simcse --encoder.name_or_path {folder}/best --help",
    "vse": "mcse evaluate {folder} --suite retrieval --captions FILE --features STORE",
    "grounded_words": "mcse evaluate {folder} --suite wordsim",
    "elmo": "mcse elmo perplexity {folder} --help",
    "cove": "mcse cove translate {folder} --help",
    "word_features": "mcse runs {folder}",
    "maf": "mcse maf tag {folder} --help",
}
"""What to do with a finished run, where that is not to evaluate it as an encoder of sentences."""


def run(
    overrides: Sequence[str] = (),
    *,
    recipe: str | None = None,
    config: str | None = None,
    print_config: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> int:
    """Trains; returns 0 when finished, 130 or 143 when stopped by a signal after saving.

    Args:
        overrides: ``--key value`` arguments, which win over the file.
        recipe: The recipe's name, where no file says it.
        config: A YAML file, or ``mcse:NAME``.
        print_config: Print the resolved configuration and train nothing.
        overwrite: Delete a run that is in ``output_dir``.
        dry_run: Print what the run will need, and train nothing.

    Raises:
        ValueError: Wrong configuration or data.
        CommandError: The loss is not finite, or another process of the run is lost.
    """
    resolved = load_config(
        None if config is None else config_path(config),
        overrides if recipe is None else ["--recipe", recipe, *overrides],
        check_files=not print_config,
    )
    if print_config:
        print(to_yaml(resolved), end="")
        return 0
    from mcse.distributed import LostProcessError
    from mcse.training.meter import NotFiniteError

    for name in ("httpx", "httpcore", "datasets", "filelock", "accelerate", "torch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        code = train(resolved, overwrite=overwrite, source=config or "", tell=_show if dry_run else None)
    except (NotFiniteError, LostProcessError) as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_STOPPED) from None
    if code == 0 and not dry_run:
        say(f"next: {_next(resolved)}")
    return code


def _next(config: Any) -> str:
    """What to do with a finished run: to evaluate it as an encoder of sentences, on what there is, or ``_NEXT``."""
    folder, data = shlex.quote(str(config.output_dir)), config.data
    if config.recipe in _NEXT:
        return _NEXT[config.recipe].format(folder=folder)
    if getattr(config, "evaluate", ()):
        return f"mcse evaluate {folder} --suite table --data {folder}/{CONFIG}"
    if getattr(data, "sts", None) is not None:
        return f"mcse evaluate {folder}"
    if senteval_parent(data.folder, ("STS",)) is not None:  # which was evaluated on, though nothing names it
        return f"mcse evaluate {folder}" + (
            f" --data {shlex.quote(str(data.folder))}" if data.root or not os.environ.get("MCSE_DATA") else ""
        )
    if config.train.select_by is not None:
        return f"mcse evaluate {folder}"
    return f"mcse evaluate {folder} --data PAIRS (a file of scored pairs: score, sentence1, sentence2)"


def _show(facts: Mapping[str, str]) -> None:
    print("\n".join(printable(f"{name:<28} {value}") for name, value in facts.items()))


def recipe_help(recipe: str | None) -> str:
    """The recipes, or every key of one with its type, default and meaning.

    Raises:
        ConfigError: There is no such recipe.
    """
    if recipe is None:
        lines = [f"  {name:16}{summary}" for name, summary in RECIPES.items()]
        return "\n".join(["recipes (mcse train RECIPE --help lists their keys):", *lines])
    blocks = [f"keys of the recipe {recipe}, as --key value or in the file:"]
    for info in describe(config_class(recipe)):
        if info.key == "recipe":
            continue
        facts = [info.type, "required" if info.default is None else f"default {info.default}"]
        facts += [f"with {info.tag}"] if info.tag else []
        doc = textwrap.wrap(info.summary, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        blocks.append("\n".join([f"  --{info.key}  ({'; '.join(facts)})", *doc]))
    return "\n".join(blocks)
