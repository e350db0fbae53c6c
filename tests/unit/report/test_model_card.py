"""The model card's front matter, as the hub reads it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from markdown_it import MarkdownIt

from mcse.data.config import DataConfig
from mcse.data.source_variants import FileCaptions, FileSentences, HubCaptions, TableFile, TableSentences
from mcse.export.card import export_card
from mcse.manifest import Located, Manifest
from mcse.recipes.export import _hub_datasets
from mcse.report.evaluation_files import update_card, write_model
from mcse.report.model_card import (
    CardFacts,
    joint_card,
    published_card,
    sentence_card,
    tagger_card,
    word_card,
    word_model_card,
)
from mcse.types import DataFile, ScoreKey
from tests.fixtures.model_scores import make_scores

RUN = CardFacts(
    folder=Path("x"),
    recipe="mcse",
    scores={},
    config_yaml="seed: 0",
    data=[DataFile("sentences", "here/a.txt", "0123")],
)


def front_of(**changes):
    card = sentence_card(RUN, **{"base_model": "google-bert/bert-base-uncased", **changes})
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_links_the_hubs_base_model_and_datasets():
    front = front_of(datasets=["princeton-nlp/datasets-for-simcse"])
    assert front["datasets"] == ["princeton-nlp/datasets-for-simcse"]
    assert front["base_model"] == "google-bert/bert-base-uncased"
    assert "recipe:mcse" in front["tags"]


def test_the_card_links_no_file_of_somebodys_machine():
    front = front_of(base_model="package:some_package/model")
    assert "datasets" not in front
    assert "base_model" not in front


def test_the_card_shows_scores_and_names_what_was_read_without_its_folder():
    assert "Not evaluated yet." in sentence_card(RUN, base_model="x")
    card = sentence_card(replace(RUN, scores={"dev.spearman": 83.256}), base_model="x")
    assert "| dev.spearman | 83.26 |" in card
    assert "- sentences: a.txt (0123)" in card


def test_a_card_says_nothing_that_nobody_stated():
    """Cards once said ``language: en`` of every model, and had neither licence nor results."""
    cards = [
        sentence_card(RUN, base_model=None),
        joint_card(RUN, text="t", images="i"),
        tagger_card(RUN, base_model="x", types=["PER"]),
        word_card(RUN, source="v.txt"),
        word_model_card(RUN, summary="s", use="u"),
    ]
    stated = replace(RUN, licence="cc-by-sa-4.0", languages=("de", "sw"), scores={"dev.spearman": 81.25})
    for card in cards:
        front = yaml.safe_load(card.split("---\n")[1])
        assert not {"language", "license", "model-index"} & front.keys()
    card = sentence_card(stated, base_model=None)
    read = ModelCard(card).data
    assert (read.license, read.language) == ("cc-by-sa-4.0", ["de", "sw"])
    (row,) = read.eval_results
    assert (row.dataset_name, row.metric_type, row.metric_value) == ("dev", "dev.spearman", 81.25)


@pytest.mark.parametrize("stated", [{}, {"licence": "mit", "languages": ["de"]}])
def test_the_card_of_an_export_states_what_the_run_does(stated):
    manifest = Manifest(kind="sentence", recipe="mcse", config={"data": stated})
    model = Located(name="runs/mcse", kind="sentence", path="runs/mcse/best", manifest=manifest)
    front = yaml.safe_load(export_card(model, {"to": "onnx"}, notes=[]).split("---\n")[1])
    assert front == {"tags": ["mcse"], **({"license": "mit", "language": ["de"]} if stated else {})}


def test_what_evaluate_found_goes_into_the_model_index_once(tmp_path):
    run = tmp_path / "runs" / "mcse"
    (run / "best").mkdir(parents=True)
    path = run / "best" / "README.md"
    path.write_text(sentence_card(replace(RUN, folder=run, scores={"dev.spearman": 81.25}), base_model="org/name"))
    before = path.read_text().split("---\n", 2)[2]
    scores = make_scores(str(run), noise=0.2)
    for _ in range(2):
        write_model(scores, run / "evaluation", digest="0", precision="float32")
        update_card(scores, run / "evaluation")
    read = ModelCard.load(path).data
    found = {(row.dataset_name, row.metric_type): row.metric_value for row in read.eval_results}
    headlines = {(column.key.task, "spearman_cosine"): scores.get(column.key) for column in scores.all.compared}
    assert headlines
    assert found == pytest.approx({("dev", "dev.spearman"): 81.25, **headlines})
    assert len(read.eval_results) == len(found)
    assert read.model_name == "runs-mcse"
    assert str(tmp_path) not in path.read_text()
    assert path.read_text().partition("## Use")[2] == before.partition("## Use")[2]


def test_the_pairs_that_selected_a_checkpoint_are_no_test_and_an_owners_rows_stay(tmp_path):
    """Every call of evaluate once added a row for ``dev.tsv``, as a test, and rows of other people were lost."""
    run = tmp_path / "runs" / "mcse"
    (run / "best").mkdir(parents=True)
    (run / "config.yaml").write_text("recipe: simcse\ntrain: {}\ndata: {sts: sts/A.tsv}\n")
    path = run / "best" / "README.md"
    card = ModelCard(sentence_card(replace(RUN, folder=run, scores={"A.spearman": 81.25}), base_model="org/name"))
    theirs = EvalResult(
        task_type="x", dataset_type="x", dataset_name="own", dataset_split="test", metric_type="f1", metric_value=1.0
    )
    card.data.eval_results = [*card.data.eval_results, theirs]
    path.write_text(f"---\n{card.data.to_yaml()}\n---\n{card.text}")
    for folder, noise in ((run / "evaluation", 0.2), (tmp_path / "elsewhere", 0.4)):
        scores = make_scores(str(run), noise=noise)
        write_model(scores, folder, digest="0", precision="float32")
        update_card(scores, folder)
        rows = {
            (row.dataset_name, row.dataset_split): row.metric_value for row in ModelCard.load(path).data.eval_results
        }
        assert rows == pytest.approx(
            {
                ("dev", "validation"): 81.25,
                ("own", "test"): 1.0,
                **{(task, "test"): scores.get(ScoreKey("sts", task, "spearman")) for task in ("B", "average")},
            }
        )


def test_a_card_whose_front_matter_cannot_be_read_is_left_as_it_is(tmp_path, caplog):
    run = tmp_path / "mcse"
    (run / "best").mkdir(parents=True)
    path = run / "best" / "README.md"
    path.write_text("---\n- a\n---\nMy words.\n")
    scores = make_scores(str(run), noise=0.2)
    write_model(scores, run / "evaluation", digest="0", precision="float32")
    update_card(scores, run / "evaluation")
    assert path.read_text() == "---\n- a\n---\nMy words.\n"
    assert "front matter, which cannot be read" in caplog.text


def test_only_what_is_surely_the_hubs_is_linked():
    hub = "hf://datasets/princeton-nlp/datasets-for-simcse/wiki1m_for_simcse.txt"
    captions = FileCaptions(file="flickr8k/captions.txt")
    assert _hub_datasets(DataConfig(sentences=FileSentences(file=hub))) == ["princeton-nlp/datasets-for-simcse"]
    table = TableSentences(table=TableFile(path=hub.replace("txt", "csv")))
    assert _hub_datasets(DataConfig(sentences=table)) == ["princeton-nlp/datasets-for-simcse"]
    assert _hub_datasets(DataConfig(captions=HubCaptions(hub="a/b::train"))) == ["a/b"]
    assert _hub_datasets(DataConfig(sentences=FileSentences(file="wiki/a.txt"), captions=captions)) == []
    assert _hub_datasets(DataConfig(captions=captions)) == []


NASTY = "a</script><img src=x onerror=alert(1)>`|[x](javascript:1)\x1b[31m_b_\n# c\n```"


def test_names_end_neither_a_card_nor_its_code():
    """What Markdown makes of a card is text: asked of a parser of its own."""
    run = replace(
        RUN,
        folder=Path("runs") / NASTY.replace("/", ""),
        scores={NASTY: 1.0},
        config_yaml=f"sts: |\n  {NASTY}\n  ```",
        data=[DataFile("sentences", NASTY.replace("/", ""), "0123")],
    )
    cards = [
        sentence_card(run, base_model=NASTY),
        joint_card(run, text=NASTY, images=NASTY),
        tagger_card(run, base_model=NASTY, types=[NASTY]),
        word_card(run, source=NASTY),
    ]
    for card in cards:
        assert "\x1b" not in card
        tokens = MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2])
        inner = [child for token in tokens for child in (token, *(token.children or ()))]
        kinds = {token.type for token in inner}
        assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open"}
        headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
        assert headings[1:] == ["Scores", "Use", "Data", "Configuration"]
        assert sum(token.type == "fence" for token in tokens) == 2


def test_a_card_names_no_folder_of_somebodys_machine():
    for base_model in ("/home/me/secret/bert", "../secret/bert", "~/secret/bert", "C:\\secret\\bert"):
        for card in (sentence_card(RUN, base_model=base_model), tagger_card(RUN, base_model=base_model, types=["PER"])):
            assert "`bert`" in card
            assert "secret" not in card
            assert "base_model" not in card


def test_the_table_that_evaluation_puts_into_a_card_names_no_folder_of_this_machine(tmp_path):
    run = tmp_path / "runs" / "mcse"
    (run / "best").mkdir(parents=True)
    card = run / "best" / "README.md"
    card.write_text(sentence_card(replace(RUN, folder=run), base_model="org/name"))
    update_card(make_scores(str(run), noise=0.2), run / "evaluation")
    text = card.read_text()
    assert "Not evaluated yet." not in text
    assert "runs-mcse" in text.partition("## Scores")[2].partition("## Use")[0]
    assert str(tmp_path) not in text


def published(**changes):
    card = sentence_card(RUN, base_model="google-bert/bert-base-uncased", datasets=["a/in-the-card"])
    return published_card(card, **{"repository": "me/model", "licence": "mit", **changes})


def test_a_published_card_keeps_what_the_run_said_and_adds_what_its_owner_says():
    card = published(datasets=["hf://datasets/a/b/file.txt", "a/in-the-card", NASTY])
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == "google-bert/bert-base-uncased"
    assert front["datasets"] == ["a/in-the-card", "a/b"]
    assert front["license"] == "mit"
    assert "language" not in front
    assert "recipe:mcse" in front["tags"]
    assert "model-index" not in front
    tokens = MarkdownIt("commonmark").parse(card.split("---\n", 2)[2])
    assert not {child.type for token in tokens for child in token.children or ()} & {
        "html_inline",
        "link_open",
        "image",
    }
    assert 'from_pretrained("me/model")' in card
    assert card.count("# me/model\n") == 1


def test_a_card_of_somebodys_own_is_published_with_its_words():
    card = published_card(
        "---\nlicense: apache-2.0\n---\n\nMy words.\n", repository="me/model", datasets=[" ".join(["own data"] * 60)]
    )
    front, body = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert body.strip() == "My words.\n\n## Data\n\n- source: " + " ".join(["own data"] * 60)
    with pytest.raises(ValueError, match="front matter cannot be read"):
        published_card("---\n- a\n---\nWords.", repository="me/model", licence="mit", datasets=["a/b"])
