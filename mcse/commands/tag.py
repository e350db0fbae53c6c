"""``mcse maf tag``: tags a CoNLL file with a trained tagger; where the file has tags itself, evaluates them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcse.data.conll import TaggedTexts, check_types, read_conll
from mcse.data.images.features import FeatureStore, open_features
from mcse.data.images.names import ABSENT
from mcse.data.images.pixels import PixelRows
from mcse.data.images.sources import open_images
from mcse.data.tweets import control_images, tweets_to_images
from mcse.encoders.tweet_tagger import TweetTagger
from mcse.errors import printable
from mcse.evaluation.evaluators.tagging import TaggingScores, score_taggings, tag_texts
from mcse.files import claimed, write_json, write_text
from mcse.metrics.spans import SpanScores
from mcse.progress import phase
from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable
from mcse.report.terminal import print_table
from mcse.text.tags import OUTSIDE
from mcse.types import FloatArray, Tagging


def run(
    model: str,
    file: Path,
    *,
    output: Path,
    features: Path | None = None,
    images: str | None = None,
    no_images: bool = False,
    shuffle_images: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
) -> int:
    """Tags, writes, and prints scores; returns 0.

    Raises:
        FileNotFoundError: No file or features there.
        ValueError: No tagger, a damaged file, images missing for a tagger that reads them, or files in the way.
    """
    written = [output / name for name in ("tagged.conll", "tagged.jsonl", "results.json")]
    if not overwrite and (there := [path for path in written if path.exists()]):
        raise ValueError(f"{there[0]} is there already; give --overwrite or another --output")
    tagger = TweetTagger.from_pretrained(model, device=device)
    texts = read_conll(file)
    has_gold = any(tag != OUTSIDE for text in texts.texts for tag in text.tags)
    if has_gold:
        check_types(texts, tagger.tags)
    given = [name for name in (features, images, no_images) if name]
    _check_images(tagger, model, given=len(given), no_images=no_images, shuffled=shuffle_images is not None)
    store = _open_images(tagger, features=features, images=images)
    row_N = tweets_to_images(texts, store)
    if shuffle_images is not None:
        row_N = control_images(row_N, "shuffled_images", seed=shuffle_images)
    rows = _Images(store, tagger) if isinstance(store, PixelRows) else store
    with phase(f"tagging {len(texts):,} texts"):
        taggings = tag_texts(tagger, texts.words, rows, row_N)
    with claimed(output):
        # Lines and scores of another file would be taken for those of this one, if it ended in between.
        for path in reversed(written):
            path.unlink(missing_ok=True)
        write_text(written[0], "".join(_conll(texts, taggings)))
        write_text(written[1], "".join(_json_lines(texts, taggings)))
    if has_gold:
        scores = score_taggings(texts.tags, [tagging.tags for tagging in taggings])
        facts = {
            "schema": 1,
            "model": model,
            "file": str(file),
            "texts": len(texts),
            "texts without an image": int((row_N == ABSENT).sum()),
            "shuffled images": shuffle_images is not None,
            "tags that are no valid BIO": texts.repairs.total,
        }
        write_json(written[2], facts | {"scores": _score_tree(scores)})
        print_table(_table(scores, file))
    print(printable(f"wrote {written[0]} and tagged.jsonl"), file=sys.stderr)
    return 0


class _Images:
    """Images of a folder as the tagger's feature rows."""

    def __init__(self, pixels: PixelRows, tagger: TweetTagger) -> None:
        self._pixels, self._tagger = pixels, tagger

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        images = [self._pixels.source.load(int(row)) for row in index]
        return np.stack([row for row in self._tagger.image_rows(images) if row is not None])


def _check_images(tagger: TweetTagger, model: str, *, given: int, no_images: bool, shuffled: bool) -> None:
    """What was said of images fits the tagger and itself."""
    if given > 1:
        raise ValueError(f"give one of --features, --images and --no-images, got {given}")
    if not tagger.reads_images and (given or shuffled):
        raise ValueError(f"{model} was trained on text alone, so --features, --images and such do nothing")
    if tagger.reads_images and not given:
        raise ValueError(f"{model} reads images: give --features or --images, or --no-images on purpose")
    if no_images and shuffled:
        raise ValueError("--no-images leaves nothing for --shuffle-images")


def _open_images(tagger: TweetTagger, *, features: Path | None, images: str | None) -> FeatureStore | PixelRows | None:
    if images is not None:
        return PixelRows(open_images(images), tagger.tower.preprocess, origin=images)
    if features is None:
        return None
    store = open_features(features)
    store.check_tower(None if tagger.manifest is None else tagger.manifest.image_tower)
    return store


def _conll(texts: TaggedTexts, taggings: Sequence[Tagging]) -> list[str]:
    """Word, gold tag if the file has tags, and predicted tag a line, in the file's own layout."""
    blocks = []
    for text, tagging in zip(texts.texts, taggings, strict=True):
        lines = [f"IMGID:{text.image}"] if text.image is not None else []
        columns = (text.words, text.tags, tagging.tags) if texts.has_tags else (text.words, tagging.tags)
        lines += ["\t".join(row) for row in zip(*columns, strict=True)]
        blocks.append("\n".join(lines) + "\n\n")
    return blocks


def _json_lines(texts: TaggedTexts, taggings: Sequence[Tagging]) -> list[str]:
    return [
        json.dumps(
            {
                "image": text.image,
                "words": text.words,
                "entities": [
                    {
                        "type": entity.kind,
                        "start": entity.start,
                        "stop": entity.stop,
                        "text": " ".join(text.words[entity.start : entity.stop]),
                        "score": round(entity.score, 6),
                    }
                    for entity in tagging.entities
                ],
                "match": None if tagging.match is None else round(tagging.match, 6),
            },
            ensure_ascii=False,
        )
        + "\n"
        for text, tagging in zip(texts.texts, taggings, strict=True)
    ]


def _score_tree(scores: TaggingScores) -> dict[str, Any]:
    return {
        f"ner_{reading}": {"all": _numbers(overall), **{kind: _numbers(own) for kind, own in by_type.items()}}
        for reading, overall, by_type in (
            ("lenient", scores.lenient, scores.lenient_by_type),
            ("strict", scores.strict, scores.strict_by_type),
        )
    }


def _numbers(scores: SpanScores) -> dict[str, float]:
    ratios = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}
    return {**ratios, "gold": scores.gold, "predicted": scores.predicted, "right": scores.right}


def _table(scores: TaggingScores, file: Path) -> ScoreTable:
    rows = [("all, lenient", scores.lenient), ("all, strict", scores.strict)]
    rows += [(f"{kind}, lenient", own) for kind, own in scores.lenient_by_type.items()]
    return ScoreTable(
        title=f"Entities in {file.name}",
        columns=(ScoreColumn("precision"), ScoreColumn("recall"), ScoreColumn("F1")),
        rows=tuple(ScoreRow(name, ((own.precision,), (own.recall,), (own.f1,))) for name, own in rows),
        caption="Exact words and type, × 100. Lenient: published scores' reading; strict: entities open with B-.",
    )
