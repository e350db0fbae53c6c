"""The trainable model of tables: every text of a row through one encoder.

B rows a process, V texts a row, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from mcse.models.text_encoder import TextEncoder
from mcse.types import TableBatch


class TableModel(nn.Module):
    """All texts of a batch in one forward pass; its rows are those that are exported, not normalised.

    Args:
        encoder: The text tower.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: TableBatch) -> Tensor:
        """(B, V, D) rows."""
        row_BVD: Tensor = self.encoder(batch.tokens).unflatten(0, (-1, len(batch.text_id_BV))).transpose(0, 1)
        return row_BVD
