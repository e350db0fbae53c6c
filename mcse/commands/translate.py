"""``mcse cove translate``: a CoVe run's translations of a file, and their BLEU."""

from __future__ import annotations

from pathlib import Path

from mcse.encoders.word_translator import WordTranslator
from mcse.files import read_lines, write_text
from mcse.metrics.bleu import corpus_bleu
from mcse.progress import phase


def run(
    run_folder: Path,
    source: Path,
    *,
    reference: Path | None = None,
    output: Path | None = None,
    beams: int = 1,
    batch_size: int = 64,
) -> int:
    """Writes or prints translations, prints BLEU; exit code 0."""
    translator = WordTranslator.from_pretrained(run_folder)
    sentences = list(read_lines(source))
    with phase(f"translating {len(sentences):,} sentences"):
        found = translator.translate(sentences, beams=beams, batch_size=batch_size)
    if output is not None:
        write_text(output, "\n".join(found) + "\n")
    elif reference is None:
        print("\n".join(found))
    if reference is not None:
        print(f"BLEU {corpus_bleu(found, list(read_lines(reference))):.2f} (sacrebleu, 13a, beams {beams})")
    return 0
