"""mcse embed: every row once and in its place, whatever stopped it; what does not fit is refused by name."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from mcse.commands import embed
from mcse.commands.main import main
from mcse.encoders.loading import load_encoder
from mcse.search.embedding_files import read_embeddings, read_facts
from tests.fixtures.stub_encoders import HashEncoder
from tests.fixtures.tables import write_table

ROWS = [
    {"key": f"row {number}", "number": number * 7, "text": text}
    for number, text in enumerate(
        [
            "a red dog",
            "two red cats run",
            "a dog",
            "a red dog",
            "cats",
            "run dog run",
            "a",
            "a red dog",
            "red",
            "two cats",
        ]
    )
]
TEXTS = [row["text"] for row in ROWS]
WORDS = ["a", "red", "dog", "two", "cats", "run"]


@pytest.fixture
def words(tmp_path):
    """A file of word vectors, which encodes fast."""
    draw = np.random.default_rng(0)
    lines = (f"{word} {' '.join(f'{value:.4f}' for value in draw.normal(size=6))}\n" for word in WORDS)
    (tmp_path / "words.txt").write_text("".join(lines))
    return str(tmp_path / "words.txt")


class _Hashed(HashEncoder):
    """Takes a form of rows, as every encoder does."""

    def encode(self, sentences, *, batch_size=64, dim=None, dtype="float32"):
        return super().encode(sentences, batch_size=batch_size)[:, :dim].astype(dtype)


@pytest.fixture
def asked(monkeypatch):
    """The stub that stands in for every model, and what it was asked."""
    encoder = _Hashed()
    encoder.dimension, encoder.pooling, encoder.prompt = encoder.width, "mean", ""

    def load(name, *, precision, **_):
        encoder.precision = precision
        return encoder

    monkeypatch.setattr(embed, "load_encoder", load)
    monkeypatch.setattr(embed, "encoder_digest", lambda name: f"digest of {name}")
    return encoder.asked


def table(folder, kind="csv", rows=ROWS):
    path = folder / f"texts.{kind}"
    if kind != "txt":
        return write_table(path, rows)
    path.write_text("".join(f"{row['text']}\n" for row in rows))
    return path


def run(model, path, output, *flags):
    return main(["embed", model, "--input", str(path), "--output", str(output), "--rows-a-file", "4", *flags])


def read(output):
    parts = list(read_embeddings(output))
    return [name for ids, _ in parts for name in ids], np.concatenate([rows for _, rows in parts])


@pytest.mark.parametrize("kind", ["txt", "csv", "csv.gz", "tsv", "jsonl", "parquet", "folder"])
def test_every_format_gives_the_rows_of_encode(tmp_path, words, kind, capsys):
    assert run(words, table(tmp_path, kind), tmp_path / "out") == 0
    ids, rows = read(tmp_path / "out")
    assert ids == list(range(10))
    np.testing.assert_allclose(rows, load_encoder(words).encode(TEXTS), atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "embed.json",
        *(f"embeddings-0000{number}.npy" for number in range(3)),
        *(f"ids-0000{number}.npy" for number in range(3)),
    ]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "embeddings-00001.npy"), rows[4:8])
    assert "10 rows of width 6 (float32) in 3 files" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "folder"])
def test_ids_of_a_column(tmp_path, words, kind):
    path = table(tmp_path, kind)
    assert run(words, path, tmp_path / "keys", "--id-column", "key") == 0
    assert run(words, path, tmp_path / "numbers", "--id-column", "number") == 0
    assert read(tmp_path / "keys")[0] == [row["key"] for row in ROWS]
    numbers = [row["number"] for row in ROWS]
    assert read(tmp_path / "numbers")[0] == (list(map(str, numbers)) if kind == "csv" else numbers)


def test_ids_of_one_hash_are_told_apart(tmp_path, words, capsys):
    assert hash(-1) == hash(-2)
    rows = [{"key": number, "text": "a dog"} for number in (-1, -2, 5)]
    assert run(words, table(tmp_path, "jsonl", rows), tmp_path / "out", "--id-column", "key") == 0
    assert read(tmp_path / "out")[0] == [-1, -2, 5]
    assert run(words, table(tmp_path, "jsonl", [*rows, rows[1]]), tmp_path / "two", "--id-column", "key") == 2
    assert "line 4, column 'key': the id -2 stands at" in capsys.readouterr().err


def test_parquet_is_what_other_libraries_read(tmp_path, words):
    path = table(tmp_path)
    assert run(words, path, tmp_path / "npy") == 0
    assert run(words, path, tmp_path / "out", "--format", "parquet", "--id-column", "key") == 0
    frame = pandas.concat(map(pandas.read_parquet, sorted((tmp_path / "out").glob("*.parquet"))))
    assert list(frame["id"]) == [row["key"] for row in ROWS]
    np.testing.assert_array_equal(np.stack(list(frame["embedding"])), read(tmp_path / "npy")[1])
    np.testing.assert_array_equal(read(tmp_path / "out")[1], read(tmp_path / "npy")[1])


def test_rows_without_text_are_refused_or_left_out(tmp_path, words, capsys):
    path = table(tmp_path, "jsonl", [*ROWS[:3], {"text": "  "}, {"text": None}, *ROWS[3:]])
    assert run(words, path, tmp_path / "out") == 2
    assert "line 4: the column 'text' is empty; --empty-rows skip" in capsys.readouterr().err
    assert run(words, path, tmp_path / "out", "--empty-rows", "skip") == 0
    ids, rows = read(tmp_path / "out")
    assert ids == [0, 1, 2, *range(5, 12)]
    np.testing.assert_allclose(rows, load_encoder(words).encode(TEXTS), atol=1e-6)


def test_narrow_rows_and_half_precision(tmp_path, words):
    assert run(words, table(tmp_path), tmp_path / "out", "--dim", "4", "--dtype", "float16") == 0
    rows = read(tmp_path / "out")[1]
    cut = load_encoder(words).encode(TEXTS, normalize=False)[:, :4]
    assert rows.dtype == np.float16
    np.testing.assert_allclose(rows, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-3)


def test_a_text_that_stands_there_several_times_is_encoded_once_a_file(tmp_path, asked):
    assert run("model", table(tmp_path), tmp_path / "out") == 0
    assert sorted(asked) == sorted([*set(TEXTS[:4]), *set(TEXTS[4:8]), *set(TEXTS[8:])])
    np.testing.assert_array_equal(read(tmp_path / "out")[1], HashEncoder().encode(TEXTS))


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_what_was_stopped_goes_on_and_encodes_nothing_twice(tmp_path, asked, monkeypatch, finished):
    write, path, output = embed.write_file, table(tmp_path), tmp_path / "out"

    def stopped(folder, asked, number, ids, rows):
        if number == finished:
            raise KeyboardInterrupt
        return write(folder, asked, number, ids, rows)

    with monkeypatch.context() as patch:
        patch.setattr(embed, "write_file", stopped)
        assert run("model", path, output) == 130
    with pytest.raises(ValueError, match="its making was stopped; the same mcse embed command goes on"):
        list(read_embeddings(output))
    (output / "embeddings-00002.npy").write_bytes(b"half")  # written, but not noted as finished
    asked.clear()
    assert run("model", path, output) == 0
    assert set(asked) == set(TEXTS[4 * finished :])
    np.testing.assert_array_equal(read(output)[1], HashEncoder().encode(TEXTS))
    asked.clear()
    assert run("model", path, output) == 0
    assert asked == []


@pytest.mark.parametrize("name", ["embeddings-00001.npy", "ids-00001.npy"])
def test_a_damaged_file_is_named_and_made_anew_alone(tmp_path, asked, name, caplog):
    path, output = table(tmp_path), tmp_path / "out"
    assert run("model", path, output) == 0
    content = (output / name).read_bytes()
    (output / name).write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match="damaged or missing; the same mcse embed command makes it anew"):
        list(read_embeddings(output))
    asked.clear()
    assert run("model", path, output) == 0
    assert f"{name} is damaged" in caplog.text
    assert set(asked) == set(TEXTS[4:8])
    assert (output / name).read_bytes() == content


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        ("other", (), "another model (its digest): 'digest of model', now 'digest of other'"),
        ("model", ("--rows-a-file", "5"), "another --rows-a-file: 4, now 5"),
        ("model", ("--column", "key"), "another --column: 'text', now 'key'"),
        ("model", ("--id-column", "key"), "another --id-column: None, now 'key'"),
        ("model", ("--dtype", "float16"), "another --dtype: 'float32', now 'float16'"),
        ("model", ("--dim", "3"), "another --dim: 8, now 3"),
        ("model", ("--format", "parquet"), "another --format"),
        ("model", ("--empty-rows", "skip"), "another --empty-rows"),
        ("model", ("--precision", "bfloat16"), "another --precision"),
    ],
)
def test_what_was_begun_in_another_way_is_refused_by_name(tmp_path, asked, capsys, model, flags, said):
    path, output = table(tmp_path), tmp_path / "out"
    assert run("model", path, output) == 0
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    assert run(model, path, output, *flags) == 2
    assert said in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before
    assert run(model, path, output, *flags, "--overwrite") == 0


def test_another_prompt_is_refused(tmp_path, words, capsys):
    path, output = table(tmp_path), tmp_path / "out"
    assert run(words, path, output, "--prompt", "red ") == 0
    np.testing.assert_allclose(
        read(output)[1], load_encoder(words).encode([f"red {text}" for text in TEXTS]), atol=1e-6
    )
    assert run(words, path, output) == 2
    assert "another --prompt: 'red ', now ''" in capsys.readouterr().err


def test_an_input_that_changed_is_refused(tmp_path, asked, monkeypatch, capsys):
    path, output = table(tmp_path), tmp_path / "out"
    write = embed.write_file

    def changed(*given):
        table(tmp_path, rows=[*ROWS, ROWS[0]])
        return write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(embed, "write_file", changed)
        assert run("model", path, output) == 2
    assert "has changed while it was read" in capsys.readouterr().err
    assert run("model", path, output) == 2
    assert "another content of --input, which has changed since" in capsys.readouterr().err
    assert not read_facts(output).complete


def test_a_folder_of_something_else_is_left_alone(tmp_path, asked, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.tex").write_text("mine")
    assert run("model", table(tmp_path), output, "--overwrite") == 2
    assert "holds something else (thesis.tex)" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("", (), "is empty"),
        ("id,text\n1,\n2,b\n", (), "line 2: the column 'text' is empty"),
        ("id,words\n1,a\n", (), "no column is called text, sentence, query, caption among"),
        ("id,text\n1,a\n", ("--column", "txt"), "no column 'txt' for --column among"),
        ("id,text\n1,a\n", ("--id-column", "idx"), "no column 'idx' for --id-column"),
        ("id,text\n,a\n", ("--id-column", "id"), "line 2, column 'id': an id has 1 to 1000 characters"),
        ("id,text\n1,a\n2,b\n1,c\n", ("--id-column", "id"), "texts.csv, line 4, column 'id': the id '1' stands at"),
        ("id,text\n1,a\n2,b\n1,c\n", ("--id-column", "id"), "texts.csv, line 2 already"),
        ("id,text\n1,a\n", ("--dim", "9"), "--dim must be from 1 to 8"),
        ("id,text\n1,a\n", ("--batch-size", "0"), "batch_size must be at least 1"),
        ("id,text\n", (), "holds no text"),
        ('id,text\n1,"a\n', (), "line 2: a quotation mark is opened"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, asked, capsys, text, flags, said):
    (tmp_path / "texts.csv").write_text(text)
    assert run("model", tmp_path / "texts.csv", tmp_path / "out", *flags) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": 3}', "line 2, column 'text': expected text, got int"),
        ('{"text": "b", "id": 1.5}', "an id is text or a whole number, got 1.5"),
        ('{"text": "b", "id": true}', "an id is text or a whole number, got True"),
        ('{"text": "b", "id": "x"}', "ids are all text or all whole numbers"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, asked, capsys, line, said):
    (tmp_path / "t.jsonl").write_text('{"text": "a", "id": 1}\n' + line + "\n")
    flags = ("--id-column", "id") if '"id"' in line else ()
    assert run("model", tmp_path / "t.jsonl", tmp_path / "out", *flags) == 2
    assert said in capsys.readouterr().err


def test_an_embedding_that_is_not_finite_is_refused(tmp_path, asked, monkeypatch, capsys):
    monkeypatch.setattr(_Hashed, "encode", lambda self, texts, **_: np.full((len(texts), 8), np.nan, np.float32))
    assert run("model", table(tmp_path), tmp_path / "out") == 2
    assert "the model's embedding of 'a red dog' is not finite" in capsys.readouterr().err
