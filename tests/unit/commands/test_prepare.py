"""``mcse prepare`` on small stand-ins in the publishers' own formats, and on the real STS files."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from mcse.commands import downloads
from mcse.commands.downloads import fetch_from_folder, unpack
from mcse.commands.main import main
from mcse.commands.prepare import (
    IMAGES,
    SENTENCES,
    SENTEVAL,
    Prepared,
    prepare_images,
    prepare_sentences,
    prepare_sts,
    write_manifest,
)
from mcse.data.captions.table import load_captions
from mcse.data.sentences.files import open_sentences
from mcse.data.test_sets.sts import EXPECTED_PAIRS, SENTEVAL_SUBSETS
from mcse.files import move, sha256_file

WIKI, NLI = SENTENCES["wiki1m"], SENTENCES["nli"]
FLICKR, COCO = IMAGES["flickr30k"], IMAGES["coco"]


def no_fetch(file):
    raise AssertionError(f"{file.name} was fetched, although it is there")


@pytest.fixture
def mirror(tmp_path):
    """A folder laid out as the hub: OWNER/NAME/FILE."""
    folder = tmp_path / "mirror" / "princeton-nlp" / "datasets-for-simcse"
    folder.mkdir(parents=True)
    (folder / "wiki1m_for_simcse.txt").write_text("One sentence.\n\nAnother sentence.\n")
    (folder / "nli_for_simcse.csv").write_text('sent0,sent1,hard_neg\n"A man, old.",A man.,No man.\nA,B,C\n')
    return tmp_path / "mirror"


def small(spec, mirror, **changes):
    found = sha256_file(mirror / spec.hub.repository / spec.hub.name)
    return replace(spec, hub=replace(spec.hub, sha256=found), **changes)


def test_text_is_fetched_once_counted_and_then_found_by_the_configs(tmp_path, mirror):
    spec = small(WIKI, mirror, rows=3)
    prepared = prepare_sentences(tmp_path, spec, fetch=fetch_from_folder(mirror))
    assert prepared.counts == {"rows": 3}
    source = "hf://datasets/princeton-nlp/datasets-for-simcse/wiki1m_for_simcse.txt"
    assert open_sentences(source, root=tmp_path).files == (tmp_path / "wiki1m_for_simcse.txt",)
    assert prepare_sentences(tmp_path, spec, fetch=no_fetch) == prepared


def test_supervised_text_is_read_as_triplets(tmp_path, mirror):
    prepared = prepare_sentences(tmp_path, small(NLI, mirror), fetch=fetch_from_folder(mirror))
    assert prepared.counts == {"rows": 2}


def test_wrong_number_of_lines_is_refused(tmp_path, mirror):
    with pytest.raises(ValueError, match=r"wiki1m_for_simcse\.txt: 3 lines, expected 4"):
        prepare_sentences(tmp_path, small(WIKI, mirror, rows=4), fetch=fetch_from_folder(mirror))


def test_wrong_checksum_is_refused_by_the_command_itself(tmp_path, mirror, capsys):
    code = main(["prepare", "wiki1m", "--root", str(tmp_path / "root"), "--mirror", str(mirror)])
    assert code == 2
    message = capsys.readouterr().err
    assert "SHA-256" in message
    assert "7b1825863a99aa76…" in message
    assert not (tmp_path / "root" / "manifest.json").exists()


def test_absent_hub_file_names_its_address_and_place(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["prepare", "nli", "--root", str(tmp_path), "--mirror", str(tmp_path / "empty")]) == 2
    message = capsys.readouterr().err
    assert "https://huggingface.co/datasets/princeton-nlp/datasets-for-simcse/resolve/" in message
    assert f"put it at {tmp_path / 'nli_for_simcse.csv'}" in message


# --- STS


def write_senteval(folder: Path, *, lose_a_pair_of: str | None = None) -> Path:
    """SentEval's folder with the published numbers of pairs; the sentences are made up."""

    def pairs(name):
        return EXPECTED_PAIRS[name] - (name == lose_a_pair_of)

    for name, subsets in SENTEVAL_SUBSETS.items():
        home = folder / "STS" / f"{name}-en-test"
        home.mkdir(parents=True)
        for i, subset in enumerate(subsets):
            rows = range(i, pairs(name), len(subsets))
            (home / f"STS.input.{subset}.txt").write_text("".join(f"a {row}\tb {row}\n" for row in rows))
            (home / f"STS.gs.{subset}.txt").write_text("".join(f"{row % 6}\n" for row in rows))
    bench = folder / "STS" / "STSBenchmark"
    bench.mkdir()
    for split, count in (("train", 10), ("dev", 1500), ("test", pairs("STSBenchmark"))):
        lines = (f"g\tf\ty\t{row}\t{row % 6}\ta {row}\tb {row}\n" for row in range(count))
        (bench / f"sts-{split}.csv").write_text("".join(lines))
    sick = folder / "SICK"
    sick.mkdir()
    for split, count in (("train", 4500), ("trial", 500), ("test_annotated", pairs("SICKRelatedness"))):
        lines = (f"{row}\ta {row}\tb {row}\t{1 + row % 5}\tNEUTRAL\n" for row in range(count))
        (sick / f"SICK_{split}.txt").write_text("pair_ID\tsentence_A\tsentence_B\tscore\tj\n" + "".join(lines))
    return folder


def tar_into(mirror: Path, folder: Path, *, prefix: str) -> None:
    target = mirror / SENTEVAL.repository / SENTEVAL.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w") as tar:
        tar.add(folder, arcname=prefix)
        resource = tarfile.TarInfo(f"{prefix}/STS/._STS12-en-test")
        resource.size = 1
        tar.addfile(resource, io.BytesIO(b"x"))


@pytest.mark.parametrize("prefix", [".", "senteval/data/downstream"])
def test_sts_is_unpacked_counted_and_recorded(tmp_path, prefix, capsys):
    tar_into(tmp_path / "mirror", write_senteval(tmp_path / "made"), prefix=prefix)
    root = tmp_path / "root"
    assert main(["prepare", "sts", "--root", str(root), "--mirror", str(tmp_path / "mirror")]) == 0
    entry = json.loads((root / "manifest.json").read_text())["datasets"]["sts"]
    assert entry["counts"]["STS12"] == 3108
    assert entry["counts"]["SICKRelatedness"] == 4927
    assert entry["counts"]["STSBenchmark dev"] == 1500
    recorded = {file["path"]: file["sha256"] for file in entry["files"]}
    dev = "senteval/STS/STSBenchmark/sts-dev.csv"
    assert recorded[dev] == sha256_file(root / dev)
    assert not (root / "senteval" / "STS" / "._STS12-en-test").exists()
    assert "not byte for byte those that we measured" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["STS14", "STSBenchmark", "SICKRelatedness"])
def test_sts_with_another_number_of_pairs_is_refused(tmp_path, task):
    write_senteval(tmp_path / "senteval", lose_a_pair_of=task)
    with pytest.raises(ValueError, match=rf"{task} has .* pairs, expected {EXPECTED_PAIRS[task]:,}"):
        prepare_sts(tmp_path, fetch=no_fetch)


def test_sts_without_a_task_is_refused(tmp_path):
    write_senteval(tmp_path / "senteval")
    shutil.rmtree(tmp_path / "senteval" / "SICK")
    with pytest.raises(FileNotFoundError, match="no SICKRelatedness"):
        prepare_sts(tmp_path, fetch=no_fetch)


def test_the_real_sts_files_have_the_measured_checksums(tmp_path, real_data):
    (tmp_path / "senteval").symlink_to((real_data / "senteval").resolve())
    prepared = prepare_sts(tmp_path, fetch=no_fetch)
    assert prepared.notes == ()
    assert prepared.counts["STS16"] == 1186


# --- images


def write_entities(folder: Path, *, ids: list[str], listed: list[str]) -> None:
    """Flickr30k-Entities' files as downloaded: ``annotations.zip`` and ``train.txt``."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "annotations.zip", "w") as archive:
        for name in ids:
            lines = [f"[/EN#1/people A man] number {i} plays [/EN#2/other a guitar] of {name} .\n" for i in range(5)]
            archive.writestr(f"Sentences/{name}.txt", "".join(lines))
            archive.writestr(f"Annotations/{name}.xml", "<annotation/>")
            archive.writestr(f"__MACOSX/Sentences/._{name}.txt", "x")
    (folder / "train.txt").write_text("".join(f"{name}\n" for name in listed))


def test_flickr30k_entities_become_captions_and_names(tmp_path):
    write_entities(tmp_path / "flickr30k", ids=["30", "10", "20"], listed=["20", "30"])
    prepared = prepare_images(tmp_path, replace(FLICKR, count=2), ids=None, fetch=None)
    assert prepared.counts == {"images": 2, "captions": 10}
    table = load_captions(
        str(tmp_path / "flickr30k" / "captions.csv"), images=tmp_path / "flickr30k" / "train_images.txt"
    )
    assert table.image_names == ("20.jpg", "30.jpg")
    assert table.captions[0][3] == "A man number 3 plays a guitar of 20 ."
    assert any("fill in the form" in note for note in prepared.notes)
    assert any("extract-features --tower timm:resnet50.tv_in1k" in note for note in prepared.notes)


def test_another_number_of_ids_is_refused_unless_ids_are_given(tmp_path, capsys):
    write_entities(tmp_path / "flickr30k", ids=["30", "10"], listed=["30"])
    arguments = ["prepare", "flickr30k", "--root", str(tmp_path)]
    assert main(arguments) == 2
    assert "1 images, expected 29,783" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("10\n")
    assert main([*arguments, "--ids", str(tmp_path / "mine.txt")]) == 0
    assert "1 images chosen; MCSE trained on 29,783" in capsys.readouterr().out
    entry = json.loads((tmp_path / "manifest.json").read_text())["datasets"]["flickr30k"]
    assert entry["source"] == "flickr30k/Sentences"
    assert (tmp_path / "flickr30k" / "train_images.txt").read_text() == "10.jpg\n"


def test_ids_without_captions_are_counted_and_named(tmp_path):
    write_entities(tmp_path / "flickr30k", ids=["30"], listed=["30", "77", "78"])
    with pytest.raises(ValueError, match=r"2 of 3 images have no captions .* first '77'"):
        prepare_images(tmp_path, replace(FLICKR, count=3), ids=None, fetch=None)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("flickr30k", ["github.com/BryanPlummer/flickr30k_entities", "shannon.cs.illinois.edu/DenotationGraph"]),
        ("coco", ["annotations_trainval2014.zip", "https://cocodataset.org/#download", "train2014.zip"]),
    ],
)
def test_missing_manual_files_are_listed_with_their_pages_and_places(tmp_path, capsys, dataset, said):
    assert main(["prepare", dataset, "--root", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    for text in (*said, "https://github.com/uds-lsv/MCSE", f"into {tmp_path / dataset}"):
        assert text in message
    assert "{" not in message


def test_captions_from_the_hub_are_karpathys_table(tmp_path):
    mirror = tmp_path / "mirror" / "nlphuji" / "flickr30k"
    mirror.mkdir(parents=True)
    (mirror / "flickr_annotations_30k.csv").write_text(
        "raw,sentids,split,filename,img_id\n"
        '"[""One."", ""Two.""]","[0, 1]",train,10.jpg,0\n"[""Three.""]",[2],test,20.jpg,1\n'
    )
    (tmp_path / "ids.txt").write_text("20\n")
    arguments = ["prepare", "flickr30k", "--root", str(tmp_path), "--mirror", str(tmp_path / "mirror")]
    assert main([*arguments, "--from-hub", "--ids", str(tmp_path / "ids.txt")]) == 0
    assert (tmp_path / "flickr30k" / "captions.csv").read_text() == "image,caption\n20.jpg,Three.\n"


def write_coco(folder: Path, *, captions: int) -> None:
    folder.mkdir(parents=True)
    names = {9: "COCO_train2014_000000000009.jpg", 25: "COCO_train2014_000000000025.jpg"}
    text = {
        "images": [{"id": key, "file_name": name} for key, name in names.items()],
        "annotations": [
            {"image_id": key, "caption": f"Caption {i}, of {key}."} for key in names for i in range(captions)
        ],
    }
    with zipfile.ZipFile(folder / "annotations_trainval2014.zip", "w") as archive:
        archive.writestr("annotations/captions_val2014.json", "{}")
        archive.writestr("annotations/captions_train2014.json", json.dumps(text))


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (4, 4)).save(folder / name)


def test_coco_keeps_the_first_five_captions_and_checks_images_and_features(tmp_path):
    folder = tmp_path / "coco"
    write_coco(folder, captions=7)
    write_images(
        folder / "images" / "train2014", ["COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg"]
    )
    with h5py.File(tmp_path / "store.hdf5", "w") as file:
        file["features"] = np.ones((2, 3), dtype=np.float32)
        file["image_names"] = ["COCO_train2014_000000000025.jpg", "COCO_train2014_000000000009.jpg"]
    (tmp_path / "store.hdf5").rename(folder / "resnet50")
    prepared = prepare_images(tmp_path, replace(COCO, count=2), ids=None, fetch=None)
    assert prepared.counts == {"images": 2, "captions": 10}
    assert prepared.notes == ()
    assert load_captions(str(folder / "captions.csv")).captions[1][4] == "Caption 4, of 25."


def test_a_missing_image_is_named(tmp_path):
    write_coco(tmp_path / "coco", captions=1)
    write_images(tmp_path / "coco" / "images", ["COCO_train2014_000000000009.jpg"])
    with pytest.raises(ValueError, match=r"1 of 2 images are not there, first 'COCO_train2014_000000000025\.jpg'"):
        prepare_images(tmp_path, replace(COCO, count=2), ids=None, fetch=None)


def test_coco_ids_are_numbers(tmp_path):
    write_coco(tmp_path / "coco", captions=1)
    (tmp_path / "ids.txt").write_text("25\n")
    prepare_images(tmp_path, COCO, ids=tmp_path / "ids.txt", fetch=None)
    assert (tmp_path / "coco" / "train_images.txt").read_text() == "COCO_train2014_000000000025.jpg\n"


def write_own(folder: Path, *, captions: int, rows: int) -> None:
    folder.mkdir(parents=True)
    (folder / "flickr_random_captions.txt").write_text("\n".join(f"Caption {i} ." for i in range(captions)))
    with h5py.File(folder / "flickr_resnet.hdf5", "w") as file:
        file["features"] = np.ones((rows, 4), dtype=np.float32)


def test_mcses_own_files_serve_as_they_are(tmp_path):
    write_own(tmp_path / "flickr30k", captions=3, rows=3)
    prepared = prepare_images(tmp_path, replace(FLICKR, count=3), ids=None, fetch=None)
    assert prepared.counts == {"captions": 3, "features": 3, "width": 4}
    assert "--data.images flickr30k/flickr_resnet.hdf5" in prepared.notes[0]


@pytest.mark.parametrize(("captions", "rows", "said"), [(2, 2, "2 captions, expected 3"), (3, 2, "2 rows, but")])
def test_mcses_own_files_with_other_counts_are_refused(tmp_path, captions, rows, said):
    write_own(tmp_path / "flickr30k", captions=captions, rows=rows)
    with pytest.raises(ValueError, match=said):
        prepare_images(tmp_path, replace(FLICKR, count=3), ids=None, fetch=None)


def test_real_coco_captions_are_converted(tmp_path, real_data):
    (source,) = (real_data / "coco_mini").rglob("captions_val*.json")
    folder = tmp_path / "coco"
    folder.mkdir()
    shutil.copyfile(source, folder / "captions_train2014.json")
    table = load_captions(str(source))
    prepared = prepare_images(tmp_path, replace(COCO, count=len(table)), ids=None, fetch=None)
    again = load_captions(str(folder / "captions.csv"), images=folder / "train_images.txt")
    assert again.captions == tuple(several[:5] for several in table.captions)
    assert again.num_captions == prepared.counts["captions"] > 0


# --- files and manifest


def test_datasets_share_one_manifest_and_a_foreign_one_is_not_overwritten(tmp_path, capsys):
    write_senteval(tmp_path / "senteval")
    (tmp_path / "empty").mkdir()
    write_coco(tmp_path / "coco", captions=1)
    (tmp_path / "ids.txt").write_text("25\n")
    assert main(["prepare", "sts", "--root", str(tmp_path), "--mirror", str(tmp_path / "empty")]) == 0
    assert main(["prepare", "coco", "--root", str(tmp_path), "--ids", str(tmp_path / "ids.txt")]) == 0
    assert set(json.loads((tmp_path / "manifest.json").read_text())["datasets"]) == {"sts", "coco"}
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    assert main(["prepare", "coco", "--root", str(tmp_path), "--ids", str(tmp_path / "ids.txt")]) == 2
    assert "no manifest of mcse prepare" in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_text() == '{"name": "a web page"}'


def test_a_kill_while_unpacking_is_made_good(tmp_path, monkeypatch):
    """Red team: two of five kills between the renames left "verified" data without SUBJ and TREC."""
    tar_into(tmp_path / "mirror", write_senteval(tmp_path / "made"), prefix=".")
    command = ["prepare", "sts", "--mirror", str(tmp_path / "mirror"), "--root"]
    moves = []

    def dying(path, target):
        if len(moves) == stop:
            raise KeyboardInterrupt
        moves.append(target.name)
        move(path, target)

    for stop in (0, 1):
        moves.clear()
        with monkeypatch.context() as patch:
            patch.setattr(downloads, "move", dying)
            assert main([*command, str(tmp_path / str(stop))]) == 130
        assert not (tmp_path / str(stop) / "senteval").exists()
        assert main([*command, str(tmp_path / str(stop))]) == 0
    moves.clear()
    (tmp_path / "kept" / "senteval").mkdir(parents=True)
    (tmp_path / "kept" / "senteval" / "own.txt").touch()
    stop = 100
    monkeypatch.setattr(downloads, "move", dying)
    assert main([*command, str(tmp_path / "kept")]) == 0
    assert moves[-2:] == ["SICK", "STS"], "what tells that all is there comes last"


def test_unpacking_takes_nothing_outside_and_keeps_what_is_there(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/STS/../../../evil.txt", "evil")
        archive.writestr("x/STS/new.txt", "new")
        archive.writestr("x/SICK/new.txt", "new")
        archive.writestr("x/other.txt", "other")
    (tmp_path / "into" / "SICK").mkdir(parents=True)
    unpack(tmp_path / "a.zip", tmp_path / "into", wanted=("STS", "SICK"))
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a.zip", "into/STS/new.txt"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_broken_archive_is_refused_and_leaves_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(b"not an archive")
    (tmp_path / "into").mkdir()
    with pytest.raises(ValueError, match="not readable as an archive"):
        unpack(tmp_path / name, tmp_path / "into", wanted=("STS",))
    assert list((tmp_path / "into").iterdir()) == []


def test_an_archive_without_what_is_wanted_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("other.txt", "other")
    (tmp_path / "into").mkdir()
    with pytest.raises(ValueError, match="holds none of STS, SICK"):
        unpack(tmp_path / "a.zip", tmp_path / "into", wanted=("STS", "SICK"))


def test_an_encrypted_member_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("STS/new.txt", "new")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flags of the member, and of the directory's entry
        data[data.index(mark) + place] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    (tmp_path / "into").mkdir()
    with pytest.raises(ValueError, match=r"a\.zip: STS/new\.txt is encrypted; unpack the archive by hand"):
        unpack(tmp_path / "a.zip", tmp_path / "into", wanted=("STS",))
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "manifest.json must be an object, got a list: no manifest of mcse prepare"),
        (
            '{"schema": 1, "datasets": []}',
            "manifest.json: datasets must be an object, got a list: no manifest of mcse prepare",
        ),
        ('{"datasets": {}}', "manifest.json: schema is missing: no manifest of mcse prepare"),
        ('{"schema": 99, "datasets": {}}', "no manifest of mcse prepare"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        write_manifest(tmp_path, "sts", Prepared("x", (), {}, ()))
