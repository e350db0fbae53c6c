"""The checkpoint folder of a joint model: captions and images of one space.

``mcse.json`` says how the model is built; ``vocab.json`` and ``text.safetensors`` are a word-level text side, the files
of ``AutoModel`` and ``AutoTokenizer`` a transformer; ``heads.safetensors`` are the linear maps, and
``image_tower.safetensors`` a tower that was trained. Only safetensors and JSON are read back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from mcse.errors import said
from mcse.manifest import HEADS_FILE, MANIFEST, Manifest, check_files, read_detail, read_manifest, writing_checkpoint
from mcse.models.checkpoint import load_heads, save_backbone, save_heads, with_heads
from mcse.models.config import CAPTION_ENCODERS, CaptionEncoderConfig, TransformerConfig
from mcse.models.image_tower import ImageTower
from mcse.models.joint_model import CaptionEncoder, JointModel, build_caption_encoder
from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.models.weights import load_weights, save_tensors
from mcse.text.vocab import Vocab
from mcse.text.word_tokenizer import WordTokenizer
from mcse.types import Tokenizer

_VOCAB, _TEXT = "vocab.json", "text.safetensors"

# Where the run's words came from does not matter any more, and may be a path of another machine.
_OF_TRAINING = ("name_or_path", "word_vectors", "train_words", "min_count")


@dataclass(frozen=True, slots=True)
class LoadedJoint:
    """A joint model in memory, on the CPU and in evaluation mode, with its tokenizer."""

    model: JointModel
    tokenizer: Tokenizer
    manifest: Manifest


def save_joint(
    folder: Path,
    *,
    model: JointModel,
    config: CaptionEncoderConfig,
    tokenizer: Tokenizer,
    manifest: Manifest,
    card: str,
    image_tower: ImageTower | None = None,
) -> None:
    """Writes a checkpoint folder. The folder is not replaced as a whole: that is the caller's part.

    Args:
        folder: Empty or absent.
        model: Text side and heads.
        config: What the text side was built from.
        tokenizer: The text side's.
        manifest: Of kind ``joint``, without how the model is built.
        card: The model card.
        image_tower: The tower that was trained; a frozen one is only named, in ``manifest``.

    Raises:
        ValueError: ``folder`` holds something, or ``manifest`` and ``image_tower`` disagree.
    """
    heads = model.heads()
    space = {"dim": model.dim, "image_width": model.image_width, "unit_features": model.unit_features}
    encoder = {key: value for key, value in asdict(config).items() if key not in _OF_TRAINING}
    whole = with_heads(manifest, heads, tower=image_tower)
    whole = replace(whole, details={**whole.details, "encoder": encoder, "joint": space})
    with writing_checkpoint(folder, whole, card=card):
        if isinstance(model.text, TextEncoder):
            save_backbone(folder, model.text.backbone, pooler=None)
        else:
            save_tensors(folder / _TEXT, model.text.state_dict())
        tokenizer.save(folder)
        save_heads(folder, heads, tower=image_tower)


def load_joint(folder: Path) -> LoadedJoint:
    """Reads a checkpoint folder back, on the CPU, in evaluation mode.

    Raises:
        ValueError: The folder holds no joint model, or a file in it is missing, damaged or of a newer version.
    """
    manifest = read_manifest(folder, "joint")
    check_files(folder, only=(HEADS_FILE, _VOCAB, _TEXT))
    config, space = _read_details(folder, manifest)
    text, tokenizer = _load_text(folder, config, dim=space.dim)
    heads = load_heads(folder, manifest)
    linear: dict[str, nn.Linear] = {name: head for name, head in heads.items() if isinstance(head, nn.Linear)}
    if linear.keys() != heads.keys() or not heads.keys() <= {"text_head", "image_head"}:
        raise ValueError(
            f"{folder / MANIFEST}: a joint model has linear heads text_head and image_head, not "
            f"{manifest.details.get('heads')}"
        )
    model = JointModel(
        text,
        text_head=linear.get("text_head"),
        image_head=linear.get("image_head"),
        unit_features=space.unit_features,
    )
    if (model.dim, model.image_width) != (space.dim, space.image_width):
        raise ValueError(f"{folder / MANIFEST}: {space} is not what the weights say")
    return LoadedJoint(model.eval(), tokenizer, manifest)


@dataclass(frozen=True, slots=True)
class _Space:
    """The space in common, as the manifest's details say."""

    dim: int
    image_width: int
    unit_features: bool


@dataclass(frozen=True, slots=True)
class _Encoder:
    """Which of the caption encoders the manifest's details describe."""

    kind: Literal["lstm", "gru", "bow", "transformer"]


def _read_details(folder: Path, manifest: Manifest) -> tuple[CaptionEncoderConfig, _Space]:
    space = read_detail(folder, manifest, "joint", _Space)
    kind = read_detail(folder, manifest, "encoder", _Encoder).kind
    # A transformer's weights are in the folder itself.
    place = {"name_or_path": str(folder)} if kind == "transformer" else {}
    whole = replace(manifest, details={"encoder": {**manifest.details["encoder"], **place}})
    return read_detail(folder, whole, "encoder", CAPTION_ENCODERS[kind]), space


def _load_text(folder: Path, config: CaptionEncoderConfig, *, dim: int) -> tuple[CaptionEncoder, Tokenizer]:
    if isinstance(config, TransformerConfig):
        return load_text_encoder(str(folder), pooling=config.pooling), load_tokenizer(str(folder))
    vocab = Vocab.load(folder / _VOCAB)
    # Its random weights are all replaced; the caller's generator is not to notice.
    with torch.random.fork_rng(devices=[]):
        try:
            text = build_caption_encoder(config, vocab_size=len(vocab), dim=dim)
        except (RuntimeError, TypeError, OverflowError) as error:  # PyTorch's for widths that cannot be
            raise ValueError(f"{folder / MANIFEST}: no caption encoder can be built: {said(error)}") from None
    load_weights(text, folder / _TEXT, title=f"a text side of kind {config.kind}")
    return text, WordTokenizer(vocab, config.marks)
