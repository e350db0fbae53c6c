"""BLEU of translations."""

from __future__ import annotations

from collections.abc import Sequence


def corpus_bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """BLEU × 100 as sacrebleu computes it (13a tokens, cased, one reference), in [0, 100].

    Raises:
        ValueError: sacrebleu is not installed, or there is not one reference a translation.
    """
    if len(translations) != len(references) or not references:
        raise ValueError(f"{len(translations)} translations need as many references, got {len(references)}")
    try:
        import sacrebleu
    except ModuleNotFoundError:
        raise ValueError("BLEU is computed by sacrebleu, which is not installed (pip install 'mcse[bleu]')") from None
    # ``force`` silences the question whether translations of parted words and marks were meant. Most marks come to the
    # tokens of plain text; numbers with a mark inside (3,50) and runs of marks (...) do not, and count as wrong.
    return float(sacrebleu.corpus_bleu(list(translations), [list(references)], force=True).score)
