"""Lists in, figures out: per model, list and slice of the events, with intervals; coverage and exposure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from befriend.config import EvaluateSettings
from befriend.data.columns import USER_ID
from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.data.split import SEGMENTS, Split, time_of
from befriend.evaluation.exposure import exposure, shown_by_group
from befriend.evaluation.groups import ACTIVITY, JOINED, UNSEEN, activity, joined
from befriend.evaluation.metrics import METRICS, UserBootstrap, per_list
from befriend.evaluation.protocol import COLD, FIRST_EVER, Questions, ranks

NEWCOMERS, FIRST_CONTACTS = "newcomers", "first contacts"
FIGURES = ("n", *METRICS, f"{METRICS[0]}_low", f"{METRICS[0]}_high")
Slices = dict[tuple[str, str, str], np.ndarray]


@dataclass(frozen=True)
class Measured:
    """Figures of one regime."""

    metrics: dict[str, Any]
    """list -> segment -> model -> n, each metric, and the bounds of NDCG@10. Beside the segments of the protocol there
    are `newcomers`, the events of actors unseen in training, and of lists as they are served `first ever`, whose
    targets had no event, and `first contacts`, these and those of segment new"""
    slices: pl.DataFrame
    """list, by, slice, model, n, metrics, bounds: the segments and every other cut of the events"""
    exposure: pl.DataFrame
    """model, users_covered (share of candidates on some top 10 of list new), exposure_gini"""
    shown: pl.DataFrame
    """by, group, model, and the shares of a group among candidates, people contacted, and people shown"""


def figures_schema(*labels: str) -> dict[str, Any]:
    """Columns of a table of figures: labels, then FIGURES."""
    columns: dict[str, Any] = dict.fromkeys(labels, pl.String)
    return columns | {name: pl.Int64 if name == "n" else pl.Float64 for name in FIGURES}


def measure(
    log: EventLog,
    histories: Histories,
    split: Split,
    questions: Questions,
    lists: dict[str, np.ndarray],
    served: dict[str, np.ndarray],
    settings: EvaluateSettings,
) -> Measured:
    """lists, served: model -> int32[R, k], a row for each row of the questions: among people who have an event, and as
    they are served."""
    q = questions
    events = q.events[q.row_event]
    bootstrap = UserBootstrap(log.actor[events], settings.bootstrap, settings.confidence, settings.seed)
    nothing = np.empty((0, len(events)))
    tables = {
        kind: np.concatenate([nothing, *(per_list(ranks(x, log.target[events])) for x in of.values())])
        for kind, of in (("lists", lists), ("served", served))
    }  # (models * METRICS, R)
    metrics: dict[str, Any] = {}
    rows = []
    for (kind, by, name), chosen in _slices(log, histories, split, q).items():
        if not chosen.any():
            continue
        as_served = name in (SEGMENTS[FIRST_EVER], FIRST_CONTACTS)
        models, values = list(served if as_served else lists), tables["served" if as_served else "lists"]
        means = values[:, chosen].mean(axis=1).reshape(len(models), len(METRICS))
        bounds = bootstrap.intervals(values[:: len(METRICS)], chosen)
        for k, model in enumerate(models):
            figures = {"n": int(chosen.sum())} | {m: round(float(x), 6) for m, x in zip(METRICS, means[k], strict=True)}
            figures |= {
                f"{METRICS[0]}_{end}": round(float(x), 6) for end, x in zip(("low", "high"), bounds[k], strict=True)
            }
            rows.append({"list": kind, "by": by, "slice": name, "model": model} | figures)
            told = name if by == "segment" else NEWCOMERS if (by, name) == ("actor", UNSEEN) else None
            if told:
                metrics.setdefault(kind, {}).setdefault(told, {})[model] = figures
    candidates = log.first_seen < q.horizon[-1]
    return Measured(
        metrics,
        pl.DataFrame(rows, figures_schema("list", "by", "slice", "model")),
        exposure({model: table[q.scored_new] for model, table in lists.items()}, candidates),
        shown_by_group(log, histories, split, questions, lists),
    )


def _slices(log: EventLog, histories: Histories, split: Split, q: Questions) -> Slices:
    """(list, by, slice) -> bool[R]. Events whose target has no event count only as `cold`, which nobody can rank, or as
    `first ever`."""
    events, segment = q.events[q.row_event], q.row_segment
    actor, target = log.actor[events], log.target[events]
    is_any, is_new = ~q.row_is_new & ~np.isin(segment, (COLD, FIRST_EVER)), q.scored_new
    out: Slices = {("any", "segment", "all"): is_any}
    for k, name in enumerate(SEGMENTS[:FIRST_EVER]):
        out["any", "segment", name] = ~q.row_is_new & (segment == k)
    out["new", "segment", "new"] = is_new
    out["new", "segment", SEGMENTS[FIRST_EVER]] = q.row_is_new & ~is_new
    out["new", "segment", FIRST_CONTACTS] = q.row_is_new
    visible = log.before(q.horizon[q.row_event])
    bucket = activity(histories, actor, visible)
    answered = _answered(log, events)
    for kind, base in (("any", is_any), ("new", is_new)):
        for k, name in enumerate(ACTIVITY):
            out[kind, "events of the actor", name] = base & (bucket == k)
        for by, yes, no, chosen in (
            ("actor", *JOINED, joined(log, split, actor) == 0),
            ("target", *JOINED, joined(log, split, target) == 0),
            ("contact back", "later", "none", answered),
        ):
            out[kind, by, yes], out[kind, by, no] = base & chosen, base & ~chosen
    return out


def _answered(log: EventLog, events: np.ndarray) -> np.ndarray:
    """bool: whether the target contacts the actor at a later time in the log."""
    back = log.target[events].astype(np.int64) * log.num_users + log.actor[events]
    return time_of(log.last_contacts, back, missing=-1) > log.timestamp[events]


def predictions(log: EventLog, questions: Questions, lists: np.ndarray) -> pl.DataFrame:
    """The lists of one model as a table: event (position in the log), list, users (original ids, best first).

    With the rows that the protocol scores, and no others.
    """
    kept = ~questions.row_is_new | questions.scored_new
    questions = replace(questions, row_event=questions.row_event[kept], row_is_new=questions.row_is_new[kept])
    lists = lists[kept]
    k = lists.shape[1]
    flat = lists.ravel()
    ids = log.user_ids.gather(flat[flat >= 0])
    row = np.repeat(np.arange(len(lists)), k)[flat >= 0]
    users = pl.DataFrame({"row": row, USER_ID: ids}).group_by("row", maintain_order=True).agg(USER_ID)
    base = pl.DataFrame(
        {
            "row": np.arange(len(lists)),
            "event": questions.events[questions.row_event],
            "list": pl.Series(np.where(questions.row_is_new, "new", "any")),
        }
    )
    joined = base.join(users, on="row", how="left", maintain_order="left")
    return joined.select("event", "list", pl.col(USER_ID).fill_null([]).alias("users"))
