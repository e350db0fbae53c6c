"""An index that a service searches: of sentences, of images, or the files of ``mcse embed``.

Q queries, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcse.encoders.loading import AnyEncoder, encoder_digest
from mcse.manifest import absolute_name
from mcse.search.embedding_files import FACTS, read_embeddings, read_facts
from mcse.search.embedding_index import EmbeddingIndex, Hit
from mcse.search.engine import ImageSearch, check_joint
from mcse.search.image_index import KIND as IMAGES
from mcse.search.image_index import ImageIndex, check_same_model
from mcse.search.index_files import kind_of
from mcse.stored_rows import unit
from mcse.types import FloatArray


@dataclass(frozen=True, slots=True)
class ServedIndex:
    """What is searched.

    Attributes:
        index: The embeddings with their ids and texts; ``mcse embed`` keeps no texts, and they are empty.
        images: The images behind it, where it is an index of images.
    """

    index: EmbeddingIndex
    images: ImageSearch | None = None

    def search(self, query_QD: FloatArray, *, top_k: int) -> list[list[Hit]]:
        """For each unit embedding the nearest; wider ones are cut to the width of the index first."""
        if self.index.width < query_QD.shape[1]:
            query_QD = unit(query_QD[:, : self.index.width])
        return self.index.search_by_embeddings(query_QD, top_k=top_k)


def open_served(folder: Path, encoder: AnyEncoder, model: str) -> ServedIndex:
    """Reads an index that the model has made.

    Args:
        folder: ``EmbeddingIndex.save``, ``mcse search index`` or ``mcse embed`` wrote it.
        encoder: The model.
        model: Its name.

    Raises:
        ValueError: There is none, it is damaged, or another model made it.
    """
    if (folder / FACTS).is_file():
        return _embedded(folder, encoder, model)
    if kind_of(folder) == IMAGES:
        images = ImageIndex.load(folder)
        check_same_model(images.origin, model, where=str(folder))
        joint = check_joint(encoder, model)
        return ServedIndex(images.searcher(joint), ImageSearch(images, joint))
    return ServedIndex(EmbeddingIndex.load(folder, encoder))


def _embedded(folder: Path, encoder: AnyEncoder, model: str) -> ServedIndex:
    facts = read_facts(folder)
    digest = encoder_digest(model)
    if digest is None or facts.model_digest is None:
        is_same = facts.model == absolute_name(model)
    else:
        is_same = facts.model_digest == digest
    if not is_same or facts.pooling != encoder.pooling:
        raise ValueError(
            f"{folder} was made with {facts.model} (pooling {facts.pooling}); {model} (pooling {encoder.pooling}) is "
            "another model"
        )
    index = EmbeddingIndex(encoder)
    for ids, row_ND in read_embeddings(folder):
        try:
            index.add_embeddings(row_ND, texts=[""] * len(ids), ids=ids)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
    return ServedIndex(index)
