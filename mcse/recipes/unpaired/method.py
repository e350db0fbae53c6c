"""VisualCSE: SimCSE's text term, and contrast of images that go through the text encoder's own layers.

B images of this process, two views each; N images of all processes.

Source: Jian, Gao and Vosoughi 2022, "Non-Linguistic Supervision for Contrastive Learning of Sentence Embeddings",
NeurIPS. Their code takes the image step before each text step with an optimizer of its own, at a rate of its own, for
which a loss's weight is nothing: AdamW divides by the gradient's size. Here both terms are of one step, so that
``loss.image_weight`` says what part of the gradient is the images'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mcse.data.images.views import ImagesWithClasses, UnpairedStream, ViewStream, load_images
from mcse.data.mixing import carried_part
from mcse.data.seeds import Draw
from mcse.data.source_variants import TableSentences
from mcse.distributed import gather_ids, gather_rows
from mcse.losses.contrastive import unit_rows
from mcse.losses.views import published_contrast, rank_of_class, supervised_contrast
from mcse.models.unpaired_model import PatchEmbeddings, UnpairedModel, UnpairedRows, load_patch_embeddings
from mcse.recipes import export, shared
from mcse.recipes.image_side import build_parted_optimizer, find_bad_together
from mcse.recipes.terms.config import TextLossConfig
from mcse.recipes.terms.text import build_text_terms
from mcse.recipes.unpaired.config import Config, ImageConfig, LossConfig
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import DataFile, LossTerm, LossTerms, UnpairedBatch, ViewBatch

_DRAWN_BATCHES = 300


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one run."""
    has_triplets = isinstance(config.data.sentences, TableSentences)
    text = shared.build_text_side(config.encoder, config.data, mlm=False, own_positive=not has_triplets)
    text_terms = build_text_terms(TextLossConfig(temperature=config.loss.temperature), text.model)
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    feed = shared.mixed_feed(config.data, text, None, mix=None, share=share, seed=config.seed)
    images = _image_feed(config, runtime) if config.loss.contrast != "none" else None
    files = feed.files if images is None else (*feed.files, images.file)
    model = UnpairedModel(text.model, embeddings=None if images is None else _embeddings(config.image, text))
    dev = shared.build_dev_evaluator(config.data, text, config.train)

    def step(model: nn.Module, batch: UnpairedBatch) -> LossTerms:
        rows: UnpairedRows = model(batch)
        terms = dict(text_terms(rows.text, batch.text))
        if rows.view_VD is not None and batch.images is not None:
            terms["image_image"] = image_term(rows.view_VD, batch.images, config.loss)
        return terms

    image_parts = [part for part in (model.embeddings, model.image_head) if part is not None]
    return Run(
        model=model,
        step=step,
        stream=UnpairedStream(feed.stream, None if images is None else images.stream),
        carried=carried_part(feed.stream),
        optimizer=build_parted_optimizer(
            [(model.text, None), (nn.ModuleList(image_parts), config.image.learning_rate)], config.optim
        ),
        # What reads images is not exported: sentences do not need it.
        export=export.sentence_exporter(config, text, files),
        evaluators=dev.evaluators,
        metrics=dev.metrics,
        facts={**text.facts, **feed.facts, **({} if images is None else images.facts)},
        data=(*files, *text.files, *dev.files),
    )


def image_term(view_VD: torch.Tensor, images: ViewBatch, loss: LossConfig) -> LossTerm:
    """Contrast of this process's views with those of all processes."""
    row_VD = unit_rows(view_VD)
    label_N = gather_ids(images.label_B)
    if loss.contrast == "as_published":
        first_BD, second_BD = row_VD.chunk(2)
        second_ND, _ = gather_rows(second_BD)
        total = published_contrast(first_BD, second_ND, images.label_B, label_N, temperature=loss.image_temperature)
        return LossTerm(total, count=len(first_BD), weight=loss.image_weight)
    label_V = images.label_B.repeat(2)
    key_KD, offset = gather_rows(row_VD)
    total = supervised_contrast(
        row_VD, label_V, key_KD, gather_ids(label_V), temperature=loss.image_temperature, offset=offset
    )
    return LossTerm(total, count=len(row_VD), weight=loss.image_weight)


@dataclass(frozen=True, slots=True)
class _ImageFeed:
    stream: ViewStream
    file: DataFile
    facts: Mapping[str, str | int | float]


def _image_feed(config: Config, runtime: Runtime) -> _ImageFeed:
    """Batches of views, what they are read from, and facts for the start of a run."""
    seed = shared.pair_seed(config.seed)
    images = load_images(config.data, config.data.images, find_bad=find_bad_together)
    label_of_image = label_images(images, config.loss, seed=seed)
    share = shared.share_of(runtime, batch_size=config.image.batch_size)
    stream = ViewStream(images, label_of_image, share, seed=seed, size=config.image.size)
    facts: dict[str, str | int | float] = {"images": len(images), "views a step": 2 * share.global_batch_size}
    if images.num_left_out:
        facts["images left out"] = images.num_left_out
    if images.classes:
        found = own_class_share(
            images.class_of_image, label_of_image, config.loss.contrast, size=share.global_batch_size, seed=seed
        )
        facts |= {"image classes": len(images.classes), "images with a positive of their class": f"{100 * found:.1f} %"}
    return _ImageFeed(stream, images.file(), facts)


def _embeddings(image: ImageConfig, text: shared.TextSide) -> PatchEmbeddings:
    if image.embeddings is not None:
        return load_patch_embeddings(image.embeddings, image_size=image.size)
    return PatchEmbeddings(text.model.encoder.width, patch_size=image.fresh_patch_size, image_size=image.size)


def label_images(images: ImagesWithClasses, loss: LossConfig, *, seed: int) -> NDArray[np.int64]:
    """What each image becomes similar to, the same for the whole run and on every process.

    Raises:
        ValueError: The contrast needs classes, and there are none, or one alone.
    """
    generator = np.random.default_rng([seed, Draw.RANDOM_CLASSES])
    if loss.contrast == "simclr":
        return np.arange(len(images))
    if loss.random_classes is not None:
        return generator.integers(loss.random_classes, size=len(images))
    if len(images.classes) < 2:
        where = f"data.images {images.origin}"
        found = (
            f"all of {where} is of one class, {images.classes[0]}"
            if images.classes
            else f"{images.num_bare} of the {len(images)} images of {where} lie in no class folder"
        )
        instead = ", or loss.random_classes a number" if loss.contrast == "random_labels" else ""
        raise ValueError(
            f"loss.contrast: {loss.contrast} needs a folder for each of at least two classes, but {found}; give "
            f"simclr{instead}"
        )
    classes = images.class_of_image
    return generator.permutation(classes) if loss.contrast == "random_labels" else classes


def own_class_share(
    class_of_image: NDArray[np.int64], label_of_image: NDArray[np.int64], contrast: str, *, size: int, seed: int
) -> float:
    """Which part of a batch's images is expected to have a positive of its own class, from some drawn batches.

    A view's other view is not counted, but where ``as_published`` makes it the target by chance.
    """
    generator = np.random.default_rng([seed, Draw.RANDOM_CLASSES, 1])
    shares = []
    for _ in range(_DRAWN_BATCHES):
        index = generator.choice(len(class_of_image), size=size, replace=False)
        classes, labels = class_of_image[index], label_of_image[index]
        if contrast == "as_published":
            target = rank_of_class(torch.from_numpy(labels), torch.from_numpy(labels)).numpy()
            shares.append(np.mean(classes[target] == classes))
            continue
        is_positive = (labels[:, None] == labels) & (classes[:, None] == classes) & ~np.eye(size, dtype=bool)
        shares.append(np.mean(is_positive.any(1)))
    return float(np.mean(shares))
