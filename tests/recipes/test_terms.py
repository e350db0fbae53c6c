"""Terms that recipes share: each in a whole step, against its definition; what is refused; what is logged."""

from __future__ import annotations

import copy
import json
import math
import re

import pytest
import torch
import torch.nn.functional as F

from mcse.config import ConfigError
from mcse.losses.contrastive import unit_rows
from mcse.models.sentence_model import SentenceRows
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.recipes.terms import config as groups
from mcse.recipes.terms.text import build_text_terms
from mcse.training.runtime import Runtime, start_runtime
from mcse.types import SentenceBatch, TokenBatch
from tests.fixtures.launch import arguments_of, assert_same_run, entries, one_thread, own_cache, run
from tests.fixtures.tiny_run import build_tiny_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


def built_of(tiny, keys, recipe="simcse"):
    with one_thread(), own_cache(tiny):
        config = load_config(None, arguments_of(tiny, recipe, tiny / "unused", keys))
        return method(recipe).build(config, start_runtime(precision="fp32", seed=config.seed))


def rows_of(count: int, *, with_teacher: bool = True):
    """Random rows of two views in float64, and a batch with the rows of a teacher."""
    query, positive = torch.randn(count, 6).double(), torch.randn(count, 6).double()
    rows = SentenceRows(query, positive, query, positive, None, None, None)
    tokens = TokenBatch.padded([[1, 2]] * count)
    teacher = unit_rows(torch.randn(count, 5).double()) if with_teacher else None
    return rows, SentenceBatch(tokens, teacher_BF=teacher)


def terms_of(keys, rows, batch):
    return build_text_terms(groups.TextLossConfig(**keys), None)(rows, batch)


# --- the dropout-free view


def test_negatives_without_dropout_are_the_rows_of_evaluation(tiny) -> None:
    built = built_of(tiny, {"loss.off_dropout": {"positive_weight": 0.9}})
    batch, model = built.stream.batch(0), built.model
    model.train()
    torch.manual_seed(0)
    rows = model(batch)
    assert all(module.training for module in model.modules())
    model.eval()
    expected = model.head(model.encoder(batch.query))
    torch.testing.assert_close(rows.clean_BD, expected, rtol=0, atol=1e-6)
    assert not torch.equal(rows.query_BD, rows.positive_BD)
    model.train()
    torch.manual_seed(0)
    term = built.step(model, batch)["text_text"]
    z, z_, u = (unit_rows(row).double() for row in (rows.query_BD, rows.positive_BD, rows.clean_BD))
    total = 0.0
    for i in range(len(z)):
        own = 0.9 * (z[i] @ z_[i]).item() / 0.05
        wrong = [(u[i] @ u[j]).item() / 0.05 for j in range(len(z)) if j != i]
        total += math.log(math.exp(own) + sum(map(math.exp, wrong))) - own
    assert float(term.sum) == pytest.approx(total, rel=1e-5)
    gradient = torch.autograd.grad(rows.clean_BD.sum(), model.head.linear.weight)[0]
    assert gradient.abs().max() > 0, "clean rows have a gradient"


# --- teachers


def test_a_teachers_filter_margin_and_lists_read_the_batch_column() -> None:
    torch.manual_seed(0)
    rows, batch = rows_of(7)
    teacher = batch.teacher_BF @ batch.teacher_BF.T
    keys = {
        "teacher_filter": groups.TeacherFilter(threshold=0.4),
        "margin": groups.AngularMargin(negative=0.15, by_teacher=True),
        "list_net": groups.ListNet(weight=0.3),
        "list_mle": groups.ListMLE(weight=0.2),
        "similarity_kl": groups.SimilarityKL(weight=0.1),
    }
    terms = terms_of(keys, rows, batch)
    assert set(terms) == {"text_text", "left_out", "list_net", "list_mle", "similarity_kl"}
    cosine = unit_rows(rows.query_BD) @ unit_rows(rows.positive_BD).T
    angle = cosine.arccos()
    own = torch.eye(7, dtype=torch.bool)
    moved = torch.where((angle > 0.15) & ~own, angle - (1 - teacher) * 0.15, angle)
    logit = (moved.cos() / 0.05).masked_fill((teacher > 0.4) & ~own, -torch.inf)
    expected = F.cross_entropy(logit, torch.arange(7), reduction="sum")
    assert float(terms["text_text"].sum) == pytest.approx(float(expected), rel=1e-9)
    left_out = int(((teacher > 0.4) & ~own).sum())
    assert left_out > 0
    assert (float(terms["left_out"].sum), terms["left_out"].count) == (left_out, 42)
    assert not terms["left_out"].is_loss
    order = teacher.argsort(1, descending=True)
    naive = sum(
        torch.logsumexp(cosine[i, order[i, k:]] / 0.05, 0) - cosine[i, order[i, k]] / 0.05
        for i in range(7)
        for k in range(7)
    )
    assert float(terms["list_mle"].sum) == pytest.approx(float(naive), rel=1e-9)
    kl = F.kl_div((cosine / 0.05).log_softmax(1), (teacher / 0.05).softmax(1), reduction="sum")
    assert float(terms["similarity_kl"].sum) == pytest.approx(float(kl), rel=1e-9)


def test_a_term_that_reads_teachers_without_any_is_refused() -> None:
    rows, batch = rows_of(3, with_teacher=False)
    with pytest.raises(ValueError, match="a term of the loss reads teachers' rows, and there are none"):
        terms_of({"list_mle": groups.ListMLE()}, rows, batch)


# --- the queue


def test_a_queue_follows_the_encoder_and_keeps_the_last_rows(tiny) -> None:
    """Three steps against a list of rows and a copy of the weights, both kept by hand."""
    built = built_of(tiny, {"loss.queue": {"size": 12, "momentum": 0.6}})
    model = built.model
    kept, slow = [], copy.deepcopy(model.encoder).eval()
    for step in range(3):
        batch = built.stream.batch(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
            for mine, live in zip(slow.parameters(), model.encoder.parameters(), strict=True):
                mine.copy_(0.6 * mine + 0.4 * live)
            fresh = unit_rows(model.head(slow(batch.query)))
        model.eval()  # the two views are then one, and known
        rows = model(batch)
        query, key = unit_rows(rows.query_BD), torch.cat([unit_rows(rows.positive_BD), *kept[-12:]])
        expected = F.cross_entropy(query @ key.T / 0.05, torch.arange(8), reduction="sum")
        assert float(built.step(model, batch)["text_text"].sum) == pytest.approx(float(expected), rel=1e-5)
        kept += list(fresh[:, None])
    assert len(built.state["queue"].state_dict()["rows"]) == 12


def test_a_run_with_a_queue_resumes_bit_for_bit(tiny, tmp_path) -> None:
    keys = {"loss.queue": {"size": 12, "momentum": 0.6}, "train.log_steps": 1, "optim.schedule": "constant"}
    assert run(tiny, "simcse", tmp_path / "straight", keys) == 0
    assert run(tiny, "simcse", tmp_path / "again", keys | {"train.max_steps": 3}) == 0
    assert run(tiny, "simcse", tmp_path / "again", keys | {"train.resume": "auto"}) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "again")


def test_a_queue_is_refused_where_weights_are_cut(tiny, monkeypatch) -> None:
    monkeypatch.setattr(Runtime, "cuts_weights", True)
    with pytest.raises(ConfigError, match=r"loss\.queue: FSDP cuts the weights"):
        built_of(tiny, {"loss.queue": {}})


# --- what is logged and refused


def test_weights_stand_beside_their_terms(tiny, tmp_path) -> None:
    keys = {"loss.dimension_contrast": {"weight": 0.25}, "loss.consistency": {}, "train.max_steps": 2}
    assert run(tiny, "mcse", tmp_path / "run", keys | {"train.log_steps": 1}) == 0
    line = next(entry for entry in entries(tmp_path / "run") if "loss" in entry)
    assert {"loss.dimensions", "loss.consistency", "weight.dimensions", "weight.text_image"} <= line.keys()
    assert line["weight.dimensions"] == 0.25
    assert "weight.consistency" not in line


def test_a_term_of_weight_zero_changes_nothing(tiny, tmp_path) -> None:
    plain = {"train.max_steps": 3, "train.log_steps": 1}
    zero = {"loss.dimension_contrast": {"weight": 0.0}, "loss.consistency": {"weight": 0.0}}
    assert run(tiny, "simcse", tmp_path / "plain", plain) == 0
    assert run(tiny, "simcse", tmp_path / "zero", plain | zero) == 0
    losses = [[e["loss"] for e in entries(tmp_path / name) if "loss" in e] for name in ("plain", "zero")]
    assert losses[0] == losses[1]
    assert json.loads((tmp_path / "zero" / "metrics.jsonl").read_text().splitlines()[0])["loss.dimensions"] > 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss.margin": {"positive": 2.0}}, r"loss\.margin\.positive: must be between 0 and π/2"),
        ({"loss.margin": {}}, r"loss\.margin: would do nothing"),
        ({"loss.margin": {"positive": 0.1, "by_teacher": True}}, r"loss\.margin\.by_teacher: would do nothing"),
        ({"loss.teacher_filter": {}}, r"loss\.teacher_filter\.threshold, loss\.teacher_filter\.margin: give one"),
        ({"loss.teacher_filter": {"margin": 0.0}}, r"loss\.teacher_filter\.margin: must be positive"),
        ({"loss.teacher_filter": {"threshold": 70}}, r"loss\.teacher_filter\.threshold: must be a cosine"),
        ({"loss.list_net": {"teacher_temperature": 0}}, r"loss\.list_net\.teacher_temperature: must be positive"),
        ({"loss.list_mle": {"weight": -1}}, r"loss\.list_mle\.weight: must be 0 or more"),
        ({"loss.queue": {"momentum": 1.5}}, r"loss\.queue\.momentum: must be in \[0, 1\]"),
        ({"loss.queue": {}, "loss.off_dropout": {}}, r"loss\.queue: its rows"),
        ({"loss.off_dropout": {}, "loss.margin": {"positive": 0.1}}, r"loss\.margin\.positive: off_dropout"),
        ({"loss.consistency": {}, "data.sentences": "nli.csv"}, r"loss\.consistency: is of a sentence's own two"),
    ],
)
def test_settings_that_mean_nothing_are_refused(keys, message, tiny, tmp_path, capsys) -> None:
    assert run(tiny, "simcse", tmp_path / "run", keys) == 2
    assert re.search(message, capsys.readouterr().err)
