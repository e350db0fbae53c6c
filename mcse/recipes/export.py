"""The shelf of exports: the folder that people load, with its card. Not a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mcse.config import to_dict, to_yaml
from mcse.data.config import DataConfig
from mcse.models.checkpoint import CheckpointInfo, save_checkpoint, save_info
from mcse.models.config import EncoderConfig
from mcse.models.image_tower import ImageTower
from mcse.recipes.shared import TextSide
from mcse.report.model_card import CardFacts, sentence_card, word_model_card
from mcse.types import DataFile


def card_facts(config: Any, *, scores: Mapping[str, float], data: Sequence[DataFile]) -> CardFacts:
    """What a model card tells of a run of any recipe; ``config`` is the recipe's whole."""
    return CardFacts(
        name="-".join(config.output_dir.parts[-2:]),
        recipe=config.recipe,
        scores=scores,
        config_yaml=to_yaml(config),
        data=data,
    )


def save_word_model_info(
    folder: Path,
    config: Any,
    *,
    pooling: str,
    summary: str,
    use: str,
    scores: Mapping[str, float],
    data: Sequence[DataFile],
) -> None:
    """Writes ``mcse.json`` and the card of a model of words in context into ``folder``."""
    card = word_model_card(card_facts(config, scores=scores, data=data), summary=summary, use=use)
    save_info(folder, CheckpointInfo(recipe=config.recipe, pooling=pooling, config=to_dict(config)), card=card)


@dataclass(frozen=True, slots=True)
class StoredImageSide:
    """What a checkpoint keeps of the image side.

    The heads by name; which tower gave the features, after which preprocessing, by which weights (a digest), as far as
    that is known; a description of the features; and the tower itself where it was trained.
    """

    heads: Mapping[str, nn.Module]
    tower: str | None
    preprocessing: str | None
    weights: str | None
    features: str
    trained_tower: ImageTower | None = None


@dataclass(frozen=True, slots=True)
class Exporter:
    """Writes the folder that people load; ``config`` is the recipe's whole, ``data`` are names of what was read."""

    config: Any
    text: TextSide
    encoder_config: EncoderConfig
    data: tuple[DataFile, ...]
    images: StoredImageSide | None = None

    def __call__(self, folder: Path, scores: Mapping[str, float]) -> None:
        """Into ``folder``, with ``scores`` in the card."""
        card = sentence_card(
            card_facts(self.config, scores=scores, data=self.data),
            base_model=self.encoder_config.name_or_path,
            datasets=_hub_datasets(self.config.data),
        )
        images = self.images
        info = CheckpointInfo(
            recipe=self.config.recipe,
            pooling=self.encoder_config.pooling,
            image_tower=images.tower if images else None,
            image_preprocessing=images.preprocessing if images else None,
            image_weights=images.weights if images else None,
            image_tower_trained=images is not None and images.trained_tower is not None,
            feature_store=images.features if images else None,
            max_length_training=self.config.data.max_length,
            config=to_dict(self.config),
        )
        save_checkpoint(
            folder,
            encoder=self.text.model.encoder,
            tokenizer=self.text.tokenizer,
            info=info,
            text_head=self.text.model.head,
            image_heads=images.heads if images else {},
            card=card,
            image_tower=images.trained_tower if images else None,
        )


def _hub_datasets(data: DataConfig) -> list[str]:
    """Ids of the datasets that the configuration names as the hub's; ``a/b`` may as well be a local path."""
    prefix = "hf://datasets/"
    named = [source for source in (data.sentences, data.captions) if source is not None and source.startswith(prefix)]
    return ["/".join(source.removeprefix(prefix).split("/")[:2]) for source in named]
