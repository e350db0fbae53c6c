"""Search among sentences and images: indexes, the questions that are asked of them, the server and its page.

From Python: ``EmbeddingIndex`` for sentences; ``build_index``, ``open_search`` and ``Question`` for images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcse.search.builder import build_index as build_index
    from mcse.search.embedding_index import EmbeddingIndex as EmbeddingIndex
    from mcse.search.embedding_index import Hit as Hit
    from mcse.search.engine import Answer as Answer
    from mcse.search.engine import ImageSearch as ImageSearch
    from mcse.search.engine import Question as Question
    from mcse.search.engine import open_search as open_search
    from mcse.search.image_index import ImageIndex as ImageIndex

__all__ = ["Answer", "EmbeddingIndex", "Hit", "ImageIndex", "ImageSearch", "Question", "build_index", "open_search"]


def __getattr__(name: str) -> object:
    """The public names on first use, so that an index of sentences loads no model that sees images."""
    if name in ("EmbeddingIndex", "Hit"):
        from mcse.search import embedding_index

        return getattr(embedding_index, name)
    if name in ("Answer", "ImageSearch", "Question", "open_search"):
        from mcse.search import engine

        return getattr(engine, name)
    if name == "ImageIndex":
        from mcse.search.image_index import ImageIndex

        return ImageIndex
    if name == "build_index":
        from mcse.search.builder import build_index

        return build_index
    raise AttributeError(f"module 'mcse.search' has no attribute {name!r}")
