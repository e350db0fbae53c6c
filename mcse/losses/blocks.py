"""Sums over rows whose matrices are too large to hold: block after block of rows, with the gradient made on the way.

b rows of a block, N keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

LOGITS_AT_ONCE = 2**22
"""Logits held at a time (16 MiB in float32): a global batch of 65,536 rows never has its 17 GB of them in memory."""


def sum_in_blocks(
    function: Callable[..., Tensor], rows: Sequence[Tensor], keys: Sequence[Tensor], *, logits_at_once: int
) -> Tensor:
    """The sum of ``function(start, *rows, *keys)`` over blocks of rows; all rows at once where their logits fit.

    Args:
        function: The scalar sum over the rows that it is given, of which the first is row ``start``. Everything that
            has a gradient must be among its arguments.
        rows: Tensors of equally many rows, cut together.
        keys: Tensors that every block sees whole; the first has a row for each key.
        logits_at_once: Rows times keys above which blocks take turns. Same sum and gradient, but for rounding.
    """
    if len(rows[0]) * len(keys[0]) <= logits_at_once:
        return function(0, *rows, *keys)
    size = max(1, logits_at_once // len(keys[0]))
    total: Tensor = _SumInBlocks.apply(function, len(rows), size, *rows, *keys)
    return total


class _SumInBlocks(torch.autograd.Function):
    """Each block is differentiated as soon as it is made, so that no two blocks' matrices are held."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], cut: int, size: int, *tensors: Tensor) -> Tensor:
        needs = ctx.needs_input_grad[3:]
        grads = [torch.zeros_like(tensor) if need else None for tensor, need in zip(tensors, needs, strict=True)]
        total = tensors[0].new_zeros(())
        for start in range(0, len(tensors[0]), size):
            inside = slice(start, start + size)
            parts = [tensor[inside] if number < cut else tensor for number, tensor in enumerate(tensors)]
            parts = [part.detach().requires_grad_(need) for part, need in zip(parts, needs, strict=True)]
            with torch.enable_grad():
                loss = function(start, *parts)
            wanted = [part for part in parts if part.requires_grad]
            made = iter(torch.autograd.grad(loss, wanted) if wanted else ())
            for number, grad in enumerate(grads):
                if grad is not None:
                    (grad[inside] if number < cut else grad).add_(next(made))
            total = total + loss.detach()
        ctx.save_for_backward(*(grad for grad in grads if grad is not None))
        ctx.needs = needs
        return total

    @staticmethod
    def backward(ctx: Any, *upper: Tensor) -> tuple[Tensor | None, ...]:
        made = iter(ctx.saved_tensors)
        return (None, None, None, *(next(made) * upper[0] if need else None for need in ctx.needs))
