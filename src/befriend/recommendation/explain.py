"""Explains recommendations: facts of the log, each with the drop in the candidate's score without it.

The drop is measured by ablation: the candidate is scored again without the events between the two users, without common
contacts, without what the candidate did or received lately, without texts, without one contact of the user. For the
ranker, everything that these change in its features changes with them. The facts with the largest drops become
sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from befriend import kernels
from befriend.data.event_log import DAY, HOUR
from befriend.recommendation.ablation import RankerAblation, ScoreAblation
from befriend.recommendation.evidence import EvidenceFinder, PairHistory
from befriend.recommendation.list_maker import last_active
from befriend.retrieval.ranker import SOURCES
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch

NAMED = 3  # users and reasons named, at most
RECENT = 7 * DAY  # joining, activity and contacts count as recent for so long

GENERAL = ("asked for", "active", "joined", "here")
"""kinds of reasons that do not depend on the requesting user"""
LAST = "here"
"""the kind for candidates of whom nothing else is known"""


@dataclass(frozen=True)
class Reason:
    """One fact, and what it adds to the score."""

    kind: str
    """between, common, bridge, statement, word, attribute; asked for, active, joined, here"""
    weight: float
    """by how much the candidate's score drops without it"""
    between: PairHistory | None = None
    """for kind between"""
    people: tuple[Any, ...] = ()
    """external ids: common: contacts in common, latest first; bridge: the contact of the user in between"""
    count: int = 0
    """common: contacts in common; bridge: users in contact with both that contact and the candidate; asked for: users
    who contacted the candidate lately"""
    second: int = 0
    """UTC second of the last contact with that contact (bridge), of the last time the candidate was contacted (asked
    for), of its last activity (active), or of its joining (joined, here)"""
    texts: tuple[str, ...] = ()
    """the statement, the word, or name and label of the attribute"""


@dataclass(frozen=True)
class Evidence:
    """All reasons for one candidate on one user's list. Ids are external."""

    user: Any
    person: Any
    """the candidate"""
    as_of: int
    """the cutoff, a UTC second"""
    reasons: tuple[Reason, ...] = field(default=())
    """largest weight first"""


Wording = Callable[[Evidence], list[str]]
"""Turns evidence into sentences: `sentences`, or a language model of your own."""


class Explainer:
    """Finds the reasons for the candidates on lists of a recommender."""

    def __init__(self, recommender: Recommender, facts: EvidenceFinder):
        self.recommender, self.facts, self.log = recommender, facts, facts.log

    @torch.no_grad()
    def explain(self, request: RequestBatch, user_id: Any, candidates: np.ndarray, model: str) -> list[Evidence]:
        """Evidence for each candidate on the list of one user by a model or ranker.

        request: of that one list; user_id: external id of its user; candidates: int64[n], internal ids, all eligible.
        """
        num_visible, cutoff, user = (int(x[0]) for x in (request.num_visible, request.cutoff, request.user))
        user_visible_cutoff = tuple(torch.tensor([x]) for x in (user, num_visible, cutoff))
        if not self.recommender.feature_view.has_event_or_text(*user_visible_cutoff)[0]:
            user = self.log.num_users
        facts_by_candidate = [self._facts(user, candidate, num_visible, cutoff) for candidate in candidates.tolist()]
        last_contact = self._last_contacts(user, num_visible)
        # A bridge, a contact in between, is a reason only where there is no common contact.
        bridges = [
            {} if "common" in facts else self._bridges(last_contact, candidate, user, num_visible)
            for facts, candidate in zip(facts_by_candidate, candidates.tolist(), strict=True)
        ]
        weights, bridge_weights = self._weights(
            request, candidates, model, sorted({contact for counts in bridges for contact in counts})
        )
        evidence = []
        for k, candidate in enumerate(candidates.tolist()):
            reasons = [
                Reason(kind, float(weights[_WITHOUT[kind]][k]), **fact) for kind, fact in facts_by_candidate[k].items()
            ]
            if bridges[k]:
                best = max(bridges[k], key=lambda contact: (bridge_weights[contact][k], contact))
                people, weight = (self.log.user_ids[best],), float(bridge_weights[best][k])
                reasons.append(
                    Reason("bridge", weight, people=people, count=bridges[k][best], second=last_contact[best])
                )
            reasons.sort(key=lambda reason: -reason.weight)
            evidence.append(Evidence(user_id, self.log.user_ids[candidate], cutoff, tuple(reasons)))
        return evidence

    def _last_contacts(self, user: int, num_visible: int) -> dict[int, int]:
        """Contact of the user -> UTC second of their last contact event, within the history that a model encodes."""
        if user >= self.log.num_users:
            return {}
        length = next(iter(self.recommender.retrievers.values())).query_settings.history_length
        entries = self.facts.histories.entries_of(user, num_visible)
        entries = slice(max(entries.start, entries.stop - length), entries.stop)
        event = self.facts.event[entries]
        is_contact = self.log.is_contact[event] & np.isin(
            self.facts.other[entries], self.facts.contacts(user, num_visible)
        )
        return dict(
            zip(
                self.facts.other[entries][is_contact].tolist(),
                self.log.timestamp[event[is_contact]].tolist(),
                strict=True,
            )
        )

    def _bridges(self, last_contact: dict[int, int], candidate: int, user: int, num_visible: int) -> dict[int, int]:
        """Contact of the user -> number of users in contact with both that contact and the candidate.

        last_contact: from `_last_contacts`. Only the latest NAMED contacts for whom that number is not 0.
        """
        counts: dict[int, int] = {}
        for contact in sorted(last_contact, key=lambda c: -last_contact[c]):
            if (count := self.facts.bridge(contact, candidate, user, num_visible)) and len(counts) < NAMED:
                counts[contact] = count
        return counts

    def _facts(self, user: int, candidate: int, num_visible: int, cutoff: int) -> dict[str, dict[str, Any]]:
        """Kind of reason -> fields of its `Reason`, but for the weight; only kinds that hold."""
        facts, ids = self.facts, self.log.user_ids
        fields: dict[str, dict[str, Any]] = {}
        if user < self.log.num_users:
            between = facts.between(user, candidate, num_visible)
            if between is not None:
                fields["between"] = {"between": between}
            common = facts.common(user, candidate, num_visible)
            if common:
                fields["common"] = {"people": tuple(ids[c] for c in common[:NAMED]), "count": len(common)}
            statement, word = facts.alike(user, candidate, cutoff)
            if statement:
                fields["statement"] = {"texts": (statement,)}
            if word:
                fields["word"] = {"texts": (word,)}
            same = facts.same(user, candidate)
            if same:
                fields["attribute"] = {"texts": same}
        askers, last = facts.askers(candidate, user, num_visible, cutoff - RECENT)
        if askers:
            fields["asked for"] = {"count": askers, "second": last}
        last = int(
            last_active(facts.feature_view, np.array([candidate]), np.array([num_visible]), np.array([cutoff]))[0]
        )
        if last >= cutoff - RECENT:
            fields["active"] = {"second": last}
        joined = facts.joined(candidate, cutoff)
        fields["joined" if joined >= cutoff - RECENT else LAST] = {"second": joined}
        return fields

    def _weights(
        self, request: RequestBatch, candidates: np.ndarray, model: str, contacts: list[int]
    ) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
        """By how much each candidate's score drops, float64[n]: without each kind of fact, and without each contact."""
        recommender = self.recommender
        ranking = recommender.rank(request, (model,))
        state = recommender.state_at(int(request.num_visible[0]), int(request.cutoff[0]))
        sources = [name for name in SOURCES.get(model, (model,)) if name in recommender.retrievers]
        ablations = {
            name: ScoreAblation(
                recommender.retrievers[name], state.views[name], ranking.queries[name], request, candidates, contacts
            )
            for name in sources
        }
        kinds = dict.fromkeys(_WITHOUT.values())
        if model in ablations:
            ablation = ablations[model]
            return (
                {kind: (ablation.total - ablation.without(kind)).numpy() for kind in kinds},
                {a: (ablation.total - ablation.without_contact(a)).numpy() for a in contacts},
            )
        rows = ranking.features(model, candidates[None])[0]
        ranker = RankerAblation(recommender, model, ablations[sources[0]].no_events.numpy())
        cases = [ranker.ablated(rows, "", {}, ranking.lists)]
        for kind in kinds:
            scores = {name: ablation.without(kind).numpy() for name, ablation in ablations.items()}
            cases.append(ranker.ablated(rows, kind, scores, ranking.lists))
        for a in contacts:
            scores = {name: ablation.without_contact(a).numpy() for name, ablation in ablations.items()}
            cases.append(ranker.ablated(rows, "bridge", scores, ranking.lists))
        score = recommender.boosters[model].predict(np.concatenate(cases), num_threads=kernels.cores())
        drops = np.asarray(score).reshape(len(cases), len(candidates))
        drops = drops[0] - drops[1:]
        return dict(zip(kinds, drops, strict=False)), dict(zip(contacts, drops[len(kinds) :], strict=True))


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
"""kind of reason -> kind of fact that `ablation` leaves out to measure its weight"""


def strongest_reasons(evidence: Evidence) -> list[Reason]:
    """The NAMED strongest reasons, at least one of which is not `GENERAL`, where there is such a reason."""
    strongest = [reason for reason in evidence.reasons if reason.weight > 0 and reason.kind != LAST][:NAMED]
    personal = [reason for reason in evidence.reasons if reason.kind not in GENERAL]
    if personal and not any(reason.kind not in GENERAL for reason in strongest):
        strongest = [*strongest[: NAMED - 1], personal[0]]
    return strongest or [min(evidence.reasons, key=lambda reason: reason.kind == LAST)]


def sentences(evidence: Evidence) -> list[str]:
    """The strongest reasons as English sentences, from templates."""
    return [_sentence(evidence, reason) for reason in strongest_reasons(evidence)]


def _sentence(evidence: Evidence, reason: Reason) -> str:
    """One reason as a sentence."""
    person, as_of, second = evidence.person, evidence.as_of, reason.second
    match reason.kind:
        case "between":
            return _between(evidence, reason)
        case "common":
            named = ", ".join(map(str, reason.people))
            more = reason.count - len(reason.people)
            others = f" and {more:,} more" if more else ""
            return f"You and {person} have both been in touch with {named}{others}."
        case "bridge":
            contact = reason.people[0]
            others = "1 other person has" if reason.count == 1 else f"{reason.count:,} other people have"
            first_half = f"You were in touch with {contact} {_ago(as_of, second)}"
            return f"{first_half}; {others} been in touch with both {contact} and {person}."
        case "statement":
            return f"You and {person} have in common: {reason.texts[0]}."
        case "word":
            return f"You and {person} both wrote of “{reason.texts[0]}”."
        case "attribute":
            return f"You and {person} have the same {reason.texts[0]}: {reason.texts[1]}."
        case "asked for":
            if reason.count == 1:
                return f"Another person contacted {person} {_ago(as_of, second)}."
            return f"{reason.count:,} other people contacted {person} within a week, last {_ago(as_of, second)}."
        case "active":
            return f"{person} was last active {_ago(as_of, second)}."
        case "joined":
            return f"{person} joined {_ago(as_of, second)}."
        case _:
            return f"{person} has been here since {datetime.fromtimestamp(second, UTC):%Y-%m-%d}."


def _between(evidence: Evidence, reason: Reason) -> str:
    """A reason of kind between as a sentence."""
    person, between = evidence.person, reason.between
    assert between is not None
    last = _ago(evidence.as_of, between.last)
    if between.signal is not None:
        direction = f"from {person} to you" if between.from_person else f"from you to {person}"
        return f"There was a “{between.signal}” {direction}, {last}."
    if between.done and between.received:
        times = between.done + between.received
        return f"You and {person} have been in touch {times:,} times, last {last}."
    count = between.done or between.received
    clause = f"You contacted {person}" if between.done else f"{person} contacted you"
    return f"{clause} {last}." if count == 1 else f"{clause} {count:,} times, last {last}."


def _ago(as_of: int, second: int) -> str:
    """The time between two UTC seconds in the largest unit of which it is at least one."""
    for unit, name in ((365 * DAY, "year"), (30 * DAY, "month"), (DAY, "day"), (HOUR, "hour"), (60, "minute")):
        count = (as_of - second) // unit
        if count:
            return f"{count} {name}{'s' * (count > 1)} ago"
    return "just now"
