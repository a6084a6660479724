"""Whether probabilities come true: of the people given one in ten, is every tenth the one who is contacted?

The probability of a person is the softmax of a model's scores over everybody who may be on the list. What is shown
are the first ten of each list, so these are looked at: reliability by bins of equal size, and their expected
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

from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.evaluation.protocol import COLD, Questions, requests
from befriend.evaluation.regimes import Regime
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import Request, moments
from befriend.retrieval.retriever import Pairs

HEAD = 10
BINS = 10
MOST = 1000  # lists a regime
RELIABILITY: dict[str, Any] = {"bin": pl.Int64, "n": pl.Int64} | dict.fromkeys(
    ("predicted", "observed", "low", "high"), pl.Float64
)
SCHEMA: dict[str, Any] = dict.fromkeys(("regime", "list", "model"), pl.String) | RELIABILITY


def calibration(
    log: EventLog,
    histories: Histories,
    asked: Mapping[Regime, Questions],
    recommender: Recommender,
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Over at most a thousand evenly spaced lists a regime, without events whose target nobody can rank.

    Returns regime -> list -> model -> lists, predicted and observed (hits on a head of ten, foreseen and found) and
    error (expected calibration error over its people); and the reliability behind it: regime, list, model, bin (from
    the least likely), n, predicted and observed shares, and the 95 % Wilson interval of the latter.
    """
    chosen = {regime: _chosen(questions) for regime, questions in asked.items()}
    row = dict.fromkeys(asked, 0)
    heads: dict[tuple[Regime, str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for request, _, regimes in requests(log, histories, asked):
        kept, of = [], []
        for regime, rows in regimes:
            here = np.arange(rows.stop - rows.start)
            mine = here[np.isin(row[regime] + here, chosen[regime])]
            kept.append(rows.start + mine)
            of += [(regime, int(k)) for k in row[regime] + mine]
            row[regime] += len(here)
        some = request.of(np.concatenate(kept))
        if not len(some):
            continue
        for model, at, likely, people in _likely(recommender, some):
            for b, probability, head in zip(at, likely, people, strict=True):
                regime, k = of[b]
                q = asked[regime]
                right = head == log.target[q.events[q.row_event[k]]]
                kind = "new" if q.row_is_new[k] else "any"
                heads.setdefault((regime, kind, model), []).append((probability, right))
    figures: dict[str, Any] = {regime: {} for regime in asked}
    bins = []
    for (regime, kind, model), parts in sorted(heads.items(), key=lambda item: item[0]):
        likely, right = (np.stack(part) for part in zip(*parts, strict=True))
        found = reliability(likely.ravel(), right.ravel())
        weight, apart = found["n"].to_numpy(), (found["predicted"] - found["observed"]).abs().to_numpy()
        figures[regime].setdefault(kind, {})[model] = {
            "lists": len(likely),
            "predicted": round(float(likely.sum(1).mean()), 6),
            "observed": round(float(right.any(1).mean()), 6),
            "error": round(float(np.average(apart, weights=weight)), 6),
        }
        labels = (pl.lit(label).alias(name) for name, label in (("regime", regime), ("list", kind), ("model", model)))
        bins.append(found.select(*labels, pl.all()))
    return figures, pl.concat([pl.DataFrame(schema=SCHEMA), *bins])


def _chosen(questions: Questions) -> np.ndarray:
    """int64: rows whose target may be on the list, evenly spaced."""
    rows = np.flatnonzero(questions.row_segment != COLD)
    return rows[:: max(1, -(-len(rows) // MOST))]


def _likely(recommender: Recommender, request: Request) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each model and moment: its name, the rows int64[R], and the first ten people as they are served.

    float64[R, HEAD], probabilities among all who may be on the list, 0 behind the last; int64[R, HEAD], the people.
    """
    for name, retriever in recommender.retrievers.items():
        query = retriever.queries(request)
        for rows in moments(request):
            some = request.of(rows)
            view = recommender.at(int(some.visible[0]), int(some.horizon[0])).views[name]
            mine, user, excluded = query.of(torch.from_numpy(rows)), torch.from_numpy(some.user), Pairs.of(some)
            total = retriever.all_scores(view, mine, user, excluded)
            likely, place = probabilities(total)
            yield name, rows, likely.numpy(), torch.where(place >= 0, view.moment.ids[place], -1).numpy()


def probabilities(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of the HEAD largest of each row, float32[B, K], -inf for nobody: their shares of the softmax over the whole row.

    float64[B, HEAD], 0 behind the last, and int64[B, HEAD], the columns, -1 behind the last.
    """
    best = scores.double().topk(min(HEAD, scores.shape[1]), dim=1)
    there = best.values > -torch.inf
    likely = (best.values - scores.double().logsumexp(1, keepdim=True)).exp().masked_fill(~there, 0)
    missing = (0, HEAD - best.values.shape[1])
    return F.pad(likely, missing), F.pad(best.indices.masked_fill(~there, -1), missing, value=-1)


def reliability(predicted: np.ndarray, right: np.ndarray) -> pl.DataFrame:
    """Pairs in bins of equal size, the least likely first. predicted: float64[n], right: bool[n]; n > 0."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    order = np.argsort(predicted, kind="stable")
    rows = []
    for number, some in enumerate(part for part in np.array_split(order, BINS) if len(part)):
        hits = int(right[some].sum())
        between = binomtest(hits, len(some)).proportion_ci(0.95, method="wilson")
        shares = (predicted[some].mean(), hits / len(some), between.low, between.high)
        rows.append((number, len(some), *(round(float(share), 6) for share in shares)))
    return pl.DataFrame(rows, RELIABILITY, orient="row")
