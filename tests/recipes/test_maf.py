"""Whole tiny runs of the recipe maf: run folder, resuming, ablations, refusals, the tagger, ``mcse maf tag``."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mcse import TweetTagger
from mcse.commands.main import main as mcse
from mcse.config import ConfigError
from mcse.data.conll import read_conll
from mcse.data.images.features import open_features
from mcse.data.images.names import ABSENT
from mcse.data.tweets import tweets_to_images
from mcse.encoders.loading import load_encoder
from mcse.evaluation.evaluators.tagging import score_taggings, tag_texts
from mcse.files import claimed
from mcse.metrics.spans import find_spans
from mcse.recipes.launch import load_config
from mcse.training.loop import Loop
from mcse.types import Tagger
from tests.fixtures.launch import assert_same_run, differing, entries, flags_of, one_thread
from tests.fixtures.tiny_tweets import REGION_WIDTH, REGIONS, build_tiny_tweets, tweet_overrides

TEXT = {"data.images": None, "fusion.heads": ..., "loss.matching.num_swapped": ...}
LIVE = {"data.images": {"folder": "images", "tower": "grid:pixels:16"}}


@pytest.fixture(scope="module")
def tweets(tmp_path_factory):
    return build_tiny_tweets(tmp_path_factory.mktemp("tweets"))


def flags(tweets, output, keys=None):
    return flags_of(tweet_overrides(tweets, output) | (keys or {}))


def run(tweets, output, keys=None, *more):
    with one_thread():
        return mcse(["train", *flags(tweets, output, keys), *more])


@pytest.fixture(scope="module")
def finished(tweets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    keys = {"train.eval_steps": 3, "train.log_steps": 1}
    assert run(tweets, folder / "full", keys) == 0
    assert run(tweets, folder / "text", keys | TEXT) == 0
    assert run(tweets, folder / "live", {"train.max_steps": 2, "train.eval_steps": 2} | LIVE) == 0
    return folder


def test_eager_attention_is_kept_with_the_checkpoint(tweets, tmp_path):
    keys = {"train.max_steps": 2, "train.eval_steps": 2, "encoder.attention": "eager", "encoder.dropout": 0.2}
    assert run(tweets, tmp_path / "run", keys | TEXT) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["facts"]
    assert (facts["attention"], facts["padding"]) == ("eager", "masked")
    backbone = TweetTagger.from_pretrained(tmp_path / "run", device="cpu").model.encoder.backbone
    assert backbone.config._attn_implementation == "eager"
    assert backbone.config.hidden_dropout_prob == 0.2


def test_run_folder_holds_terms_scores_and_facts(finished):
    lines = entries(finished / "full")
    training = [line for line in lines if "loss" in line]
    for line in training:
        total = 0.62 * line["loss.tagging"] + 0.38 * (line["loss.alignment"] + line["loss.matching"])
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    scores = [line for line in lines if "dev.f1" in line]
    assert [line["step"] for line in scores] == [3, 6]
    assert {"dev.precision", "dev.recall", "dev.f1_strict"} <= scores[0].keys()
    facts = json.loads((finished / "full" / "run.json").read_text())
    assert facts["facts"]["entity types"] == "LOC, OTHER, PER"
    assert facts["facts"]["tags repaired"] == "6 in training, 2 in dev"
    assert facts["facts"]["tweets without an image"] == 7
    assert facts["facts"]["regions"] == REGIONS
    assert {file["role"] for file in facts["data"]} == {"train", "dev", "features", "encoder"}
    text = [line for line in entries(finished / "text") if "loss" in line]
    assert all("loss.matching" not in line and line["loss"] == pytest.approx(line["loss.tagging"]) for line in text)


def test_resuming_equals_going_on(tweets, finished, tmp_path, monkeypatch):
    keys = {"train.eval_steps": 3, "train.log_steps": 1, "train.resume": "auto"}
    plain = Loop._step

    def stopped(self, *rest):
        if self.progress.step == 4:
            raise KeyboardInterrupt
        plain(self, *rest)

    monkeypatch.setattr(Loop, "_step", stopped)
    assert run(tweets, tmp_path / "full", keys) == 130
    monkeypatch.setattr(Loop, "_step", plain)
    assert run(tweets, tmp_path / "full", keys) == 0
    assert_same_run(finished / "full", tmp_path / "full")


def test_another_seed_and_shuffled_images_train_something_else(tweets, finished, tmp_path):
    keys = {"train.eval_steps": 3, "train.log_steps": 1}
    assert run(tweets, tmp_path / "seed", keys | {"seed": 1}) == 0
    assert differing(finished / "full" / "last", tmp_path / "seed" / "last")
    assert run(tweets, tmp_path / "shuffled", keys | {"controls.images": "shuffled_images"}) == 0
    assert differing(finished / "full" / "last", tmp_path / "shuffled" / "last")


@pytest.mark.parametrize("matching", ["published", "none"])
def test_ablations_train(tweets, tmp_path, matching):
    keys: dict = {"loss.matching.kind": matching, "loss.alignment": None}
    if matching == "none":
        keys = {"loss.matching": None, "loss.matching.num_swapped": ..., "loss.alignment": None}
    assert run(tweets, tmp_path / "run", keys | {"train.max_steps": 2, "train.eval_steps": 2}) == 0
    line = entries(tmp_path / "run")[0]
    assert "loss.alignment" not in line
    assert ("loss.matching" in line) == (matching == "published")
    assert TweetTagger.from_pretrained(tmp_path / "run").model.image.text_projection is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (TEXT | {"controls.images": "random"}, "controls.images: 'random' would do nothing"),
        (TEXT | {"controls.wrong_images": 0.3}, "controls.wrong_images: 0.3 would do nothing"),
        (TEXT | {"loss.matching": None}, "loss: would do nothing, since text alone is read"),
        (TEXT | {"loss.tagging_weight": 0.5}, "loss: would do nothing, since text alone is read"),
        (TEXT | {"fusion.pooling": "mean"}, "fusion: would do nothing, since text alone is read"),
        (TEXT | {"fusion.image_dropout": 0.5}, "fusion: would do nothing, since text alone is read"),
        ({"loss.matching": None}, "loss.matching: given as 'null', and by its keys"),
        ({"data.images": {"tower": "pixels:8"}}, "data.images: give one of features or folder; got 'tower'"),
        (
            {"data.images": {"features": "regions", "folder": "images", "tower": "pixels:8"}},
            "data.images: features and folder exclude each other",
        ),
        ({"data.images.on_bad": "skip"}, "unknown key 'data.images.on_bad'"),
        ({"encoder.pooling": "mean"}, "unknown key 'encoder.pooling'; did you mean 'fusion.pooling'"),
        ({"fusion.pooling": "first_last_mean"}, "fusion.pooling: input should be 'cls' or 'mean' or 'max', got"),
        ({"loss.alignment.weight": 0}, "loss.alignment.weight: must be positive, got 0"),
        ({"loss.alignment.text_to_image_share": 2}, "loss.alignment.text_to_image_share: must be in"),
        ({"loss.matching.threshold": 1}, "loss.matching.threshold: must be in"),
        (
            {"loss.alignment": None, "loss.matching.kind": "published", "fusion.image_row": "mean_projected"},
            "fusion.image_row: 'mean_projected' would do nothing",
        ),
        ({"controls.num_pairs": 3}, "unknown key 'controls.num_pairs'"),
        ({"encoder.packing": True}, "unknown key 'encoder.packing'"),
        ({"image.head_learning_rate": 1e-3}, "unknown key 'image.head_learning_rate'"),
        ({"train.cached_chunk_size": 2}, "train.cached_chunk_size"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tweets, tmp_path, keys, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        load_config(None, flags(tweets, tmp_path / "run", keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data.train": "absent.txt"}, "data.train: no file at"),
        ({"data.max_length": 512}, "data.max_length: 512 is more than the 128 tokens"),
        ({"fusion.heads": 5}, "fusion.heads: 5 do not divide"),
        ({"train.batch_size": 6, "loss.matching.num_swapped": 8}, "loss.matching.num_swapped: 8 swapped tweets of 6"),
    ],
)
def test_runs_that_cannot_be_built_say_why(tweets, tmp_path, capsys, keys, message):
    assert run(tweets, tmp_path / "run", keys) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tagger_is_reloaded_as_it_was(tweets, finished, tmp_path):
    tagger = TweetTagger.from_pretrained(finished / "full")
    assert isinstance(tagger, Tagger)
    texts, store = read_conll(tweets / "dev.txt"), open_features(tweets / "regions")
    rows = tweets_to_images(texts, store)
    taggings = tag_texts(tagger, texts.words, store, rows)
    scores = score_taggings(texts.tags, [tagging.tags for tagging in taggings])
    best = max((line for line in entries(finished / "full") if "dev.f1" in line), key=lambda line: line["dev.f1"])
    assert scores.lenient.f1 == pytest.approx(best["dev.f1"])
    assert scores.strict.f1 == pytest.approx(best["dev.f1_strict"])
    for words, row, tagging in zip(texts.words, rows, taggings, strict=True):
        assert len(tagging.tags) == len(words)
        assert (tagging.match is None) == (row == ABSENT)
        spans = [(span.start, span.stop, span.kind) for span in find_spans(tagging.tags, "strict")]
        assert [(e.start, e.stop, e.kind) for e in tagging.entities] == spans
        assert all(0 < entity.score <= 1 for entity in tagging.entities)
    tagger.save_pretrained(tmp_path / "again")
    again = TweetTagger.from_pretrained(tmp_path / "again")
    assert tag_texts(again, texts.words, store, rows) == taggings


def test_one_text_alone_is_tagged_as_in_a_batch_and_a_long_one_in_parts(tweets, finished, caplog):
    tagger = TweetTagger.from_pretrained(finished / "full")
    texts = read_conll(tweets / "dev.txt").words
    image = np.ones(REGIONS * REGION_WIDTH, dtype=np.float32)
    together = tagger.tag(texts, [image] * len(texts))
    for text, tagging in zip(texts, together, strict=True):
        (alone,) = tagger.tag([text], [image])
        assert alone.tags == tagging.tags
        assert alone.match == pytest.approx(tagging.match, abs=1e-6)
    long = list(texts[0]) * 30
    assert not caplog.records
    (tagging,) = tagger.tag([long], [image])
    assert len(tagging.tags) == len(long)
    assert "longer than 32 tokens were cut between words" in caplog.text
    assert tagger.tag([texts[0]], [None])[0].match is None
    with pytest.raises(ValueError, match="text 0 holds no words"):
        tagger.tag([[]])
    with pytest.raises(ValueError, match="2 texts, but 1 images"):
        tagger.tag(texts[:2], [None])


def test_pipeline_call_gives_characters_and_scores(tweets, finished):
    tagger = TweetTagger.from_pretrained(finished / "live")
    text = "The Kelo runs in park, the tor sabel!"
    image = tweets / "images" / "dev4.png"
    found = tagger(text, image)
    for entity in found:
        assert text[entity.start : entity.end] == entity.text
        assert 0 < entity.match < 1
    many = tagger([text, text], [image, None])
    for entity, alone in zip(many[0], found, strict=True):
        # In a batch with a longer row sums come in another order.
        assert replace(entity, score=alone.score, match=alone.match) == alone
        assert (entity.score, entity.match) == pytest.approx((alone.score, alone.match), abs=1e-5)
    assert all(entity.match is None for entity in many[1])
    with pytest.raises(ValueError, match="reads no images"):
        TweetTagger.from_pretrained(finished / "text")(text, image)
    with pytest.raises(ValueError, match="cannot be read"):
        tagger(text, tweets / "dev.txt")


def test_live_tower_and_its_stored_regions_agree(tweets, finished, tmp_path):
    """The regions that a tower gives inside the step are those that mcse extract-features stores."""
    store = tmp_path / "store"
    command = ["extract-features", "--images", str(tweets / "images"), "--tower", "grid:pixels:16"]
    assert mcse([*command, "--output", str(store)]) == 0
    assert open_features(store).regions == 4
    keys = {"train.max_steps": 2, "train.eval_steps": 2, "data.images": str(store)}
    assert run(tweets, tmp_path / "stored", keys) == 0
    assert not differing(finished / "live" / "last", tmp_path / "stored" / "last")


def test_tag_command_writes_spans_and_scores(tweets, finished, tmp_path, capsys):
    def tag(model, *more):
        return mcse(["maf", "tag", str(finished / model), str(tweets / "dev.txt"), *more])

    output = tmp_path / "out"
    assert tag("full", "--features", str(tweets / "regions"), "--output", str(output)) == 0
    lines = [json.loads(line) for line in (output / "tagged.jsonl").read_text().splitlines()]
    texts = read_conll(tweets / "dev.txt")
    assert [line["words"] for line in lines] == [list(words) for words in texts.words]
    assert any(line["match"] is not None for line in lines)
    conll = read_conll(output / "tagged.conll")
    results = json.loads((output / "results.json").read_text())
    scores = score_taggings(texts.tags, conll.tags)
    assert results["scores"]["ner_lenient"]["all"]["f1"] == pytest.approx(scores.lenient.f1)
    assert results["scores"]["ner_strict"]["all"]["gold"] == scores.strict.gold < scores.lenient.gold
    assert set(results["scores"]["ner_lenient"]) >= {"all", "LOC", "PER"}
    assert "all, lenient" in capsys.readouterr().out
    assert tag("full", "--features", str(tweets / "regions"), "--output", str(output)) == 2
    assert "is there already" in capsys.readouterr().err
    with claimed(output):
        assert tag("full", "--features", str(tweets / "regions"), "--output", str(output), "--overwrite") == 2
    assert f"out is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert json.loads((output / "results.json").read_text()) == results
    shuffled = ("--features", str(tweets / "regions"), "--shuffle-images", "0", "--output", str(tmp_path / "sh"))
    assert tag("full", *shuffled) == 0
    other = [json.loads(line)["match"] for line in (tmp_path / "sh" / "tagged.jsonl").read_text().splitlines()]
    assert other != [line["match"] for line in lines]
    assert tag("full", "--output", str(tmp_path / "x")) == 2
    assert "give --features or --images" in capsys.readouterr().err
    assert tag("full", "--no-images", "--output", str(tmp_path / "none")) == 0
    assert tag("text", "--output", str(tmp_path / "text")) == 0
    assert tag("live", "--images", str(tweets / "images"), "--output", str(tmp_path / "live")) == 0
    capsys.readouterr()
    other_tower = tmp_path / "other_tower"
    shutil.copytree(tweets / "regions", other_tower)
    meta = json.loads((other_tower / "meta.json").read_text())
    (other_tower / "meta.json").write_text(json.dumps(meta | {"tower": "grid:timm:another"}))
    assert tag("full", "--features", str(other_tower), "--output", str(tmp_path / "y")) == 2
    assert "holds features of grid:timm:another, not of grid:pixels" in capsys.readouterr().err


def test_a_file_without_tags_gets_no_gold_and_no_old_scores(tweets, finished, tmp_path):
    (tmp_path / "plain.txt").write_text("Kelo\nlaughs\n\nat\nred\nring\n")
    output = tmp_path / "out"
    model = str(finished / "text")
    assert mcse(["maf", "tag", model, str(tweets / "dev.txt"), "--output", str(output)]) == 0
    assert mcse(["maf", "tag", model, str(tmp_path / "plain.txt"), "--output", str(output), "--overwrite"]) == 0
    rows = [line.split("\t") for line in (output / "tagged.conll").read_text().splitlines() if line]
    assert [row[0] for row in rows] == ["Kelo", "laughs", "at", "red", "ring"]
    assert {len(row) for row in rows} == {2}
    assert not (output / "results.json").exists()


def test_a_tagger_is_no_sentence_encoder_and_the_other_way_round(tweets, finished, tmp_path):
    with pytest.raises(ValueError, match="a tagger of entities.*TweetTagger loads it"):
        load_encoder(str(finished / "full"))
    with pytest.raises(ValueError, match="holds a transformers model, not a tagger of entities"):
        TweetTagger.from_pretrained(tweets / "bert")
    weights = finished / "text" / "last" / "heads.safetensors"
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (finished / "text" / "last").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "heads.safetensors").write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        TweetTagger.from_pretrained(broken)


def test_encoder_loads_with_transformers_alone(finished):
    from transformers import AutoModel, AutoTokenizer

    folder = finished / "full" / "best"
    tokens = AutoTokenizer.from_pretrained(folder)("the kelo runs", return_tensors="pt")
    own = TweetTagger.from_pretrained(folder).model.encoder.backbone
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
        torch.testing.assert_close(own(**tokens).last_hidden_state, theirs)
    assert not any(math.isnan(value) for value in theirs.flatten().tolist())
