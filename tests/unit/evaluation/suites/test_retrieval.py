"""Retrieval: ranks against a loop, ties against the encoder, intervals by image, and what cannot be scored."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest

from mcse import SentenceEncoder
from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter
from mcse.evaluation.joint_space import load_captioned_images
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites.retrieval import SUITE, score_retrieval
from mcse.evaluation.uncertainty import point_score, replicate
from mcse.metrics.correlation import UndefinedScoreError
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.nn.heads import TanhHead
from mcse.report.results import contest_tables, model_tables, report_markdown
from mcse.report.seed_groups import System
from mcse.types import ModelScores, ScoreKey, score_tree
from tests.fixtures.ranks import loop_ranks, unit
from tests.fixtures.tiny_models import build_tiny_bert

F = 6


class ImageWords:
    """A caption's row is its image's direction, which stands in its last word, and ``noise`` of its own."""

    name = "words"

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def encode(self, sentences, *, batch_size=64, normalize=True):
        own = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(F) for text in sentences]
        return unit([direction(int(t.split()[-1])) + self.noise * o for t, o in zip(sentences, own, strict=True)])

    def encode_captions(self, sentences, *, batch_size=64):
        return self.encode(sentences)

    def encode_image_features(self, features, *, batch_size=256):
        return unit(features)


class TextOnly:
    """No image side at all."""

    encode = ImageWords(0.5).encode


class Constant(ImageWords):
    """Rows that differ by float32's rounding alone; a sorted list would put the right answer anywhere."""

    def encode_captions(self, sentences, *, batch_size=64):
        return unit(np.ones((len(sentences), F)) + 1e-8 * np.arange(len(sentences))[:, None])

    def encode_image_features(self, features, *, batch_size=256):
        return unit(np.ones(features.shape) - 1e-8 * np.eye(len(features), F))


def direction(image: int) -> np.ndarray:
    return np.random.default_rng(image).standard_normal(F)


def write_data(folder, captions_by_image, *, tower="pixels:1", extra=3):
    """Captions as CSV and a store that holds more images, in another order."""
    lines = [f"{image}.jpg,{text}" for image, texts in captions_by_image.items() for text in texts]
    captions = folder / "captions.csv"
    captions.write_text("image,caption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    names = [*range(900, 900 + extra), *reversed(captions_by_image)]
    plan = ExtractionPlan(
        names=tuple(f"{name}.jpg" for name in names),
        width=F,
        tower=tower,
        preprocessing="p",
        precision="fp32",
        weights="0",
    )
    with FeatureWriter(folder / "features", plan) as writer:
        writer.append(np.array([direction(name) for name in names], dtype=np.float32))
        writer.finish()
    return SuiteOptions(captions=str(captions), features=str(folder / "features"))


@pytest.fixture
def options(tmp_path):
    """Twenty images with two or three captions each; the caption's last word is the image."""
    data = {image: [f"{number} of {image}" for number in range(2 + image % 2)] for image in range(20)}
    return write_data(tmp_path, data)


def images_of(options):
    return load_captioned_images(options.captions, features=options.features, images=options.images)


def test_a_sentence_below_the_table_says_what_is_found_among_how_many(options):
    for encoder in (ImageWords(), TextOnly()):
        model = ModelScores(name="m", pooling="cls", suites=(SUITE.prepare(options).run(Subject.of(encoder)),))
        (table,) = model_tables(model)
        assert "sentence→sentence: a caption finds another, different caption of its image among the 49 other" in (
            table.caption
        )
        both = "image→text: an image finds one of its own captions among 50 captions; text→image: a caption finds its "
        assert (both + "image among 20 images" in table.caption) == isinstance(encoder, ImageWords)
        assert ("rsum: " in table.caption) == isinstance(encoder, ImageWords)
        assert table.caption in report_markdown(model)
        (contest,) = contest_tables([System(name, (model,)) for name in ("one", "two")])
        assert contest.caption == f"The best is bold. {table.caption}"


def test_suite_scores_both_ways_their_sum_and_sentences(options):
    encoder = ImageWords(noise=0.9)
    suite = SUITE.prepare(options)
    assert suite.summary == "20 images with 50 captions"
    found = suite.run(Subject.of(encoder))
    scores = score_tree(found.scores)["retrieval"]
    texts = [f"{number} of {image}" for image in range(20) for number in range(2 + image % 2)]
    image_of = np.array([int(text.split()[-1]) for text in texts])
    caption, image = encoder.encode(texts), unit([direction(image) for image in range(20)])
    wanted = {
        "image_to_text": loop_ranks(image, caption, range(20), image_of),
        "text_to_image": loop_ranks(caption, image, image_of, range(20)),
        "sentence_to_sentence": loop_ranks(caption, caption, image_of, image_of, own=range(50)),
    }
    for task, ranks in wanted.items():
        for k in (1, 5, 10):
            assert scores[task][f"recall@{k}"] == pytest.approx(100 * np.mean([rank <= k for rank in ranks]))
        median = scores[task]["median_rank"]
        assert np.mean([rank <= median for rank in ranks]) >= 0.5 > np.mean([rank < median for rank in ranks])
        assert 10 < scores[task]["recall@1"] < 95
        drawn = found.samples[ScoreKey("retrieval", task, "median_rank")]
        queries = {"image_to_text": np.arange(20)}.get(task, image_of)
        assert drawn.cluster_P.tolist() == queries.tolist(), "an image with all its captions"
        assert drawn.group_P.tolist() == np.bincount(queries)[queries].tolist(), "so that a draw has as many queries"
    six = [scores[task][f"recall@{k}"] for task in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    assert scores["rsum"]["score"] == pytest.approx(sum(six))
    sizes = {task: (scores[task]["queries"], scores[task]["targets"]) for task in wanted}
    assert sizes == {"image_to_text": (20, 50), "text_to_image": (50, 20), "sentence_to_sentence": (50, 49)}

    assert [column.label for column in found.columns] == [
        *(f"{way} R@{k}" for way in ("image→text", "text→image") for k in (1, 5, 10)),
        "rsum",
        "sentence→sentence R@1",
    ]
    assert all(column.higher_is_better for column in found.columns)
    assert not found.absent
    for key, sample in found.samples.items():
        task, metric = key.task, key.metric
        assert point_score(sample) == pytest.approx(scores[task][metric]), key
        assert scores[task][f"{metric}_low"] <= scores[task][metric] <= scores[task][f"{metric}_high"], key
        assert scores[task][f"{metric}_low"] >= 0
        assert scores[task][f"{metric}_high"] <= (600 if task == "rsum" else 100)
    assert {column.key for column in found.columns} <= found.samples.keys()


def test_perfect_and_constant_encoders(options):
    perfect = score_tree(SUITE.prepare(options).run(Subject.of(ImageWords())).scores)["retrieval"]
    assert (perfect["rsum"]["score"], perfect["rsum"]["score_low"], perfect["rsum"]["score_high"]) == pytest.approx(
        (600, 600, 600)
    )
    assert perfect["text_to_image"]["median_rank"] == perfect["sentence_to_sentence"]["median_rank"] == 1

    found = SUITE.prepare(options).run(Subject.of(Constant()))
    constant = score_tree(found.scores)["retrieval"]
    assert constant["rsum"]["score"] == 0
    assert constant["text_to_image"]["median_rank"] == 20
    assert constant["image_to_text"]["median_rank"] == 48  # behind all wrong captions, of which there are 48 or 47


def test_captions_of_an_image_are_drawn_together(tmp_path):
    """Were an image's four captions right or wrong independently, the interval would be half as wide."""
    data = {image: [f"{number} of {image}" for number in range(4)] for image in range(60)}

    class HalfBlind(ImageWords):
        def encode_captions(self, sentences, *, batch_size=64):
            images = [int(text.split()[-1]) for text in sentences]
            return unit([direction(image) * (-1 if image % 2 else 1) for image in images])

    found = SUITE.prepare(write_data(tmp_path, data)).run(Subject.of(HalfBlind()))
    scores = score_tree(found.scores)["retrieval"]["text_to_image"]
    assert scores["recall@1"] == pytest.approx(50)
    key = ScoreKey("retrieval", "text_to_image", "recall@1")
    spread = replicate(found.samples[key], key).std()
    assert spread == pytest.approx(100 * np.sqrt(0.25 / 60), rel=0.1)
    rsum_key = ScoreKey("retrieval", "rsum", "score")
    rsum = replicate(found.samples[rsum_key], rsum_key)
    assert rsum.std() > 3 * spread  # the six recalls rise and fall together


def test_equal_captions_of_two_images_count_against_the_encoder(tmp_path):
    class Bag(ImageWords):
        def encode(self, sentences, *, batch_size=64, normalize=True):
            return super().encode([text.replace("same", "1") for text in sentences])

    options = write_data(tmp_path, {1: ["same"], 2: ["same", "b 2"], 3: ["c 3"]})
    found = score_tree(score_retrieval(Subject.of(Bag()), images_of(options)).scores)["retrieval"]
    # Image 1 finds image 2's caption as similar as its own.
    assert found["image_to_text"]["recall@1"] == pytest.approx(200 / 3)
    # Image 2's "same" points to image 1.
    assert found["text_to_image"]["recall@1"] == pytest.approx(75)


def test_sentence_queries_need_another_caption(tmp_path):
    data = {1: ["a 1", "a 1", "b 1"], 2: ["c 2", "c 2"], 3: ["d 3"], 4: ["e 4", "f 4"]}
    scores = score_tree(SUITE.prepare(write_data(tmp_path, data)).run(Subject.of(TextOnly())).scores)["retrieval"]
    assert (scores["sentence_to_sentence"]["queries"], scores["sentence_to_sentence"]["targets"]) == (4, 5)


def test_encoders_without_image_heads_are_evaluated_on_sentences_alone(options):
    class NoHeads(ImageWords):
        has_image_heads = False
        name = "runs/simcse"

    for encoder, title in ((NoHeads(0.5), "runs/simcse"), (TextOnly(), "the encoder")):
        found = SUITE.prepare(options).run(Subject.of(encoder))
        assert score_tree(found.scores)["retrieval"].keys() == {"sentence_to_sentence"}
        assert [column.label for column in found.columns] == ["sentence→sentence R@1"]
        for task in ("image_to_text", "text_to_image", "rsum"):
            assert found.absent[f"retrieval.{task}"].startswith(f"{title} has no image heads")


def test_what_neither_side_can_score_is_refused(tmp_path):
    options = write_data(tmp_path, {1: ["a 1"], 2: ["b 2"]})
    with pytest.raises(UndefinedScoreError, match="no image of .*captions.csv has two different captions"):
        SUITE.prepare(options).run(Subject.of(TextOnly()))
    found = SUITE.prepare(options).run(Subject.of(ImageWords()))
    assert "two different captions" in found.absent["retrieval.sentence_to_sentence"]
    assert score_tree(found.scores)["retrieval"]["rsum"]["score"] == 600


def test_broken_joint_rows_are_named(options):
    class Broken(ImageWords):
        def __init__(self, *, caption=1.0, image=1.0, lost=0):
            super().__init__()
            self.caption, self.image, self.lost = caption, image, lost

        def encode_captions(self, sentences, *, batch_size=64):
            rows = super().encode_captions(sentences)
            rows[[text == "1 of 7" for text in sentences]] *= self.caption
            return rows[self.lost :]

        def encode_image_features(self, features, *, batch_size=256):
            rows = super().encode_image_features(features)
            rows[3] *= self.image
            return rows

    def judge(encoder):
        return SUITE.prepare(options).run(Subject.of(encoder))

    with pytest.raises(UndefinedScoreError, match="NaN or infinite rows for 1 of 50 captions: '1 of 7'"):
        judge(Broken(caption=np.nan))
    with pytest.raises(UndefinedScoreError, match="for 1 of 20 images: '3.jpg'"):
        judge(Broken(image=np.inf))
    with pytest.raises(ValueError, match=r"other than unit norm \(2\) for 1 of 20 images: '3.jpg'"):
        judge(Broken(image=2))
    with pytest.raises(ValueError, match=r"shape \(49, 6\) for 50 captions"):
        judge(Broken(lost=1))


def test_missing_options_and_files_are_named(options, tmp_path):
    with pytest.raises(ValueError, match="retrieval needs --captions and --features: .*--images"):
        SUITE.prepare(SuiteOptions())
    with pytest.raises(ValueError, match="retrieval needs --features"):
        SUITE.prepare(SuiteOptions(captions=options.captions))
    for flag in ("features", "images"):
        with pytest.raises(FileNotFoundError, match=f"--{flag}: nothing at .*nowhere"):
            SUITE.prepare(dataclasses.replace(options, **{flag: str(tmp_path / "nowhere")}))
    with pytest.raises(FileNotFoundError, match="nowhere.csv: no such file"):
        SUITE.prepare(dataclasses.replace(options, captions=str(tmp_path / "nowhere.csv")))
    with open(options.captions, "a", encoding="utf-8") as file:
        file.write("77.jpg,a new image 77\n")
    with pytest.raises(ValueError, match="captions.csv: 1 of 21 images have no features in .*, first '77.jpg'"):
        SUITE.prepare(options)


def test_list_of_images_picks_the_split_and_changes_the_digest(options, tmp_path):
    listed = tmp_path / "test.txt"
    listed.write_text("5.jpg\n2.jpg\n", encoding="utf-8")
    part = dataclasses.replace(options, images=str(listed))
    assert SUITE.prepare(part).summary == "2 images with 5 captions"
    assert images_of(part).image_names == ("5.jpg", "2.jpg")
    scores = score_tree(SUITE.prepare(part).run(Subject.of(ImageWords())).scores)["retrieval"]
    assert (scores["image_to_text"]["queries"], scores["image_to_text"]["targets"]) == (2, 5)
    digests = {SUITE.prepare(options).digest, SUITE.prepare(part).digest}
    rows = np.load(tmp_path / "features" / "features.npy")
    rows[-1] += 1  # image 0, which the list does not name
    np.save(tmp_path / "features" / "features.npy", rows)
    assert SUITE.prepare(part).digest in digests
    assert SUITE.prepare(options).digest not in digests


def test_images_without_captions_are_left_out_where_files_have_no_names(tmp_path):
    (tmp_path / "captions.txt").write_text("a 0\n\nb 2\n", encoding="utf-8")
    np.save(tmp_path / "bare.npy", np.array([direction(image) for image in range(3)], dtype=np.float32))
    options = SuiteOptions(captions=str(tmp_path / "captions.txt"), features=str(tmp_path / "bare.npy"))
    found = SUITE.prepare(options).run(Subject.of(ImageWords()))
    assert images_of(options).image_names == ("row 0", "row 2")
    assert score_tree(found.scores)["retrieval"]["rsum"]["score"] == 600


def test_features_of_another_tower_are_refused(options):
    encoder = ImageWords()
    encoder.image_tower = "open_clip:RN50/openai"
    with pytest.raises(ValueError, match="--features: .* holds features of pixels:1, not of open_clip:RN50/openai"):
        SUITE.prepare(options).run(Subject.of(encoder))
    encoder.image_tower = "pixels:1"
    assert score_tree(SUITE.prepare(options).run(Subject.of(encoder)).scores)["retrieval"]["rsum"]["score"] == 600


def test_captions_of_the_training_text_are_counted(options):
    found = SUITE.prepare(options).run(Subject.of(ImageWords(), seen=frozenset({"0of3", "1of3"})))
    assert found.protocols["retrieval seen"] == "2 of the captions are in the model's training text"
    assert "retrieval seen" not in SUITE.prepare(options).run(Subject.of(ImageWords())).protocols


def test_a_checkpoint_with_heads_is_evaluated_by_its_own_joint_rows(options, tmp_path):
    base = str(build_tiny_bert(tmp_path / "bert"))
    heads = {"grounding_head": TanhHead(32, 8, init_std=0.3), "image_head": TanhHead(F, 8, init_std=0.3)}
    encoder = SentenceEncoder(
        load_text_encoder(base, pooling="cls").eval(), load_tokenizer(base), pooling="cls", heads=heads
    )
    images = images_of(options)
    found = score_tree(SUITE.prepare(options).run(Subject.of(encoder)).scores)["retrieval"]
    similarity = encoder.image_similarity(list(images.captions), images.store.rows(images.feature_I))
    wrong = [
        sum(row[j] >= row[i] for j in range(20) if j != i) for i, row in zip(images.image_C, similarity, strict=True)
    ]
    assert found["text_to_image"]["median_rank"] == pytest.approx(1 + np.median(wrong), abs=0.5)

    heads["image_head"] = TanhHead(F + 1, 8)
    other = SentenceEncoder(load_text_encoder(base, pooling="cls"), load_tokenizer(base), pooling="cls", heads=heads)
    with pytest.raises(ValueError, match=r"image features have shape \(20, 6\).* was trained on \(N, 7\)"):
        SUITE.prepare(options).run(Subject.of(other))


def test_rows_that_repeat_for_every_caption_give_the_scores_of_one_row_an_image(tmp_path):
    """Kiros' and VSE++'s files hold every image five times: as so many images, right answers count as wrong ones."""
    draw = np.random.default_rng(0)
    rows = np.stack([direction(image) for image in range(40)]).astype(np.float32)
    captions = [f"{draw.integers(10**6)} shows {image}" for image in range(40) for _ in range(5)]
    np.save(tmp_path / "once.npy", rows)
    np.save(tmp_path / "repeated.npy", np.repeat(rows, 5, axis=0))
    (tmp_path / "captions.txt").write_text("\n".join(captions) + "\n")
    table = "".join(f"{number // 5}.jpg,{caption}\n" for number, caption in enumerate(captions))
    (tmp_path / "captions.csv").write_text("image,caption\n" + table)

    def scores(captions, features):
        images = load_captioned_images(str(tmp_path / captions), features=str(tmp_path / features))
        return score_retrieval(Subject.of(ImageWords(0.9)), images).scores

    right = scores("captions.csv", "once.npy")
    assert 20 < right[ScoreKey("retrieval", "image_to_text", "recall@1")] < 100
    assert scores("captions.txt", "repeated.npy") == right
    assert scores("captions.csv", "repeated.npy") == right
