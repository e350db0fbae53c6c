"""The pairwise ranking loss: a correct pair must be more similar than wrong ones, by a margin.

B queries of this process, N keys of all processes, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mcse.losses.precision import at_least_float32

Negatives = Literal["sum", "hardest"]


def ranking_loss(
    query_BD: Tensor,
    key_ND: Tensor,
    *,
    margin: float,
    negatives: Negatives = "sum",
    offset: int = 0,
    excluded_BN: Tensor | None = None,
) -> Tensor:
    """Hinges of every query over its wrong keys; key ``offset + i`` is query i's right one.

    With similarities s = query · key the hinge of query i and wrong key k is max(0, margin − s(i, i) + s(i, k)). Both
    directions take two calls, with query and key exchanged.

    Args:
        query_BD: Queries, of unit norm for cosines.
        key_ND: Keys; the other N - 1 rows are the query's negatives.
        margin: In units of the similarity, > 0 (published: 0.2).
        negatives: ``sum`` of the hinges of all wrong keys, or that of the ``hardest`` alone.
        offset: Row of ``key_ND`` paired with ``query_BD[0]`` (see ``mcse.distributed.gather_rows``).
        excluded_BN: True where a key must not count as a negative, such as another caption of the same image.

    Returns:
        Scalar sum over the B queries, in float32 or wider.

    Raises:
        ValueError: ``margin`` is not positive, ``negatives`` is unknown, or a right key lies outside ``key_ND``.

    Source: Kiros et al. 2014, eq. 1 (``sum``); Faghri et al. 2018 (VSE++), eq. 6 (``hardest``). Their code leaves out
    the diagonal alone; ``excluded_BN`` is how callers leave out the image's other captions, too.
    """
    if margin <= 0:
        raise ValueError(f"margin must be positive, got {margin}")
    if offset < 0 or offset + len(query_BD) > len(key_ND):
        raise ValueError(
            f"right keys end at row {offset + len(query_BD)} (offset {offset}), but there are {len(key_ND)} keys"
        )
    # Autocast would put this product into bf16.
    with torch.autocast(query_BD.device.type, enabled=False):
        similarity_BN = at_least_float32(query_BD) @ at_least_float32(key_ND).T
    target_B = torch.arange(len(query_BD), device=query_BD.device) + offset
    own_BN = F.one_hot(target_B, len(key_ND)).bool()
    right_B1 = similarity_BN.gather(1, target_B[:, None])
    wrong_BN = ~own_BN if excluded_BN is None else ~(own_BN | excluded_BN)
    hinge_BN = (margin - right_B1 + similarity_BN).clamp(min=0) * wrong_BN
    if negatives == "sum":
        return hinge_BN.sum()
    if negatives == "hardest":
        return hinge_BN.amax(1).sum()
    raise ValueError(f"negatives must be sum or hardest, got {negatives!r}")
