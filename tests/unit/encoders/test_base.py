"""The frame of every encoder, with a toy kind of two hooks: what is true of it is true of all."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mcse.encoders.base as module
from mcse.encoders.images import JointSpaceEncoder
from mcse.encoders.inputs import Precision, chosen_device, longest_first
from mcse.manifest import Located
from mcse.models.image_tower import load_image_tower

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox")
SENTENCES = ["fox", "ant bee cat", "dog dog", "", "bee cat dog eel fox", "eel ant", "cat"]


class Toy(JointSpaceEncoder[list[int]]):
    """Counts words; a sentence is its counts times a weight, and an image its features."""

    pooling = "count"

    def __init__(self, *, name: str = "", longest: int | None = 6, load_tower: object = None) -> None:
        super().__init__(name=name, longest=longest)
        self.image_tower, self._load_tower = "pixels:1", load_tower
        self.weight = nn.Linear(len(WORDS), len(WORDS), bias=False)
        with torch.no_grad():
            self.weight.weight.copy_(torch.eye(len(WORDS)) * 2)
        self.batches: list[list[int]] = []
        self.chunks: list[int] = []
        self.cuts: list[int | None] = []
        self.modes: list[tuple[bool, bool, bool]] = []

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Toy:
        return cls(name=located.name)

    @property
    def dimension(self) -> int:
        return len(WORDS)

    @property
    def image_width(self) -> int:
        return 3

    @property
    def joint_dimension(self) -> int:
        return 3

    def _modules(self) -> list[nn.Module]:
        return [self.weight]

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[list[int]]:
        self.chunks.append(len(texts))
        self.cuts.append(max_length)
        return [[WORDS.index(word) for word in text.split()][:max_length] for text in texts]

    def _forward(self, tokens: Sequence[list[int]]) -> Tensor:
        self.batches.append([len(row) for row in tokens])
        self.modes.append((self.weight.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        counts = [np.bincount(row, minlength=len(WORDS)) for row in tokens]
        row_BD: Tensor = self.weight(torch.from_numpy(np.stack(counts)).float())
        return row_BD

    def _forward_captions(self, tokens: Sequence[list[int]]) -> Tensor:
        return self._forward(tokens)[:, :3]

    def _forward_images(self, feature_BF: Tensor) -> Tensor:
        return feature_BF * 5


def counts(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([[2.0 * text.split().count(word) for word in WORDS] for text in texts])


def test_embeddings_come_in_the_order_of_the_sentences_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (2, 3, 100):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        for batch_size in (1, 2, 5, 64):
            rows = Toy().encode(SENTENCES, batch_size=batch_size, normalize=False)
            assert rows.dtype == np.float32
            np.testing.assert_array_equal(rows, counts(SENTENCES))


def test_chunks_are_tokenised_one_by_one_and_sorted_the_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Toy()
    encoder.encode(SENTENCES, batch_size=2)
    # What has no token is not computed at all.
    assert encoder.batches == [[5, 3], [2, 2], [1, 1]]
    monkeypatch.setattr(module, "_CHUNK", 4)
    encoder = Toy()
    encoder.encode(SENTENCES, batch_size=2)
    assert encoder.chunks == [4, 3]
    assert encoder.batches == [[3, 2], [1], [5, 2], [1]]


def test_rows_of_one_chunk_alone_are_held_beside_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are on the encoder's device, where ten million would fill a GPU."""
    made: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    class Noted(Toy):
        def _forward(self, tokens: Sequence[list[int]]) -> Tensor:
            row_BD = super()._forward(tokens)
            held.append(sum(len(alive) for ref in made if (alive := ref()) is not None))
            made.append(weakref.ref(row_BD))
            return row_BD

    def zeros(*shape: int, device: torch.device) -> Tensor:
        chunk_ND = torch.empty(*shape, device=device).zero_()
        made.append(weakref.ref(chunk_ND))
        return chunk_ND

    monkeypatch.setattr(module, "_CHUNK", 4)
    monkeypatch.setattr(module.torch, "zeros", zeros)
    rows = Noted().encode(SENTENCES * 9, batch_size=2, normalize=False)
    monkeypatch.undo()
    np.testing.assert_array_equal(rows, counts(SENTENCES * 9))
    assert len(held) > 30
    assert max(held) <= 4 + 4 + 2, "a chunk, the one before, and a batch"


def test_a_string_a_list_and_nothing() -> None:
    encoder = Toy()
    np.testing.assert_array_equal(encoder.encode("dog", normalize=False), counts(["dog"])[0])
    assert encoder.encode([]).shape == (0, 6)
    assert encoder.encode_captions("dog").shape == (1, 3)
    assert encoder.encode_captions([]).shape == (0, 3)
    assert encoder.encode(np.array(["dog", "cat"])).shape == (2, 6)


def test_unit_norm_and_zeros_that_stay_zeros() -> None:
    rows = Toy().encode(SENTENCES)
    wanted = np.ones(len(SENTENCES))
    wanted[SENTENCES.index("")] = 0
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), wanted, atol=1e-6)


def test_a_tensor_is_on_the_encoders_device_and_may_be_trained_on() -> None:
    encoder = Toy()
    tensor = encoder.encode(SENTENCES, convert_to_tensor=True)
    assert tensor.device == encoder.device
    np.testing.assert_array_equal(tensor.numpy(), encoder.encode(SENTENCES))
    (tensor * torch.ones(6, requires_grad=True)).sum().backward()


def test_length_is_cut_and_limited_by_the_model() -> None:
    encoder = Toy()
    assert encoder.max_length == 6
    np.testing.assert_array_equal(encoder.encode(["ant bee cat"], max_length=2, normalize=False), counts(["ant bee"]))
    encoder.encode_captions(["ant"])
    assert encoder.cuts == [2, 6]
    with pytest.raises(ValueError, match="max_length must be 1 to 6 tokens, the model's maximum; got 7"):
        encoder.encode(["ant"], max_length=7)
    endless = Toy(longest=None)
    endless.encode(["ant"])
    endless.encode(["ant"], max_length=10**6)
    assert endless.cuts == [None, 10**6]
    with pytest.raises(ValueError, match="max_length must be 1 or more tokens; got 0"):
        endless.encode(["ant"], max_length=0)


def test_what_is_no_string_is_refused_with_its_place() -> None:
    encoder = Toy()
    for encode in (encoder.encode, encoder.encode_captions):
        with pytest.raises(ValueError, match=r"sentences\[1\] is a NoneType, not a string: None"):
            encode(["ant", None])
    for empty in (["ant"], []):
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            encoder.encode(empty, batch_size=0)
        with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, got 'fp8'"):
            encoder.encode(empty, precision="fp8")


def test_modes_are_those_of_inference_and_come_back() -> None:
    encoder = Toy()
    encoder.weight.train()
    encoder.encode(["ant"])
    encoder.encode(["ant"], precision="bfloat16")
    assert encoder.modes == [(False, True, False), (False, True, True)]
    assert encoder.weight.training
    assert not torch.is_inference_mode_enabled()
    with pytest.raises(ValueError, match="not in tuple"):
        encoder.encode(["gnu"])
    assert encoder.weight.training


def test_progress_counts_every_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    Toy().encode(SENTENCES)
    assert capfd.readouterr() == ("", "")
    Toy().encode(SENTENCES, batch_size=2, show_progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{len(SENTENCES)} of {len(SENTENCES)}" in err


def test_similarity_of_sentences_and_of_embeddings() -> None:
    encoder = Toy()
    cosine = encoder.similarity(["ant bee", "ant"], ["ant", "cat"])
    np.testing.assert_allclose(cosine, [[0.5**0.5, 0], [1, 0]], atol=1e-6)
    rows = encoder.encode(["ant bee", "ant"], normalize=False)
    np.testing.assert_allclose(encoder.similarity(3 * rows, "ant"), cosine[:, :1], atol=1e-6)
    with pytest.raises(ValueError, match="embeddings are 6 and 4 wide; cosines need equal widths"):
        encoder.similarity(rows, np.ones((1, 4), dtype=np.float32))


def test_a_model_is_located_once_and_moved() -> None:
    encoder = Toy.from_pretrained(Path("somewhere/else"), device="cpu")
    assert encoder.name == "somewhere/else"
    assert encoder.to("cpu") is encoder


def test_captions_images_and_features_share_a_space() -> None:
    loads: list[str] = []

    def load() -> object:
        loads.append("pixels:1")
        return load_image_tower("pixels:1")

    encoder = Toy(name="toy", load_tower=load)
    captions = encoder.encode_captions(["ant", "bee bee"])
    np.testing.assert_array_equal(captions, [[1, 0, 0], [0, 1, 0]])
    features = np.array([[0.5, -0.5, 0.5], [0, 2, 0]], dtype=np.float32)
    images = encoder.encode_image_features(features, batch_size=1)
    np.testing.assert_allclose(images, features / np.linalg.norm(features, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(encoder.image_similarity(["ant", "bee bee"], features), captions @ images.T)
    assert not loads, "features need no tower"
    red = Image.new("RGB", (4, 4), (255, 0, 255))
    np.testing.assert_allclose(encoder.image_features([red, red]), [[0.5, -0.5, 0.5]] * 2, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_images(red), images[:1], atol=1e-6)
    assert loads == ["pixels:1"], "loaded with the first images, and once"


def test_features_that_do_not_fit_are_refused() -> None:
    encoder = Toy(name="toy")
    with pytest.raises(ValueError, match=r"shape \(2, 7\); 'toy' was trained on \(N, 3\) features of pixels:1"):
        encoder.encode_image_features(np.ones((2, 7), dtype=np.float32))
    features = np.ones((5, 3), dtype=np.float32)
    features[3, 1] = np.inf
    with pytest.raises(ValueError, match="image features: row 3 is not finite"):
        encoder.encode_image_features(features, batch_size=2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encoder.encode_image_features(features, batch_size=0)
    with pytest.raises(ValueError, match="'toy' knows no image tower, so it takes image features, not images"):
        encoder.encode_images("a.png")


def test_longest_first_leaves_out_what_has_no_length() -> None:
    assert longest_first([1, 3, 0, 2, 3], batch_size=2) == [[1, 4], [3, 0]]
    assert longest_first([], batch_size=2) == []


@pytest.mark.parametrize("device", ["bogus", "cuda:seven", "cuda:99", "meta", "-1"])
def test_a_device_that_is_none_is_refused(device):
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used: "):
        chosen_device(device)
    assert chosen_device("cpu").type == "cpu"


def test_rows_are_cut_and_stored_as_asked() -> None:
    encoder = Toy()
    whole = encoder.encode(SENTENCES, normalize=False)
    cut = encoder.encode(SENTENCES, dim=3)
    for row, wanted in zip(cut, whole[:, :3], strict=True):
        norm = float(sum(number**2 for number in wanted)) ** 0.5
        np.testing.assert_allclose(row, wanted / norm if norm else wanted, atol=1e-6)
    assert encoder.encode(SENTENCES, dtype="float16").dtype == np.float16
    bits = encoder.encode(SENTENCES, dtype="binary")
    assert (bits.dtype, bits.shape) == (np.uint8, (len(SENTENCES), 1))
    np.testing.assert_array_equal(np.unpackbits(bits, axis=1, count=6), whole > 0)
    unit = encoder.encode(SENTENCES)
    ranges = np.array([[-0.5] * 6, [1.0] * 6], dtype=np.float32)
    stored = encoder.encode(SENTENCES, dtype="int8", ranges=ranges)
    np.testing.assert_array_equal(stored, np.floor((unit + 0.5) / (1.5 / 255)) - 128)
    own = encoder.encode(SENTENCES, dtype="uint8")
    assert (own.min(), own.max()) == (0, 255)
    assert encoder.encode("fox", dtype="int8", ranges=ranges).shape == (6,)
    tensor = encoder.encode(SENTENCES, dtype="int8", ranges=ranges, convert_to_tensor=True)
    np.testing.assert_array_equal(tensor.numpy(), stored)
    assert encoder.encode([], dtype="int8").shape == (0, 6)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dim": 7}, "dim must be from 1 to 6, the width of the embeddings; got 7"),
        ({"dim": 0}, "got 0"),
        ({"dtype": "int4"}, "dtype must be one of float32, float16, int8, uint8, binary, got 'int4'"),
        ({"ranges": np.zeros((2, 6))}, "ranges are for int8 and uint8; float32 has none"),
        ({"dtype": "int8", "ranges": np.zeros((2, 5))}, "the least and the greatest value of 6 columns"),
        ({"dtype": "int8", "ranges": np.array([[1.0] * 6, [0.0] * 6])}, "the least and the greatest value"),
    ],
)
def test_rows_that_cannot_be_are_refused(asked: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Toy().encode(SENTENCES, **asked)
