"""DiffCSE's parts against what they are defined as: by hand, in loops, or by PyTorch's own layer."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcse.models.difference_model import DifferenceModel, Discriminator, Generator
from mcse.models.sentence_model import SentenceModel
from mcse.models.text_loading import load_generator, load_text_encoder, load_tokenizer
from mcse.nn.heads import BatchNormHead
from mcse.types import IGNORED_LABEL, MaskedTokens, SentenceBatch, TokenBatch
from tests.fixtures.architectures import build_architecture
from tests.fixtures.tiny_models import build_tiny_bert, build_tiny_roberta

ROWS = [[2, 9, 8, 7, 3], [2, 30, 31, 32, 33, 34, 3], [2, 40, 3]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "bert": build_tiny_bert(folder / "bert", dropout=0.0),
        "roberta": build_tiny_roberta(folder / "roberta"),
        "other": build_tiny_bert(folder / "other", vocab_size=100),
    }


def encoder_of(folder):
    return load_text_encoder(str(folder), pooling="cls").double()


# --- the discriminator


def by_hand(state, ids, row, *, first_position, epsilon, heads=2):
    """The last layer of BERT for one sentence without padding, its first embedding replaced by ``row``."""

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        spread = x.var(-1, keepdim=True, unbiased=False)
        return (x - x.mean(-1, keepdim=True)) / (spread + epsilon).sqrt() * state[f"{name}.weight"] + state[
            f"{name}.bias"
        ]

    words = state["embeddings.word_embeddings.weight"][ids]
    places = state["embeddings.position_embeddings.weight"][first_position : first_position + len(ids)]
    x = norm("embeddings.LayerNorm", words + places + state["embeddings.token_type_embeddings.weight"][0])
    x = torch.cat([row[None], x[1:]])
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        query, key, value = (linear(f"{at}.attention.self.{name}", x) for name in ("query", "key", "value"))
        parts = []
        for q, k, v in zip(query.chunk(heads, 1), key.chunk(heads, 1), value.chunk(heads, 1), strict=True):
            parts.append((q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v)
        x = norm(f"{at}.attention.output.LayerNorm", x + linear(f"{at}.attention.output.dense", torch.cat(parts, 1)))
        inner = F.gelu(linear(f"{at}.intermediate.dense", x))
        x = norm(f"{at}.output.LayerNorm", x + linear(f"{at}.output.dense", inner))
    return x


@pytest.mark.parametrize(("name", "first_position", "epsilon"), [("bert", 0, 1e-12), ("roberta", 2, 1e-12)])
def test_the_discriminator_is_bert_with_a_row_for_its_first_embedding(name, first_position, epsilon, folders):
    discriminator = Discriminator(encoder_of(folders[name])).double().eval()
    assert discriminator.backbone.config.layer_norm_eps == epsilon
    pad_id = discriminator.backbone.config.pad_token_id
    row_RD = torch.randn(len(ROWS), 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    logit_RT2 = discriminator(TokenBatch.padded(ROWS, pad_id=pad_id), row_RD)
    assert logit_RT2.shape == (3, 7, 2)
    state = discriminator.backbone.state_dict()
    for row, (ids, first) in enumerate(zip(ROWS, row_RD, strict=True)):
        hidden = by_hand(state, torch.tensor(ids), first, first_position=first_position, epsilon=epsilon)
        expected = hidden @ discriminator.head.weight.T + discriminator.head.bias
        torch.testing.assert_close(logit_RT2[row, : len(ids)], expected, rtol=1e-9, atol=1e-9)
    again = discriminator.backbone(input_ids=torch.tensor([ROWS[0]])).last_hidden_state
    plain = encoder_of(folders[name]).eval().backbone(input_ids=torch.tensor([ROWS[0]])).last_hidden_state
    assert torch.equal(again, plain), "a row is put in its place for one pass alone"


@pytest.mark.parametrize("kind", ["distilbert", "mpnet", "electra", "albert", "gpt2", "fnet", "xlm", "modernbert"])
def test_architectures_take_rows_or_are_refused_by_name(kind, tmp_path):
    """Those whose embeddings are as wide as their layers; padding changes FNet's rows."""
    build_architecture(tmp_path / kind, kind)
    encoder = load_text_encoder(str(tmp_path / kind), pooling="mean")
    if kind in ("distilbert", "mpnet", "modernbert"):
        assert Discriminator(encoder)(TokenBatch.padded([[5, 6, 7]]), torch.ones(1, 32)).shape == (1, 3, 2)
        return
    with pytest.raises(ValueError, match=f"encoder.name_or_path: .*{kind}.* cannot be DiffCSE's discriminator"):
        Discriminator(encoder)


# --- the generator


class Scripted(nn.Module):
    """A language model that gives each position a word of its own, whatever it reads."""

    def __init__(self, words_RT):
        super().__init__()
        self.words_RT = words_RT
        self.modes = []

    def forward(self, input_ids, attention_mask):
        del attention_mask
        self.modes.append(self.training)
        assert input_ids.shape == self.words_RT.shape
        likeliest = F.one_hot(self.words_RT, 50).double() * 5 - 1
        beyond = torch.full((*self.words_RT.shape, 3), 9.0)  # rows that no piece belongs to
        return SimpleNamespace(logits=torch.cat([likeliest, beyond], dim=-1))


def scripted(words_RT, *, kind=Generator):
    return kind(Scripted(words_RT), num_words=50, dropout=False)


def batch_of(ids, masked, *, chosen):
    """Sentences with their masked copies, one a view; ``chosen`` are the masked places of every copy."""
    label_RT = torch.full((len(masked), max(map(len, masked))), IGNORED_LABEL)
    for row, place in chosen:
        label_RT[row, place] = ids[row % len(ids)][place]
    return SentenceBatch(TokenBatch.padded(ids), masked=MaskedTokens(TokenBatch.padded(masked), label_RT))


def model_of(folder, generator, **changes):
    options = {"head": None, "stop_gradient": False, "widest": int} | changes
    torch.manual_seed(0)
    return DifferenceModel(
        SentenceModel(encoder_of(folder), head=None),
        generator=generator,
        discriminator=Discriminator(encoder_of(folder)).double(),
        **options,
    ).eval()


SENTENCES = [[2, 9, 8, 7, 3], [2, 40, 3]]
MASKED = [[2, 4, 8, 7, 3], [2, 4, 3], [2, 9, 8, 4, 3], [2, 40, 3]]
# The generator changes words that were not masked, and restores one that was; it never gives [CLS].
WORDS = [[1, 9, 8, 6, 3], [1, 41, 3, 7, 7], [5, 9, 44, 7, 3], [5, 40, 12, 0, 1]]


def edits(folder, *, generator=None, widest=int):
    words = torch.tensor(WORDS)
    model = model_of(folder, generator or scripted(words), widest=widest)
    seen = {}
    model.discriminator.register_forward_pre_hook(lambda _, given: seen.update(edited=given[0], rows=given[1]))
    model.text.train()  # so that views differ
    for module in model.text.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    rows = model(batch_of(SENTENCES, MASKED, chosen=[(0, 1), (1, 1), (2, 3)]))
    assert not torch.equal(rows.text.query_BD, rows.text.positive_BD)
    assert torch.equal(seen["rows"], torch.cat([rows.text.query_BD, rows.text.positive_BD])), "each view's own row"
    return rows, seen["edited"]


def expected_edits(width=5):
    """In loops: the likeliest word at every position but the first; replaced where it is not the original's."""
    edited, replaced = [], []
    for row, (view, sentence) in enumerate(itertools.product(range(2), SENTENCES)):
        assert view == row // 2
        edited.append([sentence[0] if place == 0 else WORDS[row][place] for place in range(len(sentence))])
        replaced.append([edited[-1][place] != sentence[place] for place in range(len(sentence))])
        edited[-1] += [0] * (width - len(sentence))
        replaced[-1] += [False] * (width - len(sentence))
    return edited, replaced


def test_every_position_is_the_likeliest_word_and_is_compared_with_the_original(folders):
    rows, edited = edits(folders["bert"])
    words, replaced = expected_edits()
    assert edited.input_ids_BT.tolist() == words
    assert rows.replaced_RT.tolist() == replaced
    assert rows.real_RT.tolist() == [[True] * 5, [True] * 3 + [False] * 2] * 2
    assert sum(map(sum, replaced)) == 4


class OnlyMasked(Generator):
    """The fault of filling in the masked places alone."""

    def forward(self, tokens):
        plain = super().forward(tokens)
        return torch.where(tokens.input_ids_BT == 4, plain, tokens.input_ids_BT)


def test_filling_in_masked_places_alone_or_comparing_with_the_masked_copy_would_show(folders):
    words, replaced = expected_edits()
    _, edited = edits(folders["bert"], generator=scripted(torch.tensor(WORDS), kind=OnlyMasked))
    assert edited.input_ids_BT.tolist() != words
    masked = TokenBatch.padded(MASKED).input_ids_BT
    assert (torch.tensor(words) != masked).tolist() != replaced


def test_edits_are_padded_as_the_widest_process_pads(folders):
    rows, edited = edits(folders["bert"], widest=lambda width: width + 3)
    words, replaced = expected_edits(width=8)
    assert edited.input_ids_BT.tolist() == words
    assert rows.replaced_RT.tolist() == replaced
    assert rows.logit_RT2.shape == (4, 8, 2)
    narrow, _ = edits(folders["bert"])
    torch.testing.assert_close(rows.logit_RT2[:, :5], narrow.logit_RT2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dropout", [True, False])
def test_the_generator_drops_out_as_told_and_is_part_of_no_state(dropout, folders):
    words = Scripted(torch.tensor(WORDS))
    words.weight = nn.Parameter(torch.ones(3))
    model = model_of(folders["bert"], Generator(words, num_words=50, dropout=dropout))
    for training in (True, False):
        model.train(training)
        model(batch_of(SENTENCES, MASKED, chosen=[(0, 1)]))
    assert words.modes == [dropout, dropout]
    assert not words.weight.requires_grad
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"text", "discriminator"} == {name.split(".")[0] for name in model.state_dict()}


def test_generators_that_do_not_fit_are_refused_by_name(folders, tmp_path):
    tokenizer = load_tokenizer(str(folders["bert"]))
    assert load_generator(str(folders["bert"]), tokenizer, max_length=128)
    with pytest.raises(ValueError, match=r"generator.name_or_path: .*other' has another vocabulary.* has the id"):
        load_generator(str(folders["other"]), tokenizer, max_length=32)
    with pytest.raises(ValueError, match=r"generator.name_or_path: .* takes 128 tokens, and data.max_length is 129"):
        load_generator(str(folders["bert"]), tokenizer, max_length=129)
    headless = tmp_path / "headless"
    load_text_encoder(str(folders["bert"]), pooling="cls").backbone.save_pretrained(headless)
    tokenizer.save(headless)
    with pytest.raises(ValueError, match=r"generator.name_or_path: .* stores no trained language-model head \(no cls"):
        load_generator(str(headless), tokenizer, max_length=32)
    with pytest.raises(ValueError, match=r"generator.name_or_path: .*absent' is no masked language model"):
        load_generator(str(tmp_path / "absent"), tokenizer, max_length=32)


# --- gradients


@pytest.mark.parametrize("stops", [False, True])
def test_the_discriminator_teaches_the_encoder_unless_its_gradient_is_stopped(stops, folders):
    model = model_of(folders["bert"], scripted(torch.tensor(WORDS)), stop_gradient=stops)
    model(batch_of(SENTENCES, MASKED, chosen=[(0, 1)])).logit_RT2[..., 1].sum().backward()
    gradients = {name: p.grad for name, p in model.text.named_parameters()}
    taught = {name for name, gradient in gradients.items() if gradient is not None and gradient.abs().max() > 1e-9}
    assert ("encoder.backbone.encoder.layer.0.output.dense.weight" in taught) is not stops
    assert bool(taught) is not stops
    assert all(p.grad is not None for p in model.discriminator.parameters())


def test_a_gradient_reaches_the_row_as_finite_differences_say(folders):
    discriminator = Discriminator(encoder_of(folders["bert"])).double().eval()
    tokens = TokenBatch.padded(ROWS[:2])
    row_RD = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda row: discriminator(tokens, row), row_RD, eps=1e-6, atol=1e-5)


# --- the head


def reference_head(head):
    """DiffCSE's ``ProjectionMLP`` out of PyTorch's own layers, with the same weights."""
    width = head.outer.weight.shape[0]
    layers = [nn.Linear(width, 2 * width, bias=False), nn.BatchNorm1d(2 * width), nn.ReLU()]
    layers += [nn.Linear(2 * width, width, bias=False), nn.BatchNorm1d(width, affine=False)]
    reference = nn.Sequential(*layers).double()
    with torch.no_grad():
        for ours, theirs in ((head.inner.weight, layers[0].weight), (head.outer.weight, layers[3].weight)):
            theirs.copy_(ours)
        layers[1].weight.copy_(head.scale)
        layers[1].bias.copy_(head.shift)
    return reference.train()


def test_the_head_is_pytorchs_layers_one_after_the_other():
    torch.manual_seed(0)
    head = BatchNormHead(6, gather=lambda x: (x, 0), init_std=0.3).double()
    nn.init.normal_(head.scale)
    nn.init.normal_(head.shift)
    reference = reference_head(head)
    row_BD = torch.randn(9, 6, dtype=torch.float64)
    weight_BD = torch.randn(9, 6, dtype=torch.float64)
    ours, theirs = row_BD.clone().requires_grad_(), row_BD.clone().requires_grad_()
    (head(ours) * weight_BD).sum().backward()
    (reference(theirs) * weight_BD).sum().backward()
    torch.testing.assert_close(head(row_BD), reference(row_BD), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(head.scale.grad, reference[1].weight.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(head.outer.weight.grad, reference[3].weight.grad, rtol=1e-10, atol=1e-10)
    assert torch.equal(head.eval()(row_BD), head.train()(row_BD)), "it keeps no running statistics"
    assert not list(head.buffers())


def test_the_head_takes_the_statistics_of_the_gathered_rows():
    torch.manual_seed(0)
    row_ND = torch.randn(8, 6, dtype=torch.float64)
    whole = BatchNormHead(6, gather=lambda x: (x, 0), init_std=0.3).double()
    expected = whole(row_ND)
    inner = whole.inner(row_ND)
    gathered = iter([inner, torch.relu(F.batch_norm(inner, None, None, training=True)) @ whole.outer.weight.T])
    part = BatchNormHead(6, gather=lambda _: (next(gathered), 5), init_std=0.3).double()
    part.load_state_dict(whole.state_dict())
    torch.testing.assert_close(part(row_ND[5:]), expected[5:], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(whole(row_ND[5:]), expected[5:], atol=1e-2), "a part's own statistics are others"


def test_the_head_sums_in_float32_under_bfloat16():
    torch.manual_seed(0)
    head = BatchNormHead(6, gather=lambda x: (x, 0), init_std=0.3)
    row_BD = torch.randn(16, 6)
    with torch.autocast("cpu", torch.bfloat16):
        low = head(row_BD)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, head(row_BD), rtol=0.05, atol=0.05)
