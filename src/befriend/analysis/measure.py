"""Metrics of ranked lists by model, kind of list and slice of the events, with confidence intervals; and exposure.

"Model" means a model, a heuristic or a ranker. A cold-start user has a text, but no event before the cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.exposure import exposure_by_group, measure_exposure
from befriend.analysis.groups import ACTIVITY_GROUPS, TRAINING_GROUPS, UNSEEN, activity_group, training_group
from befriend.analysis.metric_tables import metrics_schema
from befriend.data.columns import USER_ID
from befriend.data.event_log import EventLog
from befriend.data.split import COLD, FIRST_EVER, SEGMENTS, Split, contact_times
from befriend.evaluation.metrics import METRICS, UserBootstrap, metrics_per_list
from befriend.evaluation.protocol import EvalQueries, target_ranks
from befriend.features.histories import Histories

NEWCOMERS, FIRST_CONTACTS, ALL_NEW = "newcomers", "first contacts", "all new"
SliceMasks = dict[tuple[str, str, str], np.ndarray]
"""(kind of list, attribute of the events, its value: the slice) -> bool[R], the rows in the slice"""


@dataclass(frozen=True)
class RegimeMetrics:
    """Metrics of one regime."""

    metrics: dict[str, Any]
    """kind of list -> segment -> model -> n, each metric, and the bounds of NDCG@10. In addition to SEGMENTS there are:
    `all`; `newcomers`, events of actors unseen in training; `first contacts`, the union of `new` and `first ever`; and
    `all new`, as `new`, but also with first contacts outside the sample (`measure_first_contacts`). Only
    `first ever` and `first contacts` are measured on lists as served, with cold-start users"""
    slices: pl.DataFrame
    """list, by, slice, model, n, metrics, bounds: by segment and by every other attribute of the events"""
    exposure: pl.DataFrame
    """see `measure_exposure`"""
    exposure_by_group: pl.DataFrame
    """see `exposure_by_group`"""


def compute_metrics(
    log: EventLog,
    histories: Histories,
    split: Split,
    queries: EvalQueries,
    lists_by_model: dict[str, np.ndarray],
    served_lists_by_model: dict[str, np.ndarray],
    settings: EvaluateSettings,
) -> RegimeMetrics:
    """Metrics of one regime.

    lists_by_model: model -> int32[R, k], a list for each row of the queries; candidates are users with an event before
    the cutoff. served_lists_by_model: lists with cold-start users, of the models that can list them.
    """
    q = queries
    events = q.events[q.row_event]
    bootstrap = UserBootstrap(log.actor[events], *_bootstrap(settings))
    values_by_source = {
        "lists": _values_per_list(lists_by_model, log.target[events]),
        "served": _values_per_list(served_lists_by_model, log.target[events]),
    }
    metrics: dict[str, Any] = {}
    rows = []
    for (list_kind, by, name), mask in _slice_masks(log, histories, split, q).items():
        if not mask.any():
            continue
        as_served = name in (SEGMENTS[FIRST_EVER], FIRST_CONTACTS)
        models, values = (
            list(served_lists_by_model if as_served else lists_by_model),
            values_by_source["served" if as_served else "lists"],
        )
        for model, model_metrics in _means(values, mask, models, bootstrap).items():
            rows.append({"list": list_kind, "by": by, "slice": name, "model": model} | model_metrics)
            segment = name if by == "segment" else NEWCOMERS if (by, name) == ("actor", UNSEEN) else None
            if segment:
                metrics.setdefault(list_kind, {}).setdefault(segment, {})[model] = model_metrics
    new_lists = {model: lists[q.is_scored_new_list] for model, lists in lists_by_model.items()}
    return RegimeMetrics(
        metrics,
        pl.DataFrame(rows, metrics_schema("list", "by", "slice", "model")),
        measure_exposure(new_lists, is_eligible=log.first_seen < q.cutoff[-1]),
        exposure_by_group(log, histories, split, queries, lists_by_model),
    )


def measure_first_contacts(
    log: EventLog, queries: EvalQueries, lists_by_model: dict[str, np.ndarray], settings: EvaluateSettings
) -> dict[str, dict[str, float]]:
    """Model -> n, each metric, and the bounds of NDCG@10, on the `new` rows of all queries.

    These are more first contacts than the sample has. Empty if there is no such row. lists_by_model: as in
    `compute_metrics`, a list for each row of the queries.
    """
    mask = queries.is_scored_new_list
    if not mask.any():
        return {}
    events = queries.events[queries.row_event]
    values = _values_per_list(lists_by_model, log.target[events])
    return _means(values, mask, list(lists_by_model), UserBootstrap(log.actor[events], *_bootstrap(settings)))


def _values_per_list(lists_by_model: dict[str, np.ndarray], targets: np.ndarray) -> np.ndarray:
    """float64[models * METRICS, R]: the metrics of each list, those of the first model, then of the second, and so on.

    lists_by_model: model -> int32[R, k]; targets: int[R].
    """
    values = [metrics_per_list(target_ranks(lists, targets)) for lists in lists_by_model.values()]
    return np.concatenate([np.empty((0, len(targets))), *values])


def _bootstrap(settings: EvaluateSettings) -> tuple[int, float, int]:
    return settings.bootstrap, settings.confidence, settings.seed


def _means(
    values: np.ndarray, mask: np.ndarray, models: list[str], bootstrap: UserBootstrap
) -> dict[str, dict[str, float]]:
    """Model -> n, each metric, and the bounds of NDCG@10, over the lists in the mask, bool[R].

    values: float64[models * METRICS, R], from `_values_per_list`.
    """
    means = values[:, mask].mean(axis=1).reshape(len(models), len(METRICS))
    bounds = bootstrap.intervals(values[:: len(METRICS)], mask)  # of the first metric, NDCG@10, of each model
    metrics = {}
    for model, model_means, model_bounds in zip(models, means, bounds, strict=True):
        metrics[model] = {"n": int(mask.sum())} | {
            name: round(float(x), 6) for name, x in zip(METRICS, model_means, strict=True)
        }
        metrics[model] |= {
            f"{METRICS[0]}_{end}": round(float(x), 6) for end, x in zip(("low", "high"), model_bounds, strict=True)
        }
    return metrics


def _slice_masks(log: EventLog, histories: Histories, split: Split, q: EvalQueries) -> SliceMasks:
    """Which rows of the queries are in each slice.

    Events whose target has no event before the cutoff are only in the slices `cold`, `first ever` and `first contacts`.
    """
    events, segment = q.events[q.row_event], q.row_segment
    actor, target = log.actor[events], log.target[events]
    is_any, is_new = ~q.row_excludes_contacts & ~np.isin(segment, (COLD, FIRST_EVER)), q.is_scored_new_list
    masks: SliceMasks = {("any", "segment", "all"): is_any}
    for k, name in enumerate(SEGMENTS[:FIRST_EVER]):
        masks["any", "segment", name] = ~q.row_excludes_contacts & (segment == k)
    masks["new", "segment", "new"] = is_new
    masks["new", "segment", SEGMENTS[FIRST_EVER]] = q.row_excludes_contacts & ~is_new
    masks["new", "segment", FIRST_CONTACTS] = q.row_excludes_contacts
    activity = activity_group(histories, actor, num_visible=log.count_before(q.cutoff[q.row_event]))
    is_reciprocated = _is_reciprocated(log, events)
    for list_kind, base in (("any", is_any), ("new", is_new)):
        for k, name in enumerate(ACTIVITY_GROUPS):
            masks[list_kind, "events of the actor", name] = base & (activity == k)
        for by, true_name, false_name, mask in (
            ("actor", *TRAINING_GROUPS, training_group(log, split, actor) == 0),
            ("target", *TRAINING_GROUPS, training_group(log, split, target) == 0),
            ("contact back", "later", "none", is_reciprocated),
        ):
            masks[list_kind, by, true_name], masks[list_kind, by, false_name] = base & mask, base & ~mask
    return masks


def _is_reciprocated(log: EventLog, events: np.ndarray) -> np.ndarray:
    """bool[n]: whether the target contacts the actor later in the log. events: int64[n], indices into the log."""
    reverse_pair = log.target[events].astype(np.int64) * log.num_users + log.actor[events]
    return contact_times(log.last_contacts, reverse_pair, missing=-1) > log.timestamp[events]


def predictions_table(log: EventLog, queries: EvalQueries, lists: np.ndarray) -> pl.DataFrame:
    """The lists of a single model as a table: event (index into the log), list, users (external ids, best first).

    Has only the rows that the protocol scores. lists: int32[R, k], -1 past the end of a list.
    """
    is_scored = ~queries.row_excludes_contacts | queries.is_scored_new_list
    queries = replace(
        queries, row_event=queries.row_event[is_scored], row_excludes_contacts=queries.row_excludes_contacts[is_scored]
    )
    lists = lists[is_scored]
    flat = lists.ravel()
    ids = log.user_ids.gather(flat[flat >= 0])
    row = np.repeat(np.arange(len(lists)), lists.shape[1])[flat >= 0]
    users = pl.DataFrame({"row": row, USER_ID: ids}).group_by("row", maintain_order=True).agg(USER_ID)
    base = pl.DataFrame(
        {
            "row": np.arange(len(lists)),
            "event": queries.events[queries.row_event],
            "list": pl.Series(np.where(queries.row_excludes_contacts, "new", "any")),
        }
    )
    table = base.join(users, on="row", how="left", maintain_order="left")
    return table.select("event", "list", pl.col(USER_ID).fill_null([]).alias("users"))
