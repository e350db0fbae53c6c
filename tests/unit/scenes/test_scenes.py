"""The picture world: reproducible, disjoint splits, readable images, and a gold that follows from the sentences."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from dataclasses import astuple, replace
from random import Random

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from mcse.scenes import WorldConfig, build, build_world
from mcse.scenes.drawing import COLOURS, SHAPES, Mark, draw_marks
from mcse.scenes.grammar import (
    FACTS,
    GROUP_PATTERNS,
    LEXICON,
    PAIR_PATTERNS,
    Style,
    contrast_dialect,
    draw_dialect,
    write_sentence,
)
from mcse.scenes.world import (
    AXES,
    COUNTS,
    HOURS,
    OWNERS,
    PLACES,
    PRICES,
    SIZES,
    GroupScene,
    PairScene,
    Thing,
    Unseen,
    all_groups,
    all_pairs,
    change_scene,
    draw_scene,
    lay_out,
    similarity,
    unseen_similarity,
)

SMALL = WorldConfig(num_train_images=120, num_dev_images=16, num_test_images=80, num_sentences=200, num_sts_pairs=400)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("scenes") / "world", config=SMALL)


@pytest.fixture(scope="module")
def null_world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("scenes") / "null", config=replace(SMALL, gold="null"))


def read_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_captions(folder):
    captions = defaultdict(list)
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions[row["image"]].append(row["caption"])
    return captions


def read_contents(folder):
    contents = {}
    for line in (folder / "contents.jsonl").read_text().splitlines():
        row = json.loads(line)
        scene = row["scene"]
        if row["kind"] == "PairScene":
            content = PairScene(scene["axis"], Thing(**scene["first"]), Thing(**scene["second"]))
        else:
            content = GroupScene(**scene)
        contents[row["image"]] = (row["split"], content, Unseen(**row["unseen"]))
    return contents


def read_pairs(folder, split="test"):
    return [line.split("\t") for line in (folder / "sts" / f"{split}.tsv").read_text().splitlines()]


# --- a reader that knows the synonyms: sentence → content ---------------------------------------------------------

WORD_TO_CONCEPT = {word: concept for concept, words in LEXICON.items() for word in words}
PLURALS = {"boxes": "box", "crosses": "cross", "pluses": "plus", "cruxes": "crux"}
PHRASES = re.compile(r"\b(" + "|".join(sorted(WORD_TO_CONCEPT, key=len, reverse=True)) + r")(?=s?\b)")
CONVERSE = {"left_of": ("horizontal", True), "right_of": ("horizontal", False)}
CONVERSE |= {"above": ("vertical", True), "below": ("vertical", False)}


def concepts_of(sentence):
    singular = " ".join(PLURALS.get(word, word) for word in sentence.split())
    return [WORD_TO_CONCEPT[match] for match in PHRASES.findall(singular)]


def parse(sentence):
    """The scene that a sentence tells and the set of unseen facts, from its words and their order alone."""
    concepts = concepts_of(sentence)
    facts = {concept for concept in concepts if concept in (*OWNERS, *HOURS, *PRICES)}
    seen = [concept for concept in concepts if concept not in facts]
    relations = [concept for concept in seen if concept in CONVERSE]
    if not relations:
        pick = {concept: values for values in (COUNTS, COLOURS, SHAPES, PLACES) for concept in values}
        found = {id(pick[concept]): concept for concept in seen}
        return GroupScene(*(found[id(values)] for values in (COUNTS, COLOURS, SHAPES, PLACES))), facts
    (relation,) = relations
    at = seen.index(relation)
    words = [concept for concept in seen if concept != relation]
    things = [Thing(size=words[i], colour=words[i + 1], shape=words[i + 2]) for i in (0, 3)]
    axis, figure_is_first = CONVERSE[relation]
    figure, ground = things if at == 3 else things[::-1]  # the figure comes first only in "figure relation ground"
    return PairScene(axis, *((figure, ground) if figure_is_first else (ground, figure))), facts


def overlap(pair):
    first, second = set(pair[1].split()), set(pair[2].split())
    return len(first & second) / len(first | second)


# --- files ---------------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes_and_another_seed_others(world, tmp_path):
    assert read_files(build_world(tmp_path / "again", config=SMALL)) == read_files(world)
    other = read_files(build_world(tmp_path / "other", config=replace(SMALL, seed=1)))
    assert other.keys() == read_files(world).keys()
    for name in ("captions.csv", "sentences.txt", "sts/test.tsv", "images/test_00000.png"):
        assert other[name] != read_files(world)[name]


def test_frozen_texts_change_only_with_the_format_number(world):
    # A world that changes silently makes demo scores incomparable: raise build.FORMAT, then renew these.
    names = ("captions.csv", "sentences.txt", "sts/dev.tsv", "sts/test.tsv", "contents.jsonl")
    digest = hashlib.sha256(b"".join((world / name).read_bytes() for name in names)).hexdigest()
    assert (build.FORMAT, digest[:16]) == (1, "f8492096599031b4")


def test_files_have_the_promised_layout_and_counts(world):
    contents, captions = read_contents(world), read_captions(world)
    assert (world / "captions.csv").read_text().splitlines()[0] == "image,caption"
    for split, count in (("train", 120), ("dev", 16), ("test", 80)):
        names = (world / f"{split}_images.txt").read_text().splitlines()
        assert len(names) == len(set(names)) == count
        assert all(contents[name][0] == split for name in names)
    assert captions.keys() == contents.keys() == {path.name for path in (world / "images").iterdir()}
    assert all(len(set(rows)) == len(rows) == 5 for rows in captions.values())
    assert len((world / "sentences.txt").read_text().splitlines()) == 200
    for split in ("dev", "test"):
        pairs = read_pairs(world, split)
        assert len(pairs) == 400
        assert all(len(pair) == 3 and 0 <= float(pair[0]) <= 5 for pair in pairs)
    for path in (world / "images").iterdir():
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((32, 32), "RGB")


def test_manifest_names_every_file_with_its_digest(world):
    manifest = json.loads((world / "manifest.json").read_text())
    files = read_files(world)
    del files["manifest.json"]
    assert manifest["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert manifest["config"]["seed"] == 0
    assert manifest["counts"] == {
        "train_images": 120, "dev_images": 16, "test_images": 80, "captions": 5 * 216, "sentences": 200,
        "dev_pairs": 400, "test_pairs": 400,
    }  # fmt: skip


def test_a_count_changes_only_what_it_counts(world, tmp_path):
    more = build_world(tmp_path / "more", config=replace(SMALL, num_sentences=300))
    files, more_files = read_files(world), read_files(more)
    assert {name for name in files if files[name] != more_files[name]} == {"sentences.txt", "manifest.json"}


def test_existing_world_is_kept_and_anything_else_refused(world, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert build_world(world, config=SMALL) == world
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before
    with pytest.raises(ValueError, match="seed is 0 there, 7 was asked"):
        build_world(world, config=replace(SMALL, seed=7))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is no picture world \(no manifest.json\)"):
        build_world(tmp_path, config=SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is no picture world"):
        build_world(tmp_path / "file", config=SMALL)


def test_changed_world_and_broken_manifest_are_refused_by_name(tmp_path):
    tiny = replace(SMALL, num_train_images=2, num_test_images=8, num_dev_images=8, num_sts_pairs=4, num_sentences=3)
    (tmp_path / "w").mkdir()  # an empty folder may be filled
    folder = build_world(tmp_path / "w", config=tiny)
    (folder / "sentences.txt").write_text("a big red box .\n")
    with pytest.raises(ValueError, match=r"sentences.txt is missing or was changed"):
        build_world(folder, config=tiny)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest.json is not a picture world's manifest"):
        build_world(folder, config=tiny)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(build, "draw_marks", fail)
    with pytest.raises(OSError, match="No space left"):
        build_world(tmp_path / "w", config=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_losing_the_race_to_another_process_keeps_its_world(world, tmp_path, monkeypatch):
    write = build._write_world

    def other_process_finishes_first(draft, config):
        write(draft, config)
        world.rename(tmp_path / "w")

    monkeypatch.setattr(build, "_write_world", other_process_finishes_first)
    try:
        assert build_world(tmp_path / "w", config=SMALL) == tmp_path / "w"
        assert [path.name for path in tmp_path.iterdir()] == ["w"]
    finally:
        (tmp_path / "w").rename(world)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_test_images": 7}, "num_test_images must be at least 8, got 7"),
        ({"num_test_images": 790}, r"num_dev_images \+ num_test_images must be at most 800, got 806"),
        ({"captions_per_image": 0}, "captions_per_image must be at least 1, got 0"),
        ({"image_size": 8}, "image_size must be at least 16, got 8"),
        ({"gold": "pixel"}, "gold must be 'pixels' or 'null', got 'pixel'"),
    ],
)
def test_config_refuses_bad_values(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_largest_held_out_sets_and_most_captions_can_be_made(tmp_path):
    config = replace(SMALL, num_train_images=10, num_dev_images=400, num_test_images=400, captions_per_image=20)
    contents = read_contents(build_world(tmp_path / "w", config=config)).values()
    assert len(contents) == 810
    # Here dev and test would surely meet if they did not keep clear of each other.
    assert len({scene for split, scene, _ in contents if split != "train"}) == 800


# --- contents ------------------------------------------------------------------------------------------------------


def test_contents_of_splits_and_of_text_only_sentences_are_disjoint(world):
    by_split = defaultdict(set)
    for split, scene, _ in read_contents(world).values():
        by_split[split].add(scene)
    by_split["text"] = {parse(line)[0] for line in (world / "sentences.txt").read_text().splitlines()}
    assert all(len(scenes) > 10 for scenes in by_split.values())
    for one, other in itertools.combinations(by_split.values(), 2):
        assert not one & other
    test_scenes = [scene for split, scene, _ in read_contents(world).values() if split == "test"]
    assert len(set(test_scenes)) == len(test_scenes)


def test_no_benchmark_sentence_is_a_training_text(world):
    contents = read_contents(world)
    training = set((world / "sentences.txt").read_text().splitlines())
    training |= {row for name, rows in read_captions(world).items() for row in rows if contents[name][0] == "train"}
    for split in ("dev", "test"):
        assert not training & {sentence for pair in read_pairs(world, split) for sentence in pair[1:]}


def test_captions_tell_exactly_what_their_image_shows(world):
    contents = read_contents(world)
    for name, captions in read_captions(world).items():
        _, scene, unseen = contents[name]
        for caption in captions:
            told, facts = parse(caption)
            assert told == scene, caption
            assert facts <= set(astuple(unseen)), caption


def test_captions_of_one_image_never_hold_two_words_for_one_concept(world):
    for captions in read_captions(world).values():
        text = " ".join(" ".join(PLURALS.get(word, word) for word in caption.split()) for caption in captions)
        words = set(PHRASES.findall(text))
        assert len({WORD_TO_CONCEPT[word] for word in words}) == len(words)


def test_every_word_occurs_in_captions_and_in_sentences(world):
    for texts in (
        [row for rows in read_captions(world).values() for row in rows],
        (world / "sentences.txt").read_text().splitlines(),
    ):
        joined = "\n".join(" ".join(PLURALS.get(word, word) for word in text.split()) for text in texts)
        missing = set(WORD_TO_CONCEPT) - set(PHRASES.findall(joined))
        assert not missing


# --- gold ----------------------------------------------------------------------------------------------------------


def test_gold_is_the_similarity_of_what_the_two_sentences_say(world):
    contents = read_contents(world)
    with (world / "sts" / "test_pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = Counter(row["kind"] for row in rows)
    assert kinds.keys() == {"paraphrase", "same_words", "changed", "unrelated"}
    for (score, first, second), row in zip(read_pairs(world), rows, strict=True):
        scene1, scene2 = parse(first)[0], parse(second)[0]
        assert float(score) == pytest.approx(5 * similarity(scene1, scene2), abs=1e-3)
        assert (scene1, scene2) == (contents[row["image1"]][1], contents[row["image2"]][1])
        assert (row["kind"] == "paraphrase") == (scene1 == scene2)


def test_word_overlap_hardly_tells_the_gold_and_synonyms_do(world):
    pairs = read_pairs(world)
    gold = [float(pair[0]) for pair in pairs]
    assert abs(spearmanr([overlap(pair) for pair in pairs], gold)[0]) < 0.35

    def concept_overlap(pair):
        first, second = Counter(concepts_of(pair[1])), Counter(concepts_of(pair[2]))
        return (first & second).total() / (first | second).total()

    assert spearmanr([concept_overlap(pair) for pair in pairs], gold)[0] > 0.75


def test_hard_pairs_are_there_and_scores_span_the_range(world):
    pairs = read_pairs(world)
    histogram, _ = np.histogram([float(pair[0]) for pair in pairs], bins=5, range=(0, 5))
    assert (histogram > 20).all()
    assert any(float(pair[0]) == 5 and overlap(pair) < 0.15 for pair in pairs)
    assert any(float(pair[0]) < 2 and sorted(pair[1].split()) == sorted(pair[2].split()) for pair in pairs)


def test_similarity_of_known_scenes():
    big_red, small_red = Thing("red", "circle", "large"), Thing("red", "circle", "small")
    blue = Thing("blue", "square", "small")
    scene = PairScene("horizontal", big_red, blue)
    assert similarity(scene, scene) == 1
    assert similarity(scene, PairScene("horizontal", small_red, blue)) == pytest.approx(0.85)
    assert similarity(scene, PairScene("horizontal", blue, big_red)) == pytest.approx(0.3)
    assert similarity(scene, PairScene("vertical", big_red, blue)) == pytest.approx(0.3)
    assert similarity(scene, PairScene("horizontal", Thing("green", "circle", "large"), blue)) == pytest.approx(0.7)
    group = GroupScene("two", "red", "circle", "at_top")
    assert similarity(group, scene) == similarity(scene, group) == pytest.approx(0.3)
    assert similarity(group, GroupScene("two", "blue", "circle", "at_top")) == pytest.approx(0.4)
    assert similarity(group, GroupScene("three", "red", "circle", "at_left")) == pytest.approx(0.24)
    assert similarity(group, GroupScene("two", "blue", "ring", "at_top")) == 0


def test_similarity_is_symmetric_and_one_only_for_equal_contents():
    rng = Random(0)
    for _ in range(2000):
        scene = draw_scene(rng)
        for other in (draw_scene(rng), change_scene(scene, rng)):
            value = similarity(scene, other)
            assert 0 <= value <= 1
            assert value == similarity(other, scene)
            assert (value == 1) == (scene == other)


def test_every_change_changes_the_content_and_stays_legal():
    rng, legal = Random(1), {*all_groups(), *all_pairs()}
    assert (len(all_groups()), len(all_pairs())) == (432, 2 * 72 * 70)
    for _ in range(2000):
        scene = draw_scene(rng)
        assert change_scene(scene, rng) != scene
        assert {scene, change_scene(scene, rng)} <= legal


def test_null_world_has_the_same_training_files_and_a_gold_blind_to_images(world, null_world):
    files, null_files = read_files(world), read_files(null_world)
    assert {name for name in files if files[name] != null_files[name]} == {
        "manifest.json", "sts/dev.tsv", "sts/test.tsv", "sts/dev_pairs.csv", "sts/test_pairs.csv",
    }  # fmt: skip
    gold, seen = [], []
    for score, first, second in read_pairs(null_world):
        (scene1, facts1), (scene2, facts2) = parse(first), parse(second)
        assert len(facts1) == len(facts2) == len(FACTS)
        shared = facts1 & facts2
        weights = sum(0.5 if fact in OWNERS else 0.25 for fact in shared)
        assert float(score) == pytest.approx(5 * weights, abs=1e-3)
        gold.append(float(score))
        seen.append(similarity(scene1, scene2))
    assert set(gold) == {0, 1.25, 2.5, 3.75, 5}
    assert abs(spearmanr(seen, gold)[0]) < 0.15


def test_unseen_similarity():
    facts = Unseen("king", "noon", "free")
    assert unseen_similarity(facts, facts) == 1
    assert unseen_similarity(facts, replace(facts, owner="thief")) == 0.5
    assert unseen_similarity(facts, replace(facts, hour="dawn", price="cheap")) == 0.5


# --- wording -------------------------------------------------------------------------------------------------------


def test_every_pattern_in_opposite_dialects_tells_the_same_content():
    rng, unseen = Random(2), Unseen("king", "noon", "free")
    assert len(PAIR_PATTERNS) == len(GROUP_PATTERNS)
    for pattern, _ in itertools.product(range(len(PAIR_PATTERNS)), range(40)):
        scene, dialect = draw_scene(rng), draw_dialect(rng)
        opposite = contrast_dialect(dialect, rng)
        style = Style(pattern, ("a", "the"), FACTS)
        first = write_sentence(scene, unseen, dialect=dialect, style=style)
        second = write_sentence(scene, unseen, dialect=opposite, style=style)
        assert parse(first) == parse(second) == (scene, set(astuple(unseen)))
        used = [set(PHRASES.findall(" ".join(PLURALS.get(w, w) for w in text.split()))) for text in (first, second)]
        assert not used[0] & used[1]


def test_sentences_fit_32_tokens_with_the_two_special_ones(world, null_world):
    texts = [text for rows in read_captions(world).values() for text in rows]
    texts += [text for pair in read_pairs(null_world) for text in pair[1:]]
    assert 25 < max(len(text.split()) for text in texts) <= 30


def test_lexicon_covers_every_value_and_no_word_has_two_meanings():
    values = {*COLOURS, *SHAPES, *SIZES, *COUNTS, *PLACES, *OWNERS, *HOURS, *PRICES, *CONVERSE}
    assert LEXICON.keys() == values
    words = [word for options in LEXICON.values() for word in options]
    assert len(words) == len(set(words))
    assert all(len(options) >= 3 for options in LEXICON.values())


# --- images ------------------------------------------------------------------------------------------------------


def test_every_content_has_marks_of_its_own_inside_the_image():
    layouts = [lay_out(scene) for scene in (*all_groups(), *all_pairs())]
    assert len(set(layouts)) == len(layouts)
    for mark in set(itertools.chain.from_iterable(layouts)):
        reach = mark.size / 2 * 1.06 + 0.02
        assert min(mark.x, mark.y) - reach >= 0
        assert max(mark.x, mark.y) + reach <= 1


def test_marks_are_drawn_where_and_in_the_colour_that_they_say():
    for (shape, colour), (x, y) in itertools.product(itertools.product(SHAPES, COLOURS), ((0.25, 0.5), (0.5, 0.75))):
        image = np.asarray(draw_marks([Mark(shape, colour, x, y, 0.46)], image_size=64, rng=Random(3)), dtype=float)
        lit = image.max(axis=2) > 60
        rows, columns = np.nonzero(lit)
        assert abs(columns.mean() / 64 - x) < 0.06
        assert abs(rows.mean() / 64 - y) < 0.12  # a triangle's weight is low
        inner = image[image.max(axis=2) > 0.85 * image.max()]
        nearest = min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - inner.mean(axis=0)).sum())
        assert nearest == colour


def test_drawing_wavers_by_generator_and_refuses_unknown_marks():
    marks = lay_out(PairScene(AXES[0], Thing("red", "circle", "large"), Thing("blue", "bar", "small")))
    draw = [np.asarray(draw_marks(marks, image_size=32, rng=Random(seed))) for seed in (0, 0, 1)]
    assert (draw[0] == draw[1]).all()
    assert (draw[0] != draw[2]).any()
    with pytest.raises(ValueError, match="cannot draw a 'red' 'heart': shapes are circle, square"):
        draw_marks([Mark("heart", "red", 0.5, 0.5, 0.3)], image_size=32, rng=Random(0))


def test_small_pixels_tell_the_content_apart(world):
    """The nearest clean drawing at 16 x 16 pixels, among 300 other contents and the test's own, is the right one."""

    def shrink(image):
        return np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.float32).ravel()

    shown = [(name, scene) for name, (split, scene, _) in read_contents(world).items() if split == "test"]
    others = Random(4).sample([*all_groups(), *all_pairs()], 300)
    candidates = list(dict.fromkeys([*others, *(scene for _, scene in shown)]))
    clean = np.stack([shrink(draw_marks(lay_out(scene), image_size=32, rng=_Steady())) for scene in candidates])
    hits = 0
    for name, scene in shown:
        with Image.open(world / "images" / name) as image:
            nearest = np.square(clean - shrink(image)).sum(axis=1).argmin()
        hits += candidates[nearest] == scene
    assert hits / len(shown) > 0.9


class _Steady(Random):
    """No wavering."""

    def uniform(self, a, b):
        return (a + b) / 2

    def randint(self, a, b):
        return (a + b) // 2
