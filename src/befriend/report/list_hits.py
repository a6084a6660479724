"""How often the right person is among the first ten of a list: for all users and by group of users, with ranges.

Computed from the lists that stage evaluate wrote. Each list of people you may know (list `new`) was made for one event,
the first contact between two users. It is a hit if the user who was contacted is among its first ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from befriend import layout
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.groups import ACTIVITY_GROUPS, activity_group
from befriend.analysis.metric_tables import LEARNED, SERVED_MODEL
from befriend.data.event_log import EventLog
from befriend.data.regimes import Regime
from befriend.data.split import read_split
from befriend.evaluation.metrics import UserBootstrap
from befriend.evaluation.protocol import event_cutoffs
from befriend.features.histories import Histories
from befriend.report.run_results import RunResults

TOP_K = 10  # users at the top of each list that count
NEWCOMERS, NO_EVENT, FEW_EVENTS, MANY_EVENTS = USER_GROUPS = ("newcomers", "no event", "few events", "many events")
"""Groups of the users who get the lists: newcomers, who joined after training; and by the number of their events when
the list is made, none, less than MANY, or more."""
MANY = 20  # events


@dataclass(frozen=True)
class HitRate:
    """The share of lists that are hits, or the difference of two such shares, and its confidence interval."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupHits:
    """How often the lists of a group of users are hits."""

    num_lists: int
    served: HitRate | None
    """of the served ranker; None without lists"""
    rule: HitRate | None
    """of the rule that is best for all users; None without lists"""


@dataclass(frozen=True)
class RegimeHits:
    """How often the lists of one regime are hits."""

    regime: Regime
    num_lists: int
    served: HitRate
    """of the served ranker"""
    rule_name: str
    """the rule with the most hits on these lists"""
    rule: HitRate
    gain: HitRate
    """the share of the served ranker minus that of the rule, on the same lists"""
    chance: float
    """expected share of hits of TOP_K users drawn at random from all others with a visible event"""
    groups: dict[str, GroupHits]
    """by name, in the order of USER_GROUPS"""
    first_second: int
    """time of the first event for which a list was made, UTC second"""
    last_second: int


def measure_hits(root: Path, run: RunResults) -> list[RegimeHits]:
    """The hits of all regimes that have lists `new`, in the order of `REGIMES`. root: folder of the project."""
    log = EventLog.read(root / layout.PREPARED)
    split = read_split(root / layout.PREPARED, log)
    histories = Histories.of(log)
    first_seen = np.sort(log.first_seen)
    settings: EvaluateSettings = run.params.evaluate
    measured = []
    for regime in run.regimes:
        rule = rule_with_most_hits(run, regime)
        if rule is None:
            continue
        lists = {name: root / layout.PREDICTIONS / name / f"{regime}.parquet" for name in (SERVED_MODEL, rule)}
        (events, served_hits), (_, rule_hits) = (_read_hits(path, log) for path in lists.values())
        actor, cutoff = log.actor[events], event_cutoffs(log, split, settings.part, events, regime)
        # users with an event before the cutoff, without the actor
        num_candidates = np.searchsorted(first_seen, cutoff) - (log.first_seen[actor] < cutoff)
        activity = activity_group(histories, actor, log.count_before(cutoff))
        masks = {NEWCOMERS: log.first_seen[actor] >= split.t_validation} | activity_masks(activity)
        (served, rule_rate, gain), groups = hit_rates(actor, served_hits, rule_hits, masks, settings)
        measured.append(
            RegimeHits(
                regime=regime,
                num_lists=len(events),
                served=served,
                rule_name=rule,
                rule=rule_rate,
                gain=gain,
                chance=float((TOP_K / np.maximum(num_candidates, TOP_K)).mean()),
                groups=groups,
                first_second=int(log.timestamp[events].min()),
                last_second=int(log.timestamp[events].max()),
            )
        )
    return measured


def rule_with_most_hits(run: RunResults, regime: Regime) -> str | None:
    """The baseline rule with the highest Hit@10 on list `new`, then NDCG@10; None without such lists."""
    metrics = {name: m for name, m in run.metrics_by_model("new", regime).items() if name not in LEARNED}
    return max(metrics, key=lambda name: (metrics[name]["hit@10"], metrics[name]["ndcg@10"]), default=None)


def activity_masks(activity: np.ndarray) -> dict[str, np.ndarray]:
    """NO_EVENT, FEW_EVENTS and MANY_EVENTS -> bool[n]. activity: int64[n], index into ACTIVITY_GROUPS."""
    minimum = np.array(list(ACTIVITY_GROUPS.values()))[activity]
    return {NO_EVENT: minimum == 0, FEW_EVENTS: (minimum > 0) & (minimum < MANY), MANY_EVENTS: minimum >= MANY}


def hit_rates(
    users: np.ndarray,
    served_hits: np.ndarray,
    rule_hits: np.ndarray,
    masks: Mapping[str, np.ndarray],
    settings: EvaluateSettings,
) -> tuple[list[HitRate], dict[str, GroupHits]]:
    """Rates of lists, with intervals by bootstrap over users: those of all lists, and the hits of each group.

    The rates of all lists are three: of the served ranker, of the rule, and their difference.

    users: int[R], the user who gets each list; served_hits, rule_hits: bool[R]; masks: group -> bool[R].
    """
    values = np.stack([served_hits, rule_hits]).astype(np.float64)
    values = np.concatenate([values, values[:1] - values[1:]])
    bootstrap = UserBootstrap(users, settings.bootstrap, settings.confidence, settings.seed)

    def rates(mask: np.ndarray) -> list[HitRate]:
        bounds = bootstrap.intervals(values, mask)
        means = values[:, mask].mean(axis=1)
        return [HitRate(*(round(float(x), 6) for x in row)) for row in np.column_stack([means, bounds])]

    groups = {}
    for name, mask in masks.items():
        served, rule = rates(mask)[:2] if mask.any() else (None, None)
        groups[name] = GroupHits(int(mask.sum()), served, rule)
    return rates(np.ones(len(users), bool)), groups


def _read_hits(path: Path, log: EventLog) -> tuple[np.ndarray, np.ndarray]:
    """Events of the lists `new` of a model, int64[R], indices into the log; and whether each list is a hit, bool[R]."""
    lists = pl.read_parquet(path).filter(list="new")
    events = lists["event"].to_numpy()
    target = log.user_ids.gather(log.target[events]).alias("target")
    top_users = pl.col("users").list.head(TOP_K)
    return events, lists.with_columns(target).select(top_users.list.contains(pl.col("target"))).to_series().to_numpy()
