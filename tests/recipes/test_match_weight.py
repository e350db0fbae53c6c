"""Weights of pairs in the image term: their definitions in loops, what they leave alone, and what they tell apart."""

from __future__ import annotations

import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mcse.data.teacher_rows import TeacherStore
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import arguments_of, entries, losses, one_thread, own_cache, run
from tests.fixtures.teacher_stores import store_rows
from tests.fixtures.tiny_run import build_tiny_run

PAIRS = {"data.captions.per_image": "all", "controls.wrong_images": 0.4, "train.log_steps": 1}
PAIRS |= {"data.sentences": None, "mix.schedule": ..., "mix.pair_every": ...}
LEARNED = PAIRS | {"loss.match_weight": {"kind": "learned", "learning_rate": 0.01}}
GUIDED = PAIRS | {
    "data.images": "alike.hdf5",
    "teachers": [{"name": "bert", "store": "rows"}],
    "loss.match_weight": {"kind": "guided", "threshold": 0.02, "width": 0.01},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny run with rows of its captions, and of its images in the same space: what their captions have apart."""
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    with own_cache(folder):
        store_rows(folder)
    captions = [line.split(",", 1)[1] for line in (folder / "captions.csv").read_text().splitlines()[1:]]
    store = TeacherStore(folder / "rows")
    row_CF = store.rows(store.places(captions))
    row_IF = (row_CF / np.linalg.norm(row_CF, axis=1, keepdims=True)).reshape(48, 2, -1).mean(1)
    with h5py.File(folder / "alike.hdf5", "w") as file:
        file["features"] = row_IF - row_IF.mean(0)
        file["image_names"] = [f"{number:04d}.png" for number in range(48)]
    return folder


def built(tiny, recipe, keys):
    with one_thread(), own_cache(tiny):
        config = load_config(None, arguments_of(tiny, recipe, tiny / "unused", keys))
        made = method(recipe).build(config, start_runtime(precision="fp32", seed=config.seed))
    made.model.eval()
    return made


def cosine(left, right):
    left, right = left.double(), right.double()
    return float(left @ right / left.norm() / right.norm())


def weighted_term(rows, batch, weights):
    """The image term of the paper as a weighted mean, times the pairs; in evaluation mode both views are one."""
    total = 0.0
    for i, weight in enumerate(weights):
        logits = {
            j: cosine(rows.grounded_query_BH[i], rows.image_BH[j]) / 0.05
            for j in range(len(weights))
            if i == j or batch.image_id_B[i] != batch.image_id_B[j]
        }
        total += weight * (math.log(sum(map(math.exp, logits.values()))) - logits[i])
    return total / sum(weights) * len(weights)


def sides(terms):
    return {name: (term.sum.item(), float(term.count)) for name, term in terms.items() if name.startswith("weight.")}


@pytest.mark.parametrize("recipe", ["mcse", "kdmcse"])
def test_guided_weights_are_their_formula(recipe, tiny) -> None:
    margins = {} if recipe == "mcse" else {"loss.margin": None, "loss.image_margin": 0.0}
    run = built(tiny, recipe, GUIDED | margins)
    batch = run.stream.batch(0)
    rows = run.model(batch)
    terms = run.step(lambda _: rows, batch)
    cosines = [cosine(*pair) for pair in zip(batch.teacher_BF, batch.image_BF, strict=True)]
    weights = [1 / (1 + math.exp(-(value - 0.02) / 0.01)) for value in cosines]
    assert max(weights) / min(weights) > 2
    assert terms["text_image"].sum.item() == pytest.approx(weighted_term(rows, batch, weights), rel=1e-4)
    assert (terms["text_image"].count, "matching" in terms) == (8, False)
    wrong = batch.is_wrong_B.tolist()
    assert 0 < sum(wrong) < 8
    for name, (total, count) in sides(terms).items():
        part = [w for w, bad in zip(weights, wrong, strict=True) if bad == (name == "pair_weight.wrong")]
        assert (total, count) == (pytest.approx(sum(part), rel=1e-4), len(part))


def test_learned_weights_are_their_formula(tiny) -> None:
    run = built(tiny, "mcse", LEARNED)
    head = run.model.match_head
    torch.nn.init.normal_(head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    torch.nn.init.constant_(head.bias, 0.2)
    batch = run.stream.batch(0)
    rows = run.model(batch)
    terms = run.step(lambda _: rows, batch)
    width = rows.image_BH.shape[1]

    def logit(i, j):
        text, image = (F.normalize(row.double(), dim=0) for row in (rows.grounded_query_BH[i], rows.image_BH[j]))
        return float(math.sqrt(width) * text @ head.weight.double() @ image) + 0.2

    weights = [1 / (1 + math.exp(-logit(i, i))) for i in range(8)]
    assert max(weights) / min(weights) > 1.5
    assert terms["text_image"].sum.item() == pytest.approx(weighted_term(rows, batch, weights), rel=1e-4)
    judged = [-math.log(weight) for weight in weights]
    for i in range(8):
        if batch.image_id_B[i] != batch.image_id_B[(i + 1) % 8]:
            judged.append(math.log1p(math.exp(logit(i, (i + 1) % 8))))
    assert (terms["matching"].sum.item(), float(terms["matching"].count)) == (
        pytest.approx(sum(judged), rel=1e-4),
        len(judged),
    )
    # The head learns from its own term alone, and its term reaches nothing else.
    named = dict(run.model.named_parameters())
    for term, moved in (("matching", True), ("text_image", False)):
        found = torch.autograd.grad(terms[term].sum, list(named.values()), allow_unused=True, retain_graph=True)
        touched = {name for name, grad in zip(named, found, strict=True) if grad is not None and grad.abs().max() > 0}
        heads = {"match_head.weight", "match_head.bias"}
        assert touched == heads if moved else (touched and not touched & heads)


def test_the_heads_gradient_is_that_of_finite_differences(tiny) -> None:
    run = built(tiny, "mcse", LEARNED)
    run.model.double()
    torch.nn.init.normal_(run.model.match_head.weight, std=0.3)
    batch = run.stream.batch(0)
    batch = replace(batch, image_BF=batch.image_BF.double())

    def loss():
        return run.step(run.model, batch)["matching"].sum

    weight = run.model.match_head.weight
    (found,) = torch.autograd.grad(loss(), weight)
    for place in ((0, 0), (3, 5), (7, 2)):
        step, values = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
                values.append(float(loss()))
                weight[place] -= sign * step
        assert float(found[place]) == pytest.approx((values[0] - values[1]) / 2 / step, rel=1e-5, abs=1e-8)


def test_a_head_that_does_not_learn_is_the_plain_recipe(tiny, tmp_path) -> None:
    assert run(tiny, "mcse", tmp_path / "plain", PAIRS) == 0
    still = LEARNED | {"loss.match_weight": {"kind": "learned", "weight": 0.0}}
    assert run(tiny, "mcse", tmp_path / "still", still) == 0
    assert losses(tmp_path / "still", "loss.text_image") == pytest.approx(
        losses(tmp_path / "plain", "loss.text_image"), rel=1e-4
    )
    assert {line["pair_weight.right"] for line in entries(tmp_path / "still") if "pair_weight.right" in line} == {0.5}
    assert run(tiny, "mcse", tmp_path / "learned", LEARNED) == 0
    told = losses(tmp_path / "learned", "loss.text_image")
    assert told[0] == pytest.approx(losses(tmp_path / "plain", "loss.text_image")[0], rel=1e-6)
    assert told[2:] != pytest.approx(losses(tmp_path / "plain", "loss.text_image")[2:], rel=1e-4)


def test_weights_tell_wrong_pairs_apart_and_bf16_sees_them(tiny, tmp_path) -> None:
    keys = GUIDED | {"train.max_steps": 12, "optim.learning_rate": 1e-4}
    assert run(tiny, "mcse", tmp_path / "guided", keys) == 0
    lines = [line for line in entries(tmp_path / "guided") if "pair_weight.right" in line]
    named = [f"pair_weight.{side}" for side in ("right", "wrong")]
    right, wrong = (np.mean([line[name] for line in lines if name in line]) for name in named)
    assert right > 1.5 * wrong
    assert run(tiny, "mcse", tmp_path / "true", keys | {"controls.wrong_images": 0.0, "train.max_steps": 1}) == 0
    assert "pair_weight.wrong" not in entries(tmp_path / "true")[0]
    for name, precision in (("whole", "fp32"), ("bf16", "bf16")):
        assert run(tiny, "mcse", tmp_path / name, LEARNED | {"train.precision": precision}) == 0
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "whole"), rel=0.05)


@pytest.mark.parametrize(
    ("recipe", "keys", "message"),
    [
        ("mcse", {"loss.match_weight": {"kind": "guided", "threshold": 0.2}}, "loss.match_weight: needs teachers"),
        ("mcse", GUIDED | {"data.images": "features.hdf5"}, "loss.match_weight: compares captions with images"),
        (
            "mcse",
            GUIDED | {"teachers": [{"name": "a", "store": "rows"}, {"name": "b", "store": "rows"}]},
            "loss.match_weight, teachers: images are compared with captions",
        ),
        ("mcse", {"loss.match_weight": {"kind": "guided", "threshold": 2}}, "loss.match_weight.threshold: must be"),
        ("mcse", {"loss.match_weight": {"kind": "guided", "threshold": 0, "width": 0}}, "loss.match_weight.width"),
        ("mcse", {"loss.match_weight": {"kind": "learned", "weight": -1}}, "loss.match_weight.weight: must be 0"),
        ("mcse", {"loss.match_weight": {"kind": "learned", "width": 1}}, "loss.match_weight"),
        ("mcse", {"teachers": [{"name": "a", "store": "rows"}]}, "teachers: would do nothing"),
        ("dalr", {"loss.match_weight": {"kind": "learned"}}, "unknown key 'loss.match_weight"),
    ],
)
def test_what_cannot_weigh_is_refused(recipe, keys, message, tiny, tmp_path, capsys) -> None:
    assert run(tiny, recipe, tmp_path / "run", keys) == 2
    assert message in capsys.readouterr().err
