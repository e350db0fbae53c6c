"""CoVe: a translation model on frozen word vectors, whose encoder is kept for its word vectors in context.

Source: McCann, Bradbury, Xiong and Socher 2017, "Learned in Translation: Contextualized Word Vectors", NIPS; constants
as in the released training code.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from mcse.data.translation import TranslationStream, load_translation_data
from mcse.encoders.word_translator import WordTranslator
from mcse.evaluation.evaluators.translation import TranslationEvaluator
from mcse.losses.likelihood import token_nll
from mcse.models.cove_model import CoveModel, vocab_of
from mcse.models.cove_translator import CoveTranslator, save_translator
from mcse.recipes import export, shared
from mcse.recipes.cove.config import Config
from mcse.report.model_card import word_model_card
from mcse.text.word_vectors import load_word_vectors
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerm, LossTerms, TranslationBatch

_SUMMARY = (
    "Contextual word vectors: the encoder of a translation model on frozen word vectors (CoVe), trained with the "
    "recipe `cove` of mcse. The decoder lies beside it."
)
_USE = """
from mcse.encoders.contextual import CoveEncoder
encoder = CoveEncoder.from_pretrained(".")  # this folder
rows = encoder.embed([["a", "man", "plays", "."]])  # one (T, D) float32 array a sentence: [static; CoVe]

from mcse.encoders.word_translator import WordTranslator
WordTranslator.from_pretrained(".").translate(["A man plays ."], beams=4)
"""


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one CoVe run."""
    vectors = load_word_vectors(config.data.path("vectors"))
    words = vocab_of(vectors, lower_case=config.data.lower_case)
    data = load_translation_data(config.data, words, seed=config.seed)
    size = config.encoder
    encoder = CoveModel.from_vectors(vectors, hidden_dim=size.hidden_dim, layers=size.layers, dropout=size.dropout)
    model = CoveTranslator(encoder, target_words=len(data.target_vocab), target_dim=size.target_dim)
    share = shared.share_of(runtime, batch_size=config.train.batch_size)

    def step(model: nn.Module, batch: TranslationBatch) -> LossTerms:
        logit_BSV = model(batch)
        # Padding is 0, which no target is.
        label_BS = batch.target.input_ids_BT[:, 1:]
        nll = token_nll(logit_BSV.flatten(0, 1), label_BS.flatten(), ignored=0)
        count = (label_BS != 0).sum() if config.loss.mean_over == "words" else len(label_BS)
        return {"translation": LossTerm(nll, count=count)}

    evaluator = TranslationEvaluator(WordTranslator(model, words, data.target_vocab), data.dev_source, data.dev_target)
    return Run(
        model=model,
        step=step,
        stream=TranslationStream(data, share, seed=config.seed),
        optimizer=build_optimizer(model, config.optim),
        export=export.Exporter(
            config,
            "cove",
            data.files,
            save=export.saving(lambda folder: save_translator(folder, model, words, data.target_vocab)),
            card=partial(word_model_card, summary=_SUMMARY, use=_USE),
            pooling="mean",
        ),
        evaluators=(evaluator,),
        metrics=evaluator.metrics,
        facts={
            "pairs": len(data.source),
            "word vectors": len(vectors),
            "source words known": round(data.known_share, 4),
            "target vocabulary": len(data.target_vocab),
            "targets": "shuffled" if config.data.shuffled_targets else "true",
        },
        data=data.files,
    )
