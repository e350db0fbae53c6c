"""CoNLL files, read with their images and refused by line."""

from __future__ import annotations

import pytest

from mcse.data.conll import check_types, find_tags, read_conll
from mcse.text.tags import Repairs, TagSet, types_of

CONLL = """IMGID:10
the\tO
new\tB-LOC
york\tI-LOC

IMGID:11
old\tI-PER
dog\tO

cat O
"""


def write(folder, text=CONLL):
    path = folder / "tweets.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_is_read_with_images_and_lines(tmp_path):
    texts = read_conll(write(tmp_path))
    assert [text.words for text in texts.texts] == [("the", "new", "york"), ("old", "dog"), ("cat",)]
    assert [text.image for text in texts.texts] == ["10", "11", None]
    assert [text.line for text in texts.texts] == [2, 7, 10]
    assert texts.repairs == Repairs(orphan=1)
    assert texts.tags[1] == ("I-PER", "O"), "as the file has them"
    assert find_tags(texts).types == ("LOC", "PER") == types_of(texts.tags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IMGID:1\nthe\tO\ncat\tX\n", "line 3: tag 'X'"),
        ("the\tO\nIMGID:1\n", "line 2: an IMGID: line inside a text"),
        ("IMGID:1\n\nIMGID:2\ncat\tO\n", "line 1: no words between it and line 3"),
        ("\n\n", "no texts in it"),
    ],
)
def test_damaged_files_are_refused_by_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_conll(write(tmp_path, text))


def test_a_line_without_a_tag_in_a_tagged_file_is_said(tmp_path, caplog):
    assert read_conll(write(tmp_path, "the\tO\ncat\nsat\tB-X\n")).tags == [("O", "O", "B-X")]
    assert "1 lines have no tag and count as O, line 2 first" in caplog.text
    caplog.clear()
    assert not read_conll(write(tmp_path, "the\ncat\n")).has_tags
    assert not caplog.text


def test_types_that_training_lacks_are_refused(tmp_path):
    texts = read_conll(write(tmp_path))
    with pytest.raises(ValueError, match="line 7: type 'PER', but the tagger knows LOC, MISC"):
        check_types(texts, TagSet(("LOC", "MISC")))
    with pytest.raises(ValueError, match="line 3: type 'XYZ'"):
        check_types(read_conll(write(tmp_path, "the\tO\nbig\tB-LOC\ncat\tB-XYZ\n")), TagSet(("LOC", "MISC")))
    with pytest.raises(ValueError, match="every tag is O"):
        find_tags(read_conll(write(tmp_path, "cat\tO\n")))


def test_twitter2015_is_read_repaired_and_counted(real_data):
    expected = {"train": (4000, 186), "valid": (1000, 53), "test": (3257, 135)}
    for split, (count, repaired) in expected.items():
        texts = read_conll(real_data / "twitter2015" / f"{split}.txt")
        assert (len(texts), texts.repairs.total) == (count, repaired)
        assert find_tags(texts).types == ("LOC", "ORG", "OTHER", "PER")
        assert all(text.image is not None for text in texts.texts)


@pytest.mark.parametrize(
    ("text", "words", "image"),
    [
        ("IMGID:1\nNew\u00a0York B-LOC\nok O\n", [("New\u00a0York", "ok")], "1"),  # was cut at the no-break space
        ("imgid:1\nBob\tB-PER\n", [("Bob",)], "1"),
        ("1\tBob\tNNP\tB-PER\n2\truns\tVBZ\tO\n\n1\tok\tUH\tO\n", [("Bob", "runs"), ("ok",)], None),
        ("0 Bob B-PER\n1 runs O\n", [("Bob", "runs")], None),
        ("1\tBob\tNNP\tB-PER\n2\truns\tVBZ\tO\n\n3-4\tok\tUH\tO\n", [("Bob", "runs"), ("ok",)], None),
        ("7\tCD\tO\nBob\tNNP\tB-PER\n", [("7", "Bob")], None),  # a word that is a number
        ("7\tO\n8\tO\n", [("7", "8")], None),
        ("IMGID:1\rBob\tB-PER\r\rok\tO\r", [("Bob",), ("ok",)], "1"),
    ],
)
def test_words_are_found_in_files_as_people_have_them(tmp_path, text, words, image):
    (tmp_path / "tweets.txt").write_text(text, encoding="utf-8", newline="")
    texts = read_conll(tmp_path / "tweets.txt")
    assert texts.words == words
    assert texts.texts[0].image == image


def test_a_line_of_a_no_break_space_ends_no_text(tmp_path, caplog):
    texts = read_conll(write(tmp_path, "IMGID:1\nRT\tO\n\u00a0\nParis\tB-LOC\n"))
    assert [(text.words, text.image) for text in texts.texts] == [(("RT", "\u00a0", "Paris"), "1")]
    assert "1 lines have no tag and count as O, line 3 first" in caplog.text


def test_bytes_of_another_encoding_are_named_with_file_and_line(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"IMGID:1\ncaf\xe9\tO\n")
    with pytest.raises(ValueError, match=r"latin\.txt, line 2: not UTF-8 \(byte 0xe9\)"):
        read_conll(tmp_path / "latin.txt")


@pytest.mark.parametrize(("name", "text"), [("a.csv", "EU,B-ORG\n"), ("a.jsonl", '{"tokens": ["EU"]}\n')])
def test_tables_and_json_are_no_words(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: no CoNLL file by its ending"):
        read_conll(tmp_path / name)
