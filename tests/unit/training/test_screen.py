"""What a run says of itself: the panel at its start, and lines of losses and scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import mcse.progress as progress
from mcse.recipes.launch import load_config
from mcse.training.run import Run
from mcse.training.screen import Screen, start_panel
from mcse.types import DataFile, Score

LOSSES = {
    "loss": 1.5,
    "loss.text_image": 4.0,
    "loss.text_text": 0.5,
    "learning_rate": 1e-3,
    "grad_norm": 0.25,
    "sentences_per_second": 1234.5,
}
FACTS = {
    "processes (world size)": 2,
    "device": "cuda:0",
    "precision": "bf16",
    "global batch": 128,
    "steps": 1000,
    "steps an epoch": 390,
    "parameters trained": "1,000 of 3,000",
}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def screen(**changes):
    return Screen(**{"total": 40, "initial": 0, "select_by": "dev.spearman", "is_shown": True, **changes})


def run_of(**changes):
    run = Run(
        model=nn.Linear(1, 1),
        step=lambda model, batch: {},
        stream=None,
        optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))]),
        export=lambda folder, scores: None,
        evaluators=(dict,),
    )
    return replace(run, **changes)


def config_of(recipe="mcse", *more):
    keys = {
        "output_dir": "runs/x",
        "optim.learning_rate": "1e-4",
        "train.batch_size": "64",
        "train.max_steps": "1000",
        "train.eval_steps": "80",
        "train.select_by": "dev.spearman",
        "encoder.name_or_path": "bert",
        "data.captions": "captions.csv",
        "data.images": "features",
        "loss.image_weight": "0.5",
    }
    return load_config(None, ["--recipe", recipe, *(t for k, v in keys.items() for t in (f"--{k}", v)), *more])


def panel_of(run, config, **facts):
    return start_panel(run, config, facts=FACTS | facts, folder=Path("runs/x"), source="mcse:demo/mcse")


def test_the_panel_says_what_where_and_on_what():
    run = run_of(
        facts={"sentences": 10_000, "pairs": 7, "pairs an epoch": 4480, "negatives a query": 127, "attention": "sdpa"},
        data=[
            DataFile("captions", "/data/captions.csv", "0"),
            DataFile("encoder", "/models/bert/config.json", "0"),
            DataFile("dev pairs", "/data/dev.tsv", "0"),
        ],
    )
    assert panel_of(run, config_of("mcse", "--loss.mlm_weight", "0.1", "--train.cached_chunk_size", "32")) == {
        "recipe": "mcse, mcse:demo/mcse, seed 42",
        "encoder": "bert, pooling cls, 3,000 parameters, 1,000 trained",
        "data": "10,000 sentences, 7 pairs",
        "read from": "captions.csv, dev.tsv",
        "settings": "attention: sdpa",
        "losses": "contrast at temperature 0.05, mlm × 0.1, image × 0.5",
        "batch": "128 examples, in chunks of 32, 127 negatives a query",
        "steps": "1,000, 390 an epoch (4,480 pairs)",
        "selection": "the best dev.spearman, every 80 steps",
        "where": "cuda:0, 2 processes, bf16",
        "folder": "runs/x",
    }


def test_terms_that_are_groups_are_named_with_their_weights_and_absent_ones_are_not():
    config = config_of("mcse", "--loss.dimension_contrast.weight", "0.2", "--loss.queue.size", "64")
    assert panel_of(run_of(), config)["losses"] == (
        "contrast at temperature 0.05, dimension_contrast × 0.2, queue, image × 0.5"
    )


def test_losses_that_the_data_choose_are_the_recipes_to_say():
    """A table of scores, trained with CoSENT, once showed the contrast's temperature."""
    rows = panel_of(run_of(facts={"losses": "cosent"}), config_of())
    assert rows["losses"] == "cosent"
    assert "settings" not in rows


def test_the_panel_names_a_commit_of_the_hub_and_the_last_weights_where_nothing_selects():
    rows = panel_of(run_of(facts={"encoder": "org/bert at commit 1234"}, evaluators=()), config_of())
    assert rows["encoder"].startswith("org/bert at commit 1234, pooling")
    assert rows["selection"] == "the last weights"
    assert "settings" not in rows


def test_a_log_gets_losses_with_pace_and_time_left_and_not_every_step(capsys, clock):
    with screen() as shown:
        for step in range(1, 21):
            clock[0] += 1.0
            shown.step()
            shown.losses(step, LOSSES, is_due=step == 20)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/40", "11/40", "20/40"]  # every ten seconds, and when one is due
    assert lines[-1] == (
        "step 20/40  loss 1.5 (text_image 4, text_text 0.5)  lr 0.001  gradient 0.25  1,234 examples/s  "
        "0:20 elapsed, 0:20 left"
    )


def test_a_resumed_run_foretells_by_its_own_pace(capsys, clock):
    with screen(initial=30) as shown:
        clock[0] += 8.0
        shown.losses(34, LOSSES, is_due=True)  # two seconds a step
    assert "0:08 elapsed, 0:12 left" in capsys.readouterr().err
    assert shown.finished == "finished 40 steps, the last 10 of them in 0:08"
    assert screen().finished == "finished 40 steps in 0:00"


def test_a_log_gets_dev_scores_the_one_that_selects_first(capsys):
    scores = {"dev.alignment": Score(0.5, higher_is_better=False), "dev.spearman": Score(27.868)}
    with screen() as shown:
        shown.scores(20, scores, is_best=True)
        shown.scores(40, scores, is_best=False)
        shown.scores(40, {}, is_best=False)
    assert capsys.readouterr().err.splitlines() == [
        "step 20/40  dev.spearman 27.87 (best, kept in best/)  dev.alignment 0.50",
        "step 40/40  dev.spearman 27.87  dev.alignment 0.50",
    ]


def test_a_screen_gets_a_bar_with_loss_score_and_pace(capsys, monkeypatch):
    monkeypatch.setattr(progress, "is_log", lambda: False)
    with screen() as shown:
        shown.losses(20, LOSSES, is_due=True)
        shown.scores(20, {"dev.spearman": Score(27.868)}, is_best=True)
    said = capsys.readouterr().err
    assert "loss 1.5, dev 27.87, 1,234 examples/s]" in said
    assert "step 20/40  loss 1.5 (text_image 4, text_text 0.5)  lr 0.001  gradient 0.25\n" in said


def test_nothing_is_shown_of_another_process(capsys):
    with screen(is_shown=False) as shown:
        shown.step()
        shown.losses(1, LOSSES, is_due=True)
        shown.scores(1, {"dev.spearman": Score(1.0)}, is_best=True)
    assert capsys.readouterr().err == ""
