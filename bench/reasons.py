"""Whether reasons are reasons: the scores of people on lists without what is said to speak for them.

    python bench/reasons.py PROJECT [--places 200] [--seed 0] [--regime daily]

PROJECT is a folder after `dvc repro`. Lists of `both` without contacts are made for people drawn at random. For each of
some places the log is taken without the evidence that is named: the events between the two, those with common contacts
or with the contact in front, what the person received or did within the last week, what they wrote. Nothing is trained
anew. Prints by kind of reason how often the score is lower then, how many places have a general reason alone, and some
lists to be read.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

import befriend
from befriend.api import Befriend, RecommendOptions
from befriend.data.log import EventLog
from befriend.data.texts import TextVectors
from befriend.retrieval.explain import GENERAL, RECENT, Evidence, chosen, sentences
from befriend.retrieval.ranker import read_boosters
from befriend.retrieval.request_table import requests_table
from befriend.retrieval.requests import Request

PEOPLE = 10  # on a list
READ = 5  # lists that are printed


def without(
    log: EventLog, texts: TextVectors, evidence: Evidence, user: int, person: int
) -> tuple[EventLog, TextVectors]:
    """The log and the texts without the evidence that is named."""
    a, b = log.actor, log.target
    gone = np.zeros(log.num_events, bool)
    recent = log.timestamp >= evidence.moment - RECENT

    def between(one: int, others: np.ndarray) -> np.ndarray:
        return ((a == one) & np.isin(b, others)) | ((b == one) & np.isin(a, others))

    def near(one: int) -> np.ndarray:
        mine = log.is_contact & ((a == one) | (b == one))
        return np.unique(np.where(a[mine] == one, b[mine], a[mine]))

    for reason in chosen(evidence):
        match reason.kind:
            case "between":
                gone |= between(user, np.array([person]))
            case "common":
                gone |= between(user, np.intersect1d(near(user), near(person)))
            case "bridge":
                gone |= between(user, log.numbers(pl.Series(reason.people)))
            case "asked for":
                gone |= log.is_contact & (b == person) & recent
            case "active":
                gone |= (a == person) & recent
        if reason.kind in ("statement", "word", "active", "joined"):
            since = 0 if reason.kind in ("statement", "word") else evidence.moment - RECENT
            kept = (texts.user != person) | (texts.second < since)
            texts = replace(texts, user=texts.user[kept], second=texts.second[kept], row=texts.row[kept])
    left = ~gone
    arrays = {name: getattr(log, name)[left] for name in ("actor", "target", "timestamp", "action", "role")}
    return replace(log, **arrays), texts


def score(people: Befriend, log: EventLog, texts: TextVectors, request: Request, person: int) -> float:
    """Of a person on the list of `both`; -inf where they are no candidate any more."""
    models = people.models
    observed = models.two_tower.look(log, texts)
    by_stu = models.stu.look(log, texts, observed.activity)
    there = replace(models, observed=observed, observed_by_stu=by_stu, texts=texts)
    recommender = there.recommender(read_boosters(people.root / "models" / "ranker"))
    request = replace(request, visible=np.asarray(log.before(request.horizon)))
    found = recommender.rank(request, ("both",)).of("both")
    place = np.flatnonzero(found.ids[0] == person)
    return float(found.scores[0, place[0]]) if len(place) else -np.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--places", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--regime", default="daily")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    people = befriend.load(arguments.project)
    log, texts, rng = people.log, people.models.texts, np.random.default_rng(arguments.seed)
    users = log.user_ids.gather(rng.choice(log.num_users, min(arguments.places, log.num_users), replace=False))
    requests = requests_table(users, regime=arguments.regime, new_only=True)
    lists = people.answer(requests, RecommendOptions("both", PEOPLE))
    kept: list[Evidence] = []

    def keep(evidence: Evidence) -> list[str]:
        kept.append(evidence)
        return sentences(evidence)

    said = people.reasons(requests, lists, "both", keep)
    print(f"{len(said):,} places, {sum(not one for one in said)} without a reason")
    general = np.mean([all(reason.kind in GENERAL for reason in chosen(evidence)) for evidence in kept])
    print(f"a general reason alone: {general:.1%}")
    kinds, lower_by_kind, lower, measured = Counter[str](), Counter[str](), 0, 0
    for place in np.sort(rng.choice(len(kept), min(arguments.places, len(kept)), replace=False)):
        evidence, row = kept[place], int(lists["request"][int(place)])
        request = people.lists().request(requests[row])
        user, person = (int(log.numbers(pl.Series([one]))[0]) for one in (evidence.user, evidence.person))
        named = {reason.kind for reason in chosen(evidence)}
        before = score(people, log, texts, request, person)
        after = score(people, *without(log, texts, evidence, user, person), request, person)
        measured += 1
        lower += after < before
        kinds.update(named)
        lower_by_kind.update(named if after < before else ())
    print(f"lower without the evidence: {lower} of {measured} ({lower / measured:.1%})\n")
    print("| named, beside others | places | lower |\n|---|---:|---:|")
    for kind, count in kinds.most_common():
        print(f"| {kind} | {count} | {lower_by_kind[kind] / count:.0%} |")
    for row in range(READ):
        print(f"\n{users[row]}:")
        for k in np.flatnonzero(lists["request"].to_numpy() == row):
            print(f"  {lists['recommended'][int(k)]}: {' '.join(said[int(k)])}")


if __name__ == "__main__":
    main()
