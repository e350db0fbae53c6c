"""``SentenceTransformersEncoder``: a model of sentence-transformers, run by that library itself.

What ``SentenceEncoder`` does not follow (other poolings, prompts, static tables, routers, images, code of the model's
own) is here as that library has it; batches, order, devices and norms are the frame's.

N sentences or images, B of one batch, D embedding width.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn

from mcse.encoders.images import ImageInput, JointSpaceEncoder
from mcse.encoders.inputs import Precision, RawText, check_only_pooling, evaluating
from mcse.errors import said
from mcse.hub import at_commit, commit_of
from mcse.manifest import Located, Reading
from mcse.types import FloatArray

FIRST_VERSION = 6
"""From this version on, the library runs code of a local folder only where it is told to."""

_CODE_NEEDED = "trust_remote_code"
_EMBEDDING = "sentence_embedding"


class SentenceTransformersEncoder(JointSpaceEncoder[RawText]):
    """A sentence-transformers model of any make.

    A final ``Normalize`` is left to ``normalize``, so that raw embeddings are those before it; one inside a ``Router``
    stays. A ``Router`` takes its default route. Models that also take images put both into one space.

    Args:
        model: As ``sentence_transformers.SentenceTransformer`` gives it; its final ``Normalize`` is taken away.
        name: As for every encoder.
        precision: As for every encoder.

    Raises:
        ValueError: The model cannot encode a sentence.
    """

    def __init__(self, model: Any, *, name: str = "", precision: Precision = "float32") -> None:
        from sentence_transformers.sentence_transformer.modules import Normalize

        last = list(model._modules)[-1]
        if isinstance(model[-1], Normalize) and model[-1].module_input_name == _EMBEDDING and len(model) > 1:
            delattr(model, last)  # the others keep their names, which the library looks up
        self._model = model
        self._load_tower, self.image_tower = None, name or None
        self.pooling = _pooling(model)
        self.prompt = model.prompts.get(model.default_prompt_name) or ""
        longest = model.get_max_seq_length()
        super().__init__(name=name, longest=longest if isinstance(longest, int) else None, precision=precision)
        with evaluating([model]), torch.inference_mode():
            self._width = self._guarded(lambda: self._forward([RawText("a", None)])).shape[1]

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        check_only_pooling(
            located.name, pooling, only="own", why="sentence-transformers pools as the model's own files say"
        )
        return cls(load_sentence_transformer(located), name=located.name, precision=precision)

    @property
    def dimension(self) -> int:
        """D, the width of the embeddings of ``encode``: under the model's own ``truncate_dim``, that."""
        return self._width

    @property
    def has_image_heads(self) -> bool:
        """Whether the model takes images."""
        return bool(self._model.supports("image"))

    @property
    def image_width(self) -> int:
        """D: image features are in the space already."""
        if not self.has_image_heads:
            raise ValueError(f"{self._title()} takes no images, so it cannot compare sentences with them")
        return self._width

    def image_features(self, images: ImageInput | Sequence[ImageInput], *, batch_size: int = 32) -> FloatArray:
        """(N, D) float32 embeddings of images (PIL images, or paths), not normalised, in their order.

        Raises:
            ValueError: The model takes no images; ``batch_size`` is below 1; an image is missing or cannot be read.
        """
        width = self.image_width

        def rows_of(read: Sequence[Image.Image]) -> Tensor:
            return self._guarded(lambda: self._rows(self._model.preprocess(list(read))))

        with evaluating([self._model]):
            return self._read_images(images, lambda image: image, rows_of, width=width, batch_size=batch_size)

    def _take(self, reading: Reading) -> None:
        """The library puts the prompt before a sentence itself: some models leave it out of their pooling."""
        prompts: Mapping[str, str] = self._model.prompts
        if reading.prompt_name is not None and reading.prompt_name not in prompts:
            listed = ", ".join(map(repr, prompts)) or "none"
            raise ValueError(f"--prompt-name {reading.prompt_name!r}: {self._title()} lists {listed}")
        if reading.prompt is not None:
            self.prompt = reading.prompt
        elif reading.prompt_name is not None:
            self.prompt = prompts[reading.prompt_name] or ""

    def _prompted(self, texts: Sequence[str]) -> Sequence[str]:
        return texts

    def _modules(self) -> list[nn.Module]:
        return [self._model]

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[RawText]:
        """Texts as they are: the library tokenises batch by batch."""
        cut = None if max_length == self._longest else max_length
        if cut is not None and not hasattr(self._model[0], "processing_kwargs"):
            raise ValueError(f"{self._title()} cannot be given another max_length than its own")
        return [RawText(text, cut) for text in texts]

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """As for every encoder; of a model without a mask of tokens, words."""
        read = self._model.preprocess(list(sentences), prompt=self.prompt or None)
        mask = read.get("attention_mask")
        return [len(text.split()) for text in sentences] if mask is None else [int(n) for n in mask.sum(dim=1)]

    def _forward(self, tokens: Sequence[RawText]) -> Tensor:
        cut = tokens[0].cut
        asked = {} if cut is None else {"processing_kwargs": {"text": {"max_length": cut, "truncation": True}}}
        texts = [token.text for token in tokens]
        return self._rows(self._model.preprocess(texts, prompt=self.prompt or None, **asked))

    def _forward_images(self, feature_BF: Tensor) -> Tensor:
        return feature_BF

    def _rows(self, features: Any) -> Tensor:
        from sentence_transformers.util import batch_to_device

        row_BD: Tensor = self._model(batch_to_device(features, self.device))[_EMBEDDING]
        return row_BD if self._model.truncate_dim is None else row_BD[:, : self._model.truncate_dim]

    def _guarded(self, rows: Callable[[], Tensor]) -> Tensor:
        try:
            return rows()
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{self._title()}: sentence-transformers cannot run it: {said(error)}") from error


def load_sentence_transformer(located: Located) -> Any:
    """The model that a name stands for, on the CPU, as that library loads it.

    Raises:
        ValueError: The library is not installed or too old, it cannot load the model, or the model needs its own code
            and ``located.reading`` does not trust it.
    """
    library, path = _library(located.name), repository(located.path)
    try:
        return library(
            path,
            device="cpu",
            trust_remote_code=located.reading.trust_remote_code,
            local_files_only=Path(path).is_dir(),
            **at_commit(path),
        )
    except Exception as error:
        # Its modules, and code that is trusted, may fail in any way.
        hint = ""
        if _CODE_NEEDED in str(error) and not located.reading.trust_remote_code:
            hint = "; if you trust its code, --trust-remote-code runs it"
        raise ValueError(f"{located.name}: sentence-transformers cannot load it: {said(error)}{hint}") from error


def repository(path: str) -> str:
    """A folder, or the repository that the library takes for a name: one without an owner is its own."""
    if "/" in path or Path(path).is_dir() or commit_of(f"sentence-transformers/{path}") is None:
        return path
    return f"sentence-transformers/{path}"


def _library(name: str) -> Any:
    needed = "pip install 'mcse[sentence-transformers]'"
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        if error.name != "sentence_transformers":
            raise
        raise ValueError(
            f"{name}: needs the package sentence-transformers, which is not installed ({needed})"
        ) from None
    found = importlib.metadata.version("sentence-transformers")
    if int(found.partition(".")[0]) < FIRST_VERSION:
        raise ValueError(
            f"{name}: needs sentence-transformers {FIRST_VERSION} or later, which runs a folder's own code only where "
            f"it is told to; {found} is installed ({needed})"
        )
    return SentenceTransformer


def _pooling(model: Any) -> str:
    """The library's name for the pooling; ``own`` of a model without a module for it."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    for module in model:
        if isinstance(module, Pooling):
            mode = module.pooling_mode
            return mode if isinstance(mode, str) else "+".join(mode)
    return "own"
