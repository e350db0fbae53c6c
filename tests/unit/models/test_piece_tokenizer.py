"""A transformer's tokenizer behind the questions that every tokenizer answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mcse.models.text_loading import load_tokenizer
from tests.fixtures.tiny_models import MAX_TOKENS, TEXTS, build_tiny_bert, build_tiny_roberta

BUILDERS = {"bert": build_tiny_bert, "roberta": build_tiny_roberta}


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


def test_ids_are_those_of_transformers_and_cut_with_their_special_tokens(folder: Path) -> None:
    ours, theirs = load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    assert ours.ids(TEXTS) == theirs(list(TEXTS))["input_ids"]
    cut = ours.ids(TEXTS, max_length=6)
    assert cut == theirs(list(TEXTS), truncation=True, max_length=6)["input_ids"]
    assert {len(ids) for ids in cut} == {6}
    assert {ids[-1] for ids in cut} == {theirs.sep_token_id}
    assert ours.ids(TEXTS) == theirs(list(TEXTS), truncation=False)["input_ids"], "a limit is of its call alone"
    assert (len(ours), ours.pad_id, ours.longest) == (len(theirs), theirs.pad_token_id, MAX_TOKENS)


def test_a_tokenizer_without_a_limit_or_a_padding_token(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.inner.model_max_length = int(1e30)
    tokenizer.inner.pad_token = None
    assert (tokenizer.longest, tokenizer.pad_id) == (None, 0)


def test_pieces_make_any_word(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.vocabulary is None
    assert tokenizer.knows_some("zzyzx")
    assert tokenizer.unknown_words("zzyzx") == tokenizer.nearest_words("zzyzx") == []


def test_the_digest_is_of_what_it_does_and_not_of_its_last_call(tmp_path: Path, folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    digest = tokenizer.digest
    tokenizer.ids(TEXTS, max_length=4)
    tokenizer.inner(list(TEXTS), padding=True)
    assert tokenizer.digest == digest == load_tokenizer(str(folder)).digest
    other = build_tiny_bert(tmp_path / "other", texts=["entirely other words"] * 3)
    assert load_tokenizer(str(other)).digest != digest


def test_what_it_saves_is_what_it_was_without_its_last_call(tmp_path: Path, folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.ids(TEXTS, max_length=4)
    tokenizer.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer.json").read_text())["truncation"] is None
    assert load_tokenizer(str(tmp_path / "saved")).digest == tokenizer.digest
