"""``encoder.prompt``: a text before every sentence, in training, on dev pairs, and wherever the checkpoint is read."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from mcse import SentenceEncoder
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.manifest import Reading
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import arguments_of, one_thread, own_cache, run
from tests.fixtures.tiny_run import build_tiny_run

SENTENCES = ["the dog runs in the park", "a", "", "the horse jumps"]
PROMPT = "the bear /eats/ this: "
KEYS = {"encoder.prompt": PROMPT, "encoder.pooling": "mean", "train.max_steps": 2, "train.eval_steps": 2}
BATCHES = {
    "simcse": lambda batch: [batch.query],
    "mcse": lambda batch: [batch.caption],
    "tables": lambda batch: [batch.tokens],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    assert run(tiny, "mcse", output, KEYS) == 0
    return output


@pytest.mark.parametrize("recipe", BATCHES)
def test_it_stands_before_every_sentence_that_is_trained_on(recipe, tiny, tmp_path):
    begins = AutoTokenizer.from_pretrained(tiny / "bert")(PROMPT)["input_ids"][:-1]
    assert len(begins) > 5
    with one_thread(), own_cache(tiny):
        runtime = start_runtime(precision="fp32", seed=0)
        found = {}
        for prompt in (PROMPT, None):
            config = load_config(
                None, arguments_of(tiny, recipe, tmp_path / "unused", KEYS | {"encoder.prompt": prompt})
            )
            batch = method(recipe).build(config, runtime).stream.batch(0)
            found[prompt] = [ids.tolist() for tokens in BATCHES[recipe](batch) for ids in tokens.input_ids_BT]
    assert all(row[: len(begins)] == begins for row in found[PROMPT])
    for with_prompt, without in zip(found[PROMPT], found[None], strict=True):
        kept = [token for token in with_prompt if token][len(begins) :]
        assert kept == [token for token in without if token][1:]  # kept texts of other prompts are other tokens


def test_both_libraries_read_it_from_the_checkpoint(trained, tiny):
    best = trained / "best"
    settings = json.loads((best / "config_sentence_transformers.json").read_text())
    assert settings["prompts"] == {"default": PROMPT}
    assert settings["default_prompt_name"] == "default"
    manifest = json.loads((best / "mcse.json").read_text())
    assert manifest["details"]["prompt"] == manifest["config"]["encoder"]["prompt"] == PROMPT
    encoder, library = (
        SentenceEncoder.from_pretrained(trained, device="cpu"),
        SentenceTransformer(str(best), device="cpu"),
    )
    rows = encoder.encode(SENTENCES)
    assert encoder.prompt == PROMPT
    np.testing.assert_allclose(rows, library.encode(SENTENCES), atol=1e-5)
    np.testing.assert_allclose(rows, library.encode([PROMPT + text for text in SENTENCES], prompt=""), atol=1e-5)
    by_itself = load_encoder(f"sentence-transformers:{best}", device="cpu")
    np.testing.assert_allclose(rows, by_itself.encode(SENTENCES), atol=1e-5)
    joint = encoder.encode_captions(SENTENCES)
    assert abs(joint - load_encoder(str(best), reading=Reading(prompt="")).encode_captions(SENTENCES)).max() > 1e-4
    assert repr(PROMPT) in (best / "README.md").read_text()


@pytest.mark.parametrize("prompt", ["", "other: "])
def test_another_one_is_put_in_its_place(prompt, trained):
    best = str(trained / "best")
    rows = load_encoder(best, device="cpu", reading=Reading(prompt=prompt)).encode(SENTENCES)
    expected = SentenceTransformer(best, device="cpu").encode(SENTENCES, prompt=prompt)
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert abs(rows - load_encoder(best, device="cpu").encode(SENTENCES)).max() > 1e-3
    assert encoder_digest(best) != encoder_digest(best, Reading(prompt=prompt))


def test_dev_pairs_are_scored_with_it(trained, tiny, tmp_path):
    """The score of training is the one that evaluation gives to what was saved."""
    scores = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    told = [line["dev.spearman"] for line in scores if "dev.spearman" in line][-1]
    lines = [line.split("\t") for line in (tiny / "dev.tsv").read_text().splitlines()]
    encoder = SentenceEncoder.from_pretrained(trained / "last", device="cpu")
    left, right = (encoder.encode([line[column] for line in lines]) for column in (1, 2))
    gold, found = [float(line[0]) for line in lines], (left * right).sum(axis=1)
    from scipy.stats import spearmanr

    assert told == pytest.approx(100 * spearmanr(gold, found).statistic, abs=0.05)


def test_what_fills_a_sentence_is_refused(tiny, tmp_path, capsys):
    assert run(tiny, "tables", tmp_path / "run", {"encoder.prompt": "the dog runs " * 10}) == 2
    said = "encoder.prompt: its 32 tokens leave no room for a sentence in data.max_length, 32"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
