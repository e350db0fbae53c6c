"""MAF: entities in tweets with images, by alignment, interaction, matching, gated fusion and a CRF.

B tweets of this process, N tweets of all processes, H joint width.

Source: Xu, Huang, Sha and Wang 2022, "MAF: A General Matching and Alignment Framework for Multimodal Named Entity
Recognition", WSDM.
"""

from __future__ import annotations

from torch import nn

from mcse.data.images.training import NamedImages
from mcse.data.streams import Sampler
from mcse.data.tweets import TweetStream
from mcse.distributed import gather_ids, gather_rows
from mcse.evaluation.evaluators.tagging import TaggingEvaluator
from mcse.losses.contrastive import info_nce, unit_rows
from mcse.losses.pair_matching import matching_loss
from mcse.models.config import FusionConfig
from mcse.models.maf_model import TaggerModel, TaggerShape, TweetRows
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.recipes import shared
from mcse.recipes.image_side import Images, build_parted_optimizer, open_images
from mcse.recipes.maf.config import AlignmentConfig, Config, LossConfig
from mcse.recipes.maf.tweets import (
    Tweets,
    blank_shape,
    check_length,
    load_tweets,
    sample_regions,
    tagger_exporter,
    tagger_of,
)
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerm, LossTerms, TweetBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one MAF run."""
    data, share = config.data, shared.share_of(runtime, batch_size=config.train.batch_size)
    # Text alone has neither; their placeholder has no effect.
    fusion, loss = config.fusion or FusionConfig(), config.loss or LossConfig()
    encoder = load_text_encoder(
        config.encoder.name_or_path,
        pooling="mean" if data.images is None else fusion.pooling,
        attention=config.encoder.attention,
        dropout=config.encoder.dropout,
        gradient_checkpointing=config.encoder.gradient_checkpointing,
    )
    tokenizer = load_tokenizer(config.encoder.name_or_path)
    check_length(data.max_length, encoder, tokenizer)
    files = shared.encoder_files(config.encoder.name_or_path)
    images = None if data.images is None else open_images(data, data.images)
    tweets = load_tweets(data, tokenizer, images=images, controls=config.controls, seed=shared.pair_seed(config.seed))
    matching = None if images is None else loss.matching
    model = TaggerModel(
        encoder,
        shape=_shape_of(config, tweets, images, fusion=fusion, loss=loss),
        tower=None if images is None else images.module,
        tag_on_swapped=matching is not None and matching.tag_on_swapped,
        image_dropout=fusion.image_dropout,
    )
    if model.image is not None and images is not None and fusion.standardise:
        model.image.standardise(sample_regions(images, tweets.parts))
    rows = None if images is None else images.rows
    evaluator = TaggingEvaluator(
        lambda: tagger_of(model, tokenizer), tweets.dev, images=rows, image_row_N=tweets.dev_rows
    )

    def step(model: nn.Module, batch: TweetBatch) -> LossTerms:
        return loss_terms(model(batch), batch, loss)

    return Run(
        model=model,
        step=step,
        stream=TweetStream(
            tweets.parts,
            rows,
            Sampler(len(tweets.parts), share, seed=config.seed, name="data.train"),
            pad_id=tokenizer.pad_id,
            num_swapped=0 if matching is None else matching.num_swapped,
            seed=config.seed,
            blank=() if images is None else blank_shape(images),
        ),
        optimizer=build_parted_optimizer(_parts(model, images, config), config.optim),
        export=tagger_exporter(config, model, tokenizer, tweets.files, images),
        evaluators=(evaluator,),
        metrics=evaluator.metrics,
        facts=tweets.facts
        | shared.encoder_facts(files)
        | encoder.facts.described()
        | {"parameters": sum(p.numel() for p in model.parameters())},
        data=(*tweets.files, *(() if images is None else images.tower_files), *files),
    )


def _parts(
    model: TaggerModel, images: Images[NamedImages] | None, config: Config
) -> list[tuple[nn.Module | None, float | None]]:
    """The encoder, the new layers and a trained tower, each with its peak rate."""
    new = nn.ModuleList(part for part in (model.image, model.classifier, model.crf) if part is not None)
    tower = (None, None) if images is None else (images.trained_tower, images.learning_rate)
    return [(model.encoder, None), (new, config.tagger.learning_rate), tower]


def _shape_of(
    config: Config, tweets: Tweets, images: Images[NamedImages] | None, *, fusion: FusionConfig, loss: LossConfig
) -> TaggerShape:
    matching = None if images is None else loss.matching
    return TaggerShape(
        types=tweets.tags.types,
        regions=0 if images is None else images.regions,
        region_width=0 if images is None else images.width // images.regions,
        matching="none" if matching is None else matching.kind,
        alignment=images is not None and loss.alignment is not None,
        heads=fusion.heads,
        dropout=config.tagger.dropout,
        positions=config.data.max_length,
        pooling=fusion.pooling,
        match_threshold=0.0 if matching is None else matching.threshold,
        image_row=fusion.image_row,
    )


def loss_terms(rows: TweetRows, batch: TweetBatch, loss: LossConfig) -> LossTerms:
    """``tagging`` over tweets; with images ``alignment`` over tweets that have one, ``matching`` over pairs."""
    weight = loss.tagging_weight if rows.match_B is not None else 1.0
    terms = {"tagging": LossTerm(rows.nll_B.sum(), count=len(rows.nll_B), weight=weight)}
    if rows.match_B is not None and loss.alignment is not None:
        terms["alignment"] = alignment_term(rows, batch, loss.alignment)
    if loss.matching is not None and rows.match_logit_M is not None and rows.match_label_M is not None:
        judged = matching_loss(rows.match_logit_M, rows.match_label_M)
        terms["matching"] = LossTerm(judged, count=len(rows.match_label_M), weight=loss.matching.weight)
    return terms


def alignment_term(rows: TweetRows, batch: TweetBatch, loss: AlignmentConfig) -> LossTerm:
    """InfoNCE in both directions between the tweets of this process and those of all processes.

    Tweets without an image are neither queries nor keys; another tweet with the same image is no negative.

    Source: Xu et al. 2022, eqs. 1–3; the order of λ_c is the released code's.
    """
    assert rows.text_BH is not None
    assert rows.image_BH is not None
    has_B, image_id_B = batch.has_image_B, batch.image_id_B
    has_N, id_N = gather_ids(has_B.long()).bool(), gather_ids(image_id_B)
    parts = []
    for query_BH, other_BH in ((rows.text_BH, rows.image_BH), (rows.image_BH, rows.text_BH)):
        key_NH, offset = gather_rows(unit_rows(other_BH))
        parts.append(
            info_nce(
                unit_rows(query_BH),
                key_NH,
                temperature=loss.temperature,
                offset=offset,
                query_id_B=image_id_B,
                key_id_N=id_N,
                is_query_B=has_B,
                is_key_N=has_N,
            )
        )
    share = loss.text_to_image_share
    return LossTerm(parts[0] * share + parts[1] * (1 - share), count=has_B.sum(), weight=loss.weight)
