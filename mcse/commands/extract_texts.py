"""``mcse extract-features --encoder``: what a frozen encoder gives to texts, or to stored features of images, once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mcse.data.any_texts import read_texts
from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter, Plan
from mcse.data.images.features import open_features
from mcse.data.teacher_rows import TextPlan, text_key
from mcse.encoders.images import JointSpaceEncoder
from mcse.encoders.inputs import Precision, check_batch_size
from mcse.encoders.loading import AnyEncoder, encoder_digest, load_encoder
from mcse.encoders.untrained import draw_weights
from mcse.errors import printable
from mcse.files import digest_of
from mcse.manifest import Reading, absolute_name
from mcse.progress import phase, progress_bar
from mcse.types import FloatArray

_ROWS_A_BLOCK = 4096
"""Encoded between two notes of the progress: enough for full batches of equal length."""


@dataclass(frozen=True, slots=True)
class NamedEncoder:
    """An encoder with what a store says of it.

    Attributes:
        encoder: With the weights that are used.
        name: As it is found from any folder.
        digest: Of the model.
        untrained: The seed of random weights in place of its own.
    """

    encoder: AnyEncoder
    name: str
    digest: str
    untrained: int | None

    @property
    def joint(self) -> JointSpaceEncoder[Any]:
        """The encoder as one that shares a space with images.

        Raises:
            ValueError: It shares none.
        """
        if not isinstance(self.encoder, JointSpaceEncoder) or not self.encoder.has_image_heads:
            raise ValueError(f"--encoder {self.name}: shares no space with images; a checkpoint of vse or mcse does")
        return self.encoder


def open_named(
    name: str,
    *,
    pooling: str | None,
    precision: Precision,
    device: str | None,
    reading: Reading,
    untrained: int | None,
) -> NamedEncoder:
    """Loads an encoder, with weights drawn anew where ``untrained`` names a seed.

    Raises:
        ValueError: It cannot be loaded, drawn anew, or told from another of its name.
    """
    with phase(f"loading {name}"):
        encoder = load_encoder(name, pooling=pooling, precision=precision, device=device, reading=reading)
    if (digest := encoder_digest(name)) is None:
        raise ValueError(f"--encoder {name}: another encoder may have this name, so its rows are not stored")
    if untrained is not None:
        draw_weights(encoder, seed=untrained)
    return NamedEncoder(encoder, absolute_name(name), digest[:16], untrained)


def store_texts(
    sources: Sequence[str],
    named: NamedEncoder,
    output: Path,
    *,
    joint: bool,
    max_length: int | None,
    dtype: Literal["float32", "float16"],
    batch_size: int,
    overwrite: bool,
) -> int:
    """Encodes every different text of ``sources`` once, whatever kills it; 0, or 130 after Ctrl-C.

    Raises:
        ValueError: No text is there, or settings do not fit, also to what an earlier call began in ``output``.
    """
    check_batch_size(batch_size)
    texts = tuple(dict.fromkeys(text for source in sources for text in read_texts(source, key="--texts")))
    if not texts:
        raise ValueError(f"--texts {' '.join(sources)}: no text in it")
    if joint and max_length is not None:
        raise ValueError("--max-length: with --joint a text keeps as many tokens as the encoder takes")
    encoder = named.encoder
    plan = TextPlan(
        names=tuple(map(text_key, texts)),
        encoder=named.name,
        weights=named.digest,
        pooling=encoder.pooling,
        prompt=encoder.prompt,
        joint=joint,
        length=max_length,
        precision=encoder.precision,
        dtype=dtype,
        untrained=named.untrained,
        width=named.joint.joint_dimension if joint else encoder.dimension,
    )

    def rows_of(block: range) -> FloatArray:
        several = texts[block.start : block.stop]
        if joint:
            return named.joint.encode_captions(several, batch_size=batch_size)
        return encoder.encode(several, batch_size=batch_size, max_length=max_length)

    return _store(output, plan, rows_of, unit="text", overwrite=overwrite)


def store_images(features: Path, named: NamedEncoder, output: Path, *, batch_size: int, overwrite: bool) -> int:
    """Puts stored features of images into the space that the encoder shares with sentences; returns as ``store_texts``.

    Raises:
        ValueError: They are those of another tower than the encoder was trained with, have no names, or cannot be read.
    """
    store = open_features(features)
    if store.names is None:
        raise ValueError(f"--features {features}: has no names of images, by which their rows would be found again")
    store.check_tower(named.joint.image_tower)
    plan = ExtractionPlan(
        names=store.names,
        width=named.joint.joint_dimension,
        tower=named.name,
        preprocessing=f"features of {store.tower}, digest {digest_of(*filter(None, store.made_by.values()))[:16]}",
        precision=named.encoder.precision,
        weights=named.digest,
    )

    def rows_of(block: range) -> FloatArray:
        return named.joint.encode_image_features(store.rows(np.asarray(block)), batch_size=batch_size)

    return _store(output, plan, rows_of, unit="image", overwrite=overwrite)


def _store(output: Path, plan: Plan, rows_of: Callable[[range], FloatArray], *, unit: str, overwrite: bool) -> int:
    total = len(plan.names)
    with FeatureWriter(output, plan, overwrite=overwrite) as writer:
        try:
            with progress_bar(total=total, initial=writer.done, unit=unit, title=plan.maker) as bar:
                while writer.done < total:
                    row_BF = rows_of(range(writer.done, min(writer.done + _ROWS_A_BLOCK, total)))
                    writer.append(row_BF)
                    bar.update(len(row_BF))
        except KeyboardInterrupt:
            message = f"{output}: stopped after {writer.done:,} of {total:,} {unit}s; the same command continues"
            print(printable(message), file=sys.stderr)
            return 130
        writer.finish()
    print(printable(f"{output}: {total:,} {unit}s, width {plan.width} ({plan.dtype}), encoder {plan.maker}"))
    return 0
