"""Example lists at the end of the log, with reasons: for a user of each activity level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from befriend import layout
from befriend.analysis.groups import ACTIVITY, activity
from befriend.api import Befriend
from befriend.data.event_log import DAY
from befriend.models.trained_clusters import USERS_FILE


@dataclass(frozen=True)
class ExampleUser:
    """An example user and their list."""

    user: Any
    """external id"""
    events: int
    days: int
    """since the user joined"""
    stu: str
    cluster: int
    people: list[tuple[Any, list[str]]]
    """external ids of the recommended users, best first, each with the reasons"""


def example_lists(api: Befriend, count: int, k: int) -> list[ExampleUser]:
    """Lists of k users not contacted yet, for at most `count` users: the last active one of each activity level."""
    log = api.log
    last_event = np.full(log.num_users, -1)
    last_event[log.actor] = np.arange(log.num_events)
    actors = np.flatnonzero(last_event >= 0)
    level = activity(api.models.activity.histories, actors, np.full(len(actors), log.num_events))
    users_by_level = [actors[level == index] for index in range(len(ACTIVITY))]
    chosen = [users[np.argmax(last_event[users])] for users in users_by_level if len(users)][:count]
    if not chosen:
        return []
    cluster = pl.read_parquet(api.root / layout.CLUSTERS / USERS_FILE)["cluster"]
    ids = log.user_ids.gather(chosen)
    lists = api.recommend(ids, k=k, new_only=True)
    now = int(log.timestamp[-1])
    examples = []
    for user, user_id in zip(chosen, ids, strict=True):
        recommended = lists.filter(user=user_id).sort("rank")["recommended"].drop_nulls()
        reasons = api.explain(user_id, recommended) if len(recommended) else []
        examples.append(
            ExampleUser(
                user=user_id,
                events=int(((log.actor == user) | (log.target == user)).sum()),
                days=int((now - log.first_seen[user]) // DAY),
                stu="-".join(map(str, api.models.stus[user].tolist())),
                cluster=int(cluster[int(user)]),
                people=list(zip(recommended, reasons, strict=True)),
            )
        )
    return examples
