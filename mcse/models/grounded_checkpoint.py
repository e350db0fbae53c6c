"""The checkpoint folder of grounded word vectors.

``vectors.safetensors`` holds words and grounded vectors, which is what evaluation loads; ``word_map.safetensors`` the
map that grounds any further word; ``vocab.json`` the words that training saw; ``mcse.json`` is the manifest, whose
details name the file of text vectors (``source``, ``source_digest``); ``README.md`` is the card.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mcse.manifest import Located, Manifest, check_files, locate, writing_checkpoint
from mcse.text.vocab import Vocab
from mcse.text.word_map import WordMap
from mcse.text.word_vector_writer import WordVectorWriter
from mcse.text.word_vectors import WordBlock

VECTORS_FILE, VOCAB_FILE = "vectors.safetensors", "vocab.json"


def save_grounded_words(
    folder: Path, blocks: Iterable[WordBlock], *, word_map: WordMap, vocab: Vocab, manifest: Manifest, card: str
) -> None:
    """Writes a checkpoint folder; ``blocks`` are text vectors of the words whose grounded vectors it stores.

    Raises:
        ValueError: ``folder`` holds something, or a block has another width than the map takes.
    """
    with writing_checkpoint(folder, manifest, card=card):
        with WordVectorWriter(folder / VECTORS_FILE, width=word_map.map_DC.shape[1]) as writer:
            for block in blocks:
                writer.append(word_map.ground(block))
        word_map.save(folder)
        vocab.save(folder / VOCAB_FILE)


def open_grounded_words(name: str | Path) -> tuple[Path, Manifest]:
    """The checkpoint folder of a run or checkpoint, and its manifest; all its files but the vectors are checked.

    Raises:
        ValueError: It is of another kind, or damaged.
    """
    located = locate(name).expect("grounded_words")
    assert located.manifest is not None
    check_files(located.folder, but=(VECTORS_FILE,))
    return located.folder, located.manifest


def vectors_file(name: str | Path | Located) -> Path:
    """The file of word vectors that ``name`` is, or that a run or checkpoint of grounded words holds.

    Raises:
        ValueError: It is of another kind, or damaged.
    """
    if not isinstance(name, Located) and not Path(name).is_dir():
        return Path(name)
    located = locate(name).expect("vectors", "grounded_words")
    if located.kind == "vectors":
        return Path(located.path)
    check_files(located.folder, only=(VECTORS_FILE,))
    return located.folder / VECTORS_FILE
