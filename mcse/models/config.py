"""How models are built: the keys ``encoder``, ``image``, ``joint``, ``tagger`` and ``model``. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Kind = Literal["lstm", "gru", "bow", "transformer"]

_WORD_KEYS = ("word_dim", "word_vectors", "train_words", "min_count", "dropout", "marks", "init_range", "layers")

_IDLE_KEYS = {
    "transformer": _WORD_KEYS,
    "bow": ("name_or_path", "pooling", "layers"),
    "lstm": ("name_or_path", "pooling"),
    "gru": ("name_or_path", "pooling"),
}
"""Keys that would do nothing under a kind."""

Matching = Literal["corrected", "published", "none"]

ImageRow = Literal["project_mean", "mean_projected"]

MapStart = Literal["orthogonal", "glorot"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """The text tower.

    ``name_or_path``: hub id, folder, or ``package:NAME/FOLDER`` inside an installed package. ``pooling`` is the row
    used after training; the text head stands on the same pooled row during training. ``attention`` must be a kernel
    that keeps attention dropout: SimCSE's positives are made of it. ``length_chunks`` cuts a training batch into that
    many parts of similar length for the forward pass, so that less padding is computed; loss and negatives stay those
    of the whole batch. Worth it on GPUs at large batches. ``packing`` trains on sentences one after the other in a
    single row, without any padding, with the same loss: for models that take ``position_ids``. ``auto`` packs where the
    model allows it and the device is one on which it is faster (``models/packing.py``), and pads elsewhere.
    ``compile`` compiles the model for any width at once, one graph for training and one for evaluation.
    """

    name_or_path: str
    pooling: Literal["cls", "cls_with_head", "mean", "first_last_mean", "last2_mean", "max"] = "cls"
    attention: Literal["sdpa", "eager"] = "sdpa"
    gradient_checkpointing: bool = False
    length_chunks: int = 1
    packing: Literal[False, True, "auto"] = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.length_chunks < 1:
            raise ValueError(f"encoder.length_chunks: must be 1 or more, got {self.length_chunks}")
        if self.packing and self.length_chunks > 1:
            raise ValueError("encoder.length_chunks: would do nothing, since encoder.packing leaves no padding to save")
        if self.packing and (self.gradient_checkpointing or self.compile or self.attention != "sdpa"):
            raise ValueError(
                "encoder.packing: needs encoder.attention sdpa, and neither encoder.gradient_checkpointing nor "
                "encoder.compile"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """How the image side learns, and a tower that may read ``data.image_folder`` inside the step instead of features.

    ``head_learning_rate``: peak rate of the two new projection heads, by default ``optim.learning_rate`` as published.
    In a run of a hundred steps heads at a pretrained encoder's rate stay what they were drawn as. ``tower``: as
    ``mcse extract-features --tower`` names it. It is frozen (evaluation mode), or with ``train`` trained (training
    mode; batch statistics are those of a process's own batch), at the peak ``learning_rate``, by default
    ``optim.learning_rate``.
    """

    head_learning_rate: float | None = None
    tower: str | None = None
    train: bool = False
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.head_learning_rate is not None and self.head_learning_rate <= 0:
            raise ValueError(f"image.head_learning_rate: must be positive, got {self.head_learning_rate}")
        if self.tower is None:
            for key in ("train", "learning_rate"):
                if value := getattr(self, key):
                    raise ValueError(f"image.{key}: {value!r} would do nothing, since there is no image.tower")
        if not self.train and self.learning_rate is not None:
            raise ValueError(f"image.learning_rate: {self.learning_rate} would do nothing, since image.train is false")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"image.learning_rate: must be positive, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionEncoderConfig:
    """The text side.

    ``kind``: ``lstm`` and ``gru`` read word by word, ``bow`` sums words, ``transformer`` is the encoder of
    ``name_or_path``, as in the other recipes, with ``pooling``. Of words: ``word_dim`` is the width of an embedding;
    ``word_vectors`` a file of GloVe's, word2vec's or fastText's that embeddings start from, below ``data.root``;
    without ``train_words`` they stay as they are, and the vocabulary holds no other words; ``min_count`` is how often
    the training captions must have a word; ``dropout`` that of embeddings; ``marks`` says whether ``</s>`` (``end``) or
    ``<s>`` and ``</s>`` (``both``) count as words; ``init_range`` draws every weight from plus or minus it, ``null`` as
    the reference code does. ``layers`` of an LSTM or GRU.
    """

    kind: Kind
    word_dim: int = 300
    word_vectors: str | None = None
    train_words: bool = True
    min_count: int = 1
    dropout: float = 0.0
    marks: Literal["none", "end", "both"] = "none"
    init_range: float | None = None
    layers: int = 1
    name_or_path: str | None = None
    pooling: Literal["cls", "mean", "max"] = "mean"

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in _IDLE_KEYS[self.kind] and (value := getattr(self, field.name)) != field.default:
                why = f"would do nothing under encoder.kind {self.kind}"
                raise ValueError(f"encoder.{field.name}: {value!r} {why}")
        if self.kind == "transformer" and self.name_or_path is None:
            raise ValueError("encoder.name_or_path: encoder.kind transformer needs one")
        if not self.train_words and self.word_vectors is None:
            raise ValueError("encoder.train_words: false would keep random words; give encoder.word_vectors")
        for key in ("word_dim", "min_count", "layers"):
            if getattr(self, key) < 1:
                raise ValueError(f"encoder.{key}: must be 1 or more, got {getattr(self, key)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"encoder.dropout: must be from 0 to below 1, got {self.dropout}")
        if self.init_range is not None and self.init_range <= 0:
            raise ValueError(f"encoder.init_range: must be positive, got {self.init_range}")


@dataclass(frozen=True, kw_only=True, slots=True)
class JointConfig:
    """The space in common.

    ``dim``: H. ``image_map``: ``linear``, with a bias that starts at zero, ``linear_without_bias``, or ``none``, where
    the features themselves span the space, so that ``dim`` is their width. ``unit_features``: features are divided by
    their length before they are mapped. ``feature_dropout``: share of them that is dropped while training.
    """

    dim: int = 1024
    image_map: Literal["linear", "linear_without_bias", "none"] = "linear"
    unit_features: bool = True
    feature_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"joint.dim: must be 1 or more, got {self.dim}")
        if not 0 <= self.feature_dropout < 1:
            raise ValueError(f"joint.feature_dropout: must be from 0 to below 1, got {self.feature_dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggerConfig:
    """What stands on the encoder.

    ``matching``: ``corrected``, ``published`` (as released, which cannot learn), or ``none``; an image whose
    match is below ``match_threshold`` is left out (published: 0, it is only scaled). ``image_dropout``: share of
    training's tweets that are tagged without their image (published: 0). ``image_row``: the image's own row for
    alignment and matching, ``project_mean`` of its regions (published), or ``mean_projected``, which sees what is
    together in one region even if the regions are as plain as pixels. ``standardise``:
    centre and scale the regions by training's mean and spread, which MAF does not. ``learning_rate``: peak
    rate of all new layers, by default ``optim.learning_rate`` as published.
    """

    matching: Matching = "corrected"
    match_threshold: float = 0.0
    image_dropout: float = 0.0
    image_row: ImageRow = "project_mean"
    standardise: bool = True
    heads: int = 12
    dropout: float = 0.1
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"tagger.heads: must be 1 or more, got {self.heads}")
        for key in ("dropout", "match_threshold", "image_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"tagger.{key}: must be in [0, 1), got {getattr(self, key)}")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"tagger.learning_rate: must be positive, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """``objective``: the article's three tasks, or the follow-up's ``image_regression`` on frozen text vectors.

    ``width``: C, of grounded vectors and of every GRU's state. ``map_start``: M with orthonormal rows or columns, or
    Glorot's. ``state_width``: H, of the regression's LSTM (published: 2048). Of the three tasks alone: ``dropout`` on
    words' grounded vectors and before the output layer; ``share_image_layer``, one layer from image to first state
    for all GRUs, or one each; ``tie_output``, words are predicted by their own vectors, not by a matrix apart. The
    article states none of ``map_start``, ``dropout``, ``share_image_layer`` and ``tie_output``.
    """

    objective: Literal["tasks", "image_regression"] = "tasks"
    width: int = 1024
    map_start: MapStart = "glorot"
    dropout: float = 0.0
    share_image_layer: bool = True
    tie_output: bool = False
    state_width: int = 2048

    def __post_init__(self) -> None:
        for key in ("width", "state_width"):
            if getattr(self, key) < 1:
                raise ValueError(f"model.{key}: must be 1 or more, got {getattr(self, key)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout: must lie in [0, 1), got {self.dropout}")
