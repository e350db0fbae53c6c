"""The one door for decoding images: formats, pixels, values, and that no file can start another program."""

from __future__ import annotations

import io
import os
import zlib

import datasets
import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from mcse.commands.main import main
from mcse.data.captions.table import load_captions
from mcse.data.images.sources import open_images
from mcse.data.sentences.files import load_hub_text
from mcse.data.shards.pairs import ShardPixels
from mcse.data.shards.tars import open_shards
from mcse.data.test_sets.sts import load_hub_dev
from mcse.images import FORMATS, MAX_PIXELS, BadImageError, as_rgb, decode_image, load_image
from tests.fixtures.colour_model import build_colour_model, draw_colours
from tests.fixtures.image_folder import image
from tests.fixtures.tiny_shards import write_tar


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    picture.save(target, format=kind, **options)
    return target.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(decode_image(io.BytesIO(content), name="x"))


@pytest.fixture
def eps() -> bytes:
    return encoded(image(0), "EPS")


@pytest.fixture
def calls(tmp_path, monkeypatch, eps):
    """Calls of a ``gs`` that stands first on the path; Pillow alone does run it."""
    log = tmp_path / "calls"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # whether there is one, Pillow asks once
    with pytest.raises(Exception, match="gs"), Image.open(io.BytesIO(eps)) as opened:
        opened.load()
    assert log.read_text().count("\n"), "the stand-in works"
    log.unlink()
    yield log
    assert not log.exists(), log.read_text()


def test_an_eps_named_jpg_starts_no_program(calls, eps, tmp_path, capsys):
    images = draw_colours(tmp_path / "images")
    (images / "g.jpg").write_bytes(eps)
    source = open_images(str(images))
    with pytest.raises(BadImageError, match=r"g\.jpg: cannot be read: its format is EPS; read are JPEG, PNG"):
        source.load(source.names.index("g.jpg"))
    store = ["extract-features", "--images", str(images), "--tower", "pixels:1", "--on-bad-image", "skip"]
    assert main([*store, "--output", str(tmp_path / "store")]) == 0

    model = build_colour_model(tmp_path / "model")
    search = ["search", "index", str(images), "--model", str(model), "--output", str(tmp_path / "index")]
    assert main(search) == 0
    assert "g.jpg: cannot be read: its format is EPS" in capsys.readouterr().out
    assert main(["search", "query", str(tmp_path / "index"), "--image", str(images / "g.jpg")]) == 2

    write_tar(tmp_path / "p.tar", {"0.jpg": eps, "0.txt": b"a dog"})
    with pytest.raises(BadImageError, match=r"0\.jpg: cannot be read: its format is EPS"):
        ShardPixels(open_shards("p.tar", root=tmp_path), pytest.fail).rows(np.array([0]))


def test_an_uploaded_eps_starts_no_program(calls, eps, tmp_path):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    from fastapi.testclient import TestClient

    from mcse.search.engine import open_search
    from mcse.search.server import build_app

    images, model = draw_colours(tmp_path / "images"), build_colour_model(tmp_path / "model")
    main(["search", "index", str(images), "--model", str(model), "--output", str(tmp_path / "index")])
    (images / "red.png").write_bytes(eps)  # changed after it was indexed
    search = open_search(tmp_path / "index")
    client = TestClient(build_app(search), base_url="http://127.0.0.1:8765")
    answer = client.post("/upload", files={"image": ("g.jpg", eps, "image/jpeg")})
    assert answer.status_code == 400
    assert "g.jpg: cannot be read: its format is EPS" in answer.text
    place = [stored.path for stored in search.index.images].index("red.png")
    assert client.get(f"/image/{place}").status_code == 404


def test_images_inside_data_sets_start_no_program(calls, eps, tmp_path):
    """Also where their column is not asked for."""
    rows = {
        "image": [{"bytes": eps, "path": "g.jpg"}],
        "caption": ["a dog"],
        "sentence1": ["a dog"],
        "sentence2": ["a cat"],
        "score": [1.0],
    }
    folder = tmp_path / "hub"
    folder.mkdir()
    columns = {name: datasets.Value("string") for name in rows} | {"score": datasets.Value("float64")}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(columns | {"image": datasets.Image()}))
    for split in ("train", "validation"):
        table.to_parquet(folder / f"{split}.parquet")
    assert load_captions(str(folder)).captions == (("a dog",),)
    source = open_images(str(folder))
    with pytest.raises(BadImageError, match="its format is EPS"):
        source.load(0)
    assert load_hub_dev(str(folder)).sentence1 == ("a dog",)
    for streaming in (False, True):
        assert next(iter(load_hub_text(str(folder), streaming=streaming)))["caption"] == "a dog"


def test_other_formats_are_refused_by_name(tmp_path):
    contents = {
        "ICO": encoded(image(0, size=(16, 16)), "ICO"),
        "PPM": encoded(image(0), "PPM"),
        "JPEG2000": encoded(image(0), "JPEG2000") if features.check("jpg_2000") else b"\0\0\0\x0cjP  \r\n\x87\n",
        "PDF": b"%PDF-1.4\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    }
    for name, content in contents.items():
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(BadImageError, match=rf"a\.jpg: cannot be read: its format is {name}; read are JPEG, PNG"):
            load_image(tmp_path / "a.jpg")
    with pytest.raises(BadImageError, match="image x: cannot be read: not an image of a format that is read"):
        decode_image(io.BytesIO(b"<html>404</html>"), name="x")
    with pytest.raises(BadImageError, match="the file is empty"):
        decode_image(io.BytesIO(b""), name="x")
    with pytest.raises(BadImageError, match="a damaged GIF file"):
        decode_image(io.BytesIO(b"GIF89a"), name="x")


def test_every_format_is_read_whatever_the_file_is_called(tmp_path):
    assert set(FORMATS) >= {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"}
    assert ("AVIF" in FORMATS) == ("avif" in features.modules and features.check("avif"))
    for kind in FORMATS:
        (tmp_path / "a.jpg").write_bytes(encoded(image(0), kind))
        assert load_image(tmp_path / "a.jpg").size == (12, 8)
        assert load_image(tmp_path / "a.jpg").mode == "RGB"


def test_pixels_are_counted_before_any_is_decoded(monkeypatch):
    """A PNG of a few bytes that says it is huge; its pixels are not there, and nobody looks for them."""
    header = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    content = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    content += b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BadImageError, match="exceeds limit"):
        decode_image(io.BytesIO(content), name="x")
    small = encoded(image(0), "PNG")
    with pytest.raises(BadImageError, match="it has 12 × 8 pixels, at most 95 are read"):
        decode_image(io.BytesIO(small), name="x", max_pixels=95)
    assert MAX_PIXELS == 1024**3 // 4 // 3, "what Pillow warns of"


def test_grey_of_16_bits_is_scaled_as_colours_of_16_bits_are(tmp_path):
    """Pillow reads colours of 16 bits itself, so the same values as colours say what grey must be."""
    value_HW = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in value_HW)
    chunks = [
        (b"IHDR", (32).to_bytes(4, "big") * 2 + b"\x10\x02\0\0\0"),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    colours = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks
    )
    with Image.open(io.BytesIO(colours)) as opened:
        expected = np.asarray(opened)
    assert expected.shape == (32, 32, 3)
    assert expected.std() > 70
    grey = Image.fromarray(value_HW)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decoded(encoded(grey, kind)), expected)
    inverted = encoded(grey, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(decoded(inverted), 255 - expected)
    np.testing.assert_array_equal(np.asarray(as_rgb(grey)), expected)


def test_values_without_a_known_range_are_refused():
    for array in (np.ones((4, 4), np.int32), np.ones((4, 4), np.float32)):
        with pytest.raises(BadImageError, match="whose range is not known; save it with 8 or 16 bits"):
            decoded(encoded(Image.fromarray(array), "TIFF"))


def test_modes_of_8_bits_become_rgb_as_pillow_says():
    rng = np.random.default_rng(0)
    for mode, kind in [
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("CMYK", "TIFF"),
        ("LAB", "TIFF"),
        ("YCbCr", "JPEG"),
    ]:
        bands = [
            Image.fromarray(rng.integers(0, 256, (8, 12), dtype=np.uint8)) for _ in range(Image.getmodebands(mode))
        ]
        picture = Image.merge(mode, bands) if mode not in ("1", "L", "P") else bands[0].convert(mode)
        with Image.open(io.BytesIO(encoded(picture, kind))) as opened:
            expected = np.asarray(opened.convert("RGB"))
        np.testing.assert_array_equal(decoded(encoded(picture, kind)), expected)


def test_palettes_with_transparency_keep_their_colours(recwarn):
    colour = Image.new("P", (4, 4), 1)
    colour.putpalette([0, 0, 0, 200, 100, 50])
    content = encoded(colour, "PNG", transparency=b"\xff\x00")
    assert decoded(content)[0, 0].tolist() == [200, 100, 50]
    assert not recwarn.list


def test_all_eight_orientations_are_turned_upright():
    """By the definition of EXIF's tag: what a viewer does to the stored pixels."""
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(np.ascontiguousarray(pixels)), "PNG", exif=exif)
        np.testing.assert_array_equal(decoded(content)[..., 0], upright)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_are_refused_by_name():
    """Every format with bytes changed or cut off: an image, or an error that names it, and nothing else."""
    rng = np.random.default_rng(0)
    refused = []
    for kind in FORMATS:
        whole = encoded(image(0), kind)
        for _ in range(60):
            content = bytearray(whole[: int(rng.integers(1, len(whole) + 1))])
            for place in rng.integers(0, len(content), int(rng.integers(0, 6))):
                content[place] = rng.integers(0, 256)
            try:
                assert decode_image(io.BytesIO(bytes(content)), name="x").mode == "RGB"
            except BadImageError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert all(message.startswith("image x: cannot be read: ") for message in refused)
