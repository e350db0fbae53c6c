"""MAF's model: attention by loops, the two matching heads, fusion, fall-back without an image, invariances."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mcse.losses.pair_matching import matching_loss
from mcse.models.maf_model import TaggerModel, TaggerShape
from mcse.models.text_loading import load_text_encoder
from mcse.nn.attention import CrossAttention
from mcse.nn.match_head import PairMatching, PublishedMatching
from mcse.types import TokenBatch, TweetBatch
from tests.fixtures.tiny_models import build_tiny_bert

REGIONS, REGION_WIDTH = 5, 7


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return build_tiny_bert(tmp_path_factory.mktemp("bert"))


def build(bert, *, matching="corrected", alignment=True, tag_on_swapped=False, seed=0, regions=REGIONS):
    shape = TaggerShape(
        types=("LOC", "PER"),
        regions=regions,
        region_width=REGION_WIDTH,
        matching=matching,
        alignment=alignment,
        heads=4,
        dropout=0.1,
        positions=16,
    )
    torch.manual_seed(seed)
    encoder = load_text_encoder(str(bert), pooling="cls")
    model = TaggerModel(encoder, shape=shape, tag_on_swapped=tag_on_swapped).double().eval()
    for parameter in (*model.classifier.parameters(), *(model.image.parameters() if model.image else ())):
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch(lengths=(6, 4, 5, 3), *, seed=0, has=None, partner=None):
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + 2
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None] + 2
    words = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    count = len(lengths)
    own = torch.arange(count)
    has = torch.ones(count, dtype=torch.bool) if has is None else torch.tensor(has)
    images = torch.randn(count, REGIONS * REGION_WIDTH, generator=generator, dtype=torch.float64)
    return TweetBatch(
        tokens=TokenBatch(torch.randint(5, 40, (count, width), generator=generator) * mask, mask.long()),
        first_BW=(torch.arange(1, max(lengths) + 1)[None] * words).long(),
        word_mask_BW=words,
        tag_BW=torch.ones(count, max(lengths), dtype=torch.long) * words,
        has_image_B=has,
        image_id_B=own,
        partner_B=own if partner is None else torch.tensor(partner),
        image_BF=images * has[:, None],
    )


def test_cross_attention_equals_loops():
    torch.manual_seed(0)
    layer = CrossAttention(8, heads=2, dropout=0.5).double().eval()
    words, regions = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 4, 8, dtype=torch.float64)
    expected = torch.empty_like(words)
    for b in range(2):
        for w in range(3):
            heads = []
            for h in range(2):
                part = slice(4 * h, 4 * h + 4)
                query = layer.query(words[b, w])[part]
                logits = torch.stack([query @ layer.key(r)[part] / math.sqrt(4) for r in regions[b]])
                heads.append(sum(p * layer.value(r)[part] for p, r in zip(logits.softmax(0), regions[b], strict=True)))
            middle = layer.attention_norm(words[b, w] + layer.attention_out(torch.cat(heads)))
            expected[b, w] = layer.inner_norm(middle + layer.inner_out(F.gelu(layer.inner(middle))))
    torch.testing.assert_close(layer(words, regions), expected)
    layer.train()
    assert not torch.allclose(layer(words, regions), layer(words, regions)), "dropout is on in training"
    with pytest.raises(ValueError, match="fusion.heads: 3 do not divide"):
        CrossAttention(8, heads=3, dropout=0.0)


def test_fusion_equals_its_formula(bert):
    model, tweets = build(bert), batch()
    rows = model(tweets)
    token = model.encoder.token_rows(tweets.tokens)
    words = torch.stack([token[b, tweets.first_BW[b]] for b in range(4)])
    side = model.image
    regions = tweets.image_BF.reshape(4, REGIONS, REGION_WIDTH)
    side.mean_F.fill_(0.3)
    side.scale_F.fill_(2.0)
    rows = model(tweets)
    regions = (regions - 0.3) / 2
    seen = side.interaction(words, side.region(regions))
    text, image = side.text_projection(token[:, 0]), side.image_projection(regions.mean(1))
    match = torch.sigmoid(side.pair_matching(text, image))
    scaled = match[:, None, None] * seen
    gate = torch.sigmoid(side.text_gate(words) + side.image_gate(scaled))
    torch.testing.assert_close(rows.emission_BWK, model.classifier(torch.cat([words, gate * scaled], dim=2)))
    torch.testing.assert_close(rows.match_B, match)
    torch.testing.assert_close(rows.text_BH, text)
    torch.testing.assert_close(rows.image_BH, image)


@pytest.mark.parametrize("matching", ["corrected", "published", "none"])
def test_without_a_image_nothing_of_it_counts(bert, matching):
    model = build(bert, matching=matching)
    tweets = batch(has=[True, False, True, True])
    rows = model(tweets)
    assert rows.match_B[1] == 0
    assert (rows.match_B[[0, 2, 3]] > 0).all()
    drawn = tweets.image_BF.clone()
    drawn[1] = 3.0
    torch.testing.assert_close(model(replace(tweets, image_BF=drawn)).emission_BWK[1], rows.emission_BWK[1])
    drawn[0] = 3.0
    assert not torch.allclose(model(replace(tweets, image_BF=drawn)).emission_BWK[0], rows.emission_BWK[0])
    if matching != "none":
        assert len(rows.match_logit_M) == 3


def test_a_image_below_the_threshold_is_left_out_and_its_match_is_told(bert):
    tweets = batch()
    low = float(build(bert)(tweets).match_B.detach().sort().values[1:3].mean())
    plain, model = build(bert), build(bert)
    model.image.shape = replace(model.shape, match_threshold=low)
    rows, scaled = model(tweets), plain(tweets)
    alone = plain(replace(tweets, has_image_B=torch.zeros(4, dtype=torch.bool)))
    torch.testing.assert_close(rows.match_B, scaled.match_B)
    kept = rows.match_B >= low
    assert kept.sum() == 2
    torch.testing.assert_close(rows.emission_BWK[kept], scaled.emission_BWK[kept])
    torch.testing.assert_close(rows.emission_BWK[~kept], alone.emission_BWK[~kept])


def test_an_image_row_of_projected_regions_tells_what_is_together(bert):
    mixed = replace(build(bert).shape, image_row="mean_projected")
    torch.manual_seed(0)
    model = TaggerModel(load_text_encoder(str(bert), pooling="cls"), shape=mixed).double().eval()
    tweets = batch()
    regions = tweets.image_BF.reshape(4, REGIONS, REGION_WIDTH)
    expected = torch.stack([model.image.image_projection(regions[:, r]) for r in range(REGIONS)]).mean(0)
    torch.testing.assert_close(model(tweets).image_BH, expected)
    # Two regions exchange one feature: their mean is the same, what stands together is not.
    exchanged = regions.clone()
    exchanged[:, [0, 1], 2] = regions[:, [1, 0], 2]
    other = replace(tweets, image_BF=exchanged.flatten(1))
    assert not torch.allclose(model(other).image_BH, expected)
    plain = build(bert)
    torch.testing.assert_close(plain(other).image_BH, plain(tweets).image_BH)


def test_image_dropout_tags_a_share_without_images_in_training_alone(bert):
    model, tweets = build(bert), batch(lengths=(4,) * 200)
    with_all, without_any = (model(replace(tweets, has_image_B=torch.full((200,), has))) for has in (True, False))
    model.image.image_dropout = 0.3
    assert torch.equal(model(tweets).emission_BWK, with_all.emission_BWK)
    model.image.train()  # The encoder and the words' dropout stay as they are.
    model.image.interaction.eval()
    dropped = model(tweets)
    is_out = (dropped.emission_BWK == without_any.emission_BWK).all((1, 2))
    is_in = (dropped.emission_BWK == with_all.emission_BWK).all((1, 2))
    assert (is_out ^ is_in).all()
    assert 30 < is_out.sum() < 90
    torch.testing.assert_close(dropped.match_B, with_all.match_B)
    torch.testing.assert_close(dropped.match_logit_M, with_all.match_logit_M)


@pytest.mark.parametrize("matching", ["corrected", "published", "none"])
def test_padding_and_order_change_nothing(bert, matching):
    model, tweets = build(bert, matching=matching), batch()
    rows = model(tweets)
    alone = replace(
        tweets,
        tokens=TokenBatch(tweets.tokens.input_ids_BT[3:, :5], tweets.tokens.attention_mask_BT[3:, :5]),
        first_BW=tweets.first_BW[3:, :3],
        word_mask_BW=tweets.word_mask_BW[3:, :3],
        tag_BW=tweets.tag_BW[3:, :3],
        has_image_B=tweets.has_image_B[3:],
        image_id_B=tweets.image_id_B[3:],
        partner_B=torch.arange(1),
        image_BF=tweets.image_BF[3:],
    )
    one = model(alone)
    torch.testing.assert_close(one.emission_BWK[0], rows.emission_BWK[3, :3])
    torch.testing.assert_close(one.nll_B[0], rows.nll_B[3])
    order = torch.tensor([2, 0, 3, 1])
    turned = TweetBatch(
        tokens=TokenBatch(tweets.tokens.input_ids_BT[order], tweets.tokens.attention_mask_BT[order]),
        **{
            name: getattr(tweets, name)[order]
            for name in ("first_BW", "word_mask_BW", "tag_BW", "has_image_B", "image_id_B", "image_BF")
        },
        partner_B=torch.arange(4),
    )
    torch.testing.assert_close(model(turned).nll_B, rows.nll_B[order])


def test_judged_pairs_are_true_ones_and_swapped_ones(bert):
    tweets = batch(partner=[1, 0, 2, 3], has=[True, True, True, False])
    rows = build(bert)(tweets)
    assert rows.match_label_M.tolist() == [1, 1, 1, 0, 0], "corrected: every image as it is, and the swapped again"
    side = build(bert).image
    other = side.pair_matching(rows.text_BH[:2], rows.image_BH[[1, 0]])
    torch.testing.assert_close(rows.match_logit_M[3:], other)
    published = build(bert, matching="published")(tweets)
    assert published.match_label_M.tolist() == [0, 0, 1], "published: swapped ones count as negatives alone"
    loss = matching_loss(rows.match_logit_M, rows.match_label_M)
    p = torch.sigmoid(rows.match_logit_M)
    torch.testing.assert_close(loss, -(p[:3].log().sum() + (1 - p[3:]).log().sum()))


@pytest.mark.parametrize("matching", ["corrected", "published"])
def test_tagging_sees_the_partners_image_only_where_asked(bert, matching):
    plain, swapped = batch(), batch(partner=[1, 0, 2, 3])
    kept = build(bert, matching=matching)
    torch.testing.assert_close(kept(swapped).emission_BWK, kept(plain).emission_BWK)
    changed = build(bert, matching=matching, tag_on_swapped=True)
    assert not torch.allclose(changed(swapped).emission_BWK[:2], changed(plain).emission_BWK[:2])
    torch.testing.assert_close(changed(swapped).emission_BWK[2:], changed(plain).emission_BWK[2:])


def test_published_head_cannot_tell_swapped_pairs():
    """The sum of the logits does not change by the swap, so the loss stays above the entropy of their share."""
    torch.manual_seed(0)
    head = PublishedMatching(6, positions=9).double()
    text, seen = torch.randn(2, 16, 7, 6, dtype=torch.float64)
    mask = torch.arange(7)[None] < torch.tensor([7, 2, 5, 3] * 4)[:, None]
    partner = torch.arange(16)
    partner[:4] = torch.tensor([1, 0, 3, 2])
    straight, crossed = head(text, seen, mask), head(text, seen, mask, partner_B=partner)
    assert not torch.allclose(straight[:4], crossed[:4])
    torch.testing.assert_close(straight[:4].sum(), crossed[:4].sum())
    # By the formula: a(T_i) + b(C_j), each over the places of its own words.
    weight, first = head.linear.weight[0].reshape(9, 12), int(mask[0].sum())
    own, other = (weight[:first, :6] * text[0, :first]).sum(), (weight[:2, 6:] * seen[1, :2]).sum()
    torch.testing.assert_close(crossed[0], own + other + head.linear.bias[0])
    # Trained on fresh pairs that share a code, as true pairs do.
    floor = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert floor == pytest.approx(0.562, abs=1e-3)
    assert mean_loss(head, as_published) > floor - 0.02


def test_lengths_do_not_tell_the_published_model_a_swap(bert):
    model = build(bert, matching="published")
    plain, swapped = batch((8, 3, 5, 2)), batch((8, 3, 5, 2), partner=[1, 0, 3, 2])
    straight, crossed = model(plain).match_logit_M, model(swapped).match_logit_M
    assert not torch.allclose(straight, crossed)
    torch.testing.assert_close(straight.sum(), crossed.sum())


def test_corrected_head_learns_what_the_published_cannot():
    torch.manual_seed(0)
    assert mean_loss(PairMatching(6, hidden=32).double(), as_corrected) < 0.2


def as_published(head, code_T, code_V, partner):
    # Tweets of one and of two words; what attention made of an image also holds the words, as in MAF.
    mask = torch.tensor([[True, False], [True, True]]).repeat(len(code_T) // 2, 1)
    text, seen = (row[:, None].expand(-1, 2, -1) for row in (code_T, torch.tanh(code_V + code_T)))
    return head(text, seen, mask, partner_B=partner)


def as_corrected(head, code_T, code_V, partner):
    return head(code_T, code_V[partner])


def mean_loss(head, judge, *, steps=400, count=64):
    """Cross-entropy on fresh pairs after training; a quarter of each batch exchange images."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    partner = torch.arange(count)
    partner[:16] = partner[:16] ^ 1
    label = (partner == torch.arange(count)).double()
    losses = []
    for _ in range(steps):
        code = torch.randn(count, 6, generator=generator, dtype=torch.float64)
        loss = matching_loss(judge(head, code, code, partner), label) / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-100:]))


def test_every_weight_learns_even_in_a_batch_without_images(bert):
    """DDP wants a gradient of every parameter."""
    for matching in ("corrected", "published", "none"):
        model = build(bert, matching=matching).train()
        rows = model(batch(has=[False] * 4))
        extra = sum(v.sum() * 0 for v in (rows.text_BH, rows.image_BH, rows.match_logit_M) if v is not None)
        (rows.nll_B.sum() + extra).backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_text_alone_has_no_image_side(bert):
    model = build(bert, regions=0)
    assert model.image is None
    rows = model(replace(batch(), image_BF=None))
    assert rows.match_B is None
    assert model.classifier.in_features == model.encoder.width


def test_wrong_images_are_refused(bert):
    with pytest.raises(ValueError, match="reads images: give images"):
        build(bert)(replace(batch(), image_BF=None))
    with pytest.raises(ValueError, match="image rows are 6 wide, but this tagger reads 5 regions of 7"):
        build(bert)(replace(batch(), image_BF=torch.zeros(4, 6, dtype=torch.float64)))
