"""The suite of one's own tables: scores against other libraries and loops, clean ones, intervals, the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, f1_score, ndcg_score

from mcse.commands import evaluated_models
from mcse.commands.main import main
from mcse.commands.own_tables import read_test_tables, with_tables
from mcse.data.table_config import DevTable
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.metrics.correlation import UndefinedScoreError
from mcse.types import ScoreKey


class Angles:
    """Embeds a text by the angle that it names."""

    pooling = "none"

    def encode(self, sentences, *, batch_size=64, normalize=True):
        angle_N = np.array([float(text) for text in sentences])
        return np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1).astype(np.float32)


def prepared(folder: Path, text: str, **columns):
    (folder / "t.csv").write_text(text)
    table = DevTable(name="t", path="t.csv", query="a", positive="b", **columns)
    return SUITES["table"].prepare(SuiteOptions(tables=(table,), tables_root=folder))


def scored(folder: Path, text: str, *, seen=None, encoder=None, **columns):
    subject = Subject.of(encoder or Angles(), seen=None if seen is None else frozenset(seen))
    return prepared(folder, text, **columns).run(subject)


def values(found, part=None):
    keys = {key: value for key, value in found.scores.items() if key.part == part}
    return {key.written_metric: value for key, value in keys.items()}


def test_images_with_captions_are_known_by_plain_names_from_any_folder(tmp_path, monkeypatch):
    home, work = tmp_path / "home", tmp_path / "work"
    (home / "img").mkdir(parents=True)
    work.mkdir()
    for name in "ab":
        Image.new("RGB", (2, 2)).save(home / "img" / f"{name}.png")
    (home / "shop.csv").write_text("image,title\nimg/a.png,a red mug\nimg/b.png,an oak table\n")
    (home / "tests.yaml").write_text("evaluate: [{name: shop, path: shop.csv, image: image, caption: title}]\n")
    monkeypatch.chdir(work)
    monkeypatch.delenv("MCSE_DATA", raising=False)
    for data in ("../home/shop.csv", "../home/tests.yaml"):
        options = with_tables(SuiteOptions(data=data), ["table"], [])
        assert SUITES["table"].prepare(options).summary == "shop: 2 images with 2 captions"
    (home / "both.csv").write_text("image,a,b\nimg/a.png,x,y\n")
    with pytest.raises(ValueError, match="no column is called sent0, anchor"):
        SUITES["table"].prepare(with_tables(SuiteOptions(data="../home/both.csv"), ["table"], []))


ANGLE = [0.1, 0.2, 0.3, 0.5, 0.7, 1.2, 1.3, 1.5]
GOLD = [5, 4, 4.5, 2, 3, 1, 0.5, 1.5]
LABEL = [1, 0, 1, 1, 0, 0, 1, 0]


def rows(*columns, header="a,b,y"):
    return header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


def own(number=8):
    """A first angle a row, no two alike, so that no two rows share a text."""
    return [round(-0.01 * place, 2) for place in range(number)]


def test_scored_pairs_have_the_correlations_of_scipy(tmp_path) -> None:
    found = scored(tmp_path, rows(own(), ANGLE, GOLD), score="y")
    cosine = np.cos(np.array(ANGLE) - np.array(own()))
    expected = {"spearman": spearmanr(cosine, GOLD)[0], "pearson": pearsonr(cosine, GOLD)[0]}
    for metric, value in expected.items():
        assert values(found)[metric] == pytest.approx(100 * value, abs=1e-4)
        assert values(found)[f"{metric}_low"] < 100 * value < values(found)[f"{metric}_high"]
    assert values(found)["pairs"] == 8
    assert [column.label for column in found.columns] == ["t Spearman"]


def test_labelled_pairs_have_the_scores_of_scikit_learn(tmp_path) -> None:
    found = values(scored(tmp_path, rows(own(), ANGLE, LABEL), label="y"))
    cosine = np.cos(np.array(ANGLE) - np.array(own()))
    assert found["average_precision"] == pytest.approx(100 * average_precision_score(LABEL, cosine))
    best = max(100 * f1_score(LABEL, cosine >= threshold) for threshold in cosine)
    assert found["f1"] == pytest.approx(best)
    assert 100 * f1_score(LABEL, cosine >= found["f1_threshold"] - 1e-6) == pytest.approx(best)
    for metric in ("average_precision", "f1"):
        assert found[f"{metric}_low"] <= found[metric] <= found[f"{metric}_high"]
    assert "f1_threshold_low" not in found


def test_triplets_count_where_the_positive_is_nearer_than_every_negative(tmp_path) -> None:
    text = "a,b,c,d\n0,0.1,0.2,0.3\n0.01,0.2,0.1,0.3\n0.02,0.2,0.3,0.1\n0.03,0.4,0.4,0.9\n"
    found = scored(tmp_path, text, negatives=("c", "d"))
    assert values(found)["accuracy"] == 25.0
    assert len(found.samples[ScoreKey("table", "t", "accuracy")].value_P) == 4


def test_queries_find_their_answers_as_loops_find_them(tmp_path) -> None:
    pairs = [("0", "0.5"), ("0", "0.1"), ("1", "0.1"), ("3", "0.9"), ("3", "2.9")]
    found = values(scored(tmp_path, rows(*zip(*pairs, strict=True), header="a,b")))
    targets = list(dict.fromkeys(answer for _, answer in pairs))
    ranks, gains = [], []
    for query in dict.fromkeys(query for query, _ in pairs):
        right = {answer for asks, answer in pairs if asks == query}
        near = {target: np.cos(float(target) - float(query)) for target in targets}
        best = max(near[target] for target in right)
        ranks.append(1 + sum(near[target] >= best for target in targets if target not in right))
        gains.append(
            ndcg_score([[target in right for target in targets]], [[near[target] for target in targets]], k=10)
        )
    assert sorted(ranks) == [1, 1, 3]
    assert found["recall@1"] == pytest.approx(100 * np.mean([rank <= 1 for rank in ranks]))
    assert found["mrr"] == pytest.approx(100 * np.mean([1 / rank for rank in ranks]))
    assert found["ndcg@10"] == pytest.approx(100 * np.mean(gains), abs=1e-4)
    assert found["pairs"] == 3


@pytest.mark.parametrize(
    ("columns", "header", "kept"),
    [
        ({"score": "y"}, "a,b,y", lambda row: not {row[0], row[1]} & {"0.5", "-0.07"}),
        ({"label": "y"}, "a,b,y", lambda row: not {row[0], row[1]} & {"0.5", "-0.07"}),
        ({"negatives": ("y",)}, "a,b,y", lambda row: not {row[0], row[1]} & {"0.5", "-0.07"}),
        ({}, "a,b", lambda row: not {row[0], row[1]} & {"0.5", "-0.07"}),
    ],
    ids=["scores", "labels", "triplets", "answers"],
)
def test_clean_scores_are_those_of_what_was_not_seen(tmp_path, columns, header, kept) -> None:
    last = {"score": GOLD, "label": LABEL, "negatives": [9, 0.5, 9, 9, 0.1, 9, 1, 9]}.get(next(iter(columns), ""))
    parts = [own(), ANGLE] if last is None else [own(), ANGLE, last]
    # Seen in training, as contamination compares texts: by letters and digits alone.
    found = scored(tmp_path, rows(*parts, header=header), seen={"05", "007"}, **columns)
    for sample in found.samples.values():
        assert sample.clean_P.tolist() == [
            kept((str(left), str(right))) for left, right in zip(own(), ANGLE, strict=True)
        ]
    if columns:  # of queries the answers of others stay in what is searched
        alone = [[part[place] for place in range(8) if place not in (3, 7)] for part in parts]
        again = values(scored(tmp_path, rows(*alone, header=header), **columns))
        clean = values(found, part="clean")
        assert clean["pairs"] == again["pairs"] == 6
        for metric in {"score": ["spearman", "pearson"], "label": ["f1", "average_precision"]}.get(
            next(iter(columns)), []
        ):
            assert clean[metric] == pytest.approx(again[metric])


def test_what_cannot_be_scored_is_said_and_the_rest_stays(tmp_path) -> None:
    found = scored(tmp_path, rows(own(), ANGLE, GOLD), seen={str(angle).replace(".", "") for angle in ANGLE}, score="y")
    assert "fewer than two items are clean" in found.absent["table_clean.t.spearman"]

    class Blind(Angles):
        def encode(self, sentences, **_):
            return np.ones((len(sentences), 2), dtype=np.float32)

    with pytest.raises(UndefinedScoreError, match="the same row"):
        scored(tmp_path, rows(own(), ANGLE, GOLD), encoder=Blind(), score="y")


def test_results_depend_on_content_and_columns_and_not_on_the_files_name(tmp_path) -> None:
    text = rows(own(), ANGLE, GOLD)
    first = prepared(tmp_path, text, score="y")
    assert first.digest == prepared(tmp_path, text, score="y").digest
    assert first.digest != prepared(tmp_path, text).digest
    assert first.digest != prepared(tmp_path, text.replace("4.5", "4.6"), score="y").digest
    assert first.summary == "t: 8 scored pairs"


# --- the command


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Two tables of word vectors, the second with the angles a little off."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MCSE_DATA", raising=False)
    monkeypatch.setenv("MCSE_CACHE", str(tmp_path / "cache"))
    words = [f"w{number}" for number in range(24)]
    rng = np.random.default_rng(0)
    angle_W = rng.uniform(0, 3, len(words))
    for name, noise in (("good.txt", 0.0), ("bad.txt", 0.8)):
        off = angle_W + noise * rng.standard_normal(len(words))
        Path(name).write_text(
            "".join(f"{w} {np.cos(a):.6f} {np.sin(a):.6f}\n" for w, a in zip(words, off, strict=True))
        )
    lines = []
    for left in range(0, 24, 2):
        lines.append((words[left], words[left + 1], round(5 * float(np.cos(angle_W[left] - angle_W[left + 1])), 3)))
    Path("rated.csv").write_text(rows(*zip(*lines, strict=True), header="left,right,stars"))
    Path("tests.yaml").write_text(
        "evaluate:\n"
        "  - {name: rated, path: rated.csv, query: left, positive: right, score: stars, score_range: [-5, 5]}\n"
        "  - {name: found, path: rated.csv, query: left, positive: right}\n"
    )
    return tmp_path


def results(folder="out"):
    return json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))


COLUMNS = ("--columns", "query=left", "positive=right", "score=stars")


def test_a_table_is_evaluated_cut_kept_and_listed(models, capsys, monkeypatch) -> None:
    command = ["evaluate", "good.txt", "--suite", "table", "--data", "rated.csv", *COLUMNS, "--output", "out"]
    assert main([*command, "--dims", "1", "--errors", "2"]) == 0
    found = results()["scores"]
    assert found["table"]["rated"]["spearman"] > 95
    assert found["table_dim1"]["rated"]["spearman"] < found["table"]["rated"]["spearman_high"]
    assert "rated Spearman" in capsys.readouterr().out
    assert len(Path("out/errors.jsonl").read_text().splitlines()) == 2
    for name in ("report.md", "report.tex", "report.html"):
        assert "rated Spearman" in (Path("out") / name).read_text(encoding="utf-8"), name
    with monkeypatch.context() as patched:
        patched.setattr(evaluated_models, "load_encoder", lambda *_, **__: pytest.fail("the model was loaded again"))
        assert main([*command, "--dims", "1"]) == 0


def test_two_models_are_compared_on_the_tables_of_a_file(models) -> None:
    command = ["evaluate", "good.txt", "bad.txt", "--suite", "table", "--data", "tests.yaml", "--compare"]
    assert main([*command, "--output", "out"]) == 0
    found = json.loads(Path("out/comparison.json").read_text(encoding="utf-8"))["comparison"]["scores"]
    by_task = {(score["task"], score["metric"]): score for score in found}
    assert set(by_task) == {("rated", "spearman"), *(("found", m) for m in ("recall@1", "recall@10", "mrr", "ndcg@10"))}
    rated = by_task["rated", "spearman"]
    assert rated["difference"] == pytest.approx(rated["first"] - rated["second"])
    assert 0 < rated["p"] < 0.2
    assert "paired bootstrap" in rated["test"]
    assert rated["p_holm"] >= rated["p"]


def test_a_runs_configuration_names_its_tables_too(models, monkeypatch) -> None:
    listed = Path("tests.yaml").read_text()
    Path("run.yaml").write_text(
        f"recipe: tables\nencoder: {{name_or_path: x}}\ndata: {{root: sub, table: t.csv}}\n{listed}"
    )
    tables, root = read_test_tables("run.yaml")
    assert [table.name for table in tables] == ["rated", "found"]
    assert root == Path("sub")
    monkeypatch.setenv("MCSE_DATA", "elsewhere")
    assert read_test_tables("tests.yaml")[1] == Path("elsewhere")
    assert read_test_tables("rated.csv", ["query=left", "positive=right", "negatives=x", "negatives=y"])[0] == (
        DevTable(name="rated", path="rated.csv", query="left", positive="right", negatives=("x", "y")),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data", "rated.csv", "--columns", "query=lft", "positive=right"],
            "no column 'lft' for query .*mean 'left'",
        ),
        (["--data", "rated.csv", "--columns", "qery=left"], "unknown key 'qery'; did you mean 'query'"),
        (["--data", "rated.csv", "--columns", "left"], "expected KEY=COLUMN, such as query=left, got 'left'"),
        (["--data", "rated.csv", "--columns", "query=left"], "rated.csv has no second text"),
        (["--data", "rated.csv"], "no column is called .* among 'left', 'right', 'stars'"),
        (["--data", "none.csv"], "table none.csv: no file at none.csv"),
        (["--data", "lost.yaml"], "no file at sub/none.csv; relative paths start at sub"),
        (["--data", "none.yaml"], "--data: no file at none.yaml"),
        (["--data", "tests.yaml", *COLUMNS], "--columns is of one table"),
        ([], "table needs --data"),
        (["--data", "rated.csv", *COLUMNS, "score_range=[0,1]"], "rated.csv, line 2, column 'stars': the score"),
        (["--suite", "sts", "--data", "rated.csv", *COLUMNS], "--columns names the columns of --suite table"),
        (["--data", "two.yaml"], "the name 'rated' stands there twice"),
        (["--data", "slash.yaml"], "without '/', got 'a/b'"),
        (["--data", "empty.yaml"], "lists no table"),
    ],
)
def test_what_cannot_be_meant_is_refused(models, capsys, arguments, message) -> None:
    one = "{name: rated, path: rated.csv, query: left, positive: right}"
    Path("two.yaml").write_text(f"evaluate: [{one}, {one}]\n")
    Path("lost.yaml").write_text("evaluate: [{name: x, path: none.csv}]\ndata: {root: sub}\n")
    Path("slash.yaml").write_text("evaluate: [{name: a/b, path: rated.csv}]\n")
    Path("empty.yaml").write_text("evaluate: []\n")
    suite = [] if "--suite" in arguments else ["--suite", "table"]
    assert main(["evaluate", "good.txt", *suite, *arguments, "--output", "out"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
