"""Commands that a kill ends in the middle of their work: what they kept is whole, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcse.commands.main import main
from mcse.data.images import feature_writer
from mcse.data.images.features import open_features
from mcse.encoders.joint_encoder import JointEncoder
from mcse.search import builder
from mcse.search.image_index import ImageIndex
from tests.fixtures.colour_model import build_colour_model, draw_colours
from tests.fixtures.processes import in_child

COUNT = 11


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def extracting(images: Path, output: Path, *, edge: int = 8) -> list[str]:
    tower = f"pixels:{edge}"
    return ["extract-features", "--images", str(images), "--tower", tower, "--batch-size", "2", "--output", str(output)]


def killed_extraction(arguments: list[str]) -> None:
    write, calls = feature_writer.write_json, []

    def killing(path: Path, value: object) -> None:
        calls.append(path)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, value)

    feature_writer.write_json = killing
    main(arguments)


def test_a_killed_extraction_continues_to_the_same_bytes(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after a batch's rows were written and before they were recorded."""
    ended = in_child(killed_extraction, extracting(images, tmp_path / "killed"))
    assert ended.code == -signal.SIGKILL, ended.said
    assert json.loads((tmp_path / "killed" / "progress.json").read_text())["done"] == 4
    with pytest.raises(ValueError, match="unfinished extraction, 4 of 11"):
        open_features(tmp_path / "killed")
    assert main(extracting(images, tmp_path / "killed", edge=2)) == 2
    assert "with tower pixels:8, not pixels:2" in capsys.readouterr().err
    assert main(extracting(images, tmp_path / "killed")) == 0
    assert "continuing after 4 of 11 images" in capsys.readouterr().err
    assert main(extracting(images, tmp_path / "straight")) == 0
    for name in ("features.npy", "names.json", "meta.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["features.npy", "meta.json", "names.json"]


def killed_indexing(arguments: list[str]) -> None:
    builder._SAVE_SECONDS = 0.0
    encode, calls = JointEncoder.encode_images, []

    def dying(self: JointEncoder, *given: object, **options: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(self, *given, **options)

    JointEncoder.encode_images = dying
    main(arguments)


def test_a_kill_leaves_an_index_that_goes_on(tmp_path: Path) -> None:
    model, images = build_colour_model(tmp_path / "model"), draw_colours(tmp_path / "images")
    arguments = ["search", "index", str(images), "--model", str(model), "--output", str(tmp_path / "index")]
    ended = in_child(killed_indexing, [*arguments, "--batch-size", "2"])
    assert ended.code == -signal.SIGKILL, ended.said
    assert len(ImageIndex.load(tmp_path / "index")) == 4
    assert main(arguments) == 0
    assert len(ImageIndex.load(tmp_path / "index")) == 6
