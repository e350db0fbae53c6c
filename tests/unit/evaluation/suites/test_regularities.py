"""Arithmetic with images: against float64 and loops, ties against the encoder, questions recounted, the suite."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter
from mcse.evaluation.colour_swaps import looks_of_caption, swaps_by_captions, swaps_by_contents
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.scenes import WorldConfig, build_world
from mcse.types import ScoreKey, score_tree
from tests.fixtures.ranks import unit


@pytest.mark.parametrize(
    ("caption", "looks"),
    [
        ("A black dog runs.", {("black", "dog")}),
        ("A black and white dog in a Red shirt", {("white", "dog"), ("red", "shirt")}),
        ("The blond-haired girl wears blue", set()),
        ("blacktop, redwood", set()),
    ],
)
def test_looks_of_a_caption(caption, looks):
    assert looks_of_caption(caption) == looks


CAPTIONS = {
    0: ["a black dog runs", "a dog and a man"],
    1: ["a brown dog", "some brown dog there"],
    2: ["the brown dog sits"],
    3: ["a brown dog", "a black dog"],
    4: ["a tan dog"],
    5: ["a red car"],
    6: ["a brown dog swims"],
}


FILLER = " ".join(["over under"] * 5)


def caption_swaps(k: int):
    captions = [f"{caption} {FILLER}" for several in CAPTIONS.values() for caption in several]
    image_C = np.repeat(list(CAPTIONS), [len(several) for several in CAPTIONS.values()])
    return swaps_by_captions(captions, image_C, k=k)


def test_questions_by_captions():
    swaps = caption_swaps(k=3)
    # 3 has a brown dog already, 4's tan is no other colour than brown, and nothing but dogs has two colours.
    assert list(zip(swaps.image_Q.tolist(), swaps.old, swaps.new, swaps.things, strict=True)) == [
        (0, "black", "brown", "dog")
    ]
    assert np.flatnonzero(swaps.right_QI[0]).tolist() == [1, 2, 3, 6]
    assert set(swaps.random_words[0]) <= {"over", "under", "dog", "a", "brown"} - {"brown"}
    both = caption_swaps(k=2)
    asked = {(image, old, new) for image, old, new in zip(both.image_Q.tolist(), both.old, both.new, strict=True)}
    assert asked == {(0, "black", "brown"), (1, "brown", "black"), (2, "brown", "black"), (6, "brown", "black")} | {
        (4, "tan", "black")
    }
    with pytest.raises(ValueError, match="no colour can be swapped so that enough other images answer"):
        caption_swaps(k=5)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    config = WorldConfig(
        num_train_images=8, num_dev_images=40, num_test_images=300, num_sentences=5, num_sts_pairs=5, image_size=16
    )
    return build_world(tmp_path_factory.mktemp("scenes") / "world", config=config)


def contents(world: Path) -> dict[str, frozenset[tuple[str, str]]]:
    """Looks by image, read in another way than the suite does."""
    looks = {}
    for line in (world / "contents.jsonl").read_text().splitlines():
        record = json.loads(line)
        scene = record["scene"]
        things = [scene["first"], scene["second"]] if record["kind"] == "PairScene" else [scene]
        looks[record["image"]] = frozenset((thing["colour"], thing["shape"]) for thing in things)
    return looks


def test_questions_by_contents_are_recounted(world):
    names = (world / "test_images.txt").read_text().split()
    looks = contents(world)
    swaps = swaps_by_contents(world / "contents.jsonl", names, ["over under"] * 5, k=2)
    assert len(swaps) > 50
    asked = set()
    for row in range(len(swaps)):
        name, old, new, thing = names[swaps.image_Q[row]], swaps.old[row], swaps.new[row], swaps.things[row]
        asked.add((name, old, new, thing))
        wanted = {look for look in looks[name] if look != (old, thing)} | {(new, thing)}
        assert [names[place] for place in np.flatnonzero(swaps.right_QI[row])] == [
            other for other in names if looks[other] == wanted
        ]
        assert (old, thing) in looks[name]
        assert swaps.right_QI[row].sum() >= 2
        assert not swaps.right_QI[row, swaps.image_Q[row]]
    colours = {colour for name in names for colour, _ in looks[name]}
    every = {
        (name, old, new, thing)
        for name in names
        for old, thing in looks[name]
        for new in colours
        if [colour for colour, _ in looks[name]].count(old) == 1
        and (new, thing) not in looks[name]
        and sum(looks[other] == (looks[name] - {(old, thing)}) | {(new, thing)} for other in names) >= 2
    }
    assert asked == every


def test_contents_that_do_not_fit_are_refused(world, tmp_path):
    names = (world / "test_images.txt").read_text().split()
    with pytest.raises(FileNotFoundError, match="--contents: no file"):
        swaps_by_contents(tmp_path / "none", names, [], k=1)
    with pytest.raises(ValueError, match="1 of .* images are not described, first 'other.png'"):
        swaps_by_contents(world / "contents.jsonl", [*names, "other.png"], [], k=1)
    (tmp_path / "broken").write_text('{"image": "a"}\n{"photo": 1}\n')
    with pytest.raises(ValueError, match="line 2: no record with an image"):
        swaps_by_contents(tmp_path / "broken", ["a"], [], k=1)


COLOURS = ("red", "green", "blue", "yellow", "purple", "white")


SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")


class Additive:
    """Images' features are sums of what they show; a colour's word is its direction, other words have their own."""

    name = "additive"

    def __init__(self, *, unknown: tuple[str, ...] = ()) -> None:
        self.unknown = unknown

    def encode(self, sentences, *, batch_size=64, normalize=True):
        return self.encode_captions(sentences)

    def encode_captions(self, sentences, *, batch_size=64):
        rows = []
        for sentence in sentences:
            row = np.zeros(40)
            for word in sentence.split():
                if word in COLOURS:
                    row[COLOURS.index(word)] += 1
                elif word not in self.unknown:
                    row[20 + sum(map(ord, word)) % 20] += 1
            rows.append(row)
        return unit(rows)

    def encode_image_features(self, features, *, batch_size=256):
        return unit(features)


class Constant(Additive):
    def encode_image_features(self, features, *, batch_size=256):
        return np.repeat(unit([[1.0] * 40]), len(features), axis=0)


class TextOnly:
    encode = Additive().encode


@pytest.fixture(scope="module")
def options(world, tmp_path_factory) -> SuiteOptions:
    looks = contents(world)
    names = tuple(sorted(looks))
    rows = np.zeros((len(names), 40), dtype=np.float32)
    for row, name in zip(rows, names, strict=True):
        for colour, shape in looks[name]:
            row[COLOURS.index(colour)] += 1 / len(looks[name])
            row[6 + SHAPES.index(shape)] += 1 / len(looks[name])
    store = tmp_path_factory.mktemp("features") / "store"
    plan = ExtractionPlan(names, tower="pixels:1", preprocessing="", precision="fp32", weights="", width=40)
    with FeatureWriter(store, plan) as writer:
        writer.append(rows)
        writer.finish()
    return SuiteOptions(
        captions=str(world / "captions.csv"),
        features=str(store),
        images=str(world / "test_images.txt"),
        contents=str(world / "contents.jsonl"),
    )


def test_the_suite_tells_arithmetic_from_both_controls(options):
    suite = SUITES["regularities"].prepare(options)
    found = suite.run(Subject.of(Additive()))
    score = {task: metrics.get("precision@4") for task, metrics in score_tree(found.scores)["regularities"].items()}
    assert score["arithmetic"] > 80
    assert score["arithmetic"] >= 3 * max(score["no_arithmetic"], score["random_words"])
    assert 0 < score["chance"] < 10
    assert [str(column.key) for column in found.columns] == [
        f"regularities.{task}.precision@4" for task in ("arithmetic", "reranked", "no_arithmetic", "random_words")
    ]
    task = score_tree(found.scores)["regularities"]["no_arithmetic"]
    assert task["precision@4_low"] <= task["precision@4"] <= task["precision@4_high"]
    sample = found.samples[ScoreKey.parse("regularities.no_arithmetic.precision@4")]
    assert float(sample.value_P.mean()) == pytest.approx(task["precision@4"])
    tree = score_tree(found.scores)
    assert json.loads(json.dumps(tree)) == tree


def test_the_suite_repeats_itself_and_its_digest_holds_the_questions(options):
    first, second = (SUITES["regularities"].prepare(options) for _ in range(2))
    assert first.digest == second.digest
    subject = Subject.of(Additive())
    assert first.run(subject).scores == second.run(subject).scores
    by_captions = SUITES["regularities"].prepare(dataclasses.replace(options, contents=None))
    assert by_captions.digest != first.digest
    assert "a caption of the image has the new colour" in by_captions.run(subject).protocols["regularities"]


def test_a_constant_encoder_scores_nothing(options):
    found = SUITES["regularities"].prepare(options).run(Subject.of(Constant()))
    scores = {task: metrics["precision@4"] for task, metrics in score_tree(found.scores)["regularities"].items()}
    assert {scores[task] for task in ("arithmetic", "reranked", "no_arithmetic", "random_words")} == {0}


def test_unknown_words_are_named(options):
    found = SUITES["regularities"].prepare(options).run(Subject.of(Additive(unknown=("picture",))))
    assert found.protocols["regularities unknown"].endswith("change nothing: picture")


def test_what_cannot_be_evaluated_is_refused(options):
    with pytest.raises(ValueError, match="has no image heads, so captions and images have no space in common"):
        SUITES["regularities"].prepare(options).run(Subject.of(TextOnly()))
    with pytest.raises(ValueError, match="regularities needs --captions and --features"):
        SUITES["regularities"].prepare(SuiteOptions())
    encoder = Additive()
    encoder.image_tower = "open_clip:RN50/openai"
    with pytest.raises(ValueError, match="holds features of pixels:1, not of open_clip:RN50/openai"):
        SUITES["regularities"].prepare(options).run(Subject.of(encoder))
    with pytest.raises(FileNotFoundError, match="--contents: no file"):
        SUITES["regularities"].prepare(dataclasses.replace(options, contents="nowhere.jsonl"))
