"""From lists to metrics, by model, list and slice of the events, with intervals; coverage and exposure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.exposure import exposure, shown_by_group
from befriend.analysis.groups import ACTIVITY, JOINED, UNSEEN, activity, joined
from befriend.data.columns import USER_ID
from befriend.data.event_log import EventLog
from befriend.data.split import COLD, FIRST_EVER, SEGMENTS, Split, time_of
from befriend.evaluation.metrics import METRICS, UserBootstrap, per_list
from befriend.evaluation.protocol import EvalQueries, target_ranks
from befriend.features.histories import Histories

NEWCOMERS, FIRST_CONTACTS = "newcomers", "first contacts"
METRIC_COLUMNS = ("n", *METRICS, f"{METRICS[0]}_low", f"{METRICS[0]}_high")
Slices = dict[tuple[str, str, str], np.ndarray]


@dataclass(frozen=True)
class RegimeMetrics:
    """Metrics of one regime."""

    metrics: dict[str, Any]
    """list -> segment -> model -> n, each metric, and the bounds of NDCG@10. Beyond the segments of the protocol:
    `newcomers`, events of actors unseen in training; and, measured on lists as served, `first ever`, events whose
    target had no event yet, and `first contacts`, which joins `first ever` and `new`"""
    slices: pl.DataFrame
    """list, by, slice, model, n, metrics, bounds: by segment and by every other attribute of the events"""
    exposure: pl.DataFrame
    """model, users_covered (share of the candidates in the top 10 of any list new), exposure_gini"""
    shown: pl.DataFrame
    """by, group, model, and the share of the group among candidates, users contacted, and users shown"""


def metrics_schema(*labels: str) -> dict[str, Any]:
    """Columns of a table of metrics: labels, then METRIC_COLUMNS."""
    columns: dict[str, Any] = dict.fromkeys(labels, pl.String)
    return columns | {name: pl.Int64 if name == "n" else pl.Float64 for name in METRIC_COLUMNS}


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

    lists_by_model (candidates are users with events), served_lists_by_model (as served): model -> int32[R, k], a list
    for each row of the queries.
    """
    q = queries
    events = q.events[q.row_event]
    bootstrap = UserBootstrap(log.actor[events], settings.bootstrap, settings.confidence, settings.seed)
    empty = np.empty((0, len(events)))
    values_by_source = {
        source: np.concatenate([empty, *(per_list(target_ranks(ids, log.target[events])) for ids in by_model.values())])
        for source, by_model in (("lists", lists_by_model), ("served", served_lists_by_model))
    }  # (models * METRICS, R): all metrics of the first model, then of the second, and so on
    metrics: dict[str, Any] = {}
    rows = []
    for (list_kind, by, name), chosen in _slices(log, histories, split, q).items():
        if not chosen.any():
            continue
        as_served = name in (SEGMENTS[FIRST_EVER], FIRST_CONTACTS)
        models, values = (
            list(served_lists_by_model if as_served else lists_by_model),
            values_by_source["served" if as_served else "lists"],
        )
        means = values[:, chosen].mean(axis=1).reshape(len(models), len(METRICS))
        bounds = bootstrap.intervals(values[:: len(METRICS)], chosen)  # the first metric, NDCG@10, of each model
        for k, model in enumerate(models):
            model_metrics = {"n": int(chosen.sum())} | {
                m: round(float(x), 6) for m, x in zip(METRICS, means[k], strict=True)
            }
            model_metrics |= {
                f"{METRICS[0]}_{end}": round(float(x), 6) for end, x in zip(("low", "high"), bounds[k], strict=True)
            }
            rows.append({"list": list_kind, "by": by, "slice": name, "model": model} | model_metrics)
            segment = name if by == "segment" else NEWCOMERS if (by, name) == ("actor", UNSEEN) else None
            if segment:
                metrics.setdefault(list_kind, {}).setdefault(segment, {})[model] = model_metrics
    candidates = log.first_seen < q.cutoff[-1]
    return RegimeMetrics(
        metrics,
        pl.DataFrame(rows, metrics_schema("list", "by", "slice", "model")),
        exposure({model: lists[q.is_scored_new_list] for model, lists in lists_by_model.items()}, candidates),
        shown_by_group(log, histories, split, queries, lists_by_model),
    )


def _slices(log: EventLog, histories: Histories, split: Split, q: EvalQueries) -> Slices:
    """(list, by, slice) -> bool[R]. Events whose target had no event yet count only as `cold` (the target cannot be
    ranked) or as `first ever`."""
    events, segment = q.events[q.row_event], q.row_segment
    actor, target = log.actor[events], log.target[events]
    is_any, is_new = ~q.row_excludes_contacts & ~np.isin(segment, (COLD, FIRST_EVER)), q.is_scored_new_list
    masks: Slices = {("any", "segment", "all"): is_any}
    for k, name in enumerate(SEGMENTS[:FIRST_EVER]):
        masks["any", "segment", name] = ~q.row_excludes_contacts & (segment == k)
    masks["new", "segment", "new"] = is_new
    masks["new", "segment", SEGMENTS[FIRST_EVER]] = q.row_excludes_contacts & ~is_new
    masks["new", "segment", FIRST_CONTACTS] = q.row_excludes_contacts
    num_visible = log.count_before(q.cutoff[q.row_event])
    bucket = activity(histories, actor, num_visible)
    reciprocated = _is_reciprocated(log, events)
    for list_kind, base in (("any", is_any), ("new", is_new)):
        for k, name in enumerate(ACTIVITY):
            masks[list_kind, "events of the actor", name] = base & (bucket == k)
        for by, yes, no, chosen in (
            ("actor", *JOINED, joined(log, split, actor) == 0),
            ("target", *JOINED, joined(log, split, target) == 0),
            ("contact back", "later", "none", reciprocated),
        ):
            masks[list_kind, by, yes], masks[list_kind, by, no] = base & chosen, base & ~chosen
    return masks


def _is_reciprocated(log: EventLog, events: np.ndarray) -> np.ndarray:
    """bool[n]: whether the target contacts the actor later in the log. events: int64[n]."""
    reverse_pair = log.target[events].astype(np.int64) * log.num_users + log.actor[events]
    return time_of(log.last_contacts, reverse_pair, missing=-1) > log.timestamp[events]


def predictions(log: EventLog, queries: EvalQueries, lists: np.ndarray) -> pl.DataFrame:
    """The lists of a single model as a table: event (position in the log), list, users (external ids, best first).

    Only the rows that the protocol scores. lists: int32[R, k].
    """
    is_scored = ~queries.row_excludes_contacts | queries.is_scored_new_list
    queries = replace(
        queries, row_event=queries.row_event[is_scored], row_excludes_contacts=queries.row_excludes_contacts[is_scored]
    )
    lists = lists[is_scored]
    k = lists.shape[1]
    flat = lists.ravel()
    ids = log.user_ids.gather(flat[flat >= 0])
    row = np.repeat(np.arange(len(lists)), k)[flat >= 0]
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
