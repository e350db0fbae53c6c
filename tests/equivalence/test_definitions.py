"""Every recipe's own step is its published loss: the rows that its model gives, and sums over them in plain loops.

And what the dev set of the sentence recipes encodes: the whole of every sentence, without heads and dropout.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from transformers import AutoModel, AutoTokenizer

from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import arguments_of, flags_of, one_thread, own_cache
from tests.fixtures.tiny_run import build_tiny_run
from tests.fixtures.tiny_tweets import build_tiny_tweets, tweet_overrides

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


def build(tiny, recipe, keys):
    with one_thread(), own_cache(tiny):
        config = load_config(None, arguments_of(tiny, recipe, tiny / "unused", keys))
        return method(recipe).build(config, start_runtime(precision="fp32", seed=config.seed))


def step_and_rows(built, batch, *inputs):
    """What the step says, and the rows that it says it of, under the same dropout."""
    built.model.train()
    torch.manual_seed(3)
    loss = total_loss(built.step(built.model, batch), device=CPU).item()
    torch.manual_seed(3)
    with torch.no_grad():
        return loss, built.model(batch, *inputs)


def cosine(left, right):
    left, right = left.detach().double(), right.detach().double()
    return float(left @ right / math.sqrt(float(left @ left) * float(right @ right)))


def contrast(query, keys, *, temperature, own, left_out=frozenset(), added=()):
    """-log of the softmax of the query's own key among all that are not left out."""
    score = [cosine(query, key) / temperature for key in keys]
    for place, more in added:
        score[place] += more
    return math.log(sum(math.exp(s) for k, s in enumerate(score) if k == own or k not in left_out)) - score[own]


def nll(logits, label):
    logits = logits.double().tolist()
    largest = max(logits)
    return math.log(sum(math.exp(x - largest) for x in logits)) + largest - logits[int(label)]


def mean(values):
    return sum(values) / len(values)


def test_simcse(tiny):
    """Gao et al. 2021, eq. 1, and the masked words' mean beside it."""
    built = build(tiny, "simcse", {"loss.mlm_weight": 0.1, "loss.temperature": 0.07})
    loss, rows = step_and_rows(built, built.stream.batch(0))
    assert not torch.equal(rows.query_BD, rows.positive_BD), "two draws of dropout"
    text = mean([contrast(query, rows.positive_BD, temperature=0.07, own=i) for i, query in enumerate(rows.query_BD)])
    masked = [
        nll(logits, label) for logits, label in zip(rows.mlm_logit_MW, rows.mlm_label_M, strict=True) if label >= 0
    ]
    assert masked
    assert loss == pytest.approx(text + 0.1 * mean(masked), rel=1e-4)


def test_simcse_supervised(tiny):
    """Gao et al. 2021, eq. 5, with the weight of a query's own contradiction."""
    built = build(tiny, "simcse", {"data.sentences": "nli.csv", "loss.hard_negative_weight": 0.7})
    loss, rows = step_and_rows(built, built.stream.batch(0))
    keys = [*rows.positive_BD, *rows.negative_BD]
    losses = [
        contrast(query, keys, temperature=0.05, own=i, added=[(8 + i, 0.7)]) for i, query in enumerate(rows.query_BD)
    ]
    assert loss == pytest.approx(mean(losses), rel=1e-4)


@pytest.mark.parametrize(("reduction", "views"), [("mean", 0.5), ("sum", 1.0)])
def test_mcse(tiny, reduction, views):
    """Zhang et al. 2022, eq. 4, of both views. Other captions of a query's image are left out of its negatives."""
    keys = {"loss.image_weight": 0.3, "loss.image_temperature": 0.1, "loss.image_reduction": reduction}
    built = build(tiny, "mcse", keys)
    batch = built.stream.batch(0)
    for image_id_B in (batch.image_id_B, torch.tensor([4, 4, 1, 2, 4, 3, 1, 9])):
        loss, rows = step_and_rows(built, replace(batch, image_id_B=image_id_B))
        ids = image_id_B.tolist()
        same = [{k for k in range(8) if ids[k] == ids[i]} for i in range(8)]
        text = mean(
            [
                contrast(query, rows.text.positive_BD, temperature=0.05, own=i)
                for i, query in enumerate(rows.text.query_BD)
            ]
        )
        image = mean(
            [
                sum(
                    contrast(view[i], rows.image_BH, temperature=0.1, own=i, left_out=same[i])
                    for view in (rows.grounded_query_BH, rows.grounded_positive_BH)
                )
                for i in range(8)
            ]
        )
        assert loss == pytest.approx(text + 0.3 * views * image, rel=1e-4)


def test_mcse_on_text_alone(tiny):
    built = build(tiny, "mcse", {})
    loss, rows = step_and_rows(built, built.stream.batch(1))
    text = [contrast(q, rows.text.positive_BD, temperature=0.05, own=i) for i, q in enumerate(rows.text.query_BD)]
    assert loss == pytest.approx(mean(text), rel=1e-4)


def test_vse_by_info_nce(tiny):
    """Both directions; the ranking loss is in tests/recipes/test_vse.py."""
    keys = {"loss.kind": "info_nce", "loss.temperature": 0.1, "loss.reduction": "mean"}
    built = build(tiny, "vse", keys)
    ids = [4, 4, 1, 2, 4, 3, 1, 9]
    loss, rows = step_and_rows(built, replace(built.stream.batch(0), image_id_B=torch.tensor(ids)))
    losses = []
    for i in range(8):
        same = {k for k in range(8) if ids[k] == ids[i]}
        for queries, others in ((rows.caption_BH, rows.image_BH), (rows.image_BH, rows.caption_BH)):
            losses.append(contrast(queries[i], others, temperature=0.1, own=i, left_out=same))
    assert loss == pytest.approx(sum(losses) / 8, rel=1e-4)


def test_grounded_words(tiny):
    """Shahmohammadi et al. 2021: both language models, matching, and R(alpha, beta) over all words."""
    keys = {"loss.negatives": 2, "loss.beta": 0.5, "loss.alpha": 0.3}
    keys |= {"loss.forward_weight": 0.7, "loss.backward_weight": 0.4, "loss.match_weight": 1.5}
    built = build(tiny, "grounded_words", keys)
    loss, rows = step_and_rows(built, built.stream.batch(0))
    words = {
        name: mean(
            [nll(logits, label) for logits, label in zip(part.logit_MV, part.label_M, strict=True) if label >= 0]
        )
        for name, part in (("forward", rows.forward), ("backward", rows.backward))
    }
    match = mean(
        [
            math.log1p(math.exp(-float(logit) if label else float(logit)))
            for logit, label in zip(rows.match_logit_P, rows.match_label_P, strict=True)
        ]
    )
    kept = mean([abs(0.5 - cosine(new, old)) for new, old in zip(rows.tuned_VD, rows.original_VD, strict=True)])
    assert {0, 1} == set(rows.match_label_P.tolist())
    assert loss == pytest.approx(0.7 * words["forward"] + 0.4 * words["backward"] + 1.5 * match + 0.3 * kept, rel=1e-4)


def test_grounded_words_by_regression(tiny):
    keys = {"model.objective": "image_regression", "model.state_width": 9}
    loss, rows = step_and_rows(built := build(tiny, "grounded_words", keys), built.stream.batch(0))
    squares = [
        (a - b) ** 2
        for p, i in zip(rows.predicted_BF.tolist(), rows.image_BF.tolist(), strict=True)
        for a, b in zip(p, i, strict=True)
    ]
    assert loss == pytest.approx(mean(squares), rel=1e-4)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_elmo(tiny, weight):
    """The mean over words of each direction, from the state that the step before left."""
    built = build(tiny, "elmo", {"loss.weight": weight})
    carried = built.state["lanes"]
    built.model.train()
    with torch.no_grad():
        built.step(built.model, built.stream.batch(0))
    batch, before = built.stream.batch(1), carried.state
    loss, (predictions, _) = step_and_rows(built, batch, before)
    losses = {
        name: mean([nll(logits, label) for logits, label in zip(found.logit_MV, found.label_M, strict=True)])
        for name, found in predictions.items()
    }
    assert set(losses) == {"forward", "backward"}
    assert loss == pytest.approx(weight * sum(losses.values()), rel=1e-4)
    with torch.no_grad():
        fresh, _ = built.model(batch, None)
    assert not torch.allclose(fresh["forward"].logit_MV, predictions["forward"].logit_MV, atol=1e-5), "states carry"


@pytest.mark.parametrize("mean_over", ["words", "sentences"])
def test_cove(tiny, mean_over):
    built = build(tiny, "cove", {"loss.mean_over": mean_over})
    batch = built.stream.batch(0)
    loss, logit_BSV = step_and_rows(built, batch)
    losses = [
        [nll(logits, label) for logits, label in zip(row, labels, strict=True) if label]
        for row, labels in zip(logit_BSV, batch.target.input_ids_BT[:, 1:], strict=True)
    ]
    count = len(losses) if mean_over == "sentences" else sum(map(len, losses))
    assert loss == pytest.approx(sum(map(sum, losses)) / count, rel=1e-4)


def test_word_features(tiny):
    """The likelihood of the tags, and the mixtures' squared weights once."""
    built = build(tiny, "word_features", {"features.contextual.mix_penalty": 0.2})
    for mix in built.model.reader.mixes.values():
        torch.nn.init.normal_(mix.weight_L)
    loss, nll_B = step_and_rows(built, built.stream.batch(0))
    weights = [weight for mix in built.model.reader.mixes.values() for weight in mix.weight_L.tolist()]
    assert loss == pytest.approx(mean(nll_B.tolist()) + 0.2 * sum(weight**2 for weight in weights), rel=1e-4)


def test_maf(tmp_path):
    """Xu et al. 2022, eqs. 1-3, 8 and 15: tweets without an image, and others' copies of one, are no negatives."""
    tweets = build_tiny_tweets(tmp_path / "tweets")
    keys = {"loss.tagging_weight": 0.6, "loss.matching.weight": 0.3, "loss.alignment.weight": 0.4}
    keys |= {"loss.alignment.temperature": 0.2, "loss.alignment.text_to_image_share": 0.7}
    with one_thread():
        config = load_config(None, flags_of(tweet_overrides(tweets, tmp_path / "run") | keys))
        built = method("maf").build(config, start_runtime(precision="fp32", seed=0))
    batch = built.stream.batch(0)
    size = len(batch.has_image_B)
    ids = torch.arange(size)
    ids[1], ids[4] = ids[0], ids[3]
    has = torch.ones(size, dtype=torch.bool)
    has[2] = has[3] = False
    batch = replace(batch, image_id_B=ids, has_image_B=has)
    loss, rows = step_and_rows(built, batch)
    alignment = []
    for i in range(size):
        if has[i]:
            out = {k for k in range(size) if not has[k] or ids[k] == ids[i]}
            to_image = contrast(rows.text_BH[i], rows.image_BH, temperature=0.2, own=i, left_out=out)
            to_text = contrast(rows.image_BH[i], rows.text_BH, temperature=0.2, own=i, left_out=out)
            alignment.append(0.7 * to_image + 0.3 * to_text)
    matching = [
        math.log1p(math.exp(-float(logit) if label else float(logit)))
        for logit, label in zip(rows.match_logit_M, rows.match_label_M, strict=True)
    ]
    tagging = mean(rows.nll_B.tolist())
    assert loss == pytest.approx(0.6 * tagging + 0.4 * mean(alignment) + 0.3 * mean(matching), rel=1e-4)


@pytest.mark.parametrize("recipe", ["simcse", "mcse"])
def test_the_dev_set_encodes_sentences_of_any_length_whole(tiny, recipe):
    """Training cuts at ``data.max_length``, evaluation does not: these pairs differ behind the 32nd token alone."""
    start = " ".join(["the dog runs in the park"] * 10)
    pairs = [(f"{start} number {n}", f"{start} {'the cat sleeps ' * (1 + n % 7)} number {n // 2}") for n in range(20)]
    gold = [(n * 7) % 20 / 4 for n in range(20)]
    rows = (f"{score}\t{left}\t{right}\n" for score, (left, right) in zip(gold, pairs, strict=True))
    (tiny / "long.tsv").write_text("".join(rows))
    built = build(tiny, recipe, {"data.sts": "long.tsv", "data.max_length": 32, "train.select_by": "long.spearman"})
    (evaluator,) = built.evaluators
    built.model.train()
    found = evaluator()["long.spearman"].value
    assert built.model.training
    tokenizer, model = (kind.from_pretrained(tiny / "bert") for kind in (AutoTokenizer, AutoModel))
    model.eval()

    def row(text):
        ids = tokenizer(text, return_tensors="pt")
        assert 60 < ids["input_ids"].shape[1] < 128
        with torch.no_grad():
            return model(**ids).last_hidden_state[0, 0]

    cosines = [cosine(row(left), row(right)) for left, right in pairs]
    assert found == pytest.approx(100 * stats.spearmanr(cosines, gold).statistic, abs=1e-4)
