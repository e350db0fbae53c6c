"""Token ids kept on disk: whole whatever is killed or damaged, and made of no more of a text than they need."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import mcse.data.sentences.tokens as module
import mcse.progress
from mcse.data.sentences.tokens import TokenTable, tokenise
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.text.vocab import Vocab, plain_words, split_words
from mcse.text.word_tokenizer import CaptionTokenizer, WordTokenizer
from tests.fixtures.tiny_models import build_tiny_bert


class Lengths:
    """Words' lengths as ids; counts what it is asked."""

    digest = "lengths of words"

    def __init__(self) -> None:
        self.asked = 0

    def ids(self, texts: list[str], *, max_length: int) -> list[list[int]]:
        self.asked += len(texts)
        return [[len(word) for word in text.split()][:max_length] for text in texts]


ROWS = [("a bb ccc",), ("dddd",)] * 500
IDS = [[1, 2, 3], [4]] * 500


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(module, "PART_ROWS", 300)


def tokens(given: list[tuple[str]], *, asked: int, **keys) -> list[list[int]]:
    """The ids that are found, of which ``asked`` texts were tokenised for it."""
    tokenizer = Lengths()
    table = tokenise(given, tokenizer, columns=1, max_length=4, digest="content", **keys)
    assert tokenizer.asked == asked
    shuffled = np.random.default_rng(0).permutation(len(table))
    ids = dict(zip(shuffled.tolist(), table.ids(shuffled), strict=True))
    return [ids[number].tolist() for number in range(len(table))]


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2] + bytes(len(data) // 2)])
def test_a_damaged_part_is_made_anew_and_no_other(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Half of them zeros must not train on half of the sentences."""
    assert tokens(ROWS, asked=1000) == IDS
    assert tokens([], asked=0) == IDS
    paths = sorted(tmp_path.rglob("*.arrow"))
    assert len(paths) == 4
    paths[1].write_bytes(damage(paths[1].read_bytes()))
    assert tokens(ROWS, asked=300) == IDS
    paths[3].unlink()
    assert tokens(ROWS, asked=100) == IDS
    assert tokens([], asked=0) == IDS


@pytest.mark.parametrize("damage", [b"", b"\0\0", b"2\n"])
def test_a_damaged_list_of_parts_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    """One that is too short must not train on fewer sentences."""
    assert tokens(ROWS, asked=1000) == IDS
    [parts] = tmp_path.rglob("parts.json")
    parts.write_bytes(damage)
    assert tokens(ROWS, asked=0) == IDS
    assert tokens([], asked=0) == IDS


@pytest.mark.parametrize("number", [0, 1, 300, 600])
def test_as_many_rows_come_back_as_were_given(number: int) -> None:
    assert tokens(ROWS[:number], asked=number) == IDS[:number]
    assert tokens([], asked=0) == IDS[:number]


def test_a_kill_loses_one_part_and_its_draft_is_swept(tmp_path: Path) -> None:
    def killed() -> Iterator[tuple[str]]:
        yield from ROWS[:700]
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        tokens(killed(), asked=0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert len(list(tmp_path.rglob("*.partial"))) == 1
    assert len(list(tmp_path.rglob("*.arrow"))) == 2
    assert tokens(ROWS, asked=400) == IDS
    assert not list(tmp_path.rglob("*.partial"))


def test_a_source_that_became_shorter_is_refused(tmp_path: Path) -> None:
    tokens(ROWS, asked=1000)
    [parts] = tmp_path.rglob("parts.json")
    parts.unlink()
    with pytest.raises(ValueError, match=r"the\.txt has become shorter since .*part-00001\.arrow was made of it"):
        tokens(ROWS[:400], asked=0, source="the.txt")


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as impatient:
        impatient.setattr(mcse.progress, "SECONDS", 0.0)
        impatient.setattr(mcse.progress, "PATIENCE", 0.0)
        tokens(ROWS, asked=1000, expected=lambda: 1000, source="the.txt")
    said = capsys.readouterr().err
    assert "tokenising the.txt" in said
    assert "600 of 1,000" in said
    assert "sentence/s" in said
    tokenise(ROWS[:300], Lengths(), columns=1, max_length=4, digest="few", expected=lambda: 300)
    assert not capsys.readouterr().err


def test_chunks_are_bounded_in_rows_and_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_ROWS", 3)
    monkeypatch.setattr(module, "_CHUNK_CHARACTERS", 10)
    rows = [("ab",), ("c" * 50,), ("d",), ("e",), ("f",), ("g" * 9, "h"), ("i",)]
    chunks = list(module._chunks(iter(rows)))
    assert [len(chunk) for chunk in chunks] == [2, 3, 1, 1]
    assert [row for chunk in chunks for row in chunk] == rows


LONG = {
    "words": "a man plays the guitar . " * 2000,
    "one word": "x" * 50_000,
    "a word, then words": "x" * 3000 + " a man plays the guitar" * 500,
    "blanks inside": "a" + " " * 20_000 + "man plays the guitar",
    "blanks alone": " " * 10_000,
    "characters that are left out": "a\u200b\u00ad\u0301" * 5000 + " man",
    "no blanks": "漢字かな" * 3000,
    "marks": "(.!?)" * 3000,
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_length", [3, 12, 32])
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_text_is_cut_where_its_ids_do_not_depend_on_it(
    tmp_path_factory: pytest.TempPathFactory, side: str, max_length: int, text: str
) -> None:
    folder = build_tiny_bert(tmp_path_factory.mktemp("bert"))
    inner = AutoTokenizer.from_pretrained(folder, truncation_side=side)
    texts = [text, "a man", text[:777], text[5:4000]]
    whole = inner(texts, truncation=True, max_length=max_length)["input_ids"]
    assert PieceTokenizer(inner).ids(texts, max_length=max_length) == whole
    assert PieceTokenizer(inner).ids(texts) == inner(texts)["input_ids"]


def byte_pairs(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte pairs that are merged over blanks, too: no word ends anywhere."""
    from tokenizers import Tokenizer, models, trainers

    made = Tokenizer(models.BPE())
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>"]))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")


def test_pieces_that_cross_words_are_not_changed_by_the_cut() -> None:
    draw = random.Random(0)
    words = "the a man men woman plays play guitar guitars in on under green park parks dog"
    texts = [" ".join(draw.choices(words.split(), k=draw.randint(300, 2000))) for _ in range(40)]
    inner = byte_pairs([text[:200] for text in texts])
    assert any(" " in piece.strip() for piece in inner.get_vocab())
    for max_length in (8, 16):
        expected = inner(texts, truncation=True, max_length=max_length)["input_ids"]
        assert PieceTokenizer(inner).ids(texts, max_length=max_length) == expected


def test_no_more_of_a_long_text_reaches_the_tokenizer_than_is_said(tmp_path: Path) -> None:
    inner = AutoTokenizer.from_pretrained(build_tiny_bert(tmp_path))
    read: list[int] = []

    class Counting(PieceTokenizer):
        def _ids(self, texts: list[str], *, max_length: int | None) -> list[list[int]]:
            read.extend(map(len, texts))
            return super()._ids(texts, max_length=max_length)

    Counting(inner).ids(["a man " * 10**6, "x" * 10**7, "short"], max_length=32)
    assert max(read) <= 64 * 32 + 131_072
    assert sum(read) <= 3 * 64 * 32 + 131_072 + 2 * 64


def test_word_tokenizers_give_the_first_ids_of_all() -> None:
    vocab = Vocab.from_sentences([["a", "man", "plays", "the", "guitar"]])
    text = "The man , well-known , plays ... a guitar ! " * 50
    for room in (0, 1, 5, 30):
        every = vocab.ids(split_words(text)).tolist()
        assert WordTokenizer(vocab, marks="none").ids([text], max_length=room) == [every[:room] or [1]]
        known = vocab.ids(word for word in plain_words(text) if word in vocab).tolist()
        assert CaptionTokenizer(vocab).ids([text], max_length=room + 2) == [[2, *known[:room], 3]]


def test_token_ids_are_those_of_the_file_wherever_its_pieces_end() -> None:
    """Read as slices of memory: pieces of unequal size, an empty row; any order, and rows twice."""
    draw = np.random.default_rng(0)
    rows = [draw.integers(1000, size=size).tolist() for size in [*draw.integers(0, 5, size=22), 0]]
    features = datasets.Features({f"ids{column}": datasets.List(datasets.Value("int32")) for column in range(2)})
    pieces = [rows[:4], rows[4:5], rows[5:20], rows[20:]]
    tables = [datasets.Dataset.from_dict({"ids0": p, "ids1": p[::-1]}, features=features) for p in pieces]
    table = TokenTable(datasets.concatenate_datasets(tables), columns=2)
    index = np.concatenate([draw.permutation(23), [0, 22, 22, 4]])
    for column, name in enumerate(("ids0", "ids1")):
        found = table.ids(index, column=column)
        assert [ids.tolist() for ids in found] == [table.dataset[int(row)][name] for row in index]
        assert {ids.dtype for ids in found} == {np.dtype(np.int64)}
