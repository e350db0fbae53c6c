"""Folders that ``save_to_disk`` of the library datasets wrote."""

from __future__ import annotations

from pathlib import Path

import datasets

from mcse.errors import said


def load_saved(folder: Path) -> datasets.Dataset | datasets.DatasetDict:
    """The dataset, or the splits, of a folder; columns stay mapped from the disk, and no format is kept.

    Raises:
        ValueError: It is no such folder, or a damaged one; names it.
    """
    try:
        loaded = datasets.load_from_disk(str(folder)).with_format(None)
        for part in loaded.values() if isinstance(loaded, datasets.DatasetDict) else (loaded,):
            # Reading what points outside of its file would end the process, without an error.
            part.data.validate(full=True)
    except Exception as error:
        raise ValueError(f"{folder} is damaged, or no folder that save_to_disk wrote: {said(error)}") from None
    return loaded
