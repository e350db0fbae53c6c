"""``mcse search``: an index of a folder of images, asked by sentences, or images, plus and minus words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcse.commands.serve import DEFAULT_HOST, DEFAULT_PORT, check_port
from mcse.data.images.sources import ImageFolder
from mcse.data.images.tables import open_images_or_table
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.errors import printable
from mcse.files import claimed, replacing
from mcse.images import BadImageError, load_image
from mcse.manifest import Reading, absolute_name
from mcse.progress import phase
from mcse.report.terminal import print_rows
from mcse.search.builder import IndexReport, build_index
from mcse.search.contact_sheet import SheetCell, contact_sheet
from mcse.search.engine import Answer, ImageSearch, Question, check_joint, open_search
from mcse.stored_rows import RowKind

if TYPE_CHECKING:
    from PIL import Image


_LISTED = 10


def run_index(
    folder: Path,
    *,
    model: str,
    output: Path,
    column: str | None = None,
    features: Path | None = None,
    trust_remote_code: bool = False,
    batch_size: int = 32,
    device: str | None = None,
    overwrite: bool = False,
    rows: RowKind = "float32",
    rescore: RowKind | None = None,
) -> int:
    """``mcse search index``; 0, or 130 after Ctrl-C.

    Raises:
        ValueError: A model without a joint space, no images, or an index of something else in ``--output``.
    """
    if batch_size < 1:
        raise ValueError(f"--batch-size must be positive, got {batch_size}")
    source = _images_to_index(folder, column)
    reading = Reading(trust_remote_code=trust_remote_code)
    with phase(f"loading {model}"):
        encoder = check_joint(load_encoder(model, device=device, reading=reading), model)
    with claimed(output):
        report = build_index(
            source,
            output,
            encoder=encoder,
            model=absolute_name(model),
            model_digest=encoder_digest(model),
            features=features,
            batch_size=batch_size,
            is_new=overwrite,
            rows=rows,
            rescore=rescore,
        )
    _say_indexed(output, report)
    return 130 if report.was_stopped else 0


def _images_to_index(folder: Path, column: str | None) -> ImageFolder:
    """The images of a folder, or those that a table names.

    Raises:
        FileNotFoundError: No such folder or table.
        ValueError: The images are in a table or dataset themselves.
    """
    source = open_images_or_table(str(folder), column=column, key="FOLDER")
    if not isinstance(source, ImageFolder):
        raise ValueError(f"{folder} holds the images themselves, and mcse search takes files; write them to a folder")
    return source


def run_query(
    index: Path,
    *,
    text: str | None = None,
    image: Path | None = None,
    minus: Sequence[str] = (),
    plus: Sequence[str] = (),
    top: int = 12,
    rerank: int = 0,
    sheet: Path | None = None,
    model: str | None = None,
    images: Path | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    trust_remote_code: bool = False,
) -> int:
    """``mcse search query``.

    Raises:
        ValueError: No index, another model, or a question that cannot be asked.
    """
    question = Question(
        text=text,
        image=image,
        minus=tuple(minus),
        plus=tuple(plus),
        top=top,
        rerank=rerank,
    )
    reading = Reading(prompt=prompt, prompt_name=prompt_name, trust_remote_code=trust_remote_code)
    search = open_search(index, model=model, images=images, reading=reading)
    answer = search.ask(question)
    print_rows(
        ("rank", "score", "image"),
        [(str(rank), f"{hit.score:.4f}", str(search.folder / hit.text)) for rank, hit in enumerate(answer.hits, 1)],
    )
    for note in answer.notes:
        print(printable(note), file=sys.stderr)
    if sheet is not None:
        _write_sheet(sheet, search, question, answer)
        print(f"wrote {sheet}", file=sys.stderr)
    return 0


def run_serve(
    index: Path,
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    model: str | None = None,
    images: Path | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    trust_remote_code: bool = False,
) -> int:
    """``mcse search serve``, until Ctrl-C.

    Raises:
        ValueError: No index, another model, or the extra ``serve`` is not installed.
    """
    check_port(port)
    try:
        from mcse.search.hardening import in_address, is_loopback
        from mcse.search.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"the page needs {error.name}: pip install 'mcse[serve]'") from error
    reading = Reading(prompt=prompt, prompt_name=prompt_name, trust_remote_code=trust_remote_code)
    search = open_search(index, model=model, images=images, reading=reading)
    if not is_loopback(host):
        print(
            f"ATTENTION: {host} is no loopback address. Everybody who reaches this machine sees the images of "
            f"{search.folder}; there is no password.",
            file=sys.stderr,
        )
    print(f"{len(search.index)} images of {printable(search.folder)}: http://{in_address(host)}:{port}/ (Ctrl-C ends)")
    serve(search, host=host, port=port)
    return 0


def _say_indexed(output: Path, report: IndexReport) -> None:
    index = report.index
    kept = len(index) - report.encoded
    counts = f"{len(index)} images, {report.encoded} encoded now, {kept} taken over"
    print(printable(f"{output}: {counts}, model {index.origin.model}"))
    if index.skipped:
        print(f"left out {len(index.skipped)} images (all in {output / 'index.json'}):")
        for image in index.skipped[:_LISTED]:
            print(printable(f"  {image.name}: {image.reason}"))
    if report.was_stopped:
        print("stopped; the same command goes on", file=sys.stderr)


def _title(question: Question) -> str:
    start = str(question.text) if question.image is None else question.image.name
    return " ".join([start, *(f"- {word}" for word in question.minus), *(f"+ {word}" for word in question.plus)])


def _write_sheet(path: Path, search: ImageSearch, question: Question, answer: Answer) -> None:
    cells = [
        SheetCell(_image_or_none(search, int(hit.id)), f"{rank}.  {hit.score:.3f}", hit.text)
        for rank, hit in enumerate(answer.hits, start=1)
    ]
    if question.image is not None:
        cells.insert(0, SheetCell(load_image(question.image), "asked by", question.image.name))
    with replacing(path) as draft:
        contact_sheet(cells, title=_title(question)).save(draft, format="PNG")


def _image_or_none(search: ImageSearch, place: int) -> Image.Image | None:
    try:
        return search.open_image(place)
    except BadImageError:
        return None
