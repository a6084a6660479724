"""Looks up facts about a user and a candidate as of a cutoff, from which reasons for a recommendation are made.

Event facts come from the histories of the two users, never from a scan of the whole log.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import torch

from befriend.data.attributes import Attributes
from befriend.data.columns import STATEMENT, TEXT, TIMESTAMP, USER
from befriend.data.contracts import STATEMENTS, TEXTS, read_table
from befriend.data.event_log import STATEMENTS_FILE, TEXTS_FILE
from befriend.features.feature_view import FeatureView
from befriend.retrieval.requests import RequestBuilder

WORD = re.compile(r"[^\W\d_]{4,}")
COMMON_WORDS = 0.01  # share of writers: a word that more of them use is common, and says nothing about two users
MOST_USERS = 2  # a word that at most so many users wrote is never common
SAMPLED_TEXTS = 20_000  # texts from which common words are counted


@dataclass(frozen=True)
class PairHistory:
    """What happened between a user and a candidate before the cutoff."""

    done: int
    """number of contact events from the user to the candidate"""
    received: int
    """number of contact events from the candidate to the user"""
    last: int
    """UTC second of the last contact event, or of the last signal event where there is no contact event"""
    signal: str | None
    """the action of the last signal event between the two, where they have not been in contact"""
    from_person: bool
    """whether that last event came from the candidate"""


class EvidenceFinder:
    """Looks up facts in a log, its texts and its attributes. All users are given by internal ids."""

    def __init__(self, feature_view: FeatureView, attributes: Attributes, prepared: Path):
        """prepared: the folder with texts.parquet and statements.parquet, with the internal ids of the log."""
        self.feature_view, self.attributes, self.prepared = feature_view, attributes, prepared
        self.log, histories = feature_view.log, feature_view.activity.histories
        self.histories = histories
        self.other, self.event = histories.other.numpy(), histories.event.numpy()
        self.received = histories.received.numpy()
        self.builder = RequestBuilder(self.log, histories)
        self.contacts = lru_cache(maxsize=20_000)(self._contacts)

    def _contacts(self, user: int, num_visible: int) -> np.ndarray:
        """int64: a user's contacts, without those on the other side of an exclude event."""
        entries = self.histories.entries_of(user, num_visible)
        blocked = self.other[entries][self.log.is_exclude[self.event[entries]]]
        return np.setdiff1d(self.builder.contacts(user, num_visible), blocked)

    def between(self, user: int, candidate: int, num_visible: int) -> PairHistory | None:
        """What happened between the two, exclude events apart; None where nothing did."""
        entries = self.histories.entries_of(user, num_visible)
        of_pair = (self.other[entries] == candidate) & ~self.log.is_exclude[self.event[entries]]
        if not of_pair.any():
            return None
        event, received = self.event[entries][of_pair], self.received[entries][of_pair]
        contact = self.log.is_contact[event]
        counted = event[contact] if contact.any() else event
        last = int(np.flatnonzero(event == counted[-1])[0])
        signal = None if contact.any() else self.log.actions[self.log.action[counted[-1]]]
        num_done, num_received = int((contact & ~received).sum()), int((contact & received).sum())
        return PairHistory(num_done, num_received, int(self.log.timestamp[counted[-1]]), signal, bool(received[last]))

    def common(self, user: int, candidate: int, num_visible: int) -> list[int]:
        """Contacts that both have, in the order of the user's last contact with them, latest first."""
        shared = np.intersect1d(
            self.contacts(user, num_visible), self.contacts(candidate, num_visible), assume_unique=True
        )
        if not len(shared):
            return []
        entries = self.histories.entries_of(user, num_visible)
        contact = self.log.is_contact[self.event[entries]]
        latest_first = self.other[entries][contact][::-1]
        users, first_index = np.unique(latest_first, return_index=True)
        recency = first_index[np.searchsorted(users, shared)]
        return shared[np.argsort(recency, kind="stable")].tolist()

    def bridge(self, contact: int, candidate: int, user: int, num_visible: int) -> int:
        """How many users are in contact with both a contact of the user and the candidate; the user does not count."""
        if contact == candidate:
            return 0
        shared = np.intersect1d(
            self.contacts(contact, num_visible), self.contacts(candidate, num_visible), assume_unique=True
        )
        return int((shared != user).sum())

    def askers(self, candidate: int, user: int, num_visible: int, since: int) -> tuple[int, int]:
        """How many users contacted the candidate since a UTC second, and the UTC second of the last time.

        The requesting user does not count. 0, 0 where nobody did.
        """
        entries = self.histories.entries_of(candidate, num_visible)
        event, other = self.event[entries], self.other[entries]
        asks = self.received[entries] & self.log.is_contact[event] & (self.log.timestamp[event] >= since)
        asks &= other != user
        return len(np.unique(other[asks])), int(self.log.timestamp[event[asks]].max(initial=0))

    @cached_property
    def _statements_by_user(self) -> tuple[np.ndarray, pl.DataFrame]:
        """int64[N + 1], the offset of each user's first row, and the statements, sorted by user."""
        table = read_table(self.prepared / STATEMENTS_FILE, STATEMENTS).sort(USER, maintain_order=True)
        return _offsets(table, self.log.num_users), table

    @cached_property
    def _texts_by_user(self) -> tuple[np.ndarray, pl.DataFrame]:
        """int64[N + 1], the offset of each user's first row, and the texts, sorted by user and time."""
        table = read_table(self.prepared / TEXTS_FILE, TEXTS).sort(USER, TIMESTAMP, maintain_order=True)
        return _offsets(table, self.log.num_users), table

    @cached_property
    def _first_uses(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Word -> UTC seconds at which users wrote it first; UTC seconds at which users wrote anything first.

        One second per user, ascending. From a sample of all texts, and without words that only one or two users wrote,
        which are never common.
        """
        _, table = self._texts_by_user
        sampled = table.gather_every(max(1, table.height // SAMPLED_TEXTS))
        uses: dict[str, list[int]] = defaultdict(list)
        begun: list[int] = []
        for _, texts in sampled.group_by(USER, maintain_order=True):
            first: dict[str, int] = {}
            for second, text in texts.select(TIMESTAMP, TEXT).iter_rows():
                for word in _words([text]):
                    first.setdefault(word, second)
            begun.append(int(texts[TIMESTAMP][0]))
            for word, second in first.items():
                uses[word].append(second)
        frequent = {word: np.sort(seconds) for word, seconds in uses.items() if len(seconds) > MOST_USERS}
        return frequent, np.sort(np.array(begun, np.int64))

    def common_word(self, word: str, cutoff: int) -> bool:
        """Whether more than `COMMON_WORDS` of the users who wrote before the cutoff had used a word by then."""
        uses, begun = self._first_uses
        count = np.searchsorted(uses.get(word, begun[:0]), cutoff)
        return bool(count > max(MOST_USERS, COMMON_WORDS * np.searchsorted(begun, cutoff)))

    def statements(self, user: int, cutoff: int) -> list[str]:
        """Statements about a user before the cutoff. Statements without a time count as known from the beginning."""
        start, table = self._statements_by_user
        rows = table[int(start[user]) : int(start[user + 1])] if user < self.log.num_users else table[:0]
        return rows.filter(pl.col(TIMESTAMP).fill_null(-1) < cutoff)[STATEMENT].to_list()

    def words(self, user: int, cutoff: int) -> frozenset[str]:
        """Words of at least four letters that a user wrote before the cutoff, in lower case."""
        start, table = self._texts_by_user
        rows = table[int(start[user]) : int(start[user + 1])] if user < self.log.num_users else table[:0]
        if not rows.height:
            return frozenset()
        return _words(rows.filter(pl.col(TIMESTAMP) < cutoff)[TEXT].to_list())

    def alike(self, user: int, candidate: int, cutoff: int) -> tuple[str | None, str | None]:
        """A statement that holds for both, and a word that both wrote and that is not common; None where there is none.

        Of several, the first statement in alphabetical order, and the longest word.
        """
        shared = set(self.statements(user, cutoff)) & set(self.statements(candidate, cutoff))
        words = sorted(self.words(user, cutoff) & self.words(candidate, cutoff), key=lambda word: (-len(word), word))
        return min(shared, default=None), next((word for word in words if not self.common_word(word, cutoff)), None)

    def same(self, user: int, candidate: int) -> tuple[str, str] | None:
        """Name and label of a categorical attribute that both share; of several, the one that fewest users share."""
        table = self.attributes.categorical
        if user >= len(table):
            return None
        shared = [
            (int((table[:, column] == table[user, column]).sum()), name, labels[table[user, column] - 1])
            for column, (name, labels) in enumerate(self.attributes.vocabulary.items())
            if table[user, column] and table[user, column] == table[candidate, column]
        ]
        return min(shared)[1:] if shared else None

    def joined(self, candidate: int, cutoff: int) -> int:
        """UTC second of the candidate's first event or text, the cutoff at most."""
        texts = self.feature_view.texts
        first = int(self.log.first_seen[candidate])
        if texts.width:
            start = int(torch.searchsorted(texts.user, candidate))
            if start < len(texts.user) and int(texts.user[start]) == candidate:
                first = min(first, int(texts.second[start]))
        return min(first, cutoff)


def _offsets(table: pl.DataFrame, num_users: int) -> np.ndarray:
    """int64[num_users + 1]: the offset of each user's first row. table: sorted by user."""
    return np.searchsorted(table[USER].to_numpy(), np.arange(num_users + 1))


def _words(texts: list[str]) -> frozenset[str]:
    """Words of at least four letters, in lower case."""
    return frozenset(word for text in texts for word in WORD.findall(text.lower()))
