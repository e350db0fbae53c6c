"""The folder that people load, with its manifest and card, which recipes share. Not a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from mcse.config import to_dict
from mcse.data.config import DataConfig, MaskedDataConfig
from mcse.data.source_variants import FileSentences, HubCaptions, HubSentences, TableSentences
from mcse.data.table_config import TableDataConfig
from mcse.manifest import ImageSide, Kind, Manifest, without_folders, writing_checkpoint
from mcse.models.checkpoint import save_checkpoint
from mcse.models.image_tower import ImageTower
from mcse.models.masked_model import MaskedLanguageModel
from mcse.recipes.shared import TextSide
from mcse.report.model_card import CardFacts, sentence_card
from mcse.types import DataFile, Score
from mcse.yaml_files import dump_yaml

_HUB = "hf://datasets/"


class Save(Protocol):
    """Writes a whole checkpoint: the model's files, the manifest with their digests, and the card."""

    def __call__(self, folder: Path, *, manifest: Manifest, card: str) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Exporter:
    """Writes the folder that people load, of a run of any recipe.

    Attributes:
        config: The recipe's whole.
        kind: What the checkpoint is.
        data: What was read.
        save: Writes the model as it is then.
        card: The model card, from what every card tells of its run.
        pooling: For the manifest, as are ``images`` and ``details``.
    """

    config: Any
    kind: Kind
    data: tuple[DataFile, ...]
    save: Save
    card: Callable[[CardFacts], str]
    pooling: str | None = None
    images: ImageSide | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, folder: Path, scores: Mapping[str, Score]) -> None:
        """Into ``folder``, with ``scores`` in manifest and card."""
        config, values = self.config, {name: score.value for name, score in scores.items()}
        facts = CardFacts(
            folder=config.output_dir,
            recipe=config.recipe,
            scores=values,
            config_yaml=dump_yaml(without_folders(to_dict(config))),
            data=self.data,
            licence=config.data.licence,
            languages=config.data.languages,
        )
        manifest = Manifest(
            kind=self.kind,
            recipe=config.recipe,
            pooling=self.pooling,
            images=self.images,
            details=self.details,
            scores=values,
            higher_is_better={name: score.higher_is_better for name, score in scores.items()},
            config=to_dict(config),
        )
        self.save(folder, manifest=manifest, card=self.card(facts))


def saving(write: Callable[[Path], None]) -> Save:
    """A ``Save`` of models of which ``write`` writes the files alone."""

    def save(folder: Path, *, manifest: Manifest, card: str) -> None:
        with writing_checkpoint(folder, manifest, card=card):
            write(folder)

    return save


def sentence_exporter(
    config: Any,
    text: TextSide,
    data: tuple[DataFile, ...],
    *,
    images: ImageSide | None = None,
    heads: Mapping[str, nn.Module] | None = None,
    image_tower: ImageTower | None = None,
    language_model: MaskedLanguageModel | None = None,
) -> Exporter:
    """Of a sentence encoder.

    ``heads`` are those of the image side, ``image_tower`` the tower where it was trained; a ``language_model`` around
    the encoder is saved whole in its place.
    """
    return Exporter(
        config,
        "sentence",
        data,
        save=partial(
            save_checkpoint,
            encoder=text.model.encoder,
            tokenizer=text.tokenizer,
            text_head=text.model.head,
            image_heads=heads or {},
            image_tower=image_tower,
            language_model=language_model,
        ),
        card=partial(
            sentence_card,
            base_model=getattr(config.encoder, "name_or_path", None),
            prompt=text.tokenizer.prompt,
            datasets=_hub_datasets(config.data),
        ),
        pooling=config.encoder.pooling,
        images=images,
    )


def _hub_datasets(data: DataConfig | TableDataConfig | MaskedDataConfig) -> list[str]:
    """Ids of the datasets that the configuration names as the hub's; a file's ``a/b`` may as well be a local path."""
    named: list[str] = []
    if isinstance(data, TableDataConfig):
        return named
    for source in (data.sentences, data.captions if isinstance(data, DataConfig) else None):
        if isinstance(source, HubSentences | HubCaptions):
            named.append(source.hub.partition("::")[0])
        elif isinstance(source, TableSentences | FileSentences):
            given = source.table.path if isinstance(source, TableSentences) else source.file
            named += [given.removeprefix(_HUB)] if given.startswith(_HUB) else []
    return ["/".join(name.split("/")[:2]) for name in named]
