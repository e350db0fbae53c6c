"""The term of sentences and what they are paired with in a joint space.

B queries of this process, N rows of all processes, H joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mcse.distributed import gather_ids, gather_rows
from mcse.losses.contrastive import Margin, TeacherFilter, info_nce, unit_rows
from mcse.types import LossTerm


def joint_contrast(
    views: Sequence[Tensor],
    key_BH: Tensor,
    id_B: Tensor,
    *,
    temperature: float,
    weight: float,
    reduction: Literal["mean", "sum"] = "mean",
    margin: Margin | None = None,
    filtering: TeacherFilter | None = None,
    pair_weight_B: Tensor | None = None,
) -> LossTerm:
    """InfoNCE of each view of the sentences against the keys of all processes.

    A key of the query's own image is no negative.

    Args:
        views: (B, H) rows of the sentences, one a dropout view.
        key_BH: What each sentence is paired with.
        id_B: The image that each sentence belongs to.
        temperature: Divides cosines.
        weight: Of the term.
        reduction: Over views.
        margin: Makes logits harder.
        filtering: Leaves out keys that a teacher holds to be too near.
        pair_weight_B: Of each pair, more than 0; divided by their mean over all processes, so that the term is a
            weighted mean and keeps its scale.

    Source: Zhang et al. 2022 (MCSE), eq. 4, averaged over the views as in the released code unless ``sum`` is asked.
    """
    key_NH, offset = gather_rows(unit_rows(key_BH))
    key_id_N = gather_ids(id_B)
    if pair_weight_B is not None:
        weight_N1, _ = gather_rows(pair_weight_B[:, None])
        pair_weight_B = pair_weight_B / weight_N1.mean()
    terms = [
        info_nce(
            unit_rows(view_BH),
            key_NH,
            temperature=temperature,
            offset=offset,
            query_id_B=id_B,
            key_id_N=key_id_N,
            query_weight_B=pair_weight_B,
            margin=margin,
            filtering=filtering,
        )
        for view_BH in views
    ]
    share = 1.0 if reduction == "sum" else 1 / len(terms)
    return LossTerm(torch.stack(terms).sum() * share, count=len(id_B), weight=weight)
