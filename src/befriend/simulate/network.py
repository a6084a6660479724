"""A simulated social network over time: plants its traits, and makes the two tables (events, truth).

What its users write is in `simulate.network_texts`. Knows nothing of models, roles or splits. Time runs in steps of
about equally many events. What users know of each other (contacts, who was active, who received requests) is the state
at the end of the step before, so that a step is a few array operations, whatever its size; replies, late accepts and
blocks wait in a queue until they are due. Equal settings give equal tables: one random generator, one order of draws.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, ACTOR, TARGET, TIMESTAMP, USER_ID
from befriend.data.event_log import DAY
from befriend.errors import SettingsError
from befriend.files import atomic
from befriend.simulate.network_settings import COMMUNITY, JOINED, SimulateSettings
from befriend.simulate.network_texts import simulate_texts
from befriend.simulate.ring_buffers import PairSet, RingBuffers

EVENTS_FILE: Final = "events.parquet"
TRUTH_FILE: Final = "truth.parquet"
TEXTS_FILE: Final = "texts.parquet"
STATEMENTS_FILE: Final = "statements.parquet"

ACTIONS: Final = ("request", "accept", "message", "view", "block")
REQUEST, ACCEPT, MESSAGE, VIEW, BLOCK = range(5)
REPLY, UNDECIDED = 5, 6  # a message within a thread; and an actor who acts on their own, kind and target still open

HOURS: Final = 1 / 24
MINUTES: Final = HOURS / 60
EVENTS_A_STEP: Final = 40  # as small as speed allows: what users know is one step old
MOST_STEPS: Final = 2400
CONTACTS_KEPT: Final = 32  # a user's newest contacts, through whom they meet friends of friends
TALKS_KEPT: Final = 8  # a user's latest conversations, which are likely to go on
RECEIVED_KEPT: Final = 1024  # a community's latest received requests: drawing from them is drawing by received degree
ACTIVE_KEPT: Final = 64  # a community's latest actors
TRIES: Final = 3  # draws of a stranger before a user does something else
LONGEST_THREAD: Final = 50
DAYS_NEW: Final = 3.0  # a newcomer's extra activity falls to 1/e in this many days


class _Batch(NamedTuple):
    """Events, past or future: arrays of equal length."""

    time: np.ndarray  # int64[n] UTC seconds
    kind: np.ndarray  # int8[n]
    actor: np.ndarray  # int32[n]
    target: np.ndarray  # int32[n]; any value where kind is UNDECIDED

    def where(self, selection: np.ndarray) -> _Batch:
        """The rows of a mask, bool[n], or of indices."""
        return _Batch(*(column[selection] for column in self))


def _batch(time: np.ndarray, kind: int, actor: np.ndarray, target: np.ndarray | None = None) -> _Batch:
    target = actor if target is None else target
    return _Batch(
        time.astype(np.int64), np.full(len(time), kind, np.int8), actor.astype(np.int32), target.astype(np.int32)
    )


def _concatenated(batches: list[_Batch]) -> _Batch:
    return _Batch(*(np.concatenate(columns) for columns in zip(*batches, strict=True)))


class _Network:
    """The users, what they know of each other, and the pending events. Users are numbered in the order they join."""

    def __init__(self, settings: SimulateSettings) -> None:
        self.s = s = settings
        self.rng = np.random.Generator(np.random.PCG64(s.seed))
        self.begin, self.end = s.start + 1, s.start + 1 + max(10, round(s.days * DAY))
        self.joined = self._join_times()
        sizes = self.rng.dirichlet(np.full(s.communities, 4.0))
        self.community = self.rng.choice(s.communities, s.users, p=sizes).astype(np.int32)
        self.activity = self.rng.lognormal(0, s.activity_spread, s.users)
        self.last_active = self.joined.copy()
        self.awake = np.ones(s.users, bool)  # every user joins awake
        self.phase_ends = self.joined + self._phase_length(np.full(s.users, s.awake_days))

        self.members = np.argsort(self.community, kind="stable").astype(np.int32)  # by community, then as they join
        self.first_member = np.searchsorted(self.community[self.members], np.arange(s.communities))
        self.visible_members = np.zeros(s.communities, np.int64)  # members among the visible users
        self.visible_users = 0  # users who joined before this step, whom the others know
        self.arrived = int(np.searchsorted(self.joined, self.begin))  # users who joined before the end of this step

        self.contacts = RingBuffers(s.users, CONTACTS_KEPT)
        self.talks = RingBuffers(s.users, TALKS_KEPT)
        self.received = RingBuffers(s.communities, RECEIVED_KEPT)
        self.active = RingBuffers(s.communities, ACTIVE_KEPT)
        self.approached = PairSet(s.users)  # pairs with a request: no view and no other request; a block needs one
        founders = np.arange(self.arrived)
        self.pending = _batch(self.begin + self.rng.random(len(founders)) * s.stay_days / 2 * DAY, UNDECIDED, founders)
        self.past: list[_Batch] = []  # events so far, a batch per step
        self.count = 0  # number of events so far

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
            needed = round(s.events * (step + 1) / steps) - self.count - int((self.pending.time < end).sum())
            times = np.interp((step + self.rng.random(max(0, needed))) / steps, *clock).astype(np.int64)
            self._step(self._own_actions(begin, np.clip(times, begin, max(begin, end - 1))), end)
        self._fill_up(int(edges[-2]), self.end)
        events = _concatenated(self.past)
        return events.where(np.argsort(events.time, kind="stable")[: s.events])

    def _clock(self) -> tuple[np.ndarray, np.ndarray]:
        """(share of the events that are over, UTC second), hour by hour: faster by day, and with more users present."""
        hours = np.linspace(self.begin, self.end, max(100, round(self.s.days * 24)) + 1)
        middle = (hours[1:] + hours[:-1]) / 2
        present = np.searchsorted(self.joined, middle) - np.searchsorted(self.joined, middle - self.s.stay_days * DAY)
        evening = np.cos(2 * np.pi * (middle / DAY - 19 / 24))
        over = np.concatenate([[0], np.cumsum((present + 1) * (1 + self.s.daily_rhythm * evening + 1e-3))])
        return over / over[-1], hours

    def _step(self, actions: _Batch, end: int) -> None:
        """Pending events and actions before `end`, and their consequences before `end`; users learn of them after."""
        is_due = self.pending.time < end
        later, wave, waves = [self.pending.where(~is_due)], _concatenated([self.pending.where(is_due), actions]), []
        while len(wave.time):
            wave = self._without_repeated_requests(self._decided(wave))
            waves.append(wave)
            following = self._consequences(wave, end)
            is_due = following.time < end
            later.append(following.where(~is_due & (following.time < self.end)))
            wave = following.where(is_due)
        self.pending = _concatenated(later)
        if waves:
            self._record(_concatenated(waves))

    def _fill_up(self, begin: int, end: int) -> None:
        """Adds the few events by which the last step fell short."""
        for attempt in range(100):
            if self.count >= self.s.events:
                return
            if attempt == 10:  # a tiny network: awake users have no target that is possible
                self.awake[:] = True
            times = self.rng.integers(begin, end, self.s.events - self.count)
            self._step(self._own_actions(begin, times), end)
        raise SettingsError(
            f"with these settings {self.s.users} users make only {self.count} of {self.s.events} events. "
            "Simulate more users, or raise talking."
        )

    # -- users join, wake and sleep

    def _join_times(self) -> np.ndarray:
        s = self.s
        founders = max(5, round(s.founders * s.users))
        before = self.rng.random(founders) * min(s.stay_days * DAY, s.start)
        after = self.rng.random(s.users - founders) * (self.end - self.begin)
        return np.sort(np.concatenate([s.start - before, s.start + after])).astype(np.int64)

    def _arrive(self, begin: int, end: int) -> None:
        """Users who join before `end` act soon, and may be welcomed; the others know them from the next step on."""
        s, rng, visible_before = self.s, self.rng, self.visible_users
        self.visible_users = self.arrived
        self.visible_members += np.bincount(
            self.community[visible_before : self.visible_users], minlength=s.communities
        )
        self.arrived = int(np.searchsorted(self.joined, end))
        newcomers = np.arange(self.visible_users, self.arrived)
        if not len(newcomers):
            return
        starts = _batch(self.joined[newcomers] + self._delay(8 * HOURS, 1.5, len(newcomers)), UNDECIDED, newcomers)
        welcomed = newcomers[rng.random(len(newcomers)) < s.welcomed]
        members = self.active.draw(self._search_communities(welcomed), rng)
        welcomes = _batch(
            self.joined[welcomed] + self._delay(1 * HOURS, 1.5, len(welcomed)), REQUEST, members, welcomed
        )
        soon = _concatenated([starts, welcomes.where(members >= 0)])
        self.pending = _concatenated([self.pending, soon.where(soon.time < self.end)])

    def _change_phases(self, now: int) -> None:
        if self.s.dormant_days == 0:
            return
        over = np.flatnonzero(self.phase_ends[: self.visible_users] <= now)
        self.awake[over] = ~self.awake[over]
        mean = np.where(self.awake[over], self.s.awake_days, self.s.dormant_days)
        self.phase_ends[over] = now + self._phase_length(mean)

    def _own_actions(self, now: int, times: np.ndarray) -> _Batch:
        """An awake user for each time, drawn by activity: higher for active natures and newcomers, fading with age."""
        candidates = np.flatnonzero(self.awake[: self.visible_users])
        if not len(candidates):
            candidates = np.arange(self.visible_users)
        age = (now - self.joined[candidates]) / DAY
        weight = (
            self.activity[candidates]
            * (1 + self.s.eagerness * np.exp(-age / DAYS_NEW))
            / (1 + (age / self.s.stay_days) ** 2)
        )
        cumulative = np.cumsum(weight)
        index = np.searchsorted(cumulative, self.rng.random(len(times)) * cumulative[-1], side="right")
        return _batch(times, UNDECIDED, candidates[np.minimum(index, len(candidates) - 1)])

    # -- what they do

    def _decided(self, wave: _Batch) -> _Batch:
        """Every undecided actor messages a contact, or approaches a stranger with a view or a request."""
        s, rng = self.s, self.rng
        undecided = np.flatnonzero(wave.kind == UNDECIDED)
        if not len(undecided):
            return wave
        actor = wave.actor[undecided]
        talk_draw, recent_draw = rng.random((2, len(undecided)))
        friend = np.where(recent_draw < 0.7, self.talks.draw(actor, rng, lean=2), self.contacts.draw(actor, rng))
        talks = (friend >= 0) & (talk_draw < s.talking)
        stranger = np.full(len(undecided), -1)
        stranger[~talks] = self._strangers(actor[~talks])
        approach = np.where(rng.random(len(undecided)) < s.viewed_first, VIEW, REQUEST)
        kind, target = wave.kind.copy(), wave.target.copy()
        kind[undecided] = np.where(stranger >= 0, approach, MESSAGE)
        target[undecided] = np.where(stranger >= 0, stranger, friend)
        return wave._replace(kind=kind, target=target).where(target >= 0)

    def _strangers(self, actor: np.ndarray) -> np.ndarray:
        """A user to approach for each actor, a contact's contact or a member of a community; -1 if no draw fits."""
        s, rng = self.s, self.rng
        stranger = np.full(len(actor), -1)
        community, by_closure = self._search_communities(actor), rng.random(len(actor)) < s.closure
        for attempt in range(2 * TRIES):
            todo = np.flatnonzero(stranger < 0)
            if not len(todo):
                break
            a = actor[todo]
            by_contact = self.contacts.draw(self.contacts.draw(a, rng), rng)
            candidate = np.where(
                by_closure[todo] & (by_contact >= 0) & (attempt < TRIES),
                by_contact,
                self._draw_active_members(community[todo]),
            )
            is_new = (candidate >= 0) & (candidate != a) & ~self.approached.hold(self.approached.keys(a, candidate))
            stranger[todo[is_new]] = candidate[is_new]
        return stranger

    def _search_communities(self, user: np.ndarray) -> np.ndarray:
        """The community in which each user looks for a stranger: their own, or that of a random user."""
        random_user = self.rng.integers(0, max(1, self.visible_users), len(user))
        at_home = self.rng.random(len(user)) < self.s.homophily
        return self.community[np.where(at_home, user, random_user)]

    def _draw_active_members(self, community: np.ndarray) -> np.ndarray:
        """A member of each community, -1 from an empty one: of two drawn, the one who was active later."""
        first, second = (self._draw_members(community) for _ in range(2))
        takes_second = (first < 0) | (self.last_active[first] < self.last_active[second]) & (second >= 0)
        return np.where(takes_second, second, first)

    def _draw_members(self, community: np.ndarray) -> np.ndarray:
        """A member of each community, -1 from an empty one: drawn by requests received, or evenly."""
        rng = self.rng
        evenly = self.first_member[community] + (self.visible_members[community] * rng.random(len(community))).astype(
            np.int64
        )
        evenly = np.where(self.visible_members[community] > 0, self.members[np.minimum(evenly, self.s.users - 1)], -1)
        by_degree = self.received.draw(community, rng)
        return np.where((by_degree >= 0) & (rng.random(len(community)) < self.s.attachment), by_degree, evenly)

    def _without_repeated_requests(self, wave: _Batch) -> _Batch:
        """Drops requests to oneself, and requests between users of whom either has sent one to the other before."""
        requests = np.flatnonzero(wave.kind == REQUEST)
        keys = self.approached.keys(wave.actor[requests], wave.target[requests])
        is_first = np.zeros(len(requests), bool)
        is_first[np.unique(keys, return_index=True)[1]] = True
        is_possible = is_first & (wave.actor[requests] != wave.target[requests]) & ~self.approached.hold(keys)
        self.approached.add(keys[is_possible])
        keep = np.ones(len(wave.time), bool)
        keep[requests] = is_possible
        return wave.where(keep)

    # -- what follows from it

    def _consequences(self, wave: _Batch, end: int) -> _Batch:
        """What the events of a wave bring about, each at least a second after its cause."""
        s, rng = self.s, self.rng
        requests, views = wave.where(wave.kind == REQUEST), wave.where(wave.kind == VIEW)
        outcome, crowding_draw = rng.random((2, len(requests.time)))
        accepted, blocked = requests.where(outcome >= s.never_accepted), requests.where(outcome < s.blocked)
        accept_times = accepted.time + self._delay(s.accept_days, s.accept_spread, len(accepted.time))
        # a block waits for the end of the step: whatever else the two do in this step comes before it
        block_times = end + self._delay(s.accept_days, 1.0, len(blocked.time))
        pursued = views.where(rng.random(len(views.time)) < s.requested_after_view)
        request_times = pursued.time + self._delay(10 * MINUTES, 1.5, len(pursued.time))
        noticed = requests.where(crowding_draw < s.crowding)
        friend = self.contacts.draw(noticed.actor, rng)
        by_friend = (friend >= 0) & (rng.random(len(friend)) < s.closure)
        imitator = np.where(by_friend, friend, self.active.draw(self._search_communities(noticed.target), rng))
        imitations = _batch(
            noticed.time + self._delay(15 * MINUTES, 2.0, len(imitator)), REQUEST, imitator, noticed.target
        )
        following = [
            _batch(accept_times, ACCEPT, accepted.target, accepted.actor),
            _batch(block_times, BLOCK, blocked.target, blocked.actor),
            _batch(request_times, REQUEST, pursued.actor, pursued.target),
            imitations.where(imitator >= 0),
            self._threads(wave.where(wave.kind == MESSAGE)),
        ]
        return _concatenated(following)

    def _threads(self, opening: _Batch) -> _Batch:
        """The replies to each opening message, back and forth, each some minutes after the one before."""
        s, rng = self.s, self.rng
        length = np.minimum(rng.geometric(1 - s.answered, len(opening.time)) - 1, LONGEST_THREAD)
        thread = np.repeat(np.arange(len(length)), length)
        position = np.arange(len(thread)) - np.repeat(np.cumsum(length) - length, length)
        elapsed = np.cumsum(self._delay(s.answer_minutes * MINUTES, 1.5, len(thread)))
        before = np.concatenate([[0], elapsed])[np.cumsum(length) - length]
        to_opener = position % 2 == 0  # the first reply goes back to the user who opened
        opener, receiver = opening.actor[thread], opening.target[thread]
        time = opening.time[thread] + elapsed - before[thread]
        return _batch(time, REPLY, np.where(to_opener, receiver, opener), np.where(to_opener, opener, receiver))

    def _record(self, step: _Batch) -> None:
        """Adds the events of a step to what users know of each other, and wakes some of those who received them."""
        s, rng = self.s, self.rng
        step = step.where(np.argsort(step.time, kind="stable"))
        self.past.append(step)
        self.count += len(step.time)
        np.maximum.at(self.last_active, step.actor, step.time)
        self.active.put(self.community[step.actor], step.actor)
        requests, accepts = step.where(step.kind == REQUEST), step.where(step.kind == ACCEPT)
        self.received.put(self.community[requests.target], requests.target)
        talks = step.where(np.isin(step.kind, (ACCEPT, MESSAGE, REPLY)))
        for ring, pairs in ((self.contacts, accepts), (self.talks, talks)):
            ring.put(np.concatenate([pairs.actor, pairs.target]), np.concatenate([pairs.target, pairs.actor]))
        woken = step.where((rng.random(len(step.time)) < s.attention) & ~self.awake[step.target] & (step.kind != VIEW))
        self.awake[woken.target] = True
        self.phase_ends[woken.target] = woken.time + self._phase_length(np.full(len(woken.time), s.awake_days))

    # -- durations

    def _phase_length(self, mean_days: np.ndarray) -> np.ndarray:
        """int64, seconds, exponentially distributed."""
        return (self.rng.standard_exponential(len(mean_days)) * mean_days * DAY).astype(np.int64)

    def _delay(self, median_days: float, spread: float, size: int) -> np.ndarray:
        """int64[size], seconds: log-normal, so heavy-tailed, and at least 1."""
        return 1 + (self.rng.lognormal(np.log(median_days * DAY), spread, size)).astype(np.int64)


def simulate(settings: SimulateSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(events, truth): exactly `settings.events` events in time order, and every user's community and time of joining.

    `joined` precedes every event of the user; founders joined before the log begins. A few users have no event at all.
    """
    network = _Network(settings)
    events = network.run()
    ids = network.rng.choice(10 * settings.users, settings.users, replace=False) + 1  # independent of when they joined
    kind = np.where(events.kind == REPLY, MESSAGE, events.kind)
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
    """Writes events.parquet and truth.parquet to `folder`; with texts, also texts.parquet and statements.parquet.

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
