"""The recipe mlm: what is held out, its perplexity by transformers' own loss, and who starts from its runs."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertModel

from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.recipes.mlm.text import is_held_out, read_text
from mcse.training.runtime import start_runtime
from mcse.types import IGNORED_LABEL
from tests.fixtures.launch import arguments_of, entries, own_cache, run
from tests.fixtures.tiny_models import build_tiny_bert
from tests.fixtures.tiny_run import MLM_SCRATCH, build_tiny_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """One run from nothing, and one from the tiny encoder."""
    folder = tmp_path_factory.mktemp("finished")
    keys = {"train.log_steps": 1, "train.eval_steps": 2, "optim.learning_rate": 3e-3}
    assert run(tiny, "mlm", folder / "scratch", keys | MLM_SCRATCH) == 0
    assert run(tiny, "mlm", folder / "pretrained", keys | {"loss.whole_word": True}) == 0
    return folder


def built(tiny, keys=None):
    with own_cache(tiny):
        config = load_config(None, arguments_of(tiny, "mlm", tiny / "unused", keys))
        return method("mlm").build(config, start_runtime(precision="fp32", seed=config.seed))


def lines_of(tiny):
    return (tiny / "sentences.txt").read_text().splitlines()


# --- what is held out


def test_held_out_sentences_are_not_trained_on_and_the_same_for_every_seed(tiny):
    config = load_config(None, arguments_of(tiny, "mlm", tiny / "unused"))
    text = read_text(config.data)
    other = read_text(load_config(None, arguments_of(tiny, "mlm", tiny / "unused", {"seed": 7})).data)
    training = [row for (row,) in text.training.rows()]
    assert text.dev == other.dev
    assert sorted([*training, *text.dev]) == sorted(lines_of(tiny))
    assert not {line.casefold() for line in training} & {line.casefold() for line in text.dev}
    assert 1 <= len(text.dev) < 30


def test_a_share_of_the_sentences_is_held_out_by_their_letters():
    texts = [f"sentence number {number}" for number in range(4000)]
    held_out = [is_held_out(text, share=0.1) for text in texts]
    assert 320 < sum(held_out) < 480
    assert [is_held_out(f"  {text.upper()}!", share=0.1) for text in texts] == held_out


def test_a_dev_file_is_not_trained_on(tiny):
    lines = lines_of(tiny)
    (tiny / "own_dev.txt").write_text("\n".join([lines[3], lines[5].upper(), "nobody has seen this"]) + "\n")
    keys = {"data.dev": "own_dev.txt", "data.dev_share": ...}
    text = read_text(load_config(None, arguments_of(tiny, "mlm", tiny / "unused", keys)).data)
    training = [row for (row,) in text.training.rows()]
    assert training == [line for line in lines if line not in (lines[3], lines[5])]
    assert [file.role for file in text.files] == ["sentences", "dev"]


# --- what is learnt


def test_the_recorded_perplexity_is_by_the_library_s_own_loss(tiny, finished):
    """Sentence by sentence from the checkpoint, with the masks of the run's own dev set."""
    for name, keys in (("scratch", MLM_SCRATCH), ("pretrained", {"loss.whole_word": True})):
        facts = json.loads((finished / name / "best" / "mcse.json").read_text())
        model = AutoModelForMaskedLM.from_pretrained(finished / name / "best").eval()
        evaluator = built(tiny, keys).evaluators[0]
        total, count = 0.0, 0
        for batch in evaluator._batches:
            for ids, label, length in zip(
                batch.tokens.input_ids_BT, batch.label_BT, batch.tokens.lengths(), strict=True
            ):
                if masked := int((label != IGNORED_LABEL).sum()):
                    with torch.no_grad():
                        loss = model(input_ids=ids[None, :length], labels=label[None, :length]).loss
                    total, count = total + masked * float(loss), count + masked
        assert facts["scores"]["dev.perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
        assert facts["higher_is_better"]["dev.perplexity"] is False


def test_perplexity_falls_and_the_lowest_is_kept(finished):
    for name in ("scratch", "pretrained"):
        lines = entries(finished / name)
        found = [line["dev.perplexity"] for line in lines if "dev.perplexity" in line]
        assert len(found) == 3
        assert found[-1] < found[0]
        kept = json.loads((finished / name / "best" / "mcse.json").read_text())["scores"]["dev.perplexity"]
        assert kept == min(found)
        losses = [line["loss.mlm"] for line in lines if "loss.mlm" in line]
        assert losses == [line["loss"] for line in lines if "loss" in line]


def test_sts_dev_stands_beside_perplexity_and_does_not_select(tiny, tmp_path):
    keys = {"train.select_by": ..., "train.max_steps": 2}
    assert run(tiny, "mlm", tmp_path / "run", keys) == 0
    scores = json.loads((tmp_path / "run" / "best" / "mcse.json").read_text())["scores"]
    assert scores.keys() == {"dev.perplexity", "dev.spearman", "dev.alignment", "dev.uniformity"}
    state = json.loads((tmp_path / "run" / "state" / "step-00000002" / "state.json").read_text())
    assert state["progress"]["best_score"] == scores["dev.perplexity"]


# --- what is saved


def test_a_checkpoint_is_what_transformers_loads_head_included(tiny, finished):
    for name in ("scratch", "pretrained"):
        folder = finished / name / "best"
        model, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        tokenizer = AutoTokenizer.from_pretrained(folder)
        sentences = ["the dog runs in the park number 3", "a cat"]
        given = tokenizer(sentences, return_tensors="pt", padding=True)
        with torch.no_grad():
            hidden = AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state
        mask = given["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        expected = torch.nn.functional.normalize(mean, dim=1).numpy()
        rows = SentenceEncoder.from_pretrained(finished / name).encode(sentences)
        np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_simcse_and_diffcse_start_from_a_run(tiny, finished, tmp_path):
    for name in ("scratch", "pretrained"):
        folder = finished / name / "best"
        start = {"encoder.name_or_path": folder, "train.max_steps": 2, "train.eval_steps": 2}
        assert run(tiny, "simcse", tmp_path / f"simcse_{name}", start | {"loss.mlm_weight": 0.1}) == 0
        assert run(tiny, "diffcse", tmp_path / f"diffcse_{name}", start | {"generator.name_or_path": folder}) == 0
        lines = entries(tmp_path / f"diffcse_{name}")
        assert any("loss.rtd" in line for line in lines)
        assert any("loss.mlm" in line for line in entries(tmp_path / f"simcse_{name}"))


def test_mlm_goes_on_from_its_own_run(tiny, finished, tmp_path):
    keys = {"encoder.name_or_path": finished / "scratch" / "best", "data.max_length": 64, "train.max_steps": 4}
    assert run(tiny, "mlm", tmp_path / "run", keys | {"train.eval_steps": 1, "optim.learning_rate": 1e-5}) == 0
    first = next(line for line in entries(tmp_path / "run") if "dev.perplexity" in line)
    kept = json.loads((finished / "scratch" / "best" / "mcse.json").read_text())["scores"]["dev.perplexity"]
    assert first["dev.perplexity"] == pytest.approx(kept, rel=1e-2)


def test_an_encoder_without_a_head_trains_one(tiny, tmp_path, caplog):
    folder = tmp_path / "encoder"
    model = BertModel.from_pretrained(tiny / "bert")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny / "bert").save_pretrained(folder)
    assert run(tiny, "mlm", tmp_path / "run", {"encoder.name_or_path": folder}) == 0
    assert "its head starts untrained, with an output matrix tied to the embeddings" in caplog.text
    _, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "best", output_loading_info=True)
    assert not report["missing_keys"]


def test_half_precision_and_packing_train(tiny, tmp_path):
    keys = {"train.precision": "bf16", "encoder.packing": "auto", "train.accumulation_steps": 2, "train.log_steps": 1}
    assert run(tiny, "mlm", tmp_path / "run", keys) == 0
    assert all(math.isfinite(line["loss"]) for line in entries(tmp_path / "run") if "loss" in line)


# --- what is refused


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"train.cached_chunk_size": 2}, "train.cached_chunk_size: this recipe contrasts no examples"),
        ({"train.graphs": "cuda_graphs"}, "train.graphs: mlm reads the rows of masked tokens"),
        ({"loss.mask_share": 0}, "loss.mask_share: must be above 0 and below 1"),
        ({"data.dev_share": 1e-9}, "data.dev_share: 1e-09 of .* holds out no sentence"),
        ({"data.dev": "uneven.txt"}, "data.dev_share: would do nothing, since data.dev is a file"),
        ({"data.max_length": 500}, "data.max_length: 500 is more than the 128 tokens"),
        (MLM_SCRATCH | {"data.max_length": 65}, "data.max_length: 65 is more than the 64 tokens"),
        (
            {"encoder.scratch": MLM_SCRATCH["encoder.scratch"] | {"heads": 3}},
            "encoder.scratch.heads: 3 heads do not divide a width of 16",
        ),
        ({"encoder.name_or_path": ...}, "missing key 'encoder'"),
        ({"encoder.name_or_path": "nowhere"}, "encoder.name_or_path: no tokenizer at 'nowhere'"),
        ({"data.sentences": "nli.csv"}, "holds triplets; give sentences alone"),
    ],
)
def test_what_cannot_be_trained_is_refused(keys, said, tiny, tmp_path, capsys):
    if "encoder.scratch" in keys:
        keys = {"encoder.name_or_path": ...} | keys
    assert run(tiny, "mlm", tmp_path / "run", keys) == 2
    assert re.search(said, " ".join(capsys.readouterr().err.split()))


def test_whole_words_need_a_tokenizer_that_says_what_a_word_is(tiny, monkeypatch):
    monkeypatch.setattr("mcse.models.piece_tokenizer.PieceTokenizer.continuing_pieces", lambda _: None)
    with pytest.raises(ValueError, match=r"loss\.whole_word: the tokenizer's pieces do not say"):
        built(tiny, {"loss.whole_word": True})


def test_another_vocabulary_is_no_generator_for_diffcse(tiny, finished, tmp_path, capsys):
    other = build_tiny_bert(tmp_path / "other")
    keys = {"encoder.name_or_path": other, "generator.name_or_path": finished / "scratch" / "best"}
    assert run(tiny, "diffcse", tmp_path / "run", keys) == 2
    assert "has another vocabulary than encoder.name_or_path" in capsys.readouterr().err
