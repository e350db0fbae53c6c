"""Hard negatives against a search in loops; kept embeddings; what ``mcse mine`` writes and refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mcse.commands import mine as command
from mcse.commands.main import main
from mcse.data.named_columns import open_named_columns
from mcse.data.table_config import NamedTable
from mcse.search import mining
from mcse.search.mining import EncodedPairs, MiningRule, Pairs, encode_pairs, mine
from mcse.search.rows import RowBlocks


def drawn(number, *, seed):
    rows = np.random.default_rng(seed).normal(size=(number, 6)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def pairs():
    """40 queries with one to three answers of 60 texts; query 0 stands among the texts, too."""
    generator = np.random.default_rng(3)
    rows = [(f"q{q}", f"t{t}") for q in range(40) for t in generator.choice(60, size=1 + q % 3, replace=False)]
    return Pairs.of(iter(rows), others=["q0", *(f"t{t}" for t in range(60))])


def by_loops(pairs, query_QD, target_TD, rule, guide=None, guide_margin=0.0):
    """The definition, text by text."""
    answers = {q: {t for other, t in pairs.pairs if other == q} for q in range(len(pairs.queries))}
    for query in range(len(pairs.queries)):
        scores = {t: float(query_QD[query] @ target_TD[t]) for t in range(len(pairs.targets))}
        others = [t for t in scores if t not in answers[query] and pairs.targets[t] != pairs.queries[query]]
        ranked = sorted(others, key=lambda t: (-round(scores[t], 6), t))[rule.from_rank - 1 : rule.to_rank]
        for own, answer in pairs.pairs:
            if own != query:
                continue
            kept = []
            for target in ranked:
                fits = rule.margin is None or scores[target] <= scores[answer] - rule.margin
                fits &= rule.relative_margin is None or scores[target] <= scores[answer] * (
                    1 - rule.relative_margin * np.sign(scores[answer])
                )
                fits &= rule.most is None or scores[target] <= rule.most
                if guide is not None:
                    asked, told = guide
                    fits &= float(asked[query] @ told[target]) < float(asked[query] @ told[answer]) - guide_margin
                if fits:
                    kept.append(target)
            if len(kept) >= rule.number:
                yield query, answer, tuple(kept[: rule.number])


RULES = [
    MiningRule(),
    MiningRule(number=3, from_rank=2, to_rank=9),
    MiningRule(margin=0.1),
    MiningRule(margin=-0.3, number=2),
    MiningRule(relative_margin=0.2),
    MiningRule(most=0.5, to_rank=60),
    MiningRule(margin=0.0, most=0.3, number=2, to_rank=70),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("guided", [False, True])
def test_negatives_are_those_of_the_definition(pairs, rule, guided, monkeypatch):
    monkeypatch.setattr(mining, "_QUERIES_AT_ONCE", 7)
    rows = [drawn(len(pairs.queries), seed=0), drawn(len(pairs.targets), seed=1)]
    guide = [drawn(len(pairs.queries), seed=4), drawn(len(pairs.targets), seed=5)] if guided else None
    found = list(
        mine(
            pairs,
            EncodedPairs(*map(RowBlocks, rows)),
            rule,
            guide=guide and EncodedPairs(*map(RowBlocks, guide)),
            guide_margin=0.05,
        )
    )
    assert found == list(by_loops(pairs, *rows, rule, guide, 0.05))
    assert found
    if rule == MiningRule() and not guided:
        assert len(found) == len(pairs.pairs)
    else:
        assert len({negatives for _, _, negatives in found}) > 3


@pytest.mark.parametrize("keys", [{"number": 0}, {"from_rank": 0}, {"from_rank": 5, "to_rank": 4}])
def test_rules_that_cannot_be_met_are_refused(keys):
    with pytest.raises(ValueError, match="ranks count from 1"):
        MiningRule(**keys)


class Counting:
    """Embeds texts by their letters, and counts them; may be stopped after some."""

    def __init__(self, *, most=10**9):
        self.seen, self.most = 0, most

    def encode(self, texts, *, batch_size=64, normalize=True):
        self.seen += len(texts)
        if self.seen > self.most:
            raise KeyboardInterrupt
        rows = np.array([[text.count(letter) + 0.1 for letter in "abcdefgh"] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_what_was_encoded_before_a_kill_is_found_again(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "_TEXTS_A_PART", 10)
    whole = encode_pairs(pairs, Counting(), digest=None, cache=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        encode_pairs(pairs, Counting(most=55), digest="d", cache=tmp_path)
    second = Counting()
    again = encode_pairs(pairs, second, digest="d", cache=tmp_path)
    assert second.seen == len(pairs.queries) + len(pairs.targets) - 50
    for block, other in ((whole.queries, again.queries), (whole.targets, again.targets)):
        np.testing.assert_array_equal(np.concatenate(list(block)), np.concatenate(list(other)))
    kept = len(list(tmp_path.glob("*.npy")))
    damaged = next(tmp_path.glob("*.npy"))
    size = len(np.load(damaged))
    damaged.write_bytes(damaged.read_bytes()[:-4])
    third = Counting()
    encode_pairs(pairs, third, digest="d", cache=tmp_path)
    assert third.seen == size
    other = Counting()
    encode_pairs(pairs, other, digest="e", cache=tmp_path)
    assert other.seen == len(pairs.queries) + len(pairs.targets)
    assert len(list(tmp_path.glob("*.npy"))) == 2 * kept


# --- the command

ROWS = [(f"what is {letter * 3}", f'it is {letter * 4}, "so"') for letter in "abcdefgh"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_encoder", lambda name, **_: Counting())
    monkeypatch.setattr(command, "encoder_digest", lambda name, reading: None)
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *ROWS])
    return tmp_path / "pairs.csv"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
def test_the_table_that_is_written_is_one_to_train_on(table, ending, capsys):
    output = table.with_name(f"mined.{ending}")
    assert main(["mine", str(table), "--model", "m", "--output", str(output), "--number", "2"]) == 0
    assert "8 of 8 pairs, each with 2 of 8 texts" in capsys.readouterr().out
    columns = open_named_columns(NamedTable(path=output.name), root=output.parent, key="t")
    assert columns.texts == ("query", "positive", "negative_1", "negative_2")
    found = [example.texts for example in columns.rows()]
    assert [texts[:2] for texts in found] == ROWS
    assert all(len({*texts[1:]}) == 3 for texts in found)


def test_texts_of_a_corpus_may_be_found(table, capsys):
    corpus = table.with_name("corpus.txt")
    corpus.write_text("aaa aaa\nbbbb\n")
    output = table.with_name("mined.jsonl")
    assert main(["mine", str(table), "--model", "m", "--output", str(output), "--corpus", str(corpus)]) == 0
    assert json.loads(output.read_text().splitlines()[0])["negative_1"] == "aaa aaa"


@pytest.mark.parametrize("ending", ["jsonl", "tsv"])
def test_other_blanks_make_no_other_text(table, ending):
    """An answer must not be its own negative, and a tab must not end a cell."""
    corpus = table.with_name("corpus.txt")
    corpus.write_text('it  is\taaaa,  "so"\naaa\taaa\n')
    output = table.with_name(f"mined.{ending}")
    flags = ["--model", "m", "--output", str(output), "--corpus", str(corpus), "--number", "8"]
    assert main(["mine", str(table), *flags]) == 0
    rows = open_named_columns(NamedTable(path=output.name), root=output.parent, key="t").rows()
    for texts in (example.texts for example in rows):
        assert set(texts[1:]) == {*(answer for _, answer in ROWS), "aaa aaa"}


def test_names_steer_no_terminal(table, capsys):
    output = table.with_name("a\x1b[31mb.jsonl")
    assert main(["mine", str(table), "--model", "m\x1b[31m", "--output", str(output)]) == 0
    assert output.is_file()
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert r"a\x1b[31mb.jsonl: 8 of 8 pairs" in said.out
    assert r"m\x1b[31m: 100 %" in said.err


def test_only_one_writes_a_file(table, capsys):
    output = table.with_name("mined.jsonl")

    class Another(Counting):
        """While it works, the command is started again."""

        def encode(self, texts, **keys):
            if command.load_encoder is another:
                command.load_encoder = lambda name, **_: Counting()
                assert main(["mine", str(table), "--model", "m", "--output", str(output)]) == 2
            return super().encode(texts, **keys)

    another = command.load_encoder = lambda name, **_: Another()
    assert main(["mine", str(table), "--model", "m", "--output", str(output)]) == 0
    assert "is in use by process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--query", "quest"], "no column 'quest' for query"),
        (["--query", "question"], "has no column of positives"),
        (["--from-rank", "9"], "8 texts are too few for ranks from 9 on"),
        (["--max-score", "-1"], "no pair has 1 negatives from rank 1 to 50"),
        (["--number", "0"], "at least one negative is wanted"),
        (["--corpus", "none.txt"], "none.txt"),
    ],
)
def test_what_cannot_be_mined_is_said_and_nothing_is_written(table, arguments, message, capsys):
    output = table.with_name("mined.jsonl")
    assert main(["mine", str(table), "--model", "m", "--output", str(output), *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()


def test_scored_pairs_are_answers_only_where_somebody_says_so(table, capsys):
    table.write_text("sentence1,sentence2,score\n" + "\n".join(f"q {n},a {n},{n}" for n in range(4)) + "\n")
    output = table.parent / "mined.jsonl"
    assert main(["mine", str(table), "--model", "bert", "--output", str(output)]) == 2
    assert "has the column 'score', and not every pair may be an answer; name --query" in capsys.readouterr().err
    assert not output.exists()


def test_a_file_that_is_there_is_kept(table, capsys):
    output = table.with_name("mined.jsonl")
    output.write_text("mine")
    assert main(["mine", str(table), "--model", "m", "--output", str(output)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert main(["mine", str(table), "--model", "m", "--output", "x.parquet"]) == 2
    assert not Path("x.parquet").exists()
