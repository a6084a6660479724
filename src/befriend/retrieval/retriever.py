"""What retrieval needs of any model: queries, vectors of everybody as of a moment, and scores.

A list is the same whoever else is asked for with it. Matrix products round by the shape of what is multiplied, so they
only propose who may stand on it; who does, and in which order, is decided by scores in double precision, rounded once.
What a user is never changes; what everyone has been doing lately is made anew from moment to moment. People of one's
own history get the pointer's term added: they are few.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from befriend.data.observed import Observed
from befriend.models.batch import NextTargetPredictionBatch, Positions, Query
from befriend.models.query_tower import QueryTower
from befriend.models.settings import QuerySettings
from befriend.models.terms import each
from befriend.retrieval.knn import Neighbours
from befriend.retrieval.moment import Moment
from befriend.retrieval.requests import Request, columns

M = TypeVar("M", bound=QueryTower)
MORE = 32  # people proposed beyond those asked for
DOUBT = 1e-4  # single and double precision differ by less, as a share of the score
NUMBERS = 2**22  # in double precision at a time: 32 MiB


@dataclass(frozen=True)
class View:
    """A model as of a moment. Row k of `vectors` is the k-th of the moment's `ids`."""

    moment: Moment
    vectors: Tensor
    """float32[F, W]"""
    social: Tensor
    """float32[N, D]: the mean of those with whom everybody was last in contact"""


@dataclass(frozen=True)
class Pairs:
    """(row of a request, user) that may not meet."""

    row: Tensor
    """int64[P]"""
    user: Tensor
    """int64[P]"""

    @classmethod
    def of(cls, request: Request) -> Pairs:
        """Those whom a request excludes."""
        return cls(torch.from_numpy(request.exclude_row), torch.from_numpy(request.exclude))

    def beside(self, row: Tensor, user: Tensor) -> Pairs:
        return Pairs(torch.cat([self.row, row]), torch.cat([self.user, user]))

    def hold(self, users: Tensor, size: int) -> Tensor:
        """bool[B, K]: whether each user, int64[B, K] below `size`, is one of its row's."""
        rows = torch.arange(len(users))[:, None]
        return torch.isin(rows * size + users, self.row * size + self.user)

    def of_rows(self, rows: Tensor) -> Pairs:
        """Those of some rows, int64, ascending, which become rows 0, 1, ..."""
        at = torch.searchsorted(rows, self.row).clamp(max=max(len(rows) - 1, 0))
        kept = rows[at] == self.row if len(rows) else torch.zeros(len(self.row), dtype=torch.bool)
        return Pairs(at[kept], self.user[kept])


@dataclass(frozen=True)
class OwnContacts:
    """People of the histories of B users."""

    users: Tensor
    """int64[B, C]"""
    real: Tensor
    """bool[B, C], which of them count"""
    score: Tensor
    """float64[B, C], the pointer's term"""


class Retriever(ABC, Generic[M]):
    """A model on a log. Nothing of it changes from list to list, so threads may share it."""

    @torch.no_grad()
    def __init__(self, name: str, model: M, observed: Observed, tower: QuerySettings):
        self.name, self.model, self.observed, self.tower = name, model.eval(), observed, tower
        self.activity = observed.activity
        self.rows = model.users.rows()
        self.exact = copy.deepcopy(model).double()
        self.exact_rows = self.exact.users.rows()

    @abstractmethod
    def standing(self, users: Tensor) -> Tensor:
        """float32[F, W']: the first columns of the vectors of users, int64[F], which no moment changes; W' may be 0."""

    @abstractmethod
    def static(self, view: View, query: Query, users: Tensor) -> Tensor:
        """float64[B, K]: scores of users, int64[B, K], by what they are, whatever they have been doing."""

    @abstractmethod
    def scores(self, view: View, query: Query) -> Tensor:
        """float32[B, F]: scores of everybody who may be found, but for the pointer's term."""

    @abstractmethod
    def propose(self, view: View, query: Query, k: int, hidden: Pairs, allowed: Tensor | None) -> Neighbours:
        """The k best in single precision, but for the pointer's term; users, not rows of the view.

        query: of float32; hidden: who may not be found; allowed: bool[N], who may be found at all.
        """

    @torch.no_grad()
    def at(self, moment: Moment, before: View | None = None) -> View:
        """The model as of a moment. before: of any other, from which is taken what has not changed."""
        a, model, ids = self.activity, self.model, moment.ids
        parts = [self.standing(ids)]
        social = torch.zeros(0, 0)
        if model.to_social is not None:
            if before is None:
                social = torch.zeros(len(moment.place), model.to_social.out_features)
                changed = moment.seen.nonzero().squeeze(1)
            else:
                social = before.social.clone()
                changed = (moment.place != before.moment.place).nonzero().squeeze(1)
            partners = a.partners(changed, moment.place[changed] + 1, self.tower.partners)
            social[changed] = model.social(partners, self.rows)
            parts.append(social[ids])
        if model.moment is not None:
            written = self.observed.texts.width > 0
            features = torch.cat([moment.activity, moment.texts[0]], 1) if written else moment.activity
            parts.append(model.moment(features))
            if model.text_width:
                parts.append(self.observed.texts.of(moment.texts[1]))
        return self.prepared(View(moment, torch.cat(parts, 1), social))

    def prepared(self, view: View) -> View:
        """With whatever else a search of it needs."""
        return view

    @torch.no_grad()
    def queries(self, request: Request) -> Query:
        """What B users ask for, in double precision. A user of whom nothing is known asks as nobody in particular."""
        a, length, nobody = self.activity, self.tower.history_length, self.observed.log.num_users
        asked = columns(request)
        # Both lists of an event ask the same: it is asked once. And one history answers in all regimes of a moment.
        distinct, ask = torch.stack(list(asked.values())).unique(return_inverse=True, dim=1)
        user, _, _, action, regime = distinct
        (who, seen, now), row = distinct[:3].unique_consecutive(return_inverse=True, dim=1)
        who = torch.where(self.observed.known(who, seen, now), who, nobody)
        got = self.observed.encoded.gather(who, seen, length)
        batch = NextTargetPredictionBatch(who, got.action, got.other, got.mask, who, who, got.received, got.timestamp)
        features = None
        if self.tower.freshness:
            features = self.observed.features(who, a.places(who, seen), seen, now).double()[row]
        state = torch.full_like(row, length)
        positions = Positions(row, state, self.observed.actions(action), user, regime, features)
        states = self.exact.encode_history(batch, self.exact_rows)
        return self.exact.query(batch, positions, states, self.exact_rows).of(ask)

    @torch.no_grad()
    def contacts(self, view: View, query: Query, user: Tensor) -> OwnContacts:
        """People of each user's own history; nobody where the model has no pointer."""
        a, moment, pointer = self.activity, view.moment, self.exact.pointer
        visible = torch.full_like(user, moment.visible)
        end = a.histories.ends(user, visible)
        place = a.contacts(end, user, visible, self.tower.own_contacts if pointer is not None else 0)
        users = a.others(place)
        if pointer is None:
            return OwnContacts(users, place >= 0, torch.zeros(place.shape, dtype=torch.float64))
        now = torch.tensor(moment.visible), torch.tensor(moment.horizon)
        features = a.pair_features(place, end[:, None], *now).double()
        return OwnContacts(users, place >= 0, pointer(query.hidden[:, None], features, a.kinds(place)))

    @torch.no_grad()
    def score(self, view: View, query: Query, users: Tensor) -> Tensor:
        """float64[B, K]: scores of users who may be found, int64[B, K], but for the pointer's term.

        query: in double precision.
        """
        rows = max(1, NUMBERS // max(1, users.shape[1] * view.vectors.shape[1]))
        found = [users.new_empty(0, users.shape[1], dtype=torch.float64)]
        asked, standing = query.changing(), view.vectors.shape[1] - query.changing().shape[1]
        for low in range(0, len(users), rows):
            some = slice(low, low + rows)
            vectors = view.vectors[view.moment.row[users[some]], standing:].double()
            found.append(self.static(view, query.of(some), users[some]) + each(asked[some], vectors))
        return torch.cat(found)

    @torch.no_grad()
    def all_scores(self, view: View, query: Query, user: Tensor, excluded: Pairs) -> Tensor:
        """float32[B, F]: scores of everybody who may be found, all terms, in single precision; -inf for who may not be
        listed. Arguments as of `search`."""
        total, near = self.scores(view, query), self.contacts(view, query, user)
        row = torch.cat([view.moment.row, torch.tensor([-1])])
        at, place = near.real.nonzero(as_tuple=True)[0], row[near.users[near.real]]
        total[at[place >= 0], place[place >= 0]] += near.score[near.real].float()[place >= 0]
        hidden = excluded.beside(torch.arange(len(user)), user)
        place = row[hidden.user]
        total[hidden.row[place >= 0], place[place >= 0]] = -torch.inf
        return total

    @torch.no_grad()
    def search(
        self, view: View, query: Query, user: Tensor, k: int, excluded: Pairs, allowed: Tensor | None = None
    ) -> Neighbours:
        """The k best people for each of B queries, by score, then by number.

        query: from `queries`; user: int64[B], never found themselves; excluded: who must not be found; allowed:
        bool[N], who may be found at all, None for everybody who is findable.
        """
        near = self.contacts(view, query, user)
        rows = torch.arange(len(user))
        hidden = excluded.beside(rows, user)
        may = view.moment.findable if allowed is None else view.moment.findable & allowed
        real = near.real & may[near.users] & ~hidden.hold(near.users, len(may) + 1)
        own_score = (self.score(view, query, near.users) + near.score).masked_fill(~real, -torch.inf)
        at, column = near.real.nonzero(as_tuple=True)
        hidden = hidden.beside(at, near.users[at, column])
        own = Neighbours(near.users, own_score)
        return self._search(view, query, k, MORE, own, hidden, allowed)

    def _search(
        self, view: View, query: Query, k: int, more: int, own: Neighbours, hidden: Pairs, allowed: Tensor | None
    ) -> Neighbours:
        """own: contacts and their scores, float64; they are hidden from the proposals."""
        proposed = self.propose(view, query.to_dtype(torch.float32), k + more, hidden, allowed)
        there = proposed.ids >= 0
        ids = proposed.ids.clamp(min=0)
        exact = self.score(view, query, torch.where(there, ids, view.moment.ids[:1] if len(view.moment.ids) else ids))
        exact = exact.masked_fill(~there, -torch.inf)
        found = ordered(torch.cat([own.ids, ids], 1), torch.cat([own.scores, exact], 1).float(), k)
        # Whoever was not proposed scores less than the last who was, but for rounding.
        last, least = proposed.scores[:, -1], found.scores[:, -1]
        doubtful = there[:, -1] & (last >= least - DOUBT * least.abs().clamp(min=1))
        if doubtful.any():
            rows = doubtful.nonzero().squeeze(1)
            few = Neighbours(own.ids[rows], own.scores[rows])
            again = self._search(view, query.of(rows), k, 8 * more, few, hidden.of_rows(rows), allowed)
            found.ids[rows], found.scores[rows] = again.ids, again.scores
        return found


def ordered(ids: Tensor, scores: Tensor, k: int) -> Neighbours:
    """The k best of each row, of equal scores the smaller id first. ids: int64[B, K]; scores: [B, K], -inf: nobody."""
    by_id = ids.argsort(dim=1, stable=True)
    ids, scores = ids.gather(1, by_id), scores.gather(1, by_id)
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    ids, scores = ids.gather(1, best), scores.gather(1, best)
    ids = torch.where(scores > -torch.inf, ids, -1)
    missing = (0, k - ids.shape[1])
    pad = torch.nn.functional.pad
    return Neighbours(pad(ids, missing, value=-1), pad(scores, missing, value=-torch.inf))


def of_view(view: View, found: Neighbours) -> Neighbours:
    """What was found among the rows of a view, as users."""
    ids = (
        torch.where(found.ids >= 0, view.moment.ids[found.ids.clamp(min=0)], -1) if len(view.moment.ids) else found.ids
    )
    return replace(found, ids=ids)
