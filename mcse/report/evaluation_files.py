"""The files of an evaluation: in which folder they go, and what each holds."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcse.files import digest_of, write_json, write_text
from mcse.reading import read_json
from mcse.report.differences import difference_plots
from mcse.report.evaluation_html import write_evaluation_report
from mcse.report.latex import latex_image, latex_table
from mcse.report.learning_curves import read_learning_curves
from mcse.report.made import Made, made_latex, made_markdown
from mcse.report.markdown import escaped, markdown_table
from mcse.report.model_card import model_title, with_results, with_scores
from mcse.report.plots import Plot, standalone
from mcse.report.results import EarlierResults, comparison_json, model_tables, report_markdown, results_json
from mcse.report.seed_groups import System
from mcse.report.tables import ScoreTable
from mcse.run_folder import BEST, EVALUATION, RESULTS, is_run, read_config
from mcse.types import ComparedScore, ModelScores, ScoreKey

logger = logging.getLogger(__name__)


def model_folder(model: ModelScores, *, digest: str | None, output: Path | None, is_alone: bool) -> Path:
    """Where the report of one model goes; outside runs every pooling of a model has a folder of its own.

    Args:
        model: Its scores.
        digest: Of the model, where it is known.
        output: The folder that was asked for; otherwise a run's own, or one below ``evaluation``.
        is_alone: Whether it is the only model that goes to ``output``, and needs no folder of its own there.
    """
    if output is not None:
        return output if is_alone else output / f"{_slug(model.name)}-{digest_of(model.name)[:8]}"
    if is_run(Path(model.name)):
        return Path(model.name) / EVALUATION
    return Path("evaluation") / digest_of(digest or model.name, model.pooling)[:16]


def comparison_folder(titles: Sequence[str], *, output: Path | None) -> Path:
    """Where the report of several models goes; ``titles`` say their names, poolings and seeds."""
    return output if output is not None else Path("evaluation") / digest_of(*titles)[:16]


def write_model(
    model: ModelScores,
    folder: Path,
    *,
    digest: str | None,
    precision: str,
    shown: str = "",
    made: Made | None = None,
) -> None:
    """Writes ``report.md``, ``.tex`` and ``.html``, and ``results.json``, in which earlier suites' scores stay.

    Args:
        model: Its scores.
        folder: Where they go.
        digest: Of the model, where it is known.
        precision: Of its matrix products.
        shown: What the reports call it; by default its name.
        made: How the reports came about.
    """
    named = replace(model, name=shown or model.name)
    tables = model_tables(named)
    write_text(folder / "report.md", report_markdown(named, made=made))
    write_text(folder / "report.tex", "\n".join([*map(latex_table, tables), made_latex(made)]))
    _write_html(folder / "report.html", [System(model.name, (model,), short=shown)], tables=tables, made=made)
    content = results_json(model, digest=digest or "", precision=precision, earlier=_earlier(folder / RESULTS))
    write_json(folder / RESULTS, content)


def write_comparison(
    systems: Sequence[System],
    folder: Path,
    *,
    tables: Sequence[ScoreTable],
    compared: Sequence[ComparedScore],
    made: Made | None = None,
) -> None:
    """Writes ``comparison.md``, ``.tex`` and ``.json``, ``report.html``, and an SVG for each plot of differences."""
    plots = difference_plots(systems, compared)
    for plot in plots:
        write_text(folder / f"{plot.name}.svg", standalone(plot.image))
    images = [f"![{escaped(plot.title)}]({plot.name}.svg)\n" for plot in plots]
    write_text(folder / "comparison.md", "\n".join([*map(markdown_table, tables), *images, made_markdown(made)]))
    floats = [latex_image(plot.name, plot.title) for plot in plots]
    write_text(folder / "comparison.tex", "\n".join([*map(latex_table, tables), *floats, made_latex(made)]))
    _write_html(folder / "report.html", systems, tables=tables, differences=plots, made=made)
    write_json(folder / "comparison.json", comparison_json(systems, compared))


def write_listing(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def update_card(model: ModelScores, folder: Path) -> None:
    """Puts the headline scores of a run into its card's ``model-index``, and its tables if it has all seven STS tasks.

    Args:
        model: The run's scores.
        folder: Where ``write_model`` wrote them.

    Raises:
        OSError: The card cannot be written.
    """
    path = Path(model.name) / BEST / "README.md"
    if not path.is_file():
        return
    card = path.read_text(encoding="utf-8")
    if model.get(ScoreKey("sts", "average", "spearman")) is not None:
        # The card goes where the model goes, and its place on this machine does not.
        tables = "\n".join(map(markdown_table, model_tables(replace(model, name=model_title(Path(model.name))))))
        card = with_scores(card, tables)
    if (results := _earlier(folder / RESULTS)) is not None:
        try:
            card = with_results(card, results, selected_by=_own_task(Path(model.name)))
        except ValueError as error:
            logger.warning("%s: the scores are not put into its front matter, which cannot be read: %s", path, error)
    write_text(path, card)


def _own_task(run: Path) -> str | None:
    """The task that a run's own scored pairs are, which selected its checkpoint; ``None`` if it has no such file."""
    try:
        data = read_config(run).get("data")
    except (ValueError, OSError):
        return None
    own = data.get("sts") if isinstance(data, dict) else None
    path = own.get("path") if isinstance(own, dict) else own
    if not isinstance(path, str) or not (isinstance(own, dict) or Path(path).suffix):
        return None
    return Path(Path(path.partition("::")[0]).name.removesuffix(".gz")).stem


def _slug(model: str) -> str:
    parts = [part for part in re.split(r"[/:\\]", model) if part not in ("", ".", "..")]
    return re.sub(r"[^\w.-]", "_", "-".join(parts[-2:])) or "model"


def _earlier(path: Path) -> EarlierResults | None:
    """What the file holds; ``None`` where there is none, or, with a warning, none that can be read."""
    if not path.is_file():
        return None
    try:
        return read_json(path, EarlierResults)
    except (OSError, ValueError) as error:
        logger.warning("%s: what it held is not kept beside the new scores: %s", path, error)
        return None


def _write_html(
    path: Path,
    systems: Sequence[System],
    *,
    tables: Sequence[ScoreTable],
    differences: Sequence[Plot] = (),
    made: Made | None,
) -> None:
    models = [seed for system in systems for seed in system.seeds]
    curves = [curve for model in models for curve in read_learning_curves(Path(model.name))]
    write_evaluation_report(path, systems=systems, tables=tables, curves=curves, differences=differences, made=made)
