"""``mcse elmo perplexity``: an ELMo run beside the n-gram models of its own training text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mcse.config import build_config
from mcse.data.config import LanguageDataConfig
from mcse.data.language import dev_sentences, training_sentences
from mcse.encoders.elmo_scorer import ElmoScorer
from mcse.manifest import MANIFEST, Located, locate
from mcse.metrics.perplexity import TrigramModel, UnigramModel, perplexity
from mcse.progress import phase
from mcse.run_folder import read_config
from mcse.text.vocab import BEGIN, END, Vocab


def run(run_folder: Path, *, data: Path | None = None, seed: int = 0) -> int:
    """Prints a table; exit code 0."""
    located = locate(run_folder).expect("elmo")
    scorer = ElmoScorer.from_pretrained(located)
    config = _data_config(located, root=data)
    dev = dev_sentences(config)
    generator = np.random.default_rng(seed)
    shuffled = [[words[number] for number in generator.permutation(len(words))] for words in dev]
    print(f"{'':28s}{'forward':>10s}{'backward':>10s}")
    for name, sentences in (("ELMo", dev), ("ELMo, shuffled words", shuffled)):
        with phase(name):
            values = [perplexity(np.concatenate(scorer.nll(sentences, backward=way))) for way in (False, True)]
        _row(name, values)
    training = list(training_sentences(config))
    for name, kind in (("unigram, one added", UnigramModel), ("trigram, Kneser-Ney", TrigramModel)):
        values = []
        for way in (False, True):
            with phase(name):
                model = kind(_ids(training, scorer.vocab, backward=way), size=len(scorer.vocab))
                values.append(perplexity(np.concatenate(model.nll(_ids(dev, scorer.vocab, backward=way)))))
        _row(name, values)
    events = _ids(dev, scorer.vocab, backward=False)
    unknown = np.mean(np.concatenate([np.asarray(row) for row in events]) == 1)
    print(f"{sum(map(len, events)):,} words and ends of {len(dev):,} sentences, {100 * unknown:.1f}% unknown")
    return 0


def _row(name: str, values: Sequence[float]) -> None:
    print(f"{name:28s}" + "".join(f"{value:10.1f}" for value in values))


def _data_config(located: Located, *, root: Path | None) -> LanguageDataConfig:
    path = located.folder / MANIFEST
    # A checkpoint does not say in which folder its run's data lay, as the run does.
    run = None if located.run is None else read_config(located.run)
    whole = run or (None if located.manifest is None else located.manifest.config)
    if whole is None or "data" not in whole:
        raise ValueError(f"{path}: does not say what the model was trained on")
    config = build_config(LanguageDataConfig, whole["data"], source=str(path if run is None else located.run))
    return config if root is None else replace(config, root=root)


def _ids(sentences: Sequence[Sequence[str]], vocab: Vocab, *, backward: bool) -> list[list[int]]:
    """What a direction predicts: a sentence's words in its order, then the mark at its other end."""
    closing = vocab.index[BEGIN if backward else END]
    return [[*vocab.ids(words[::-1] if backward else words).tolist(), closing] for words in sentences]
