"""Hidden words of held-out sentences: an ``mlm`` run beside trigram models of the same pieces and the same text.

    python -m benchmarks.mlm_trigram runs/mlm_wiki_mini

All models predict the same pieces, those that the run's own evaluation hides, of every second held-out sentence;
weights are fitted on the others. The trigram models see all true neighbours, also those that are hidden from the run;
its last row hides one piece at a time, so that both see the same.

M hidden pieces, N pieces of the training text, V pieces of the vocabulary.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from mcse.config import build_config
from mcse.manifest import locate
from mcse.metrics.perplexity import perplexity
from mcse.models.masked_model import MaskedLanguageModel
from mcse.models.text_loading import load_masked_lm, load_tokenizer, text_encoder_around
from mcse.recipes import config_class
from mcse.recipes.mlm.model import evaluated_nll
from mcse.recipes.mlm.text import dev_masker, read_text
from mcse.run_folder import read_config
from mcse.types import IGNORED_LABEL, MaskedTokens, TokenBatch
from mcse.types.batches import pad_rows

BATCH = 64


class KneserNey:
    """P(w | a b), interpolated as in ``mcse.metrics.perplexity.TrigramModel``: b is the nearer neighbour.

    Numbers of pieces are below ``base``; ``size`` of them can be predicted.
    """

    def __init__(self, a_N, b_N, w_N, *, base, size):
        self.base, self.size = base, size
        trigram, count = np.unique((a_N * base + b_N) * base + w_N, return_counts=True)
        bigram, after = np.unique(trigram % base**2, return_counts=True)
        unigram, kinds = np.unique(bigram % base, return_counts=True)
        self.orders = [Order(*found, base) for found in ((unigram, kinds), (bigram, after), (trigram, count))]

    def __call__(self, a_M, b_M, w_M):
        found = 1 / self.size
        for order, gram in zip(
            self.orders, (w_M, b_M * self.base + w_M, (a_M * self.base + b_M) * self.base + w_M), strict=True
        ):
            found = order.interpolate(gram, found)
        return found


class Order:
    """N-grams of one order, their counts, and by history the sum and the number of different pieces."""

    def __init__(self, gram, count, base):
        self.gram, self.count, self.base = gram, count, base
        self.history, first = np.unique(gram // base, return_index=True)
        self.sum, self.kinds = np.add.reduceat(count, first), np.diff([*first, len(gram)])
        once, twice = (count == 1).sum(), (count == 2).sum()
        self.discount = once / (once + 2 * twice) if once and twice else 0.5

    def interpolate(self, gram_M, below):
        count = _looked_up(self.gram, self.count, gram_M)
        total, kinds = (_looked_up(self.history, values, gram_M // self.base) for values in (self.sum, self.kinds))
        kept = np.maximum(count - self.discount, 0) + self.discount * kinds * below
        return np.where(total > 0, kept / np.maximum(total, 1), below)


def _looked_up(keys, values, wanted):
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def fit_weights(p_KM, rounds=100):
    """Weights of a mixture of K models that give M pieces the highest likelihood, by expectation maximisation."""
    weight_K = np.full(len(p_KM), 1 / len(p_KM))
    for _ in range(rounds):
        share_KM = weight_K[:, None] * p_KM
        weight_K = (share_KM / share_KM.sum(0)).mean(1)
    return weight_K


def neighbours(rows, *, edge):
    """(5, N) of all sentences: each piece between its two left and two right neighbours; ``edge`` is beyond an end."""
    padded = [np.concatenate([[edge, edge], row, [edge, edge]]) for row in rows]
    return np.concatenate([np.stack([row[k : len(row) - 4 + k] for k in range(5)]) for row in padded], axis=1)


def posterior(model, u_M, v_M, w_M, x_M, y_M, ordinary_V):
    """P(w | u v _ x y) that a forward trigram model itself implies: its likelihood of the five, over all pieces w."""
    found = []
    for u, v, w, x, y in zip(u_M, v_M, w_M, x_M, y_M, strict=True):
        joint_V = model(u, v, ordinary_V) * model(v, ordinary_V, x) * model(ordinary_V, x, y)
        found.append(joint_V[ordinary_V == w][0] / joint_V.sum())
    return np.asarray(found)


def trigram_probabilities(training, asked_5M, *, special, vocabulary, base):
    """P of the hidden pieces by name: of models of one side, and of several that a mixture takes."""
    u_N, v_N, w_N, x_N, y_N = seen = neighbours(training, edge=base - 1)
    u, v, w, x, y = asked_5M
    ordinary = ~np.isin(w_N, special)
    sizes = {"base": base, "size": vocabulary - len(special)}
    u_N, v_N, w_N, x_N, y_N = seen[:, ordinary]
    count_V = np.bincount(w_N, minlength=base) + 1.0
    count_V[[*special, *range(vocabulary, base)]] = 0
    ordinary_V = np.flatnonzero(count_V)
    # Ends of sentences are predicted, too, where the sentence is to be likely as a whole.
    whole = KneserNey(*seen[:3], base=base, size=vocabulary)
    return {
        "unigram": (count_V / count_V.sum())[w],
        "two to the left": KneserNey(u_N, v_N, w_N, **sizes)(u, v, w),
        "two to the right": KneserNey(y_N, x_N, w_N, **sizes)(y, x, w),
        "one each, the left one nearer": KneserNey(x_N, v_N, w_N, **sizes)(x, v, w),
        "one each, the right one nearer": KneserNey(v_N, x_N, w_N, **sizes)(v, x, w),
        "two each, by Bayes": posterior(whole, u, v, w, x, y, ordinary_V),
    }


def own_nll(model, rows, labels, *, mask_id, pad_id, alone):
    """(M,) nats of the hidden pieces, hidden together in their sentence, or each alone."""
    if alone:
        places = [(ids, int(place)) for ids, label in zip(rows, labels, strict=True) for place in hidden(label)]
        rows = [ids for ids, _ in places]
        labels = [np.where(np.arange(len(ids)) == place, ids, IGNORED_LABEL) for ids, place in places]
    found = []
    for start in range(0, len(rows), BATCH):
        own = slice(start, start + BATCH)
        masked = [np.where(lab == IGNORED_LABEL, ids, mask_id) for ids, lab in zip(rows[own], labels[own], strict=True)]
        tokens = TokenBatch.padded(masked, pad_id=pad_id)
        found.append(evaluated_nll(model, MaskedTokens(tokens, pad_rows(labels[own], fill=IGNORED_LABEL))))
    return np.concatenate(found)


def hidden(label_T):
    return np.flatnonzero(label_T != IGNORED_LABEL)


def compare(run, *, data=None, sentences=None):
    """Perplexities by name, and how many pieces they are of."""
    located = locate(run)
    config = build_config(config_class("mlm"), read_config(located.run), source=str(run))
    config = config if data is None else replace(config, data=replace(config.data, root=data))
    text, tokenizer = read_text(config.data), load_tokenizer(str(located.folder))
    whole = load_masked_lm(str(located.folder))
    model = MaskedLanguageModel(whole, text_encoder_around(whole.base_model, str(run), pooling="mean"))
    length, masker = config.data.max_length, dev_masker(tokenizer, config.loss)
    rows = [np.asarray(ids) for ids in tokenizer.ids(text.dev[:sentences], max_length=length)]
    labels = [masker.mask(ids, step=0, row=number)[1] for number, ids in enumerate(rows)]
    base = len(tokenizer) + 1
    table = text.training.tokenised(tokenizer, max_length=length).table
    training = table.ids(np.arange(len(table)))
    chosen = np.concatenate([label != IGNORED_LABEL for label in labels])
    number_M = np.repeat(np.arange(len(rows)), [len(hidden(label)) for label in labels])
    fits_M, judged_M = number_M % 2 == 0, number_M % 2 == 1
    special = sorted(tokenizer.inner.all_special_ids)
    asked = neighbours(rows, edge=base - 1)[:, chosen]
    found = trigram_probabilities(training, asked, special=special, vocabulary=len(tokenizer), base=base)
    p_KM = np.stack(list(found.values()))
    found["both sides, mixed"] = fit_weights(p_KM[:, fits_M]) @ p_KM
    shown = {"uniform": float(len(tokenizer) - len(special))}
    shown |= {name: perplexity(-np.log(p_M[judged_M])) for name, p_M in found.items()}
    for name, alone in (("the run", False), ("the run, one piece hidden at a time", True)):
        nll_M = own_nll(
            model, rows, labels, mask_id=tokenizer.inner.mask_token_id, pad_id=tokenizer.pad_id, alone=alone
        )
        shown[name] = perplexity(nll_M[judged_M])
    return shown, int(judged_M.sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder of the recipe mlm")
    parser.add_argument("--data", type=Path, help="where its data lie now")
    parser.add_argument("--sentences", type=int, help="held-out sentences to look at; all by default")
    given = parser.parse_args()
    shown, count = compare(given.run, data=given.data, sentences=given.sentences)
    print(f"perplexity of {count:,} hidden pieces")
    for name, value in shown.items():
        print(f"  {name:<40}{value:>10.1f}")


if __name__ == "__main__":
    main()
