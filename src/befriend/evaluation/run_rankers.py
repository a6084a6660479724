"""The lists of every model, heuristic and ranker for the queries of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from befriend.data.event_log import EventLog
from befriend.data.regimes import Regime
from befriend.evaluation.protocol import EvalQueries, make_requests
from befriend.features.histories import Histories
from befriend.progress import track
from befriend.retrieval.recommender import HasEvents, Recommender

EVENTS_PER_BATCH = 256
RegimeLists = dict[Regime, dict[str, np.ndarray]]
"""regime -> model -> int32[R, LIST_DEPTH], a list of internal ids for each row of the queries"""


@dataclass(frozen=True)
class EvaluationLists:
    """The lists of an evaluation."""

    protocol: RegimeLists
    """candidates are users with events"""
    served: RegimeLists
    """as served, cold-start users included; only of models that can rank cold-start users"""


def run_rankers(
    recommender: Recommender,
    log: EventLog,
    histories: Histories,
    queries: Mapping[Regime, EvalQueries],
    names: Sequence[str],
    label: str,
) -> EvaluationLists:
    """names: the models, heuristics and rankers whose lists are made; label: of the progress bar."""
    has_events = HasEvents(log.first_seen)
    ranks_cold_start = [name for name in names if name in recommender.retrievers or name == "both"]
    blocks: dict[tuple[str, Regime, str], list[np.ndarray]] = {}
    requests = list(make_requests(log, histories, queries, EVENTS_PER_BATCH))
    for request, _, slices in track(requests, label, len(requests)):
        ranking = recommender.rank(request, names)
        for name in names:
            if name in ranks_cold_start:
                protocol_lists = ranking.top(name, list_filter=has_events)
                ids_by_kind = {"protocol": protocol_lists.ids, "served": ranking.top(name).ids}
            else:  # heuristics never list users without events
                ids_by_kind = {"protocol": ranking.top(name).ids}
            for kind, ids in ids_by_kind.items():
                for regime, rows in slices:
                    blocks.setdefault((kind, regime, name), []).append(ids[rows].astype(np.int32))
    lists: dict[str, RegimeLists] = {kind: {regime: {} for regime in queries} for kind in ("protocol", "served")}
    for (kind, regime, name), tables in blocks.items():
        lists[kind][regime][name] = np.concatenate(tables)
    return EvaluationLists(**lists)
