"""Simulates a social network over time: a table of events, and a table with each user's community and join time.

Texts of the users are in `simulate.network_texts`. The module does not depend on models, roles or splits.

Time advances in steps of about equally many events. Within a step, users see the state at the end of the previous step:
their contacts, who was active, who received requests. So a step is a few array operations, whatever its size. Replies,
late accepts and blocks wait in a queue until they are due. Equal settings give equal tables: there is one random
generator, and the order of its draws is fixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, ACTOR, TARGET, TIMESTAMP, USER_ID
from befriend.data.event_log import DAY
from befriend.errors import SettingsError
from befriend.files import atomic
from befriend.simulate.event_batch import EventBatch, concatenate, make_batch
from befriend.simulate.network_settings import COMMUNITY, JOINED, SimulateSettings
from befriend.simulate.network_texts import simulate_texts
from befriend.simulate.ring_buffers import PairSet, RingBuffers

EVENTS_FILE: Final = "events.parquet"
TRUTH_FILE: Final = "truth.parquet"
TEXTS_FILE: Final = "texts.parquet"
STATEMENTS_FILE: Final = "statements.parquet"

ACTIONS: Final = ("request", "accept", "message", "view", "block")
REQUEST, ACCEPT, MESSAGE, VIEW, BLOCK = range(5)
REPLY, UNDECIDED = 5, 6  # a message within a thread; an event whose kind and target are not drawn yet

HOUR_IN_DAYS: Final = 1 / 24
MINUTE_IN_DAYS: Final = HOUR_IN_DAYS / 60
EVENTS_PER_STEP: Final = 40  # as few as speed allows, because the state that users see is up to a step old
MAX_STEPS: Final = 2400
CONTACT_BUFFER_SIZE: Final = 32  # a user's latest contacts, from whom contacts of contacts are drawn
CONVERSATION_BUFFER_SIZE: Final = 8  # the users of a user's latest messages, who are likely to get the next one
# Targets of a community's latest requests that are remembered: a draw among them is proportional to in-degree.
REQUEST_TARGET_BUFFER_SIZE: Final = 1024
ACTIVE_USER_BUFFER_SIZE: Final = 64  # a community's latest actors
MAX_DRAWS: Final = 3  # draws of a stranger among contacts of contacts, and as many again in a community
MAX_THREAD_LENGTH: Final = 50  # replies
NEWCOMER_DECAY_DAYS: Final = 3.0  # a newcomer's extra activity falls to 1/e in this many days


class _Network:
    """The users, the state they see of each other, and the pending events. User indices follow the order of joining."""

    def __init__(self, settings: SimulateSettings) -> None:
        self.settings = s = settings
        self.rng = np.random.Generator(np.random.PCG64(s.seed))
        self.begin, self.end = s.start + 1, s.start + 1 + max(10, round(s.days * DAY))
        self.join_times = self._draw_join_times()
        community_shares = self.rng.dirichlet(np.full(s.communities, 4.0))
        self.community = self.rng.choice(s.communities, s.users, p=community_shares).astype(np.int32)
        self.activity = self.rng.lognormal(0, s.activity_spread, s.users)
        self.last_active = self.join_times.copy()
        self.is_awake = np.ones(s.users, bool)  # in an active phase, not in a dormant one
        self.phase_ends = self.join_times + self._draw_phase_lengths(np.full(s.users, s.awake_days))

        self.members = np.argsort(self.community, kind="stable").astype(np.int32)  # by community, then by join time
        self.first_member = np.searchsorted(self.community[self.members], np.arange(s.communities))
        self.num_visible_members = np.zeros(s.communities, np.int64)  # per community, among the visible users
        self.num_visible_users = 0  # users who joined before this step, so that others can interact with them
        self.num_arrived = int(np.searchsorted(self.join_times, self.begin))  # users who join before this step ends

        self.contacts = RingBuffers(s.users, CONTACT_BUFFER_SIZE)
        self.conversations = RingBuffers(s.users, CONVERSATION_BUFFER_SIZE)
        self.request_targets = RingBuffers(s.communities, REQUEST_TARGET_BUFFER_SIZE)
        self.active_users = RingBuffers(s.communities, ACTIVE_USER_BUFFER_SIZE)
        self.approached_pairs = PairSet(s.users)  # pairs with a request, who get no further request or view
        founders = np.arange(self.num_arrived)
        first_action_times = self.begin + self.rng.random(len(founders)) * s.stay_days / 2 * DAY
        self.pending_events = make_batch(first_action_times, UNDECIDED, founders)
        self.past_events: list[EventBatch] = []  # a batch per step
        self.num_past_events = 0

    # -- time

    def run(self) -> EventBatch:
        """All events, in time order."""
        s = self.settings
        steps = int(np.clip(s.events // EVENTS_PER_STEP, 10, MAX_STEPS))
        activity_cdf = self._activity_cdf()
        edges = np.interp(np.arange(steps + 1) / steps, *activity_cdf).astype(np.int64)
        for step in range(steps):
            begin, end = int(edges[step]), int(edges[step + 1])
            self._add_newcomers(end)
            self._update_phases(begin)
            num_due = int((self.pending_events.time < end).sum())
            num_missing = round(s.events * (step + 1) / steps) - self.num_past_events - num_due
            times = np.interp((step + self.rng.random(max(0, num_missing))) / steps, *activity_cdf).astype(np.int64)
            self._run_step(self._draw_actors(begin, np.clip(times, begin, max(begin, end - 1))), end)
        self._add_missing_events(int(edges[-2]), self.end)
        events = concatenate(self.past_events)
        return events.select(np.argsort(events.time, kind="stable")[: s.events])

    def _activity_cdf(self) -> tuple[np.ndarray, np.ndarray]:
        """The cumulative distribution of event times: (float64[H + 1] shares from 0 to 1, float64[H + 1] UTC seconds).

        Hourly. The density is highest at 19:00 UTC, and grows with the number of users who joined lately.
        """
        s = self.settings
        hours = np.linspace(self.begin, self.end, max(100, round(s.days * 24)) + 1)
        middle = (hours[1:] + hours[:-1]) / 2
        first, last = (np.searchsorted(self.join_times, time) for time in (middle - s.stay_days * DAY, middle))
        num_recent = last - first
        evening = np.cos(2 * np.pi * (middle / DAY - 19 / 24))
        cumulative = np.concatenate([[0], np.cumsum((num_recent + 1) * (1 + s.daily_rhythm * evening + 1e-3))])
        return cumulative / cumulative[-1], hours

    def _run_step(self, actions: EventBatch, end: int) -> None:
        """Runs pending events and `actions` before `end`, their follow-ups before `end`, and so on.

        Follow-ups after `end` are added to the pending events. The state that users see changes at the end of the step.
        """
        is_due = self.pending_events.time < end
        later = [self.pending_events.select(~is_due)]
        batch, batches = concatenate([self.pending_events.select(is_due), actions]), []
        while len(batch.time):
            batch = self._without_repeated_requests(self._choose_targets(batch))
            batches.append(batch)
            follow_ups = self._follow_ups(batch, end)
            is_due = follow_ups.time < end
            later.append(follow_ups.select(~is_due & (follow_ups.time < self.end)))
            batch = follow_ups.select(is_due)
        self.pending_events = concatenate(later)
        if batches:
            self._update_state(concatenate(batches))

    def _add_missing_events(self, begin: int, end: int) -> None:
        """Adds the events that the steps did not reach, between `begin` and `end`."""
        s = self.settings
        for attempt in range(100):
            if self.num_past_events >= s.events:
                return
            if attempt == 10:  # a tiny network: no awake user has a possible target
                self.is_awake[:] = True
            times = self.rng.integers(begin, end, s.events - self.num_past_events)
            self._run_step(self._draw_actors(begin, times), end)
        raise SettingsError(
            f"with these settings {s.users} users make only {self.num_past_events} of {s.events} events. "
            "Simulate more users, or raise talking."
        )

    # -- users join, become active and become dormant

    def _draw_join_times(self) -> np.ndarray:
        """int64[users], UTC seconds, ascending."""
        s = self.settings
        founders = max(5, round(s.founders * s.users))
        before = self.rng.random(founders) * min(s.stay_days * DAY, s.start)
        after = self.rng.random(s.users - founders) * (self.end - self.begin)
        return np.sort(np.concatenate([s.start - before, s.start + after])).astype(np.int64)

    def _add_newcomers(self, end: int) -> None:
        """Adds users who join before `end`, with a first action and maybe a request; visible from the next step on."""
        s, rng = self.settings, self.rng
        newly_visible = self.community[self.num_visible_users : self.num_arrived]
        self.num_visible_members += np.bincount(newly_visible, minlength=s.communities)
        self.num_visible_users = self.num_arrived
        self.num_arrived = int(np.searchsorted(self.join_times, end))
        newcomers = np.arange(self.num_visible_users, self.num_arrived)
        if not len(newcomers):
            return
        action_times = self.join_times[newcomers] + self._draw_delays(8 * HOUR_IN_DAYS, 1.5, len(newcomers))
        first_actions = make_batch(action_times, UNDECIDED, newcomers)
        welcomed_users = newcomers[rng.random(len(newcomers)) < s.welcomed]
        welcoming_users = self.active_users.draw(self._draw_communities(welcomed_users), rng)
        welcome_times = self.join_times[welcomed_users] + self._draw_delays(HOUR_IN_DAYS, 1.5, len(welcomed_users))
        welcomes = make_batch(welcome_times, REQUEST, welcoming_users, welcomed_users)
        added = concatenate([first_actions, welcomes.select(welcoming_users >= 0)])
        self.pending_events = concatenate([self.pending_events, added.select(added.time < self.end)])

    def _update_phases(self, now: int) -> None:
        """Starts the next phase, active or dormant, of users whose phase is over. now: UTC second."""
        s = self.settings
        if s.dormant_days == 0:
            return
        users = np.flatnonzero(self.phase_ends[: self.num_visible_users] <= now)
        self.is_awake[users] = ~self.is_awake[users]
        mean_days = np.where(self.is_awake[users], s.awake_days, s.dormant_days)
        self.phase_ends[users] = now + self._draw_phase_lengths(mean_days)

    def _draw_actors(self, now: int, times: np.ndarray) -> EventBatch:
        """An undecided event of an awake user for each time, int64[n] UTC seconds.

        Users are drawn by activity, which is log-normal across users, higher for newcomers, and declines with age.
        """
        candidates = np.flatnonzero(self.is_awake[: self.num_visible_users])
        if not len(candidates):
            candidates = np.arange(self.num_visible_users)
        age = (now - self.join_times[candidates]) / DAY
        weight = (
            self.activity[candidates]
            * (1 + self.settings.eagerness * np.exp(-age / NEWCOMER_DECAY_DAYS))
            / (1 + (age / self.settings.stay_days) ** 2)
        )
        cumulative = np.cumsum(weight)
        index = np.searchsorted(cumulative, self.rng.random(len(times)) * cumulative[-1], side="right")
        return make_batch(times, UNDECIDED, candidates[np.minimum(index, len(candidates) - 1)])

    # -- targets

    def _choose_targets(self, events: EventBatch) -> EventBatch:
        """Makes each undecided event a message to a contact, or a view of or request to a stranger.

        Events without a possible target are left out.
        """
        s, rng = self.settings, self.rng
        undecided = np.flatnonzero(events.kind == UNDECIDED)
        if not len(undecided):
            return events
        actor = events.actor[undecided]
        message_draw, recent_draw = rng.random((2, len(undecided)))
        recent_contact = self.conversations.draw(actor, rng, recency_exponent=2)
        contact = np.where(recent_draw < 0.7, recent_contact, self.contacts.draw(actor, rng))
        is_message = (contact >= 0) & (message_draw < s.talking)
        stranger = np.full(len(undecided), -1)
        stranger[~is_message] = self._draw_strangers(actor[~is_message])
        approach = np.where(rng.random(len(undecided)) < s.viewed_first, VIEW, REQUEST)
        kind, target = events.kind.copy(), events.target.copy()
        kind[undecided] = np.where(stranger >= 0, approach, MESSAGE)
        target[undecided] = np.where(stranger >= 0, stranger, contact)
        return events._replace(kind=kind, target=target).select(target >= 0)

    def _draw_strangers(self, actor: np.ndarray) -> np.ndarray:
        """int64[n]: a user to approach for each actor, a contact's contact or a member of a community; -1 for none."""
        s, rng = self.settings, self.rng
        stranger = np.full(len(actor), -1)
        community, by_closure = self._draw_communities(actor), rng.random(len(actor)) < s.closure
        for attempt in range(2 * MAX_DRAWS):
            remaining = np.flatnonzero(stranger < 0)
            if not len(remaining):
                break
            remaining_actor = actor[remaining]
            contact_of_contact = self.contacts.draw(self.contacts.draw(remaining_actor, rng), rng)
            candidate = np.where(
                by_closure[remaining] & (contact_of_contact >= 0) & (attempt < MAX_DRAWS),
                contact_of_contact,
                self._draw_active_members(community[remaining]),
            )
            is_known = self.approached_pairs.contains(self.approached_pairs.keys(remaining_actor, candidate))
            is_possible = (candidate >= 0) & (candidate != remaining_actor) & ~is_known
            stranger[remaining[is_possible]] = candidate[is_possible]
        return stranger

    def _draw_communities(self, user: np.ndarray) -> np.ndarray:
        """int32[n]: the community in which each user looks for a stranger, their own or that of a random user."""
        random_user = self.rng.integers(0, max(1, self.num_visible_users), len(user))
        stays_home = self.rng.random(len(user)) < self.settings.homophily
        return self.community[np.where(stays_home, user, random_user)]

    def _draw_active_members(self, community: np.ndarray) -> np.ndarray:
        """int64[n]: a member of each community, the later active of two draws; -1 from an empty community."""
        first, second = (self._draw_members(community) for _ in range(2))
        takes_second = (first < 0) | (self.last_active[first] < self.last_active[second]) & (second >= 0)
        return np.where(takes_second, second, first)

    def _draw_members(self, community: np.ndarray) -> np.ndarray:
        """int64[n]: a member of each community, by requests received or uniformly; -1 from an empty community."""
        rng, num_members = self.rng, self.num_visible_members[community]
        row = self.first_member[community] + (num_members * rng.random(len(community))).astype(np.int64)
        uniform = np.where(num_members > 0, self.members[np.minimum(row, self.settings.users - 1)], -1)
        by_degree = self.request_targets.draw(community, rng)
        is_by_degree = (by_degree >= 0) & (rng.random(len(community)) < self.settings.attachment)
        return np.where(is_by_degree, by_degree, uniform)

    def _without_repeated_requests(self, events: EventBatch) -> EventBatch:
        """Drops requests to oneself, and requests between two users who had a request in either direction."""
        requests = np.flatnonzero(events.kind == REQUEST)
        actor, target = events.actor[requests], events.target[requests]
        keys = self.approached_pairs.keys(actor, target)
        is_first = np.zeros(len(requests), bool)
        is_first[np.unique(keys, return_index=True)[1]] = True
        is_valid = is_first & (actor != target) & ~self.approached_pairs.contains(keys)
        self.approached_pairs.add(keys[is_valid])
        keep = np.ones(len(events.time), bool)
        keep[requests] = is_valid
        return events.select(keep)

    # -- follow-ups

    def _follow_ups(self, events: EventBatch, end: int) -> EventBatch:
        """The events that a batch of events causes, each at least a second after its cause.

        A request may cause an accept, a block, and another user's request to the same target; a view a request; a
        message replies.
        """
        s, rng = self.settings, self.rng
        requests, views = events.select(events.kind == REQUEST), events.select(events.kind == VIEW)
        outcome, crowding_draw = rng.random((2, len(requests.time)))
        accepted, blocked = requests.select(outcome >= s.never_accepted), requests.select(outcome < s.blocked)
        accept_times = accepted.time + self._draw_delays(s.accept_days, s.accept_spread, len(accepted.time))
        # A block must be the last event of its pair, so it comes after all other events of this step.
        block_times = end + self._draw_delays(s.accept_days, 1.0, len(blocked.time))
        pursued_views = views.select(rng.random(len(views.time)) < s.requested_after_view)
        request_times = pursued_views.time + self._draw_delays(10 * MINUTE_IN_DAYS, 1.5, len(pursued_views.time))
        imitated = requests.select(crowding_draw < s.crowding)
        contact = self.contacts.draw(imitated.actor, rng)
        by_contact = (contact >= 0) & (rng.random(len(contact)) < s.closure)
        imitator = np.where(by_contact, contact, self.active_users.draw(self._draw_communities(imitated.target), rng))
        imitation_times = imitated.time + self._draw_delays(15 * MINUTE_IN_DAYS, 2.0, len(imitator))
        imitations = make_batch(imitation_times, REQUEST, imitator, imitated.target)
        follow_ups = [
            make_batch(accept_times, ACCEPT, accepted.target, accepted.actor),
            make_batch(block_times, BLOCK, blocked.target, blocked.actor),
            make_batch(request_times, REQUEST, pursued_views.actor, pursued_views.target),
            imitations.select(imitator >= 0),
            self._draw_replies(events.select(events.kind == MESSAGE)),
        ]
        return concatenate(follow_ups)

    def _draw_replies(self, opening: EventBatch) -> EventBatch:
        """The threads of replies to opening messages, in alternating directions, each minutes after the previous."""
        s, rng = self.settings, self.rng
        length = np.minimum(rng.geometric(1 - s.answered, len(opening.time)) - 1, MAX_THREAD_LENGTH)
        thread = np.repeat(np.arange(len(length)), length)
        position = np.arange(len(thread)) - np.repeat(np.cumsum(length) - length, length)
        elapsed = np.cumsum(self._draw_delays(s.answer_minutes * MINUTE_IN_DAYS, 1.5, len(thread)))
        elapsed_before = np.concatenate([[0], elapsed])[np.cumsum(length) - length]  # in all earlier threads
        to_opener = position % 2 == 0  # the first reply goes to the user who opened the thread
        opener, receiver = opening.actor[thread], opening.target[thread]
        time = opening.time[thread] + elapsed - elapsed_before[thread]
        return make_batch(time, REPLY, np.where(to_opener, receiver, opener), np.where(to_opener, opener, receiver))

    def _update_state(self, events: EventBatch) -> None:
        """Adds a step's events to the state that users see, and makes some of the dormant targets active."""
        s, rng = self.settings, self.rng
        events = events.select(np.argsort(events.time, kind="stable"))
        self.past_events.append(events)
        self.num_past_events += len(events.time)
        np.maximum.at(self.last_active, events.actor, events.time)
        self.active_users.push(self.community[events.actor], events.actor)
        requests, accepts = events.select(events.kind == REQUEST), events.select(events.kind == ACCEPT)
        self.request_targets.push(self.community[requests.target], requests.target)
        conversations = events.select(np.isin(events.kind, (ACCEPT, MESSAGE, REPLY)))
        for buffers, pairs in ((self.contacts, accepts), (self.conversations, conversations)):
            buffers.push(np.concatenate([pairs.actor, pairs.target]), np.concatenate([pairs.target, pairs.actor]))
        is_attentive = rng.random(len(events.time)) < s.attention
        waking = events.select(is_attentive & ~self.is_awake[events.target] & (events.kind != VIEW))
        self.is_awake[waking.target] = True
        self.phase_ends[waking.target] = waking.time + self._draw_phase_lengths(np.full(len(waking.time), s.awake_days))

    # -- durations

    def _draw_phase_lengths(self, mean_days: np.ndarray) -> np.ndarray:
        """int64[n], seconds, exponentially distributed. mean_days: float64[n]."""
        return (self.rng.standard_exponential(len(mean_days)) * mean_days * DAY).astype(np.int64)

    def _draw_delays(self, median_days: float, spread: float, size: int) -> np.ndarray:
        """int64[size], seconds, at least 1: log-normal, hence heavy-tailed. spread: deviation of the logarithm."""
        return 1 + (self.rng.lognormal(np.log(median_days * DAY), spread, size)).astype(np.int64)


def simulate(settings: SimulateSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(events, truth): exactly `settings.events` events in time order; the community and join time of every user.

    The join time precedes every event of the user. Founders join before the log begins. A few users have no event.
    """
    network = _Network(settings)
    events = network.run()
    ids = network.rng.choice(10 * settings.users, settings.users, replace=False) + 1  # independent of join times
    kind = np.where(events.kind == REPLY, MESSAGE, events.kind)
    log = pl.DataFrame(
        {
            ACTOR: ids[events.actor],
            ACTION: pl.Series(ACTIONS).gather(kind),
            TARGET: ids[events.target],
            TIMESTAMP: events.time,
        }
    )
    truth = pl.DataFrame({USER_ID: ids, COMMUNITY: network.community, JOINED: network.join_times}).sort(USER_ID)
    return log, truth


def write(settings: SimulateSettings, folder: Path) -> None:
    """Writes events.parquet and truth.parquet to `folder`; with texts, also texts.parquet and statements.parquet.

    Equal settings give equal bytes.
    """
    events, truth = simulate(settings)
    tables = {EVENTS_FILE: events, TRUTH_FILE: truth}
    if settings.texts:
        simulated = simulate_texts(settings, events, truth)
        tables |= {TRUTH_FILE: simulated.truth, TEXTS_FILE: simulated.texts, STATEMENTS_FILE: simulated.statements}
    for name, table in tables.items():
        with atomic(folder / name) as temporary:
            table.rechunk().write_parquet(
                temporary, compression="zstd", compression_level=9, statistics=False, row_group_size=1_000_000
            )
