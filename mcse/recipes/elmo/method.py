"""ELMo: a character-level language model in each direction, kept for its word vectors.

Source: Peters, Neumann, Iyyer, Gardner, Clark, Lee and Zettlemoyer 2018, "Deep contextualized word representations",
NAACL; constants as in the released training code.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor, nn

from mcse.data.lanes import LaneStream, LogUniformSampler
from mcse.data.language import load_language_data
from mcse.encoders.elmo_scorer import ElmoScorer
from mcse.evaluation.evaluators.perplexity import PerplexityEvaluator
from mcse.losses.likelihood import token_nll
from mcse.losses.sampled_softmax import sampled_softmax_nll
from mcse.models.elmo_language_model import ElmoLanguageModel, Predictions, save_language_model
from mcse.models.elmo_model import DIRECTIONS, ElmoConfig, ElmoModel, ElmoState
from mcse.nn.projected_lstm import LSTMState
from mcse.recipes import export, shared
from mcse.recipes.elmo.config import Config
from mcse.report.model_card import word_model_card
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import IGNORED_LABEL, Lane, LaneBatch, LossTerm, LossTerms

_SUMMARY = (
    "Contextual word vectors: an ELMo, a character-level language model in each direction, trained with the recipe "
    "`elmo` of mcse."
)
_USE = """
from mcse.encoders.contextual import ElmoEncoder
encoder = ElmoEncoder.from_pretrained(".")  # this folder
rows = encoder.embed([["A", "man", "plays", "."]])  # one (T, D) float32 array a sentence

from mcse.models.elmo_model import ElmoModel
model = ElmoModel.from_pretrained(".")  # a transformers model; its input are characters' ids
"""


class CarriedState:
    """Where the lanes stand, saved with a run."""

    def __init__(self) -> None:
        self.state: ElmoState | None = None

    def on(self, like: Tensor) -> ElmoState | None:
        """The state on the device of ``like``."""
        if self.state is None:
            return None
        return {
            direction: tuple(LSTMState(s.hidden_BP.to(like.device), s.cell_BH.to(like.device)) for s in states)
            for direction, states in self.state.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Nothing before the first step."""
        return {
            f"{direction}_{number}_{part}": getattr(state, f"{part}_{axes}")
            for direction, states in (self.state or {}).items()
            for number, state in enumerate(states)
            for part, axes in (("hidden", "BP"), ("cell", "BH"))
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what ``state_dict`` gave."""
        count = len(state) // (2 * len(DIRECTIONS))
        self.state = (
            {
                direction: tuple(
                    LSTMState(state[f"{direction}_{number}_hidden"], state[f"{direction}_{number}_cell"])
                    for number in range(count)
                )
                for direction in DIRECTIONS
            }
            if count
            else None
        )


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one ELMo run."""
    data = load_language_data(config.data, max_characters=config.encoder.max_characters)
    model = ElmoLanguageModel(ElmoModel(ElmoConfig(**asdict(config.encoder))), vocabulary_size=len(data.vocab))
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    sampler = None
    if config.loss.samples is not None:
        sampler = LogUniformSampler(size=len(data.vocab), samples=config.loss.samples, seed=config.seed)
    carried = CarriedState()

    def step(model: nn.Module, batch: LaneBatch) -> LossTerms:
        predictions, carried.state = model(batch, carried.on(batch.character_WC))
        lanes = {"forward": batch.forward, "backward": batch.backward}
        return {
            direction: _term(found, lanes[direction], size=len(data.vocab), weight=config.loss.weight)
            for direction, found in predictions.items()
        }

    evaluator = PerplexityEvaluator(ElmoScorer(model, data.vocab), data.dev)
    return Run(
        model=model,
        step=step,
        stream=LaneStream(
            data.corpus,
            share,
            unroll=config.data.unroll,
            seed=config.seed,
            sampler=sampler,
            fresh_share=config.data.fresh_share,
        ),
        optimizer=build_optimizer(model, config.optim),
        export=export.Exporter(
            config,
            "elmo",
            data.files,
            save=export.saving(lambda folder: save_language_model(folder, model, data.vocab)),
            card=partial(word_model_card, summary=_SUMMARY, use=_USE),
            pooling="mean",
        ),
        evaluators=(evaluator,),
        metrics=evaluator.metrics,
        state={"lanes": carried},
        facts={
            "sentences": data.corpus.sentences,
            "words": data.corpus.tokens,
            "vocabulary": len(data.vocab),
            "words a step": 2 * share.global_batch_size * config.data.unroll,
            "softmax": "whole" if sampler is None else f"{sampler.samples} sampled",
        },
        data=data.files,
    )


def _term(found: Predictions, lane: Lane, *, size: int, weight: float) -> LossTerm:
    if found.logit_MV is not None:
        nll = token_nll(found.logit_MV, found.label_M, ignored=IGNORED_LABEL)
    else:
        assert found.true_logit_M is not None
        assert found.negative_logit_MS is not None
        assert lane.negatives is not None
        nll = sampled_softmax_nll(
            found.true_logit_M,
            found.negative_logit_MS,
            label_M=found.label_M,
            negative_S=lane.negatives.id_S,
            size=size,
            draws=lane.negatives.draws,
        )
    return LossTerm(nll, count=len(found.label_M), weight=weight)
