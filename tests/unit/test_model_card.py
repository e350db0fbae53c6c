"""The model card's front matter, as the hub reads it."""

from __future__ import annotations

import yaml

from mcse.data.training import DataConfig
from mcse.recipes.shared import _hub_datasets
from mcse.report.model_card import build_model_card


def front_of(**changes):
    given = {
        "name": "x",
        "base_model": "google-bert/bert-base-uncased",
        "recipe": "mcse",
        "score_table": "None.",
        "config_yaml": "seed: 0",
        "data": ["sentences: a.txt (0123)"],
    }
    card = build_model_card(**{**given, **changes})
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_links_the_hubs_base_model_and_datasets():
    front = front_of(datasets=["princeton-nlp/datasets-for-simcse"])
    assert front["datasets"] == ["princeton-nlp/datasets-for-simcse"]
    assert front["base_model"] == "google-bert/bert-base-uncased"
    assert "recipe:mcse" in front["tags"]


def test_the_card_links_no_file_of_somebodys_machine():
    front = front_of(base_model="package:some_package/model")
    assert "datasets" not in front
    assert "base_model" not in front


def test_only_what_is_surely_the_hubs_is_linked():
    hub = "hf://datasets/princeton-nlp/datasets-for-simcse/wiki1m_for_simcse.txt"
    assert _hub_datasets(DataConfig(sentences=hub)) == ["princeton-nlp/datasets-for-simcse"]
    assert _hub_datasets(DataConfig(sentences="wiki/a.txt", captions="flickr8k/captions.txt")) == []
    assert _hub_datasets(DataConfig(captions="flickr8k/captions.txt")) == []
