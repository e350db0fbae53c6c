"""Kinds of encoders, trained, killed, resumed and exported: other libraries load them and give equal rows.

transformers' rows are pooled here by their definitions. ``MCSE_WRITE_DOCS=1 pytest tests/processes/test_exports.py``
writes the differences that it measures into docs/encoders.md.
"""

from __future__ import annotations

import os
import re
import signal
import time

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
pytest.importorskip("peft", reason="peft is not installed")

from sentence_transformers import SentenceTransformer

from mcse import SentenceEncoder
from tests.fixtures.launch import Pauses, arguments_of, assert_same_run, fork, run
from tests.fixtures.processes import REPOSITORY
from tests.fixtures.tiny_models import INIT_STD, MAX_TOKENS, TEXTS, build_tiny_roberta
from tests.fixtures.tiny_run import build_tiny_run

SENTENCES = [*TEXTS, "a", "", "Two dogs run. " * 30]
PAGE = REPOSITORY / "docs" / "encoders.md"
MARKS = ("<!-- written by tests/processes/test_exports.py -->\n", "<!-- end of exports -->")
DECODER = {"encoder.name_or_path": "llama", "encoder.pooling": "last", "encoder.dropout": 0.1}
ADAPTERS = {"encoder.lora": {"rank": 4, "dropout": 0.1}}
PROMPT = {"encoder.prompt": "Find what this means:\n", "encoder.pooling": "mean"}
CASES = {
    "decoder-only (Llama), last token": ("simcse", DECODER),
    "LoRA, recipe mcse": ("mcse", ADAPTERS),
    "LoRA on a decoder, with a prompt": ("tables", DECODER | ADAPTERS | PROMPT | {"encoder.pooling": "last"}),
    "Matryoshka, cut to 8 of 32": ("tables", {"loss.dims": [16, 8], "encoder.pooling": "mean"}),
    "a prompt, mean": ("mcse", PROMPT),
    "layers frozen": ("simcse", {"encoder.frozen": ["embeddings", "layer.0"], "encoder.pooling": "max"}),
    "CLIP's text encoder of transformers": ("tables", {"encoder.name_or_path": "clip", "encoder.pooling": "last"}),
}
SHOWN = {"train.eval_steps": 2, "train.log_steps": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    tokenizer = AutoTokenizer.from_pretrained(build_tiny_roberta(folder / "roberta"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS}
    sizes |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    torch.manual_seed(0)
    models = {
        "llama": LlamaModel(LlamaConfig(initializer_range=INIT_STD, **sizes)),
        "clip": CLIPTextModel(CLIPTextConfig(**sizes)),
    }
    for name, model in models.items():
        model.eval().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def keys_of(tiny, keys):
    name = {"encoder.name_or_path": tiny / keys.get("encoder.name_or_path", "bert")}
    return SHOWN | keys | name


def killed_and_resumed(tiny, recipe, output, keys):
    """Killed after its first saved state, and gone on with."""
    process = fork(
        tiny, arguments_of(tiny, recipe, output, keys), log=output.with_suffix(".log"), pauses=Pauses(step=0.3)
    )
    end = time.monotonic() + 120
    while not (output / "state" / "step-00000002").is_dir() and process.is_alive():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (output / "last").exists()
    assert run(tiny, recipe, output, keys | {"train.resume": "auto"}) == 0


def rows_of_transformers(folder, keys):
    """Each sentence alone, its tokens pooled by the definition."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    pooling, rows = keys.get("encoder.pooling", "cls"), []
    for sentence in SENTENCES:
        text = keys.get("encoder.prompt", "") + sentence
        ids = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = model(input_ids=ids).last_hidden_state[0].double().numpy()
        row = {
            "cls": lambda token: token[0],
            "mean": lambda token: sum(token) / len(token),
            "max": lambda token: token.max(axis=0),
            "last": lambda token: token[-1],
        }[pooling](hidden)
        rows.append(row / np.sqrt((row**2).sum()))
    return np.array(rows)


@pytest.mark.parametrize("case", CASES)
def test_rows_are_equal_in_three_libraries_after_a_kill(case, tiny, tmp_path):
    recipe, keys = CASES[case]
    keys = keys_of(tiny, keys)
    assert run(tiny, recipe, tmp_path / "straight", keys) == 0
    killed_and_resumed(tiny, recipe, tmp_path / "killed", keys)
    assert_same_run(tmp_path / "straight", tmp_path / "killed")
    found = {"transformers": 0.0, "sentence-transformers": 0.0}
    for name in ("best", "last"):
        folder = tmp_path / "killed" / name
        rows = SentenceEncoder.from_pretrained(folder, device="cpu").encode(SENTENCES, batch_size=5)
        library = SentenceTransformer(str(folder), device="cpu").encode(SENTENCES, batch_size=4)
        plain = rows_of_transformers(folder, keys)
        if "loss.dims" in keys:
            # As an index cuts them: the first 8, then unit norm.
            rows, plain = (each[:, :8] / np.linalg.norm(each[:, :8], axis=1, keepdims=True) for each in (rows, plain))
            cut = SentenceTransformer(str(folder), device="cpu", truncate_dim=8).encode(SENTENCES)
            library = cut / np.linalg.norm(cut, axis=1, keepdims=True)
        for other, theirs in (("transformers", plain), ("sentence-transformers", library)):
            np.testing.assert_allclose(rows, theirs, atol=1e-5, err_msg=f"{name}, {other}")
            found[other] = max(found[other], float(abs(rows - theirs).max()))
    assert np.ptp(rows, axis=0).max() > 0.05, "sentences are told apart"
    start = {"pooling": keys.get("encoder.pooling", "cls"), "device": "cpu"}
    before = SentenceEncoder.from_pretrained(str(keys["encoder.name_or_path"]), **start).encode(SENTENCES)
    assert abs(before[:, : rows.shape[1]] - rows).max() > 1e-3, "it was trained"
    write_difference(case, found)


def test_the_page_lists_these_runs():
    assert list(read_table()) == list(CASES)


def read_table():
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    lines = rest.partition(MARKS[1])[0].splitlines()[2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def write_difference(case, found):
    if os.environ.get("MCSE_WRITE_DOCS") != "1":
        return
    text = PAGE.read_text(encoding="utf-8")
    numbers = " | ".join(
        np.format_float_scientific(value, precision=0, trim="-", exp_digits=1) for value in found.values()
    )
    lines = read_table() | {case: f"| {case} | `{CASES[case][0]}` | {numbers} |"}
    table = ["| run | recipe | transformers | sentence-transformers |", "|---|---|---|---|"]
    table += [lines[name] for name in CASES if name in lines]
    pattern = re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1])
    text = re.sub(pattern, lambda _: MARKS[0] + "\n".join(table) + "\n" + MARKS[1], text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
