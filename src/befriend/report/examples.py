"""Lists as people would get them now, with their reasons: one user of each degree of activity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from befriend import layout
from befriend.api import Befriend
from befriend.data.activity import DAY
from befriend.evaluation.groups import ACTIVITY, activity
from befriend.models.cluster_folder import USERS_FILE


@dataclass(frozen=True)
class Example:
    user: Any
    events: int
    days: int
    """since the user joined"""
    stu: str
    cluster: int
    people: list[tuple[Any, list[str]]]
    """who is recommended, best first, and why"""


def examples(people: Befriend, count: int, k: int) -> list[Example]:
    """People not met yet, for `count` users at most: of each degree of activity, whoever was active last."""
    log = people.log
    last = np.full(log.num_users, -1)
    last[log.actor] = np.arange(log.num_events)
    everyone = np.flatnonzero(last >= 0)
    degree = activity(people.models.activity.histories, everyone, np.full(len(everyone), log.num_events))
    alike = [everyone[degree == which] for which in range(len(ACTIVITY))]
    chosen = [users[np.argmax(last[users])] for users in alike if len(users)][:count]
    if not chosen:
        return []
    cluster = pl.read_parquet(people.root / layout.CLUSTERS / USERS_FILE)["cluster"]
    ids = log.user_ids.gather(chosen)
    lists = people.recommend(ids, k=k, new_only=True)
    now = int(log.timestamp[-1])
    found = []
    for user, person in zip(chosen, ids, strict=True):
        listed = lists.filter(user=person).sort("rank")["recommended"].drop_nulls()
        reasons = people.explain(person, listed) if len(listed) else []
        found.append(
            Example(
                user=person,
                events=int(((log.actor == user) | (log.target == user)).sum()),
                days=int((now - log.first_seen[user]) // DAY),
                stu="-".join(map(str, people.models.stus[user].tolist())),
                cluster=int(cluster[int(user)]),
                people=list(zip(listed, reasons, strict=True)),
            )
        )
    return found
