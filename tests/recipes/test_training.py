"""Whole tiny runs through ``train.py``: what a run folder holds; that resuming, seeds and controls do as they say."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mcse.commands.main import main
from mcse.data.test_sets.sts import load_scored_pairs
from mcse.encoders.loading import load_encoder
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation.evaluators.scored_pairs import ScoredPairsEvaluator
from mcse.models.feature_model import load_feature_model
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.run_folder import STATE, read_run
from mcse.training import loop
from mcse.training.config import TrainConfig
from mcse.training.loop import Loop
from mcse.types import Score
from tests.fixtures.launch import (
    arguments_of,
    assert_same_run,
    differing,
    entries,
    losses,
    run,
    tensors,
)
from tests.fixtures.tiny_run import MLM_SCRATCH, build_tiny_run

LOSSES = {"simcse": {"loss.text_text"}, "mcse": {"loss.text_text", "loss.text_image"}}
SCORES = {"dev.spearman", "dev.alignment", "dev.uniformity"}
NUMBERS = {"step", "loss", "learning_rate", "grad_norm", "sentences_per_second"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def still(tmp_path_factory, equal_views):
    """The same without dropout."""
    return build_tiny_run(tmp_path_factory.mktemp("still"), dropout=0.0)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """One finished run a recipe, evaluated at every step."""
    folder = tmp_path_factory.mktemp("finished")
    keys = {"train.eval_steps": 1, "train.log_steps": 1, "train.save_steps": 3}
    for recipe in LOSSES:
        assert run(tiny, recipe, folder / recipe, keys) == 0
    return folder


def rebuild(monkeypatch, recipe, change):
    """Lets a test change the ``Run`` that a recipe builds."""
    plain = method(recipe).build
    monkeypatch.setattr(method(recipe), "build", lambda config, runtime: change(plain(config, runtime)))


def stop_after(monkeypatch, step, number=signal.SIGTERM):
    """Sends this process a signal while it takes the given step."""
    plain = Loop._step

    def signalled(self, *rest):
        if self.progress.step == step - 1:
            signal.raise_signal(number)
        plain(self, *rest)

    monkeypatch.setattr(Loop, "_step", signalled)


# --- the run folder


@pytest.mark.parametrize("recipe", LOSSES)
def test_run_folder_says_what_was_run(recipe, tiny, finished):
    folder = finished / recipe
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "best",
        "last",
        "state",
    }
    keys = {"train.eval_steps": 1, "train.log_steps": 1, "train.save_steps": 3}
    asked = load_config(None, arguments_of(tiny, recipe, folder, keys))
    assert load_config(folder / "config.yaml", []) == asked

    facts = json.loads((folder / "run.json").read_text())
    assert facts.keys() >= {"versions", "git_revision", "world_size", "device", "precision", "facts", "data"}
    assert facts["world_size"] == 1
    assert {"mcse", "torch", "transformers", "python"} <= facts["versions"].keys()
    assert facts["facts"]["global batch"] == 8
    assert facts["facts"]["negatives a query"] == 7
    assert facts["facts"]["steps"] == 6
    files = {file["role"]: file for file in facts["data"]}
    assert set(files) == {"sentences", "encoder", "dev pairs"} | (
        {"captions", "features"} if recipe == "mcse" else set()
    )
    assert all(Path(file["path"]).is_file() and len(file["digest"]) == 64 for file in files.values())


@pytest.mark.parametrize("recipe", LOSSES)
def test_metrics_hold_losses_rates_norms_speed_and_scores(recipe, finished):
    lines = [json.loads(line) for line in (finished / recipe / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    judged = [line for line in lines if "loss" not in line]
    assert [line["step"] for line in training] == [line["step"] for line in judged] == [1, 2, 3, 4, 5, 6]
    assert all(line.keys() == {"step", "higher_is_better"} | SCORES for line in judged)
    assert all(line["higher_is_better"] == {name: name == "dev.spearman" for name in SCORES} for line in judged)
    for line in training:
        paired = recipe == "mcse" and line["step"] % 2 == 1  # mix.schedule every second step, from the first
        terms = LOSSES[recipe] | {"weight.text_image"} if paired else {"loss.text_text"}
        assert line.keys() == NUMBERS | terms
        total = line["loss.text_text"] + (0.5 * line["loss.text_image"] if paired else 0)
        assert line["loss"] == pytest.approx(total, rel=1e-6)
        assert line["grad_norm"] > 0
        assert line["sentences_per_second"] > 0
    assert [line["learning_rate"] for line in training] == pytest.approx([1e-3 * (6 - s) / 6 for s in range(1, 7)])


@pytest.mark.parametrize("recipe", LOSSES)
def test_checkpoints_load(recipe, finished):
    sentences = ["the dog runs in the park number 3", "the cat sleeps in the house number 4"]
    rows = {
        part: SentenceEncoder.from_pretrained(str(finished / recipe / part)).encode(sentences)
        for part in ("best", "last", "")
    }
    assert rows["best"].shape == rows["last"].shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(rows["best"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(rows[""], rows["best"], atol=1e-6)
    heads = {name.split(":")[1].split(".")[0] for name in tensors(finished / recipe / "best") if "heads" in name}
    assert heads == {"text_head"} | ({"grounding_head", "image_head"} if recipe == "mcse" else set())


@pytest.mark.parametrize(("higher_is_better", "best"), [(True, 3), (False, 2)])
def test_best_follows_the_score_in_its_direction_and_stays_on_ties(higher_is_better, best, tiny, tmp_path, monkeypatch):
    values = iter([math.nan, 3.0, 7.0, math.nan, 7.0, 3.0])
    weights = []

    def judge(model):
        weights.append(model.encoder.backbone.embeddings.word_embeddings.weight.detach().clone())
        return {"dev.spearman": Score(next(values), higher_is_better=higher_is_better)}

    rebuild(monkeypatch, "simcse", lambda built: replace(built, evaluators=(lambda: judge(built.model),)))
    assert run(tiny, "simcse", tmp_path / "run", {"train.eval_steps": 1}) == 0
    kept = tensors(tmp_path / "run" / "best")["model.safetensors:embeddings.word_embeddings.weight"]
    assert [torch.equal(kept, weight) for weight in weights] == [step == best for step in range(1, 7)]
    last = tensors(tmp_path / "run" / "last")["model.safetensors:embeddings.word_embeddings.weight"]
    assert torch.equal(last, weights[-1])
    assert next(entry["dev.spearman"] for entry in entries(tmp_path / "run") if "dev.spearman" in entry) is None
    written = read_run(tmp_path / "run")
    assert (written.higher_is_better, written.best[0]) == (higher_is_better, best)


@pytest.mark.parametrize(("select_by", "choose"), [("dev.spearman", max), ("dev.alignment", min)])
def test_best_is_what_was_judged(select_by, choose, tiny, tmp_path):
    keys = {"train.eval_steps": 1, "train.select_by": select_by, "optim.learning_rate": 1e-2, "seed": 4}
    assert run(tiny, "simcse", tmp_path / "run", keys) == 0
    judged = [entry for entry in entries(tmp_path / "run") if select_by in entry]
    values = [entry[select_by] for entry in judged]
    chosen = choose(values)
    assert len(set(values)) == len(values)
    pairs = load_scored_pairs(tiny / "dev.tsv")
    encoder = SentenceEncoder.from_pretrained(str(tmp_path / "run" / "best"))
    found = ScoredPairsEvaluator(pairs, encoder, name="dev")()
    expected = judged[values.index(chosen)]
    assert {name: found[name].value for name in SCORES} == pytest.approx({name: expected[name] for name in SCORES})
    progress = json.loads((tmp_path / "run" / "state" / "step-00000006" / "state.json").read_text())["progress"]
    assert progress == {"step": 6, "best_score": chosen, "best_step": expected["step"]}


def test_without_selection_best_is_the_last(tiny, tmp_path):
    assert run(tiny, "simcse", tmp_path / "run", {"train.select_by": None}) == 0
    assert not differing(tmp_path / "run" / "best", tmp_path / "run" / "last")


# --- resuming


RESUMED = {
    "simcse": ("simcse", {}),
    "simcse with mlm": ("simcse", {"loss.mlm_weight": 0.1}),
    "simcse supervised": ("simcse", {"data.sentences": "nli.csv"}),
    "diffcse": ("diffcse", {"loss.rtd_weight": 0.5}),
    "simcse with a queue": ("simcse", {"loss.queue": {"size": 20}}),
    "rankcse": ("rankcse", {"loss.list_mle": {"weight": 0.01}}),
    "kdmcse": ("kdmcse", {}),
    "dalr": ("dalr", {}),
    "tables": ("tables", {}),
    "mcse": ("mcse", {"image.head_learning_rate": 5e-3}),
    "mcse with learned weights": (
        "mcse",
        {"loss.match_weight": {"kind": "learned"}, "controls.wrong_images": 0.3},
    ),
    "unpaired": ("unpaired", {"image.learning_rate": 5e-3}),
    "unpaired, of a stream": ("unpaired", {"data.sentences": {"stream": "sentences.txt"}, "loss.contrast": "simclr"}),
    "mlm": ("mlm", {"encoder.packing": "auto"}),
    "mlm from nothing": ("mlm", MLM_SCRATCH | {"loss.whole_word": True}),
    "elmo": ("elmo", {}),
    "elmo sampled": ("elmo", {"loss.samples": 20}),
    "cove": ("cove", {}),
    "word features": ("word_features", {}),
}


@pytest.mark.parametrize("case", RESUMED)
def test_stopped_and_continued_equals_uninterrupted_bit_for_bit(case, tiny, tmp_path, monkeypatch):
    recipe, keys = RESUMED[case]
    # 6 updates an epoch (9 with pairs), so that the stop lies within an epoch and the end in another.
    keys = keys | {
        "train.accumulation_steps": 2,
        "train.max_steps": 11,
        "train.eval_steps": 3,
        "train.log_steps": 1,
        "train.resume": "auto",
        "optim.warmup_steps": 2,
    }
    assert run(tiny, recipe, tmp_path / "straight", keys) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert run(tiny, recipe, tmp_path / "stopped", keys) == 143
    assert entries(tmp_path / "stopped")[-1]["step"] == 5
    assert {path.name for path in (tmp_path / "stopped" / "state").iterdir()} == {"step-00000003", "step-00000005"}
    last = tmp_path / "stopped" / "last"
    assert load_feature_model(last) if recipe == "word_features" else load_encoder(str(last))
    assert run(tiny, recipe, tmp_path / "stopped", keys) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    # Dropout and shuffling go on: no two updates saw the same.
    assert len(set(losses(tmp_path / "stopped"))) == 11


def test_a_stop_between_log_lines_loses_no_number(tiny, tmp_path, monkeypatch):
    keys = {"train.resume": "auto", "train.max_steps": 8, "train.eval_steps": 8, "train.log_steps": 4}
    assert run(tiny, "simcse", tmp_path / "straight", keys) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert run(tiny, "simcse", tmp_path / "stopped", keys) == 143
    assert run(tiny, "simcse", tmp_path / "stopped", keys) == 0
    means = {entry["step"]: entry["loss"] for entry in entries(tmp_path / "stopped") if "loss" in entry}
    straight = {entry["step"]: entry["loss"] for entry in entries(tmp_path / "straight") if "loss" in entry}
    assert list(straight) == [4, 8]
    assert list(means) == [2, 4, 8]
    assert (means[2] + means[4]) / 2 == pytest.approx(straight[4], rel=1e-6)
    assert means[8] == straight[8]


def test_a_finished_run_resumes_to_itself(tiny, tmp_path):
    keys = {"train.resume": "auto"}
    assert run(tiny, "simcse", tmp_path / "run", keys) == 0
    before = (entries(tmp_path / "run"), tensors(tmp_path / "run"))
    assert run(tiny, "simcse", tmp_path / "run", keys) == 0
    after = (entries(tmp_path / "run"), tensors(tmp_path / "run"))
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])


def test_a_finished_run_goes_on_when_given_more_steps(tiny, tmp_path):
    keys = {"train.resume": "auto", "train.select_by": None, "train.log_steps": 1}
    assert run(tiny, "simcse", tmp_path / "run", keys | {"train.max_steps": 3}) == 0
    before = tensors(tmp_path / "run" / "last")
    assert run(tiny, "simcse", tmp_path / "run", keys | {"train.max_steps": 4}) == 0
    after = tensors(tmp_path / "run" / "last")
    rates = [entry["learning_rate"] for entry in entries(tmp_path / "run") if "loss" in entry]
    assert rates == pytest.approx([1e-3 * 2 / 3, 1e-3 / 3, 0, 0])
    name = "model.safetensors:encoder.layer.0.output.dense.weight"
    moved = float((after[name] - before[name]).abs().max())
    # The rate of the new schedule's fourth step, not the zero at which the old one ended.
    assert moved == pytest.approx(1e-3 / 4, rel=0.3)
    assert not differing(tmp_path / "run" / "best", tmp_path / "run" / "last"), "nothing selects, so best is the last"


@pytest.mark.parametrize("killed_at", ["", "before", "in the middle"])
def test_a_finished_run_may_give_up_its_states(killed_at, tiny, tmp_path, monkeypatch, capsys):
    keys = {"train.resume": "auto", "train.keep_state": False, "train.select_by": None}
    folder = tmp_path / "run"
    if killed_at:

        def kill(path: Path) -> None:
            if path.name == STATE:
                if killed_at != "before":
                    path.rename(path.with_name(f"{STATE}.partial"))
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(loop, "remove_folder", kill)
            assert run(tiny, "simcse", folder, keys) == 130
        assert (folder / STATE).is_dir() == (killed_at == "before")
        assert {"best", "last"} <= {path.name for path in folder.iterdir()}, "they are written before states go"
    assert run(tiny, "simcse", folder, keys) == 0
    assert read_run(folder).state == "finished"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["best", "last"]
    assert run(tiny, "simcse", tmp_path / "kept", keys | {"train.keep_state": True}) == 0
    assert not differing(tmp_path / "kept" / "last", folder / "last")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(tiny, "simcse", folder, keys) == 0, "a job that is started again has nothing to do"
    capsys.readouterr()
    assert run(tiny, "simcse", folder, keys | {"train.max_steps": 7}) == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    message = capsys.readouterr().err
    assert "finished after step 6 and kept no state (train.keep_state), so it cannot go on to step 7" in message
    assert "--overwrite" in message


# --- what must not, and what must, change a run


def test_evaluation_does_not_disturb_training(tiny, tmp_path):
    often = {"train.eval_steps": 1, "train.log_steps": 1}
    never = {"train.eval_steps": 1000, "train.log_steps": 1}
    for name, keys in (("often", often), ("never", never)):
        assert run(tiny, "mcse", tmp_path / name, keys) == 0
    assert losses(tmp_path / "often") == losses(tmp_path / "never")
    assert not differing(tmp_path / "often" / "last", tmp_path / "never" / "last")


def test_mcse_at_weight_zero_is_simcse_on_captions(tiny, tmp_path):
    # Unclipped: a norm sums in another order when the image heads' zeros stand among the terms, 1e-7 apart.
    keys = {"train.log_steps": 1, "train.max_steps": 10, "data.captions.per_image": "all", "optim.max_grad_norm": 1e9}
    mixed = {"data.captions": "captions.csv", "mix.schedule": "every"}
    assert run(tiny, "mcse", tmp_path / "mcse", keys | {"loss.image_weight": 0.0}) == 0
    assert run(tiny, "simcse", tmp_path / "simcse", keys | mixed) == 0
    assert losses(tmp_path / "mcse") == losses(tmp_path / "simcse")
    assert losses(tmp_path / "mcse", "loss.text_text") == losses(tmp_path / "simcse", "loss.text_text")
    ours, theirs = (tensors(tmp_path / name / "last") for name in ("mcse", "simcse"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(tmp_path / "mcse", "loss.text_image")
    assert run(tiny, "mcse", tmp_path / "lit", keys) == 0
    assert losses(tmp_path / "lit")[1:] != losses(tmp_path / "simcse")[1:]
    keys |= {"optim.max_grad_norm": 1.0}
    assert run(tiny, "mcse", tmp_path / "mcse clipped", keys | {"loss.image_weight": 0.0}) == 0
    assert run(tiny, "simcse", tmp_path / "simcse clipped", keys | mixed) == 0
    clipped = [losses(tmp_path / name) for name in ("mcse clipped", "simcse clipped")]
    assert clipped[0] == pytest.approx(clipped[1], rel=1e-4)
    assert clipped[0] != losses(tmp_path / "mcse")


def test_controls_change_the_image_term_and_nothing_before_it(tiny, tmp_path):
    keys = {"train.log_steps": 1, "train.max_steps": 3, "data.captions.per_image": "all"}
    terms = {}
    for control in (True, "shuffled_images", "shuffled_pairs", "random"):
        output = tmp_path / str(control)
        assert run(tiny, "mcse", output, keys | {"controls.images": control}) == 0
        terms[control] = losses(output, "loss.text_image")[0]
        assert losses(output, "loss.text_text")[0] == losses(tmp_path / "True", "loss.text_text")[0]
        assert json.loads((output / "run.json").read_text())["facts"]["images shown"] == str(control).lower()
    assert len(set(terms.values())) == 4
    assert run(tiny, "mcse", tmp_path / "noisy", keys | {"controls.wrong_images": 0.5}) == 0
    assert losses(tmp_path / "noisy", "loss.text_image")[0] not in terms.values()
    facts = json.loads((tmp_path / "noisy" / "run.json").read_text())["facts"]
    assert facts["images shown"] == "true, for 0.5 of them a wrong one"


def test_fewer_pairs_are_fewer(tiny, tmp_path):
    assert run(tiny, "mcse", tmp_path / "few", {"controls.num_pairs": 16}) == 0
    assert json.loads((tmp_path / "few" / "run.json").read_text())["facts"]["pairs"] == 16


@pytest.mark.parametrize("recipe", LOSSES)
def test_a_seed_names_a_run(recipe, tiny, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        assert run(tiny, recipe, tmp_path / name, {"seed": seed, "train.log_steps": 1}) == 0
    assert_same_run(tmp_path / "one", tmp_path / "again")
    assert all(left != right for left, right in zip(*(losses(tmp_path / n) for n in ("one", "other")), strict=True))


def test_gradient_checkpointing_changes_memory_alone(still, tiny, tmp_path):
    keys = {"train.log_steps": 1}
    for name, on in (("plain", False), ("checkpointed", True)):
        assert run(still, "mcse", tmp_path / name, keys | {"encoder.gradient_checkpointing": on}) == 0
    assert losses(tmp_path / "checkpointed") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    # With dropout the masks must be drawn again alike in the backward pass, or gradients would be of another network.
    for name, on in (("noisy", False), ("replayed", True)):
        assert run(tiny, "mcse", tmp_path / name, keys | {"encoder.gradient_checkpointing": on}) == 0
    assert losses(tmp_path / "replayed") == pytest.approx(losses(tmp_path / "noisy"), rel=1e-5)


def test_bf16_trains_close_to_fp32_and_exports_float32(still, tmp_path):
    for precision in ("fp32", "bf16"):
        keys = {"train.precision": precision, "train.log_steps": 1, "encoder.length_chunks": 2}
        assert run(still, "mcse", tmp_path / precision, keys) == 0
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=0.02)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")
    assert {tensor.dtype for tensor in tensors(tmp_path / "bf16" / "best").values()} == {torch.float32}
    assert json.loads((tmp_path / "bf16" / "run.json").read_text())["precision"] == "bf16"


def test_fp16_without_cuda_is_refused(tiny, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("fp16 is possible here")
    assert run(tiny, "simcse", tmp_path / "run", {"train.precision": "fp16"}) == 2
    assert "train.precision: fp16 needs a CUDA device" in capsys.readouterr().err


# --- length and schedule


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_an_epoch_and_its_schedule_count_updates(accumulation, tiny, tmp_path):
    # 96 sentences in batches of 8: 12 batches an epoch.
    keys = {
        "train.max_steps": None,
        "train.epochs": 1,
        "train.accumulation_steps": accumulation,
        "train.log_steps": 1,
        "train.eval_steps": 100,
        "optim.warmup_steps": 2,
    }
    assert run(tiny, "simcse", tmp_path / "run", keys) == 0
    total = 12 // accumulation
    rates = [entry["learning_rate"] for entry in entries(tmp_path / "run") if "loss" in entry]
    after = [1.0 if step < 2 else (total - step) / max(1, total - 2) for step in range(1, total + 1)]
    assert rates == pytest.approx([1e-3 * factor for factor in after])
    assert rates[-1] == 0


# --- what is said at the start


@pytest.mark.parametrize("accumulation", [1, 3])
def test_accumulation_says_once_that_it_adds_no_negatives(accumulation, tiny, tmp_path, caplog):
    keys = {"train.accumulation_steps": accumulation, "train.max_steps": 2, "train.eval_steps": 2}
    assert run(tiny, "simcse", tmp_path / "run", keys) == 0
    said = [record.getMessage() for record in caplog.records if "train.accumulation_steps" in record.getMessage()]
    assert len(said) == (accumulation > 1)
    if said:
        assert "negatives of its own batch alone (8 examples, not 24)" in said[0]
        assert "train.cached_chunk_size" in said[0]
        assert hasattr(TrainConfig, "cached_chunk_size"), "the setting that it names exists"


# --- refusals and flags


def test_a_wrong_score_name_is_refused_before_anything_is_touched(tiny, tmp_path, capsys):
    assert run(tiny, "simcse", tmp_path / "run", {"train.max_steps": 2}) == 0
    before = entries(tmp_path / "run")
    assert run(tiny, "simcse", tmp_path / "run", {"train.select_by": "dev.spaerman"}, "--overwrite") == 2
    message = capsys.readouterr().err
    assert "train.select_by: 'dev.spaerman' is not among dev.spearman, dev.alignment, dev.uniformity" in message
    assert entries(tmp_path / "run") == before, "an overwritten run must not be lost to a misspelt key"
    assert run(tiny, "simcse", tmp_path / "new", {"train.select_by": "stsb_dev.spearman"}) == 2
    assert not (tmp_path / "new").exists()


def test_a_warm_up_longer_than_the_run_is_refused_before_anything_is_touched(tiny, tmp_path, capsys):
    assert run(tiny, "simcse", tmp_path / "new", {"optim.warmup_steps": 7}) == 2
    assert "optim.warmup_steps: 7 is more than the run's 6 steps" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_existing_run_is_kept_unless_told(tiny, tmp_path, capsys):
    output = tmp_path / "run"
    assert run(tiny, "simcse", output, {"train.max_steps": 2}) == 0
    before = entries(output)
    assert run(tiny, "simcse", output, {"train.max_steps": 3}) == 2
    message = capsys.readouterr().err
    assert str(output) in message
    assert "--train.resume auto" in message
    assert "--overwrite" in message
    assert entries(output) == before
    assert run(tiny, "simcse", output, {"train.max_steps": 3, "seed": 7}, "--overwrite") == 0
    assert [entry["step"] for entry in entries(output) if "loss" in entry] == [2, 3]
    assert (output / "state" / "step-00000003").is_dir()
    assert not (output / "state" / "step-00000002").exists()


def test_overwrite_deletes_nothing_that_is_no_run(tiny, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    assert run(tiny, "simcse", tmp_path / "thesis", {}, "--overwrite") == 2
    assert "holds no run" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"
    assert run(tiny, "simcse", tmp_path / "thesis" / "chapter1.txt") == 2
    assert "is a file" in capsys.readouterr().err


def test_overwrite_keeps_the_old_run_if_the_new_one_cannot_be_built(tiny, tmp_path, capsys):
    assert run(tiny, "simcse", tmp_path / "run") == 0
    assert run(tiny, "simcse", tmp_path / "run", {"data.sentences": "absent.txt"}, "--overwrite") == 2
    assert "data.sentences: no file at" in capsys.readouterr().err
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_resume_auto_starts_where_nothing_is(tiny, tmp_path):
    assert run(tiny, "simcse", tmp_path / "auto", {"train.resume": "auto"}) == 0
    assert run(tiny, "simcse", tmp_path / "never") == 0
    assert_same_run(tmp_path / "auto", tmp_path / "never")


def test_print_config_shows_and_touches_nothing(tiny, tmp_path, capsys):
    arguments = [*arguments_of(tiny, "mcse", tmp_path / "run", {"seed": 9}), "--print-config"]
    assert main(["train", *arguments]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert load_config(shown, []) == load_config(None, arguments[:-1])
    assert load_config(shown, []).seed == 9
    assert not (tmp_path / "run").exists()


def test_fewer_pairs_than_a_batch_are_refused(tiny, tmp_path, capsys):
    assert run(tiny, "mcse", tmp_path / "run", {"controls.num_pairs": 7}) == 2
    assert "data.captions: 7 examples are fewer than one batch of 8" in capsys.readouterr().err


# --- trackers


def test_tensorboard_and_wandb_get_the_same_numbers(tiny, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "run"
    assert run(tiny, "simcse", output, {"train.trackers": ["tensorboard", "wandb"], "train.max_steps": 4}) == 0
    events = [path.parent for path in output.rglob("events.out.tfevents*")]
    found = {}
    for folder in events:
        accumulator = EventAccumulator(str(folder)).Reload()
        for tag in accumulator.Tags()["scalars"]:
            found[tag] = [(event.step, event.value) for event in accumulator.Scalars(tag)]
    written = [(int(entry["step"]), entry["loss"]) for entry in entries(output) if "loss" in entry]
    assert [step for step, _ in found["loss"]] == [step for step, _ in written] == [2, 3, 4]
    assert [value for _, value in found["loss"]] == pytest.approx([value for _, value in written])
    assert "dev.spearman" in found
    runs = list(tmp_path.rglob("run-*.wandb"))
    assert len(runs) == 1
    assert runs[0].stat().st_size > 0


def test_no_tracker_writes_unless_asked(finished):
    assert not list(finished.rglob("events.out*"))
    assert not list(finished.rglob("*.wandb"))
    numbers = [value for entry in entries(finished / "mcse") for value in entry.values() if not isinstance(value, dict)]
    assert all(map(math.isfinite, numbers))
