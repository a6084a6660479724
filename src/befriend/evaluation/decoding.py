"""How decoding does: tokens level by level, the beam beside scoring everyone, drawn lists beside ranked ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from befriend.data.log import EventLog
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import Request, moments
from befriend.retrieval.retriever import Pairs
from befriend.retrieval.sampling import Sampling, gumbel, sample
from befriend.retrieval.stu import StuRetriever, StuView

HEAD = 10
ROWS = 16  # of each request, evenly spaced: everyone is scored for them


def decoding(
    log: EventLog, asked: Iterable[tuple[Request, np.ndarray]], recommender: Recommender, beam: StuRetriever, seed: int
) -> dict[str, Any]:
    """Over some lists of each request.

    asked: requests and the events of their rows, int64[R]; recommender: with the STU model, which scores everyone;
    beam: the same model with a beam. Returns accuracy of each level's best token, the tokens before being the true
    ones, where any target may be found; beam_recall, the share of everyone's first ten that the beam finds; invalid,
    the share of people listed by either who may not be; coverage, the share of all candidates on some head of ten,
    ranked by the beam and drawn at temperature 1.
    """
    generator = torch.Generator().manual_seed(seed)
    exact = recommender.retrievers["stu"]
    right: list[np.ndarray] = []
    found, invalid, listed = [], 0, 0
    shown: dict[str, list[np.ndarray]] = {"beam": [], "sampled": []}
    candidates = 0
    for request, events in asked:
        chosen = np.unique(np.linspace(0, len(request) - 1, min(ROWS, len(request))).astype(np.int64))
        request, target = request.of(chosen), log.target[events[chosen]].astype(np.int64)
        query = exact.queries(request)
        for rows in moments(request):
            some, mine = request.of(rows), query.of(torch.from_numpy(rows))
            moment = recommender.at(int(some.visible[0]), int(some.horizon[0])).moment
            user, excluded, view = torch.from_numpy(some.user), Pairs.of(some), exact.at(moment)
            best = exact.search(view, mine, user, HEAD, excluded).ids.numpy()
            by_beam = beam.search(beam.at(moment), mine, user, HEAD, excluded).ids.numpy()
            scores, order = exact.all_scores(view, mine, user, excluded).sort(dim=1, descending=True)
            drawn = sample(scores, HEAD, Sampling(), gumbel(*scores.shape, generator=generator))
            drawn = torch.where(drawn >= 0, moment.ids[order.gather(1, drawn.clamp(min=0))], -1)
            found += [np.isin(a[a >= 0], b).mean() for a, b in zip(best, by_beam, strict=True) if (a >= 0).any()]
            shown["beam"].append(by_beam)
            shown["sampled"].append(drawn.numpy())
            for b in range(len(some)):
                people = np.concatenate([by_beam[b], drawn[b].numpy()])
                people = people[people >= 0]
                bad = (people == some.user[b]) | np.isin(people, some.excluded(b)) | ~moment.findable.numpy()[people]
                invalid, listed = invalid + int(bad.sum()), listed + len(people)
            candidates = max(candidates, len(moment.ids))
            assert isinstance(view, StuView)
            there = moment.findable[torch.from_numpy(target[rows])]
            aimed, asked_for = torch.from_numpy(target[rows])[there], mine.static[there].float()
            with torch.no_grad():
                _, levels = exact.model.token_losses(asked_for, aimed, view.paths)
            right.append(torch.stack(levels).numpy())
    hits = np.concatenate(right, 1)
    figures = {"beam_recall": np.mean(found), "invalid": invalid / listed}
    if hits.size:
        figures |= {f"accuracy_{level}": hit.mean() for level, hit in enumerate(hits)}
        figures["overall_accuracy"] = hits.all(0).mean()
    for name, heads in shown.items():
        people = np.unique(np.concatenate(heads))
        figures[f"coverage_{name}"] = (people >= 0).sum() / candidates
    return {name: round(float(value), 6) for name, value in figures.items()} | {"lists": len(found)}
