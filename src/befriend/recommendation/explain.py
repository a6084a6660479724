"""Explains recommendations: facts from the log, each weighted by the drop in the candidate's score without it.

The drop is measured by ablation: the candidate is scored again without the terms or features that depend most on the
fact, see `ablation`. The facts with the largest drops become sentences. Contacts are users with a contact event, such
as a message, between them.
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
from befriend.recommendation.fact_finder import FactFinder, PairHistory
from befriend.recommendation.list_maker import last_active
from befriend.retrieval.ranker import SOURCES
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch

MAX_NAMED = 3  # reasons that become sentences, users named in a reason, and bridges considered
RECENT = 7 * DAY  # how long a first event, activity and received contacts count as recent, in seconds

MEMBER_SINCE = "member_since"
"""kind of the reason that is given if there is no better one"""
GENERAL = ("contacted", "active", "joined", MEMBER_SINCE)
"""kinds of reasons that do not depend on the requesting user"""


@dataclass(frozen=True)
class Reason:
    """One fact about a user and a candidate, and what it contributes to the candidate's score.

    Kinds of reasons about both: pair_history, events between the two; common_contacts; bridge, a contact of the user
    and the candidate have contacts in common; statement, word, attribute, shared by both. Kinds of reasons about the
    candidate alone, where recently is within RECENT seconds: contacted, other users contacted the candidate recently;
    active, was active recently; joined, had the first event or text recently; member_since, had it earlier.
    """

    kind: str
    weight: float
    """by how much the candidate's score drops without the fact"""
    pair_history: PairHistory | None = None
    """for kind pair_history"""
    users: tuple[Any, ...] = ()
    """external ids. common_contacts: the MAX_NAMED latest common contacts, latest first; bridge: the contact of the
    user"""
    count: int = 0
    """common_contacts: number of common contacts; bridge: number of other users in contact with both the contact and
    the candidate; contacted: number of other users who contacted the candidate recently"""
    second: int = 0
    """UTC second. bridge: the user's last contact event with the contact; contacted: the last time that another user
    contacted the candidate; active: the candidate's last event as an actor, or last text; joined, member_since: the
    candidate's first event or text"""
    texts: tuple[str, ...] = ()
    """statement, word: the text; attribute: its name and value"""


@dataclass(frozen=True)
class Explanation:
    """All reasons for one candidate on the list of one user."""

    user: Any
    """external id"""
    candidate: Any
    """external id"""
    cutoff: int
    """UTC second; only events and texts before it count"""
    reasons: tuple[Reason, ...] = field(default=())
    """sorted by weight, largest first"""


Wording = Callable[[Explanation], list[str]]
"""Turns an explanation into sentences: `sentences`, or a function of your own, which may call a language model."""


class Explainer:
    """Finds the reasons for the candidates on the lists of a recommender."""

    def __init__(self, recommender: Recommender, fact_finder: FactFinder):
        self.recommender, self.fact_finder, self.log = recommender, fact_finder, fact_finder.log

    @torch.no_grad()
    def explain(self, request: RequestBatch, user_id: Any, candidates: np.ndarray, model: str) -> list[Explanation]:
        """The explanation of each candidate on one list by a model or ranker.

        request: a batch of one request; user_id: external id of the requesting user; candidates: int64[n], internal
        ids, all of them eligible (with an event or text before the cutoff, and not opted out); model: name of the model
        or ranker.
        """
        num_visible, cutoff, user = (int(x[0]) for x in (request.num_visible, request.cutoff, request.user))
        is_known = self.recommender.feature_view.has_event_or_text(
            *(torch.tensor([x]) for x in (user, num_visible, cutoff))
        )[0]
        if not is_known:
            user = self.log.num_users
        facts_by_candidate = [self._facts(user, candidate, num_visible, cutoff) for candidate in candidates.tolist()]
        last_contact = self._last_contacts(user, num_visible)
        # A bridge is a reason only if there is no common contact.
        bridges = [
            {} if "common_contacts" in facts else self._bridges(last_contact, candidate, user, num_visible)
            for facts, candidate in zip(facts_by_candidate, candidates.tolist(), strict=True)
        ]
        weights, bridge_weights = self._weights(
            request, candidates, model, sorted({contact for counts in bridges for contact in counts})
        )
        explanations = []
        for k, candidate in enumerate(candidates.tolist()):
            reasons = [
                Reason(kind, float(weights[_ABLATIONS[kind]][k]), **fact)
                for kind, fact in facts_by_candidate[k].items()
            ]
            if bridges[k]:
                best = max(bridges[k], key=lambda contact: (bridge_weights[contact][k], contact))
                users, weight = (self.log.user_ids[best],), float(bridge_weights[best][k])
                reasons.append(Reason("bridge", weight, users=users, count=bridges[k][best], second=last_contact[best]))
            reasons.sort(key=lambda reason: -reason.weight)
            explanations.append(Explanation(user_id, self.log.user_ids[candidate], cutoff, tuple(reasons)))
        return explanations

    def _last_contacts(self, user: int, num_visible: int) -> dict[int, int]:
        """Contact of the user, without blocked users -> UTC second of their last contact event.

        Only for contact events among the user's last `history_length` events (setting of the first model).
        """
        if user >= self.log.num_users:
            return {}
        length = next(iter(self.recommender.retrievers.values())).model_settings.history_length
        entries = self.fact_finder.histories.user_entries(user, num_visible)
        entries = slice(max(entries.start, entries.stop - length), entries.stop)
        event = self.fact_finder.event[entries]
        is_contact = self.log.is_contact[event] & np.isin(
            self.fact_finder.neighbor[entries], self.fact_finder.contacts(user, num_visible)
        )
        return dict(
            zip(
                self.fact_finder.neighbor[entries][is_contact].tolist(),
                self.log.timestamp[event[is_contact]].tolist(),
                strict=True,
            )
        )

    def _bridges(self, last_contact: dict[int, int], candidate: int, user: int, num_visible: int) -> dict[int, int]:
        """Contact of the user -> number of users in contact with both that contact and the candidate.

        Only for the MAX_NAMED latest contacts where that number is not 0. last_contact: from `_last_contacts`.
        """
        counts: dict[int, int] = {}
        for contact in sorted(last_contact, key=lambda c: -last_contact[c]):
            if (count := self.fact_finder.count_bridges(contact, candidate, user, num_visible)) and len(
                counts
            ) < MAX_NAMED:
                counts[contact] = count
        return counts

    def _facts(self, user: int, candidate: int, num_visible: int, cutoff: int) -> dict[str, dict[str, Any]]:
        """Kind of reason -> the other fields of its `Reason`, except weight. Only kinds for which there is a fact."""
        finder, ids = self.fact_finder, self.log.user_ids
        fields: dict[str, dict[str, Any]] = {}
        if user < self.log.num_users:
            pair_history = finder.pair_history(user, candidate, num_visible)
            if pair_history is not None:
                fields["pair_history"] = {"pair_history": pair_history}
            contacts = finder.common_contacts(user, candidate, num_visible)
            if contacts:
                named = tuple(ids[contact] for contact in contacts[:MAX_NAMED])
                fields["common_contacts"] = {"users": named, "count": len(contacts)}
            statement, word = finder.shared_statement_and_word(user, candidate, cutoff)
            if statement:
                fields["statement"] = {"texts": (statement,)}
            if word:
                fields["word"] = {"texts": (word,)}
            attribute = finder.shared_attribute(user, candidate)
            if attribute:
                fields["attribute"] = {"texts": attribute}
        num_senders, last = finder.recent_senders(candidate, user, num_visible, cutoff - RECENT)
        if num_senders:
            fields["contacted"] = {"count": num_senders, "second": last}
        last = int(
            last_active(finder.feature_view, np.array([candidate]), np.array([num_visible]), np.array([cutoff]))[0]
        )
        if last >= cutoff - RECENT:
            fields["active"] = {"second": last}
        first_seen = finder.first_seen(candidate, cutoff)
        fields["joined" if first_seen >= cutoff - RECENT else MEMBER_SINCE] = {"second": first_seen}
        return fields

    def _weights(
        self, request: RequestBatch, candidates: np.ndarray, model: str, contacts: list[int]
    ) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
        """By how much each candidate's score drops without a fact.

        contacts: internal ids of contacts of the requesting user. Returns kind of fact -> float64[n], and contact ->
        float64[n], for n candidates.
        """
        recommender = self.recommender
        ranking = recommender.rank(request, (model,))
        state = recommender.state_at(int(request.num_visible[0]), int(request.cutoff[0]))
        if model not in recommender.retrievers and (served := ranking.served_source(0)) in recommender.retrievers:
            model = str(served)  # its list is served, and its scores decide
        sources = [name for name in SOURCES.get(model, (model,)) if name in recommender.retrievers]
        ablations = {
            name: ScoreAblation(
                recommender.retrievers[name], state.views[name], ranking.queries[name], request, candidates, contacts
            )
            for name in sources
        }
        kinds = dict.fromkeys(_ABLATIONS.values())
        if model in ablations:
            ablation = ablations[model]
            return (
                {kind: (ablation.total - ablation.without(kind)).numpy() for kind in kinds},
                {contact: (ablation.total - ablation.without_contact(contact)).numpy() for contact in contacts},
            )
        rows = ranking.features(model, candidates[None])[0]
        ranker = RankerAblation(recommender, model, ablations[sources[0]].no_events.numpy())
        cases = [ranker.ablated(rows, "", {}, ranking.lists)]
        for kind in kinds:
            scores = {name: ablation.without(kind).numpy() for name, ablation in ablations.items()}
            cases.append(ranker.ablated(rows, kind, scores, ranking.lists))
        for contact in contacts:
            scores = {name: ablation.without_contact(contact).numpy() for name, ablation in ablations.items()}
            cases.append(ranker.ablated(rows, "bridge", scores, ranking.lists))
        score = recommender.rankers.boosters[model].predict(np.concatenate(cases), num_threads=kernels.num_cores())
        drops = np.asarray(score).reshape(len(cases), len(candidates))
        drops = drops[0] - drops[1:]
        return dict(zip(kinds, drops, strict=False)), dict(zip(contacts, drops[len(kinds) :], strict=True))


_ABLATIONS = {
    "pair_history": "pair_history",
    "common_contacts": "common_contacts",
    "statement": "texts",
    "word": "texts",
    "attribute": "attributes",
    "contacted": "received",
    "active": "done",
    "joined": "joined",
    MEMBER_SINCE: "joined",
}
"""kind of reason -> the kind of fact, in `ablation`, that is left out to measure its weight"""


def strongest_reasons(explanation: Explanation) -> list[Reason]:
    """The at most MAX_NAMED reasons with the largest weights above 0, without member_since.

    If there is any reason about both users, which is not `GENERAL`, the result has one, whatever its weight. If the
    result would be empty, it is the reason with the largest weight, or member_since if there is no other.
    """
    reasons = explanation.reasons
    strongest = [reason for reason in reasons if reason.weight > 0 and reason.kind != MEMBER_SINCE][:MAX_NAMED]
    specific = [reason for reason in reasons if reason.kind not in GENERAL]
    if specific and not any(reason.kind not in GENERAL for reason in strongest):
        strongest = [*strongest[: MAX_NAMED - 1], specific[0]]
    return strongest or [min(reasons, key=lambda reason: reason.kind == MEMBER_SINCE)]


def sentences(explanation: Explanation) -> list[str]:
    """The strongest reasons as English sentences from templates, which address the requesting user."""
    return [_sentence(explanation, reason) for reason in strongest_reasons(explanation)]


def _sentence(explanation: Explanation, reason: Reason) -> str:
    """One reason as a sentence."""
    candidate, ago = explanation.candidate, _ago(explanation.cutoff, reason.second)
    match reason.kind:
        case "pair_history":
            return _pair_history_sentence(explanation, reason)
        case "common_contacts":
            named = ", ".join(map(str, reason.users))
            num_more = reason.count - len(reason.users)
            more = f" and {num_more:,} more" if num_more else ""
            return f"You and {candidate} have both been in touch with {named}{more}."
        case "bridge":
            contact = reason.users[0]
            others = "1 other person has" if reason.count == 1 else f"{reason.count:,} other people have"
            return (
                f"You were in touch with {contact} {ago}; {others} been in touch with both {contact} and {candidate}."
            )
        case "statement":
            return f"You and {candidate} have in common: {reason.texts[0]}."
        case "word":
            return f"You and {candidate} both wrote of “{reason.texts[0]}”."
        case "attribute":
            return f"You and {candidate} have the same {reason.texts[0]}: {reason.texts[1]}."
        case "contacted":
            if reason.count == 1:
                return f"Another person contacted {candidate} {ago}."
            return f"{reason.count:,} other people contacted {candidate} within a week, last {ago}."
        case "active":
            return f"{candidate} was last active {ago}."
        case "joined":
            return f"{candidate} joined {ago}."
        case _:
            return f"{candidate} has been here since {datetime.fromtimestamp(reason.second, UTC):%Y-%m-%d}."


def _pair_history_sentence(explanation: Explanation, reason: Reason) -> str:
    """A reason of kind pair_history as a sentence."""
    candidate, history = explanation.candidate, reason.pair_history
    assert history is not None
    last = _ago(explanation.cutoff, history.last_timestamp)
    if history.last_signal is not None:
        direction = f"from {candidate} to you" if history.last_from_candidate else f"from you to {candidate}"
        return f"There was a “{history.last_signal}” {direction}, {last}."
    if history.num_sent and history.num_received:
        times = history.num_sent + history.num_received
        return f"You and {candidate} have been in touch {times:,} times, last {last}."
    count = history.num_sent or history.num_received
    clause = f"You contacted {candidate}" if history.num_sent else f"{candidate} contacted you"
    return f"{clause} {last}." if count == 1 else f"{clause} {count:,} times, last {last}."


def _ago(cutoff: int, second: int) -> str:
    """The time from a UTC second to a cutoff in words, in whole units.

    Months (of 30 days) and years count from two on: "1 month ago" would say too little of 59 days.
    """
    past = cutoff - second
    for unit, least, name in (
        (365 * DAY, 2, "year"),
        (30 * DAY, 2, "month"),
        (DAY, 1, "day"),
        (HOUR, 1, "hour"),
        (60, 1, "minute"),
    ):
        count = past // unit
        if count >= least:
            return f"{count} {name}{'s' * (count > 1)} ago"
    return "just now"
