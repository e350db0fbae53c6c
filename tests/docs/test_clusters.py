"""The examples of docs/deploying.md for Ray and Spark, where these libraries are installed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas
import pytest

from mcse import SentenceEncoder
from tests.fixtures.launch import flags_of, one_thread
from tests.fixtures.tiny_run import build_tiny_run, tiny_keys

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "deploying.md").read_text(encoding="utf-8")
RUN = "runs/mcse_minilm_wiki_flickr8k"
TEXTS = ["the red dog runs", "a blue dog", "the red dog runs"]


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("library", ["ray", "pyspark"])
def test_the_same_rows_by_a_cluster(library, tmp_path, monkeypatch):
    module = pytest.importorskip(library)
    if library == "ray":
        module.init(num_cpus=2)  # whatever the machine has: one to work and one to read
    from mcse.commands.main import main

    keys = tiny_keys(build_tiny_run(tmp_path / "data"), "mcse", tmp_path) | {
        "train.max_steps": 2,
        "train.eval_steps": 2,
    }
    monkeypatch.chdir(tmp_path)
    with one_thread():
        assert main(["train", *flags_of(keys | {"output_dir": tmp_path / RUN})]) == 0
    pandas.DataFrame({"id": range(3), "text": TEXTS}).to_csv("texts.csv", index=False)
    [mapper] = re.findall(
        r"^(from mcse import SentenceEncoder\n\n+class Embed.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
    )
    names: dict[str, object] = {}
    exec(mapper, names)
    exec(block(f"py {library}"), names)
    written = pandas.read_parquet(f"texts.{'ray' if library == 'ray' else 'spark'}")
    found = {str(row["id"]): row["embedding"] for _, row in written.iterrows()}
    expected = SentenceEncoder.from_pretrained(RUN).encode(TEXTS)
    np.testing.assert_allclose([found[str(number)] for number in range(3)], expected, atol=1e-6)


def test_the_mapper_of_the_page_gives_the_rows_of_encode(monkeypatch):
    """Without either library: the class that both use, on a stand-in for a trained run."""
    rows = {text: np.full(4, number, dtype=np.float32) for number, text in enumerate(TEXTS)}

    class Stub:
        def encode(self, texts):
            return np.stack([rows[text] for text in texts])

    monkeypatch.setattr(SentenceEncoder, "from_pretrained", classmethod(lambda cls, name: Stub()))
    [mapper] = re.findall(
        r"^(from mcse import SentenceEncoder\n\n+class Embed.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
    )
    names: dict[str, object] = {}
    exec(mapper, names)
    batch = {"id": np.arange(3), "text": np.array(TEXTS, dtype=object)}
    found = names["Embed"]()(batch)
    assert list(found) == ["id", "text", "embedding"]
    np.testing.assert_array_equal(found["embedding"], [rows[text] for text in TEXTS])
    for library in ("ray", "pyspark"):
        compile(block(f"py {library}"), "docs/deploying.md", "exec")
