"""The model card of a joint model of captions and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from huggingface_hub import ModelCardData


def build_joint_card(
    *,
    name: str,
    recipe: str,
    text: str,
    images: str,
    scores: Mapping[str, float],
    config_yaml: str,
    data: Sequence[str],
) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        name: The model's title.
        recipe: Such as ``vse``.
        text: What the text side is.
        images: What the image features are of.
        scores: By name; none where nothing was judged yet.
        config_yaml: The resolved configuration of the run.
        data: One line for each thing that was read.
    """
    tags = ["image-text-retrieval", "visual-semantic-embedding", "mcse", f"recipe:{recipe}"]
    front = ModelCardData(language=["en"], pipeline_tag="feature-extraction", tags=tags)
    table = ["| score | value |", "|---|---|", *(f"| {key} | {value:.4g} |" for key, value in scores.items())]
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# {name}",
        f"Captions ({text}) and pictures ({images}) in one space, trained with the recipe `{recipe}` of mcse.",
        "## Scores",
        "\n".join(table) if scores else "Not evaluated yet.",
        "## Use",
        f"""```python
from mcse import JointEncoder
encoder = JointEncoder.from_pretrained("{name}")  # this folder
captions = encoder.encode_captions(["A dog runs."])  # (N, H) float32, unit norm
images = encoder.encode_images(features)  # from (N, F) features; encode_pictures(paths) where the tower is known
similarity = captions @ images.T
```""",
        "## Data",
        "\n".join(f"- {line}" for line in data) or "Not recorded.",
        "## Configuration",
        f"```yaml\n{config_yaml.strip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"
