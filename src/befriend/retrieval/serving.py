"""What serving needs of any model: queries at a moment, what everyone has been doing lately, one's own contacts.

Kept up to date from moment to moment without retraining: what a user is never changes; what everyone has been doing
lately is made anew. People of one's own history get the pointer's term added: they are few.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from befriend.data.observed import Observed
from befriend.evaluation.protocol import Request
from befriend.models.batch import NextTargetPredictionBatch, Positions, Query
from befriend.models.query_tower import QueryTower
from befriend.models.settings import QuerySettings
from befriend.retrieval.knn import Neighbours

M = TypeVar("M", bound=QueryTower)


@dataclass(frozen=True)
class Contacts:
    """People of the histories of B users."""

    users: Tensor
    """int64[B, C]"""
    real: Tensor
    """bool[B, C], which of them count"""
    score: Tensor
    """float32[B, C], the pointer's term"""


class Retriever(ABC, Generic[M]):
    """A model at a moment of a log."""

    def __init__(self, model: M, observed: Observed, tower: QuerySettings, width: int = 0):
        """width: columns of the vectors that stand before those of what changes with time."""
        self.model, self.observed, self.tower = model, observed, tower
        model.eval()
        self.activity = observed.activity
        people = observed.log.num_users
        self.rows, social = model.users.rows(), model.to_social.out_features if model.to_social is not None else 0
        self.vectors = torch.zeros(people, width + social + model.moment_width)
        self.social, self.moment = self.vectors[:, width : width + social], self.vectors[:, width + social :]
        self.place = torch.full((people,), -1)
        """int64[N], the last visible entry of each user in the histories, -1 for those not seen yet"""
        self.found = torch.zeros(people, dtype=torch.bool)
        """bool[N], who may be found: those seen so far, and in service those who wrote something"""
        self.written = torch.full((people,), -1)
        """int64[N], which vector stands for what each user wrote so far, -1 for nothing"""
        self.now = (0, -1)

    @abstractmethod
    def search(self, query: Query, user: Tensor, k: int, exclude_indptr: np.ndarray, exclude: np.ndarray) -> Neighbours:
        """The k best people for each query at the moment of the last `refresh`.

        user: int64[B], never found themselves; exclude_indptr, exclude: CSR of others not to be found.
        """

    @abstractmethod
    def score(self, query: Query, users: Tensor) -> Tensor:
        """float32[B, K]: scores of users, int64[B, K], as of the last `refresh`, but for the pointer's term."""

    @torch.no_grad()
    def refresh(self, visible: int, horizon: int) -> None:
        """From now on only the first `visible` events count, seen from the UTC second `horizon`."""
        if (visible, horizon) == self.now:
            return
        a, before = self.activity, self.now[0]
        events = slice(min(visible, before), max(visible, before))
        places = torch.cat([a.actor_place[events], a.target_place[events]])
        changed = (torch.searchsorted(a.histories.indptr, places, right=True) - 1).unique()
        self.place[changed] = a.places(changed, torch.tensor(visible))
        everyone = torch.arange(len(self.place))
        self.found = self.place >= 0
        if self.observed.profiles:
            self.found = self.found | self.observed.texts.known(everyone, torch.tensor(horizon))
        if self.social.shape[1] and len(changed):
            partners = a.partners(changed, self.place[changed] + 1, self.tower.partners)
            self.social[changed] = self.model.social(partners, self.rows)
        if self.model.moment is not None:
            told, row = self.observed.told(everyone, self.place, torch.tensor(visible), torch.tensor(horizon))
            self.moment[:, : self.model.moment.width] = self.model.moment(told)
            if row is not None:
                other = (row != self.written).nonzero().squeeze(1)
                self.moment[other, self.model.moment.width :] = self.observed.texts.of(row[other])
                self.written = row
        self.now = visible, horizon
        self.refreshed(changed)

    def refreshed(self, changed: Tensor) -> None:
        """What else is to be made anew. changed: int64, users with other events than before."""

    @torch.no_grad()
    def queries(self, user: Tensor, visible: Tensor, horizon: Tensor, action: Tensor, refresh: int) -> Query:
        """What B users ask for. user, visible, horizon, action: int64[B]; refresh: index into REGIMES.

        A user whose number the log does not have has no history and no embedding. One who is not there yet is no other.
        """
        a, length = self.activity, self.tower.history_length
        # Both lists of an event ask the same: it is asked once.
        asked = torch.stack([user, visible, horizon, action])
        (user, visible, horizon, action), ask = asked.unique_consecutive(return_inverse=True, dim=1)
        known = user < self.observed.log.num_users
        somebody = torch.where(known, user, 0)
        visible = torch.where(known, visible, 0)
        got = self.observed.encoded.gather(somebody, visible, length)
        place = a.places(somebody, visible)
        there = known & ((place >= 0) | self.observed.texts.known(somebody, horizon))
        user = torch.where(there, user, self.observed.log.num_users)  # what later events make of somebody is not known
        batch = NextTargetPredictionBatch(
            user, got.action, got.other, got.mask, action, user, got.received, got.timestamp
        )
        features = self.observed.features(somebody, place, visible, horizon) if self.tower.freshness else None
        row = torch.arange(len(user))
        positions = Positions(row, torch.full_like(row, length), action, user, torch.full_like(row, refresh), features)
        return self.model.query(batch, positions, self.model.encode_history(batch)).of(ask)

    @torch.no_grad()
    def contacts(self, query: Query, user: Tensor) -> Contacts:
        """People of each user's own history as of the last `refresh`; nobody where the model has no pointer."""
        a, (visible, horizon) = self.activity, self.now
        known = user < len(self.place)
        somebody, seen = torch.where(known, user, 0), torch.tensor(visible)
        moment = torch.where(known, seen, 0)
        end = a.histories.ends(somebody, moment)
        pointer = self.model.pointer
        place = a.contacts(end, somebody, moment, self.tower.own_contacts if pointer is not None else 0)
        if pointer is None:
            return Contacts(a.others(place), place >= 0, torch.zeros(place.shape))
        features = a.pair_features(place, end[:, None], seen, torch.tensor(horizon))
        return Contacts(a.others(place), place >= 0, pointer(query.hidden[:, None], features, a.kinds(place)))


class RetrieverRanker(Generic[M]):
    """A retriever as a Ranker of the evaluation protocol."""

    def __init__(self, name: str, retriever: Retriever[M]):
        self.name, self.retriever = name, retriever

    def rank(self, request: Request) -> dict[str, np.ndarray]:
        return {self.name: self.scored(request)[0]}

    def scored(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """int32[R, k] users, -1 behind the last, and float32[R, k], their scores."""
        user, visible, horizon, action = (
            torch.from_numpy(x) for x in (request.user, request.visible, request.horizon, request.action)
        )
        query = self.retriever.queries(user, visible, horizon, action, request.refresh)
        lists = np.full((len(request), request.k), -1, np.int32)
        scores = np.full((len(request), request.k), -np.inf, np.float32)
        for low, high in moments(request):
            self.retriever.refresh(int(request.visible[low]), int(request.horizon[low]))
            start, end = request.exclude_indptr[low], request.exclude_indptr[high]
            found = self.retriever.search(
                query.of(slice(low, high)),
                user[low:high],
                request.k,
                request.exclude_indptr[low : high + 1] - start,
                request.exclude[start:end],
            )
            lists[low:high], scores[low:high] = found.ids.numpy(), found.scores.numpy()
        return lists, scores


def moments(request: Request) -> Iterator[tuple[int, int]]:
    """Runs of rows that see the same events from the same second."""
    later = np.flatnonzero((np.diff(request.visible) != 0) | (np.diff(request.horizon) != 0)) + 1
    yield from zip([0, *later.tolist()], [*later.tolist(), len(request)], strict=True)
