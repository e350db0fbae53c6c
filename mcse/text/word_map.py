"""The zero-shot product of grounding: a linear map that takes any word's text vector to its grounded vector.

N words of one block, D text width, C grounded width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mcse.files import replacing
from mcse.text.word_vector_writer import WordVectorWriter
from mcse.text.word_vectors import WordBlock, WordVectors, stream_word_vectors

MAP_FILE = "word_map.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class WordMap:
    """``map_DC``, and the rows that replace a source's own where a word was tuned (none, by default).

    Source: G_e(w) = T_e(w) M of Shahmohammadi et al. 2021, section 3; whether words of the captions take their tuned
    or their original rows is not stated there.
    """

    map_DC: NDArray[np.float32]
    tuned: WordVectors | None = None

    def ground(self, block: WordBlock) -> WordBlock:
        """(N, C) grounded rows of the block's words.

        Raises:
            ValueError: The source's vectors have another width than the map takes.
        """
        if block.row_ND.shape[1] != len(self.map_DC):
            raise ValueError(
                f"the map takes vectors of {len(self.map_DC)} numbers, these have {block.row_ND.shape[1]}; give the "
                "file of word vectors that the run was trained with"
            )
        row_ND = block.row_ND
        if self.tuned is not None:
            index = self.tuned.index
            places = [place for place, word in enumerate(block.words) if word in index]
            row_ND = row_ND.copy()
            row_ND[places] = self.tuned.row_VD[[index[block.words[place]] for place in places]]
        return WordBlock(block.words, row_ND @ self.map_DC)

    def save(self, folder: Path) -> None:
        """Writes ``word_map.safetensors``."""
        tensors = {"map": self.map_DC}
        if self.tuned is not None:
            tensors["tuned"] = self.tuned.row_VD
            tensors["tuned_words"] = np.frombuffer("\n".join(self.tuned.words).encode(), dtype=np.uint8)
        with replacing(folder / MAP_FILE) as draft:
            save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, draft)

    @classmethod
    def load(cls, folder: Path) -> WordMap:
        """Reads what ``save`` wrote.

        Raises:
            ValueError: The file is absent or damaged.
        """
        try:
            tensors = load_file(folder / MAP_FILE)
            map_DC = tensors["map"]
            if "tuned" not in tensors:
                return cls(map_DC)
            words = tuple(tensors["tuned_words"].tobytes().decode("utf-8").split("\n"))
            return cls(map_DC, tuned=WordVectors.of(words, tensors["tuned"]))
        except (OSError, KeyError, SafetensorError, UnicodeDecodeError) as error:
            raise ValueError(f"{folder / MAP_FILE}: no map of words that can be read ({error})") from None


def ground_file(source: Path, target: Path, *, word_map: WordMap) -> int:
    """Grounds every word of ``source`` into ``target``, block by block, and returns how many words were read.

    Raises:
        ValueError: As ``stream_word_vectors``, ``WordVectorWriter`` and ``WordMap.ground``.
    """
    with WordVectorWriter(target, width=word_map.map_DC.shape[1]) as writer:
        for block in stream_word_vectors(source):
            writer.append(word_map.ground(block))
    return writer.count
