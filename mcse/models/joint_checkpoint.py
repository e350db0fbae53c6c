"""The checkpoint folder of a joint model: captions and images of one space.

``joint.json`` says how the model is built and ``mcse.json`` how it came about; ``vocab.json`` and ``text.safetensors``
are a word-level text side, the files of ``AutoModel`` and ``AutoTokenizer`` a transformer; ``heads.safetensors`` are
the linear maps, and ``image_tower.safetensors`` a tower that was trained. Only safetensors and JSON are read back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mcse.models.checkpoint import (
    IMAGE_TOWER_FILE,
    CheckpointInfo,
    head_kind,
    read_info,
    rebuild_head,
    save_backbone,
    save_tensors,
    write_json,
)
from mcse.models.config import CaptionEncoderConfig
from mcse.models.digests import KEY as DIGESTS
from mcse.models.digests import check_weights, weight_digests
from mcse.models.image_tower import ImageTower
from mcse.models.joint_model import CaptionEncoder, JointModel, build_caption_encoder
from mcse.models.text_encoder import TextEncoder, load_text_encoder, load_tokenizer
from mcse.text.vocab import Vocab
from mcse.text.word_tokenizer import WordTokenizer
from mcse.types import Tokenizer

_JOINT, _VOCAB, _TEXT, _HEADS = "joint.json", "vocab.json", "text.safetensors", "heads.safetensors"


@dataclass(frozen=True, slots=True)
class LoadedJoint:
    """A joint model in memory, on the CPU and in evaluation mode, with its tokenizer."""

    model: JointModel
    tokenizer: Tokenizer
    info: CheckpointInfo


def save_joint(
    folder: Path,
    *,
    model: JointModel,
    config: CaptionEncoderConfig,
    tokenizer: Tokenizer,
    info: CheckpointInfo,
    card: str,
    image_tower: ImageTower | None = None,
) -> None:
    """Writes a checkpoint folder; nothing is synced to disk and nothing replaced: that is the caller's part.

    Args:
        folder: Empty or absent.
        model: Text side and heads.
        config: What the text side was built from.
        tokenizer: The text side's.
        info: Goes into ``mcse.json``.
        card: The model card.
        image_tower: The tower that was trained; a frozen one is only named, in ``info``.

    Raises:
        ValueError: ``folder`` holds something, or ``info`` and ``image_tower`` disagree.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; a checkpoint is written into a new folder")
    if info.image_tower_trained != (image_tower is not None):
        raise ValueError(f"image_tower_trained is {info.image_tower_trained}, but the weights given say otherwise")
    heads = model.heads()
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model.text, TextEncoder):
        save_backbone(folder, model.text.backbone, pooler=None)
    else:
        save_tensors(folder / _TEXT, model.text.state_dict())
    tokenizer.save(folder)
    if heads:
        state = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
        save_tensors(folder / _HEADS, state)
    if image_tower is not None:
        save_tensors(folder / IMAGE_TOWER_FILE, image_tower.state_dict())
    space = {"dim": model.dim, "image_width": model.image_width, "unit_features": model.unit_features}
    # Where the run's words came from does not matter any more, and may be a path of another machine.
    encoder = {key: value for key, value in asdict(config).items() if key not in _OF_TRAINING}
    write_json(folder / _JOINT, {"encoder": encoder, "joint": space})
    kinds = {name: head_kind(name, head) for name, head in heads.items()}
    write_json(folder / "mcse.json", {**asdict(info), "heads": kinds, DIGESTS: weight_digests(folder)})
    (folder / "README.md").write_text(card, encoding="utf-8")


_OF_TRAINING = ("name_or_path", "word_vectors", "train_words", "min_count")


def is_joint_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` says that it holds a joint model."""
    return (folder / _JOINT).is_file()


def load_joint(folder: Path) -> LoadedJoint:
    """Reads a checkpoint folder back, on the CPU, in evaluation mode.

    Raises:
        ValueError: The folder holds no joint model, or a file in it is missing, damaged or of a newer version.
    """
    if not is_joint_checkpoint(folder):
        raise ValueError(f"{folder} is no checkpoint of a joint model: it lacks {_JOINT}")
    info, kinds = read_info(folder)
    config, space = _read_joint(folder)
    own = ("config.json", "model.safetensors") if config.kind == "transformer" else (_VOCAB, _TEXT)
    wanted = [*own, *([_HEADS] if kinds else []), *([IMAGE_TOWER_FILE] if info.image_tower_trained else [])]
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise ValueError(f"{folder} is not a complete checkpoint: it lacks {', '.join(missing)}")
    for name in (_HEADS, _TEXT):
        check_weights(folder, name)
    try:
        text, tokenizer = _load_text(folder, config, dim=space["dim"])
        state = load_file(folder / _HEADS) if kinds else {}
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder}: damaged weights: {error}") from None
    heads = {name: rebuild_head(folder, name, kind=kind, state=state) for name, kind in kinds.items()}
    linear: dict[str, nn.Linear] = {name: head for name, head in heads.items() if isinstance(head, nn.Linear)}
    if linear.keys() != heads.keys() or not heads.keys() <= {"text_head", "image_head"}:
        raise ValueError(
            f"{folder / 'mcse.json'}: a joint model has linear heads text_head and image_head, not {kinds}"
        )
    model = JointModel(
        text,
        text_head=linear.get("text_head"),
        image_head=linear.get("image_head"),
        unit_features=space["unit_features"],
    )
    if (model.dim, model.image_width) != (space["dim"], space["image_width"]):
        raise ValueError(f"{folder / _JOINT}: {space} is not what the weights say")
    return LoadedJoint(model.eval(), tokenizer, info)


def _read_joint(folder: Path) -> tuple[CaptionEncoderConfig, Mapping[str, Any]]:
    try:
        stored = json.loads((folder / _JOINT).read_text(encoding="utf-8"))
        space = stored["joint"]
        if space.keys() != {"dim", "image_width", "unit_features"}:
            raise ValueError(f"joint holds {', '.join(space)}")
        # A transformer's weights stand in the folder itself.
        encoder = stored["encoder"]
        place = {"name_or_path": str(folder)} if encoder["kind"] == "transformer" else {}
        return CaptionEncoderConfig(**{**encoder, **place}), space
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / _JOINT}: damaged, or no file of ours ({error})") from None


def _load_text(folder: Path, config: CaptionEncoderConfig, *, dim: int) -> tuple[CaptionEncoder, Tokenizer]:
    if config.kind == "transformer":
        return load_text_encoder(str(folder), pooling=config.pooling), load_tokenizer(str(folder))
    vocab = Vocab.load(folder / _VOCAB)
    # Its random weights are all replaced; the caller's generator is not to notice.
    with torch.random.fork_rng(devices=[]):
        text = build_caption_encoder(config, vocab_size=len(vocab), dim=dim)
    text.load_state_dict(load_file(folder / _TEXT))
    return text, WordTokenizer(vocab, config.marks)
