"""``mcse study`` around the training: what is done and kept, what changed, the report.

What trains and evaluates is a stand-in that writes the files of runs and of evaluations.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml

from mcse.commands import study
from mcse.commands.configs import CONFIGS
from mcse.commands.main import main
from mcse.config import read_yaml
from mcse.evaluation.compare import compare
from mcse.evaluation.result_cache import write_items
from mcse.files import claimed
from mcse.metrics.significance import holm, seeds_needed
from mcse.types import ScoreKey
from tests.fixtures.model_scores import make_scores
from tests.fixtures.run_folders import make_run
from tests.fixtures.tiny_study import DECLARED, NOISE, PAIRS, StandIn, results, run, written


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(study, "run_locally", stand_in)
    return stand_in


# --- going on


def test_a_study_is_trained_evaluated_compared_and_reported(tmp_path, works, capsys):
    path = written(tmp_path)
    assert run(path) == 0
    assert works.done[:4] == ["floor seed0 sts", "floor seed1 sts", "floor seed2 sts", "teacher sts"]
    assert works.done[4:8] == ["text seed0", "text seed0 sts", "pairs seed0", "pairs seed0 sts"]
    assert len(works.done) == 4 + 18
    found = results(tmp_path)
    groups = {
        name: [make_scores("x", noise=NOISE[name], seed=seed) for seed in range(1 if name == "teacher" else 3)]
        for name in NOISE
    }
    key = ScoreKey("sts", "average", "spearman")
    for row in found["rows"]:
        values = [model.get(key) for model in groups[row["name"]]]
        assert row["scores"]["sts.average"]["values"] == pytest.approx(values)
        assert row["scores"]["sts.average"]["mean"] == pytest.approx(np.mean(values))
        assert row["scores"]["sts.average"]["low"] < np.mean(values) < row["scores"]["sts.average"]["high"]
    first = [one for one in found["comparisons"] if one["score"] == "sts.average"]
    assert [(one["first"], one["second"]) for one in first] == [
        ("pairs", "text"),
        ("pairs", "wrong pairs"),
        ("teacher", "pairs"),
    ]
    right = [
        next(one for one in compare(groups[a["first"]], groups[a["second"]]) if one.column.key == key) for a in first
    ]
    for mine, one in zip(first, right, strict=True):
        assert [mine[name] for name in ("difference", "low", "high", "p", "smallest")] == pytest.approx(
            [one.difference, one.low, one.high, one.p, one.smallest]
        )
    assert [one["p_holm"] for one in first] == pytest.approx(
        list(holm(dict(enumerate(one.p for one in right))).values())
    )
    assert first[0]["seeds_needed"] == seeds_needed(
        right[0].first_sd, right[0].second_sd, item_sd=right[0].item_sd, difference=0.5
    )
    assert first[2]["seeds_needed"] is None
    assert [one["p_holm"] for one in found["comparisons"] if one["score"] == "sts.A"] == [None] * 3
    assert found["cpu_seconds"]["training"] == 9 * 36
    assert found["cpu_seconds"]["evaluation"] == 13 * 36
    assert run(path) == 0
    assert len(works.done) == 22, "nothing is done twice"


def test_the_report_says_question_commands_cost_and_origin(tmp_path, works):
    assert run(written(tmp_path)) == 0
    markdown, latex, page = ((tmp_path / "out" / f"report.{end}").read_text() for end in ("md", "tex", "html"))
    assert "Does 5 % of x_1 &amp; y help?" in markdown
    assert r"Does 5 \% of x\_1 \& y help?" in latex
    assert "Does 5 % of x_1 &amp; y help?" in page
    assert "not changed since" in markdown
    assert "Changed after the first run" not in markdown + latex + page
    assert "| wrong pairs (control) |" in markdown
    assert "| teacher (reference) |" in markdown
    command = 'mcse train --config mcse:demo/mcse --train.max_steps=20 "--data.root=$OUTPUT/world"'
    assert command in markdown
    own = '--controls.images=shuffled_images "--seed=$SEED" "--output_dir=$OUTPUT/wrong_pairs/seed$SEED"'
    assert own in markdown
    assert r"\texttt{mcse train --config mcse:demo/mcse" in latex
    assert "training 324 CPU seconds, evaluation 0.13 CPU hours" in markdown
    assert "pairs: 216 CPU seconds in 6 processes" in markdown
    assert "sentences a.txt (SHA-256 dddddddddddddddd…)" in markdown
    assert "trained with: python 3.11" in markdown
    for text in (markdown, latex, page):
        made = text.partition("How this was made")[2]
        for fact in (" UTC", "git revision", "torch", "Linux", "training seeds", "dddddddddddddddd"):
            assert fact in made
    assert "![sts.average: first − second, with 95 % intervals](differences.svg)" in markdown
    assert '"seeds": "0-2"' in markdown
    svg = (tmp_path / "out" / "differences.svg").read_text()
    assert "var(--" not in svg
    assert "pairs is better" in re.findall(r"<text[^>]*>([^<]+)</text>", svg)


def test_scores_against_a_factor_of_numbers_are_plotted(tmp_path, works):
    assert run(written(tmp_path, factors=[PAIRS])) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "sts.average against pairs, with 95 % intervals" in page
    assert (tmp_path / "out" / "pairs.svg").is_file()
    table = next(line for line in (tmp_path / "out" / "report.md").read_text().splitlines() if "text,pairs=500" in line)
    assert "±" in table


def test_what_failed_is_named_with_its_log_and_the_rest_is_reported(tmp_path, works, capsys):
    works.broken = {"pairs seed1", "text seed2 sts"}
    path = written(tmp_path)
    assert run(path) == 1
    log = tmp_path / "out" / "pairs" / "seed1.log"
    assert f"pairs seed1: exit code 1: no luck (log: {log})" in capsys.readouterr().err
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "text seed2: not evaluated (sts): exit code 1: no luck" in markdown.replace("\\", "")
    assert "| text, 2 of 3 seeds |" in markdown
    works.broken = set()
    works.done.clear()
    assert run(path) == 0
    assert works.done == ["pairs seed1", "pairs seed1 sts", "text seed2 sts"]


def test_a_stopped_study_reports_what_is_there_and_goes_on(tmp_path, works, capsys):
    works.stops_after = 6
    path = written(tmp_path)
    assert run(path) == 130
    assert "stopped; the same command goes on" in capsys.readouterr().err
    first = results(tmp_path)["comparisons"][0]
    assert first["reason"] == "pairs: not evaluated yet"
    works.stops_after = None
    assert run(path) == 0
    assert len(works.done) == len(set(works.done)) == 22


def test_a_part_is_run_alone_and_holm_counts_what_is_missing(tmp_path, works):
    path = written(tmp_path)
    assert run(path, "--only", "text", "pairs") == 0
    assert len(works.done) == 12
    tests = [one for one in results(tmp_path)["comparisons"] if one["score"] == "sts.average"]
    assert tests[0]["p_holm"] == pytest.approx(min(1, 3 * tests[0]["p"]))
    assert run(path, "--only", "mcse") == 2


def test_a_dry_run_lists_cells_commands_and_what_is_done_and_writes_nothing(tmp_path, works, capsys):
    path = written(tmp_path)
    assert run(path, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "pairs: 0 of 3 trained, 0 of 3 evaluated (sts)" in out
    assert "teacher: 0 of 1 evaluated (sts)" in out
    assert "for SEED in 0 1 2; do" in out
    assert not (tmp_path / "out").exists()
    assert run(path, "--only", "pairs") == 0
    capsys.readouterr()
    assert run(path, "--dry-run") == 0
    assert "pairs: 3 of 3 trained, 3 of 3 evaluated (sts)" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("studies/*.yaml")), ids=lambda path: path.stem)
def test_every_study_that_comes_with_the_package_can_begin(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MCSE_DATA", str(tmp_path))
    assert main(["study", str(path), "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    assert f"{path.stem}: " in capsys.readouterr().out


def test_a_prepared_run_is_done_once_it_is_finished(tmp_path, works, capsys):
    prepare = [{"name": "guide", "run": "train vse --output_dir $OUTPUT/guide", "makes": "$OUTPUT/guide"}]
    path = written(tmp_path, prepare=prepare)
    make_run(tmp_path / "out" / "guide", saved=10)  # best/ is there, and half of the run is left
    assert run(path, "--dry-run") == 0
    assert "prepare guide: to do" in capsys.readouterr().out
    (tmp_path / "out" / "guide" / "state" / "step-00000020").mkdir()
    assert run(path, "--dry-run") == 0
    assert "prepare guide: done" in capsys.readouterr().out


def test_what_studies_share_is_found_before_the_study_has_a_folder(tmp_path, works, capsys):
    prepare = [{"name": "start", "run": "train mlm --output_dir $OUTPUT/../start", "makes": "$OUTPUT/../start"}]
    make_run(tmp_path / "start", saved=20)
    assert run(written(tmp_path, prepare=prepare), "--dry-run") == 0
    assert not (tmp_path / "out").exists()
    assert "prepare start: done" in capsys.readouterr().out


def test_another_command_of_the_same_study_is_refused(tmp_path, works, capsys):
    with claimed(tmp_path / "out"):
        assert run(written(tmp_path)) == 2
    assert "is in use by process" in capsys.readouterr().err


def test_a_score_that_nothing_has_is_named_with_those_that_there_are(tmp_path, works, capsys):
    other = [{**DECLARED["evaluations"][0], "scores": ["sts.C", "sts.B"]}]
    path = written(tmp_path, evaluations=other)
    assert run(path, "--only", "text") == 1
    assert "score sts.C: none of " in capsys.readouterr().err
    assert (
        "there is sts.A.spearman, sts.B.spearman, sts.average.spearman" in (tmp_path / "out" / "report.md").read_text()
    )
    assert results(tmp_path)["rows"][0]["scores"]["sts.B"]["values"]
    other[0]["scores"] = ["sts.spearman"]
    assert run(written(tmp_path, evaluations=other), "--only", "text") == 1
    assert "score sts.spearman: several of " in capsys.readouterr().err


# --- changes


def test_a_declaration_that_is_changed_after_the_first_run_is_seen(tmp_path, works):
    assert run(written(tmp_path), "--only", "text", "pairs") == 0
    systems = [*DECLARED["systems"][:1], {**DECLARED["systems"][2], "name": "shuffled"}]
    changed = {"systems": systems, "controls": ["shuffled"], "seeds": "0-3", "comparisons": [{"first": "shuffled"}]}
    assert run(written(tmp_path, **changed)) == 0
    for end in ("md", "tex", "html"):
        text = (tmp_path / "out" / f"report.{end}").read_text().replace("\\", "")
        assert "Changed after the first run" in text
        assert "when 6 runs were finished" in text
        assert "seeds: 0-2 " in text
        assert "row pairs was taken out; 3 of its runs were finished then" in text
        assert "row wrong pairs was taken out; 0 of its runs were finished then" in text
    assert results(tmp_path)["changes_after_the_first_run"] == 1
    history = json.loads((tmp_path / "out" / "study.json").read_text())["declarations"]
    assert history[0]["declaration"]["seeds"] == "0-2"
    assert history[1]["changes"]["seeds"] == ["0-2", "0-3"]
    assert history[1]["changes"]["systems.pairs.config"] == ["mcse:demo/mcse", None]
    assert run(written(tmp_path)) == 0
    assert results(tmp_path)["changes_after_the_first_run"] == 2, "changing it back is a change, too"


def test_a_report_alone_shows_a_changed_declaration_too(tmp_path, works):
    assert run(written(tmp_path)) == 0
    assert run(written(tmp_path, comparisons=[{"first": "pairs"}]), "--report") == 0
    assert results(tmp_path)["changes_after_the_first_run"] == 1
    assert "Changed after the first run" in (tmp_path / "out" / "report.md").read_text()


def test_rows_of_different_data_are_reported_and_not_compared(tmp_path, works):
    assert run(written(tmp_path)) == 0
    other = make_scores("other", noise=0.3)
    for sample in other.all.samples.values():
        sample.gold_P[:] = 5 - sample.gold_P
    [items] = (tmp_path / "out" / "pairs" / "seed1").glob("evaluation/*/items*")
    write_items(other, items)
    assert run(written(tmp_path), "--report") == 1
    text = (tmp_path / "out" / "report.md").read_text()
    assert "pairs: sts.A.spearman: the two sides were evaluated on different data (their gold differs)" in text
    found = results(tmp_path)["comparisons"]
    assert all("different data" in test["reason"] for test in found), "pairs is a side of each"


def test_families_are_counted_each_by_itself(tmp_path, works):
    comparisons = [
        {"first": "pairs"},
        {"first": "pairs", "second": "controls", "family": "own"},
        {"first": "teacher", "second": "pairs", "family": "own"},
    ]
    assert run(written(tmp_path, comparisons=comparisons)) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "1 declared comparisons of the family declared and over the 2 declared comparisons of the family own" in text


def test_a_reference_that_was_made_anew_is_evaluated_again(tmp_path, works):
    model = tmp_path / "floor"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"first")
    references = [{"name": "floor", "model": str(model)}]
    path = written(tmp_path, references=references, comparisons=[{"first": "floor", "second": "text"}])
    assert run(path) == 0
    works.done.clear()
    assert run(path) == 0
    assert works.done == []
    (model / "model.safetensors").write_bytes(b"another")
    assert run(path) == 0
    assert works.done == ["floor sts"]


def test_trainings_without_a_line_of_cpu_time_are_counted(tmp_path, works):
    path = written(tmp_path)
    assert run(path) == 0
    assert "not counted" not in (tmp_path / "out" / "report.md").read_text()
    lines = (tmp_path / "out" / "cpu.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"text seed' not in line or '"evaluation"' in line]
    assert len(kept) == len(lines) - 3
    (tmp_path / "out" / "cpu.jsonl").write_text("".join(kept))
    assert run(path, "--report") == 0
    assert "not counted: 3 trainings" in (tmp_path / "out" / "report.md").read_text()


def test_the_order_of_keys_in_the_file_is_no_change(tmp_path, works):
    assert run(written(tmp_path), "--only", "text") == 0
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(read_yaml(path), sort_keys=True))
    assert run(path, "--only", "text") == 0
    assert results(tmp_path)["changes_after_the_first_run"] == 0


def test_a_cell_that_was_trained_otherwise_is_refused_or_made_anew(tmp_path, works, capsys):
    assert run(written(tmp_path), "--only", "text") == 0
    path = written(tmp_path, base={**DECLARED["base"], "train.max_steps": 20, "loss.temperature": 0.1})
    works.done.clear()
    assert run(path, "--only", "text") == 2
    said = capsys.readouterr().err
    assert "text/seed0 was trained with loss.temperature = 0.05, not 0.1" in said
    assert "--again" in said
    assert works.done == []
    assert results(tmp_path)["changes_after_the_first_run"] == 0, "what was refused has not begun"
    assert run(path, "--only", "text", "--again") == 0
    assert len(works.done) == 6
    assert (tmp_path / "out" / "replaced" / "text-seed0-0" / "config.yaml").is_file()
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "text seed0 was trained anew" in markdown
    assert "loss.temperature: 0.05 → 0.1" in markdown


def test_other_flags_of_an_evaluation_evaluate_again(tmp_path, works):
    assert run(written(tmp_path), "--only", "text") == 0
    works.done.clear()
    other = [{**DECLARED["evaluations"][0], "flags": "--suite sts geometry --data $OUTPUT/world/a.tsv"}]
    assert run(written(tmp_path, evaluations=other), "--only", "text") == 0
    assert works.done == ["text seed0 sts", "text seed1 sts", "text seed2 sts"]
