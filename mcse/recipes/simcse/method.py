"""SimCSE: a sentence under two dropout masks is its own positive; or, supervised, entailments against contradictions.

Source: Gao, Yao and Chen 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings", EMNLP.
"""

from __future__ import annotations

from torch import nn

from mcse.data.load import load_pairs
from mcse.data.mixing import MixedStream, carried_part, plan_mixture
from mcse.data.sentences.streaming import StreamedSentences
from mcse.data.streams import SentenceStream, Share
from mcse.recipes import export, shared
from mcse.recipes.simcse.config import Config
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import DataFile, LossTerms, SentenceBatch, Stream


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one SimCSE run."""
    text = shared.build_text_side(config.encoder, mlm=config.loss.mlm_weight > 0)
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    stream, data, facts = _build_stream(config, text, share)
    evaluator, metrics = shared.build_dev_evaluator(config.data, text, precision=config.train.precision)

    def step(model: nn.Module, batch: SentenceBatch) -> LossTerms:
        return shared.text_terms(
            model(batch),
            temperature=config.loss.temperature,
            hard_negative_weight=config.loss.hard_negative_weight,
            mlm_weight=config.loss.mlm_weight,
        )

    return Run(
        model=text.model,
        step=step,
        stream=stream,
        carried=carried_part(stream),
        optimizer=build_optimizer(text.model, config.optim),
        export=export.Exporter(config, text, config.encoder, data),
        evaluators=(evaluator,),
        metrics=metrics,
        facts=facts,
        data=data,
    )


def _build_stream(
    config: Config, text: shared.TextSide, share: Share
) -> tuple[Stream[SentenceBatch], tuple[DataFile, ...], dict[str, str | int | float]]:
    columns = 1
    streams: list[SentenceStream | StreamedSentences] = []
    data: tuple[DataFile, ...] = ()
    facts: dict[str, str | int | float] = {}
    if config.data.sentences is not None:
        sentences, data = shared.build_sentence_stream(config.data, text, share=share, seed=config.seed)
        columns = sentences.columns
        facts |= sentences.facts
        streams.append(sentences)
    if config.data.captions is not None:
        if columns != 1:
            raise ValueError("data.captions: cannot be mixed with supervised sentences")
        pairs = load_pairs(
            config.data, text.tokenizer, controls=config.controls, seed=shared.pair_seed(config.seed), images=None
        )
        order = pairs.order(share, shared.pair_seed(config.seed))
        masker = text.masker(seed=shared.pair_seed(config.seed))
        streams.append(SentenceStream(pairs.captions, order, pad_id=text.tokenizer.pad_id, masker=masker))
        data += pairs.files
        facts["captions"] = len(pairs.captions)
    if columns != 3 and config.loss.hard_negative_weight != 0:
        raise ValueError(
            f"loss.hard_negative_weight: {config.loss.hard_negative_weight} would do nothing, since there are no hard "
            "negatives (data.sentences: a CSV file of three columns)"
        )
    facts["negatives a query"] = shared.negatives_a_query(share, columns=columns)
    if len(streams) == 1:
        return streams[0], data, facts
    mixture = plan_mixture(config.mix, sentence_steps=streams[0].steps_per_epoch, pair_steps=streams[1].steps_per_epoch)
    facts |= mixture.drawn_an_epoch(share.global_batch_size)
    return MixedStream(streams[0], streams[1], mixture), data, facts
