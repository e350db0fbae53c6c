"""``TweetTagger``: finds entities in texts with images, by a trained tagger.

B texts of a block, W words, K tags, S spans.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mcse.encoders.images import ImageInput, ImageReader
from mcse.encoders.inputs import Precision, check_word_lists, evaluating, in_batches
from mcse.encoders.located import located_anywhere
from mcse.manifest import Manifest
from mcse.models.checkpoint import load_checkpoint_tower
from mcse.models.maf_model import TaggerModel, TweetRows
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.tagger_checkpoint import load_tagger, save_tagger
from mcse.text.tags import TagSet
from mcse.text.word_pieces import Part, cut_words, tweet_words
from mcse.types import Entity, FloatArray, Tagging, TokenBatch, TweetBatch, to_device

_SPANS_AT_ONCE = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundEntity:
    """An entity in a plain text: type, the text itself, its characters ``start`` … ``end - 1``, and its probability.

    ``match``: probability that text and image belong together; ``None`` without an image, or where the tagger does
    not match images.
    """

    kind: str
    text: str
    start: int
    end: int
    score: float
    match: float | None


class TweetTagger(ImageReader):
    """A tagger ready for use, in evaluation mode whatever the mode of its model.

    Args:
        model: Takes stored regions, or pixels where it holds a tower.
        tokenizer: Of its encoder.
        manifest: Of its checkpoint; ``None`` while training.
        folder: Of its checkpoint, where a trained tower lies.
    """

    precision: Precision = "float32"

    def __init__(
        self,
        model: TaggerModel,
        tokenizer: PieceTokenizer,
        *,
        manifest: Manifest | None = None,
        folder: Path | None = None,
    ) -> None:
        self.model, self.tokenizer, self.manifest, self.folder = model, tokenizer, manifest, folder
        self.tags = TagSet(model.shape.types)
        self._load_tower = None if folder is None else partial(load_checkpoint_tower, folder)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | torch.device = "cpu") -> TweetTagger:
        """The tagger of a run folder (its ``best/``), a checkpoint folder or a repository of the hub.

        Raises:
            ValueError: No tagger is there, or it is damaged.
        """
        folder = located_anywhere(path).expect("tagger").folder
        loaded = load_tagger(folder)
        loaded.model.to(device)
        return cls(loaded.model, loaded.tokenizer, manifest=loaded.manifest, folder=folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the checkpoint folder again, without its card's scores; the folder must be empty or absent."""
        manifest = self.manifest
        if manifest is None:
            raise ValueError("this tagger was not loaded from a checkpoint; its run exports it")
        save_tagger(
            Path(folder),
            model=self.model,
            tokenizer=self.tokenizer,
            manifest=manifest,
            card=f"# Entity tagger\n\nRecipe `{manifest.recipe}` of mcse; `mcse.TweetTagger` loads this folder.\n",
            trained_tower=self.tower if manifest.images is not None and manifest.images.is_trained else None,
        )

    @property
    def reads_images(self) -> bool:
        """Whether it was trained with images."""
        return self.model.shape.regions > 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def _title(self) -> str:
        return "this tagger"

    def _check_images(self, images: Sequence[object]) -> None:
        if not self.reads_images and any(image is not None for image in images):
            raise ValueError("this tagger was trained on text alone and reads no images; give none")

    def __call__(
        self, text: str | Sequence[str], image: ImageInput | Sequence[ImageInput | None] | None = None
    ) -> list[FoundEntity] | list[list[FoundEntity]]:
        """Entities of a plain text, or of several; ``image`` is a path or PIL image for each, or ``None``.

        Raises:
            ValueError: Numbers of texts and images differ, a text holds no word, images for a tagger that reads
                none, or an image that cannot be read.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if image is None:
            images: list[ImageInput | None] = [None] * len(texts)
        else:
            images = [image] if isinstance(image, str | Path | Image.Image) else list(image)
        rows = self.image_rows(images)
        words = [tweet_words(one) for one in texts]
        taggings = self.tag([[word for word, _, _ in own] for own in words], rows)
        found = [
            [
                FoundEntity(
                    kind=entity.kind,
                    text=one[own[entity.start][1] : own[entity.stop - 1][2]],
                    start=own[entity.start][1],
                    end=own[entity.stop - 1][2],
                    score=entity.score,
                    match=tagging.match,
                )
                for entity in tagging.entities
            ]
            for one, own, tagging in zip(texts, words, taggings, strict=True)
        ]
        return found[0] if isinstance(text, str) else found

    def image_rows(self, images: Sequence[ImageInput | None]) -> list[FloatArray | None]:
        """Features of images by the tagger's own tower; ``None`` stays ``None``."""
        given = [image for image in images if image is not None]
        self._check_images(given)
        rows = iter(self.image_features(given) if given else ())
        return [None if image is None else next(rows) for image in images]

    def tag(
        self,
        texts: Sequence[Sequence[str]],
        images: Sequence[FloatArray | None] | None = None,
        *,
        batch_size: int = 64,
    ) -> list[Tagging]:
        """One tagging a text, in order. A text that is too long is tagged in parts, each with its image.

        Args:
            texts: As words, such as a CoNLL file has them; at least one word each.
            images: One a text: a stored row (R·F,) [or pixels, for a model with a tower inside], or ``None``.
            batch_size: Texts a forward pass.

        Raises:
            ValueError: A text without words, other numbers of texts and images, or rows of the wrong width.
        """
        check_word_lists(texts)
        images = [None] * len(texts) if images is None else images
        if len(images) != len(texts):
            raise ValueError(f"{len(texts)} texts, but {len(images)} images; give None for a text without one")
        self._check_images(images)
        parts: list[tuple[int, Part]] = []
        for number, words in enumerate(texts):
            if not words:
                raise ValueError(f"text {number} holds no words")
            cut = cut_words(words, self.tokenizer.inner, max_length=self.model.shape.positions)
            parts += [(number, part) for part in cut]
        if (more := len(parts) - len(texts)) > 0:
            positions = self.model.shape.positions
            logger.warning(
                "texts longer than %d tokens were cut between words into %d further parts; an entity across a cut is "
                "found as two, or not at all",
                positions,
                more,
            )

        def work(chosen: list[int]) -> list[Tagging]:
            return self._tag_parts([parts[row][1] for row in chosen], [images[parts[row][0]] for row in chosen])

        lengths = (len(part.id_T) for _, part in parts)
        with evaluating([self.model]), torch.inference_mode():
            done = in_batches(lengths, work, batch_size=batch_size, empty=Tagging((), (), None))
        return _join([number for number, _ in parts], [part for _, part in parts], done, count=len(texts))

    def _tag_parts(self, parts: Sequence[Part], images: Sequence[FloatArray | None]) -> list[Tagging]:
        batch = self._batch(parts, images)
        rows: TweetRows = self.model(batch)
        tag_BW = self.model.crf.decode(rows.emission_BWK, batch.word_mask_BW).cpu().numpy()
        matches = self.reads_images and self.model.shape.matching != "none"
        match = rows.match_B.tolist() if rows.match_B is not None and matches else [None] * len(parts)
        spans = [_spans(tag_BW[row, : len(part)], self.tags) for row, part in enumerate(parts)]
        scores = iter(self._span_scores(rows, batch, spans))
        return [
            Tagging(
                tags=tuple(self.tags.names[tag] for tag in tag_BW[row, : len(part)]),
                entities=tuple(Entity(start, stop, kind, next(scores)) for start, stop, kind in spans[row]),
                match=match[row] if images[row] is not None else None,
            )
            for row, part in enumerate(parts)
        ]

    def _batch(self, parts: Sequence[Part], images: Sequence[FloatArray | None]) -> TweetBatch:
        first = TokenBatch.padded([part.first_W for part in parts])
        image_BF = None
        if self.reads_images:
            known = [image for image in images if image is not None]
            shape = self.model.shape
            blank = np.zeros(known[0].shape if known else (shape.regions * shape.region_width,), dtype=np.float32)
            image_BF = torch.from_numpy(np.stack([blank if image is None else image for image in images]))
        own_B = torch.arange(len(parts))
        batch = TweetBatch(
            tokens=TokenBatch.padded([part.id_T for part in parts], pad_id=self.tokenizer.pad_id),
            first_BW=first.input_ids_BT,
            word_mask_BW=first.attention_mask_BT.bool(),
            tag_BW=torch.zeros_like(first.input_ids_BT),
            has_image_B=torch.tensor([image is not None for image in images]),
            image_id_B=own_B,
            partner_B=own_B,
            image_BF=image_BF,
        )
        return to_device(batch, self.device)

    def _span_scores(
        self, rows: TweetRows, batch: TweetBatch, spans: Sequence[Sequence[tuple[int, int, str]]]
    ) -> list[float]:
        """The CRF's probability of every span, text after text: its tags, and no word more."""
        flat = [(row, *span) for row, own in enumerate(spans) for span in own]
        scores: list[float] = []
        names = self.tags.names
        for start in range(0, len(flat), _SPANS_AT_ONCE):
            block = flat[start : start + _SPANS_AT_ONCE]
            row_S = torch.tensor([row for row, *_ in block], device=self.device)
            emission_SWK = rows.emission_BWK[row_S]
            allowed_SWK = torch.ones_like(emission_SWK, dtype=torch.bool)
            for place, (_, first, stop, kind) in enumerate(block):
                inside = names.index(f"I-{kind}")
                allowed_SWK[place, first:stop] = False
                allowed_SWK[place, first, names.index(f"B-{kind}")] = True
                allowed_SWK[place, first + 1 : stop, inside] = True
                if stop < allowed_SWK.shape[1]:
                    allowed_SWK[place, stop, inside] = False
            scores += self.model.crf.probability(emission_SWK, batch.word_mask_BW[row_S], allowed_SWK).tolist()
        return scores


def _spans(tag_W: np.ndarray[tuple[int], np.dtype[np.int64]], tags: TagSet) -> list[tuple[int, int, str]]:
    """First word, word behind the last, and type of each entity of valid BIO."""
    names = [tags.names[tag] for tag in tag_W]
    spans = []
    for start, name in enumerate(names):
        if name.startswith("B-"):
            stop = start + 1
            while stop < len(names) and names[stop].startswith("I-"):
                stop += 1
            spans.append((start, stop, name[2:]))
    return spans


def _join(numbers: Sequence[int], parts: Sequence[Part], done: Sequence[Tagging], *, count: int) -> list[Tagging]:
    """The parts of each text as one tagging; ``match`` is that of its first part."""
    tags: list[list[str]] = [[] for _ in range(count)]
    entities: list[list[Entity]] = [[] for _ in range(count)]
    match: dict[int, float | None] = {}
    for row, (number, part) in enumerate(zip(numbers, parts, strict=True)):
        own = done[row]
        tags[number] += own.tags
        entities[number] += [
            Entity(entity.start + part.start, entity.stop + part.start, entity.kind, entity.score)
            for entity in own.entities
        ]
        match.setdefault(number, own.match)
    return [Tagging(tuple(tags[number]), tuple(entities[number]), match[number]) for number in range(count)]
