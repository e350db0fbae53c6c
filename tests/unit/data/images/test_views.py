"""Random views: torchvision's own distribution, drawn by seed, step and place; and images with their classes."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from mcse.data.config import UnpairedDataConfig
from mcse.data.images.views import MEAN, SPREAD, ViewDraw, ViewStream, apply_view, draw_view, load_images
from mcse.data.source_variants import FileSentences, ImagesAlone
from mcse.data.streams import Share
from mcse.images import BadImageError
from tests.fixtures.image_folder import image, image_folder, spoil

CLASSES = {"ant": 5, "bee": 3, "cow": 8}


@pytest.fixture
def folder(tmp_path):
    for number, (name, count) in enumerate(CLASSES.items()):
        for row in range(count):
            path = tmp_path / "images" / name / ("inner" if row % 2 else "") / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image(10 * number + row, size=(30, 20)).save(path)
    return tmp_path / "images"


def load(folder, **keys):
    given = ImagesAlone(folder=str(folder), **keys)
    return load_images(UnpairedDataConfig(sentences=FileSentences(file="s"), images=given), given)


# --- one view


def many_draws(width, height, count=4000):
    generator = np.random.default_rng(0)
    return [draw_view(generator, width=width, height=height) for _ in range(count)]


@pytest.mark.parametrize(("width", "height"), [(300, 200), (50, 200)])
def test_crops_are_drawn_as_torchvision_draws_them(width, height):
    boxes = np.asarray([draw.box for draw in many_draws(width, height)], dtype=float)
    crop = transforms.RandomResizedCrop(8, scale=(0.2, 1.0))
    picture = Image.new("RGB", (width, height))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.asarray([crop.get_params(picture, crop.scale, crop.ratio) for _ in range(4000)], dtype=float)
    for column in range(4):
        ours, their = np.sort(boxes[:, column]), np.sort(theirs[:, column])
        # Kolmogorov and Smirnov's distance; 0.03 is passed in one of 20 runs, 0.044 in one of 1,000.
        grid = np.unique(np.concatenate([ours, their]))
        distance = np.abs(
            np.searchsorted(ours, grid, side="right") / len(ours)
            - np.searchsorted(their, grid, side="right") / len(their)
        )
        assert distance.max() < 0.044, column


def test_an_image_too_narrow_for_any_crop_gives_its_middle():
    draws = many_draws(8, 400, count=50)
    with torch.random.fork_rng(devices=[]):
        crop = transforms.RandomResizedCrop(8, scale=(0.2, 1.0))
        assert {draw.box for draw in draws} == {crop.get_params(Image.new("RGB", (8, 400)), (0.2, 1.0), (3 / 4, 4 / 3))}


def test_changes_have_their_shares_and_bounds():
    draws = many_draws(30, 20)
    shares = {
        "mirrored": (np.mean([draw.is_mirrored for draw in draws]), 0.5),
        "jittered": (np.mean([bool(draw.changes) for draw in draws]), 0.8),
        "grey": (np.mean([draw.is_grey for draw in draws]), 0.2),
    }
    for name, (found, wanted) in shares.items():
        assert found == pytest.approx(wanted, abs=4 * 0.5 / np.sqrt(4000)), name
    changed = [draw.changes for draw in draws if draw.changes]
    amounts = {name: np.asarray([dict(changes)[name] for changes in changed]) for name, _ in changed[0]}
    for name in ("brightness", "contrast", "saturation"):
        assert amounts[name].min() == pytest.approx(0.6, abs=0.01)
        assert amounts[name].max() == pytest.approx(1.4, abs=0.01)
    assert (amounts["hue"].min(), amounts["hue"].max()) == (
        pytest.approx(-0.1, abs=0.002),
        pytest.approx(0.1, abs=0.002),
    )
    assert len({tuple(name for name, _ in changes) for changes in changed}) == 24, "in any order"


def test_a_view_is_what_torchvisions_transforms_make():
    picture = image(5, size=(30, 20))
    plain = ViewDraw((3, 4, 12, 16), is_mirrored=False, changes=(), is_grey=False)
    box = transforms.functional.crop(picture, 3, 4, 12, 16)
    wanted = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor(), transforms.Normalize(MEAN, SPREAD)])(
        box
    )
    torch.testing.assert_close(apply_view(picture, plain, size=8), wanted, rtol=0, atol=0)
    mirrored = apply_view(picture, replace(plain, is_mirrored=True), size=8)
    torch.testing.assert_close(mirrored, wanted.flip(2), rtol=0, atol=2 / 255 / min(SPREAD))
    grey = apply_view(picture, replace(plain, is_grey=True), size=8)
    level = grey * torch.tensor(SPREAD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert float((level - level[0]).abs().max()) < 1e-6
    dark = apply_view(picture, replace(plain, changes=(("brightness", 0.0),)), size=8)
    torch.testing.assert_close(dark, (-torch.tensor(MEAN) / torch.tensor(SPREAD))[:, None, None].expand_as(dark))


# --- batches of them


def stream(images, *, rank=0, processes=1, size=8, seed=3):
    share = Share(batch_size=size // processes, rank=rank, world_size=processes)
    return ViewStream(images, np.arange(len(images)), share, seed=seed, size=8)


def test_any_number_of_processes_draws_the_same(folder):
    images = load(folder)
    for step in (0, 1, 2):
        whole = stream(images).batch(step)
        halves = [stream(images, rank=rank, processes=2).batch(step) for rank in range(2)]
        first, second = zip(*(half.pixel_V3HW.chunk(2) for half in halves), strict=True)
        assert torch.equal(torch.cat([*first, *second]), whole.pixel_V3HW)
        assert torch.equal(torch.cat([half.label_B for half in halves]), whole.label_B)
        assert halves[0].dropout_seed != halves[1].dropout_seed


def test_batches_are_functions_of_their_step_and_leave_pytorchs_generator_alone(folder):
    images = load(folder)
    before = torch.get_rng_state()
    forward = [stream(images).batch(step) for step in range(4)]
    one = stream(images)
    backward = {step: one.batch(step) for step in (3, 0, 2, 1)}
    assert torch.equal(before, torch.get_rng_state())
    for step, batch in enumerate(forward):
        assert torch.equal(batch.pixel_V3HW, backward[step].pixel_V3HW)
        assert batch.dropout_seed == backward[step].dropout_seed
    assert len({batch.dropout_seed for batch in forward}) == 4


def test_views_differ_within_a_batch_between_epochs_and_between_seeds(folder):
    images = load(folder)
    first, again, other = stream(images).batch(0), stream(images).batch(2), stream(images, seed=4).batch(0)
    everything = torch.cat([batch.pixel_V3HW.flatten(1) for batch in (first, again, other)])
    assert len(torch.unique(everything, dim=0)) == len(everything)


def test_an_image_that_comes_back_to_its_place_has_other_views(tmp_path):
    image(1, size=(30, 20)).save(tmp_path / "0.png")
    images = load(tmp_path)
    everything = torch.cat([stream(images, size=1).batch(step).pixel_V3HW.flatten(1) for step in range(3)])
    assert len(torch.unique(everything, dim=0)) == 6


def test_an_epoch_shows_every_image_once(folder):
    images = load(folder)
    shown = torch.cat([stream(images).batch(step).label_B for step in range(2)])
    assert sorted(shown.tolist()) == list(range(16))


def test_both_views_are_of_the_image_whose_label_is_beside_them(tmp_path):
    (tmp_path / "a").mkdir()
    for level in range(8):
        Image.new("RGB", (30, 20), (30 * level,) * 3).save(tmp_path / "a" / f"{level}.png")
    batch = stream(load(tmp_path)).batch(0)
    levels = (batch.pixel_V3HW * torch.tensor(SPREAD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).mean(
        (1, 2, 3)
    )
    for view in levels.chunk(2):
        # Brightness changes by up to 0.4; so does contrast, which on one colour does nothing.
        wanted = batch.label_B * 30 / 255
        assert bool((view <= wanted * 1.4 + 0.02).all())
        assert bool((view >= wanted * 0.6 - 0.02).all())


def test_images_are_decoded_once_a_batch_in_threads(folder, monkeypatch):
    images = load(folder)
    loaded, threads = [], set()
    plain = type(images.source).load

    def load_noted(self, index):
        loaded.append(index)
        threads.add(threading.get_ident())
        return plain(self, index)

    monkeypatch.setattr(type(images.source), "load", load_noted)
    stream(images).batch(0)
    assert len(loaded) == len(set(loaded)) == 8
    assert threading.get_ident() not in threads


# --- the images


def test_classes_are_the_first_folders(folder):
    images = load(folder)
    assert images.classes == ("ant", "bee", "cow")
    assert np.bincount(images.class_of_image).tolist() == list(CLASSES.values())
    names = [images.source.names[row].split("/")[0] for row in images.row_of_image]
    assert [images.classes[place] for place in images.class_of_image] == names


def test_a_list_says_which_images_are_used(folder, tmp_path):
    (tmp_path / "list.txt").write_text("cow/inner/3.png\nant/0.png\ncow/2.png\n")
    images = load(folder, listed=str(tmp_path / "list.txt"))
    assert [images.source.names[row] for row in images.row_of_image] == ["ant/0.png", "cow/2.png", "cow/inner/3.png"]
    assert (images.classes, images.class_of_image.tolist()) == (("ant", "cow"), [0, 1, 1])
    assert images.file().digest != load(folder).file().digest
    bad = spoil(folder)
    assert len(load(folder, listed=str(tmp_path / "list.txt"))) == 3, f"{bad} are not asked for"
    (tmp_path / "list.txt").write_text("ant/0.png\nant/99.png\n")
    with pytest.raises(ValueError, match=r"list\.txt against .*ant/99\.png"):
        load(folder, listed=str(tmp_path / "list.txt"))
    with pytest.raises(FileNotFoundError, match=r"data\.images\.listed: no file at"):
        load(folder, listed="absent.txt")


def test_an_image_in_no_folder_leaves_no_classes(tmp_path):
    images = load(image_folder(tmp_path / "images"))
    assert (images.classes, len(images.class_of_image), images.num_bare) == ((), 0, 6)


def test_unreadable_images_stop_the_run_or_are_left_out(folder):
    bad = spoil(folder)
    with pytest.raises(BadImageError, match=r"2 of 18 images cannot be read, first: .*cut\.jpg.*on_bad skip"):
        load(folder)
    images = load(folder, on_bad="skip")
    assert (len(images), images.num_left_out, images.num_bare) == (16, 2, 0)
    assert not {images.source.names[row] for row in images.row_of_image} & set(bad)
    assert images.classes == ("ant", "bee", "cow"), "those in no folder are the unreadable ones"


def test_what_is_not_there_is_refused_by_name(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.images\.folder: no folder at .*absent"):
        load(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"16 images are fewer than one batch of 17 \(image\.batch_size 17"):
        stream(load(folder), size=17)
