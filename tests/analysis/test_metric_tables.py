"""The headline of a run, and the figures by which it is compared with a run on another machine."""

from __future__ import annotations

from typing import Any

from befriend.analysis.metric_tables import headline_metrics, reference_figures


def cell(ndcg: float) -> dict[str, float]:
    return {"n": 10, "ndcg@10": ndcg, "ndcg@10_low": ndcg - 0.1, "ndcg@10_high": ndcg + 0.1}


def lists(both: float, rule: float, newcomers: float) -> dict[str, Any]:
    new = {"both": cell(both), "stu": cell(both / 2), "popularity": cell(rule), "recency": cell(rule / 2)}
    return {"new": {"new": new, "newcomers": {"both": cell(newcomers)}}, "any": {"all": {"both": cell(0.9)}}}


METRICS = {
    "streaming": lists(0.5, 0.3, 0.2),
    "live": lists(0.4, 0.3, 0.1),
    "served": {"requests": 60, "differ": 2},
}
VALIDATION = {"rows": {"read": 200, "rejected": 3}}


def test_headline_has_the_served_ranker_and_the_best_heuristic_of_each_regime() -> None:
    assert headline_metrics(METRICS, VALIDATION) == {
        "new": {"streaming": {"both": 0.5, "best_rule": 0.3}, "live": {"both": 0.4, "best_rule": 0.3}},
        "newcomers": {"live": 0.1},
        "rejected": 0.015,
        "served": {"differ": 2},
    }


def test_reference_figures_are_those_of_models_and_rankers_with_their_bounds() -> None:
    figures = reference_figures(METRICS)
    assert list(figures) == sorted(figures)
    assert figures["new/live/stu"] == [0.2, 0.1, 0.30000000000000004]
    assert {name.split("/")[2] for name in figures} == {"both", "stu"}
    assert len(figures) == 6
