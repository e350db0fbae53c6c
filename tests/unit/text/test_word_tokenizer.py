"""Words of a text as ids: marks, cutting, unknown and nearest words, and captions of known words alone."""

from __future__ import annotations

from mcse.text.vocab import Vocab, plain_words, split_words
from mcse.text.word_tokenizer import CaptionTokenizer, WordTokenizer

SENTENCES = ("A dog runs.", "Two men in red coats play with a dog on the beach.", "Children.")
VOCAB = Vocab.from_sentences(split_words(sentence) for sentence in SENTENCES)


def test_marks_and_truncation():
    ids = {marks: WordTokenizer(VOCAB, marks).ids(["A dog runs"], max_length=4)[0] for marks in ("none", "end", "both")}
    a, dog, runs = (VOCAB.index[word] for word in ("a", "dog", "runs"))
    assert ids == {"none": [a, dog, runs], "end": [a, dog, runs, 3], "both": [2, a, dog, 3]}
    assert WordTokenizer(VOCAB, "end").ids([""]) == [[1, 3]]


def test_a_digest_tells_tokenizers_apart():
    tokenizers = [*(WordTokenizer(VOCAB, marks) for marks in ("none", "end", "both")), CaptionTokenizer(VOCAB)]
    assert len({tokenizer.digest for tokenizer in tokenizers}) == 4
    assert WordTokenizer(VOCAB).digest == tokenizers[0].digest


def test_unknown_and_nearest_words():
    tokenizer = WordTokenizer(VOCAB)
    assert tokenizer.unknown_words("A zebra and a DOG") == ["zebra", "and"]
    assert tokenizer.knows_some("A zebra")
    assert not tokenizer.knows_some("zebra <unk>")
    assert not tokenizer.knows_some("")
    assert tokenizer.nearest_words("Dogg")[0] == "dog"
    assert tokenizer.nearest_words("coat") == ["coats"]
    assert tokenizer.nearest_words("qqqq") == []


def test_captions_become_known_words_between_marks() -> None:
    vocab = Vocab.from_sentences([["a", "dog", "runs"]])
    tokenizer = CaptionTokenizer(vocab)
    assert plain_words("A black-and-white dog, it's here .") == ["A", "black-and-white", "dog", "it's", "here"]
    ids = tokenizer.ids(["A dog, unheard, RUNS .", "zzz"], max_length=8)
    assert [[vocab.words[i] for i in row] for row in ids] == [["<s>", "a", "dog", "runs", "</s>"], ["<s>", "</s>"]]
    cut = tokenizer.ids(["a dog runs"], max_length=4)[0]
    assert [vocab.words[i] for i in cut] == ["<s>", "a", "dog", "</s>"]
