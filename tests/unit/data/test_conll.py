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
