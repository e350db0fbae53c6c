"""Batches of tables: which table a step takes, which rows, and that equal texts have equal numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import ClassVar

import datasets
import numpy as np
import pytest

from mcse.data.streams import Share
from mcse.data.table_config import TableDataConfig, TrainingTable
from mcse.data.table_rows import MixedTableStream, TableStream, load_tables, text_ids, with_guide
from mcse.data.test_sets.contamination import normalise


class WordTokenizer:
    """A number for each word, in the order in which they are first seen."""

    digest, pad_id = "words", 0
    known: ClassVar[dict[str, int]] = {}

    def ids(self, texts, *, max_length=None):
        return [[self.known.setdefault(w, 1 + len(self.known)) for w in text.split()][:max_length] for text in texts]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name, rows, *, scored=False):
    lines = [
        "a,b,s" if scored else "a,b",
        *(f"{name} {n},answer {n}" + (f",{n / 10}" if scored else "") for n in range(rows)),
    ]
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return TrainingTable(path=f"{name}.csv", query="a", positive="b", score="s" if scored else None)


def loaded(folder, *tables):
    return load_tables(TableDataConfig(root=folder, tables=tables), WordTokenizer())


def stream(tables, *, rank=0, world_size=1, batch_size=4):
    return TableStream(tables, Share(batch_size, rank, world_size), seed=3, pad_id=0)


def test_an_epoch_takes_each_table_as_often_as_it_fills_batches_and_every_row_once(tmp_path):
    tables = loaded(tmp_path, write(tmp_path, "one", 12), write(tmp_path, "two", 8, scored=True))
    batches = stream(tables)
    assert batches.steps_per_epoch == 5
    for epoch in range(3):
        taken = [batches.batch(5 * epoch + step) for step in range(5)]
        assert Counter(batch.table for batch in taken) == {0: 3, 1: 2}
        for number, rows in ((0, 12), (1, 8)):
            ids = [one for batch in taken if batch.table == number for one in batch.text_id_BV[:, 0].tolist()]
            assert len(set(ids)) == rows
    orders = {tuple(batches.batch(5 * epoch + step).table for step in range(5)) for epoch in range(6)}
    assert len(orders) > 1


def test_values_go_with_their_rows_also_when_tokens_are_kept(tmp_path):
    tables = [loaded(tmp_path, write(tmp_path, "two", 8, scored=True)) for _ in range(2)]
    for (table,) in tables:
        batch = stream([table], batch_size=8).batch(0)
        words = WordTokenizer()
        expected = {text_ids([np.array(words.ids([f"two {n}"], max_length=32)[0])])[0]: n / 10 for n in range(8)}
        found = dict(zip(batch.text_id_BV[:, 0].tolist(), batch.value_B.tolist(), strict=True))
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("lost", ["*.npy", "*.sha256"])
def test_values_that_were_lost_are_read_again(tmp_path, lost):
    table = write(tmp_path, "two", 8, scored=True)
    (before,) = loaded(tmp_path, table)
    for file in (tmp_path / "cache" / "mcse").glob("*.npy*" if lost == "*.npy" else "*.npy.sha256"):
        file.unlink()
    (after,) = loaded(tmp_path, table)
    assert after.value_N.tolist() == before.value_N.tolist()
    assert len(after.value_N) == 8


def test_shares_are_kept_and_a_small_table_goes_round(tmp_path):
    first, second = write(tmp_path, "one", 40), write(tmp_path, "two", 8)
    shared = [
        TrainingTable(path=t.path, query="a", positive="b", share=share) for t, share in ((first, 1), (second, 2))
    ]
    batches = stream(loaded(tmp_path, *shared))
    assert batches.steps_per_epoch == 12
    taken = Counter(batches.batch(step).table for step in range(12))
    assert taken == {0: 4, 1: 8}


def test_two_processes_take_the_halves_of_what_one_takes(tmp_path):
    tables = loaded(tmp_path, write(tmp_path, "one", 16), write(tmp_path, "two", 16))
    whole = stream(tables, batch_size=8)
    halves = [stream(tables, rank=rank, world_size=2) for rank in range(2)]
    for step in range(8):
        batch, parts = whole.batch(step), [half.batch(step) for half in halves]
        assert {batch.table} == {part.table for part in parts}
        assert batch.text_id_BV.tolist() == [row for part in parts for row in part.text_id_BV.tolist()]


def test_a_batch_depends_on_its_step_alone(tmp_path):
    tables = loaded(tmp_path, write(tmp_path, "one", 12), write(tmp_path, "two", 12))
    forward, backward = stream(tables), stream(tables)
    ahead = [forward.batch(step).text_id_BV.tolist() for step in range(14)]
    behind = [backward.batch(step).text_id_BV.tolist() for step in reversed(range(14))]
    assert ahead == behind[::-1]


def test_a_text_alone_is_its_own_positive(tmp_path):
    (tmp_path / "t.csv").write_text("a\n" + "\n".join(f"text {n}" for n in range(4)) + "\n")
    batch = stream(loaded(tmp_path, TrainingTable(path="t.csv", query="a"))).batch(0)
    assert batch.text_id_BV.shape == (4, 2)
    assert batch.text_id_BV[:, 0].tolist() == batch.text_id_BV[:, 1].tolist()
    ids = batch.tokens.input_ids_BT
    assert ids[:4].tolist() == ids[4:].tolist()


def test_numbers_of_texts_tell_texts_apart_and_stay_the_same():
    generator = np.random.default_rng(0)
    rows = [generator.integers(30_000, size=generator.integers(1, 40)) for _ in range(20_000)]
    distinct = {row.tobytes() for row in rows}
    numbers = text_ids(rows)
    assert len(set(numbers.tolist())) == len(distinct)
    again = text_ids(rows[::-1][:50])
    assert again.tolist() == numbers[::-1][:50].tolist()
    # Padding's id 0 counts, and so does the order.
    different = [[5], [5, 0], [0, 5], [5, 6], [6, 5]]
    assert len(set(text_ids([np.array(row) for row in different]).tolist())) == len(different)


def test_rows_with_sentences_of_the_tests_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("mcse.data.table_rows.sts_test_sentences", lambda tests: frozenset({normalise("answer 3")}))
    (table,) = loaded(tmp_path, write(tmp_path, "two", 8, scored=True))
    assert len(table) == 7
    assert len(table.value_N) == 7
    assert 0.3 not in np.round(table.value_N, 3)


def test_too_few_rows_are_named_by_their_key(tmp_path):
    tables = loaded(tmp_path, write(tmp_path, "one", 12), write(tmp_path, "two", 3))
    with pytest.raises(ValueError, match=r"data.tables\[1\]: 3 examples are fewer than one batch of 4"):
        stream(tables)


def test_shares_go_to_all_tables_or_to_none():
    given = TrainingTable(path="a.csv", share=1.0)
    with pytest.raises(ValueError, match="give share to all of them, or to none"):
        TableDataConfig(tables=(given, TrainingTable(path="b.csv")))
    with pytest.raises(ValueError, match="give one of them"):
        TableDataConfig(table=given, tables=(given,))


# --- batches of several tables


def mixed(tables, *, rank=0, world_size=1, batch_size=8):
    return MixedTableStream(tables, Share(batch_size, rank, world_size), seed=3, pad_id=0)


def first_words(batch):
    """Which table each row's query is of, by its first word."""
    words = {number: word for word, number in WordTokenizer.known.items()}
    return [words[row[0]] for row in batch.tokens.input_ids_BT[: len(batch.text_id_BV)].tolist()]


def test_a_mixed_batch_holds_rows_of_each_table_in_proportion(tmp_path):
    stream = mixed(loaded(tmp_path, write(tmp_path, "one", 30), write(tmp_path, "two", 10)))
    assert stream.steps_per_epoch == 5
    for step in range(12):
        assert Counter(first_words(stream.batch(step))) == {"one": 6, "two": 2}
    seen = [one for step in range(5) for one in stream.batch(step).text_id_BV[:, 0].tolist()]
    assert len(set(seen)) == 40  # an epoch takes every row once
    assert stream.facts == {"data.tables[0]": "30 rows, 6 of every 8", "data.tables[1]": "10 rows, 2 of every 8"}


def test_shares_of_a_mixed_batch_are_kept_and_every_table_is_in_it(tmp_path):
    tables = (write(tmp_path, "one", 40), write(tmp_path, "two", 8), write(tmp_path, "three", 8))
    shared = [replace(table, share=share) for table, share in zip(tables, (98, 1, 1), strict=True)]
    stream = mixed(loaded(tmp_path, *shared), batch_size=4)
    assert Counter(first_words(stream.batch(3))) == {"one": 2, "two": 1, "three": 1}
    with pytest.raises(ValueError, match="a batch of 2 rows cannot hold one of each of 3 tables"):
        mixed(loaded(tmp_path, *shared), batch_size=2)


def test_two_processes_mix_the_rows_that_one_mixes(tmp_path):
    tables = loaded(tmp_path, write(tmp_path, "one", 30), write(tmp_path, "two", 18))
    whole = mixed(tables, batch_size=8)
    halves = [mixed(tables, rank=rank, world_size=2, batch_size=4) for rank in range(2)]
    for step in range(9):
        rows = sorted(map(tuple, whole.batch(step).text_id_BV.tolist()))
        parts = [half.batch(step) for half in halves]
        assert all(len(part.text_id_BV) == 4 for part in parts)
        assert sorted(tuple(row) for part in parts for row in part.text_id_BV.tolist()) == rows
    ahead = [mixed(tables).batch(step).text_id_BV.tolist() for step in range(9)]
    stream = mixed(tables)
    assert [stream.batch(step).text_id_BV.tolist() for step in reversed(range(9))] == ahead[::-1]


def test_values_of_a_mixed_batch_go_with_their_rows(tmp_path):
    tables = loaded(tmp_path, write(tmp_path, "one", 8, scored=True), write(tmp_path, "two", 8, scored=True))
    batch = mixed(tables).batch(1)
    words = {number: word for word, number in WordTokenizer.known.items()}
    numbers = [words[row[1]] for row in batch.tokens.input_ids_BT[:8].tolist()]
    assert batch.value_B.tolist() == pytest.approx([int(number) / 10 for number in numbers])


def test_groups_go_with_their_rows_also_when_tokens_are_kept(tmp_path):
    table = replace(write(tmp_path, "two", 8, scored=True), score=None, id="s")
    path = tmp_path / "two.csv"
    path.write_text("\n".join(line.replace(",0.3", ",0.1") for line in path.read_text().splitlines()) + "\n")
    for _ in range(2):
        tables = loaded(tmp_path, table)
        batch = stream(tables, batch_size=8).batch(0)
        words = {number: word for word, number in WordTokenizer.known.items()}
        number = [words[row[1]] for row in batch.tokens.input_ids_BT[:8].tolist()]
        group = dict(zip(number, batch.group_B.tolist(), strict=True))
        assert group["1"] == group["3"]
        assert len(set(group.values())) == 7
        assert batch.value_B is None


def test_a_guides_embeddings_go_with_their_texts_and_are_computed_once(tmp_path):
    calls = []

    def encode(texts):
        calls.append(texts)
        return np.array([[float(text.split()[-1]), len(text)] for text in texts], dtype=np.float32)

    tables = loaded(tmp_path, write(tmp_path, "one", 12))
    for _ in range(2):
        guided = with_guide(tables[0], encode, digest="guide")
        batch = stream([guided]).batch(1)
        words = {number: word for word, number in WordTokenizer.known.items()}
        asked = [words[row[1]] for row in batch.tokens.input_ids_BT[:4].tolist()]
        assert batch.guide_BVG[:, :, 0].tolist() == [[float(number)] * 2 for number in asked]
        assert batch.guide_BVG[:, 0, 1].tolist() == [len(f"one {number}") for number in asked]
    assert len(calls) == 1
    with_guide(tables[0], encode, digest="another")
    assert len(calls) == 2
