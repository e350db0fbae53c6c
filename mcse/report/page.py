"""What all HTML reports share: templates with escaping on."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jinja2

from mcse.files import write_text
from mcse.report.tables import table_cells


def write_page(path: str | Path, *, template: str, content: dict[str, Any]) -> None:
    """Writes the template's page to ``path``, whole or not at all.

    Text is escaped; what is markup already, such as a plot, is a ``Markup``.
    """
    write_text(Path(path), render_page(template, content=content))


def render_page(template: str, *, content: dict[str, Any]) -> str:
    """The template's page; text is escaped, as ``write_page`` says."""
    return _environment().get_template(template).render(content)


@functools.cache
def _environment() -> jinja2.Environment:
    """One for all pages, since it keeps the templates that it has compiled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mcse.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["table_cells"] = table_cells
    return environment
