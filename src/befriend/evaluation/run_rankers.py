"""Makes the lists of all models, heuristics and rankers for the queries of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from befriend.data.event_log import EventLog
from befriend.data.regimes import Regime
from befriend.evaluation.protocol import EvalQueries, make_requests
from befriend.features.histories import Histories
from befriend.parallel import parallel_map
from befriend.progress import track
from befriend.retrieval.recommender import HasEventsFilter, Recommender
from befriend.retrieval.requests import RequestBatch

EVENTS_PER_BATCH = 256
RegimeLists = dict[Regime, dict[str, np.ndarray]]
"""regime -> name of a model, heuristic or ranker -> int32[R, LIST_DEPTH], a list for each row of the queries: internal
ids of users, best first, padded with -1"""


@dataclass(frozen=True)
class EvaluationLists:
    """The lists of an evaluation, once as the protocol scores them and once as an application gets them."""

    protocol: RegimeLists
    """of all models, heuristics and rankers; candidates are users with an event before the cutoff"""
    served: RegimeLists
    """only of those that can list cold-start users, who have a text but no event before the cutoff: the models and the
    ranker `both`; these users are candidates too"""

    def sample(self, queries: Mapping[Regime, EvalQueries]) -> tuple[dict[Regime, EvalQueries], EvaluationLists]:
        """The protocol's sample of the queries of which these are the lists, and its lists."""
        samples = {regime: q.sample() for regime, q in queries.items()}
        protocol, served = (
            {
                regime: {name: ids[samples[regime][1]] for name, ids in by_name.items()}
                for regime, by_name in lists.items()
            }
            for lists in (self.protocol, self.served)
        )
        return {regime: sample for regime, (sample, _) in samples.items()}, EvaluationLists(protocol, served)


def run_rankers(
    recommender: Recommender,
    log: EventLog,
    histories: Histories,
    queries: Mapping[Regime, EvalQueries],
    names: Sequence[str],
    label: str,
) -> EvaluationLists:
    """Ranks users for every row of the queries, by each of the models, heuristics and rankers in `names`.

    A ranker orders the candidates of models and heuristics. label: text of the progress bar.
    """
    has_events = HasEventsFilter(log.first_seen)
    cold_start_names = [name for name in names if name in recommender.retrievers or name == "both"]
    requests = list(make_requests(log, histories, queries, EVENTS_PER_BATCH))

    def rank(request: RequestBatch) -> dict[tuple[str, str], np.ndarray]:
        """(protocol or served, name) -> int32[B, LIST_DEPTH], a list for each request."""
        ranking, lists = recommender.rank(request, names), {}
        for name in names:
            lists["served", name] = ranking.top(name).ids.astype(np.int32)
            # Heuristics, and a ranker of these alone, never list users without events.
            lists["protocol", name] = (
                ranking.top(name, list_filter=has_events).ids.astype(np.int32)
                if name in cold_start_names
                else lists.pop(("served", name))
            )
        return lists

    blocks: dict[tuple[str, Regime, str], list[np.ndarray]] = {}
    ranked = parallel_map(rank, [request for request, _, _ in requests])
    for (_, _, slices), batch_lists in zip(requests, track(ranked, label, len(requests)), strict=True):
        for (kind, name), ids in batch_lists.items():
            for regime, rows in slices:
                blocks.setdefault((kind, regime, name), []).append(ids[rows])
    lists: dict[str, RegimeLists] = {kind: {regime: {} for regime in queries} for kind in ("protocol", "served")}
    for (kind, regime, name), id_blocks in blocks.items():
        lists[kind][regime][name] = np.concatenate(id_blocks)
    return EvaluationLists(**lists)
