"""People for somebody, at any moment of a log: what `befriend recommend` prints."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import torch

from befriend.data.observed import Observed
from befriend.errors import CallError, DataError
from befriend.evaluation.protocol import Hidden
from befriend.evaluation.regimes import HIDDEN, REGIMES
from befriend.progress import track
from befriend.retrieval.knn import Neighbours
from befriend.retrieval.sampling import Sampling, sample
from befriend.retrieval.serving import Retriever

AT_ONCE = 1024


@dataclass(frozen=True)
class Asked:
    """What is asked for, for whomever."""

    at: datetime | None = None
    """what happened before this moment is visible; None: everything in the log"""
    action: str | None = None
    """what the user is about to do; None where it is not known, as for a nightly list"""
    k: int = 10
    """people a list"""
    new_only: bool = False
    """leave out existing contacts"""
    sampling: Sampling | None = None
    """draw the lists instead of ranking; None: the best first"""


def recommend(retriever: Retriever[Any], actions: tuple[str, ...], users: pl.Series, asked: Asked) -> pl.DataFrame:
    """Lists for users by their original ids, best first or as drawn. actions: labels by the model's own numbers.

    Returns the columns user, known (False: a cold-start list, made without any history), rank (from 1), recommended,
    score (the log of a probability, up to a constant that is the same for the whole list), contact (whether the two
    were in contact before), last_active (UTC). Nobody gets themselves, or anybody on the other side of an `exclude`
    event.
    """
    observed = retriever.observed
    log = observed.log
    moment = int(log.timestamp[-1]) + 1
    if asked.at is not None:
        moment = int((asked.at if asked.at.tzinfo else asked.at.replace(tzinfo=UTC)).timestamp())
    visible = int(log.before(moment))
    if not visible:
        first = datetime.fromtimestamp(int(log.timestamp[0]), UTC)
        raise DataError(f"nothing had happened yet: the log begins on {first:%Y-%m-%d %H:%M:%S} UTC.")
    action = HIDDEN
    if asked.action is not None:
        if asked.action not in actions:
            raise CallError(f"there is no action {asked.action}. Actions: {', '.join(actions)}.")
        action = actions.index(asked.action)
    number = _numbers(log.user_ids, users)
    number[log.first_seen[np.minimum(number, log.num_users - 1)] >= moment] = log.num_users
    retriever.refresh(visible, moment)
    generator = torch.Generator().manual_seed(asked.sampling.seed if asked.sampling else 0)
    hidden, contacts = Hidden(log, observed.activity.histories), []
    parts = []
    for low in track(range(0, len(number), AT_ONCE), "recommend", -(-len(number) // AT_ONCE)):
        user = torch.from_numpy(number[low : low + AT_ONCE])
        full = torch.full_like(user, visible)
        refresh = REGIMES.index("daily" if action == HIDDEN else "streaming")
        query = retriever.queries(user, full, torch.full_like(user, moment), torch.full_like(user, action), refresh)
        met = [hidden(int(u), visible, True) if u < log.num_users else _NOBODY for u in user]
        blocked = (hidden(int(u), visible, False) if u < log.num_users else _NOBODY for u in user)
        excluded = met if asked.new_only else list(blocked)
        contacts += met
        indptr = np.cumsum([0, *map(len, excluded)])
        count = asked.k if asked.sampling is None else log.num_users
        best = retriever.search(query, user, count, indptr, np.concatenate(excluded))
        if asked.sampling is not None:
            drawn = sample(best.scores, asked.k, asked.sampling, generator)
            column = drawn.clamp(min=0)
            best = Neighbours(best.ids.gather(1, column).masked_fill(drawn < 0, -1), best.scores.gather(1, column))
        parts.append(best)
    ids, scores = torch.cat([p.ids for p in parts]).numpy(), torch.cat([p.scores for p in parts]).numpy()
    row, rank = np.nonzero(ids >= 0)
    found = ids[row, rank]
    last = _last_active(observed, found, visible)
    return pl.DataFrame(
        {
            "user": users.gather(row),
            "known": number[row] < log.num_users,
            "rank": rank + 1,
            "recommended": log.user_ids.gather(found),
            "score": scores[row, rank].round(4),
            "contact": [bool(np.isin(f, contacts[r])) for r, f in zip(row, found, strict=True)],
            "last_active": pl.from_epoch(pl.Series(last), "s").dt.replace_time_zone("UTC"),
        }
    )


_NOBODY = np.empty(0, np.int64)


def _numbers(ids: pl.Series, wanted: pl.Series) -> np.ndarray:
    """int64: the dense number of each id, len(ids) for those the log does not have."""
    table = pl.DataFrame({"id": ids, "number": np.arange(len(ids))})
    found = pl.DataFrame({"id": wanted.cast(ids.dtype, strict=False)}).join(
        table, on="id", how="left", maintain_order="left"
    )
    return found["number"].fill_null(len(ids)).to_numpy().astype(np.int64).copy()


def _last_active(observed: Observed, users: np.ndarray, visible: int) -> np.ndarray:
    """int64: the second of each user's last visible event in either role."""
    a = observed.activity
    place = a.places(torch.from_numpy(users), torch.tensor(visible))
    return a.histories.timestamp[a.histories.event[place]].numpy()
