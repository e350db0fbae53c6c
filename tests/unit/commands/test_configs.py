"""``mcse configs`` and ``--config mcse:NAME``: every configuration of the project by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcse.commands.configs import config_path
from mcse.commands.main import main

FOLDER = Path(__file__).resolve().parents[3] / "configs"


def test_every_file_is_listed_once_with_its_recipe_and_title(capsys):
    assert main(["configs"]) == 0
    *lines, empty, last = capsys.readouterr().out.splitlines()
    files = [file for file in FOLDER.rglob("*") if file.suffix in (".yaml", ".sbatch")]
    assert len(lines) == len(files) > 60
    by_name = {line.split()[0]: line for line in lines}
    for file in files:
        recipe, title = by_name[file.relative_to(FOLDER).as_posix().removesuffix(".yaml")].split(maxsplit=2)[1:]
        text = file.read_text(encoding="utf-8")
        is_study = file.parent.name == "studies"
        assert recipe == ("study" if is_study else "–") or f"\nrecipe: {recipe}\n" in text
        assert len(title) > 10
        assert title[:10] in text
    assert not empty
    assert str(FOLDER) in last


def test_one_is_printed_as_it_stands(capsys):
    file = FOLDER / "accelerate" / "cpu_two_processes.yaml"
    assert main(["configs", "accelerate/cpu_two_processes"]) == 0
    assert capsys.readouterr().out == file.read_text(encoding="utf-8")
    assert main(["configs", "accelerate/cpu_two_processes", "--path"]) == 0
    assert capsys.readouterr().out == f"{file}\n"


def test_a_name_takes_the_file_and_a_path_stays_one(capsys, monkeypatch, tmp_path):
    assert config_path("mcse:simcse/bert_base_unsup") == FOLDER / "simcse" / "bert_base_unsup.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert_base_unsup").write_text("")
    assert config_path("bert_base_unsup") == Path("bert_base_unsup")
    assert main(["train", "--config", "mcse:simcse/minilm_wiki_cpu.yaml", "--print-config", "--seed", "7"]) == 0
    assert "\nseed: 7\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("simcse/bert_base_unsupp", "did you mean simcse/bert_base_unsup"),
        ("twitter2015_bert_text", "did you mean maf/twitter2015_bert_text?"),
        ("qqqqqqq", "mcse configs lists them"),
    ],
)
def test_the_nearest_names_are_told(capsys, name, meant):
    assert main(["train", "--config", f"mcse:{name}"]) == 2
    assert meant in capsys.readouterr().err


def test_a_name_without_its_prefix_is_answered_with_it():
    with pytest.raises(ValueError, match=r"no file at demo/mcse.yaml; did you mean mcse:demo/mcse\?$"):
        config_path("demo/mcse.yaml")
