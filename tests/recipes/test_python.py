"""``mcse.train`` and ``mcse.evaluate`` beside the commands: the same numbers, errors as exceptions, one process."""

from __future__ import annotations

import builtins
import inspect
import json
import os
import shlex
import signal
import threading
from pathlib import Path

import pytest
import torch

import mcse
from mcse.api.wording import arguments_of, in_python
from mcse.commands import evaluate
from mcse.commands.main import main
from mcse.recipes.launch import load_config
from mcse.training.loop import Loop
from tests.fixtures.launch import assert_same_run, entries, one_thread, own_cache, run
from tests.fixtures.tiny_models import build_tiny_bert
from tests.fixtures.tiny_run import build_tiny_run, tiny_keys

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module", autouse=True)
def as_the_commands_run(tiny):
    with one_thread(), own_cache(tiny):
        yield


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Two runs of one process, the second in another precision, as ``mcse.train`` returned them."""
    folder = tmp_path_factory.mktemp("runs")
    first = mcse.train({}, **tiny_keys(tiny, "mcse", folder / "mcse"))
    second = mcse.train({}, **tiny_keys(tiny, "simcse", folder / "simcse") | {"train.precision": "bf16"})
    return first, second


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_a_run_equals_that_of_the_command_bit_for_bit(tiny, trained, tmp_path):
    for found, keys in zip(trained, ({}, {"train.precision": "bf16"}), strict=True):
        recipe = found.folder.name
        assert run(tiny, recipe, tmp_path / recipe, keys) == 0
        assert_same_run(found.folder, tmp_path / recipe)


def test_a_run_says_what_its_files_say(trained):
    found, _ = trained
    dev = {line["step"]: line["dev.spearman"] for line in entries(found.folder) if "dev.spearman" in line}
    assert (found.score_name, found.steps) == ("dev.spearman", 6)
    assert found.score == max(dev.values())
    assert dev[found.best_step] == found.score
    history = found.history
    assert history.index.name == "step"
    assert list(history.index) == sorted({line["step"] for line in entries(found.folder)})
    assert history["dev.spearman"].dropna().to_dict() == dev
    losses = {line["step"]: line["loss"] for line in entries(found.folder) if "loss" in line}
    assert history["loss"].dropna().to_dict() == losses
    assert found.encoder(device="cpu").encode(["the dog runs"]).shape == (1, 32)
    assert mcse.FinishedRun.read(found.folder) == found


def test_a_configuration_comes_as_file_mapping_or_object(tiny, place):
    keys = tiny_keys(tiny, "simcse", place / "one") | {"train.max_steps": 2, "train.eval_steps": 2}
    config = load_config({}, keys=keys)
    runs = [mcse.train(config)]
    Path("run.yaml").write_text((place / "one" / "config.yaml").read_text(), encoding="utf-8")
    runs.append(mcse.train("run.yaml", output_dir="two", train={"log_steps": 2}))
    nested = {"recipe": "simcse", "output_dir": Path("three"), "data": {"root": tiny, "sentences": "sentences.txt"}}
    nested |= {"encoder": {"name_or_path": tiny / "bert"}, "optim": {"learning_rate": 1e-3}}
    nested["train"] = {"batch_size": 8, "max_steps": 2, "eval_steps": 2, "select_by": "dev.spearman"}
    runs.append(mcse.train(nested, **{"data.sts": "dev.tsv"}))
    runs.append(mcse.train(config, output_dir="four"))
    assert len({run.score for run in runs}) == 1
    assert [run.folder.name for run in runs] == ["one", "two", "three", "four"]


def test_another_variant_of_a_group_wins_over_the_file(tiny):
    base = tiny_keys(tiny, "mcse", Path("runs")) | {"data.images": {"features": "features.hdf5"}}
    images = {"folder": "photos", "tower": "pixels:4"}
    config = load_config(load_tree(base), keys={"data.images": images})
    assert (config.data.images.folder, config.data.images.tower) == ("photos", "pixels:4")


def load_tree(keys):
    from mcse.config import merge

    tree = {}
    for name, value in keys.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


@pytest.mark.parametrize(
    ("config", "keys", "message"),
    [
        ("nowhere.yaml", {}, "no file at nowhere.yaml"),
        ("mcse:simcse/bert_bas_unsup", {}, "did you mean simcse/bert_base_unsup"),
        ({"recipe": "simcse"}, {"optim": {"lr": 1}}, "overrides: unknown key 'optim.lr'"),
        ({"recipe": "simcse", "optim": {"lr": 1}}, {}, "config: unknown key 'optim.lr'"),
        ({"recipe": "simcse"}, {"train": {"batch_size": "many"}}, "train.batch_size: input should be"),
        (3, {}, "config: expected a file, mcse:NAME, a mapping or a recipe's Config, got int"),
    ],
)
def test_a_wrong_configuration_is_an_exception(place, config, keys, message):
    with pytest.raises(ValueError, match=message):
        mcse.train(config, **keys)


def test_a_run_is_neither_replaced_nor_gone_on_with_unasked(tiny, trained):
    keys = tiny_keys(tiny, "mcse", trained[0].folder)
    with pytest.raises(ValueError, match=r"is not empty; give train\.resume auto .*, overwrite=True to delete it"):
        mcse.train({}, **keys)
    assert mcse.train({}, **keys | {"train.resume": "auto"}) == trained[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_has_saved_and_goes_on(tiny, trained, place, monkeypatch, number):
    step = Loop._step

    def stopping(loop):
        step(loop)
        if loop.progress.step == 3:
            os.kill(os.getpid(), number)

    keys = tiny_keys(tiny, "mcse", place / "mcse")
    monkeypatch.setattr(Loop, "_step", stopping)
    with pytest.raises(KeyboardInterrupt, match="goes on"):
        mcse.train({}, **keys)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ValueError, match="is stopped, after step 3"):
        mcse.FinishedRun.read(place / "mcse")
    monkeypatch.setattr(Loop, "_step", step)
    assert mcse.train({}, **keys | {"train.resume": "auto"}).score == trained[0].score
    assert_same_run(place / "mcse", trained[0].folder)


def test_a_run_trains_in_another_thread(tiny, trained, place):
    found = []
    keys = tiny_keys(tiny, "mcse", place / "mcse")
    thread = threading.Thread(target=lambda: found.append(mcse.train({}, **keys)))
    thread.start()
    thread.join()
    assert found[0].score == trained[0].score


def test_results_equal_the_files_of_the_command(tiny, trained, place):
    models, data = [str(run.folder) for run in trained], tiny / "dev.tsv"
    results = mcse.evaluate(models, data=data, use_cache=False, teachers=False)
    command = ["evaluate", *models, "--data", str(data), "--no-cache"]
    assert main([*command, "--output", "theirs"]) == 0
    assert results.save("ours") == Path("ours")
    names = sorted(path.relative_to("theirs") for path in Path("theirs").rglob("*") if path.is_file())
    assert names == sorted(path.relative_to("ours") for path in Path("ours").rglob("*") if path.is_file())
    assert len([name for name in names if name.name == "results.json"]) == 2
    for name in names:
        if name.suffix in (".json", ".md", ".tex"):
            # When and by what command they were made differs.
            ours, theirs = ((Path(of) / name).read_text().partition("How this was made") for of in ("ours", "theirs"))
            assert ours[0] == theirs[0], name
            assert bool(ours[1]) == bool(theirs[1]) == (name.suffix != ".json"), name
    assert results.models == tuple(models)
    assert results.comparison() == read("theirs/comparison.json")
    for model in models:
        (own,) = [
            read("theirs" / name)
            for name in names
            if name.name == "results.json" and read("theirs" / name)["model"] == model
        ]
        assert results.raw(model) == own


def test_one_model_is_saved_as_the_command_does(tiny, trained, place):
    folder, data = trained[0].folder, tiny / "dev.tsv"
    results = mcse.evaluate(folder, suites="sts", data=data)
    assert main(["evaluate", str(folder), "--data", str(data), "--output", "theirs"]) == 0
    results.save("ours")
    assert results.raw() == read("theirs/results.json") == read("ours/results.json")
    assert {path.name for path in Path("ours").iterdir()} == {path.name for path in Path("theirs").iterdir()}


def test_a_run_is_evaluated_on_its_own_pairs_as_by_the_command(trained, place, monkeypatch):
    monkeypatch.delenv("MCSE_DATA", raising=False)
    folder = trained[0].folder
    results = mcse.evaluate(folder)
    assert main(["evaluate", str(folder), "--output", "theirs"]) == 0
    assert results.raw() == read("theirs/results.json")
    assert "the run's own data.sts" in results._repr_html_()


def test_an_encoder_in_memory_has_the_scores_of_its_folder(tiny, trained):
    run, data = trained[0], tiny / "dev.tsv"
    encoder = run.encoder(device="cpu")
    results = mcse.evaluate([encoder, encoder, run.folder], data=data)
    assert results.models == (str(run.folder) + " (2)", str(run.folder) + " (3)", str(run.folder))
    scores = [results.raw(model)["scores"] for model in results.models]
    assert scores[0]["sts"] == scores[1]["sts"] == scores[2]["sts"]
    with torch.no_grad():
        for parameter in encoder._encoder.parameters():
            parameter.copy_(torch.randn_like(parameter))
    assert mcse.evaluate(encoder, data=data).raw()["scores"]["sts"] != scores[0]["sts"]


def test_a_comparison_has_the_commands_numbers(tiny, trained, place):
    models, data = [run.folder for run in trained], tiny / "dev.tsv"
    results = mcse.evaluate(models, data=data, compare=True)
    assert main(["evaluate", *map(str, models), "--data", str(data), "--compare", "--output", "theirs"]) == 0
    found = results.comparison()
    assert found == read("theirs/comparison.json")
    assert found["comparison"]["scores"][0]["low"] <= found["comparison"]["scores"][0]["difference"]
    assert "−" in results.plot().axes[0].get_xlabel()


def test_results_as_a_table_a_plot_and_html(tiny, trained, place):
    folder = trained[0].folder
    results = mcse.evaluate(folder, data=tiny / "dev.tsv")
    scores = results.raw()["scores"]["sts"]["dev"]
    table = results.to_pandas().set_index(["suite", "task", "metric"])
    row = table.loc[("sts", "dev", "spearman")]
    assert (row["value"], row["low"], row["high"]) == tuple(
        scores[name] for name in ("spearman", "spearman_low", "spearman_high")
    )
    assert table.loc[("sts", "dev", "pairs")]["value"] == 40
    assert not [metric for *_, metric in table.index if metric.endswith(("_low", "_high"))]
    figure = results.plot()
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert list(line.get_xdata()) == [scores["spearman"]]
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no scores of the suite 'transfer'; there are those of sts"):
        results.plot("transfer")
    html = results._repr_html_()
    assert f"<td>{scores['spearman']:.2f}</td>" in html
    assert f"{scores['spearman']:.2f}" in repr(results)
    with pytest.raises(ValueError, match="no scores of 'other'; there are those of"):
        results.raw("other")


def test_names_of_models_are_no_markup(tiny, place):
    model = build_tiny_bert(place / "<b>&", texts=["a dog runs"])
    html = mcse.evaluate(model, data=tiny / "dev.tsv", pooling="mean")._repr_html_()
    assert "&lt;b&gt;&amp;" in html
    assert "<b><b>" not in html


class LazyModel:
    """Is never asked for anything."""

    pooling, dimension, name = "none", 2, "lazy"

    def encode(self, sentences, **keys):
        raise AssertionError


WIDTHS = {"dims": [8, 4], "rows": ["int8", "float16"]}
RETRIEVAL = {"suites": "retrieval", "captions": "captions.csv", "features": "features.hdf5"}
ASKED = {
    "forms": (WIDTHS, "--dims 8 4 --rows int8 float16"),
    "prompt": ({"prompt": "a photo: "}, "--prompt 'a photo: '"),
    "names": ({"names": ["one", "two"]}, "--names one two"),
    "backends": ({"backends": ["torch", "onnx"]}, "--backend torch onnx"),
    "folds": (RETRIEVAL | {"folds": 3}, "--suite retrieval --captions captions.csv --features features.hdf5 --folds 3"),
}


@pytest.mark.parametrize("kind", ASKED)
def test_whatever_is_asked_results_equal_the_commands(kind, tiny, trained, place, monkeypatch):
    monkeypatch.setenv("MCSE_DATA", str(tiny))  # below which both find data
    keys, flags = ASKED[kind]
    if kind == "backends":
        pytest.importorskip("onnxruntime")
    models = [str(run.folder) for run in trained]
    if kind in ("backends", "folds"):
        models = models[:1]
    data = {} if kind == "folds" else {"data": "dev.tsv"}
    results = mcse.evaluate(models, **data, use_cache=False, teachers=False, **keys)
    command = ["evaluate", *models, *shlex.split(flags), "--no-cache", "--no-teachers", "--output", "theirs"]
    assert main([*command, *(["--data", "dev.tsv"] if data else [])]) == 0
    results.save("ours")
    names = sorted(path.relative_to("theirs") for path in Path("theirs").rglob("*") if path.is_file())
    assert names == sorted(path.relative_to("ours") for path in Path("ours").rglob("*") if path.is_file())
    for name in names:
        if name.suffix in (".json", ".md", ".tex"):
            ours, theirs = (
                (Path(of) / name).read_text().partition("How this was made")[0] for of in ("ours", "theirs")
            )
            assert ours == theirs, name
    if kind == "folds":
        assert "in 3 folds" in results.raw()["protocols"]["retrieval"]
        assert (
            results.raw()["scores"]["retrieval"]["rsum"]
            != mcse.evaluate(models, **RETRIEVAL).raw()["scores"]["retrieval"]["rsum"]
        )


def test_python_has_whatever_the_command_has_but_its_listings():
    renamed = {"compared": "compare", "no_cache": "use_cache", "no_teachers": "teachers"}
    listings = {"errors", "contamination", "mteb_files", "items", "output", "list_suites"}
    command = {renamed.get(name, name) for name in inspect.signature(evaluate.run).parameters} - listings
    assert command == arguments_of(mcse.evaluate).keys()


def test_one_text_is_a_list_of_one_and_a_name_is_taken_in_memory_too(tiny, trained):
    encoder = trained[0].encoder(device="cpu")
    data = tiny / "dev.tsv"
    found = mcse.evaluate(encoder, names="mine", rows="int8", dims=8, data=data)
    assert found.evaluated.systems[0].shown == "mine"
    listed = mcse.evaluate([encoder], names=["mine"], rows=["int8"], dims=[8], data=data)
    assert found.raw()["scores"] == listed.raw()["scores"]
    assert len(found.raw()["scores"]) > 1


def test_what_evaluate_does_not_take_is_refused(trained):
    with pytest.raises(TypeError, match=r"evaluate\(\) got an unexpected keyword argument 'dim'"):
        mcse.evaluate(trained[0].folder, dim=[8])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("give --overwrite to delete it", "give overwrite=True to delete it"),
        ("--show-progress and --config", "show_progress and config"),
        ("--train.resume auto goes on", "train.resume auto goes on"),
        ("mcse export x --config y makes one; --config z", "mcse export x --config y makes one; config z"),
        ("(mcse search index has --config STORE), --config", "(mcse search index has --config STORE), config"),
        ("--unknown stays", "--unknown stays"),
    ],
)
def test_errors_name_arguments_and_leave_commands_alone(text, expected):
    assert in_python(text, arguments_of(mcse.train)) == expected


@pytest.mark.parametrize(
    ("models", "keys", "message"),
    [
        ("nowhere", {}, "nowhere"),
        ([], {}, "at least one"),
        (["a", "a"], {}, "given twice"),
        (["."], {"compare": True}, "compare=True takes exactly two models"),
        (".", {"names": ["a", "b"]}, "names takes a name for each MODEL: 1, got 2"),
        (".", {"folds": 0}, "folds must be positive"),
        (".", {"tasks": ["STS13"]}, "tasks names tasks of suites mteb"),
        (".", {"prompt": "a", "prompt_name": "b"}, "prompt and prompt_name: give one of them"),
        (".", {"columns": ["a=b"]}, "columns names the columns of suites table"),
        (".", {"rows": ["int9"]}, "rows: there is no 'int9'; known: float32, "),
        (".", {"backends": ["jax"]}, "backends: there is no 'jax'; known: torch, "),
        ("a", {"suites": "stss"}, "suites: there is no 'stss'; known: sts, "),
        (LazyModel(), {"data": "nowhere.tsv"}, "^data: neither a folder nor a file at nowhere.tsv"),
        (3, {}, "models: expected names or encoders, got int"),
    ],
)
def test_what_cannot_be_evaluated_is_an_exception(tiny, place, models, keys, message):
    with pytest.raises((ValueError, OSError), match=message):
        mcse.evaluate(models, **{"data": tiny / "dev.tsv"} | keys)


def test_a_model_that_fails_is_named(tiny, trained, place):
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="empty") as caught:
        mcse.evaluate([trained[0].folder, "empty"], data=tiny / "dev.tsv")
    assert caught.value.__notes__ == ["while evaluating empty"]


def test_an_encoder_in_memory_keeps_its_pooling(tiny, trained):
    with pytest.raises(ValueError, match="an encoder in memory has its own"):
        mcse.evaluate(trained[0].encoder(), data=tiny / "dev.tsv", pooling="cls")


def test_without_pandas_the_error_says_so(tiny, trained, monkeypatch):
    plain = builtins.__import__

    def without(name, *rest, **more):
        if name == "pandas":
            raise ImportError(name)
        return plain(name, *rest, **more)

    results = mcse.evaluate(trained[0].folder, data=tiny / "dev.tsv")
    monkeypatch.setattr(builtins, "__import__", without)
    for table in (results.to_pandas, lambda: trained[0].history):
        with pytest.raises(ImportError, match=r"pip install 'mcse\[pandas\]'"):
            table()
