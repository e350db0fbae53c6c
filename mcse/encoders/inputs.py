"""What every kind of encoder does: takes sentences and a precision, and leaves a model in the mode it was in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import nn

from mcse.cpu import ensure_bfloat16
from mcse.errors import said

Found = TypeVar("Found")

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class RawText:
    """A sentence that another library tokenises, batch by batch: as long as its characters.

    ``cut`` is the longest input in tokens, where it is asked for.
    """

    text: str
    cut: int | None

    def __len__(self) -> int:
        return len(self.text) + 1  # an empty sentence has an embedding, too


def check_batch_size(batch_size: int) -> None:
    """Refuses a size below 1 with a ``ValueError``."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


def longest_first(lengths: Iterable[int], *, batch_size: int) -> list[list[int]]:
    """Numbers of the items that have a length, in batches of similar length.

    The longest come first, so that what does not fit into memory says so at once.

    Raises:
        ValueError: ``batch_size`` is below 1.
    """
    check_batch_size(batch_size)
    length_N = np.fromiter(lengths, dtype=np.int64)
    order = np.argsort(-length_N, kind="stable")[: np.count_nonzero(length_N)].tolist()
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def in_batches(
    lengths: Iterable[int], work: Callable[[list[int]], Sequence[Found]], *, batch_size: int, empty: Found
) -> list[Found]:
    """One result an item, in the order of the items; ``empty`` for those without length.

    Args:
        lengths: Of the items.
        work: Results of the items whose numbers it is given: a batch of similar length.
        batch_size: Items a batch.
        empty: A result.
    """
    sizes = list(lengths)
    found = [empty] * len(sizes)
    for numbers in longest_first(sizes, batch_size=batch_size):
        for number, result in zip(numbers, work(numbers), strict=True):
            found[number] = result
    return found


def chosen_device(device: str | torch.device | None) -> torch.device:
    """The device itself; of ``None``, CUDA where there is one.

    Raises:
        ValueError: There is no such kind of device, or none here.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {str(device)!r} cannot be used: {said(error)}; such as cpu or cuda:1 can be named"
        ) from None
    return chosen


def as_texts(sentences: str | Sequence[str]) -> list[str]:
    """Sentences as a list, one string as a list of one.

    Raises:
        ValueError: An item is not a string.
    """
    texts = [sentences] if isinstance(sentences, str) else list(sentences)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"sentences[{number}] is a {type(text).__name__}, not a string: {text!r:.80}")
    return texts


def check_word_lists(texts: Sequence[Sequence[str]]) -> None:
    """Refuses a text as one string where lists of words are wanted: it would be read as a list of letters.

    Raises:
        ValueError: A text is a string.
    """
    for number, words in enumerate(texts):
        if isinstance(words, str):
            raise ValueError(
                f"text {number} is one string, {words!r:.80}; give its words, such as {words.split()!r:.80}"
            )


def check_precision(precision: Precision) -> Precision:
    """The precision itself.

    Raises:
        ValueError: There is no such precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    return precision


def check_only_pooling(name: str, pooling: str | None, *, only: str, why: str) -> None:
    """Refuses another pooling than the ``only`` one of a model with a ``ValueError`` that says why."""
    if pooling not in (None, only):
        raise ValueError(f"{name!r}: pooling {pooling!r} is not available, only {only!r}: {why}")


def autocast(device: torch.device, *, precision: Precision) -> torch.autocast:
    """Runs matrix products in ``precision``.

    Raises:
        ValueError: There is no such precision, or this processor cannot do it.
    """
    if check_precision(precision) == "bfloat16" and device.type == "cpu":
        ensure_bfloat16()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule is in the mode in which it was found."""
    training = [part for module in modules for part in module.modules() if part.training]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
