"""What the terms of a step see of its sentences: both views in unit norm, gathered once.

B rows of this process, N rows of all processes, D width, F width of the teachers' rows.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from mcse.distributed import gather_rows
from mcse.losses.contrastive import TeacherRows, unit_rows
from mcse.models.sentence_model import SentenceRows
from mcse.types import PairBatch, SentenceBatch


class Views:
    """The rows of a step; those of other processes are gathered when a term first asks for them.

    Args:
        rows: Of the model, after its head.
        batch: What they were made of.
    """

    def __init__(self, rows: SentenceRows, batch: SentenceBatch | PairBatch) -> None:
        self.rows, self.batch = rows, batch

    @cached_property
    def own_query(self) -> Tensor:
        """(B, D) first views."""
        return unit_rows(self.rows.query_BD)

    @cached_property
    def own_positive(self) -> Tensor:
        """(B, D) second views, or positives."""
        return unit_rows(self.rows.positive_BD)

    @cached_property
    def _keys(self) -> tuple[Tensor, int]:
        return gather_rows(self.own_positive)

    @property
    def all_positive(self) -> Tensor:
        """(N, D) second views of all processes."""
        return self._keys[0]

    @property
    def offset(self) -> int:
        """Row of the gathered rows at which this process's begin."""
        return self._keys[1]

    @cached_property
    def all_query(self) -> Tensor:
        """(N, D) first views of all processes."""
        return gather_rows(self.own_query)[0]

    @cached_property
    def teacher(self) -> TeacherRows:
        """The teachers' rows of this process's sentences and of all.

        Raises:
            ValueError: The batch has none.
        """
        row_BF = self.batch.teacher_BF
        if row_BF is None:
            raise ValueError("teachers: a term of the loss reads teachers' rows, and there are none")
        return TeacherRows(query_BF=row_BF, key_NF=gather_rows(row_BF)[0].detach())
