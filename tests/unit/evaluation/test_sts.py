"""Readers of scored pairs, the STS suite and the evaluator used in training."""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from mcse.data.test_sets import sts as data
from mcse.data.test_sets.contamination import normalise
from mcse.data.test_sets.sts import STS_TASKS, ScoredPairs, StsTask
from mcse.evaluation.encoding import RowStore, encode_distinct
from mcse.evaluation.evaluators.scored_pairs import ScoredPairsEvaluator
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.evaluation.suites.sts import score_sts
from mcse.metrics.correlation import UndefinedScoreError
from mcse.types import Encoder, ScoreKey, score_tree, subset_tree


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_senteval(root: Path) -> Path:
    """Every STS task in SentEval's layout, a handful of pairs each; STS15 and STS16 keep unscored lines."""
    number = 0
    for task, subsets in data.SENTEVAL_SUBSETS.items():
        for subset in subsets:
            home = root / "STS" / f"{task}-en-test"
            lines, golds = [], []
            for gold in (0.0, 1.5, 3.0, 5.0):
                number += 1
                lines.append(f"a {number}  b\ta {number} c{gold:.0f}")
                golds.append(f"{gold}")
            write(home / f"STS.input.{subset}.txt", "\n".join([*lines[:2], "no\tgold", *lines[2:]]) + "\n")
            write(home / f"STS.gs.{subset}.txt", "\n".join([*golds[:2], "", *golds[2:]]) + "\n")
    row = "main-captions\tMSRvid\t2012test\t{0:04d}\t{1}\ta man {0}\ta woman {0}\n"
    for split in ("train", "dev", "test"):
        write(root / "STS" / "STSBenchmark" / f"sts-{split}.csv", "".join(row.format(i, i) for i in range(6)))
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    for file, count in (("SICK_train", 4), ("SICK_trial", 3), ("SICK_test_annotated", 5)):
        rows = [f"{i}\tdog {i} {file}\tcat {i}\t{1 + i}\tNEUTRAL\n" for i in range(count)]
        write(root / "SICK" / f"{file}.txt", header + "".join(rows))
    return root


@pytest.fixture
def senteval(tmp_path: Path) -> Path:
    return write_senteval(tmp_path / "data")


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
    assert len(found.tasks) == len(data.STS_TASKS)  # one of the seven is gone, SICK stands twice
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
        ("mine.tsv", "1\ta\tb\n2\ta\n", r"mine\.tsv, line 2: 2 columns, expected score, sentence1, sentence2"),
        ("mine.tsv", "1\ta\tb\nx\ta\tb\n", r"mine\.tsv, line 2: score 'x' is not a finite number"),
        ("mine.tsv", "1\ta\tb\n2\t \tb\n", r"mine\.tsv, line 2: empty sentence"),
        ("mine.tsv", "", r"mine\.tsv is empty"),
        ("mine.tsv", "score\tsentence1\tsentence2\n", "holds no scored pairs"),
        ("mine.csv", '1,"a\nb",c\n2,d\n', r"mine\.csv, line 3: 2 columns"),
        ("mine.jsonl", '{"score": 1, "sentence1": "a"}\n', r"mine\.jsonl, line 1: .*sentence2"),
        ("mine.jsonl", '{"score": 1, "sentence1": 2, "sentence2": "a"}\n', r"mine\.jsonl, line 1: .*not a string"),
        ("mine.jsonl", "\n{oops\n", r"mine\.jsonl, line 2"),
        ("mine.parquet", "1\ta\tb\n", r"must end in one of \.tsv, \.txt, \.csv, \.jsonl"),
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


KEY = ScoreKey("sts", "T", "spearman")


class HashEncoder:
    """Unit rows that depend on the sentence alone; remembers what it was asked."""

    def __init__(self, width: int = 8) -> None:
        self.width = width
        self.asked: list[str] = []

    def encode(self, sentences, *, batch_size=64, normalize=True):
        self.asked += sentences
        seeds = [zlib.crc32(sentence.encode()) for sentence in sentences]
        row = 0.5 + np.array([np.random.default_rng(seed).normal(size=self.width) for seed in seeds])
        return (row / np.linalg.norm(row, axis=1, keepdims=True)).astype(np.float32)


class FixedEncoder:
    """Looks rows up; what is not listed gets a row of its own."""

    def __init__(self, rows: dict[str, list[float]], *, default: list[float] | None = None) -> None:
        self.rows, self.default = rows, default

    def encode(self, sentences, *, batch_size=64, normalize=True):
        return np.array([self.rows.get(sentence, self.default) for sentence in sentences], dtype=np.float32)


def make_pairs(count: int, *, subset: str = "all", seed: int = 0, name: str = "T") -> ScoredPairs:
    generator = np.random.default_rng(seed)
    words = np.array(list("abcdefghij"))
    left = tuple(" ".join(generator.choice(words, size=generator.integers(1, 6))) for _ in range(count))
    right = tuple(" ".join(generator.choice(words, size=generator.integers(1, 6))) for _ in range(count))
    return ScoredPairs(name, subset, left, right, generator.integers(0, 11, size=count) / 2, ("memory",))


def plain_cosines(encoder: Encoder, pairs: ScoredPairs) -> np.ndarray:
    """One pair at a time."""
    both = [
        (encoder.encode([left])[0].astype(float), encoder.encode([right])[0].astype(float))
        for left, right in zip(pairs.sentence1, pairs.sentence2, strict=True)
    ]
    return np.array([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in both])


def test_the_stub_is_an_encoder():
    assert isinstance(HashEncoder(), Encoder)


def test_scores_equal_the_protocol_computed_pair_by_pair():
    subsets = (make_pairs(20, subset="small"), make_pairs(60, subset="large", seed=1))
    found = score_sts(Subject.of(HashEncoder()), [StsTask("T", subsets, "words")])
    score, parts = score_tree(found.scores)["sts"]["T"], subset_tree(found.scores)["sts"]["T"]
    cosine = [plain_cosines(HashEncoder(), subset) for subset in subsets]
    each = [100 * stats.spearmanr(c, s.gold).statistic for c, s in zip(cosine, subsets, strict=True)]
    gold = np.concatenate([subset.gold for subset in subsets])
    assert score["spearman"] == pytest.approx(100 * stats.spearmanr(np.concatenate(cosine), gold).statistic, abs=1e-4)
    assert score["pearson"] == pytest.approx(100 * stats.pearsonr(np.concatenate(cosine), gold).statistic, abs=1e-4)
    assert [part["spearman"] for part in parts.values()] == pytest.approx(each, abs=1e-4)
    assert score["spearman_mean"] == pytest.approx(sum(each) / 2, abs=1e-4)
    assert score["spearman_wmean"] == pytest.approx((20 * each[0] + 60 * each[1]) / 80, abs=1e-4)
    assert len({round(score[metric], 1) for metric in ("spearman", "spearman_mean", "spearman_wmean")}) == 3
    assert (score["pairs"], parts["large"]["pairs"]) == (80, 60)
    np.testing.assert_allclose(found.samples[KEY].value_P, np.concatenate(cosine), atol=1e-6)


def test_each_distinct_sentence_is_encoded_once_over_all_tasks():
    encoder, pairs = HashEncoder(), make_pairs(30)
    score_sts(Subject.of(encoder), [StsTask("A", (pairs,), ""), StsTask("B", (pairs, make_pairs(9, seed=3)), "")])
    assert len(encoder.asked) == len(set(encoder.asked)) > 30


def test_the_average_is_over_exactly_the_seven():
    tasks = [StsTask(name, (make_pairs(20, seed=n),), "") for n, name in enumerate((*STS_TASKS, "SICKRelatedness9927"))]
    found = score_sts(Subject.of(HashEncoder()), tasks)
    spearman = [found.scores[ScoreKey("sts", name, "spearman")] for name in STS_TASKS]
    assert found.scores[ScoreKey("sts", "average", "spearman")] == pytest.approx(np.mean(spearman))
    assert found.scores[ScoreKey("sts", "average", "pairs")] == 7 * 20
    found = score_sts(Subject.of(HashEncoder()), [task for task in tasks if task.name != "STS13"])
    assert ScoreKey("sts", "average", "spearman") not in found.scores
    assert found.absent == {"average": "no average: it is over 7 tasks, and STS13 is missing"}


def test_a_subset_that_cannot_be_scored_is_named():
    constant = ScoredPairs("T", "s", TRIO.sentence1, TRIO.sentence2, np.ones(3), ())
    with pytest.raises(UndefinedScoreError, match="T/s: all 3 gold values are 1"):
        score_sts(Subject.of(HashEncoder()), [StsTask("T", (make_pairs(20), constant), "")])


def test_permuted_gold_is_near_zero():
    pairs = make_pairs(4000)
    random = ScoredPairs("T", "all", pairs.sentence1, pairs.sentence2, np.random.permutation(pairs.gold), ())
    assert abs(score_sts(Subject.of(HashEncoder()), [StsTask("T", (random,), "")]).scores[KEY]) < 5


TRIO = ScoredPairs("T", "all", ("a", "b", "c"), ("b", "c", "d"), np.array([1.0, 2.0, 3.0]), ("memory",))
ANGLES = {"a": 0, "b": 1, "c": 3, "d": 6}
CIRCLE = {letter: [float(np.cos(angle)), float(np.sin(angle))] for letter, angle in ANGLES.items()}
SAME = {"a": [1.0, 0.0], "b": [1.0, 0.0], "c": [1.0, 0.0], "d": [1.0, 0.0]}
CROSS = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 0.0], "d": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"b": [np.nan, 1.0]}, UndefinedScoreError, "NaN or infinite rows for 1 of 4 sentences: 'b'"),
        ({"b": [np.inf, 1.0], "d": [np.nan, 0.0]}, UndefinedScoreError, "2 of 4 sentences: 'b', 'd'"),
        (SAME, UndefinedScoreError, "the same row for all 4 sentences"),
        (SAME | {"a": [1.0, 1e-7]}, UndefinedScoreError, "the same row"),
        (CROSS, UndefinedScoreError, "T: all 3 scores are 0"),
    ],
)
def test_broken_encoders_are_refused_by_sentence(changed, error, message):
    with pytest.raises(error, match=message):
        score_sts(Subject.of(FixedEncoder(CIRCLE | changed)), [StsTask("T", (TRIO,), "")])


def test_rows_that_should_be_unit_rows_are_checked():
    with pytest.raises(ValueError, match=r"other than unit norm \(5\) for 1 of 4 sentences: 'c'"):
        encode_distinct(FixedEncoder(CIRCLE | {"c": [3.0, 4.0]}), list("abcd"), batch_size=4)


def test_a_row_store_encodes_once_and_keeps_raw_rows():
    encoder = FixedEncoder(CIRCLE | {"c": [3.0, 4.0], "d": [0.0, 0.0]})
    store = RowStore(encoder, batch_size=2)
    assert store.raw(["c", "a", "c"]).tolist() == [[3, 4], CIRCLE["a"], [3, 4]]
    np.testing.assert_allclose(store.unit(["d", "c"]), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert len(store) == 3


def test_wrong_shapes_and_twice_the_same_task_are_refused():
    class Short(HashEncoder):
        def encode(self, sentences, *, batch_size=64, normalize=True):
            return super().encode(sentences)[:-1]

    with pytest.raises(ValueError, match=r"shape \(3, 8\) for 4 sentences"):
        score_sts(Subject.of(Short()), [StsTask("T", (TRIO,), "")])
    with pytest.raises(ValueError, match="different names, got T, T"):
        score_sts(Subject.of(HashEncoder()), [StsTask("T", (TRIO,), ""), StsTask("T", (TRIO,), "")])
    constant = ScoredPairs("T", "s", TRIO.sentence1, TRIO.sentence2, np.ones(3), ())
    with pytest.raises(UndefinedScoreError, match="T: all 3 gold values are 1"):
        score_sts(Subject.of(FixedEncoder(CIRCLE)), [StsTask("T", (constant,), "")])


def test_equal_sentences_tie_at_one():
    sentences = tuple(f"sentence {number}" for number in range(50))
    pairs = ScoredPairs("T", "all", (*sentences, "a"), (*sentences, "b"), np.arange(51.0), ())
    cosine = score_sts(Subject.of(HashEncoder()), [StsTask("T", (pairs,), "")]).samples[KEY].value_P
    assert list(cosine[:50]) == [1.0] * 50  # rounding must not order them
    assert cosine[50] < 0.999


def test_zero_rows_count_as_cosine_zero_and_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        found = score_sts(Subject.of(FixedEncoder(CIRCLE | {"b": [0.0, 0.0]})), [StsTask("T", (TRIO,), "")])
    assert list(found.samples[KEY].value_P[:2]) == [0, 0]
    assert "1 of 4 sentences: 'b'" in caplog.text


def test_suite_scores_are_named_as_agreed(senteval):
    prepared = SUITES["sts"].prepare(SuiteOptions(data=str(senteval)))
    assert prepared.summary == "8 tasks, 119 pairs"
    found = prepared.run(Subject.of(HashEncoder()))
    scores = score_tree(found.scores)["sts"]
    assert list(scores) == [*data.STS_TASKS, "SICKRelatedness9927", "average"]
    correlations = {f"{name}{end}" for name in ("spearman", "pearson") for end in ("", "_low", "_high")}
    means = {f"spearman_{name}{end}" for name in ("mean", "wmean") for end in ("", "_low", "_high")}
    assert set(scores["STS12"]) == {*correlations, *means, "pairs"}
    assert set(scores["STSBenchmark"]) == {*correlations, "pairs"}  # no subsets, no means of them
    subsets = subset_tree(found.scores)["sts"]
    for task in (scores["STS12"], scores["average"], subsets["STS13"]["FNWN"]):
        assert task["spearman_low"] < task["spearman"] < task["spearman_high"]
    captions = [subsets["STS12"]["MSRvid"], subsets["STS14"]["images"], subsets["STS15"]["images"]]
    captions += [scores["SICKRelatedness"]]
    assert score_tree(found.scores)["sts_domains"]["captions"]["spearman"] == pytest.approx(
        np.mean([subset["spearman"] for subset in captions])
    )
    assert "sts_clean" not in score_tree(found.scores)
    seven = [scores[name]["spearman"] for name in data.STS_TASKS]
    assert scores["average"]["spearman"] == pytest.approx(np.mean(seven))
    assert [column.label for column in found.columns] == [
        *("STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R", "Avg.", "SICK-R 9,927")
    ]
    assert list(subsets["STS13"]) == ["FNWN", "headlines", "OnWN"]
    assert "4,927" not in found.protocols["sts.SICKRelatedness9927"]


def test_clean_rows_leave_out_what_the_model_has_seen(senteval):
    prepared = SUITES["sts"].prepare(SuiteOptions(data=str(senteval)))
    pairs = prepared.run(Subject.of(HashEncoder())).pairs[ScoreKey("sts", "STSBenchmark", "spearman")]
    seen = frozenset({normalise(pairs.sentence1[2].upper() + " !"), normalise(pairs.sentence2[5])})
    found = prepared.run(Subject.of(HashEncoder(), seen=seen))
    sample = found.samples[ScoreKey.parse("sts.STSBenchmark.spearman")]
    kept = [i for i in range(len(pairs.sentence1)) if not {pairs.sentence1[i], pairs.sentence2[i]} & seen]
    assert np.flatnonzero(sample.clean_P).tolist() == kept
    assert len(kept) < len(pairs.sentence1)
    clean = score_tree(found.scores)["sts_clean"]["STSBenchmark"]
    expected = 100 * stats.spearmanr(sample.value_P[kept], sample.gold_P[kept]).statistic
    assert clean["spearman"] == pytest.approx(expected)
    assert clean["pairs"] == len(kept)
    assert clean["spearman_low"] < clean["spearman"] < clean["spearman_high"]
    nothing = frozenset(map(normalise, (*pairs.sentence1, *pairs.sentence2)))
    found = prepared.run(Subject.of(HashEncoder(), seen=nothing))
    assert "STSBenchmark" not in score_tree(found.scores)["sts_clean"]
    assert "fewer than two pairs" in found.absent["sts_clean.STSBenchmark"]
    assert "average" not in score_tree(found.scores)["sts_clean"]
    assert "STSBenchmark is missing" in found.absent["sts_clean.average"]


def test_average_is_left_out_with_the_reason_where_a_task_is_absent(senteval):
    for file in (senteval / "STS" / "STS13-en-test").iterdir():
        file.unlink()
    (senteval / "STS" / "STS13-en-test").rmdir()
    found = SUITES["sts"].prepare(SuiteOptions(data=str(senteval))).run(Subject.of(HashEncoder()))
    assert "average" not in score_tree(found.scores)["sts"]
    assert "STS13 is missing" in found.absent["average"]
    assert "STS13-en-test" in found.absent["STS13"]


def test_own_file_makes_one_task_without_average(tmp_path):
    path = write(tmp_path / "mine.tsv", "1\ta\tb\n2\tb\tc\n4\tc\tc\n")
    found = SUITES["sts"].prepare(SuiteOptions(data=str(path))).run(Subject.of(HashEncoder()))
    assert list(score_tree(found.scores)["sts"]) == ["mine"]
    assert not found.absent
    with pytest.raises(ValueError, match="--batch-size must be positive, got 0"):
        SuiteOptions(batch_size=0)


def dev_pairs() -> ScoredPairs:
    pairs = make_pairs(50)
    assert 0 < (pairs.gold > 4).sum() < (pairs.gold >= 4).sum()
    return pairs


def test_dev_evaluator_gives_correlation_alignment_and_uniformity():
    pairs, encoder = dev_pairs(), HashEncoder()
    scores = ScoredPairsEvaluator(pairs, encoder, name="stsb_dev")()
    assert {name: score.higher_is_better for name, score in scores.items()} == {
        "stsb_dev.spearman": True,
        "stsb_dev.alignment": False,
        "stsb_dev.uniformity": False,
    }
    left, right = encoder.encode(pairs.sentence1).astype(float), encoder.encode(pairs.sentence2).astype(float)
    both = np.concatenate([left, right])
    squared = ((left - right) ** 2).sum(1)
    apart = ((both[:, None] - both[None]) ** 2).sum(-1)[np.triu_indices(len(both), 1)]
    expected = 100 * stats.spearmanr(plain_cosines(encoder, pairs), pairs.gold).statistic
    assert scores["stsb_dev.spearman"].value == pytest.approx(expected, abs=1e-4)
    assert scores["stsb_dev.alignment"].value == pytest.approx(squared[pairs.gold > 4].mean(), rel=1e-5)
    assert scores["stsb_dev.uniformity"].value == pytest.approx(np.log(np.exp(-2 * apart).mean()), rel=1e-5)


def test_dev_evaluator_draws_nothing_at_random():
    torch.manual_seed(5)
    np.random.seed(5)
    evaluator = ScoredPairsEvaluator(dev_pairs(), HashEncoder())
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    evaluator()
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_dev_evaluator_leaves_out_what_does_not_exist_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        assert ScoredPairsEvaluator(TRIO, FixedEncoder({}, default=[1.0, 0.0]), name="dev")() == {}
        assert ScoredPairsEvaluator(TRIO, FixedEncoder({}, default=[np.nan, 0.0]), name="dev")() == {}
        opposite = FixedEncoder(CROSS)
        assert set(ScoredPairsEvaluator(TRIO, opposite, name="dev")()) == {"dev.uniformity"}  # no gold above 4 either
    assert "the same row for all 4 sentences" in caplog.text
    assert "NaN or infinite rows" in caplog.text
    assert "dev.spearman: no score: all 3 scores are 0" in caplog.text
    flat = ScoredPairs("T", "s", TRIO.sentence1, TRIO.sentence2, np.ones(3), ("dev.csv",))
    with pytest.raises(ValueError, match=r"dev\.csv: all gold scores are 1"):
        ScoredPairsEvaluator(flat, HashEncoder())
