"""``mcse extract-features``: runs a frozen image tower over images once, into a feature store.

B images of a batch, F feature width.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mcse.cpu import ensure_bfloat16
from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter
from mcse.data.images.names import read_name_list
from mcse.data.images.sources import (
    BadImageError,
    ImageSource,
    OnBadImage,
    SkippedImage,
    match_images,
    open_images,
)
from mcse.models.image_tower import ImageTower, load_image_tower

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LISTED = 10


def add_parser(subparsers: Subparsers) -> None:
    """Adds ``extract-features`` to the command line."""
    parser = subparsers.add_parser(
        "extract-features",
        help="run a frozen image tower over images once, into a feature store",
        description="Runs a frozen image tower over images once. Killed, it continues when started again.",
    )
    parser.add_argument("--images", required=True, help="folder of images, or a Hugging Face dataset (id or folder)")
    parser.add_argument(
        "--tower",
        required=True,
        help="open_clip:MODEL/PRETRAINED, timm:MODEL or pixels:N (/none: random weights); grid:timm:… and "
        "grid:pixels:N keep the regions of the last map apart",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the feature store")
    parser.add_argument("--names", type=Path, help="file listing the images to use, one a line (default: all)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--on-bad-image", choices=("error", "skip"), default="error")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: cuda where there is one)")
    parser.add_argument("--precision", choices=tuple(_PRECISIONS), default="fp32")
    parser.add_argument("--overwrite", action="store_true", help="replace the feature store in --output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Extracts; returns 0, or 130 after Ctrl-C.

    Raises:
        ValueError: bad tower, images or output folder; an unreadable image unless ``--on-bad-image skip``.
    """
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be positive, got {args.batch_size}")
    source = open_images(args.images)
    index = _chosen(source, args.names, where=args.images)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tower = load_image_tower(args.tower).to(device)
    plan = ExtractionPlan(
        names=tuple(source.names[i] for i in index),
        width=tower.width,
        regions=tower.regions,
        tower=tower.spec,
        preprocessing=tower.preprocessing,
        precision=args.precision,
        weights=tower.digest(),
    )
    with FeatureWriter(args.output, plan, overwrite=args.overwrite) as writer:
        if writer.done:
            _say(f"{args.output}: continuing after {writer.done} of {len(index)} images")
        try:
            _extract(writer, tower, source, index, args=args, device=device)
        except KeyboardInterrupt:
            _say(f"{args.output}: stopped after {writer.done} of {len(index)} images; the same command continues")
            return 130
        writer.finish()
    _report(args.output, writer)
    return 0


def _chosen(source: ImageSource, names: Path | None, *, where: str) -> list[int]:
    if names is None:
        return list(range(len(source.names)))
    rows = match_images(read_name_list(names), source, where=f"--names {names} against --images {where}")
    return [int(row) for row in rows]


def _extract(
    writer: FeatureWriter,
    tower: ImageTower,
    source: ImageSource,
    index: Sequence[int],
    *,
    args: argparse.Namespace,
    device: torch.device,
) -> None:
    if args.precision == "bf16" and device.type == "cpu":
        ensure_bfloat16()
    autocast = (
        contextlib.nullcontext()
        if args.precision == "fp32"
        else torch.autocast(device.type, dtype=_PRECISIONS[args.precision])
    )
    progress = tqdm(total=len(index), initial=writer.done, unit="image", file=sys.stderr, desc=tower.spec)
    batches = _batches(tower, source, index[writer.done :], batch_size=args.batch_size, on_bad_image=args.on_bad_image)
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
    print(f"{output}: {kept} images, width {writer.plan.width}{regions}, tower {writer.plan.tower}")
    if writer.skipped:
        print(f"skipped {len(writer.skipped)} unreadable images (all in {output / 'meta.json'}):")
        for image in writer.skipped[:_LISTED]:
            print(f"  {image.reason}")


def _say(message: str) -> None:
    print(message, file=sys.stderr)
