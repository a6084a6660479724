"""Faithfulness of explanations: whether a candidate's score drops without the facts that the explanation names.

    python bench/reasons.py PROJECT [--sample-size 200] [--seed 0] [--regime daily]

PROJECT is a folder after `dvc repro`. Makes lists by the ranker `both`, without contacts, for --sample-size random
users. For as many recommendations, drawn from these lists, the score is computed again from a log without the named
facts: the events between the two users, those with common contacts or with the contact of a bridge, what the candidate
received or did within the last week, what the candidate wrote. Nothing is trained again.

Prints how many recommendations have no reason, or only a general one; how often the score is lower without the facts,
over all recommendations and by kind of reason; and some lists with their explanations.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

import befriend
from befriend.api import Befriend, RecommendOptions
from befriend.data.event_log import EventLog
from befriend.features.text_vectors import TextVectors
from befriend.recommendation.explain import GENERAL, RECENT, Explanation, sentences, strongest_reasons
from befriend.recommendation.request_table import requests_table
from befriend.retrieval.ranker import Rankers
from befriend.retrieval.requests import RequestBatch

LIST_LENGTH = 10
PRINTED_LISTS = 5


def without_facts(
    log: EventLog, texts: TextVectors, explanation: Explanation, user: int, candidate: int
) -> tuple[EventLog, TextVectors]:
    """The log and the texts without the named facts. user, candidate: internal ids."""
    a, b = log.actor, log.target
    is_removed = np.zeros(log.num_events, bool)
    recent = log.timestamp >= explanation.cutoff - RECENT

    def between(user_id: int, peers: np.ndarray) -> np.ndarray:
        return ((a == user_id) & np.isin(b, peers)) | ((b == user_id) & np.isin(a, peers))

    def contacts(user_id: int) -> np.ndarray:
        is_own = log.is_contact & ((a == user_id) | (b == user_id))
        return np.unique(np.where(a[is_own] == user_id, b[is_own], a[is_own]))

    for reason in strongest_reasons(explanation):
        match reason.kind:
            case "pair_history":
                is_removed |= between(user, np.array([candidate]))
            case "common_contacts":
                is_removed |= between(user, np.intersect1d(contacts(user), contacts(candidate)))
            case "bridge":
                is_removed |= between(user, log.internal_ids(pl.Series(reason.users)))
            case "contacted":
                is_removed |= log.is_contact & (b == candidate) & recent
            case "active":
                is_removed |= (a == candidate) & recent
        if reason.kind in ("statement", "word", "active", "joined"):
            since = 0 if reason.kind in ("statement", "word") else explanation.cutoff - RECENT
            is_remaining = (texts.user != candidate) | (texts.timestamp < since)
            texts = replace(
                texts,
                user=texts.user[is_remaining],
                timestamp=texts.timestamp[is_remaining],
                row=texts.row[is_remaining],
            )
    remaining = ~is_removed
    arrays = {name: getattr(log, name)[remaining] for name in ("actor", "target", "timestamp", "action", "role")}
    return replace(log, **arrays), texts


def score(service: Befriend, log: EventLog, texts: TextVectors, request: RequestBatch, candidate: int) -> float:
    """Score of a candidate on the list of `both`; -inf if the user is no candidate any more."""
    models = service.models
    feature_view = models.two_tower.feature_view(log, texts)
    stu_view = models.stu.feature_view(log, texts, feature_view)
    models_without = replace(models, feature_view=feature_view, stu_feature_view=stu_view, texts=texts)
    recommender = models_without.recommender(Rankers.read(service.root / "models" / "ranker"))
    request = replace(request, num_visible=np.asarray(log.count_before(request.cutoff)))
    ranked = recommender.rank(request, ("both",)).head("both")
    position = np.flatnonzero(ranked.ids[0] == candidate)
    return float(ranked.scores[0, position[0]]) if len(position) else -np.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--sample-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--regime", default="daily")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    service = befriend.load(arguments.project)
    log, texts, rng = service.log, service.models.texts, np.random.default_rng(arguments.seed)
    users = log.user_ids.gather(rng.choice(log.num_users, min(arguments.sample_size, log.num_users), replace=False))
    requests = requests_table(users, regime=arguments.regime, new_only=True)
    options = RecommendOptions("both", LIST_LENGTH)
    lists = service.recommend_requests(requests, options)
    recorded: list[Explanation] = []

    def record(explanation: Explanation) -> list[str]:
        recorded.append(explanation)
        return sentences(explanation)

    explanations = service.explain_lists(requests, lists, options, record)
    print(f"{len(explanations):,} recommendations, {sum(not reasons for reasons in explanations)} without a reason")
    general_share = np.mean(
        [all(reason.kind in GENERAL for reason in strongest_reasons(explanation)) for explanation in recorded]
    )
    print(f"only a general reason: {general_share:.1%}")
    count_by_kind, lower_by_kind, num_lower, num_measured = Counter[str](), Counter[str](), 0, 0
    for index in np.sort(rng.choice(len(recorded), min(arguments.sample_size, len(recorded)), replace=False)):
        explanation, request_row = recorded[index], int(lists["request"][int(index)])
        request = service.list_maker().request_batch(requests[request_row])
        user, candidate = (
            int(log.internal_ids(pl.Series([external_id]))[0])
            for external_id in (explanation.user, explanation.candidate)
        )
        named_kinds = {reason.kind for reason in strongest_reasons(explanation)}
        before = score(service, log, texts, request, candidate)
        after = score(service, *without_facts(log, texts, explanation, user, candidate), request, candidate)
        num_measured += 1
        num_lower += after < before
        count_by_kind.update(named_kinds)
        lower_by_kind.update(named_kinds if after < before else ())
    print(f"lower without the facts: {num_lower} of {num_measured} ({num_lower / num_measured:.1%})\n")
    print("| named, among others | recommendations | lower |\n|---|---:|---:|")
    for kind, count in count_by_kind.most_common():
        print(f"| {kind} | {count} | {lower_by_kind[kind] / count:.0%} |")
    for request_row in range(PRINTED_LISTS):
        print(f"\n{users[request_row]}:")
        for i in np.flatnonzero(lists["request"].to_numpy() == request_row):
            print(f"  {lists['recommended'][int(i)]}: {' '.join(explanations[int(i)])}")


if __name__ == "__main__":
    main()
