"""Example lists with reasons, made at the end of the log for one user of each activity group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from befriend import layout
from befriend.analysis.groups import ACTIVITY_GROUPS, activity_group
from befriend.api import Befriend
from befriend.data.event_log import DAY
from befriend.models.trained_clusters import USERS_FILE


@dataclass(frozen=True)
class ExampleUser:
    """An example user and their list."""

    user_id: Any
    """external id"""
    num_events: int
    days_since_joining: int
    stu: str
    """tokens of the user, joined by hyphens"""
    cluster: int
    recommended: list[tuple[Any, list[str]]]
    """external ids of the recommended users, best first, each with its reasons"""


def example_lists(api: Befriend, num_users: int, list_length: int) -> list[ExampleUser]:
    """Lists of users whom the example user has not contacted yet.

    Has at most num_users examples: of each activity group, the user who was active last.
    """
    log = api.log
    last_event = np.full(log.num_users, -1)
    last_event[log.actor] = np.arange(log.num_events)
    actors = np.flatnonzero(last_event >= 0)
    group = activity_group(api.models.activity.histories, actors, np.full(len(actors), log.num_events))
    users_by_group = [actors[group == index] for index in range(len(ACTIVITY_GROUPS))]
    example_users = [users[np.argmax(last_event[users])] for users in users_by_group if len(users)][:num_users]
    if not example_users:
        return []
    cluster = pl.read_parquet(api.root / layout.CLUSTERS / USERS_FILE)["cluster"]
    ids = log.user_ids.gather(example_users)
    lists = api.recommend(ids, k=list_length, new_only=True)
    end = int(log.timestamp[-1])
    examples = []
    for user, user_id in zip(example_users, ids, strict=True):
        recommended = lists.filter(user=user_id).sort("rank")["recommended"].drop_nulls()
        reasons = api.explain(user_id, recommended) if len(recommended) else []
        examples.append(
            ExampleUser(
                user_id=user_id,
                num_events=int(((log.actor == user) | (log.target == user)).sum()),
                days_since_joining=int((end - log.first_seen[user]) // DAY),
                stu="-".join(map(str, api.models.stus[user].tolist())),
                cluster=int(cluster[int(user)]),
                recommended=list(zip(recommended, reasons, strict=True)),
            )
        )
    return examples
