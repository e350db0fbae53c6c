"""What a run refuses at its start because of its encoder, what it notes, and encoders that are not like BERT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedModel, T5Config, T5EncoderModel, T5Model

from mcse.encoders.loading import load_encoder
from mcse.encoders.sentence_encoder import SentenceEncoder
from tests.fixtures.architectures import build_architecture
from tests.fixtures.launch import run
from tests.fixtures.tiny_run import build_tiny_run

SHORT = {"train.max_steps": 2, "train.eval_steps": 2}
SENTENCES = ["the dog runs in the park", "the cat", "the horse jumps in the river number 3"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder without dropout, as ALBERT's and ModernBERT's are."""
    return build_tiny_run(tmp_path_factory.mktemp("still"), dropout=0.0)


def beside(tiny: Path, folder: Path, kind: str, **keys: object) -> Path:
    """An encoder of another architecture that reads text as ``tiny``'s does."""
    tokenizer = AutoTokenizer.from_pretrained(tiny / "bert")
    # Qwen's class of tokenizers adds a token of its own.
    build_architecture(folder, kind, vocab_size=len(tokenizer) + 1, pad_token_id=0, **keys)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / "bert" / name, folder)
    return folder


OWN_POSITIVE = {
    "sentences": ("simcse", {}),
    "no dropout on purpose": ("simcse", {"encoder.dropout": 0.0}),
    "images": ("mcse", {}),
    "captions": ("simcse", {"data.sentences": ..., "data.captions": "captions.csv"}),
}


@pytest.mark.parametrize("case", OWN_POSITIVE)
def test_a_sentence_that_is_its_own_positive_needs_dropout(
    case: str, still: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, keys = OWN_POSITIVE[case]
    assert run(still, recipe, tmp_path / "run", SHORT | keys) == 2
    said = capsys.readouterr().err
    assert "encoder.dropout: a sentence is its own positive here" in said
    assert "set encoder.dropout" in said
    assert not (tmp_path / "run").exists()


def test_it_is_told_and_written_down(still: Path, tmp_path: Path) -> None:
    assert run(still, "simcse", tmp_path / "run", SHORT | {"encoder.dropout": 0.1}) == 0
    config = json.loads((tmp_path / "run" / "last" / "config.json").read_text())
    assert config["hidden_dropout_prob"] == config["attention_probs_dropout_prob"] == 0.1


def test_triplets_need_none(still: Path, tmp_path: Path) -> None:
    assert run(still, "simcse", tmp_path / "run", SHORT | {"data.sentences": "nli.csv"}) == 0


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_rate_that_is_none_is_refused(
    value: float, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny, "simcse", tmp_path / "run", {"encoder.dropout": value}) == 2
    assert f"encoder.dropout: must be from 0 to below 1, got {value}" in capsys.readouterr().err


TRANSFORMER = {"encoder.kind": "transformer", "encoder.word_dim": ...}


@pytest.mark.parametrize("recipe", ["simcse", "mcse", "vse"])
def test_sentences_longer_than_the_model_takes_are_refused_at_the_start(
    recipe: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"data.max_length": 129}
    if recipe == "vse":
        keys |= TRANSFORMER | {"encoder.name_or_path": tiny / "bert"}
    assert run(tiny, recipe, tmp_path / "run", keys) == 2
    assert "data.max_length: 129 is more than the 128 tokens that the encoder takes" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["simcse", "vse"])
def test_cls_of_a_causal_model_is_refused_at_the_start(
    recipe: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"encoder.name_or_path": beside(tiny, tmp_path / "gpt2", "gpt2"), "encoder.pooling": "cls"}
    assert run(tiny, recipe, tmp_path / "run", keys | (TRANSFORMER if recipe == "vse" else {})) == 2
    assert "encoder.pooling: 'cls' reads the first token" in capsys.readouterr().err


def test_a_model_that_cannot_be_trained_is_refused_at_the_start(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"encoder.name_or_path": beside(tiny, tmp_path / "reformer", "reformer"), "encoder.pooling": "mean"}
    assert run(tiny, "simcse", tmp_path / "run", keys) == 2
    assert "can be evaluated and not trained: ValueError: If training" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["fnet", "modernbert", "mpnet", "qwen2", "roformer"])
def test_other_architectures_train_and_load_as_they_were(kind: str, tiny: Path, tmp_path: Path) -> None:
    """Their checkpoint gives sentences the same embeddings beside each other and alone."""
    keys = {"encoder.name_or_path": beside(tiny, tmp_path / kind, kind), "encoder.pooling": "mean"}
    keys |= {"encoder.dropout": 0.1, "encoder.packing": "auto", "data.captions.per_image": "all"}
    assert run(tiny, "mcse", tmp_path / "run", SHORT | keys) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["facts"]
    assert facts["attention"] == {"modernbert": "sdpa", "qwen2": "sdpa"}.get(kind, "eager")
    assert facts["padding"] == (
        "masked" if kind != "fnet" else "none: sentences of equal length go through the model together"
    )
    encoder = SentenceEncoder.from_pretrained(tmp_path / "run", device="cpu")
    np.testing.assert_allclose(encoder.encode(SENTENCES), encoder.encode(SENTENCES, batch_size=1), atol=1e-5)


def test_eager_attention_is_kept_with_the_checkpoint(tiny: Path, tmp_path: Path) -> None:
    assert run(tiny, "simcse", tmp_path / "run", SHORT | {"encoder.attention": "eager"}) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["facts"]["attention"] == "eager"
    encoder = SentenceEncoder.from_pretrained(tmp_path / "run", device="cpu")
    assert encoder._encoder.backbone.config._attn_implementation == "eager"


NOT_TRAINED = {
    "open_clip:ViT-B-32/openai": "text encoders of open_clip can be evaluated and not trained",
    "sentence-transformers:all-MiniLM-L6-v2": "give the folder or hub id of the transformer inside it",
    "model2vec:minishlab/potion-base-8M": "a table of word vectors has no transformer to train",
}


@pytest.mark.parametrize("name", NOT_TRAINED)
def test_names_that_evaluation_alone_takes_are_refused_with_what_to_do(
    name: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny, "tables", tmp_path / "run", {"encoder.name_or_path": name}) == 2
    assert f"encoder.name_or_path: '{name}': {NOT_TRAINED[name]}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [T5Model, T5EncoderModel])
def test_an_encoder_with_a_decoder_is_refused_and_can_be_evaluated(
    kind: type[PreTrainedModel], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """AutoModel gives T5's encoder a decoder of random weights, also where the encoder alone was saved."""
    tokenizer = AutoTokenizer.from_pretrained(tiny / "bert")
    folder = tmp_path / "t5"
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    kind(T5Config(vocab_size=len(tokenizer), **sizes)).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert run(tiny, "tables", tmp_path / "run", {"encoder.name_or_path": folder, "encoder.pooling": "mean"}) == 2
    said = capsys.readouterr().err
    assert "is not an encoder-only text model: AutoModel of transformers" in said
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    encoder = load_encoder(said.split("evaluated, as ")[1].strip(), device="cpu")
    rows = encoder.encode(SENTENCES)
    assert np.ptp(rows, axis=0).max() > 0.01
