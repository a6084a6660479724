"""How decoding does: tokens level by level, the beam beside scoring everyone, drawn lists beside ranked ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from befriend.data.log import EventLog
from befriend.evaluation.protocol import Request
from befriend.retrieval.sampling import Sampling, sample
from befriend.retrieval.stu import StuRanker

HEAD = 10
ROWS = 16  # of each request, evenly spaced: everyone is scored for them


def decoding(
    log: EventLog, asked: Iterable[tuple[Request, np.ndarray]], beam: StuRanker, everyone: StuRanker, seed: int
) -> dict[str, Any]:
    """Over some lists of each request.

    asked: requests and the events of their rows, int64[R]; beam, everyone: the same model, the second without a
    beam. Returns accuracy of each level's best token, the tokens before being the true ones; beam_recall, the share of
    everyone's first ten that the beam finds; invalid, the share of people listed by either who may not be; coverage,
    the share of all candidates on some head of ten, ranked by the beam and drawn at temperature 1.
    """
    generator = torch.Generator().manual_seed(seed)
    right: list[np.ndarray] = []
    found, invalid, listed = [], 0, 0
    shown: dict[str, list[np.ndarray]] = {"beam": [], "sampled": []}
    candidates = 0
    for request, events in asked:
        rows = np.unique(np.linspace(0, len(request) - 1, min(ROWS, len(request))).astype(np.int64))
        some, target = request.of(rows), log.target[events[rows]].astype(np.int64)
        ids, _ = beam.scored(some)
        exact, scores = everyone.scored(some)
        found += [np.isin(a[a >= 0], b).mean() for a, b in zip(exact[:, :HEAD], ids[:, :HEAD], strict=True)]
        drawn = sample(torch.from_numpy(scores), HEAD, Sampling(), generator).numpy()
        drawn = np.where(drawn >= 0, np.take_along_axis(exact, drawn.clip(min=0), 1), -1)
        shown["beam"].append(ids[:, :HEAD])
        shown["sampled"].append(drawn)
        for b in range(len(some)):
            people = np.concatenate([ids[b], drawn[b]])
            people = people[people >= 0]
            bad = (people == some.user[b]) | np.isin(people, some.excluded(b))
            bad |= log.first_seen[people] >= some.horizon[b]
            invalid, listed = invalid + int(bad.sum()), listed + len(people)
        right.append(_right(beam, some, target))
        candidates = max(candidates, int((log.first_seen < some.horizon.max()).sum()))
    hits = np.concatenate(right, 1)
    figures = {f"accuracy_{level}": hit.mean() for level, hit in enumerate(hits)}
    figures |= {"overall_accuracy": hits.all(0).mean(), "beam_recall": np.mean(found), "invalid": invalid / listed}
    for name, heads in shown.items():
        people = np.unique(np.concatenate(heads))
        figures[f"coverage_{name}"] = (people >= 0).sum() / candidates
    return {name: round(float(value), 6) for name, value in figures.items()} | {"lists": len(found)}


def _right(ranker: StuRanker, request: Request, target: np.ndarray) -> np.ndarray:
    """bool[L, R]: whether each level's best token is the target's, given the true ones before."""
    retriever = ranker.retriever
    user, visible, horizon, action = (
        torch.from_numpy(x) for x in (request.user, request.visible, request.horizon, request.action)
    )
    query = retriever.queries(user, visible, horizon, action, request.refresh)
    with torch.no_grad():
        _, right = retriever.model.token_losses(query.static, torch.from_numpy(target))
    return torch.stack(right).numpy()
