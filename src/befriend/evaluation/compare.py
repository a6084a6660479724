"""Two runs on the events that both of them evaluated: differences with paired intervals, and where they are largest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from befriend.data.columns import USER_ID
from befriend.data.log import EventLog
from befriend.data.split import SEGMENTS, read_split, segments
from befriend.errors import DataError
from befriend.evaluation.metrics import METRICS, UserBootstrap, per_list
from befriend.evaluation.protocol import COLD, horizons
from befriend.evaluation.regimes import REGIMES, Regime

RESAMPLINGS, CONFIDENCE = 1000, 0.95
EVENT = ["actor", "action", "target", "timestamp", "turn", "list"]
"""what tells an event of the log, whatever the position it has there; turn: of several in one second"""


@dataclass(frozen=True)
class Compared:
    """Two runs side by side. Intervals are of the difference, over users drawn with replacement."""

    figures: pl.DataFrame
    """regime, list, segment, n, and for each metric a, b, difference, low and high"""
    events: pl.DataFrame
    """regime, list, actor, action, target, timestamp, rank_a, rank_b (null: not on the list), change of NDCG@10; those
    that differ most come first"""


def compare(a: Path, b: Path, model: str, other: str | None = None, most: int = 10, seed: int = 0) -> Compared:
    """a, b: folders with prepared/ and reports/ of a run; model: whose lists; other: of b, where it is another one.

    Events are those that both evaluated on the same list; segments are those of b. DataError where there are none.
    """
    figures, events = [], []
    runs = [(run, name, EventLog.read(run / "prepared")) for run, name in ((a, model), (b, other or model))]
    for regime in REGIMES:
        one, two = (_ranks(run, name, log, regime) for run, name, log in runs)
        if one is None or two is None:
            continue
        both = two.join(one.select(*EVENT, "rank"), on=EVENT, suffix="_a", nulls_equal=True, maintain_order="left")
        if not both.height:
            continue
        values_a, values_b = (per_list(both[name].to_numpy()) for name in ("rank_a", "rank"))
        draw = UserBootstrap(both["actor"].rank("dense").to_numpy(), RESAMPLINGS, CONFIDENCE, seed)
        for kind, segment, chosen in _slices(both):
            if not chosen.any():
                continue
            row: dict[str, object] = {"regime": regime, "list": kind, "segment": segment, "n": int(chosen.sum())}
            bounds = draw.intervals(values_b - values_a, chosen)
            for k, metric in enumerate(METRICS):
                mean_a, mean_b = values_a[k][chosen].mean(), values_b[k][chosen].mean()
                told = (mean_a, mean_b, mean_b - mean_a, *bounds[k])
                names = ("a", "b", "difference", "low", "high")
                row |= {f"{metric} {name}": round(float(x), 6) for name, x in zip(names, told, strict=True)}
            figures.append(row)
        change = pl.Series("change", values_b[0] - values_a[0])
        shown = both.with_columns(change, regime=pl.lit(regime)).filter(pl.col("change") != 0)
        events.append(shown.sort(pl.col("change").abs(), "timestamp", descending=[True, False])[:most])
    if not figures:
        raise DataError(
            f"no event was evaluated in both runs with lists of {model}{f' and {other}' if other else ''}: there is "
            "nothing to compare."
        )
    ranks = {
        f"rank_{run}": pl.when(pl.col(name).is_finite()).then(pl.col(name)).cast(pl.Int64)
        for run, name in (("a", "rank_a"), ("b", "rank"))
    }
    table = pl.concat(events).sort(pl.col("change").abs(), "timestamp", descending=[True, False])[:most]
    columns = ["regime", "list", "actor", "action", "target", "timestamp"]
    return Compared(pl.DataFrame(figures), table.select(*columns, **ranks, change=pl.col("change").round(4)))


def _slices(both: pl.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """(list, segment, bool[R]): as in metrics.json."""
    new, segment = (both["list"] == "new").to_numpy(), both["segment"].to_numpy()
    found = [("new", "new", new), ("any", "all", ~new & (segment != COLD))]
    found += [("any", name, ~new & (segment == k)) for k, name in enumerate(SEGMENTS) if k != COLD]
    late = both["newcomer"].to_numpy()
    return [*found, ("new", "newcomers", new & late), ("any", "newcomers", ~new & late & (segment != COLD))]


def _ranks(run: Path, model: str, log: EventLog, regime: Regime) -> pl.DataFrame | None:
    """EVENT, segment, newcomer, rank (inf: missed) for each list of a model; None where the regime was left out."""
    folder = run / "reports" / "predictions"
    if not (folder / model).is_dir():
        known = ", ".join(sorted(path.name for path in folder.glob("*"))) or "none"
        raise DataError(f"there are no lists of {model} in {run}. Models with lists: {known}.")
    path = folder / model / f"{regime}.parquet"
    if not path.is_file():
        return None
    split = read_split(run / "prepared", log)
    lists = pl.read_parquet(path)
    events = lists["event"].to_numpy()
    part = next(name for name in ("train", "validation", "test") if events[0] < split.part(name)[1])
    target = log.user_ids.gather(log.target[events])
    place = (
        pl.DataFrame({"row": np.arange(len(events)), USER_ID: lists["users"], "target": target})
        .explode(USER_ID)
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over("row"))
        .filter(pl.col(USER_ID) == pl.col("target"))
    )
    rank = np.full(len(events), np.inf)
    rank[place["row"].to_numpy()] = place["rank"].to_numpy()
    return pl.DataFrame(
        {
            "actor": log.user_ids.gather(log.actor[events]),
            "action": np.array(log.actions)[log.action[events]],
            "target": target,
            "timestamp": log.timestamp[events],
            "list": lists["list"],
            "segment": segments(log, events, horizons(log, split, part, events, regime)),
            "newcomer": log.first_seen[log.actor[events]] >= split.t_validation,
            "rank": rank,
        }
    ).with_columns(turn=pl.int_range(pl.len()).over("actor", "action", "target", "timestamp", "list"))
