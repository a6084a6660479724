"""A card for each cluster: its size, growth and actions, its most connected users, and the clusters it contacts."""

from __future__ import annotations

from typing import Any

import numpy as np

from befriend.data.event_log import DAY, EventLog

GROWTH = 30 * DAY
NAMED = 3  # actions, users and clusters on a card, at most


def summarize_clusters(log: EventLog, cluster_of_user: np.ndarray, count: int) -> list[dict[str, Any]]:
    """A card for each cluster with users, the largest first. cluster_of_user: int64[N]; count: number of clusters.

    cluster; users; share of all users; joined, the share of its users who joined within the last 30 days; within, the
    share of its contact events that stay inside; actions, up to three with share and lift (relative to all events);
    central, up to three external ids with the most contacts inside; neighbours, up to three clusters with their share
    of the contact events that leave.
    """
    size = np.bincount(cluster_of_user, minlength=count)
    is_recent = log.first_seen >= log.timestamp[-1] - GROWTH
    joined = np.bincount(cluster_of_user[is_recent], minlength=count)
    actor, target = cluster_of_user[log.actor], cluster_of_user[log.target]
    is_contact = log.is_contact
    traffic = np.bincount(actor[is_contact] * count + target[is_contact], minlength=count * count).reshape(count, count)
    actions = np.bincount(actor * len(log.actions) + log.action, minlength=count * len(log.actions))
    actions = actions.reshape(count, len(log.actions))
    overall_share = actions.sum(0) / max(actions.sum(), 1)
    is_inside = is_contact & (actor == target)
    pairs = np.unique(
        np.concatenate([_pairs(log, log.actor, log.target, is_inside), _pairs(log, log.target, log.actor, is_inside)])
    )
    degree = np.bincount(pairs // log.num_users, minlength=log.num_users)
    cards = []
    for c in np.argsort(-size, kind="stable")[: int((size > 0).sum())]:
        members = np.flatnonzero(cluster_of_user == c)
        exchanged = traffic[c] + traffic[:, c]
        leaving = exchanged.sum() - exchanged[c]
        action_share = actions[c] / max(actions[c].sum(), 1)
        neighbours = [
            int(n) for n in np.argsort(-np.where(np.arange(count) == c, -1, exchanged), kind="stable")[:NAMED]
        ]
        central = members[np.argsort(-degree[members], kind="stable")[:NAMED]]
        cards.append(
            {
                "cluster": int(c),
                "users": int(size[c]),
                "share": round(float(size[c] / len(cluster_of_user)), 6),
                "joined": round(float(joined[c] / size[c]), 6),
                "within": round(float(traffic[c, c] / max(traffic[c, c] + leaving, 1)), 6),
                "actions": [
                    {
                        "action": log.actions[a],
                        "share": round(float(action_share[a]), 6),
                        "lift": round(float(action_share[a] / overall_share[a]), 3),
                    }
                    for a in np.argsort(-action_share, kind="stable")[:NAMED]
                    if action_share[a] > 0
                ],
                "central": [log.user_ids[int(u)] for u in central if degree[u]],
                "neighbours": [
                    {"cluster": n, "share": round(float(exchanged[n] / leaving), 6)}
                    for n in neighbours
                    if n != c and exchanged[n]
                ],
            }
        )
    return cards


def _pairs(log: EventLog, first: np.ndarray, second: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """int64: pairs of internal ids of the chosen events, each as first * users + second."""
    return first[chosen].astype(np.int64) * log.num_users + second[chosen]
