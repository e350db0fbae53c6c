"""A tagger or a sentence classifier on frozen word features: static vectors, ELMo, CoVe, joined below or above.

Source: Peters et al. 2018, sections 3.3 and 4 (mixtures, where they join); McCann et al. 2017, section 5 (features
[GloVe; CoVe]). The task models are small ones of our own: one bidirectional LSTM, then a CRF, or pooling and a linear
layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mcse.data.streams import Sampler
from mcse.data.word_features import (
    FeatureStream,
    LabelledData,
    LabelledWords,
    WordFeatures,
    feature_batch,
    load_labelled,
)
from mcse.encoders.frozen_features import FeatureSource, load_feature_source
from mcse.encoders.inputs import evaluating
from mcse.evaluation.evaluators.word_tasks import AccuracyEvaluator, SpanF1Evaluator
from mcse.files import sha256_file
from mcse.models.feature_model import FeatureClassifier, FeatureSizes, FeatureTagger
from mcse.models.weights import save_tensors
from mcse.recipes import export, shared
from mcse.recipes.word_features.config import Config
from mcse.report.model_card import word_model_card
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import DataFile, FeatureBatch, LossTerm, LossTerms, Score, to_device

_PARTS = ("train", "dev", "test")


def build(config: Config, runtime: Runtime) -> Run:
    """Features, model, stream, step, evaluators and export of one run."""
    data = load_labelled(config.data, seed=config.seed)
    vectors = None if config.features.vectors is None else str(config.data.folder / config.features.vectors)
    contextual = config.features.contextual
    penalty_weight = 0.0 if contextual is None else contextual.mix_penalty
    source = load_feature_source(
        vectors=vectors,
        contextual=None if contextual is None else contextual.encoder,
        is_untrained=contextual is not None and contextual.untrained,
        seed=config.seed,
    )
    files: tuple[DataFile, ...] = (
        () if vectors is None else (DataFile("word vectors", vectors, sha256_file(Path(vectors))),)
    )
    files += () if contextual is None else shared.encoder_files(contextual.encoder)
    features = {part: _features(source, data.parts[part]) for part in _PARTS}
    model, sizes = _build_model(config, data, features["train"])
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    sampler = Sampler(len(data.parts["train"]), share, seed=config.seed, name="data.train")
    parts = [_PartEvaluator(model, features[part], data.parts[part], data) for part in _PARTS[1:]]
    evaluators = [part.evaluator(name) for part, name in zip(parts, _PARTS[1:], strict=True)]

    mixes = model.reader.mixes

    def step(model: nn.Module, batch: FeatureBatch) -> LossTerms:
        nll_B = model(batch)
        terms = {"task": LossTerm(nll_B.sum(), count=len(nll_B))}
        if penalty_weight:
            # Once a sentence, so that the mean over all sentences is the penalty itself.
            penalty = torch.stack([mix.penalty() for mix in mixes.values()]).sum()
            terms["mix"] = LossTerm(penalty * len(nll_B), count=len(nll_B), weight=penalty_weight)
        return terms

    metric = "f1" if data.tags is not None else "accuracy"
    return Run(
        model=model,
        step=step,
        stream=FeatureStream(features["train"], data.parts["train"], sampler),
        optimizer=build_optimizer(model, config.optim),
        export=_exporter(config, model, sizes, data),
        evaluators=(*evaluators, _MixReport(model)),
        metrics=tuple(f"{part}.{metric}" for part in _PARTS[1:]),
        facts={part: len(data.parts[part]) for part in _PARTS} | {"layers": sizes.layers, "join": sizes.join},
        data=(*data.files, *files),
    )


def _features(source: FeatureSource, labelled: LabelledWords) -> WordFeatures:
    return WordFeatures(source.static(labelled.words), source.layers(labelled.words))


def _build_model(
    config: Config, data: LabelledData, features: WordFeatures
) -> tuple[FeatureTagger | FeatureClassifier, FeatureSizes]:
    contextual = config.features.contextual
    sizes = FeatureSizes(
        static_dim=features.static[0].shape[1] if features.static else 0,
        layers=features.layers[0].shape[0] if features.layers else 0,
        layer_dim=features.layers[0].shape[2] if features.layers else 0,
        hidden_dim=config.encoder.hidden_dim,
        classes=data.classes,
        join="input" if contextual is None else contextual.join,
        layer_norm=contextual is not None and contextual.layer_norm,
        dropout=config.encoder.dropout,
    )
    if data.tags is None:
        return FeatureClassifier(sizes), sizes
    follow, start = torch.from_numpy(data.tags.may_follow()), torch.from_numpy(data.tags.may_start())
    return FeatureTagger(sizes, may_follow_KK=follow, may_start_K=start), sizes


@dataclass(frozen=True, slots=True)
class _PartEvaluator:
    """Predictions of the model as it is, on one part. Every process makes all of them: they are few."""

    model: FeatureTagger | FeatureClassifier
    features: WordFeatures
    labelled: LabelledWords
    data: LabelledData

    def evaluator(self, name: str) -> SpanF1Evaluator | AccuracyEvaluator:
        if self.data.tags is not None:
            return SpanF1Evaluator(self.labelled.gold, self.tags, name=name)
        return AccuracyEvaluator([int(label) for label in self.labelled.labels], self.classes, name=name)

    def tags(self) -> Sequence[Sequence[str]]:
        assert self.data.tags is not None
        names = self.data.tags.names
        return [[names[tag] for tag in row.tolist()] for row in self._predicted()]

    def classes(self) -> Sequence[int]:
        return [int(label) for label in self._predicted()]

    def _predicted(self) -> list[Tensor]:
        order = sorted(range(len(self.labelled)), key=lambda row: len(self.labelled.words[row]))
        found: dict[int, Tensor] = {}
        device = next(self.model.parameters()).device
        with evaluating([self.model]), torch.inference_mode():
            for first in range(0, len(order), 64):
                rows = order[first : first + 64]
                batch = to_device(feature_batch(self.features, self.labelled, rows), device)
                for row, label in zip(rows, self.model.predict(batch).cpu(), strict=True):
                    found[row] = label[: len(self.labelled.words[row])] if label.ndim else label
        return [found[row] for row in range(len(order))]


@dataclass(frozen=True, slots=True)
class _MixReport:
    """The mixtures' shares and γ, as numbers beside the scores."""

    model: FeatureTagger | FeatureClassifier

    def __call__(self) -> Mapping[str, Score]:
        return {
            f"mix_{place}.{name}": Score(value)
            for place, mix in self.model.reader.mixes.items()
            for name, value in [
                *((f"layer{number}", share) for number, share in enumerate(mix.shares.tolist())),
                ("gamma", mix.gamma.item()),
            ]
        }


def _exporter(
    config: Config, model: FeatureTagger | FeatureClassifier, sizes: FeatureSizes, data: LabelledData
) -> export.Exporter:
    types = None if data.tags is None else list(data.tags.types)
    title = "sentence classifier" if types is None else f"tagger of {', '.join(types)}"
    return export.Exporter(
        config,
        "word_features",
        data.files,
        save=export.saving(lambda folder: save_tensors(folder / "model.safetensors", model.state_dict())),
        card=partial(
            word_model_card,
            summary=f"A {title} on frozen word features, trained with the recipe `word_features` of mcse.",
            use='from mcse.models.feature_model import load_feature_model\nmodel = load_feature_model(".")',
        ),
        details={"sizes": asdict(sizes), "types": types},
    )
