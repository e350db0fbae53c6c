"""Model cards: what a model is, how it scores, how to load it, what it read, how it was trained."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mcse.report.hub_results import model_index
from mcse.report.markdown import code_block, code_span, escaped
from mcse.report.results import EarlierResults
from mcse.types import DataFile


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What every card tells of its run.

    Attributes:
        folder: The run's, of which the last two parts are the model's title.
        recipe: Such as ``mcse``.
        scores: By name; none before the first evaluation.
        config_yaml: The resolved configuration.
        data: What was read.
        licence: The hub's name of it; ``None`` where the configuration names none.
        languages: ISO codes; none where the configuration names none.
    """

    folder: Path
    recipe: str
    scores: Mapping[str, float]
    config_yaml: str
    data: Sequence[DataFile]
    licence: str | None = None
    languages: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The model's title, which is used in headings, code and commands: letters, digits and a few marks."""
        return model_title(self.folder)


def model_title(folder: Path) -> str:
    """What the card of a run calls its model."""
    return re.sub(r"[^\w.+=-]+", "-", "-".join(part for part in folder.parts[-2:] if part != "/"))


def sentence_card(
    run: CardFacts,
    *,
    base_model: str | None,
    prompt: str = "",
    datasets: Sequence[str] = (),
) -> str:
    """The card of a sentence encoder, Markdown with the front matter that the hub reads, as all cards are.

    Args:
        run: What was run.
        base_model: Hub id, folder or package path of the encoder that training started from; ``None`` is nothing.
        prompt: Put before every sentence.
        datasets: Hub ids of those that the hub has.
    """
    front = _front(
        run,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        datasets=list(datasets) or None,
        base_model=base_model if base_model is not None and _is_hub_id(base_model) else None,
        tags=["sentence-transformers", "feature-extraction", "sentence-similarity", *_tags(run)],
    )
    # All three ways to load the folder that the card lies in; they give the same embeddings.
    use = f"""```python
from mcse import SentenceEncoder
encoder = SentenceEncoder.from_pretrained("{run.name}")  # this folder
embeddings = encoder.encode(["A man plays the guitar."])  # (N, D) float32, unit norm

from sentence_transformers import SentenceTransformer
embeddings = SentenceTransformer("{run.name}").encode(["A man plays the guitar."])  # the same
```

`transformers.AutoModel` loads the folder too; its output still has to be pooled as `mcse.json` says."""
    if prompt:
        use += f"""

Sentences are encoded after the prompt {code_span(repr(prompt))}, which both put before them; with `AutoModel` put it
there yourself."""
    summary = f"Sentence embeddings trained with the recipe `{run.recipe}` of mcse from {_from(base_model)}."
    return _card(front, run, summary=summary, use=use)


def joint_card(run: CardFacts, *, text: str, images: str) -> str:
    """The card of a joint model of captions and images.

    Args:
        run: What was run.
        text: What the text side is.
        images: What the image features are of.
    """
    tags = ["image-text-retrieval", "visual-semantic-embedding", *_tags(run)]
    use = f"""```python
from mcse import JointEncoder
encoder = JointEncoder.from_pretrained("{run.name}")  # this folder
captions = encoder.encode_captions(["A dog runs."])  # (N, H) float32, unit norm
images = encoder.encode_image_features(features)  # from (N, F) features; encode_images(paths) where the tower is known
similarity = captions @ images.T
```"""
    sides = f"Captions ({escaped(text)}) and images ({escaped(images)})"
    summary = f"{sides} in one space, trained with the recipe `{run.recipe}` of mcse."
    front = _front(run, pipeline_tag="feature-extraction", tags=tags)
    return _card(front, run, summary=summary, use=use)


def word_card(run: CardFacts, *, source: str) -> str:
    """The card of a folder of grounded word vectors; ``source`` names the file of text vectors that were grounded."""
    ground = f"mcse words ground {run.name} --vectors {source} --output grounded.bin"
    use = f"""```python
from mcse.text.word_vectors import load_word_vectors
vectors = load_word_vectors("{run.name}/vectors.safetensors")  # this folder
```

`python evaluate.py {run.name} --suite wordsim sts` evaluates them; {code_span(ground)} grounds every word of the
source, say for gensim's `KeyedVectors.load_word2vec_format`."""
    summary = f"Word vectors of {code_span(source)}, visually grounded with the recipe `{run.recipe}` of mcse."
    return _card(_front(run, tags=["word-vectors", *_tags(run)]), run, summary=summary, use=use)


def tagger_card(run: CardFacts, *, base_model: str, types: Sequence[str]) -> str:
    """The card of a tagger of entities of these types, trained from ``base_model``."""
    front = _front(
        run,
        pipeline_tag="token-classification",
        base_model=base_model if _is_hub_id(base_model) else None,
        tags=["token-classification", "named-entity-recognition", *_tags(run)],
    )
    use = f"""```python
from mcse import TweetTagger
tagger = TweetTagger.from_pretrained("{run.name}")  # this folder
for entity in tagger("Kevin Durant enters Oracle Arena"):  # image="photo.jpg" where it was trained with images
    print(entity.kind, entity.text, entity.score)
```"""
    kinds = ", ".join(map(escaped, types))
    summary = f"Finds {kinds} in tweets; trained with the recipe `{run.recipe}` of mcse from {_from(base_model)}."
    return _card(front, run, summary=summary, use=use)


def word_model_card(run: CardFacts, *, summary: str, use: str) -> str:
    """The card of a model of words in context.

    Args:
        run: What was run.
        summary: A sentence or two on what the model is.
        use: Python that loads it from the current folder.
    """
    front = _front(
        run,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["feature-extraction", "contextual-word-vectors", *_tags(run)],
    )
    return _card(front, run, summary=summary, use=f"```python\n{use.strip()}\n```")


def _front(run: CardFacts, **known: Any) -> ModelCardData:
    """The front matter: what is known of every run, and of its kind. Nothing is said of what nobody stated."""
    return ModelCardData(
        language=list(run.languages) or None,
        license=run.licence,
        # ``model-index``, which needs a name
        model_name=run.name if run.scores else None,
        eval_results=model_index(None, run.scores) or None,
        **known,
    )


def with_results(card: str, results: EarlierResults, *, selected_by: str | None = None) -> str:
    """The card with the headline scores of ``results`` in its ``model-index``, beside the rows that it has.

    Args:
        card: As Markdown with its front matter.
        results: Of the model, from all its evaluations: a row of ours is replaced by its new value.
        selected_by: The task that selected the checkpoint, which is no test; the card has its scores already.

    Raises:
        ValueError: The card's front matter cannot be read.
    """
    whole = ModelCard(card)
    front = whole.data
    title = re.search(r"^# (.+)$", whole.text, flags=re.MULTILINE)
    found = [row for row in model_index(results, {}) if row.dataset_name != selected_by]
    known = {_row_name(row) for row in found}
    front.model_name = front.model_name or (title[1] if title else "model")
    front.eval_results = [*(row for row in front.eval_results or [] if _row_name(row) not in known), *found]
    return f"---\n{front.to_yaml()}\n---\n{whole.text}"


def _row_name(row: EvalResult) -> tuple[str, str | None, str]:
    """What tells rows of a ``model-index`` apart."""
    return row.dataset_name, row.dataset_split, row.metric_type


def with_scores(card: str, score_table: str) -> str:
    """The card with another table of scores; a card that has no place for scores, somebody's own, is left alone."""
    before, heading, rest = card.partition("\n## Scores\n")
    _, use, after = rest.partition("\n## Use\n")
    return f"{before}{heading}\n{score_table.strip()}\n{use}{after}" if use else card


_HUB_ID = re.compile(r"(?:hf://datasets/)?([\w.-]+/[\w.-]+)(?:/.*)?")


def published_card(
    card: str,
    *,
    repository: str,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    languages: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
) -> str:
    """The card of a checkpoint as it goes to the hub, with what only its owner knows.

    Args:
        card: As the run wrote it.
        repository: ``OWNER/NAME``, which is the model's name from now on.
        licence: The hub's name of the licence; by default what the card says.
        datasets: Ids of the hub, ``OWNER/NAME`` (also ``hf://datasets/…``), or words; beside what the card says.
        languages: ISO codes; by default what the card says.
        results: For ``model-index``.

    Raises:
        ValueError: There is no licence, or nothing is said of the data; a source of data is a path of this machine; or
            the card's front matter cannot be read.
    """
    try:
        whole = ModelCard(card)
    except ValueError as error:
        raise ValueError(f"README.md: its front matter cannot be read: {error}") from None
    front = whole.data
    front.license = licence or front.get("license")
    if not front.license:
        raise ValueError("the model has no licence; --licence NAME gives it, such as --licence mit")
    ids, words = list(front.get("datasets", [])), []
    for source in datasets:
        if not source.strip() or os.path.exists(source) or source.startswith((".", "/", "~")):
            raise ValueError(
                f"--data-source: {source!r} is a path or empty; give an id of the hub, an address or words"
            )
        found = _HUB_ID.fullmatch(source)
        ids.append(found[1]) if found else words.append(source)
    if not ids and not words:
        raise ValueError("nothing says what the model was trained on; --data-source OWNER/NAME, or words, says it")
    front.datasets = list(dict.fromkeys(ids)) or None
    front.language = list(languages) or front.get("language")
    front.library_name = front.get("library_name", "mcse")
    front.model_name, front.eval_results = repository.partition("/")[2], list(results) or None
    return f"---\n{front.to_yaml()}\n---\n\n{_published_body(whole.text, repository, words)}"


def _published_body(body: str, repository: str, sources: Sequence[str]) -> str:
    """Headed and loaded by the repository's name, with sources of data in words."""
    body = body.strip() + "\n"
    if title := re.match(r"# (.+)\n", body):
        name, rest = title[1], body[title.end() :]
        before, heading, use = rest.partition("\n## Use\n")
        use, data, after = use.partition("\n## Data\n")
        use = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])", repository, use).replace("  # this folder", "")
        body = f"# {repository}\n{before}{heading}{use}{data}{after}"
    listed = "".join(f"- source: {escaped(source)}\n" for source in sources)
    before, heading, after = body.partition("\n## Data\n\n")
    return f"{before}{heading}{listed}{after}" if heading else f"{body}\n## Data\n\n{listed}" if listed else body


def _card(front: ModelCardData, run: CardFacts, *, summary: str, use: str) -> str:
    scores = [
        "| score | value |",
        "|---|---|",
        *(f"| {escaped(name)} | {value:.4g} |" for name, value in run.scores.items()),
    ]
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# {run.name}",
        summary,
        "## Scores",
        "\n".join(scores) if run.scores else "Not evaluated yet.",
        "## Use",
        use,
        "## Data",
        "\n".join(f"- {file.role}: {escaped(Path(file.path).name)} ({file.digest})" for file in run.data)
        or "Not recorded.",
        "## Configuration",
        code_block(run.config_yaml, language="yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _tags(run: CardFacts) -> tuple[str, str]:
    return "mcse", f"recipe:{run.recipe}"


def _from(base_model: str | None) -> str:
    """What training started from; of a folder on somebody's machine its own name."""
    if base_model is None:
        return "scratch"
    is_place = base_model.startswith((".", "/", "~")) or "\\" in base_model
    return code_span(re.split(r"[/\\]", base_model.rstrip("/\\"))[-1] if is_place else base_model)


def _is_hub_id(base_model: str) -> bool:
    """A folder or package path on somebody's machine is not something that the hub could link to."""
    return base_model.count("/") <= 1 and ":" not in base_model and not base_model.startswith((".", "/", "~"))
