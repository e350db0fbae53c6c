"""The page of ``mcse search serve``: the form, the images, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from mcse.report.page import render_page


@dataclass(frozen=True, slots=True, kw_only=True)
class PageState:
    """What a person has asked, as the form holds it.

    ``image`` is the number of an image of the index, ``upload`` the mark of an image that was uploaded; ``minus`` and
    ``plus`` are words with commas between them.
    """

    text: str = ""
    image: str = ""
    upload: str = ""
    minus: str = ""
    plus: str = ""
    top: int = 12
    page: int = 1

    @property
    def has_image(self) -> bool:
        """Whether it asks by an image."""
        return bool(self.image or self.upload)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageImage:
    """An image on the page: its number in the index, its name there, and its score, if it was found."""

    place: int
    name: str
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """Everything that the page shows.

    Args:
        state: The form.
        images: Found, or leafed through.
        folder: The indexed folder.
        model: The encoder's name.
        count: How many images the index has.
        pages: How many pages there are to leaf through.
        asked: The question in words; empty where nothing was asked.
        query_name: Name of the image that was asked by.
        error: What went wrong, for the person; empty where nothing did.
        notes: What to know about the answer.
        takes_uploads: Whether other images can be asked by.
        max_upload_mb: Size of the largest one, in megabytes.
    """

    state: PageState
    images: Sequence[PageImage]
    folder: str
    model: str
    count: int
    pages: int = 1
    asked: str = ""
    query_name: str = ""
    error: str = ""
    notes: Sequence[str] = ()
    takes_uploads: bool = True
    max_upload_mb: int = 10


TOPS = (4, 8, 12, 24, 48, 96)
"""How many images the form offers to find."""


def render_search_page(page: SearchPage) -> str:
    """The page as HTML; every text on it is escaped."""
    return render_page("search.html.j2", content={"page": page, "state": page.state, "tops": TOPS, "link": _link})


def _link(**parameters: str | int) -> str:
    """Address of the page with these parameters; empty ones are left out."""
    given = {key: value for key, value in parameters.items() if value != ""}
    return "/?" + urlencode(given) if given else "/"
