"""Two-hop neighbors: the users with whom a user has contacts in common, scored by contacts that decay.

A contact event, such as a message, makes two users contacts. The weight of a contact is its number of contact events in
either direction, each halved every half-life. With c the weights and s their sums by user, both as of the cutoff, the
features of users u and v are sums over their common contacts w:

    decayed Adamic-Adar   of log(1 + c(u, w)) log(1 + c(w, v)) / log(2 + s(w)), for each of TWO_HOP_HALF_LIVES
    common contacts       of 1: their number
    Adamic-Adar           of 1 / log(number of contacts of w) (Adamic and Adar 2003)
    resource allocation   of 1 / number of contacts of w (Zhou, Lü and Zhang 2009)

They count walks of two steps between u and v. Nothing is learned per user, so they are there from a user's first event
on. They are exact, and computed from the states of `Activity` as of any cutoff, the UTC second before which events are
visible. Only the latest TWO_HOP_ENTRIES entries of u, and of each w, are searched for contacts. So the work for a user
does not grow with the log; older contacts have decayed.

Shapes: B users u; n pairs of one of them and a two-hop neighbor; M events of the log; N users; H half-lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from befriend.data.event_log import DAY, EventLog
from befriend.features.activity import PAIR_DECAYED_SUMS, PAIR_HALF_LIVES, Activity
from befriend.features.runs import Runs

TWO_HOP_HALF_LIVES = (DAY, 7 * DAY, 30 * DAY, 365 * DAY)
MIN_FEATURE = 1e-3  # a smaller feature hardly differs from none
TWO_HOP_ENTRIES = 128
"""number of a user's latest entries that are searched for contacts"""
DECAYED_ADAMIC_ADAR = slice(0, len(TWO_HOP_HALF_LIVES))
COMMON_CONTACTS, ADAMIC_ADAR, RESOURCE_ALLOCATION = range(DECAYED_ADAMIC_ADAR.stop, DECAYED_ADAMIC_ADAR.stop + 3)
NUM_TWO_HOP_FEATURES = RESOURCE_ALLOCATION + 1
"""number of features of a two-hop neighbor: the columns DECAYED_ADAMIC_ADAR, one for each half-life, then
COMMON_CONTACTS, ADAMIC_ADAR and RESOURCE_ALLOCATION"""


@dataclass(frozen=True)
class TwoHopNeighbors:
    """The two-hop neighbors of B users, with their features. Contacts can be two-hop neighbors as well."""

    num_rows: int
    """B"""
    num_users: int
    """N"""
    key: Tensor
    """int64[n], b * N + neighbor of each pair, ascending; b: row of the user, from 0 to B - 1"""
    features: Tensor
    """float32[n, NUM_TWO_HOP_FEATURES], all 0 or more"""

    @property
    def row(self) -> Tensor:
        """int64[n]: the row of the user of each pair."""
        return torch.div(self.key, self.num_users, rounding_mode="floor")

    @property
    def neighbor(self) -> Tensor:
        """int64[n]: the neighbor of each pair."""
        return self.key % self.num_users

    def features_of(self, row: Tensor, user: Tensor) -> Tensor:
        """float32[..., NUM_TWO_HOP_FEATURES]: features of any user with the user in a row; 0 for no two-hop neighbor.

        row, user: int64[...], broadcast against each other.
        """
        index = self.index_of(row, user)
        if not len(self.key):
            return self.features.new_zeros(*index.shape, NUM_TWO_HOP_FEATURES)
        return self.features[index] * (index >= 0)[..., None]

    def index_of(self, row: Tensor, user: Tensor) -> Tensor:
        """int64[...]: the pair of the user in a row and another user, from 0 to n - 1; -1 if they are no neighbors.

        row, user: int64[...], broadcast against each other.
        """
        key = row * self.num_users + user
        if not len(self.key):
            return torch.full_like(key, -1)
        index = torch.searchsorted(self.key, key).clamp(max=len(self.key) - 1)
        return torch.where(self.key[index] == key, index, -1)

    def closest(self, k: int, rows: Tensor, users: Tensor) -> Tensor:
        """int64[B, K]: the k neighbors of each user with the best decayed Adamic-Adar, summed over half-lives.

        Ties go to the smaller id; padded with -1. K is the largest number of neighbors that a user has, at most k.
        rows, users: int64[m], pairs to leave out.
        """
        scores = self.features[:, DECAYED_ADAMIC_ADAR].sum(1)
        index = self.index_of(rows, users)
        scores[index[index >= 0]] = -torch.inf
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] > -torch.inf]
        row = self.row[order]
        order, row = order[by_row := row.argsort(stable=True)], row[by_row]
        rank = torch.arange(len(order)) - torch.searchsorted(row, row)
        width = min(k, int(rank.max()) + 1) if len(rank) else 0
        result, is_best = torch.full((self.num_rows, width), -1), rank < k
        result[row[is_best], rank[is_best]] = self.neighbor[order[is_best]]
        return result


def log_features(features: Tensor) -> Tensor:
    """float32[..., NUM_TWO_HOP_FEATURES]: logarithms of 1 + features / MIN_FEATURE, for models.

    Features of contacts that have almost decayed span many orders of magnitude.
    """
    return (features / MIN_FEATURE).log1p()


@dataclass(frozen=True)
class TwoHop:
    """Finds two-hop neighbors: the sums of a user's contacts after each of the 2M entries of the histories."""

    activity: Activity
    next_contact: Tensor
    """int32[2M], the event of the next entry with the same neighbor, M without one; -1 if the two are no contacts"""
    entry_time: Tensor
    """int64[2M], UTC second"""
    contact_weight: Tensor
    """float32[2M, H], weight of the contact of user and neighbor, as of the entry"""
    user_weight: Tensor
    """float32[2M, H], sum of the weights of all contacts of the user, as of the entry"""
    num_contacts: Tensor
    """float32[2M], number of contacts of the user, as of the entry"""

    @classmethod
    def of(cls, log: EventLog, activity: Activity) -> Self:
        histories, sums = activity.histories, activity.pair_stats[:, PAIR_DECAYED_SUMS]
        event = histories.event.numpy()
        timestamp, is_contact_event = log.timestamp[event], log.is_contact[event].astype(np.float32)
        by_user = Runs(np.repeat(np.arange(log.num_users), np.diff(histories.indptr.numpy())))
        user_weight = [by_user.decayed_sums(is_contact_event, timestamp, h) for h in TWO_HOP_HALF_LIVES]
        is_contact = activity.has_contact_event(torch.arange(len(event)))
        # In the order of pairs, then time: a pair becomes contacts at its first entry with a contact event.
        pair = activity.pair_event_key // (log.num_events + 1)
        is_first = is_contact[activity.pair_event_entry]
        is_first[1:] &= ~(is_first[:-1] & (pair[1:] == pair[:-1]))
        first_contacts = np.zeros(len(event), np.float32)
        first_contacts[activity.pair_event_entry[is_first].numpy()] = 1
        return cls(
            activity,
            torch.where(is_contact, activity.next_event_of_pair, -1).int(),
            torch.from_numpy(timestamp),
            sums[:, [PAIR_HALF_LIVES.index(half_life) for half_life in TWO_HOP_HALF_LIVES]],
            torch.from_numpy(np.stack(user_weight, 1)),
            torch.from_numpy(by_user.sums(first_contacts)),
        )

    def neighbors(self, users: Tensor, num_visible: Tensor, cutoff: Tensor) -> TwoHopNeighbors:
        """The two-hop neighbors of B users, each as of a cutoff of its own.

        users, num_visible, cutoff: int64[B]; internal ids, N for a user who is not in the log, who has none. The result
        of a user does not depend on the other users of the batch.
        """
        num_users = len(self.activity.histories.indptr) - 1
        row, contact, weight = self.contacts(users, num_visible, cutoff)
        step, neighbor, next_weight = self.contacts(contact, num_visible[row], cutoff[row])
        degree, contact_sum = self.sums(contact, num_visible[row], cutoff[row])
        damped = weight.log1p_().div_((2 + contact_sum).log_())
        adamic_adar = torch.where(degree > 1, 1 / degree.clamp(min=2).log(), 0)
        undecayed = torch.stack([torch.ones_like(degree), adamic_adar, 1 / degree])
        start = row.index_select(0, step)
        key, index = (start * num_users + neighbor).unique(return_inverse=True)
        decayed = damped.index_select(0, step).mul_(next_weight.log1p_()).T.contiguous()
        terms = torch.cat([decayed, undecayed.index_select(1, step)]).numpy()
        # Sums in double precision and in the order of the log, so that they do not depend on other rows.
        sums = np.stack(
            [np.bincount(index.numpy(), term, len(key)) for term in terms], 1, dtype=np.float32, casting="same_kind"
        )
        is_other = key % num_users != users[key // num_users]
        return TwoHopNeighbors(len(users), num_users, key[is_other], torch.from_numpy(sums)[is_other])

    def contacts(self, users: Tensor, num_visible: Tensor, cutoff: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The contacts among the latest TWO_HOP_ENTRIES visible entries of B users, in the order of rows.

        users, num_visible, cutoff: int64[B]. Returns row of the user and contact, int64[n] each, and the weights of the
        contacts as of the cutoff, float32[n, H].
        """
        histories = self.activity.histories
        end = histories.end_offsets(users, num_visible)
        start = torch.maximum(histories.indptr[users], end - TWO_HOP_ENTRIES)
        size = end - start
        row = torch.repeat_interleave(size)
        entry = torch.arange(len(row)) + (start - size.cumsum(0) + size).index_select(0, row)
        is_latest = self.next_contact.index_select(0, entry) >= num_visible.index_select(0, row)
        row, entry = row[is_latest], entry[is_latest]
        contact = histories.other_user.index_select(0, entry).long()
        return row, contact, self._decayed(self.contact_weight, entry, cutoff.index_select(0, row))

    def sums(self, users: Tensor, num_visible: Tensor, cutoff: Tensor) -> tuple[Tensor, Tensor]:
        """Number of contacts, float32[B], and sum of their weights as of the cutoff, float32[B, H], of users with one.

        users, num_visible, cutoff: int64[B].
        """
        last = self.activity.histories.end_offsets(users, num_visible) - 1
        return self.num_contacts[last], self._decayed(self.user_weight, last, cutoff)

    def _decayed(self, weights: Tensor, entry: Tensor, cutoff: Tensor) -> Tensor:
        """float32[n, H]: weights as of entries, decayed until a cutoff. entry, cutoff: int64[n]."""
        age = (cutoff - self.entry_time.index_select(0, entry)).float()[:, None]
        rates = torch.tensor([-np.log(2) / half_life for half_life in TWO_HOP_HALF_LIVES], dtype=torch.float32)
        # Below the limit, products of two weights would be subnormal, and slow.
        return (age * rates).clamp_(min=-30).exp_().mul_(weights.index_select(0, entry))
