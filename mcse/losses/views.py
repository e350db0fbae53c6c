"""Contrast of two views of each image: by labels (SupCon; without labels it is SimCLR), and as VisualCSE has it.

B images of this process, N of all processes, R views of this process, K views of all processes, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mcse.losses.precision import at_least_float32


def supervised_contrast(
    row_RD: Tensor, label_R: Tensor, key_KD: Tensor, key_label_K: Tensor, *, temperature: float, offset: int = 0
) -> Tensor:
    """Every view against all others: those of its label become similar; the mean of their log-probabilities counts.

    A view's own copy among the keys is left out. With labels that no two images share, this is SimCLR's NT-Xent.

    Args:
        row_RD: Unit-norm views of this process.
        label_R: Of their images.
        key_KD: Unit-norm views of all processes; rows ``offset`` … are those of ``row_RD``.
        key_label_K: Of their images.
        temperature: Divides cosines; dimensionless, > 0 (VisualCSE: 0.07).
        offset: As ``mcse.distributed.gather_rows`` gives it.

    Returns:
        Scalar sum over the R views, in nats, in float32 or wider; a view without another of its label counts 0.

    Raises:
        ValueError: ``temperature`` is not positive.

    Source: Khosla et al. 2020, eq. 2 (the sum outside the logarithm); Chen et al. 2020, eq. 1. All logits are held at
    once: K is bounded by the pixels that a step can hold.
    """
    logit_RK = _logits(row_RD, key_KD, temperature=temperature)
    own_RK = F.one_hot(torch.arange(len(row_RD), device=row_RD.device) + offset, len(key_KD)).bool()
    is_positive_RK = (label_R[:, None] == key_label_K[None]) & ~own_RK
    log_sum_R = torch.logsumexp(logit_RK.masked_fill(own_RK, -torch.inf), dim=1)
    count_R = is_positive_RK.sum(1)
    mean_R = (logit_RK * is_positive_RK).sum(1) / count_R.clamp(min=1)
    return ((log_sum_R - mean_R) * (count_R > 0)).sum()


def published_contrast(
    first_BD: Tensor, second_ND: Tensor, label_B: Tensor, label_N: Tensor, *, temperature: float
) -> Tensor:
    """VisualCSE's ``--new_supcon``, whose positives are wrong: for experiments on what was published, and nothing else.

    First views are queries and second ones keys. A query's target is the *rank* of its class among the sorted classes
    of the batch, taken for the *place* of a key: all images of the batch's k-th class must match the batch's k-th
    image, whatever that shows. Of 48 images of 60 classes, 4 in 100 targets are of their query's class.

    Args:
        first_BD: Unit-norm first views of this process.
        second_ND: Unit-norm second views of all processes.
        label_B: Classes of this process's images.
        label_N: Of those of all processes.
        temperature: Divides cosines; dimensionless, > 0 (published: 0.07).

    Returns:
        Scalar sum over the B images, in nats, in float32 or wider.

    Raises:
        ValueError: ``temperature`` is not positive.

    Source: ``new_SupCon_forward`` of Jian, Gao and Vosoughi 2022's released code (VisualCSE/src/trainers.py).
    """
    logit_BN = _logits(first_BD, second_ND, temperature=temperature)
    return F.cross_entropy(logit_BN, rank_of_class(label_B, label_N), reduction="sum")


def rank_of_class(label_B: Tensor, label_N: Tensor) -> Tensor:
    """(B,) how many different labels of ``label_N`` are smaller than each of ``label_B``.

    Counted and not looked up among sorted ones, of which a GPU would make the host wait to learn how many there are.
    """
    place_N = torch.arange(len(label_N), device=label_N.device)
    is_seen_before_NN = (label_N[:, None] == label_N[None]) & (place_N[None] < place_N[:, None])
    is_new_N = ~is_seen_before_NN.any(1)
    return ((label_N[None] < label_B[:, None]) & is_new_N[None]).sum(1)


def _logits(row_RD: Tensor, key_KD: Tensor, *, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    # Autocast would put this product into bf16.
    with torch.autocast(row_RD.device.type, enabled=False):
        return at_least_float32(row_RD) @ at_least_float32(key_KD).T / temperature
