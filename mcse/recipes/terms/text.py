"""Terms of sentences: the contrast in its forms, the teachers' lists, the dimensions, masked words.

B rows of this process, N rows of all processes, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from mcse.distributed import gather_rows
from mcse.losses.contrastive import (
    Margin,
    TeacherFilter,
    count_left_out,
    info_nce,
    info_nce_with_hard_negatives,
    unit_rows,
)
from mcse.losses.dimensions import dimension_contrast
from mcse.losses.distillation import consistency, list_mle, list_net, similarity_kl
from mcse.losses.likelihood import token_nll
from mcse.models.sentence_model import SentenceModel, SentenceRows
from mcse.recipes.terms.config import TextLossConfig
from mcse.recipes.terms.queue import KeyQueue
from mcse.recipes.terms.views import Views
from mcse.types import IGNORED_LABEL, LossTerm, LossTerms, PairBatch, SentenceBatch, Stateful

Term = Callable[[Views], LossTerms]


@dataclass(frozen=True, slots=True)
class TextTerms:
    """The terms that a configuration asks for of a step's sentences.

    Attributes:
        terms: Each gives its own.
        queue: What must be saved to resume, where there is one.
    """

    terms: tuple[Term, ...]
    queue: KeyQueue | None = None

    def __call__(self, rows: SentenceRows, batch: SentenceBatch | PairBatch) -> LossTerms:
        """All terms of one batch, by name."""
        views = Views(rows, batch)
        return {name: term for of_views in self.terms for name, term in of_views(views).items()}

    @property
    def state(self) -> Mapping[str, Stateful]:
        """Of a run."""
        return {} if self.queue is None else {"queue": self.queue}

    def of(self, loss: TextLossConfig) -> TextTerms:
        """The terms of other batches of the same run, which share the queue."""
        return TextTerms(_terms(loss, self.queue, hard_negative_weight=0.0), self.queue)


def build_text_terms(loss: TextLossConfig, model: SentenceModel, *, hard_negative_weight: float = 0.0) -> TextTerms:
    """The terms of sentences that a configuration asks for.

    Args:
        loss: The ``loss`` keys.
        model: The text side; a queue takes a copy of its encoder.
        hard_negative_weight: As in ``info_nce_with_hard_negatives``.
    """
    queue = None if loss.queue is None else KeyQueue(model, loss.queue)
    return TextTerms(_terms(loss, queue, hard_negative_weight=hard_negative_weight), queue)


def _terms(loss: TextLossConfig, queue: KeyQueue | None, *, hard_negative_weight: float) -> tuple[Term, ...]:
    given: list[tuple[object, Callable[[TextLossConfig], Term]]] = [
        (loss.dimension_contrast, _dimension_contrast),
        (loss.list_net, _list_net),
        (loss.list_mle, _list_mle),
        (loss.consistency, _consistency),
        (loss.similarity_kl, _similarity_kl),
        (loss.mlm_weight or None, _mlm),
    ]
    others = (build(loss) for group, build in given if group is not None)
    return (_contrast(loss, queue, hard_negative_weight=hard_negative_weight), *others)


def _contrast(loss: TextLossConfig, queue: KeyQueue | None, *, hard_negative_weight: float) -> Term:
    """``text_text``: InfoNCE of every sentence against all positives, in the form that ``loss`` gives it."""

    def term(views: Views) -> LossTerms:
        filtering = _filtering(loss, views)
        contrast = partial(
            info_nce,
            temperature=loss.temperature,
            offset=views.offset,
            margin=_margin(loss, views),
            filtering=filtering,
        )
        rows = views.rows
        if rows.negative_BD is not None:
            total = info_nce_with_hard_negatives(
                views.own_query,
                views.all_positive,
                gather_rows(unit_rows(rows.negative_BD))[0],
                temperature=loss.temperature,
                offset=views.offset,
                hard_negative_weight=hard_negative_weight,
                margin=_margin(loss, views),
                filtering=filtering,
            )
        elif rows.clean_BD is not None and loss.off_dropout is not None:
            clean_BD = unit_rows(rows.clean_BD)
            positive_B = (views.own_query * views.own_positive).sum(1) * loss.off_dropout.positive_weight
            total = contrast(clean_BD, gather_rows(clean_BD)[0], positive_B=positive_B)
        else:
            more_QD = None if queue is None else queue.take(views)
            total = contrast(views.own_query, views.all_positive, negative_QD=more_QD)
        count = len(views.own_query)
        terms = {"text_text": LossTerm(total, count=count)}
        if filtering is not None:
            left_out = count_left_out(filtering, offset=views.offset)
            terms["left_out"] = LossTerm(left_out, count=count * (len(views.all_positive) - 1), is_loss=False)
        return terms

    return term


def _margin(loss: TextLossConfig, views: Views) -> Margin | None:
    if loss.margin is None:
        return None
    teacher = views.teacher if loss.margin.by_teacher else None
    return Margin(negative=loss.margin.negative, positive=loss.margin.positive, teacher=teacher)


def _filtering(loss: TextLossConfig, views: Views) -> TeacherFilter | None:
    rule = loss.teacher_filter
    if rule is None:
        return None
    return TeacherFilter(teacher=views.teacher, threshold=rule.threshold, margin=rule.margin or 0.0)


def _dimension_contrast(loss: TextLossConfig) -> Term:
    """``dimensions``: one number for the whole batch, of which each process has the part of its own rows."""
    rule = loss.dimension_contrast
    assert rule is not None

    def term(views: Views) -> LossTerms:
        # Not of unit rows: a dimension is standardised over the batch.
        query_ND, positive_ND = gather_rows(views.rows.query_BD)[0], gather_rows(views.rows.positive_BD)[0]
        value, count = dimension_contrast(query_ND, positive_ND, temperature=rule.temperature), len(views.own_query)
        return {"dimensions": LossTerm(value * count, count=count, weight=rule.weight)}

    return term


def _list_net(loss: TextLossConfig) -> Term:
    rule = loss.list_net
    assert rule is not None

    def term(views: Views) -> LossTerms:
        total = list_net(
            views.own_query,
            views.all_positive,
            views.teacher,
            temperature=rule.temperature,
            teacher_temperature=rule.teacher_temperature,
            offset=views.offset,
        )
        return {"list_net": LossTerm(total, count=len(views.own_query), weight=rule.weight)}

    return term


def _list_mle(loss: TextLossConfig) -> Term:
    rule = loss.list_mle
    assert rule is not None

    def term(views: Views) -> LossTerms:
        total = list_mle(views.own_query, views.all_positive, views.teacher, temperature=rule.temperature)
        return {"list_mle": LossTerm(total, count=len(views.own_query), weight=rule.weight)}

    return term


def _consistency(loss: TextLossConfig) -> Term:
    rule = loss.consistency
    assert rule is not None

    def term(views: Views) -> LossTerms:
        total = consistency(
            views.own_query, views.own_positive, views.all_query, views.all_positive, temperature=rule.temperature
        )
        return {"consistency": LossTerm(total, count=len(views.own_query), weight=rule.weight)}

    return term


def _similarity_kl(loss: TextLossConfig) -> Term:
    rule = loss.similarity_kl
    assert rule is not None

    def term(views: Views) -> LossTerms:
        total = similarity_kl(
            views.own_query,
            views.all_positive,
            views.teacher,
            temperature=rule.temperature,
            teacher_temperature=rule.teacher_temperature,
        )
        return {"similarity_kl": LossTerm(total, count=len(views.own_query), weight=rule.weight)}

    return term


def _mlm(loss: TextLossConfig) -> Term:
    """``mlm`` over the masked words of this process."""

    def term(views: Views) -> LossTerms:
        logit_MW, label_M = views.rows.mlm_logit_MW, views.rows.mlm_label_M
        if logit_MW is None or label_M is None:
            return {}
        nll = token_nll(logit_MW, label_M, ignored=IGNORED_LABEL)
        return {"mlm": LossTerm(nll, count=len(label_M), weight=loss.mlm_weight)}

    return term
