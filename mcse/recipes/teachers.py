"""Teachers of a run: frozen encoders whose rows a loss compares with, stored or run inside the step. Not a recipe.

B sentences of this process, D width of a teacher's rows, F of all teachers' together.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mcse.data.config import DataConfig
from mcse.data.teacher_config import Teacher, TeacherControl, shares
from mcse.data.teacher_rows import StoredTeachers, TeacherStore
from mcse.encoders.loading import load_encoder
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.encoders.untrained import draw_weights
from mcse.losses.precision import at_least_float32
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.recipes.shared import TextSide, dev_encoder, encoder_files
from mcse.training.config import TrainConfig
from mcse.types import DataFile, PairBatch, SentenceBatch, TokenBatch
from mcse.types.batches import split_batch

Batch = TypeVar("Batch", bound=SentenceBatch | PairBatch)


class LiveTeacher:
    """An encoder that works inside the step and is no part of training.

    It gives no gradient and stays in evaluation mode. No module holds it, so that no optimizer, DDP or saved state sees
    it.

    Args:
        encoder: A text encoder; its weights are not shared with what trains.
        weight: Of its cosines.
        chunk_size: Sentences at a time; ``None`` is all.
    """

    def __init__(self, encoder: SentenceEncoder, *, weight: float, chunk_size: int | None) -> None:
        self.width, self._rows = encoder.dimension, encoder.parts.rows
        parts = encoder.parts
        self._modules = [part for part in (parts.text, parts.head) if part is not None]
        for module in self._modules:
            module.eval().requires_grad_(False)
        self._scale, self._chunk_size = math.sqrt(weight), chunk_size

    @torch.no_grad()
    def rows(self, tokens: TokenBatch) -> Tensor:
        """(B, D) rows: √weight times unit rows, in float32 or wider."""
        for module in self._modules:
            module.to(tokens.input_ids_BT.device)  # it does not move with the model
        chunks = split_batch(tokens, self._chunk_size or len(tokens), narrows=False)
        return torch.cat([F.normalize(at_least_float32(self._rows(chunk)), dim=-1) for chunk in chunks]) * self._scale


@dataclass(frozen=True, slots=True)
class Teachers:
    """The teachers of a run.

    Attributes:
        stored: Those whose rows streams put into batches; ``None`` where there are none.
        live: Those that are run inside the step.
        facts: For the start of a run.
        files: What they were read from.
    """

    stored: StoredTeachers | None = None
    live: Sequence[LiveTeacher] = ()
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    files: tuple[DataFile, ...] = ()

    @property
    def width(self) -> int:
        """F; 0 without teachers."""
        return (0 if self.stored is None else self.stored.width) + sum(teacher.width for teacher in self.live)

    def with_rows(self, batch: Batch) -> Batch:
        """The batch with the rows of all teachers in ``teacher_BF``; without teachers as it is."""
        if not self.live:
            return batch
        tokens = batch.caption if isinstance(batch, PairBatch) else batch.query
        rows = [] if batch.teacher_BF is None else [batch.teacher_BF]
        rows += [teacher.rows(tokens) for teacher in self.live]
        return replace(batch, teacher_BF=torch.cat(rows, dim=1))


class _Controls(Protocol):
    @property
    def teachers(self) -> TeacherControl: ...


class TaughtConfig(Protocol):
    """What the settings of a recipe with teachers have."""

    @property
    def teachers(self) -> Sequence[Teacher]:
        """The key ``teachers``."""
        ...

    @property
    def controls(self) -> _Controls:
        """With what replaces them."""
        ...

    @property
    def data(self) -> DataConfig:
        """Where stores are looked for, and the tokens that sentences keep."""
        ...

    @property
    def train(self) -> TrainConfig:
        """With the size of chunks."""
        ...

    @property
    def seed(self) -> int:
        """Of what the control draws."""
        ...


def open_teachers(config: TaughtConfig, text: TextSide) -> Teachers:
    """The teachers of a run, or what ``controls.teachers`` puts in their place; ``text`` is the student, untrained yet.

    Raises:
        FileNotFoundError: A store is not there.
        ValueError: It is damaged; an encoder cannot be run on the student's tokens; or a control cannot be made.
    """
    control, chunk_size = config.controls.teachers, config.train.cached_chunk_size
    if not config.teachers:
        return Teachers()
    facts: dict[str, str | int | float] = {} if control is True else {"controls.teachers": control}
    if control == "self":
        student = copy.deepcopy(dev_encoder(text, precision="fp32"))
        live = LiveTeacher(student, weight=1.0, chunk_size=chunk_size)
        named = f"the student's start weights, {live.width} wide"
        return Teachers(live=(live,), facts={**facts, "teacher": named})
    found: list[tuple[TeacherStore, float]] = []
    alive: list[LiveTeacher] = []
    files: list[DataFile] = []
    for teacher, weight in zip(config.teachers, shares(config.teachers), strict=True):
        if teacher.store is not None:
            store = _open_store(teacher.name, teacher.store, control, config.data)
            found.append((store, weight))
            files.append(store.file())
            what = f"{store.width} wide, {store.facts.maker}, rows of {store.path}"
        else:
            encoder = _live_encoder(teacher, config, text)
            alive.append(LiveTeacher(encoder, weight=weight, chunk_size=chunk_size))
            files += encoder_files(encoder.name, role="teacher")
            what = f"{encoder.dimension} wide, {encoder.name}, {encoder.pooling}, run in every step"
        facts[f"teacher {teacher.name}"] = f"weight {weight:.3g}, {what}"
    stored = None
    if found:
        stores, weights = zip(*found, strict=True)
        stored = StoredTeachers(stores, weights, shuffled=config.seed if control == "shuffled" else None)
    return Teachers(stored, tuple(alive), facts, tuple(files))


def _open_store(name: str, given: str, control: TeacherControl, data: DataConfig) -> TeacherStore:
    path = data.folder / given
    if not path.exists():
        reason = f"teachers: {name}: nothing at {path} (mcse extract-features --texts … makes stores)"
        raise data.absent(given, reason)
    store = TeacherStore(path)
    if control == "random" and not store.facts.untrained:
        raise ValueError(
            f"controls.teachers: random cannot change the stored rows of {path}; '{store.facts.command} --untrained "
            f"SEED' stores those of random weights: give that store to the teacher {name!r}"
        )
    return store


def _live_encoder(teacher: Teacher, config: TaughtConfig, text: TextSide) -> SentenceEncoder:
    """The encoder of a live teacher, which must read the student's ids as its own.

    Raises:
        ValueError: It cannot be loaded, is of another kind, has another tokenizer or takes fewer tokens; or rows are to
            be shuffled.
    """
    instead = "store its rows (mcse extract-features --texts …) and give store in place of encoder"
    if config.controls.teachers == "shuffled":
        raise ValueError(
            f"controls.teachers: shuffled permutes stored rows among all texts, and the rows of {teacher.name!r} are "
            f"of one batch at a time; {instead}"
        )
    assert teacher.encoder is not None
    try:
        encoder = load_encoder(teacher.encoder, pooling=teacher.pooling, device="cpu")
    except ValueError as error:
        # Keys of other errors are those of the student.
        raise ValueError(f"teachers: {teacher.name}: {str(error).removeprefix('encoder.')}") from None
    if not isinstance(encoder, SentenceEncoder) or not isinstance(encoder.parts.tokenizer, PieceTokenizer):
        raise ValueError(f"teachers: {teacher.name}: {teacher.encoder} reads no ids of a student; {instead}")
    own = PieceTokenizer(encoder.parts.tokenizer.inner, prompt=encoder.prompt)
    if own.digest != text.tokenizer.digest:
        raise ValueError(
            f"teachers: {teacher.name}: {teacher.encoder} has another tokenizer or prompt than the student, whose ids "
            f"it would read; {instead}"
        )
    if encoder.max_length is not None and encoder.max_length < config.data.max_length:
        raise ValueError(
            f"teachers: {teacher.name}: {teacher.encoder} takes {encoder.max_length} tokens, fewer than "
            f"data.max_length, {config.data.max_length}; {instead}"
        )
    if config.controls.teachers == "random":
        draw_weights(encoder, seed=config.seed)
    return encoder


__all__ = ["LiveTeacher", "TaughtConfig", "Teachers", "open_teachers"]
