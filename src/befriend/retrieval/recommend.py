"""People for somebody, at any moment of a log: what `befriend recommend` prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import polars as pl
import torch

from befriend.data.attributes import Attributes
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.texts import TextVectors
from befriend.errors import CallError, DataError
from befriend.evaluation.protocol import Hidden, Request
from befriend.evaluation.regimes import HIDDEN, REGIMES
from befriend.retrieval.rules import POOL, Eligible, Rules, arranged
from befriend.retrieval.sampling import Sampling, sample

AT_ONCE = 1024  # users
NO_RULES = Rules()
NOBODY = np.empty(0, np.int64)


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
    rules: Rules = NO_RULES
    """who may be on a list, and how it is put together"""


class Lister(Protocol):
    """Whoever makes lists and says how good each place is."""

    def scored(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """int32[B, k] users, -1 behind the last, and float32[B, k], their scores.

        A user whose number the log does not have is somebody without a history.
        """
        ...


class Recommender:
    """Lists for anybody, as of one moment. What its rules and draws remember, it learns from list to list."""

    def __init__(
        self,
        lister: Lister,
        observed: Observed,
        actions: tuple[str, ...],
        asked: Asked,
        attributes: Attributes,
        vectors: np.ndarray,
        unwilling: np.ndarray = NOBODY,
    ):
        """actions: labels by the model's own numbers; attributes: of everybody; vectors: float32[N, D], of everybody,
        of length 1, by which people are alike; unwilling: int64, who must not be recommended."""
        self.lister, self.observed, self.asked, self.vectors = lister, observed, asked, vectors
        log = observed.log
        self.visible, self.moment, self.action = situation(log, actions, asked, observed.texts)
        self.hidden = Hidden(log, observed.activity.histories)
        self.eligible = Eligible(asked.rules, log, attributes, self.moment)
        self.unwilling = unwilling
        self.shown = np.zeros(log.num_users, np.int64)

    def lists(self, users: pl.Series) -> pl.DataFrame:
        """Lists for users by their original ids, best first or as drawn; all at once, so AT_ONCE of them at most.

        Columns: user, known (False: a cold-start list, made without any history), rank (from 1), recommended, score (a
        model's is the log of a probability, up to a constant that is the same for the whole list), contact (whether the
        two were in contact before), last_active (UTC). Nobody gets themselves, or anybody on the other side of an
        `exclude` event.
        """
        number = present(self.observed.log, users, self.moment, self.observed.texts)
        ids, scores, contacts = self._made(number)
        row, rank = np.nonzero(ids >= 0)
        found = ids[row, rank]
        last = _last_active(self.observed, found, self.visible, self.moment)
        return pl.DataFrame(
            {
                "user": users.gather(row),
                "known": number[row] < self.observed.log.num_users,
                "rank": rank + 1,
                "recommended": self.observed.log.user_ids.gather(found),
                "score": scores[row, rank].round(4),
                "contact": pl.Series(
                    [bool(np.isin(f, contacts[r])) for r, f in zip(row, found, strict=True)], dtype=pl.Boolean
                ),
                "last_active": pl.from_epoch(pl.Series(last), "s").dt.replace_time_zone("UTC"),
            }
        )

    def remember(self, lists: pl.DataFrame) -> None:
        """Counts who is on lists that an earlier process made: the cap on how often one is shown spans them."""
        people = numbers(self.observed.log.user_ids, lists["recommended"])
        self.shown += np.bincount(people, minlength=len(self.shown))

    def _made(self, user: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """int32[B, k] users, -1 behind the last, float32[B, k], their scores, and the contacts of each user.

        user: int64[B], num_users for somebody the log does not have.
        """
        log, asked, rules = self.observed.log, self.asked, self.asked.rules
        pool = max(POOL, 5 * asked.k) if rules.rearranges else asked.k
        met = [self.hidden(int(u), self.visible, True) if u < log.num_users else NOBODY for u in user]
        blocked = (self.hidden(int(u), self.visible, False) if u < log.num_users else NOBODY for u in user)
        excluded = list(met) if asked.new_only else list(blocked)
        if rules != NO_RULES:
            excluded = [np.union1d(a, self.eligible.excluded(int(u))) for a, u in zip(excluded, user, strict=True)]
        if len(self.unwilling):
            excluded = [np.union1d(some, self.unwilling) for some in excluded]
        count = pool if asked.sampling is None else log.num_users
        request = request_of(user, self.visible, self.moment, self.action, excluded, count)
        ids, scores = self.lister.scored(request)
        if asked.sampling is not None:
            drawn = sample(torch.from_numpy(scores), pool, asked.sampling, self._generator(user)).numpy()
            column = drawn.clip(min=0)
            ids = np.where(drawn < 0, -1, np.take_along_axis(ids, column, 1))
            scores = np.take_along_axis(scores, column, 1)
        if rules.rearranges:
            ids, scores = arranged(ids, scores, asked.k, rules, self.vectors, self.shown)
        return ids, scores, met

    def _generator(self, user: np.ndarray) -> torch.Generator:
        """Users served together have draws of their own: what was made before changes none."""
        assert self.asked.sampling is not None
        seed = np.random.SeedSequence([self.asked.sampling.seed, *user.tolist()]).generate_state(1)
        return torch.Generator().manual_seed(int(seed[0]))


def blocks(users: pl.Series) -> Iterator[pl.Series]:
    """AT_ONCE users at a time, one block even of nobody."""
    for low in range(0, max(len(users), 1), AT_ONCE):
        yield users[low : low + AT_ONCE]


def situation(log: EventLog, actions: tuple[str, ...], asked: Asked, texts: TextVectors) -> tuple[int, int, int]:
    """How many events are visible, the UTC second, and the number of the action, HIDDEN where it is not known."""
    moment = max(int(log.timestamp[-1]), texts.last) + 1
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
    return visible, moment, action


def request_of(user: np.ndarray, visible: int, moment: int, action: int, excluded: list[np.ndarray], k: int) -> Request:
    """Lists for users, int64[B], all at one moment; excluded: int64, of each. Without an action a nightly list."""
    return Request(
        user=user,
        visible=np.full_like(user, visible),
        horizon=np.full_like(user, moment),
        action=np.full_like(user, action),
        exclude_indptr=np.cumsum([0, *map(len, excluded)]),
        exclude=np.concatenate(excluded),
        refresh=REGIMES.index("daily" if action == HIDDEN else "streaming"),
        k=k,
    )


def present(log: EventLog, users: pl.Series, moment: int, texts: TextVectors) -> np.ndarray:
    """int64: the dense number of each id, num_users for those of whom nothing was known before a moment."""
    number = numbers(log.user_ids, users)
    somebody = np.minimum(number, log.num_users - 1)
    wrote = texts.known(torch.from_numpy(somebody), torch.tensor(moment)).numpy()
    number[(log.first_seen[somebody] >= moment) & ~wrote] = log.num_users
    return number


def numbers(ids: pl.Series, wanted: pl.Series) -> np.ndarray:
    """int64: the dense number of each id, len(ids) for those the log does not have."""
    table = pl.DataFrame({"id": ids, "number": np.arange(len(ids))})
    found = pl.DataFrame({"id": wanted.cast(ids.dtype, strict=False)}).join(
        table, on="id", how="left", maintain_order="left"
    )
    return found["number"].fill_null(len(ids)).to_numpy().astype(np.int64).copy()


def _last_active(observed: Observed, users: np.ndarray, visible: int, moment: int) -> np.ndarray:
    """int64: the second of each user's last visible event in either role, or of the last text of who has none."""
    a, written = observed.activity, observed.texts
    who = torch.from_numpy(users).long()
    place = a.places(who, torch.tensor(visible))
    acted = a.histories.timestamp[a.histories.event[place.clamp(min=0)]]
    if not written.width:
        return acted.numpy()
    wrote = written.second[written.places(who, torch.tensor(moment)).clamp(min=0)]
    return torch.where(place >= 0, acted, wrote).numpy()
