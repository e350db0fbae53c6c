"""Images and captions of tables: every format gives the same; what is no image, or not there, is named."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
from pathlib import Path

import datasets
import pandas
import pytest
from PIL import Image

from mcse.data.images.sources import ImageFolder
from mcse.data.images.tables import open_image_table
from mcse.data.source_variants import CaptionedTable, ImageColumn
from mcse.files import digest_of
from mcse.images import BadImageError

ROWS = [("img/a.png", ["a red mug", "mug"]), ("img/b.png", ["an oak table"]), ("img/a.png", ["a mug again"])]
CAPTIONS = (("a red mug", "mug", "a mug again"), ("an oak table",))
COLOURS = {"img/a.png": (200, 10, 10), "img/b.png": (90, 60, 20)}


def png(name):
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), COLOURS[name]).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "img").mkdir()
    for name in COLOURS:
        (tmp_path / name).write_bytes(png(name))
    return tmp_path


def write(folder, kind):
    """The same rows in one of the formats."""
    path = folder / f"products.{kind.partition(' ')[0]}"
    names = [name for name, _ in ROWS]
    texts = [several for _, several in ROWS]
    if kind in ("csv", "tsv"):  # which hold lists as JSON writes them
        frame = pandas.DataFrame({"file": names, "words": list(map(json.dumps, texts)), "price": 1})
        frame.to_csv(path, index=False, sep="," if kind == "csv" else "\t", quoting=0 if kind == "csv" else 3)
    elif kind == "jsonl":
        lines = [{"file": name, "words": several} for name, several in zip(names, texts, strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif kind == "parquet paths":
        pandas.DataFrame({"file": names, "words": texts}).to_parquet(path)
    elif kind == "parquet bytes":
        pandas.DataFrame({"file": list(map(png, names)), "words": texts}).to_parquet(path)
    elif kind == "parquet structs":
        images = [{"bytes": png(name), "path": name} for name in names]
        pandas.DataFrame({"file": images, "words": texts}).to_parquet(path)
    else:
        images = [Image.open(folder / name) for name in names]
        features = datasets.Features({"file": datasets.Image(), "words": datasets.Sequence(datasets.Value("string"))})
        datasets.Dataset.from_dict({"file": images, "words": texts}, features=features).save_to_disk(str(path))
    return path


def opened(path, *, image="file", caption="words", **keys):
    config = CaptionedTable(path=path.name, image=image, caption=caption, **keys)
    return open_image_table(config, root=path.parent, key="data.captions.table")


FORMATS = ["csv", "tsv", "jsonl", "parquet paths", "parquet bytes", "parquet structs", "saved"]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_captions_and_images(folder, kind) -> None:
    table = opened(write(folder, kind))
    captions, images = table.captions(), table.images()
    assert captions.captions == CAPTIONS
    assert captions.image_names == images.names
    for place, name in enumerate(COLOURS):
        assert images.load(place).tobytes() == Image.new("RGB", (6, 4), COLOURS[name]).tobytes()
    again = pickle.loads(pickle.dumps(images))
    assert again.names == images.names
    assert again.load(1).tobytes() == images.load(1).tobytes()
    named = images.names == ("img/a.png", "img/b.png")
    assert named == isinstance(images, ImageFolder) == (kind in ("csv", "tsv", "jsonl", "parquet paths"))


def test_images_without_a_path_are_named_by_their_content(folder) -> None:
    names = opened(write(folder, "parquet bytes")).images().names
    assert names == tuple(digest_of(png(name))[:16] for name in COLOURS)
    assert opened(write(folder, "parquet structs")).images().names == ("a.png", "b.png")


def test_two_images_of_one_path_are_two(folder) -> None:
    images = [{"bytes": png(name), "path": "image.png"} for name in COLOURS]
    pandas.DataFrame({"file": images, "words": ["a", "b"]}).to_parquet(folder / "t.parquet")
    table = opened(folder / "t.parquet")
    assert table.captions().captions == (("a",), ("b",))
    assert table.images().load(1).getpixel((0, 0)) == COLOURS["img/b.png"]


def test_plain_names_are_found_and_said(folder, caplog) -> None:
    (folder / "t.csv").write_text("file_name,description,price\nimg/a.png,a mug,1\n")
    with caplog.at_level(logging.INFO):
        table = open_image_table(CaptionedTable(path="t.csv"), root=folder, key="k")
    assert (table.image, table.caption) == ("file_name", "description")
    assert "image = 'file_name', caption = 'description'" in caplog.text


def test_files_are_looked_for_beside_the_table_then_at_the_root_then_below_the_data_variable(
    folder, tmp_path_factory, monkeypatch
) -> None:
    home, work, other = (tmp_path_factory.mktemp(name) for name in ("home", "work", "other"))
    (home / "t.csv").write_text("image,caption\nimg/a.png,a red mug\nimg/b.png,a table\n")
    monkeypatch.chdir(work)
    monkeypatch.setenv("MCSE_DATA", str(other))
    table = open_image_table(CaptionedTable(path=str(home / "t.csv")), root=Path(), key="k")
    said = f"none of the 2 images of its column 'image' is there, such as img/a.png; looked in {home}, ., {other}"
    with pytest.raises(FileNotFoundError, match=re.escape(said)):
        table.images(must_be_there=True)
    for number, place in enumerate((other, work, home)):
        (place / "img").mkdir()
        Image.new("RGB", (1, 1), (number, 0, 0)).save(place / "img" / "b.png")  # the first may be gone
        assert table.images(must_be_there=True).load(1).getpixel((0, 0)) == (number, 0, 0)
    Image.new("RGB", (1, 1)).save(other / "img" / "a.png")
    assert table.images().load(0).getpixel((0, 0)) == (0, 0, 0)


def test_paths_start_at_the_tables_folder_else_at_the_root(folder) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "t.csv").write_text("image,caption\nimg/a.png,a mug\n")
    source = open_image_table(CaptionedTable(path="sub/t.csv"), root=folder, key="k").images()
    assert source.load(0).size == (6, 4)
    (folder / "sub" / "img").mkdir()
    Image.new("RGB", (3, 3)).save(folder / "sub" / "img" / "a.png")
    source = open_image_table(CaptionedTable(path="sub/t.csv"), root=folder, key="k").images()
    assert source.load(0).size == (3, 3)
    (folder / "t.csv").write_text("image,caption\nnone.png,a mug\n")
    with pytest.raises(BadImageError, match="none.png: no such file"):
        open_image_table(CaptionedTable(path="t.csv"), root=folder, key="k").images().load(0)


GAPS = [("img/a.png", ["a mug"]), (None, ["a lamp"]), ("img/b.png", []), ("", ["x"]), ("img/b.png", ["", "a table"])]


def gaps(folder, kind):
    path = folder / f"gaps.{kind}"
    names, texts = [name for name, _ in GAPS], [several for _, several in GAPS]
    if kind == "jsonl":
        lines = ({"file": name, "words": several} for name, several in GAPS)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif kind == "csv":
        pandas.DataFrame({"file": names, "words": [json.dumps(several) for several in texts]}).to_csv(path, index=False)
    elif kind == "parquet":
        images = [{"bytes": png(name), "path": name} if name else {"bytes": None, "path": name} for name in names]
        pandas.DataFrame({"file": images, "words": texts}).to_parquet(path)
    else:
        images = [Image.open(folder / name) if name else None for name in names]
        features = datasets.Features({"file": datasets.Image(), "words": datasets.Sequence(datasets.Value("string"))})
        datasets.Dataset.from_dict({"file": images, "words": texts}, features=features).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "saved"])
def test_rows_without_image_or_caption_are_named_or_counted(folder, caplog, kind) -> None:
    path = gaps(folder, kind)
    with pytest.raises(
        ValueError, match=rf"{path.name}, (line 3|line 2|row 2): the column 'file' is empty; empty_rows"
    ):
        opened(path).captions()
    table = opened(path, empty_rows="skip")
    captions = table.captions()
    assert captions.captions == (("a mug",), ("a table",))
    assert "left out 3 of 5 rows, 2 without 'file' and 1 without 'words'" in caplog.text
    assert len(table.images().names) == 2
    assert "2 of 5 rows have no image" in caplog.text


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("csv", "https://shop.example/a.png", "line 2, column 'image': https://shop.example/a.png is an address"),
        ("jsonl", "s3://shop/a.png", "line 1, column 'image': s3://shop/a.png is an address, and nothing is fetched"),
        ("parquet", "http://shop.example/a.png", "row 1, column 'image': http://shop.example/a.png is an address"),
        ("jsonl", [1], r"line 1, column 'image': an image is a name or a whole number, got \[1\]"),
        ("jsonl", 0.5, "line 1, column 'image': an image is a name or a whole number, got 0.5"),
        ("jsonl", {"url": "a"}, "line 1, column 'image': an image is a name or a whole number, got {'url'"),
    ],
)
def test_what_is_no_image_is_named(folder, kind, value, message) -> None:
    path = folder / f"t.{kind}"
    frame = pandas.DataFrame({"image": [value], "caption": ["a mug"]})
    {"csv": frame.to_csv, "parquet": frame.to_parquet}.get(kind, lambda *_, **__: None)(path, index=False)
    if kind == "jsonl":
        path.write_text(json.dumps({"image": value, "caption": "a mug"}) + "\n")
    table = open_image_table(CaptionedTable(path=path.name), root=folder, key="k")
    for read in (table.captions, table.images):
        with pytest.raises(ValueError, match=message):
            read()


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        (
            "image,caption\na.png,x\n",
            {"image": "imag"},
            "no column 'imag' for image among 'image', 'caption'; did you mean",
        ),
        (
            "picture,caption\na.png,x\n",
            {},
            "no column is called image, image_name, .* among 'picture', 'caption'; say which",
        ),
        ("image,words\na.png,x\n", {}, "no column is called caption, .* among 'image', 'words'"),
        ("image,caption,image\na.png,x,b\n", {}, "the column 'image' stands there 2 times"),
        ("image,caption\na.png,x,y\n", {}, "line 2: 3 columns, expected 2"),
        ("image,caption\n", {}, "holds no image with a caption"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path, text, keys, message) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_image_table(CaptionedTable(path="t.csv", **keys), root=tmp_path, key="k").captions()


def test_a_caption_that_is_a_number_is_named(tmp_path) -> None:
    (tmp_path / "t.jsonl").write_text('{"image": "a.png", "caption": 3}\n')
    with pytest.raises(
        ValueError, match="line 1, column 'caption': a caption is a string or a list of strings, got int"
    ):
        open_image_table(CaptionedTable(path="t.jsonl"), root=tmp_path, key="k").captions()


def test_a_damaged_image_is_named_with_its_table(tmp_path) -> None:
    pandas.DataFrame({"image": [b"\x89PNG no more"], "caption": ["x"]}).to_parquet(tmp_path / "t.parquet")
    source = open_image_table(ImageColumn(path="t.parquet"), root=tmp_path, key="k").images()
    with pytest.raises(BadImageError, match=r"image \w{16} of .*t.parquet: cannot be read"):
        source.load(0)
    assert len(source.names) == 1
