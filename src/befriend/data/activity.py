"""What is known of every user, and of every pair of contacts, at any moment: ages, counts, fading sums.

The state after each entry of the histories is computed once, in O(M log M); what is known at a moment is then one
gather, whatever the moment, the same in training and in serving. Nothing at or after a moment is ever looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from befriend.data.histories import Histories
from befriend.data.log import EventLog

HOUR, DAY = 3600, 86_400
RECEIVED_HALF_LIVES = (HOUR, 6 * HOUR, DAY, 3 * DAY, 7 * DAY, 30 * DAY, 91 * DAY, 365 * DAY)
DONE_HALF_LIVES = (6 * HOUR, 7 * DAY, 91 * DAY)
PAIR_HALF_LIVES = (HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY)
LONGEST = 100 * 365 * DAY  # the age of what never happened,
NEVER = -(2**62)  # and when it did
FLOOR = 0.01  # below it, a faded sum counts as nothing


@dataclass(frozen=True)
class Activity:
    """States after each of the 2M entries of `Histories`, in the same order (user, then time)."""

    histories: Histories
    user_marks: Tensor
    """int64[2M + 1, 6]: second and event of the user's last event received up to this entry, the same of the last one
    done, the second of the first entry, the second of this one; in the last row those of somebody without an entry"""
    user_sums: Tensor
    """float32[2M + 1, 5 + R + D]: whether there is an entry, an event received, one done; the logarithms of 1 + contact
    events done and received up to this entry; those received and done, each halved every half-life since"""
    next_entry: Tensor
    """int64[2M], the event of the user's next entry; M behind the last"""
    next_with_other: Tensor
    """int64[2M], the event of the next entry with the same other user; M behind the last"""
    pair_marks: Tensor
    """int64[2M, 5]: second and event of the last event received from the entry's other user, the same of the last one
    done to them, the second of this entry"""
    pair_sums: Tensor
    """float32[2M, 5 + P]: whether there is one received, one done, whether this one was received; the logarithms of 1 +
    events done to and received from them; events with them in either direction, fading"""
    pair_labels: Tensor
    """int64[Q], user * N + other of every ordered pair that met, ascending"""
    pair_key: Tensor
    """int64[2M], place in pair_labels * (M + 1) + event, ascending"""
    pair_place: Tensor
    """int64[2M], the entry of each pair_key"""
    actor_place: Tensor
    """int64[M], the place of each event in its actor's history"""
    target_place: Tensor
    """int64[M], the place of each event in its target's history"""

    @classmethod
    def of(cls, log: EventLog, histories: Histories) -> Self:
        m, places = log.num_events, 2 * log.num_events
        user = np.repeat(np.arange(log.num_users), np.diff(histories.indptr.numpy()))
        other, event = histories.other.numpy().astype(np.int64), histories.event.numpy()
        received = histories.received.numpy()
        second = log.timestamp[event]
        sign = ~log.is_exclude[event]  # a block is no sign of interest
        contact = log.is_contact[event]

        by_user = _Segments(user)
        order = np.argsort(user * log.num_users + other, kind="stable")  # by pair, then time
        label = (user * log.num_users + other)[order]
        by_pair = _Segments(label)
        back = np.empty(places, np.int64)
        back[order] = np.arange(places)

        def of_pair(values: np.ndarray) -> np.ndarray:
            return values[back]

        place = np.empty((2, m), np.int64)
        place[received.astype(int), event] = np.arange(places)
        last = by_pair.last((~received & sign)[order]), by_pair.last((received & sign)[order])
        pair_last = [of_pair(np.where(k >= 0, order[k], -1)) for k in last]
        done, got = (contact & ~received).astype(np.float32), (contact & received).astype(np.float32)
        faded = [by_user.faded(got, second, h) for h in RECEIVED_HALF_LIVES]
        faded += [by_user.faded(done, second, h) for h in DONE_HALF_LIVES]
        pair_weight, pair_second = contact[order].astype(np.float32), second[order]
        pair_faded = [of_pair(by_pair.faded(pair_weight, pair_second, h)) for h in PAIR_HALF_LIVES]

        def marks(*lasts: np.ndarray) -> list[np.ndarray]:
            """Second and event of each, NEVER for -1."""
            return [np.where(last >= 0, of[last], NEVER) for last in lasts for of in (second, event)]

        def logs(*counts: np.ndarray) -> list[np.ndarray]:
            return [torch.from_numpy(count).log1p().numpy() for count in counts]  # PyTorch's, in one with those of ages

        got_last, done_last = by_user.last(received & sign), by_user.last(~received & sign)
        user_marks = [*marks(got_last, done_last), second[by_user.start], second]
        nobody = np.array([[NEVER, NEVER, NEVER, NEVER, -NEVER, NEVER]])
        counts = logs(by_user.sums(done), by_user.sums(got))
        user_sums = np.stack([np.ones(places), got_last >= 0, done_last >= 0, *counts, *faded], 1, dtype=np.float32)
        pair_counts = logs(of_pair(by_pair.sums(done[order])), of_pair(by_pair.sums(got[order])))
        pair_flags = [pair_last[1] >= 0, pair_last[0] >= 0, received]
        arrays = {
            "user_marks": np.concatenate([np.stack(user_marks, 1).astype(np.int64), nobody]),
            "user_sums": np.pad(user_sums, ((0, 1), (0, 0))),
            "next_entry": by_user.following(event, m),
            "next_with_other": of_pair(by_pair.following(event[order], m)),
            "pair_marks": np.stack([*marks(pair_last[1], pair_last[0]), second], 1).astype(np.int64),
            "pair_sums": np.stack([*pair_flags, *pair_counts, *pair_faded], 1, dtype=np.float32),
            "pair_labels": label[by_pair.fresh],
            "pair_key": (by_pair.fresh.cumsum() - 1) * np.int64(m + 1) + event[order],
            "pair_place": order,
            "actor_place": place[0],
            "target_place": place[1],
        }
        return cls(histories, **{name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()})

    def places(self, users: Tensor, visible: Tensor) -> Tensor:
        """int64[...]: each user's last entry among the first `visible` events, -1 without one.

        users, visible: int64[...], broadcast against each other.
        """
        users, visible = torch.broadcast_tensors(users, visible)
        place = self.histories.ends(users, visible) - 1
        return torch.where(place >= self.histories.indptr[users], place, -1)

    def pair_places(self, users: Tensor, others: Tensor, visible: Tensor) -> Tensor:
        """int64[...]: a user's last entry with one other user among the first `visible` events, -1 without one."""
        n, m = len(self.histories.indptr) - 1, len(self.histories.timestamp)
        label = users * n + others
        rank = torch.searchsorted(self.pair_labels, label).clamp(max=len(self.pair_labels) - 1)
        met = self.pair_labels[rank] == label
        k = torch.searchsorted(self.pair_key, rank * (m + 1) + visible) - 1
        before = met & (k >= 0) & (self.pair_key[k] >= rank * (m + 1))
        return torch.where(before, self.pair_place[k], -1)

    def kinds(self, place: Tensor) -> Tensor:
        """int64[...]: 0 without an entry, else 1 + 2 * action + received of the entry."""
        h = self.histories
        kind = 1 + 2 * h.action[h.event[place]].long() + h.received[place]
        return torch.where(place >= 0, kind, 0)

    def user_features(self, place: Tensor, visible: Tensor, horizon: Tensor) -> Tensor:
        """float32[..., USER_FEATURES]: what a user's history up to an entry tells at the second `horizon`.

        place: int64[...], from `places`; visible, horizon: int64[...], broadcast against it.
        """
        marks, sums = self.user_marks[place], self.user_sums[place]
        now = torch.stack(torch.broadcast_tensors(horizon, visible, horizon, visible, horizon, horizon), -1)
        age = now - marks
        received, done, joined = _logs(age[..., :5], now[..., :5]).split([2, 2, 1], -1)
        there, ever_received, ever_done, counts, fading = sums.split([1, 1, 1, 2, len(_FADING)], -1)
        faded = _fade(fading, _FADING, age[..., 5])
        return torch.cat([there, received, ever_received, done, ever_done, joined, counts, faded], -1)

    def pair_features(self, place: Tensor, end: Tensor, visible: Tensor, horizon: Tensor) -> Tensor:
        """float32[..., PAIR_FEATURES]: what is known of a user and the other of an entry, their latest.

        place: int64[...], places of entries that are the latest with their other user among the first `visible`
        events, -1 for pairs that never met, whose features are 0; end: int64[...], one past the user's last visible
        place; visible, horizon: int64[...]. Broadcast against place.
        """
        met, at = place >= 0, place.clamp(min=0)
        marks, sums = self.pair_marks[at], self.pair_sums[at]
        now = torch.stack(torch.broadcast_tensors(horizon, visible, horizon, visible, horizon), -1)
        age = now - marks
        received, done, own = _logs(age, now).split([2, 2, 1], -1)
        ever_received, ever_done, this_received, counts, fading = sums.split([1, 1, 1, 2, len(PAIR_HALF_LIVES)], -1)
        between = (end - 1 - at).clamp(min=0).float().log1p()[..., None]
        faded = _fade(fading, PAIR_HALF_LIVES, age[..., 4])
        told = (received, ever_received, done, ever_done, between, own, this_received, counts, faded)
        return torch.cat(told, -1) * met[..., None]

    def contacts(self, end: Tensor, users: Tensor, visible: Tensor, entries: int) -> Tensor:
        """Places of the latest entry with each distinct other user among a user's last `entries` visible ones.

        end, users, visible: int64[B]. Returns int64[B, C], the latest first, -1 behind the last; C is as small as can
        be.
        """
        h = self.histories
        place = end[:, None] + torch.arange(-entries, 0, device=end.device)
        known = place >= h.indptr[users][:, None]
        latest = self.next_with_other[place.clamp(min=0)] >= visible[:, None]
        place = torch.where(known & latest, place, -1).sort(dim=1, descending=True).values
        return place[:, : int((place >= 0).sum(1).max()) if len(place) else 0]

    def others(self, place: Tensor) -> Tensor:
        """int64[...]: the other user of each entry, 0 for place -1."""
        return torch.where(place >= 0, self.histories.other[place.clamp(min=0)].long(), 0)

    def latest(self, visible: Tensor, events: int) -> tuple[Tensor, Tensor]:
        """Users of the last `events` events before each moment, each user once.

        visible: int64[B]. Returns int64[B, 2 * events] (users) and bool[B, 2 * events] (which of them count).
        """
        h = self.histories
        event = visible[:, None] - 1 - torch.arange(events, device=visible.device)
        real = event >= 0
        event = event.clamp(min=0)
        actor_place, target_place = self.actor_place[event], self.target_place[event]
        users = torch.cat([h.other[target_place], h.other[actor_place]], 1).long()  # the other of the other is oneself
        places = torch.cat([actor_place, target_place], 1)
        return users, torch.cat([real, real], 1) & (self.next_entry[places] >= visible[:, None])

    def in_contact(self, place: Tensor) -> Tensor:
        """bool[...]: whether the two of each entry have been in contact by then; False for place -1."""
        return (place >= 0) & (self.pair_sums[place.clamp(min=0), 3:5].sum(-1) > 0)

    def partners(self, users: Tensor, end: Tensor, count: int) -> Tensor:
        """int64[..., count]: the other users of the last entries before a place, -1 where there are fewer.

        users, end: int64[...]; a user without entries may have any end.
        """
        h = self.histories
        place = end[..., None] + torch.arange(-count, 0, device=end.device)
        known = place >= h.indptr[users][..., None]
        return torch.where(known, h.other[torch.where(known, place, 0)].long(), -1)


_FADING = (*RECEIVED_HALF_LIVES, *DONE_HALF_LIVES)
USER_FEATURES = 8 + 2 + len(_FADING)
PAIR_FEATURES = 9 + 2 + len(PAIR_HALF_LIVES)


def _logs(age: Tensor, now: Tensor) -> Tensor:
    """float32[..., 5]: logarithms of 1 + ages, int64, of which the second and fourth count events.

    What never happened is as old as LONGEST, and as the first event of those before the moment: how many come later
    must not be known. now: int64[..., 5], the second or the number of visible events.
    """
    of_events = torch.tensor([False, True, False, True, False], device=age.device)
    return torch.minimum(age.clamp(min=0), torch.where(of_events, now, LONGEST)).float().log1p()


def _fade(sums: Tensor, half_lives: tuple[int, ...], age: Tensor) -> Tensor:
    """float32[..., H]: logarithms of sums after some seconds, int64[...], at least that of FLOOR."""
    rates = -np.log(2) / torch.tensor(half_lives, dtype=torch.float32, device=age.device)
    left = (age.float()[..., None] * rates).clamp_(min=-80).exp_()  # what is less still would be a subnormal, and slow
    return left.mul_(sums).add_(FLOOR).log_()


class _Segments:
    """Runs of equal labels in an array, and what accumulates inside each."""

    def __init__(self, label: np.ndarray):
        self.fresh = np.ones(len(label), bool)
        self.fresh[1:] = label[1:] != label[:-1]
        starts = np.flatnonzero(self.fresh)
        self.start = starts[self.fresh.cumsum() - 1] if len(label) else starts
        self.longest = int(np.diff(starts, append=len(label)).max(initial=0))

    def last(self, flag: np.ndarray) -> np.ndarray:
        """int64: the last place up to this one, in its run, where the flag is up; -1 without one."""
        place = np.maximum.accumulate(np.where(flag, np.arange(len(flag)), -1))
        return np.where(place >= self.start, place, -1)

    def sums(self, weight: np.ndarray) -> np.ndarray:
        """float32: the running sum of the weights in the run, this place included."""
        total = np.concatenate([[0.0], np.cumsum(weight, dtype=np.float64)])
        return (total[1:] - total[self.start]).astype(np.float32)

    def following(self, value: np.ndarray, none: int) -> np.ndarray:
        """int64: the value of the next place in the run."""
        out = np.full(len(value), none, np.int64)
        inside = ~self.fresh[1:]
        out[:-1][inside] = value[1:][inside]
        return out

    def faded(self, weight: np.ndarray, second: np.ndarray, half_life: int) -> np.ndarray:
        """float32: s_k = s_(k-1) * 2 ** -((t_k - t_(k-1)) / half_life) + w_k in each run.

        A linear recurrence by recursive doubling (Hillis and Steele 1986): log2(longest run) passes.
        """
        total = weight.astype(np.float32).copy()
        keep = np.zeros(len(weight), np.float32)
        keep[1:] = np.exp2(-np.diff(second).clip(min=0) / half_life)  # below 0 only where a new run begins
        keep[self.fresh] = 0
        step = 1
        while step < self.longest:
            total[step:] += keep[step:] * total[:-step]
            keep[step:] = keep[step:] * keep[:-step]
            keep[:step] = 0
            step *= 2
        return total
