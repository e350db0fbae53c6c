"""Scores by width and by kind of row, against rows that are cut and stored by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.data.test_sets.sts import StsTask
from mcse.evaluation.encoding import cosines
from mcse.evaluation.row_forms import AS_THEY_ARE, FormedRows, RowForm, headlines, in_form, row_forms
from mcse.evaluation.suite import PreparedSuite, Subject
from mcse.evaluation.suites.sts import score_sts
from mcse.metrics.correlation import spearman
from mcse.stored_rows import quantize, restore, value_ranges
from mcse.types import ScoreKey
from tests.fixtures.stub_encoders import HashEncoder, make_pairs

PAIRS = make_pairs(60)
TASK = StsTask(name="T", subsets=(PAIRS,), protocol="by hand")


def unit(row_ND: np.ndarray) -> np.ndarray:
    return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)


def suite() -> PreparedSuite:
    return PreparedSuite(summary="", digest="", score=lambda subject: score_sts(subject, (TASK,)))


@pytest.mark.parametrize(
    "form", [form for form in row_forms([8, 5], ["float32", "float16", "int8", "uint8", "binary"]) if form.name]
)
def test_scores_are_those_of_rows_cut_and_stored_by_hand(form: RowForm) -> None:
    encoder = HashEncoder()
    found = suite().run(Subject.of(encoder).as_stored(form))
    both = [*PAIRS.sentence1, *PAIRS.sentence2]
    row_ND = unit(HashEncoder().encode(both)[:, : form.dim]).astype(np.float32)
    range_2D = value_ranges(row_ND)
    stored_ND = restore(quantize(row_ND, form.kind, range_2D=range_2D), form.kind, range_2D=range_2D)
    left, right = stored_ND[:60], stored_ND[60:]
    key = ScoreKey(f"sts_{form.name}", "T", "spearman")
    assert found.scores[key] == pytest.approx(100 * spearman(cosines(left, right), PAIRS.gold), abs=0.2)
    low, high = (found.scores[end] for end in key.ends)
    assert low < found.scores[key] < high
    assert found.scores[key.with_metric("pairs")] == 60
    assert [column.key for column in found.columns] == [key]
    assert found.form == form.label
    assert form.protocol in found.protocols.values()
    assert len(encoder.asked) == len(set(encoder.asked))


def test_every_form_has_the_draws_of_the_same_items() -> None:
    subject = Subject.of(HashEncoder())
    plain, whole = suite().run(subject), suite().run(subject.as_stored(RowForm(dim=8)))
    key = ScoreKey("sts", "T", "spearman")
    moved = ScoreKey("sts_dim8", "T", "spearman")
    for one, other in zip((key, *key.ends), (moved, *moved.ends), strict=True):
        assert whole.scores[other] == pytest.approx(plain.scores[one], abs=1e-9)
    assert ScoreKey.parse(str(moved.clean.ends[0])) == moved.clean.ends[0]


def test_the_means_of_headlines_keep_their_parts() -> None:
    tasks = [
        StsTask(name=name, subsets=(make_pairs(30, seed=seed),), protocol="") for seed, name in enumerate("ABCDEFG")
    ]
    from mcse.data.test_sets.sts import STS_TASKS

    named = [StsTask(name=name, subsets=task.subsets, protocol="") for name, task in zip(STS_TASKS, tasks, strict=True)]
    found = in_form(headlines(score_sts(Subject.of(HashEncoder()), named)), RowForm(dim=4))
    average = ScoreKey("sts_dim4", "average", "spearman")
    assert set(found.means) == {average}
    assert found.means[average].keys() <= found.samples.keys()
    assert not found.pairs


def test_integers_are_calibrated_on_what_is_asked_for_first() -> None:
    rows = FormedRows(Subject.of(HashEncoder()).rows, RowForm(kind="int8"))
    first, second = ["a b", "c", "d e f"], ["g", "h i", "c"]
    row_ND = HashEncoder().encode(first)
    rows.encode(first)
    expected = HashEncoder().encode(second)
    np.testing.assert_allclose(
        rows.raw(second),
        restore(quantize(expected, "int8", range_2D=value_ranges(row_ND)), "int8", range_2D=value_ranges(row_ND)),
        atol=1e-6,
    )
    np.testing.assert_allclose(np.linalg.norm(rows.unit(second), axis=1), 1, atol=1e-6)


def test_captions_and_images_share_their_ranges() -> None:
    generator = np.random.default_rng(0)
    image, caption = (unit(generator.normal(size=(9, 6))).astype(np.float32) for _ in range(2))
    assert AS_THEY_ARE.joint(image, caption)[0] is image
    cut = [unit(rows[:, :4]).astype(np.float32) for rows in (image, caption)]
    range_2D = value_ranges(np.concatenate(cut))
    for rows, found in zip(cut, RowForm(4, "uint8").joint(image, caption), strict=True):
        expected = unit(restore(quantize(rows, "uint8", range_2D=range_2D), "uint8", range_2D=range_2D))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_cannot_be_is_named() -> None:
    assert row_forms([], []) == (AS_THEY_ARE,)
    assert row_forms([], ["float32"]) == (AS_THEY_ARE,)
    assert [form.name for form in row_forms([4, 2], ["int8", "float32"])] == [
        "",
        "dim4_int8",
        "dim4",
        "dim2_int8",
        "dim2",
    ]
    for dims, kinds, message in (
        ([0], [], "--dims must be 1 or more, got 0"),
        ([2, 2], [], "--dims names one twice: 2 2"),
        ([], ["int8", "int8"], "--rows names one twice: int8 int8"),
    ):
        with pytest.raises(ValueError, match=message):
            row_forms(dims, kinds)
    with pytest.raises(ValueError, match="--dims 9: the model's rows have a width of 8"):
        suite().run(Subject.of(HashEncoder()).as_stored(RowForm(dim=9)))
