"""Sentences of unequal length for PyTorch's recurrent layers, without letting the host wait for a GPU.

B sentences, T words, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from mcse.types.batches import from_host


def pack_rows(row_BTE: Tensor, length_B: NDArray[np.int64]) -> PackedSequence:
    """Rows without what stands behind the first ``length_B`` of each: what recurrent layers take.

    As ``pack_padded_sequence``, which lets the host wait for a GPU where sentences are not sorted by length.
    """
    order_B = (-length_B).argsort(kind="stable")
    order, place = from_host([order_B, order_B.argsort()], row_BTE.device)
    packed = pack_padded_sequence(row_BTE[order], torch.from_numpy(length_B[order_B]), batch_first=True)
    return PackedSequence(packed.data, packed.batch_sizes, order, place)


def unpack_rows(packed: PackedSequence, *, width: int) -> Tensor:
    """(B, ``width``, D) rows of what ``pack_rows`` packed, in its order; zeros behind the end of each."""
    # PyTorch's own order would bring numbers back from a GPU, to sort lengths without need.
    sorted_rows = PackedSequence(packed.data, packed.batch_sizes)
    row_BTD, _ = pad_packed_sequence(sorted_rows, batch_first=True, total_length=width)
    return row_BTD if packed.unsorted_indices is None else row_BTD[packed.unsorted_indices]
