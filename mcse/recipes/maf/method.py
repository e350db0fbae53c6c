"""MAF: entities in tweets with images, by alignment, interaction, matching, gated fusion and a CRF.

B tweets of this process, N tweets of all processes, H joint width.

Source: Xu, Huang, Sha and Wang 2022, "MAF: A General Matching and Alignment Framework for Multimodal Named Entity
Recognition", WSDM.
"""

from __future__ import annotations

import torch
from torch import nn

from mcse.data.streams import Sampler
from mcse.data.tweets import TweetStream
from mcse.distributed import gather_ids, gather_rows
from mcse.evaluation.evaluators.tagging import TaggingEvaluator
from mcse.losses.contrastive import info_nce, unit_rows
from mcse.losses.pair_matching import matching_loss
from mcse.models.maf_model import TaggerModel, TaggerShape, TweetRows
from mcse.models.text_encoder import load_text_encoder, load_tokenizer
from mcse.recipes import shared
from mcse.recipes.image_side import Images
from mcse.recipes.maf.config import Config, LossConfig
from mcse.recipes.maf.tweets import (
    TaggerExporter,
    Tweets,
    blank_shape,
    build_tagger_optimizer,
    check_length,
    load_tweets,
    open_images,
    region_shape,
    sample_regions,
    tagger_of,
)
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerm, LossTerms, TweetBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one MAF run."""
    encoder = load_text_encoder(
        config.encoder.name_or_path,
        pooling=config.encoder.pooling,
        attention=config.encoder.attention,
        gradient_checkpointing=config.encoder.gradient_checkpointing,
    )
    tokenizer = load_tokenizer(config.encoder.name_or_path)
    check_length(config.data.max_length, encoder, tokenizer)
    images = open_images(config.data, config.image)
    tweets = load_tweets(
        config.data, tokenizer, images=images, control=config.controls.images, seed=shared.pair_seed(config.seed)
    )
    stream = _build_stream(config, runtime, tweets, images, pad_id=tokenizer.pad_id)
    shape = _shape_of(config, tweets, images)
    tower = images.module if images is not None else None
    model = TaggerModel(
        encoder,
        shape=shape,
        tower=tower,
        tag_on_swapped=config.loss.tag_on_swapped,
        image_dropout=config.tagger.image_dropout,
    )
    if model.image is not None and images is not None and config.tagger.standardise:
        model.image.standardise(sample_regions(images, tweets.parts))
    evaluator = TaggingEvaluator(
        lambda: tagger_of(model, tokenizer),
        tweets.dev,
        images=None if images is None else images.rows,
        image_row_N=tweets.dev_rows,
    )
    trained_tower = images.tower if images is not None and images.trained else None

    def step(model: nn.Module, batch: TweetBatch) -> LossTerms:
        return loss_terms(model(batch), batch, config.loss)

    return Run(
        model=model,
        step=step,
        stream=stream,
        optimizer=build_tagger_optimizer(
            model,
            trained_tower,
            optim=config.optim,
            new_rate=config.tagger.learning_rate,
            tower_rate=config.image.learning_rate,
        ),
        export=TaggerExporter(config, model, tokenizer, tweets.files, images),
        evaluators=(evaluator,),
        metrics=evaluator.metrics,
        facts=tweets.facts | {"parameters": sum(p.numel() for p in model.parameters())},
        data=tweets.files,
    )


def _build_stream(
    config: Config, runtime: Runtime, tweets: Tweets, images: Images | None, *, pad_id: int
) -> TweetStream:
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    return TweetStream(
        tweets.parts,
        None if images is None else images.rows,
        Sampler(len(tweets.parts), share, seed=config.seed, name="data.train"),
        pad_id=pad_id,
        num_swapped=0 if images is None or config.tagger.matching == "none" else config.loss.num_swapped,
        seed=config.seed,
        blank=() if images is None else blank_shape(images),
    )


def _shape_of(config: Config, tweets: Tweets, images: Images | None) -> TaggerShape:
    regions, region_width = (0, 0) if images is None else region_shape(images)
    return TaggerShape(
        types=tweets.tags.types,
        regions=regions,
        region_width=region_width,
        matching="none" if images is None else config.tagger.matching,
        alignment=images is not None and config.loss.alignment_weight > 0,
        heads=config.tagger.heads,
        dropout=config.tagger.dropout,
        positions=config.data.max_length,
        pooling=config.encoder.pooling,
        match_threshold=config.tagger.match_threshold,
        image_row=config.tagger.image_row,
    )


def loss_terms(rows: TweetRows, batch: TweetBatch, loss: LossConfig) -> LossTerms:
    """``tagging`` over tweets; with images ``alignment`` over tweets that have one, ``matching`` over pairs."""
    weight = loss.tagging_weight if rows.match_B is not None else 1.0
    terms = {"tagging": LossTerm(rows.nll_B.sum(), count=len(rows.nll_B), weight=weight)}
    if rows.match_B is not None and loss.alignment_weight > 0:
        terms["alignment"] = alignment_term(rows, batch, loss)
    if rows.match_logit_M is not None and rows.match_label_M is not None:
        judged = matching_loss(rows.match_logit_M, rows.match_label_M)
        terms["matching"] = LossTerm(judged, count=len(rows.match_label_M), weight=loss.matching_weight)
    return terms


def alignment_term(rows: TweetRows, batch: TweetBatch, loss: LossConfig) -> LossTerm:
    """InfoNCE in both directions between the tweets of this process and those of all processes.

    Tweets without an image are neither queries nor keys; another tweet with the same image is no negative.

    Source: Xu et al. 2022, eqs. 1–3; the order of λ_c is the released code's.
    """
    assert rows.text_BH is not None
    assert rows.image_BH is not None
    has_B, image_id_B = batch.has_image_B, batch.image_id_B
    has_N = gather_ids(has_B.long()).bool()
    id_N = gather_ids(image_id_B)[has_N]
    parts = []
    for query_BH, other_BH in ((rows.text_BH, rows.image_BH), (rows.image_BH, rows.text_BH)):
        key_NH, offset = gather_rows(unit_rows(other_BH))
        # An empty sum keeps the graph.
        if not has_B.any():
            parts.append(query_BH.sum() * 0.0 + key_NH.sum() * 0.0)
            continue
        parts.append(
            info_nce(
                unit_rows(query_BH[has_B]),
                key_NH[has_N],
                temperature=loss.temperature,
                offset=int(has_N[:offset].sum()),
                query_id_B=image_id_B[has_B],
                key_id_N=id_N,
            )
        )
    share = loss.text_to_image_share
    total = torch.stack(parts) @ torch.tensor([share, 1 - share], dtype=parts[0].dtype, device=parts[0].device)
    return LossTerm(total, count=has_B.sum(), weight=loss.alignment_weight)
