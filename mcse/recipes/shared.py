"""Building blocks that recipes share: the text side, its loss terms, its batches and its evaluator. Not a recipe.

B queries of this process, N rows of all processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mcse.data.config import DataConfig, MaskedDataConfig, TokenConfig
from mcse.data.controls_config import ControlsConfig, Mix, PairControls
from mcse.data.load import load_dev_pairs, load_pairs
from mcse.data.load_sentences import load_sentences, stream_sentences
from mcse.data.mixing import MixedStream, plan_mixture
from mcse.data.source_variants import StreamSentences
from mcse.data.streams import BERT_MASK_SHARE, Sampler, SentenceStream, Share, TokenMasker, TokenRepeater
from mcse.data.table_config import TableDataConfig
from mcse.data.teacher_rows import StoredTeachers
from mcse.data.test_sets.lines import senteval_parent
from mcse.encoders.loading import model_files
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation.evaluators.scored_pairs import ScoredPairsEvaluator
from mcse.evaluation.suite import pairs_digest
from mcse.files import sha256_file
from mcse.hub import commit_of
from mcse.manifest import locate
from mcse.models.checkpoint import check_exportable, check_trainable
from mcse.models.config import EncoderConfig
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.sentence_model import SentenceModel
from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import load_mlm_head, load_text_encoder, load_tokenizer
from mcse.models.trained_weights import add_adapters, freeze
from mcse.nn.heads import TanhHead
from mcse.training.config import TrainConfig
from mcse.training.runtime import Runtime
from mcse.types import DataFile, Evaluator, Stream

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TextSide:
    """The text tower with its heads, and the tokenizer that belongs to it."""

    model: SentenceModel
    tokenizer: PieceTokenizer
    files: tuple[DataFile, ...]
    trained: Mapping[str, str | int | float] = field(default_factory=dict)
    mask_share: float | None = None
    """Of the words of a sentence's masked copy; ``None`` makes no copies."""

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Of the encoder, for the start of a run."""
        prompt = {"prompt": repr(self.tokenizer.prompt)} if self.tokenizer.prompt else {}
        return {**encoder_facts(self.files), **self.model.encoder.facts.described(), **prompt, **self.trained}

    def masker(self, *, seed: int) -> TokenMasker | None:
        """Draws masks where there are to be masked copies."""
        return None if self.mask_share is None else build_masker(self.tokenizer, seed=seed, share=self.mask_share)

    def repeater(self, data: DataConfig, *, seed: int) -> TokenRepeater | None:
        """Draws positives with doubled tokens where ``data.repetition`` says so."""
        if not data.repetition:
            return None
        special = self.tokenizer.inner.all_special_ids
        return TokenRepeater(rate=data.repetition, special_ids=special, max_length=data.max_length, seed=seed)


def build_masker(
    tokenizer: PieceTokenizer, *, seed: int, share: float, whole_word: bool = False, hides_all: bool = False
) -> TokenMasker:
    """Draws masks of the tokens of ``tokenizer``; other arguments as of ``TokenMasker``.

    Raises:
        ValueError: It has no mask token; or words are to be masked whole, and its pieces do not say what a word is.
    """
    inner = tokenizer.inner
    if inner.mask_token_id is None:
        raise ValueError("encoder.name_or_path: its tokenizer has no mask token, and words are to be masked")
    continues = tokenizer.continuing_pieces() if whole_word else None
    if whole_word and continues is None:
        raise ValueError("loss.whole_word: the tokenizer's pieces do not say where a word begins; leave it false")
    return TokenMasker(
        mask_id=inner.mask_token_id,
        vocabulary_size=len(inner),
        special_ids=inner.all_special_ids,
        seed=seed,
        share=share,
        continues_V=None if continues is None else np.asarray(continues),
        hides_all=hides_all,
    )


def build_text_side(
    config: EncoderConfig,
    data: TokenConfig,
    *,
    mlm: bool,
    own_positive: bool,
    head: bool = True,
    clean_view: bool = False,
) -> TextSide:
    """The text tower of ``encoder.name_or_path`` with a fresh text head, and a language-model head if asked for.

    Args:
        config: The ``encoder`` keys.
        data: The ``data`` keys, for the tokens that sentences keep.
        mlm: Whether tokens are masked, too.
        own_positive: Whether any sentence is its own positive, which only dropout tells from it.
        head: Whether the loss sees the text head's rows, and not those that are exported.
        clean_view: Whether the loss also sees sentences without dropout.

    Raises:
        ValueError: The encoder cannot be loaded, trained, or told from itself; its pooling cannot be exported or does
            not fit it; sentences may be longer than it takes, or have no room beside the prompt; or what is to be
            frozen or adapted is not there.
    """
    check_exportable(config.pooling)
    encoder = load_text_encoder(
        config.name_or_path,
        pooling=config.pooling,
        attention=config.attention,
        dropout=config.dropout,
        gradient_checkpointing=config.gradient_checkpointing,
        length_chunks=config.length_chunks,
        packing=config.packing,
    )
    tokenizer = load_tokenizer(config.name_or_path, prompt=config.prompt or "")
    check_trainable(encoder, tokenizer, max_length=data.max_length)
    if own_positive and config.frozen is not True:
        check_views_differ(encoder)
    trained = _choose_trained(encoder, config)
    text_head = TanhHead(encoder.width, encoder.width, init_std=encoder.init_std) if head else None
    mlm_head = load_mlm_head(config.name_or_path) if mlm else None
    model = SentenceModel(encoder, head=text_head, mlm_head=mlm_head, clean_view=clean_view)
    return TextSide(
        model, tokenizer, encoder_files(config.name_or_path), trained, mask_share=BERT_MASK_SHARE if mlm else None
    )


def _choose_trained(encoder: TextEncoder, config: EncoderConfig) -> Mapping[str, str | int | float]:
    """Which weights of the encoder train, for the start of a run."""
    if config.lora is not None:
        layers = add_adapters(encoder.backbone, config.lora, name=config.name_or_path)
        return {"adapters": f"rank {config.lora.rank} in {layers} linear layers"}
    freeze(encoder.backbone, config.frozen, name=config.name_or_path)
    if isinstance(config.frozen, bool):
        return {"encoder frozen": "all"} if config.frozen else {}
    return {"encoder frozen": ", ".join(config.frozen)}


def encoder_files(name: str, *, role: str = "encoder") -> tuple[DataFile, ...]:
    """What a model that a run starts from was read of: its files, or the commit of a model of the hub."""
    located = locate(name)
    if (commit := commit_of(located.path)) is not None:
        return (DataFile(role, f"{located.path} at commit {commit}", commit),)
    paths = [Path(located.path)] if located.kind == "vectors" else sorted(model_files(located))
    return tuple(DataFile(role, str(path), sha256_file(path)) for path in paths if path.is_file())


def encoder_facts(files: Sequence[DataFile]) -> dict[str, str | int | float]:
    """Which commit of the hub is trained, for the start of a run; nothing of a folder."""
    return next(({"encoder": file.path} for file in files if file.path.endswith(file.digest)), {})


def check_views_differ(encoder: TextEncoder) -> None:
    """Refuses an encoder under which a sentence that is its own positive has the same embedding twice.

    Raises:
        ValueError: Every training pass gives the same.
    """
    if not encoder.facts.drops_out:
        raise ValueError(
            "encoder.dropout: a sentence is its own positive here, and two training passes of "
            f"{encoder.facts.name!r} give it the same embedding, since all its dropout is 0; set "
            "encoder.dropout (BERT has 0.1)"
        )


@dataclass(frozen=True, slots=True)
class Feed:
    """Batches of a run, what they are read from, and facts for its start; 3 ``columns`` with hard negatives."""

    stream: Stream[Any]
    files: tuple[DataFile, ...]
    facts: Mapping[str, str | int | float]
    columns: int = 1


def sentence_feed(
    data: DataConfig, text: TextSide, *, share: Share, seed: int, teachers: StoredTeachers | None = None
) -> Feed:
    """Batches of the sentences of ``data.sentences``, with the rows that stored ``teachers`` give them.

    Raises:
        ValueError: A store lacks rows, or sentences have hard negatives, of which teachers' rows say nothing.
    """
    source = data.sentences
    assert source is not None
    masker, pad_id, repeater = text.masker(seed=seed), text.tokenizer.pad_id, text.repeater(data, seed=seed)
    if isinstance(source, StreamSentences):
        streamed, files = stream_sentences(
            data,
            source,
            text.tokenizer,
            share=share,
            seed=seed,
            pad_id=pad_id,
            masker=masker,
            repeater=repeater,
            teachers=teachers,
        )
        return Feed(streamed, files, streamed.facts)
    sentences = load_sentences(data, source, text.tokenizer)
    sampler = Sampler(len(sentences.table), share, seed=seed, name="data.sentences")
    column = None
    if teachers is not None:
        column = teachers.column(
            lambda: (row[0] for row in sentences.rows()),
            digest=sentences.digest,
            number=len(sentences.table),
            source=sentences.files[0].path,
        )
    stream = SentenceStream(sentences.table, sampler, pad_id=pad_id, masker=masker, repeater=repeater, teachers=column)
    return Feed(stream, sentences.files, stream.facts, columns=stream.columns)


def caption_feed(
    data: DataConfig,
    controls: PairControls,
    text: TextSide,
    *,
    share: Share,
    seed: int,
    teachers: StoredTeachers | None = None,
) -> Feed | None:
    """Captions as text, on the batches that MCSE would pair with images; ``None`` where there are none."""
    if data.captions is None:
        return None
    seed = pair_seed(seed)
    drawn = ControlsConfig(num_pairs=controls.num_pairs, num_images=controls.num_images)
    pairs = load_pairs(data, text.tokenizer, controls=drawn, seed=seed, images=None)
    order, masker = pairs.order(share, seed), text.masker(seed=seed)
    stream = SentenceStream(
        pairs.captions,
        order,
        pad_id=text.tokenizer.pad_id,
        masker=masker,
        repeater=text.repeater(data, seed=seed),
        teachers=pairs.teacher_rows(teachers),
    )
    return Feed(stream, pairs.files, {"captions": len(pairs.captions), **pairs.facts})


def mixed_feed(
    data: DataConfig,
    text: TextSide,
    captions: Feed | None,
    *,
    mix: Mix | None,
    share: Share,
    seed: int,
    teachers: StoredTeachers | None = None,
) -> Feed:
    """Sentences, ``captions`` with or without their images, or both as ``mix`` says.

    Stored ``teachers`` give rows to the sentences; ``captions`` come with theirs.
    """
    sentences = None
    if data.sentences is not None:
        sentences = sentence_feed(data, text, share=share, seed=seed, teachers=teachers)
    if sentences is None or captions is None:
        feed = sentences or captions
        assert feed is not None
    else:
        assert mix is not None
        steps = (sentences.stream.steps_per_epoch, captions.stream.steps_per_epoch)
        mixture = plan_mixture(mix, sentence_steps=steps[0], pair_steps=steps[1])
        feed = Feed(
            MixedStream(sentences.stream, captions.stream, mixture),
            (*sentences.files, *captions.files),
            {**sentences.facts, **captions.facts, **mixture.drawn_an_epoch(share.global_batch_size)},
        )
    negatives = {"negatives a query": negatives_a_query(share, columns=feed.columns)}
    return replace(feed, facts={**feed.facts, **negatives})


def pair_seed(seed: int) -> int:
    """The seed of everything drawn about pairs, apart from the sentences' own; recipes that share pairs share it."""
    return seed + 1_000_003


@dataclass(frozen=True, slots=True)
class Dev:
    """What evaluates the encoder as it is, the names of its scores, and what was read for it."""

    evaluators: tuple[Evaluator, ...]
    metrics: tuple[str, ...]
    files: tuple[DataFile, ...]


def build_dev_evaluator(
    config: DataConfig | TableDataConfig | MaskedDataConfig, text: TextSide, train: TrainConfig
) -> Dev:
    """On the dev pairs; a run that selects by nothing may have none, and nothing is fetched for it."""
    if train.select_by is None and config.sts is None and senteval_parent(config.folder, ("STS",)) is None:
        logger.warning("nothing is evaluated while training, as there are no scored pairs: data.sts names some")
        return Dev((), (), ())
    pairs = load_dev_pairs(config)
    name = "stsb_dev" if pairs.name == "STSBenchmark" else pairs.name
    evaluator = ScoredPairsEvaluator(pairs, dev_encoder(text, precision=train.precision), name=name)
    return Dev((evaluator,), evaluator.metrics, (DataFile("dev pairs", ", ".join(pairs.files), pairs_digest([pairs])),))


def dev_encoder(text: TextSide, *, precision: str) -> SentenceEncoder:
    """The encoder as it is, for evaluators: its embeddings are those that are exported."""
    encoder = SentenceEncoder(
        text.model.encoder,
        PieceTokenizer(text.tokenizer.inner),
        pooling=text.model.encoder.pooling,
        prompt=text.tokenizer.prompt,
        text_head=text.model.head,
        precision="bfloat16" if precision == "bf16" else "float32",
    )
    encoder.keeps_tokens = True
    return encoder


def share_of(runtime: Runtime, *, batch_size: int) -> Share:
    """This process's share of every global batch."""
    return Share(batch_size=batch_size, rank=runtime.rank, world_size=runtime.world_size)


def negatives_a_query(share: Share, *, columns: int) -> int:
    """Wrong keys that a query is compared with: the other positives, and all contradictions if there are any."""
    return share.global_batch_size - 1 + (share.global_batch_size if columns == 3 else 0)
