"""``mcse extract-features``: runs a frozen image tower over images once, into a feature store.

B images of a batch, F feature width.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mcse.cpu import ensure_bfloat16
from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter
from mcse.data.images.names import find_all, read_name_list
from mcse.data.images.sources import (
    ImageSource,
    OnBadImage,
    SkippedImage,
)
from mcse.data.images.tables import open_images_or_table
from mcse.encoders.inputs import chosen_device
from mcse.errors import printable
from mcse.images import BadImageError
from mcse.models.image_tower import ImageTower, load_image_tower
from mcse.progress import progress_bar

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LISTED = 10


def run(
    images: str,
    *,
    tower: str,
    output: Path,
    column: str | None = None,
    names: Path | None = None,
    batch_size: int = 64,
    on_bad_image: OnBadImage = "error",
    device: str | None = None,
    precision: str = "fp32",
    overwrite: bool = False,
) -> int:
    """Extracts; returns 0, or 130 after Ctrl-C.

    Raises:
        ValueError: bad tower, images or output folder; an unreadable image unless ``--on-bad-image skip``.
    """
    if batch_size < 1:
        raise ValueError(f"--batch-size must be positive, got {batch_size}")
    source = open_images_or_table(images, column=column, key="--images")
    index = _chosen(source, names, where=images)
    where = chosen_device(device)
    encoder = load_image_tower(tower).to(where)
    plan = ExtractionPlan(
        names=tuple(source.names[i] for i in index),
        width=encoder.width,
        regions=encoder.regions,
        tower=encoder.spec,
        preprocessing=encoder.preprocessing,
        precision=precision,
        weights=encoder.digest(),
    )
    with FeatureWriter(output, plan, overwrite=overwrite) as writer:
        if writer.done:
            _say(f"{output}: continuing after {writer.done} of {len(index)} images")
        try:
            rest = index[writer.done :]
            batches = _batches(encoder, source, rest, batch_size=batch_size, on_bad_image=on_bad_image)
            _extract(writer, encoder, batches, total=len(index), device=where, precision=precision)
        except KeyboardInterrupt:
            _say(f"{output}: stopped after {writer.done} of {len(index)} images; the same command continues")
            return 130
        writer.finish()
    _report(output, writer)
    return 0


def _chosen(source: ImageSource, names: Path | None, *, where: str) -> list[int]:
    if names is None:
        return list(range(len(source.names)))
    rows = find_all(read_name_list(names), source.names, where=f"--names {names} against --images {where}")
    return [int(row) for row in rows]


def _extract(
    writer: FeatureWriter,
    tower: ImageTower,
    batches: Iterator[tuple[list[Tensor], list[SkippedImage]]],
    *,
    total: int,
    device: torch.device,
    precision: str,
) -> None:
    if precision == "bf16" and device.type == "cpu":
        ensure_bfloat16()
    autocast = (
        contextlib.nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=PRECISIONS[precision])
    )
    progress = progress_bar(total=total, initial=writer.done, unit="image", title=tower.spec)
    with progress, torch.inference_mode(), autocast:
        for pixels, skipped in batches:
            rows = np.zeros((0, tower.width), dtype=np.float32)
            if pixels:
                rows = tower(torch.stack(pixels).to(device)).float().cpu().numpy()
            writer.append(rows, skipped=skipped)
            progress.update(len(pixels) + len(skipped))


def _batches(
    tower: ImageTower, source: ImageSource, index: Sequence[int], *, batch_size: int, on_bad_image: OnBadImage
) -> Iterator[tuple[list[Tensor], list[SkippedImage]]]:
    """Decoded batches; threads decode the next one while the tower works on this one."""

    def pixels_of(i: int) -> Tensor | SkippedImage:
        try:
            return tower.preprocess(source.load(i))
        except BadImageError as error:
            if on_bad_image == "error":
                raise BadImageError(f"{error}; --on-bad-image skip leaves such images out") from error
            return SkippedImage(source.names[i], str(error))

    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        upcoming = pool.map(pixels_of, index[:batch_size])
        for start in range(0, len(index), batch_size):
            current, upcoming = upcoming, pool.map(pixels_of, index[start + batch_size : start + 2 * batch_size])
            loaded = list(current)
            yield (
                [item for item in loaded if isinstance(item, Tensor)],
                [item for item in loaded if isinstance(item, SkippedImage)],
            )
    finally:
        pool.shutdown(cancel_futures=True)


def _report(output: Path, writer: FeatureWriter) -> None:
    kept = writer.done - len(writer.skipped)
    regions = f" ({writer.plan.regions} regions)" if writer.plan.regions > 1 else ""
    print(printable(f"{output}: {kept} images, width {writer.plan.width}{regions}, tower {writer.plan.tower}"))
    if writer.skipped:
        print(printable(f"skipped {len(writer.skipped)} unreadable images (all in {output / 'meta.json'}):"))
        for image in writer.skipped[:_LISTED]:
            print(printable(f"  {image.reason}"))


def _say(message: str) -> None:
    print(printable(message), file=sys.stderr)
