"""``mcse translate``: a CoVe run's translations of a file, and their BLEU."""

from __future__ import annotations

import argparse
from pathlib import Path

from mcse.encoders.cove_translator import WordTranslator
from mcse.files import read_lines
from mcse.metrics.bleu import corpus_bleu


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "translate",
        help="translate a file with a CoVe run, and score it",
        description="Translates every line, greedily or by a beam search. With --reference the BLEU follows.",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder or checkpoint of the recipe cove")
    parser.add_argument("source", type=Path, help="sentences, one a line, plain or gzip")
    parser.add_argument("--reference", type=Path, help="their translations, aligned by line")
    parser.add_argument(
        "--output", type=Path, help="where the translations go; by default they are printed, if there is no --reference"
    )
    parser.add_argument("--beams", type=int, default=1, help="1 (default) is greedy")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes or prints translations, prints BLEU; exit code 0."""
    translator = WordTranslator.from_pretrained(args.run_folder)
    sentences = list(read_lines(args.source))
    found = translator.translate(sentences, beams=args.beams, batch_size=args.batch_size)
    if args.output is not None:
        args.output.write_text("\n".join(found) + "\n", encoding="utf-8")
    elif args.reference is None:
        print("\n".join(found))
    if args.reference is not None:
        print(f"BLEU {corpus_bleu(found, list(read_lines(args.reference))):.2f} (sacrebleu, 13a, beams {args.beams})")
    return 0
