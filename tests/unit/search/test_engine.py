"""mcse search: an index made once and kept, questions worked out by hand, and what is refused."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from mcse.commands.main import main
from mcse.data.images.sources import open_images
from mcse.encoders.joint_encoder import JointEncoder
from mcse.encoders.loading import encoder_digest
from mcse.metrics.regularities import arithmetic_row, rerank
from mcse.search import builder as search_index
from mcse.search.builder import build_index
from mcse.search.engine import ImageSearch, Question, open_search
from mcse.search.image_index import ImageIndex
from tests.fixtures.colour_model import COLOURS, TOWER, build_colour_model, draw_colours
from tests.fixtures.tiny_models import build_tiny_bert
from tests.fixtures.tiny_open_clip import build_tiny_open_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return build_colour_model(tmp_path_factory.mktemp("model") / "colours")


@pytest.fixture
def images(tmp_path) -> Path:
    return draw_colours(tmp_path / "images")


@pytest.fixture
def index(tmp_path, images, model) -> Path:
    assert run_index(images, model, tmp_path / "index") == 0
    return tmp_path / "index"


def run_index(images: Path, model: Path | str, output: Path, *more: str) -> int:
    return main(["search", "index", str(images), "--model", str(model), "--output", str(output), *more])


def query(index: Path, *arguments: str) -> int:
    return main(["search", "query", str(index), *arguments])


def found(search: ImageSearch, **question) -> list[str]:
    return [Path(hit.text).stem for hit in search.ask(Question(**question)).hits]


def unit(row) -> np.ndarray:
    row = np.asarray(row, dtype=np.float64)
    return row / np.linalg.norm(row)


def direction(colour: str) -> np.ndarray:
    return unit(np.array(COLOURS[colour]) / 255 - 0.5)


def test_rows_are_those_of_the_images(index, model):
    stored = ImageIndex.load(index)
    assert [image.path for image in stored.images] == sorted(f"{colour}.png" for colour in COLOURS)
    for image, row in zip(stored.images, stored.rows_ND, strict=True):
        np.testing.assert_allclose(row, direction(Path(image.path).stem), atol=1e-6)
    assert (stored.origin.tower, stored.origin.model) == (TOWER, str(model))
    assert stored.origin.model_digest == encoder_digest(str(model))
    assert {path.suffix for path in index.iterdir()} == {".json", ".safetensors"}
    umask = os.umask(0)
    os.umask(umask)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask for path in index.iterdir())


def test_questions_worked_out_by_hand(index):
    search = open_search(index)
    for colour in COLOURS:
        assert found(search, text=colour, top=1) == [colour]
        assert found(search, text=f"the {colour} image", top=1) == [colour]
    for old, new in (("blue", "red"), ("red", "green"), ("white", "blue")):
        place = sorted(COLOURS).index(old)
        answer = search.ask(Question(place=place, minus=(old,), plus=(new,), top=6))
        assert Path(answer.hits[0].text).stem == new
        assert len(answer.hits) == 5, "the image asked by is not found"
        wanted = arithmetic_row(
            direction(old).astype(np.float32),
            minus_WD=direction(old)[None].astype(np.float32),
            plus_WD=direction(new)[None].astype(np.float32),
        )
        for hit in answer.hits:
            assert hit.score == pytest.approx(float(wanted @ direction(Path(hit.text).stem)), abs=1e-5)


def test_any_number_of_words(index):
    search = open_search(index)
    row = direction("white") - direction("red") - direction("green") + 2 * direction("purple")
    best = max((c for c in COLOURS), key=lambda colour: float(unit(row) @ direction(colour)))
    assert found(search, text="white", minus=("red", "green"), plus=("purple", "purple"), top=1) == [best]


def test_a_file_is_the_image_of_the_index_that_it_is_a_copy_of(index, images, tmp_path):
    search = open_search(index)
    copy = tmp_path / "copy.png"
    copy.write_bytes((images / "red.png").read_bytes())
    assert "red" not in found(search, image=copy)
    other = tmp_path / "other.png"
    Image.new("RGB", (5, 5), (250, 2, 2)).save(other)
    assert found(search, image=other, top=1) == ["red"]


def test_identical_images_are_all_left_out(tmp_path, model):
    names = {"a.png": "red", "b/again.png": "red", "c.png": "blue"}
    images = draw_colours(tmp_path / "images", names=names)
    run_index(images, model, tmp_path / "index")
    search = open_search(tmp_path / "index")
    assert [hit.text for hit in search.ask(Question(place=0)).hits] == ["c.png"]
    assert [hit.text for hit in search.ask(Question(text="red", top=2)).hits] == ["a.png", "b/again.png"]


def test_reranking_sorts_the_nearest_by_their_mean(model, tmp_path):
    drawn = np.random.default_rng(0).integers(0, 255, (30, 3))
    (tmp_path / "many").mkdir()
    for number, colour in enumerate(drawn.tolist()):
        Image.new("RGB", (2, 2), tuple(colour)).save(tmp_path / "many" / f"{number:02}.png")
    run_index(tmp_path / "many", model, tmp_path / "index")
    search = open_search(tmp_path / "index")
    plain = search.ask(Question(text="red", top=8)).hits
    again = search.ask(Question(text="red", top=3, rerank=8)).hits
    places = np.array([[int(hit.id) for hit in plain]])
    assert [hit.id for hit in again] == rerank(places, search.index.rows_ND)[0, :3].tolist()
    assert [hit.id for hit in again] != [hit.id for hit in plain[:3]]
    assert {hit.id: hit.score for hit in again}.items() <= {hit.id: hit.score for hit in plain}.items()


def test_index_is_made_once(index, images, model, monkeypatch, capsys):
    calls: list[int] = []
    encode = JointEncoder.encode_images

    def counting(self, given, **options):
        calls.append(len(given))
        return encode(self, given, **options)

    monkeypatch.setattr(JointEncoder, "encode_images", counting)
    before = ImageIndex.load(index)
    assert run_index(images, model, index) == 0
    assert calls == []
    assert "6 images, 0 encoded now, 6 taken over" in capsys.readouterr().out

    os.utime(images / "red.png", (1, 1))  # touched, but the same bytes
    (images / "green.png").rename(images / "moved.png")
    (images / "blue.png").unlink()
    Image.new("RGB", (3, 3), COLOURS["red"]).save(images / "white.png")
    Image.new("RGB", (3, 3), (9, 9, 9)).save(images / "new.png")
    assert run_index(images, model, index) == 0
    assert sum(calls) == 2
    after = ImageIndex.load(index)
    rows = dict(zip([image.path for image in after.images], after.rows_ND, strict=True))
    assert sorted(rows) == ["moved.png", "new.png", "purple.png", "red.png", "white.png", "yellow.png"]
    np.testing.assert_allclose(rows["white.png"], direction("red"), atol=1e-6)
    np.testing.assert_array_equal(rows["moved.png"], before.rows_ND[1])
    assert len(list(index.glob("embeddings-*"))) == 1
    assert found(open_search(index), text="green", top=1) == ["moved"]


def test_a_stopped_index_goes_on(images, model, tmp_path, monkeypatch, capsys):
    encode = JointEncoder.encode_images
    calls: list[int] = []

    def stopping(self, given, **options):
        calls.append(len(given))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, given, **options)

    monkeypatch.setattr(JointEncoder, "encode_images", stopping)
    monkeypatch.setattr(search_index, "_SAVE_SECONDS", 0.0)
    assert run_index(images, model, tmp_path / "index", "--batch-size", "2") == 130
    assert "the same command goes on" in capsys.readouterr().err
    part = ImageIndex.load(tmp_path / "index")
    assert (len(part), part.is_complete) == (4, False)
    notes = open_search(tmp_path / "index").ask(Question(text="red")).notes
    assert notes == ("The index is not complete: its making was stopped, and goes on with the same command.",)
    assert run_index(images, model, tmp_path / "index", "--batch-size", "2") == 0
    assert calls == [2, 2, 2, 2]
    whole = ImageIndex.load(tmp_path / "index")
    assert (len(whole), whole.is_complete) == (6, True)


def test_unreadable_images_are_named_and_left_out(images, model, tmp_path, capsys):
    (images / "broken.png").write_bytes(b"not an image")
    whole = (images / "red.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "notes.txt").write_text("no image and not looked at")
    outside = tmp_path / "outside.png"
    Image.new("RGB", (3, 3)).save(outside)
    (images / "link.png").symlink_to(outside)
    (images / "inner.png").symlink_to(images / "red.png")
    (images / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    assert run_index(images, model, tmp_path / "index") == 0
    out = capsys.readouterr().out
    assert "left out 3 images" in out
    assert "broken.png: cannot be read: not an image" in out
    stored = ImageIndex.load(tmp_path / "index")
    assert {image.name for image in stored.skipped} == {"broken.png", "cut.png", "link.png"}
    assert "link.png: a link that leads out of the folder" in out
    assert "inner.png" in {image.path for image in stored.images}


def test_nothing_to_index_is_refused(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run_index(tmp_path / "empty", model, tmp_path / "index") == 2
    assert "no images in it" in capsys.readouterr().err
    (tmp_path / "empty" / "broken.png").write_text("x")
    assert run_index(tmp_path / "empty", model, tmp_path / "index") == 2
    assert "none of 1 images could be indexed, first broken.png: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()
    assert run_index(tmp_path / "absent", model, tmp_path / "index") == 2
    assert "no such folder" in capsys.readouterr().err


def test_another_model_is_refused_by_name(index, images, model, tmp_path, capsys):
    other = build_colour_model(tmp_path / "brighter", brightness=2.0)
    assert run_index(images, other, index) == 2
    err = capsys.readouterr().err
    assert f"is an index with model {model} of digest" in err
    assert query(index, "--text", "red", "--model", str(other)) == 2
    err = capsys.readouterr().err
    assert f"was made with {model} (digest " in err
    assert f"{other} is another model now" in err
    assert run_index(images, other, index, "--overwrite") == 0
    assert query(index, "--text", "red") == 0


def test_a_model_and_images_that_were_moved(index, images, model, tmp_path, capsys):
    import shutil

    moved = tmp_path / "moved model"
    shutil.copytree(model, moved)
    images.rename(tmp_path / "elsewhere")
    arguments = ["--text", "red", "--top", "1", "--model", str(moved), "--images", str(tmp_path / "elsewhere")]
    assert query(index, *arguments, "--sheet", str(tmp_path / "sheet.png")) == 0
    assert str(tmp_path / "elsewhere" / "red.png") in capsys.readouterr().out


def test_a_model_that_changed_in_place_is_refused(images, tmp_path, capsys):
    import shutil

    model = build_colour_model(tmp_path / "model")
    run_index(images, model, tmp_path / "index")
    shutil.rmtree(model)
    build_colour_model(model, brightness=0.5)
    capsys.readouterr()
    assert query(tmp_path / "index", "--text", "red") == 2
    assert "is another model now" in capsys.readouterr().err


def test_models_without_a_joint_space_are_refused(images, tmp_path, capsys):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("red 1 0\nblue 0 1\n")
    assert run_index(images, vectors, tmp_path / "index") == 2
    assert "compares sentences alone" in capsys.readouterr().err
    bert = build_tiny_bert(tmp_path / "bert")
    config = json.loads((bert / "config.json").read_text())
    (bert / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ]
        )
    )
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": config["hidden_size"], "pooling_mode_mean_tokens": True})
    )
    assert run_index(images, bert, tmp_path / "index") == 2
    assert "takes a checkpoint of the recipes mcse or vse" in capsys.readouterr().err


def test_open_clip_models_work(images, tmp_path, capsys):
    model = f"open_clip:local-dir:{build_tiny_open_clip(tmp_path / 'clip')}"
    assert run_index(images, model, tmp_path / "index") == 0
    search = open_search(tmp_path / "index")
    from mcse.encoders.loading import load_encoder

    encoder = load_encoder(model, device="cpu")
    names = [image.path for image in search.index.images]
    cosine = encoder.encode_captions(["a red thing"]) @ encoder.encode_images([images / name for name in names]).T
    answer = search.ask(Question(text="a red thing", top=6))
    assert [hit.text for hit in answer.hits] == [names[place] for place in np.argsort(-cosine[0])]
    assert len(search.ask(Question(place=0, minus=("blue sky",), plus=("zzyzx",))).hits) == 5
    assert answer.notes == ()


def test_unknown_words(index, capsys, caplog):
    assert query(index, "--text", "bleu", "--top", "1") == 2
    err = capsys.readouterr().err
    assert "knows no word of 'bleu'" in err
    assert "blue" in err
    assert query(index, "--text", "red", "--minus", "bleu", "--plus", "qqqqq") == 2
    err = capsys.readouterr().err
    assert "unknown words: 'bleu' (did you mean blue?)" in err
    caplog.clear()
    assert query(index, "--text", "the whote red", "--top", "1") == 0
    assert not caplog.records  # opening the index asks for no word that the model may lack
    captured = capsys.readouterr()
    assert "red.png" in captured.out
    assert "Not known, and so not looked for: 'the' (did you mean" in captured.err
    assert "'whote' (did you mean white" in captured.err
    assert query(index, "--text", "...") == 2
    assert "knows no word of '...'" in capsys.readouterr().err


def test_words_that_cancel_are_refused(index, capsys):
    assert query(index, "--text", "red", "--minus", "red") == 2
    assert "the words cancel the query" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "red", "--top", "0"], "top must be from 1 to 1000, got 0"),
        (["--text", "red", "--top", "4", "--rerank", "3"], "rerank must be from top (4) to 1000, got 3"),
        (["--text", " "], "a sentence or word is empty"),
        (["--text", "red", "--plus", ""], "a sentence or word is empty"),
        (["--text", "x" * 1001], "has 1001 characters"),
        (["--text", "red", "--plus", *["blue"] * 21], "at most 20 words"),
        (["--image", "nowhere.png"], "no image at nowhere.png"),
        (["--image", __file__], "cannot be read: not an image"),
        (["--text", "red", "--images", "nowhere"], "--images: no folder nowhere"),
    ],
)
def test_bad_questions_are_refused(index, capsys, arguments, message):
    assert query(index, *arguments) == 2
    assert message in capsys.readouterr().err


def test_an_index_of_another_folder_or_no_index_is_kept(index, model, tmp_path, capsys):
    other = draw_colours(tmp_path / "others")
    assert run_index(other, model, index) == 2
    assert f"is an index with folder {tmp_path / 'images'}, not {other}" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert run_index(other, model, tmp_path / "mine", "--overwrite") == 2
    assert "is not empty and holds no index" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    assert query(tmp_path / "mine", "--text", "red") == 2
    assert "is not an index of images" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"embeddings": {"file": "../rows.safetensors", "sha256": ""}},
        {"embeddings": {"file": "gone.safetensors", "sha256": ""}},
        {"embeddings": "rows.safetensors"},
        {"schema": 99},
        {"images": []},
        {"images": None},
        {"skipped": [{"path": 1}]},
    ],
)
def test_a_damaged_index_is_refused(index, change, capsys):
    content = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps({**content, **change}))
    assert query(index, "--text", "red") == 2
    assert "damaged, or not an index of images" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../secret.png", "/etc/secret.png", "a/../../secret.png", ""])
def test_an_index_that_names_files_elsewhere_is_refused(index, path, capsys):
    content = json.loads((index / "index.json").read_text())
    content["images"][0]["path"] = path
    (index / "index.json").write_text(json.dumps(content))
    assert query(index, "--text", "red") == 2
    assert "is not a path below the folder" in capsys.readouterr().err


def test_a_image_that_became_a_link_outwards_is_not_opened(index, images, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (3, 3), (1, 2, 3)).save(secret)
    search = open_search(index)
    place = [image.path for image in search.index.images].index("red.png")
    assert search.open_image(place).size == (12, 9)
    (images / "red.png").unlink()
    (images / "red.png").symlink_to(secret)
    with pytest.raises(ValueError, match=r"red\.png is not in .* any more"):
        search.open_image(place)
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match=f"no image {wrong} in the index; it has 6"):
            search.open_image(wrong)


def test_the_table_is_one_line_a_image_in_a_pipe(index, images, capsys):
    assert query(index, "--text", "red", "--top", "3") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if ".png" in line]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert lines[0] == ["1", "1.0000", str(images / "red.png")]


def test_the_contact_sheet_shows_the_images(index, images, tmp_path):
    (images / "purple.png").unlink()
    sheet = tmp_path / "deep" / "sheet.png"
    arguments = ["--image", str(images / "blue.png"), "--minus", "blue", "--plus", "red", "--top", "5"]
    assert query(index, *arguments, "--sheet", str(sheet)) == 0
    with Image.open(sheet) as opened:
        assert opened.format == "PNG"
        colours = {colour for _, colour in opened.convert("RGB").getcolors(maxcolors=10**6)}
    assert {COLOURS[name] for name in ("blue", "red", "yellow", "green", "white")} <= colours
    assert COLOURS["purple"] not in colours


def test_stored_features_stand_in_for_a_tower(images, model, tmp_path, capsys):
    store = tmp_path / "features.hdf5"
    names = ["red.png", "green.png", "blue.png", "elsewhere.png"]
    with h5py.File(store, "w") as file:
        file["features"] = np.stack([direction(name) for name in ("red", "green", "blue", "white")]).astype(np.float32)
        file["image_names"] = names
    assert run_index(images, model, tmp_path / "index", "--features", str(store)) == 0
    out = capsys.readouterr().out
    assert "3 images, 3 encoded now" in out
    assert f"purple.png: no features in {store}" in out
    search = open_search(tmp_path / "index")
    assert not search.takes_images
    assert found(search, image=images / "blue.png", minus=("blue",), plus=("red",), top=1) == ["red"]
    with pytest.raises(ValueError, match="was made from stored features; ask by one of the index's own images"):
        search.ask(Question(image=images / "purple.png"))


def test_features_of_another_tower_are_refused(images, model, tmp_path, capsys):
    store = tmp_path / "store"
    assert main(["extract-features", "--images", str(images), "--tower", "pixels:2", "--output", str(store)]) == 0
    assert run_index(images, model, tmp_path / "index", "--features", str(store)) == 2
    assert f"--features: {store} holds features of pixels:2, not of pixels:1" in capsys.readouterr().err
    np.save(tmp_path / "bare.npy", np.ones((6, 3), dtype=np.float32))
    assert run_index(images, model, tmp_path / "index", "--features", str(tmp_path / "bare.npy")) == 2
    assert "has no image names" in capsys.readouterr().err


def test_rows_must_be_unit_rows(model, images, tmp_path):
    class Stretched:
        image_tower = None

        def encode_captions(self, sentences, *, batch_size=64):
            return np.ones((len(sentences), 3), dtype=np.float32)

        def encode_image_features(self, features, *, batch_size=256):
            return features

        def encode_images(self, given, *, batch_size=32):
            return np.ones((len(given), 3), dtype=np.float32)

    with pytest.raises(ValueError, match=r"the embedding of blue\.png has length 1\.73205, not 1"):
        build_index(
            open_images(str(images)), tmp_path / "index", encoder=Stretched(), model="stretched", model_digest=None
        )


@pytest.mark.parametrize(("rows", "rescore"), [("int8", None), ("binary", "float16")])
def test_images_are_found_by_small_rows_which_stay_when_taken_over(rows, rescore, images, model, tmp_path, capsys):
    asked = ["--rows", rows, *(["--rescore", rescore] if rescore else [])]
    assert run_index(images, model, tmp_path / "small", *asked) == 0
    search = open_search(tmp_path / "small")
    assert {colour: found(search, text=colour, top=1) for colour in COLOURS} == {colour: [colour] for colour in COLOURS}
    assert found(search, place=0, minus=("blue",), plus=("red",), top=2, rerank=3)
    before = ImageIndex.load(tmp_path / "small").rows_ND
    Image.new("RGB", (3, 3), (9, 9, 9)).save(images / "zzz.png")
    assert run_index(images, model, tmp_path / "small", *asked) == 0
    np.testing.assert_array_equal(ImageIndex.load(tmp_path / "small").rows_ND[:-1], before)
    capsys.readouterr()
    assert run_index(images, model, tmp_path / "small") == 2
    assert f"stores {rows}" in capsys.readouterr().err


def test_recall_is_printed_beside_the_memory(tmp_path, model, capsys):
    words = [f"{first} {second}" for first in COLOURS for second in COLOURS]
    (tmp_path / "text.txt").write_text("\n".join(words))
    (tmp_path / "asked.txt").write_text("red blue\ngreen yellow\n")
    asked = ["search", "recall", str(model), "--text", str(tmp_path / "text.txt"), "--queries"]
    assert main([*asked, str(tmp_path / "asked.txt"), "--top", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = {tuple(line[:-2]): line[-2:] for line in lines if len(line) >= 3}
    assert table["float32",][1] == "1.0000"
    assert {("int8",), ("binary",), ("binary,", "then", "int8")} <= table.keys()
    assert main([*asked, str(tmp_path / "asked.txt"), "--top", "99"]) == 2
    assert "are too few for --top 99" in capsys.readouterr().err
