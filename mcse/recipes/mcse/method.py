"""MCSE: SimCSE's text term plus λ · sentence→image InfoNCE on the sentences that have an image.

B queries of this process, N rows of all processes, H joint width.

Source: Zhang, Mosbach, Adelani, Hedderich and Klakow 2022, "MCSE: Multimodal Contrastive Learning of Sentence
Embeddings", NAACL.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcse.data.load import load_pairs
from mcse.data.mixing import MixedStream, carried_part, plan_mixture
from mcse.data.streams import PairStream, Share
from mcse.distributed import gather_ids, gather_rows
from mcse.losses.contrastive import info_nce, unit_rows
from mcse.models.sentence_model import GroundedModel, GroundedRows
from mcse.recipes import export, shared
from mcse.recipes.image_side import Images, build_grounded_optimizer, open_images
from mcse.recipes.mcse.config import Config, LossConfig
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import DataFile, LossTerm, LossTerms, PairBatch, SentenceBatch, Stream


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one MCSE run."""
    text = shared.build_text_side(config.encoder, mlm=config.loss.mlm_weight > 0)
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    images = open_images(config.image, config.data)
    stream, data, facts = _build_stream(config, text, share, images)
    model = GroundedModel(text.model, image_dim=images.width, joint_dim=config.loss.joint_dim, tower=images.module)
    heads = {"grounding_head": model.grounding_head, "image_head": model.image_head}
    evaluator, metrics = shared.build_dev_evaluator(config.data, text, precision=config.train.precision)

    def step(model: nn.Module, batch: SentenceBatch | PairBatch) -> LossTerms:
        rows: GroundedRows = model(batch)
        terms = dict(
            shared.text_terms(rows.text, temperature=config.loss.temperature, mlm_weight=config.loss.mlm_weight)
        )
        if isinstance(batch, PairBatch):
            terms["text_image"] = image_term(rows, batch.image_id_B, config.loss)
        return terms

    return Run(
        model=model,
        step=step,
        stream=stream,
        carried=carried_part(stream),
        optimizer=build_grounded_optimizer(
            model.text, list(heads.values()), images.tower, optim=config.optim, image=config.image
        ),
        export=export.Exporter(
            config,
            text,
            config.encoder,
            data,
            images=images.stored(data[-1]),
            heads=heads,
            image_tower=images.trained_tower,
        ),
        evaluators=(evaluator,),
        metrics=metrics,
        facts=facts,
        data=data,
    )


def image_term(rows: GroundedRows, image_id_B: Tensor, loss: LossConfig) -> LossTerm:
    """Sentence→image InfoNCE of both dropout views against the images of all processes.

    Another caption's copy of the query's own image is no negative: its key is left out by image id.

    Source: eq. 4, averaged over the views unless ``loss.image_reduction`` says ``sum``.
    """
    assert rows.grounded_query_BH is not None
    assert rows.grounded_positive_BH is not None
    assert rows.image_BH is not None
    key_NH, offset = gather_rows(unit_rows(rows.image_BH))
    key_id_N = gather_ids(image_id_B)
    views = [rows.grounded_query_BH, rows.grounded_positive_BH]
    terms = [
        info_nce(
            unit_rows(view_BH),
            key_NH,
            temperature=loss.image_temperature,
            offset=offset,
            query_id_B=image_id_B,
            key_id_N=key_id_N,
        )
        for view_BH in views
    ]
    share = 1.0 if loss.image_reduction == "sum" else 1 / len(views)
    return LossTerm(torch.stack(terms).sum() * share, count=len(image_id_B), weight=loss.image_weight)


def _build_stream(
    config: Config, text: shared.TextSide, share: Share, images: Images
) -> tuple[Stream[SentenceBatch | PairBatch], tuple[DataFile, ...], dict[str, str | int | float]]:
    seed = shared.pair_seed(config.seed)
    loaded = load_pairs(config.data, text.tokenizer, controls=config.controls, seed=seed, images=images.rows)
    pairs = PairStream(
        loaded.captions,
        loaded.image_of_caption,
        images.rows,
        loaded.order(share, seed),
        pad_id=text.tokenizer.pad_id,
        masker=text.masker(seed=seed),
    )
    image_file = images.file(loaded.image_of_caption)
    facts: dict[str, str | int | float] = {
        "pairs": len(loaded.captions),
        "images": loaded.num_images,
        **({"images left out": loaded.num_left_out} if loaded.num_left_out else {}),
        **images.facts,
        "images shown": "true" if config.controls.images is True else config.controls.images,
        "negatives a query": shared.negatives_a_query(share, columns=1),
    }
    if config.data.sentences is None:
        return pairs, (*loaded.files, image_file), facts
    sentences, files = shared.build_sentence_stream(config.data, text, share=share, seed=config.seed)
    if sentences.columns != 1:
        raise ValueError("data.sentences: mcse takes plain sentences, not supervised triplets")
    mixture = plan_mixture(config.mix, sentence_steps=sentences.steps_per_epoch, pair_steps=pairs.steps_per_epoch)
    facts = {**sentences.facts, **facts, **mixture.drawn_an_epoch(share.global_batch_size)}
    return MixedStream(sentences, pairs, mixture), (*files, *loaded.files, image_file), facts
