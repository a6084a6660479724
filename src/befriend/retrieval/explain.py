"""Why somebody is recommended: facts of the log, and by how much the person's score falls without each of them.

What counts is measured by leaving it out: the score is made again without what the two did, without common contacts,
without what the person did or received lately, without texts, without one of the user's contacts; of the ranker with
all that these change for it. The facts that matter most become sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from befriend import kernels
from befriend.data.activity import DAY, HOUR, PAIR_FEATURES, USER_FEATURES
from befriend.models.batch import NextTargetPredictionBatch, Positions, Query
from befriend.models.terms import each
from befriend.retrieval.facts import Between, Facts
from befriend.retrieval.ranker import SOURCES, Lists
from befriend.retrieval.recommend import last_active
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import Request
from befriend.retrieval.retriever import Retriever, View

NAMED = 3  # people and reasons, at most
RIVALS = 200  # people beside whom a score is measured
RECENT = 7 * DAY  # how long ago somebody may have joined, been active or been contacted
ASKERS = 3  # people who contacted somebody within that time, at least

RECEIVED, DONE, JOINED = [1, 2, 3, 9, *range(10, 18)], [4, 5, 6, 8, *range(18, 21)], [7]
"""columns of `Activity.user_features`"""
OF_CONTACTS = ("recency-then-last-received", "base-level-then-attention")
OF_GRAPH = ("adamic-adar-x-attention", "adamic-adar-x-fresh", "ppr-x-attention")
OF_RECEIVED = ("last-received", "attention", "decayed-in-degree-6h", "decayed-in-degree-quarter", "popularity")
OF_DONE = ("last-active",)
GENERAL = ("asked for", "active", "joined", "here")
"""kinds of reasons that hold for everybody alike"""
LAST = "here"
"""the kind that everybody has, for those of whom nothing else is known"""


@dataclass(frozen=True)
class Reason:
    """One fact, and what it is worth."""

    kind: str
    """between, common, bridge, statement, word, attribute; asked for, active, joined, here"""
    weight: float
    """by how much the person's score falls without it"""
    between: Between | None = None
    people: tuple[Any, ...] = ()
    """ids: contacts in common, the latest first; of a bridge, the contact of the user's"""
    count: int = 0
    """how many contacts in common, people in between, or people who asked"""
    second: int = 0
    """UTC second: of the last contact with the one in front of a bridge, of the last activity, of joining"""
    texts: tuple[str, ...] = ()
    """the statement, the word, or name and label of the attribute"""


@dataclass(frozen=True)
class Evidence:
    """What speaks for one person. Ids are those of the log."""

    user: Any
    person: Any
    moment: int
    """UTC second as of which all of it holds"""
    reasons: tuple[Reason, ...] = field(default=())
    """all facts, those worth most first"""


Wording = Callable[[Evidence], list[str]]
"""Turns evidence into sentences: `sentences`, or a language model of yours."""


class Explainer:
    """Reasons for lists of a recommender."""

    def __init__(self, recommender: Recommender, facts: Facts):
        self.recommender, self.facts, self.log = recommender, facts, facts.log

    @torch.no_grad()
    def explain(self, request: Request, user_id: Any, people: np.ndarray, model: str) -> list[Evidence]:
        """Evidence for people, int64[n], who are findable, on the list of the one user of a request, by a model."""
        visible, horizon, user = (int(x[0]) for x in (request.visible, request.horizon, request.user))
        who = tuple(torch.tensor([x]) for x in (user, visible, horizon))
        if not self.recommender.observed.known(*who)[0]:
            user = self.log.num_users
        known = [self._facts(user, person, visible, horizon) for person in people.tolist()]
        near = self._near(user, visible)
        # Somebody in between is worth a word where there is no contact in common.
        across = [
            {} if "common" in facts else self._across(near, person, user, visible)
            for facts, person in zip(known, people.tolist(), strict=True)
        ]
        weights, of_bridge = self._weights(request, people, model, sorted({a for found in across for a in found}))
        found = []
        for k, person in enumerate(people.tolist()):
            reasons = [Reason(kind, float(weights[_WITHOUT[kind]][k]), **fact) for kind, fact in known[k].items()]
            if across[k]:
                best = max(across[k], key=lambda a: (of_bridge[a][k], a))
                front, lost = (self.log.user_ids[best],), float(of_bridge[best][k])
                reasons.append(Reason("bridge", lost, people=front, count=across[k][best], second=near[best]))
            reasons.sort(key=lambda reason: -reason.weight)
            found.append(Evidence(user_id, self.log.user_ids[person], horizon, tuple(reasons)))
        return found

    def _near(self, user: int, visible: int) -> dict[int, int]:
        """The people of the history that a model sees, and the second of the last event with each."""
        if user >= self.log.num_users:
            return {}
        length = next(iter(self.recommender.retrievers.values())).tower.history_length
        window = self.facts.histories.window(user, visible)
        window = slice(max(window.start, window.stop - length), window.stop)
        event = self.facts.event[window]
        mine = self.log.is_contact[event]
        return dict(zip(self.facts.other[window][mine].tolist(), self.log.timestamp[event[mine]].tolist(), strict=True))

    def _across(self, near: dict[int, int], person: int, user: int, visible: int) -> dict[int, int]:
        """Contacts of the user's, the latest few, and how many people are in contact with both them and the person."""
        found: dict[int, int] = {}
        for contact in sorted(near, key=lambda a: -near[a]):
            if (count := self.facts.bridge(contact, person, user, visible)) and len(found) < NAMED:
                found[contact] = count
        return found

    def _facts(self, user: int, person: int, visible: int, horizon: int) -> dict[str, dict[str, Any]]:
        """kind -> fields of its reason."""
        facts, ids = self.facts, self.log.user_ids
        found: dict[str, dict[str, Any]] = {}
        if user < self.log.num_users:
            between = facts.between(user, person, visible)
            if between is not None:
                found["between"] = {"between": between}
            common = facts.common(user, person, visible)
            if common:
                found["common"] = {"people": tuple(ids[c] for c in common[:NAMED]), "count": len(common)}
            statement, word = facts.alike(user, person, horizon)
            if statement:
                found["statement"] = {"texts": (statement,)}
            if word:
                found["word"] = {"texts": (word,)}
            same = facts.same(user, person)
            if same:
                found["attribute"] = {"texts": same}
        askers = facts.askers(person, user, visible, horizon - RECENT)
        if askers >= ASKERS:
            found["asked for"] = {"count": askers}
        last = last_active(facts.observed, np.array([person]), np.array([visible]), np.array([horizon]))[0]
        if last >= horizon - RECENT:
            found["active"] = {"second": int(last)}
        joined = facts.joined(person, horizon)
        found["joined" if joined >= horizon - RECENT else LAST] = {"second": joined}
        return found

    def _weights(
        self, request: Request, people: np.ndarray, model: str, near: list[int]
    ) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
        """What is lost without each kind of fact, float64[n], and without each of some contacts of the user's."""
        recommender = self.recommender
        ranking = recommender.rank(request, (model,))
        snapshot = recommender.at(int(request.visible[0]), int(request.horizon[0]))
        sources = [name for name in SOURCES.get(model, (model,)) if name in recommender.retrievers]
        scored = {
            name: Without(
                recommender.retrievers[name], snapshot.views[name], ranking.asked[name], request, people, near
            )
            for name in sources
        }
        kinds = dict.fromkeys(_WITHOUT.values())
        if model in scored:
            one = scored[model]
            return (
                {kind: (one.total - one.without(kind)).numpy() for kind in kinds},
                {a: (one.total - one.without_contact(a)).numpy() for a in near},
            )
        rows = ranking.features(model, people[None])[0]
        place = _Columns(recommender, model, scored[sources[0]].nobody.numpy())
        cases = [place.ablated(rows, "", {}, ranking.lists)]
        for kind in kinds:
            changed = {name: one.without(kind).numpy() for name, one in scored.items()}
            cases.append(place.ablated(rows, kind, changed, ranking.lists))
        for a in near:
            changed = {name: one.without_contact(a).numpy() for name, one in scored.items()}
            cases.append(place.ablated(rows, "bridge", changed, ranking.lists))
        score = recommender.boosters[model].predict(np.concatenate(cases), num_threads=kernels.cores())
        lost = np.asarray(score).reshape(len(cases), len(people))
        lost = lost[0] - lost[1:]
        return dict(zip(kinds, lost, strict=False)), dict(zip(near, lost[len(kinds) :], strict=True))


_WITHOUT = {
    "between": "between",
    "common": "common",
    "statement": "texts",
    "word": "texts",
    "attribute": "attributes",
    "asked for": "received",
    "active": "done",
    "joined": "joined",
    LAST: "joined",
}
"""kind of reason -> what is left out to see what it is worth"""


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


class _Columns:
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


def chosen(evidence: Evidence) -> list[Reason]:
    """The strongest two or three reasons, one of which belongs to the two alone where there is any."""
    strong = [reason for reason in evidence.reasons if reason.weight > 0 and reason.kind != LAST][:NAMED]
    own = [reason for reason in evidence.reasons if reason.kind not in GENERAL]
    if own and not any(reason.kind not in GENERAL for reason in strong):
        strong = [*strong[: NAMED - 1], own[0]]
    return strong or [min(evidence.reasons, key=lambda reason: reason.kind == LAST)]


def sentences(evidence: Evidence) -> list[str]:
    """Plain language: what happened between the two, whom both know, what both say, what the person does now."""
    return [_sentence(evidence, reason) for reason in chosen(evidence)]


def _sentence(evidence: Evidence, reason: Reason) -> str:
    person, moment, second = evidence.person, evidence.moment, reason.second
    match reason.kind:
        case "between":
            return _between(evidence, reason)
        case "common":
            named = ", ".join(map(str, reason.people))
            more = reason.count - len(reason.people)
            others = f" and {more:,} more" if more else ""
            return f"You and {person} have both been in touch with {named}{others}."
        case "bridge":
            near = reason.people[0]
            others = "1 other person has" if reason.count == 1 else f"{reason.count:,} other people have"
            met = f"You were in touch with {near} {_ago(moment, second)}"
            return f"{met}; {others} been in touch with both {near} and {person}."
        case "statement":
            return f"You and {person} have in common: {reason.texts[0]}."
        case "word":
            return f"You and {person} both wrote of “{reason.texts[0]}”."
        case "attribute":
            return f"You and {person} have the same {reason.texts[0]}: {reason.texts[1]}."
        case "asked for":
            return f"{reason.count:,} other people contacted {person} within the last week."
        case "active":
            return f"{person} was last active {_ago(moment, second)}."
        case "joined":
            return f"{person} joined {_ago(moment, second)}."
        case _:
            return f"{person} has been here since {datetime.fromtimestamp(second, UTC):%Y-%m-%d}."


def _between(evidence: Evidence, reason: Reason) -> str:
    person, between = evidence.person, reason.between
    assert between is not None
    last = _ago(evidence.moment, between.last)
    if between.signal is not None:
        who = f"from {person} to you" if between.from_person else f"from you to {person}"
        return f"There was a “{between.signal}” {who}, {last}."
    if between.done and between.received:
        times = between.done + between.received
        return f"You and {person} have been in touch {times:,} times, last {last}."
    count = between.done or between.received
    who = f"You contacted {person}" if between.done else f"{person} contacted you"
    return f"{who} {last}." if count == 1 else f"{who} {count:,} times, last {last}."


def _ago(moment: int, second: int) -> str:
    for unit, name in ((365 * DAY, "year"), (30 * DAY, "month"), (DAY, "day"), (HOUR, "hour"), (60, "minute")):
        count = (moment - second) // unit
        if count:
            return f"{count} {name}{'s' * (count > 1)} ago"
    return "just now"
