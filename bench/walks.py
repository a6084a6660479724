"""Two-step walks over contacts that fade: NDCG@10 on list `new` of the validation part, by half-life and weighting.

    python bench/walks.py PREPARED [PREPARED ...] [--events 600]

PREPARED: the folder prepared/ of a validated log of at most 5,000 users, since all pairs are kept in memory. Prints a
Markdown table a log. A walk leads from the actor to a contact and on to a contact of that contact; a contact counts as
much as the two have written to each other, halved every half-life. Weightings, with c the faded counts of two users and
s their sums by user:

    product      sum over w of c(a, w) c(w, v)
    random       sum over w of c(a, w) / s(a) * c(w, v) / s(w), the probability of a random walk of two steps
    symmetric    sum over w of c(a, w) c(w, v) / s(w), divided by sqrt(s(v))
    logarithms   sum over w of log(1 + c(a, w)) log(1 + c(w, v)) / log(2 + s(w)), as Adamic-Adar damps
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from befriend.data.event_log import DAY, EventLog
from befriend.data.regimes import Regime, cutoffs
from befriend.data.split import NEW, Split, read_split, segments
from befriend.progress import track

HALF_LIVES = (1, 3, 7, 14, 30, 60, 365)  # days
REGIMES: tuple[Regime, ...] = ("streaming", "daily")
MAX_USERS = 5000
MAX_DOUBLINGS = 100  # of the scaled counts, before they are scaled back


class FadingCounts:
    """Contact events of each two users, in either direction, each halved every half-life.

    Counts are kept as sums of 2 ** ((time - origin) / half-life), so that a new event changes two of them only.
    """

    def __init__(self, num_users: int, half_life: int, origin: int):
        """half_life: in seconds; origin: UTC second."""
        self.scaled, self.half_life, self.origin = np.zeros((num_users, num_users)), half_life, float(origin)

    def add(self, user: int, other: int, second: int) -> None:
        doublings = (second - self.origin) / self.half_life
        if doublings > MAX_DOUBLINGS:
            self.scaled *= 2.0**-doublings
            self.origin, doublings = float(second), 0.0
        self.scaled[user, other] += 2.0**doublings
        self.scaled[other, user] += 2.0**doublings

    def walks(self, user: int, cutoff: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the name of each weighting, and float64[N], the scores of all users."""
        factor = 2.0 ** ((self.origin - cutoff) / self.half_life)
        counts, row = self.scaled, self.scaled[user] * factor
        strength = np.maximum(counts.sum(1) * factor, 1e-12)
        yield "product", row @ counts * factor
        yield "random", row / strength[user] / strength @ counts * factor
        yield "symmetric", row / strength @ counts * factor / np.sqrt(strength)
        yield "logarithms", np.log1p(row) / np.log(2 + strength) @ np.log1p(counts * factor)


def first_contacts(log: EventLog, split: Split, regime: Regime, max_events: int) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced first contacts of the validation part, int64, in the order of their cutoffs, UTC seconds."""
    start, end = split.part("validation")
    events = np.arange(start, end)[log.is_contact[start:end]]
    cutoff = cutoffs(log.timestamp[events], regime, log.timestamp[start])
    is_new = segments(log, events, cutoff) == NEW
    chosen = np.unique(np.linspace(0, is_new.sum() - 1, max_events).astype(int))
    events, cutoff = events[is_new][chosen], cutoff[is_new][chosen]
    order = np.argsort(cutoff, kind="stable")
    return events[order], cutoff[order]


def measure(log: EventLog, split: Split, regime: Regime, max_events: int) -> dict[str, float]:
    """Mean NDCG@10 of each weighting with each half-life, and of the three baselines. Ties: the latest active first."""
    n, contact = log.num_users, np.flatnonzero(log.is_contact)
    all_counts = {days: FadingCounts(n, days * DAY, int(log.timestamp[0])) for days in HALF_LIVES}
    is_contact, last_event = np.zeros((n, n), bool), np.full(n, -1)
    gains, added = defaultdict(list), 0
    events, cutoff = first_contacts(log, split, regime, max_events)
    for event, second in track(list(zip(events, cutoff, strict=True)), regime):
        end = int(np.searchsorted(log.timestamp[contact], second))
        for k in contact[added:end]:
            user, other, time = int(log.actor[k]), int(log.target[k]), int(log.timestamp[k])
            for counts in all_counts.values():
                counts.add(user, other, time)
            is_contact[user, other] = is_contact[other, user] = True
            last_event[[user, other]] = time
        added = end
        actor, target = int(log.actor[event]), int(log.target[event])
        eligible = (last_event >= 0) & ~is_contact[actor]
        eligible[actor] = False
        degree = np.maximum(is_contact.sum(1), 1)
        step = is_contact[actor] / degree[actor] / degree @ is_contact
        lists = {
            "last active or received": last_event,
            "adamic-adar": is_contact[actor] / np.log(np.maximum(degree, 2)) @ is_contact,
            "ppr": step / 4 + step / degree @ is_contact / 8,
        }
        for days, counts in all_counts.items():
            lists |= {f"{name} {days} d": scores for name, scores in counts.walks(actor, int(second))}
        for name, scores in lists.items():
            is_tied = (scores == scores[target]) & (last_event > last_event[target])
            rank = 1 + int((eligible & ((scores > scores[target]) | is_tied)).sum())
            gains[name].append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
    return {name: float(np.mean(values)) for name, values in gains.items()} | {"first contacts": len(events)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, nargs="+")
    parser.add_argument("--events", type=int, default=600)
    arguments = parser.parse_args()
    for prepared in arguments.prepared:
        log = EventLog.read(prepared)
        if log.num_users > MAX_USERS:
            raise SystemExit(f"{prepared} has {log.num_users:,} users, more than {MAX_USERS:,}")
        split = read_split(prepared, log)
        measured = [measure(log, split, regime, arguments.events) for regime in REGIMES]
        counts = " / ".join(str(int(values.pop("first contacts"))) for values in measured)
        print(f"\n{prepared}, {counts} first contacts, streaming / daily\n")
        weightings = ("product", "random", "symmetric", "logarithms")
        print("| half-life | " + " | ".join(weightings) + " |\n|---|" + "---:|" * len(weightings))
        for days in HALF_LIVES:
            cells = [" / ".join(f"{values[f'{name} {days} d']:.3f}" for values in measured) for name in weightings]
            print(f"| {days} d | " + " | ".join(cells) + " |")
        for name in ("last active or received", "adamic-adar", "ppr"):
            print(f"\n{name}: " + " / ".join(f"{values[name]:.3f}" for values in measured))


if __name__ == "__main__":
    main()
