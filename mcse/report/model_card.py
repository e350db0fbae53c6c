"""The model card of a checkpoint: what the model is, how it scores, how to load it, how it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from huggingface_hub import ModelCardData


def build_model_card(
    *,
    name: str,
    base_model: str,
    recipe: str,
    score_table: str,
    config_yaml: str,
    data: Sequence[str],
    datasets: Sequence[str] = (),
    languages: Sequence[str] = ("en",),
    license_name: str | None = None,
) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        name: The model's title.
        base_model: Hub id, folder or package path of the encoder that training started from.
        recipe: Such as ``mcse``.
        score_table: A Markdown table, or a sentence that there is none yet.
        config_yaml: The resolved configuration of the run.
        data: One line for each thing that was read.
        datasets: Hub ids of those that the hub has.
        languages: ISO codes.
        license_name: The hub's name of the licence; left out where nobody chose one.
    """
    front = ModelCardData(
        language=list(languages),
        license=license_name,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        datasets=list(datasets) or None,
        base_model=base_model if _is_hub_id(base_model) else None,
        tags=["sentence-transformers", "feature-extraction", "sentence-similarity", "mcse", f"recipe:{recipe}"],
    )
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# {name}",
        f"Sentence embeddings trained with the recipe `{recipe}` of mcse from `{base_model}`.",
        "## Scores",
        score_table.strip(),
        "## Use",
        _use(name),
        "## Data",
        "\n".join(f"- {line}" for line in data) or "Not recorded.",
        "## Configuration",
        f"```yaml\n{config_yaml.strip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def build_word_card(*, name: str, source: str, score_table: str, config_yaml: str, data: Sequence[str]) -> str:
    """Markdown for a folder of grounded word vectors, with the front matter that the hub reads.

    Args:
        name: The title.
        source: Name of the file of text vectors that were grounded.
        score_table: A Markdown table, or a sentence that there is none yet.
        config_yaml: The resolved configuration of the run.
        data: One line for each thing that was read.
    """
    front = ModelCardData(language=["en"], tags=["word-vectors", "mcse", "recipe:grounded_words"])
    use = f"""```python
from mcse.text.word_vectors import load_word_vectors
vectors = load_word_vectors("{name}/vectors.safetensors")  # this folder
```

`python evaluate.py {name} --suite wordsim sts` judges them; `mcse ground-words {name} --vectors {source} --output
grounded.bin` grounds every word of the source, for example for gensim's `KeyedVectors.load_word2vec_format`."""
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# {name}",
        f"Word vectors of `{source}`, visually grounded with the recipe `grounded_words` of mcse.",
        "## Scores",
        score_table.strip(),
        "## Use",
        use,
        "## Data",
        "\n".join(f"- {line}" for line in data),
        "## Configuration",
        f"```yaml\n{config_yaml.strip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def build_tagger_card(
    *,
    name: str,
    base_model: str,
    recipe: str,
    types: Sequence[str],
    score_table: str,
    config_yaml: str,
    data: Sequence[str],
) -> str:
    """The card of a tagger of entities; arguments as those of ``build_model_card``, ``types`` are the entity types."""
    front = ModelCardData(
        language=["en"],
        pipeline_tag="token-classification",
        base_model=base_model if _is_hub_id(base_model) else None,
        tags=["token-classification", "named-entity-recognition", "mcse", f"recipe:{recipe}"],
    )
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# {name}",
        f"Finds {', '.join(types)} in tweets; trained with the recipe `{recipe}` of mcse from `{base_model}`.",
        "## Scores",
        score_table.strip(),
        "## Use",
        f"""```python
from mcse import TweetTagger
tagger = TweetTagger.from_pretrained("{name}")  # this folder
for entity in tagger("Kevin Durant enters Oracle Arena"):  # image="photo.jpg" where it was trained with pictures
    print(entity.kind, entity.text, entity.score)
```""",
        "## Data",
        "\n".join(f"- {line}" for line in data) or "Not recorded.",
        "## Configuration",
        f"```yaml\n{config_yaml.strip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def build_word_model_card(
    *,
    name: str,
    recipe: str,
    summary: str,
    use: str,
    score_table: str,
    config_yaml: str,
    data: Sequence[str],
    languages: Sequence[str] = ("en",),
) -> str:
    """The card of a model of words in context, Markdown with the front matter that the hub reads.

    Args:
        name: The model's title.
        recipe: Such as ``elmo``.
        summary: A sentence or two on what the model is.
        use: Python that loads it from the current folder.
        score_table: A Markdown table, or a sentence that there is none yet.
        config_yaml: The resolved configuration of the run.
        data: One line for each thing that was read.
        languages: ISO codes.
    """
    front = ModelCardData(
        language=list(languages),
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["feature-extraction", "contextual-word-vectors", "mcse", f"recipe:{recipe}"],
    )
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# {name}",
        summary,
        "## Scores",
        score_table.strip(),
        "## Use",
        f"```python\n{use.strip()}\n```",
        "## Data",
        "\n".join(f"- {line}" for line in data) or "Not recorded.",
        "## Configuration",
        f"```yaml\n{config_yaml.strip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def score_table(scores: Mapping[str, float]) -> str:
    """Scores by name as a Markdown table, or the sentence that there are none yet."""
    lines = ["| score | value |", "|---|---|", *(f"| {name} | {value:.4g} |" for name, value in scores.items())]
    return "\n".join(lines) if scores else "Not evaluated yet."


def with_scores(card: str, score_table: str) -> str:
    """The card with another table of scores; a card that has no place for scores, somebody's own, is left alone."""
    before, heading, rest = card.partition("\n## Scores\n")
    _, use, after = rest.partition("\n## Use\n")
    return f"{before}{heading}\n{score_table.strip()}\n{use}{after}" if use else card


def _use(name: str) -> str:
    """All three ways to load the folder that the card lies in, which give the same rows."""
    return f"""```python
from mcse import SentenceEncoder
encoder = SentenceEncoder.from_pretrained("{name}")  # this folder
rows = encoder.encode(["A man plays the guitar."])  # (N, D) float32, unit norm

from sentence_transformers import SentenceTransformer
rows = SentenceTransformer("{name}").encode(["A man plays the guitar."])  # the same rows
```

`transformers.AutoModel` loads the folder too; its rows still have to be pooled as `mcse.json` says."""


def _is_hub_id(base_model: str) -> bool:
    """A folder or package path on somebody's machine is not something that the hub could link to."""
    return base_model.count("/") <= 1 and ":" not in base_model and not base_model.startswith((".", "/", "~"))
