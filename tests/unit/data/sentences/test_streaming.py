"""Streamed sentences: files, parquet, hub datasets; every sentence once an epoch; resumed by their state."""

from __future__ import annotations

import gzip
import json
import time

import datasets
import numpy as np
import pytest

from mcse.data.controls_config import EveryMix, PublishedMix
from mcse.data.mixing import MixedStream, carried_part, plan_mixture
from mcse.data.sentences.streaming import StreamedSentences, open_texts
from mcse.data.streams import Share
from mcse.training.prefetch import Prefetcher


class Numbers:
    """Stands in for a tokenizer: a sentence is its number."""

    def ids(self, texts, *, max_length=None):
        assert max_length
        return [[int(line.split()[-1])] for line in texts]

    def __len__(self):
        return 10_000


def write(folder, counts, *, kind="txt"):
    """Files of so many numbered sentences, blank lines between them."""
    number = 0
    for place, count in enumerate(counts):
        lines = [f"sentence  {number + index}" for index in range(count)]
        number += count
        path = folder / f"part-{place:02d}.{kind}"
        if kind == "parquet":
            rows = {"id": list(range(count)), "text": lines}
            datasets.Dataset.from_dict(rows).to_parquet(str(path), batch_size=7)
            continue
        data = ("\n\n" + "\n".join(lines[:3]) + "\n\n" + "\n".join(lines[3:]) + "\n").encode()
        path.write_bytes(gzip.compress(data) if kind == "txt.gz" else data)
    return f"part-*.{kind}"


def stream_of(folder, source, *, batch_size=4, rank=0, world_size=1, window=16, seed=0, wanted=bool):
    share = Share(batch_size=batch_size, rank=rank, world_size=world_size)
    texts = open_texts(source, root=folder)
    return StreamedSentences(texts, Numbers(), share, seed=seed, window=window, max_length=32, pad_id=0, wanted=wanted)


def numbers(batch):
    return batch.query.input_ids_BT[:, 0].tolist()


def drawn(stream, steps):
    return [number for step in steps for number in numbers(stream.batch(step))]


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "parquet"])
def test_rows_are_read_from_any_start(tmp_path, kind):
    texts = open_texts(write(tmp_path, (20, 9), kind=kind), root=tmp_path)
    assert len(texts) == 2
    whole = list(texts.rows(0, start=0))
    kept = [row for row in whole if row]
    assert [int(row.split()[-1]) for row in kept] == list(range(20))
    for start in (0, 1, 2, 6, 7, 8, 13, 14, 19, len(whole), 99):
        assert list(texts.rows(0, start=start)) == whole[start:]


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "parquet"])
@pytest.mark.parametrize("window", [1, 5, 16, 1000])
def test_every_sentence_comes_once_an_epoch(tmp_path, kind, window):
    source = write(tmp_path, (20, 9, 30, 5), kind=kind)
    stream = stream_of(tmp_path, source, window=window)
    epochs = [drawn(stream, range(16 * epoch, 16 * epoch + 16)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(64))
    assert epochs[0] != epochs[1] != epochs[2]
    assert drawn(stream_of(tmp_path, source, window=window), range(16)) == epochs[0]
    assert drawn(stream_of(tmp_path, source, window=window, seed=1), range(16)) != epochs[0]


def test_a_window_is_shuffled_and_no_more(tmp_path):
    source = write(tmp_path, (64,))
    order = drawn(stream_of(tmp_path, source, window=16), range(16))
    assert [sorted(order[start : start + 16]) for start in range(0, 64, 16)] == [
        list(range(start, start + 16)) for start in range(0, 64, 16)
    ]
    assert order[:16] != sorted(order[:16])


def test_the_last_partial_batch_of_an_epoch_is_left_out(tmp_path):
    stream = stream_of(tmp_path, write(tmp_path, (20, 9, 1)), batch_size=8, window=7)
    first, second = drawn(stream, range(3)), drawn(stream, range(3, 6))
    assert len(set(first)) == len(set(second)) == 24
    assert set(first) != set(second)


def test_unwanted_sentences_never_come(tmp_path):
    stream = stream_of(tmp_path, write(tmp_path, (20, 12)), wanted=lambda text: int(text.split()[-1]) % 2 == 0)
    assert sorted(drawn(stream, range(4))) == list(range(0, 32, 2))


@pytest.mark.parametrize("used", [0, 1, 3, 5, 11, 16, 17, 29])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_state_goes_on_where_it_was_taken(tmp_path, used, world_size):
    """Within a window, at its end, within and behind a file, in the second epoch."""
    source = write(tmp_path, (20, 9, 30, 5))
    for rank in range(world_size):
        given = {"batch_size": 4 // world_size, "rank": rank, "world_size": world_size, "window": 12}
        straight = stream_of(tmp_path, source, **given)
        expected = [numbers(straight.batch(step)) for step in range(40)]
        stopped = stream_of(tmp_path, source, **given)
        for step in range(used):
            stopped.batch(step)
        state = json.loads(json.dumps(stopped.state_dict()))
        resumed = stream_of(tmp_path, source, **given)
        resumed.load_state_dict(state)
        reads = []
        plain = resumed.texts.rows
        resumed.texts.rows = lambda part, *, start, plain=plain, reads=reads: (
            reads.append((part, start)) or plain(part, start=start)
        )
        assert [numbers(resumed.batch(step)) for step in range(used, 40)] == expected[used:]
        if used in (11, 29) and world_size == 1:
            assert reads[0][1] > 0, "in the middle of a file"
        # Without the state the same batch is found by reading from the start.
        assert numbers(stream_of(tmp_path, source, **given).batch(used)) == expected[used]
        assert numbers(resumed.batch(1)) == expected[1], "and so is an earlier one"


def test_processes_with_files_of_their_own_read_no_others(tmp_path):
    source = write(tmp_path, (20, 8, 12, 24))
    streams = [stream_of(tmp_path, source, batch_size=4, rank=rank, world_size=2, window=9) for rank in range(2)]
    reads = [set(), set()]
    for stream, seen in zip(streams, reads, strict=True):
        plain = stream.texts.rows
        stream.texts.rows = lambda part, *, start, plain=plain, seen=seen: seen.add(part) or plain(part, start=start)
    assert all(stream.split_by_part for stream in streams)
    ids = [drawn(stream, range(8)) for stream in streams]
    assert set(ids[0]).isdisjoint(ids[1])
    assert sorted(ids[0] + ids[1]) == list(range(64))
    assert reads == [{0, 2}, {1, 3}]


def test_processes_that_share_files_draw_what_one_would(tmp_path):
    source = write(tmp_path, (20, 9, 35))
    whole = stream_of(tmp_path, source, batch_size=8, window=10)
    halves = [stream_of(tmp_path, source, batch_size=4, rank=rank, world_size=2, window=10) for rank in range(2)]
    assert not any(half.split_by_part for half in halves)
    for step in range(20):
        assert [number for half in halves for number in numbers(half.batch(step))] == numbers(whole.batch(step))
    assert sorted(drawn(whole, range(8))) == list(range(64))


def test_a_hub_dataset_is_streamed(tmp_path, monkeypatch):
    write(tmp_path, (20, 9, 30, 5), kind="parquet")
    plain = datasets.load_dataset

    def load(name, *, split, streaming):
        assert (name, split, streaming) == ("someone/sentences", "train", True)
        files = [str(path) for path in sorted(tmp_path.glob("*.parquet"))]
        return plain("parquet", data_files={"train": files}, split=split, streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    texts = open_texts("someone/sentences", root=tmp_path)
    assert len(texts) == 4
    stream = stream_of(tmp_path, "someone/sentences")
    expected = [numbers(stream.batch(step)) for step in range(20)]
    assert sorted(number for batch in expected[:16] for number in batch) == list(range(64))
    assert expected == [numbers(batch) for batch in map(stream_of(tmp_path, "part-*.parquet").batch, range(20))]
    for step in range(7):
        stream.batch(step)
    resumed = stream_of(tmp_path, "someone/sentences")
    resumed.load_state_dict(stream.state_dict())
    assert [numbers(resumed.batch(step)) for step in range(7, 20)] == expected[7:]
    with pytest.raises(ValueError, match=r"name a text column as SOURCE::COLUMN, one of \['text'\]"):
        open_texts("someone/sentences::words", root=tmp_path)


@pytest.mark.parametrize("stopped", [None, 3, 9])
@pytest.mark.parametrize("window", [1, 5, 1000])
def test_a_stream_says_at_its_end_what_became_of_every_row(tmp_path, caplog, window, stopped):
    """Two files of 20 and 10 sentences with five blank lines each, also last; every seventh stands in a test set."""
    source = write(tmp_path, (20, 10))
    for path in tmp_path.glob("*.txt"):
        path.write_text(path.read_text() + "\n\n")
    lines = [line for path in tmp_path.glob("*.txt") for line in path.read_text().split("\n")[:-1]]
    texts = [line for line in lines if line]

    def wanted(text):
        return int(text.split()[-1]) % 7 != 0

    kept = sum(map(wanted, texts))
    over = kept % 4
    stream = stream_of(tmp_path, source, window=window, wanted=wanted)
    with caplog.at_level("INFO"):
        for step in range(kept // 4):
            if step == stopped:
                state = json.loads(json.dumps(stream.state_dict()))
                stream = stream_of(tmp_path, source, window=window, wanted=wanted)
                stream.load_state_dict(state)
            stream.batch(step)
        assert "rows read" not in caplog.text
        stream.batch(kept // 4)
    blank, left_out = len(lines) - len(texts), len(texts) - kept
    assert min(blank, left_out, over) > 0
    assert (
        f"part-*.txt: {kept - over} of {len(lines)} rows read ({blank} blank, {left_out} in a test set, "
        f"{over} too few for a batch at the end)"
    ) in caplog.text
    stream.batch(3 * kept // 4)
    assert caplog.text.count("rows read") == 1


def test_each_process_says_what_it_has_read(tmp_path, caplog):
    source = write(tmp_path, (8, 8))
    with caplog.at_level("INFO"):
        for rank in range(2):
            stream_of(tmp_path, source, rank=rank, world_size=2).batch(2)
    for rank in range(2):
        assert f"(parts of process {rank}): 8 of 11 rows read (3 blank)" in caplog.text


def test_what_cannot_be_streamed_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.sentences: no file at .*absent\.txt"):
        open_texts("absent.txt", root=tmp_path)
    (tmp_path / "rows.csv").write_text("a,b,c\n")
    with pytest.raises(ValueError, match=r"rows\.csv: only \.txt, \.txt\.gz, \.gz, \.parquet can be streamed"):
        open_texts("rows.csv", root=tmp_path)
    (tmp_path / "none.txt").touch()
    with pytest.raises(ValueError, match=r"none\.txt is empty"):
        open_texts("none.txt", root=tmp_path)
    (tmp_path / "few.txt").write_text("a 1\nb 2\n\n")
    with pytest.raises(ValueError, match="has fewer sentences than one batch of 4"):
        stream_of(tmp_path, "few.txt").batch(0)
    (tmp_path / "bad.txt").write_bytes(b"good 1\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"bad\.txt, line 2: not UTF-8"):
        stream_of(tmp_path, "bad.txt").batch(0)


def test_a_sentence_is_not_kept_in_memory(tmp_path):
    stream = stream_of(tmp_path, write(tmp_path, (500, 500)), window=50)
    held = []
    for step in range(100):
        stream.batch(step)
        held.append(len(stream._block))
    assert max(held) == 50


# --- what a checkpoint carries


def test_the_prefetcher_saves_the_state_behind_the_batch_used_last(tmp_path):
    source = write(tmp_path, (20, 9, 30, 5))
    expected = [numbers(stream_of(tmp_path, source).batch(step)) for step in range(30)]
    for used in (0, 1, 6, 17):
        stream = stream_of(tmp_path, source)
        with Prefetcher(stream, end=30, depth=4, carried=carried_part(stream)) as prefetcher:
            for step in range(used):
                assert numbers(prefetcher.next()) == expected[step]
            if used:
                patience = time.monotonic() + 20
                while stream.state_dict()["step"] <= used and time.monotonic() < patience:
                    time.sleep(0.01)
                assert stream.state_dict()["step"] > used, "batches are made ahead"
            state = json.loads(json.dumps(prefetcher.state_dict()))
        assert state["step"] == used
        resumed = stream_of(tmp_path, source)
        with Prefetcher(resumed, end=30, carried=carried_part(resumed)) as prefetcher:
            prefetcher.load_state_dict(state)
            prefetcher.begin_at(used)
            assert prefetcher.state_dict() == state
            assert [numbers(prefetcher.next()) for _ in range(used, 30)] == expected[used:]


class Steps:
    """Paired batches that are their own step."""

    steps_per_epoch = 3

    def batch(self, step):
        return step


def test_streamed_sentences_are_mixed_with_pairs_by_a_beat(tmp_path):
    source = write(tmp_path, (20, 9, 30, 5))
    sentences = stream_of(tmp_path, source)
    mixture = plan_mixture(EveryMix(schedule="every", pair_every=3), sentence_steps=None, pair_steps=3)
    mixed = MixedStream(sentences, Steps(), mixture)
    assert mixed.steps_per_epoch is None
    assert mixture.drawn_an_epoch(8) == {}
    assert carried_part(mixed) is sentences
    expected = stream_of(tmp_path, source)
    pairs, texts = 0, 0
    for step in range(50):
        batch = mixed.batch(step)
        if step % 3 == 0:
            assert batch == pairs
            pairs += 1
        else:
            assert numbers(batch) == numbers(expected.batch(texts))
            texts += 1
    with pytest.raises(ValueError, match="mix.schedule: 'mcse' needs the number of sentences, which a stream does not"):
        plan_mixture(PublishedMix(), sentence_steps=None, pair_steps=3)


def test_orders_of_epochs_and_windows_are_different_draws(tmp_path):
    stream = stream_of(tmp_path, write(tmp_path, (16,) * 6), batch_size=16, window=16)
    order = [np.argsort(np.asarray(numbers(stream.batch(step))) % 16).tolist() for step in range(12)]
    assert len({tuple(permutation) for permutation in order}) == 12
