"""A small untrained BERT with a word-level vocabulary of its own, for worlds that need no pretrained weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mcse.models.text_loading import quiet_transformers

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_MAX_TOKENS = 64


def build_small_encoder(
    folder: Path,
    *,
    texts: Iterable[str],
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    init_std: float = 0.02,
    seed: int = 0,
) -> Path:
    """Writes encoder and tokenizer in the hub's own format into ``folder``; words are what white space separates.

    ``init_std`` is BERT's for its width of 768; a narrow encoder attends sooner with more, about 1 / √width.
    The caller's random state is left as it was.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=_SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(
        texts, trainers.WordLevelTrainer(special_tokens=list(_SPECIAL.values()), show_progress=False)
    )
    ids = tokenizer.get_vocab()
    sep, cls = ((_SPECIAL[name], ids[_SPECIAL[name]]) for name in ("sep_token", "cls_token"))
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=_MAX_TOKENS,
        initializer_range=init_std,
        pad_token_id=tokenizer.token_to_id(_SPECIAL["pad_token"]),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
    with quiet_transformers():
        model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=_MAX_TOKENS, **_SPECIAL)
    fast.save_pretrained(folder)
    return folder
