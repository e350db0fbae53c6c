"""What ``mcse.evaluate`` returns: scores as tables, files, a plot, and as ``results.json`` has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcse.api.extras import import_pandas
from mcse.commands.evaluated_models import Evaluated
from mcse.files import claimed
from mcse.report.evaluation_files import model_folder, write_comparison, write_model
from mcse.report.figures import ScoreFigure, difference_figure, score_figure
from mcse.report.html_tables import html_notes, html_table
from mcse.report.results import comparison_json, results_json
from mcse.types import ModelScores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class EvaluationResults:
    """Scores of one model or several. A notebook shows them as the tables that ``mcse evaluate`` prints.

    Args:
        evaluated: What was found.
        precision: Of the matrix products.
    """

    evaluated: Evaluated
    precision: str

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, each seed by itself; teachers of a run follow it."""
        return tuple(model.name for model in self.evaluated.models)

    def raw(self, model: str | None = None) -> dict[str, Any]:
        """The content of ``results.json`` of a model, such as ``raw()["scores"]["sts"]["average"]["spearman"]``.

        Args:
            model: Which of ``models``; the first by default.

        Raises:
            ValueError: There is none of that name.
        """
        found = self._model(self.models[0] if model is None else model)
        digest = self.evaluated.digests.get(found.name) or ""
        return results_json(found, digest=digest, precision=self.precision, earlier=None)

    def comparison(self) -> dict[str, Any]:
        """The content of ``comparison.json``: every model's scores, and the differences where two were compared."""
        return comparison_json(self.evaluated.systems, self.evaluated.compared)

    def to_pandas(self) -> pd.DataFrame:
        """A row a score: ``model``, ``suite``, ``task``, ``metric``, ``value``; ``low``, ``high``: its 95 % interval.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = import_pandas("to_pandas")
        rows = []
        for model in self.evaluated.models:
            scores = model.all.scores
            for key, value in scores.items():
                if key.bound is None:
                    named = (model.name, key.written_suite, key.task, key.written_metric)
                    rows.append((*named, value, *(scores.get(end) for end in key.ends)))
        columns = ["model", "suite", "task", "metric", "value", "low", "high"]
        return pandas.DataFrame(rows, columns=columns).astype({"low": float, "high": float})

    def plot(self, suite: str | None = None) -> ScoreFigure:
        """A suite's headline scores with their 95 % intervals; of a comparison the differences.

        Args:
            suite: Which, such as ``sts``; the first by default.

        Returns:
            A Matplotlib figure, which a notebook shows, and which ``savefig`` writes.

        Raises:
            ValueError: There are no scores of that suite.
        """
        found = self.evaluated
        if found.compared:
            return difference_figure(found.systems, found.compared, suite=suite)
        return score_figure(found.systems, suite=suite)

    def save(self, folder: str | Path) -> Path:
        """Writes the files that ``mcse evaluate --output FOLDER`` writes, and returns the folder.

        Of one model ``results.json`` and the reports; of several a folder each, and the comparison.

        Raises:
            OSError: The folder cannot be written.
        """
        folder, found = Path(folder), self.evaluated
        shown = {system.name: system.short for system in found.systems}
        for model in found.models:
            digest = found.digests.get(model.name)
            own = model_folder(model, digest=digest, output=folder, is_alone=len(found.models) == 1)
            with claimed(own):
                write_model(
                    model,
                    own,
                    digest=digest,
                    precision=self.precision,
                    shown=shown.get(model.name, ""),
                    made=found.made,
                )
        if len(found.models) > 1:
            with claimed(folder):
                write_comparison(found.systems, folder, tables=found.tables, compared=found.compared, made=found.made)
        return folder

    def _model(self, name: str) -> ModelScores:
        for model in self.evaluated.models:
            if model.name == name:
                return model
        raise ValueError(f"no scores of {name!r}; there are those of {', '.join(self.models)}")

    def __repr__(self) -> str:
        lines = []
        for model in self.evaluated.models:
            scores = [
                f"{column.label} {value:.2f}"
                for suite in model.suites
                for column in suite.columns
                if (value := model.get(column.key)) is not None
            ]
            lines.append(f"{model.name} ({model.pooling}): {', '.join(scores)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return "".join(map(html_table, self.evaluated.tables)) + html_notes(self.evaluated.notes)
