"""What a cluster is like: its size, its growth, what its people do, who is in the middle, with whom they have to do."""

from __future__ import annotations

from typing import Any

import numpy as np

from befriend.data.activity import DAY
from befriend.data.log import EventLog

GROWTH = 30 * DAY
NAMED = 3


def cards(log: EventLog, of: np.ndarray, count: int) -> list[dict[str, Any]]:
    """A card for each cluster with users, the largest first. of: int64[N], the cluster of each user.

    cluster; users; share, of all; joined, the share of them who came within the last 30 days; within, the share of
    their contact events that stay inside; actions, up to three with share and lift (beside all events); central, up to
    three ids with most contacts inside; neighbours, up to three clusters with the share of the events that leave.
    """
    size = np.bincount(of, minlength=count)
    recent = log.first_seen >= log.timestamp[-1] - GROWTH
    joined = np.bincount(of[recent], minlength=count)
    actor, target = of[log.actor], of[log.target]
    contact = log.is_contact
    traffic = np.bincount(actor[contact] * count + target[contact], minlength=count * count).reshape(count, count)
    done = np.bincount(actor * len(log.actions) + log.action, minlength=count * len(log.actions))
    done = done.reshape(count, len(log.actions))
    usual = done.sum(0) / max(done.sum(), 1)
    inside = contact & (actor == target)
    pairs = np.unique(
        np.concatenate([_pairs(log, log.actor, log.target, inside), _pairs(log, log.target, log.actor, inside)])
    )
    degree = np.bincount(pairs // log.num_users, minlength=log.num_users)
    found = []
    for c in np.argsort(-size, kind="stable")[: int((size > 0).sum())]:
        members = np.flatnonzero(of == c)
        both = traffic[c] + traffic[:, c]
        out = both.sum() - both[c]
        acts = done[c] / max(done[c].sum(), 1)
        others = [int(n) for n in np.argsort(-np.where(np.arange(count) == c, -1, both), kind="stable")[:NAMED]]
        middle = members[np.argsort(-degree[members], kind="stable")[:NAMED]]
        found.append(
            {
                "cluster": int(c),
                "users": int(size[c]),
                "share": round(float(size[c] / len(of)), 6),
                "joined": round(float(joined[c] / size[c]), 6),
                "within": round(float(traffic[c, c] / max(traffic[c, c] + out, 1)), 6),
                "actions": [
                    {
                        "action": log.actions[a],
                        "share": round(float(acts[a]), 6),
                        "lift": round(float(acts[a] / usual[a]), 3),
                    }
                    for a in np.argsort(-acts, kind="stable")[:NAMED]
                    if acts[a] > 0
                ],
                "central": [log.user_ids[int(u)] for u in middle if degree[u]],
                "neighbours": [
                    {"cluster": n, "share": round(float(both[n] / out), 6)} for n in others if n != c and both[n]
                ],
            }
        )
    return found


def _pairs(log: EventLog, one: np.ndarray, other: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return one[chosen].astype(np.int64) * log.num_users + other[chosen]
