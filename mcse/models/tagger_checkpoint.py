"""A tagger's checkpoint folder: what is written and read back; only safetensors and JSON.

``config.json``, ``model.safetensors`` and the tokenizer's files are the text encoder as ``AutoModel`` loads it;
``mcse.json`` says what stands on it, ``heads.safetensors`` holds its weights, ``image_tower.safetensors`` those of an
image tower that was trained; ``README.md`` is the model card.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mcse.manifest import HEADS_FILE, Manifest, check_files, read_detail, read_manifest, writing_checkpoint
from mcse.models.checkpoint import save_backbone, save_heads, trained_attention
from mcse.models.image_tower import ImageTower
from mcse.models.maf_model import TaggerModel, TaggerShape
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.models.weights import load_tensors, save_tensors


@dataclass(frozen=True, slots=True)
class LoadedTagger:
    """A tagger in memory, on the CPU, in evaluation mode; its model takes stored regions."""

    model: TaggerModel
    tokenizer: PieceTokenizer
    manifest: Manifest


def save_tagger(
    folder: Path,
    *,
    model: TaggerModel,
    tokenizer: PieceTokenizer,
    manifest: Manifest,
    card: str,
    trained_tower: ImageTower | None = None,
) -> None:
    """Writes a checkpoint folder. The folder is not replaced as a whole: that is the caller's part.

    Raises:
        ValueError: ``folder`` holds something.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(("encoder.", "tower."))}
    whole = replace(manifest, details={**manifest.details, "tagger": asdict(model.shape)})
    with writing_checkpoint(folder, whole, card=card):
        save_backbone(folder, model.encoder.backbone)
        tokenizer.save(folder)
        save_tensors(folder / HEADS_FILE, own)
        save_heads(folder, {}, tower=trained_tower)


def load_tagger(folder: Path) -> LoadedTagger:
    """Reads a checkpoint folder back.

    Raises:
        ValueError: It is no tagger's checkpoint, or a file in it is missing, damaged or of a newer version.
    """
    manifest = read_manifest(folder, "tagger")
    check_files(folder, only=(HEADS_FILE,))
    shape = read_detail(folder, manifest, "tagger", TaggerShape)
    encoder = load_text_encoder(str(folder), pooling=shape.pooling, attention=trained_attention(manifest))
    model = TaggerModel(encoder, shape=shape)
    try:
        lacking = model.load_state_dict(load_tensors(folder / HEADS_FILE), strict=False)
    except RuntimeError as error:
        raise ValueError(f"{folder / HEADS_FILE}: weights of another tagger: {error}") from None
    wrong = [*lacking.unexpected_keys, *(name for name in lacking.missing_keys if not name.startswith("encoder."))]
    if wrong:
        raise ValueError(f"{folder / HEADS_FILE}: missing or unknown weights, first {wrong[0]}")
    return LoadedTagger(model.eval(), load_tokenizer(str(folder)), manifest)
