"""Folders of sentence-transformers: what they say is followed, and all off the closed list is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import mcse.encoders.sentence_transformers_folder as folder_module
from mcse import SentenceEncoder
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from tests.fixtures.tiny_models import MAX_TOKENS, TEXTS, build_tiny_bert, build_tiny_roberta

SENTENCES = [*TEXTS, "", "a", "A man plays the guitar. " * 8]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bert(tmp_path_factory.mktemp("bert"))


def make(base: Path, *, pooling: str) -> SentenceEncoder:
    encoder, tokenizer = load_text_encoder(str(base), pooling=pooling).eval(), load_tokenizer(str(base))
    return SentenceEncoder(encoder, tokenizer, pooling=pooling)


def sentence_transformers_folder(bert: Path, folder: Path, *, pooling: dict[str, object], kinds: list[str]) -> Path:
    """A folder in sentence-transformers' older schema, made without our own writer."""
    shutil.copytree(bert, folder)
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    for path in paths[1:]:
        (folder / path).mkdir()
    types = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
        for i, (p, k) in enumerate(zip(paths, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(types))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"embedding_dimension": 32, "pooling_mode": ["max"]}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"embedding_dimension": 32, "pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_both_schemas_of_sentence_transformers_are_read(
    bert: Path, tmp_path: Path, config: dict[str, object], pooling: str
) -> None:
    folder = sentence_transformers_folder(bert, tmp_path / "st", pooling=config, kinds=["Transformer", "Pooling"])
    encoder = SentenceEncoder.from_pretrained(str(folder))
    assert encoder.pooling == pooling
    np.testing.assert_allclose(encoder.encode(SENTENCES), make(bert, pooling=pooling).encode(SENTENCES), atol=1e-6)
    assert SentenceEncoder.from_pretrained(str(folder), pooling="last2_mean").pooling == "last2_mean"


def test_what_a_sentence_transformers_folder_says_is_followed_or_refused(
    bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mean, plain = {"pooling_mode_mean_tokens": True}, ["Transformer", "Pooling", "Normalize"]
    folder = sentence_transformers_folder(bert, tmp_path / "st", pooling=mean, kinds=plain)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 10}')
    assert SentenceEncoder.from_pretrained(str(folder)).max_length == 10
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4096, "do_lower_case": true}')
    long = SentenceEncoder.from_pretrained(str(folder))
    assert long.max_length == MAX_TOKENS
    assert "max_seq_length is 4096, but the model takes 128 tokens" in caplog.text
    assert np.isfinite(long.encode("dog " * 500)).all()
    for file, content, message in (
        ("config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": "q"}, "prompt 'q'"),
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "pooling pooling_mode_weightedmean"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, r"pooling cls \+ mean"),
        ("1_Pooling/config.json", {}, "pooling none"),
    ):
        old = (folder / file).read_text() if (folder / file).exists() else "{}"
        (folder / file).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"does not know .*{message}"):
            SentenceEncoder.from_pretrained(str(folder))
        (folder / file).write_text(old)
    (folder / "modules.json").write_text("[")
    with pytest.raises(ValueError, match=r"modules\.json: broken JSON"):
        SentenceEncoder.from_pretrained(str(folder))
    for i, kinds in enumerate((["Transformer", "Pooling", "LSTM"], ["WordEmbeddings", "Pooling"], [*plain, "Dense"])):
        with pytest.raises(ValueError, match="does not know"):
            SentenceEncoder.from_pretrained(
                str(sentence_transformers_folder(bert, tmp_path / f"odd{i}", pooling=mean, kinds=kinds))
            )


REFUSED = {
    "modules.json": [
        {"type": "custom_st.Transformer"},
        {"type": "Transformer"},
        {"type": "sentence_transformers.models.CLIPModel"},
        {"type": "sentence_transformers.base.modules.router.Router"},
        {"path": "../1_Pooling"},
        {"path": "/tmp"},
        {"kwargs": ["task"]},
        {"revision": "main"},
    ],
    "sentence_bert_config.json": [
        {"transformer_task": "fill-mask"},
        {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
        {"modality_config": {"message": {"method": "forward", "method_output_name": "last_hidden_state"}}},
        {"module_output_name": "sentence_embedding"},
        {"processing_kwargs": {"text": {"max_length": 10}}},
        {"model_args": {"dtype": "float16"}},
        {"model_kwargs": {"dtype": "float16"}},
        {"tokenizer_args": {"model_max_length": 10}},
        {"processor_kwargs": {"model_max_length": 10}},
        {"config_args": {"num_hidden_layers": 1}},
        {"config_kwargs": {"num_hidden_layers": 1}},
        {"tokenizer_name_or_path": "bert-base-uncased"},
        {"query_length": 10},
        {"document_length": 10},
        {"query_expansion": {"strategy": "fixed", "length": 8}},
        {"of_a_later_version": True},
        {"max_seq_length": "128"},
        {"max_seq_length": 0},
        {"max_seq_length": 2},
        {"do_lower_case": 1},
    ],
    "config_sentence_transformers.json": [
        {"truncate_dim": 8},
        {"model_type": "CrossEncoder"},
        {"default_prompt_name": "absent"},
        {"prompts": {"q": "query: "}, "default_prompt_name": "q"},
        {"requirements": {"transformers": ">=4"}},
        {"prompts": ["query: "]},
        {"of_a_later_version": True},
    ],
    "1_Pooling/config.json": [
        {"pooling_mode": "weightedmean"},
        {"pooling_mode": "cls_token"},
        {"pooling_mode": []},
        {"pooling_mode_cls_token": 1},
        {"of_a_later_version": True},
    ],
    "2_Normalize/config.json": [
        {"module_input_name": "token_embeddings"},
        {"module_output_name": "other"},
        {"module_output_name": ""},
        {"of_a_later_version": True},
    ],
    "adapter_config.json": [{"peft_type": "LORA"}],
    "processor_config.json": [{}],
    "preprocessor_config.json": [{}],
}
"""What is not on the closed list, by file: each beside a folder that is followed."""


@pytest.mark.parametrize(("file", "change"), [(file, change) for file, some in REFUSED.items() for change in some])
def test_every_key_and_class_off_the_closed_list_is_refused_by_name(
    bert: Path, tmp_path: Path, file: str, change: dict[str, object]
) -> None:
    folder = sentence_transformers_folder(
        bert,
        tmp_path / "st",
        pooling={"pooling_mode_mean_tokens": True},
        kinds=["Transformer", "Pooling", "Normalize"],
    )
    SentenceEncoder.from_pretrained(str(folder))
    path = folder / file
    stored = json.loads(path.read_text()) if path.is_file() else {}
    changed = [stored[0], {**stored[1], **change}, stored[2]] if isinstance(stored, list) else {**stored, **change}
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=str(folder)) as caught:
        SentenceEncoder.from_pretrained(str(folder))
    assert (
        "sentence-transformers itself" in str(caught.value)
        or path.name in str(caught.value)
        or "max_seq" in str(caught.value)
    )


def test_classes_are_those_of_sentence_transformers_by_every_name() -> None:
    misc = pytest.importorskip("sentence_transformers.util.misc", reason="sentence-transformers is not installed")
    assert len(folder_module._CLASSES) == 16
    for name, kind in folder_module._CLASSES.items():
        assert misc.import_from_string(name) is misc.import_from_string(f"sentence_transformers.models.{kind}")


@pytest.mark.parametrize("file", folder_module._SETTINGS)
def test_settings_are_read_under_each_of_their_names(bert: Path, tmp_path: Path, file: str) -> None:
    folder = sentence_transformers_folder(
        bert, tmp_path / "st", pooling={"pooling_mode": "cls"}, kinds=["Transformer", "Pooling"]
    )
    (folder / "sentence_bert_config.json").write_text("{}")  # passed over, as there
    (folder / file).write_text('{"max_seq_length": 7}')
    assert SentenceEncoder.from_pretrained(str(folder)).max_length == 7


def test_a_folder_that_lowercases_for_a_cased_tokenizer_is_refused(tmp_path: Path) -> None:
    roberta = build_tiny_roberta(tmp_path / "roberta")
    folder = sentence_transformers_folder(
        roberta, tmp_path / "st", pooling={"pooling_mode_mean_tokens": True}, kinds=["Transformer", "Pooling"]
    )
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(ValueError, match=r"sentence_bert_config\.json sets do_lower_case"):
        SentenceEncoder.from_pretrained(str(folder))


@pytest.mark.parametrize("mode", ["cls", "mean"])
def test_a_dense_layer_belongs_to_its_own_pooling(bert: Path, tmp_path: Path, mode: str) -> None:
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    folder = sentence_transformers_folder(bert, tmp_path / "st", pooling={"pooling_mode": mode}, kinds=kinds)
    linear = nn.Linear(32, 6, bias=False)
    config = {
        "in_features": 32,
        "out_features": 6,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lacks 2_Dense/model\.safetensors"):
        SentenceEncoder.from_pretrained(str(folder))
    save_file({"linear.weight": linear.weight.detach()}, folder / "2_Dense" / "model.safetensors")
    encoder = SentenceEncoder.from_pretrained(str(folder))
    assert encoder.pooling == {"cls": "cls_with_head", "mean": "mean"}[mode]
    assert encoder.dimension == 6
    pooled_ND = torch.from_numpy(make(bert, pooling=mode).encode(SENTENCES, normalize=False))
    with torch.no_grad():
        wanted_ND = F.normalize(linear(pooled_ND)).numpy()
    np.testing.assert_allclose(encoder.encode(SENTENCES), wanted_ND, atol=1e-6)
    assert SentenceEncoder.from_pretrained(str(folder), pooling="max").dimension == 32
    # Older versions keep the layer in a pickle, of which tensors alone are read.
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save({"linear.weight": linear.weight.detach()}, folder / "2_Dense" / "pytorch_model.bin")
    np.testing.assert_allclose(SentenceEncoder.from_pretrained(str(folder)).encode(SENTENCES), wanted_ND, atol=1e-6)
    for content in ({"linear.weight": linear.weight, "code": linear}, [linear.weight]):
        torch.save(content, folder / "2_Dense" / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"2_Dense/pytorch_model\.bin: "):
            SentenceEncoder.from_pretrained(str(folder))
    save_file({"linear.weight": linear.weight.detach()}, folder / "2_Dense" / "model.safetensors")
    for change, message in (
        ({"in_features": 31}, r"but 2_Dense/config.json describes"),
        ({"out_features": 10**30}, r"but 2_Dense/config.json describes"),
        ({"bias": True}, "but 2_Dense/config.json describes"),
        ({"in_features": None}, r"config\.json: in_features must be a whole number, got null"),
        ({"out_features": -1}, "but 2_Dense/config.json describes"),
    ):
        (folder / "2_Dense" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            SentenceEncoder.from_pretrained(str(folder))
    for change, message in (
        ({"activation_function": "os.system"}, "activation os.system"),
        ({"use_residual": True}, "2_Dense"),
        ({"module_input_name": "token_embeddings"}, "module_input_name"),
        ({"module_output_name": "other"}, "module_output_name"),
        ({"init_weight": 1}, "init_weight"),
    ):
        (folder / "2_Dense" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=f"does not know .*{message}"):
            SentenceEncoder.from_pretrained(str(folder))
