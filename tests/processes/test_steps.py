"""Every recipe's own step under DDP: two processes with half the batch make the update of one with the whole."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from mcse import distributed
from mcse.recipes import method
from mcse.recipes.launch import load_config, train
from mcse.recipes.teachers import LiveTeacher
from mcse.training.gradcache import CachedForward
from mcse.training.journal import Journal
from mcse.training.loop import Loop, total_loss
from mcse.training.meter import NotFiniteError
from mcse.training.optim import clip_gradients
from mcse.training.runtime import start_runtime
from mcse.types import PairBatch, SentenceBatch
from tests.fixtures.launch import (
    arguments_of,
    assert_same_run,
    entries,
    flags_of,
    losses,
    one_thread,
    own_cache,
    run,
    tensors,
)
from tests.fixtures.processes import REPOSITORY, run_processes
from tests.fixtures.teacher_stores import store_rows
from tests.fixtures.tiny_run import MLM_SCRATCH, allowing_equal_views, build_tiny_run
from tests.fixtures.tiny_tweets import build_tiny_tweets, tweet_overrides

WHOLE = 32
ALL_CAPTIONS = {"data.captions.per_image": "all"}
VSE_INFO_NCE = {"loss.kind": "info_nce", "loss.temperature": 0.1, "loss.reduction": "sum"}
VSE_TRANSFORMER = {"encoder.kind": "transformer", "encoder.word_dim": ..., "encoder.name_or_path": "bert"}
SCORED = {"data.table": "scored.csv"}
GROUPED = {
    "data.table": {"path": "scored.csv", "query": "sentence1", "positive": "sentence2", "id": "score"},
    "loss.directions": "both",
}
MIXED = {
    "data.table": ...,
    "data.mixed": True,
    "data.tables": [
        {"path": "nli.csv", "query": "sent0", "positive": "sent1", "share": 5},
        {"path": "nli.csv", "query": "sent1", "positive": "hard_neg", "share": 3},
    ],
}
PLUS_PLUS = {"loss.off_dropout": {"positive_weight": 0.9}, "loss.dimension_contrast": {"weight": 0.5}}
DIFFCSE = {"data.sentences": "uneven.txt", "loss.rtd_weight": 0.5}
TAUGHT = {
    "teachers": [{"name": "a", "store": "rows", "weight": 3}, {"name": "b", "encoder": "bert", "pooling": "mean"}],
    "loss.list_net": {"weight": 0.5},
    "loss.margin": {"negative": 0.2, "by_teacher": True},
}
LEARNED = ALL_CAPTIONS | {"loss.match_weight": {"kind": "learned"}, "controls.wrong_images": 0.3}
GUIDED = ALL_CAPTIONS | {
    "data.images": "wide.hdf5",
    "teachers": [{"name": "bert", "store": "rows"}],
    "loss.match_weight": {"kind": "guided", "threshold": 0.02},
    "controls.wrong_images": 0.3,
}
ADAPTERS = {"encoder.lora": {"rank": 3, "modules": ["query", "value", "dense"]}}
# Recipe, keys, step. MCSE's pairs come at even steps.
STEPS = {
    "simcse": ("simcse", {}, 0),
    "simcse supervised": ("simcse", {"data.sentences": "nli.csv", "loss.hard_negative_weight": 0.7}, 0),
    "simcse with mlm": ("simcse", {"loss.mlm_weight": 0.1}, 2),
    "simcse in chunks": ("simcse", {"encoder.length_chunks": 3}, 0),
    "simcse packed": ("simcse", {"encoder.packing": True}, 0),
    "simcse cached": ("simcse", {"train.cached_chunk_size": 3}, 0),
    "simcse without dropout's negatives": ("simcse", PLUS_PLUS, 0),
    "simcse without dropout's negatives, cached": ("simcse", PLUS_PLUS | {"train.cached_chunk_size": 3}, 0),
    "simcse with margins": ("simcse", {"loss.margin": {"negative": 0.2, "positive": 0.1}}, 0),
    "simcse with a queue": ("simcse", {"loss.queue": {"size": 40, "momentum": 0.9}}, 1),
    "simcse with teachers": ("simcse", TAUGHT, 0),
    "simcse with teachers, cached": ("simcse", TAUGHT | {"train.cached_chunk_size": 3}, 0),
    "simcse with other teachers": ("simcse", TAUGHT | {"controls.teachers": "self"}, 0),
    "mcse with teachers": ("mcse", ALL_CAPTIONS | TAUGHT | {"data.repetition": 0.5}, 2),
    "simcse with repetition": ("simcse", {"data.repetition": 0.5}, 0),
    "mcse with many terms": ("mcse", ALL_CAPTIONS | PLUS_PLUS | {"loss.consistency": {"weight": 0.5}}, 2),
    "diffcse": ("diffcse", DIFFCSE, 2),
    "diffcse, real tokens, SimCSE's head": ("diffcse", DIFFCSE | {"loss.rtd_reduction": "real", "head": "tanh"}, 2),
    "rankcse": ("rankcse", {}, 0),
    "rankcse, lists by a net, cached": (
        "rankcse",
        {"loss.list_mle": None, "loss.list_net": {"weight": 0.5}, "train.cached_chunk_size": 3},
        1,
    ),
    "kdmcse": ("kdmcse", ALL_CAPTIONS, 2),
    "kdmcse, filtered and cached": (
        "kdmcse",
        ALL_CAPTIONS
        | {"data.images": "wide.hdf5", "loss.cross_filter": {"threshold": 0.02}, "train.cached_chunk_size": 3}
        | {"teachers": [{"name": "bert", "store": "rows"}]},
        0,
    ),
    "kdmcse, text alone": ("kdmcse", ALL_CAPTIONS, 1),
    "dalr": ("dalr", ALL_CAPTIONS, 2),
    "dalr, cached": ("dalr", ALL_CAPTIONS | {"train.cached_chunk_size": 3}, 2),
    "dalr, text alone": ("dalr", ALL_CAPTIONS, 1),
    "dalr, text alone and taught": ("dalr", ALL_CAPTIONS | {"loss.teach_sentences": True}, 1),
    "tables": ("tables", {}, 0),
    "tables, both directions and widths": ("tables", {"loss.directions": "both", "loss.dims": [16, 8]}, 0),
    "tables, cached": ("tables", {"train.cached_chunk_size": 3}, 0),
    "tables, mixed": ("tables", MIXED, 1),
    "tables, guided": ("tables", {"loss.guide": {"model": "bert", "pooling": "cls"}, "loss.directions": "both"}, 0),
    "tables, groups": ("tables", GROUPED, 0),
    "tables by scores": ("tables", SCORED, 0),
    "tables by scores, cached": ("tables", SCORED | {"train.cached_chunk_size": 3}, 0),
    "tables by angles": ("tables", SCORED | {"data.table.loss": "angle"}, 0),
    "tables by cosines": ("tables", SCORED | {"data.table.loss": "cosine", "data.table.score_range": [0, 5]}, 0),
    "mcse pairs": ("mcse", ALL_CAPTIONS, 2),
    "mcse pairs cached": ("mcse", ALL_CAPTIONS | {"train.cached_chunk_size": 3}, 2),
    "mcse pairs with mlm": ("mcse", ALL_CAPTIONS | {"loss.mlm_weight": 0.1, "loss.image_reduction": "sum"}, 0),
    "mcse, learned weights": ("mcse", LEARNED, 2),
    "mcse, learned weights, cached": ("mcse", LEARNED | {"train.cached_chunk_size": 3}, 2),
    "mcse, learned weights, text alone": ("mcse", LEARNED, 1),
    "mcse, guided weights, cached": ("mcse", GUIDED | {"train.cached_chunk_size": 3}, 2),
    "kdmcse, guided weights": ("kdmcse", GUIDED, 0),
    "mcse text alone": ("mcse", ALL_CAPTIONS, 1),
    "mcse text alone with mlm": ("mcse", ALL_CAPTIONS | {"loss.mlm_weight": 0.1}, 1),
    "adapters": ("simcse", ADAPTERS, 0),
    "adapters, cached": ("tables", ADAPTERS | {"train.cached_chunk_size": 3}, 0),
    "adapters beside images": ("mcse", ALL_CAPTIONS | ADAPTERS, 2),
    "layers frozen": ("simcse", {"encoder.frozen": ["embeddings", "layer.0"]}, 0),
    "encoder frozen": ("mcse", ALL_CAPTIONS | {"encoder.frozen": True}, 2),
    "encoder frozen, text alone": ("mcse", ALL_CAPTIONS | {"encoder.frozen": True}, 1),
    "prompt": ("simcse", {"encoder.prompt": "the bear: "}, 0),
    "unpaired": ("unpaired", {}, 1),
    "unpaired simclr": ("unpaired", {"loss.contrast": "simclr"}, 0),
    "unpaired as published": ("unpaired", {"loss.contrast": "as_published"}, 0),
    "unpaired random labels": ("unpaired", {"loss.contrast": "random_labels"}, 0),
    "unpaired without images": ("unpaired", {"loss.contrast": "none"}, 0),
    "mlm": ("mlm", {"data.sentences": "uneven.txt"}, 1),
    "mlm, packed whole words": ("mlm", {"encoder.packing": True, "loss.whole_word": True}, 0),
    "mlm from nothing": ("mlm", MLM_SCRATCH | {"encoder.dropout": 0.0}, 0),
    "elmo": ("elmo", {}, 0),
    "elmo, carried and sampled": ("elmo", {"loss.samples": 20}, 2),
    "cove": ("cove", {}, 1),
    "vse gru": ("vse", {}, 0),
    "vse lstm, hardest negatives": ("vse", {"encoder.kind": "lstm", "loss.negatives": "hardest"}, 1),
    "vse bag of words, mean": ("vse", {"encoder.kind": "bow", "loss.reduction": "mean", "loss.unit_images": False}, 2),
    "vse bag of words, info_nce": ("vse", {"encoder.kind": "bow", **VSE_INFO_NCE}, 0),
    "vse transformer": ("vse", VSE_TRANSFORMER, 1),
    "grounded words": ("grounded_words", {"loss.negatives": 2, "loss.beta": 0.5, "words.max_words": 35}, 2),
    "grounded words, tied": ("grounded_words", {"model.tie_output": True, "model.share_image_layer": False}, 1),
    "grounded words by images": ("grounded_words", {"model.objective": "image_regression", "model.state_width": 9}, 0),
    "word features": ("word_features", {}, 1),
}
GROUNDED_TERMS = {"forward", "backward", "match", "retention"}
KD_TERMS = {"text_text", "text_image", "text_caption"}
DALR_TERMS = {"text_text", "text_image", "matching", "cross_kl", "list_mle", "similarity_kl"}
TERMS = {
    "simcse": {"text_text"},
    "simcse supervised": {"text_text"},
    "rankcse": {"text_text", "consistency", "list_mle"},
    "rankcse, lists by a net, cached": {"text_text", "consistency", "list_net"},
    "kdmcse": {"text_text", "text_image", "text_caption"},
    "kdmcse, filtered and cached": KD_TERMS | {f"left_out.{name}" for name in ("text_image", "text_caption")},
    "kdmcse, text alone": {"text_text"},
    "dalr": DALR_TERMS,
    "dalr, cached": DALR_TERMS,
    "dalr, text alone": {"text_text"},
    "dalr, text alone and taught": {"text_text", "list_mle", "similarity_kl"},
    "simcse without dropout's negatives": {"text_text", "dimensions"},
    "simcse without dropout's negatives, cached": {"text_text", "dimensions"},
    "simcse with margins": {"text_text"},
    "simcse with a queue": {"text_text"},
    "simcse with teachers": {"text_text", "list_net"},
    "simcse with teachers, cached": {"text_text", "list_net"},
    "simcse with other teachers": {"text_text", "list_net"},
    "mcse with teachers": {"text_text", "list_net", "text_image"},
    "simcse with repetition": {"text_text"},
    "mcse with many terms": {"text_text", "dimensions", "consistency", "text_image"},
    "diffcse": {"text_text", "rtd", "rtd_replaced"},
    "diffcse, real tokens, SimCSE's head": {"text_text", "rtd", "rtd_replaced"},
    "tables": {"contrast"},
    "tables, both directions and widths": {"contrast"},
    "tables, cached": {"contrast"},
    "tables, mixed": {"contrast"},
    "tables, guided": {"contrast"},
    "tables, groups": {"contrast"},
    "tables by scores": {"cosent"},
    "tables by scores, cached": {"cosent"},
    "tables by angles": {"angle"},
    "tables by cosines": {"cosine"},
    "adapters": {"text_text"},
    "adapters, cached": {"contrast"},
    "adapters beside images": {"text_text", "text_image"},
    "layers frozen": {"text_text"},
    "encoder frozen": {"text_text", "text_image"},
    "encoder frozen, text alone": {"text_text"},
    "prompt": {"text_text"},
    "simcse with mlm": {"text_text", "mlm"},
    "simcse in chunks": {"text_text"},
    "simcse packed": {"text_text"},
    "simcse cached": {"text_text"},
    "mcse pairs": {"text_text", "text_image"},
    "mcse pairs cached": {"text_text", "text_image"},
    "mcse pairs with mlm": {"text_text", "text_image", "mlm"},
    "mcse, learned weights": {"text_text", "text_image", "matching", "pair_weight.right", "pair_weight.wrong"},
    "mcse, learned weights, cached": {"text_text", "text_image", "matching", "pair_weight.right", "pair_weight.wrong"},
    "mcse, learned weights, text alone": {"text_text"},
    "mcse, guided weights, cached": {"text_text", "text_image", "pair_weight.right", "pair_weight.wrong"},
    "kdmcse, guided weights": KD_TERMS | {"pair_weight.right", "pair_weight.wrong"},
    "mcse text alone": {"text_text"},
    "mcse text alone with mlm": {"text_text", "mlm"},
    "mlm": {"mlm"},
    "mlm, packed whole words": {"mlm"},
    "mlm from nothing": {"mlm"},
    "elmo": {"forward", "backward"},
    "elmo, carried and sampled": {"forward", "backward"},
    "cove": {"translation"},
    "grounded words": GROUNDED_TERMS,
    "grounded words, tied": GROUNDED_TERMS,
    "grounded words by images": {"image"},
    "word features": {"task", "mix"},
}
# Keys of maf; its tweets lack every seventh image.
TAGGERS = {
    "maf": {"tagger.dropout": 0.0, "loss.matching.num_swapped": 16},
    "maf tagging on swapped": {
        "tagger.dropout": 0.0,
        "loss.matching.num_swapped": 8,
        "loss.matching.tag_on_swapped": True,
    },
    "maf published": {
        "tagger.dropout": 0.0,
        "loss.matching.num_swapped": 16,
        "loss.matching.kind": "published",
        "loss.matching.tag_on_swapped": True,
    },
    "maf text alone": {
        "data.images": None,
        "tagger.dropout": 0.0,
        "fusion.heads": ...,
        "loss.matching.num_swapped": ...,
    },
}
TAGGER_TERMS = {
    "maf": {"tagging", "alignment", "matching"},
    "maf tagging on swapped": {"tagging", "alignment", "matching"},
    "maf published": {"tagging", "alignment", "matching"},
    "maf text alone": {"tagging"},
}
TERMS |= {case: {"text_text", "image_image"} for case in STEPS if case.startswith("unpaired")}
TERMS["unpaired without images"] = {"text_text"}
TERMS |= {case: {"image_to_text", "text_to_image"} for case in STEPS if case.startswith("vse")}
# Cases whose terms compare a row with nothing of another process.
ALONE = {
    "word features",
    "tables by cosines",
    "mlm",
    "mlm, packed whole words",
    "mlm from nothing",
    "elmo",
    "elmo, carried and sampled",
    "cove",
    "maf text alone",
    "grounded words by images",
} | {case for case in STEPS if case.startswith("grounded words")}
LONG = {
    "train.max_steps": 10,
    "train.eval_steps": 5,
    "train.log_steps": 2,
    "train.batch_size": 4,
}


def models_in(still, keys):
    """The keys that name the tiny encoder, with where it is."""
    bert, found = str(still / "bert"), {}
    if keys.get("encoder.name_or_path", ...) is not ...:
        found["encoder.name_or_path"] = bert
    if "loss.guide" in keys:
        found["loss.guide"] = keys["loss.guide"] | {"model": bert}
    if "teachers" in keys:
        found["teachers"] = [one | ({"encoder": bert} if "encoder" in one else {}) for one in keys["teachers"]]
    return found


def update(still, case):
    """One step of a recipe in float64, as the loop takes it: loss, gradients, and the parameters afterwards."""
    size = {"train.batch_size": WHOLE // distributed.world_size()}
    if case in TAGGERS:
        recipe, step = "maf", 0
        tweets = still.with_name(f"{still.name}_tweets")
        config = load_config(None, flags_of(tweet_overrides(tweets, still / "unused") | TAGGERS[case] | size))
    else:
        recipe, keys, step = STEPS[case]
        keys |= models_in(still, keys)
        if recipe == "unpaired":
            size |= {"image.batch_size": 24 // distributed.world_size()}
        config = load_config(None, arguments_of(still, recipe, still / "unused", keys | size))
    runtime = start_runtime(precision="fp32", seed=config.seed)
    built = method(recipe).build(config, runtime)
    built.model.double()
    model = runtime.accelerator.prepare_model(built.model)
    model.train()
    if built.state and step:
        with torch.no_grad():  # so that a state is carried into the step
            built.step(model, built.stream.batch(step - 1))
    batch = in_double(built.stream.batch(step))
    accelerator = runtime.accelerator
    forward = model
    if chunk_size := config.train.cached_chunk_size:
        forward = CachedForward(
            model,
            batch,
            chunk_size=chunk_size,
            device=runtime.device,
            autocast=accelerator.autocast,
            no_sync=lambda: accelerator.no_sync(model),
        )
    terms = built.step(forward, batch)
    loss = total_loss(terms, device=runtime.device)
    loss.backward()
    if chunk_size:
        forward.backward(syncs=True)
    gradients = {name: p.grad.numpy().copy() for name, p in built.model.named_parameters() if p.requires_grad}
    clip_gradients(built.model, config.optim.max_grad_norm)
    built.optimizer.step()
    return {
        "wrapped": isinstance(model, DistributedDataParallel),
        "loss": loss.item(),
        "terms": set(terms),
        "width": batch.query.input_ids_BT.shape[1] if isinstance(batch, SentenceBatch) else 0,
        "counts": {name: float(term.count) for name, term in terms.items()},
        "swaps": int((batch.partner_B != torch.arange(len(batch.partner_B))).sum()) if case in TAGGERS else 0,
        "images": batch.image_id_B.tolist() if isinstance(batch, PairBatch) else [],
        "gradients": gradients,
        "after": {name: p.detach().numpy().copy() for name, p in built.model.named_parameters()},
    }


def in_double(value):
    """Every float of a batch in float64; nested dataclasses are followed."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if dataclasses.is_dataclass(value):
        parts = {field.name: in_double(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return replace(value, **parts)
    return value


def updates(still):
    with one_thread(), own_cache(still), allowing_equal_views(), teachers_in_double():
        return {case: update(still, case) for case in (*STEPS, *TAGGERS)}


@contextmanager
def teachers_in_double():
    """Teachers' rows are of float64, too: in float32 they are others for another number of sentences."""
    plain = LiveTeacher.__init__

    def build(self, *given, **named):
        plain(self, *given, **named)
        for module in self._modules:
            module.double()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveTeacher, "__init__", build)
        yield


def patched(recipe, change, *arguments):
    """``train`` on a ``Run`` that ``change`` has changed."""
    plain = method(recipe).build
    method(recipe).build = lambda config, runtime: change(plain(config, runtime))
    try:
        return train(load_config(None, arguments_of(*arguments)), overwrite=False, show_progress=False)
    finally:
        method(recipe).build = plain


def watched_rows(tiny, output):
    """The rows that every process's first step makes of one and the same batch, and a digest of the weights."""
    seen = {}

    def change(built):
        probe = built.stream.sampler.share
        built.stream.sampler.share = replace(probe, rank=0)
        same = built.stream.batch(0)
        built.stream.sampler.share = probe

        def step(model, batch):
            if not seen:
                seen["weights"] = float(sum(p.double().abs().sum() for p in built.model.parameters()))
                with torch.no_grad():
                    seen["rows"] = model(same).query_BD.numpy()
            return built.step(model, batch)

        return replace(built, step=step)

    assert patched("simcse", change, tiny, "simcse", output, {"train.max_steps": 1, "train.batch_size": 4}) == 0
    return seen


def nan_on_one(tiny, output):
    """The message of every process when the loss becomes NaN on the second process alone."""

    def change(built):
        calls = iter(range(1, 100))

        def step(model, batch):
            terms = dict(built.step(model, batch))
            if next(calls) == 3 and distributed.rank() == 1:
                terms["text_text"] = replace(terms["text_text"], sum=terms["text_text"].sum * float("nan"))
            return terms

        return replace(built, step=step)

    try:
        patched("mcse", change, tiny, "mcse", output, LONG)
    except NotFiniteError as error:
        return str(error)
    return "finished"


def signal_to_one(tiny, output):
    """Exit codes of a run of which one process gets SIGTERM, and of the run that continues it."""
    keys = LONG | {"train.resume": "auto"}
    plain = Loop._step

    def signalled(self, *rest):
        if self.progress.step == 6 and distributed.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        plain(self, *rest)

    Loop._step = signalled
    stopped = train(load_config(None, arguments_of(tiny, "mcse", output, keys)), overwrite=False, show_progress=False)
    Loop._step = plain
    # The main process is still at work where another has left.
    distributed.barrier()
    states = sorted(path.name for path in (output / "state").iterdir())
    distributed.barrier()
    finished = train(load_config(None, arguments_of(tiny, "mcse", output, keys)), overwrite=False, show_progress=False)
    return stopped, states, finished


def everything(still, tiny, output):
    Journal.close = lambda self: None  # it would end the process group, and the next part needs it
    result = {"updates": updates(still)}
    with own_cache(tiny):
        result["rows"] = watched_rows(tiny, output / "rows")
        result["nan"] = nan_on_one(tiny, output / "nan")
        result["signal"] = signal_to_one(tiny, output / "stopped")
        keys = LONG | {"train.resume": "auto"}
        config = load_config(None, arguments_of(tiny, "mcse", output / "straight", keys))
        assert train(config, overwrite=False, show_progress=False) == 0
    return result


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    folder = tmp_path_factory.mktemp("still")
    build_tiny_tweets(folder.with_name(f"{folder.name}_tweets"), dropout=0.0)
    build_tiny_run(folder, dropout=0.0)
    store_rows(folder)
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(still, output, tmp_path_factory):
    """What each of two processes did; one start for all the tests, because a start is dear."""
    tiny = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    return run_processes(everything, 2, still, tiny, output)


@pytest.fixture(scope="module")
def one(still):
    return updates(still)


@pytest.mark.parametrize("case", [*STEPS, *TAGGERS])
def test_two_processes_make_the_update_of_one(case, one, two):
    whole, halves = one[case], [result["updates"][case] for result in two]
    assert not whole["wrapped"]
    assert all(half["wrapped"] for half in halves)
    assert all(half["terms"] == whole["terms"] == (TERMS | TAGGER_TERMS)[case] for half in halves)
    for name, count in whole["counts"].items():
        assert sum(half["counts"][name] for half in halves) == count
    assert np.mean([half["loss"] for half in halves]) == pytest.approx(whole["loss"], abs=1e-10)
    largest = max(np.abs(gradient).max() for gradient in whole["gradients"].values())
    assert largest > 1e-3
    for half in halves:
        for name, gradient in whole["gradients"].items():
            np.testing.assert_allclose(half["gradients"][name], gradient, rtol=0, atol=1e-10, err_msg=name)
        for name, value in whole["after"].items():
            np.testing.assert_allclose(half["after"][name], value, rtol=0, atol=1e-9, err_msg=name)


def test_the_cases_are_hard_enough(one, two):
    """Unequal token counts, an image on both processes, image heads without a gradient: mistakes show there alone."""
    halves = [result["updates"] for result in two]
    for case, term in (("simcse with mlm", "mlm"), ("elmo", "forward"), ("elmo", "backward")):
        assert halves[0][case]["counts"][term] != halves[1][case]["counts"][term]
    assert halves[0]["diffcse"]["width"] != halves[1]["diffcse"]["width"], "processes pad to several widths"
    assert one["elmo"]["loss"] != one["elmo, carried and sampled"]["loss"]
    tokens = [half["grounded words"]["counts"]["forward"] for half in halves]
    assert tokens[0] != tokens[1]
    assert set(halves[0]["mcse pairs"]["images"]) & set(halves[1]["mcse pairs"]["images"])
    heads = {name for name in one["mcse text alone"]["gradients"] if name.startswith(("image_head", "grounding_head"))}
    assert len(heads) == 4
    for name in heads:
        assert not one["mcse text alone"]["gradients"][name].any()
        assert one["mcse pairs"]["gradients"][name].any()
    for case in ("simcse in chunks", "simcse packed", "simcse cached"):
        assert one["simcse"]["loss"] == pytest.approx(one[case]["loss"], abs=1e-10), case
    assert one["mcse pairs"]["loss"] == pytest.approx(one["mcse pairs cached"]["loss"], abs=1e-10)
    counts = [half["maf"]["counts"] for half in halves]
    assert counts[0]["alignment"] != counts[1]["alignment"], "unequal numbers of images"
    assert all(half["maf tagging on swapped"]["swaps"] for half in halves)
    assert one["maf"]["loss"] != one["maf published"]["loss"]
    assert set(halves[0]["vse gru"]["images"]) & set(halves[1]["vse gru"]["images"])


def test_four_processes_make_the_update_of_one(one, still):
    for quarter in run_processes(updates, 4, still):
        for case, whole in one.items():
            for name, gradient in whole["gradients"].items():
                np.testing.assert_allclose(
                    quarter[case]["gradients"][name], gradient, rtol=0, atol=1e-10, err_msg=f"{case}: {name}"
                )


def mutated(still, mutant):
    """Updates under one of the two classic mistakes."""
    gather_rows = distributed.gather_rows

    def own_rows_only(x_BD):
        return x_BD, 0

    def without_gradient(x_BD):
        row_ND, offset = gather_rows(x_BD.detach())
        # A head that only makes keys is still in the graph, as DDP demands.
        return row_ND + 0 * x_BD.sum(), offset

    gather = {"negatives of the own process only": own_rows_only, "a gather without gradient": without_gradient}[mutant]
    for name, module in list(sys.modules.items()):
        if name.startswith("mcse.") and name != "mcse.distributed" and hasattr(module, "gather_rows"):
            module.gather_rows = gather
            if gather is own_rows_only and hasattr(module, "gather_ids"):
                module.gather_ids = lambda id_B: id_B
    return updates(still)


@pytest.mark.parametrize("mutant", ["negatives of the own process only", "a gather without gradient"])
def test_the_classic_mistakes_do_not_pass(mutant, one, still):
    """Of every case that contrasts: each mistake shows in the gradients that the tests above compare."""
    half = run_processes(mutated, 2, still, mutant)[0]
    for case in sorted(one.keys() - ALONE):
        whole = one[case]
        apart = max(
            np.abs(half[case]["gradients"][name] - gradient).max() for name, gradient in whole["gradients"].items()
        )
        assert apart > 1e-5, case


def test_processes_start_alike_and_draw_their_own_dropout(two):
    first, second = (result["rows"] for result in two)
    assert first["weights"] == second["weights"]
    assert first["rows"].shape == second["rows"].shape
    assert (first["rows"] != second["rows"]).any(axis=1).all()


def test_nan_on_one_process_stops_both_at_the_same_step(two):
    assert two[0]["nan"] == two[1]["nan"]
    assert "the loss is not finite at step 3;" in two[0]["nan"]


def test_a_signal_to_one_process_stops_both_and_they_resume_bit_for_bit(two, output):
    # Asked for in step 7, agreed on at the next multiple of log_steps.
    assert two[0]["signal"] == two[1]["signal"] == (143, ["step-00000005", "step-00000008"], 0)
    assert_same_run(output / "straight", output / "stopped")
    names = [name.partition(":")[2] for name in tensors(output / "straight" / "state")]
    ranks = {name.split(".")[1] for name in names if name.startswith("rng.")}
    assert {"0", "1"} <= ranks, "the random states of both processes are saved"


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes GPUs where there are some")
def test_accelerate_launch_on_two_processes_equals_one(still, tmp_path):
    """The command people type, but for dropout; its two processes train what one does with twice the batch."""
    # Adam divides a vanishing gradient by itself; a wider epsilon keeps rounding from growing into a step.
    keys = {"train.log_steps": 1, "optim.epsilon": 1e-4, "data.captions.per_image": "all", "loss.mlm_weight": 0.1}
    settings = REPOSITORY / "configs" / "accelerate" / "cpu_two_processes.yaml"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(settings)]
    command += ["--main_process_port", "0", "tests/fixtures/train_still.py"]
    command += arguments_of(still, "mcse", tmp_path / "two", keys | {"train.batch_size": 4})
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(still / "cache")}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("2 processes") == 1, "said once, by the main process"
    assert '"world_size": 2' in (tmp_path / "two" / "run.json").read_text()
    with allowing_equal_views():
        assert run(still, "mcse", tmp_path / "one", keys | {"train.batch_size": 8}) == 0
    for name in ("loss", "loss.text_text", "loss.text_image", "loss.mlm", "grad_norm"):
        assert losses(tmp_path / "two", name) == pytest.approx(losses(tmp_path / "one", name), rel=1e-5), name
    scores = [[e["dev.spearman"] for e in entries(tmp_path / name) if "dev.spearman" in e] for name in ("two", "one")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    ours, theirs = tensors(tmp_path / "two" / "last"), tensors(tmp_path / "one" / "last")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6, msg=name)
