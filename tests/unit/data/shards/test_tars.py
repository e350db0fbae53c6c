"""Shards: found, scanned once, read at random, refused by tar and member; rows and their order."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from mcse.data.shards import tars as shards_module
from mcse.data.shards.pairs import CaptionsOfPairs, PairRows, ShardFeatures, ShardPixels, unusable_samples
from mcse.data.shards.tars import find_shards, open_shards
from mcse.data.source_variants import ShardCaptions
from mcse.data.streams import Sampler, ShardSampler, Share
from mcse.data.test_sets.contamination import normalise
from mcse.images import BadImageError
from tests.fixtures.tiny_shards import npy, png, write_tar

NONE = np.empty(0, dtype=np.int64)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def grey(level, size=8):
    return png(np.full((size, size, 3), level, dtype=np.uint8))


def level(image):
    return torch.full((3, 2, 2), float(np.asarray(image).mean()))


def sample(number, *, captions=1):
    """Sample ``number``: its captions, image and row all say who it is."""
    text = {f"{number:04d}.txt": f"caption {number} of 0".encode()}
    if captions > 1:
        text = {
            f"{number:04d}.json": json.dumps(
                {"captions": [f"caption {number} of {c}" for c in range(captions)]}
            ).encode()
        }
    return text | {f"{number:04d}.png": grey(number), f"{number:04d}.npy": npy(np.full(3, number, dtype=np.float16))}


def tars(folder, counts, *, captions=lambda number: 1):
    """Tars of so many samples, numbered through."""
    number = 0
    for place, count in enumerate(counts):
        members = {}
        for _ in range(count):
            members |= sample(number, captions=captions(number))
            number += 1
        write_tar(folder / f"p-{place:02d}.tar", members)
    return f"p-{{00..{len(counts) - 1:02d}}}.tar"


class Words:
    """Stands in for a tokenizer: a word is the sum of its letters."""

    def ids(self, texts, *, max_length=None):
        return [[sum(word.encode()) for word in line.split()][:max_length] for line in texts]

    def __len__(self):
        return 10_000


# --- finding


def test_ranges_lists_globs_folders_and_paths_find_tars(tmp_path):
    names = [f"a-{number:03d}-{side}.tar" for number in range(8, 12) for side in "lr"]
    for name in names:
        write_tar(tmp_path / "in" / name, {})
    found = [
        [path.name for path in find_shards(source, root=tmp_path)]
        for source in (
            "in/a-{008..011}-{l,r}.tar",
            "in/*.tar",
            "in",
            str(tmp_path / "in" / "*.tar"),
            "in/a-{008,009}-l.tar",
            "in/a-008-l.tar",
        )
    ]
    assert found[0] == found[1] == found[2] == found[3] == names
    assert found[4] == ["a-008-l.tar", "a-009-l.tar"]
    assert found[5] == ["a-008-l.tar"]
    assert all(map(ShardCaptions.reads, ("a.tar", "a-{0..9}.tar", "a.tgz")))
    assert not ShardCaptions.reads("captions.txt")


def test_a_missing_tar_of_a_range_and_compressed_tars_are_refused(tmp_path):
    write_tar(tmp_path / "a-0.tar", {})
    with pytest.raises(FileNotFoundError, match=r"2 of 3 tars are not there, first .*a-1\.tar"):
        find_shards("a-{0..2}.tar", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no tar fits b-\*\.tar"):
        find_shards("b-*.tar", root=tmp_path)
    with pytest.raises(ValueError, match="compressed tars cannot be read at random"):
        find_shards("a-0.tar.gz", root=tmp_path)


# --- reading


def test_every_part_of_every_sample_is_read_at_random(tmp_path):
    source = tars(tmp_path, (3, 0, 5, 1), captions=lambda number: 1 + number % 3)
    found = open_shards(source, root=tmp_path)
    assert len(found) == 9
    assert found.shard_first.tolist() == [0, 3, 3, 8, 9]
    assert np.diff(found.first).tolist() == [1 + number % 3 for number in range(9)]
    order = np.random.default_rng(0).permutation(9)
    for number in order.tolist():
        assert found.captions(number) == tuple(f"caption {number} of {c}" for c in range(1 + number % 3))
    rows = ShardFeatures(found)
    assert rows.width == 3
    assert rows.rows(np.array([7, 2, 7])).tolist() == [[7.0] * 3, [2.0] * 3, [7.0] * 3]
    pixels = ShardPixels(found, level).rows(np.array([8, 0, 8]))
    assert pixels.shape == (3, 3, 2, 2)
    assert pixels[:, 0, 0, 0].tolist() == [8.0, 0.0, 8.0]
    assert pickle.loads(pickle.dumps(found)).captions(4) == found.captions(4)


def test_a_text_file_is_the_caption_where_json_is_there_too(tmp_path):
    members = {"a/x.jpg": grey(1), "a/x.json": b'{"caption": "theirs", "url": 1}', "a/x.txt": b" ours \n here\n"}
    members |= {"b/x.JPG": grey(2), "b/x.json": b'{"caption": "alone"}', "b/x.cls": b"3", "README": b"not a sample"}
    write_tar(tmp_path / "p.tar", members)
    found = open_shards("p.tar", root=tmp_path)
    assert [found.captions(number) for number in range(len(found))] == [("ours here",), ("alone",)]
    assert found.lacking == {"text": 0, "image": 0, "row": 2}


def test_more_files_than_may_be_open_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "_OPEN_FILES", 2)
    found = open_shards(tars(tmp_path, [2] * 6), root=tmp_path)
    rows = ShardFeatures(found)
    assert rows.rows(np.arange(12))[:, 0].tolist() == list(range(12))
    assert len(found._files._files) == 2


# --- the index


def test_a_tar_is_scanned_once_and_again_when_it_changed(tmp_path, monkeypatch):
    source = tars(tmp_path, (2, 3))
    scanned = []
    plain = shards_module._scan
    monkeypatch.setattr(shards_module, "_scan", lambda path: scanned.append(path.name) or plain(path))
    first = open_shards(source, root=tmp_path)
    assert sorted(scanned) == ["p-00.tar", "p-01.tar"]
    again = open_shards(source, root=tmp_path)
    assert len(scanned) == 2
    assert (again.digest, again.key) == (first.digest, first.key)
    write_tar(tmp_path / "p-01.tar", sample(7) | sample(8))
    changed = open_shards(source, root=tmp_path)
    assert scanned[2:] == ["p-01.tar"]
    assert changed.captions(3) == ("caption 8 of 0",)
    assert changed.digest != first.digest
    os.utime(tmp_path / "p-00.tar", ns=(1, 1))
    touched = open_shards(source, root=tmp_path)
    assert touched.digest == changed.digest, "the same content"
    assert touched.key != changed.key


def test_the_index_is_memory_mapped_and_small(tmp_path):
    found = open_shards(tars(tmp_path, (40, 40)), root=tmp_path)
    assert isinstance(found.samples, np.memmap)
    assert isinstance(found.first, np.memmap)
    assert found.samples.dtype.itemsize + found.first.dtype.itemsize == 33


# --- damage, named by tar and member


def test_a_truncated_tar_is_named(tmp_path):
    whole = write_tar(tmp_path / "p.tar", sample(0) | sample(1))
    data = whole.read_bytes()
    end = len(data.rstrip(b"\0"))
    for size, where in ((end - 100, "0001.npy"), (700, "0000.png"), (512 * 3, "0000.png")):
        whole.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"p\.tar: truncated or damaged (at|after)") as caught:
            open_shards("p.tar", root=tmp_path)
        assert where in str(caught.value) or "0000.txt" in str(caught.value)


def test_a_tar_cut_between_members_and_a_damaged_header_are_named(tmp_path):
    whole = write_tar(tmp_path / "p.tar", {"0.txt": b"a", "0.npy": npy(np.ones(2)), "1.txt": b"b"})
    data = bytearray(whole.read_bytes())
    whole.write_bytes(data[: 512 * 4])  # behind the header and block of 0.txt and of 0.npy
    with pytest.raises(ValueError, match=r"p\.tar: truncated or damaged after 0\.npy"):
        open_shards("p.tar", root=tmp_path)
    data[512 * 4 + 3] ^= 0xFF
    whole.write_bytes(data)
    with pytest.raises(ValueError, match=r"p\.tar: truncated or damaged after 0\.npy"):
        open_shards("p.tar", root=tmp_path)
    (tmp_path / "q.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match=r"q\.tar: truncated or damaged at its start"):
        open_shards("q.tar", root=tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.txt": b"\xff\xfe\x00", "0.png": grey(0)}, r"p\.tar: 0\.txt: not UTF-8"),
        ({"0.json": b"{", "0.png": grey(0)}, r"p\.tar: 0\.json: broken JSON"),
        ({"0.json": b'{"caption": 3}', "0.png": grey(0)}, r"p\.tar: 0\.json: caption must be text"),
        ({"0.txt": b"a", "0.png": grey(0), "0.jpg": grey(0)}, r"p\.tar: 0\.jpg and 0\.png are the same sample's"),
        ({"0.png": grey(0)}, "no sample of the tars has a caption"),
    ],
)
def test_what_cannot_be_a_sample_is_named(tmp_path, members, message):
    write_tar(tmp_path / "p.tar", members)
    with pytest.raises(ValueError, match=message):
        open_shards("p.tar", root=tmp_path)


def unusable(found, images=None, on_bad_image="error", known=frozenset()):
    return unusable_samples(found, images, on_bad_image=on_bad_image, known=known, normalise=normalise).tolist()


def test_missing_captions_and_images_are_named_or_left_out(tmp_path):
    members = (
        sample(0)
        | {"0001.txt": b"no image"}
        | sample(2)
        | {"0003.png": grey(3)}
        | {"0004.txt": b" \n", "0004.png": grey(4)}
    )
    write_tar(tmp_path / "p.tar", members)
    found = open_shards("p.tar", root=tmp_path)
    pixels = ShardPixels(found, level)
    with pytest.raises(
        ValueError, match=r"2 of 5 samples are not whole, first: .*p\.tar: 0003\.png: its sample has no caption"
    ):
        unusable(found, pixels)
    assert unusable(found, pixels, "skip") == [1, 3, 4]
    assert unusable(found, None, "skip") == [3, 4], "captions alone need no image"
    write_tar(tmp_path / "q.tar", sample(0) | {"0001.txt": b"no image"})
    found = open_shards("q.tar", root=tmp_path)
    with pytest.raises(
        ValueError, match=r"1 of 2 samples are not whole, first: .*q\.tar: 0001\.txt: its sample has no image"
    ):
        unusable(found, ShardPixels(found, level))
    with pytest.raises(ValueError, match=r"first: .*q\.tar: 0001\.txt: its sample has no \.npy row"):
        unusable(found, ShardFeatures(found))
    with pytest.raises(ValueError, match=r"q\.tar: 0001\.txt: its sample has no \.npy row"):
        ShardFeatures(found).rows(np.array([1]))


BROKEN = {
    "not an image": ("0001.png", b"<html>", "cannot be read: not an image"),
    "cut off": ("0001.png", grey(9, size=64)[:120], "cannot be read"),
    "not npy": ("0001.npy", b"rows", "not a .npy file"),
    "pickled": ("0001.npy", npy(np.array([{}], dtype=object)), "not a .npy file"),
    "another width": (
        "0001.npy",
        npy(np.zeros(4, dtype=np.float32)),
        "expected a row of 3 numbers, found float32 of shape (4,)",
    ),
    "a matrix": ("0001.npy", npy(np.zeros((2, 3), dtype=np.float32)), "found float32 of shape (2, 3)"),
    "integers": ("0001.npy", npy(np.zeros(3, dtype=np.int64)), "found int64"),
    "NaN": ("0001.npy", npy(np.array([0, np.nan, 1])), "NaN or infinity in the row"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_unreadable_images_are_named_or_left_out(tmp_path, case, monkeypatch):
    name, data, reason = BROKEN[case]
    write_tar(tmp_path / "p.tar", sample(0) | sample(1) | {name: data} | sample(2))
    found = open_shards("p.tar", root=tmp_path)
    images = ShardPixels(found, level) if name.endswith("png") else ShardFeatures(found)
    assert unusable(found, images) == [], "read when used"
    with pytest.raises(BadImageError) as caught:
        images.rows(np.arange(3))
    assert f"p.tar: {name}: " in str(caught.value)
    assert reason in str(caught.value)
    assert unusable(found, images, "skip") == [1]
    # What was found is kept.
    monkeypatch.setattr(type(images), "check", lambda *_: pytest.fail("read again"))
    assert unusable(found, images, "skip") == [1]


def test_a_tar_that_changes_while_it_is_used_is_named(tmp_path):
    path = write_tar(tmp_path / "p.tar", sample(0) | sample(1))
    found = open_shards("p.tar", root=tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"p\.tar, byte \d+: cut off; .*has changed since it was scanned"):
        found.read(1, "row")


def test_contaminated_samples_are_left_out(tmp_path):
    found = open_shards(tars(tmp_path, (2, 3), captions=lambda number: 2), root=tmp_path)
    assert unusable(found, known=frozenset({"caption3of1", "caption0of0"})) == [0, 3]
    with pytest.raises(ValueError, match="none of the 5 samples is left"):
        unusable(found, known=frozenset(f"caption{number}of0" for number in range(5)))


# --- pairs


@pytest.mark.parametrize("dropped", [[], [0], [1, 2], [3, 8], [0, 1, 2, 7, 8]])
@pytest.mark.parametrize("mode", ["one", "all"])
def test_pairs_are_those_of_a_list_in_memory(tmp_path, mode, dropped):
    counts = [1, 3, 2, 1, 2, 3, 1, 4, 2]
    found = open_shards(tars(tmp_path, (3, 0, 5, 1), captions=counts.__getitem__), root=tmp_path)
    rows = PairRows(found, mode=mode, seed=5, dropped=np.asarray(dropped, dtype=np.int64))
    kept = [number for number in range(9) if number not in dropped]
    expected = (
        [(number, c) for number in kept for c in range(counts[number])] if mode == "all" else [(n, None) for n in kept]
    )
    got = list(zip(*(part.tolist() for part in rows.places(np.arange(len(rows)))), strict=True))
    assert [number for number, _ in got] == [number for number, _ in expected] == rows[np.arange(len(rows))].tolist()
    assert all(c < counts[number] for number, c in got)
    if mode == "all":
        assert got == expected
    # The pairs before each shard.
    of_shard = Counter(int(np.searchsorted(found.shard_first, number, side="right")) - 1 for number, _ in got)
    assert np.diff(rows.shard_first).tolist() == [of_shard[shard] for shard in range(4)]
    captions = CaptionsOfPairs(rows, Words(), max_length=3)
    assert len(captions) == len(got)
    assert captions.texts(np.arange(len(rows))) == [f"caption {number} of {c}" for number, c in got]


def test_one_caption_is_drawn_by_seed_and_sample(tmp_path):
    found = open_shards(tars(tmp_path, (40,), captions=lambda number: 4), root=tmp_path)
    drawn = [
        PairRows(found, mode="one", seed=seed, dropped=NONE).places(np.arange(40))[1].tolist() for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) == {0, 1, 2, 3}
    without = PairRows(found, mode="one", seed=1, dropped=np.array([0])).places(np.arange(39))[1].tolist()
    assert without == drawn[0][1:], "a sample's caption does not depend on the others"


def test_captions_are_tokenised_and_cut(tmp_path):
    found = open_shards(tars(tmp_path, (3,)), root=tmp_path)
    captions = CaptionsOfPairs(PairRows(found, mode="one", seed=0, dropped=NONE), Words(), max_length=2)
    ids = captions.ids(np.array([2, 0]))
    assert [row.tolist() for row in ids] == [[sum(b"caption"), sum(b"2")], [sum(b"caption"), sum(b"0")]]
    some = CaptionsOfPairs(captions.rows, Words(), max_length=2, chosen=np.array([1]))
    assert len(some) == 1
    assert some.texts(np.array([0])) == ["caption 1 of 0"]


# --- order


FIRST = np.array([0, 7, 7, 30, 31, 50])


@pytest.mark.parametrize("window", [1, 3, 8, 16, 50, 1000])
def test_shards_in_windows_draw_every_row_once_an_epoch(window):
    sampler = ShardSampler(FIRST, Share(batch_size=5), seed=3, name="data", window=window)
    assert sampler.steps_per_epoch == 10
    epochs = [np.concatenate([sampler.index(10 * epoch + step) for step in range(10)]) for epoch in range(3)]
    for rows in epochs:
        assert sorted(rows.tolist()) == list(range(50))
    assert epochs[0].tolist() != epochs[1].tolist()
    again = ShardSampler(FIRST, Share(batch_size=5), seed=3, name="data", window=window)
    assert again.index(17).tolist() == sampler.index(17).tolist() == epochs[1][35:40].tolist(), "a function of the step"


def test_a_window_reads_few_shards():
    first = np.arange(0, 1001, 10)
    sampler = ShardSampler(first, Share(batch_size=10), seed=0, name="data", window=50)
    spread = [len({row // 10 for step in range(5) for row in sampler.index(5 * number + step)}) for number in range(20)]
    assert set(spread) == {5}
    everywhere = Sampler(1000, Share(batch_size=50), seed=0, name="data")
    assert len({row // 10 for row in everywhere.index(0)}) > 20
    assert sampler.index(0).tolist() != sorted(sampler.index(0).tolist())


def test_processes_share_the_order_of_shards():
    whole = ShardSampler(FIRST, Share(batch_size=8), seed=3, name="data", window=6)
    halves = [
        ShardSampler(FIRST, Share(batch_size=4, rank=r, world_size=2), seed=3, name="data", window=6) for r in (0, 1)
    ]
    for step in range(13):
        assert np.concatenate([half.index(step) for half in halves]).tolist() == whole.index(step).tolist()
    with pytest.raises(ValueError, match="data: 50 examples are fewer than one batch of 51"):
        ShardSampler(FIRST, Share(batch_size=51), seed=0, name="data", window=6)


def test_an_order_over_a_billion_rows_needs_no_memory():
    first = np.arange(0, 10**9 + 1, 10**4)
    sampler = ShardSampler(first, Share(batch_size=64), seed=0, name="data", window=65_536)
    rows = np.concatenate([sampler.index(step) for step in (0, 1, 7_812_499, 7_812_500 + 123)])
    assert 0 <= rows.min() < rows.max() < 10**9
    assert sum(part.nbytes for part in sampler._windows.values()) <= 2 * 65_536 * 8


def test_images_are_turned_upright_and_rgb(tmp_path):
    write_tar(tmp_path / "p.tar", {"0.txt": b"a", "0.png": png(np.zeros((2, 5, 3), dtype=np.uint8))})
    pixels = ShardPixels(open_shards("p.tar", root=tmp_path), lambda image: torch.tensor([[[float(image.width)]]] * 3))
    assert pixels.rows(np.array([0])).ravel().tolist() == [5.0, 5.0, 5.0]
    assert isinstance(pixels._load(0), Image.Image)


# --- tars as people have them


def test_members_that_are_no_part_are_counted(tmp_path, caplog):
    extra = {"0001.seg.png": b"x", "0001.cls": b"3", "0002.cls": b"4", "._0001.png": b"\0\5\26\7"}
    write_tar(tmp_path / "p.tar", sample(1) | extra)
    for _ in range(2):  # scanned, and found again
        caplog.clear()
        assert len(open_shards("p.tar", root=tmp_path)) == 1
        assert "p.tar: 3 of 7 members read (1 of .seg.png, 2 of .cls, 1 of what macOS adds)" in caplog.text
    with tarfile.open(tmp_path / "p.tar", "a") as tar:
        link = tarfile.TarInfo("0003.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0001.png"
        tar.addfile(link)
    open_shards("p.tar", root=tmp_path)
    assert "3 of 8 members read" in caplog.text
    assert "1 of links" in caplog.text
    write_tar(tmp_path / "dots.tar", {"a.v1.txt": b"one", "a.v1.png": grey(1)})
    with pytest.raises(ValueError, match=r"no sample of the tars has a caption .* members end in \.v1\.txt, \.v1\.png"):
        open_shards("dots.tar", root=tmp_path)


@pytest.mark.parametrize("after", [1, 5, 20])
def test_zeros_inside_a_tar_are_refused(tmp_path, after):
    """As a disk leaves them that lost a block; ``tarfile`` takes them for the end."""
    path = write_tar(tmp_path / "p.tar", {name: data for row in range(24) for name, data in sample(row).items()})
    with tarfile.open(path) as tar:
        place = tar.getmembers()[2 * after].offset
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes(1024) + whole[place:])
    with pytest.raises(ValueError, match=rf"p\.tar: goes on after its end mark at byte {place}"):
        open_shards("p.tar", root=tmp_path)
    path.write_bytes(whole[:place] + bytes(1024) + whole[place + 1024 :])
    with pytest.raises(ValueError, match=r"p\.tar: "):
        open_shards("p.tar", root=tmp_path)


def test_tars_joined_by_cat_are_refused(tmp_path):
    first = write_tar(tmp_path / "a.tar", sample(1)).read_bytes()
    (tmp_path / "both.tar").write_bytes(first + write_tar(tmp_path / "b.tar", sample(2)).read_bytes())
    with pytest.raises(ValueError, match=r"both\.tar: goes on after its end mark at byte \d+"):
        open_shards("both.tar", root=tmp_path)


def test_a_member_with_holes_is_refused_before_it_is_filled(tmp_path):
    with tarfile.open(tmp_path / "p.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("1.txt")
        info.size = 512
        # GNU's sparse format 0.1: one byte at the end of a tebibyte.
        info.pax_headers = {
            "GNU.sparse.size": str(2**40),
            "GNU.sparse.numblocks": "1",
            "GNU.sparse.map": f"{2**40 - 512},512",
            "GNU.sparse.name": "1.txt",
        }
        tar.addfile(info, io.BytesIO(b"x" * 512))
    with pytest.raises(ValueError, match=r"p\.tar: 1\.txt is stored with holes"):
        open_shards("p.tar", root=tmp_path)


def test_a_nul_byte_in_a_caption_is_refused(tmp_path):
    write_tar(tmp_path / "p.tar", {"1.txt": b"a d\0og"})
    with pytest.raises(ValueError, match=r"p\.tar: 1\.txt: a NUL byte in it"):
        open_shards("p.tar", root=tmp_path)


def test_a_caption_of_many_megabytes_is_refused(tmp_path):
    write_tar(tmp_path / "p.tar", {"1.txt": b"word " * 4_000_000})
    with pytest.raises(ValueError, match=r"p\.tar: 1\.txt has 20,000,000 bytes; expected 16,777,216 at most"):
        open_shards("p.tar", root=tmp_path)


def test_a_row_whose_header_lies_is_refused_before_it_is_allocated(tmp_path):
    row = npy(np.ones(8, dtype=np.float32))
    huge = row.replace(b"(8,), }" + b" " * 12, b"(800000000000000,),}", 1)
    write_tar(tmp_path / "p.tar", {"1.txt": b"one", "1.npy": huge})
    with pytest.raises(BadImageError, match=r"p\.tar: 1\.npy: its header promises 3,200,000,000,000,000 bytes"):
        ShardFeatures(open_shards("p.tar", root=tmp_path))


@pytest.mark.parametrize("kept", ["*.npz", "samples.npy", "first.npy", "meta.json"])
@pytest.mark.parametrize("content", ["empty", "zeros"])
def test_a_damaged_index_is_made_anew(tmp_path, kept, content, caplog):
    source = tars(tmp_path, [3, 2])
    whole = open_shards(source, root=tmp_path)
    said = [(whole.captions(place), whole.digest) for place in range(5)]
    for path in (tmp_path / "cache").rglob(kept):
        path.write_bytes(b"" if content == "empty" else bytes(path.stat().st_size))
    caplog.clear()
    again = open_shards(source, root=tmp_path)
    assert [(again.captions(place), again.digest) for place in range(5)] == said
    assert "damaged" in caplog.text
