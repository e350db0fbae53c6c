"""What recipes with teachers of sentences share: the text side with its terms, batches and runs. Not a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from mcse.config import ConfigError
from mcse.data.controls_config import Mix, images_shown
from mcse.data.images.training import NamedImages
from mcse.data.load import load_pairs
from mcse.data.mixing import carried_part
from mcse.data.shards.pairs import ShardImages
from mcse.data.streams import PairStream
from mcse.data.teacher_config import TaughtControls, TaughtImageControls
from mcse.manifest import absolute_name
from mcse.models.config import EncoderConfig, ImageConfig
from mcse.recipes import export, shared
from mcse.recipes.image_side import Images, build_parted_optimizer
from mcse.recipes.teachers import TaughtConfig, Teachers, open_teachers
from mcse.recipes.terms.config import TextLossConfig
from mcse.recipes.terms.text import TextTerms, build_text_terms
from mcse.training.config import OptimConfig
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerms


class TaughtTextConfig(TaughtConfig, Protocol):
    """What the settings of a recipe with teachers of its sentences have."""

    @property
    def encoder(self) -> EncoderConfig:
        """The key ``encoder``."""
        ...

    @property
    def loss(self) -> TextLossConfig:
        """The key ``loss``."""
        ...

    @property
    def optim(self) -> OptimConfig:
        """The key ``optim``."""
        ...

    @property
    def controls(self) -> TaughtControls | TaughtImageControls:
        """The key ``controls``."""
        ...


class TaughtSentencesConfig(TaughtTextConfig, Protocol):
    """What those of a recipe without images have."""

    @property
    def mix(self) -> Mix | None:
        """The key ``mix``."""
        ...

    @property
    def controls(self) -> TaughtControls:
        """The key ``controls``."""
        ...


class TaughtPairsConfig(TaughtTextConfig, Protocol):
    """What those of a recipe with images have."""

    @property
    def mix(self) -> Mix | None:
        """The key ``mix``."""
        ...

    @property
    def image(self) -> ImageConfig:
        """The key ``image``."""
        ...

    @property
    def controls(self) -> TaughtImageControls:
        """The key ``controls``."""
        ...


@dataclass(frozen=True, slots=True)
class TaughtText:
    """The text side, the terms of its sentences, and their teachers."""

    side: shared.TextSide
    terms: TextTerms
    teachers: Teachers


def build_taught_text(
    config: TaughtTextConfig, runtime: Runtime, *, own_positive: bool = True, hard_negative_weight: float = 0.0
) -> TaughtText:
    """What ``config`` asks for of sentences.

    Args:
        config: Of the run.
        runtime: Says whether weights are cut over processes.
        own_positive: Whether any sentence is its own positive.
        hard_negative_weight: As in ``info_nce_with_hard_negatives``.

    Raises:
        ValueError: As ``build_text_side`` and ``open_teachers``; or a queue's copy would have to follow weights that
            are cut.
    """
    if config.loss.queue is not None and runtime.cuts_weights:
        raise ConfigError("loss.queue: FSDP cuts the weights that its copy follows; launch without it")
    side = shared.build_text_side(
        config.encoder,
        config.data,
        mlm=config.loss.mlm_weight > 0,
        own_positive=own_positive,
        clean_view=config.loss.off_dropout is not None,
    )
    teachers = open_teachers(config, side)
    terms = build_text_terms(config.loss, side.model, hard_negative_weight=hard_negative_weight)
    return TaughtText(side, terms, teachers)


def text_run(
    config: TaughtSentencesConfig,
    taught: TaughtText,
    runtime: Runtime,
    *,
    step: Callable[[nn.Module, Any], LossTerms],
) -> Run:
    """The run of a text side alone, on sentences, captions as text, or both; ``step`` is of the recipe."""
    text, teachers = taught.side, taught.teachers
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    captions = shared.caption_feed(
        config.data, config.controls, text, share=share, seed=config.seed, teachers=teachers.stored
    )
    feed = shared.mixed_feed(
        config.data, text, captions, mix=config.mix, share=share, seed=config.seed, teachers=teachers.stored
    )
    dev = shared.build_dev_evaluator(config.data, text, config.train)

    return Run(
        model=text.model,
        step=step,
        stream=feed.stream,
        carried=carried_part(feed.stream),
        optimizer=build_optimizer(text.model, config.optim),
        export=export.sentence_exporter(config, text, feed.files),
        evaluators=dev.evaluators,
        metrics=dev.metrics,
        state=taught.terms.state,
        facts={**text.facts, **teachers.facts, **feed.facts},
        data=(*feed.files, *text.files, *teachers.files, *dev.files),
    )


def paired_feed(
    config: TaughtPairsConfig,
    taught: TaughtText,
    images: Images[NamedImages | ShardImages],
    runtime: Runtime,
    *,
    teaches_sentences: bool,
) -> shared.Feed:
    """Captions with their images, and sentences beside them.

    Args:
        config: Of the run.
        taught: The text side.
        images: The image side.
        runtime: Says which part of a batch is this process's.
        teaches_sentences: Whether sentences need the rows of stored teachers, as captions do.
    """
    text, teachers = taught.side, taught.teachers.stored
    share, seed = shared.share_of(runtime, batch_size=config.train.batch_size), shared.pair_seed(config.seed)
    pairs = load_pairs(config.data, text.tokenizer, controls=config.controls, seed=seed, images=images.rows)
    stream = PairStream(
        pairs.captions,
        pairs.image_of_caption,
        images.rows,
        pairs.order(share, seed),
        pad_id=text.tokenizer.pad_id,
        masker=text.masker(seed=seed),
        repeater=text.repeater(config.data, seed=seed),
        teachers=pairs.teacher_rows(teachers),
        is_wrong=pairs.is_wrong,
    )
    captions = shared.Feed(
        stream,
        (*pairs.files, images.file(pairs.image_of_caption)),
        {
            "pairs": len(pairs.captions),
            **pairs.facts,
            "images": pairs.num_images,
            **({"images left out": pairs.num_left_out} if pairs.num_left_out else {}),
            **images.facts,
            "images shown": images_shown(config.controls),
        },
    )
    own = teachers if teaches_sentences else None
    return shared.mixed_feed(config.data, text, captions, mix=config.mix, share=share, seed=config.seed, teachers=own)


def check_one_space(key: str, teachers: Teachers, images: Images[NamedImages | ShardImages]) -> None:
    """Refuses to compare captions with images whose rows are of two spaces, as far as stores say whose they are.

    Raises:
        ValueError: Names ``key``.
    """
    ours = images.rows.made_by.get("tower") if images.tower is None else images.tower.spec
    theirs = None if teachers.stored is None else teachers.stored.stores[0].facts.encoder
    is_other = ours is not None and theirs is not None and absolute_name(ours) != absolute_name(theirs)
    if is_other or teachers.width != images.width:
        raise ConfigError(
            f"{key}: compares captions with images, but the teacher's rows of captions are "
            f"{teachers.width} wide ({theirs or 'live'}) and those of images {images.width} ({ours or 'unknown'}); "
            "give rows of one space, such as those of one image–text encoder"
        )


def paired_run(
    config: TaughtPairsConfig,
    taught: TaughtText,
    images: Images[NamedImages | ShardImages],
    feed: shared.Feed,
    *,
    model: nn.Module,
    step: Callable[[nn.Module, Any], LossTerms],
    heads: Mapping[str, nn.Module],
    more_heads: Sequence[nn.Module] = (),
    match_head: tuple[nn.Module, float] | None = None,
) -> Run:
    """The run of a text side and an image side.

    Args:
        config: Of the run.
        taught: The text side.
        images: The image side.
        feed: The batches.
        model: Of both sides.
        step: Of the recipe.
        heads: Those that are saved, by name.
        more_heads: Those that training alone needs.
        match_head: One more of these, with its peak rate.
    """
    text, teachers = taught.side, taught.teachers
    dev = shared.build_dev_evaluator(config.data, text, config.train)
    return Run(
        model=model,
        step=step,
        stream=feed.stream,
        carried=carried_part(feed.stream),
        optimizer=build_parted_optimizer(
            [
                (text.model, None),
                (nn.ModuleList([*heads.values(), *more_heads]), config.image.head_learning_rate),
                (images.trained_tower, images.learning_rate),
                *(() if match_head is None else (match_head,)),
            ],
            config.optim,
        ),
        export=export.sentence_exporter(
            config,
            text,
            feed.files,
            images=images.stored(feed.files[-1]),
            heads=heads,
            image_tower=images.trained_tower,
        ),
        evaluators=dev.evaluators,
        metrics=dev.metrics,
        state=taught.terms.state,
        facts={**text.facts, **teachers.facts, **feed.facts},
        data=(*feed.files, *images.tower_files, *text.files, *teachers.files, *dev.files),
    )
