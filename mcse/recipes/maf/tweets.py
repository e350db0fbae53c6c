"""The side of tagged tweets: reading them with their images, the optimizer and the checkpoint. Not a recipe.

N tweets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcse.data.config import TaggedConfig
from mcse.data.conll import TaggedTexts, check_types, find_tags, read_conll
from mcse.data.controls_config import ImageControls, images_shown
from mcse.data.images.names import ABSENT
from mcse.data.images.training import NamedImages
from mcse.data.tweets import TweetPart, control_images, cut_tweets, tweets_to_images
from mcse.encoders.tweet_tagger import TweetTagger
from mcse.files import sha256_file
from mcse.models.checkpoint import check_trainable
from mcse.models.maf_model import TaggerModel
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.tagger_checkpoint import save_tagger
from mcse.models.text_encoder import TextEncoder
from mcse.recipes import export
from mcse.recipes.image_side import Images
from mcse.report.model_card import tagger_card
from mcse.text.tags import TagSet
from mcse.types import DataFile

_SAMPLED = 256


def check_length(max_length: int, encoder: TextEncoder, tokenizer: PieceTokenizer) -> None:
    """Refuses parts that the encoder has no positions for, and what else it cannot do."""
    check_trainable(encoder, tokenizer, max_length=max_length)
    if not tokenizer.inner.is_fast:
        raise ValueError("encoder.name_or_path: its tokenizer is no fast one, so it does not know its pieces' words")


def blank_shape(images: Images[NamedImages]) -> tuple[int, ...]:
    """Shape of what stands for an image in batches."""
    if images.tower is None:
        return (images.width,)
    return images.rows.rows(np.zeros(1, dtype=np.int64)).shape[1:]


def sample_regions(images: Images[NamedImages], parts: Sequence[TweetPart]) -> Tensor:
    """(N, F) regions of the first training tweets that have an image, for their mean and spread."""
    row_N = np.asarray([part.image_row for part in parts if part.image_row != ABSENT][:_SAMPLED], dtype=np.int64)
    row_NF = torch.from_numpy(images.rows.rows(row_N))
    if images.tower is not None:
        was_training = images.tower.training
        with torch.no_grad():
            row_NF = images.tower.eval()(row_NF)
        images.tower.train(was_training)
    return row_NF.reshape(-1, images.width // images.regions)


@dataclass(frozen=True, slots=True)
class Tweets:
    """Training tweets in parts with their images under a control, the dev set as it stands, and the facts of both."""

    tags: TagSet
    parts: list[TweetPart]
    dev: TaggedTexts
    dev_rows: NDArray[np.int64]
    files: tuple[DataFile, ...]
    facts: dict[str, str | int | float]


def load_tweets(
    data: TaggedConfig,
    tokenizer: PieceTokenizer,
    *,
    images: Images[NamedImages] | None,
    controls: ImageControls,
    seed: int,
) -> Tweets:
    """Reads ``data.train`` and ``data.dev``. The controls are for training alone: dev keeps its own images.

    Raises:
        FileNotFoundError: A file is absent.
        ValueError: A file is damaged, dev has a type that training lacks, or no image fits.
    """
    train, dev = read_conll(data.path("train")), read_conll(data.path("dev"))
    tags = find_tags(train)
    check_types(dev, tags)
    source = None if images is None else images.rows
    train_rows = control_images(
        tweets_to_images(train, source), controls.images, seed=seed, wrong_images=controls.wrong_images
    )
    dev_rows = tweets_to_images(dev, source)
    parts = cut_tweets(train, train_rows, tags=tags, tokenizer=tokenizer.inner, max_length=data.max_length)
    facts: dict[str, str | int | float] = {
        "tweets": len(train),
        "entity types": ", ".join(tags.types),
        "tags repaired": f"{train.repairs.total} in training, {dev.repairs.total} in dev",
    }
    if len(parts) > len(train):
        facts["parts of long tweets"] = len(parts) - len(train)
    files: tuple[DataFile, ...] = tuple(
        DataFile(role, str(texts.path), sha256_file(texts.path)) for role, texts in (("train", train), ("dev", dev))
    )
    if images is not None:
        facts |= images.facts | {
            "regions": images.regions,
            "tweets without an image": int((train_rows == ABSENT).sum()),
            "images shown": images_shown(controls),
        }
        files += (images.file(train_rows[train_rows != ABSENT]),)
    return Tweets(tags, parts, dev, dev_rows, files, facts)


def tagger_of(model: TaggerModel, tokenizer: PieceTokenizer) -> TweetTagger:
    """The model as it is now, for evaluation."""
    return TweetTagger(model, tokenizer)


def tagger_exporter(
    config: Any,
    model: TaggerModel,
    tokenizer: PieceTokenizer,
    data: tuple[DataFile, ...],
    images: Images[NamedImages] | None,
) -> export.Exporter:
    """Writes the checkpoint folder that ``TweetTagger`` loads; ``config`` is the recipe's whole config."""
    trained = None if images is None else images.trained_tower
    return export.Exporter(
        config,
        "tagger",
        data,
        save=partial(save_tagger, model=model, tokenizer=tokenizer, trained_tower=trained),
        card=partial(tagger_card, base_model=config.encoder.name_or_path, types=model.shape.types),
        images=None if images is None else images.stored(data[-1]),
    )
