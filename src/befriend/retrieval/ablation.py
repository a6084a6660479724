"""What a score is without this and that: the terms of a model, and the features of the ranker, left out one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from befriend.data.activity import PAIR_FEATURES, USER_FEATURES
from befriend.models.batch import NextTargetPredictionBatch, Positions, Query
from befriend.models.terms import each
from befriend.retrieval.ranker import SOURCES, Lists
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import Request
from befriend.retrieval.retriever import Retriever, View

RIVALS = 200  # people beside whom a score is measured
RECEIVED, DONE, JOINED = [1, 2, 3, 9, *range(10, 18)], [4, 5, 6, 8, *range(18, 21)], [7]
"""columns of `Activity.user_features`"""
OF_CONTACTS = ("recency-then-last-received", "base-level-then-attention")
OF_GRAPH = ("adamic-adar-x-attention", "adamic-adar-x-fresh", "ppr-x-attention")
OF_RECEIVED = ("last-received", "attention", "decayed-in-degree-6h", "decayed-in-degree-quarter", "popularity")
OF_DONE = ("last-active",)


class Without:
    """Scores of some people by one model, without this and that."""

    def __init__(
        self, retriever: Retriever[Any], view: View, query: Query, request: Request, people: np.ndarray, near: list[int]
    ):
        """near: contacts of the user's that are left out one by one."""
        self.retriever, self.view, self.query = retriever, view, query
        self.people = torch.from_numpy(people)
        own = retriever.contacts(view, query, torch.from_numpy(request.user))
        met = (own.users[0][None] == self.people[:, None]) & own.real[0]  # (n, C)
        self.pointer = (met.double() * own.score[0]).sum(1)
        self.total = retriever.score(view, query, self.people[None])[0] + self.pointer
        moment = view.moment
        row = moment.row[self.people]
        features = moment.activity[row]
        observed, self.texts = retriever.observed, retriever.observed.texts.width > 0
        self.features = torch.cat([features, moment.texts[0][row]], 1) if self.texts else features
        self.written = observed.texts.of(moment.texts[1][row]) if self.texts else torch.zeros(len(row), 0)
        self.nobody = retriever.activity.user_features(
            torch.tensor(-1), torch.tensor(moment.visible), torch.tensor(moment.horizon)
        )
        self.of_contact = self._contacts(request, near) if near else {}

    def without(self, kind: str) -> Tensor:
        """float64[n]: between, common, texts, attributes, received, done, joined."""
        if kind == "between":
            return self.total - self.pointer
        if kind == "texts" and self.retriever.model.text_width:
            assert self.query.moment is not None
            asked = self.query.moment[:, -self.retriever.model.text_width :]
            return self.total - each(asked, self.written[None].double())[0]
        if kind == "attributes":
            return self.total - self._attributes()
        columns = {"received": RECEIVED, "done": DONE, "joined": JOINED}.get(kind)
        moment = self.retriever.exact.moment
        if columns is None or moment is None:
            return self.total
        other = self.features.clone()
        other[:, columns] = self.nobody[columns]
        if kind == "joined" and self.texts:
            other[:, USER_FEATURES:] = 0
        assert self.query.moment is not None
        asked = self.query.moment[:, : moment.width]
        change = moment(other.double()) - moment(self.features.double())
        return self.total + each(asked, change[None])[0]

    def _attributes(self) -> Tensor:
        """float64[n]: what the categorical attributes of the people add."""
        users = self.retriever.exact.users
        if not len(users.categories):
            return torch.zeros(len(self.people), dtype=torch.float64)
        labels = users.categorical[self.people.clamp(max=len(users.categorical) - 1)]
        added = torch.stack([table(labels[:, k]) for k, table in enumerate(users.categories)]).sum(0)
        if added.shape[1] != self.query.static.shape[1]:  # tokens: attributes describe who asks alone
            return torch.zeros(len(self.people), dtype=torch.float64)
        return each(self.query.static, added[None])[0]

    def without_contact(self, contact: int) -> Tensor:
        """float64[n], without all that happened with a contact of the user's."""
        return self.total - self.of_contact[contact]

    def _contacts(self, request: Request, near: list[int]) -> dict[int, Tensor]:
        """By how much scores fall beside those of other people, float64[n], without each contact."""
        r, moment = self.retriever, self.view.moment
        user, visible, horizon = (torch.from_numpy(x) for x in (request.user, request.visible, request.horizon))
        got = r.observed.encoded.gather(user, visible, r.tower.history_length)
        gone = got.other == torch.tensor([-1, *near])[:, None]  # (1 + contacts, L): at first nobody
        kept = got.mask & ~gone
        order = kept.long().argsort(dim=1, stable=True)  # those that are left stand at the end
        count = len(kept)
        action = r.observed.actions(torch.from_numpy(request.action)).expand(count)
        done, other, received, second = (
            x.expand(count, -1).gather(1, order) for x in (got.action, got.other, got.received, got.timestamp)
        )
        who = user.expand(count)
        batch = NextTargetPredictionBatch(who, done, other, kept.gather(1, order), action, who, received, second)
        features = None
        if r.tower.freshness:
            place = r.activity.places(user, visible)
            features = r.observed.features(user, place, visible, horizon).double().expand(count, -1)
        row = torch.arange(count)
        regime = torch.from_numpy(request.regime).expand(count)
        state = torch.full_like(row, order.shape[1])
        positions = Positions(row, state, action, who, regime, features)
        query = r.exact.query(batch, positions, r.exact.encode_history(batch, r.exact_rows), r.exact_rows)
        rivals = moment.ids[torch.linspace(0, len(moment.ids) - 1, min(len(moment.ids), RIVALS)).long()]
        scores = r.score(self.view, query, torch.cat([self.people, rivals]).expand(count, -1))
        scores = scores[:, : len(self.people)] - scores[:, len(self.people) :].mean(1, keepdim=True)
        return dict(zip(near, scores[0] - scores[1:], strict=True))


class RankerColumns:
    """Where the ranker's features stand, see `befriend.retrieval.ranker.features`."""

    def __init__(self, recommender: Recommender, model: str, nobody: np.ndarray):
        """nobody: float32[USER_FEATURES], of somebody without an event."""
        self.nobody = nobody
        texts = 3 if recommender.observed.texts.width else 0
        self.texts = slice(2 * USER_FEATURES, 2 * USER_FEATURES + texts)
        self.pair = slice(self.texts.stop, self.texts.stop + PAIR_FEATURES)
        self.rank: dict[str, int] = {}
        column = self.pair.stop + 3
        for name in SOURCES[model]:
            self.rank[name] = column
            column += 3 if name in recommender.retrievers else 1

    def ablated(self, rows: np.ndarray, kind: str, changed: dict[str, np.ndarray], lists: Lists) -> np.ndarray:
        """float32[n, F]: the features without one kind of fact. changed: model -> float64[n], its scores without it."""
        out = rows.copy()
        nothing = np.nan
        rules: tuple[str, ...] = ()
        if kind == "between":
            out[:, self.pair] = nothing
            out[:, self.pair.stop : self.pair.stop + 2] = 0
            rules = OF_CONTACTS
        elif kind in ("common", "bridge"):
            rules = OF_GRAPH
        elif kind == "received":
            out[:, RECEIVED] = self.nobody[RECEIVED]
            rules = OF_RECEIVED
        elif kind == "done":
            out[:, DONE] = self.nobody[DONE]
            rules = OF_DONE
        elif kind == "joined":
            out[:, JOINED] = self.nobody[JOINED]
            out[:, self.texts] = nothing
        for name in rules:
            out[:, self.rank[name]] = nothing
        for name, score in changed.items():
            ids, listed = lists.ids[name][0], lists.scores[name][0]
            column = self.rank[name]
            moved = ~np.isclose(score, out[:, column + 1], atol=1e-5)
            place = (listed[None] > score[:, None].astype(np.float32)).sum(1)
            there = moved & (place < (ids >= 0).sum())
            out[there, column], out[there, column + 1] = place[there], score[there]
            out[there, column + 2] = score[there] - listed[0]
            out[moved & ~there, column : column + 3] = nothing
        return out
