"""Everybody's lists for the questions of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.evaluation.protocol import Questions, requests
from befriend.evaluation.regimes import Regime
from befriend.progress import track
from befriend.retrieval.recommender import Recommender, WithEvents

EVENTS_AT_ONCE = 256
Lists = dict[Regime, dict[str, np.ndarray]]
"""regime -> model -> int32[R, DEPTH], a list for each row of the questions"""


@dataclass(frozen=True)
class Evaluated:
    """The lists of an evaluation."""

    protocol: Lists
    """among people who have an event"""
    served: Lists
    """as they are served, people without an event included; of those who know such people"""


def ranked(
    recommender: Recommender,
    log: EventLog,
    histories: Histories,
    asked: Mapping[Regime, Questions],
    names: Sequence[str],
    label: str,
) -> Evaluated:
    """names: whose lists, of the recommender's names; label: of the progress."""
    only = WithEvents(log.first_seen)
    knows = [name for name in names if name in recommender.retrievers or name == "both"]
    parts: dict[tuple[str, Regime, str], list[np.ndarray]] = {}
    blocks = list(requests(log, histories, asked, EVENTS_AT_ONCE))
    for request, _, regimes in track(blocks, label, len(blocks)):
        ranking = recommender.rank(request, names)
        for name in names:
            if name in knows:
                found = {"protocol": ranking.head(name, only=only).ids, "served": ranking.head(name).ids}
            else:  # rules know nobody without an event
                found = {"protocol": ranking.head(name).ids}
            for kind, ids in found.items():
                for regime, rows in regimes:
                    parts.setdefault((kind, regime, name), []).append(ids[rows].astype(np.int32))
    lists: dict[str, Lists] = {kind: {regime: {} for regime in asked} for kind in ("protocol", "served")}
    for (kind, regime, name), tables in parts.items():
        lists[kind][regime][name] = np.concatenate(tables)
    return Evaluated(**lists)
