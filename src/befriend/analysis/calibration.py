"""Calibration of the models: whether predicted probabilities match the observed rate of contacts.

The probability of a candidate is the softmax of the model's scores over all eligible candidates of the list. Users see
only the top 10 of a list, so only these are measured: a reliability table (predicted and observed rates, by bins of
equal size), and the expected calibration error (Naeini, Cooper and Hauskrecht, 2015; Guo et al., 2017).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.data.event_log import EventLog
from befriend.data.regimes import Regime
from befriend.data.split import COLD
from befriend.evaluation.protocol import EvalQueries, make_requests
from befriend.features.histories import Histories
from befriend.parallel import parallel_map
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch, group_by_cutoff
from befriend.retrieval.retriever import ExcludedPairs

TOP_K = 10  # users of each list that are measured
NUM_BINS = 10
MAX_LISTS = 1000  # measured per regime
RELIABILITY_SCHEMA: dict[str, Any] = {"bin": pl.Int64, "n": pl.Int64} | dict.fromkeys(
    ("predicted", "observed", "low", "high"), pl.Float64
)
SCHEMA: dict[str, Any] = dict.fromkeys(("regime", "list", "model"), pl.String) | RELIABILITY_SCHEMA


def measure_calibration(
    log: EventLog,
    histories: Histories,
    queries: Mapping[Regime, EvalQueries],
    recommender: Recommender,
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Calibration metrics, and the reliability table that they are computed from.

    Measures at most MAX_LISTS evenly spaced lists per regime. Leaves out cold events: those whose target has no event
    before the cutoff, except first contacts with a target whom a text made eligible.

    Metrics: regime -> list -> model -> `lists`, their number; `predicted` and `observed`, the expected and the actual
    share of lists with the target in the top 10; `error`, the expected calibration error of the top 10 candidates.

    Table: regime, list, model, bin (0 has the smallest probabilities), n (pairs of list and candidate), predicted (mean
    probability), observed (share of targets), and low and high, the 95 % Wilson interval of `observed`.
    """
    sampled = list(_sampled_requests(log, histories, queries))
    tops = parallel_map(lambda sample: list(_top_candidates(recommender, sample[0])), sampled)
    top_by_key: dict[tuple[Regime, str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for (_, query_rows), top in zip(sampled, tops, strict=True):
        for model, top_rows, top_probability, top_users in top:
            for row, probability, users in zip(top_rows, top_probability, top_users, strict=True):
                regime, query_row = query_rows[row]
                q = queries[regime]
                is_target = users == log.target[q.events[q.row_event[query_row]]]
                list_kind = "new" if q.row_excludes_contacts[query_row] else "any"
                top_by_key.setdefault((regime, list_kind, model), []).append((probability, is_target))
    metrics: dict[str, Any] = {regime: {} for regime in queries}
    tables = []
    for (regime, list_kind, model), pairs in sorted(top_by_key.items(), key=lambda item: item[0]):
        predicted, is_target = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        table = reliability_table(predicted.ravel(), is_target.ravel())
        weight, gap = table["n"].to_numpy(), (table["predicted"] - table["observed"]).abs().to_numpy()
        metrics[regime].setdefault(list_kind, {})[model] = {
            "lists": len(predicted),
            "predicted": round(float(predicted.sum(1).mean()), 6),
            "observed": round(float(is_target.any(1).mean()), 6),
            "error": round(float(np.average(gap, weights=weight)), 6),
        }
        labels = (
            pl.lit(label).alias(name) for name, label in (("regime", regime), ("list", list_kind), ("model", model))
        )
        tables.append(table.select(*labels, pl.all()))
    return metrics, pl.concat([pl.DataFrame(schema=SCHEMA), *tables])


def _sampled_requests(
    log: EventLog, histories: Histories, queries: Mapping[Regime, EvalQueries]
) -> Iterator[tuple[RequestBatch, list[tuple[Regime, int]]]]:
    """Batches of the requests whose lists are measured; and the regime, and row of its queries, of each request."""
    sampled_rows = {regime: _sampled_rows(q) for regime, q in queries.items()}
    next_row = dict.fromkeys(queries, 0)
    for request, _, slices in make_requests(log, histories, queries):
        request_rows, query_rows = [], []
        for regime, rows in slices:
            offsets = np.arange(rows.stop - rows.start)
            selected = offsets[np.isin(next_row[regime] + offsets, sampled_rows[regime])]
            request_rows.append(rows.start + selected)
            query_rows += [(regime, int(k)) for k in next_row[regime] + selected]
            next_row[regime] += len(offsets)
        if query_rows:
            yield request.select(np.concatenate(request_rows)), query_rows


def _sampled_rows(queries: EvalQueries) -> np.ndarray:
    """int64: at most MAX_LISTS evenly spaced rows of the queries, among those of events that are not cold."""
    rows = np.flatnonzero(queries.row_segment != COLD)
    return rows[:: max(1, -(-len(rows) // MAX_LISTS))]


def _top_candidates(
    recommender: Recommender, request: RequestBatch
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields for each model and each cutoff of the request: model name, rows of the request, probabilities, users.

    Rows: int64[R]. Probabilities: float64[R, TOP_K], over all eligible candidates, 0 past the end of the list. Users:
    int64[R, TOP_K], internal ids of the top 10, -1 past the end of the list.
    """
    for name, retriever in recommender.retrievers.items():
        query = retriever.queries(request)
        for rows in group_by_cutoff(request):
            group = request.select(rows)
            view = recommender.state_at(int(group.num_visible[0]), int(group.cutoff[0])).views[name]
            group_query, user, excluded = (
                query.select(torch.from_numpy(rows)),
                torch.from_numpy(group.user),
                ExcludedPairs.of(group),
            )
            scores = retriever.all_scores(view, group_query, user, excluded)
            probability, column = top_k_probabilities(scores)
            yield (
                name,
                rows,
                probability.numpy(),
                torch.where(column >= 0, view.snapshot.eligible_users[column], -1).numpy(),
            )


def top_k_probabilities(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The TOP_K largest values of the softmax of each row, largest first, and their columns.

    scores: float32[B, K], -inf where a candidate is not eligible. Returns float64[B, TOP_K] and int64[B, TOP_K]; where
    a row has fewer eligible candidates, the remaining probabilities are 0 and the remaining columns -1.
    """
    best = scores.double().topk(min(TOP_K, scores.shape[1]), dim=1)
    is_eligible = best.values > -torch.inf
    probability = (best.values - scores.double().logsumexp(1, keepdim=True)).exp().masked_fill(~is_eligible, 0)
    padding = (0, TOP_K - best.values.shape[1])
    return F.pad(probability, padding), F.pad(best.indices.masked_fill(~is_eligible, -1), padding, value=-1)


def reliability_table(predicted: np.ndarray, is_target: np.ndarray) -> pl.DataFrame:
    """Pairs of list and candidate in bins of equal size, sorted by probability; columns of RELIABILITY_SCHEMA.

    predicted: float64[n], probabilities; is_target: bool[n], whether the candidate is the target; n > 0.
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    order = np.argsort(predicted, kind="stable")
    rows = []
    for bin_index, members in enumerate(members for members in np.array_split(order, NUM_BINS) if len(members)):
        num_hits = int(is_target[members].sum())
        interval = binomtest(num_hits, len(members)).proportion_ci(0.95, method="wilson")
        shares = (predicted[members].mean(), num_hits / len(members), interval.low, interval.high)
        rows.append((bin_index, len(members), *(round(float(share), 6) for share in shares)))
    return pl.DataFrame(rows, RELIABILITY_SCHEMA, orient="row")
