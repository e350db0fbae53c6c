"""The checkpoint folder of grounded word vectors.

``vectors.safetensors`` holds words and grounded vectors, which is what evaluation loads; ``word_map.safetensors`` the
map that grounds any further word; ``vocab.json`` the words that training saw; ``mcse.json`` recipe and configuration;
``README.md`` is the card.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mcse.run_folder import model_in
from mcse.text.vocab import Vocab
from mcse.text.word_map import WordMap
from mcse.text.word_vector_writer import WordVectorWriter
from mcse.text.word_vectors import WordBlock

FORMAT_VERSION = 1
VECTORS_FILE, VOCAB_FILE = "vectors.safetensors", "vocab.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedWordsInfo:
    """``mcse.json``: the source file by name and digest, the features' description, and the resolved configuration."""

    source: str
    source_digest: str
    feature_store: str
    recipe: str = "grounded_words"
    config: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def save_grounded_words(
    folder: Path, blocks: Iterable[WordBlock], *, word_map: WordMap, vocab: Vocab, info: GroundedWordsInfo, card: str
) -> None:
    """Writes a checkpoint folder; ``blocks`` are text vectors of the words whose grounded vectors it shall hold.

    Raises:
        ValueError: ``folder`` holds something, or a block has another width than the map takes.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; a checkpoint is written into a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with WordVectorWriter(folder / VECTORS_FILE, width=word_map.map_DC.shape[1]) as writer:
        for block in blocks:
            writer.append(word_map.ground(block))
    word_map.save(folder)
    vocab.save(folder / VOCAB_FILE)
    text = json.dumps(asdict(info), indent=2, ensure_ascii=False)
    (folder / "mcse.json").write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def read_info(folder: Path) -> GroundedWordsInfo:
    """``mcse.json`` of a checkpoint folder.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        found = json.loads((folder / "mcse.json").read_text(encoding="utf-8"))
        return GroundedWordsInfo(**{field.name: found[field.name] for field in fields(GroundedWordsInfo)})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'mcse.json'}: damaged, or of no grounded words ({error!r})") from None


def find_grounded_words(name: str | Path) -> Path | None:
    """The checkpoint folder that ``name`` is, or whose run ``name`` is (its ``best/``); ``None`` for anything else."""
    folder = model_in(Path(name))
    return folder if folder is not None and (folder / VECTORS_FILE).is_file() else None
