"""KDMCSE, DALR and RankCSE: each step against its definition on whole matrices; controls; what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mcse.losses.contrastive import unit_rows
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.runtime import start_runtime
from mcse.types import PairBatch, SentenceBatch
from tests.fixtures.launch import arguments_of, entries, losses, one_thread, own_cache, run
from tests.fixtures.teacher_stores import store_rows
from tests.fixtures.tiny_features import finished
from tests.fixtures.tiny_run import build_tiny_run

ALL = {"data.captions.per_image": "all"}
STORED = {"teachers": [{"name": "bert", "store": "rows"}]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    with own_cache(folder):
        store_rows(folder)
    return folder


def step_of(tiny, recipe, keys, *, number=0):
    """The terms of a step, the rows behind them, and its batch, in evaluation mode: both views are one."""
    with one_thread(), own_cache(tiny):
        config = load_config(None, arguments_of(tiny, recipe, tiny / "unused", keys))
        built = method(recipe).build(config, start_runtime(precision="fp32", seed=config.seed))
    built.model.eval()
    batch, seen = built.stream.batch(number), []

    def forward(batch):
        seen.append(built.model(batch))
        return seen[0]

    return built.step(forward, batch), seen[0], batch


def clashes(batch: PairBatch) -> torch.Tensor:
    """Pairs of rows that show one image."""
    same = batch.image_id_B[:, None] == batch.image_id_B
    return same & ~torch.eye(len(same), dtype=torch.bool)


def with_margin(cosine, alike, margin):
    angle = cosine.double().clamp(-1, 1).arccos()
    moved = torch.where(angle > margin, angle - (1 - alike.double()) * margin, angle)
    own = torch.eye(len(cosine), dtype=torch.bool)
    return torch.where(own, cosine.double(), moved.cos())


def test_kdmcse_is_its_formulas(tiny) -> None:
    keys = ALL | STORED | {"data.images": "wide.hdf5", "loss.cross_filter": {"threshold": 0.03}}
    keys |= {"loss.image_weight": 0.3, "loss.caption_weight": 0.2}
    terms, rows, batch = step_of(tiny, "kdmcse", keys)
    image, text = unit_rows(batch.image_BF), unit_rows(batch.teacher_BF)
    target = torch.arange(len(image))
    for name, key, own, other in (
        ("text_image", rows.image_BH, image, text),
        ("text_caption", rows.caption_BH, text, image),
    ):
        p, v = unit_rows(rows.grounded_query_BH), unit_rows(key)
        logit = with_margin(p @ v.T, own @ own.T, 0.15) / 0.05
        near = (other @ own.T > 0.03) & ~torch.eye(len(own), dtype=torch.bool)
        assert 0 < int(near.sum()) < near.numel() - len(own)
        expected = F.cross_entropy(logit.masked_fill(near | clashes(batch), -torch.inf), target, reduction="sum")
        assert terms[name].sum.item() == pytest.approx(expected.item(), rel=1e-4)
        left_out = terms[f"left_out.{name}"]
        assert (left_out.sum.item(), left_out.count, left_out.is_loss) == (int(near.sum()), 8 * 7, False)
    assert (terms["text_image"].weight, terms["text_caption"].weight) == (0.3, 0.2)
    z = unit_rows(rows.text.query_BD)
    expected = F.cross_entropy(with_margin(z @ z.T, torch.zeros(8, 8), 0.15) / 0.05, target, reduction="sum")
    assert terms["text_text"].sum.item() == pytest.approx(expected.item(), rel=1e-4)


def test_kdmcse_without_margins_and_captions_is_mcse(tiny) -> None:
    keys = ALL | {"loss.margin": None, "loss.image_margin": 0.0, "loss.caption_weight": 0.0}
    ours, _, _ = step_of(tiny, "kdmcse", keys)
    theirs, _, _ = step_of(tiny, "mcse", ALL)
    assert ours["text_text"].sum.item() == theirs["text_text"].sum.item()
    assert ours["text_image"].sum.item() == pytest.approx(theirs["text_image"].sum.item(), rel=1e-6)


def test_dalr_is_its_formulas(tiny) -> None:
    keys = ALL | STORED | {"loss.matching": {"shift": 3, "margin": 0.1}}
    terms, rows, batch = step_of(tiny, "dalr", keys)
    grounded = rows.grounded
    image, text = unit_rows(batch.image_BF).double(), unit_rows(batch.teacher_BF).double()
    p, v = unit_rows(grounded.grounded_query_BH).double(), unit_rows(grounded.image_BH).double()
    logit = with_margin(p @ v.T, image @ image.T, 0.18) / 0.05
    expected = F.cross_entropy(logit.masked_fill(clashes(batch), -torch.inf), torch.arange(8), reduction="sum")
    assert terms["text_image"].sum.item() == pytest.approx(expected.item(), rel=1e-4)

    def kl(wanted, given):
        q, p = (wanted / 0.5).softmax(1), (given / 0.0225).log_softmax(1)
        return (q * (q.log() - p)).sum()

    expected = (kl(text @ text.T, p @ v.T) + kl(image @ image.T, v @ p.T)) / 2
    assert terms["cross_kl"].sum.item() == pytest.approx(expected.item(), rel=1e-4)
    left, right = unit_rows(rows.text_match_BH), unit_rows(rows.image_match_BH)
    wrong = [(i + 3) % 8 for i in range(8)]
    cost = sum(1 - (left[i] @ right[i]).item() for i in range(8))
    for i, j in enumerate(wrong):
        if batch.image_id_B[i] != batch.image_id_B[j]:
            cost += max(0.0, (left[i] @ right[j]).item() - 0.1)
    assert terms["matching"].sum.item() == pytest.approx(cost, rel=1e-4)
    z = unit_rows(grounded.text.query_BD).double()
    assert terms["similarity_kl"].sum.item() == pytest.approx(kl(text @ text.T, z @ z.T).item(), rel=1e-4)


def test_dalr_teaches_sentences_without_images_where_it_is_asked_to(tiny) -> None:
    assert set(step_of(tiny, "dalr", STORED, number=1)[0]) == {"text_text"}
    taught, _, batch = step_of(tiny, "dalr", STORED | {"loss.teach_sentences": True}, number=1)
    assert set(taught) == {"text_text", "list_mle", "similarity_kl"}
    assert batch.teacher_BF is not None


def test_dalr_keeps_one_queue_for_batches_of_both_kinds(tiny) -> None:
    keys = STORED | {"loss.queue": {"size": 100}}
    with one_thread(), own_cache(tiny):
        config = load_config(None, arguments_of(tiny, "dalr", tiny / "unused", keys))
        built = method("dalr").build(config, start_runtime(precision="fp32", seed=config.seed))
    batches = [built.stream.batch(number) for number in (0, 1)]
    assert [type(batch) for batch in batches] == [PairBatch, SentenceBatch]
    for batch in batches:
        built.step(built.model, batch)
    assert len(built.state["queue"].state_dict()["rows"]) == 16


def test_rankcse_follows_two_teachers_by_weight(tiny, tmp_path) -> None:
    """The order of the weighted average of their cosines, of a stored and a live one."""
    live = {"name": "live", "encoder": str(tiny / "bert"), "pooling": "cls", "weight": 2}
    keys = {"teachers": [*STORED["teachers"], live], "train.log_steps": 1, "train.max_steps": 2}
    terms, rows, batch = step_of(tiny, "rankcse", keys)
    alone, _, _ = step_of(tiny, "rankcse", keys | {"teachers": [live]})
    assert terms["list_mle"].sum.item() != alone["list_mle"].sum.item()
    stored = batch.teacher_BF.double()
    bert = unit_rows(rows.pooled_query_BD).double()  # the live teacher is the student's start
    average = stored @ stored.T + bert @ bert.T * 2 / 3
    torch.testing.assert_close(torch.diag(stored @ stored.T), torch.full((8,), 1 / 3).double(), rtol=0, atol=1e-6)
    z = unit_rows(rows.query_BD).double()
    total = 0.0
    for i, order in enumerate(average.argsort(dim=1, descending=True, stable=True)):
        logit = (z[i] @ z.T)[order] / 0.05
        total += sum((torch.logsumexp(logit[k:], 0) - logit[k]).item() for k in range(8))
    assert terms["list_mle"].sum.item() == pytest.approx(total, rel=1e-4)
    assert run(tiny, "rankcse", tmp_path / "run", keys) == 0
    assert len(losses(tmp_path / "run", "loss.list_mle")) == 2


@pytest.mark.parametrize("recipe", ["rankcse", "kdmcse", "dalr"])
def test_controls_of_teachers_change_their_terms_alone(recipe, tiny, tmp_path) -> None:
    keys = STORED | {"train.log_steps": 1, "train.max_steps": 1, **(ALL if recipe != "rankcse" else {})}
    term = {"rankcse": "loss.list_mle", "kdmcse": "loss.text_caption", "dalr": "loss.cross_kl"}[recipe]
    found = {}
    for control in (True, "shuffled", "self"):
        output = tmp_path / str(control)
        assert run(tiny, recipe, output, keys | {"controls.teachers": control}) == 0
        found[control] = losses(output, term)[0]
        assert losses(output, "loss.text_text") == losses(tmp_path / "True", "loss.text_text")
    assert len(set(found.values())) == 3


def test_the_share_that_a_filter_leaves_out_is_logged(tiny, tmp_path) -> None:
    for name, threshold, share in (("none", 0.999, 0.0), ("all", -0.999, 1.0)):
        keys = ALL | STORED | {"data.images": "wide.hdf5", "loss.cross_filter": {"threshold": threshold}}
        assert run(tiny, "kdmcse", tmp_path / name, keys | {"train.max_steps": 1, "train.log_steps": 1}) == 0
        line = entries(tmp_path / name)[0]
        assert line["left_out.text_image"] == line["left_out.text_caption"] == share
        assert json.loads((tmp_path / name / "run.json").read_text())["facts"]["teacher bert"]


def test_captions_and_images_of_two_encoders_are_not_compared(tiny, tmp_path, capsys) -> None:
    """Also where their rows are equally wide; stores say whose they are."""
    names = [f"{number:04d}.png" for number in range(48)]
    matrix = np.random.default_rng(0).normal(size=(48, 32)).astype(np.float32)
    finished(tmp_path / "images", matrix, names=names)
    keys = ALL | STORED | {"data.images": str(tmp_path / "images"), "loss.cross_filter": {}}
    assert run(tiny, "kdmcse", tmp_path / "run", keys) == 2
    assert "32 wide" in (said := capsys.readouterr().err)
    assert "(pixels:1)" in said
    assert run(tiny, "kdmcse", tmp_path / "run", keys | {"loss.cross_filter": None, "train.max_steps": 1}) == 0


@pytest.mark.parametrize(
    ("recipe", "keys", "message"),
    [
        ("kdmcse", {"loss.cross_filter": {}}, "loss.cross_filter: compares captions with images"),
        ("kdmcse", {"train.cached_chunk_size": 3}, "train.cached_chunk_size: the model reads the teacher's rows"),
        ("kdmcse", {"teachers": []}, "teachers: give the teacher's text side"),
        (
            "kdmcse",
            {"loss.cross_filter": {}, "teachers": [{"name": "a", "store": "rows"}, {"name": "b", "store": "rows"}]},
            "loss.cross_filter, teachers: images are compared",
        ),
        ("kdmcse", {"loss.image_margin": 3}, "loss.image_margin: must be between 0 and π/2"),
        ("rankcse", {"loss.list_mle": None}, "loss.list_mle, loss.list_net: give one of them"),
        ("rankcse", {"loss.list_net": {}}, "loss.list_mle, loss.list_net: give one of them"),
        ("rankcse", {"teachers": []}, "teachers: give one or more"),
        ("rankcse", {"encoder.frozen": True}, "encoder.frozen: true would train a head that no embedding has"),
        ("rankcse", {"controls.num_pairs": 3}, "controls.num_pairs: 3 would do nothing"),
        ("rankcse", {"controls.num_images": 3}, "controls.num_images: 3 would do nothing"),
        ("rankcse", {"data.sentences": "nli.csv"}, "data.sentences: a table of hard negatives"),
        (
            "dalr",
            {"teachers": []},
            "loss.list_mle: needs teachers; give some, or null for loss.list_mle and loss.similarity_kl",
        ),
        (
            "dalr",
            {"loss.teach_sentences": True, "loss.list_mle": None, "loss.similarity_kl": None},
            "loss.teach_sentences: would do nothing without loss.list_mle and loss.similarity_kl",
        ),
        (
            "dalr",
            {"loss.teach_sentences": True, "data.sentences": None},
            "loss.teach_sentences: would do nothing, since there is no data.sentences",
        ),
        ("dalr", {"loss.matching": {"shift": 8}}, "loss.matching.shift: a batch of 8 pairs has no other image 8"),
        ("dalr", {"loss.matching": {"shift": 0}}, "loss.matching.shift: must be 1 or more"),
        ("dalr", {"loss.cross_kl": {"temperature": 0}}, "loss.cross_kl.temperature: must be positive"),
    ],
)
def test_what_cannot_be_trained_is_refused(recipe, keys, message, tiny, tmp_path, capsys) -> None:
    assert run(tiny, recipe, tmp_path / "run", keys) == 2
    assert message in capsys.readouterr().err
