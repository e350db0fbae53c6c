"""A checkpoint folder: what is written, what is read back, and nothing that could run code.

``config.json``, ``model.safetensors`` and the tokenizer's files are what ``AutoModel`` and ``AutoTokenizer`` load;
``modules.json`` and the numbered folders are what sentence-transformers loads, in the older schema that its versions 3
to 6 all read; ``mcse.json``, ``heads.safetensors`` and, of a trained image tower, ``image_tower.safetensors`` are ours;
``README.md`` is the model card. ``mcse.json`` is the manifest (``mcse/manifest.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from mcse.files import write_json
from mcse.manifest import (
    HEADS_FILE,
    IMAGE_TOWER_FILE,
    MANIFEST,
    ImageSide,
    Manifest,
    check_files,
    read_detail,
    read_manifest,
    resolve_name,
    writing_checkpoint,
)
from mcse.models.image_tower import ImageTower, load_image_tower, tower_path
from mcse.models.masked_model import MaskedLanguageModel
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.text_encoder import TextEncoder, check_first_token
from mcse.models.text_loading import load_text_encoder, load_tokenizer, loading, quiet_transformers, takes_pooling_layer
from mcse.models.trained_weights import merged_state
from mcse.models.weights import load_tensors, load_weights, save_tensors
from mcse.nn.heads import TanhHead
from mcse.nn.pooling import POOLINGS
from mcse.types import Tokenizer

logger = logging.getLogger(__name__)

_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "cls_with_head": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "last": "pooling_mode_lasttoken",
}
"""Our poolings as sentence-transformers' older schema names them; those that it cannot express are absent."""

PROMPT_NAME = "default"
"""What sentence-transformers lists ``encoder.prompt`` as."""

_SIMCSE_HEAD = {"mlp.dense.weight", "mlp.dense.bias"}

_HEAD_KINDS: dict[type[nn.Module], str] = {TanhHead: "tanh", nn.Linear: "linear"}


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint in memory; ``heads`` are those beside the text head: ``grounding_head``, ``image_head`` and such."""

    encoder: TextEncoder
    tokenizer: PieceTokenizer
    manifest: Manifest
    text_head: TanhHead | None
    heads: Mapping[str, nn.Module]


def check_pooling(pooling: str) -> None:
    """Refuses a name that is no pooling with a ``ValueError`` that lists them."""
    if pooling not in POOLINGS:
        raise ValueError(f"encoder.pooling: unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")


def check_exportable(pooling: str) -> None:
    """Refuses a pooling that a checkpoint folder cannot express.

    Raises:
        ValueError: ``pooling`` is unknown, or sentence-transformers' folder format has no such pooling.
    """
    check_pooling(pooling)
    if pooling not in _POOLING_KEYS:
        raise ValueError(
            f"encoder.pooling: {pooling!r} cannot be exported, because sentence-transformers' folder format has no "
            f"such pooling; train with one of {', '.join(_POOLING_KEYS)}"
        )


def max_tokens(encoder: nn.Module, tokenizer: Tokenizer) -> int | None:
    """The longest input that the model itself takes, special tokens included; ``None`` where nothing limits it.

    Asked of the model's positions and of the tokenizer.
    """
    positions = encoder.facts.longest if isinstance(encoder, TextEncoder) else None
    return min((limit for limit in (positions, tokenizer.longest) if limit), default=None)


def check_trainable(encoder: TextEncoder, tokenizer: Tokenizer, *, max_length: int) -> None:
    """Refuses what would fail in training, or train nothing, at its start.

    Raises:
        ValueError: ``data.max_length`` is more than the encoder takes, or the prompt fills it; its pooling does not fit
            its tokenizer; or it cannot be trained at all.
    """
    limit = max_tokens(encoder, tokenizer)
    if limit is not None and max_length > limit:
        raise ValueError(f"data.max_length: {max_length} is more than the {limit} tokens that the encoder takes")
    if isinstance(tokenizer, PieceTokenizer) and tokenizer.prompt:
        taken = len(tokenizer.ids([""])[0])
        if taken >= max_length:
            raise ValueError(
                f"encoder.prompt: its {taken} tokens leave no room for a sentence in data.max_length, {max_length}"
            )
    check_first_token(encoder, tokenizer)
    if encoder.facts.cannot_train:
        raise ValueError(
            f"encoder.name_or_path: {encoder.facts.name!r} can be evaluated and not trained: "
            f"{encoder.facts.cannot_train}"
        )


def save_checkpoint(
    folder: Path,
    *,
    encoder: TextEncoder,
    tokenizer: PieceTokenizer,
    manifest: Manifest,
    text_head: TanhHead | None,
    image_heads: Mapping[str, nn.Module],
    card: str,
    image_tower: ImageTower | None = None,
    language_model: MaskedLanguageModel | None = None,
) -> None:
    """Writes a checkpoint folder. The folder is not replaced as a whole: that is the caller's part.

    Args:
        folder: Empty or absent.
        encoder: The text tower.
        tokenizer: The tower's tokenizer.
        manifest: Of kind ``sentence``, without the heads.
        text_head: The head of training, stored always and part of the rows only under ``cls_with_head``.
        image_heads: By name, such as ``grounding_head`` and ``image_head``.
        card: The model card, Markdown with its front matter.
        image_tower: The tower that was trained; a frozen one is only named, in ``manifest``.
        language_model: A masked language model around the tower, which is saved whole, its head included.

    Raises:
        ValueError: ``folder`` holds something, the pooling cannot be exported or lacks its head, a head is of a kind
            that cannot be rebuilt from its weights, or ``manifest`` and ``image_tower`` disagree.
    """
    pooling = str(manifest.pooling)
    check_exportable(pooling)
    if pooling == "cls_with_head" and text_head is None:
        raise ValueError("encoder.pooling: 'cls_with_head' cannot be exported without the text head")
    heads = {**({} if text_head is None else {"text_head": text_head}), **image_heads}
    pooler = text_head if pooling == "cls_with_head" else None
    if tokenizer.prompt:
        manifest = replace(manifest, details={**manifest.details, "prompt": tokenizer.prompt})
    with writing_checkpoint(folder, with_heads(manifest, heads, tower=image_tower), card=card):
        if language_model is None:
            save_backbone(folder, encoder.backbone, pooler=pooler)
        else:
            language_model.save(folder)
        tokenizer.save(folder)
        _save_modules(folder, encoder, tokenizer=tokenizer, pooling=pooling, dense=pooler)
        save_heads(folder, heads, tower=image_tower)


def save_sentence_transformers(
    folder: Path, *, encoder: TextEncoder, tokenizer: PieceTokenizer, head: nn.Module | None
) -> None:
    """Writes what ``AutoModel`` and sentence-transformers load, and nothing of ours.

    Args:
        folder: There already.
        encoder: The text tower, with the pooling of its rows.
        tokenizer: The tower's tokenizer.
        head: What stands on the pooled rows: a ``TanhHead``, a linear layer, or nothing.

    Raises:
        ValueError: The format has no such pooling, or no such head.
    """
    check_exportable(encoder.pooling)
    if head is not None and not isinstance(head, TanhHead | nn.Linear):
        raise ValueError("sentence-transformers' Dense layers are already in the folder that was loaded; copy that")
    save_backbone(folder, encoder.backbone, pooler=head if isinstance(head, TanhHead) else None)
    tokenizer.save(folder)
    _save_modules(folder, encoder, tokenizer=tokenizer, pooling=encoder.pooling, dense=head)


def with_heads(manifest: Manifest, heads: Mapping[str, nn.Module], *, tower: ImageTower | None) -> Manifest:
    """The manifest with the kinds of the heads that a checkpoint stores.

    Raises:
        ValueError: A head is of a kind that cannot be rebuilt, or manifest and trained tower disagree.
    """
    is_trained = manifest.images is not None and manifest.images.is_trained
    if is_trained != (tower is not None):
        raise ValueError(f"images.is_trained is {is_trained}, but the weights given say otherwise")
    kinds = {name: head_kind(name, head) for name, head in heads.items()}
    return replace(manifest, details={**manifest.details, "heads": kinds})


def save_heads(folder: Path, heads: Mapping[str, nn.Module], *, tower: ImageTower | None) -> None:
    """Writes ``heads.safetensors`` and, of a tower that was trained, ``image_tower.safetensors``."""
    if heads:
        state = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
        save_tensors(folder / HEADS_FILE, state)
    if tower is not None:
        save_tensors(folder / IMAGE_TOWER_FILE, tower.state_dict())


def load_checkpoint(folder: Path) -> LoadedCheckpoint:
    """Reads a checkpoint folder back, on the CPU, in evaluation mode.

    Raises:
        ValueError: The folder is no checkpoint, or a file in it is missing, damaged or of a newer version.
    """
    manifest = read_manifest(folder, "sentence")
    # The encoder's own files are checked with it, the tower's when it is loaded.
    check_files(folder, only=(HEADS_FILE,))
    pooling = str(manifest.pooling)
    encoder = load_text_encoder(str(folder), pooling=pooling, attention=trained_attention(manifest)).eval()
    heads = load_heads(folder, manifest)
    text_head = heads.pop("text_head", None)
    if text_head is not None and not isinstance(text_head, TanhHead):
        raise ValueError(f"{folder / MANIFEST}: text_head must be of kind 'tanh'")
    if pooling == "cls_with_head" and text_head is None:
        raise ValueError(f"{folder / MANIFEST}: pooling is 'cls_with_head', but the checkpoint has no text_head")
    prompt = read_detail(folder, manifest, "prompt", str) if "prompt" in manifest.details else ""
    return LoadedCheckpoint(encoder, load_tokenizer(str(folder), prompt=prompt), manifest, text_head, heads)


def trained_attention(manifest: Manifest) -> str:
    """What evaluates a checkpoint: eager attention where it was trained by that, and for all other kernels ``sdpa``."""
    encoder = manifest.config.get("encoder")
    return "eager" if isinstance(encoder, dict) and encoder.get("attention") == "eager" else "sdpa"


def load_heads(folder: Path, manifest: Manifest) -> dict[str, nn.Module]:
    """The heads that the manifest names, by name.

    Raises:
        ValueError: One is of an unknown kind, or its weights are missing or damaged.
    """
    kinds = read_detail(folder, manifest, "heads", dict[str, str]) if "heads" in manifest.details else {}
    if unknown := {name: kind for name, kind in kinds.items() if kind not in _HEAD_KINDS.values()}:
        known = ", ".join(_HEAD_KINDS.values())
        raise ValueError(f"{folder / MANIFEST}: unknown kinds of heads {unknown}; known are {known}")
    if not kinds:
        return {}
    state = load_tensors(folder / HEADS_FILE)
    return {name: _rebuild_head(folder, name, kind=kind, state=state) for name, kind in kinds.items()}


def load_checkpoint_tower(folder: Path) -> ImageTower:
    """The image tower that gave the image features of training, on the CPU, in evaluation mode.

    A trained one comes out of the folder; a frozen one from where its name says, which is a tag: whoever made the
    folder must not choose files of this machine.

    Raises:
        ValueError: The checkpoint names no tower, or one in a file or folder; or its weights are damaged, not
            available, or no longer the same.
    """
    images = read_manifest(folder).images or ImageSide()
    if images.tower is None:
        raise ValueError(
            f"{folder / MANIFEST} names no image tower (its features came from a file that does not say), so give "
            "features, not images (mcse search index has --features STORE)"
        )
    if tower_path(images.tower, weights=not images.is_trained) is not None:
        raise ValueError(
            f"{folder / MANIFEST} names the image tower {images.tower} by a path, and what a checkpoint says of files "
            f"of this machine is not followed. If you trust that one, make features with it by "
            f"mcse extract-features --tower {images.tower}, and give these (mcse search index has --features STORE)"
        )
    if images.is_trained:
        check_files(folder, only=(IMAGE_TOWER_FILE,))
    tower = load_image_tower(images.tower, weights=not images.is_trained)
    if images.is_trained:
        load_weights(tower, folder / IMAGE_TOWER_FILE, title=images.tower)
    elif images.weights is not None and (found := tower.digest()) != images.weights:
        raise ValueError(
            f"{folder}: trained with {images.tower} of weights {images.weights}; that name now gives {found}"
        )
    if images.preprocessing not in (None, tower.preprocessing):
        logger.warning(
            "%s: trained with preprocessing %s, but %s now has %s",
            folder,
            images.preprocessing,
            images.tower,
            tower.preprocessing,
        )
    return tower


def load_stored_pooler(name_or_path: str) -> TanhHead:
    """The head that a hub checkpoint stores as its pooler, as SimCSE's published models do.

    BERT's own pooler, trained on next sentences, is stored in the same place and cannot be told from it. SimCSE's own
    training stores its head as ``mlp.dense``, which is taken before a pooler (its script ``simcse_to_huggingface.py``
    moves one to the other).

    Raises:
        ValueError: The checkpoint stores no pooler, or not one linear layer and a tanh, or its weights are damaged.
    """
    path = resolve_name(name_or_path)
    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True, **loading(path)
            )
    except Exception as error:  # other people's classes raise whatever comes
        raise ValueError(f"encoder.name_or_path: no encoder at {name_or_path!r}: {error}") from None
    if set(report["unexpected_keys"]) >= _SIMCSE_HEAD:
        return _simcse_head(name_or_path, Path(path))
    pooler = getattr(model, "pooler", None)
    dense, activation = getattr(pooler, "dense", None), getattr(pooler, "activation", None)
    missing = any(key.startswith("pooler.") for key in report["missing_keys"])
    if missing or not isinstance(dense, nn.Linear) or not isinstance(activation, nn.Tanh):
        raise ValueError(f"pooling 'cls_with_head': {name_or_path!r} stores no head (pooler.dense and a tanh)")
    head = TanhHead(dense.in_features, dense.out_features)
    head.load_state_dict({"linear.weight": dense.weight, "linear.bias": dense.bias})
    return head.eval()


def _simcse_head(name: str, folder: Path) -> TanhHead:
    files = [folder / file for file in ("model.safetensors", "pytorch_model.bin") if (folder / file).is_file()]
    state = load_tensors(files[0]) if files else {}
    if not state.keys() >= _SIMCSE_HEAD:
        raise ValueError(
            f"pooling 'cls_with_head': {name!r} stores SimCSE's head (mlp.dense) elsewhere than in one file of a local "
            "folder's weights; convert it with SimCSE's simcse_to_huggingface.py"
        )
    weight_HD = state["mlp.dense.weight"]
    head = TanhHead(weight_HD.shape[1], weight_HD.shape[0])
    head.load_state_dict({"linear.weight": weight_HD.float(), "linear.bias": state["mlp.dense.bias"].float()})
    return head.eval()


def save_backbone(folder: Path, backbone: Any, *, pooler: TanhHead | None = None) -> None:
    """Writes the weights without the base model's pooler, and with the trained head in its place where both agree.

    Adapters are merged into the layers that they are of.
    """
    state = {key: value for key, value in merged_state(backbone).items() if not key.startswith("pooler.")}
    if pooler is not None and _has_equal_pooler(backbone, pooler):
        state["pooler.dense.weight"] = pooler.linear.weight
        state["pooler.dense.bias"] = pooler.linear.bias
    state = {key: value.detach().cpu().float() if value.is_floating_point() else value for key, value in state.items()}
    with quiet_transformers():
        backbone.save_pretrained(folder, state_dict=state)


def _has_equal_pooler(backbone: Any, head: TanhHead) -> bool:
    """Whether the architecture with its pooler would hold a linear layer of the head's shape and a tanh there."""
    if not takes_pooling_layer(backbone.config):
        return False
    with torch.device("meta"):
        pooler = getattr(type(backbone)(backbone.config, add_pooling_layer=True), "pooler", None)
    dense, activation = getattr(pooler, "dense", None), getattr(pooler, "activation", None)
    return (
        isinstance(dense, nn.Linear)
        and isinstance(activation, nn.Tanh)
        and dense.weight.shape == head.linear.weight.shape
    )


def _save_modules(
    folder: Path, encoder: TextEncoder, *, tokenizer: PieceTokenizer, pooling: str, dense: TanhHead | nn.Linear | None
) -> None:
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "1_Pooling").mkdir()
    chosen = _POOLING_KEYS[pooling]
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    switches = {key: key == chosen for key in (f"pooling_mode_{mode}" for mode in modes)}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": encoder.width, **switches})
    if dense is not None:
        modules.append(("2_Dense", "Dense"))
        (folder / "2_Dense").mkdir()
        linear = dense if isinstance(dense, nn.Linear) else dense.linear
        shape = {"in_features": linear.in_features, "out_features": linear.out_features}
        activation = "linear.Identity" if linear is dense else "activation.Tanh"
        layer = {"bias": linear.bias is not None, "activation_function": f"torch.nn.modules.{activation}"}
        write_json(folder / "2_Dense" / "config.json", {**shape, **layer})
        save_tensors(
            folder / "2_Dense" / "model.safetensors", {f"linear.{k}": v for k, v in linear.state_dict().items()}
        )
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    # Versions before 5 do not look inside, but a folder without files would not survive git or the hub.
    (folder / modules[-1][0]).mkdir()
    write_json(folder / modules[-1][0] / "config.json", {})
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    length = max_tokens(encoder, tokenizer)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    prompts = {PROMPT_NAME: tokenizer.prompt} if tokenizer.prompt else {}
    settings = {"prompts": prompts, "default_prompt_name": next(iter(prompts), None), "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)


def head_kind(name: str, head: nn.Module) -> str:
    """What ``mcse.json`` calls the kind of a head.

    Raises:
        ValueError: It is of a kind that cannot be rebuilt from its weights.
    """
    if type(head) not in _HEAD_KINDS:
        known = ", ".join(kind.__name__ for kind in _HEAD_KINDS)
        raise ValueError(f"head {name!r} is a {type(head).__name__}; a checkpoint stores only {known}")
    return _HEAD_KINDS[type(head)]


def _rebuild_head(folder: Path, name: str, *, kind: str, state: Mapping[str, Tensor]) -> nn.Module:
    """A head from the shapes of its weights; no random draw, so that loading leaves the global generator alone."""
    own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    weight_HD = own.get("linear.weight" if kind == "tanh" else "weight")
    if weight_HD is None:
        raise ValueError(f"{folder / HEADS_FILE} holds no weights for {name!r} of kind {kind!r}")
    head: nn.Module
    with torch.device("meta"):
        if kind == "tanh":
            head = TanhHead(weight_HD.shape[1], weight_HD.shape[0])
        else:
            head = nn.Linear(weight_HD.shape[1], weight_HD.shape[0], bias="bias" in own)
    try:
        head.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{folder / HEADS_FILE}: {name!r} does not fit its kind {kind!r}: {error}") from None
    return head.eval()
