"""``mcse push``: a run to the Hugging Face hub."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mcse.encoders.push import push
from mcse.errors import printable
from mcse.progress import phase


def run(
    model: str,
    *,
    repository: str,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    languages: Sequence[str] = (),
    public: bool = False,
    dry_run: bool = False,
) -> int:
    """Pushes as ``mcse.encoders.push.push``, and says what was sent; returns 0."""
    with phase(f"preparing {model}" if dry_run else f"sending {model}"):
        pushed = push(
            model,
            repository,
            licence=licence,
            datasets=datasets,
            languages=languages,
            private=not public,
            dry_run=dry_run,
        )
    for name, size in pushed.files.items():
        print(printable(f"{size:>14,}  {name}"))
    total = f"{len(pushed.files)} files, {sum(pushed.files.values()) / 1e6:.1f} MB"
    who = "public" if public else "private"
    if pushed.url is None:
        print(f"{total}, would go to {repository} ({who}); nothing was sent")
    else:
        print(f"{total} are now in {repository} ({who}): {pushed.url}")
    for name in pushed.kept:
        print(printable(f"note: {name} was there before, and stays"), file=sys.stderr)
    return 0
