"""Every layout gives the same table; bad files are refused by name and line."""

from __future__ import annotations

import gzip
import json
import logging

import datasets
import numpy as np
import pytest
from PIL import Image

from mcse.data.captions.table import CaptionTable, load_captions, select_captions
from mcse.data.images.names import ABSENT, find_names

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
    assert "skipped 3 blank captions" in caplog.text
    captions, image = select_captions(table, mode="one", seed=0)
    assert captions == ["a dog", "two cats"]
    assert image.tolist() == [0, 2]


def test_blank_captions_are_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        table = load_captions(write(tmp_path / "c.csv", "image,caption\na.jpg, \na.jpg,x\nb.jpg,\n"))
    assert table.image_names == ("a.jpg",)
    assert "skipped 2 blank captions" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.txt", " \n", "e.txt: the file is empty"),
        ("l.csv", b"image,caption\na.jpg,x\nb.jpg,caf\xe9\n", r"l.csv, line 3: not UTF-8 \(byte 0xe9\)"),
        ("h.csv", "image,words\na,b\n", r"h.csv, line 1: no image and caption column among 'image', 'words'"),
        ("f.csv", "caption,image\nx,a.jpg\nx,b.jpg,c\n", r"f.csv, line 3: 3 fields, but the header has 2"),
        ("q.csv", 'image,caption\na.jpg,"open\nb.jpg,x\nc.jpg,y\n', r"q.csv, line 2: a quotation mark is opened"),
        ("b.csv", "image,caption\na.jpg, \n", "b.csv: no captions in it"),
        ("t.token", "a.jpg#0\tx\nnothing\n", r"t.token, line 2: expected 'name.jpg#0<TAB>caption', got 'nothing'"),
        ("j.json", '{"images": [\n}', "j.json, line 2: broken JSON"),
        ("k.json", '{"rows": []}', "k.json: neither COCO's JSON .* found 'rows'"),
        ("k2.json", '{"images": [{"filename": "a.jpg"}]}', "image 1 has no 'sentences'"),
        (
            "c.json",
            '{"images": [], "annotations": [{"image_id": 4, "caption": "x"}]}',
            "c.json: .*lacks 4.* not listed",
        ),
        ("r.json", '[{"image": "a.jpg", "caption": 7}]', "r.json, record 1: a caption is a string .* got int"),
        ("r2.json", '[{"photo": "a.jpg", "caption": "x"}]', "record 1: no image and caption column among 'photo'"),
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
    folder = parquet_folder(tmp_path / "set", {"image": drawn_images(count, tmp_path), **columns})
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
