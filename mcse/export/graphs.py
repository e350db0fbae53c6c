"""A model's own PyTorch code as an ONNX file: pooling, heads and unit norm inside, any number and length of sentences.

B sentences or images, T tokens, D embedding width, H width shared with images, F image feature width.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcse.encoders.exported import CAPTIONS, ROWS
from mcse.encoders.images import ModelParts
from mcse.errors import said
from mcse.models.image_tower import ImageTower
from mcse.models.packing import ATTENTION
from mcse.models.text_encoder import TextEncoder
from mcse.types import TokenBatch

OPSET = 17


class _Graph(nn.Module):
    """What is traced: functions of the inputs, each brought to unit norm.

    Args:
        functions: One an output.
        modules: Everything with weights that these use.
    """

    def __init__(self, functions: Sequence[Callable[..., Tensor]], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.functions, self.parts = tuple(functions), nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.normalize(function(*inputs), dim=-1) for function in self.functions)


def check_expressible(parts: ModelParts, *, name: str) -> None:
    """Refuses what one graph over padded batches cannot express.

    Raises:
        ValueError: The model lets padding change a sentence's embedding.
    """
    if isinstance(parts.text, TextEncoder) and not parts.text.facts.masks_padding:
        raise ValueError(
            f"{name} lets padding change a sentence's embedding, and whoever runs a graph pads; it cannot be exported"
        )


def write_text_graph(path: Path, parts: ModelParts, modules: Sequence[nn.Module], *, name: str) -> None:
    """Writes ``input_ids`` and ``attention_mask``, (B, T) int64 → ``embeddings`` (B, D), and ``captions`` (B, H).

    PyTorch's exporter by tracing is taken: of BERT, RoBERTa, MPNet and DistilBERT the newer one makes the same numbers
    and a graph twice as large, in thirty times the time.

    Raises:
        ValueError: PyTorch's exporter cannot express the model.
    """
    functions = [parts.rows, *([] if parts.captions is None or parts.captions is parts.rows else [parts.captions])]

    def of_batch(function: Callable[[TokenBatch], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda ids_BT, mask_BT: function(TokenBatch(ids_BT, mask_BT))

    # Ids that every table has; lengths that differ, or padding would be traced as absent.
    ids_BT = torch.full((2, 7), 4)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 4:] = 0
    names = [ROWS, CAPTIONS][: len(functions)]
    graph = _Graph([of_batch(function) for function in functions], modules)
    backbone: Any = parts.text.backbone if isinstance(parts.text, TextEncoder) else None
    is_ours = backbone is not None and backbone.config._attn_implementation == ATTENTION
    if is_ours:
        backbone.set_attn_implementation("sdpa")  # ours is written for PyTorch alone; the same numbers
    try:
        _write(
            path, graph, {"input_ids": ids_BT, "attention_mask": mask_BT}, names, axes=("batch", "length"), name=name
        )
    finally:
        if is_ours:
            backbone.set_attn_implementation(ATTENTION)


def write_image_graph(
    path: Path,
    images: Callable[[Tensor], Tensor],
    modules: Sequence[nn.Module],
    *,
    tower: ImageTower | None,
    given: Tensor,
    name: str,
) -> str:
    """Writes images, or where no tower is known their features, → ``embeddings`` (B, H); returns the input's name.

    Args:
        path: The file.
        images: Features to embeddings.
        modules: Everything with weights that it uses.
        tower: Pixels to features.
        given: Two inputs: (2, 3, height, width) preprocessed pixels, or (2, F) features.
        name: For messages.

    Raises:
        ValueError: PyTorch's exporter cannot express the model.
    """
    place = "features" if tower is None else "pixel_values"
    function = images if tower is None else (lambda pixel_B3HW: images(tower(pixel_B3HW)))
    graph = _Graph([function], [*modules, *([] if tower is None else [tower])])
    _write(path, graph, {place: given}, [ROWS], axes=("batch",), name=name)
    return place


def _write(
    path: Path, graph: _Graph, given: dict[str, Tensor], outputs: list[str], *, axes: tuple[str, ...], name: str
) -> None:
    free = {place: dict(enumerate(axes)) for place in given} | {place: {0: axes[0]} for place in outputs}
    graph.eval().requires_grad_(False)
    try:
        with torch.no_grad(), quiet():
            torch.onnx.export(
                *(graph, tuple(given.values()), path),
                input_names=list(given),
                output_names=outputs,
                dynamic_axes=free,
                opset_version=OPSET,
                dynamo=False,
            )
    except ModuleNotFoundError as error:
        raise ValueError(f"an export needs {error.name}: pip install 'mcse[onnx]'") from None
    except Exception as error:  # of other people's modules, whatever comes
        raise ValueError(f"{name}: PyTorch's exporter cannot express it as ONNX: {said(error)}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' many warnings: what they wrote is compared with PyTorch's own numbers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
