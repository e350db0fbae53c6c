"""``mcse push`` against a stand-in of the hub on loopback, to which ``huggingface_hub`` itself speaks."""

from __future__ import annotations

import json
import re

import mteb
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, constants, parse_eval_result_entries
from transformers import AutoModel, AutoTokenizer

from mcse import JointEncoder, SentenceEncoder, hub
from mcse.commands.main import main
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.report.evaluation_files import write_model
from mcse.report.mteb_files import MTEB_TASKS
from tests.fixtures.hub import forget_commits
from tests.fixtures.hub_server import serving
from tests.fixtures.launch import run
from tests.fixtures.model_scores import make_scores
from tests.fixtures.tiny_run import build_tiny_run

TEXTS = ["the dog", "the dog runs in the park number 3", "a cat"]
STATED = ("--licence", "mit", "--data-source", "somebody/captions")
NAME = "somebody/model"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each recipe, made when it is first asked for; not to be changed."""
    tiny, made = build_tiny_run(tmp_path_factory.mktemp("tiny")), {}

    def run_of(recipe="mcse"):
        if recipe not in made:
            keys = {"train.max_steps": 2, "train.eval_steps": 2}
            keys |= {"encoder.pooling": "mean"} if recipe == "mcse" else {}
            made[recipe] = tmp_path_factory.mktemp(recipe) / "run"
            assert run(tiny, recipe, made[recipe], keys) == 0
        return made[recipe]

    return run_of


@pytest.fixture
def there(monkeypatch, tmp_path):
    """The stand-in, which is the hub for this process, with a token that may write for ``somebody``."""
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between attempts
        monkeypatch.setenv("HF_TOKEN", "hf_writes")
        hub._look_for_network.cache_clear()
        forget_commits()
        yield server
        hub._look_for_network.cache_clear()
        forget_commits()


def copied(run_folder, tmp_path):
    """A run of one's own, to change."""
    from shutil import copytree

    return copytree(run_folder, tmp_path / "own")


def push(run_folder, *more, name=NAME):
    return main(["push", str(run_folder), name, *more])


def test_what_is_pushed_loads_everywhere_with_the_same_rows(there, trained, capsys):
    assert push(trained(), *STATED) == 0
    assert there.repositories[NAME].private
    said = capsys.readouterr().out
    assert f"are now in {NAME} (private): {there.url}/{NAME}/commit/" in said
    expected = SentenceEncoder.from_pretrained(trained())
    encoder = SentenceEncoder.from_pretrained(NAME)
    np.testing.assert_array_equal(encoder.encode(TEXTS), expected.encode(TEXTS))
    np.testing.assert_array_equal(encoder.encode_captions(TEXTS), expected.encode_captions(TEXTS))
    np.testing.assert_array_equal(load_encoder(NAME).encode(TEXTS), expected.encode(TEXTS))
    library = load_encoder(f"sentence-transformers:{NAME}")
    np.testing.assert_allclose(library.encode(TEXTS), expected.encode(TEXTS), atol=1e-5)
    tokens = AutoTokenizer.from_pretrained(NAME)(TEXTS[1], return_tensors="pt")
    hidden_TD = AutoModel.from_pretrained(NAME)(**tokens).last_hidden_state[0].detach().numpy()
    np.testing.assert_allclose(hidden_TD.mean(0), expected.encode(TEXTS[1:2], normalize=False)[0], atol=1e-5)


def test_a_joint_model_loads_from_the_hub_by_its_name(there, trained):
    assert push(trained("vse"), *STATED, "--public") == 0
    assert not there.repositories[NAME].private
    row_NH = JointEncoder.from_pretrained(NAME).encode_captions(TEXTS)
    np.testing.assert_array_equal(row_NH, JointEncoder.from_pretrained(trained("vse")).encode_captions(TEXTS))
    assert ModelCard(there.repositories[NAME].files["README.md"].decode()).data.library_name == "mcse"


def test_the_card_has_results_licence_and_data_in_the_hubs_forms(there, trained, tmp_path):
    own = copied(trained(), tmp_path)
    scores = make_scores(str(own), noise=0.2, tasks=("STS12", "STSBenchmark", "SICKRelatedness", "SICKRelatedness9927"))
    write_model(scores, own / "evaluation", digest=encoder_digest(str(own)), precision="float32")
    assert push(own, *STATED, "--data-source", "own recordings, not published", "--language", "de", "en") == 0
    files = there.repositories[NAME].files
    card = ModelCard(files["README.md"].decode())
    stated = (card.data.license, card.data.datasets, card.data.language, card.data.pipeline_tag, card.data.library_name)
    assert stated == ("mit", ["somebody/captions"], ["de", "en"], "sentence-similarity", "sentence-transformers")
    assert "- source: own recordings, not published\n" in card.text.partition("## Data")[2]
    assert f'SentenceEncoder.from_pretrained("{NAME}")\n' in card.text
    # Headlines as evaluation wrote them, and the dev scores of the manifest
    written = json.loads((own / "evaluation" / "results.json").read_text())["scores"]["sts"]
    index = {(result.dataset_name, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert index["STS12", "spearman_cosine"] == written["STS12"]["spearman"]
    manifest = json.loads((own / "best" / "mcse.json").read_text())
    assert {key[1]: value for key, value in index.items() if key[0] == "dev"} == manifest["scores"]
    found = {path: data for path, data in files.items() if path.startswith(".eval_results/")}
    assert [path for path in sorted(found)] == [
        f".eval_results/{task}.yaml" for task in ("SICK-R", "STS12", "STSBenchmark")
    ]
    for path, data in found.items():
        [entry] = parse_eval_result_entries(yaml.safe_load(data))
        assert path == f".eval_results/{entry.task_id}.yaml"
        assert entry.dataset_id == mteb.get_task(entry.task_id).metadata.dataset["path"]
        [task] = [ours for ours, name in MTEB_TASKS.items() if name == entry.task_id]
        assert entry.value == pytest.approx(written[task]["spearman"], abs=1e-5)


def test_results_of_other_weights_are_not_shown(there, trained, tmp_path):
    own = copied(trained(), tmp_path)
    write_model(make_scores(str(own), noise=0.2), own / "evaluation", digest="0" * 64, precision="float32")
    assert push(own, *STATED) == 0
    files = there.repositories[NAME].files
    assert {result.dataset_name for result in ModelCard(files["README.md"].decode()).data.eval_results} == {"dev"}
    assert not any(path.startswith(".eval_results/") for path in files)


def test_a_dry_run_lists_the_files_and_asks_nothing(there, trained, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert push(trained(), *STATED, "--dry-run") == 0
    said = capsys.readouterr().out
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in said.splitlines()[:-1]}
    best = trained() / "best"
    sizes = {path.relative_to(best).as_posix(): path.stat().st_size for path in best.rglob("*.*") if path.is_file()}
    assert listed.keys() == sizes.keys()
    assert all(listed[name] == size for name, size in sizes.items() if name != "README.md")
    assert "nothing was sent" in said
    assert there.asked == []


def test_from_python_the_encoder_itself_is_pushed_if_it_is_as_it_was_saved(there, trained):
    encoder = SentenceEncoder.from_pretrained(trained())
    with pytest.raises(ValueError, match="--licence"):
        encoder.push_to_hub(NAME)
    assert encoder.push_to_hub(NAME, licence="mit", datasets=["a/b"], dry_run=True).url is None
    assert there.asked == []
    pushed = encoder.push_to_hub(NAME, licence="mit", datasets=["a/b"])
    assert pushed.url == f"{there.url}/{NAME}/commit/{there.repositories[NAME].commits[-1][0]}"
    assert pushed.files.keys() == there.repositories[NAME].files.keys() - {".gitattributes"}
    for weight in encoder._modules()[0].parameters():
        weight.data *= 1.1
    with pytest.raises(ValueError, match="gives other embeddings than its files"):
        encoder.push_to_hub(NAME, licence="mit", datasets=["a/b"])


@pytest.mark.parametrize(
    ("flags", "name", "said"),
    [
        ((), NAME, "no licence; --licence NAME"),
        (("--licence", "mit"), NAME, "--data-source OWNER/NAME, or words"),
        (("--licence", "mit", "--data-source", "/tmp"), NAME, "'/tmp' is a path"),
        (STATED, "model", "it is OWNER/NAME"),
        (STATED, "some body/model", "is no name of a repository"),
    ],
)
def test_what_the_owner_must_say_is_asked_for_by_its_flag(there, trained, capsys, flags, name, said):
    assert push(trained(), *flags, name=name) == 2
    assert said in capsys.readouterr().err
    assert there.asked == []


def test_without_a_token_nothing_is_asked(there, trained, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert push(trained(), *STATED) == 2
    assert "no token of the hub: 'hf auth login' stores one, or set HF_TOKEN" in capsys.readouterr().err
    assert there.asked == []


def test_a_path_of_this_machine_is_refused_by_file(there, trained, capsys, tmp_path):
    own = copied(trained(), tmp_path)
    card = own / "best" / "README.md"
    plain = card.read_text()
    # Addresses and parts of words are no paths.
    card.write_text(f"{plain}\nSee https://huggingface.co/tmp/x, recall@1/5/10 and POST /v1/embeddings.\n")
    assert push(own, *STATED, "--dry-run") == 0
    for written in (f"see {tmp_path}/notes.txt", f"(file://{tmp_path}/notes.txt)", f"`{tmp_path}`"):
        card.write_text(f"{plain}\n{written}\n")
        assert push(own, *STATED) == 2
        assert f"README.md names a place of this machine, {tmp_path}" in capsys.readouterr().err
    assert there.asked == []


def test_a_damaged_checkpoint_and_other_peoples_folders_are_refused(there, trained, capsys, tmp_path):
    own = copied(trained(), tmp_path)
    weights = own / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert push(own, *STATED) == 2
    assert "model.safetensors is damaged" in capsys.readouterr().err
    (own / "best" / "mcse.json").unlink()
    assert push(own, *STATED) == 2
    assert "no run and no checkpoint of mcse" in capsys.readouterr().err
    assert there.asked == []


@pytest.mark.parametrize(("private", "flags", "said"), [(False, (), "is public"), (True, ("--public",), "is private")])
def test_a_repository_that_others_can_see_is_not_taken_for_a_private_one(there, trained, capsys, private, flags, said):
    there.make(NAME, private=private)
    assert push(trained(), *STATED, *flags) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Nothing was sent" in told
    assert there.repositories[NAME].files.keys() == {".gitattributes"}
    assert not any(asked.startswith(("PUT", "POST")) for asked in there.asked)


@pytest.mark.parametrize(
    ("token", "name", "said"),
    [("hf_wrong", NAME, "does not take the token (401)"), ("hf_writes", "other/model", "may not write there (403)")],
)
def test_a_token_that_is_refused_is_said(there, trained, capsys, monkeypatch, token, name, said):
    monkeypatch.setenv("HF_TOKEN", token)
    assert push(trained(), *STATED, name=name) == 1
    told = capsys.readouterr().err
    assert said in told
    assert "Nothing was sent" in told
    assert not there.repositories


@pytest.mark.parametrize(
    "broken",
    [{"cut": "PUT"}, {"cut": "POST .*/commit/"}, {"refused": {"PUT": 403}}, {"refused": {"POST .*/commit/": 500}}],
    ids=str,
)
def test_an_upload_that_fails_says_what_is_there_and_the_same_command_sends_it(there, trained, capsys, broken):
    for name, value in broken.items():
        setattr(there, name, value)
    assert push(trained(), *STATED) == 1
    told = capsys.readouterr().err
    assert f"mcse push: {NAME}: " in told
    assert "The repository shows nothing of it" in told
    assert there.repositories[NAME].files.keys() == {".gitattributes"}
    there.cut, there.refused = "", {}
    assert push(trained(), *STATED) == 0
    assert there.repositories[NAME].files.keys() >= {"model.safetensors", "mcse.json", "README.md"}


def test_a_hub_that_is_gone_is_said(there, trained, capsys):
    there.cut = ".*"
    assert push(trained(), *STATED) == 1
    assert f"mcse push: {NAME}: " in (told := capsys.readouterr().err)
    assert "Nothing was sent" in told
    there.cut = "(PUT|GET /api/models/somebody/model$)"
    there.make(NAME, private=True)
    assert push(trained(), *STATED) == 1
    assert not re.search("Traceback|None", capsys.readouterr().err)


def test_a_licence_that_the_hub_does_not_know_is_refused_before_the_weights_go(there, trained, capsys):
    assert push(trained(), "--licence", "my-own", "--data-source", "a/b") == 1
    told = capsys.readouterr().err
    assert '"license" must be one of' in told
    assert not any(asked.startswith("PUT") for asked in there.asked)


def test_a_second_push_replaces_the_model_and_keeps_what_others_put_there(there, trained, capsys):
    assert push(trained("vse"), *STATED) == 0
    repository = there.repositories[NAME]
    repository.commit({**repository.files, "figure.png": b"png", ".eval_results/STS12.yaml": b"old"})
    first = set(repository.files)
    forget_commits()
    assert push(trained(), *STATED) == 0
    assert "figure.png was there before, and stays" in capsys.readouterr().err
    manifest = json.loads(repository.files["mcse.json"])
    assert repository.files.keys() == {*manifest["files"], "mcse.json", "README.md", "figure.png", ".gitattributes"}
    assert first - repository.files.keys()  # files of vse alone are gone
    forget_commits()
    np.testing.assert_array_equal(
        SentenceEncoder.from_pretrained(NAME).encode(TEXTS), SentenceEncoder.from_pretrained(trained()).encode(TEXTS)
    )


def test_an_export_is_pushed_too(there, trained, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert main(["export", str(trained()), "--to", "onnx", "--output", str(tmp_path / "onnx")]) == 0
    assert push(tmp_path / "onnx", *STATED) == 0
    row_ND = SentenceEncoder.from_pretrained(NAME, backend="onnx").encode(TEXTS)
    np.testing.assert_allclose(row_ND, SentenceEncoder.from_pretrained(trained()).encode(TEXTS), atol=1e-5)
