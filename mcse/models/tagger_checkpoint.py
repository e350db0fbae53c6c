"""A tagger's checkpoint folder: what is written and read back; only safetensors and JSON.

``config.json``, ``model.safetensors`` and the tokenizer's files are the text encoder as ``AutoModel`` loads it;
``mcse.json`` says what stands on it, ``heads.safetensors`` holds its weights, ``image_tower.safetensors`` those of an
image tower that was trained; ``README.md`` is the model card.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from mcse.models.checkpoint import (
    FORMAT_VERSION,
    IMAGE_TOWER_FILE,
    load_stored_tower,
    save_backbone,
    save_tensors,
    write_json,
)
from mcse.models.digests import KEY as DIGESTS
from mcse.models.digests import check_weights, weight_digests
from mcse.models.image_tower import ImageTower
from mcse.models.maf_model import TaggerModel, TaggerShape
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.text_encoder import load_text_encoder, load_tokenizer

logger = logging.getLogger(__name__)

_HEADS = "heads.safetensors"


@dataclass(frozen=True, slots=True)
class TaggerInfo:
    """``mcse.json``: the weights' shape, what gave the images' regions, and the run's resolved configuration.

    ``image_weights`` is a digest of a frozen tower's weights; a trained one's are in the folder.
    """

    recipe: str
    tagger: TaggerShape
    image_tower: str | None = None
    image_preprocessing: str | None = None
    image_weights: str | None = None
    image_tower_trained: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class LoadedTagger:
    """A tagger in memory, on the CPU, in evaluation mode; its model takes stored regions."""

    model: TaggerModel
    tokenizer: PieceTokenizer
    info: TaggerInfo


def save_tagger(
    folder: Path,
    *,
    model: TaggerModel,
    tokenizer: PieceTokenizer,
    info: TaggerInfo,
    card: str,
    trained_tower: ImageTower | None = None,
) -> None:
    """Writes a checkpoint folder; nothing is synced to disk and nothing replaced.

    Raises:
        ValueError: ``folder`` holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; a checkpoint is written into a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    save_backbone(folder, model.encoder.backbone)
    tokenizer.save(folder)
    others = {
        name: tensor for name, tensor in model.state_dict().items() if not name.startswith(("encoder.", "tower."))
    }
    save_tensors(folder / _HEADS, others)
    if trained_tower is not None:
        save_tensors(folder / IMAGE_TOWER_FILE, trained_tower.state_dict())
    write_json(folder / "mcse.json", {**asdict(info), DIGESTS: weight_digests(folder)})
    (folder / "README.md").write_text(card, encoding="utf-8")


def load_tagger(folder: Path) -> LoadedTagger:
    """Reads a checkpoint folder back.

    Raises:
        ValueError: It is no tagger's checkpoint, or a file in it is missing, damaged or of a newer version.
    """
    info = _read_info(folder)
    if missing := [name for name in ("config.json", "model.safetensors", _HEADS) if not (folder / name).is_file()]:
        raise ValueError(f"{folder} is not a complete checkpoint: it lacks {', '.join(missing)}")
    model = TaggerModel(load_text_encoder(str(folder), pooling=info.tagger.pooling), shape=info.tagger)
    check_weights(folder, _HEADS)
    try:
        state = load_file(folder / _HEADS)
        lacking = model.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / _HEADS}: damaged, or of another tagger: {error}") from None
    wrong = [*lacking.unexpected_keys, *(name for name in lacking.missing_keys if not name.startswith("encoder."))]
    if wrong:
        raise ValueError(f"{folder / _HEADS}: missing or unknown weights, first {wrong[0]}")
    return LoadedTagger(model.eval(), load_tokenizer(str(folder)), info)


def load_tagger_tower(folder: Path, info: TaggerInfo) -> ImageTower:
    """The image tower that gave the regions of training, on the CPU, in evaluation mode.

    Raises:
        ValueError: None is named, or its weights are not to be had or no longer the same.
    """
    return load_stored_tower(folder, info.image_tower, is_trained=info.image_tower_trained, weights=info.image_weights)


def _read_info(folder: Path) -> TaggerInfo:
    path = folder / "mcse.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no checkpoint: it lacks mcse.json")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if "tagger" not in stored:
            raise ValueError(f"a checkpoint of the recipe {stored.get('recipe')!r}, which is no tagger")
        if stored.get("format_version", 0) > FORMAT_VERSION:
            raise ValueError(f"format_version {stored['format_version']} is newer than this mcse reads")
        shape = stored.pop("tagger")
        stored.pop(DIGESTS, None)
        return TaggerInfo(**stored, tagger=TaggerShape(**{**shape, "types": tuple(shape["types"])}))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
