"""Ablation of scores: what a candidate would score, by a model or by the ranker, without one kind of fact.

For a model, `ScoreAblation` leaves out a term of the score, input features or events. For the ranker, `RankerAblation`
replaces the features that depend most on the fact. The kinds of facts:

- pair_history: the events between the requesting user and the candidate. A model loses its pointer term;
- common_contacts: their common contacts. A model loses its two-hop term;
- bridge: all events with one contact of the requesting user, who has contacts in common with the candidate (only in
  `RankerAblation`; for a model, `ScoreAblation.without_contact`);
- received, done: the events that the candidate received, and those that the candidate did;
- joined: how long ago the candidate had the first event, and number and age of the candidate's texts;
- texts, attributes: the text vector and the categorical attributes of the candidate, which only the models use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from befriend.features.activity import NUM_PAIR_FEATURES, NUM_USER_FEATURES
from befriend.features.text_vectors import NUM_STATISTICS
from befriend.features.two_hop import NUM_TWO_HOP_FEATURES
from befriend.models.model_inputs import NextTargetPredictionBatch, Positions, Query
from befriend.models.score_terms import row_wise_dot
from befriend.retrieval.heuristics import GRAPH_HEURISTICS
from befriend.retrieval.ranker import RANKER_HEURISTICS, SOURCES, CandidateLists, source_columns
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch
from befriend.retrieval.retriever import ModelView, Retriever

NUM_REFERENCES = 200  # eligible users whose mean score is subtracted from a candidate's score, see `without_contact`
RECEIVED, DONE, JOINED = [1, 2, 3, 9, *range(10, 18)], [4, 5, 6, 8, *range(18, 21)], [7]
"""columns of `Activity.user_features` that describe received events, events done, and the time of the first event"""
# Heuristics that depend most on the contacts of the requesting user, on contacts of contacts, on the events that a
# candidate received, and on those that a candidate did.
CONTACT_SOURCES = ("recency-then-last-received", "base-level-then-attention")
GRAPH_SOURCES = tuple(row[0] for row in GRAPH_HEURISTICS if row[0] in RANKER_HEURISTICS)
RECEIVED_SOURCES = ("last-received", "attention", "decayed-in-degree-6h", "decayed-in-degree-quarter", "popularity")
DONE_SOURCES = ("last-active",)


class ScoreAblation:
    """Scores of n candidates for one request by one model, with one kind of fact left out at a time."""

    def __init__(
        self,
        retriever: Retriever[Any],
        view: ModelView,
        query: Query,
        request: RequestBatch,
        candidates: np.ndarray,
        contacts: list[int],
    ):
        """view: the vectors of users by the model, as of the cutoff of the request; query: of the model for the
        request; request: a batch of one request; candidates: int64[n], internal ids; contacts: internal ids of contacts
        of the requesting user, for `without_contact`."""
        self.retriever, self.view, self.query = retriever, view, query
        self.candidates = torch.from_numpy(candidates)
        pairs = retriever.pair_candidates(view, query, torch.from_numpy(request.user))
        is_candidate = (pairs.users[0][None] == self.candidates[:, None]) & pairs.mask[0]  # (n, C)
        scores = is_candidate.double() * pairs.scores[0]
        self.pointer_scores, self.two_hop_scores = (
            part.sum(1) for part in scores.tensor_split([pairs.num_history], dim=1)
        )
        exact = retriever.exact_scores(view, query, self.candidates[None])[0]
        self.total = exact + self.pointer_scores + self.two_hop_scores
        snapshot = view.snapshot
        row = snapshot.row_of_user[self.candidates]
        features = snapshot.user_features[row]
        feature_view, self.has_texts = retriever.feature_view, retriever.feature_view.texts.width > 0
        self.features = torch.cat([features, snapshot.texts[0][row]], 1) if self.has_texts else features
        self.text_vectors = (
            feature_view.texts.vectors_at(snapshot.texts[1][row]) if self.has_texts else torch.zeros(len(row), 0)
        )
        self.no_events = retriever.activity.user_features(
            torch.tensor(-1), torch.tensor(snapshot.num_visible), torch.tensor(snapshot.cutoff)
        )
        self.drop_by_contact = self._drops_without_contacts(request, contacts) if contacts else {}

    def without(self, kind: str) -> Tensor:
        """float64[n]: scores without a kind of fact, or the full scores if the model does not use it."""
        if kind == "pair_history":
            return self.total - self.pointer_scores
        if kind == "common_contacts":
            return self.total - self.two_hop_scores
        if kind == "texts" and self.retriever.model.text_width:
            assert self.query.dynamic is not None
            text_query = self.query.dynamic[:, -self.retriever.model.text_width :]
            return self.total - row_wise_dot(text_query, self.text_vectors[None].double())[0]
        if kind == "attributes":
            return self.total - self._attribute_scores()
        columns = {"received": RECEIVED, "done": DONE, "joined": JOINED}.get(kind)
        dynamic = self.retriever.double_model.dynamic
        if columns is None or dynamic is None:
            return self.total
        ablated = self.features.clone()
        ablated[:, columns] = self.no_events[columns]
        if kind == "joined" and self.has_texts:
            ablated[:, NUM_USER_FEATURES:] = 0
        assert self.query.dynamic is not None
        dynamic_query = self.query.dynamic[:, : dynamic.width]
        change = dynamic(ablated.double()) - dynamic(self.features.double())
        return self.total + row_wise_dot(dynamic_query, change[None])[0]

    def _attribute_scores(self) -> Tensor:
        """float64[n]: the part of the scores that comes from the candidates' categorical attributes."""
        users = self.retriever.double_model.users
        if not len(users.categories):
            return torch.zeros(len(self.candidates), dtype=torch.float64)
        labels = users.categorical[self.candidates.clamp(max=len(users.categorical) - 1)]
        added = torch.stack([table(labels[:, k]) for k, table in enumerate(users.categories)]).sum(0)
        if added.shape[1] != self.query.static.shape[1]:  # STU model: the static term scores tokens, not attributes
            return torch.zeros(len(self.candidates), dtype=torch.float64)
        return row_wise_dot(self.query.static, added[None])[0]

    def without_contact(self, contact: int) -> Tensor:
        """float64[n]: scores without the events between the requesting user and one of the `contacts`."""
        return self.total - self.drop_by_contact[contact]

    def _drops_without_contacts(self, request: RequestBatch, contacts: list[int]) -> dict[int, Tensor]:
        """Contact -> float64[n]: by how much scores drop without the events with that contact.

        The query itself changes, which may shift the scores of all users. So the drop is that of the difference to the
        mean score of NUM_REFERENCES eligible users.
        """
        retriever, snapshot = self.retriever, self.view.snapshot
        user, num_visible, cutoff = (torch.from_numpy(x) for x in (request.user, request.num_visible, request.cutoff))
        history = retriever.feature_view.encoder_histories.gather(
            user, num_visible, retriever.model_settings.history_length
        )
        # (1 + number of contacts, L): row 0 removes no event, row c all events with contacts[c - 1].
        is_removed = history.other_user == torch.tensor([-1, *contacts])[:, None]
        mask = history.mask & ~is_removed
        order = mask.long().argsort(dim=1, stable=True)  # moves the remaining events to the end of the history
        count = len(mask)
        action = retriever.feature_view.actions(torch.from_numpy(request.action)).expand(count)
        actions, neighbors, received, timestamps = (
            x.expand(count, -1).gather(1, order)
            for x in (history.action, history.other_user, history.received, history.timestamp)
        )
        users = user.expand(count)
        batch = NextTargetPredictionBatch(
            users, actions, neighbors, mask.gather(1, order), action, users, received, timestamps
        )
        features = None
        if retriever.model_settings.freshness:
            entry = retriever.activity.last_entries(user, num_visible)
            features = retriever.feature_view.features(user, entry, num_visible, cutoff).double().expand(count, -1)
        row = torch.arange(count)
        regime = torch.from_numpy(request.regime).expand(count)
        state = torch.full_like(row, order.shape[1])
        positions = Positions(row, state, action, users, regime, features)
        query = retriever.double_model.query(
            batch,
            positions,
            retriever.double_model.encode_history(batch, retriever.double_lookup),
            retriever.double_lookup,
        )
        eligible = snapshot.eligible_users
        references = eligible[torch.linspace(0, len(eligible) - 1, min(len(eligible), NUM_REFERENCES)).long()]
        scores = retriever.exact_scores(self.view, query, torch.cat([self.candidates, references]).expand(count, -1))
        scores = scores[:, : len(self.candidates)] - scores[:, len(self.candidates) :].mean(1, keepdim=True)
        return dict(zip(contacts, scores[0] - scores[1:], strict=True))


class RankerAblation:
    """Replaces the features of the ranker that depend most on one kind of fact.

    The order of the features is that of `befriend.retrieval.ranker.ranker_features`.
    """

    def __init__(self, recommender: Recommender, model: str, no_events: np.ndarray):
        """model: name of the ranker; no_events: float32[NUM_USER_FEATURES], features of a user without an event."""
        self.no_events = no_events
        texts = NUM_STATISTICS if recommender.feature_view.texts.width else 0
        self.texts = slice(2 * NUM_USER_FEATURES, 2 * NUM_USER_FEATURES + texts)
        self.pair = slice(self.texts.stop, self.texts.stop + NUM_PAIR_FEATURES)
        self.two_hop = slice(self.pair.stop, self.pair.stop + NUM_TWO_HOP_FEATURES)
        self.edge = slice(self.two_hop.stop, self.two_hop.stop + 2)  # edge type, contact
        self.sources = SOURCES[model]

    def ablated(self, rows: np.ndarray, kind: str, scores: dict[str, np.ndarray], lists: CandidateLists) -> np.ndarray:
        """float32[n, D]: the features of n candidates without one kind of fact.

        rows: float32[n, D], the full features; kind: empty for the full features; scores: name of a model ->
        float64[n], its scores without the fact; lists: the lists of the request, with one row. A candidate whose score
        by a model changes gets the rank that the new score would have on the list of that model; NaN, as for users who
        are not on the list, if that is beyond its end.
        """
        out, rank_column = rows.copy(), source_columns(rows.shape[1], self.sources)
        missing = np.nan
        heuristics: tuple[str, ...] = ()
        if kind == "pair_history":
            out[:, self.pair] = missing
            out[:, self.edge] = 0
            heuristics = CONTACT_SOURCES
        elif kind in ("common_contacts", "bridge"):
            out[:, self.two_hop] = 0
            heuristics = GRAPH_SOURCES
        elif kind == "received":
            out[:, RECEIVED] = self.no_events[RECEIVED]
            heuristics = RECEIVED_SOURCES
        elif kind == "done":
            out[:, DONE] = self.no_events[DONE]
            heuristics = DONE_SOURCES
        elif kind == "joined":
            out[:, JOINED] = self.no_events[JOINED]
            out[:, self.texts] = missing
        for name in heuristics:
            out[:, rank_column[name]] = missing
        for name, score in scores.items():
            ids, list_scores = lists.ids[name][0], lists.scores[name][0]
            column = rank_column[name]
            is_changed = ~np.isclose(score, out[:, column + 1], atol=1e-5)
            rank = (list_scores[None] > score[:, None].astype(np.float32)).sum(1)
            is_listed = is_changed & (rank < (ids >= 0).sum())
            out[is_listed, column], out[is_listed, column + 1] = rank[is_listed], score[is_listed]
            out[is_listed, column + 2] = score[is_listed] - list_scores[0]
            out[is_changed & ~is_listed, column : column + 3] = missing
        return out
