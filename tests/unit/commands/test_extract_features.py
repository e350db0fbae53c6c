"""Images, towers, and the command that turns one into a store with the other."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys

import datasets
import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image

from mcse.commands import extract_features
from mcse.commands.main import build_parser
from mcse.data.captions.table import load_captions
from mcse.data.images.features import captions_to_features, open_features
from mcse.data.images.sources import (
    BadImageError,
    find_bad_images,
    find_images,
    load_image,
    open_images,
)
from mcse.models.image_tower import load_image_tower

COUNT = 11
SMALL_TIMM = "timm:test_vit.r160_in1k/none"


def image(seed, size=(12, 8)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for i in range(COUNT):
        path = root / ("deep/er" if i % 2 else "") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(i).save(path)
    (root / "notes.txt").write_text("not an image")
    return root


def extract(*arguments):
    """As the command line does it, but errors are raised."""
    options = vars(build_parser().parse_args(["extract-features", *map(str, arguments)]))
    return extract_features.run(**{key: value for key, value in options.items() if key not in ("work", "command")})


def test_a_folder_names_its_images_by_path(folder):
    source = open_images(str(folder))
    assert len(source.names) == COUNT
    assert source.names[:2] == ("00.png", "02.png")
    assert "deep/er/03.png" in source.names
    rows = find_images(["03", "deep/er/05.png", "02.png"], source, where="w")
    assert [source.names[i] for i in rows] == ["deep/er/03.png", "deep/er/05.png", "02.png"]
    np.testing.assert_array_equal(np.asarray(source.load(rows[0])), np.asarray(image(3)))
    with pytest.raises(ValueError, match=r"w: 2 of 3 images are not there, first 'x.png'"):
        find_images(["x.png", "02.png", "y.png"], source, where="w")


def test_ambiguous_names_are_refused(folder):
    image(0).save(folder / "deep" / "00.png")
    with pytest.raises(ValueError, match=r"'x/00.png' fits several images"):
        find_images(["x/00.png"], open_images(str(folder)), where="w")


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


def spoil(folder):
    """One image cut off, one that is text, both named."""
    noise = image(99, size=(300, 200))
    noise.save(folder / "cut.jpg")
    data = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "text.jpg").write_text("<html>404</html>")
    return ["cut.jpg", "text.jpg"]


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


def test_a_hub_dataset_gives_captions_and_images_of_the_same_names(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    files = [folder / "00.png", folder / "00.png", folder / "02.png"]
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files] + [None]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    columns = {"image": cells, "caption": ["a", "b", "c", "d"]}
    (tmp_path / "set").mkdir()
    names = {**columns, "filename": ["x", "x", "y", "z"]}
    features["filename"] = datasets.Value("string")
    datasets.Dataset.from_dict(names, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    source = open_images(str(tmp_path / "set"))
    assert source.names == ("x", "y", "z")
    np.testing.assert_array_equal(np.asarray(source.load(1)), np.asarray(image(2)))
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(source)).load(0)), np.asarray(image(0)))
    with pytest.raises(BadImageError, match="image z: the dataset's cell is empty"):
        source.load(2)
    assert (
        extract(
            "--images", tmp_path / "set", "--tower", "pixels:2", "--output", tmp_path / "s", "--on-bad-image", "skip"
        )
        == 0
    )
    table, store = load_captions(str(tmp_path / "set")), open_features(tmp_path / "s")
    assert table.captions == (("a", "b"), ("c",), ("d",))
    assert store.names == ("x", "y")
    with pytest.raises(ValueError, match="first 'z'"):
        captions_to_features(table, store)


def test_pixels_are_the_image_resized_and_centred(tmp_path):
    tower = load_image_tower("pixels:4")
    assert (tower.width, tower.spec) == (48, "pixels:4")
    assert "4x4" in tower.preprocessing
    grey = Image.new("RGB", (9, 5), (51, 102, 255))
    row = tower(tower.preprocess(grey)[None])[0].reshape(3, 4, 4)
    expected = torch.tensor([0.2, 0.4, 1.0]) - 0.5
    torch.testing.assert_close(row, expected[:, None, None].expand(3, 4, 4))
    pickle.loads(pickle.dumps(tower.preprocess))


def test_a_timm_tower_gives_timms_pooled_features():
    tower = load_image_tower(SMALL_TIMM)
    assert not tower.training
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit.r160_in1k", pretrained=False).eval()
    pixels = torch.stack([tower.preprocess(image(i, size=(200, 180))) for i in range(3)])
    assert pixels.shape == (3, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels), model.forward_head(model.forward_features(pixels), pre_logits=True))
        assert tower(pixels).shape == (3, tower.width)
    tower(pixels).square().sum().backward()  # end-to-end training reaches the weights
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in tower.parameters())


def test_an_open_clip_tower_gives_clips_image_features(tmp_path):
    random = load_image_tower("open_clip:ViT-S-32-alt/none")
    torch.manual_seed(5)
    clip = open_clip.create_model("ViT-S-32-alt", pretrained=None).eval()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    tower = load_image_tower(f"open_clip:ViT-S-32-alt/{tmp_path / 'clip.pt'}")
    pixels = torch.stack([tower.preprocess(image(i, size=(300, 250))) for i in range(2)])
    assert pixels.shape == (2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels), clip.encode_image(pixels))
        assert not torch.allclose(tower(pixels), random(pixels))
    assert tower.digest() != random.digest()
    assert '"interpolation": "bicubic"' in tower.preprocessing


def test_random_weights_are_the_same_every_time_and_disturb_no_draws():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = load_image_tower(SMALL_TIMM)
    torch.testing.assert_close(torch.rand(3), expected)
    assert first.digest() == load_image_tower(SMALL_TIMM).digest()
    assert first.digest() != load_image_tower(SMALL_TIMM, seed=1).digest()


def test_a_timm_checkpoint_with_its_classifier_loads(tmp_path):
    model = timm.create_model("test_vit.r160_in1k", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    tower = load_image_tower(f"timm:test_vit.r160_in1k/{tmp_path / 'vit.pth'}")
    torch.testing.assert_close(tower.state_dict()["body.cls_token"], model.state_dict()["cls_token"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", "expected open_clip:MODEL/PRETRAINED, timm:MODEL or pixels:N"),
        ("clip:ViT-B-32", "expected open_clip"),
        ("pixels:0", "positive whole number"),
        ("pixels:big", "positive whole number"),
        ("timm:resnet5/none", r"unknown model 'resnet5'; did you mean resnet"),
        ("timm:resnet18/absent.pt", r"no checkpoint file absent\.pt"),
        ("timm:resnet18.a1_in1k", "weights cannot be loaded"),
        ("open_clip:RN50", r"say which weights, such as open_clip:RN50/openai"),
        ("open_clip:RN50/best", r"'best' is neither a checkpoint file nor a tag of RN50; its tags: openai, yfcc15m"),
        ("open_clip:ViT-B-33/none", "did you mean ViT-B-32"),
    ],
)
def test_unknown_towers_are_refused(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_image_tower(spec)
    assert repr(spec) in str(caught.value)


def test_extraction_gives_the_towers_rows_under_the_images_names(folder, tmp_path, capsys):
    output = tmp_path / "store"
    assert extract("--images", folder, "--tower", SMALL_TIMM, "--output", output, "--batch-size", 4) == 0
    store, source, tower = open_features(output), open_images(str(folder)), load_image_tower(SMALL_TIMM)
    assert store.names == source.names
    assert (store.tower, store.preprocessing) == (tower.spec, tower.preprocessing)
    with torch.no_grad():
        expected = tower(torch.stack([tower.preprocess(source.load(i)) for i in range(COUNT)])).numpy()
    np.testing.assert_allclose(store.rows(np.arange(COUNT)), expected, rtol=1e-4, atol=1e-5)
    captured = capsys.readouterr()
    assert "11 images, width 64" in captured.out
    assert "11/11" in captured.err
    with pytest.raises(ValueError, match="finished feature store"):
        extract("--images", folder, "--tower", SMALL_TIMM, "--output", output)
    assert extract("--images", folder, "--tower", "pixels:2", "--output", output, "--overwrite") == 0
    assert open_features(output).tower == "pixels:2"


def test_lower_precision_is_close_and_stored_as_float32(folder, tmp_path):
    for precision in ("fp32", "bf16"):
        extract("--images", folder, "--tower", SMALL_TIMM, "--output", tmp_path / precision, "--precision", precision)
    full, half = (open_features(tmp_path / name).rows(np.arange(COUNT)) for name in ("fp32", "bf16"))
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(full, half, atol=0.1)


def test_names_select_and_order(folder, tmp_path):
    (tmp_path / "ids.txt").write_text("07\n02\n")
    arguments = ["--images", folder, "--tower", "pixels:2", "--output", tmp_path / "s", "--names", tmp_path / "ids.txt"]
    assert extract(*arguments) == 0
    assert open_features(tmp_path / "s").names == ("deep/er/07.png", "02.png")
    (tmp_path / "ids.txt").write_text("07\n77\n")
    with pytest.raises(ValueError, match="1 of 2 images are not there, first '77'"):
        extract(*arguments, "--overwrite")


def test_bad_images_stop_the_extraction_or_are_listed(folder, tmp_path, capsys):
    bad = spoil(folder)
    arguments = ["--images", folder, "--tower", "pixels:2", "--output", tmp_path / "s", "--batch-size", 3]
    with pytest.raises(ValueError, match=r"cut.jpg: cannot be read.*--on-bad-image skip"):
        extract(*arguments)
    assert extract(*arguments, "--on-bad-image", "skip") == 0
    assert "skipped 2 unreadable images" in capsys.readouterr().out
    store = open_features(tmp_path / "s")
    assert [image.name for image in store.skipped] == bad
    assert len(store) == COUNT
    assert not set(bad) & set(store.names)


KILLED = """
import os, signal, sys
from mcse.commands.main import main
from mcse.data.images import feature_writer
write, calls = feature_writer.write_json, 0
def killing(path, value):
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, value)
feature_writer.write_json = killing
sys.exit(main())
"""


def test_a_killed_extraction_continues_to_the_same_bytes(folder, tmp_path, capsys):
    """Killed after a batch's rows were written and before they were recorded."""
    arguments = ["--images", folder, "--tower", "pixels:8", "--batch-size", "2", "--output"]
    command = [sys.executable, "-c", KILLED, "extract-features", *arguments, tmp_path / "killed"]
    killed = subprocess.run(list(map(str, command)), capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "killed" / "progress.json").read_text())["done"] == 4
    with pytest.raises(ValueError, match="unfinished extraction, 4 of 11"):
        open_features(tmp_path / "killed")
    with pytest.raises(ValueError, match="with tower pixels:8, not pixels:2"):
        extract("--images", folder, "--tower", "pixels:2", "--output", tmp_path / "killed")
    assert extract(*arguments, tmp_path / "killed") == 0
    assert "continuing after 4 of 11 images" in capsys.readouterr().err
    assert extract(*arguments, tmp_path / "straight") == 0
    for name in ("features.npy", "names.json", "meta.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["features.npy", "meta.json", "names.json"]


def test_ctrl_c_keeps_what_is_done_and_says_so(folder, tmp_path, monkeypatch, capsys):
    append, calls = extract_features.FeatureWriter.append, []

    def interrupted(self, rows, *, skipped=()):
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        append(self, rows, skipped=skipped)

    monkeypatch.setattr(extract_features.FeatureWriter, "append", interrupted)
    arguments = ["--images", folder, "--tower", "pixels:2", "--output", tmp_path / "s", "--batch-size", 4]
    assert extract(*arguments) == 130
    assert "stopped after 4 of 11 images; the same command continues" in capsys.readouterr().err
    assert extract(*arguments) == 0
    assert len(open_features(tmp_path / "s")) == COUNT


def test_a_batch_size_of_zero_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="--batch-size must be positive, got 0"):
        extract("--images", folder, "--tower", "pixels:2", "--output", tmp_path / "s", "--batch-size", 0)
