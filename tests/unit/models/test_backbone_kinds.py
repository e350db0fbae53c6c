"""Models that a name would not tell apart: what is found out about each, what is refused, and what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    Mamba2Config,
    MambaConfig,
    PreTrainedTokenizerFast,
)

from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.manifest import Manifest
from mcse.models.backbone import ask_backbone
from mcse.models.checkpoint import load_checkpoint, save_checkpoint
from mcse.models.packing import ATTENTION, register_attention
from mcse.models.text_encoder import check_first_token
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.types import TokenBatch
from tests.fixtures.architectures import ARCHITECTURES, build_architecture, widen
from tests.fixtures.tiny_models import TEXTS, build_tiny_bert, build_tiny_roberta

# --- padding


def _bert() -> BertModel:
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=128, **ARCHITECTURES["bert"]), add_pooling_layer=False).eval()
    widen(model)
    return model


def test_a_layer_that_looks_back_only_where_no_mask_is_given_gets_eager_attention(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """transformers' own function takes a layer for causal that does not say otherwise, if nothing is padded."""
    register_attention()
    model, expected = _bert(), _bert()
    model.load_state_dict(expected.state_dict())
    for layer in model.encoder.layer:
        del layer.attention.self.is_causal
    facts = ask_backbone(model, "some/model")
    assert (facts.attention, facts.masks_padding, facts.looks_ahead) == ("eager", True, True)
    assert "'some/model' (bert) masks padding under eager attention alone" in caplog.text
    ids = torch.tensor([[5, 20, 9, 31]])
    torch.testing.assert_close(model(ids).last_hidden_state, expected(ids).last_hidden_state)


def test_eager_attention_that_fails_cures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such layer")

    monkeypatch.setattr("transformers.models.bert.modeling_bert.eager_attention_forward", fails)
    register_attention()
    model = _bert()
    for layer in model.encoder.layer:
        del layer.attention.self.is_causal
    facts = ask_backbone(model, "m")
    assert (facts.attention, facts.masks_padding) == ("sdpa", False)
    assert model.config._attn_implementation == "sdpa"


class _Centred(nn.Module):
    """Takes the batch's mean away, as a layer that normalises over batches does."""

    def forward(self, row_BTD: Tensor) -> Tensor:
        return row_BTD - row_BTD.mean(0, keepdim=True)


def test_a_model_whose_rows_depend_on_other_sentences_is_refused() -> None:
    model = _bert()
    model.embeddings.LayerNorm = _Centred()
    with pytest.raises(ValueError, match=r"encoder\.name_or_path: 'm' \(bert\) gives a sentence other rows beside"):
        ask_backbone(model, "m")


class _Normalised(nn.BatchNorm1d):
    """Over the batch while it trains, by what it has seen there in evaluation."""

    def forward(self, row_BTD: Tensor) -> Tensor:
        return super().forward(row_BTD.transpose(1, 2)).transpose(1, 2)


def test_asking_leaves_no_trace_in_statistics_of_training() -> None:
    model = _bert()
    model.embeddings.LayerNorm = _Normalised(32).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ask_backbone(model, "m")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class _Single(nn.Module):
    """Takes one sentence at a time."""

    def forward(self, row_BTD: Tensor) -> Tensor:
        return row_BTD.squeeze(0).unsqueeze(0).expand(1, *row_BTD.shape[-2:])


def test_a_model_that_fails_on_several_sentences_is_refused() -> None:
    model = _bert()
    model.embeddings.LayerNorm = _Single()
    with pytest.raises(ValueError, match=r"'m' \(bert\) fails on a sentence beside another one .*\(RuntimeError: "):
        ask_backbone(model, "m")


@pytest.mark.parametrize(("kind", "said"), [("canine", "max_pool1d"), ("nystromformer", "shape")])
def test_a_model_that_cannot_encode_a_short_sentence_alone_is_refused(kind: str, said: str, tmp_path: Path) -> None:
    build_architecture(tmp_path, kind)
    with pytest.raises(ValueError, match=rf"name_or_path: .* \({kind}\) cannot encode a sentence of 3 tokens.*{said}"):
        load_text_encoder(str(tmp_path), pooling="mean")


def test_padding_that_is_mixed_in_is_said_once_and_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_architecture(tmp_path, "fnet")
    encoder = load_text_encoder(str(tmp_path), pooling="mean")
    assert caplog.text.count("only sentences of equal length go through it together") == 1
    assert encoder.facts.described()["padding"] == "none: sentences of equal length go through the model together"
    widths = []
    encoder.backbone.register_forward_pre_hook(
        lambda _, __, given: widths.append(given["input_ids"].shape), with_kwargs=True
    )
    encoder(TokenBatch.padded([[5, 6, 7], [8, 9], [10, 11, 12]]))
    assert widths == [(1, 2), (2, 3)]


def test_asking_changes_nothing_but_attention(tmp_path: Path) -> None:
    build_tiny_bert(tmp_path)
    register_attention()
    model = AutoModel.from_pretrained(tmp_path)
    model.train()
    before = {name: part.training for name, part in model.named_modules()}
    rates = [part.p for part in model.modules() if isinstance(part, nn.Dropout)]
    state = torch.get_rng_state()
    assert ask_backbone(model, "m").attention == ATTENTION
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: part.training for name, part in model.named_modules()} == before
    assert [part.p for part in model.modules() if isinstance(part, nn.Dropout)] == rates
    assert 0.1 in rates


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_that_of_training_when_a_checkpoint_is_loaded(attention: str, tmp_path: Path) -> None:
    build_tiny_bert(tmp_path / "bert")
    name = str(tmp_path / "bert")
    encoder = load_text_encoder(name, pooling="mean", attention=attention)
    manifest = Manifest(kind="sentence", recipe="simcse", pooling="mean", config={"encoder": {"attention": attention}})
    save_checkpoint(
        tmp_path / "saved",
        encoder=encoder,
        tokenizer=load_tokenizer(name),
        manifest=manifest,
        text_head=None,
        image_heads={},
        card="",
    )
    loaded = load_checkpoint(tmp_path / "saved").encoder
    assert loaded.facts.attention == encoder.facts.attention == {"sdpa": ATTENTION, "eager": "eager"}[attention]
    assert loaded.backbone.config._attn_implementation == loaded.facts.attention


# --- causal models


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "opt"])
def test_with_dropout_causal_models_do_not_look_ahead_where_nothing_is_padded(kind: str, tmp_path: Path) -> None:
    """Qwen's heads of keys are fewer than those of queries; gradients are there for all of them."""
    build_architecture(tmp_path, kind)
    encoder = load_text_encoder(str(tmp_path), pooling="mean", dropout=0.3).train()
    rows = []
    for last in (20, 90):
        torch.manual_seed(1)
        rows.append(encoder.token_rows(TokenBatch.padded([[11, 12, 13, 14, last]] * 2)))
    assert torch.equal(rows[0][:, :-1], rows[1][:, :-1])
    assert not torch.equal(rows[0][0], rows[0][1]), "dropout is on"
    rows[0].sum().backward()
    assert all(parameter.grad is not None for name, parameter in encoder.named_parameters() if "proj" in name)


# --- dropout


@pytest.mark.parametrize(
    "kind", ["albert", "bert", "eurobert", "fnet", "gpt2", "llama", "modernbert", "mpnet", "xlnet"]
)
def test_dropout_stands_for_every_rate(kind: str, tmp_path: Path) -> None:
    build_architecture(tmp_path / "own", kind)
    own = load_text_encoder(str(tmp_path / "own"), pooling="mean")
    assert own.facts.drops_out == (kind not in {"albert", "eurobert", "llama", "modernbert"})
    encoder = load_text_encoder(str(tmp_path / "own"), pooling="mean", dropout=0.25)
    assert encoder.facts.drops_out
    assert {part.p for part in encoder.modules() if isinstance(part, nn.Dropout)} <= {0.25}
    encoder.backbone.save_pretrained(tmp_path / "again")
    assert load_text_encoder(str(tmp_path / "again"), pooling="mean").facts.drops_out, "its configuration says so"
    still = load_text_encoder(str(tmp_path / "again"), pooling="mean", dropout=0.0).train()
    assert not still.facts.drops_out
    tokens = TokenBatch.padded([[5, 6, 7], [8, 9]])
    assert torch.equal(still(tokens), still(tokens))


def test_no_dropout_keeps_the_models_own(tmp_path: Path) -> None:
    build_tiny_bert(tmp_path, dropout=0.3)
    encoder = load_text_encoder(str(tmp_path), pooling="cls")
    assert {part.p for part in encoder.modules() if isinstance(part, nn.Dropout)} == {0.3}


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_dropout_of_a_model_that_has_none_is_refused(kind: str, tmp_path: Path) -> None:
    """Equal rows of one batch of Mamba 2 differ by rounding, which is no dropout."""
    shape = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
    heads = {"num_heads": 4, "head_dim": 16, "n_groups": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = MambaConfig(**shape) if kind == "mamba" else Mamba2Config(**shape, **heads)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"encoder\.dropout: 0\.1 would do nothing"):
        load_text_encoder(str(tmp_path), pooling="mean", dropout=0.1)


# --- [CLS]


def _with_tokenizer(folder: Path, kind: str, *, source: Path) -> Path:
    """A model of ``kind`` beside the tokenizer of another folder."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    build_architecture(folder, kind, vocab_size=len(tokenizer), pad_token_id=0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    return folder


def _without_cls(folder: Path) -> Path:
    """A tokenizer of words that puts nothing around them, or "</s>" behind."""
    words = sorted({word for text in TEXTS for word in pre_tokenizers_of(text)})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    folder.mkdir()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def pre_tokenizers_of(text: str) -> list[str]:
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
def test_cls_where_nothing_stands_first_is_refused(kind: str, tmp_path: Path) -> None:
    folder = _with_tokenizer(tmp_path / "model", kind, source=_without_cls(tmp_path / "words"))
    with pytest.raises(ValueError, match=r"encoder\.pooling: 'cls' .* no token such as \[CLS\] before .*; choose mean"):
        SentenceEncoder.from_pretrained(folder, pooling="cls", device="cpu")
    row_ND = SentenceEncoder.from_pretrained(folder, pooling="mean", device="cpu").encode(TEXTS)
    assert len({tuple(row_D) for row_D in row_ND}) == len(TEXTS)


def test_cls_of_a_causal_model_is_refused(tmp_path: Path) -> None:
    """[CLS] stands first, and all that it sees is itself."""
    folder = _with_tokenizer(tmp_path / "model", "llama", source=build_tiny_bert(tmp_path / "bert"))
    encoder, tokenizer = load_text_encoder(str(folder), pooling="cls"), load_tokenizer(str(folder))
    assert tokenizer.first_token is not None
    with pytest.raises(ValueError, match=r"encoder\.pooling: 'cls' .* sees nothing of what follows"):
        check_first_token(encoder, tokenizer)


@pytest.mark.parametrize("build", [build_tiny_bert, build_tiny_roberta])
def test_cls_of_models_that_have_one(build, tmp_path: Path) -> None:
    folder = build(tmp_path)
    assert load_tokenizer(str(folder)).first_token == AutoTokenizer.from_pretrained(folder).cls_token_id
    SentenceEncoder.from_pretrained(folder, pooling="cls", device="cpu")


# --- tokenizers


@pytest.mark.parametrize("kind", ["albert", "bert", "esm", "gpt2", "llama", "mpnet", "roberta", "roformer", "xlm"])
def test_a_tokenizer_whose_files_are_missing_is_refused(kind: str, tmp_path: Path) -> None:
    """transformers makes an empty one of most, fails somewhere in others, and asks for further packages."""
    build_architecture(tmp_path, kind)
    with pytest.raises(ValueError, match=r"encoder\.name_or_path: no tokenizer at .*belong beside config\.json"):
        load_tokenizer(str(tmp_path))


def test_a_checkpoint_of_ours_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = build_tiny_bert(tmp_path)
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"no tokenizer at .*: it knows 5 pieces, but the model has \d+ embeddings"):
        SentenceEncoder.from_pretrained(folder, pooling="cls", device="cpu")


def test_a_tokenizer_larger_than_the_table_is_refused(tmp_path: Path) -> None:
    folder = build_tiny_bert(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"its piece 'zebra' has the id (\d+), but the model has \1 embeddings"):
        load_tokenizer(str(folder))


def test_a_tokenizer_that_tells_nothing_apart_is_refused(tmp_path: Path) -> None:
    """Its words are there, but it cuts text so that it finds none of them."""
    folder = _without_cls(tmp_path / "words")
    tokens = json.loads((folder / "tokenizer.json").read_text())
    tokens["normalizer"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": "#"}
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(ValueError, match="it gives all texts the same ids"):
        load_tokenizer(str(folder))


def test_a_tokenizer_of_few_words_is_taken(tmp_path: Path) -> None:
    """Of a world in which nobody plays a guitar."""
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "kreis", "quadrat", "blau"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).ids(["blau kreis"]) == [[3, 1]]
