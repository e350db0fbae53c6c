"""VSE: captions and images in one space, where a correct pair is more similar than the wrong ones of the batch.

B pairs of this process, N of all processes, H joint width.

Source: Kiros, Salakhutdinov and Zemel 2014, "Unifying Visual-Semantic Embeddings with Multimodal Neural Language
Models"; ``loss.negatives: hardest`` is Faghri, Fleet, Kiros and Fidler 2018, "VSE++", BMVC.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mcse.data.controls_config import images_shown
from mcse.data.joint_pairs import load_joint_pairs
from mcse.data.load import tokenise_captions
from mcse.data.streams import PairStream, Sampler
from mcse.distributed import gather_ids, gather_rows
from mcse.losses.contrastive import info_nce, unit_rows
from mcse.losses.ranking import ranking_loss
from mcse.models.joint_model import JointRows, build_joint_model
from mcse.recipes import shared
from mcse.recipes.image_side import build_parted_optimizer, open_images
from mcse.recipes.vse.captions import build_captions, dev_evaluator, joint_exporter
from mcse.recipes.vse.config import Config, InfoNceConfig, LossConfig
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerm, LossTerms, PairBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one run."""
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    images = open_images(config.data, config.data.images)
    seed = shared.pair_seed(config.seed)
    pairs = load_joint_pairs(config.data, controls=config.controls, seed=seed, images=images.rows)
    text = build_captions(
        config.encoder,
        pairs.captions,
        dim=config.joint.dim,
        root=config.data.folder,
        max_length=config.data.max_length,
    )
    pairs, num_unknown = pairs.only(text.tokenizer.knows_some)
    model = build_joint_model(text.encoder, config.joint, image_width=images.width, tower=images.module)
    stream = PairStream(
        tokenise_captions(pairs.captions, text.tokenizer, max_length=config.data.max_length),
        pairs.image_of_caption,
        images.rows,
        Sampler(len(pairs.captions), share, seed=seed, name="data.captions"),
        pad_id=text.tokenizer.pad_id,
    )
    files = (*pairs.files, *text.files, images.file(pairs.image_of_caption))
    evaluators, metrics = dev_evaluator(model, text, images, pairs.dev, precision=config.train.precision)
    facts = {
        "pairs": len(pairs.captions),
        **pairs.facts,
        "images": pairs.num_images,
        **({"images left out": pairs.num_left_out} if pairs.num_left_out else {}),
        **({"captions of unknown words alone": num_unknown} if num_unknown else {}),
        "held-out images": len(pairs.dev) if pairs.dev else 0,
        **text.facts,
        **images.facts,
        "images shown": images_shown(config.controls),
        "negatives a query": shared.negatives_a_query(share, columns=1),
    }

    def step(model: nn.Module, batch: PairBatch) -> LossTerms:
        return joint_terms(model(batch), batch.image_id_B, config.loss)

    return Run(
        model=model,
        step=step,
        stream=stream,
        optimizer=build_parted_optimizer(
            [
                (model.text, None),
                (nn.ModuleList(model.heads().values()), config.image.head_learning_rate),
                (images.trained_tower, images.learning_rate),
            ],
            config.optim,
        ),
        export=joint_exporter(config, model, text, files, images),
        evaluators=evaluators,
        metrics=metrics,
        facts=facts,
        data=(*files, *images.tower_files),
    )


def joint_terms(rows: JointRows, image_id_B: Tensor, loss: LossConfig) -> LossTerms:
    """Both directions: images ask for their captions, and captions for their images, of all processes.

    Captions of one image are not each other's negatives, in either direction.
    """
    caption_BH = unit_rows(rows.caption_BH)
    # As wide as the captions' rows: a score in bf16 is too coarse for a margin of 0.2.
    is_unit = isinstance(loss, InfoNceConfig) or loss.unit_images
    image_BH = unit_rows(rows.image_BH) if is_unit else rows.image_BH.to(caption_BH.dtype)
    caption_NH, offset = gather_rows(caption_BH)
    image_NH, _ = gather_rows(image_BH)
    key_id_N = gather_ids(image_id_B)
    # The loop takes means over pairs; the published sum is as many times that.
    weight = float(len(caption_NH)) if loss.reduction == "sum" else 1.0

    def term(query_BH: Tensor, key_NH: Tensor) -> LossTerm:
        if isinstance(loss, InfoNceConfig):
            total = info_nce(
                query_BH,
                key_NH,
                temperature=loss.temperature,
                offset=offset,
                query_id_B=image_id_B,
                key_id_N=key_id_N,
            )
        else:
            total = ranking_loss(
                query_BH,
                key_NH,
                margin=loss.margin,
                negatives=loss.negatives,
                offset=offset,
                excluded_BN=image_id_B[:, None] == key_id_N,
            )
        return LossTerm(total, count=len(query_BH), weight=weight)

    terms: Mapping[str, LossTerm] = {
        "image_to_text": term(image_BH, caption_NH),
        "text_to_image": term(caption_BH, image_NH),
    }
    return terms
