"""Train a recipe: ``accelerate launch train.py --config configs/simcse/bert_base_unsup.yaml --seed 1``.

The same as ``mcse train``; ``train.py --help`` says what it takes.
"""

from __future__ import annotations

import sys

from mcse.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
