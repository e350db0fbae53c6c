"""Visually grounded word vectors: language models and matching that share one map M, which then grounds any word.

V words, D text width, C grounded width.

Source: Shahmohammadi, Lensch and Baayen 2021, "Learning Zero-Shot Multifaceted Visually Grounded Word Embeddings via
Multi-Task Training", CoNLL. No code of it was ever published: what its text leaves open is a key here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mcse import distributed
from mcse.data.captions.vocabulary import CaptionVocab, load_caption_vocab
from mcse.data.controls_config import images_shown
from mcse.data.false_pairs import MatchStream
from mcse.data.images.features import FeatureStore
from mcse.data.load import Pairs, load_features, load_pairs
from mcse.data.streams import PairStream, Sampler
from mcse.data.test_sets.wordsim import load_wordsim
from mcse.encoders.grounded_words import LiveWordEncoder
from mcse.evaluation.evaluators.word_similarity import WordSimilarityEvaluator
from mcse.files import sha256_file
from mcse.losses.grounded_words import cosine_retention
from mcse.losses.likelihood import token_nll
from mcse.losses.pair_matching import matching_loss
from mcse.manifest import ImageSide, Manifest
from mcse.models.config import ModelConfig, TasksConfig
from mcse.models.grounded_checkpoint import save_grounded_words
from mcse.models.grounded_words import (
    GroundedWordRows,
    GroundedWordsModel,
    ImageRegression,
    ImageRegressionModel,
    TokenPredictions,
    WordTable,
)
from mcse.recipes import export, shared
from mcse.recipes.grounded_words.config import Config, LossConfig
from mcse.report.model_card import word_card
from mcse.text.vocab import SPECIALS
from mcse.text.word_map import WordMap
from mcse.text.word_tokenizer import CaptionTokenizer
from mcse.text.word_vectors import WordBlock, WordVectors, stream_word_vectors
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import IGNORED_LABEL, DataFile, LossTerm, LossTerms, MatchBatch, PairBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one run."""
    root = config.data.folder
    sets = () if config.words.similarity is None else load_wordsim(root / config.words.similarity).sets
    words = load_caption_vocab(
        config.data, config.words, also={word for pairs in sets for word in pairs.words}, seed=config.seed
    )
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    seed = shared.pair_seed(config.seed)
    features = load_features(config.data, config.data.images)
    tokenizer = CaptionTokenizer(words.vocab)
    loaded = load_pairs(config.data, tokenizer, controls=config.controls, seed=seed, images=features)
    sampler = Sampler(len(loaded.captions), share, seed=seed, name="data.captions")
    pairs = PairStream(loaded.captions, loaded.image_of_caption, features, sampler, pad_id=0)
    model = _build_model(config.model, words, features, loaded)
    data = (
        *loaded.files,
        features.file(loaded.image_of_caption),
        DataFile("word vectors", str(root / config.words.vectors), sha256_file(root / config.words.vectors)),
    )
    current_map = partial(_current_map, config, words, model)
    evaluator = WordSimilarityEvaluator(sets, LiveWordEncoder(words.source, current_map))
    return Run(
        model=model,
        step=regression_step if config.loss is None else TaskStep(config.loss),
        stream=pairs if config.loss is None else MatchStream(pairs, negatives=config.loss.negatives, seed=seed),
        optimizer=build_optimizer(model, config.optim),
        export=_exporter(config, words, data, current_map=current_map),
        evaluators=(evaluator,) if sets else (),
        metrics=evaluator.metrics if sets else (),
        facts={
            "captions": len(loaded.captions),
            **loaded.facts,
            "images": loaded.num_images,
            "words": len(words.vocab) - len(SPECIALS),
            f"words without a vector ({config.words.without_vector})": words.without_vector,
            "images shown": images_shown(config.controls),
        },
        data=(*data, *(DataFile("word pairs", pairs.file, sha256_file(Path(pairs.file))) for pairs in sets)),
    )


@dataclass(frozen=True, slots=True)
class TaskStep:
    """The article's losses of one batch: both language models, matching, and R over all words of the vocabulary."""

    loss: LossConfig

    def __call__(self, model: nn.Module, batch: MatchBatch) -> LossTerms:
        """Named terms; tokens, pairs and words are counted."""
        rows: GroundedWordRows = model(batch)
        # Every process has all words; each counts its share, so that the terms add up to one process's.
        own = slice(distributed.rank(), None, distributed.world_size())
        retained = cosine_retention(rows.tuned_VD[own], rows.original_VD[own], beta=self.loss.beta)
        return {
            "forward": _token_term(rows.forward, weight=self.loss.forward_weight),
            "backward": _token_term(rows.backward, weight=self.loss.backward_weight),
            "match": LossTerm(
                matching_loss(rows.match_logit_P, rows.match_label_P),
                count=len(rows.match_label_P),
                weight=self.loss.match_weight,
            ),
            "retention": LossTerm(retained, count=len(rows.tuned_VD[own]), weight=self.loss.alpha),
        }


def regression_step(model: nn.Module, batch: PairBatch) -> LossTerms:
    """Mean squared error of the standardised features."""
    found: ImageRegression = model(batch)
    return {
        "image": LossTerm((found.predicted_BF - found.image_BF).square().sum(), count=float(found.image_BF.numel()))
    }


def _current_map(config: Config, words: CaptionVocab, model: GroundedWordsModel | ImageRegressionModel) -> WordMap:
    """M as it is now, with the tuned rows where ``model.ground`` asks for them."""
    map_DC = model.map_DC.detach().float().cpu().numpy()
    if not (isinstance(config.model, TasksConfig) and config.model.ground == "tuned"):
        return WordMap(map_DC)
    known = words.vocab.words[len(SPECIALS) :]
    return WordMap(map_DC, tuned=WordVectors.of(known, model.table.words()[0].detach().float().cpu().numpy()))


def _exporter(
    config: Config, words: CaptionVocab, data: tuple[DataFile, ...], *, current_map: Callable[[], WordMap]
) -> export.Exporter:
    *_, features, source = data
    name = Path(source.path).name

    def save(folder: Path, *, manifest: Manifest, card: str) -> None:
        blocks = _exported(config, words, Path(source.path))
        save_grounded_words(folder, blocks, word_map=current_map(), vocab=words.vocab, manifest=manifest, card=card)

    return export.Exporter(
        config,
        "grounded_words",
        data,
        save=save,
        card=partial(word_card, source=name),
        pooling="mean",
        images=ImageSide(features=f"{Path(features.path).name} ({features.digest})"),
        details={"source": name, "source_digest": source.digest},
    )


def _exported(config: Config, words: CaptionVocab, source: Path) -> Iterable[WordBlock]:
    """Text vectors of the words whose grounded vectors a checkpoint holds."""
    if config.words.export == "source":
        return stream_word_vectors(source)
    known = [word for word in words.vocab.words if word in words.source.index]
    return (WordBlock(tuple(known), words.source.row_VD[[words.source.index[word] for word in known]]),)


def _build_model(
    config: ModelConfig, words: CaptionVocab, features: FeatureStore, loaded: Pairs
) -> GroundedWordsModel | ImageRegressionModel:
    text_VD = torch.from_numpy(words.text_VD)
    if isinstance(config, TasksConfig):
        return GroundedWordsModel(WordTable(text_VD, specials=len(SPECIALS), trains=True), config, features.width)
    mean_F, std_F = features.moments(np.unique(loaded.image_of_caption[np.arange(len(loaded.captions))]))
    table = WordTable(text_VD, specials=len(SPECIALS), trains=False)
    return ImageRegressionModel(table, config, torch.from_numpy(mean_F), torch.from_numpy(std_F))


def _token_term(tokens: TokenPredictions, *, weight: float) -> LossTerm:
    nll = token_nll(tokens.logit_MV, tokens.label_M, ignored=IGNORED_LABEL)
    return LossTerm(nll, count=len(tokens.label_M), weight=weight)
