"""Steps of every recipe on fake CUDA tensors, in every way and precision: the table that docs/launching.md shows.

A cell holds where a step runs: devices and shapes agree, matrix products are in the precision asked for, and the host
waits for nothing. Another cell holds why there is nothing to run, in the words of the refusal where there is one.
``MCSE_WRITE_DOCS=1 pytest tests/cuda/test_recipes.py`` writes the document anew.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mcse.models.graphs import Graphs
from mcse.recipes.launch import build, load_config
from mcse.training.runtime import start_runtime
from tests.cuda.fake import LOW, run_steps
from tests.fixtures.launch import arguments_of, flags_of, one_thread, own_cache
from tests.fixtures.tiny_run import build_tiny_run
from tests.fixtures.tiny_tweets import build_tiny_tweets, tweet_overrides

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "launching.md"
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"encoder.packing": True},
    "static widths": {"train.graphs": "compile"},
    "CUDA graphs": {"train.graphs": "cuda_graphs"},
    "CUDA graphs, packed": {"train.graphs": "cuda_graphs", "encoder.packing": True},
    "cached chunks": {"train.cached_chunk_size": 5},
}
NO_KEY = "its encoder has no `encoder.packing`"
NO_TRANSFORMER = "it trains no Hugging Face encoder"
NO_CHUNKS = "its sentences and images differ in number"
BY_ITSELF = "recurrent layers take no padding in any case"


@dataclass(frozen=True)
class Case:
    """A kind of run: keys beside the tiny ones, and for each way that does not exist why."""

    recipe: str
    keys: dict[str, Any]
    without: dict[str, tuple[str, str]]
    """A reason for the document, and what the refusal says."""
    uncounted: int = 0
    """First steps, with which what no module holds moves to the GPU."""


_RECURRENT = {
    "packed": (BY_ITSELF, "packing"),
    "static widths": (NO_TRANSFORMER, "trains no Hugging Face encoder"),
    "CUDA graphs": (NO_TRANSFORMER, "trains no Hugging Face encoder"),
}
_SUMS = _RECURRENT | {"cached chunks": ("its loss contrasts no examples", "contrasts no examples")}
_PAIRS = {"data.captions.per_image": "all", "mix.schedule": "every"}
CASES = {
    "simcse": Case("simcse", {}, {}),
    "simcse, supervised": Case("simcse", {"data.sentences": "nli.csv", "loss.hard_negative_weight": 0.5}, {}),
    "simcse, masked words": Case("simcse", {"loss.mlm_weight": 0.1}, {}),
    "simcse, terms": Case(
        "simcse",
        {
            "loss.off_dropout": {},
            "loss.dimension_contrast": {},
            "loss.consistency": {},
            "loss.margin": {"negative": 0.2},
        },
        {},
    ),
    "simcse, queue": Case("simcse", {"loss.queue": {"size": 20}}, {}, uncounted=1),
    "diffcse": Case(
        "diffcse",
        {},
        {"cached chunks": ("its head needs a whole batch in one forward pass", "whole batch in one forward pass")},
    ),
    "mcse": Case("mcse", _PAIRS, {}),
    "mcse, masked words": Case("mcse", _PAIRS | {"loss.mlm_weight": 0.1}, {}),
    "rankcse": Case("rankcse", {}, {}, uncounted=1),
    "kdmcse": Case(
        "kdmcse",
        _PAIRS,
        {
            "cached chunks": (
                "its live teacher gives rows to whole batches",
                "a live teacher gives them to whole batches",
            )
        },
        uncounted=1,
    ),
    "dalr": Case("dalr", _PAIRS, {}, uncounted=1),
    "mlm": Case(
        "mlm",
        {},
        {
            "CUDA graphs": ("only pooled rows are captured", "only pooled rows are captured"),
            "CUDA graphs, packed": ("only pooled rows are captured", "only pooled rows are captured"),
            "cached chunks": ("its loss contrasts no examples", "contrasts no examples"),
        },
    ),
    "tables": Case("tables", {}, {}),
    "unpaired": Case("unpaired", {}, {"cached chunks": (NO_CHUNKS, "no one chunk size cuts")}),
    "unpaired, as published": Case(
        "unpaired", {"loss.contrast": "as_published"}, {"cached chunks": (NO_CHUNKS, "no one chunk size cuts")}
    ),
    "vse, transformer": Case(
        "vse", {"encoder.kind": "transformer", "encoder.word_dim": ...}, {"packed": (NO_KEY, "packing")}
    ),
    "vse, GRU": Case("vse", {}, _RECURRENT),
    "vse, bag of words": Case(
        "vse", {"encoder.kind": "bow"}, _RECURRENT | {"packed": ("sums of words have no padding", "packing")}
    ),
    "maf": Case(
        "maf",
        {},
        {
            "packed": (NO_KEY, "packing"),
            "CUDA graphs": ("only pooled rows are captured", "only pooled rows are captured"),
            "cached chunks": ("its swaps need a whole batch in one forward pass", "whole batch in one forward pass"),
        },
    ),
    "grounded_words": Case("grounded_words", {}, _SUMS | {"packed": (BY_ITSELF, "unknown key")}),
    "elmo": Case("elmo", {}, _SUMS),
    "cove": Case("cove", {}, _RECURRENT),
    "word_features": Case("word_features", {}, _SUMS),
}
for _case in CASES.values():
    if "packed" in _case.without:
        _case.without["CUDA graphs, packed"] = _case.without["packed"]


def _marks(case, way, precision):
    """Every cell in bf16; in the other precisions every case in the plain way and every way of one case, else whole."""
    if precision != "bf16" and way != "plain" and case != "simcse, masked words":
        return [pytest.mark.slow, pytest.mark.whole]
    return [] if precision == "bf16" and way == "plain" else [pytest.mark.slow]


CELLS = [
    pytest.param(case, way, precision, marks=_marks(case, way, precision))
    for case in CASES
    for way in WAYS
    for precision in LOW
    if way not in CASES[case].without
]
REFUSED = [(case, way) for case in CASES for way in CASES[case].without]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny")), build_tiny_tweets(tmp_path_factory.mktemp("tweets") / "x")


def config_of(folders, case, way, precision):
    tiny, tweets = folders
    keys = CASES[case].keys | WAYS[way] | {"train.precision": precision}
    if case == "vse, transformer":
        keys |= {"encoder.name_or_path": tiny / "bert"}
    if case == "maf":
        return load_config(None, flags_of(tweet_overrides(tweets, tweets / "unused") | keys))
    return load_config(None, arguments_of(tiny, CASES[case].recipe, tiny / "unused", keys))


@pytest.fixture
def uncompiled(monkeypatch):
    """Static shapes as compiled passes see them; what is captured runs as it is, and its inputs' shapes are noted."""
    shapes = set()

    def run(_, function, inputs, *, key):
        assert all(tensor.device.type == "cuda" and not tensor.is_floating_point() for tensor in inputs)
        shapes.add((key, *(tensor.shape for tensor in inputs)))
        return function(*inputs)

    def compiled(function, *, dynamic):
        assert not dynamic

        def noted(**given):
            shapes.add(tuple(given["input_ids"].shape))
            return function(**given)

        return noted

    monkeypatch.setattr(Graphs, "run", run)
    monkeypatch.setattr(torch, "compile", compiled)
    return shapes


def take_steps(folders, case, way, precision, monkeypatch, *, steps):
    with one_thread(), own_cache(folders[0]):
        config = config_of(folders, case, way, precision)
        runtime = start_runtime(precision="fp32", seed=0, show_progress=False)
        run = build(config, runtime)
        return run_steps(
            run,
            config,
            runtime,
            monkeypatch=monkeypatch,
            folder=folders[0] / "unused",
            steps=steps,
            uncounted=CASES[case].uncounted,
        )


@pytest.mark.parametrize(("case", "way", "precision"), CELLS)
def test_a_step_waits_for_nothing(case, way, precision, folders, uncompiled, monkeypatch):
    # Batches of recipes with images are of text and of pairs in turn.
    seen = take_steps(
        folders, case, way, precision, monkeypatch, steps=2 if case.startswith(("mcse", "kdmcse", "dalr")) else 1
    )
    assert not seen.waits
    low = LOW[precision] or torch.float32
    assert seen.terms
    assert low in seen.dtypes
    assert seen.dtypes <= {low, torch.float32}
    assert {dtype for _, dtype in seen.kernels} <= {low}
    assert bool(uncompiled) == ("train.graphs" in WAYS[way])
    if way == "static widths":
        assert all(width % 8 == 0 for _, width in uncompiled)


@pytest.mark.parametrize(("case", "way"), REFUSED)
def test_a_way_that_is_not_there_is_refused(case, way, folders, monkeypatch):
    with pytest.raises(ValueError, match=CASES[case].without[way][1]):
        take_steps(folders, case, way, "bf16", monkeypatch, steps=1)


def shown() -> str:
    """The table as Markdown."""
    reasons: list[str] = []
    lines = [f"| recipe | {' | '.join(WAYS)} |", "|" + "---|" * (len(WAYS) + 1)]
    for name, case in CASES.items():
        cells = []
        for way in WAYS:
            if way not in case.without:
                cells.append("0")
                continue
            reason = case.without[way][0]
            reasons += [] if reason in reasons else [reason]
            cells.append(f"– ({reasons.index(reason) + 1})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    notes = "; ".join(f"({number}) {reason}" for number, reason in enumerate(reasons, start=1))
    return "\n".join([*lines, "", f"Nothing to run: {notes}."])


def test_the_document_shows_the_table():
    start, end = "<!-- waits: written by tests/cuda/test_recipes.py -->\n", "<!-- end of waits -->"
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(start)
    found, _, after = rest.partition(end)
    assert after, f"{DOCUMENT} lacks the marks"
    if os.environ.get("MCSE_WRITE_DOCS") == "1":
        DOCUMENT.write_text(before + start + shown() + "\n" + end + after, encoding="utf-8")
        return
    assert found == shown() + "\n", "run MCSE_WRITE_DOCS=1 pytest tests/cuda/test_recipes.py"
