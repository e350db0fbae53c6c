"""``mcse init``: what it writes for small folders of every kind loads, says why, and trains."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from mcse.commands.main import main
from mcse.recipes.launch import load_config
from mcse.run_folder import read_run
from mcse.yaml_files import read_yaml_file
from tests.fixtures.launch import one_thread
from tests.fixtures.tiny_models import build_tiny_bert

COLOURS, THINGS = ("red", "blue", "green", "grey"), ("box", "rug", "cup", "lamp", "plate")


def text(number: int) -> str:
    return f"a {COLOURS[number % 4]} {THINGS[number % 5]} {number}"


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in range(number):
        colour_HW3 = np.random.default_rng(image).integers(0, 256, (10, 10, 3), dtype=np.uint8)
        Image.fromarray(colour_HW3).save(folder / f"p{image}.png")


def rated(path: Path, number: int) -> None:
    pairs = (f"{row % 5}\t{text(row)}\t{text(3 * row)}" for row in range(number))
    write(path, "score\tsentence1\tsentence2", *pairs)


def shop(folder: Path) -> None:
    draw(folder / "images", 24)
    write(folder / "products.csv", "image,title", *(f"images/p{row}.png,{text(row)}" for row in range(24)))
    write(folder / "products_test.csv", "image,title", *(f"images/p{row}.png,{text(row)}" for row in range(24)), "")
    rated(folder / "rated_dev.tsv", 12)
    rated(folder / "rated_test.tsv", 30)
    write(folder / "text.txt", *map(text, range(100, 140)))
    write(folder / "README.txt", "What this is.")


def captions(folder: Path) -> None:
    draw(folder / "Images", 110)
    rows = (f"p{row}.png,{text(5 * row + turn)}" for row in range(110) for turn in range(3))
    write(folder / "captions.txt", "image,caption", *rows)


def beside(folder: Path) -> None:
    draw(folder, 16)
    for row in range(16):
        write(folder / f"p{row}.txt", text(row))


def saved(folder: Path) -> None:
    draw(folder / "drawn", 16)
    columns = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    images = [{"bytes": (folder / "drawn" / f"p{row}.png").read_bytes(), "path": None} for row in range(16)]
    rows = {"image": images, "caption": list(map(text, range(16)))}
    datasets.Dataset.from_dict(rows, features=columns).save_to_disk(str(folder / "shop"))
    for path in (folder / "drawn").iterdir():
        path.unlink()


def some_lost(folder: Path) -> None:
    captions(folder)
    for row in range(90):
        (folder / "Images" / f"p{row}.png").unlink()


def all_lost(folder: Path) -> None:
    captions(folder)
    for path in (folder / "Images").iterdir():
        path.unlink()


def other_names(folder: Path) -> None:
    draw(folder / "Fotos", 24)
    rows = (f"p{row}.png,{row},{text(row)}" for row in range(24))
    write(folder / "Bilder.csv", "Dateiname,Nummer,was man sieht", *rows)


def sentences(folder: Path) -> None:
    write(folder / "long.txt", *map(text, range(60)))
    write(folder / "short.txt", *map(text, range(30)))
    draw(folder / "photos", 3)


def parquet(folder: Path) -> None:
    folder.mkdir()
    datasets.Dataset.from_dict({"text": list(map(text, range(40)))}).to_parquet(str(folder / "text.parquet"))


def pairs(folder: Path) -> None:
    rows = ({"question": text(row), "answer": text(row + 50)} for row in range(40))
    write(folder / "faq.jsonl", *map(json.dumps, rows))


def triples(folder: Path) -> None:
    rows = (f"{text(row)},{text(row + 1)},{text(row + 2)}" for row in range(40))
    write(folder / "nli.csv", "anchor,positive,negative", *rows)


def odd_scores(folder: Path) -> None:
    write(folder / "text.txt", *map(text, range(60)))
    rows = (f"{row},{text(row)},{text(3 * row)},{row % 5}" for row in range(12))
    write(folder / "mine.csv", "number,left,right,human score", *rows)


def scores(folder: Path) -> None:
    rated(folder / "train.tsv", 40)
    rated(folder / "dev.tsv", 12)


FOLDERS: dict[str, tuple[Callable[[Path], None], str, dict[str, Any]]] = {
    "shop": (
        shop,
        "mcse",
        {
            "sentences": {"file": "text.txt"},
            "captions": {"table": {"path": "products.csv", "image": "image", "caption": "title"}, "per_image": "all"},
            "images": {"folder": "images", "tower": "pixels:8"},
            "sts": "rated_dev.tsv",
        },
    ),
    "captions": (captions, "mcse", {"images": {"folder": "Images", "tower": "pixels:8"}}),
    "a text beside each image": (beside, "mcse", {"captions": {"file": ".", "per_image": "all"}}),
    "a saved dataset": (saved, "mcse", {"images": {"table": "shop", "tower": "pixels:8"}}),
    "some images lost": (some_lost, "mcse", {"images": {"folder": "Images", "tower": "pixels:8", "on_bad": "skip"}}),
    "all images lost": (all_lost, "simcse", {}),
    "columns of any name": (
        other_names,
        "mcse",
        {
            "captions": {
                "table": {"path": "Bilder.csv", "image": "Dateiname", "caption": "was man sieht"},
                "per_image": "all",
            }
        },
    ),
    "sentences": (sentences, "simcse", {"sentences": {"file": "long.txt"}}),
    "parquet": (parquet, "simcse", {"sentences": {"stream": "text.parquet"}}),
    "pairs": (pairs, "tables", {"table": {"path": "faq.jsonl", "query": "question", "positive": "answer"}}),
    "triples": (
        triples,
        "tables",
        {"table": {"path": "nli.csv", "query": "anchor", "positive": "positive", "negatives": ["negative"]}},
    ),
    "scores of other columns": (
        odd_scores,
        "simcse",
        {"sts": {"path": "mine.csv", "query": "left", "positive": "right", "score": "human score"}},
    ),
    "scores": (
        scores,
        "tables",
        {
            "table": {"path": "train.tsv", "query": "sentence1", "positive": "sentence2", "score": "score"},
            "sts": "dev.tsv",
        },
    ),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bert(tmp_path_factory.mktemp("model") / "bert", texts=list(map(text, range(40))))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MCSE_DATA", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", FOLDERS)
def test_what_is_written_trains_as_it_is(kind, bert, tmp_path, capsys):
    make, recipe, keys = FOLDERS[kind]
    make(tmp_path / "own")
    assert main(["init", "own", "--output", "own.yaml", "--name_or_path", str(bert)]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-2:] == ["wrote own.yaml", "next: mcse train --config own.yaml"]
    assert f"recipe {recipe}: " in told
    tree = read_yaml_file(Path("own.yaml"))
    assert tree["recipe"] == recipe
    assert {key: tree["data"].get(key) for key in keys} == keys
    assert tree["data"]["root"] == str(tmp_path / "own")
    config = load_config(Path("own.yaml"), [], check_files=True)
    assert config.train.max_steps >= 2
    short = ["--train.max_steps", "2", "--train.eval_steps", "1", "--optim.warmup_steps", "0"]
    with one_thread():
        assert main(["train", "--config", "own.yaml", *short]) == 0
    run = read_run(Path("runs/own"))
    assert (run.state, run.steps) == ("finished", 2)
    own = getattr(config.data.sts, "path", config.data.sts)
    assert run.select_by == (f"{Path(own).stem}.spearman" if own else None)


def test_captions_that_are_held_out_are_told_apart_and_not_trained_on(bert, tmp_path, capsys):
    captions(tmp_path / "own")
    assert main(["init", "own", "--output", "own.yaml", "--name_or_path", str(bert)]) == 0
    assert "on 11 images that are held out (own_dev.tsv)" in capsys.readouterr().out
    image_of = {text(5 * row + turn): f"p{row}.png" for row in range(110) for turn in range(3)}
    trained = set(Path("own_images.txt").read_text().split())
    header, *rows = Path("own_dev.tsv").read_text().splitlines()
    assert header == "score\tsentence1\tsentence2"
    seen = set()
    for row in rows:
        score, left, right = row.split("\t")
        assert left != right
        assert (image_of[left] == image_of[right]) == (score == "1")
        seen |= {image_of[left], image_of[right]}
    assert len(rows) == 22
    assert len(seen) == 11
    assert seen | trained == {f"p{row}.png" for row in range(110)}
    assert not seen & trained


def some_pairs(number: int) -> list[tuple[str, ...]]:
    """Every first text twice."""
    return [(text(row // 2), text(200 + row), str(row % 5)) for row in range(number)]


ALONE = {
    "scores": (("frage", "antwort", "score"), ("query", "positive", "score")),
    "labels": (("sentence1", "sentence2", "is_duplicate"), ("query", "positive", "label")),
    "pairs": (("question", "answer"), ("query", "positive")),
}


@pytest.mark.parametrize("kind", ALONE)
def test_of_one_table_alone_some_rows_are_held_out_and_the_next_command_works(kind, bert, tmp_path, capfd):
    columns, roles = ALONE[kind]
    rows = [row[: len(columns)] for row in some_pairs(220)]
    if kind == "labels":
        rows = [(*row[:2], str(int(row[2]) % 2)) for row in rows]
    write(tmp_path / "own" / "mine.csv", ",".join(columns), *map(",".join, rows))
    assert main(["init", "own", "--output", "own.yaml", "--name_or_path", str(bert)]) == 0
    tree = read_yaml_file(Path("own.yaml"))
    dev = tree["data"]["sts"] if kind == "scores" else tree["evaluate"][0]["path"]
    found = []
    for path in (tree["data"]["table"]["path"], dev):
        header, *lines = (line.split("\t") for line in Path(path).read_text().splitlines())
        named = tree["data"]["table"] if path != dev or kind == "scores" else tree["evaluate"][0]
        found.append([tuple(line[header.index(named[role])] for role in roles) for line in lines])
    train, held_out = found
    assert sorted(train + held_out) == sorted(rows)
    assert 22 <= len(held_out) <= 26  # a tenth, and whoever has the same first text
    assert not {row[0] for row in train} & {row[0] for row in held_out}
    capfd.readouterr()
    short = ["--train.max_steps", "2", "--train.eval_steps", "1", "--optim.warmup_steps", "0"]
    with one_thread():
        assert main(["train", "--config", "own.yaml", *short]) == 0
        (following,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("next: ")]
        assert main(shlex.split(following.removeprefix("next: "))[1:]) == 0
    assert json.loads(Path("runs/own/evaluation/results.json").read_text())["scores"]


def test_few_rows_are_all_trained_on_which_is_said(bert, tmp_path, capfd):
    write(tmp_path / "own" / "mine.csv", "question,answer", *(",".join(row[:2]) for row in some_pairs(99)))
    assert main(["init", "own", "--output", "own.yaml", "--name_or_path", str(bert)]) == 0
    assert "nothing is held out of mine.csv, which has 99 rows and not 100 to 1,000,000" in capfd.readouterr().out
    assert read_yaml_file(Path("own.yaml"))["data"]["table"]["path"] == "mine.csv"
    with one_thread():
        assert main(["train", "--config", "own.yaml", "--train.max_steps", "1", "--optim.warmup_steps", "0"]) == 0
    assert "next: mcse evaluate runs/own --data PAIRS (a file of scored pairs" in capfd.readouterr().err


def test_what_is_held_out_is_a_tenth_even_where_one_query_has_most_rows(bert, tmp_path, capfd):
    rows = [f"{text(0)},{text(row)}" for row in range(115)]
    write(
        tmp_path / "own" / "mine.csv",
        "question,answer",
        *rows,
        *(f"{text(row)},{text(row)}" for row in range(300, 305)),
    )
    assert main(["init", "own", "--output", "own.yaml", "--name_or_path", str(bert)]) == 0
    held = [line.split("\t")[0] for line in Path("own_dev.tsv").read_text().splitlines()[1:]]
    assert sorted(held) == sorted(map(text, range(300, 305)))
    write(tmp_path / "own" / "mine.csv", "question,answer", *rows)
    assert main(["init", "own", "--output", "b.yaml", "--name_or_path", str(bert)]) == 0
    assert "nothing is held out of mine.csv: most rows have the same first text" in capfd.readouterr().out


def test_scores_are_held_out_with_every_digit(bert, tmp_path):
    given = [str(score) for score in (2.38298477, 1234567.8, 3, 1e-9)]
    rows = [f"{text(row)},{text(200 + row)},{given[row % 4]}" for row in range(120)]
    write(tmp_path / "own" / "mine.csv", "left,right,score", *rows)
    assert main(["init", "own", "--output", "own.yaml", "--name_or_path", str(bert)]) == 0
    lines = [line for part in ("train", "dev") for line in Path(f"own_{part}.tsv").read_text().splitlines()[1:]]
    assert {line.split("\t")[0] for line in lines} == set(given)


@pytest.mark.parametrize("column", ["dissimilarity", "review_score", "unrelated"])
def test_what_is_no_score_by_its_name_is_not_taken_for_one(column, bert, tmp_path):
    write(tmp_path / "own" / "text.txt", *map(text, range(60)))
    rows = (f"{text(row)},{text(3 * row)},{row % 5}" for row in range(12))
    write(tmp_path / "own" / "mine.csv", f"title,description,{column}", *rows)
    assert main(["init", "own", "--output", "own.yaml", "--name_or_path", str(bert)]) == 0
    assert "sts" not in read_yaml_file(Path("own.yaml"))["data"]


def test_how_many_captions_are_used_stands_in_the_file(bert, tmp_path):
    captions(tmp_path / "own")
    assert main(["init", "own", "--output", "own.yaml", "--name_or_path", str(bert)]) == 0
    said = "  # all 330 captions; one would draw one of each image, 110 of them\n    per_image: all"
    assert said in Path("own.yaml").read_text()


def test_files_that_are_not_used_are_a_short_line_each(tmp_path, capsys):
    sentences(tmp_path / "own")
    for name in ("a.csv", "b.csv"):
        write(tmp_path / "own" / name, "x,y,z", "one,two,three", "four,five,six")
    write(tmp_path / "own" / "list.txt", "p0.png", "p1.png")
    assert main(["init", "own"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  not used (name them image, caption;"))
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["a.csv", "b.csv"]
    assert sum(line.startswith("  not used") for line in lines) == 2
    assert max(len(line) for line in lines[at + 1 : at + 3]) <= 120


def test_what_else_fits_is_said_and_can_be_chosen(bert, tmp_path, capsys):
    shop(tmp_path / "own")
    sentences(tmp_path / "own")
    assert main(["init", "own", "--output", "a.yaml"]) == 0
    told = capsys.readouterr().out
    assert "sentences: long.txt, the largest; --sentences FILE takes another (text.txt, short.txt)" in told
    assert "products_test.csv: not trained on, by its name" in told
    left = f"left for the end, by its name: mcse evaluate RUN --data {(tmp_path / 'own' / 'rated_test.tsv').resolve()}"
    assert f"rated_test.tsv: {left}" in told
    flags = ["--sentences", "short.txt", "--sts", "rated_test.tsv", "--tower", "pixels:4", "--recipe", "simcse"]
    assert main(["init", "own", "--output", "b.yaml", *flags]) == 0
    data = read_yaml_file(Path("b.yaml"))["data"]
    assert (data["sentences"], data["sts"]) == ({"file": "short.txt"}, "rated_test.tsv")
    assert "images" not in data


def test_stored_features_of_the_captions_images_are_taken(tmp_path, capsys):
    captions(tmp_path / "own")
    draw(tmp_path / "other", 200)
    write(tmp_path / "few.txt", *(f"p{row}.png" for row in range(9)))
    assert main(["extract-features", "--images", "own/Images", "--tower", "pixels:4", "--output", "own/store"]) == 0
    few = ["--images", "other", "--names", "few.txt", "--tower", "pixels:8", "--output", "own/a_few"]
    assert main(["extract-features", *few]) == 0
    assert main(["init", "own"]) == 0
    assert read_yaml_file(Path("config.yaml"))["data"]["images"] == {"features": "store"}
    (tmp_path / "own" / "store").rename(tmp_path / "store")
    assert main(["init", "own", "--output", "b.yaml"]) == 0
    assert "a_few: not the features of these captions: " in capsys.readouterr().out
    assert read_yaml_file(Path("b.yaml"))["data"]["images"] == {"folder": "Images", "tower": "pixels:8"}


def odd_pairs(folder: Path) -> None:
    write(folder / "rated.tsv", "left\tright\tbeside", "a red box\ta box\t3", "a rug\ta blue rug\t4")


def empty_cell(folder: Path) -> None:
    write(folder / "c.csv", "image,caption", "p0.png,a box", ",a rug")


@pytest.mark.parametrize(
    ("make", "flags", "message"),
    [
        (lambda folder: draw(folder, 5), [], "5 images are there, and captions are missing: a table with the columns"),
        (lambda folder: folder.mkdir(), [], "it needs images with captions, sentences (.txt, one a line), or a table"),
        (lambda folder: None, [], "/own; name the one that holds your images"),
        (empty_cell, [], "c.csv, line 3: the column 'image' is empty"),
        (
            odd_pairs,
            [],
            " do not say what it is; name them image, caption; or sentence1, sentence2, score; or query",
        ),
        (sentences, ["--recipe", "mcse"], "--recipe mcse: no captions with images in"),
        (sentences, ["--recipe", "tables"], "--recipe tables: no table of pairs, triples or scores in"),
        (sentences, ["--sts", "long.txt"], "long.txt, line 1: no column for score"),
        (sentences, ["--captions", "none.csv"], "none.csv"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_written(make, flags, message, tmp_path, capsys):
    make(tmp_path / "own")
    before = sorted(tmp_path.rglob("*"))
    assert main(["init", "own", *flags]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("there", ["config.yaml", "config_dev.tsv"])
def test_nothing_is_overwritten(there, tmp_path, capsys):
    captions(tmp_path / "own")
    write(tmp_path / there, "mine")
    assert main(["init", "own"]) == 2
    assert f"{there} is there already and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / there).read_text() == "mine\n"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [there]
