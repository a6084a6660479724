"""Calibration: do predicted probabilities match contact rates? Of users given 10 %, is every tenth the one contacted?

The probability of a candidate is the softmax of the model's scores over all eligible candidates of the list. Only the
top 10 of each list are shown, so only these are measured: reliability in bins of equal size, and their expected
calibration error (Naeini, Cooper and Hauskrecht, 2015; Guo et al., 2017).
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
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch, group_by_cutoff
from befriend.retrieval.retriever import ExcludedPairs

TOP_K = 10  # users of each list that are measured
BINS = 10
MAX_LISTS = 1000  # measured per regime
RELIABILITY: dict[str, Any] = {"bin": pl.Int64, "n": pl.Int64} | dict.fromkeys(
    ("predicted", "observed", "low", "high"), pl.Float64
)
SCHEMA: dict[str, Any] = dict.fromkeys(("regime", "list", "model"), pl.String) | RELIABILITY


def calibration(
    log: EventLog,
    histories: Histories,
    queries: Mapping[Regime, EvalQueries],
    recommender: Recommender,
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Measured on at most MAX_LISTS evenly spaced lists per regime, without events whose target cannot be ranked.

    Returns regime -> list -> model -> lists, predicted and observed (expected and actual share of lists with the
    target in the top 10) and error (expected calibration error over the candidates in the top 10); and the reliability
    table behind it: regime, list, model, bin (least likely first), n, predicted and observed shares, and the 95 %
    Wilson interval of the observed share.
    """
    chosen = {regime: _chosen_rows(q) for regime, q in queries.items()}
    next_row = dict.fromkeys(queries, 0)
    heads: dict[tuple[Regime, str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for request, _, slices in make_requests(log, histories, queries):
        request_rows, query_rows = [], []
        for regime, rows in slices:
            offsets = np.arange(rows.stop - rows.start)
            selected = offsets[np.isin(next_row[regime] + offsets, chosen[regime])]
            request_rows.append(rows.start + selected)
            query_rows += [(regime, int(k)) for k in next_row[regime] + selected]
            next_row[regime] += len(offsets)
        chosen_request = request.select(np.concatenate(request_rows))
        if not len(chosen_request):
            continue
        for model, request_row, predicted, candidates in _head_probabilities(recommender, chosen_request):
            for b, probability, users in zip(request_row, predicted, candidates, strict=True):
                regime, k = query_rows[b]
                q = queries[regime]
                is_target = users == log.target[q.events[q.row_event[k]]]
                list_kind = "new" if q.row_excludes_contacts[k] else "any"
                heads.setdefault((regime, list_kind, model), []).append((probability, is_target))
    metrics: dict[str, Any] = {regime: {} for regime in queries}
    bins = []
    for (regime, list_kind, model), pairs in sorted(heads.items(), key=lambda item: item[0]):
        predicted, is_target = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        table = reliability(predicted.ravel(), is_target.ravel())
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
        bins.append(table.select(*labels, pl.all()))
    return metrics, pl.concat([pl.DataFrame(schema=SCHEMA), *bins])


def _chosen_rows(queries: EvalQueries) -> np.ndarray:
    """int64: rows whose target can be on the list, evenly spaced."""
    rows = np.flatnonzero(queries.row_segment != COLD)
    return rows[:: max(1, -(-len(rows) // MAX_LISTS))]


def _head_probabilities(
    recommender: Recommender, request: RequestBatch
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields for each model and cutoff: the model's name, rows of the request (int64[R]), and their top 10 as served.

    The top 10 are float64[R, TOP_K], probabilities among all eligible candidates, 0 past the end of the list; and
    int64[R, TOP_K], internal ids, -1 past the end.
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
            probability, column = probabilities(scores)
            yield (
                name,
                rows,
                probability.numpy(),
                torch.where(column >= 0, view.snapshot.eligible_users[column], -1).numpy(),
            )


def probabilities(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over each whole row, at its TOP_K largest scores. scores: float32[B, K], -inf where not eligible.

    Returns float64[B, TOP_K], 0 past the last eligible one, and int64[B, TOP_K], their columns, -1 past the last.
    """
    best = scores.double().topk(min(TOP_K, scores.shape[1]), dim=1)
    is_eligible = best.values > -torch.inf
    probability = (best.values - scores.double().logsumexp(1, keepdim=True)).exp().masked_fill(~is_eligible, 0)
    padding = (0, TOP_K - best.values.shape[1])
    return F.pad(probability, padding), F.pad(best.indices.masked_fill(~is_eligible, -1), padding, value=-1)


def reliability(predicted: np.ndarray, is_target: np.ndarray) -> pl.DataFrame:
    """List-candidate pairs in bins of equal size, the least likely first. predicted: float64[n]; is_target: bool[n];
    n > 0."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    order = np.argsort(predicted, kind="stable")
    rows = []
    for number, members in enumerate(members for members in np.array_split(order, BINS) if len(members)):
        hits = int(is_target[members].sum())
        interval = binomtest(hits, len(members)).proportion_ci(0.95, method="wilson")
        shares = (predicted[members].mean(), hits / len(members), interval.low, interval.high)
        rows.append((number, len(members), *(round(float(share), 6) for share in shares)))
    return pl.DataFrame(rows, RELIABILITY, orient="row")
