"""The reference page is what the code says now, and every setting is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mcse.config_fields import describe
from mcse.recipes import RECIPES, config_class
from mcse.recipes.reference import reference_pages

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def test_the_pages_are_current():
    pages = reference_pages()
    assert len(pages) == len(RECIPES) + 1
    assert {f"configuration/{page.name}" for page in (REFERENCE / "configuration").iterdir()} == pages.keys() - {
        "configuration.md"
    }
    for name, page in pages.items():
        assert (REFERENCE / name).read_text(encoding="utf-8") == page, f"{name}: run 'make reference'"


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_has_a_row_and_no_row_stands_twice(name):
    pages = reference_pages()
    rows = re.findall(r"^(?:With `(.+)`:|\| `([^`]+)` \|)", pages["configuration.md"], re.MULTILINE)
    common = {key for _, key in rows}
    found, tag = [], ""
    for line in pages[f"configuration/{name}.md"].splitlines():
        if line.startswith(("With `", "## ")):
            tag = line.removeprefix("With `").removesuffix("`:") if line.startswith("With") else ""
        elif row := re.match(r"\| `([^`]+)` \|", line):
            found.append((row[1], tag))
    keys = [(info.key, info.tag) for info in describe(config_class(name)) if info.key != "recipe"]
    assert sorted(found) == sorted(pair for pair in keys if pair[0] not in common)


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_says_what_it_is(name):
    infos = list(describe(config_class(name)))
    assert len(infos) > 40
    assert {info.key for info in infos} >= {"output_dir", "optim.learning_rate", "train.batch_size", "seed"}
    for info in infos:
        assert info.summary.endswith((".", ":")), info.key
        assert len(info.summary) <= 120, info.key
    groups = {(info.tag, info.key) for info in infos}
    assert len(groups) == len(infos), "no key is described twice"
