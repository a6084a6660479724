"""A social network over time: owns what is planted in it, and the two tables (events, truth) that come out.

What its users write is in `simulate_texts`. Knows nothing of models, roles or splits. Time runs in steps of about
equally many events. What users know of each other (contacts, who was active, who received) is taken from the end of
the step before, so that a step is a few array operations, whatever its size; answers, late accepts and blocks wait in a
pool until their moment. Equal settings give equal tables: one generator, one order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, ACTOR, TARGET, TIMESTAMP, USER_ID
from befriend.data.remembered import Pairs, Rings
from befriend.data.simulate_texts import simulate_texts
from befriend.data.traits import COMMUNITY, DAY, JOINED, SimulateSettings
from befriend.errors import SettingsError
from befriend.files import atomic

EVENTS_FILE: Final = "events.parquet"
TRUTH_FILE: Final = "truth.parquet"
TEXTS_FILE: Final = "texts.parquet"
STATEMENTS_FILE: Final = "statements.parquet"

ACTIONS: Final = ("request", "accept", "message", "view", "block")
REQUEST, ACCEPT, MESSAGE, VIEW, BLOCK = range(5)
ANSWER, OWN = 5, 6  # a message inside a thread; and somebody about to do something, what is not yet decided

HOURS: Final = 1 / 24
MINUTES: Final = HOURS / 60
EVENTS_A_STEP: Final = 40  # as small as speed allows: what users know is one step old
MOST_STEPS: Final = 2400
CONTACTS_KEPT: Final = 32  # a user's newest contacts, through whom friends of friends are met
TALKS_KEPT: Final = 8  # a user's latest conversations, which are likely to go on
RECEIVED_KEPT: Final = 1024  # a community's latest received requests: drawing one is drawing by received degree
ACTIVE_KEPT: Final = 64  # a community's latest actors
TRIES: Final = 3  # draws of a stranger before a user does something else
LONGEST_THREAD: Final = 50
DAYS_NEW: Final = 3.0  # a newcomer's eagerness falls to 1/e in so many days


class _Batch(NamedTuple):
    """Things that happen, or will: arrays of equal length."""

    time: np.ndarray  # int64[n] UTC seconds
    kind: np.ndarray  # int8[n]
    actor: np.ndarray  # int32[n]
    target: np.ndarray  # int32[n]; any value where kind is OWN

    def where(self, choice: np.ndarray) -> _Batch:
        return _Batch(*(column[choice] for column in self))


def _batch(time: np.ndarray, kind: int, actor: np.ndarray, target: np.ndarray | None = None) -> _Batch:
    target = actor if target is None else target
    return _Batch(
        time.astype(np.int64), np.full(len(time), kind, np.int8), actor.astype(np.int32), target.astype(np.int32)
    )


def _joined_up(batches: list[_Batch]) -> _Batch:
    return _Batch(*(np.concatenate(columns) for columns in zip(*batches, strict=True)))


class _Network:
    """The users, what they know of each other, and what is still to come. Users are numbered as they join."""

    def __init__(self, settings: SimulateSettings) -> None:
        self.s = s = settings
        self.rng = np.random.Generator(np.random.PCG64(s.seed))
        self.begin, self.end = s.start + 1, s.start + 1 + max(10, round(s.days * DAY))
        self.joined = self._join_times()
        sizes = self.rng.dirichlet(np.full(s.communities, 4.0))
        self.community = self.rng.choice(s.communities, s.users, p=sizes).astype(np.int32)
        self.activity = self.rng.lognormal(0, s.activity_spread, s.users)
        self.last_active = self.joined.copy()
        self.awake = np.ones(s.users, bool)  # everybody joins awake
        self.phase_ends = self.joined + self._length(np.full(s.users, s.awake_days))

        self.members = np.argsort(self.community, kind="stable").astype(np.int32)  # by community, then as they join
        self.first_member = np.searchsorted(self.community[self.members], np.arange(s.communities))
        self.members_now = np.zeros(s.communities, np.int64)
        self.users_now = 0  # who joined before this step, and is known
        self.arrived = int(np.searchsorted(self.joined, self.begin))  # who joined before the end of it

        self.contacts = Rings(s.users, CONTACTS_KEPT)
        self.talks = Rings(s.users, TALKS_KEPT)
        self.received = Rings(s.communities, RECEIVED_KEPT)
        self.active = Rings(s.communities, ACTIVE_KEPT)
        self.approached = Pairs(s.users)  # a request was made: no view, no further request; also what a block needs
        founders = np.arange(self.arrived)
        self.waiting = _batch(self.begin + self.rng.random(len(founders)) * s.stay_days / 2 * DAY, OWN, founders)
        self.happened: list[_Batch] = []
        self.count = 0

    # -- the course of time

    def run(self) -> _Batch:
        """All events, in time order."""
        s = self.s
        steps = int(np.clip(s.events // EVENTS_A_STEP, 10, MOST_STEPS))
        clock = self._clock()
        edges = np.interp(np.arange(steps + 1) / steps, *clock).astype(np.int64)
        for step in range(steps):
            begin, end = int(edges[step]), int(edges[step + 1])
            self._arrive(begin, end)
            self._change_phases(begin)
            wanted = round(s.events * (step + 1) / steps) - self.count - int((self.waiting.time < end).sum())
            moments = np.interp((step + self.rng.random(max(0, wanted))) / steps, *clock).astype(np.int64)
            self._step(self._own_actions(begin, np.clip(moments, begin, max(begin, end - 1))), end)
        self._fill_up(int(edges[-2]), self.end)
        events = _joined_up(self.happened)
        return events.where(np.argsort(events.time, kind="stable")[: s.events])

    def _clock(self) -> tuple[np.ndarray, np.ndarray]:
        """Share of the events that are over, and when: busier by day, and as the users there are more or fewer."""
        hours = np.linspace(self.begin, self.end, max(100, round(self.s.days * 24)) + 1)
        middle = (hours[1:] + hours[:-1]) / 2
        there = np.searchsorted(self.joined, middle) - np.searchsorted(self.joined, middle - self.s.stay_days * DAY)
        evening = np.cos(2 * np.pi * (middle / DAY - 19 / 24))
        over = np.concatenate([[0], np.cumsum((there + 1) * (1 + self.s.daily_rhythm * evening + 1e-3))])
        return over / over[-1], hours

    def _step(self, actions: _Batch, end: int) -> None:
        """What is due before `end`, and what follows from it before `end`; users get to know of it afterwards."""
        due = self.waiting.time < end
        later, wave, seen = [self.waiting.where(~due)], _joined_up([self.waiting.where(due), actions]), []
        while len(wave.time):
            wave = self._made_possible(self._decided(wave))
            seen.append(wave)
            following = self._consequences(wave, end)
            due = following.time < end
            later.append(following.where(~due & (following.time < self.end)))
            wave = following.where(due)
        self.waiting = _joined_up(later)
        if seen:
            self._learn(_joined_up(seen))

    def _fill_up(self, begin: int, end: int) -> None:
        """Makes up for the few events by which the last step fell short."""
        for attempt in range(100):
            if self.count >= self.s.events:
                return
            if attempt == 10:  # a tiny network: those awake have nobody to turn to
                self.awake[:] = True
            moments = self.rng.integers(begin, end, self.s.events - self.count)
            self._step(self._own_actions(begin, moments), end)
        raise SettingsError(
            f"with these settings {self.s.users} users find no more than {self.count} of {self.s.events} events to do. "
            "Simulate more users, or raise talking."
        )

    # -- users come, wake and sleep

    def _join_times(self) -> np.ndarray:
        s = self.s
        founders = max(5, round(s.founders * s.users))
        before = self.rng.random(founders) * min(s.stay_days * DAY, s.start)
        after = self.rng.random(s.users - founders) * (self.end - self.begin)
        return np.sort(np.concatenate([s.start - before, s.start + after])).astype(np.int64)

    def _arrive(self, begin: int, end: int) -> None:
        """Who joins before `end` acts soon, and may be welcomed; the others know them from the next step on."""
        s, rng, known = self.s, self.rng, self.users_now
        self.users_now = self.arrived
        self.members_now += np.bincount(self.community[known : self.users_now], minlength=s.communities)
        self.arrived = int(np.searchsorted(self.joined, end))
        coming = np.arange(self.users_now, self.arrived)
        if not len(coming):
            return
        starts = _batch(self.joined[coming] + self._delay(8 * HOURS, 1.5, len(coming)), OWN, coming)
        coming = coming[rng.random(len(coming)) < s.welcomed]
        members = self.active.draw(self._place(coming), rng)
        welcomes = _batch(self.joined[coming] + self._delay(1 * HOURS, 1.5, len(coming)), REQUEST, members, coming)
        soon = _joined_up([starts, welcomes.where(members >= 0)])
        self.waiting = _joined_up([self.waiting, soon.where(soon.time < self.end)])

    def _change_phases(self, now: int) -> None:
        if self.s.dormant_days == 0:
            return
        over = np.flatnonzero(self.phase_ends[: self.users_now] <= now)
        self.awake[over] = ~self.awake[over]
        mean = np.where(self.awake[over], self.s.awake_days, self.s.dormant_days)
        self.phase_ends[over] = now + self._length(mean)

    def _own_actions(self, now: int, moments: np.ndarray) -> _Batch:
        """Somebody awake for each moment: the active by nature, the new, and the not yet tired more often."""
        there = np.flatnonzero(self.awake[: self.users_now])
        if not len(there):
            there = np.arange(self.users_now)
        age = (now - self.joined[there]) / DAY
        weight = (
            self.activity[there]
            * (1 + self.s.eagerness * np.exp(-age / DAYS_NEW))
            / (1 + (age / self.s.stay_days) ** 2)
        )
        upto = np.cumsum(weight)
        place = np.searchsorted(upto, self.rng.random(len(moments)) * upto[-1], side="right")
        return _batch(moments, OWN, there[np.minimum(place, len(there) - 1)])

    # -- what they do

    def _decided(self, wave: _Batch) -> _Batch:
        """Whoever is about to do something talks to a contact, or approaches somebody new."""
        s, rng = self.s, self.rng
        own = np.flatnonzero(wave.kind == OWN)
        if not len(own):
            return wave
        actor = wave.actor[own]
        chance, late = rng.random((2, len(own)))
        friend = np.where(late < 0.7, self.talks.draw(actor, rng, lean=2), self.contacts.draw(actor, rng))
        talks = (friend >= 0) & (chance < s.talking)
        stranger = np.full(len(own), -1)
        stranger[~talks] = self._strangers(actor[~talks])
        approach = np.where(rng.random(len(own)) < s.viewed_first, VIEW, REQUEST)
        kind, target = wave.kind.copy(), wave.target.copy()
        kind[own] = np.where(stranger >= 0, approach, MESSAGE)
        target[own] = np.where(stranger >= 0, stranger, friend)
        return wave._replace(kind=kind, target=target).where(target >= 0)

    def _strangers(self, actor: np.ndarray) -> np.ndarray:
        """Somebody new for each actor, -1 where nobody is found: a contact's contact, or one of a community."""
        s, rng = self.s, self.rng
        stranger = np.full(len(actor), -1)
        place, close = self._place(actor), rng.random(len(actor)) < s.closure
        for attempt in range(2 * TRIES):
            todo = np.flatnonzero(stranger < 0)
            if not len(todo):
                break
            a = actor[todo]
            by_contact = self.contacts.draw(self.contacts.draw(a, rng), rng)
            found = np.where(
                close[todo] & (by_contact >= 0) & (attempt < TRIES), by_contact, self._attractive(place[todo])
            )
            fine = (found >= 0) & (found != a) & ~self.approached.hold(self.approached.keys(a, found))
            stranger[todo[fine]] = found[fine]
        return stranger

    def _place(self, user: np.ndarray) -> np.ndarray:
        """The community in which somebody for each user is looked for."""
        anybody = self.rng.integers(0, max(1, self.users_now), len(user))
        at_home = self.rng.random(len(user)) < self.s.homophily
        return self.community[np.where(at_home, user, anybody)]

    def _attractive(self, place: np.ndarray) -> np.ndarray:
        """A member of each community, by requests received or evenly: of two drawn, whoever was active later."""
        first, second = (self._drawn_member(place) for _ in range(2))
        earlier = (first < 0) | (self.last_active[first] < self.last_active[second]) & (second >= 0)
        return np.where(earlier, second, first)

    def _drawn_member(self, place: np.ndarray) -> np.ndarray:
        rng = self.rng
        evenly = self.first_member[place] + (self.members_now[place] * rng.random(len(place))).astype(np.int64)
        evenly = np.where(self.members_now[place] > 0, self.members[np.minimum(evenly, self.s.users - 1)], -1)
        by_degree = self.received.draw(place, rng)
        return np.where((by_degree >= 0) & (rng.random(len(place)) < self.s.attachment), by_degree, evenly)

    def _made_possible(self, wave: _Batch) -> _Batch:
        """A request is made once: not to oneself, and not where either of the two asked before."""
        asks = np.flatnonzero(wave.kind == REQUEST)
        keys = self.approached.keys(wave.actor[asks], wave.target[asks])
        first = np.zeros(len(asks), bool)
        first[np.unique(keys, return_index=True)[1]] = True
        fine = first & (wave.actor[asks] != wave.target[asks]) & ~self.approached.hold(keys)
        self.approached.add(keys[fine])
        keep = np.ones(len(wave.time), bool)
        keep[asks] = fine
        return wave.where(keep)

    # -- what follows from it

    def _consequences(self, wave: _Batch, end: int) -> _Batch:
        """Each at least a second after its cause."""
        s, rng = self.s, self.rng
        asked, viewed = wave.where(wave.kind == REQUEST), wave.where(wave.kind == VIEW)
        outcome, crowd = rng.random((2, len(asked.time)))
        accepted, blocked = asked.where(outcome >= s.never_accepted), asked.where(outcome < s.blocked)
        accepts = accepted.time + self._delay(s.accept_days, s.accept_spread, len(accepted.time))
        # a block waits for the end of the step: whatever else the two do in this step comes before it
        blocks = end + self._delay(s.accept_days, 1.0, len(blocked.time))
        wanted = viewed.where(rng.random(len(viewed.time)) < s.requested_after_view)
        requests = wanted.time + self._delay(10 * MINUTES, 1.5, len(wanted.time))
        noticed = asked.where(crowd < s.crowding)
        friend = self.contacts.draw(noticed.actor, rng)
        near = (friend >= 0) & (rng.random(len(friend)) < s.closure)
        others = np.where(near, friend, self.active.draw(self._place(noticed.target), rng))
        crowding = _batch(noticed.time + self._delay(15 * MINUTES, 2.0, len(others)), REQUEST, others, noticed.target)
        following = [
            _batch(accepts, ACCEPT, accepted.target, accepted.actor),
            _batch(blocks, BLOCK, blocked.target, blocked.actor),
            _batch(requests, REQUEST, wanted.actor, wanted.target),
            crowding.where(others >= 0),
            self._threads(wave.where(wave.kind == MESSAGE)),
        ]
        return _joined_up(following)

    def _threads(self, opening: _Batch) -> _Batch:
        """The answers to each opening message, to and fro, each some minutes after the one before."""
        s, rng = self.s, self.rng
        length = np.minimum(rng.geometric(1 - s.answered, len(opening.time)) - 1, LONGEST_THREAD)
        thread = np.repeat(np.arange(len(length)), length)
        place = np.arange(len(thread)) - np.repeat(np.cumsum(length) - length, length)
        waited = np.cumsum(self._delay(s.answer_minutes * MINUTES, 1.5, len(thread)))
        before = np.concatenate([[0], waited])[np.cumsum(length) - length]
        back = place % 2 == 0  # the first answer goes back to whoever opened
        one, other = opening.actor[thread], opening.target[thread]
        time = opening.time[thread] + waited - before[thread]
        return _batch(time, ANSWER, np.where(back, other, one), np.where(back, one, other))

    def _learn(self, step: _Batch) -> None:
        """What happened is known to all it concerns, and wakes some of those who received it."""
        s, rng = self.s, self.rng
        step = step.where(np.argsort(step.time, kind="stable"))
        self.happened.append(step)
        self.count += len(step.time)
        np.maximum.at(self.last_active, step.actor, step.time)
        self.active.put(self.community[step.actor], step.actor)
        asked, accepted = step.where(step.kind == REQUEST), step.where(step.kind == ACCEPT)
        self.received.put(self.community[asked.target], asked.target)
        talked = step.where(np.isin(step.kind, (ACCEPT, MESSAGE, ANSWER)))
        for ring, pairs in ((self.contacts, accepted), (self.talks, talked)):
            ring.put(np.concatenate([pairs.actor, pairs.target]), np.concatenate([pairs.target, pairs.actor]))
        woken = step.where((rng.random(len(step.time)) < s.attention) & ~self.awake[step.target] & (step.kind != VIEW))
        self.awake[woken.target] = True
        self.phase_ends[woken.target] = woken.time + self._length(np.full(len(woken.time), s.awake_days))

    # -- durations

    def _length(self, mean_days: np.ndarray) -> np.ndarray:
        return (self.rng.standard_exponential(len(mean_days)) * mean_days * DAY).astype(np.int64)

    def _delay(self, median_days: float, spread: float, size: int) -> np.ndarray:
        """Heavy tailed, at least a second."""
        return 1 + (self.rng.lognormal(np.log(median_days * DAY), spread, size)).astype(np.int64)


def simulate(settings: SimulateSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(events, truth): exactly `settings.events` events ordered by time, and every user's community and joining.

    `joined` lies before every event of the user, for founders before the log. Few users have no event at all.
    """
    network = _Network(settings)
    events = network.run()
    ids = network.rng.choice(10 * settings.users, settings.users, replace=False) + 1  # says nothing of when they joined
    kind = np.where(events.kind == ANSWER, MESSAGE, events.kind)
    log = pl.DataFrame(
        {
            ACTOR: ids[events.actor],
            ACTION: pl.Series(ACTIONS).gather(kind),
            TARGET: ids[events.target],
            TIMESTAMP: events.time,
        }
    )
    truth = pl.DataFrame({USER_ID: ids, COMMUNITY: network.community, JOINED: network.joined}).sort(USER_ID)
    return log, truth


def write(settings: SimulateSettings, folder: Path) -> None:
    """events.parquet and truth.parquet in `folder`, and texts.parquet and statements.parquet where there are texts.

    Equal settings, equal bytes.
    """
    events, truth = simulate(settings)
    tables = {EVENTS_FILE: events, TRUTH_FILE: truth}
    if settings.texts:
        written = simulate_texts(settings, events, truth)
        tables |= {TRUTH_FILE: written.truth, TEXTS_FILE: written.texts, STATEMENTS_FILE: written.statements}
    for name, table in tables.items():
        with atomic(folder / name) as temporary:
            table.rechunk().write_parquet(
                temporary, compression="zstd", compression_level=9, statistics=False, row_group_size=1_000_000
            )
