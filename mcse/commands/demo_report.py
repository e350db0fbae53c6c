"""The report of ``mcse demo``: what the picture world is, who scored what, and what was found for test images.

C captions, M images, K captions shown of each.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation.joint_space import CaptionedImages, joint_image_rows, load_captioned_images
from mcse.files import write_json
from mcse.progress import phase
from mcse.reading import read_json
from mcse.report.demo_page import DemoReport, write_demo_report
from mcse.report.learning_curves import read_curves
from mcse.report.made import how_made, short_digest, training_facts
from mcse.report.tables import Caption, Curve, Gallery, ScoreColumn, ScoreRow, ScoreTable
from mcse.report.terminal import print_table
from mcse.scenes import read_scenes, similarity

TITLES = {
    "untrained": "untrained encoder",
    "simcse": "SimCSE (captions as text)",
    "mcse": "MCSE",
    "mcse_shuffled": "MCSE, shuffled images",
}
COLUMNS = {
    "spearman": "Spearman × 100",
    "image_to_text_recall@1": "image → text R@1",
    "image_to_text_recall@5": "image → text R@5",
}
WORLD_TITLES = {"pixels": "The picture world", "null": "The null world: gold that no image shows"}

_GALLERY_IMAGES = 6
_GALLERY_CAPTIONS = 3
_JUDGED = (
    "A caption is true if the image shows all that it says of things, colours, sizes, numbers and places; owners, "
    "hours and prices are in no image, and do not count. Otherwise the number says how alike the image and what the "
    "caption says are, from 0 to 1, by the rule that scores the test pairs."
)

Scores: TypeAlias = dict[str, list[float]]
"""Name of a score → one value a seed."""

Runs: TypeAlias = Mapping[str, Sequence[Path]]
"""System → its run folders, by seed."""


@dataclass(frozen=True, slots=True)
class _World:
    """What a world's manifest says that the report repeats."""

    config: dict[str, Any]
    counts: dict[str, int]
    files: dict[str, str]


def write_report(output: Path, world: Path, runs: Runs, scores: Mapping[str, Scores]) -> None:
    """Prints the table and its notes, and writes ``results.json`` and the report of a demo to ``output``."""
    built = read_json(world / "manifest.json", _World)
    table = _table(WORLD_TITLES[built.config["gold"]], scores)
    notes = _notes(scores)
    seed, why = _shown_seed(scores["mcse"]["spearman"])
    with phase("writing the report"):
        galleries, found = _galleries(world, {system: runs[system][seed] for system in ("mcse", "mcse_shuffled")})
        made = how_made(
            [
                *training_facts([folder for folders in runs.values() for folder in folders]),
                ("test data", f"sts/test.tsv ({short_digest(built.files['sts/test.tsv'])})"),
                ("world seed", str(built.config["seed"])),
            ]
        )
        report = DemoReport(
            table=table,
            about=_about(built),
            notes=notes,
            curves=[
                curve for system, folders in runs.items() for folder in folders for curve in _curves(system, folder)
            ],
            galleries=galleries,
            gallery_note=f"{len(galleries)} test images, in equal steps through the list, each with the "
            f"{_GALLERY_CAPTIONS} test captions that a model finds nearest. {why} {_JUDGED} {found}",
            made=made,
        )
        write_demo_report(output, report)
        write_json(output / "results.json", {"world": built.config, "recipes": dict(scores)})
    print_table(table)
    for note in notes:
        print(note)


def held_out_images(world: Path) -> CaptionedImages:
    """The images that no training sees, with their captions and features."""
    return load_captioned_images(
        str(world / "captions.csv"), features=str(world / "features"), images=str(world / "test_images.txt")
    )


def _table(title: str, scores: Mapping[str, Scores]) -> ScoreTable:
    return ScoreTable(
        title=title,
        columns=tuple(ScoreColumn(label) for label in COLUMNS.values()),
        rows=tuple(
            ScoreRow(TITLES[system], tuple(tuple(found.get(name, ())) for name in COLUMNS))
            for system, found in scores.items()
        ),
        caption="Spearman: test pairs about unseen images. R@K: an unseen image finds one of its captions among the "
        "first K of all test captions.",
    )


def _about(built: _World) -> tuple[str, str]:
    """The world, its pairs and the systems, in two lines."""
    counts, captions = built.counts, built.config["captions_per_image"]
    gold = (
        "their gold score is how alike the two images are"
        if built.config["gold"] == "pixels"
        else "their gold score is about facts that no image shows, so images cannot help"
    )
    return (
        f"The picture world is drawn by a program: {counts['train_images']:,} images of coloured shapes to train on, "
        f"{counts['test_images']:,} to test on, each with {captions} captions. Their words vary "
        "(red, crimson, scarlet), and only the images tell which words mean the same.",
        f"The test is {counts['test_pairs']:,} pairs of sentences about the test images; {gold}. SimCSE trains on "
        "captions as text alone, MCSE on the same captions with their images, and the control on captions with the "
        "images of others; all start from the same untrained encoder.",
    )


def _notes(scores: Mapping[str, Scores]) -> list[str]:
    """Whether images helped, by more than seeds differ."""
    notes = []
    for other in ("simcse", "mcse_shuffled"):
        for name in [name for name in COLUMNS if name in scores[other]]:
            ours, theirs = scores["mcse"][name], scores[other][name]
            gain = f"{COLUMNS[name]}, MCSE − {TITLES[other]}: {statistics.fmean(ours) - statistics.fmean(theirs):+.2f}"
            if len(ours) == 1:
                notes.append(f"{gain} with one seed.")
                continue
            spread = max(statistics.stdev(ours), statistics.stdev(theirs))
            clear = "more" if statistics.fmean(ours) - statistics.fmean(theirs) > 2 * spread else "not more"
            notes.append(f"{gain}, {clear} than twice the spread of seeds ({spread:.2f}).")
    return notes


def _shown_seed(spearman: Sequence[float]) -> tuple[int, str]:
    """The seed in the middle, neither the luckiest nor the unluckiest; of an even number the lower of two."""
    if len(spearman) == 1:
        return 0, "Seed 0 is the only one."
    seed = list(spearman).index(statistics.median_low(spearman))
    middle = "median" if len(spearman) % 2 else "lower median"
    return seed, f"The runs are those of seed {seed}, which has the {middle} Spearman of MCSE's {len(spearman)} seeds."


def _curves(system: str, run: Path) -> list[Curve]:
    panels = {"dev Spearman × 100": "dev.spearman", "alignment (lower is better)": "dev.alignment"}
    panels |= {"uniformity (lower is better)": "dev.uniformity", "text loss": "loss.text_text"}
    return read_curves(run, label=TITLES[system], panels=panels)


def _galleries(world: Path, runs: Mapping[str, Path]) -> tuple[list[Gallery], str]:
    """Test images with the nearest test captions of each run, and how good the first of these are over all images."""
    shown = held_out_images(world)
    scene_of = read_scenes(world)
    scenes = [scene_of[name] for name in shown.image_names]
    alike_MM = np.array([[similarity(one, other) for other in scenes] for one in scenes])
    nearest = {system: _nearest(run, shown) for system, run in runs.items()}
    chance = f"a caption at random {alike_MM[:, shown.image_C].mean():.2f}"
    words = []
    for system, caption_MK in nearest.items():
        first_M = alike_MM[np.arange(len(shown)), shown.image_C[caption_MK[:, 0]]]
        words.append(f"{TITLES[system]} {first_M.mean():.2f} ({100 * (first_M == 1).mean():.0f} % true)")
    images = range(0, len(shown), max(1, len(shown) // _GALLERY_IMAGES))
    galleries = [
        Gallery(
            title=shown.image_names[image],
            image=(world / "images" / shown.image_names[image]).read_bytes(),
            captions={
                TITLES[system]: [
                    Caption(shown.captions[row], alike=float(alike_MM[image, shown.image_C[row]]))
                    for row in caption_MK[image]
                ]
                for system, caption_MK in nearest.items()
            },
        )
        for image in list(images)[:_GALLERY_IMAGES]
    ]
    return galleries, f"The nearest caption, mean over all {len(shown):,} test images: {', '.join([*words, chance])}."


def _nearest(run: Path, shown: CaptionedImages) -> NDArray[np.int64]:
    """(M, K) the captions nearest to each image."""
    encoder = SentenceEncoder.from_pretrained(str(run), device="cpu")
    score_MC = joint_image_rows(encoder, shown) @ encoder.encode_captions(shown.captions).T
    return np.asarray(np.argsort(-score_MC, axis=1, kind="stable")[:, :_GALLERY_CAPTIONS])
