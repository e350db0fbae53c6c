"""Structures read from JSON."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass

import pytest

from mcse.reading import FiniteNumber, parse_json, read_json


@dataclass(frozen=True, slots=True)
class Note:
    image: int | str
    text: str | list[str]


@dataclass(frozen=True, slots=True)
class Facts:
    rows: int
    notes: tuple[Note, ...] = ()
    scale: FiniteNumber = 1.0
    tower: str | None = None


@pytest.fixture
def read(tmp_path):
    def read(text, schema=Facts):
        path = tmp_path / "facts.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_json(path, schema)

    return read


def test_what_is_there_is_what_the_schema_says(read):
    text = json.dumps({"rows": 3, "notes": [{"image": "a", "text": ["b"]}], "tower": None, "new": {"key": 1}})
    assert read(text) == Facts(rows=3, notes=(Note("a", ["b"]),))
    assert read(b"\xef\xbb\xbf" + text.encode()) == read(text)
    assert read('{"a": [1, 2]}', dict[str, list[int]]) == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be an object, got a list"),
        ("null", "must be an object, got null"),
        ("{}", ": rows is missing"),
        ('{"rows": "3"}', ': rows must be a whole number, got "3"'),
        ('{"rows": 3.5}', ": rows must be a whole number, got 3.5"),
        ('{"rows": true}', ": rows must be a whole number, got true"),
        ('{"rows": 1, "scale": NaN}', ": scale must be a finite number, got nan"),
        ('{"rows": 1, "scale": 1e999}', ": scale must be a finite number, got inf"),
        ('{"rows": 1, "notes": {"0": 1}}', ": notes must be a list, got an object"),
        ('{"rows": 1, "notes": [{"image": 1, "text": "a"}, {"image": 2}]}', ": notes.1.text is missing"),
        (
            '{"rows": 1, "notes": [{"image": null, "text": "a"}]}',
            ": notes.0.image must be a whole number or text, got null",
        ),
        ('{"rows": 1,\n "scale": }', ", line 2: broken JSON"),
        ('{"rows": 1}\x00', ": broken JSON"),
        ('{"rows": 1, "tower": "\\ud800"}', ": broken JSON"),
        ("", ": broken JSON"),
        ('{"rows": 1, "deep": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        (b'{"rows": 1,\n"tower": "\xff"}', ", line 2: broken JSON (not UTF-8, byte 0xff)"),
    ],
)
def test_what_is_not_is_refused_by_file_and_key(read, text, message):
    with pytest.raises(ValueError, match=r"facts\.json") as caught:
        read(text)
    assert message in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_a_number_of_many_digits_is_shown_short(read):
    with pytest.raises(ValueError, match="notes must be a list") as caught:
        read('{"rows": 1, "notes": ' + "9" * 4000 + "}")
    assert len(str(caught.value)) < 300


def test_a_large_file_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.json.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(b" " * 5_000_000)
    with pytest.raises(ValueError, match=r"bomb\.json\.gz: more than 1,000 bytes"):
        read_json(path, Facts, most_bytes=1000)


def test_a_damaged_gzip_file_is_named(tmp_path):
    path = tmp_path / "cut.json.gz"
    path.write_bytes(gzip.compress(b'{"rows": 1}' * 100)[:-20])
    with pytest.raises(ValueError, match=r"cut\.json\.gz: damaged gzip file"):
        read_json(path, Facts)


def test_a_text_names_where_it_stands():
    with pytest.raises(ValueError, match=r"^a\.jsonl, line 7: rows is missing$"):
        parse_json("{}", Facts, where="a.jsonl, line 7")
