"""EASE on the contacts of users: a linear autoencoder in closed form (Steck 2019), as a baseline.

Who has contacts X gets the scores X B, where B predicts each column of the matrix of all users' contacts from the other
columns, with ridge regularisation. X is symmetric, the logarithm of 1 + the number of contact events of two users in
either direction, among the users with the most of them. B is fitted again whenever the log has grown by a twentieth;
the contacts of the requesting user are always those of the cutoff.

Shapes: N users; K of them who are rows and columns of X; n contacts of a user.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np

from befriend.data.event_log import EventLog

REGULARISATION = 500.0
"""weight of the ridge penalty, chosen on validation parts"""
MAX_COLUMNS = 2000
"""K at most: the fit inverts a matrix of K x K"""
GROWTH = 1.05  # from one fit to the next, in events
MIN_EVENTS = 64  # of the first fit
MAX_FITS = 4  # kept in memory


@dataclass(frozen=True)
class EaseFit:
    """Weights that were fitted to the events before a point of the log."""

    users: np.ndarray
    """int64[K], the users who are columns, ascending"""
    weights: np.ndarray
    """float32[K, K], B: from the column of a contact to the columns of users to recommend"""

    def scores(self, contacts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """float64[K]: the scores of `users`. contacts: int64[n], internal ids; counts: int64[n], of contact events."""
        column = np.searchsorted(self.users, contacts).clip(max=max(len(self.users) - 1, 0))
        known = self.users[column] == contacts if len(self.users) else np.zeros(len(contacts), bool)
        return (np.log1p(counts[known])[:, None] * self.weights[column[known]].astype(np.float64)).sum(0)


class Ease:
    """The fits of a log, as of any number of visible events. Threads may share it."""

    def __init__(self, log: EventLog):
        self.num_users, self.contact_event = log.num_users, np.flatnonzero(log.is_contact)
        self.actor, self.target = (x[self.contact_event].astype(np.int64) for x in (log.actor, log.target))
        self._fits: OrderedDict[int, EaseFit] = OrderedDict()
        self._lock = Lock()

    def as_of(self, num_visible: int) -> EaseFit:
        """The last fit before `num_visible` events, which depends on none of the later ones."""
        steps = int(np.log(max(num_visible, MIN_EVENTS) / MIN_EVENTS) / np.log(GROWTH))
        point = min(num_visible, int(MIN_EVENTS * GROWTH**steps))
        with self._lock:
            if point not in self._fits:
                self._fits[point] = self._fit(int(np.searchsorted(self.contact_event, point)))
                if len(self._fits) > MAX_FITS:
                    self._fits.popitem(last=False)
            return self._fits[point]

    def _fit(self, num_contact_events: int) -> EaseFit:
        actor, target = self.actor[:num_contact_events], self.target[:num_contact_events]
        events = np.bincount(actor, minlength=self.num_users) + np.bincount(target, minlength=self.num_users)
        users = np.lexsort((np.arange(self.num_users), -events))[:MAX_COLUMNS]
        users = np.sort(users[events[users] > 0])
        column, k = np.full(self.num_users, -1), len(users)
        column[users] = np.arange(k)
        is_between = (column[actor] >= 0) & (column[target] >= 0)
        pair = column[actor[is_between]] * k + column[target[is_between]]
        counts = np.bincount(pair, minlength=k * k).reshape(k, k)
        matrix = np.log1p(counts + counts.T)
        inverse = np.linalg.inv(matrix @ matrix + REGULARISATION * np.eye(k))
        weights = inverse / -np.diag(inverse)
        weights[np.diag_indices(k)] = 0
        return EaseFit(users, weights.astype(np.float32))
