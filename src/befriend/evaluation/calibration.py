"""Whether probabilities come true: of the people given one in ten, is every tenth the one who is contacted?

The probability of a person is the softmax of a model's scores over everybody who may be on the list. What is shown
are the first ten of each list, so these are looked at: reliability by bins of equal size, and their expected
calibration error (Naeini, Cooper and Hauskrecht, 2015; Guo et al., 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.evaluation.protocol import Questions, requests
from befriend.evaluation.regimes import Regime
from befriend.retrieval.serving import RetrieverRanker

HEAD = 10
BINS = 10
MOST = 1000  # lists a regime
SCORES = 2**24  # at a time
SCHEMA: dict[str, Any] = {"list": pl.String, "model": pl.String, "bin": pl.Int64, "n": pl.Int64} | dict.fromkeys(
    ("predicted", "observed", "low", "high"), pl.Float64
)


def calibration(
    log: EventLog, histories: Histories, questions: Questions, regime: Regime, rankers: Sequence[RetrieverRanker[Any]]
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Over at most a thousand evenly spaced lists, without events whose target nobody can rank.

    Returns list -> model -> lists, predicted and observed (hits on a head of ten, foreseen and found) and error
    (expected calibration error over its people); and the reliability behind it: list, model, bin (from the least
    likely), n, predicted and observed shares, and the 95 % Wilson interval of the latter.
    """
    q = questions
    known = log.first_seen[log.target[q.events[q.row_event]]] < q.horizon[q.row_event]
    asked = np.flatnonzero(known)
    asked = asked[:: max(1, -(-len(asked) // MOST))]
    heads: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    row = 0
    for request in requests(log, histories, questions, regime):
        mine = asked[(asked >= row) & (asked < row + len(request))]
        for some in np.array_split(mine, max(1, len(mine) * log.num_users // SCORES)):
            everyone = replace(request.of(some - row), k=log.num_users)
            target = log.target[q.events[q.row_event[some]]]
            for ranker in rankers if len(some) else ():
                people, scores = ranker.scored(everyone)
                likely = probabilities(scores)[:, :HEAD]
                right = people[:, :HEAD] == target[:, None]
                for kind, chosen in (("any", ~q.row_is_new[some]), ("new", q.row_is_new[some])):
                    if chosen.any():
                        heads.setdefault((kind, ranker.name), []).append((likely[chosen], right[chosen]))
        row += len(request)
    figures: dict[str, Any] = {}
    bins = []
    for (kind, model), parts in sorted(heads.items()):
        likely, right = (np.concatenate(part) for part in zip(*parts, strict=True))
        found = reliability(likely.ravel(), right.ravel())
        weight, apart = found["n"].to_numpy(), (found["predicted"] - found["observed"]).abs().to_numpy()
        figures.setdefault(kind, {})[model] = {
            "lists": len(likely),
            "predicted": round(float(likely.sum(1).mean()), 6),
            "observed": round(float(right.any(1).mean()), 6),
            "error": round(float(np.average(apart, weights=weight)), 6),
        }
        bins.append(found.select(pl.lit(kind).alias("list"), pl.lit(model).alias("model"), pl.all()))
    return figures, pl.concat([pl.DataFrame(schema=SCHEMA), *bins])


def probabilities(scores: np.ndarray) -> np.ndarray:
    """float64[B, K]: the softmax of each row, whose first is its largest; 0 where the score is -inf."""
    if not scores.shape[1]:
        return scores.astype(np.float64)
    best = scores[:, :1].astype(np.float64)
    weight = np.exp(scores - np.where(np.isfinite(best), best, 0))
    return weight / np.maximum(weight.sum(1, keepdims=True), np.finfo(np.float64).tiny)


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
    return pl.DataFrame(rows, {name: SCHEMA[name] for name in list(SCHEMA)[2:]}, orient="row")
