"""An encoder from scratch: a WordPiece vocabulary learned from a run's own text, and an untrained BERT over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from mcse.models.config import ScratchConfig
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.text_loading import quiet_transformers

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_word_pieces(read: Callable[[], Iterable[str]], config: ScratchConfig) -> PieceTokenizer:
    """BERT's tokenizer with a vocabulary of the text that ``read`` gives, twice; the same text gives the same ids.

    Letters that are none of the most frequent, as many as a fortieth of the vocabulary but 50 at least, make a word
    unknown.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=config.lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts = Counter(letter for text in read() for letter in tokenizer.normalizer.normalize_str(text))
    known = sorted((letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter))
    letters = known[: max(50, config.vocabulary_size // 40)]
    # Listed up front: of equally frequent letters the trainer takes those that a hash puts first, and it numbers pieces
    # of one letter in the order of a hash, another one every time.
    listed = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocabulary_size, special_tokens=listed, limit_alphabet=0, show_progress=False
    )
    tokenizer.train_from_iterator(read(), trainer)
    inner = BertTokenizer(
        vocab=tokenizer.get_vocab(), do_lower_case=config.lower_case, model_max_length=config.positions
    )
    return PieceTokenizer(inner)


def scratch_model(tokenizer: PieceTokenizer, config: ScratchConfig, *, dropout: float) -> Any:
    """An untrained BERT for the pieces of ``tokenizer``, drawn from PyTorch's generator; ``dropout`` is every rate."""
    settings = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.inner_width,
        max_position_embeddings=config.positions,
        initializer_range=config.init_std,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_id,
    )
    with quiet_transformers():
        return BertForMaskedLM(settings)
