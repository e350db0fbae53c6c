"""``mcse elmo contexts`` and ``mcse elmo perplexity`` on a small model."""

from __future__ import annotations

import pytest
import torch

from mcse.commands.main import main
from mcse.models.elmo_language_model import ElmoLanguageModel, save_language_model
from mcse.models.elmo_model import ElmoConfig, ElmoModel
from mcse.text.vocab import Vocab

TEXT = [["she", "plays", "the", "play"], ["Play", "it"], ["no", "one"], ["they", "play", "and", "play"]]


@pytest.fixture
def elmo_folder(tmp_path):
    torch.manual_seed(0)
    config = ElmoConfig(character_dim=4, filters=[[1, 4], [3, 6]], cell_dim=12, projection_dim=6)
    vocab = Vocab.from_sentences(TEXT, lower_case=False)
    save_language_model(tmp_path / "elmo", ElmoLanguageModel(ElmoModel(config), vocabulary_size=len(vocab)), vocab)
    (tmp_path / "text.txt").write_text("\n".join(" ".join(words) for words in TEXT * 4) + "\n")
    return tmp_path


def test_contexts_command(elmo_folder, capsys):
    common = ["words", "contexts", str(elmo_folder / "elmo"), "--text", str(elmo_folder / "text.txt")]
    assert main([*common, "--query", "play", "we saw the play", "-k", "2", "--merge", "play", "one"]) == 0
    out = capsys.readouterr().out
    assert "we saw the [play]\n  among 16 occurrences:" in out
    assert out.count("[play]") == 3
    assert "play/one  10  10" in out
    assert main([*common, "--query", "sing", "we saw the play"]) == 2
    assert main(common) == 2
    assert "give --query" in capsys.readouterr().err


def test_perplexity_command_needs_to_know_its_text(elmo_folder, capsys):
    assert main(["elmo", "perplexity", str(elmo_folder / "elmo")]) == 2
    assert "does not say what the model was trained on" in capsys.readouterr().err


# --- models on word features
