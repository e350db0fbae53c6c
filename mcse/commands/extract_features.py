"""``mcse extract-features``: runs a frozen image tower over images, or an encoder over texts, once, into a store.

B images of a batch, F feature width.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from mcse.commands import extract_texts
from mcse.cpu import ensure_bfloat16
from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter
from mcse.data.images.names import find_all, read_name_list
from mcse.data.images.sources import (
    ImageSource,
    OnBadImage,
    SkippedImage,
)
from mcse.data.images.tables import open_images_or_table
from mcse.encoders.inputs import Precision, chosen_device
from mcse.errors import printable
from mcse.images import BadImageError
from mcse.manifest import Reading
from mcse.models.image_tower import ImageTower, load_image_tower
from mcse.progress import progress_bar
from mcse.types import FloatArray

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LISTED = 10


def run(
    images: str | None = None,
    *,
    output: Path,
    texts: Sequence[str] = (),
    features: Path | None = None,
    tower: str | None = None,
    encoder: str | None = None,
    column: str | None = None,
    names: Path | None = None,
    on_bad_image: OnBadImage = "error",
    pooling: str | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    trust_remote_code: bool = False,
    joint: bool = False,
    max_length: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    untrained: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    precision: str = "fp32",
    overwrite: bool = False,
) -> int:
    """Extracts; 0, or 130 after Ctrl-C; ``ValueError`` for what does not fit, and, if they stop it, bad images."""
    _check(images=images, texts=texts, features=features, tower=tower, encoder=encoder, batch_size=batch_size)
    _refuse("--images", images is None, column=column, names=names, on_bad_image=on_bad_image != "error")
    _refuse("--texts", not texts, joint=joint, max_length=max_length, dtype=dtype != "float32", untrained=untrained)
    _refuse("--encoder", encoder is None, pooling=pooling, prompt=prompt, prompt_name=prompt_name)
    named = None
    if encoder is not None:
        named = extract_texts.open_named(
            encoder,
            pooling=pooling,
            precision=_encoders_precision(precision),
            device=device,
            reading=Reading(prompt=prompt, prompt_name=prompt_name, trust_remote_code=trust_remote_code),
            untrained=untrained,
        )
    if named is not None and texts:
        return extract_texts.store_texts(
            texts,
            named,
            output,
            joint=joint,
            max_length=max_length,
            dtype=dtype,
            batch_size=batch_size,
            overwrite=overwrite,
        )
    if named is not None and features is not None:
        return extract_texts.store_images(features, named, output, batch_size=batch_size, overwrite=overwrite)
    assert images is not None
    source = open_images_or_table(images, column=column, key="--images")
    index = _chosen(source, names, where=images)
    made = _Made.of(tower, named, device=device)
    plan = made.plan(tuple(source.names[i] for i in index), precision=precision)
    batches = partial(_batches, made.tower, source, batch_size=batch_size, on_bad_image=on_bad_image)
    return _store(output, plan, made, lambda done: batches(index[done:]), overwrite=overwrite)


@dataclass(frozen=True, slots=True)
class _Made:
    """What makes rows of images: a tower, and the encoder that puts what it gives into the space of sentences."""

    tower: ImageTower
    device: torch.device
    named: extract_texts.NamedEncoder | None

    @classmethod
    def of(cls, tower: str | None, named: extract_texts.NamedEncoder | None, *, device: str | None) -> Self:
        where = chosen_device(device)
        return cls(load_image_tower(str(tower)).to(where) if named is None else named.joint.tower, where, named)

    def plan(self, names: tuple[str, ...], *, precision: str) -> ExtractionPlan:
        tower, named = self.tower, self.named
        return ExtractionPlan(
            names=names,
            width=tower.width if named is None else named.joint.joint_dimension,
            regions=tower.regions if named is None else 1,
            tower=tower.spec if named is None else named.name,
            preprocessing=tower.preprocessing,
            precision=precision,
            weights=tower.digest() if named is None else named.digest,
        )

    def rows(self, pixels: Sequence[Tensor]) -> FloatArray:
        """(B, F) rows of preprocessed images."""
        rows: FloatArray = self.tower(torch.stack(list(pixels)).to(self.device)).float().cpu().numpy()
        return rows if self.named is None else self.named.joint.encode_image_features(rows)


def _check(
    *,
    images: str | None,
    texts: Sequence[str],
    features: Path | None,
    tower: str | None,
    encoder: str | None,
    batch_size: int,
) -> None:
    """Refuses flags that do not go together."""
    if batch_size < 1:
        raise ValueError(f"--batch-size must be positive, got {batch_size}")
    if sum([images is not None, bool(texts), features is not None]) != 1:
        raise ValueError("give one of --images, --texts and --features")
    if (tower is None) == (encoder is None) or (encoder is None and images is None):
        raise ValueError("give --tower or --encoder with --images, and --encoder with --texts and --features")


def _encoders_precision(precision: str) -> Precision:
    if precision == "fp16":
        raise ValueError("--precision fp16: encoders work in fp32 and bf16; --dtype float16 halves what is stored")
    return "bfloat16" if precision == "bf16" else "float32"


def _store(
    output: Path,
    plan: ExtractionPlan,
    made: _Made,
    batches_after: Callable[[int], Iterator[tuple[list[Tensor], list[SkippedImage]]]],
    *,
    overwrite: bool,
) -> int:
    total = len(plan.names)
    with FeatureWriter(output, plan, overwrite=overwrite) as writer:
        if writer.done:
            _say(f"{output}: continuing after {writer.done} of {total} images")
        try:
            _extract(writer, made, batches_after(writer.done), total=total, precision=plan.precision)
        except KeyboardInterrupt:
            _say(f"{output}: stopped after {writer.done} of {total} images; the same command continues")
            return 130
        writer.finish()
    _report(output, writer)
    return 0


def _refuse(needed: str, absent: bool, **given: object) -> None:
    """Refuses flags that do nothing without another one."""
    for name, value in given.items():
        if absent and value is not None and value is not False:
            raise ValueError(f"--{name.replace('_', '-')}: is for {needed}")


def _chosen(source: ImageSource, names: Path | None, *, where: str) -> list[int]:
    if names is None:
        return list(range(len(source.names)))
    rows = find_all(read_name_list(names), source.names, where=f"--names {names} against --images {where}")
    return [int(row) for row in rows]


def _extract(
    writer: FeatureWriter[ExtractionPlan],
    made: _Made,
    batches: Iterator[tuple[list[Tensor], list[SkippedImage]]],
    *,
    total: int,
    precision: str,
) -> None:
    if precision == "bf16" and made.device.type == "cpu":
        ensure_bfloat16()
    autocast = (
        contextlib.nullcontext()
        if precision == "fp32"
        else torch.autocast(made.device.type, dtype=PRECISIONS[precision])
    )
    progress = progress_bar(total=total, initial=writer.done, unit="image", title=writer.plan.tower)
    with progress, torch.inference_mode(), autocast:
        for pixels, skipped in batches:
            rows = np.zeros((0, writer.plan.width), dtype=np.float32)
            if pixels:
                rows = made.rows(pixels)
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


def _report(output: Path, writer: FeatureWriter[ExtractionPlan]) -> None:
    kept = writer.done - len(writer.skipped)
    regions = f" ({writer.plan.regions} regions)" if writer.plan.regions > 1 else ""
    print(printable(f"{output}: {kept} images, width {writer.plan.width}{regions}, tower {writer.plan.tower}"))
    if writer.skipped:
        print(printable(f"skipped {len(writer.skipped)} unreadable images (all in {output / 'meta.json'}):"))
        for image in writer.skipped[:_LISTED]:
            print(printable(f"  {image.reason}"))


def _say(message: str) -> None:
    print(printable(message), file=sys.stderr)
