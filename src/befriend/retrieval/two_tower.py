"""Retrieval with the two-tower model: vectors of everyone at a moment, queries, and one's own contacts on top.

The score of somebody outside one's history is an inner product, found by an index. People of one's own history get
the pointer's term added: they are few, so they are scored one by one and merged.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from befriend.data.observed import Observed
from befriend.evaluation.protocol import Request
from befriend.models.batch import NextTargetPredictionBatch, Positions, Query
from befriend.models.settings import TowerSettings
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.knn import ExactIndex, IvfIndex, Neighbours


class Retriever:
    """Everyone of a log as targets, kept up to date from moment to moment without retraining.

    What a user is never changes; whom a user was last in contact with changes for the users of new events only;
    what everyone has been doing lately is made anew.
    """

    @torch.no_grad()
    def __init__(
        self, model: NextTargetPredictionUserIDs, observed: Observed, tower: TowerSettings, approximate: bool = False
    ):
        """approximate: search with inverted lists instead of looking at everyone."""
        self.model, self.observed, self.tower, self.approximate = model.eval(), observed, tower, approximate
        self.activity = observed.activity
        everyone = torch.arange(observed.log.num_users)
        self.rows = model.users.rows()
        static = model.users(everyone, self.rows)
        social = model.to_social.out_features if model.to_social is not None else 0
        moment = model.moment.width if model.moment is not None else 0
        self.vectors = torch.zeros(len(everyone), static.shape[1] + social + moment)
        self.static, self.social, self.moment = self.vectors.split([static.shape[1], social, moment], dim=1)
        self.static.copy_(static)
        self.place = torch.full((len(everyone),), -1)
        self.now = (0, -1)
        self.index: ExactIndex | IvfIndex = ExactIndex(self.vectors)

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
        if self.model.to_social is not None and len(changed):
            partners = a.partners(changed, self.place[changed] + 1, self.tower.partners)
            self.social[changed] = self.model.social(partners, self.rows)
        if self.model.moment is not None:
            features = a.user_features(self.place, torch.tensor(visible), torch.tensor(horizon))
            self.moment.copy_(self.model.moment(features))
        self.now = visible, horizon
        if self.approximate:
            old = self.index
            self.index = old.refreshed(self.vectors) if isinstance(old, IvfIndex) else IvfIndex.build(self.vectors)

    @torch.no_grad()
    def queries(self, user: Tensor, visible: Tensor, horizon: Tensor, action: Tensor, refresh: int) -> Query:
        """What B users ask for. user, visible, horizon, action: int64[B]; refresh: index into REGIMES.

        A user whose number the log does not have has no history and no embedding.
        """
        a, length = self.activity, self.tower.history_length
        known = user < self.observed.log.num_users
        somebody = torch.where(known, user, 0)
        visible = torch.where(known, visible, 0)
        got = self.observed.encoded.gather(somebody, visible, length)
        batch = NextTargetPredictionBatch(
            user, got.action, got.other, got.mask, action, user, got.received, got.timestamp
        )
        place = a.places(somebody, visible)
        features = a.user_features(place, visible, horizon) if self.tower.freshness else None
        row = torch.arange(len(user))
        positions = Positions(row, torch.full_like(row, length), action, user, torch.full_like(row, refresh), features)
        return self.model.query(batch, positions, self.model.encode_history(batch))

    @torch.no_grad()
    def search(self, query: Query, user: Tensor, k: int, exclude_indptr: np.ndarray, exclude: np.ndarray) -> Neighbours:
        """The k best people for each query at the moment of the last `refresh`.

        user: int64[B], never found themselves; exclude_indptr, exclude: CSR of others not to be found.
        """
        a, (visible, horizon) = self.activity, self.now
        known = user < len(self.place)
        somebody, seen = torch.where(known, user, 0), torch.tensor(visible)
        moment = torch.where(known, seen, 0)
        end = a.histories.ends(somebody, moment)
        entries = self.tower.own_contacts if self.model.pointer is not None else 0
        place = a.contacts(end, somebody, moment, entries)
        contact, own = a.others(place), place >= 0  # (B, C)
        hidden_row = np.repeat(np.arange(len(user)), np.diff(exclude_indptr))
        row = torch.arange(len(user))[:, None].expand_as(contact)
        out_row = np.concatenate([hidden_row, np.arange(len(user)), row[own].numpy()])
        out = np.concatenate([exclude, user.numpy(), contact[own].numpy()])
        order = np.argsort(out_row, kind="stable")
        indptr = np.concatenate([[0], np.bincount(out_row, minlength=len(user)).cumsum()])
        vector = query.vector()
        found = self.index.search(vector, k, indptr, out[order], self.place >= 0)
        if self.model.pointer is None or not contact.numel():
            return found
        score = torch.einsum("bw,bcw->bc", vector, self.vectors[contact])
        features = a.pair_features(place, end[:, None], seen, torch.tensor(horizon))
        score = score + self.model.pointer(query.hidden[:, None], features, a.kinds(place))
        key = row * len(self.place) + contact
        hidden = torch.from_numpy(hidden_row * len(self.place) + exclude)
        score = score.masked_fill(~own | torch.isin(key, hidden), -torch.inf)
        ids, scores = torch.cat([contact, found.ids], 1), torch.cat([score, found.scores], 1)
        best = scores.topk(k, dim=1)
        ids = torch.where(best.values > -torch.inf, ids.gather(1, best.indices), -1)
        return Neighbours(ids, best.values)


class TwoTowerRanker:
    """The model as a Ranker of the evaluation protocol."""

    name = "two-tower"

    def __init__(self, model: NextTargetPredictionUserIDs, observed: Observed, tower: TowerSettings):
        self.retriever = Retriever(model, observed, tower)

    def rank(self, request: Request) -> dict[str, np.ndarray]:
        user, visible, horizon, action = (
            torch.from_numpy(x) for x in (request.user, request.visible, request.horizon, request.action)
        )
        query = self.retriever.queries(user, visible, horizon, action, request.refresh)
        lists = np.full((len(request), request.k), -1, np.int32)
        later = np.flatnonzero((np.diff(request.visible) != 0) | (np.diff(request.horizon) != 0)) + 1
        for low, high in zip([0, *later], [*later, len(request)], strict=True):
            self.retriever.refresh(int(request.visible[low]), int(request.horizon[low]))
            start, end = request.exclude_indptr[low], request.exclude_indptr[high]
            found = self.retriever.search(
                query.of(slice(low, high)),
                user[low:high],
                request.k,
                request.exclude_indptr[low : high + 1] - start,
                request.exclude[start:end],
            )
            lists[low:high] = found.ids.numpy()
        return {self.name: lists}
