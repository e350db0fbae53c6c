"""Readers of scored pairs: SentEval's folders, own files, the hub."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest

from mcse.data.test_sets import sts as data
from tests.fixtures.senteval import senteval as senteval
from tests.fixtures.senteval import write, write_senteval


@pytest.mark.parametrize("parent", ["", "downstream", "senteval", "senteval/downstream"])
def test_senteval_folder_is_found_under_its_usual_parents(tmp_path, parent):
    write_senteval(tmp_path / parent)
    found = data.load_sts(tmp_path)
    assert [task.name for task in found.tasks] == [*data.STS_TASKS, "SICKRelatedness9927"]
    assert not found.absent
    assert [len(task) for task in found.tasks] == [20, 12, 24, 20, 20, 6, 5, 12]
    first = found.tasks[0].subsets[0]
    assert first.sentence1[0] == "a 1 b"  # split at white space and joined again
    assert (first.name, first.subset, list(first.gold)) == ("STS12", "MSRpar", [0.0, 1.5, 3.0, 5.0])
    assert [Path(file).name for file in first.files] == ["STS.input.MSRpar.txt", "STS.gs.MSRpar.txt"]
    assert "no" not in first.sentence1  # the line without gold is left out, and the pairing stays right
    assert first.sentence2[2] == "a 3 c3"


def test_sick_protocols_are_two_tasks(senteval):
    sick = {task.name: task for task in data.load_sts(senteval).tasks if task.name.startswith("SICK")}
    assert len(sick["SICKRelatedness"]) == 5
    assert len(sick["SICKRelatedness9927"]) == 12
    assert sick["SICKRelatedness9927"].subsets[0].sentence1[0] == "dog 0 SICK_train"


def test_counts_other_than_the_published_are_said(senteval, caplog):
    with caplog.at_level(logging.WARNING):
        data.load_sts(senteval)
    assert "STS12 has 20 pairs, published scores are over 3108" in caplog.text


def test_absent_task_is_named_and_the_rest_is_read(senteval):
    for file in (senteval / "SICK").iterdir():
        file.unlink()
    (senteval / "SICK").rmdir()
    found = data.load_sts(senteval)
    assert len(found.tasks) == 6
    assert set(found.absent) == {"SICKRelatedness", "SICKRelatedness9927"}
    assert "SICK" in found.absent["SICKRelatedness"]


GOLD, INPUT = "STS/STS14-en-test/STS.gs.images.txt", "STS/STS14-en-test/STS.input.images.txt"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (GOLD, b"0\n1\n\n3\n", r"STS\.input\.images\.txt has 5 lines but .*STS\.gs\.images\.txt has 4"),
        (GOLD, b"0\n1\n\nhigh\n5\n", r"STS\.gs\.images\.txt, line 4: score 'high' is not a finite number"),
        (GOLD, b"0\n1\n\nnan\n5\n", r"STS\.gs\.images\.txt, line 4: score 'nan' is not a finite number"),
        (GOLD, b"\n\n\n\n\n\n", "is empty"),
        (INPUT, b"", "is empty"),
        (INPUT, b"a\tb\na\n\na\tb\na\tb\n", r"STS\.input\.images\.txt, line 2: 1 tab-separated columns, expected 2"),
        (INPUT, b"a\tb\nc\tna\xefve\n\na\tb\na\tb\n", r"line 2: not UTF-8 \(byte 0xef\)"),
        ("STS/STSBenchmark/sts-test.csv", b"a\tb\n", r"sts-test\.csv, line 1: 2 tab-separated columns, expected 7"),
        ("SICK/SICK_train.txt", b"1\ta\tb\t3\n", "SICK_train.txt, line 1: expected SICK's header"),
        ("SICK/SICK_train.txt", b"pair_ID\tx\n1\ta\tb\t?\n", r"line 2: score '\?' is not a finite number"),
    ],
)
def test_bad_benchmark_file_is_named_with_its_line(senteval, file, content, message):
    (senteval / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.load_sts(senteval)


def test_missing_files_and_folders_are_named(senteval, tmp_path):
    (senteval / INPUT).unlink()
    found = data.load_sts(senteval)
    assert len(found.tasks) == len(data.STS_TASKS)  # one of the seven is gone, SICK is given twice
    (reason,) = found.absent.values()
    assert "missing file" in reason
    assert "STS.input.images.txt" in reason
    with pytest.raises(FileNotFoundError, match=r"neither a folder nor a file at .*nowhere"):
        data.load_sts(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no STS/ or SICK/ in .*other"):
        data.load_sts(tmp_path / "other")
    with pytest.raises(ValueError, match="unknown split 'validation'; choose one of train, dev, test"):
        data.load_stsbenchmark(senteval, split="validation")


def test_sentences_may_hold_unicode_line_separators(tmp_path):
    path = write(tmp_path / "own.tsv", "\ufeff4\ta\u2028b\u0085c\td\r\n1\te\tf\n")
    pairs = data.load_scored_pairs(path)
    assert pairs.sentence1 == ("a b c", "e")
    assert list(pairs.gold) == [4, 1]


OWN = [("4.5", 'a "big" dog', "one, dog"), ("0", "b", "c")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.tsv", "".join("\t".join(row) + "\n" for row in OWN)),
        ("mine.tsv", "sentence2\tscore\tsentence1\n" + "".join(f"{c}\t{a}\t{b}\n" for a, b, c in OWN)),
        ("mine.csv", 'score,sentence1,sentence2\n4.5,"a ""big"" dog","one, dog"\n\n0,b,c\n'),
        ("mine.csv", 'id;Sentence1;Sentence2;Similarity\r\n1;"a ""big"" dog";one, dog;4.5\r\n2;b;c;0\r\n'),
        ("mine.tsv", "".join("\t".join(row) + "\r" for row in OWN)),
        (
            "mine.jsonl",
            "".join(json.dumps({"score": float(a), "sentence1": b, "sentence2": c}) + "\n" for a, b, c in OWN),
        ),
    ],
)
def test_own_file_in_every_format(tmp_path, name, text):
    (task,) = data.load_sts(write(tmp_path / name, text)).tasks
    assert task.name == "mine"
    (pairs,) = task.subsets
    assert list(zip(map(str, pairs.gold), pairs.sentence1, pairs.sentence2, strict=True)) == [
        ("4.5", 'a "big" dog', "one, dog"),
        ("0.0", "b", "c"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.tsv", "1\ta\tb\n2\ta\n", r"mine\.tsv, line 2: 2 columns, expected 3"),
        ("mine.tsv", "1\ta\tb\nx\ta\tb\n", r"mine\.tsv, line 2: score 'x' is not a finite number"),
        ("mine.tsv", "1\ta\tb\n2\t \tb\n", r"mine\.tsv, line 2: empty sentence"),
        ("mine.tsv", "", r"mine\.tsv is empty"),
        ("mine.tsv", "score\tsentence1\tsentence2\n", "holds no scored pairs"),
        ("mine.csv", '1,"a\nb",c\n2,d\n', r"mine\.csv, line 1: a quotation mark is opened"),
        ("mine.csv", '1,a,b\n2,"c,d\n3,e,f"\n', r"mine\.csv, line 2: a quotation mark is opened"),
        ("mine.tsv", "1\ta\tb\t5\n2\tc\td\t1\n", r"line 1: no column .* without a header .* exactly score, sentence1"),
        ("mine.tsv", "".join(f"{row}\ta\tb\n" for row in range(1, 8)), r"mine\.tsv: its scores count the rows"),
        ("mine.tsv", "1_0\ta\tb\n", r"line 1: score '1_0' is not a finite number"),
        ("mine.csv", "sentence1,sentence2,label\na,b,0\n", r"mine\.csv, line 1: score 'sentence1' is not a finite"),
        ("mine.csv", "sentence1,sentence2,label\na,b,0\n", "is the first line a header"),
        ("mine.tsv", "q1\tq2\tis_same\na\tb\t0\n", "is the first line a header"),
        (
            "mine.csv",
            "gold,sentence1,sentence2\nx,a,b\n",
            r"line 2: score 'x' .* number \(column 'gold'\)",
        ),
        ("mine.tsv", "1\ta\tb\nx\ta\tb\n", r"line 2: .*; there is no header, so the columns are score, sentence1"),
        ("mine.tsv", "1\t0\t4.5\n3\t2\t1.5\n", r"mine\.tsv: holds numbers alone, so which column is the score is not"),
        ("mine.csv", "0.5,12,13\n0.7,14,15\n", r"mine\.csv: holds numbers alone"),
        ("mine.csv", "score,score,sentence1,sentence2\n1,2,a,b\n", r"line 1: the column 'score' stands there 2 times"),
        ("mine.tsv", "1\ta\tb\n2\tc\0\td\n", r"mine\.tsv, line 2: a NUL byte"),
        ("mine.jsonl", '{"score": null, "sentence1": "a", "sentence2": "b"}\n', r"line 1: score null is not a finite"),
        ("mine.jsonl", '{"score": true, "sentence1": "a", "sentence2": "b"}\n', r"line 1: score True is not a finite"),
        ("mine.jsonl", '{"score": 1, "sentence1": "a"}\n', r"mine\.jsonl, line 1: .*sentence2"),
        (
            "mine.jsonl",
            '{"score": 1, "sentence1": 2, "sentence2": "a"}\n',
            r"mine\.jsonl, line 1: expected text, got int",
        ),
        ("mine.jsonl", "\n{oops\n", r"mine\.jsonl, line 2"),
        ("mine.parquet", "1\ta\tb\n", r"must end in one of \.csv, \.tsv, \.jsonl, \.txt"),
    ],
)
def test_bad_own_file_is_named_with_its_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        data.load_sts(write(tmp_path / name, text))


def test_hub_tasks_come_from_the_hubs_own_format(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    row = {"sentence1": "a  man", "sentence2": "a dog", "score": 2.5}
    write(tmp_path / "sts12" / "test.jsonl", json.dumps(row) + "\n" + json.dumps(row | {"score": 4}) + "\n")
    found = data.load_sts_from_hub({"STS12": str(tmp_path / "sts12"), "STS13": str(tmp_path / "absent")})
    (task,) = found.tasks
    assert (task.name, task.subsets[0].sentence1[0], list(task.subsets[0].gold)) == ("STS12", "a man", [2.5, 4.0])
    assert "absent" in found.absent["STS13"]
    assert "mixes train, trial and test" in found.absent["SICKRelatedness"]
    with pytest.raises(FileNotFoundError, match="give --data a SentEval folder"):
        data.load_sts_from_hub({"STS13": str(tmp_path / "absent")})


RAW_FOLDERS = {
    "STS12": "STS2012/test-gold",
    "STS13": "test-gs",
    "STS14": "sts-en-test-gs-2014",
    "STS15": "test_evaluation_task2a",
    "STS16": "sts2016-english-with-gs-v1.0",
}


def test_archives_are_read_as_semeval_ships_them(senteval):
    right = {task.name: task for task in data.load_sts(senteval).tasks}
    for task, name in RAW_FOLDERS.items():
        (senteval / "STS" / name).parent.mkdir(exist_ok=True)
        home = (senteval / "STS" / f"{task}-en-test").rename(senteval / "STS" / name)
        if task == "STS16":
            for file in home.iterdir():
                file.rename(home / file.name.replace("STS.", "STS2016.", 1))
    (senteval / "STS" / "STSBenchmark").rename(senteval / "STS" / "stsbenchmark")
    # A training archive has some subsets of the same names.
    write(senteval / "STS" / "aaa" / "STS.input.MSRpar.txt", "x\ty\n")
    write(senteval / "STS" / "aaa" / "STS.gs.MSRpar.txt", "1\n")
    found = data.load_sts(senteval)
    assert not found.absent
    for task in found.tasks:
        assert [part.sentence1 for part in task.subsets] == [part.sentence1 for part in right[task.name].subsets]


def test_data_without_a_whole_task_is_refused_with_every_reason(senteval):
    for file in senteval.rglob("*.*"):
        if file.is_file():
            file.unlink()
    (senteval / "STS" / "STS13-en-test").rmdir()
    with pytest.raises(FileNotFoundError, match="holds no whole STS task") as caught:
        data.load_sts(senteval)
    for name in (*data.STS_TASKS, data.SICK_ALL_SPLITS):
        assert f"{name}: " in str(caught.value)
    assert "STS13: no folder" in str(caught.value)
    assert "missing file" in str(caught.value)


def test_own_pairs_in_further_layouts(tmp_path):
    row = "main-captions\tMSRvid\t2012test\t0001\t4.5\tA dog, big.\tA hound\n"
    files = {
        "sts-dev.csv": row.encode(),  # STS-B's own: tabs and no header
        "sts-test.csv": b'score,sent1,sent2\n4.5,"A dog, big.",A hound\n',
        "pairs.tsv.gz": gzip.compress(b"4.5\tA dog, big.\tA hound\n"),
        "pairs.csv": b'Sentence 1,Sentence 2,Score\n"A dog, big.",A hound,4.5\n',
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        pairs = data.load_scored_pairs(tmp_path / name)
        assert (pairs.name, pairs.sentence1, pairs.sentence2) == (name.split(".")[0], ("A dog, big.",), ("A hound",))
        assert pairs.gold.tolist() == [4.5]
    (tmp_path / "last.tsv").write_text("A dog\tA hound\t4.5\n")
    with pytest.raises(
        ValueError, match="line 1: score 'A dog' .* is the first line a header.* score, sentence1, sentence2"
    ):
        data.load_scored_pairs(tmp_path / "last.tsv")
    (tmp_path / "null.jsonl").write_text('{"score": null, "sentence1": "a", "sentence2": "b"}\n')
    with pytest.raises(ValueError, match="null.jsonl, line 1: score null is not a finite number \\(column 'score'\\)$"):
        data.load_scored_pairs(tmp_path / "null.jsonl")
