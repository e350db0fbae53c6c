"""Tables: pairs and hard negatives by contrast; scores and labels by their order, their angle or their value.

B rows of this process, N rows of all processes, V texts a row, D width, d the first of its dimensions.

Source: Henderson et al. 2017 (contrast within the batch), Su 2022 (CoSENT), Li and Li 2024 (AnglE), Reimers and
Gurevych 2019 (cosine regression), Wang et al. 2022 (soft negatives), Kusupati et al. 2022 (Matryoshka),
Solatorio 2024 (a guide).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mcse.config import ConfigError
from mcse.data.load_sentences import left_out_files
from mcse.data.named_columns import open_named_columns
from mcse.data.table_rows import LoadedTable, MixedTableStream, TableStream, load_tables, with_guide
from mcse.distributed import gather_ids, gather_rows
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.evaluation.evaluators.tables import table_evaluator
from mcse.losses.contrastive import TeacherFilter, TeacherRows, info_nce, unit_rows
from mcse.losses.ordinal import angle_similarity, bounded_margin, cosent, cosine_regression
from mcse.models.table_model import TableModel
from mcse.recipes import export, shared
from mcse.recipes.tables.config import Config, Guide, LossConfig
from mcse.training.optim import build_optimizer
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import DataFile, FloatArray, LossTerm, LossTerms, TableBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluators and export of one run on tables."""
    text = shared.build_text_side(config.encoder, config.data, mlm=False, own_positive=False, head=False)
    tables = load_tables(config.data, text.tokenizer)
    losses = [loss_of(table, config.loss) for table in tables]
    tables = [in_cosines(table) if loss == "cosine" else table for table, loss in zip(tables, losses, strict=True)]
    if any(table.tokens.columns == 1 for table in tables):
        shared.check_views_differ(text.model.encoder)
    widths = _widths(config.loss, text.model.encoder.width)
    tables, guide_files = guided(tables, losses, config.loss.guide)
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    kind = MixedTableStream if config.data.mixed else TableStream
    if config.data.mixed:
        tables = on_one_scale(tables, losses)
    stream = kind(tables, share, seed=config.seed, pad_id=text.tokenizer.pad_id)
    dev = _dev(config, text)

    def step(model: nn.Module, batch: TableBatch) -> LossTerms:
        row_BVD: Tensor = model(batch)
        return terms_of(losses[batch.table], row_BVD, batch, config.loss, widths=widths)

    model = TableModel(text.model.encoder)
    files = tuple(table.file for table in tables)
    return Run(
        model=model,
        step=step,
        stream=stream,
        optimizer=build_optimizer(model, config.optim),
        export=export.sentence_exporter(config, text, files),
        evaluators=dev.evaluators,
        metrics=dev.metrics,
        facts={**text.facts, **stream.facts, "losses": ", ".join(dict.fromkeys(losses))},
        data=(*files, *left_out_files(config.data.tests), *text.files, *guide_files, *dev.files),
    )


def _dev(config: Config, text: shared.TextSide) -> shared.Dev:
    """The tables that the run is evaluated on; without any STS-B dev or the file of ``data.sts``."""
    if not config.evaluate:
        return shared.build_dev_evaluator(config.data, text, config.train)
    evaluators, files, encoder = [], [], shared.dev_encoder(text, precision=config.train.precision)
    for table in config.evaluate:
        columns = open_named_columns(table, root=config.data.folder, key=f"evaluate: {table.name}")
        evaluators.append(table_evaluator(columns, table, encoder))
        files.append(DataFile("dev table", columns.source, columns.digest))
    metrics = tuple(metric for evaluator in evaluators for metric in evaluator.metrics)
    return shared.Dev(tuple(evaluators), metrics, tuple(files))


def loss_of(table: LoadedTable, config: LossConfig) -> str:
    """Which loss a table is trained with.

    Raises:
        ConfigError: It lacks what its loss needs, or has what it would not use.
    """
    key, columns, scores = table.key, table.columns, table.columns.value is not None
    chosen = table.config.loss or ("cosent" if scores else "contrast")
    if (chosen != "contrast") != scores:
        what = "scores or labels" if scores else f"texts alone ({', '.join(columns.texts)})"
        raise ConfigError(f"{key}.loss: {chosen} does not take a table of {what}")
    if chosen == "cosine" and table.config.score_range is None:
        assert table.value_N is not None
        low, high = float(table.value_N.min()), float(table.value_N.max())
        if low < 0 or high > 1:
            raise ConfigError(
                f"{key}.score_range: give the scores that are a cosine of 0 and 1; got {low:g} to {high:g}"
            )
    if chosen == "contrast" and config.soft_negatives is not None and len(columns.texts) < 3:
        raise ConfigError(f"loss.soft_negatives: {columns.source} has no column of negatives")
    return chosen


def in_cosines(table: LoadedTable) -> LoadedTable:
    """The table with its scores as the cosines that they are to be: ``score_range`` becomes 0 to 1."""
    if table.config.score_range is None or table.value_N is None:
        return table
    low, high = table.config.score_range
    return replace(table, value_N=((table.value_N - low) / (high - low)).astype(np.float32))


def on_one_scale(tables: list[LoadedTable], losses: Sequence[str]) -> list[LoadedTable]:
    """Tables whose rows may share a batch; scores of several ranges become 0 to 1.

    Raises:
        ConfigError: Their losses, or the numbers of their texts, differ, or their scores are on unknown scales.
    """
    first = tables[0]
    for table, loss in zip(tables, losses, strict=True):
        if loss != losses[0]:
            raise ConfigError(f"data.mixed: {first.key} is trained with {losses[0]} and {table.key} with {loss}")
        if table.tokens.columns != first.tokens.columns:
            counts = f"{first.tokens.columns} texts a row, and {table.key} {table.tokens.columns}"
            raise ConfigError(f"data.mixed: {first.key} has {counts}")
        if (table.config.id is None) != (first.config.id is None):
            raise ConfigError(f"data.mixed: one of {first.key} and {table.key} has ids, the other none")
        if table.columns.is_label != first.columns.is_label:
            raise ConfigError(f"data.mixed: one of {first.key} and {table.key} has labels, the other scores")
    if losses[0] == "contrast" or first.columns.is_label:
        return tables
    if any(table.config.score_range is None for table in tables):
        raise ConfigError("data.mixed: give each table its score_range, so that scores are compared on one scale")
    # Under cosine they are cosines already.
    return tables if losses[0] == "cosine" else list(map(in_cosines, tables))


def guided(
    tables: list[LoadedTable], losses: Sequence[str], guide: Guide | None
) -> tuple[list[LoadedTable], tuple[DataFile, ...]]:
    """The tables under ``contrast`` with the embeddings of a guide, and what these were made with.

    Raises:
        ConfigError: No table is contrasted, or a text is its own positive, than which nothing is nearer.
    """
    if guide is None:
        return tables, ()
    if "contrast" not in losses:
        raise ConfigError("loss.guide: would do nothing, since no table is trained with contrast")
    for table, loss in zip(tables, losses, strict=True):
        if loss == "contrast" and table.tokens.columns == 1 and guide.margin <= 0:
            raise ConfigError(
                f"loss.guide.margin: {table.key} has texts alone, each its own positive, and nothing is nearer than "
                "that; give a margin above 0"
            )
    encoder = load_encoder(guide.model, pooling=guide.pooling)
    digest = f"{encoder_digest(guide.model) or guide.model} {encoder.pooling}"

    def encode(texts: Sequence[str]) -> FloatArray:
        return encoder.encode(texts, normalize=True)

    found = [
        with_guide(table, encode, digest=digest) if loss == "contrast" else table
        for table, loss in zip(tables, losses, strict=True)
    ]
    return found, shared.encoder_files(guide.model, role="guide")


def _widths(config: LossConfig, width: int) -> tuple[int, ...]:
    """The widths that the loss is taken at, the whole one first."""
    if wide := [dim for dim in config.dims if dim > width]:
        raise ConfigError(f"loss.dims: the encoder has {width} dimensions, got {wide[0]}")
    return (width, *sorted({*config.dims} - {width}, reverse=True))


def terms_of(
    loss: str, row_BVD: Tensor, batch: TableBatch, config: LossConfig, *, widths: tuple[int, ...]
) -> LossTerms:
    """The terms of a batch; under several widths each term is the sum of those of the rows cut to each.

    Rows are gathered once, whole, and cut before they are normalised.
    """
    if loss == "contrast":
        return _contrast_terms(row_BVD, batch, config, widths=widths)
    assert batch.value_B is not None
    pairs = row_BVD[:, 0], row_BVD[:, 1]
    value_B, count = batch.value_B, len(row_BVD)
    if loss == "cosine":
        terms = [cosine_regression(_cosines(*pairs, width), value_B) for width in widths]
        return {"cosine": LossTerm(torch.stack(terms).sum(), count=count)}
    measure = _cosines if loss == "cosent" else _angles
    value_N = gather_ids(value_B)
    terms = [
        # One number for all processes, of which each has the part of its own rows.
        cosent(gather_rows(measure(*pairs, width)[:, None])[0][:, 0], value_N, scale=config.scale) * count
        for width in widths
    ]
    return {loss: LossTerm(torch.stack(terms).sum(), count=count)}


def _contrast_terms(row_BVD: Tensor, batch: TableBatch, config: LossConfig, *, widths: tuple[int, ...]) -> LossTerms:
    """``contrast``, and ``soft_negatives`` where these are asked for."""
    row_NVD, offset = gather_rows(row_BVD)
    own, all_ = batch.text_id_BV, gather_ids(batch.text_id_BV)
    views, soft = row_BVD.shape[1], config.soft_negatives
    keys = range(1, views if soft is None else 2)
    there: tuple[Tensor | None, Tensor | None] = (None, None)
    back = there
    if config.false_negatives == "equal_text":
        key_ids = [_ids(all_[:, 0] if number == 1 else None, all_[:, number]) for number in keys]
        there = _ids(own[:, 0], own[:, 1], own[:, 0]), torch.cat(key_ids)
        back = _ids(own[:, 1], own[:, 0], own[:, 1]), _ids(all_[:, 1], all_[:, 0])
    if batch.group_B is not None:
        group_N = gather_ids(batch.group_B)
        # Hard negatives belong to no group: they were written down as negatives.
        group_M = torch.cat([group_N, group_N.new_zeros(len(group_N) * (len(keys) - 1))])
        there, back = _with_groups(there, batch.group_B, group_M), _with_groups(back, batch.group_B, group_N)
    guide, guide_back = _guides(batch, config, keys=keys)
    sums = []
    for width in widths:
        query_Bd = unit_rows(row_BVD[:, 0, :width])
        key_Md = torch.cat([unit_rows(row_NVD[:, number, :width]) for number in keys])
        loss = _nce(query_Bd, key_Md, there, guide, config, offset=offset)
        if config.directions == "both":
            positive_Bd, query_Nd = unit_rows(row_BVD[:, 1, :width]), unit_rows(row_NVD[:, 0, :width])
            loss = (loss + _nce(positive_Bd, query_Nd, back, guide_back, config, offset=offset)) / 2
        sums.append(loss)
    terms = {"contrast": LossTerm(torch.stack(sums).sum(), count=len(row_BVD))}
    if soft is not None:
        margins = [
            bounded_margin(
                _cosines(row_BVD[:, 0], row_BVD[:, 1], width),
                _cosines(row_BVD[:, 0], row_BVD[:, number], width),
                lower=soft.lower,
                upper=soft.upper,
            )
            for width in widths
            for number in range(2, views)
        ]
        count = len(row_BVD) * (views - 2)
        terms["soft_negatives"] = LossTerm(torch.stack(margins).sum(), count=count, weight=soft.weight)
    return terms


def _guides(batch: TableBatch, config: LossConfig, *, keys: range) -> tuple[TeacherFilter | None, TeacherFilter | None]:
    """Leave out keys, and queries of the other direction, that a guide holds to be nearer than the positive.

    Source: Solatorio 2024 (GISTEmbed), of its blocks that of queries with keys.
    """
    if config.guide is None or batch.guide_BVG is None:
        return None, None
    own_BVG, (all_NVG, _) = batch.guide_BVG, gather_rows(batch.guide_BVG)
    views = own_BVG.shape[1]
    key_MG = torch.cat([all_NVG[:, min(number, views - 1)] for number in keys])
    there = TeacherRows(query_BF=own_BVG[:, 0], key_NF=key_MG)
    back = TeacherRows(query_BF=own_BVG[:, min(1, views - 1)], key_NF=all_NVG[:, 0])
    margin = config.guide.margin
    return TeacherFilter(teacher=there, margin=margin), TeacherFilter(teacher=back, margin=margin)


def _nce(
    query_Bd: Tensor,
    key_Md: Tensor,
    ids: tuple[Tensor | None, Tensor | None],
    guide: TeacherFilter | None,
    config: LossConfig,
    *,
    offset: int,
) -> Tensor:
    query_id_B3, key_id_M3 = ids
    return info_nce(
        query_Bd,
        key_Md,
        temperature=config.temperature,
        offset=offset,
        query_id_B=query_id_B3,
        key_id_N=key_id_M3,
        filtering=guide,
    )


def _ids(first_B: Tensor | None, second_B: Tensor, third_B: Tensor | None = None) -> Tensor:
    """(B, 3) numbers of texts that make two rows alike, place by place.

    Of a query: its own text, its positive's, and again its own. Of a key: the text of its query, its own, and again its
    own. So a key is no wrong one if it is the query's positive, the query itself, or a positive of the same query. Hard
    negatives are no query's (``None``, which is 0 and no text).
    """
    return torch.stack(
        [
            torch.zeros_like(second_B) if first_B is None else first_B,
            second_B,
            second_B if third_B is None else third_B,
        ],
        dim=1,
    )


def _with_groups(ids: tuple[Tensor | None, Tensor | None], group_B: Tensor, group_M: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers that make a query and a key alike, and the groups that they belong to as one more of them."""
    query_id_BI, key_id_MI = ids
    group_B1, group_M1 = group_B[:, None], group_M[:, None]
    if query_id_BI is None or key_id_MI is None:
        return group_B1, group_M1
    return torch.cat([query_id_BI, group_B1], dim=1), torch.cat([key_id_MI, group_M1], dim=1)


def _cosines(left_BD: Tensor, right_BD: Tensor, width: int) -> Tensor:
    return (unit_rows(left_BD[:, :width]) * unit_rows(right_BD[:, :width])).sum(1)


def _angles(left_BD: Tensor, right_BD: Tensor, width: int) -> Tensor:
    return angle_similarity(left_BD[:, :width], right_BD[:, :width])
