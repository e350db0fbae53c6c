"""Files of sentences, read strictly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mcse.data.sentences.files import open_sentences
from mcse.data.sentences.streaming import open_texts
from mcse.files import read_lines


def test_sentences_are_read_strictly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(b"one\n\n  \ntwo \n"))
    assert list(open_sentences("text.txt.gz", root=tmp_path).rows()) == [("one",), ("two",)]
    assert "(2 blank)" in caplog.text
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"latin.txt, line 2: not UTF-8"):
        list(read_lines(tmp_path / "latin.txt"))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="empty.txt is empty"):
        open_sentences("empty.txt", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="data.sentences: no file at .*absent.txt"):
        open_sentences("absent.txt", root=tmp_path)
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no sentence"):
        list(open_sentences("blank.txt", root=tmp_path).rows())
    header = "sent0,sent1,hard_neg\n"
    (tmp_path / "two.csv").write_text("sent0,sent1\n1,2\n")
    with pytest.raises(ValueError, match="line 1: no column for negative .* among 'sent0', 'sent1'"):
        open_sentences("two.csv", root=tmp_path)
    (tmp_path / "short.csv").write_text(header + "1,2,3\n1,2\n")
    with pytest.raises(ValueError, match="line 3: 2 columns, expected 3"):
        list(open_sentences("short.csv", root=tmp_path).rows())
    (tmp_path / "latin.csv").write_bytes(header.encode() + b"1,2,caf\xe9\n")
    with pytest.raises(ValueError, match=r"latin.csv, line 2: not UTF-8"):
        list(open_sentences("latin.csv", root=tmp_path).rows())


def test_triplets_are_found_by_their_names(tmp_path: Path) -> None:
    rows = [("one", "two", "three"), ("four", 'a "five"', "six, seven")]
    (tmp_path / "mac.csv").write_bytes(b"sent0,sent1,hard_neg\rone,two,three\r")
    assert list(open_sentences("mac.csv", root=tmp_path).rows()) == rows[:1]
    turned = 'negative,positive,id,anchor\r\nthree,two,7,one\r\n"six, seven","a ""five""",8,four\r\n'
    (tmp_path / "turned.csv").write_bytes(b"\xef\xbb\xbf" + turned.encode())
    assert list(open_sentences("turned.csv", root=tmp_path).rows()) == rows
    (tmp_path / "some.tsv").write_text('sent0\tsent1\thard_neg\none\ttwo\tthree\nfour\ta "five"\tsix, seven\n')
    assert list(open_sentences("some.tsv", root=tmp_path).rows()) == rows
    lines = [dict(zip(("query", "pos", "neg"), row, strict=True)) for row in rows]
    (tmp_path / "some.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert list(open_sentences("some.jsonl.gz", root=tmp_path).rows()) == rows


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", ",premise,hypothesis\n0,a,b\n", "no column for positive"),  # an index was the query
        ("a.csv", "sentence1,sentence2,label\na,b,1\n", "no column for query"),  # the label was the hard negative
        ("a.csv", "a b,c d,e f\ng h,i j,k l\n", "no column for query"),  # the first row was lost
        ("a.csv", 'sent0,sent1,hard_neg\na,b,"c\nd,e,f\n', "line 2: a quotation mark is opened and not closed"),
        ("a.csv", 'sent0,sent1,hard_neg\na,b,"c\nd,e,f"\n', "line 2: a quotation mark is opened and not closed"),
        ("a.csv", 'sent0,sent1,hard_neg\na,b,"c" d\n', "line 2: broken table .* double quotation marks"),
        ("a.jsonl", '{"words": "a"}\n', "no column for query .* alone are in a column text or sentence, or in a .txt"),
        ("a.jsonl", '{"text": ["a"]}\n', "line 1: expected text, got list"),
        ("a.jsonl", '{"query": "a", "pos": "b", "neg": null}\n', "line 1: expected text, got null"),
        ("a.tsv", "id\tquestion\n1\ta\n", "no column for query .* alone are in a column text or sentence"),
        ("a.txt", '{"text": "a"}\n{"text": "b"}\n', "JSON; .* let its name end in .jsonl"),
        ("a.txt", "1\ta b\n2\tc d\n", "a table of 2 columns; let its name end in .tsv"),
        ("a.txt", "1\ta b\n2\tc d\te\n", "a table of 2 columns; let its name end in .tsv"),
        ("a.txt", "sent0,sent1,hard_neg\na,b,c\n", "a table, by its header; let its name end in .csv"),
        ("a.txt", "id,sentence\n1,a\n", "a table, by its header; let its name end in .csv"),
        ("a.txt", "text,label\na,1\n", "a table, by its header; let its name end in .csv"),
        ("a.txt", "{'text': 'a'}\n", "JSON; .* let its name end in .jsonl"),
        ("a.txt", '{\n  "text": "a"\n}\n', "JSON; .* let its name end in .jsonl"),
        ("a.txt", '[\n  "a",\n  "b"\n]\n', "JSON; .* let its name end in .jsonl"),
        ("a.txt", "['a', 'b']\n['c']\n", "JSON; .* let its name end in .jsonl"),
        (
            "a.txt",
            "<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
            "a page of HTML or XML; fetch the file again",
        ),
        ("a.txt", '"good, and short",1\n"bad",0\n', "texts with numbers behind them; give it a header"),
        ("a.txt", "one\ntwo\0\n", "line 2: a NUL byte inside the line"),
        ("a.txt", "one\nt\rwo\n", "line 2: a carriage return inside the line"),
        ("a.txt", "one\ntwo\n".encode("utf-16"), r"line 1: not UTF-8 \(UTF-16; save it as UTF-8\)"),
    ],
)
def test_what_is_no_text_is_not_trained_on_as_such(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        list(open_sentences(name, root=tmp_path).rows())
    if name == "a.txt":
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            list(open_texts(name, root=tmp_path).rows(0, start=0))


def test_lines_end_where_the_file_ends_them(tmp_path: Path) -> None:
    for text in ("one\ntwo\n\nthree", "one\r\ntwo\r\n\r\nthree\r\n", "one\rtwo\r\rthree\r"):
        (tmp_path / "a.txt").write_text(text, newline="")
        assert list(open_sentences("a.txt", root=tmp_path).rows()) == [("one",), ("two",), ("three",)]
    (tmp_path / "a.txt").write_text("one\u2028two\u0085\nthree\x0cfour\n", newline="")
    assert list(open_sentences("a.txt", root=tmp_path).rows()) == [("one\u2028two",), ("three\x0cfour",)]


def test_damaged_gzip_and_marks_are_dealt_with(tmp_path: Path) -> None:
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"cut.txt.gz, line \d+: damaged gzip file"):
        list(read_lines(tmp_path / "cut.txt.gz"))
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfone\n")
    assert list(read_lines(tmp_path / "mark.txt")) == ["one"]


def test_a_table_of_sentences_alone_is_read_by_its_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"id": 1, "text": "one, two"}\n{"id": 2, "text": " three "}\n')
    (tmp_path / "a.csv").write_text('label,Sentence\n1,"one, two"\n0,three\n')
    (tmp_path / "a.tsv").write_text("sentence\tlabel\none, two\t1\nthree\t0\n")
    for name in ("a.jsonl", "a.csv", "a.tsv"):
        opened = open_sentences(name, root=tmp_path)
        assert (opened.columns, list(opened.rows())) == (1, [("one, two",), ("three",)])
    both = "text,sent0,sent1,hard_neg\nd,a,b,c\n"
    (tmp_path / "b.csv").write_text(both)
    assert list(open_sentences("b.csv", root=tmp_path).rows()) == [("a", "b", "c")]


def test_sentences_that_only_resemble_tables_are_read(tmp_path: Path) -> None:
    lines = ["[Laughter] He sat, in June, 1990", "{An aside} with more", "<i>No</i> page", "<br", "It was 5; then 6."]
    for text in (lines, lines[:1]):
        (tmp_path / "a.txt").write_text("\n".join(text))
        assert list(open_sentences("a.txt", root=tmp_path).rows()) == [(line,) for line in text]
