"""What images that a run is trained with can be asked, be they stored features, image files or parts of shards.

B images of a batch, F feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mcse.data.captions.table import CaptionTable
from mcse.data.streams import RowNumbers
from mcse.types import DataFile, FloatArray


class TrainingImages(Protocol):
    """Images by row, what they are, and who made them if they are features."""

    @property
    def label(self) -> str:
        """What they are, in a few words for a checkpoint."""
        ...

    @property
    def made_by(self) -> Mapping[str, str | None]:
        """Of features as far as it is known: their ``tower``, its ``preprocessing``, and its ``weights``' digest."""
        ...

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        """(B, F) features, or (B, 3, height, width) pixels."""
        ...

    def file(self, index: RowNumbers) -> DataFile:
        """What a run reads that shows the images ``index``, with its digest."""
        ...


class NamedImages(TrainingImages, Protocol):
    """Images that have names of their own, by which texts find them."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """One a row; ``None`` if there are none."""
        ...

    @property
    def origin(self) -> str:
        """Where they are, for messages."""
        ...

    def match(self, table: CaptionTable) -> tuple[CaptionTable, NDArray[np.int64]]:
        """The captions whose image can be read, and the row of each image.

        Raises:
            ValueError: Images are missing or cannot be read, or nothing says whose they are.
        """
        ...

    def unreadable(self, index: Sequence[int]) -> frozenset[int]:
        """Those of the images at ``index`` that cannot be read, each of which is looked at."""
        ...
