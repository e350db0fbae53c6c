"""``mcse tag``: tags a CoNLL file with a trained tagger; where the file has tags itself, judges them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcse.data.conll import TaggedTexts, check_types, control_images, match_tweets, read_tagged
from mcse.data.images.features import FeatureStore, open_features
from mcse.data.images.names import ABSENT
from mcse.data.images.pixels import PixelRows
from mcse.data.images.sources import open_images
from mcse.encoders.tweet_tagger import TweetTagger
from mcse.evaluation.tagging import TaggingScores, score_taggings, tag_texts
from mcse.metrics.spans import SpanScores
from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable
from mcse.report.terminal import print_table
from mcse.text.tags import OUTSIDE
from mcse.types import FloatArray, Tagging


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``mcse tag``."""
    parser = subparsers.add_parser(
        "tag", help="find entities in a CoNLL file; scores where the file has tags", description=__doc__
    )
    parser.add_argument("model", help="run folder or checkpoint of the recipe maf")
    parser.add_argument("file", type=Path, help="CoNLL: word TAB tag a line, IMGID:name before a text; tags may lack")
    parser.add_argument("--features", type=Path, help="the images' stored regions (mcse extract-features)")
    parser.add_argument("--images", help="the images themselves, read by the tagger's own tower")
    parser.add_argument("--no-images", action="store_true", help="a tagger of images on text alone")
    parser.add_argument("--shuffle-images", type=int, metavar="SEED", help="control: every text with a wrong image")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for tagged.conll, tagged.jsonl, results.json"
    )
    parser.add_argument("--device", default="cpu", help="such as cuda:1 (cpu)")
    parser.add_argument("--overwrite", action="store_true", help="replace those files in --output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tags, writes, and prints scores; returns 0.

    Raises:
        FileNotFoundError: No file or features there.
        ValueError: No tagger, a damaged file, images missing for a tagger that reads them, or files in the way.
    """
    written = [args.output / name for name in ("tagged.conll", "tagged.jsonl", "results.json")]
    if not args.overwrite and (there := [path for path in written if path.exists()]):
        raise ValueError(f"{there[0]} is there already; give --overwrite or another --output")
    tagger = TweetTagger.from_pretrained(args.model, device=args.device)
    texts = read_tagged(args.file)
    has_gold = any(tag != OUTSIDE for text in texts.texts for tag in text.tags)
    if has_gold:
        check_types(texts, tagger.tags)
    images = _images(tagger, args)
    row_N = match_tweets(texts, images)
    if args.shuffle_images is not None:
        row_N = control_images(row_N, "shuffled_images", seed=args.shuffle_images)
    rows = _Images(images, tagger) if isinstance(images, PixelRows) else images
    taggings = tag_texts(tagger, texts.words, rows, row_N)
    args.output.mkdir(parents=True, exist_ok=True)
    written[0].write_text("".join(_conll(texts, taggings)), encoding="utf-8")
    written[1].write_text("".join(_json_lines(texts, taggings)), encoding="utf-8")
    # Scores of another file would be taken for those of this one.
    written[2].unlink(missing_ok=True)
    if has_gold:
        scores = score_taggings(texts.tags, [tagging.tags for tagging in taggings])
        results = _results(scores, texts, args, without_image=int((row_N == ABSENT).sum()))
        written[2].write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print_table(_table(scores, args.file))
    print(f"wrote {written[0]} and tagged.jsonl", file=sys.stderr)
    return 0


class _Images:
    """Images of a folder as the tagger's feature rows."""

    def __init__(self, pixels: PixelRows, tagger: TweetTagger) -> None:
        self._pixels, self._tagger = pixels, tagger

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        images = [self._pixels.source.load(int(row)) for row in index]
        return np.stack([row for row in self._tagger.image_rows(images) if row is not None])


def _images(tagger: TweetTagger, args: argparse.Namespace) -> FeatureStore | PixelRows | None:
    given = [name for name in ("features", "images", "no_images") if getattr(args, name)]
    if len(given) > 1:
        raise ValueError(f"give one of --features, --images and --no-images, got {len(given)}")
    if not tagger.reads_images:
        if given or args.shuffle_images is not None:
            raise ValueError(f"{args.model} was trained on text alone, so --features, --images and such do nothing")
        return None
    if not given:
        raise ValueError(f"{args.model} reads images: give --features or --images, or --no-images on purpose")
    if args.no_images:
        if args.shuffle_images is not None:
            raise ValueError("--no-images leaves nothing for --shuffle-images")
        return None
    if args.images is not None:
        return PixelRows(open_images(args.images), tagger.tower.preprocess, origin=args.images)
    store = open_features(args.features)
    store.check_tower(None if tagger.info is None else tagger.info.image_tower)
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


def _results(
    scores: TaggingScores, texts: TaggedTexts, args: argparse.Namespace, *, without_image: int
) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": args.model,
        "file": str(args.file),
        "texts": len(texts),
        "texts without an image": without_image,
        "shuffled images": args.shuffle_images is not None,
        "tags that are no valid BIO": texts.repairs.total,
        "scores": {
            f"ner_{reading}": {
                "all": _numbers(overall),
                **{kind: _numbers(own) for kind, own in by_type.items()},
            }
            for reading, overall, by_type in (
                ("lenient", scores.lenient, scores.lenient_by_type),
                ("strict", scores.strict, scores.strict_by_type),
            )
        },
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
