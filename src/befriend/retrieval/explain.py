"""Why somebody is recommended: sentences made from what is in the log and what the model looked at, and nothing else.

What carried the prediction is measured: each event of the history is left out in turn, and the events whose absence
lowers the person's score most are named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend.data.activity import DAY, HOUR
from befriend.data.log import EventLog
from befriend.evaluation.protocol import Request
from befriend.models.batch import NextTargetPredictionBatch, Positions
from befriend.retrieval.serving import Retriever

NAMED = 3  # contacts in common, and events that carried it, at most
LEAST = 0.05  # nats: an event that matters less is not named
RIVALS = 200  # people with whom a score is compared
RECENT = 7 * DAY  # of somebody's activity


@dataclass(frozen=True)
class Event:
    """An event of the user's history."""

    action: str
    other: Any
    """id of the user on the other side"""
    received: bool
    second: int
    weight: float
    """by how much the person's score falls without it, in nats"""


@dataclass(frozen=True)
class Evidence:
    """What speaks for one person. Ids are those of the log."""

    user: Any
    person: Any
    moment: int
    """UTC second as of which all of it holds"""
    common: tuple[Any, ...]
    """contacts of both, those with whom the user was in contact last first"""
    done: int
    """contact events from the user to the person"""
    received: int
    """and back"""
    last: int | None
    """second of the last contact event between the two"""
    last_active: int | None
    """second of the last event that the person did"""
    lately: int
    """contact events that the person received within the last seven days"""
    prefix: int
    """how many first tokens of the STUs are the same"""
    tokens: int
    """how many tokens an STU has; 0 where no STUs were given"""
    carried: tuple[Event, ...]
    """events of the user's history that the prediction rests on, the strongest first"""


Wording = Callable[[Evidence], list[str]]
"""Turns evidence into sentences: `sentences`, or a language model of yours."""


def explain(
    retriever: Retriever[Any], request: Request, people: np.ndarray, stus: Tensor | None = None
) -> list[Evidence]:
    """Evidence for people, int64[n], on the list of the one user of a request, whom the log knows.

    stus: int64[N, L], of everyone, for first tokens that are the same.
    """
    log = retriever.observed.log
    user, visible, moment = (int(x[0]) for x in (request.user, request.visible, request.horizon))
    carried = influences(retriever, request, people)
    mine = _contacts(log, user, visible)
    found = []
    for k, person in enumerate(people.tolist()):
        theirs = _contacts(log, person, visible)
        common = mine.filter(pl.col("other").is_in(theirs["other"].implode()))["other"].to_list()
        between = mine.filter(other=person)
        done, received, last = between.select("done", "received", "last").row(0) if between.height else (0, 0, None)
        acted = np.flatnonzero((log.actor[:visible] == person) & ~log.is_exclude[:visible])
        got = np.flatnonzero((log.target[:visible] == person) & log.is_contact[:visible])
        found.append(
            Evidence(
                user=log.user_ids[user],
                person=log.user_ids[person],
                moment=moment,
                common=tuple(log.user_ids[other] for other in common),
                done=done,
                received=received,
                last=last,
                last_active=int(log.timestamp[acted[-1]]) if len(acted) else None,
                lately=int((log.timestamp[got] >= moment - RECENT).sum()),
                prefix=0 if stus is None else int((stus[user] == stus[person]).long().cumprod(0).sum()),
                tokens=0 if stus is None else stus.shape[1],
                carried=carried[k],
            )
        )
    return found


def _contacts(log: EventLog, user: int, visible: int) -> pl.DataFrame:
    """A user's contacts, the latest first: other, done, received (events), last (UTC second)."""
    events = np.flatnonzero((log.actor[:visible] == user) | (log.target[:visible] == user))
    events = events[log.is_contact[events]]
    did = log.actor[events] == user
    other = np.where(did, log.target[events], log.actor[events]).astype(np.int64)
    rows = pl.DataFrame({"other": other, "did": did, "second": log.timestamp[events]})
    return (
        rows.group_by("other")
        .agg(done=pl.col("did").sum(), received=(~pl.col("did")).sum(), last=pl.col("second").max())
        .sort("last", "other", descending=[True, False])
    )


@torch.no_grad()
def influences(retriever: Retriever[Any], request: Request, people: np.ndarray) -> list[tuple[Event, ...]]:
    """For each person the events of the history whose absence lowers their score most, measured one by one.

    The score is that beside the mean of other people: what lowers or lifts everybody alike carries nobody.
    """
    log, model, activity = retriever.observed.log, retriever.model, retriever.activity
    user, visible, horizon = (torch.from_numpy(x) for x in (request.user, request.visible, request.horizon))
    retriever.refresh(int(visible), int(horizon))
    got = retriever.observed.encoded.gather(user, visible, retriever.tower.history_length)
    kept = got.mask[0].nonzero().squeeze(1)
    n = len(kept)
    if not n:
        return [()] * len(people)
    # Row 0 has all events; in row j the j-th is missing, and those before it have moved up.
    place = kept.expand(n + 1, n).clone()
    for j in range(1, n + 1):
        place[j, 1:j] = kept[: j - 1]
    mask = torch.ones(n + 1, n, dtype=torch.bool)
    mask[1:, 0] = False
    who = user.expand(n + 1)
    action = torch.from_numpy(request.action).expand(n + 1)
    done, other, received, timestamp = (x[0][place] for x in (got.action, got.other, got.received, got.timestamp))
    batch = NextTargetPredictionBatch(who, done, other, mask, action, who, received, timestamp)
    features = None
    if retriever.tower.freshness:
        place_now = activity.places(user, visible)
        features = retriever.observed.features(user, place_now, visible, horizon).expand(n + 1, -1)
    row = torch.arange(n + 1)
    positions = Positions(row, row * 0 + n, action, who, row * 0 + request.refresh, features)
    query = model.query(batch, positions, model.encode_history(batch))
    rivals = retriever.found.nonzero().squeeze(1)
    rivals = rivals[torch.linspace(0, len(rivals) - 1, min(len(rivals), RIVALS)).long()]
    scores = retriever.score(query, torch.cat([torch.from_numpy(people).long(), rivals]).expand(n + 1, -1))
    scores = scores[:, : len(people)] - scores[:, len(people) :].mean(1, keepdim=True)
    drop = scores[0] - scores[1:]  # (n, people)
    found = []
    for person in range(len(people)):
        best = drop[:, person].topk(min(NAMED, n))
        events = []
        for weight, j in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if weight >= LEAST:
                column = int(kept[j])
                known = int(got.action[0, column])
                name = log.actions[known] if known < len(log.actions) else "event"
                person_there = log.user_ids[int(got.other[0, column])]
                back, second = bool(got.received[0, column]), int(got.timestamp[0, column])
                events.append(Event(name, person_there, back, second, weight))
        found.append(tuple(events))
    return found


def sentences(evidence: Evidence) -> list[str]:
    """Plain language: what happened between the two, whom both know, where they lie, what the person does now."""
    e, said = evidence, []
    if e.done or e.received:
        between = f"{_times(e.done)} from you, {_times(e.received)} to you"
        said.append(f"{e.person} and you have been in contact, {between}, last {_ago(e.moment, e.last)}.")
    if e.common:
        named, more = ", ".join(map(str, e.common[:NAMED])), len(e.common) - NAMED
        count = f"{len(e.common)} contact{'s' * (len(e.common) > 1)}"
        said.append(f"You have {count} in common: {named}{f' and {more} more' if more > 0 else ''}.")
    if e.prefix:
        said.append(f"You lie close in the network: your STUs begin with the same {e.prefix} of {e.tokens} tokens.")
    if e.last_active is not None and e.moment - e.last_active <= RECENT:
        asked = f", and was contacted {_times(e.lately)} within a week" if e.lately else ""
        said.append(f"{e.person} was last active {_ago(e.moment, e.last_active)}{asked}.")
    for event in e.carried:
        who = f"from {event.other} to you" if event.received else f"from you to {event.other}"
        said.append(f"Your history points there: {event.action} {who}, {_ago(e.moment, event.second)}.")
    return said or [f"Nothing in the log ties you to {e.person} yet."]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _ago(moment: int, second: int | None) -> str:
    if second is None:
        return "never"
    for unit, name in ((365 * DAY, "year"), (30 * DAY, "month"), (DAY, "day"), (HOUR, "hour"), (60, "minute")):
        count = (moment - second) // unit
        if count:
            return f"{count} {name}{'s' * (count > 1)} ago"
    return "just now"
