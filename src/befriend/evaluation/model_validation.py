"""Validation of a retrieval model by the evaluation protocol, with which training selects the best epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from befriend.data.split import COLD, Split
from befriend.evaluation.metrics import METRICS, metrics_per_list
from befriend.evaluation.protocol import make_eval_queries, target_ranks
from befriend.evaluation.run_rankers import run_rankers
from befriend.features.feature_view import FeatureView
from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.objectives.objective_settings import RetrievalSettings, StuSettings, TwoTowerSettings
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.retriever import Retriever
from befriend.retrieval.stu_retriever import StuRetriever
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever

METRIC = "ndcg@10"


def validation_ndcg(retriever: Retriever[Any], split: Split, settings: RetrievalSettings) -> dict[str, float]:
    """NDCG@10 on the validation part by kind of list and regime (`<list>_<regime>`), and the geometric mean, `ndcg@10`.

    List `any` without cold events, whose target has no event before the cutoff; `new` of first contacts. In the
    geometric mean, a relative gain counts the same for every list and regime, so that none dominates; values below 1e-4
    count as 1e-4.
    """
    feature_view, metrics = retriever.feature_view, {}
    log, metric_index = feature_view.log, METRICS.index(METRIC)
    recommender = Recommender([retriever])
    queries = {r: make_eval_queries(log, split, "validation", settings.validation_events, r) for r in settings.regimes}
    lists = run_rankers(
        recommender, log, feature_view.activity.histories, queries, recommender.names, "validation"
    ).protocol
    for regime, q in queries.items():
        (model_lists,) = lists[regime].values()
        ndcg = metrics_per_list(target_ranks(model_lists, log.target[q.events[q.row_event]]))[metric_index]
        is_rankable = q.row_segment != COLD
        for list_kind, rows in (("any", ~q.row_excludes_contacts & is_rankable), ("new", q.row_excludes_contacts)):
            if rows.any():
                metrics[f"{list_kind}_{regime}"] = float(ndcg[rows].mean())
    mean = math.fsum(math.log(max(value, 1e-4)) for value in metrics.values()) / max(len(metrics), 1)
    return metrics | {METRIC: math.exp(mean)}


def two_tower_validation(
    feature_view: FeatureView, split: Split, settings: TwoTowerSettings
) -> Callable[[NextTargetPredictionUserIDs], dict[str, float]]:
    """The function that training calls after each epoch: `validation_ndcg` of a two-tower model that is on the CPU."""
    return lambda model: validation_ndcg(TwoTowerRetriever(model, feature_view, settings), split, settings)


def stu_validation(
    feature_view: FeatureView, split: Split, settings: StuSettings, stus: Tensor
) -> Callable[[NextTargetPredictionSTU], dict[str, float]]:
    """The same for an STU model (STU: social tokenized user id, a semantic ID of L tokens).

    stus: int64[N, L], the tokens of every user of the log.
    """

    def validate(model: NextTargetPredictionSTU) -> dict[str, float]:
        model_copy = copy.deepcopy(model)  # the retriever sets the users of its model to those of the log
        return validation_ndcg(StuRetriever(model_copy, stus, feature_view, settings), split, settings)

    return validate
