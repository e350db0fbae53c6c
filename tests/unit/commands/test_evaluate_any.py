"""``mcse evaluate`` and ``mcse search`` on models that their own libraries run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

from mcse.commands import mine
from mcse.commands.command_line import ROW_KINDS
from mcse.commands.main import main
from mcse.encoders.loading import load_encoder
from mcse.evaluation.suite import Subject
from mcse.manifest import Reading
from mcse.metrics.retrieval import best_ranks
from mcse.stored_rows import RowKind
from tests.fixtures.image_folder import image_folder
from tests.fixtures.library_models import LibraryModel, build_library_models

COUNT = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LibraryModel]:
    return build_library_models(tmp_path_factory.mktemp("models"), with_model2vec=False)


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MCSE_CACHE", str(tmp_path / "cache"))
    words = ("man", "dog", "circle", "plays", "red", "guitar", "runs")
    drawn = np.random.default_rng(0).choice(words, size=(20, 2, 3))
    lines = [f"{number % 6}\t{' '.join(left)}\t{' '.join(right)}" for number, (left, right) in enumerate(drawn)]
    path = tmp_path / "mine.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def results(folder: str = "out") -> dict:
    return json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))


def test_row_kinds_are_those_of_the_code() -> None:
    assert RowKind.__args__ == ROW_KINDS


def test_a_prompt_changes_scores_and_digest_and_is_said(models, pairs, capsys):
    name = models["default prompt"].name
    found = {}
    for asked in ([], ["--prompt", "query: "], ["--prompt-name", "query"], ["--prompt", ""]):
        assert main(["evaluate", name, "--data", str(pairs), "--output", "out", *asked]) == 0
        found[tuple(asked)] = results()
        said = capsys.readouterr()
        assert "evaluating" in said.err
        assert ("prompt before every sentence: 'query: '" in Path("out/report.md").read_text()) == (
            "query" in str(asked)
        )
    scores = [result["scores"]["sts"]["mine"]["spearman"] for result in found.values()]
    assert scores[1] == scores[2] != scores[0]
    assert scores[3] not in scores[:3]
    assert len({result["digest"] for result in found.values()}) == 4
    # And what is kept is kept by prompt.
    assert main(["evaluate", name, "--data", str(pairs), "--output", "again", "--prompt", "query: "]) == 0
    assert "evaluating" not in capsys.readouterr().err
    assert results("again")["scores"]["sts"]["mine"]["spearman"] == scores[1]
    assert main(["evaluate", name, "--data", str(pairs), "--prompt", "a", "--prompt-name", "query"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_both_readers_of_a_folder_compare(models, pairs, capsys):
    name = models["mean, Normalize"].name
    both = [name, name.partition(":")[2]]
    assert main(["evaluate", *both, "--data", str(pairs), "--compare", "--output", "out"]) == 0
    compared = json.loads(Path("out/comparison.json").read_text())
    assert abs(compared["comparison"]["scores"][0]["difference"]) < 1e-3
    assert "first" in Path("out/comparison.md").read_text()


def test_scores_by_width_and_kind_of_row_stand_in_every_report(models, pairs, capsys):
    arguments = ["--data", str(pairs), "--output", "out", "--dims", "32", "8", "--rows", "float32", "binary"]
    assert main(["evaluate", models["StaticEmbedding"].name, *arguments]) == 0
    scores = results()["scores"]
    assert list(scores) == ["sts", "sts_dim32", "sts_dim32_binary", "sts_dim8", "sts_dim8_binary"]
    whole, cut = scores["sts_dim32"]["mine"], scores["sts_dim8_binary"]["mine"]
    for metric in ("spearman", "spearman_low", "spearman_high"):
        assert whole[metric] == pytest.approx(scores["sts"]["mine"][metric])
    assert cut["spearman_low"] < cut["spearman"] < cut["spearman_high"]
    assert cut["spearman"] != whole["spearman"]
    for file in ("report.md", "report.html", "report.tex"):
        text = Path("out", file).read_text(encoding="utf-8")
        assert f"{abs(cut['spearman']):.2f}" in text
        assert f"{abs(cut['spearman_low']):.2f}" in text
        assert "width 8, binary" in text
    assert results()["protocols"]["sts_dim8_binary"].startswith("rows cut to their first 8 numbers")
    # Two models: a table each form.
    name = models["StaticEmbedding"].name
    two = [name, name.partition(":")[2]]
    assert main(["evaluate", *two, *arguments[:3], "both", *arguments[4:], "--compare"]) == 0
    compared = json.loads(Path("both/comparison.json").read_text())["comparison"]["scores"]
    assert "sts_dim8_binary" in {score["suite"] for score in compared}
    assert "Scores, width 8, binary" in Path("both/comparison.md").read_text()
    capsys.readouterr()


def test_widths_that_rows_lack_are_refused_before_anything_is_encoded(models, pairs, monkeypatch, capsys):
    monkeypatch.setattr(Subject, "of", lambda *_, **__: pytest.fail("it was to be encoded"))
    name = models["StaticEmbedding"].name
    for rows in ([], ["--rows", "binary"]):
        assert main(["evaluate", name, "--data", str(pairs), "--dims", "8", "64", *rows]) == 2
        assert f"{name}: --dims 64: the model's rows have a width of 32" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["CLIP", "open_clip"])
def test_retrieval_and_search_from_pixels(models, pairs, tmp_path, monkeypatch, capsys, kind):
    folder = image_folder(tmp_path / "images")
    names = sorted(path.name for path in folder.rglob("*.png"))
    lines = [f"{name}\ta red {word}" for name, word in zip(names, "abcdefghijklmnop", strict=False)]
    (tmp_path / "captions.tsv").write_text("image\tcaption\n" + "\n".join(lines) + "\n")
    name = models[kind].name
    asked = ["--suite", "retrieval", "--captions", "captions.tsv", "--images", "images", "--output", "out"]
    assert main(["evaluate", name, *asked, "--rows", "int8"]) == 0
    encoder = load_encoder(name, device="cpu")
    place = {path.name: path for path in folder.rglob("*.png")}
    image, caption = (
        encoder.encode_images([place[name] for name in names]),
        encoder.encode_captions([line.partition("\t")[2] for line in lines]),
    )
    own = np.arange(len(names))
    ranks = best_ranks(caption, image, group_Q=own, group_T=own)
    scores = results()["scores"]
    assert scores["retrieval"]["text_to_image"]["recall@1"] == pytest.approx(100 * np.mean(ranks <= 1))
    assert scores["retrieval"]["text_to_image"]["median_rank"] == np.sort(ranks)[(len(ranks) - 1) // 2]
    assert {"rsum", "image_to_text", "text_to_image"} <= scores["retrieval_int8"].keys()
    # Other pixels are other data: nothing kept is taken for them.
    capsys.readouterr()
    place[names[0]].write_bytes(place[names[1]].read_bytes())
    assert main(["evaluate", name, *asked]) == 0
    assert "evaluating" in capsys.readouterr().err
    Path("model").symlink_to(name.rpartition(":")[2])
    here = f"{name.rpartition(':')[0]}:model"
    assert main(["search", "index", "images", "--model", here, "--output", "index"]) == 0
    monkeypatch.chdir("/")  # the index knows the model from everywhere
    assert main(["search", "query", str(tmp_path / "index"), "--text", "a red a", "--top", "3"]) == 0
    assert ".png" in capsys.readouterr().out


READINGS = {
    "as it is": ([], Reading(), None),
    "prompt": (["--prompt", "query: "], Reading(prompt="query: "), None),
    "prompt by name": (["--prompt-name", "query"], Reading(prompt_name="query"), None),
    "pooling": (["--pooling", "max"], Reading(), "max"),
    "code": (["--trust-remote-code"], Reading(trust_remote_code=True), None),
}


def test_mining_reads_a_model_as_evaluation_does(models, pairs, monkeypatch):
    plain, seen = mine.encode_pairs, {}
    case = ""

    def watched(texts, encoder, **keys):
        seen.setdefault(case, []).append((encoder.encode(["the man plays", "a dog"]), keys["digest"]))
        return plain(texts, encoder, **keys)

    monkeypatch.setattr(mine, "encode_pairs", watched)
    Path("table.csv").write_text("query,positive\n" + "\n".join(f"a {n} man,a {n} dog" for n in "abcdef") + "\n")
    library, folder = models["default prompt"].name, models["mean"].name.partition(":")[2]
    asked = ["mine", "table.csv", "--output", "mined.csv", "--overwrite", "--guide", folder]
    for case, (flags, reading, pooling) in READINGS.items():
        name = library if pooling is None else folder
        assert main([*asked, "--model", name, *flags]) == 0
        expected = load_encoder(name, pooling=pooling, reading=reading).encode(["the man plays", "a dog"])
        (rows, _), (guide, _) = seen[case]
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(guide, load_encoder(folder).encode(["the man plays", "a dog"]))
    kept = [digest for (_, digest), _ in seen.values()] + [seen["as it is"][1][1]]
    assert len(set(kept)) == len(READINGS) + 1, "or rows of another reading would be found again"


def test_questions_are_read_with_a_prompt_and_images_are_not(models, pairs, tmp_path, capsys):
    image_folder(tmp_path / "images")
    name = models["CLIP"].name
    assert main(["search", "index", "images", "--model", name, "--output", "index", "--trust-remote-code"]) == 0
    image = load_encoder(name).encode_images(sorted((tmp_path / "images").rglob("*.png")))
    best = set()
    for flags, prompt in (([], ""), (["--prompt", "a red "], "a red ")):
        capsys.readouterr()
        assert main(["search", "query", "index", "--text", "dog", "--top", "1", *flags]) == 0
        score = max(map(float, re.findall(r"-?0\.\d{4}", capsys.readouterr().out)))
        expected = (load_encoder(name).encode([f"{prompt}dog"]) @ image.T).max()
        assert score == pytest.approx(expected, abs=1e-4)
        best.add(score)
    assert len(best) == 2
    assert main(["search", "query", "index", "--text", "dog", "--prompt-name", "nothing"]) == 2
    assert "--prompt-name 'nothing'" in capsys.readouterr().err


def test_images_that_cannot_be_used_are_named(models, pairs, tmp_path, capsys):
    folder = image_folder(tmp_path / "images")
    (tmp_path / "captions.tsv").write_text("image\tcaption\n00.png\ta dog\nabsent.png\ta man\n")
    asked = ["--suite", "retrieval", "--captions", "captions.tsv", "--images", "images"]
    clip, text = models["CLIP"].name, models["LayerNorm"].name
    assert main(["evaluate", clip, *asked]) == 2
    assert "1 of 2 images are not in images, first 'absent.png'" in capsys.readouterr().err
    assert main(["evaluate", clip, *asked, "--features", "store"]) == 2
    assert "leave out --features" in capsys.readouterr().err
    (tmp_path / "captions.tsv").write_text("image\tcaption\n00.png\ta dog\n01.png\ta man\n01.png\tmen\n")
    assert main(["evaluate", text, *asked, "--output", "out"]) == 0
    assert "has no image heads" in results()["absent"]["retrieval.rsum"]
    next(folder.rglob("01.png")).write_bytes(b"no image")
    assert main(["evaluate", clip, *asked]) == 2
    assert "01.png" in capsys.readouterr().err
