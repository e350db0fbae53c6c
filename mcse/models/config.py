"""How models are built: the groups ``encoder``, ``image``, ``joint``, ``tagger``, ``fusion``, ``model``; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

Attention: TypeAlias = Literal["sdpa", "eager"]
Matching: TypeAlias = Literal["corrected", "published", "none"]
ImageRow: TypeAlias = Literal["project_mean", "mean_projected"]
MapStart: TypeAlias = Literal["orthogonal", "glorot"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderConfig:
    """A Hugging Face encoder."""

    name_or_path: str
    """A hub id, a folder, or ``package:NAME/FOLDER`` inside an installed package."""

    attention: Attention = "sdpa"
    """Kernel; both keep attention dropout, which the positives of SimCSE are made of."""

    dropout: float | None = None
    """Stands for every dropout rate of the model; ``null`` keeps its own, which many models have at 0."""

    gradient_checkpointing: bool = False
    """Whether activations are computed again for the gradient: less memory, about a third more time."""

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"encoder.dropout: must be from 0 to below 1, got {self.dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Adapters of low rank in linear layers, which alone train beside the heads; merged into what is saved.

    Source: Hu et al. 2021.
    """

    rank: int = 16
    """Width of an adapter. Source: LLM2Vec."""

    alpha: float = 32.0
    """What an adapter adds is multiplied by this over ``rank``."""

    dropout: float = 0.0
    """On what an adapter reads; it makes no views of a sentence, since adapters add nothing at the start."""

    modules: tuple[str, ...] = ()
    """Linear layers by parts of their names, such as ``[query, value]`` or ``[layer.8-11]``; all by default."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"encoder.lora.rank: must be 1 or more, got {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"encoder.lora.alpha: must be positive, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"encoder.lora.dropout: must be from 0 to below 1, got {self.dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig(TextEncoderConfig):
    """The encoder of sentences."""

    # Wider than its base's, which mypy refuses though nothing assigns to a frozen field.
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"  # type: ignore[assignment]
    """Kernel; all keep attention dropout, which the positives of SimCSE are made of.

    ``flash_attention_2`` is the package flash-attn's kernel for sentences of unequal length, by transformers'
    interface: for training with ``packing: true`` in half precision on a GPU, where ``sdpa`` takes PyTorch's own.
    """

    pooling: Literal["cls", "cls_with_head", "mean", "first_last_mean", "last2_mean", "max", "last"] = "cls"
    """The embedding that is used after training; the text head stands on the same one in training. Source: SimCSE."""

    length_chunks: int = 1
    """Parts of similar length that a batch is cut into for the forward pass; loss and negatives stay those of all.

    Less padding is computed: worth it on GPUs at large batches.
    """

    packing: Literal[False, True, "auto"] = False
    """Whether a batch is one row of sentences without padding; for models that take ``position_ids``.

    ``auto`` packs where the model allows it and the device is one on which it is faster (``models/packing.py``).
    """

    prompt: str | None = None
    """Put before every sentence, in training and afterwards; saved with the checkpoint as its default prompt.

    ``null`` puts none. ``data.max_length`` counts its tokens, and a mean or maximum is also over them.
    """

    lora: LoraConfig | None = None
    """Adapters that train in the encoder's place; ``null`` trains its own weights. Needs ``mcse[lora]``."""

    frozen: bool | tuple[str, ...] = False
    """Weights that stay as they are: ``true`` for all, so that heads alone train, or a list of parts of their names.

    Such as ``[embeddings, layer.0-5]``; ``*`` stands for any part between two dots.
    """

    def __post_init__(self) -> None:
        # A slotted dataclass is another class than the one that super() without arguments means.
        TextEncoderConfig.__post_init__(self)
        if self.lora is not None and self.frozen:
            raise ValueError("encoder.lora, encoder.frozen: adapters train beside weights that are frozen; give one")
        if self.frozen is True and self.gradient_checkpointing:
            raise ValueError("encoder.gradient_checkpointing: would do nothing, since encoder.frozen is true")
        if self.length_chunks < 1:
            raise ValueError(f"encoder.length_chunks: must be 1 or more, got {self.length_chunks}")
        if self.packing and self.length_chunks > 1:
            raise ValueError("encoder.length_chunks: would do nothing, since encoder.packing leaves no padding to save")
        if self.attention == "flash_attention_2" and self.packing is not True:
            raise ValueError(
                "encoder.attention: flash_attention_2 is for sentences without padding; set encoder.packing: true, or "
                "leave it sdpa"
            )
        if self.packing and (self.gradient_checkpointing or self.attention == "eager"):
            raise ValueError(
                "encoder.packing: needs encoder.attention sdpa or flash_attention_2, and no "
                "encoder.gradient_checkpointing"
            )


# --- masked language models


@dataclass(frozen=True, kw_only=True, slots=True)
class ScratchConfig:
    """An untrained BERT, and a vocabulary of word pieces that is learned from the run's own text."""

    vocabulary_size: int = 8000
    """Pieces of words."""

    lower_case: bool = True
    """Whether text is lower-cased, and letters lose their accents."""

    layers: int = 4
    """Layers of attention and a feed-forward part."""

    width: int = 256
    """Width of a token's row, and of embeddings."""

    heads: int = 4
    """Heads of attention, which divide the width."""

    inner_width: int = 1024
    """Width of a feed-forward part."""

    positions: int = 128
    """Tokens of the longest text, special ones included."""

    init_std: float = 0.02
    """Standard deviation of the weights at the start. Source: BERT."""

    def __post_init__(self) -> None:
        for key in ("layers", "width", "heads", "inner_width"):
            if getattr(self, key) < 1:
                raise ValueError(f"encoder.scratch.{key}: must be 1 or more, got {getattr(self, key)}")
        if self.vocabulary_size < 200:
            raise ValueError(f"encoder.scratch.vocabulary_size: must be 200 or more, got {self.vocabulary_size}")
        if self.positions < 3:
            raise ValueError(f"encoder.scratch.positions: must hold a token and two special ones, got {self.positions}")
        if self.width % self.heads:
            raise ValueError(f"encoder.scratch.heads: {self.heads} heads do not divide a width of {self.width}")
        if self.init_std <= 0:
            raise ValueError(f"encoder.scratch.init_std: must be positive, got {self.init_std}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedEncoderConfig:
    """How a masked language model is trained, and what its sentence embedding is afterwards."""

    dropout: float | None = None
    """Stands for every dropout rate of the model; ``null`` keeps its own, or BERT's 0.1 from scratch."""

    pooling: Literal["cls", "mean", "max", "last"] = "mean"
    """The embedding of what is saved; training does not see it."""

    packing: Literal[False, True, "auto"] = False
    """Whether a batch is one row of sentences without padding; for models that take ``position_ids``.

    ``auto`` packs where the model allows it and the device is one on which it is faster (``models/packing.py``).
    """

    gradient_checkpointing: bool = False
    """Whether activations are computed again for the gradient: less memory, about a third more time."""

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"encoder.dropout: must be from 0 to below 1, got {self.dropout}")
        if self.packing and self.gradient_checkpointing:
            raise ValueError("encoder.packing: needs no encoder.gradient_checkpointing")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedMaskedConfig(MaskedEncoderConfig):
    """A model that trains on."""

    TAG: ClassVar[str] = "name_or_path"

    name_or_path: str
    """A hub id, a folder, or ``package:NAME/FOLDER``; a language-model head that is not there starts untrained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScratchMaskedConfig(MaskedEncoderConfig):
    """A model that starts from nothing."""

    TAG: ClassVar[str] = "scratch"

    scratch: ScratchConfig
    """Its sizes; ``{}`` takes the defaults."""


MaskedModelConfig: TypeAlias = PretrainedMaskedConfig | ScratchMaskedConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """How the image side learns."""

    head_learning_rate: float | None = None
    """The peak rate of new projection heads; ``null`` is ``optim.learning_rate``, as published.

    In a run of a hundred steps heads at a pretrained encoder's rate stay what they were drawn as.
    """

    def __post_init__(self) -> None:
        if self.head_learning_rate is not None and self.head_learning_rate <= 0:
            raise ValueError(f"image.head_learning_rate: must be positive, got {self.head_learning_rate}")


# --- captions and images in one space


@dataclass(frozen=True, kw_only=True, slots=True)
class WordEncoderConfig:
    """What encoders of words have in common."""

    word_dim: int = 300
    """Width of a word's embedding. Source: Kiros et al. 2014."""

    word_vectors: str | None = None
    """A file of word vectors that embeddings start from, below ``data.root``; ``null`` draws them."""

    train_words: bool = True
    """Whether embeddings are trained; if not, the vocabulary holds only words of ``word_vectors``."""

    min_count: int = 1
    """How often the training captions must have a word."""

    dropout: float = 0.0
    """Of embeddings."""

    marks: Literal["none", "end", "both"] = "none"
    """Whether ``</s>`` (``end``), or ``<s>`` and ``</s>`` (``both``), count as words."""

    init_range: float | None = None
    """Draws every weight from plus or minus this; ``null`` as the reference code does."""

    def __post_init__(self) -> None:
        if not self.train_words and self.word_vectors is None:
            raise ValueError("encoder.train_words: false would keep random words; give encoder.word_vectors")
        for key in ("word_dim", "min_count"):
            if getattr(self, key) < 1:
                raise ValueError(f"encoder.{key}: must be 1 or more, got {getattr(self, key)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"encoder.dropout: must be from 0 to below 1, got {self.dropout}")
        if self.init_range is not None and self.init_range <= 0:
            raise ValueError(f"encoder.init_range: must be positive, got {self.init_range}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecurrentConfig(WordEncoderConfig):
    """Reads word by word."""

    kind: Literal["lstm", "gru"]
    """The recurrent cell."""

    layers: int = 1
    """Layers of cells."""

    def __post_init__(self) -> None:
        # A slotted dataclass is another class than the one that super() without arguments means.
        WordEncoderConfig.__post_init__(self)
        if self.layers < 1:
            raise ValueError(f"encoder.layers: must be 1 or more, got {self.layers}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BowConfig(WordEncoderConfig):
    """Sums words."""

    kind: Literal["bow"]
    """A bag of words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig:
    """A Hugging Face encoder."""

    TAG: ClassVar[str] = "kind"

    kind: Literal["transformer"]
    """A transformer, as in the recipes of sentences."""

    name_or_path: str
    """A hub id, a folder, or ``package:NAME/FOLDER`` inside an installed package."""

    pooling: Literal["cls", "mean", "max"] = "mean"
    """A caption's embedding, before the joint space."""


CaptionEncoderConfig: TypeAlias = RecurrentConfig | BowConfig | TransformerConfig


CAPTION_ENCODERS: Mapping[str, type[CaptionEncoderConfig]] = {
    "lstm": RecurrentConfig,
    "gru": RecurrentConfig,
    "bow": BowConfig,
    "transformer": TransformerConfig,
}
"""The variants by their ``kind``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JointConfig:
    """The space in common."""

    dim: int = 1024
    """Its width. Source: Faghri et al. 2018."""

    image_map: Literal["linear", "linear_without_bias", "none"] = "linear"
    """From features to the space; ``linear`` has a bias that starts at 0, ``none`` takes features as they are."""

    unit_features: bool = True
    """Whether features are divided by their length before they are mapped."""

    feature_dropout: float = 0.0
    """Share of features that is dropped while training."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"joint.dim: must be 1 or more, got {self.dim}")
        if not 0 <= self.feature_dropout < 1:
            raise ValueError(f"joint.feature_dropout: must be from 0 to below 1, got {self.feature_dropout}")


# --- tweets


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggerConfig:
    """What stands on the encoder of tweets."""

    dropout: float = 0.1
    """Of words before they are tagged, and of attention over regions. Source: MAF's code."""

    learning_rate: float | None = None
    """The peak rate of all new layers; ``null`` is ``optim.learning_rate``, as published."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"tagger.dropout: must be in [0, 1), got {self.dropout}")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"tagger.learning_rate: must be positive, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionConfig:
    """How a tweet and its image meet."""

    heads: int = 12
    """Attention heads between words and regions. Source: MAF's code."""

    pooling: Literal["cls", "mean", "max"] = "cls"
    """The text's own embedding for alignment and matching. Source: MAF."""

    image_row: ImageRow = "project_mean"
    """The image's own embedding for them: its regions' mean, projected (as published), or the mean of projections.

    The latter sees what is together in one region even if the regions are as plain as pixels.
    """

    image_dropout: float = 0.0
    """Share of training's tweets that are tagged without their image; published: 0."""

    standardise: bool = True
    """Whether regions are centred and scaled by training's mean and spread, which MAF does not."""

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"fusion.heads: must be 1 or more, got {self.heads}")
        if not 0 <= self.image_dropout < 1:
            raise ValueError(f"fusion.image_dropout: must be in [0, 1), got {self.image_dropout}")


# --- grounded words


@dataclass(frozen=True, kw_only=True, slots=True)
class MapConfig:
    """The map from text vectors to grounded vectors."""

    width: int = 1024
    """Of grounded vectors, and of every GRU's state. Source: Shahmohammadi et al. 2021."""

    map_start: MapStart = "glorot"
    """How the map is drawn: with orthonormal rows or columns, or Glorot's; the article does not say."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"model.width: must be 1 or more, got {self.width}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TasksConfig(MapConfig):
    """The article's three tasks: two language models, and matching of captions and images."""

    TAG: ClassVar[str] = "objective"

    objective: Literal["tasks"] = "tasks"
    """The article's."""

    dropout: float = 0.0
    """On words' grounded vectors and before the output layer; the article does not say."""

    share_image_layer: bool = True
    """Whether one layer leads from image to first state for all GRUs, or one each; the article does not say."""

    tie_output: bool = False
    """Whether words are predicted by their own vectors, not by a matrix apart; the article does not say."""

    ground: Literal["original", "tuned"] = "original"
    """Whether the captions' words are grounded from their original vectors, one map for all, or from tuned ones."""

    def __post_init__(self) -> None:
        MapConfig.__post_init__(self)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout: must lie in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegressionConfig(MapConfig):
    """The follow-up's image regression on frozen text vectors."""

    objective: Literal["image_regression"]
    """The follow-up's."""

    state_width: int = 2048
    """Of the regression's LSTM; as published."""

    def __post_init__(self) -> None:
        MapConfig.__post_init__(self)
        if self.state_width < 1:
            raise ValueError(f"model.state_width: must be 1 or more, got {self.state_width}")


ModelConfig: TypeAlias = TasksConfig | RegressionConfig
