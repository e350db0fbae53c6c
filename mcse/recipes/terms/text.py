"""Terms of sentences: the contrast in its forms, the teachers' lists, the dimensions, masked words.

B rows of this process, N rows of all processes, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

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
from mcse.recipes.terms.config import (
    Consistency,
    DimensionContrast,
    ListMLE,
    ListNet,
    SimilarityKL,
    TextLossConfig,
)
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
    terms = [_contrast(loss, queue, hard_negative_weight=hard_negative_weight)]
    if (dimensions := loss.dimension_contrast) is not None:
        terms.append(_dimensions(dimensions))
    if (net := loss.list_net) is not None:
        terms.append(_by_rows("list_net", partial(_list_net, net), weight=net.weight))
    if (mle := loss.list_mle) is not None:
        terms.append(_by_rows("list_mle", partial(_list_mle, mle), weight=mle.weight))
    if (views := loss.consistency) is not None:
        terms.append(_by_rows("consistency", partial(_consistency, views), weight=views.weight))
    if (kl := loss.similarity_kl) is not None:
        terms.append(_by_rows("similarity_kl", partial(_similarity_kl, kl), weight=kl.weight))
    if loss.mlm_weight:
        terms.append(_mlm(loss.mlm_weight))
    return tuple(terms)


def _by_rows(name: str, total: Callable[[Views], Tensor], *, weight: float) -> Term:
    """A term that is a sum over this process's sentences."""
    return lambda views: {name: LossTerm(total(views), count=len(views.own_query), weight=weight)}


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


def _dimensions(rule: DimensionContrast) -> Term:
    """``dimensions``: one number for the whole batch, of which each process has the part of its own rows."""

    def total(views: Views) -> Tensor:
        # Not of unit rows: a dimension is standardised over the batch.
        query_ND, positive_ND = gather_rows(views.rows.query_BD)[0], gather_rows(views.rows.positive_BD)[0]
        return dimension_contrast(query_ND, positive_ND, temperature=rule.temperature) * len(views.own_query)

    return _by_rows("dimensions", total, weight=rule.weight)


def _list_net(rule: ListNet, views: Views) -> Tensor:
    return list_net(
        views.own_query,
        views.all_positive,
        views.teacher,
        temperature=rule.temperature,
        teacher_temperature=rule.teacher_temperature,
        offset=views.offset,
    )


def _list_mle(rule: ListMLE, views: Views) -> Tensor:
    return list_mle(views.own_query, views.all_positive, views.teacher, temperature=rule.temperature)


def _consistency(rule: Consistency, views: Views) -> Tensor:
    rows = views.own_query, views.own_positive, views.all_query, views.all_positive
    return consistency(*rows, temperature=rule.temperature)


def _similarity_kl(rule: SimilarityKL, views: Views) -> Tensor:
    return similarity_kl(
        views.own_query,
        views.all_positive,
        views.teacher,
        temperature=rule.temperature,
        teacher_temperature=rule.teacher_temperature,
    )


def _mlm(weight: float) -> Term:
    """``mlm`` over the masked words of this process."""

    def term(views: Views) -> LossTerms:
        logit_MW, label_M = views.rows.mlm_logit_MW, views.rows.mlm_label_M
        if logit_MW is None or label_M is None:
            return {}
        nll = token_nll(logit_MW, label_M, ignored=IGNORED_LABEL)
        return {"mlm": LossTerm(nll, count=len(label_M), weight=weight)}

    return term
