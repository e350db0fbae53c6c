"""docs/not-supported.md: what it says that settings exclude is refused by name, and its words are on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcse.commands.configs import config_path
from mcse.recipes.launch import load_config

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "not-supported.md").read_text(encoding="utf-8")
CHUNKS = ("--train.cached_chunk_size", "2")
WHOLE = "in `diffcse`, `unpaired`, `maf`"
SUMS = "in `mlm`, `elmo`, `grounded_words`, `word_features`"
PACKING = "`encoder.packing` with `gradient_checkpointing` or `attention: eager`"


@pytest.mark.parametrize(
    ("name", "overrides", "told", "shown"),
    [
        (
            "simcse/bert_base_unsup",
            ["--encoder.packing", "true", "--encoder.gradient_checkpointing", "true"],
            "encoder.packing: needs",
            PACKING,
        ),
        (
            "simcse/bert_base_unsup",
            ["--encoder.packing", "true", "--encoder.attention", "eager"],
            "encoder.packing: needs",
            PACKING,
        ),
        (
            "simcse/bert_base_unsup",
            ["--encoder.packing", "true", "--encoder.length_chunks", "2"],
            "encoder.length_chunks",
            "`encoder.packing` with `length_chunks`",
        ),
        (
            "simcse/bert_base_unsup",
            ["--encoder.attention", "flash_attention_2"],
            "encoder.attention",
            "`attention: flash_attention_2` without `packing: true`",
        ),
        (
            "simcse/bert_base_unsup",
            ["--encoder.lora", "{}", "--encoder.frozen", "[layer.0]"],
            "encoder.lora, encoder.frozen",
            "`encoder.lora` with `encoder.frozen`",
        ),
        ("diffcse/bert_base", CHUNKS, "train.cached_chunk_size", WHOLE),
        ("unpaired/bert_base", CHUNKS, "train.cached_chunk_size", WHOLE),
        ("maf/twitter2015_bert", CHUNKS, "train.cached_chunk_size", WHOLE),
        ("mlm/roberta_base_dapt", CHUNKS, "train.cached_chunk_size", SUMS),
        ("elmo/wiki_cpu", CHUNKS, "train.cached_chunk_size", SUMS),
        ("grounded_words/scenes", CHUNKS, "train.cached_chunk_size", SUMS),
        ("word_features/trec_cpu", CHUNKS, "train.cached_chunk_size", SUMS),
        ("simcse/bert_base_plus_plus", ["--loss.queue", "{}"], "loss.queue", "`loss.queue` with `loss.off_dropout`"),
        (
            "simcse/bert_base_sup",
            ["--teachers", "[{name: a, store: b}]", "--loss.list_net", "{}"],
            "a table of hard negatives is trained without teachers",
            "teachers with a table of hard negatives",
        ),
        (
            "simcse/bert_base_sup",
            ["--data.captions", "captions.csv"],
            "a table of hard negatives cannot be mixed",
            "mixing a table of hard negatives with captions",
        ),
    ],
)
def test_what_excludes_each_other_is_refused(name, overrides, told, shown):
    assert shown in PAGE
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        load_config(config_path(f"mcse:{name}"), [*overrides])
