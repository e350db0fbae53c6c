"""Grounded words: models against loops, losses against definitions, false pairs, files, neighbours, controls."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mcse.commands.main import main
from mcse.data.false_pairs import MatchStream
from mcse.data.streams import PairStream, Sampler, Share
from mcse.encoders.grounded_words import LiveWordEncoder
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.files import sha256_file
from mcse.losses.grounded_words import cosine_retention
from mcse.losses.pair_matching import matching_loss
from mcse.manifest import Manifest
from mcse.models.config import RegressionConfig, TasksConfig
from mcse.models.grounded_checkpoint import save_grounded_words
from mcse.models.grounded_words import GroundedWordsModel, ImageRegressionModel, WordTable, last_states, reverse
from mcse.text.vocab import SPECIALS, Vocab
from mcse.text.word_map import WordMap, ground_file
from mcse.text.word_spaces import all_but_the_top, compare_neighbours, whiten
from mcse.text.word_vector_writer import WordVectorWriter
from mcse.text.word_vectors import (
    WordBlock,
    WordVectors,
    load_word_vectors,
    stream_word_vectors,
)
from mcse.types import MatchBatch, PairBatch, TokenBatch

VOCAB, TEXT, WIDTH, IMAGE = 11, 5, 7, 6


def save_word_vectors(path: Path, vectors: WordVectors) -> None:
    with WordVectorWriter(path, width=vectors.width) as writer:
        writer.append(WordBlock(vectors.words, vectors.row_VD))


def _tokens(*rows: list[int], width: int | None = None) -> TokenBatch:
    width = width or max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return TokenBatch(ids, mask)


def _pairs(tokens: TokenBatch, *, seed: int = 0) -> PairBatch:
    count = len(tokens)
    draw = torch.Generator().manual_seed(seed)
    return PairBatch(tokens, torch.randn(count, IMAGE, generator=draw, dtype=torch.float64), torch.arange(count))


def _model(**keys: object) -> GroundedWordsModel:
    torch.manual_seed(0)
    table = WordTable(torch.randn(VOCAB, TEXT), specials=4, trains=True)
    config = replace(TasksConfig(width=WIDTH), **keys)
    return GroundedWordsModel(table, config, IMAGE).double()


# --- models


@pytest.mark.parametrize("keys", [{}, {"tie_output": True, "share_image_layer": False, "map_start": "orthogonal"}])
def test_the_tasks_are_the_articles_formulas_word_by_word(keys) -> None:
    model = _model(**keys)
    true, false = _pairs(_tokens([2, 5, 6, 3], [2, 7, 3])), _pairs(_tokens([2, 9, 3], [2, 8, 7, 3]), seed=1)
    rows = model(MatchBatch(true=true, false=false))
    table, map_DC = model.table.tuned_VD, model.map_DC
    out = table if model.output is None else model.output.weight

    def states(task: str, ids: list[int], image_F):
        layer = model.image_layers[list(model.grus).index(task) if len(model.image_layers) > 1 else 0].linear
        state_C = torch.tanh(layer.weight @ image_F + layer.bias)
        found = []
        for word in ids:
            state_C = model.grus[task]((table[word] @ map_DC)[None, None], state_C[None, None])[0][0, 0]
            found.append(state_C)
        return found

    sentences = [[2, 5, 6, 3], [2, 7, 3]]
    for task, read, predictions in (
        ("forward_lm", lambda s: s, rows.forward),
        ("backward_lm", lambda s: s[::-1], rows.backward),
    ):
        wanted, labels = [], []
        for number, sentence in enumerate(map(read, sentences)):
            for state_C, label in zip(states(task, sentence[:-1], true.image_BF[number]), sentence[1:], strict=True):
                wanted.append(out @ (map_DC @ state_C) + model.output_bias)
                labels.append(label)
        torch.testing.assert_close(predictions.logit_MV, torch.stack(wanted))
        assert predictions.label_M.tolist() == labels
    matches = [(s, true.image_BF[n]) for n, s in enumerate(sentences)]
    matches += [([2, 9, 3], false.image_BF[0]), ([2, 8, 7, 3], false.image_BF[1])]
    wanted = [model.match_layer(states("match", s, image)[-1])[0] for s, image in matches]
    torch.testing.assert_close(rows.match_logit_P, torch.stack(wanted))
    assert rows.match_label_P.tolist() == [1, 1, 0, 0]
    assert rows.tuned_VD.shape == (VOCAB - 4, TEXT)


def test_padding_and_the_order_of_a_batch_change_nothing() -> None:
    model = _model()
    short = _pairs(_tokens([2, 5, 6, 3], [2, 7, 3]))
    wide = replace(short, caption=_tokens([2, 5, 6, 3], [2, 7, 3], width=9))
    swapped = PairBatch(_tokens([2, 7, 3], [2, 5, 6, 3]), short.image_BF.flip(0), short.image_id_B.flip(0))
    one, two, three = (model(MatchBatch(true=each, false=each)) for each in (short, wide, swapped))
    torch.testing.assert_close(one.backward.logit_MV, two.backward.logit_MV)
    torch.testing.assert_close(one.match_logit_P, two.match_logit_P)
    torch.testing.assert_close(one.match_logit_P[:2], three.match_logit_P[:2].flip(0))
    torch.testing.assert_close(one.forward.logit_MV[:3], three.forward.logit_MV[2:])


def test_no_direction_sees_the_word_it_predicts() -> None:
    model = _model()
    pairs = _pairs(_tokens([2, 5, 6, 3]))
    changed = replace(pairs, caption=_tokens([2, 5, 9, 3]))
    one, two = (model(MatchBatch(true=each, false=each)) for each in (pairs, changed))
    torch.testing.assert_close(one.forward.logit_MV[:2], two.forward.logit_MV[:2])
    # Backwards the changed word is the first to be predicted.
    torch.testing.assert_close(one.backward.logit_MV[:1], two.backward.logit_MV[:1])
    assert not torch.allclose(one.forward.logit_MV[2], two.forward.logit_MV[2])
    assert not torch.allclose(one.backward.logit_MV[1], two.backward.logit_MV[1])


def test_images_reach_every_task() -> None:
    model = _model()
    pairs = _pairs(_tokens([2, 5, 3]))
    other = replace(pairs, image_BF=pairs.image_BF + 1)
    one, two = (model(MatchBatch(true=each, false=each)) for each in (pairs, other))
    for left, right in (
        (one.forward.logit_MV, two.forward.logit_MV),
        (one.backward.logit_MV, two.backward.logit_MV),
        (one.match_logit_P, two.match_logit_P),
    ):
        assert not torch.allclose(left, right)


def test_regression_standardises_features_and_keeps_text_vectors() -> None:
    torch.manual_seed(0)
    table = WordTable(torch.randn(VOCAB, TEXT), specials=4, trains=False)
    mean, std = torch.full((IMAGE,), 2.0), torch.full((IMAGE,), 4.0)
    model = ImageRegressionModel(
        table, RegressionConfig(objective="image_regression", width=WIDTH, state_width=3), mean, std
    ).double()
    pairs = _pairs(_tokens([2, 5, 6, 3], [2, 7, 3]))
    found = model(pairs)
    torch.testing.assert_close(found.image_BF, (pairs.image_BF - 2) / 4)
    alone = model(PairBatch(_tokens([2, 7, 3]), pairs.image_BF[1:], pairs.image_id_B[1:]))
    torch.testing.assert_close(found.predicted_BF[1:], alone.predicted_BF)
    assert "table.tuned_VD" not in dict(model.named_parameters())
    assert dict(model.named_parameters())["map_DC"].requires_grad


def test_an_orthogonal_map_starts_with_the_cosines_of_text() -> None:
    model = _model(map_start="orthogonal")
    torch.testing.assert_close(model.map_DC @ model.map_DC.T, torch.eye(TEXT, dtype=torch.float64), atol=1e-6, rtol=0)


def test_reversal_and_last_states() -> None:
    tokens = _tokens([2, 5, 6, 3], [2, 7, 3])
    assert reverse(tokens).input_ids_BT.tolist() == [[3, 6, 5, 2], [3, 7, 2, 0]]
    states = torch.arange(8.0).reshape(2, 4, 1)
    assert last_states(states, tokens).tolist() == [[3.0], [6.0]]


# --- losses


def test_match_and_retention_are_their_definitions() -> None:
    logit = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    label = torch.tensor([1.0, 0.0, 0.0])
    p = 1 / (1 + np.exp(-logit.numpy()))
    assert matching_loss(logit, label).item() == pytest.approx(-np.log(p[0]) - np.log(1 - p[1]) - np.log(1 - p[2]))
    tuned = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0]], dtype=torch.float64)
    original = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert cosine_retention(tuned, original, beta=1.0).item() == pytest.approx(0 + 0.4 + 2)
    assert cosine_retention(tuned, original, beta=0.5).item() == pytest.approx(0.5 + 0.1 + 1.5)
    with pytest.raises(ValueError, match="beta must lie"):
        cosine_retention(tuned, original, beta=1.5)


# --- captions


class _Captions:
    def ids(self, index):
        return [np.array([2, 4 + int(i), 3]) for i in index]

    def __len__(self) -> int:
        return 12


class _Images:
    def rows(self, index):
        return np.asarray(index, dtype=np.float32)[:, None]


def _stream(share: Share, image_of_caption=None, *, negatives: int = 3) -> MatchStream:
    image_of_caption = np.repeat(np.arange(4), 3) if image_of_caption is None else image_of_caption
    pairs = PairStream(_Captions(), image_of_caption, _Images(), Sampler(12, share, seed=1, name="x"), pad_id=0)
    return MatchStream(pairs, negatives=negatives, seed=5)


def test_false_pairs_are_false_and_keep_one_side() -> None:
    stream = _stream(Share(6))
    kept = {"caption": 0, "image": 0}
    for step in range(20):
        batch = stream.batch(step)
        captions = batch.true.caption.input_ids_BT[:, 1] - 4
        others = batch.false.caption.input_ids_BT[:, 1] - 4
        assert len(others) == 18
        for row, (caption, image) in enumerate(zip(others.tolist(), batch.false.image_id_B.tolist(), strict=True)):
            own, shown = captions[row // 3].item(), batch.true.image_id_B[row // 3].item()
            assert image != caption // 3, "a caption with its own image is no false pair"
            assert (caption == own) != (image == shown)
            kept["caption" if caption == own else "image"] += 1
    assert min(kept.values()) > 100
    assert torch.equal(stream.batch(3).false.image_id_B, _stream(Share(6)).batch(3).false.image_id_B)


def test_false_pairs_do_not_depend_on_the_number_of_processes() -> None:
    whole = _stream(Share(6)).batch(1).false.image_id_B
    halves = [_stream(Share(3, rank, 2)).batch(1).false.image_id_B for rank in (0, 1)]
    assert torch.equal(whole, torch.cat(halves))


def test_one_image_has_no_false_pairs() -> None:
    with pytest.raises(ValueError, match="two images or more"):
        _stream(Share(6), np.zeros(12, dtype=np.int64))


# --- files


VECTORS = WordVectors.of(
    ("dog", "New York", "café", "zebra"),
    np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32),
)


@pytest.mark.parametrize("name", ["a.txt", "a.vec", "a.bin", "a.safetensors"])
def test_written_vectors_read_back_bit_for_bit(name: str, tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        save_word_vectors(tmp_path / name, VECTORS)
    read = load_word_vectors(tmp_path / name)
    kept = [word for word in VECTORS.words if name != "a.bin" or " " not in word]
    assert list(read.words) == kept
    np.testing.assert_array_equal(read.row_VD, VECTORS.row_VD[[VECTORS.index[word] for word in kept]])
    assert ("left out 1 words with a space" in caplog.text) == (name == "a.bin")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert load_word_vectors(tmp_path / name, keep={"zebra"}).words == ("zebra",)
    assert load_word_vectors(tmp_path / name, limit=2).words == tuple(kept[:2])


@pytest.mark.parametrize("name", ["a.txt", "a.bin"])
def test_headers_are_word2vecs(name: str, tmp_path: Path) -> None:
    plain = WordVectors.of(("dog", "cat"), VECTORS.row_VD[:2])
    save_word_vectors(tmp_path / name, plain)
    header, rest = (tmp_path / name).read_bytes().split(b"\n", 1)
    assert header.split() == [b"2", b"3"]
    assert rest.startswith(b"dog ")


def test_streaming_gives_blocks_of_the_same(tmp_path: Path) -> None:
    save_word_vectors(tmp_path / "a.txt", VECTORS)
    blocks = list(stream_word_vectors(tmp_path / "a.txt", block_words=3))
    assert [block.words for block in blocks] == [VECTORS.words[:3], VECTORS.words[3:]]
    np.testing.assert_array_equal(np.concatenate([block.row_ND for block in blocks]), VECTORS.row_VD)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    save_word_vectors(path, VECTORS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="rows of shape"), WordVectorWriter(path, width=4) as writer:
        writer.append(WordBlock(VECTORS.words, VECTORS.row_VD))
    with pytest.raises(ValueError, match="no words to write"), WordVectorWriter(path, width=4):
        pass
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="are written as"):
        WordVectorWriter(tmp_path / "a.npz", width=3)


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, dtype=np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds no word vectors of ours"):
        load_word_vectors(tmp_path / "model.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"1234567890")
    with pytest.raises(ValueError, match=r"cut.safetensors: damaged"):
        load_word_vectors(tmp_path / "cut.safetensors")


MAP = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)


def test_grounding_is_one_matrix_product_for_every_word(tmp_path: Path) -> None:
    save_word_vectors(tmp_path / "text.txt", VECTORS)
    tuned = WordVectors.of(("dog", "unheard"), np.ones((2, 3), dtype=np.float32))
    WordMap(MAP, tuned=tuned).save(tmp_path)
    loaded = WordMap.load(tmp_path)
    for word_map, first in ((WordMap(MAP), VECTORS.row_VD[0]), (loaded, np.ones(3))):
        assert ground_file(tmp_path / "text.txt", tmp_path / "out.safetensors", word_map=word_map) == 4
        out = load_word_vectors(tmp_path / "out.safetensors")
        assert out.words == VECTORS.words
        np.testing.assert_allclose(out.row_VD[0], first @ MAP, rtol=1e-6)
        np.testing.assert_allclose(out.row_VD[1:], VECTORS.row_VD[1:] @ MAP, rtol=1e-5)
    with pytest.raises(ValueError, match="takes vectors of 3 numbers, these have 4"):
        loaded.ground(WordBlock(("dog",), np.ones((1, 4), dtype=np.float32)))
    with pytest.raises(ValueError, match="no map of words"):
        WordMap.load(tmp_path / "absent")


def grounded_manifest(digest: str, *, images: object) -> Manifest:
    return Manifest(
        kind="grounded_words",
        recipe="grounded_words",
        details={"source": "text.txt", "source_digest": digest},
        config={"controls": {"images": images}},
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "best"
    save_grounded_words(
        folder,
        [WordBlock(VECTORS.words, VECTORS.row_VD)],
        word_map=WordMap(MAP),
        vocab=Vocab((*SPECIALS, "dog", "zebra")),
        manifest=grounded_manifest("0", images=True),
        card="# card\n",
    )
    return folder


def test_a_run_loads_as_word_vectors(checkpoint: Path) -> None:
    for name in (checkpoint, checkpoint.parent):
        encoder = load_encoder(str(name))
        assert isinstance(encoder, WordVectorEncoder)
        wanted = (VECTORS.row_VD[0] @ MAP + VECTORS.row_VD[3] @ MAP) / 2
        np.testing.assert_allclose(encoder.encode("dog zebra", normalize=False), wanted, rtol=1e-5)
        assert encoder_digest(str(name)) is not None
    with pytest.raises(ValueError, match="not empty"):
        save_grounded_words(
            checkpoint,
            [],
            word_map=WordMap(MAP),
            vocab=Vocab(SPECIALS),
            manifest=grounded_manifest("", images=True),
            card="",
        )


def test_the_live_encoder_follows_the_map() -> None:
    maps = [WordMap(MAP), WordMap(2 * MAP)]
    encoder = LiveWordEncoder(VECTORS, lambda: maps[0])
    first = encoder.encode(["dog", "nothing"], normalize=False)
    maps.pop(0)
    np.testing.assert_allclose(encoder.encode(["dog"], normalize=False), 2 * first[:1], rtol=1e-6)
    assert not first[1].any()


def test_ground_words_and_neighbors_commands(checkpoint: Path, tmp_path: Path, capsys) -> None:
    save_word_vectors(tmp_path / "text.txt", VECTORS)
    arguments = ["words", "ground", str(checkpoint.parent), "--vectors", str(tmp_path / "text.txt")]
    assert main([*arguments, "--output", str(tmp_path / "out.bin")]) == 2
    assert "was trained with another file, text.txt, than" in capsys.readouterr().err
    assert main([*arguments, "--output", str(tmp_path / "out.bin"), "--other-vectors"]) == 0
    assert load_word_vectors(tmp_path / "out.bin").words == ("dog", "café", "zebra")
    assert "grounded 4 words" in capsys.readouterr().out
    assert main(["words", "ground", str(tmp_path), "--vectors", "x.txt", "--output", "y.bin"]) == 2
    spaces = ["--spaces", str(tmp_path / "text.txt"), str(checkpoint.parent)]
    assert main(["words", "neighbors", "dog", *spaces, "--count", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("| word | only in ")
    assert "| dog |" in out
    assert main(["words", "neighbors", "absent", *spaces]) == 2
    assert "'absent' has no vector in space 1" in capsys.readouterr().err


def test_neighbours_that_differ() -> None:
    first = WordVectors.of(
        ("a", "b", "c", "d", "x"), np.array([[1, 0], [1, 0.1], [1, 0.5], [-1, 0], [0, 1]], np.float32)
    )
    second = WordVectors.of(
        ("a", "b", "c", "d", "y"), np.array([[1, 0], [1, 0.1], [-1, 0], [1, 0.5], [0, 1]], np.float32)
    )
    found = compare_neighbours("a", first, second, count=2)
    assert (found.first, found.second) == (("b", "c"), ("b", "d"))
    assert (found.only_first, found.only_second) == (("c",), ("d",))


# --- controls


def test_whitening_and_all_but_the_top_are_their_definitions() -> None:
    draw = np.random.default_rng(0)
    rows = (draw.normal(size=(400, 6)) @ draw.normal(size=(6, 6)) + 3).astype(np.float32)
    vectors = WordVectors.of(tuple(map(str, range(400))), rows)
    white = whiten(vectors).row_VD
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(white.T @ white / 400, np.eye(6), atol=1e-4)
    without = all_but_the_top(vectors, components=2).row_VD
    centred = rows - rows.mean(0)
    _, _, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(without, centred - centred @ axes[:2].T @ axes[:2], atol=1e-4)
    with pytest.raises(ValueError, match="fewer than the 6"):
        all_but_the_top(vectors, components=6)
    with pytest.raises(ValueError, match="without a difference"):
        whiten(WordVectors.of(("a", "b"), np.ones((2, 3), dtype=np.float32)))


def test_whitening_leaves_out_directions_without_variance() -> None:
    draw = np.random.default_rng(0)
    rows = np.concatenate([draw.normal(size=(50, 2)), np.zeros((50, 1))], axis=1).astype(np.float32)
    assert whiten(WordVectors.of(tuple(map(str, range(50))), rows)).width == 2


@pytest.mark.slow
def test_report_has_five_rows_and_refuses_mixed_up_runs(checkpoint: Path, tmp_path: Path, capsys) -> None:
    draw = np.random.default_rng(0)
    words = tuple(f"w{number}" for number in range(12))
    text = WordVectors.of(words, draw.normal(size=(12, 3)).astype(np.float32))
    save_word_vectors(tmp_path / "text.txt", text)
    lines = [f"{left}\t{right}\t{draw.uniform():.3f}" for left, right in itertools.pairwise(words)]
    (tmp_path / "own.tsv").write_text("\n".join([*lines, "w1\tabsent\t0.5"]) + "\n")
    runs = {}
    for control in (True, "shuffled_images"):
        for seed in range(2):
            folder = tmp_path / f"{control}{seed}"
            runs.setdefault(control, []).append(str(folder))
            save_grounded_words(
                folder,
                [WordBlock(text.words, text.row_VD)],
                word_map=WordMap(draw.normal(size=(3, 4)).astype(np.float32)),
                vocab=Vocab((*SPECIALS, *words[:6])),
                manifest=grounded_manifest("", images=control),
                card="",
            )
    arguments = ["words", "report", "--text", str(tmp_path / "text.txt"), "--data", str(tmp_path / "own.tsv")]
    arguments += ["--output", str(tmp_path / "report")]
    right = ["--true", *runs[True], "--shuffled", *runs["shuffled_images"]]
    assert main([*arguments, *right]) == 0
    found = json.loads((tmp_path / "report" / "report.json").read_text())["wordsim"]
    assert list(found) == ["text", "whitened text", "all-but-the-top", "shuffled images", "true images"]
    assert [len(row["own all"]["values"]) for row in found.values()] == [1, 1, 1, 2, 2]
    cell = found["text"]
    assert (cell["own all"]["pairs"], cell["own seen"]["pairs"], cell["own unseen"]["pairs"]) == (11, 5, 6)
    assert cell["own all"]["coverage"] == pytest.approx(100 * 11 / 12)
    assert "| true images |" in (tmp_path / "report" / "report.md").read_text()
    swapped = ["--true", *runs["shuffled_images"], "--shuffled", *runs[True]]
    assert main([*arguments, *swapped]) == 2
    assert "was trained with controls.images" in capsys.readouterr().err


def test_report_refuses_other_pairs_and_random_images_and_grounds_text(
    checkpoint: Path, tmp_path: Path, capsys
) -> None:
    draw = np.random.default_rng(0)
    words = tuple(f"w{number}" for number in range(12))
    text = WordVectors.of(words, draw.normal(size=(12, 3)).astype(np.float32))
    save_word_vectors(tmp_path / "text.txt", text)
    lines = [f"{left}\t{right}\t{draw.uniform():.3f}" for left, right in itertools.pairwise(words)]
    (tmp_path / "own.tsv").write_text("\n".join(lines) + "\n")

    def save(name: str, control: object, count: int, digest: str) -> str:
        folder = tmp_path / name
        save_grounded_words(
            folder,
            [WordBlock(words[:count], text.row_VD[:count])],
            word_map=WordMap(np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)),
            vocab=Vocab((*SPECIALS, *words[:6])),
            manifest=grounded_manifest(digest, images=control),
            card="",
        )
        return str(folder)

    digest = sha256_file(tmp_path / "text.txt")
    true, few = save("true", True, 12, digest), save("few", True, 6, digest)
    shuffled, drawn = save("shuffled", "shuffled_pairs", 12, digest), save("drawn", "random", 12, digest)
    other = save("other", True, 12, "another")
    arguments = ["words", "report", "--text", str(tmp_path / "text.txt"), "--data", str(tmp_path / "own.tsv")]
    arguments += ["--output", str(tmp_path / "report")]
    assert main([*arguments, "--true", few, "--shuffled", shuffled]) == 2
    assert "--text has vectors for 11 pairs, a run of true images for 5" in capsys.readouterr().err
    assert main([*arguments, "--true", true, few, "--shuffled", shuffled]) == 2
    assert main([*arguments, "--true", true, "--shuffled", drawn]) == 2
    assert "drawn was trained with controls.images random" in capsys.readouterr().err
    found = {}
    for name, more in (("stored", [true]), ("grounded", [few, "--ground-text"])):
        assert main([*arguments, "--shuffled", shuffled, "--true", *more]) == 0
        report = json.loads((tmp_path / "report" / "report.json").read_text())["wordsim"]
        found[name] = report["true images"]["own all"]["values"]
    assert found["grounded"] == pytest.approx(found["stored"])
    assert main([*arguments, "--shuffled", shuffled, "--true", other, "--ground-text"]) == 2
    assert "trained with another file" in capsys.readouterr().err
