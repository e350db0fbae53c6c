"""CoSENT on STS-B train: the recipe ``tables`` beside sentence-transformers' ``CoSENTLoss`` on the same batches.

Both start from all-MiniLM-L6-v2 with mean pooling and see the same rows in the same order at the same rates; only their
dropout masks differ. Each seed's last weights are saved; ``mcse evaluate`` gives their scores. See README.md here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments
from torch.utils.data import BatchSampler, SequentialSampler

from mcse.commands.configs import config_path
from mcse.data.named_columns import open_named_columns
from mcse.data.streams import Sampler, Share
from mcse.data.table_config import TableDataConfig
from mcse.manifest import resolve_name
from mcse.recipes.launch import load_config

CONFIG = "mcse:tables/minilm_stsb_cpu"


def train_ours(given: list[str], folder: Path, *, seed: int) -> None:
    """A run of the published configuration; its weights are in ``folder/last``."""
    command = [sys.executable, "train.py", "--config", CONFIG, *given]
    options = ["--seed", str(seed), "--output_dir", str(folder), "--overwrite"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)


def train_peer(given: list[str], folder: Path, *, seed: int) -> None:
    """Its trainer and its loss, on the batches that ours of the same seed takes."""
    config = load_config(config_path(CONFIG), given)
    model = SentenceTransformer(resolve_name(config.encoder.name_or_path), device="cpu")
    model.max_seq_length = config.data.max_length
    order = batches(config.data, config.train.batch_size, seed=seed, epochs=config.train.epochs)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=config.train.batch_size,
        learning_rate=config.optim.learning_rate,
        warmup_steps=config.optim.warmup_steps,
        lr_scheduler_type=config.optim.schedule,
        weight_decay=config.optim.weight_decay,
        max_grad_norm=config.optim.max_grad_norm,
        batch_sampler=in_order,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=order, loss=CoSENTLoss(model, scale=config.loss.scale)
    ).train()
    model.save(str(folder))


def batches(data: TableDataConfig, batch_size: int, *, seed: int, epochs: float) -> Dataset:
    """The rows of all batches, one after the other."""
    (key, table), *_ = data.named.items()
    rows = list(open_named_columns(table, root=data.folder, key=key).rows())
    sampler = Sampler(len(rows), Share(batch_size), seed=seed, name=key)
    index = np.concatenate([sampler.index(step) for step in range(round(epochs * sampler.steps_per_epoch))])
    columns = {name: [rows[n].texts[place] for n in index] for place, name in enumerate(("sentence1", "sentence2"))}
    return Dataset.from_dict({**columns, "score": [rows[n].value for n in index]})


def in_order(dataset: Dataset, batch_size: int, drop_last: bool, **_: Any) -> BatchSampler:
    """Rows as they come."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


SIDES = {"ours": train_ours, "peer": train_peer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="columns score, sentence1, sentence2")
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    arguments, given = parser.parse_known_args()
    given += ["--data.table.path", str(arguments.table.resolve())]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for seed in arguments.seeds:
        for name in arguments.sides:
            SIDES[name](given, arguments.output / name / f"seed{seed}", seed=seed)
            print(f"{name} seed {seed}: trained", flush=True)


if __name__ == "__main__":
    main()
