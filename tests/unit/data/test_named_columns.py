"""Tables by named columns: every format gives the same rows; what is not there, or not meant, is named."""

from __future__ import annotations

import logging
import math

import pandas
import pytest

from mcse.data.named_columns import digest_of_source, open_named_columns
from mcse.data.table_config import DevTable, NamedTable, TrainingTable
from tests.fixtures.tables import write_table

ROWS = [
    {"id": 1, "title": "red mug", "description": "a mug, red", "other": "a blue mug", "stars": 4.5},
    {"id": 2, "title": "oak table", "description": "a table of oak", "other": "a chair", "stars": 3.0},
]
NAMES = list(ROWS[0])


def write(folder, kind, rows=ROWS):
    """The same rows in one of the formats."""
    return write_table(folder / f"products.{kind}", rows)


def opened(path, **columns):
    return open_named_columns(NamedTable(path=path.name, **columns), root=path.parent, key="data.table")


def texts(path, **columns):
    return [example.texts for example in opened(path, **columns).rows()]


def table(folder, text, name="t.csv"):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "parquet", "folder"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    path = write(tmp_path, kind)
    columns = opened(path, query="title", positive="description", negatives=("other",))
    assert [example.texts for example in columns.rows()] == [
        (row["title"], row["description"], row["other"]) for row in ROWS
    ]
    assert all(math.isnan(example.value) for example in columns.rows())
    scored = opened(path, query="title", positive="description", score="stars")
    assert [example.value for example in scored.rows()] == [4.5, 3.0]
    assert columns.digest == scored.digest == digest_of_source(str(path))
    assert columns.rows_digest != scored.rows_digest
    assert len(ROWS) <= columns.count() <= len(ROWS) + 1


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "folder"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path, kind):
    path = write(tmp_path, kind)
    with pytest.raises(ValueError, match=r"no column 'titel' for query among 'id', 'title', .*mean 'title'\?") as error:
        opened(path, query="titel", positive="description")
    assert str(path) in str(error.value)
    with pytest.raises(ValueError, match="no column is called sent0, anchor, query, premise or the like, among 'id'"):
        opened(path)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("anchor,positive,negative", ("anchor", "positive", "negative")),
        ("id,sentence1,sentence2,score", ("sentence1", "sentence2")),
        ("query,positive,negative_1,negative_2", ("query", "positive", "negative_1", "negative_2")),
        ("question,answer", ("question", "answer")),
        ("text", ("text",)),
    ],
)
def test_plain_names_need_not_be_given_and_are_said(tmp_path, caplog, header, expected):
    cells = ",".join("0.5" if name in ("id", "score") else "words" for name in header.split(","))
    with caplog.at_level(logging.INFO):
        columns = opened(table(tmp_path, f"{header}\n{cells}\n"))
    assert columns.texts == expected
    assert columns.value == ("score" if "score" in header else None)
    assert f"query = '{expected[0]}'" in caplog.text


def test_named_columns_are_all_that_is_read(tmp_path):
    path = table(tmp_path, "query,positive,score\na,b,1\n")
    assert opened(path, query="query").texts == ("query",)
    assert opened(path, query="query", positive="positive").value is None


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a,b,s\nx,y,1\nx,y,nan\n", {"score": "s"}, r"t.csv, line 3, column 's': score 'nan' is not a finite number"),
        ("a,b,s\nx,y,6\n", {"score": "s", "score_range": (0, 5)}, r"line 2, .*6 lies outside score_range \[0, 5\]"),
        ("a,b,s\nx,y,2\n", {"label": "s"}, r"line 2, column 's': a label is 0 or 1, got 2"),
        ("a,b\nx,\n", {}, r"line 2: the column 'b' is empty; empty_rows: skip"),
        ("a,b,b\nx,y,z\n", {}, r"the column 'b' stands there 2 times"),
        ("a,b\nx,y\nx\n", {}, r"line 3: 1 columns, expected 2"),
        ('a,b\nx,"y\nz,w\n', {}, r"line 2: a quotation mark is opened and not closed"),
        ("a,b\n", {}, r"holds no row"),
        ("", {}, r"is empty"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, columns, message):
    path = table(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        list(opened(path, query="a", positive="b", **columns).rows())
    assert "t.csv" in str(error.value)


def test_an_id_is_text_or_a_whole_number_and_equal_in_every_format(tmp_path):
    text = table(tmp_path, "a,b,n\nx,y,7\nz,w,8\nu,v, 7 \n")
    numbers = tmp_path / "n.parquet"
    pandas.DataFrame({"a": ["x", "z", "u"], "b": ["y", "w", "v"], "n": [7, 8, 7]}).to_parquet(numbers)
    found = [
        [example.group for example in opened(path, query="a", positive="b", id="n").rows()] for path in (text, numbers)
    ]
    assert found[0] == found[1]
    assert found[0][0] == found[0][2] != found[0][1]
    assert opened(text, query="a", positive="b", id="n").texts == ("a", "b")
    assert (
        opened(text, query="a", positive="b", id="n").rows_digest != opened(text, query="a", positive="b").rows_digest
    )
    for cell in ("null", '""', "1.5", "true", "[7]"):
        bad = table(tmp_path, f'{{"a": "x", "b": "y", "n": {cell}}}\n', "bad.jsonl")
        with pytest.raises(ValueError, match=r"line 1, column 'n': an id is some text or a whole number, got "):
            list(opened(bad, query="a", positive="b", id="n").rows())


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder"])
def test_an_id_may_be_a_column_of_texts(tmp_path, kind):
    columns = opened(write(tmp_path, kind), query="title", positive="description", id="title")
    rows = list(columns.rows())
    assert [row.texts for row in rows] == [(row["title"], row["description"]) for row in ROWS]
    by_title = opened(write(tmp_path / "", kind), query="description", positive="other", id="title")
    assert [row.group for row in rows] == [row.group for row in by_title.rows()]


def test_what_was_kept_of_scores_is_not_taken_for_labels(tmp_path):
    path = table(tmp_path, "a,b,s\nx,y,0.5\n")
    digests = [opened(path, query="a", positive="b", **{kind: "s"}).rows_digest for kind in ("score", "label")]
    assert digests[0] != digests[1]


def test_an_id_is_of_training_on_pairs_that_have_no_scores():
    with pytest.raises(ValueError, match="id: would do nothing beside score or label"):
        TrainingTable(path="t.csv", query="a", positive="b", score="s", id="n")
    with pytest.raises(ValueError, match="id: would do nothing here"):
        DevTable(path="t.csv", name="dev", query="a", positive="b", id="n")


def test_a_list_is_no_text(tmp_path):
    path = table(tmp_path, '{"a": ["x", "y"], "b": "z"}\n', "t.jsonl")
    with pytest.raises(ValueError, match=r"line 1, column 'a': expected text, got list"):
        list(opened(path, query="a", positive="b").rows())
    other = tmp_path / "lists.parquet"
    pandas.DataFrame({"a": [["x"]], "b": ["z"]}).to_parquet(other)
    with pytest.raises(ValueError, match=r"row 1, column 'a': expected text, got list"):
        list(opened(other, query="a", positive="b").rows())


def test_empty_rows_are_counted_where_they_may_be_left_out(tmp_path, caplog):
    path = table(tmp_path, "a,b\nx,y\n ,y\nx,\n")
    assert texts(path, query="a", positive="b", empty_rows="skip") == [("x", "y")]
    assert "left out 2 of 3 rows" in caplog.text


def test_line_breaks_are_read_where_they_are_expected(tmp_path):
    path = table(tmp_path, 'a,b\nx,"first\nsecond"\n')
    assert texts(path, query="a", positive="b", line_breaks=True) == [("x", "first second")]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data.table: no file at .*none.csv"):
        opened(tmp_path / "none.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder is damaged, or no folder that save_to_disk wrote"):
        opened(tmp_path / "folder")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"t.parquet: damaged, or no parquet file"):
        opened(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"positive": "b"}, "query: name its column"),
        ({"query": "a", "score": "s"}, "positive: name the column"),
        ({"query": "a", "positive": "b", "score": "s", "label": "l"}, "score, label"),
        ({"query": "a", "positive": "b", "score": "s", "negatives": ("n",)}, "negatives: would do nothing"),
        ({"score_range": (5, 0)}, "score_range: must grow"),
        ({"query": "a", "positive": "a"}, "the column 'a' is named twice"),
        ({"query": "a", "positive": "b", "score": "a"}, "the column 'a' is named twice"),
        ({"query": "a", "positive": "b", "negatives": ("n", "n")}, "the column 'n' is named twice"),
        ({"image": "a", "caption": "a"}, "the column 'a' is named twice"),
    ],
)
@pytest.mark.parametrize("kind", [NamedTable, TrainingTable, DevTable])
def test_columns_that_cannot_be_meant_together_are_refused(kind, keys, message):
    with pytest.raises(ValueError, match=message):
        kind(path="t.csv", **keys, **({"name": "dev"} if kind is DevTable else {}))


# --- the same bad input in every format


GOOD = {"a": "x", "b": "y", "s": 1.0}
BAD = {
    "out of range": (
        {"s": 6.0},
        {"score": "s", "score_range": (0, 5)},
        r"column 's': the score 6 lies outside score_range",
    ),
    "NaN": ({"s": math.nan}, {"score": "s"}, r"column 's': score ('nan'|''|nan|null) is not a finite number"),
    "no number": ({"s": "four"}, {"score": "s"}, r"column 's': score 'four' is not a finite number"),
    "another label": ({"s": 2}, {"label": "s"}, r"column 's': a label is 0 or 1, got 2"),
    "an empty cell": ({"b": ""}, {}, r": the column 'b' is empty; empty_rows: skip"),
    "a list": ({"b": ["y", "z"]}, {}, r"column 'b': expected text, got list"),
    "a number": ({"b": 3}, {}, r"column 'b': expected text, got int"),
    "a wrong column": (
        {},
        {"negatives": ("aa",)},
        r"no column 'aa' for negatives among 'a', 'b', 's'; did you mean 'a'",
    ),
}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder"])
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_in_every_format(tmp_path, kind, what):
    cells, columns, message = BAD[what]
    if kind in ("csv", "tsv") and what in ("a list", "a number"):
        pytest.skip("text, in a file of text")
    rows = [GOOD, GOOD, {**GOOD, **cells}]
    if kind in ("parquet", "folder") and cells.keys() & {"b", "s"} and what in ("a list", "a number", "no number"):
        key = next(iter(cells))
        rows = [{**GOOD, key: cells[key]}]  # columns of one type, as these formats have
        number = 1
    else:
        number = 3
    path = write(tmp_path, kind, rows)
    where = {"csv": number + 1, "tsv": number + 1}.get(kind, number)
    with pytest.raises(ValueError, match=message) as error:
        list(opened(path, query="a", positive="b", **columns).rows())
    assert str(path) in str(error.value)
    if what != "a wrong column":
        assert f"{'row' if kind in ('parquet', 'folder') else 'line'} {where}" in str(error.value)


def test_null_cells_are_empty_or_no_number(tmp_path):
    for kind in ("jsonl", "parquet", "folder"):
        path = write(tmp_path, kind, [GOOD, {"a": "x", "b": None, "s": 1.0}, {"a": "x", "b": "y", "s": None}])
        with pytest.raises(ValueError, match=r"2: the column 'b' is empty"):
            list(opened(path, query="a", positive="b").rows())
        with pytest.raises(ValueError, match=r"3, column 's': score (null|nan) is not a finite number"):
            list(opened(path, query="a", positive="b", score="s", empty_rows="skip").rows())


def test_a_key_that_is_there_twice_or_lacking_is_named(tmp_path):
    path = table(tmp_path, '{"a": "x", "b": "y"}\n{"a": "x", "a": "z", "b": "y"}\n', "t.jsonl")
    with pytest.raises(ValueError, match=r"t.jsonl, line 2: the column 'a' stands there 2 times"):
        list(opened(path, query="a", positive="b").rows())
    path = table(tmp_path, '{"a": "b", "b": "\\"b\\"", "c": {"b": 1, "a": 2}}\n', "v.jsonl")
    assert texts(path, query="a", positive="b") == [("b", '"b"')]
    path = table(tmp_path, '{"a": "x", "b": "y"}\n{"a": "x"}\n', "u.jsonl")
    with pytest.raises(ValueError, match=r"u.jsonl, line 2: 'b' is missing"):
        list(opened(path, query="a", positive="b").rows())
