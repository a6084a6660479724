"""Looks up facts about a user and a candidate as of a cutoff, from which reasons for a recommendation are made.

Facts about events come from the histories of the two users, without a scan of the whole log. An *entry* is one event in
the history of one user, done or received. Everywhere, a cutoff is a UTC second, and only events and texts before it
count; num_visible is the number of events before it.
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
from pandera.polars import DataFrameSchema

from befriend.data.attributes import Attributes
from befriend.data.columns import STATEMENT, TEXT, TIMESTAMP, USER
from befriend.data.contracts import STATEMENTS, TEXTS, read_table
from befriend.data.event_log import STATEMENTS_FILE, TEXTS_FILE
from befriend.features.feature_view import FeatureView
from befriend.retrieval.requests import RequestBuilder

WORD = re.compile(r"[^\W\d_]{4,}")
# A word is frequent, and no reason, if a larger share than MAX_RARE_SHARE of the users with texts, and more than
# MAX_RARE_USERS, wrote it. They are counted in a sample of the texts: between SAMPLED_TEXTS and twice as many, or all
# if there are fewer.
MAX_RARE_SHARE = 0.01
MAX_RARE_USERS = 2
SAMPLED_TEXTS = 20_000


@dataclass(frozen=True)
class PairHistory:
    """The events between a user and a candidate before the cutoff.

    Contact events (such as a message) make two users contacts; signal events (such as a profile view) do not.
    """

    num_sent: int
    """number of contact events from the user to the candidate"""
    num_received: int
    """number of contact events from the candidate to the user"""
    last_timestamp: int
    """UTC second of the last contact event; without contact events, of the last signal event"""
    last_signal: str | None
    """without contact events, the action of the last signal event; None otherwise"""
    last_from_candidate: bool
    """whether the event at `last_timestamp` came from the candidate"""


class FactFinder:
    """Looks up facts in a log, its texts and its attributes. All users are given by internal ids."""

    def __init__(self, feature_view: FeatureView, attributes: Attributes, prepared: Path):
        """prepared: the folder with the tables texts.parquet and statements.parquet of stage validate."""
        self.feature_view, self.attributes, self.prepared = feature_view, attributes, prepared
        self.log, histories = feature_view.log, feature_view.activity.histories
        self.histories = histories
        # By entry: the other user, the event as an index into the log, whether the other user acted.
        self.neighbor, self.event = histories.other_user.numpy(), histories.event.numpy()
        self.received = histories.received.numpy()
        self.request_builder = RequestBuilder(self.log, histories)
        self.contacts = lru_cache(maxsize=20_000)(self._contacts)

    def _contacts(self, user: int, num_visible: int) -> np.ndarray:
        """int64: the contacts of a user, ascending, without users whom the user blocked or who blocked the user."""
        entries = self.histories.user_entries(user, num_visible)
        blocked = self.neighbor[entries][self.log.is_exclude[self.event[entries]]]
        return np.setdiff1d(self.request_builder.contacts(user, num_visible), blocked)

    def pair_history(self, user: int, candidate: int, num_visible: int) -> PairHistory | None:
        """The events between the two, without exclude events (such as a block); None if there are none."""
        entries = self.histories.user_entries(user, num_visible)
        is_pair = (self.neighbor[entries] == candidate) & ~self.log.is_exclude[self.event[entries]]
        if not is_pair.any():
            return None
        event, received = self.event[entries][is_pair], self.received[entries][is_pair]
        is_contact = self.log.is_contact[event]
        last_event = (event[is_contact] if is_contact.any() else event)[-1]
        last_row = int(np.flatnonzero(event == last_event)[0])
        last_signal = None if is_contact.any() else self.log.actions[self.log.action[last_event]]
        num_sent, num_received = int((is_contact & ~received).sum()), int((is_contact & received).sum())
        last_timestamp = int(self.log.timestamp[last_event])
        return PairHistory(num_sent, num_received, last_timestamp, last_signal, bool(received[last_row]))

    def common_contacts(self, user: int, candidate: int, num_visible: int) -> list[int]:
        """The contacts that both have, sorted by the time of the user's last contact event with each, latest first."""
        shared = np.intersect1d(
            self.contacts(user, num_visible), self.contacts(candidate, num_visible), assume_unique=True
        )
        if not len(shared):
            return []
        entries = self.histories.user_entries(user, num_visible)
        is_contact = self.log.is_contact[self.event[entries]]
        latest_first = self.neighbor[entries][is_contact][::-1]
        users, first_index = np.unique(latest_first, return_index=True)
        recency = first_index[np.searchsorted(users, shared)]
        return shared[np.argsort(recency, kind="stable")].tolist()

    def count_bridges(self, contact: int, candidate: int, user: int, num_visible: int) -> int:
        """The number of users in contact with both a contact of the user and the candidate, without the user.

        That is the number of paths user - contact - other user - candidate in the contact graph.
        """
        if contact == candidate:
            return 0
        shared = np.intersect1d(
            self.contacts(contact, num_visible), self.contacts(candidate, num_visible), assume_unique=True
        )
        return int((shared != user).sum())

    def recent_senders(self, candidate: int, user: int, num_visible: int, since: int) -> tuple[int, int]:
        """The number of users other than `user` who contacted the candidate, and the UTC second of the last time.

        since: UTC second of the first event that counts. Returns 0, 0 without such an event.
        """
        entries = self.histories.user_entries(candidate, num_visible)
        event, other = self.event[entries], self.neighbor[entries]
        is_recent = self.received[entries] & self.log.is_contact[event] & (self.log.timestamp[event] >= since)
        is_recent &= other != user
        return len(np.unique(other[is_recent])), int(self.log.timestamp[event[is_recent]].max(initial=0))

    @cached_property
    def _statements_by_user(self) -> tuple[np.ndarray, pl.DataFrame]:
        """int64[N + 1], offset of each user's first row, and the table of statements, sorted by user."""
        table = _read_or_empty(self.prepared / STATEMENTS_FILE, STATEMENTS).sort(USER, maintain_order=True)
        return _offsets(table, self.log.num_users), table

    @cached_property
    def _texts_by_user(self) -> tuple[np.ndarray, pl.DataFrame]:
        """int64[N + 1], offset of each user's first row, and the table of texts, sorted by user and time."""
        table = _read_or_empty(self.prepared / TEXTS_FILE, TEXTS).sort(USER, TIMESTAMP, maintain_order=True)
        return _offsets(table, self.log.num_users), table

    @cached_property
    def _first_uses(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """When users first wrote each word, and when they first wrote at all, in a sample of all texts.

        Returns word -> UTC seconds, ascending, one for each user who wrote it, for words of more than MAX_RARE_USERS
        users; and UTC seconds, ascending, one for each user with a text.
        """
        _, table = self._texts_by_user
        sampled = table.gather_every(max(1, table.height // SAMPLED_TEXTS))
        uses: dict[str, list[int]] = defaultdict(list)
        first_texts: list[int] = []
        for _, texts in sampled.group_by(USER, maintain_order=True):
            first: dict[str, int] = {}
            for second, text in texts.select(TIMESTAMP, TEXT).iter_rows():
                for word in _words([text]):
                    first.setdefault(word, second)
            first_texts.append(int(texts[TIMESTAMP][0]))
            for word, second in first.items():
                uses[word].append(second)
        first_uses = {word: np.sort(seconds) for word, seconds in uses.items() if len(seconds) > MAX_RARE_USERS}
        return first_uses, np.sort(np.array(first_texts, np.int64))

    def is_frequent_word(self, word: str, cutoff: int) -> bool:
        """Whether a word is frequent, see MAX_RARE_SHARE, among the users who wrote before the cutoff."""
        first_uses, first_texts = self._first_uses
        num_users = np.searchsorted(first_uses.get(word, first_texts[:0]), cutoff)
        return bool(num_users > max(MAX_RARE_USERS, MAX_RARE_SHARE * np.searchsorted(first_texts, cutoff)))

    def statements(self, user: int, cutoff: int) -> list[str]:
        """The statements about a user from before the cutoff, or without a time.

        A statement is a text that is true of a user, such as "interested in hiking".
        """
        start, table = self._statements_by_user
        rows = table[int(start[user]) : int(start[user + 1])] if user < self.log.num_users else table[:0]
        return rows.filter(pl.col(TIMESTAMP).fill_null(-1) < cutoff)[STATEMENT].to_list()

    def words(self, user: int, cutoff: int) -> frozenset[str]:
        """The words of at least four letters that a user wrote before the cutoff, in lower case."""
        start, table = self._texts_by_user
        rows = table[int(start[user]) : int(start[user + 1])] if user < self.log.num_users else table[:0]
        if not rows.height:
            return frozenset()
        return _words(rows.filter(pl.col(TIMESTAMP) < cutoff)[TEXT].to_list())

    def shared_statement_and_word(self, user: int, candidate: int, cutoff: int) -> tuple[str | None, str | None]:
        """A statement about both users, and a word that both wrote and that is not frequent; None if there is none.

        Of several, the first statement in alphabetical order, and the longest word.
        """
        shared = set(self.statements(user, cutoff)) & set(self.statements(candidate, cutoff))
        words = sorted(self.words(user, cutoff) & self.words(candidate, cutoff), key=lambda word: (-len(word), word))
        rare_word = next((word for word in words if not self.is_frequent_word(word, cutoff)), None)
        return min(shared, default=None), rare_word

    def shared_attribute(self, user: int, candidate: int) -> tuple[str, str] | None:
        """Name and value of a categorical attribute that both share; of several, the one whose value is rarest."""
        table = self.attributes.categorical
        if user >= len(table):
            return None
        shared = [
            (int((table[:, column] == table[user, column]).sum()), name, labels[table[user, column] - 1])
            for column, (name, labels) in enumerate(self.attributes.vocabulary.items())
            if table[user, column] and table[user, column] == table[candidate, column]
        ]
        return min(shared)[1:] if shared else None

    def first_seen(self, candidate: int, cutoff: int) -> int:
        """UTC second of the candidate's first event or text, at most the cutoff."""
        texts = self.feature_view.texts
        first = int(self.log.first_seen[candidate])
        if texts.width:
            start = int(torch.searchsorted(texts.user, candidate))
            if start < len(texts.user) and int(texts.user[start]) == candidate:
                first = min(first, int(texts.timestamp[start]))
        return min(first, cutoff)


def _read_or_empty(path: Path, contract: DataFrameSchema) -> pl.DataFrame:
    """A prepared table; an empty one if there is none, since promoted runs keep neither texts nor statements."""
    if path.is_file():
        return read_table(path, contract)
    return pl.DataFrame(schema={name: column.dtype.type for name, column in contract.columns.items()})


def _offsets(table: pl.DataFrame, num_users: int) -> np.ndarray:
    """int64[num_users + 1]: offset of each user's first row in a table that is sorted by user."""
    return np.searchsorted(table[USER].to_numpy(), np.arange(num_users + 1))


def _words(texts: list[str]) -> frozenset[str]:
    """Words of at least four letters, in lower case."""
    return frozenset(word for text in texts for word in WORD.findall(text.lower()))
