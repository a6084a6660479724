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

from befriend import kernels
from befriend.data.activity import DAY, HOUR
from befriend.retrieval.ablation import RankerColumns, Without
from befriend.retrieval.facts import Between, Facts
from befriend.retrieval.ranker import SOURCES
from befriend.retrieval.recommend import last_active
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import Request

NAMED = 3  # people and reasons, at most
RECENT = 7 * DAY  # how long ago somebody may have joined, been active or been contacted

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
    """UTC second: of the last contact with that contact, of who asked last, of the last activity, of joining"""
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
        mine = self.log.is_contact[event] & np.isin(self.facts.other[window], self.facts.contacts(user, visible))
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
        askers, last = facts.askers(person, user, visible, horizon - RECENT)
        if askers:
            found["asked for"] = {"count": askers, "second": last}
        last = int(last_active(facts.observed, np.array([person]), np.array([visible]), np.array([horizon]))[0])
        if last >= horizon - RECENT:
            found["active"] = {"second": last}
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
        place = RankerColumns(recommender, model, scored[sources[0]].nobody.numpy())
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
            if reason.count == 1:
                return f"Another person contacted {person} {_ago(moment, second)}."
            return f"{reason.count:,} other people contacted {person} within a week, last {_ago(moment, second)}."
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
