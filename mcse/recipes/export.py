"""The folder that people load, with its manifest and card, which recipes share. Not a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from mcse.config import to_dict, to_yaml
from mcse.data.config import DataConfig, FileSentences, HubCaptions, HubSentences, TableSentences
from mcse.manifest import ImageSide, Kind, Manifest
from mcse.models.checkpoint import save_checkpoint
from mcse.models.config import EncoderConfig
from mcse.models.image_tower import ImageTower
from mcse.recipes.shared import TextSide
from mcse.report.model_card import CardFacts, sentence_card
from mcse.types import DataFile, Score

_HUB = "hf://datasets/"


def card_facts(config: Any, *, scores: Mapping[str, Score], data: Sequence[DataFile]) -> CardFacts:
    """What a model card tells of a run of any recipe; ``config`` is the recipe's whole."""
    return CardFacts(
        name="-".join(config.output_dir.parts[-2:]),
        recipe=config.recipe,
        scores={name: score.value for name, score in scores.items()},
        config_yaml=to_yaml(config),
        data=data,
    )


def manifest_of(
    config: Any,
    *,
    kind: Kind,
    scores: Mapping[str, Score],
    pooling: str | None = None,
    images: ImageSide | None = None,
    details: Mapping[str, Any] | None = None,
) -> Manifest:
    """The manifest of a run of any recipe; ``config`` is the recipe's whole."""
    return Manifest(
        kind=kind,
        recipe=config.recipe,
        pooling=pooling,
        images=images,
        details=details or {},
        scores={name: score.value for name, score in scores.items()},
        higher_is_better={name: score.higher_is_better for name, score in scores.items()},
        config=to_dict(config),
    )


@dataclass(frozen=True, slots=True)
class Exporter:
    """Writes the folder of a sentence encoder; ``config`` is the recipe's whole, ``data`` what was read.

    ``heads`` are those of the image side, by name; ``image_tower`` is the tower where it was trained.
    """

    config: Any
    text: TextSide
    encoder_config: EncoderConfig
    data: tuple[DataFile, ...]
    images: ImageSide | None = None
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    image_tower: ImageTower | None = None

    def __call__(self, folder: Path, scores: Mapping[str, Score]) -> None:
        """Into ``folder``, with ``scores`` in manifest and card."""
        pooling = self.encoder_config.pooling
        save_checkpoint(
            folder,
            encoder=self.text.model.encoder,
            tokenizer=self.text.tokenizer,
            manifest=manifest_of(self.config, kind="sentence", pooling=pooling, images=self.images, scores=scores),
            text_head=self.text.model.head,
            image_heads=self.heads,
            card=sentence_card(
                card_facts(self.config, scores=scores, data=self.data),
                base_model=self.encoder_config.name_or_path,
                datasets=_hub_datasets(self.config.data),
            ),
            image_tower=self.image_tower,
        )


def _hub_datasets(data: DataConfig) -> list[str]:
    """Ids of the datasets that the configuration names as the hub's; a file's ``a/b`` may as well be a local path."""
    named = []
    for source in (data.sentences, data.captions):
        if isinstance(source, HubSentences | HubCaptions):
            named.append(source.hub.partition("::")[0])
        elif isinstance(source, TableSentences | FileSentences):
            given = source.table.path if isinstance(source, TableSentences) else source.file
            named += [given.removeprefix(_HUB)] if given.startswith(_HUB) else []
    return ["/".join(name.split("/")[:2]) for name in named]
