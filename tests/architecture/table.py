"""The one place of the import table and of the table of systems, from which ``docs/architecture.md`` shows both.

``MCSE_WRITE_DOCS=1 pytest tests/architecture`` writes them anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Part:
    """A folder or single module of ``mcse``, or a file outside: what it owns, and what of the project it may import."""

    owns: str
    uses: frozenset[str] = field(default_factory=frozenset)


def part(owns: str, *uses: str) -> Part:
    return Part(owns, frozenset(uses))


_LOW = {
    "files": part("files and folders written whole, digests, lines of text; alone renames"),
    "reading": part("structures read from JSON: typed, bounded, one form of error", "files"),
    "images": part("image files → RGB; alone opens images"),
    "progress": part("what is on the screen while work goes on: bars, phases, panels, lines", "errors"),
    "version": part("the version"),
    "hub": part("the commit of the hub that the name of a model or dataset stands for"),
    "origin": part("what a result came from: command, date, versions, revision, machine", "files"),
    "errors": part("how errors of other libraries are worded"),
    "types": part("batches, `LossTerm`, scores and their keys, protocols"),
    "stored_rows": part("embeddings as they are stored: fewer bytes a number, and what they stand for"),
    "yaml_files": part("YAML's core schema: read in bounds, written quoted", "files"),
    "run_folder": part(
        "a run's files, its best model, state, seeds, scores with their direction", "files", "reading", "yaml_files"
    ),
    "manifest": part(
        "`mcse.json` of every checkpoint, the writer of checkpoints, what a model's name means",
        *("files", "reading", "run_folder"),
    ),
    "config_fields": part("keys of a configuration class: types, docs, defaults, variants"),
    "config": part("YAML and command line → frozen dataclasses", "yaml_files", "config_fields"),
    "distributed": part("gathers with gradients, facts about processes, weights cut over processes", "errors"),
    "cpu": part("what the CPU can really do"),
    "losses": part("pure functions of tensors", "types"),
    "metrics": part("pure functions of arrays"),
    "nn": part(
        "blocks without pretrained weights: heads, pooling, dropout, LSTM, GRU, bag of words, CRF, attention", "types"
    ),
    "text": part(
        "strings → ids: vocabularies, word vectors' files, maps of words, BIO tags, words to pieces", "files", "reading"
    ),
    "data": part(
        "files → typed batches",
        *("errors", "files", "hub", "progress", "reading", "images", "types", "text", "stored_rows"),
    ),
    "scenes": part("the picture world of the demo, and words for what it shows", "files", "reading", "types"),
    "models": part(
        "`forward(batch)` → rows, and checkpoints of them; h5py for ELMo's original release",
        *("errors", "files", "hub", "reading", "run_folder", "manifest", "types", "nn", "text"),
    ),
    "report": part(
        "results → terminal, Markdown, HTML, model card, the hub's forms",
        *("errors", "files", "origin", "reading", "run_folder", "types", "metrics", "version", "yaml_files"),
    ),
    "encoders": part(
        "any kind of encoder by one name, from folders and the hub, and to the hub",
        *("errors", "files", "hub", "progress", "reading", "images", "run_folder", "manifest", "types", "text"),
        *("models", "distributed", "cpu", "stored_rows", "report"),
    ),
    "search": part(
        "indexes of sentences and images, embeddings on disk, questions, the page and the service",
        *("errors", "files", "progress", "reading", "images", "run_folder", "manifest", "types", "data", "text"),
        *("models", "encoders", "metrics", "report", "distributed", "cpu", "stored_rows"),
    ),
    "evaluation": part(
        "published protocols as suites, evaluators while training, and what they share",
        *(
            "errors",
            "files",
            "progress",
            "reading",
            "run_folder",
            "types",
            "metrics",
            "data",
            "distributed",
            "stored_rows",
        ),
    ),
    "export": part(
        "a model as ONNX, OpenVINO, sentence-transformers or word2vec, compared with PyTorch first",
        *("errors", "files", "manifest", "origin", "types", "text", "models", "encoders", "metrics", "report"),
    ),
    "training": part(
        "the loop", "files", "origin", "progress", "reading", "run_folder", "types", "config", "distributed", "cpu"
    ),
}
PARTS = {
    **_LOW,
    "recipes": part("one system a folder: `Config`, `build(config, runtime)` → `Run`; never another recipe", *_LOW),
    "commands": part(
        "the `mcse` command line: (group_)arguments.py say what commands take, a module each does the work",
        *(*_LOW, "recipes"),
    ),
    "api": part(
        "training and evaluating from Python: what the commands do, and results as objects",
        *(*_LOW, "recipes", "commands"),
    ),
    "__main__": part("`python -m mcse`", "commands"),
    "": part("what is public, loaded on first use", "version", "encoders", "search", "api"),
    "train.py": part("`mcse train`", "commands"),
    "evaluate.py": part("`mcse evaluate`", "commands"),
}
"""From the lowest to the highest; the empty name is ``mcse/__init__.py``."""

HOMES: dict[str, set[str]] = {
    "hashlib": {"files"},
    "torch.distributed": {"distributed"},
    "torch.nn.parallel": set(),
    "accelerate": {"training"},
    "datasets": {"data"},
    "open_clip": {"models"},
    "timm": {"models"},
    "transformers": {"models"},
    "sentence_transformers": {"encoders"},
    "model2vec": {"encoders"},
    "peft": {"models"},
    "onnx": {"export"},
    "onnxruntime": {"encoders", "export"},
    "openvino": {"encoders", "export"},
    "h5py": {"data", "models"},
    "jinja2": {"report"},
    "matplotlib": {"report"},
    "pydantic": {"config", "reading"},
    "yaml": {"yaml_files", "commands"},
    "mteb": {"evaluation"},
    "sacrebleu": {"metrics"},
    "fastapi": {"search"},
    "prometheus_client": {"search"},
    "starlette": {"search"},
    "uvicorn": {"search"},
    "cv2": set(),
    "imageio": set(),
    "matplotlib.image": set(),
    "torchvision.io": set(),
    "tqdm": {"progress"},
    "wandb": set(),
    "tensorboard": set(),
}
"""A library, or a part of one, and the only parts that may import it; an empty set is for nobody."""

SYSTEMS: dict[str, tuple[str, ...]] = {
    "mlm": ("recipes/mlm", "evaluation/evaluators/masked_perplexity.py", "models/scratch.py"),
    "simcse": ("recipes/simcse",),
    "diffcse": ("recipes/diffcse", "models/difference_model.py"),
    "mcse": ("recipes/mcse",),
    "kdmcse": ("recipes/kdmcse",),
    "dalr": ("recipes/dalr", "losses/matching.py", "models/aligned_model.py"),
    "rankcse": ("recipes/rankcse",),
    "tables": (
        "recipes/tables",
        "data/table_rows.py",
        "evaluation/evaluators/tables.py",
        "losses/ordinal.py",
        "models/table_model.py",
    ),
    "unpaired": ("recipes/unpaired", "data/images/views.py", "losses/views.py", "models/unpaired_model.py"),
    "vse": (
        "recipes/vse",
        "data/joint_pairs.py",
        "encoders/joint_encoder.py",
        "evaluation/evaluators/held_out_images.py",
        "losses/ranking.py",
        "models/joint_checkpoint.py",
        "models/joint_model.py",
        "models/word_init.py",
        "nn/bow.py",
        "nn/recurrent.py",
        "nn/words.py",
    ),
    "grounded_words": (
        "recipes/grounded_words",
        "commands/ground_report.py",
        "commands/ground_words.py",
        "commands/neighbors.py",
        "data/captions/vocabulary.py",
        "data/false_pairs.py",
        "data/test_sets/wordsim.py",
        "encoders/grounded_words.py",
        "evaluation/evaluators/word_similarity.py",
        "evaluation/suites/wordsim.py",
        "losses/grounded_words.py",
        "models/grounded_words.py",
        "text/word_spaces.py",
    ),
    "elmo": (
        "recipes/elmo",
        "commands/perplexity.py",
        "encoders/elmo_scorer.py",
        "evaluation/evaluators/perplexity.py",
        "losses/sampled_softmax.py",
        "models/elmo_language_model.py",
        "models/elmo_model.py",
        "nn/charcnn.py",
        "nn/projected_lstm.py",
        "text/characters.py",
    ),
    "cove": (
        "recipes/cove",
        "commands/translate.py",
        "data/translation.py",
        "encoders/word_translator.py",
        "evaluation/evaluators/translation.py",
        "metrics/bleu.py",
        "models/cove_model.py",
        "models/cove_translator.py",
        "nn/global_attention.py",
    ),
    "word_features": (
        "recipes/word_features",
        "commands/contexts.py",
        "data/word_features.py",
        "encoders/frozen_features.py",
        "evaluation/contexts.py",
        "evaluation/evaluators/word_tasks.py",
        "models/feature_model.py",
        "nn/scalar_mix.py",
    ),
    "elmo, cove, word_features": (
        "data/language.py",
        "data/lanes.py",
        "encoders/contextual.py",
    ),
    "maf": (
        "recipes/maf",
        "commands/tag.py",
        "data/tweets.py",
        "encoders/tweet_tagger.py",
        "evaluation/evaluators/tagging.py",
        "models/maf_model.py",
        "models/tagger_checkpoint.py",
        "nn/attention.py",
        "nn/match_head.py",
        "text/word_pieces.py",
    ),
    "search": (
        "search",
        "commands/embed.py",
        "commands/mine.py",
        "commands/pair.py",
        "commands/search.py",
        "commands/search_recall.py",
        "commands/serve.py",
    ),
    "demo": ("scenes", "commands/demo.py", "commands/demo_report.py", "models/small_encoder.py", "report/demo_page.py"),
}
"""What belongs to one system, as paths below ``mcse``; a folder stands for all in it. All else is the frame."""

CROSSROADS = (
    "__init__",
    "commands.arguments",
    "commands.group_arguments",
    "commands.prepare",
    "encoders.loading",
    "evaluation.suites",
    "export.folders",
)
"""Modules that name every system's parts, so that their imports say nothing of whose a module is."""


def shown_imports() -> str:
    """The import table as Markdown."""
    lines = ["| part | owns | alone imports | of `mcse` it may import |", "|---|---|---|---|"]
    above: set[str] = set()
    for name, own in PARTS.items():
        libraries = sorted(library for library, homes in HOMES.items() if name in homes)
        uses = "all above" if own.uses == above and len(above) > 2 else ", ".join(sorted(own.uses)) or "–"
        shown = name if name.endswith(".py") else f"mcse/{name}" if name else "mcse/\\_\\_init\\_\\_.py"
        lines.append(f"| {shown} | {own.owns} | {', '.join(libraries) or '–'} | {uses} |")
        above.add(name)
    return "\n".join(lines)


def shown_systems() -> str:
    """The table of systems as Markdown."""
    rows = [f"| {name} | {', '.join(paths)} |" for name, paths in SYSTEMS.items()]
    return "\n".join(["| system | its files, below `mcse/` |", "|---|---|", *rows])
