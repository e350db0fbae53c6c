"""A checkpoint folder: what is in it, that it comes back whole, and what is refused before anything is written."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoTokenizer

from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.manifest import FORMAT_VERSION, ImageSide, Manifest, is_checkpoint
from mcse.models.checkpoint import (
    LoadedCheckpoint,
    check_exportable,
    load_checkpoint,
    load_checkpoint_tower,
    load_stored_pooler,
    max_tokens,
    save_checkpoint,
)
from mcse.models.image_tower import ImageTower, load_image_tower, tower_path
from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.nn.heads import TanhHead
from tests.fixtures.tiny_models import MAX_TOKENS, TEXTS, build_tiny_bert, build_tiny_roberta

BUILDERS = {"bert": build_tiny_bert, "roberta": build_tiny_roberta}
SAVED = Manifest(
    kind="sentence",
    recipe="mcse",
    pooling="cls",
    images=ImageSide(tower="open_clip:ViT-B-32/openai", features="features.npy, 12 wide, sha256 0123"),
    scores={"stsb_dev.spearman": 80.0, "stsb_dev.alignment": 0.2},
    higher_is_better={"stsb_dev.spearman": True, "stsb_dev.alignment": False},
    config={"loss": {"image_weight": 0.05}},
)


@pytest.fixture(scope="module", params=BUILDERS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


def save(base: Path, folder: Path, *, manifest: Manifest = SAVED, head_width: int | None = 32) -> LoadedCheckpoint:
    """Saves a checkpoint with random heads and returns what was saved."""
    encoder, tokenizer = load_text_encoder(str(base), pooling=str(manifest.pooling)).eval(), load_tokenizer(str(base))
    head = None if head_width is None else TanhHead(32, head_width, init_std=0.2)
    heads = {"grounding_head": TanhHead(32, 8), "image_head": TanhHead(12, 8)}
    save_checkpoint(
        folder,
        encoder=encoder,
        tokenizer=tokenizer,
        manifest=manifest,
        text_head=head,
        image_heads=heads,
        card="# a card\n",
    )
    return LoadedCheckpoint(encoder, tokenizer, manifest, head, heads)


def test_a_checkpoint_comes_back_whole(base: Path, tmp_path: Path) -> None:
    saved = save(base, tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    stored = loaded.manifest
    assert stored.details == {"heads": {"text_head": "tanh", "grounding_head": "tanh", "image_head": "tanh"}}
    assert {"model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"} <= stored.files.keys()
    assert not {"README.md", "mcse.json"} & stored.files.keys()
    assert replace(stored, details={}, files={}) == saved.manifest
    assert loaded.tokenizer.ids(TEXTS) == saved.tokenizer.ids(TEXTS)
    assert loaded.text_head is not None
    modules = {"encoder": loaded.encoder, "text_head": loaded.text_head, **loaded.heads}
    originals = {"encoder": saved.encoder, "text_head": saved.text_head, **saved.heads}
    assert modules.keys() == originals.keys()
    for name, module in modules.items():
        state, wanted = module.state_dict(), originals[name].state_dict()
        assert state.keys() == wanted.keys()
        assert len(state) > 0
        assert all(torch.equal(state[key], wanted[key]) for key in wanted), name
        assert not module.training
    assert (tmp_path / "checkpoint" / "README.md").read_text() == "# a card\n"


@pytest.mark.parametrize("pooling", ["cls", "cls_with_head", "mean", "max"])
def test_auto_model_finds_every_key_but_the_pooler(base: Path, tmp_path: Path, pooling: str) -> None:
    saved = save(base, tmp_path / "checkpoint", manifest=replace(SAVED, pooling=pooling))
    model, report = AutoModel.from_pretrained(tmp_path / "checkpoint", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    if pooling == "cls_with_head":
        assert not report["missing_keys"]
        assert saved.text_head is not None
        tokens = saved.tokenizer.inner(["A man plays."], return_tensors="pt")
        with torch.no_grad():
            output = model.eval()(**tokens)
            wanted = saved.text_head(output.last_hidden_state[:, 0])
        torch.testing.assert_close(output.pooler_output, wanted)
    else:
        # BERT's own pooler is in the base model, and would look trained.
        assert set(report["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}
        assert not [key for key in stored if "pooler" in key]


def test_a_head_that_is_no_square_is_not_stored_as_the_pooler(base: Path, tmp_path: Path) -> None:
    save(base, tmp_path / "checkpoint", manifest=replace(SAVED, pooling="cls_with_head"), head_width=16)
    assert not [key for key in load_file(tmp_path / "checkpoint" / "model.safetensors") if "pooler" in key]
    dense = json.loads((tmp_path / "checkpoint" / "2_Dense" / "config.json").read_text())
    assert (dense["in_features"], dense["out_features"]) == (32, 16)


@pytest.mark.parametrize("pooling", ["cls", "cls_with_head"])
def test_a_pooler_that_the_tower_brings_along_is_not_stored(base: Path, tmp_path: Path, pooling: str) -> None:
    tower, head = TextEncoder(AutoModel.from_pretrained(base), pooling=pooling), TanhHead(32, 32)
    assert tower.backbone.pooler is not None
    save_checkpoint(
        tmp_path / "checkpoint",
        encoder=tower,
        tokenizer=load_tokenizer(str(base)),
        manifest=Manifest(kind="sentence", recipe="simcse", pooling=pooling),
        text_head=head,
        image_heads={},
        card="",
    )
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    if pooling == "cls":
        assert not [key for key in stored if "pooler" in key]
    else:
        assert torch.equal(stored["pooler.dense.weight"], head.linear.weight)


def test_training_does_not_leak_into_the_tokenizer(base: Path, tmp_path: Path) -> None:
    encoder, tokenizer = load_text_encoder(str(base), pooling="cls"), load_tokenizer(str(base))
    tokenizer.inner(["a b c d e f"], truncation=True, max_length=4, padding=True)
    assert json.loads(tokenizer.inner.backend_tokenizer.to_str())["truncation"] is not None
    folder = tmp_path / "checkpoint"
    save_checkpoint(
        folder, encoder=encoder, tokenizer=tokenizer, manifest=SAVED, text_head=None, image_heads={}, card="card"
    )
    stored = json.loads((folder / "tokenizer.json").read_text())
    assert stored["truncation"] is None
    assert stored["padding"] is None
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert not {"is_local", "local_files_only"} & settings.keys()
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == MAX_TOKENS
    assert AutoTokenizer.from_pretrained(folder)(list(TEXTS))["input_ids"] == tokenizer.ids(TEXTS)


def test_only_safetensors_json_and_text_are_written(base: Path, tmp_path: Path) -> None:
    save(base, tmp_path / "checkpoint", manifest=replace(SAVED, pooling="cls_with_head"))
    files = [path for path in (tmp_path / "checkpoint").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt"}
    assert not [path for path in files if str(tmp_path) in path.read_bytes().decode(errors="ignore")]


def test_the_models_own_maximum_is_read_from_its_positions(base: Path) -> None:
    encoder, tokenizer = load_text_encoder(str(base), pooling="cls"), load_tokenizer(str(base))
    tokenizer.inner.model_max_length = int(1e30)
    assert max_tokens(encoder, tokenizer) == MAX_TOKENS
    tokens = tokenizer.inner(["a " * 500], truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    assert encoder.backbone(**tokens).last_hidden_state.shape[1] == MAX_TOKENS
    tokenizer.inner.model_max_length = 20
    assert max_tokens(encoder, tokenizer) == 20


@pytest.mark.parametrize("pooling", ["first_last_mean", "last2_mean"])
def test_a_pooling_that_the_schema_cannot_express_is_refused_first(base: Path, tmp_path: Path, pooling: str) -> None:
    with pytest.raises(ValueError, match=f"'{pooling}' cannot be exported.*cls, cls_with_head, mean, max"):
        save(base, tmp_path / "checkpoint", manifest=replace(SAVED, pooling=pooling))
    assert not (tmp_path / "checkpoint").exists()
    with pytest.raises(ValueError, match=pooling):
        check_exportable(pooling)


def test_other_refusals_before_anything_is_written(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown pooling 'men'; choose one of cls"):
        check_exportable("men")
    with pytest.raises(ValueError, match="without the text head"):
        save(base, tmp_path / "new", manifest=replace(SAVED, pooling="cls_with_head"), head_width=None)
    encoder, tokenizer = load_text_encoder(str(base), pooling="cls"), load_tokenizer(str(base))
    with pytest.raises(ValueError, match=r"head 'odd' is a Sequential; .*TanhHead, Linear"):
        save_checkpoint(
            tmp_path / "new",
            encoder=encoder,
            tokenizer=tokenizer,
            manifest=SAVED,
            text_head=None,
            image_heads={"odd": nn.Sequential()},
            card="",
        )
    assert not (tmp_path / "new").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(ValueError, match="full is not empty"):
        save(base, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_a_folder_that_is_no_checkpoint_is_refused_by_what_it_lacks(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a checkpoint: no such folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"lacks mcse\.json"):
        load_checkpoint(base)
    assert not is_checkpoint(base)
    folder = tmp_path / "checkpoint"
    save(base, folder)
    assert is_checkpoint(folder)
    (folder / "heads.safetensors").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"heads\.safetensors is missing, though .*mcse\.json lists it"):
        load_checkpoint(folder)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_damaged_checkpoint_is_refused_by_file(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save(base, folder, head_width=None)
    good = (folder / "mcse.json").read_text()
    for changes, message in (
        ({"format_version": FORMAT_VERSION + 1}, "newer than this mcse"),
        ({"surprise": 1}, "surprise"),
        ({"pooling": "cls_with_head"}, "has no text_head"),
        ({"details": {"heads": {"image_head": "conv"}}}, "unknown kinds of heads"),
        ({"details": {"heads": {"other_head": "tanh"}}}, r"heads\.safetensors holds no weights for 'other_head'"),
        ({"kind": "joint"}, "holds a joint model of captions and images, not a sentence encoder; mcse.JointEncoder"),
        ({"kind": "poem"}, "kind must be 'sentence'"),
    ):
        edit(folder / "mcse.json", **changes)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(folder)
        (folder / "mcse.json").write_text(good)
    (folder / "mcse.json").write_text("{")
    with pytest.raises(ValueError, match=r"mcse\.json"):
        load_checkpoint(folder)
    (folder / "mcse.json").write_text(good)
    for name in ("heads.safetensors", "model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"{name} is damaged: its SHA-256 is not the one in .*mcse.json"):
            load_checkpoint(folder)
        (folder / name).write_bytes(content)
    load_checkpoint(folder)


def test_a_flipped_bit_is_found_by_digest(base: Path, tmp_path: Path) -> None:
    """A flipped bit among the numbers still is a safetensors file: only the digest knows."""
    folder = tmp_path / "checkpoint"
    save(base, folder, manifest=replace(SAVED, pooling="cls_with_head"))
    noted = json.loads((folder / "mcse.json").read_text())["files"]
    assert {"model.safetensors", "heads.safetensors", "2_Dense/model.safetensors"} <= noted.keys()
    for name in ("model.safetensors", "heads.safetensors"):
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
        assert load_file(folder / name)
        with pytest.raises(ValueError, match=f"{folder / name} is damaged"):
            load_checkpoint(folder)
        if name == "model.safetensors":
            with pytest.raises(ValueError, match=f"{folder / name} is damaged"):
                load_text_encoder(str(folder), pooling="cls")
        with pytest.raises(ValueError, match=f"{folder / name} is damaged"):
            SentenceEncoder.from_pretrained(str(folder))
        content[-1] ^= 1
        (folder / name).write_bytes(content)
    load_checkpoint(folder)
    AutoModel.from_pretrained(folder)


def test_a_checkpoint_without_digests_loads(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save(base, folder)
    edit(folder / "mcse.json", files={})
    load_checkpoint(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged weights"):
        load_checkpoint(folder)


def test_digests_that_are_none_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save(base, folder)
    edit(folder / "mcse.json", files=["model.safetensors"])
    with pytest.raises(ValueError, match=r"mcse\.json: files"):
        load_checkpoint(folder)


# --- nothing in a folder is executed


class Bomb:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


PICKLES = ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "heads.bin", "2_Dense/pytorch_model.bin")


def test_a_pickle_in_a_checkpoint_is_never_read(base: Path, tmp_path: Path) -> None:
    folder, mark = tmp_path / "checkpoint", tmp_path / "mark"
    save(base, folder, manifest=replace(SAVED, pooling="cls_with_head"))
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    assert SentenceEncoder.from_pretrained(str(folder)).encode(["A man plays."]).shape == (1, 32)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        load_checkpoint(folder)
    assert not mark.exists()
    pickle.loads((folder / "heads.bin").read_bytes())
    assert mark.exists(), "the bomb would have gone off"


def test_a_pickle_in_the_place_of_any_encoders_weights_is_refused(base: Path, tmp_path: Path) -> None:
    folder, mark = tmp_path / "encoder", tmp_path / "mark"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Bomb(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="are not only tensors"):
        load_text_encoder(str(folder), pooling="cls")
    assert not mark.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_a_folder_brings_along_is_not_run(
    base: Path, tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("asked whether to run the code")

    monkeypatch.setattr("builtins.input", asked)
    folder, mark = tmp_path / "checkpoint", tmp_path / "mark"
    save(base, folder)
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Own: pass\n")
    names = ["AutoConfig", "AutoModel", "AutoModelForMaskedLM"]
    own = {name: "own.Own" for name in names} if file == "config.json" else {"AutoTokenizer": ["own.Own", "own.Own"]}
    edit(
        folder / file, auto_map=own, **({"model_type": "own"} if file == "config.json" else {"tokenizer_class": "Own"})
    )
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        load_checkpoint(folder)
    edit(folder / "mcse.json", files={})
    if file == "config.json":
        with pytest.raises(ValueError, match="encoder.name_or_path: no encoder at"):
            load_checkpoint(folder)
    else:
        # transformers takes the tokenizer's files without the class.
        assert type(load_checkpoint(folder).tokenizer.inner).__name__ != "Own"
    assert not mark.exists()


def test_loading_leaves_the_global_generator_alone(base: Path, tmp_path: Path) -> None:
    save(base, tmp_path / "checkpoint")
    state = torch.get_rng_state()
    load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(state, torch.get_rng_state())


def test_a_linear_head_keeps_its_kind(base: Path, tmp_path: Path) -> None:
    encoder, tokenizer = load_text_encoder(str(base), pooling="cls"), load_tokenizer(str(base))
    head = nn.Linear(12, 8, bias=False)
    save_checkpoint(
        tmp_path / "checkpoint",
        encoder=encoder,
        tokenizer=tokenizer,
        manifest=SAVED,
        text_head=None,
        image_heads={"image_head": head},
        card="",
    )
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded.text_head is None
    feature_BF = torch.randn(3, 12)
    assert torch.equal(loaded.heads["image_head"].weight, head.weight)
    torch.testing.assert_close(loaded.heads["image_head"](feature_BF), head(feature_BF))


def test_a_stored_pooler_is_read_and_a_missing_one_refused(tmp_path: Path) -> None:
    bert, roberta = build_tiny_bert(tmp_path / "bert"), build_tiny_roberta(tmp_path / "roberta")
    stored = load_file(bert / "model.safetensors")
    assert torch.equal(load_stored_pooler(str(bert)).linear.weight, stored["bert.pooler.dense.weight"])
    with pytest.raises(ValueError, match="stores no head"):
        load_stored_pooler(str(roberta))


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_head_as_simcse_trains_it_is_read(tmp_path: Path, ending: str) -> None:
    """Its script ``simcse_to_huggingface.py`` renames ``mlp.dense`` to ``pooler.dense``; both give the same rows."""
    folder = build_tiny_bert(tmp_path / "simcse")
    stored = load_file(folder / "model.safetensors")
    converted = {key: value for key, value in stored.items() if key.startswith("bert.")}
    trained = {key: value for key, value in converted.items() if ".pooler." not in key}
    for name in ("weight", "bias"):
        trained[f"mlp.dense.{name}"] = converted[f"bert.pooler.dense.{name}"]
    (folder / "model.safetensors").unlink()
    if ending == "bin":
        torch.save(trained, folder / "pytorch_model.bin")
    else:
        save_file(trained, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(folder, tmp_path / "converted", ignore=shutil.ignore_patterns("*.bin", "*.safetensors"))
    save_file(converted, tmp_path / "converted" / "model.safetensors", metadata={"format": "pt"})
    texts = ["A man plays the guitar.", "A dog."]
    rows_ND, wanted_ND = (
        SentenceEncoder.from_pretrained(str(tmp_path / name), pooling="cls_with_head").encode(texts)
        for name in ("simcse", "converted")
    )
    np.testing.assert_allclose(rows_ND, wanted_ND, atol=1e-6)
    plain_ND = SentenceEncoder.from_pretrained(str(tmp_path / "simcse"), pooling="cls").encode(texts)
    assert np.abs(rows_ND - plain_ND).max() > 1e-3


# --- image towers

TOWER = "timm:test_vit.r160_in1k"


def save_with_tower(base: Path, folder: Path, *, tower: ImageTower, trained: bool) -> Path:
    images = ImageSide(
        tower=tower.spec,
        preprocessing=tower.preprocessing,
        weights=None if trained else tower.digest(),
        is_trained=trained,
    )
    save_checkpoint(
        folder,
        encoder=load_text_encoder(str(base), pooling="cls").eval(),
        tokenizer=load_tokenizer(str(base)),
        manifest=replace(SAVED, images=images),
        text_head=None,
        image_heads={"grounding_head": TanhHead(32, 8), "image_head": TanhHead(tower.width, 8)},
        card="",
        image_tower=tower if trained else None,
    )
    return folder


def trained_tower() -> ImageTower:
    """Weights that no name gives, under a name whose own weights are not here."""
    tower = load_image_tower(TOWER, weights=False, seed=7)
    for parameter in tower.parameters():
        parameter.data += 0.01
    return tower


def test_a_trained_tower_comes_back_from_the_folder_alone(base: Path, tmp_path: Path) -> None:
    tower = trained_tower()
    with pytest.raises(ValueError, match="weights cannot be loaded"):
        load_image_tower(TOWER)
    folder = save_with_tower(base, tmp_path / "checkpoint", tower=tower, trained=True)
    loaded = load_checkpoint_tower(folder)
    assert loaded.digest() == tower.digest() != load_image_tower(TOWER, weights=False).digest()
    assert (loaded.spec, loaded.preprocessing, loaded.training) == (TOWER, tower.preprocessing, False)
    assert load_checkpoint(folder).manifest.image_tower == TOWER


@pytest.mark.slow
def test_an_open_clip_tower_needs_no_named_weights_to_come_back() -> None:
    tower = load_image_tower("open_clip:ViT-S-32-alt/gone.pt", weights=False)
    assert tower.width == load_image_tower("open_clip:ViT-S-32-alt/none").width
    with pytest.raises(ValueError, match=r"'gone\.pt' is neither a checkpoint file nor a tag"):
        load_image_tower("open_clip:ViT-S-32-alt/gone.pt")
    by_tag = load_image_tower("open_clip:ViT-B-32/openai", weights=False)
    assert "0.48145466" in by_tag.preprocessing
    activations = {type(module).__name__ for module in by_tag.modules() if "GELU" in type(module).__name__}
    assert activations == {"QuickGELU"}, "OpenAI's weights were trained with their own activation"


def test_a_frozen_tower_is_only_named_and_must_not_have_changed(base: Path, tmp_path: Path) -> None:
    tower = load_image_tower(f"{TOWER}/none")
    folder = save_with_tower(base, tmp_path / "checkpoint", tower=tower, trained=False)
    assert not (folder / "image_tower.safetensors").exists()
    assert load_checkpoint_tower(folder).digest() == tower.digest()
    path = folder / "mcse.json"
    path.write_text(path.read_text().replace(tower.digest(), "0123456789abcdef"))
    with pytest.raises(ValueError, match="of weights 0123456789abcdef; that name now gives"):
        load_checkpoint_tower(folder)


def test_other_preprocessing_than_in_training_is_said(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_with_tower(base, tmp_path / "checkpoint", tower=load_image_tower("pixels:4"), trained=False)
    load_checkpoint_tower(folder)
    assert not caplog.records
    path = folder / "mcse.json"
    path.write_text(path.read_text().replace("bilinear", "nearest"))
    load_checkpoint_tower(folder)
    assert "trained with preprocessing resize to 4x4 (nearest)" in caplog.text


def test_tower_weights_that_are_gone_damaged_or_of_another_tower_are_refused(base: Path, tmp_path: Path) -> None:
    folder = save_with_tower(base, tmp_path / "checkpoint", tower=trained_tower(), trained=True)
    weights, path = folder / "image_tower.safetensors", folder / "mcse.json"
    stored = path.read_text()
    path.write_text(stored.replace("timm:test_vit.", "timm:test_vit2."))
    with pytest.raises(ValueError, match=r"image_tower\.safetensors: no weights of timm:test_vit2"):
        load_checkpoint_tower(folder)
    path.write_text(stored)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"image_tower\.safetensors is damaged: its SHA-256"):
        load_checkpoint_tower(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"image_tower\.safetensors is missing, though"):
        load_checkpoint(folder)


def test_a_checkpoint_does_not_choose_files_of_this_machine(base: Path, tmp_path: Path) -> None:
    """timm 1.0.15 ran such a pickle; no version is even asked to open it."""
    mark, pickled = tmp_path / "mark", tmp_path / "tower.pth"
    pickled.write_bytes(pickle.dumps(Bomb(mark)))
    folder = save_with_tower(base, tmp_path / "checkpoint", tower=load_image_tower(f"{TOWER}/none"), trained=False)
    path = folder / "mcse.json"
    stored = path.read_text()
    for name in (
        f"{TOWER}/{pickled}",
        f"grid:{TOWER}/{pickled}",
        f"timm:local-dir:{tmp_path}",
        f"open_clip:RN50/{pickled}",
        f"open_clip:local-dir:{tmp_path}",
    ):
        path.write_text(stored.replace(f"{TOWER}/none", name))
        with pytest.raises(ValueError, match=f"names the image tower {name} by a path, and .* is not followed"):
            load_checkpoint_tower(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pixels:4", TOWER, f"{TOWER}/none", "open_clip:RN50/openai", "timm:hf-hub:a/b"])
def test_tags_are_no_paths(name: str) -> None:
    assert tower_path(name, weights=True) is None


def test_a_checkpoint_that_names_no_tower_takes_no_images(base: Path, tmp_path: Path) -> None:
    save(base, tmp_path / "checkpoint", manifest=replace(SAVED, images=None))
    with pytest.raises(ValueError, match="names no image tower"):
        load_checkpoint_tower(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="images.is_trained is True, but"):
        save(base, tmp_path / "other", manifest=replace(SAVED, images=ImageSide(is_trained=True)))
    assert not (tmp_path / "other").exists()
