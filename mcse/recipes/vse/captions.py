"""What a recipe of joint models is made of beside its loss: text side, dev evaluator, export. Not a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcse.data.images.training import NamedImages
from mcse.data.joint_pairs import DevImages
from mcse.encoders.inputs import evaluating
from mcse.encoders.joint_encoder import JointEncoder
from mcse.evaluation.evaluators.held_out_images import RetrievalEvaluator
from mcse.files import sha256_file
from mcse.manifest import without_folders
from mcse.models.checkpoint import check_trainable
from mcse.models.config import CaptionEncoderConfig, TransformerConfig, WordEncoderConfig
from mcse.models.joint_checkpoint import save_joint
from mcse.models.joint_model import CaptionEncoder, JointModel, build_caption_encoder
from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import load_tokenizer
from mcse.models.word_init import fill_words, place_of
from mcse.recipes import export, shared
from mcse.recipes.image_side import Images
from mcse.report.model_card import joint_card
from mcse.text.vocab import Vocab, split_words
from mcse.text.word_tokenizer import WordTokenizer
from mcse.text.word_vectors import WordVectors, load_word_vectors
from mcse.types import DataFile, FloatArray, Tokenizer

_IMAGES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class CaptionSide:
    """A caption encoder and its tokenizer; ``facts`` for the start of a run, ``files`` that it was made from."""

    config: CaptionEncoderConfig
    encoder: CaptionEncoder
    tokenizer: Tokenizer
    facts: Mapping[str, str | int | float]
    files: tuple[DataFile, ...]


def build_captions(
    config: CaptionEncoderConfig, captions: Sequence[str], *, dim: int, root: Path, max_length: int
) -> CaptionSide:
    """The text side of ``encoder``; a vocabulary is of the training captions alone.

    Args:
        config: The ``encoder`` keys.
        captions: Those that are trained on.
        dim: Width of the joint space, which is that of an LSTM's or GRU's state.
        root: Where a relative path of word vectors starts.
        max_length: Tokens that captions keep.

    Raises:
        ValueError: No such transformer, or one that cannot be trained so; no word is frequent enough; or word vectors
            that cannot be read or do not fit.
    """
    if isinstance(config, TransformerConfig):
        transformer, pieces = build_caption_encoder(config, vocab_size=0, dim=dim), load_tokenizer(config.name_or_path)
        assert isinstance(transformer, TextEncoder)
        check_trainable(transformer, pieces, max_length=max_length)
        files = shared.encoder_files(config.name_or_path)
        facts = {**shared.encoder_facts(files), **transformer.facts.described()}
        return CaptionSide(config, transformer, pieces, facts, files)
    words = [split_words(caption) for caption in captions]
    vocab = Vocab.from_sentences(words, min_count=config.min_count)
    vectors, files = _open_vectors(config, vocab, root=root)
    if vectors is not None and not config.train_words:
        known = [[word for word in line if place_of(word.lower(), vectors) is not None] for line in words]
        vocab = Vocab.from_sentences(known, min_count=config.min_count)
    encoder = build_caption_encoder(config, vocab_size=len(vocab), dim=dim)
    assert not isinstance(encoder, TextEncoder)
    facts = {"words": len(vocab)}
    if vectors is not None:
        facts["words with vectors"] = fill_words(encoder.embedding, vocab, vectors)
        encoder.embedding.weight.requires_grad_(config.train_words)
    return CaptionSide(config, encoder, WordTokenizer(vocab, config.marks), facts, files)


def dev_evaluator(
    model: JointModel, text: CaptionSide, images: Images[NamedImages], dev: DevImages | None, *, precision: str
) -> tuple[tuple[RetrievalEvaluator, ...], tuple[str, ...]]:
    """Evaluates the model as it is on the held-out images, if there are any, and the names of its scores."""
    if dev is None:
        return (), ()
    encoder = JointEncoder(model, text.tokenizer, precision="bfloat16" if precision == "bf16" else "float32")

    def features() -> FloatArray:
        if model.tower is None:
            return images.rows.rows(dev.row_I)
        blocks = []
        with evaluating([model.tower]), torch.inference_mode():
            for index in _blocks(dev.row_I):
                pixel_B3HW = torch.from_numpy(images.rows.rows(index)).to(encoder.device)
                blocks.append(model.tower(pixel_B3HW).float().cpu())
        feature_IF: FloatArray = torch.cat(blocks).numpy()
        return feature_IF

    evaluator = RetrievalEvaluator(encoder, dev.captions, image_C=dev.image_C, features=features)
    return (evaluator,), evaluator.metrics


def joint_exporter(
    config: Any, model: JointModel, text: CaptionSide, data: tuple[DataFile, ...], images: Images[NamedImages]
) -> export.Exporter:
    """Writes the checkpoint folder that ``JointEncoder`` loads; ``config`` is the recipe's whole config."""
    stored = images.stored(data[-1])
    return export.Exporter(
        config,
        "joint",
        data,
        save=partial(
            save_joint,
            model=model,
            config=text.config,
            tokenizer=text.tokenizer,
            image_tower=images.trained_tower,
        ),
        card=partial(
            joint_card,
            text=without_folders(getattr(text.config, "name_or_path", text.config.kind)),
            images=without_folders(stored.tower or str(stored.features)),
        ),
        pooling=JointEncoder.pooling,
        images=stored,
    )


def _open_vectors(
    config: WordEncoderConfig, vocab: Vocab, *, root: Path
) -> tuple[WordVectors | None, tuple[DataFile, ...]]:
    if config.word_vectors is None:
        return None, ()
    path = root / config.word_vectors
    keep = {form for word in vocab.words for form in (word, word.capitalize())}
    vectors = load_word_vectors(path, keep=keep)
    return vectors, (DataFile("word vectors", str(path), sha256_file(path)),)


def _blocks(index: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [index[start : start + _IMAGES_AT_ONCE] for start in range(0, len(index), _IMAGES_AT_ONCE)]


__all__ = ["CaptionSide", "build_captions", "dev_evaluator", "joint_exporter"]
