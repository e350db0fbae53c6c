"""``mcse search``: an index of a folder of images, asked by sentences, or images, plus and minus words."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mcse.data.images.sources import BadImageError, load_image
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.files import replacing
from mcse.report.terminal import print_rows
from mcse.search.builder import IndexReport, build_index
from mcse.search.contact_sheet import SheetCell, contact_sheet
from mcse.search.engine import Answer, ImageSearch, Question, check_joint, open_search

if TYPE_CHECKING:
    from PIL import Image

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765

_LISTED = 10


def add_parser(subparsers: Subparsers) -> None:
    """Adds ``search`` with its three parts to the command line."""
    parser = subparsers.add_parser(
        "search",
        help="search a folder of images by sentences, by images, and by images plus and minus words",
        description="Searches images in the space that a checkpoint of mcse or vse, or an open_clip model, shares "
        "between sentences and images.",
    )
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    _add_index(parts)
    _add_query(parts)
    _add_serve(parts)


def run_index(args: argparse.Namespace) -> int:
    """``mcse search index``; 0, or 130 after Ctrl-C.

    Raises:
        ValueError: A model without a joint space, no images, or an index of something else in ``--output``.
    """
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be positive, got {args.batch_size}")
    encoder = check_joint(load_encoder(args.model, device=args.device), args.model)
    report = build_index(
        args.folder,
        args.output,
        encoder=encoder,
        model=_absolute(args.model),
        model_digest=encoder_digest(args.model),
        features=args.features,
        batch_size=args.batch_size,
        is_new=args.overwrite,
    )
    _say_indexed(args.output, report)
    return 130 if report.was_stopped else 0


def run_query(args: argparse.Namespace) -> int:
    """``mcse search query``.

    Raises:
        ValueError: No index, another model, or a question that cannot be asked.
    """
    question = Question(
        text=args.text,
        image=args.image,
        minus=tuple(args.minus),
        plus=tuple(args.plus),
        top=args.top,
        rerank=args.rerank,
    )
    search = open_search(args.index, model=args.model, images=args.images)
    answer = search.ask(question)
    print_rows(
        ("rank", "score", "image"),
        [(str(rank), f"{hit.score:.4f}", str(search.folder / hit.text)) for rank, hit in enumerate(answer.hits, 1)],
    )
    for note in answer.notes:
        print(note, file=sys.stderr)
    if args.sheet is not None:
        _write_sheet(args.sheet, search, answer, args=args)
        print(f"wrote {args.sheet}", file=sys.stderr)
    return 0


def run_serve(args: argparse.Namespace) -> int:
    """``mcse search serve``, until Ctrl-C.

    Raises:
        ValueError: No index, another model, or the extra ``search`` is not installed.
    """
    if not 1 <= args.port <= 65535:
        raise ValueError(f"--port must be from 1 to 65535, got {args.port}")
    try:
        from mcse.search.server import is_loopback, serve
    except ModuleNotFoundError as error:
        raise ValueError(f"the page needs {error.name}: pip install 'mcse[search]'") from error
    search = open_search(args.index, model=args.model, images=args.images)
    if not is_loopback(args.host):
        print(
            f"ATTENTION: {args.host} is no loopback address. Everybody who reaches this machine sees the images of "
            f"{search.folder}; there is no password.",
            file=sys.stderr,
        )
    print(f"{len(search.index)} images of {search.folder}: http://{_in_address(args.host)}:{args.port}/ (Ctrl-C ends)")
    serve(search, host=args.host, port=args.port)
    return 0


def _add_index(parts: Subparsers) -> None:
    parser = parts.add_parser(
        "index",
        help="encode a folder of images once",
        description="Encodes a folder of images once. Run again, it takes over what has not changed; killed, it goes "
        "on.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="images, searched to any depth")
    parser.add_argument(
        "--model", required=True, help="checkpoint or run of mcse or vse, or open_clip:MODEL/PRETRAINED"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="INDEX", help="folder of the index")
    parser.add_argument(
        "--features", type=Path, help="store of the images' features, for models whose tower is not to be had"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: cuda where there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace an index in --output")
    parser.set_defaults(run=run_index)


def _add_query(parts: Subparsers) -> None:
    parser = parts.add_parser("query", help="find images", description="Finds the images nearest to a query.")
    _add_open(parser)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--text", help="a sentence")
    start.add_argument("--image", type=Path, metavar="FILE", help="an image; not found itself, if it is in the index")
    for flag, meaning in (("--minus", "words to take away"), ("--plus", "words to add")):
        text = f"{meaning}, any number"
        parser.add_argument(flag, help=text, nargs="+", action="extend", default=[], metavar="WORD")
    parser.add_argument("--top", type=int, default=12, metavar="K", help="images to find (12)")
    parser.add_argument(
        "--rerank",
        type=int,
        default=0,
        metavar="N",
        help="find N first, and sort them by their closeness to their mean",
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="write the images found as a contact sheet, too")
    parser.set_defaults(run=run_query)


def _add_serve(parts: Subparsers) -> None:
    parser = parts.add_parser(
        "serve", help="a local web page to search with", description="Serves a local web page to search with."
    )
    _add_open(parser)
    parser.add_argument(
        "--host", default=DEFAULT_HOST, help=f"address to listen on ({DEFAULT_HOST}: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"({DEFAULT_PORT})")
    parser.set_defaults(run=run_serve)


def _add_open(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of the index")
    parser.add_argument("--model", help="where the model lies now, if it was moved; it must be the same")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="where the images lie now, if they were moved")


def _absolute(model: str) -> str:
    """The name under which the model is found from anywhere."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _say_indexed(output: Path, report: IndexReport) -> None:
    index = report.index
    kept = len(index) - report.encoded
    print(f"{output}: {len(index)} images, {report.encoded} encoded now, {kept} taken over, model {index.origin.model}")
    if index.skipped:
        print(f"left out {len(index.skipped)} images (all in {output / 'index.json'}):")
        for image in index.skipped[:_LISTED]:
            print(f"  {image.name}: {image.reason}")
    if report.was_stopped:
        print("stopped; the same command goes on", file=sys.stderr)


def _title(args: argparse.Namespace) -> str:
    start = args.text if args.text is not None else args.image.name
    return " ".join([start, *(f"- {word}" for word in args.minus), *(f"+ {word}" for word in args.plus)])


def _write_sheet(path: Path, search: ImageSearch, answer: Answer, *, args: argparse.Namespace) -> None:
    cells = [
        SheetCell(_image_or_none(search, int(hit.id)), f"{rank}.  {hit.score:.3f}", hit.text)
        for rank, hit in enumerate(answer.hits, start=1)
    ]
    if args.image is not None:
        cells.insert(0, SheetCell(load_image(args.image), "asked by", args.image.name))
    with replacing(path) as draft:
        contact_sheet(cells, title=_title(args)).save(draft, format="PNG")


def _image_or_none(search: ImageSearch, place: int) -> Image.Image | None:
    try:
        return search.open_image(place)
    except BadImageError:
        return None


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
