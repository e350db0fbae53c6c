"""``mcse export``: a model in another format, if what it gives there is what was evaluated."""

from __future__ import annotations

import sys
from pathlib import Path

from mcse.errors import printable
from mcse.export.folders import ExportPrecision, Format, export_model


def run(
    model: str,
    *,
    to: Format,
    output: Path,
    precision: ExportPrecision = "fp32",
    pooling: str | None = None,
    prompt: str | None = None,
    calibrate: Path | None = None,
    sentences: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Exports; returns 0.

    Raises:
        ValueError: As for ``export_model``.
    """
    made = export_model(
        model,
        to=to,
        output=output,
        precision=precision,
        pooling=pooling,
        prompt=prompt,
        calibrate=calibrate,
        sentences=sentences,
        overwrite=overwrite,
    )
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
