"""The one door through which image files are decoded: which formats, how many pixels, and how they become RGB.

Pillow opens some forty formats, and runs another program for some of them (Ghostscript for EPS, whatever the file is
called). Nothing else in the project opens an image, and a test holds it to that.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    if name != "AVIF" or ("avif" in features.modules and features.check("avif"))
)
"""What is read, by Pillow's names; AVIF where this Pillow was built with it."""

MAX_PIXELS = 89_478_485
"""Pillow's own bound: 256 MiB as RGB. A small file can hold an image that fills the memory."""

_EIGHT_BITS = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
"""Modes that Pillow turns into RGB itself."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0

_OTHERS = (
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML, such as SVG"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (4, b"ftypavi", "AVIF, which this Pillow was built without"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
)
"""Formats that Pillow does not know: where their first bytes stand, those bytes, and the name."""


class BadImageError(ValueError):
    """An image is missing, corrupt, cut off, too large, or of a format that is not read; the message names it."""


def load_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """``decode_image`` of a file.

    Raises:
        BadImageError: There is no such file, or as for ``decode_image``.
    """
    if not path.is_file():
        raise BadImageError(f"image {path}: no such file")
    return decode_image(path, name=str(path), max_pixels=max_pixels)


def decode_image(file: Path | io.BytesIO, *, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image of an encoded file in RGB, upright as its EXIF data says; the first frame of several.

    Args:
        file: Path or content.
        name: What messages call it.
        max_pixels: Width times height from which it is refused before any pixel is decoded.

    Raises:
        BadImageError: It is of another format than ``FORMATS``, too large, corrupt or cut off, or its values have no
            known range.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width} × {image.height} pixels"
                raise ValueError(f"it has {size}, at most {max_pixels:,} are read; make it smaller")
            return as_rgb(image)
    except Exception as error:
        # Pillow's decoders raise a dozen kinds of errors on damaged files.
        reason = _other_format(file) if isinstance(error, UnidentifiedImageError) else str(error)
        raise BadImageError(f"image {name}: cannot be read: {reason or type(error).__name__}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened image in RGB with 8 bits, upright as its EXIF data says.

    Grey values of 16 bits lose their lower byte, as Pillow itself does with colours of 16 bits. Transparency is left
    out: the colours beneath stay, as in torchvision's and open_clip's transforms.

    Raises:
        ValueError: Its values are whole numbers of 32 bits or floats, whose range no file says, or it is damaged.
    """
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # Pillow before 11
        return _from_16_bits(upright, tags=dict(getattr(image, "tag_v2", {})))
    if image.mode not in _EIGHT_BITS:
        raise ValueError(
            f"its pixels are of Pillow's mode {image.mode!r}, whose range is not known; save it with 8 or 16 bits a "
            "channel"
        )
    # Pillow warns of palettes with transparency unless they pass through RGBA, which leaves their colours as they are.
    has_transparency = image.mode == "P" and "transparency" in image.info
    return (upright.convert("RGBA") if has_transparency else upright).convert("RGB")


def _from_16_bits(image: Image.Image, *, tags: dict[int, object]) -> Image.Image:
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    if bits not in (16, (16,)):
        raise ValueError(f"its samples have {bits} bits; save it with 8 or 16")
    value_HW = np.asarray(image).astype(np.uint16) >> 8
    grey_HW = value_HW.astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey_HW = 255 - grey_HW
    return Image.fromarray(grey_HW).convert("RGB")


def _other_format(file: Path | io.BytesIO) -> str:
    """What the file seems to be by its first bytes; nothing of it is decoded."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            start = stream.read(16)
    else:
        start = file.getvalue()[:16]
    if not start:
        return "not an image: the file is empty"
    names = [title for place, magic, title in _OTHERS if start[place:].startswith(magic)]
    Image.init()  # makes every format known by its first bytes
    whole = start.ljust(16, b"\0")
    names += [name for name, (_, accepts) in Image.OPEN.items() if accepts is not None and accepts(whole) is True]
    if damaged := [name for name in names if name in FORMATS]:
        return f"a damaged {damaged[0]} file"
    if names:
        return f"its format is {names[0]}; read are {', '.join(FORMATS)}"
    return f"not an image of a format that is read ({', '.join(FORMATS)})"
