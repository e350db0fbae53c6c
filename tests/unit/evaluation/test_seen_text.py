"""What a run has read, found again from its ``run.json`` alone."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from mcse.data.language import LanguageDataConfig, load_language_data
from mcse.data.test_sets.contamination import normalise
from mcse.evaluation.seen_text import UnknownTrainingTextError, read_run_text, seen_by
from mcse.files import sha256_file
from mcse.types import DataFile, TrainingText


def write_run(folder, files):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"data": [asdict(file) for file in files]}))
    return folder


@pytest.mark.parametrize("role", ["sentences", "source"])
def test_what_a_run_on_lines_has_read_is_known(role, tmp_path):
    path = tmp_path / "text.en"
    path.write_text("A man sleeps.\n\nTwo dogs run.\n")
    text = TrainingText(reader="lines", source=str(path))
    files = [DataFile(role, str(path), sha256_file(path), text), DataFile("dev", "x", "")]
    write_run(tmp_path, files)
    assert read_run_text(tmp_path) == {normalise("A man sleeps."), normalise("Two dogs run.")}
    path.write_text("Another.\n")
    with pytest.raises(UnknownTrainingTextError, match="has changed since"):
        read_run_text(tmp_path)


def test_a_language_models_run_says_which_lines_it_read(tmp_path):
    """House review: evaluation knew by recipe which files of an ELMo or CoVe run hold its text."""
    (tmp_path / "text.txt").write_text("A man sleeps .\nTwo dogs run .\n" * 3)
    (tmp_path / "dev.txt").write_text("A cat .\n")
    config = LanguageDataConfig(root=tmp_path, sentences="text.txt", dev="dev.txt")
    run = write_run(tmp_path / "run", load_language_data(config, max_characters=20).files)
    assert read_run_text(run) == set(map(normalise, ("A man sleeps.", "Two dogs run.")))


def test_a_run_without_training_text_says_so_and_a_model_without_a_run_says_nothing(tmp_path):
    write_run(tmp_path, [DataFile("train", "tweets.txt", "0")])
    with pytest.raises(UnknownTrainingTextError, match="does not say what it was trained on .none of the files"):
        read_run_text(tmp_path)
    assert seen_by(tmp_path / "elsewhere") == (None, "")
    assert seen_by(tmp_path)[0] is None
