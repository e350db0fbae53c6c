"""Where a run's data came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file or data set that the run reads: its part in the run, where it is, and a digest of its content."""

    role: str
    path: str
    digest: str
