"""Point-in-time features of users and of pairs of users: ages, counts and decayed sums of events before any cutoff.

The states of all users and pairs after each of their events are computed once, in O(M log M) in total. The features at
a cutoff are then a lookup of the state after the last event before it. They are the same in training and in serving,
and no event at or after the cutoff is read.

Terms:

cutoff         UTC second before which events are visible.
num_visible    Number of events before a cutoff. The log is in time order, so they are its first `num_visible` events.
age            Of an event at a cutoff: in seconds, or in events, the number of visible events since, with it included.
entry          Row of `features.histories`: one event in the history of one user. Every event has two, one of its actor
               and one of its target. Entries are ordered by user, then time.
neighbor       The other user of an entry (`Histories.other_user`).
incoming       An entry is incoming if its user was the target of the event (`Histories.received`), and outgoing if its
               user was the actor.
contact event  An event with an action that makes two users contacts, such as a message. Other events are signal events,
               such as a view, or exclude events, such as a block. An exclude event is no sign of interest: it is never
               the last incoming or outgoing event. It still has entries, and so can be the last entry.

Letters of shapes: M events, N users, Q pairs of users with an event; I, O, P half-lives of incoming, outgoing and pair
events; B, rows of a batch; C, columns; H, half-lives of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from befriend.data.event_log import DAY, HOUR, EventLog
from befriend.features.histories import Histories
from befriend.features.runs import Runs

INCOMING_HALF_LIVES = (HOUR, 6 * HOUR, DAY, 3 * DAY, 7 * DAY, 30 * DAY, 91 * DAY, 365 * DAY)
OUTGOING_HALF_LIVES = (6 * HOUR, 7 * DAY, 91 * DAY)
PAIR_HALF_LIVES = (HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY)
MAX_AGE_SECONDS = 100 * 365 * DAY  # age of a last event that never happened
NEVER = -(2**62)  # UTC second, and index in the log, of a last event that never happened: its age is the largest one
MIN_DECAYED_SUM = 0.01  # added to a decayed sum before its logarithm: smaller sums hardly differ from 0
# Columns of `Activity.user_last_events`: UTC second and index in the log of the user's last incoming event, the same of
# the last outgoing one, then the UTC seconds of the user's first entry and of this entry.
USER_IN_TIME, USER_IN_EVENT, USER_OUT_TIME, USER_OUT_EVENT, USER_FIRST_TIME, USER_ENTRY_TIME = range(6)
# Columns of `Activity.pair_last_events`: the same for the events of the pair, without the first entry.
PAIR_IN_TIME, PAIR_IN_EVENT, PAIR_OUT_TIME, PAIR_OUT_EVENT, PAIR_ENTRY_TIME = range(5)
# Columns of `Activity.pair_stats` with the logarithms of 1 + number of contact events: outgoing, then incoming.
PAIR_CONTACT_COUNTS = slice(3, 5)
PAIR_DECAYED_SUMS = slice(5, 5 + len(PAIR_HALF_LIVES))  # the columns after these, one for each half-life


@dataclass(frozen=True)
class Activity:
    """The states of users and pairs after each of the 2M entries of `Histories`, in the order of the entries.

    "Up to an entry" includes the entry itself.
    """

    histories: Histories
    user_last_events: Tensor
    """int64[2M + 1, 6]: columns USER_*, of the user's entries up to this one; the last row is for a user without
    entries"""
    user_stats: Tensor
    """float32[2M + 1, 5 + I + O], of the user's entries up to this one; the last row is for a user without entries.
    Columns: 1 if there is an entry, 1 if there is an incoming event, 1 if there is an outgoing event; logarithms of 1 +
    number of outgoing contact events, and of incoming ones; decayed sums of incoming contact events, one for each of
    INCOMING_HALF_LIVES, and of outgoing ones, one for each of OUTGOING_HALF_LIVES"""
    next_event_of_user: Tensor
    """int64[2M], the event of the user's next entry; M for the user's last entry"""
    next_event_of_pair: Tensor
    """int64[2M], the event of the user's next entry with the same neighbor; M for the last one"""
    pair_last_events: Tensor
    """int64[2M, 5]: columns PAIR_*, of the user's entries with this neighbor up to this one"""
    pair_stats: Tensor
    """float32[2M, 5 + P], of the user's entries with this neighbor up to this one. Columns: 1 if there is an incoming
    event, 1 if there is an outgoing event, 1 if this entry is incoming; logarithms of 1 + number of outgoing contact
    events, and of incoming ones; decayed sums of contact events in either direction, one for each of PAIR_HALF_LIVES"""
    pair_ids: Tensor
    """int64[Q], user * N + neighbor of every ordered pair with an event, ascending"""
    pair_event_key: Tensor
    """int64[2M], k * (M + 1) + event, ascending, for each entry; k is the index of the entry's pair in `pair_ids`"""
    pair_event_entry: Tensor
    """int64[2M], the entry of each `pair_event_key`"""
    actor_entry: Tensor
    """int64[M], the entry of each event in the history of its actor"""
    target_entry: Tensor
    """int64[M], the entry of each event in the history of its target"""

    @classmethod
    def of(cls, log: EventLog, histories: Histories) -> Self:
        """The states of a log. histories: of the same log, with received events."""
        m, n_entries = log.num_events, 2 * log.num_events
        user = np.repeat(np.arange(log.num_users), np.diff(histories.indptr.numpy()))
        neighbor, event = histories.other_user.numpy().astype(np.int64), histories.event.numpy()
        is_incoming = histories.received.numpy()
        timestamp = log.timestamp[event]
        is_interest, is_contact = ~log.is_exclude[event], log.is_contact[event]

        by_user = Runs(user)
        pair_order = np.argsort(user * log.num_users + neighbor, kind="stable")  # by pair, then time
        pair_id = (user * log.num_users + neighbor)[pair_order]
        by_pair = Runs(pair_id)
        pair_rank = _inverse(pair_order)  # the position of each entry in the order of pairs

        def in_entry_order(values: np.ndarray) -> np.ndarray:
            """values, which are in the order of pairs, in the order of the entries."""
            return values[pair_rank]

        entry_of_event = np.empty((2, m), np.int64)  # rows: in the history of the actor, of the target
        entry_of_event[is_incoming.astype(int), event] = np.arange(n_entries)
        by_direction = (~is_incoming & is_interest, is_incoming & is_interest)
        last = [by_pair.last(flag[pair_order]) for flag in by_direction]
        pair_last = [in_entry_order(np.where(k >= 0, pair_order[k], -1)) for k in last]  # last outgoing, last incoming
        contact_out, contact_in = (
            (is_contact & direction).astype(np.float32) for direction in (~is_incoming, is_incoming)
        )
        decayed = [by_user.decayed_sums(contact_in, timestamp, h) for h in INCOMING_HALF_LIVES]
        decayed += [by_user.decayed_sums(contact_out, timestamp, h) for h in OUTGOING_HALF_LIVES]
        pair_weight, pair_time = is_contact[pair_order].astype(np.float32), timestamp[pair_order]
        pair_decayed = [in_entry_order(by_pair.decayed_sums(pair_weight, pair_time, h)) for h in PAIR_HALF_LIVES]

        def time_and_event(*lasts: np.ndarray) -> list[np.ndarray]:
            """UTC second and event of each entry, NEVER for entry -1."""
            return [np.where(last >= 0, values[last], NEVER) for last in lasts for values in (timestamp, event)]

        last_in, last_out = by_user.last(is_incoming & is_interest), by_user.last(~is_incoming & is_interest)
        user_last_events = [*time_and_event(last_in, last_out), timestamp[by_user.start], timestamp]
        no_entry = np.array([[NEVER, NEVER, NEVER, NEVER, -NEVER, NEVER]])  # -NEVER: the age of the first entry is 0
        counts = _log1p(by_user.sums(contact_out), by_user.sums(contact_in))
        user_stats = np.stack([np.ones(n_entries), last_in >= 0, last_out >= 0, *counts, *decayed], 1, dtype=np.float32)
        pair_counts = _log1p(
            in_entry_order(by_pair.sums(contact_out[pair_order])),
            in_entry_order(by_pair.sums(contact_in[pair_order])),
        )
        pair_flags = [pair_last[1] >= 0, pair_last[0] >= 0, is_incoming]
        arrays = {
            "user_last_events": np.concatenate([np.stack(user_last_events, 1).astype(np.int64), no_entry]),
            "user_stats": np.pad(user_stats, ((0, 1), (0, 0))),
            "next_event_of_user": by_user.next_values(event, m),
            "next_event_of_pair": in_entry_order(by_pair.next_values(event[pair_order], m)),
            "pair_last_events": np.stack([*time_and_event(pair_last[1], pair_last[0]), timestamp], 1).astype(np.int64),
            "pair_stats": np.stack([*pair_flags, *pair_counts, *pair_decayed], 1, dtype=np.float32),
            "pair_ids": pair_id[by_pair.is_first],
            "pair_event_key": (by_pair.is_first.cumsum() - 1) * np.int64(m + 1) + event[pair_order],
            "pair_event_entry": pair_order,
            "actor_entry": entry_of_event[0],
            "target_entry": entry_of_event[1],
        }
        return cls(histories, **{name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()})

    def last_entries(self, users: Tensor, num_visible: Tensor) -> Tensor:
        """int64[...]: each user's last entry among the first `num_visible` events, -1 without one.

        users, num_visible: int64[...], broadcast against each other.
        """
        users, num_visible = torch.broadcast_tensors(users, num_visible)
        entry = self.histories.end_offsets(users, num_visible) - 1
        return torch.where(entry >= self.histories.indptr[users], entry, -1)

    def last_pair_entries(self, users: Tensor, other_users: Tensor, num_visible: Tensor) -> Tensor:
        """int64[...]: each user's last entry with one neighbor among the first `num_visible` events, -1 without one.

        users, other_users, num_visible: int64[...], broadcast against each other.
        """
        n, m = len(self.histories.indptr) - 1, len(self.histories.timestamp)
        pair_id = users * n + other_users
        index = torch.searchsorted(self.pair_ids, pair_id).clamp(max=len(self.pair_ids) - 1)
        has_events = self.pair_ids[index] == pair_id
        k = torch.searchsorted(self.pair_event_key, index * (m + 1) + num_visible) - 1
        has_visible = has_events & (k >= 0) & (self.pair_event_key[k] >= index * (m + 1))
        return torch.where(has_visible, self.pair_event_entry[k], -1)

    def last_outgoing_times(self, entry: Tensor) -> Tensor:
        """int64[...]: UTC second of the user's last outgoing event up to each entry; NEVER without one."""
        return self.user_last_events[entry, USER_OUT_TIME]

    def edge_types(self, entry: Tensor) -> Tensor:
        """int64[...]: 1 + 2 * action + direction of each entry, 0 for entry -1. direction: 1 if incoming, else 0."""
        h = self.histories
        edge_type = 1 + 2 * h.action[h.event[entry]].long() + h.received[entry]
        return torch.where(entry >= 0, edge_type, 0)

    def user_features(self, entry: Tensor, num_visible: Tensor, cutoff: Tensor) -> Tensor:
        """float32[..., NUM_USER_FEATURES]: features of users at a cutoff, from the state after the last visible entry.

        entry: int64[...], from `last_entries`; num_visible, cutoff: int64[...], broadcast against it. The docstring of
        NUM_USER_FEATURES lists the columns.
        """
        last_events, stats = self.user_last_events[entry], self.user_stats[entry]
        now = torch.stack(torch.broadcast_tensors(cutoff, num_visible, cutoff, num_visible, cutoff, cutoff), -1)
        age = now - last_events
        ages = _log_ages(age[..., :USER_ENTRY_TIME], now[..., :USER_ENTRY_TIME])
        last_incoming, last_outgoing, first_entry = ages.split([2, 2, 1], -1)
        has_entry, has_incoming, has_outgoing, counts, sums = stats.split([1, 1, 1, 2, len(_USER_HALF_LIVES)], -1)
        decayed = _log_decayed(sums, _USER_HALF_LIVES, age[..., USER_ENTRY_TIME])
        return torch.cat(
            [has_entry, last_incoming, has_incoming, last_outgoing, has_outgoing, first_entry, counts, decayed], -1
        )

    def pair_features(self, entry: Tensor, end: Tensor, num_visible: Tensor, cutoff: Tensor) -> Tensor:
        """float32[..., NUM_PAIR_FEATURES]: features of pairs at a cutoff, by the state after the last visible entry.

        entry: int64[...], from `last_pair_entries`, -1 for a pair without events, whose features are 0; end:
        int64[...], one past the user's last visible entry; num_visible, cutoff: int64[...]. All are broadcast against
        `entry`. The docstring of NUM_PAIR_FEATURES lists the columns.
        """
        has_history, row = entry >= 0, entry.clamp(min=0)
        last_events, stats = self.pair_last_events[row], self.pair_stats[row]
        now = torch.stack(torch.broadcast_tensors(cutoff, num_visible, cutoff, num_visible, cutoff), -1)
        age = now - last_events
        last_incoming, last_outgoing, last_entry = _log_ages(age, now).split([2, 2, 1], -1)
        has_incoming, has_outgoing, last_entry_was_incoming, counts, sums = stats.split(
            [1, 1, 1, 2, len(PAIR_HALF_LIVES)], -1
        )
        entries_since = (end - 1 - row).clamp(min=0).float().log1p()[..., None]
        decayed = _log_decayed(sums, PAIR_HALF_LIVES, age[..., PAIR_ENTRY_TIME])
        columns = (
            last_incoming,
            has_incoming,
            last_outgoing,
            has_outgoing,
            entries_since,
            last_entry,
            last_entry_was_incoming,
            counts,
            decayed,
        )
        return torch.cat(columns, -1) * has_history[..., None]

    def recent_distinct_entries(self, end: Tensor, users: Tensor, num_visible: Tensor, max_entries: int) -> Tensor:
        """int64[B, C]: the latest entry with each distinct neighbor among a user's last `max_entries` visible entries.

        The latest comes first. Rows are padded with -1, and C is the largest number of such entries of any user.
        end: int64[B], one past the user's last visible entry; users, num_visible: int64[B].
        """
        h = self.histories
        entry = end[:, None] + torch.arange(-max_entries, 0, device=end.device)
        in_history = entry >= h.indptr[users][:, None]
        is_latest = self.next_event_of_pair[entry.clamp(min=0)] >= num_visible[:, None]
        entry = torch.where(in_history & is_latest, entry, -1).sort(dim=1, descending=True).values
        return entry[:, : int((entry >= 0).sum(1).max()) if len(entry) else 0]

    def neighbors(self, entry: Tensor) -> Tensor:
        """int64[...]: the neighbor of each entry, 0 for entry -1."""
        return torch.where(entry >= 0, self.histories.other_user[entry.clamp(min=0)].long(), 0)

    def recent_users(self, num_visible: Tensor, num_events: int) -> tuple[Tensor, Tensor]:
        """The users of the last `num_events` visible events of the log.

        num_visible: int64[B]. Returns int64[B, 2 * num_events], the actors, latest event first, then the targets; and
        bool[B, 2 * num_events], which of them are valid. A user with several of these events is valid at the latest one
        only. Users are read from the histories: the neighbor of the target's entry is the actor, and the reverse.

        Four events in this order: 0 -> 1, 2 -> 1, 3 -> 0, 1 -> 2.

        >>> import polars as pl
        >>> actor, target = np.array([0, 2, 3, 1], np.int32), np.array([1, 1, 0, 2], np.int32)
        >>> zeros = np.zeros(4, np.uint8)  # one action, a contact
        >>> log = EventLog(actor, target, np.array([10, 20, 30, 40]), zeros, zeros, ("hi",), pl.Series(range(4)))
        >>> activity = Activity.of(log, Histories.of(log))

        In the first row, all four are visible. Among the last three, users 1 and 2 appear twice: they are valid in the
        last event, and not again in 2 -> 1. In the second row, only the first event is visible, so the columns of two
        more events are not valid.

        >>> users, is_valid = activity.recent_users(torch.tensor([4, 1]), num_events=3)
        >>> users.tolist()
        [[1, 3, 2, 2, 0, 1], [0, 0, 0, 1, 1, 1]]
        >>> is_valid.int().tolist()
        [[1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 0, 0]]
        """
        h = self.histories
        event = num_visible[:, None] - 1 - torch.arange(num_events, device=num_visible.device)
        has_event = event >= 0
        event = event.clamp(min=0)
        actor_entry, target_entry = self.actor_entry[event], self.target_entry[event]
        users = torch.cat([h.other_user[target_entry], h.other_user[actor_entry]], 1).long()  # actors, targets
        entry = torch.cat([actor_entry, target_entry], 1)
        return users, torch.cat([has_event, has_event], 1) & (self.next_event_of_user[entry] >= num_visible[:, None])

    def has_contact_event(self, entry: Tensor) -> Tensor:
        """bool[...]: whether the user and the neighbor of each entry had a contact event up to it; False for entry
        -1."""
        return (entry >= 0) & (self.pair_stats[entry.clamp(min=0), PAIR_CONTACT_COUNTS].sum(-1) > 0)

    def recent_neighbors(self, users: Tensor, end: Tensor, count: int) -> Tensor:
        """int64[..., count]: the neighbors of a user's last `count` entries before the entry `end`, oldest first.

        -1 where there are fewer. users, end: int64[...]; without entries, `end` is at most `histories.indptr[user]`.
        """
        h = self.histories
        entry = end[..., None] + torch.arange(-count, 0, device=end.device)
        in_history = entry >= h.indptr[users][..., None]
        return torch.where(in_history, h.other_user[torch.where(in_history, entry, 0)].long(), -1)


_USER_HALF_LIVES = (*INCOMING_HALF_LIVES, *OUTGOING_HALF_LIVES)
NUM_USER_FEATURES = 8 + 2 + len(_USER_HALF_LIVES)
"""number of columns of `Activity.user_features`. Ages, counts and sums are logarithms. Columns: 0, whether there is an
entry; 1-2, age of the last incoming event in seconds and in events; 3, whether there is one; 4-6, the same for outgoing
events; 7, age of the first entry in seconds; 8-9, numbers of outgoing and of incoming contact events; from 10, decayed
sums of incoming, then of outgoing contact events"""
NUM_PAIR_FEATURES = 9 + 2 + len(PAIR_HALF_LIVES)
"""number of columns of `Activity.pair_features`. Ages, counts and sums are logarithms. Columns: 0-1, age of the pair's
last incoming event in seconds and in events; 2, whether there is one; 3-5, the same for outgoing events; 6, number of
the user's entries since the last one with this neighbor; 7, age of that entry in seconds; 8, whether it was incoming;
9-10, numbers of outgoing and of incoming contact events; from 11, decayed sums of contact events in either direction"""


def _inverse(permutation: np.ndarray) -> np.ndarray:
    """int64: the position of each number in a permutation."""
    position = np.empty(len(permutation), np.int64)
    position[permutation] = np.arange(len(permutation))
    return position


def _log1p(*counts: np.ndarray) -> list[np.ndarray]:
    """Logarithms of 1 + count, by PyTorch like those of ages: NumPy's differ in the last bit, and so would features of
    models that are trained already."""
    return [torch.from_numpy(count).log1p().numpy() for count in counts]


def _log_ages(age: Tensor, now: Tensor) -> Tensor:
    """float32[..., 5]: logarithms of 1 + age.

    age: int64[..., 5], columns 1 and 3 in events, the others in seconds; now: int64[..., 5], the number of visible
    events in columns 1 and 3, the cutoff in the others. A last event that never happened (NEVER) gets the largest age:
    MAX_AGE_SECONDS, and in events the number of visible ones. The number of all events of the log would leak the
    future. A first entry that never happened (-NEVER) gets the age 0.
    """
    is_in_events = torch.tensor([False, True, False, True, False], device=age.device)
    return torch.minimum(age.clamp(min=0), torch.where(is_in_events, now, MAX_AGE_SECONDS)).float().log1p()


def _log_decayed(sums: Tensor, half_lives: tuple[int, ...], age: Tensor) -> Tensor:
    """float32[..., H]: logarithms of MIN_DECAYED_SUM + sums that have decayed for another `age` seconds.

    sums: float32[..., H], one for each half-life in seconds; age: int64[...].
    """
    rates = -np.log(2) / torch.tensor(half_lives, dtype=torch.float32, device=age.device)
    factor = (age.float()[..., None] * rates).clamp_(min=-80).exp_()  # smaller ones would be subnormal, and slow
    return factor.mul_(sums).add_(MIN_DECAYED_SUM).log_()
