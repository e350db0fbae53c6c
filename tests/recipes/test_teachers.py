"""Teachers in whole runs: rows reach the loss by whatever way texts come, controls change what they say they change."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from mcse.commands.main import main
from mcse.encoders.loading import load_encoder
from mcse.recipes.launch import build, load_config
from mcse.training.loop import Loop
from mcse.training.runtime import start_runtime
from mcse.types import PairBatch
from tests.fixtures.launch import arguments_of, assert_same_run, one_thread, own_cache, run
from tests.fixtures.senteval import write_senteval
from tests.fixtures.teacher_stores import store_rows
from tests.fixtures.tiny_run import build_tiny_run
from tests.fixtures.tiny_shards import shards_of_tiny_run

STORED = {"teachers": [{"name": "a", "store": "rows"}], "loss.list_net": {}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    store_rows(folder)
    write_senteval(folder / "tests")
    return folder


def live(tiny, **changes):
    return {
        "teachers": [{"name": "b", "encoder": str(tiny / "bert"), "pooling": "mean"} | changes],
        "loss.list_net": {},
    }


def built(tiny, recipe, keys, *, batch_size=8):
    with one_thread(), own_cache(tiny):
        keys = keys | {"train.batch_size": batch_size}
        config = load_config(None, arguments_of(tiny, recipe, tiny / "unused", keys))
        return build(config, start_runtime(precision="fp32", seed=config.seed, show_progress=False))


def column(made, batch):
    """What the loss reads: seen at the model, which is called with the batch of the step."""
    seen = []

    def model(given):
        seen.append(given)
        return made.model(given)

    made.step(model, batch)
    return seen[0].teacher_BF


def texts_of(tiny, batch):
    """The words of a batch, by the tiny encoder's own tokenizer."""
    tokenizer = load_encoder(str(tiny / "bert"), pooling="mean").parts.tokenizer.inner
    tokens = batch.caption if isinstance(batch, PairBatch) else batch.query
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens.input_ids_BT]


WAYS = {
    "sentences": ("simcse", {}),
    "sentences alone, streamed": ("simcse", {"data.sentences": {"stream": "sentences.txt", "window": 20}}),
    "decontaminated": (
        "simcse",
        {"data.decontaminate": True, "data.sts": "tests", "train.select_by": "stsb_dev.spearman"},
    ),
    "captions as text, mixed": ("simcse", {"data.captions": "captions.csv", "mix.schedule": "every"}),
    "pairs": ("mcse", {}),
    "pairs alone": ("mcse", {"data.sentences": ..., "mix.schedule": ..., "data.captions.per_image": "all"}),
    "repeated tokens": ("mcse", {"data.repetition": 0.6}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_has_the_teachers_own_rows_of_its_texts(way, tiny):
    recipe, keys = WAYS[way]
    teacher = load_encoder(str(tiny / "bert"), pooling="mean")
    for teachers in (STORED, live(tiny)):
        made = built(tiny, recipe, keys | teachers)
        for step in range(3):
            batch = made.stream.batch(step)
            wanted = teacher.encode(texts_of(tiny, batch))
            np.testing.assert_allclose(column(made, batch).numpy(), wanted, atol=2e-6)


def test_captions_in_tars_find_their_rows(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    keys = {"data.captions": shards_of_tiny_run(folder), "data.images": {"shards": "features"}}
    keys |= {"data.sentences": ..., "mix.schedule": ...}
    made = built(folder, "mcse", keys | STORED)
    batch = made.stream.batch(1)
    teacher = load_encoder(str(folder / "bert"), pooling="mean")
    np.testing.assert_allclose(batch.teacher_BF.numpy(), teacher.encode(texts_of(folder, batch)), atol=2e-6)


def test_two_teachers_are_averaged_by_their_weights_stored_or_not(tiny):
    pooled = {"name": "c", "encoder": str(tiny / "bert"), "pooling": "cls", "weight": 3}
    keys = {"teachers": [STORED["teachers"][0], pooled], "loss.list_net": {}}
    made = built(tiny, "simcse", keys)
    batch = made.stream.batch(0)
    row_BF, texts = column(made, batch).double(), texts_of(tiny, batch)
    cosines = [
        load_encoder(str(tiny / "bert"), pooling=pooling).similarity(texts, texts) for pooling in ("mean", "cls")
    ]
    np.testing.assert_allclose((row_BF @ row_BF.T).numpy(), 0.25 * cosines[0] + 0.75 * cosines[1], atol=1e-5)
    assert made.facts["teacher a"].startswith("weight 0.25, 32 wide, ")
    assert made.facts["teacher c"] == f"weight 0.75, 32 wide, {tiny / 'bert'}, cls, run in every step"
    assert {"teacher"} <= {file.role for file in made.data}


def test_a_live_teacher_has_no_part_in_training(tiny):
    plain, taught = built(tiny, "simcse", {}), built(tiny, "simcse", live(tiny) | {"train.cached_chunk_size": 3})
    assert plain.model.state_dict().keys() == taught.model.state_dict().keys()
    sizes = [
        sum(p.numel() for group in made.optimizer.param_groups for p in group["params"]) for made in (plain, taught)
    ]
    assert sizes[0] == sizes[1]
    batch = taught.stream.batch(0)
    taught.model.train()
    first, second = column(taught, batch), column(taught, batch)
    assert torch.equal(first, second), "in evaluation mode, whatever the student's mode is"
    assert not first.requires_grad
    whole = built(tiny, "simcse", live(tiny))
    torch.testing.assert_close(column(whole, batch), first, atol=1e-6, rtol=0)


def test_controls_put_other_rows_in_place_of_the_teachers(tiny):
    batch = built(tiny, "simcse", STORED).stream.batch(0)
    own, batch = batch.teacher_BF, replace(batch, teacher_BF=None)
    start = built(tiny, "simcse", STORED | {"controls.teachers": "self"})
    assert start.stream.batch(0).teacher_BF is None
    wanted = load_encoder(str(tiny / "bert"), pooling="cls").encode(texts_of(tiny, batch))
    np.testing.assert_allclose(column(start, batch).numpy(), wanted, atol=2e-6)
    with torch.no_grad():
        for parameter in start.model.parameters():
            parameter.add_(0.5)
    np.testing.assert_allclose(
        column(start, batch).numpy(), wanted, atol=2e-6, err_msg="the start's, not the student's"
    )
    drawn = [
        column(built(tiny, "simcse", live(tiny) | {"controls.teachers": "random", "seed": seed}), batch)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2], atol=0.01)
    assert not torch.allclose(drawn[0], own, atol=0.01)
    shuffled = built(tiny, "simcse", STORED | {"controls.teachers": "shuffled"})
    seen = [shuffled.stream.batch(step) for step in range(12)]
    all_rows = torch.cat([row.teacher_BF for row in seen])
    stored = torch.from_numpy(np.load(tiny / "rows" / "features.npy"))
    teacher = load_encoder(str(tiny / "bert"), pooling="mean")
    true_rows = torch.from_numpy(teacher.encode([text for row in seen for text in texts_of(tiny, row)]))
    assert float((all_rows * true_rows).sum(1).max()) < 1 - 1e-6, "no text has its own rows"
    assert float((all_rows @ F.normalize(stored).T).amax(1).min()) > 1 - 1e-6, "but each one's are some text's"


def test_a_teacher_that_reads_other_ids_is_refused(tiny, tmp_path):
    other = build_tiny_run(tmp_path / "other", seed=1)
    for keys, message in [
        (live(tiny, encoder=str(other / "bert")), r"teachers: b: .*other/bert has another tokenizer or prompt"),
        (live(tiny, encoder=str(tiny / "none")), r"teachers: b: there is no run and no checkpoint at .*none"),
        (live(tiny, pooling="middle"), r"teachers: b: pooling: unknown pooling 'middle'"),
        (live(tiny, pooling=None), r"teachers: b: .*bert' does not say how its embeddings are pooled"),
        (live(tiny) | {"encoder.prompt": "the "}, r"has another tokenizer or prompt than the student"),
        (live(tiny, encoder=str(tiny / "vectors.txt"), pooling=None), r"reads no ids of a student; store its rows"),
        (live(tiny) | {"controls.teachers": "shuffled"}, r"controls.teachers: shuffled permutes stored rows"),
        (STORED | {"controls.teachers": "random"}, r"mcse extract-features .* --untrained SEED"),
        ({"teachers": [{"name": "a", "store": "none"}], "loss.list_net": {}}, r"teachers: a: nothing at .*none"),
        ({"teachers": [{"name": "a", "store": "rows"}] * 2, "loss.list_net": {}}, r"the name 'a' stands there twice"),
        ({"teachers": STORED["teachers"]}, r"teachers: would do nothing, since no term of the loss reads"),
        ({"loss.list_net": {}}, r"loss.list_net: needs teachers; give some, or null for loss.list_net"),
        ({"controls.teachers": "self"}, r"controls.teachers: self would do nothing"),
        (STORED | {"data.sentences": "nli.csv"}, r"teachers, data.sentences: a table of hard negatives"),
        ({"data.repetition": 0.3, "data.sentences": "nli.csv"}, r"data.repetition, data.sentences: a table"),
    ]:
        with pytest.raises((ValueError, OSError), match=message):
            built(tiny, "simcse", keys)
    config = tiny / "short" / "config.json"
    shutil.copytree(tiny / "bert", config.parent, dirs_exist_ok=True)
    tokenizer = json.loads((config.parent / "tokenizer_config.json").read_text())
    (config.parent / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 16}))
    with pytest.raises(ValueError, match=r"takes 16 tokens, fewer than data.max_length, 32"):
        built(tiny, "simcse", live(tiny, encoder=str(config.parent)))


@pytest.mark.parametrize("kind", ["stored", "live"])
def test_a_run_with_teachers_goes_on_bit_for_bit_and_notices_other_rows(kind, tiny, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    keys = {"train.max_steps": 4, "train.eval_steps": 2, "train.log_steps": 1, "train.resume": "auto"}
    keys |= {"data.captions": "captions.csv", "mix.schedule": "every", "data.repetition": 0.5}
    keys |= STORED if kind == "stored" else live(folder)
    assert run(folder, "simcse", tmp_path / "whole", keys) == 0
    plain = Loop._step

    def stopped(self):
        if self.progress.step == 1:
            signal.raise_signal(signal.SIGTERM)
        plain(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", stopped)
        assert run(folder, "simcse", tmp_path / "parts", keys) == 143
    assert run(folder, "simcse", tmp_path / "parts", keys) == 0
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    if kind == "stored":
        shutil.rmtree(folder / "rows")
        store_rows(folder, pooling="cls")
        capsys.readouterr()
        assert run(folder, "simcse", tmp_path / "parts", keys) == 2
        assert f"{folder / 'rows'} (teacher) has changed since" in capsys.readouterr().err.splitlines()[-1]


def test_a_report_has_a_row_of_each_teacher_and_of_their_average(tiny, tmp_path, capsys, caplog):
    teachers = [*STORED["teachers"], {"name": "c", "encoder": str(tiny / "bert"), "pooling": "cls", "weight": 3}]
    keys = {"teachers": teachers, "loss.list_net": {}, "train.max_steps": 1}
    output = tmp_path / "run"
    assert run(tiny, "simcse", output, keys) == 0
    arguments = ["evaluate", str(output), "--data", str(tiny / "dev.tsv"), "--no-cache"]
    with one_thread():
        assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(title in shown for title in ("teacher a (mean)", "teacher c (cls)", "average of teachers (average)"))
    comparison = json.loads((output / "evaluation" / "teachers" / "comparison.json").read_text())
    scores = {model["model"]: model["scores"]["sts"]["dev"]["spearman"] for model in comparison["models"]}
    pairs = [line.split("\t") for line in (tiny / "dev.tsv").read_text().splitlines()]
    gold, left, right = zip(*pairs, strict=True)
    cosine = {}
    for name, pooling in (("teacher a", "mean"), ("teacher c", "cls")):
        encoder = load_encoder(str(tiny / "bert"), pooling=pooling)
        cosine[name] = (encoder.encode(left) * encoder.encode(right)).sum(1)
    cosine["average of teachers"] = 0.25 * cosine["teacher a"] + 0.75 * cosine["teacher c"]
    for name, values in cosine.items():
        wanted = 100 * spearmanr(list(map(float, gold)), values).statistic
        assert scores[name] == pytest.approx(wanted, abs=0.1)
    assert {path.name for path in output.iterdir()} >= {"evaluation", "best"}

    with one_thread():
        assert main([*arguments, "--no-teachers"]) == 0
    assert "teacher" not in capsys.readouterr().out.replace(str(tmp_path), "")

    config = (output / "config.yaml").read_text()
    (output / "config.yaml").write_text(config.replace(str(tiny / "bert"), str(tiny / "gone")).replace('"rows"', '"x"'))
    with one_thread(), caplog.at_level("WARNING"):
        assert main(arguments) == 0, "a teacher that is gone is no failure"
    said = capsys.readouterr()
    assert "average of teachers" not in said.out
    assert "gone" in said.err + caplog.text
