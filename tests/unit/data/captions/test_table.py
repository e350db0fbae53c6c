"""Every layout gives the same table; bad files are refused by name and line."""

from __future__ import annotations

import gzip
import json
import logging
import re

import datasets
import numpy as np
import pytest
from PIL import Image

from mcse.data.captions.table import CaptionTable, load_captions, select_captions
from mcse.data.images.names import ABSENT, find_names
from mcse.data.images.sources import open_images

NAMES = ("a.jpg", "b.jpg")
CAPTIONS = (("a dog , running", 'a "brown" dog'), ("two cats",))
FLAT = [(name, caption) for name, several in zip(NAMES, CAPTIONS, strict=True) for caption in several]


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def flickr8k_csv(folder):
    return write(
        folder / "captions.txt", 'image,caption\na.jpg,"a dog , running"\na.jpg,"a ""brown"" dog"\nb.jpg,two cats\n'
    )


def unquoted_csv(folder):
    return write(
        folder / "captions.csv",
        'image_name,comment_number,comment\na.jpg,0, a dog , running\na.jpg,1, a "brown" dog\nb.jpg,0, two cats\n',
    )


def kaggle_pipes(folder):
    return write(
        folder / "results.csv",
        "image_name| comment_number| comment\r\na.jpg| 0| a dog , running\r\n"
        'a.jpg| 1| a "brown" dog\r\nb.jpg| 4   two cats\r\n',
    )


def annotations_csv(folder):
    return write(
        folder / "annotations.csv",
        'raw,sentids,split,filename,img_id\n"[""a dog , running"", ""a \\""brown\\"" dog""]","[0, 1]",train,a.jpg,0\n'
        '"[""two cats""]",[2],train,b.jpg,1\n',
    )


def token_file(folder):
    return write(folder / "Flickr8k.token.txt", "".join(f"{n}#{i}\t{c}\n" for i, (n, c) in enumerate(FLAT)))


def zipped_token_file(folder):
    path = folder / "x.token.gz"
    path.write_bytes(gzip.compress("".join(f"{n}#0\t{c} .\n".replace(" .\n", "\n") for n, c in FLAT).encode()))
    return str(path)


def karpathy(folder):
    images = [
        {"filename": name, "split": "train", "sentences": [{"raw": caption} for caption in several]}
        for name, several in zip(NAMES, CAPTIONS, strict=True)
    ]
    images.append({"filename": "t.jpg", "split": "test", "sentences": [{"raw": "held out"}]})
    return write(folder / "dataset.json", json.dumps({"images": images})) + "::train"


def coco(folder):
    images = [{"id": 9, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}, {"id": 5, "file_name": "bare.jpg"}]
    order = [(3, "two cats"), (9, FLAT[0][1]), (9, FLAT[1][1])]
    annotations = [{"image_id": i, "id": k, "caption": c} for k, (i, c) in enumerate(order)]
    return write(folder / "captions_x.json", json.dumps({"images": images, "annotations": annotations}))


def json_records(folder):
    return write(folder / "r.json", json.dumps([{"image": n, "caption": c} for n, c in FLAT]))


def json_lines(folder):
    records = [{"file_name": n, "captions": list(c)} for n, c in zip(NAMES, CAPTIONS, strict=True)]
    return write(folder / "r.jsonl", "\n".join(map(json.dumps, records)) + "\n\n")


def image(path, *, colour=(200, 30, 30), size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def image_folder(folder):
    for name in NAMES:
        image(folder / name)
    write(
        folder / "metadata.csv",
        "file_name,text\n" + "".join(f'{n},"{c.replace(chr(34), chr(34) * 2)}"\n' for n, c in FLAT),
    )
    return str(folder)


def captions_beside(folder):
    for name, several in zip(NAMES, CAPTIONS, strict=True):
        image(folder / name)
        write((folder / name).with_suffix(".txt"), "\n".join(several) + "\n")
    return str(folder)


def entities(folder):
    write(folder / "a.txt", '[/EN#1/animals a dog] , running\na "brown" [/EN#1/animals dog]\n')
    write(folder / "b.txt", "[/EN#12/animals two cats]\n")
    return str(folder)


LAYOUTS = [
    flickr8k_csv,
    unquoted_csv,
    kaggle_pipes,
    annotations_csv,
    token_file,
    zipped_token_file,
    karpathy,
    coco,
    json_records,
    json_lines,
    image_folder,
    captions_beside,
    entities,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_every_layout_gives_the_same_table(layout, tmp_path):
    source = layout(tmp_path)
    table = load_captions(source)
    assert table.image_names == NAMES
    assert table.captions == CAPTIONS
    assert table.num_captions == 3
    assert table.files
    assert all(path.is_file() for path in table.files)


def test_plain_text_has_no_names_and_keeps_the_place_of_a_blank_line(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        table = load_captions(write(tmp_path / "flickr.txt", "\ufeffa dog\r\n  \r\n two cats \n\n \n"))
    assert table.image_names is None
    assert table.captions == (("a dog",), (), ("two cats",))
    assert "(3 blank)" in caplog.text
    captions, image = select_captions(table, mode="one", seed=0)
    assert captions == ["a dog", "two cats"]
    assert image.tolist() == [0, 2]


def test_blank_captions_are_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        table = load_captions(write(tmp_path / "c.csv", "image,caption\na.jpg, \na.jpg,x\nb.jpg,\n"))
    assert table.image_names == ("a.jpg",)
    assert "(2 blank)" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.txt", " \n", "e.txt: the file is empty"),
        ("l.csv", b"image,caption\na.jpg,x\nb.jpg,caf\xe9\n", r"l.csv, line 3: not UTF-8 \(byte 0xe9\)"),
        ("h.csv", "image,words\na,b\n", r"h.csv, line 1: no column for caption .* among 'image', 'words'"),
        ("f.csv", "caption,image\nx,a.jpg\nx,b.jpg,c\n", r"f.csv, line 3: 3 columns, expected 2"),
        ("q.csv", 'image,caption\na.jpg,"open\nb.jpg,x\nc.jpg,y\n', r"q.csv, line 2: a quotation mark is opened"),
        ("b.csv", "image,caption\na.jpg, \n", "b.csv: no captions in it"),
        ("t.token", "a.jpg#0\tx\nnothing\n", r"t.token, line 2: expected 'name.jpg#0<TAB>caption', got 'nothing'"),
        ("j.json", '{"images": [\n}', "j.json, line 2: broken JSON"),
        ("k.json", '{"rows": []}', "k.json: images is missing; expected COCO's JSON"),
        ("k2.json", '{"images": [{"filename": "a.jpg"}]}', "images.0.sentences is missing"),
        (
            "c.json",
            '{"images": [], "annotations": [{"image_id": 4, "caption": "x"}]}',
            "c.json: annotations.0: a caption of the image 4, which images do not list",
        ),
        ("r.json", '[{"image": "a.jpg", "caption": 7}]', "r.json, record 1: a caption is a string .* got int"),
        ("r2.json", '[{"photo": "a.jpg", "caption": "x"}]', "record 1: no image .* among 'photo'"),
        ("r3.jsonl", '{"image": "a.jpg", "caption": "x"}\n{"image"\n', "r3.jsonl, line 2: broken JSON"),
    ],
)
def test_bad_files_are_refused_by_name_and_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        load_captions(str(path))


def test_captions_without_a_image_beside_them_are_refused(tmp_path):
    image(tmp_path / "a.jpg")
    write(tmp_path / "a.txt", "a dog")
    write(tmp_path / "b.txt", "two cats")
    with pytest.raises(ValueError, match=r"b\.txt: no image b\.jpg"):
        load_captions(str(tmp_path))


def test_what_is_neither_path_nor_hub_id_is_refused(tmp_path):
    for source in (str(tmp_path / "absent.txt"), "data/absent.json", "absent"):
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            load_captions(source)


def test_splits(tmp_path, caplog):
    source = karpathy(tmp_path).removesuffix("::train")
    assert load_captions(source, split="test").image_names == ("t.jpg",)
    assert load_captions(source + "::train+test").image_names == (*NAMES, "t.jpg")
    with caplog.at_level(logging.WARNING):
        assert len(load_captions(source)) == 3
    assert "all its splits (train, test)" in caplog.text
    with pytest.raises(ValueError, match=r"no split 'dev'; it has train, test"):
        load_captions(source + "::dev")
    with pytest.raises(ValueError, match="given twice"):
        load_captions(source + "::test", split="train")


def test_images_select_and_order(tmp_path):
    source = token_file(tmp_path)
    ids = tmp_path / "ids.txt"
    ids.write_text("b\n\na.jpg\n")
    table = load_captions(source, images=ids)
    assert table.image_names == ("b.jpg", "a.jpg")
    assert table.captions == CAPTIONS[::-1]
    assert ids in table.files


def test_the_names_of_a_store_select(tmp_path):
    names = tmp_path / "names.json"
    write(names, '["b", "", "a.jpg"]')
    assert load_captions(token_file(tmp_path), images=names).image_names == ("b.jpg", "a.jpg")
    write(names, '{"b": 1}')
    with pytest.raises(ValueError, match="names.json"):
        load_captions(token_file(tmp_path), images=names)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("a.jpg\nq.jpg\nr.jpg\n", r"ids.txt: 2 of 3 images have no captions in .*, first 'q.jpg'"),
        ("a.jpg\na\n", "'a.jpg' and 'a' are the same image there"),
        ("\n", "ids.txt: the file is empty"),
    ],
)
def test_bad_lists_of_images_are_refused(tmp_path, listed, message):
    (tmp_path / "ids.txt").write_text(listed)
    with pytest.raises(ValueError, match=message):
        load_captions(token_file(tmp_path), images=tmp_path / "ids.txt")


def test_nameless_captions_cannot_be_selected_from(tmp_path):
    (tmp_path / "ids.txt").write_text("a\n")
    with pytest.raises(ValueError, match="has no image names"):
        load_captions(write(tmp_path / "c.txt", "a dog\n"), images=tmp_path / "ids.txt")


def test_names_match_by_folder_ending_and_coco_number():
    available = ["train2014/COCO_train2014_000000391895.jpg", "x/1000092795.jpg", "x/same.jpg", "y/same.jpg", "n.jpg.1"]
    wanted = ["391895", "1000092795", "COCO_train2014_000000391895", "y/same.jpg", "n.jpg", "11"]
    assert find_names(wanted[1:2] + wanted[3:], available, where="w").tolist() == [1, 3, ABSENT, ABSENT]
    for name in (wanted[0], wanted[2], "000000391895.jpg"):
        assert find_names([name], available, where="w").tolist() == [0]
    with pytest.raises(ValueError, match=r"w: 'same.jpg' fits several"):
        find_names(["same.jpg"], available, where="w")
    with pytest.raises(ValueError, match="are the same image"):
        find_names(["391895", "000000391895"], available, where="w")


def test_one_caption_an_image_is_random_and_seeded():
    table = CaptionTable(None, tuple(tuple(f"{i}:{k}" for k in range(5)) for i in range(1000)), "t", ())
    captions, image = select_captions(table, mode="one", seed=3)
    assert image.tolist() == list(range(1000))
    assert image.dtype == np.int64
    drawn = np.array([int(caption.split(":")[1]) for caption in captions])
    assert [int(caption.split(":")[0]) for caption in captions] == image.tolist()
    assert np.bincount(drawn, minlength=5).min() > 150
    assert select_captions(table, mode="one", seed=3)[0] == captions
    assert select_captions(table, mode="one", seed=4)[0] != captions


def test_all_captions_stay_with_their_image():
    table = CaptionTable(NAMES, CAPTIONS, "t", ())
    captions, image = select_captions(table, mode="all", seed=0)
    assert [(NAMES[i], caption) for i, caption in zip(image, captions, strict=True)] == FLAT
    with pytest.raises(ValueError, match="mode must be 'one' or 'all', got 'some'"):
        select_captions(table, mode="some", seed=0)


@pytest.fixture
def hub_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    datasets.disable_progress_bars()


def drawn_images(count, tmp_path):
    """Images as ``datasets`` stores them: bytes and a path."""
    paths = [tmp_path / "images" / f"p{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        image(path, colour=(i, 0, 0))
    return [{"bytes": path.read_bytes(), "path": path.name} for path in paths]


def parquet_folder(folder, columns, *, split="train", image="image"):
    features = datasets.Dataset.from_dict({k: v for k, v in columns.items() if k != image}).features
    features[image] = datasets.Image()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


HUB_COLUMNS = {
    "list": (2, {"filename": list(NAMES), "caption": [list(c) for c in CAPTIONS]}),
    "one a row": (3, {"filename": ["a.jpg", "a.jpg", "b.jpg"], "text": [c for _, c in FLAT]}),
    "numbered": (
        2,
        {"image_id": list(NAMES), "caption_0": [CAPTIONS[0][0], "two cats"], "caption_1": [CAPTIONS[0][1], None]},
    ),
    "records": (
        2,
        {"filename": list(NAMES), "sentences": [[{"raw": c, "n": 1} for c in several] for several in CAPTIONS]},
    ),
}


@pytest.mark.parametrize("kind", HUB_COLUMNS)
def test_hub_columns_are_found(kind, tmp_path, hub_cache):
    count, columns = HUB_COLUMNS[kind]
    images = drawn_images(count, tmp_path)
    if kind == "one a row":
        images[1] = images[0]
    folder = parquet_folder(tmp_path / "set", {"image": images, **columns})
    table = load_captions(folder)
    assert table.image_names == NAMES
    assert table.captions == CAPTIONS
    assert [path.suffix for path in table.files] == [".parquet"]


def test_hub_images_are_named_by_path_number_or_row(tmp_path, hub_cache):
    images = drawn_images(2, tmp_path)
    captions = ["a dog", "two cats"]
    by_path = parquet_folder(tmp_path / "path", {"img": images, "caption": captions}, image="img")
    assert load_captions(by_path).image_names == ("p0.png", "p1.png")
    by_number = parquet_folder(tmp_path / "number", {"image": images, "caption": captions, "cocoid": [391895, 7]})
    assert load_captions(by_number).image_names == ("391895", "7")
    nameless = [{"bytes": one["bytes"], "path": None} for one in images]
    by_row = parquet_folder(tmp_path / "row", {"image": nameless, "caption": captions})
    assert load_captions(by_row).image_names == ("row-000000", "row-000001")


def test_hub_splits(tmp_path, hub_cache):
    images = drawn_images(2, tmp_path)
    for split in ("test", "train", "validation"):
        parquet_folder(tmp_path / "set", {"image": images, "caption": [split, split + " two"]}, split=split)
    folder = str(tmp_path / "set")
    assert load_captions(folder).captions == (("train",), ("train two",))
    assert load_captions(folder + "::test").captions[0] == ("test",)
    with pytest.raises(ValueError, match=r"no split 'dev'; it has"):
        load_captions(folder + "::dev")


def test_a_split_column_serves_as_splits(tmp_path, hub_cache):
    columns = {"image": drawn_images(2, tmp_path), "caption": ["x", "y"], "split": ["train", "val"]}
    folder = parquet_folder(tmp_path / "set", columns, split="test")
    assert load_captions(folder + "::val").captions == (("y",),)
    assert load_captions(folder + "::val").image_names == ("p1.png",)
    with pytest.raises(ValueError, match="its column 'split' has train, val"):
        load_captions(folder + "::dev")


def test_a_dataset_saved_to_disk_loads(tmp_path, hub_cache):
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    dataset = datasets.Dataset.from_dict({"image": drawn_images(2, tmp_path), "caption": ["x", "y"]}, features=features)
    dataset.save_to_disk(tmp_path / "saved")
    assert load_captions(str(tmp_path / "saved")).captions == (("x",), ("y",))


def test_hub_errors_name_the_columns_and_the_set(tmp_path, hub_cache):
    folder = parquet_folder(tmp_path / "words", {"image": drawn_images(1, tmp_path), "label": [3]})
    with pytest.raises(ValueError, match=r"lacks a caption column .*image \(Image\), label \(int64\)"):
        load_captions(folder)
    datasets.Dataset.from_dict({"caption": ["x"]}).to_parquet(tmp_path / "bare" / "train.parquet")
    with pytest.raises(ValueError, match=r"lacks an image column; its columns are caption \(string\)"):
        load_captions(str(tmp_path / "bare"))
    with pytest.raises(ValueError, match="nobody/nothing: not loadable as a Hugging Face dataset"):
        load_captions("nobody/nothing")


def test_images_are_not_decoded_for_captions(tmp_path, hub_cache):
    broken = [{"bytes": b"not an image", "path": "p.png"}]
    folder = parquet_folder(tmp_path / "set", {"image": broken, "caption": ["x"]})
    assert load_captions(folder).image_names == ("p.png",)


# --- what people bring: read right, or refused


@pytest.mark.parametrize(
    ("name", "text", "names", "captions"),
    [
        ("a.csv", b"image,caption\ra.jpg,one\rb.jpg,two\r", "a.jpg b.jpg", [["one"], ["two"]]),
        ("a.csv", b'image;caption\r\na.jpg;"one; two"\r\n', "a.jpg", [["one; two"]]),
        ("a.txt", b"image;caption\na.jpg;one\n", "a.jpg", [["one"]]),
        ("a.csv", b"filepath\ttitle\na.jpg\tone\n", "a.jpg", [["one"]]),
        ("a.csv", b'image,caption\na.jpg,"one\ntwo, three"\n', "a.jpg", [["one two, three"]]),
        ("a.tsv", b'image\tcaption\na.jpg\t"one" two\nb.jpg\t"three\n', "a.jpg b.jpg", [['"one" two'], ['"three']]),
        ("a.csv", b'image,caption\na.jpg,"' + b"word " * 40_000 + b'"\n', "a.jpg", [[" ".join(["word"] * 40_000)]]),
        ("a.csv", b"""image,captions\na.jpg,"['one', ""it's two""]"\n""", "a.jpg", [["one", "it's two"]]),
        ("a.csv", b'image,captions\na.jpg,"[""one"", ""two""]"\n', "a.jpg", [["one", "two"]]),
        ("a.csv", b"""image,captions\na.jpg,"('one', 'two')"\n""", "a.jpg", [["one", "two"]]),
        ("a.csv", b"""image,captions\na.jpg,"[{'raw': 'one'}, {'raw': 'two'}]"\n""", "a.jpg", [["one", "two"]]),
        (
            "a.csv",
            b"image,captions\na.jpg,[laughs]\na.jpg,(one)\na.jpg,[1] two\n",
            "a.jpg",
            [["[laughs]", "(one)", "[1] two"]],
        ),
        ("a.csv", b"image_id,caption\n391895.0,one\n", "391895", [["one"]]),
        (
            "a.json",
            b'{"image": "a.jpg", "caption": "one"}\n{"image": "b.jpg", "caption": "two"}\n',
            "a.jpg b.jpg",
            [["one"], ["two"]],
        ),
        ("a.json", b'{"image": "a.jpg", "caption": "one"}', "a.jpg", [["one"]]),
        ("a.json", b'[{"image_id": 391895.0, "caption": "one"}]', "391895", [["one"]]),
        ("a.json", b'[{"image": {"path": "a.jpg", "bytes": null}, "caption": "one"}]', "a.jpg", [["one"]]),
        ("a.jsonl", b'{"image": "a.jpg", "caption": "one"}\n', "a.jpg", [["one"]]),
        ("a.json", b'{"images": [{"filename": "a.jpg", "sentences": ["one", "two"]}]}', "a.jpg", [["one", "two"]]),
        (
            "a.json",
            b'{"images": [{"filename": "a.jpg", "sentences": [{"tokens": ["one", "two"], "sentid": 0}]}]}',
            "a.jpg",
            [["one two"]],
        ),
        (
            "a.json",
            b'{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": "1", "caption": "one"}]}',
            "a.jpg",
            [["one"]],
        ),
    ],
)
def test_what_people_bring_is_read_right(tmp_path, name, text, names, captions):
    (tmp_path / name).write_bytes(text)
    found = load_captions(str(tmp_path / name))
    assert found.image_names == tuple(names.split())
    assert [list(several) for several in found.captions] == captions


COCO_IMAGES = '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}], "annotations": '


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        # Rows swallowed by a quotation mark, of ids as of file names, whatever closes it.
        ("a.csv", 'image_id,caption\n1,one\n2,"two\n3,three\n', "line 3: a quotation mark is opened and not closed"),
        ("a.csv", 'image_id,caption\n1,one\n2,"two\n3,three"\n', "line 3: a quotation mark is opened and never closed"),
        ("a.csv", 'caption,image\n"one,a.jpg\ntwo",b.jpg\n', "line 2: a quotation mark is opened and never closed"),
        ("a.csv", 'image_id,caption\n1,"Stop" says the sign\n', "line 2: broken table"),
        ("a.csv", "image,caption\na.jpg,o\0ne\n", "line 2: a NUL byte inside the line"),
        ("a.csv", "image,caption\na.jpg,o\rne\n", "line 2: a carriage return inside the line"),
        ("a.csv", "image,caption\n ,one\n", "line 2: an image is a name or a whole number"),
        ("a.csv", "a.jpg,one\nb.jpg,two\n", "line 1: no column for image"),
        ("a.csv", "image,caption,caption\na.jpg,one,two\n", "line 1: the column 'caption' stands there 2 times"),
        ("a.csv", """image,captions\na.jpg,"['one', 2]"\n""", "line 2: a caption is a string or a list of strings"),
        ("a.csv", f"""image,captions\na.jpg,"['one', {"[" * 50_000}]"\n""", "looks like a list of strings"),
        ("a.csv", """image,captions\na.jpg,"['one' 'two']"\n""", "line 2: a caption that looks like a list of strings"),
        (
            "a.csv",
            """image,captions\na.jpg,"array(['one'])"\n""",
            "line 2: a caption that looks like a list of strings",
        ),
        ("a.csv", """image,captions\na.jpg,"[None, 'one']"\n""", "line 2: a caption is a string or a list of strings"),
        ("a.csv", "image,caption\nnan,one\n", "line 2: an image is a name or a whole number, got 'nan'"),
        ("a.txt", '"a.jpg","one"\n"b.jpg","two"\n', "names of images with captions"),
        ("a.txt", "a.jpg: one\nb.jpg: two\n", "names of images with captions"),
        ("a.txt", "one,a.jpg\ntwo, b.jpg\n", "names of images with captions"),
        ("a.txt", "img1 , one\nimg2 , two\n", "names of images with captions"),
        ("a.txt", "a.jpg,one\na.jpg,two\n", "names of images with captions"),
        ("a.txt", "a.jpg#0 one\na.jpg#1 two\n", "names of images with captions"),
        ("a.txt", "391895,one\n7,two\n", "names of images with captions"),
        ("a.txt", "sentence1\tsentence2\none\ttwo\n", "a table of 2 columns"),
        ("a.json", COCO_IMAGES + '[{"image_id": 1, "caption": null}]}', "annotations.0.caption must be text, got null"),
        ("a.json", COCO_IMAGES + '[{"image_id": 1, "caption": ["a"]}]}', "annotations.0.caption must be text"),
        ("a.json", COCO_IMAGES + '[{"image_id": null, "caption": "a"}]}', "annotations.0.image_id must be"),
        ("a.json", COCO_IMAGES + '{"1": "a"}}', "annotations must be a list, got an object"),
        ("a.json", COCO_IMAGES.replace("2,", "1,") + "[]}", "images.1: the id 1 is that of 'a.jpg' and of 'b.jpg'"),
        ("a.json", COCO_IMAGES.replace("b.jpg", "a.jpg") + "[]}", "images.1: 'a.jpg' has the ids 1 and 2"),
        ("a.json", COCO_IMAGES.replace("2,", '"1",') + "[]}", "images.1: the id 1 is that of 'a.jpg' and of 'b.jpg'"),
        ("a.json", '{"images": [{"filename": "a.jpg", "sentences": [{"sentid": 0}]}]}', "neither raw nor tokens"),
        ("a.json", '{"images": [{"filename": null, "sentences": []}]}', "images.0.filename must be text, got null"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        (
            "a.jsonl",
            '{"image": "a.jpg", "caption": "x"}\n{"image": null, "caption": "y"}\n',
            "line 2: an image is a name",
        ),
        ("a.jsonl", '{"image": "a.jpg", "caption": "x"}\n{"caption": "y"}\n', "line 2: 'image' is missing"),
        ("a.jsonl", '{"image": "a.jpg", "caption": "x"}\n[1]\n', "line 2 must be an object, got a list"),
    ],
)
def test_what_would_be_read_wrong_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_captions(str(tmp_path / name))
    assert name in str(caught.value)


def test_captions_beside_images_are_found_by_their_whole_name(tmp_path):
    for name in ("a.jpg", "a.b.jpg", "C.JPG", "d.png"):
        image(tmp_path / name)
    for name, caption in (("a.txt", "one"), ("a.b.txt", "two"), ("C.TXT", "three"), ("d.png.txt", "four")):
        write(tmp_path / name, caption + "\n")
    (tmp_path / "._a.jpg").write_bytes(b"\0\5\26\7")
    (tmp_path / "._a.txt").write_bytes(b"\0\5\26\7")
    found = load_captions(str(tmp_path))
    assert dict(zip(found.image_names, found.captions, strict=True)) == {
        "a.jpg": ("one",),
        "a.b.jpg": ("two",),
        "C.JPG": ("three",),
        "d.png": ("four",),
    }
    assert open_images(str(tmp_path)).names == ("C.JPG", "a.b.jpg", "a.jpg", "d.png")
    write(tmp_path / "metadata.csv", "file_name,text\na.jpg,one\n")
    with pytest.raises(ValueError, match=r"captions in metadata\.csv and in .*; keep one kind"):
        load_captions(str(tmp_path))


def test_names_from_windows_find_their_images(tmp_path):
    found = load_captions(write(tmp_path / "c.csv", "image,caption\nimages\\a.jpg,one\nimages\\b.jpg,two\n"))
    assert find_names(found.image_names, ["b.jpg", "a.jpg"], where="w").tolist() == [1, 0]


def test_hub_rows_of_one_name_show_one_image(tmp_path, hub_cache):
    first, second = drawn_images(2, tmp_path)
    captions = ["one", "two", "three"]
    twice = {"image": [first, first, second], "file_name": ["a.jpg", "a.jpg", "b.jpg"], "caption": captions}
    assert load_captions(parquet_folder(tmp_path / "right", twice)).captions == (("one", "two"), ("three",))
    wrong = {**twice, "file_name": ["a.jpg", "b.jpg", "b.jpg"]}
    with pytest.raises(
        ValueError, match="rows 1 and 2 have the name 'b.jpg' in column 'file_name', and different images"
    ):
        load_captions(parquet_folder(tmp_path / "wrong", wrong))
    null = {**twice, "file_name": ["a.jpg", None, "b.jpg"]}
    with pytest.raises(ValueError, match="row 1, column 'file_name': an image is a name or a whole number, got null"):
        load_captions(parquet_folder(tmp_path / "null", null))


def test_hub_images_with_one_path_stay_apart(tmp_path, hub_cache):
    images = [{**one, "path": "image.png"} for one in drawn_images(2, tmp_path)]
    columns = {"image": [images[0], images[1], images[0]], "caption": ["one", "two", "three"]}
    folder = parquet_folder(tmp_path / "set", columns)
    found = load_captions(folder)
    assert found.captions == (("one", "three"), ("two",))
    opened = open_images(folder)
    assert opened.names == found.image_names
    assert [np.asarray(opened.load(row)).max() for row in range(2)] == [0, 1]


def test_hub_captions_that_are_missing_are_counted(tmp_path, hub_cache, caplog):
    columns = {"image": drawn_images(2, tmp_path), "cocoid": [391895.0, 7.0], "caption": ["one", None]}
    assert load_captions(parquet_folder(tmp_path / "set", columns)).image_names == ("391895",)
    assert "(1 blank)" in caplog.text


@pytest.mark.parametrize("stored", ["bytes", "paths"])
def test_hub_images_of_one_name_that_differ_are_refused(tmp_path, hub_cache, stored):
    """Bitmaps of one size that differ in their middle alone; and files of which the table holds the paths."""
    images = []
    for number in range(2):
        image = Image.new("RGB", (96, 96), "white")
        image.putpixel((48, 48), (number, 0, 0))
        path = tmp_path / str(number) / "a.bmp"
        path.parent.mkdir()
        image.save(path)
        whole = {"bytes": path.read_bytes(), "path": None}
        images.append(whole if stored == "bytes" else {"bytes": None, "path": str(path)})
    columns = {"image": images, "file_name": ["a.bmp", "a.bmp"], "caption": ["one", "two"]}
    with pytest.raises(ValueError, match="rows 0 and 1 have the name 'a.bmp' .* different images"):
        load_captions(parquet_folder(tmp_path / "set", columns))


def test_numbers_of_captions_are_no_part_of_an_images_name(tmp_path):
    path = write(tmp_path / "numbered.csv", "image,caption\na.jpg#0,one\na.jpg#1,two\nb#2.jpg,three\nc#4,four\n")
    found = load_captions(path)
    assert found.image_names == ("a.jpg", "b#2.jpg", "c#4")
    assert found.captions == (("one", "two"), ("three",), ("four",))


def test_cells_without_a_value_are_blank_captions(tmp_path, caplog):
    path = write(tmp_path / "a.csv", "image,caption\na.jpg,nan\nb.jpg,None\nb.jpg,None of them sits\n")
    found = load_captions(path)
    assert (found.image_names, found.captions) == (("b.jpg",), (("None of them sits",),))
    assert "(2 blank)" in caplog.text


def test_karpathys_images_of_one_name_in_two_folders_stay_apart(tmp_path):
    images = [{"filepath": folder, "filename": "1.jpg", "sentences": [{"raw": folder}]} for folder in ("train", "val")]
    found = load_captions(write(tmp_path / "a.json", json.dumps({"images": images})))
    assert (found.image_names, found.captions) == (("train/1.jpg", "val/1.jpg"), (("train",), ("val",)))
    del images[1]
    assert load_captions(write(tmp_path / "a.json", json.dumps({"images": images}))).image_names == ("1.jpg",)
