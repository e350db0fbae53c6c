"""``mcse export``: a model in another format, if what it gives there is what was evaluated."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path
from typing import Any

from mcse.errors import printable
from mcse.export.folders import export_model
from mcse.progress import phase


@wraps(export_model)
def run(model: str, *, output: Path, **settings: Any) -> int:
    """Exports as ``export_model``, whose parameters these are, and says what was written; returns 0."""
    with phase(f"exporting {model} and comparing the export with PyTorch"):
        made = export_model(model, output=output, **settings)
    size = sum(made.files.values()) / 1e6
    print(printable(f"wrote {output}: {made.to}, {made.precision}, {len(made.files)} files, {size:.1f} MB"))
    if (found := made.comparison) is not None:
        print(
            f"beside PyTorch, {found.sentences} sentences: largest difference {found.largest:.1e}, "
            f"rank correlation {found.correlation:.6f}"
        )
    else:
        print("read back the same")
    for note in made.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    return 0
