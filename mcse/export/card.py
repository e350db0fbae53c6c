"""The card of an export: what it is, how near it is to the model it was made from, and how to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from mcse.manifest import Located
from mcse.report.markdown import code_span, escaped
from mcse.report.model_card import model_title

_USE = {
    "onnx": """```python
from mcse import SentenceEncoder
encoder = SentenceEncoder.from_pretrained("{name}", backend="onnx")  # this folder
embeddings = encoder.encode(["A man plays the guitar."])  # (N, D) float32, unit norm
```

Elsewhere: `tokenizer.json` gives `input_ids` and `attention_mask`, `model.onnx` of these `embeddings`;
nothing is left to be pooled or normalised.""",
    "openvino": """```python
from mcse import SentenceEncoder
encoder = SentenceEncoder.from_pretrained("{name}", backend="openvino")  # this folder
embeddings = encoder.encode(["A man plays the guitar."])  # (N, D) float32, unit norm
```""",
    "sentence-transformers": """```python
from sentence_transformers import SentenceTransformer
embeddings = SentenceTransformer("{name}").encode(["A man plays the guitar."])
```""",
    "word2vec": """```python
from gensim.models import KeyedVectors
vectors = KeyedVectors.load_word2vec_format("{name}/vectors.bin", binary=True)
```""",
}

_SHOWN = {
    "to": "format",
    "precision": "precision of the weights",
    "quantisation": "quantisation",
    "pooling": "pooling",
    "prompt": "prompt",
    "dim": "width",
    "words": "words",
    "max_length": "longest input in tokens",
    "largest_difference": "largest difference from PyTorch",
    "rank_correlation": "rank correlation of cosines with PyTorch's",
    "sentences_compared": "sentences compared",
}


def export_card(model: Located, described: Mapping[str, Any], *, notes: Sequence[str]) -> str:
    """Markdown, with the licence and languages that the model's run states. ``described`` is ``export.json``."""
    title = model_title(Path(model.name))
    data = model.manifest.config.get("data", {}) if model.manifest is not None else {}
    front = ModelCardData(
        license=data.get("licence"), language=list(data.get("languages") or ()) or None, tags=["mcse"]
    )
    rows = [(name, described.get(key)) for key, name in _SHOWN.items()]
    shown = [(name, f"{value:.2g}" if isinstance(value, float) else str(value)) for name, value in rows if value]
    lines = ["| what | value |", "|---|---|", *(f"| {name} | {escaped(value)} |" for name, value in shown)]
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# {title} for {described['to']}",
        f"Exported from {code_span(title)} by `mcse export`, which compares every export with the model itself.",
        "\n".join(lines),
        # The card goes where the export goes, and the model's place on this machine does not.
        *(escaped(note.replace(str(Path(model.name)), title)) for note in notes),
        "## Use",
        _USE[described["to"]].format(name="."),
    ]
    return "\n\n".join(parts) + "\n"
