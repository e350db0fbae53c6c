"""Pairs of two captions of one image, from a file ``image,caption``: one a training image, and all of held-out ones.

Writes ``pairs.csv`` (first and second caption) and ``held_out.csv`` (the first caption with each other one), with the
columns caption and other. See README.md here.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="captions.txt, train_images.txt, dev_images.txt")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    captions = defaultdict(list)
    with (arguments.folder / "captions.txt").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions[row["image"]].append(row["caption"].strip())
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, images, last in (("pairs", "train_images.txt", 2), ("held_out", "dev_images.txt", None)):
        with (arguments.output / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["caption", "other"])
            for image in (arguments.folder / images).read_text(encoding="utf-8").split():
                first, *others = captions[image][:last]
                table.writerows([first, other] for other in others)


if __name__ == "__main__":
    main()
