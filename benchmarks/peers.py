"""Other people's training, as its own makers recommend it, for benchmarks to run beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.models import Pooling, Transformer
from sentence_transformers.training_args import SentenceTransformerTrainingArguments


def sentence_transformers_model(folder: Path, *, max_length: int, device: str) -> SentenceTransformer:
    """An encoder of its own with the ``[CLS]`` row, from a folder that ``AutoModel`` loads."""
    transformer = Transformer(str(folder), max_seq_length=max_length)
    pooling = Pooling(transformer.get_word_embedding_dimension(), pooling_mode="cls")
    return SentenceTransformer(modules=[transformer, pooling], device=device)


def sentence_transformers_trainer(
    model: SentenceTransformer,
    sentences: list[str],
    *,
    output_dir: Path,
    steps: int,
    batch_size: int,
    precision: str,
    device: str,
    callback: Any,
) -> SentenceTransformerTrainer:
    """Its SimCSE recipe on its own trainer, at its own defaults, without saving, reports and bars."""
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output_dir),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=3e-5,
        bf16=precision == "bf16",
        use_cpu=device == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    return SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor": sentences, "positive": sentences}),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=[callback],
    )
