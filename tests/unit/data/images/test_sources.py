"""Images by name, from folders and data sets; what cannot be read is named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mcse.data.images.names import find_all
from mcse.data.images.sources import (
    find_bad_images,
    open_images,
)
from mcse.images import BadImageError, load_image
from tests.fixtures.image_folder import COUNT, image, image_folder, spoil


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "images")


def test_a_folder_names_its_images_by_path(folder):
    source = open_images(str(folder))
    assert len(source.names) == COUNT
    assert source.names[:2] == ("00.png", "02.png")
    assert "deep/er/03.png" in source.names
    rows = find_all(["03", "deep/er/05.png", "02.png"], source.names, where="w")
    assert [source.names[i] for i in rows] == ["deep/er/03.png", "deep/er/05.png", "02.png"]
    np.testing.assert_array_equal(np.asarray(source.load(rows[0])), np.asarray(image(3)))
    with pytest.raises(ValueError, match=r"w: 2 of 3 images are not there, first 'x.png'"):
        find_all(["x.png", "02.png", "y.png"], source.names, where="w")


def test_ambiguous_names_are_refused(folder):
    image(0).save(folder / "deep" / "00.png")
    with pytest.raises(ValueError, match=r"'x/00.png' fits several images"):
        find_all(["x/00.png"], open_images(str(folder)).names, where="w")


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_images(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in it"):
        open_images(str(tmp_path / "empty"))
    image(0).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png: a file"):
        open_images(str(tmp_path / "a.png"))
    with pytest.raises(ValueError, match="no splits in a folder of images"):
        open_images(f"{tmp_path}::train")


def test_bad_images_are_named(folder):
    bad = spoil(folder)
    source = open_images(str(folder))
    everything = range(len(source.names))
    found = find_bad_images(source, everything)
    assert [image.name for image in found] == bad
    assert "cut.jpg: cannot be read: image file is truncated" in found[0].reason
    assert "text.jpg: cannot be read: not an image" in found[1].reason
    with pytest.raises(BadImageError, match=r"gone.png: no such file"):
        load_image(folder / "gone.png")


def test_images_are_upright_rgb(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    image(0).save(tmp_path / "turned.jpg", exif=turned)
    assert load_image(tmp_path / "turned.jpg").size == (8, 12)
    image(0).convert("L").save(tmp_path / "grey.png")
    image(0).convert("RGBA").save(tmp_path / "alpha.png")
    image(0).convert("P").save(tmp_path / "palette.png")
    for name in ("grey", "alpha", "palette"):
        assert load_image(tmp_path / f"{name}.png").mode == "RGB"
