"""How a report was made: its last section, with the command that makes it again, so that it can be signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcse.errors import printable
from mcse.files import digest_of
from mcse.origin import COMMAND, git_revision, machine, now, versions
from mcse.report.latex import latex_notes
from mcse.report.markdown import code_block, markdown_notes
from mcse.run_folder import FACTS, read_config, read_facts
from mcse.version import __version__

MADE_TITLE = "How this was made"
_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a report came from.

    Attributes:
        command: As a shell takes it; empty where a report was made from Python.
        facts: Label and text: date, versions, revision, machine, then what the caller knows of models, data and seeds.
    """

    command: str
    facts: tuple[tuple[str, str], ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """A line a fact."""
        return tuple(f"{label}: {text}" for label, text in self.facts)


@dataclass(frozen=True, slots=True)
class _Read:
    """A file that training read."""

    role: str
    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Trained:
    """What ``run.json`` says that a report repeats."""

    versions: dict[str, str]
    git_revision: str | None
    data: list[_Read]
    machine: str = ""


def how_made(facts: Sequence[tuple[str, str]] = (), *, command: str | None = None) -> Made:
    """What can be said of this process, then ``facts``; ``command`` by default is what the shell was given."""
    installed = versions()
    mcse = f"{installed.pop('mcse', __version__)}, git revision {git_revision() or 'unknown'}"
    own = [
        ("date", f"{now()} UTC"),
        ("mcse", mcse),
        ("versions", ", ".join(f"{name} {version}" for name, version in installed.items())),
        ("machine", machine()),
    ]
    given = COMMAND.get() if command is None else command
    return Made(
        command=printable(given), facts=tuple((printable(label), printable(text)) for label, text in (*own, *facts))
    )


def training_facts(runs: Sequence[Path]) -> tuple[tuple[str, str], ...]:
    """What the files of runs say of their training, each thing once; what is no run, or is damaged, says nothing."""
    found: dict[str, dict[str, None]] = {
        "training seeds": {},
        "trained with": {},
        "trained on": {},
        "training data": {},
    }
    for run in runs:
        if not (run / FACTS).is_file():
            continue
        try:
            facts, seed = read_facts(run, _Trained), read_config(run).get("seed")
        except (OSError, ValueError):
            continue
        installed = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
        found["training seeds"] |= {} if seed is None else {str(seed): None}
        found["trained with"][f"{installed}, git revision {facts.git_revision or 'unknown'}"] = None
        found["trained on"] |= {facts.machine: None} if facts.machine else {}
        for one in facts.data:
            # What has no weights, such as pixels:8, has the digest of nothing.
            known = "" if digest_of().startswith(one.digest or "-") else f" ({short_digest(one.digest)})"
            found["training data"][f"{one.role} {Path(one.path).name}{known}"] = None
    return tuple((label, "; ".join(texts)) for label, texts in found.items() if texts)


def short_digest(digest: str) -> str:
    """The first characters of a SHA-256, enough to tell files apart."""
    return f"SHA-256 {digest[:_DIGITS]}…" if digest else "digest unknown"


def made_markdown(made: Made | None) -> str:
    """The section in Markdown; nothing where nothing is known."""
    if made is None:
        return ""
    notes = markdown_notes(MADE_TITLE, made.lines)
    return f"{notes}\n{code_block(made.command, language='sh')}\n" if made.command else notes


def made_latex(made: Made | None) -> str:
    """The section in LaTeX, as ``made_markdown``."""
    if made is None:
        return ""
    return latex_notes(MADE_TITLE, made.lines) + (
        latex_notes("Command", [made.command], are_code=True) if made.command else ""
    )
