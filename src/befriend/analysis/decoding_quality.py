"""Decoding quality of the STU model: token accuracy by level, beam search against scoring every candidate, and sampled
lists against ranked ones.

| key | value |
|---|---|
| accuracy_<level> | how often the level's most likely token is true, given the target's true tokens before it |
| overall_accuracy | how often all levels are right |
| beam_recall | share of the exact top 10 that the beam also returns |
| invalid | share of listed users, of beam and sampling, who are not allowed on the list |
| coverage_beam | share of all candidates in the top 10 of any list of the beam |
| coverage_sampled | the same of lists sampled at temperature 1 |
| lists | number of lists measured |

Accuracy is over eligible targets, and left out if there are none.
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
ROWS_PER_BATCH = 16  # requests of each batch, evenly spaced: every candidate is scored for them


def decoding_quality(
    log: EventLog,
    requests: Iterable[tuple[RequestBatch, np.ndarray]],
    recommender: Recommender,
    beam: StuRetriever,
    seed: int,
) -> dict[str, Any]:
    """Decoding quality on ROWS_PER_BATCH lists of each batch of requests.

    requests: each with the events of its rows, int64[B]; recommender: its STU model scores every candidate; beam: the
    same model, searching by beam. Returns key -> value, see above.
    """
    generator = torch.Generator().manual_seed(seed)
    exact = recommender.retrievers["stu"]
    is_correct: list[np.ndarray] = []
    recalls, invalid, listed = [], 0, 0
    heads: dict[str, list[np.ndarray]] = {"beam": [], "sampled": []}
    candidates = 0
    for request, events in requests:
        chosen = np.unique(np.linspace(0, len(request) - 1, min(ROWS_PER_BATCH, len(request))).astype(np.int64))
        request, target = request.select(chosen), log.target[events[chosen]].astype(np.int64)
        query = exact.queries(request)
        for rows in group_by_cutoff(request):
            group, group_query = request.select(rows), query.select(torch.from_numpy(rows))
            snapshot = recommender.state_at(int(group.num_visible[0]), int(group.cutoff[0])).snapshot
            user, excluded, view = torch.from_numpy(group.user), ExcludedPairs.of(group), exact.view_at(snapshot)
            best = exact.search(view, group_query, user, TOP_K, excluded).ids.numpy()
            by_beam = beam.search(beam.view_at(snapshot), group_query, user, TOP_K, excluded).ids.numpy()
            scores, order = exact.all_scores(view, group_query, user, excluded).sort(dim=1, descending=True)
            sampled = sample(scores, TOP_K, Sampling(), gumbel(*scores.shape, generator=generator))
            sampled = torch.where(sampled >= 0, snapshot.eligible_users[order.gather(1, sampled.clamp(min=0))], -1)
            recalls += [np.isin(a[a >= 0], b).mean() for a, b in zip(best, by_beam, strict=True) if (a >= 0).any()]
            heads["beam"].append(by_beam)
            heads["sampled"].append(sampled.numpy())
            for b in range(len(group)):
                ids = np.concatenate([by_beam[b], sampled[b].numpy()])
                ids = ids[ids >= 0]
                is_invalid = (ids == group.user[b]) | np.isin(ids, group.excluded(b)) | ~snapshot.eligible.numpy()[ids]
                invalid, listed = invalid + int(is_invalid.sum()), listed + len(ids)
            candidates = max(candidates, len(snapshot.eligible_users))
            assert isinstance(view, StuView)
            is_eligible = snapshot.eligible[torch.from_numpy(target[rows])]
            targets, static = torch.from_numpy(target[rows])[is_eligible], group_query.static[is_eligible].float()
            with torch.no_grad():
                _, levels = exact.model.token_losses(static, targets, view.prefix_tree)
            is_correct.append(torch.stack(levels).numpy())
    hits = np.concatenate(is_correct, 1)
    metrics = {"beam_recall": np.mean(recalls), "invalid": invalid / listed}
    if hits.size:
        metrics |= {f"accuracy_{level}": hit.mean() for level, hit in enumerate(hits)}
        metrics["overall_accuracy"] = hits.all(0).mean()
    for name, lists in heads.items():
        ids = np.unique(np.concatenate(lists))
        metrics[f"coverage_{name}"] = (ids >= 0).sum() / candidates
    return {name: round(float(value), 6) for name, value in metrics.items()} | {"lists": len(recalls)}
