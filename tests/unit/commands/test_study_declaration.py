"""``mcse study``: the declaration, its cells and comparisons, before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcse.commands.studies.cells import shell, study_cells
from mcse.commands.studies.declaration import Study, read_study
from mcse.config_fields import describe
from mcse.recipes.reference import keys_table
from tests.fixtures.tiny_study import DECLARED, PAIRS, declared, pair_names, run, written

# --- the declaration


def test_a_declaration_is_read_with_its_defaults(tmp_path):
    found, path = read_study(str(written(tmp_path)))
    assert path == tmp_path / "tiny.yaml"
    assert found.seed_numbers == (0, 1, 2)
    assert found.primary_scores == ("sts.average",)
    assert found.scores == ("sts.average", "sts.A")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"baselin": "text"}, "unknown key 'baselin'; did you mean 'baseline'?"),
        ({"seeds": ...}, "missing key 'seeds' (Seeds of every cell"),
        ({"seeds": "2-0"}, "seeds: '2-0' counts down"),
        ({"systems": []}, "systems: none is given"),
        ({"systems": [{"name": "text", "confg": "x"}]}, "unknown key 'systems[0].confg'; did you mean"),
        ({"systems": DECLARED["systems"] * 2}, "systems, references: text is given twice"),
        ({"systems": [{"name": "a/b", "config": "mcse:demo/mcse"}], "baseline": None}, "'a/b' is no name"),
        ({"systems": [{"name": "each", "config": "mcse:demo/mcse"}]}, "'each' means something else"),
        ({"baseline": "txt"}, "baseline: there is no 'txt'; there is text, pairs, wrong pairs, floor, teacher"),
        ({"controls": ["shuffled"]}, "controls: there is no 'shuffled'"),
        ({"comparisons": [{"first": "mcse"}]}, "comparisons[0]: 'mcse' names no row; there is text, pairs"),
        ({"comparisons": [{"first": "pairs,pairs=7"}], "factors": [PAIRS]}, "'pairs,pairs=7' names no row"),
        ({"comparisons": [{"first": "pairs"}, {"first": "text", "second": "pairs"}]}, "are compared twice"),
        ({"comparisons": [{"first": "text"}]}, "no cell of text has the values of one of text"),
        ({"baseline": None}, "comparisons[0]: there is no baseline"),
        ({"controls": []}, "comparisons[1]: there are no controls"),
        ({"factors": [{"name": "pairs", "key": "controls.num_pairs"}]}, "a factor needs values"),
        ({"factors": [{"name": "pairs", "values": [1]}]}, "give key and values, or levels"),
        ({"factors": [{**PAIRS, "values": [50, 50]}]}, "factors, pairs: 50 is given twice"),
        ({"factors": [PAIRS, PAIRS]}, "factors: pairs is given twice"),
        ({"evaluations": []}, "evaluations: no score is reported"),
        (
            {"evaluations": [{"name": "a", "flags": "--suit sts", "scores": ["sts.a"]}]},
            "unrecognized arguments: --suit",
        ),
        ({"evaluations": [{"name": "a", "flags": "--suite st", "scores": ["st.a"]}]}, "invalid choice: 'st'"),
        ({"evaluations": [{"name": "a", "flags": "--output x", "scores": ["sts.a"]}]}, "leave out --output"),
        (
            {"evaluations": [{"name": "a", "flags": "", "scores": ["geometry.a"]}]},
            "geometry.a is of none of its suites",
        ),
        ({"evaluations": [{"name": "a", "flags": "", "scores": ["sts"]}]}, "a score is named suite.task.metric"),
        ({"primary": ["sts.B"]}, "primary: there is no 'sts.B'; there is sts.average, sts.A"),
        ({"base": {"seed": 3}}, "base: seed: seeds are given apart, as seeds"),
        ({"base": {"train": {"resume": "never"}}}, "base: train.resume: such runs always resume"),
        ({"base": {"optim.learnin_rate": 1}}, "did you mean 'optim.learning_rate'?"),
        ({"base": {"data.root": "$HOME/x"}}, "$HOME is none of $OUTPUT, $MCSE_DATA, $SEED"),
        ({"base": {"data.root": "5 $"}}, "a $ without a name; $$ is a dollar"),
        (
            {"systems": [{"name": "Prepared", "config": "mcse:demo/mcse"}], "baseline": None, "controls": []},
            "a folder of",
        ),
        ({"prepare": [{"name": "a", "run": "demoo", "makes": "x"}]}, "'demoo' is no command of mcse"),
        ({"prepare": [{"name": "a", "run": "demo --fast", "makes": "x"}]}, "unrecognized arguments: --fast"),
    ],
)
def test_a_wrong_declaration_is_refused_by_name_before_anything_starts(tmp_path, capsys, keys, said):
    assert run(written(tmp_path, **keys)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_data_folder_that_is_not_set_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MCSE_DATA", raising=False)
    assert run(written(tmp_path, base={"data.root": "$MCSE_DATA/x"})) == 2
    assert "$MCSE_DATA is not set here" in capsys.readouterr().err


def test_two_cells_that_are_the_same_run_are_refused(tmp_path, capsys):
    systems = [{"name": "one", "config": "mcse:demo/mcse"}, {"name": "two", "config": "mcse:demo/mcse"}]
    assert run(written(tmp_path, systems=systems, baseline=None, controls=[], comparisons=[])) == 2
    assert "cells: one and two are the same run" in capsys.readouterr().err


def test_every_key_is_documented_and_stands_on_the_page():
    path = Path(__file__).resolve().parents[3] / "docs" / "studies.md"
    before, mark, rest = path.read_text(encoding="utf-8").partition("<!-- keys: written by this test -->\n")
    shown, end, after = rest.partition("<!-- end of keys -->\n")
    infos = list(describe(Study))
    assert len(infos) > 30
    assert [info.key for info in infos if not info.summary.endswith((".", ":"))] == []
    if os.environ.get("MCSE_WRITE_DOCS") == "1":
        path.write_text(before + mark + keys_table(infos) + end + after, encoding="utf-8")
    else:
        assert shown == keys_table(infos), "run MCSE_WRITE_DOCS=1 pytest on this test"


# --- cells and comparisons


def test_factors_are_crossed_with_systems_and_their_settings_win():
    noise = {
        "name": "noise",
        "levels": [{"value": 0, "set": {}}, {"value": 0.3, "set": {"loss": {"temperature": 0.1}}}],
    }
    systems = [
        {"name": "text", "config": "mcse:demo/simcse", "factors": ["pairs"]},
        {
            "name": "pairs",
            "config": "mcse:demo/mcse",
            "set": {"controls.num_pairs": 7},
            "skip": {"pairs": 500, "noise": [0.3]},
        },
        {"name": "wrong pairs", "config": "mcse:demo/mcse", "only": {"noise": 0.3}},
    ]
    asked = declared(factors=[PAIRS, noise], systems=systems, base={"controls.num_pairs": 3, "loss.temperature": 0.2})
    cells = study_cells(asked)
    assert [cell.name for cell in cells] == [
        "text,pairs=50",
        "text,pairs=500",
        "pairs,pairs=50,noise=0",
        "pairs,pairs=50,noise=0.3",
        "pairs,pairs=500,noise=0",
        "wrong pairs,pairs=50,noise=0.3",
        "wrong pairs,pairs=500,noise=0.3",
    ]
    assert cells[3].values == {"pairs": 50, "noise": 0.3}
    assert cells[3].settings == {"controls.num_pairs": "50", "loss.temperature": "0.1"}
    assert cells[0].settings["loss.temperature"] == "0.2"
    with pytest.raises(ValueError, match="systems, pairs: only and skip leave no cell of it"):
        study_cells(
            declared(
                factors=[PAIRS], systems=[{**systems[1], "skip": {"pairs": [50, 500]}}], baseline=None, controls=[]
            )
        )


def test_comparisons_are_spelt_out_cell_by_cell_at_the_same_values():
    assert pair_names() == ["pairs − text", "pairs − wrong pairs", "teacher − pairs"]
    factors = {"factors": [PAIRS]}
    assert pair_names(**factors, comparisons=[{"first": "pairs"}]) == [
        "pairs,pairs=50 − text,pairs=50",
        "pairs,pairs=500 − text,pairs=500",
    ]
    pinned = [{"first": "pairs,pairs=50", "second": "text,pairs=500"}]
    assert pair_names(**factors, comparisons=pinned) == ["pairs,pairs=50 − text,pairs=500"]
    assert pair_names(**factors, comparisons=[{"first": "pairs,pairs=50"}]) == ["pairs,pairs=50 − text,pairs=50"]
    floors = [{"first": "floor", "second": "text"}]
    assert pair_names(**factors, comparisons=floors) == ["floor − text,pairs=50", "floor − text,pairs=500"]


def test_commands_are_what_a_shell_takes(monkeypatch, tmp_path):
    words = ["mcse", "--a", '{"b": "$OUTPUT/x"}', "--c", "it's", "--d", "1 $$"]
    text = shell(words)
    done = os.popen(f"OUTPUT=/o; printf '%s\\n' {text}").read().splitlines()
    assert done == ["mcse", "--a", '{"b": "/o/x"}', "--c", "it's", "--d", "1 $"]
