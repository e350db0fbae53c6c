"""The frame of every encoder: sentences to embeddings, in batches of similar length, in the order they came.

Chunks, sorting, device, precision, progress, evaluation mode and unit norm are here and nowhere else. A kind of encoder
says how text becomes tokens (``_tokenize``) and how a batch of tokens becomes embeddings (``_forward``).

N sentences, M others, B of one batch, D embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mcse import distributed
from mcse.encoders.inputs import (
    Precision,
    as_texts,
    autocast,
    check_batch_size,
    check_precision,
    chosen_device,
    evaluating,
    longest_first,
)
from mcse.encoders.located import located_anywhere
from mcse.manifest import Located, Reading
from mcse.progress import in_phase, progress_bar
from mcse.stored_rows import RowKind, check_row_kind, quantize, value_ranges
from mcse.types import FloatArray

_CHUNK = 32768
"""Tokenised and sorted at a time, and kept on the device: enough for full batches of equal length, little memory."""

Tokens = TypeVar("Tokens", bound=Sized)
"""One sentence as a kind reads it: ids, words, or whatever has a length. Without length its embedding is zeros."""


class BaseEncoder(ABC, Generic[Tokens]):
    """Sentences to embeddings.

    Attributes:
        pooling: Which vector stands for a sentence.
        prompt: Put before every sentence: what is asked for, or the model's own; mostly empty.

    Args:
        name: What to call the encoder in messages and reports.
        longest: Tokens that the model itself takes; ``None`` where nothing limits them.
        max_length: Longest input in tokens; ``longest`` by default, which it cannot exceed.
        precision: ``bfloat16`` runs matrix products in it; embeddings come out as float32 all the same.

    Raises:
        ValueError: There is no such precision, or ``max_length`` is more than the model takes.
    """

    pooling: str
    prompt: str = ""

    def __init__(
        self,
        *,
        name: str = "",
        longest: int | None = None,
        max_length: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.name = name
        self.precision = check_precision(precision)
        self._longest = longest
        self.max_length = self._limit(max_length)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Located,
        *,
        pooling: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> Self:
        """Loads a model that somebody saved.

        Args:
            name_or_path: As ``mcse.manifest.locate`` takes it: a run folder (its ``best/``), a checkpoint, another
                model's folder, a hub id, ``package:NAME/FOLDER``, or the name of a model of open_clip.
            pooling: Overrides what the model says; needed for one that says nothing.
            device: CUDA where there is one, by default.
            precision: As for the class.

        Raises:
            ValueError: No such model is there, it is damaged or of another kind, or it has no such pooling.
        """
        located = located_anywhere(name_or_path)
        encoder = cls._load(located, pooling=pooling, precision=precision)
        encoder._take(located.reading)
        return encoder.to(chosen_device(device))

    def _take(self, reading: Reading) -> None:
        """Does what is asked beside the name; a kind whose models list prompts, or have code, does it itself."""
        if reading.prompt_name is not None:
            raise ValueError(f"{self._title()} lists no prompts by name; --prompt takes one as text")
        if reading.trust_remote_code:
            raise ValueError(
                f"{self._title()}: --trust-remote-code is for sentence-transformers:NAME; no other has code"
            )
        if reading.prompt is not None:
            self.prompt = reading.prompt

    def _prompted(self, texts: Sequence[str]) -> Sequence[str]:
        """What is tokenised."""
        return [self.prompt + text for text in texts] if self.prompt else texts

    @classmethod
    @abstractmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        """The encoder in main memory; refuses kinds of models and poolings that are not its own."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """D, the width of the embeddings of ``encode``."""

    @abstractmethod
    def _modules(self) -> Sequence[nn.Module]:
        """Everything with weights."""

    @abstractmethod
    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> Sequence[Tokens]:
        """What ``_forward`` reads of each text, cut after ``max_length`` tokens."""

    @abstractmethod
    def _forward(self, tokens: Sequence[Tokens]) -> Tensor:
        """(B, D) embeddings of a batch, not normalised, on the encoder's device."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((weight.device for part in self._modules() for weight in part.parameters()), torch.device("cpu"))

    def to(self, device: str | torch.device) -> Self:
        """Moves the weights; returns itself."""
        for module in self._modules():
            module.to(device)
        return self

    @overload
    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        convert_to_tensor: Literal[False] = False,
        show_progress: bool = False,
        max_length: int | None = None,
        precision: Precision | None = None,
        dim: int | None = None,
        dtype: Literal["float32"] = "float32",
        ranges: FloatArray | None = None,
    ) -> FloatArray: ...

    @overload
    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        convert_to_tensor: Literal[False] = False,
        show_progress: bool = False,
        max_length: int | None = None,
        precision: Precision | None = None,
        dim: int | None = None,
        dtype: RowKind,
        ranges: FloatArray | None = None,
    ) -> NDArray[Any]: ...

    @overload
    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        convert_to_tensor: Literal[True],
        show_progress: bool = False,
        max_length: int | None = None,
        precision: Precision | None = None,
        dim: int | None = None,
        dtype: RowKind = "float32",
        ranges: FloatArray | None = None,
    ) -> Tensor: ...

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        convert_to_tensor: bool = False,
        show_progress: bool = False,
        max_length: int | None = None,
        precision: Precision | None = None,
        dim: int | None = None,
        dtype: RowKind = "float32",
        ranges: FloatArray | None = None,
    ) -> NDArray[Any] | Tensor:
        """Embeddings of sentences, in their order. Those that are not finite are returned as they are.

        Args:
            sentences: Several, or one.
            batch_size: Sentences a forward pass; they are sorted by length first.
            normalize: Whether embeddings have unit norm. Zeros stay zeros.
            convert_to_tensor: Gives a tensor on the encoder's device instead of an array in main memory.
            show_progress: Shows a bar, on the main process.
            max_length: Cuts sentences after so many tokens; ``self.max_length`` by default.
            precision: ``self.precision`` by default.
            dim: Keeps the first numbers of each embedding alone; unit norm is that of what is kept.
            dtype: As an index stores rows (``mcse.stored_rows``). ``binary`` has eight numbers a byte.
            ranges: (2, D) least and greatest value of each column, for ``int8`` and ``uint8``
                (``mcse.stored_rows.value_ranges``); by default those of these very sentences, and then rows of two
                calls do not compare.

        Returns:
            (N, D) float32, or (D,) for a single string; of another ``dtype`` what ``mcse.stored_rows.quantize`` gives.

        Raises:
            ValueError: An item is not a string, ``batch_size`` is below 1, ``max_length`` or ``dim`` beyond the model,
                no such ``dtype``, or ``ranges`` of another width or where ``dtype`` has none.
        """
        width = self._columns(dim)
        check_row_kind(dtype, ranges, width=width)
        row_ND = self._embed(
            sentences,
            self._forward,
            width=width,
            batch_size=batch_size,
            normalize=normalize,
            device=self.device if convert_to_tensor else torch.device("cpu"),
            show_progress=show_progress,
            max_length=self.max_length if max_length is None else self._limit(max_length),
            precision=precision or self.precision,
        )
        if dtype != "float32":
            array_ND = row_ND.cpu().numpy()
            stored = quantize(array_ND, dtype, range_2D=value_ranges(array_ND) if ranges is None else ranges)
            row_ND = torch.from_numpy(stored).to(row_ND.device)
        rows = row_ND[0] if isinstance(sentences, str) else row_ND
        return rows if convert_to_tensor else rows.numpy()

    def similarity(
        self, first: str | Sequence[str] | FloatArray, second: str | Sequence[str] | FloatArray, *, batch_size: int = 64
    ) -> FloatArray:
        """(N, M) cosines between sentences, or embeddings of ``encode``."""
        first_ND, second_MD = (self._unit_rows(given, batch_size=batch_size) for given in (first, second))
        if first_ND.shape[1] != second_MD.shape[1]:
            widths = f"{first_ND.shape[1]} and {second_MD.shape[1]} wide"
            raise ValueError(f"embeddings are {widths}; cosines need equal widths")
        return first_ND @ second_MD.T

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """How many tokens of each sentence, its prompt and the special ones included, the model reads."""
        return [len(tokens) for tokens in self._tokenize(self._prompted(sentences), max_length=self.max_length)]

    def _embed(
        self,
        sentences: str | Sequence[str],
        forward: Callable[[Sequence[Tokens]], Tensor],
        *,
        width: int,
        batch_size: int,
        max_length: int | None,
        precision: Precision,
        normalize: bool = True,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - a value, not a state
        show_progress: bool = False,
    ) -> Tensor:
        """(N, D) float32 on ``device``; one chunk at a time is on the encoder's."""
        check_batch_size(batch_size)
        texts = as_texts(sentences)
        own, mode = self.device, autocast(self.device, precision=precision)
        row_ND = torch.empty(len(texts), width, device=device)
        is_shown = (show_progress or in_phase()) and distributed.is_main()
        title = "" if show_progress else "encoding"
        bar = progress_bar(total=len(texts), unit="sentence", title=title, is_shown=is_shown, stays=show_progress)
        with bar, evaluating(self._modules()), torch.inference_mode(), mode:
            for start in range(0, len(texts), _CHUNK):
                tokens = self._tokenize(self._prompted(texts[start : start + _CHUNK]), max_length=max_length)
                chunk_ND = torch.zeros(len(tokens), width, device=own)
                for numbers in longest_first(map(len, tokens), batch_size=batch_size):
                    row_BD = forward([tokens[number] for number in numbers])[:, :width]
                    if normalize:
                        row_BD = F.normalize(row_BD.to(torch.promote_types(row_BD.dtype, torch.float32)), dim=-1)
                    chunk_ND[torch.tensor(numbers, device=own)] = row_BD.float()
                    bar.update(len(numbers))
                row_ND[start : start + len(tokens)] = chunk_ND
                bar.update(start + len(tokens) - bar.n)  # and those without tokens
        return row_ND

    def _columns(self, dim: int | None) -> int:
        if dim is not None and not 1 <= dim <= self.dimension:
            raise ValueError(f"dim must be from 1 to {self.dimension}, the width of the embeddings; got {dim}")
        return dim or self.dimension

    def _limit(self, max_length: int | None) -> int | None:
        if max_length is None:
            return self._longest
        if max_length < 1 or (self._longest is not None and max_length > self._longest):
            allowed = "1 or more tokens"
            if self._longest is not None:
                allowed = f"1 to {self._longest} tokens, the model's maximum"
            raise ValueError(f"max_length must be {allowed}; got {max_length}")
        return max_length

    def _unit_rows(self, given: str | Sequence[str] | FloatArray, *, batch_size: int) -> FloatArray:
        if isinstance(given, np.ndarray):
            row_ND = torch.from_numpy(np.atleast_2d(given).astype(np.float32, copy=False))
            array: FloatArray = F.normalize(row_ND, dim=-1).numpy()
            return array
        return self.encode([given] if isinstance(given, str) else given, batch_size=batch_size)

    def _title(self) -> str:
        return repr(self.name) if self.name else "this encoder"
