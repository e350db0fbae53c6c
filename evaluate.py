"""Evaluates sentence encoders: loads each model, runs the suites, prints the tables and writes the reports."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from mcse.distributed import broadcast_object, fail_together, is_main, join_world
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.evaluation.compare import compare
from mcse.evaluation.result_cache import KeptResult, cache_key, load_result, save_result
from mcse.evaluation.seen_text import contaminated_pairs, seen_by
from mcse.evaluation.suite import PreparedSuite, Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.evaluation.worst_pairs import worst_pairs
from mcse.files import digest_of, read_json, write_json, write_text
from mcse.report.evaluation_html import write_evaluation_report
from mcse.report.latex import latex_table
from mcse.report.learning_curves import read_learning_curves
from mcse.report.markdown import markdown_table
from mcse.report.model_card import with_scores
from mcse.report.mteb_files import write_mteb_files
from mcse.report.results import (
    compared_tables,
    comparison_json,
    contest_tables,
    model_tables,
    report_markdown,
    results_json,
)
from mcse.report.seed_groups import System
from mcse.report.tables import ScoreTable
from mcse.report.terminal import print_table
from mcse.run_folder import BEST, EVALUATION, is_run, seed_runs
from mcse.types import ComparedScore, Encoder, ModelScores, ScoreKey, SuiteScores

_NOTHING = SuiteScores(scores={}, protocols={}, columns=())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where a model or the data cannot be used; what was evaluated by then is written."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    options = _parse(arguments)
    try:
        join_world()
        suite_options = _suite_options(options)
        if options.list:
            _list_suites(suite_options)
            return 0
        groups = _groups(options.models)
        suites = {name: SUITES[name].prepare(suite_options) for name in options.suite}
    except (ValueError, OSError) as error:
        return _failed(error)
    systems, failures = _evaluate(groups, suites, options)
    if is_main() and systems:
        try:
            _report(systems, options, is_complete=not failures)
        except (ValueError, OSError) as error:
            failures.append(_failed(error))
    return max([0, *failures])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add(
        "models",
        nargs="*",
        metavar="MODEL",
        help="run folder, parent of seed folders, checkpoint, hub id, package:NAME/FOLDER, open_clip:MODEL/PRETRAINED, "
        "or a file of word vectors",
    )
    add("--suite", nargs="+", choices=sorted(SUITES), default=["sts"], help="suites to run (sts)")
    add("--pooling", help="overrides the model's own pooling; needed where a model states none")
    add("--data", help="SentEval folder, or one file of scored pairs (.tsv, .csv, .jsonl)")
    add("--captions", help="retrieval, regularities: captions of images, in any layout that training reads")
    add("--features", help="retrieval, regularities: the images' stored features")
    add("--images", help="retrieval, regularities: a file that lists the images to use, which is the split")
    add("--contents", help="regularities: what each image truly shows (contents.jsonl of a picture world)")
    add("--folds", type=int, default=1, help="retrieval: parts of the images, each searched by itself (COCO: 5; 1)")
    add("--transfer-mode", default="test", choices=("test", "dev", "fasttest"), help="SentEval's setting (test)")
    add("--tasks", nargs="+", default=[], metavar="TASK", help="mteb: names of its tasks")
    add("--compare", action="store_true", help="exactly two models, or two parents of seeds: differences and p-values")
    add("--errors", type=int, metavar="N", help="list the N worst pairs of one model, or where two differ most")
    add("--contamination", action="store_true", help="list the test pairs that stand in a run's training text")
    add("--mteb-files", action="store_true", help="write the STS scores in the shape of mteb's result files, too")
    add("--output", type=Path, help="folder of the reports (a run's evaluation/, or evaluation/<digest>/)")
    add("--batch-size", type=int, default=64, help="sentences a forward pass (64)")
    add("--precision", choices=("float32", "bfloat16"), default="float32", help="of matrix products (float32)")
    add("--no-cache", action="store_true", help="evaluate anew, whatever earlier calls found")
    add("--list", action="store_true", help="name the suites, what data they need and whether it is there")
    options = parser.parse_args(arguments)
    if not options.models and not options.list:
        parser.error("give at least one MODEL, or --list")
    if len(set(options.models)) < len(options.models):
        parser.error("the same MODEL is given twice")
    if (options.errors is not None or options.mteb_files) and "sts" not in options.suite:
        parser.error("--errors and --mteb-files need --suite sts")
    if options.contents and "regularities" not in options.suite:
        parser.error("--contents is for --suite regularities")
    if options.folds != 1 and "retrieval" not in options.suite:
        parser.error("--folds parts the images of --suite retrieval")
    if options.tasks and "mteb" not in options.suite:
        parser.error("--tasks names tasks of --suite mteb")
    if options.compare and len(options.models) != 2:
        parser.error(f"--compare takes exactly two models or two parents of seed folders, got {len(options.models)}")
    if options.errors is not None and (options.errors < 1 or len(options.models) > 2):
        parser.error("--errors takes a number from 1, and one model or two")
    return options


def _suite_options(options: argparse.Namespace) -> SuiteOptions:
    return SuiteOptions(
        data=options.data,
        batch_size=options.batch_size,
        transfer_mode=options.transfer_mode,
        captions=options.captions,
        features=options.features,
        images=options.images,
        contents=options.contents,
        folds=options.folds,
        tasks=tuple(options.tasks),
    )


def _list_suites(options: SuiteOptions) -> None:
    for suite in SUITES.values():
        try:
            state = f"there: {suite.prepare(options).summary}"
        except (ValueError, OSError) as error:
            state = f"not there: {error}"
        if is_main():
            print(f"{suite.name}\n  needs {suite.needs}\n  {state}")


def _groups(models: Sequence[str]) -> dict[str, list[str]]:
    """For each name its models: itself, or the seeds below it."""
    groups = {}
    for name in models:
        folder = Path(name)
        is_parent = folder.is_dir() and not is_run(folder) and any(is_run(child) for child in folder.iterdir())
        groups[name] = [str(run) for run in seed_runs(folder)] if is_parent else [name]
    return groups


def _evaluate(
    groups: Mapping[str, Sequence[str]], suites: Mapping[str, PreparedSuite], options: argparse.Namespace
) -> tuple[list[System], list[int]]:
    """Model after model, each written as soon as it is evaluated; what fails does not lose the rest."""
    systems: list[System] = []
    failures: list[int] = []
    for name, models in groups.items():
        seeds = []
        for model in models:
            try:
                scores, failed = _scores(model, suites, options)
                seeds.append(scores)
                failures += failed
                if is_main():
                    _write_model(scores, _output_folder(model, options, is_seed=len(models) > 1), options)
            except (ValueError, OSError) as error:
                failures.append(_failed(error, model=model))
        if seeds:
            systems.append(System(name, tuple(seeds)))
    return systems, failures


def _scores(
    model: str, suites: Mapping[str, PreparedSuite], options: argparse.Namespace
) -> tuple[ModelScores, list[int]]:
    """Runs the suites whose results for this very model and data are not kept from an earlier call.

    Raises:
        ValueError: The model cannot be loaded, or no suite could evaluate it.
    """
    digest = encoder_digest(model)
    # Padding, and so rounding, depends on who shares a batch; in 32 bits that is below what is printed.
    rounding = (options.precision, options.batch_size) if options.precision == "bfloat16" else (options.precision,)
    keys = {
        name: cache_key(digest, options.pooling, *rounding, name, SUITES[name].version, suite.digest)
        for name, suite in suites.items()
    }
    may_load = digest is not None and not options.no_cache
    found = broadcast_object({name: load_result(key) if may_load and is_main() else None for name, key in keys.items()})
    kept = {name: result for name, result in found.items() if result is not None}
    failures: list[int] = []
    if missing := [name for name in suites if name not in kept]:
        if is_main():
            print(f"evaluating {model} on {'; '.join(suites[name].summary for name in missing)}", file=sys.stderr)
        encoder = fail_together(lambda: load_encoder(model, pooling=options.pooling, precision=options.precision))
        seen, unknown = seen_by(Path(model))
        subject = Subject.of(encoder, batch_size=options.batch_size, seen=seen, why_unknown=unknown)
        for name in missing:
            try:
                found_now = suites[name].run(subject)
            except (ValueError, OSError) as error:
                failures.append(_failed(error, model=f"{model}, {name}"))
                continue
            kept[name] = KeptResult(pooling=encoder.pooling, scores=found_now, notes=_notes(encoder, subject))
            # Training text that could not be read again today may be there tomorrow.
            if is_main() and digest is not None and not unknown:
                save_result(keys[name], kept[name])
    if not kept:
        raise ValueError("no suite could evaluate it")
    done = [name for name in suites if name in kept]
    scores = ModelScores(
        name=model,
        pooling=kept[done[0]].pooling,
        suites=tuple(kept[name].scores if name in kept else _NOTHING for name in suites),
        notes=tuple(dict.fromkeys(note for name in done for note in kept[name].notes)),
    )
    return scores, failures


def _notes(encoder: Encoder, subject: Subject) -> tuple[str, ...]:
    """What the scores do not say: how many words of the sentences so far a table of vectors knows."""
    if not isinstance(encoder, WordVectorEncoder):
        return ()
    sentences = subject.rows.sentences
    return (f"of {len(sentences):,} distinct sentences: {encoder.coverage_of(sentences).text}",)


def _failed(error: Exception, *, model: str = "") -> int:
    """Says what is wrong in one line."""
    if is_main():
        message = " ".join(str(error).split())
        print(f"evaluate.py: error: {f'{model}: ' if model and model not in message else ''}{message}", file=sys.stderr)
    return 2


def _report(systems: Sequence[System], options: argparse.Namespace, *, is_complete: bool) -> None:
    """Prints the tables; of several models, or where something is compared or listed, writes them too."""
    models = [seed for system in systems for seed in system.seeds]
    is_contest = len(models) > 1
    tables = contest_tables(systems) if is_contest else model_tables(models[0])
    notes = [f"{name}: {reason}" for model in models for name, reason in model.all.absent.items()]
    notes += [f"{model.name}: {note}" for model in models for note in model.notes]
    compared: tuple[ComparedScore, ...] = ()
    if options.compare and not is_complete:
        notes.append("not compared: not every model could be evaluated")
    elif options.compare:
        try:
            compared = compare(systems[0].seeds, systems[1].seeds)
            tables += compared_tables(systems, compared)
        except ValueError as error:
            notes.append(f"not compared: {error}")
    console = Console()
    for number, table in enumerate(tables):
        print_table(table, notes=list(dict.fromkeys(notes)) if number == len(tables) - 1 else [], console=console)
    folder = _comparison_folder(systems, options) if is_contest else _output_folder(models[0].name, options)
    if is_contest:
        write_text(folder / "comparison.md", "\n".join(markdown_table(table) for table in tables))
        write_text(folder / "comparison.tex", "\n".join(latex_table(table) for table in tables))
        _write_html(folder / "report.html", systems, tables=tables)
        write_json(folder / "comparison.json", comparison_json(systems, compared))
        print(f"wrote {folder / 'comparison.json'}, comparison.md, comparison.tex and report.html")
    for title, rows in _listings(systems, models, options).items():
        _print_listing(title, rows, console)
        write_text(folder / f"{title}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _listings(
    systems: Sequence[System], models: Sequence[ModelScores], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """What ``--errors`` and ``--contamination`` ask for; of a group of seeds the first stands for all."""
    found: dict[str, list[dict[str, Any]]] = {}
    if options.errors is not None:
        pairs = worst_pairs([system.seeds[0] for system in systems], number=options.errors)
        found["errors"] = [asdict(pair) for pair in pairs]
    if options.contamination:
        found["contamination"] = [
            {"model": model.name, **pair} for model in models for pair in contaminated_pairs(model)
        ]
        for model in models:
            if not any(sample.clean_P is not None for sample in model.all.samples.values()):
                print(f"contamination: the training text of {model.name} is unknown", file=sys.stderr)
    return found


def _print_listing(title: str, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    console.print(f"{title}: {len(rows):,} pairs", style="bold")
    for row in rows if title == "errors" else ():
        numbers = " | ".join(
            f"cosine {cosine:.2f}, {error:.0f} % off"
            for cosine, error in zip(row["cosines"], row["errors"], strict=True)
        )
        console.print(f"  {row['task']}, gold {row['gold']:g}: {numbers}", markup=False)
        console.print(f"    {row['sentence1']}\n    {row['sentence2']}", markup=False, style="dim")
    if title == "contamination":
        counts = Counter((row["model"], row["task"]) for row in rows)
        for (model, task), number in counts.items():
            console.print(f"  {model}, {task}: {number:,}", markup=False)


def _output_folder(model: str, options: argparse.Namespace, *, is_seed: bool = False) -> Path:
    if options.output is not None:
        if len(options.models) == 1 and not is_seed:
            return Path(options.output)
        return Path(options.output) / f"{_slug(model)}-{digest_of(model)[:8]}"
    path = Path(model)
    if is_run(path):
        return path / EVALUATION
    return Path("evaluation") / (encoder_digest(model) or digest_of(model))[:16]


def _comparison_folder(systems: Sequence[System], options: argparse.Namespace) -> Path:
    if options.output is not None:
        return Path(options.output)
    return Path("evaluation") / digest_of(*(system.name for system in systems))[:16]


def _slug(model: str) -> str:
    parts = [part for part in re.split(r"[/:\\]", model) if part not in ("", ".", "..")]
    return re.sub(r"[^\w.-]", "_", "-".join(parts[-2:])) or "model"


def _write_model(model: ModelScores, folder: Path, options: argparse.Namespace) -> None:
    write_text(folder / "report.md", report_markdown(model))
    tables = model_tables(model)
    write_text(folder / "report.tex", "\n".join(latex_table(table) for table in tables))
    _write_html(folder / "report.html", [System(model.name, (model,))], tables=tables)
    results = results_json(
        model,
        digest=encoder_digest(model.name) or "",
        precision=options.precision,
        earlier=_earlier(folder / "results.json"),
    )
    write_json(folder / "results.json", results)
    print(f"wrote {folder / 'results.json'}, report.md, report.tex and report.html")
    card = Path(model.name) / BEST / "README.md"
    if card.is_file() and options.pooling is None and model.get(ScoreKey("sts", "average", "spearman")) is not None:
        try:
            write_text(card, with_scores(card.read_text(encoding="utf-8"), "\n".join(map(markdown_table, tables))))
        except OSError as error:
            print(f"evaluate.py: the model card does not get the table: {error}", file=sys.stderr)
    if options.mteb_files:
        write_mteb_files(folder / "mteb", model)


def _earlier(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where there is none, or none that can be read."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_html(path: Path, systems: Sequence[System], *, tables: Sequence[ScoreTable]) -> None:
    models = [seed for system in systems for seed in system.seeds]
    curves = [curve for model in models for curve in read_learning_curves(Path(model.name))]
    write_evaluation_report(path, systems=systems, tables=tables, curves=curves)


if __name__ == "__main__":
    sys.exit(main())
