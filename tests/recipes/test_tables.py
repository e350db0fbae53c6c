"""The recipe ``tables``: its terms against their definitions, what it refuses, whole runs, and what they save."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, f1_score
from transformers import AutoModel

from mcse.commands.main import main
from mcse.data.named_columns import open_named_columns
from mcse.data.table_config import DevTable
from mcse.encoders.loading import load_encoder
from mcse.evaluation.evaluators.tables import table_evaluator
from mcse.recipes.launch import load_config
from mcse.recipes.tables.config import Guide, LossConfig, SoftNegatives
from mcse.recipes.tables.method import terms_of
from mcse.types import TableBatch, TokenBatch
from tests.fixtures.launch import entries, losses, run, tensors
from tests.fixtures.tiny_run import build_tiny_run

WIDTHS = (8, 5, 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


# --- terms


def batch_of(ids, value=None):
    tokens = TokenBatch.padded([np.array([1])] * ids.numel(), pad_id=0)
    return TableBatch(text_id_BV=ids, tokens=tokens, table=0, value_B=value)


def rows_of(number, views, *, seed=0):
    return torch.randn(number, views, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(left, right, width):
    return float(F.cosine_similarity(left[:width], right[:width], dim=0))


def contrast(rows, wrong, width, *, asks=0, temperature=0.05):
    """Cross-entropy in loops. ``wrong(i)`` gives the texts, as (row, view), that query i is not to choose."""
    total = 0.0
    for i, row in enumerate(rows):
        right = cosine(row[asks], row[1 - asks], width) / temperature
        others = [cosine(row[asks], rows[j][view], width) / temperature for j, view in wrong(i)]
        total += math.log(sum(math.exp(one - right) for one in (right, *others)))
    return total


DIFFERENT = torch.tensor([[1, 11, 21, 31], [2, 12, 22, 32], [3, 13, 23, 33], [4, 14, 24, 34]])


@pytest.mark.parametrize("widths", [(8,), WIDTHS])
@pytest.mark.parametrize("views", [2, 3, 4])
def test_contrast_takes_every_other_positive_and_every_hard_negative(views, widths):
    rows = rows_of(4, views)

    def wrong(i):
        return [(j, view) for j in range(4) for view in range(1, views) if (j, view) != (i, 1)]

    term = terms_of("contrast", rows, batch_of(DIFFERENT[:, :views]), LossConfig(), widths=widths)["contrast"]
    assert term.count == 4
    assert float(term.sum) == pytest.approx(sum(contrast(rows, wrong, width) for width in widths), rel=1e-9)


def test_both_directions_are_averaged():
    rows = rows_of(4, 2)
    there, back = (
        contrast(rows, lambda i, view=1 - asks: [(j, view) for j in range(4) if j != i], 8, asks=asks)
        for asks in (0, 1)
    )
    config = LossConfig(directions="both")
    term = terms_of("contrast", rows, batch_of(DIFFERENT[:, :2]), config, widths=(8,))["contrast"]
    assert float(term.sum) == pytest.approx((there + back) / 2, rel=1e-9)


EQUAL = torch.tensor([[1, 11, 21], [1, 12, 13], [3, 13, 11], [13, 14, 3]])
"""Rows 0 and 1 ask the same; the hard negatives of rows 1, 2 and 3 are the positives of 2 and 0, and query 2."""


@pytest.mark.parametrize("views", [2, 3])
def test_equal_texts_are_no_negatives_of_each_other(views):
    rows, ids = rows_of(4, views), EQUAL[:, :views].tolist()

    def wrong(i):
        query, positive = ids[i][:2]
        return [
            (j, view)
            for j in range(4)
            for view in range(1, views)
            if (j, view) != (i, 1) and ids[j][view] not in (query, positive) and not (view == 1 and ids[j][0] == query)
        ]

    assert sum(len(wrong(i)) for i in range(4)) == {2: 9, 3: 21}[views]
    term = terms_of("contrast", rows, batch_of(EQUAL[:, :views]), LossConfig(), widths=(8,))["contrast"]
    assert float(term.sum) == pytest.approx(contrast(rows, wrong, 8), rel=1e-9)
    kept = LossConfig(false_negatives="keep")
    assert float(terms_of("contrast", rows, batch_of(EQUAL[:, :views]), kept, widths=(8,))["contrast"].sum) > float(
        term.sum
    )


def test_equal_texts_are_left_out_in_the_other_direction_too():
    rows, ids = rows_of(4, 2), EQUAL[:, :2].tolist()

    def there(i):
        return [(j, 1) for j in range(4) if j != i and ids[j][0] != ids[i][0] and ids[j][1] not in ids[i]]

    def back(i):
        return [(j, 0) for j in range(4) if j != i and ids[j][1] != ids[i][1] and ids[j][0] not in ids[i]]

    expected = (contrast(rows, there, 8) + contrast(rows, back, 8, asks=1)) / 2
    config = LossConfig(directions="both")
    term = terms_of("contrast", rows, batch_of(EQUAL[:, :2]), config, widths=(8,))["contrast"]
    assert float(term.sum) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("false_negatives", ["keep", "equal_text"])
@pytest.mark.parametrize("views", [2, 3])
def test_rows_of_one_group_are_no_negatives_of_each_other_but_for_their_hard_ones(views, false_negatives):
    rows, group, ids = rows_of(4, views), [7, 5, 7, 5], EQUAL[:, :views].tolist()

    def alike(i, j, view, asks):
        mine, other = ids[i], ids[j]
        if false_negatives == "keep":
            return False
        return other[view] in (mine[0], mine[1]) or (view < 2 and other[1 - view] == mine[asks])

    def there(i):
        keys = [(j, view) for j in range(4) for view in range(1, views) if (j, view) != (i, 1)]
        return [(j, view) for j, view in keys if not (view == 1 and group[j] == group[i]) and not alike(i, j, view, 0)]

    def back(i):
        return [(j, 0) for j in range(4) if group[j] != group[i] and not alike(i, j, 0, 1)]

    batch = replace(batch_of(EQUAL[:, :views]), group_B=torch.tensor(group))
    config = LossConfig(false_negatives=false_negatives)
    found = terms_of("contrast", rows, batch, config, widths=(8,))["contrast"]
    assert float(found.sum) == pytest.approx(contrast(rows, there, 8), rel=1e-9)
    both = terms_of("contrast", rows, batch, replace(config, directions="both"), widths=(8,))["contrast"]
    expected = (contrast(rows, there, 8) + contrast(rows, back, 8, asks=1)) / 2
    assert float(both.sum) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.4])
@pytest.mark.parametrize("views", [2, 3])
def test_keys_that_a_guide_holds_to_be_nearer_than_the_positive_are_no_negatives(views, margin):
    rows = rows_of(4, views)
    guide = F.normalize(rows_of(4, views, seed=5)[:, :, :3], dim=-1)

    def near(i, asks, j, view):
        return float(guide[i, asks] @ guide[j, view]) > float(guide[i, 0] @ guide[i, 1]) - margin

    def there(i):
        keys = [(j, view) for j in range(4) for view in range(1, views) if (j, view) != (i, 1)]
        return [(j, view) for j, view in keys if not near(i, 0, j, view)]

    def back(i):
        return [(j, 0) for j in range(4) if j != i and not near(i, 1, j, 0)]

    left = sum(len(there(i)) for i in range(4))
    assert 0 < left < 4 * (4 * (views - 1) - 1)
    batch = replace(batch_of(DIFFERENT[:, :views]), guide_BVG=guide)
    config = LossConfig(guide=Guide(model="x", margin=margin))
    found = terms_of("contrast", rows, batch, config, widths=(8,))["contrast"]
    assert float(found.sum) == pytest.approx(contrast(rows, there, 8), rel=1e-9)
    both = terms_of("contrast", rows, batch, replace(config, directions="both"), widths=(8,))["contrast"]
    expected = (contrast(rows, there, 8) + contrast(rows, back, 8, asks=1)) / 2
    assert float(both.sum) == pytest.approx(expected, rel=1e-9)


def test_soft_negatives_are_held_at_a_distance_and_are_no_wrong_keys():
    rows, config = rows_of(4, 3), LossConfig(soft_negatives=SoftNegatives(lower=0.2, upper=0.4, weight=0.5))
    terms = terms_of("contrast", rows, batch_of(DIFFERENT[:, :3]), config, widths=(8,))
    expected = contrast(rows, lambda i: [(j, 1) for j in range(4) if j != i], 8)
    assert float(terms["contrast"].sum) == pytest.approx(expected, rel=1e-9)
    below = [cosine(row[0], row[2], 8) - cosine(row[0], row[1], 8) for row in rows]
    assert float(terms["soft_negatives"].sum) == pytest.approx(
        sum(max(0, d + 0.2) + max(0, -d - 0.4) for d in below), rel=1e-9
    )
    assert (terms["soft_negatives"].count, terms["soft_negatives"].weight) == (4, 0.5)


@pytest.mark.parametrize("widths", [(8,), WIDTHS])
def test_cosent_and_regression_see_cosines_at_every_width(widths):
    rows, score = rows_of(4, 2), torch.tensor([0.1, 0.9, 0.9, 0.4], dtype=torch.float64)
    batch = batch_of(DIFFERENT[:, :2], score)
    ordered = regressed = 0.0
    for width in widths:
        alike = [cosine(row[0], row[1], width) for row in rows]
        wrong = [math.exp(20 * (alike[p] - alike[q])) for p in range(4) for q in range(4) if score[p] < score[q]]
        ordered += 4 * math.log(1 + sum(wrong))
        regressed += sum((one - float(y)) ** 2 for one, y in zip(alike, score, strict=True))
    assert float(terms_of("cosent", rows, batch, LossConfig(), widths=widths)["cosent"].sum) == pytest.approx(ordered)
    assert float(terms_of("cosine", rows, batch, LossConfig(), widths=widths)["cosine"].sum) == pytest.approx(regressed)
    assert terms_of("cosent", rows, batch, LossConfig(), widths=widths)["cosent"].count == 4


# --- what is refused


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data.table.loss": "cosent"}, "data.table.loss: cosent does not take a table of texts alone"),
        ({"data.table": "scored.csv", "data.table.loss": "contrast"}, "contrast does not take a table of scores"),
        (
            {"data.table": "scored.csv", "data.table.loss": "cosine"},
            "data.table.score_range: give the scores that are a cosine of 0 and 1; got 0.1 to 5",
        ),
        ({"loss.dims": "[64]"}, "loss.dims: the encoder has 32 dimensions, got 64"),
        ({"data.table": "captions.csv"}, "no column is called sent0, anchor"),
        ({"data.table.query": "sent0", "data.table.positive": "sent9"}, "no column 'sent9' for positive"),
        ({"data.table": "sentences.txt"}, "no column is called"),
        ({"data.sentences": "sentences.txt"}, "unknown key 'data.sentences'"),
        ({"loss.text_temperature": 1}, "unknown key 'loss.text_temperature'; did you mean 'loss.temperature'"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tiny, tmp_path, capsys, keys, message):
    assert run(tiny, "tables", tmp_path / "run", keys) == 2
    found = capsys.readouterr().err
    assert re.search(message, found), found
    assert not (tmp_path / "run").exists()


def test_a_text_alone_needs_dropout(tmp_path, capsys):
    still = build_tiny_run(tmp_path / "still", dropout=0.0)
    assert run(still, "tables", tmp_path / "run", {"data.table.query": "sent0"}) == 2
    assert "encoder.dropout: a sentence is its own positive here" in capsys.readouterr().err


# --- whole runs


SEVERAL = """
recipe: tables
data:
  tables:
    - {path: nli.csv, share: 1}
    - {path: scored.csv, score_range: [0, 5], loss: angle, share: 2}
evaluate:
  - {name: scored, path: scored.csv}
  - {name: triplets, path: nli.csv}
  - {name: answers, path: nli.csv, query: sent0, positive: sent1}
"""


@pytest.fixture(scope="module")
def several(tiny, tmp_path_factory):
    """A run on two tables that is evaluated on three."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "tables.yaml").write_text(SEVERAL)
    keys = {
        "data.table": ...,
        "data.sts": ...,
        "loss.dims": "[16, 8]",
        "encoder.pooling": "mean",
        "train.select_by": "scored.spearman",
        "train.log_steps": 1,
        "train.max_steps": 12,
    }
    assert run(tiny, "tables", folder / "run", keys, "--config", str(folder / "tables.yaml")) == 0
    return folder / "run"


def test_several_tables_take_turns_and_are_evaluated_by_what_they_hold(several):
    logged = [{key for key in entry if key.startswith("loss.")} for entry in entries(several) if "loss" in entry]
    assert (
        sorted(map(tuple, logged)).count(("loss.contrast",)) + sorted(map(tuple, logged)).count(("loss.angle",)) == 12
    )
    assert ("loss.angle",) in map(tuple, logged)
    scores = {key for entry in entries(several) for key in entry if "." in key and not key.startswith("loss.")}
    assert scores == {
        *(f"scored.{name}" for name in ("spearman", "alignment", "uniformity")),
        "triplets.accuracy",
        *(f"answers.{name}" for name in ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10")),
    }


def test_the_checkpoint_gives_the_same_embeddings_everywhere(several):
    sentences = ["the dog runs in the park number 3", "the cat"]
    own = load_encoder(str(several)).encode(sentences)
    library = pytest.importorskip("sentence_transformers")
    theirs = library.SentenceTransformer(str(several / "best"), device="cpu").encode(sentences)
    np.testing.assert_allclose(own, theirs, atol=1e-5)
    assert AutoModel.from_pretrained(several / "best").config.hidden_size == own.shape[1]
    assert not (several / "best" / "heads.safetensors").exists()


def test_training_text_of_tables_is_known_to_evaluation(several):
    from mcse.evaluation.seen_text import seen_by

    seen, why = seen_by(several)
    assert not why
    assert len(seen) > 100


def test_the_config_that_comes_along_trains_on_a_table_in_its_form(tiny, tmp_path, repository):
    (tmp_path / "stsb_train.tsv").write_text((tiny / "scored.csv").read_text().replace(",", "\t"))
    config = Path("configs/tables/minilm_stsb_cpu.yaml")
    keys = {"data.root": tmp_path, "data.table": ..., "data.sts": tiny / "dev.tsv", "train.max_steps": ...}
    keys |= {"train.epochs": 1, "train.eval_steps": 2, "optim.warmup_steps": 1, "encoder.pooling": ...}
    assert run(tiny, "tables", tmp_path / "run", keys, "--config", str(repository / config)) == 0
    assert np.isfinite(losses(tmp_path / "run")).all()
    assert load_encoder(str(tmp_path / "run")).pooling == "mean"


def test_the_configuration_of_the_page_is_one(repository, tmp_path):
    page = (repository / "docs" / "tables.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "page.yaml").write_text(block)
    config = load_config(tmp_path / "page.yaml", [])
    assert [table.share for table in config.data.tables] == [2, 1]
    assert config.evaluate[1].name == "found"


def test_losses_fall_on_what_can_be_learnt(tiny, tmp_path):
    keys = {"data.table": "scored.csv", "train.max_steps": 150, "train.log_steps": 15, "encoder.dropout": 0.0}
    assert run(tiny, "tables", tmp_path / "run", keys | {"data.table.loss": "cosent"}) == 0
    found = losses(tmp_path / "run")
    assert np.mean(found[-2:]) < 0.5 * np.mean(found[:2])


def test_help_lists_the_keys_of_lists(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "tables", "--help"])
    shown = capsys.readouterr().out
    for key in ("data.table.query", "data.tables[].share", "evaluate[].name", "loss.soft_negatives.lower"):
        assert key in shown


# --- evaluators


class Angles:
    """Embeds a text by the angle that it names."""

    def encode(self, sentences, *, batch_size=64, normalize=True):
        angle_N = np.array([float(text) for text in sentences])
        return np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1).astype(np.float32)


def evaluated(folder: Path, text: str, **columns):
    (folder / "t.csv").write_text(text)
    table = DevTable(name="dev", path="t.csv", **columns)
    evaluator = table_evaluator(open_named_columns(table, root=folder, key="evaluate: dev"), table, Angles())
    found = {name: score.value for name, score in evaluator().items()}
    # A threshold is no quality that could choose best/.
    assert set(evaluator.metrics) == set(found) - {"dev.f1_threshold"}
    return found


def test_labels_are_scored_as_scikit_learn_scores_them(tmp_path):
    label = [1, 0, 1, 1, 0, 0]
    angle = [0.1, 0.2, 0.3, 0.5, 0.7, 1.2]
    rows = "".join(f"0,{a},{y}\n" for a, y in zip(angle, label, strict=True))
    found = evaluated(tmp_path, f"a,b,y\n{rows}", query="a", positive="b", label="y")
    alike = np.cos(angle)
    assert found["dev.average_precision"] == pytest.approx(100 * average_precision_score(label, alike))
    best = max(100 * f1_score(label, alike >= threshold) for threshold in alike)
    assert found["dev.f1"] == pytest.approx(best)
    assert 100 * f1_score(label, alike >= found["dev.f1_threshold"] - 1e-6) == pytest.approx(best)


def test_triplets_count_where_the_positive_is_nearer_than_every_negative(tmp_path):
    rows = "0,0.1,0.2,0.3\n0,0.2,0.1,0.3\n0,0.2,0.3,0.1\n0,0.4,0.4,0.9\n"
    found = evaluated(tmp_path, f"a,b,c,d\n{rows}", query="a", positive="b", negatives=("c", "d"))
    assert found == {"dev.accuracy": 25.0}  # a tie is no answer


def test_queries_look_for_their_answers_among_all(tmp_path):
    # Query 0 has the answers 0.5 and 0.1; 1 has 0.1, behind its wrong 0.9; 3 has 0.9.
    found = evaluated(tmp_path, "a,b\n0,0.5\n0,0.1\n1,0.1\n3,0.9\n", query="a", positive="b")
    ranks = {0: 1, 1: 3, 3: 1}
    assert found["dev.recall@1"] == pytest.approx(100 * 2 / 3)
    assert found["dev.mrr"] == pytest.approx(100 * np.mean([1 / rank for rank in ranks.values()]))
    gain = [1.0, (1 / math.log2(4)), 1.0]
    assert found["dev.ndcg@10"] == pytest.approx(100 * np.mean(gain), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a,b,y\n0,1,1\n0,2,1\n", {"query": "a", "positive": "b", "label": "y"}, "all labels of .*t.csv are 1"),
        ("a,b,y\n0,1,1\n0,2,1\n", {"query": "a", "positive": "b", "score": "y"}, "all gold scores of .*t.csv are 1"),
        ("a\n0\n", {"query": "a"}, "has no second text to compare with"),
    ],
)
def test_a_table_without_anything_to_tell_is_refused(tmp_path, text, columns, message):
    with pytest.raises(ValueError, match=message):
        evaluated(tmp_path, text, **columns)


# --- which score keeps the best checkpoint


RATED = "{name: rated, path: rated.csv, query: left, positive: right, score: stars}"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"evaluate": f"[{RATED}]"}, "rated.spearman"),
        ({"evaluate": "[{name: plain, path: plain.csv}]"}, "plain.accuracy"),
        (
            {"evaluate": f"[{{name: same, path: x.csv, query: a, positive: b, label: c}}, {RATED}]"},
            "same.average_precision",
        ),
        ({"evaluate": "[{name: found, path: x.csv, query: a, positive: b}]"}, "found.ndcg@10"),
        ({"evaluate": "[{name: lost, path: x.csv}]"}, "lost.ndcg@10"),
        ({"data.sts": "rated.csv"}, "rated.spearman"),
        ({"data.sts": "rated.csv.gz"}, "rated.spearman"),
        ({"data.sts": "{path: other.csv, query: left, positive: right, score: stars}"}, "other.spearman"),
        ({"data.sts": "."}, "stsb_dev.spearman"),
        ({}, "stsb_dev.spearman"),
        ({"data.sts": "rated.csv", "train.select_by": "stsb_dev.spearman"}, "stsb_dev.spearman"),
        ({"data.sts": "rated.csv", "train.select_by": "null"}, None),
    ],
)
def test_the_first_own_dev_score_keeps_the_best_checkpoint(tmp_path, keys, expected) -> None:
    (tmp_path / "plain.csv").write_text("anchor,positive,negative\na,b,c\n")
    (tmp_path / "rated.csv").write_text("sentence1,sentence2,score\na,b,1\n")
    (tmp_path / "rated.csv.gz").touch()
    given = {"recipe": "tables", "output_dir": "x", "encoder.name_or_path": "x", "data.table": "t.csv"}
    given |= {
        "data.root": str(tmp_path),
        "train.batch_size": "2",
        "train.epochs": "1",
        "optim.learning_rate": "1",
    } | keys
    config = load_config(None, [text for key, value in given.items() for text in (f"--{key}", value)])
    assert config.train.select_by == expected


# --- batches of several tables, and a guide


PAIRS = {"path": "nli.csv", "query": "sent0", "positive": "sent1"}
MIXED = {"data.table": ..., "data.mixed": True, "train.max_steps": 6, "train.log_steps": 1, "train.eval_steps": 3}


def test_a_mixed_run_resumes_bit_for_bit(tiny, tmp_path):
    keys = MIXED | {"data.tables": [PAIRS, PAIRS | {"query": "sent1", "positive": "hard_neg"}], "train.resume": "auto"}
    keys |= {"optim.schedule": "constant", "optim.warmup_steps": 0}
    assert run(tiny, "tables", tmp_path / "whole", keys) == 0
    for steps in (3, 6):
        assert run(tiny, "tables", tmp_path / "parts", keys | {"train.max_steps": steps}) == 0
    whole = losses(tmp_path / "whole", "loss.contrast")
    assert len(set(whole)) == 6
    assert losses(tmp_path / "parts", "loss.contrast") == whole
    saved = [tensors(tmp_path / name / "last") for name in ("whole", "parts")]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([PAIRS, {"path": "nli.csv"}], "has 2 texts a row, and data.tables.1. 3"),
        ([PAIRS, {"path": "scored.csv"}], "is trained with contrast and data.tables.1. with cosent"),
        ([{"path": "scored.csv"}, {"path": "scored.csv"}], "give each table its score_range"),
        ([PAIRS], "would do nothing, since there are no several data.tables"),
    ],
)
def test_tables_that_cannot_be_mixed_are_refused(tiny, tmp_path, capsys, tables, message):
    assert run(tiny, "tables", tmp_path / "run", MIXED | {"data.tables": tables}) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_run_follows_its_guide(tiny, several, tmp_path):
    short = {"train.max_steps": 2, "train.log_steps": 1, "train.eval_steps": 2}
    assert run(tiny, "tables", tmp_path / "free", short) == 0
    for name, margin in (("guided", 0.0), ("all", 3.0)):
        guide = {"loss.guide": {"model": str(several), "margin": margin}}
        assert run(tiny, "tables", tmp_path / name, short | guide) == 0
    free, guided, none = (losses(tmp_path / name, "loss.contrast") for name in ("free", "guided", "all"))
    assert guided[0] < free[0]
    assert none == [0.0, 0.0]  # with no negative left, nothing is to be told apart
    data = json.loads((tmp_path / "guided" / "run.json").read_text())["data"]
    assert [file["role"] for file in data].count("guide") > 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data.table": "scored.csv"}, "loss.guide: would do nothing, since no table is trained with contrast"),
        ({"data.table.query": "sent0"}, "loss.guide.margin: data.table has texts alone, each its own positive"),
    ],
)
def test_a_guide_that_would_do_nothing_is_refused(tiny, several, tmp_path, capsys, keys, message):
    assert run(tiny, "tables", tmp_path / "run", {"loss.guide": str(several)} | keys) == 2
    assert message in capsys.readouterr().err
