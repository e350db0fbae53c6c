"""A vocabulary's words as ``tokenizer.json``, which other languages' libraries read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcse.files import write_text
from mcse.text.vocab import BEGIN, END, TOKEN_PATTERN, UNKNOWN
from mcse.text.word_tokenizer import WordTokenizer

TOKENIZER = "tokenizer.json"


def save_word_tokenizer(path: Path, tokenizer: WordTokenizer, *, checked_on: Sequence[str]) -> None:
    """Writes a tokenizer that gives the ids of ours.

    Raises:
        ValueError: It gives other ids of one of the texts ``checked_on``.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    index = tokenizer.vocab.index
    other = Tokenizer(models.WordLevel(dict(index), unk_token=UNKNOWN))
    if tokenizer.vocab.lower_case:
        other.normalizer = normalizers.Lowercase()
    other.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN_PATTERN), behavior="removed", invert=True)
    before, after = ("<s> " if tokenizer.marks == "both" else ""), (" </s>" if tokenizer.marks != "none" else "")
    if after:
        marks = [(BEGIN, index[BEGIN]), (END, index[END])]
        other.post_processor = processors.TemplateProcessing(single=f"{before}$A{after}", special_tokens=marks)
    for text, ids in zip(checked_on, tokenizer.ids(checked_on), strict=True):
        if (found := other.encode(text).ids) != ids:
            raise ValueError(f"{path.name} gives {text[:80]!r} the ids {found[:20]}, and the model's own {ids[:20]}")
    write_text(path, other.to_str(pretty=True) + "\n")
