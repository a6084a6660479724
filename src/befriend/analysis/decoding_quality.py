"""Decoding quality of the STU model: token accuracy, beam search against exhaustive scoring, sampling against ranking.

STU: social tokenized user id, the semantic ID of a user: a sequence of tokens, one a level, that identifies the user.

| key | value |
|---|---|
| accuracy_<level> | share of targets whose token at this level is the most likely one, given their tokens before it |
| overall_accuracy | share of targets whose token is the most likely one at all levels |
| beam_recall | share of the top 10 by scores of all candidates that beam search also returns, mean over lists |
| invalid | share of the users listed by beam search or sampling who are not allowed on the list |
| coverage_beam | number of users in the top 10 of any list by beam search, divided by that of eligible users |
| coverage_sampled | the same, of lists sampled at temperature 1 |
| lists | number of lists measured, without empty ones |

Eligible users may be recommended at the cutoff; for the coverage, their largest number at any cutoff counts. Accuracies
are over the eligible targets; without any, these keys are absent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from befriend.data.event_log import EventLog
from befriend.recommendation.sampling import Sampling, gumbel, sample
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch, group_by_cutoff
from befriend.retrieval.retriever import ExcludedPairs
from befriend.retrieval.stu_retriever import StuRetriever, StuView

TOP_K = 10  # users of each list that are measured
ROWS_PER_BATCH = 16  # requests measured of each batch, evenly spaced; few, as every candidate is scored for each


def measure_decoding_quality(
    log: EventLog,
    requests: Iterable[tuple[RequestBatch, np.ndarray]],
    recommender: Recommender,
    beam_retriever: StuRetriever,
    seed: int,
) -> dict[str, Any]:
    """Decoding quality on at most ROWS_PER_BATCH lists of each batch of requests, as key -> value (see the module).

    requests: batches of B requests, each with the events to predict, int64[B], indices into the log.
    recommender: its STU model scores every candidate. beam_retriever: the same model with beam search.
    """
    generator = torch.Generator().manual_seed(seed)
    exact_retriever = recommender.retrievers["stu"]
    is_correct: list[np.ndarray] = []
    recalls, num_invalid, num_listed = [], 0, 0
    top_users: dict[str, list[np.ndarray]] = {"beam": [], "sampled": []}
    num_candidates = 0
    for request, events in requests:
        batch_rows = np.unique(np.linspace(0, len(request) - 1, min(ROWS_PER_BATCH, len(request))).astype(np.int64))
        request, target = request.select(batch_rows), log.target[events[batch_rows]].astype(np.int64)
        query = exact_retriever.queries(request)
        for rows in group_by_cutoff(request):
            group, group_query = request.select(rows), query.select(torch.from_numpy(rows))
            snapshot = recommender.state_at(int(group.num_visible[0]), int(group.cutoff[0])).snapshot
            user, excluded = torch.from_numpy(group.user), ExcludedPairs.of(group)
            view, beam_view = exact_retriever.view_at(snapshot), beam_retriever.view_at(snapshot)
            exact = exact_retriever.search(view, group_query, user, TOP_K, excluded).ids.numpy()
            beam = beam_retriever.search(beam_view, group_query, user, TOP_K, excluded).ids.numpy()
            scores, order = exact_retriever.all_scores(view, group_query, user, excluded).sort(dim=1, descending=True)
            sampled = sample(scores, TOP_K, Sampling(), gumbel(*scores.shape, generator=generator))
            sampled = torch.where(sampled >= 0, snapshot.eligible_users[order.gather(1, sampled.clamp(min=0))], -1)
            recalls += [np.isin(a[a >= 0], b).mean() for a, b in zip(exact, beam, strict=True) if (a >= 0).any()]
            top_users["beam"].append(beam)
            top_users["sampled"].append(sampled.numpy())
            for b in range(len(group)):
                ids = np.concatenate([beam[b], sampled[b].numpy()])
                ids = ids[ids >= 0]
                is_invalid = (ids == group.user[b]) | np.isin(ids, group.excluded(b)) | ~snapshot.eligible.numpy()[ids]
                num_invalid, num_listed = num_invalid + int(is_invalid.sum()), num_listed + len(ids)
            num_candidates = max(num_candidates, len(snapshot.eligible_users))
            assert isinstance(view, StuView)
            is_eligible = snapshot.eligible[torch.from_numpy(target[rows])]
            targets, static = torch.from_numpy(target[rows])[is_eligible], group_query.static[is_eligible].float()
            with torch.no_grad():
                _, is_correct_by_level = exact_retriever.model.token_losses(static, targets, view.prefix_tree)
            is_correct.append(torch.stack(is_correct_by_level).numpy())
    hits = np.concatenate(is_correct, 1)  # bool[L, n]
    metrics = {"beam_recall": np.mean(recalls), "invalid": num_invalid / num_listed}
    if hits.size:
        metrics |= {f"accuracy_{level}": hit.mean() for level, hit in enumerate(hits)}
        metrics["overall_accuracy"] = hits.all(0).mean()
    for name, lists in top_users.items():
        ids = np.unique(np.concatenate(lists))
        metrics[f"coverage_{name}"] = (ids >= 0).sum() / num_candidates
    return {name: round(float(value), 6) for name, value in metrics.items()} | {"lists": len(recalls)}
