"""Cluster summaries: size, growth, most frequent actions, most connected users, and neighbouring clusters.

| key | value |
|---|---|
| cluster | index of the cluster |
| users, share | number of its users, and their share of all users |
| joined | share of its users whose first event is at most 30 days before the end of the log |
| within | share of its users' contact events whose actor and target are both in the cluster |
| actions | up to three most frequent actions, each with share and lift (its share divided by that in all events) |
| central | external ids of up to three users with the most contacts within the cluster |
| neighbours | up to three clusters, each with its share of the contact events that leave or enter the cluster |
"""

from __future__ import annotations

from typing import Any

import numpy as np

from befriend.data.event_log import DAY, EventLog

GROWTH_PERIOD = 30 * DAY
MAX_ENTRIES = 3  # maximum number of actions, of users and of neighbours in a summary


def summarize_clusters(log: EventLog, cluster_of_user: np.ndarray, num_clusters: int) -> list[dict[str, Any]]:
    """A summary (see the module) of each cluster that has users, the largest first. cluster_of_user: int64[N]."""
    size = np.bincount(cluster_of_user, minlength=num_clusters)
    has_joined_recently = log.first_seen >= log.timestamp[-1] - GROWTH_PERIOD
    num_joined = np.bincount(cluster_of_user[has_joined_recently], minlength=num_clusters)
    actor_cluster, target_cluster = cluster_of_user[log.actor], cluster_of_user[log.target]
    is_contact = log.is_contact
    cluster_pairs = actor_cluster[is_contact] * num_clusters + target_cluster[is_contact]
    contacts = np.bincount(cluster_pairs, minlength=num_clusters * num_clusters).reshape(num_clusters, num_clusters)
    actions = np.bincount(actor_cluster * len(log.actions) + log.action, minlength=num_clusters * len(log.actions))
    actions = actions.reshape(num_clusters, len(log.actions))
    overall_share = actions.sum(0) / max(actions.sum(), 1)
    is_within = is_contact & (actor_cluster == target_cluster)
    user_pairs = np.unique(
        np.concatenate(
            [_encode_pairs(log, log.actor, log.target, is_within), _encode_pairs(log, log.target, log.actor, is_within)]
        )
    )
    degree = np.bincount(user_pairs // log.num_users, minlength=log.num_users)
    summaries = []
    for cluster in np.argsort(-size, kind="stable")[: int((size > 0).sum())]:
        members = np.flatnonzero(cluster_of_user == cluster)
        exchanged = contacts[cluster] + contacts[:, cluster]  # with each cluster, in both directions
        num_crossing = exchanged.sum() - exchanged[cluster]
        action_share = actions[cluster] / max(actions[cluster].sum(), 1)
        is_itself = np.arange(num_clusters) == cluster
        neighbours = [int(n) for n in np.argsort(-np.where(is_itself, -1, exchanged), kind="stable")[:MAX_ENTRIES]]
        central = members[np.argsort(-degree[members], kind="stable")[:MAX_ENTRIES]]
        num_within = contacts[cluster, cluster]
        summaries.append(
            {
                "cluster": int(cluster),
                "users": int(size[cluster]),
                "share": round(float(size[cluster] / len(cluster_of_user)), 6),
                "joined": round(float(num_joined[cluster] / size[cluster]), 6),
                "within": round(float(num_within / max(num_within + num_crossing, 1)), 6),
                "actions": [
                    {
                        "action": log.actions[a],
                        "share": round(float(action_share[a]), 6),
                        "lift": round(float(action_share[a] / overall_share[a]), 3),
                    }
                    for a in np.argsort(-action_share, kind="stable")[:MAX_ENTRIES]
                    if action_share[a] > 0
                ],
                "central": [log.user_ids[int(user)] for user in central if degree[user]],
                "neighbours": [
                    {"cluster": n, "share": round(float(exchanged[n] / num_crossing), 6)}
                    for n in neighbours
                    if n != cluster and exchanged[n]
                ],
            }
        )
    return summaries


def _encode_pairs(log: EventLog, first_user: np.ndarray, second_user: np.ndarray, event_mask: np.ndarray) -> np.ndarray:
    """int64: pairs of internal ids of the events in the mask, each as first_user * num_users + second_user."""
    return first_user[event_mask].astype(np.int64) * log.num_users + second_user[event_mask]
