"""The folder of an export: what each format holds, what it cannot express, and the check before it takes its place."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mcse.encoders.exported import CAPTIONS, FACTS, GRAPHS, ROWS, ExportedEncoder, ExportFacts, open_graph
from mcse.encoders.joint_encoder import JointEncoder
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.encoders.sentence_transformers_encoder import SentenceTransformersEncoder
from mcse.encoders.word_vectors import load_space
from mcse.export.card import export_card
from mcse.export.check import SENTENCES, Comparison, check, compared, drawn_sentences, in_mixed_batches
from mcse.export.graphs import check_expressible, write_image_graph, write_text_graph
from mcse.export.precision import Batches, halve, quantize_weights, to_openvino
from mcse.export.word_tokenizer import TOKENIZER, save_word_tokenizer
from mcse.files import claimed, recover_folder, replacing_folder, sha256_file, text_lines, write_json, write_text
from mcse.manifest import CARD, Kind, Located, Manifest, Reading, locate, writing_checkpoint
from mcse.models.checkpoint import save_sentence_transformers
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.text_encoder import TextEncoder
from mcse.origin import versions
from mcse.text.word_tokenizer import WordTokenizer
from mcse.text.word_vector_writer import WordVectorWriter
from mcse.text.word_vectors import WordBlock, load_word_vectors
from mcse.types import TokenBatch, Tokenizer

Format = Literal["onnx", "openvino", "sentence-transformers", "word2vec"]
ExportPrecision = Literal["fp32", "fp16", "int8"]
Exportable: TypeAlias = SentenceEncoder | JointEncoder

IMAGES = {"onnx": "image_model.onnx", "openvino": "image_model.xml"}
WORDS = "vectors.bin"

_IMAGES_CHECKED = 8
_CALIBRATED, _FEWEST = 512, 16
"""Sentences whose numbers decide static ranges, and how few are taken."""

_WORD_KINDS: tuple[Kind, ...] = ("grounded_words", "vectors")

_WHY_NOT: Mapping[Kind, str] = {
    "elmo": "its words are made of characters, which no input_ids hold; load it by "
    "mcse.encoders.contextual.ElmoEncoder",
    "elmo_release": "its words are made of characters, which no input_ids hold",
    "cove": "its static vectors are looked up by words, which no input_ids hold; load it by "
    "mcse.encoders.contextual.CoveEncoder",
    "tagger": "it tags words, and has no embedding of a sentence; load it by mcse.TweetTagger",
    "word_features": "it scores texts, and has no embedding of a sentence",
    "open_clip": "open_clip's own models are exported by its own tools",
    "library": "sentence-transformers itself exports its models, by backend='onnx' and 'openvino'",
    "model2vec": "model2vec itself exports its tables",
    "exported": "it is an export already; name the run that it was made from",
    "average": "it is several models; export each of them",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written.

    Attributes:
        to: The format.
        precision: Of the weights.
        comparison: With PyTorch; ``None`` of word vectors, which are read back the same.
        files: Sizes in bytes.
        notes: What a reader should know.
    """

    to: Format
    precision: ExportPrecision
    comparison: Comparison | None
    files: Mapping[str, int]
    notes: tuple[str, ...] = ()


def export_model(
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
) -> Export:
    """Writes a model in another format, if what it gives is what was evaluated.

    Args:
        model: As ``locate`` takes it.
        to: The format.
        output: Folder; absent or empty, or an export that ``overwrite`` replaces.
        precision: Of the weights of a graph.
        pooling: Overrides what the model says.
        prompt: Put before every sentence by whoever reads the export here.
        calibrate: A text file whose lines set static ranges for ``int8``.
        sentences: A text file to compare on, instead of drawn sentences.
        overwrite: Replaces an export in ``output``.

    Raises:
        ValueError: The format cannot express the model; the export is not what was evaluated; ``output`` holds
            something; or settings that do not go together.
    """
    located = locate(model)
    _check(located, to=to, precision=precision, calibrate=calibrate, prompt=prompt)
    with claimed(output):
        recover_folder(output)
        if output.is_dir() and any(output.iterdir()) and not (overwrite and (output / FACTS).is_file()):
            what = "give --overwrite to replace it" if (output / FACTS).is_file() else "and holds no export"
            raise ValueError(f"--output: {output} is not empty; {what}")
        with replacing_folder(output) as draft:
            if to == "word2vec":
                return write_words(draft, located)
            encoder = load_encoder(model, pooling=pooling, device="cpu", reading=Reading(prompt=prompt))
            if not isinstance(encoder, SentenceEncoder | JointEncoder):
                raise ValueError(f"{model} is run by sentence-transformers, which exports its models itself")
            checked = None if sentences is None else _lines(sentences, SENTENCES)
            if to == "sentence-transformers":
                return write_modules(draft, encoder, located, sentences=checked)
            lines = None if calibrate is None else _lines(calibrate, _CALIBRATED)
            return write_graphs(draft, encoder, located, to=to, precision=precision, calibrate=lines, sentences=checked)


def write_graphs(
    folder: Path,
    encoder: Exportable,
    located: Located,
    *,
    to: Literal["onnx", "openvino"],
    precision: ExportPrecision = "fp32",
    calibrate: Sequence[str] | None = None,
    sentences: Sequence[str] | None = None,
) -> Export:
    """Fills an empty folder with the graphs of a model, its tokenizer, ``export.json``, manifest and card.

    Raises:
        ValueError: PyTorch's exporter cannot express the model, or the graphs do not give what it gives.
    """
    parts = encoder.parts
    check_expressible(parts, name=encoder.name)
    texts = list(sentences) if sentences else drawn_sentences(_words_of(parts.tokenizer))
    has_captions = parts.captions is not None
    facts = ExportFacts(
        to=to,
        precision=precision,
        pooling=encoder.pooling,
        dim=encoder.dimension,
        prompt=encoder.prompt,
        max_length=encoder.max_length,
        pad_id=parts.tokenizer.pad_id,
        marks=parts.tokenizer.marks if isinstance(parts.tokenizer, WordTokenizer) else None,
        caption_dim=encoder.joint_dimension if has_captions else None,
        caption_output=ROWS if parts.captions is parts.rows else CAPTIONS,
    )
    made_by = located.manifest or Manifest(kind="exported", recipe="")
    manifest = Manifest(kind="exported", recipe=made_by.recipe, pooling=encoder.pooling, images=made_by.images)
    with writing_checkpoint(folder, manifest, card=""), tempfile.TemporaryDirectory(dir=folder) as scratch:
        _save_tokenizer(folder, parts.tokenizer, texts)
        whole = Path(scratch) / GRAPHS["onnx"]
        write_text_graph(whole, parts, encoder._modules(), name=encoder.name)
        batches = None if calibrate is None else _batches(encoder, calibrate)
        _convert(whole, folder / GRAPHS[to], to=to, precision=precision, batches=batches)
        other = ExportedEncoder(open_graph(folder / GRAPHS[to], to), parts.tokenizer, facts, name=str(folder))
        found = _compare(encoder, other, texts, has_captions=has_captions)
        check(found, precision=precision, name=f"{encoder.name} for {to}")
        images, notes = _write_images(folder, encoder, Path(scratch), to=to, precision=precision)
        described = {
            **asdict(facts),
            "inputs": ["input_ids", "attention_mask"],
            "output": ROWS,
            "quantisation": None if precision != "int8" else "static" if calibrate else "dynamic",
            "largest_difference": found.largest,
            "rank_correlation": found.correlation,
            "sentences_compared": found.sentences,
            "images": images,
            "model": {"recipe": made_by.recipe, "kind": located.kind, "digest": encoder_digest(located.name)},
            "versions": versions(["torch", "onnx", "onnxruntime", *(["openvino"] if to == "openvino" else [])]),
        }
        names = sorted(path for path in folder.iterdir() if path.is_file())
        write_json(folder / FACTS, {**described, "files": {path.name: sha256_file(path) for path in names}})
    write_text(folder / CARD, export_card(located, described, notes=notes))
    return Export(to=to, precision=precision, comparison=found, notes=notes, files=_sizes(folder))


def write_modules(folder: Path, encoder: Exportable, located: Located, *, sentences: Sequence[str] | None) -> Export:
    """Fills an empty folder with what sentence-transformers loads, and compares what that library makes of it.

    Raises:
        ValueError: Its format cannot express the model, or it does not give what the model gives.
    """
    parts = encoder.parts
    if not isinstance(parts.text, TextEncoder) or not isinstance(parts.tokenizer, PieceTokenizer):
        raise ValueError(
            f"{encoder.name} reads words by a vocabulary of its own, which sentence-transformers' folder cannot express"
        )
    texts = list(sentences) if sentences else drawn_sentences(_words_of(parts.tokenizer))
    tokenizer = PieceTokenizer(parts.tokenizer.inner)
    tokenizer.prompt = encoder.prompt  # the format lists it, and its library puts it before every sentence
    save_sentence_transformers(folder, encoder=parts.text, tokenizer=tokenizer, head=parts.head)
    itself = Located(name=f"sentence-transformers:{folder}", kind="library", path=str(folder))
    ours = Located(name=str(folder), kind="sentence_transformers", path=str(folder))
    notes: tuple[str, ...] = ()
    other: SentenceEncoder | SentenceTransformersEncoder
    if importlib.util.find_spec("sentence_transformers") is None:
        other = SentenceEncoder.from_pretrained(ours, device="cpu")
        notes = ("sentence-transformers is not installed, so the folder was read by mcse alone",)
    else:
        other = SentenceTransformersEncoder.from_pretrained(itself, device="cpu")
    found = compared(in_mixed_batches(encoder, texts), in_mixed_batches(other, texts))
    check(found, precision="fp32", name=f"{encoder.name} for sentence-transformers")
    if parts.captions is not None:
        notes += ("the image side is left out, for which the format has no place",)
    described = {
        "to": "sentence-transformers",
        "precision": "fp32",
        "pooling": encoder.pooling,
        "dim": encoder.dimension,
        "largest_difference": found.largest,
        "rank_correlation": found.correlation,
        "sentences_compared": found.sentences,
        "model": {"kind": located.kind, "digest": encoder_digest(located.name)},
        "versions": versions(["torch", "transformers", "sentence-transformers"]),
    }
    files = {name: sha256_file(folder / name) for name in _sizes(folder)}
    write_json(folder / FACTS, {**described, "files": files})
    write_text(folder / CARD, export_card(located, described, notes=notes))
    return Export(to="sentence-transformers", precision="fp32", comparison=found, notes=notes, files=_sizes(folder))


def write_words(folder: Path, located: Located) -> Export:
    """Fills an empty folder with word vectors in word2vec's binary form, and reads them back.

    Raises:
        ValueError: They cannot be read, or are not the same when read back.
    """
    space, path = load_space(located.path), folder / WORDS
    with WordVectorWriter(path, width=space.width) as writer:
        writer.append(WordBlock(space.words, space.row_VD))
    again = load_word_vectors(path)
    kept = [number for number, word in enumerate(space.words) if " " not in word]
    if tuple(again.words) != tuple(space.words[n] for n in kept) or not np.array_equal(
        again.row_VD, space.row_VD[kept]
    ):
        raise ValueError(f"{located.name}: words read back from word2vec's form are others")
    left_out = len(space.words) - len(kept)
    notes = (f"left out {left_out} words with a space in them",) if left_out else ()
    described = {
        "to": "word2vec",
        "precision": "fp32",
        "words": len(kept),
        "dim": space.width,
        "largest_difference": 0.0,
        "model": {"kind": located.kind, "digest": encoder_digest(located.name)},
    }
    write_json(folder / FACTS, {**described, "files": {WORDS: sha256_file(path)}})
    write_text(folder / CARD, export_card(located, described, notes=notes))
    return Export(to="word2vec", precision="fp32", comparison=None, notes=notes, files=_sizes(folder))


def _check(located: Located, *, to: Format, precision: str, calibrate: Path | None, prompt: str | None) -> None:
    is_graph = to in ("onnx", "openvino")
    if why := _WHY_NOT.get(located.kind):
        raise ValueError(f"{located.name} cannot be exported: {why}")
    if to == "word2vec" and located.kind not in _WORD_KINDS:
        raise ValueError(f"{located.name}: word2vec holds one vector a word, and this is a model of sentences")
    if to != "word2vec" and located.kind in _WORD_KINDS:
        raise ValueError(f"{located.name} holds one vector a word, looked up by the word: --to word2vec exports it")
    if not is_graph and precision != "fp32":
        raise ValueError(f"--precision is for onnx and openvino; {to} has none")
    if to == "word2vec" and prompt is not None:
        raise ValueError("--prompt is for models of sentences; word2vec has none")
    if calibrate is not None and precision != "int8":
        raise ValueError("--calibrate sets ranges for --precision int8")
    if to == "openvino" and precision == "int8" and calibrate is None:
        raise ValueError(
            "--to openvino --precision int8 takes --calibrate FILE: OpenVINO runs integers of static ranges alone fast"
        )


def _compare(encoder: Exportable, other: ExportedEncoder, texts: list[str], *, has_captions: bool) -> Comparison:
    """Of rows, and of captions where there are any: the worse of each number."""
    found = [compared(in_mixed_batches(encoder, texts), in_mixed_batches(other, texts, normalize=False))]
    if has_captions and other.facts.caption_output == CAPTIONS:
        found.append(compared(encoder.encode_captions(texts), other.encode_captions(texts)))
    largest, correlation = max(part.largest for part in found), min(part.correlation for part in found)
    return Comparison(largest, correlation, len(texts))


def _write_images(
    folder: Path, encoder: Exportable, scratch: Path, *, to: Literal["onnx", "openvino"], precision: ExportPrecision
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The second file, of images, or of their features where the tower is not available; what it is, and notes."""
    images = encoder.parts.images
    if images is None:
        return None, ()
    tower, notes = None, []
    try:
        tower = encoder.tower
    except ValueError as error:
        notes.append(f"{IMAGES[to]} takes features, because the image encoder is not available: {error}")
    draw = np.random.default_rng(0)
    if tower is None:
        given_BX = torch.from_numpy(draw.standard_normal((_IMAGES_CHECKED, encoder.image_width)).astype(np.float32))
    else:
        pixels = draw.integers(0, 256, (_IMAGES_CHECKED, 16, 16, 3), dtype=np.uint8)
        images_given = [Image.fromarray(pixel_HW3).resize((224, 224)) for pixel_HW3 in pixels]
        given_BX = torch.stack([tower.preprocess(image) for image in images_given])
    whole = scratch / IMAGES["onnx"]
    place = write_image_graph(whole, images, encoder._modules(), tower=tower, given=given_BX[:2], name=encoder.name)
    # Integers are for text: convolutions lose more by them than a sentence's products do.
    kept: ExportPrecision = "fp32" if precision == "int8" else precision
    _convert(whole, folder / IMAGES[to], to=to, precision=kept, batches=None)
    with torch.no_grad():
        expected_BH = F.normalize(images(given_BX if tower is None else tower(given_BX)), dim=-1).numpy()
    run = open_graph(folder / IMAGES[to], to)
    found = compared(expected_BH, run({place: given_BX.numpy()}, ROWS))
    check(found, precision=kept, name=f"the image side of {encoder.name} for {to}")
    described = {
        "file": IMAGES[to],
        "input": place,
        "precision": kept,
        "tower": encoder.image_tower,
        "preprocessing": None if tower is None else tower.preprocessing,
        "dim": encoder.joint_dimension,
        "largest_difference": found.largest,
    }
    return described, tuple(notes)


def _convert(
    whole: Path, target: Path, *, to: Literal["onnx", "openvino"], precision: ExportPrecision, batches: Batches | None
) -> None:
    """A graph of floats in the form and precision that are asked for."""
    try:
        if precision == "int8":
            smaller = whole.with_suffix(".int8.onnx")
            quantize_weights(whole, smaller, batches=batches)
            whole = smaller
        if to == "openvino":
            to_openvino(whole, target, is_half=precision == "fp16")
        elif precision == "fp16":
            halve(whole, target)
        else:
            shutil.copyfile(whole, target)
    except ModuleNotFoundError as error:
        raise ValueError(f"--to {to} needs {error.name}: pip install 'mcse[onnx,openvino]'") from None


def _batches(encoder: Exportable, texts: Sequence[str], *, batch_size: int = 16) -> Batches:
    tokenizer = encoder.parts.tokenizer
    for start in range(0, len(texts), batch_size):
        given = [encoder.prompt + text for text in texts[start : start + batch_size]]
        batch = TokenBatch.padded(tokenizer.ids(given, max_length=encoder.max_length), pad_id=tokenizer.pad_id)
        yield {"input_ids": batch.input_ids_BT.numpy(), "attention_mask": batch.attention_mask_BT.numpy()}


def _save_tokenizer(folder: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    tokenizer.save(folder)
    if isinstance(tokenizer, WordTokenizer):
        save_word_tokenizer(folder / TOKENIZER, tokenizer, checked_on=texts)


def _words_of(tokenizer: Tokenizer) -> list[str]:
    """Words that a model knows, for sentences that mean something to it."""
    known = tokenizer.vocabulary
    if known is None and isinstance(tokenizer, PieceTokenizer):
        known = tuple(sorted(tokenizer.inner.get_vocab()))
    return [word for word in known or () if word.isalpha()]


def _lines(path: Path, number: int) -> list[str]:
    """The first lines of a text file that hold something."""
    lines = list(itertools.islice((line for line in text_lines(path) if line), number))
    if len(lines) < _FEWEST:
        raise ValueError(f"{path}: {len(lines)} lines of text, of which at least {_FEWEST} are needed")
    return lines


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
