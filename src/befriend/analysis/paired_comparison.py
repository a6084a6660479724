"""Compares two runs on the events that both evaluated: differences of metrics, and the events that changed most.

A run is a prepared log with the models that were trained on it, and their reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from befriend.analysis.metric_tables import FEW_LISTS
from befriend.data.columns import USER_ID
from befriend.data.event_log import EventLog
from befriend.data.regimes import REGIMES, Regime
from befriend.data.split import COLD, SEGMENTS, read_split, segments
from befriend.errors import DataError
from befriend.evaluation.metrics import METRICS, UserBootstrap, metrics_per_list
from befriend.evaluation.protocol import event_cutoffs

RESAMPLINGS, CONFIDENCE = 1000, 0.95
MAX_WINDOWS = 5  # of time, in which differences are looked at one by one
EVENT_KEY = ["actor", "action", "target", "timestamp", "occurrence", "list"]
"""columns that identify a list by its event, whatever the event's index in the log; occurrence: 0 for the first of
several events that are equal in all other columns, 1 for the next"""


@dataclass(frozen=True)
class PairedComparison:
    """The metrics of two runs on the same events."""

    metrics: pl.DataFrame
    """regime, list, segment, n; and for each metric: a, b, difference (b minus a), and low and high, the confidence
    interval of the mean difference by bootstrap over users; and windows, the differences of NDCG@10 in windows of time,
    see `window_differences`"""
    events: pl.DataFrame
    """regime, list, actor, action, target, timestamp, rank_a, rank_b (null: not on the list), change of NDCG@10; the
    largest changes first"""


def compare_runs(
    a: Path, b: Path, model: str, model_b: str | None = None, max_events: int = 10, seed: int = 0
) -> PairedComparison:
    """Compares the lists of `model` in run a with those of `model_b` (`model` if None) in run b.

    a, b: folders with prepared/ and reports/ of a run; max_events: maximum length of the table of changed events. Only
    events that both runs evaluated on the same kind of list are compared. Their segments are those of run b. Raises
    DataError if there are none.
    """
    metrics, events = [], []
    runs = [(run, name, EventLog.read(run / "prepared")) for run, name in ((a, model), (b, model_b or model))]
    for regime in REGIMES:
        ranks_a, ranks_b = (_ranks(run, name, log, regime) for run, name, log in runs)
        if ranks_a is None or ranks_b is None:
            continue
        paired = ranks_b.join(
            ranks_a.select(*EVENT_KEY, "rank"), on=EVENT_KEY, suffix="_a", nulls_equal=True, maintain_order="left"
        )
        if not paired.height:
            continue
        values_a, values_b = (metrics_per_list(paired[name].to_numpy()) for name in ("rank_a", "rank"))
        bootstrap = UserBootstrap(paired["actor"].rank("dense").to_numpy(), RESAMPLINGS, CONFIDENCE, seed)
        for list_kind, segment, mask in _slice_masks(paired):
            if not mask.any():
                continue
            row: dict[str, object] = {"regime": regime, "list": list_kind, "segment": segment, "n": int(mask.sum())}
            bounds = bootstrap.intervals(values_b - values_a, mask)
            for k, metric in enumerate(METRICS):
                mean_a, mean_b = values_a[k][mask].mean(), values_b[k][mask].mean()
                values = (mean_a, mean_b, mean_b - mean_a, *bounds[k])
                names = ("a", "b", "difference", "low", "high")
                row |= {f"{metric} {name}": round(float(x), 6) for name, x in zip(names, values, strict=True)}
            time = paired["timestamp"].to_numpy()[mask]
            row["windows"] = window_differences((values_b[0] - values_a[0])[mask], time)
            metrics.append(row)
        change = pl.Series("change", values_b[0] - values_a[0])
        changed = paired.with_columns(change, regime=pl.lit(regime)).filter(pl.col("change") != 0)
        events.append(changed.sort(pl.col("change").abs(), "timestamp", descending=[True, False])[:max_events])
    if not metrics:
        raise DataError(
            f"no event was evaluated in both runs with lists of {model}{f' and {model_b}' if model_b else ''}: there "
            "is nothing to compare."
        )
    ranks = {
        f"rank_{run}": pl.when(pl.col(name).is_finite()).then(pl.col(name)).cast(pl.Int64)
        for run, name in (("a", "rank_a"), ("b", "rank"))
    }
    table = pl.concat(events).sort(pl.col("change").abs(), "timestamp", descending=[True, False])[:max_events]
    columns = ["regime", "list", "actor", "action", "target", "timestamp"]
    schema = {"windows": pl.List(pl.Float64)}
    return PairedComparison(
        pl.DataFrame(metrics, schema_overrides=schema),
        table.select(*columns, **ranks, change=pl.col("change").round(4)),
    )


def window_differences(difference: np.ndarray, timestamp: np.ndarray) -> list[float]:
    """The mean difference in each of several consecutive windows of time, with about as many lists each.

    There are as many windows, at most MAX_WINDOWS, as have FEW_LISTS lists each; at least one. A difference that holds
    in most of them is not that of a single day. difference: float64[n], one for each list; timestamp: int64[n].
    """
    num_windows = min(MAX_WINDOWS, max(1, len(difference) // FEW_LISTS))
    in_order = difference[np.argsort(timestamp, kind="stable")]
    return [round(float(window.mean()), 6) for window in np.array_split(in_order, num_windows)]


def _slice_masks(paired: pl.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """(list, segment, bool[R]): which rows of the table are in each list and segment of metrics.json.

    Without segment cold, and without the segments that are measured on lists as served (with cold-start users).
    """
    is_new, segment = (paired["list"] == "new").to_numpy(), paired["segment"].to_numpy()
    masks = [("new", "new", is_new), ("any", "all", ~is_new & (segment != COLD))]
    masks += [("any", name, ~is_new & (segment == k)) for k, name in enumerate(SEGMENTS) if k != COLD]
    is_newcomer = paired["is_newcomer"].to_numpy()
    return [
        *masks,
        ("new", "newcomers", is_new & is_newcomer),
        ("any", "newcomers", ~is_new & is_newcomer & (segment != COLD)),
    ]


def _ranks(run: Path, model: str, log: EventLog, regime: Regime) -> pl.DataFrame | None:
    """A row for each list of a model: EVENT_KEY, segment, is_newcomer (the actor), rank of the target (or inf).

    Returns None if the run did not evaluate the regime. Raises DataError if it has no lists of the model.
    """
    folder = run / "reports" / "predictions"
    if not (folder / model).is_dir():
        available = ", ".join(sorted(path.name for path in folder.glob("*"))) or "none"
        raise DataError(f"there are no lists of {model} in {run}. Models with lists: {available}.")
    path = folder / model / f"{regime}.parquet"
    if not path.is_file():
        return None
    split = read_split(run / "prepared", log)
    lists = pl.read_parquet(path)
    events = lists["event"].to_numpy()
    part = next(name for name in ("train", "validation", "test") if events[0] < split.part(name)[1])
    target = log.user_ids.gather(log.target[events])
    hits = (
        pl.DataFrame({"row": np.arange(len(events)), USER_ID: lists["users"], "target": target})
        .explode(USER_ID)
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over("row"))
        .filter(pl.col(USER_ID) == pl.col("target"))
    )
    rank = np.full(len(events), np.inf)
    rank[hits["row"].to_numpy()] = hits["rank"].to_numpy()
    return pl.DataFrame(
        {
            "actor": log.user_ids.gather(log.actor[events]),
            "action": np.array(log.actions)[log.action[events]],
            "target": target,
            "timestamp": log.timestamp[events],
            "list": lists["list"],
            "segment": segments(log, events, event_cutoffs(log, split, part, events, regime)),
            "is_newcomer": log.first_seen[log.actor[events]] >= split.t_validation,
            "rank": rank,
        }
    ).with_columns(occurrence=pl.int_range(pl.len()).over("actor", "action", "target", "timestamp", "list"))
