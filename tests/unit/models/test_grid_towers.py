"""Towers that keep an image's regions apart: which part of the row is which place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mcse.models.image_tower import load_image_tower


def image():
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_pixel_regions_are_squares_row_by_row():
    tower = load_image_tower("grid:pixels:32")
    assert (tower.regions, tower.width) == (16, 16 * 192)
    pixels = tower.preprocess(image())
    row = tower(pixels[None])[0].reshape(16, 192)
    for place in range(16):
        top, left = 8 * (place // 4), 8 * (place % 4)
        assert torch.equal(row[place], pixels[:, top : top + 8, left : left + 8].flatten())


def test_regions_of_a_convolution_average_to_its_pooled_feature():
    spec = "timm:resnet18/none"
    grid, plain = load_image_tower(f"grid:{spec}"), load_image_tower(spec)
    assert grid.regions == 49
    assert plain.regions == 1
    pixels = grid.preprocess(image())[None]
    with torch.no_grad():
        region_RF = grid(pixels)[0].reshape(49, -1)
        torch.testing.assert_close(region_RF.mean(0), plain(pixels)[0])
        last = grid.body.body.forward_features(pixels)[0]
    assert torch.equal(region_RF[8], last[:, 1, 1]), "the ninth region is the second of the second row"
    assert load_image_tower(f"grid:{spec}").digest() == grid.digest()


def test_regions_of_a_transformer_leave_its_class_token_out():
    tower = load_image_tower("grid:timm:vit_tiny_patch16_224/none")
    assert tower.regions == 196
    pixels = tower.preprocess(image())[None]
    with torch.no_grad():
        tokens = tower.body.body.forward_features(pixels)
        assert torch.equal(tower(pixels)[0].reshape(196, -1), tokens[0, 1:])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("grid:pixels:30", "30 is no multiple of 8"),
        ("grid:open_clip:ViT-B-32/none", "grid: stands before timm:MODEL or pixels:N"),
        ("grid:pixels:x", "needs a whole number from 1 to 1024"),
    ],
)
def test_what_has_no_places_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        load_image_tower(spec)
