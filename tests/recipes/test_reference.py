"""The reference page is what the code says now, and every setting is documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcse.config_fields import describe
from mcse.recipes import RECIPES, config_class
from mcse.recipes.reference import reference_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "configuration.md"


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == reference_page(), "run 'make reference'"


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
