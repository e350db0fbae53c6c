"""Libraries that only some results need."""

from __future__ import annotations

from typing import Any


def import_pandas(what: str) -> Any:
    """pandas, for what gives tables of it.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError(f"{what} needs pandas, which is not installed (pip install 'mcse[pandas]')") from None
    return pandas
