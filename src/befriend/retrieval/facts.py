"""Facts of the log about a user and a person, as of a moment: what reasons for a recommendation are made of.

Everything is looked up in the histories of the two, never in the whole log.
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
from befriend.data.log import STATEMENTS_FILE, TEXTS_FILE
from befriend.data.observed import Observed
from befriend.retrieval.requests import RequestBuilder

WORD = re.compile(r"[^\W\d_]{4,}")
COMMON_WORDS = 0.01  # of those who write: a word that more of them use says nothing of two of them
MOST_USERS = 2  # a word of so few is never common
SAMPLED_TEXTS = 20_000  # by which it is told which words are common


@dataclass(frozen=True)
class Between:
    """What happened between two people."""

    done: int
    """contact events from the user to the person"""
    received: int
    """and back"""
    last: int
    """second of the last of them, or of the last signal where there are none"""
    signal: str | None
    """the action of the last signal between the two, where they have not been in contact"""
    from_person: bool
    """whether the last one came from the person"""


class Facts:
    """Of a log, its texts and its attributes."""

    def __init__(self, observed: Observed, attributes: Attributes, prepared: Path):
        """prepared: the folder with texts.parquet and statements.parquet, numbered as the log."""
        self.observed, self.attributes, self.prepared = observed, attributes, prepared
        self.log, histories = observed.log, observed.activity.histories
        self.histories = histories
        self.other, self.event = histories.other.numpy(), histories.event.numpy()
        self.received = histories.received.numpy()
        self.builder = RequestBuilder(self.log, histories)
        self.contacts = lru_cache(maxsize=20_000)(self._contacts)

    def _contacts(self, user: int, visible: int) -> np.ndarray:
        """int64: whom a user has been in contact with, those left out with whom there is an exclude event."""
        window = self.histories.window(user, visible)
        blocked = self.other[window][self.log.is_exclude[self.event[window]]]
        return np.setdiff1d(self.builder.contacts(user, visible), blocked)

    def between(self, user: int, person: int, visible: int) -> Between | None:
        """None where nothing happened, blocks apart."""
        window = self.histories.window(user, visible)
        mine = (self.other[window] == person) & ~self.log.is_exclude[self.event[window]]
        if not mine.any():
            return None
        event, received = self.event[window][mine], self.received[window][mine]
        contact = self.log.is_contact[event]
        counted = event[contact] if contact.any() else event
        last = int(np.flatnonzero(event == counted[-1])[0])
        signal = None if contact.any() else self.log.actions[self.log.action[counted[-1]]]
        done, got = int((contact & ~received).sum()), int((contact & received).sum())
        return Between(done, got, int(self.log.timestamp[counted[-1]]), signal, bool(received[last]))

    def common(self, user: int, person: int, visible: int) -> list[int]:
        """Contacts of both, those with whom the user was in contact last first."""
        shared = np.intersect1d(self.contacts(user, visible), self.contacts(person, visible), assume_unique=True)
        if not len(shared):
            return []
        window = self.histories.window(user, visible)
        contact = self.log.is_contact[self.event[window]]
        latest = self.other[window][contact][::-1]
        order = np.unique(latest, return_index=True)
        place = order[1][np.searchsorted(order[0], shared)]
        return shared[np.argsort(place, kind="stable")].tolist()

    def bridge(self, near: int, person: int, user: int, visible: int) -> int:
        """How many people are in contact with both a contact of the user's and the person, the user left out."""
        if near == person:
            return 0
        shared = np.intersect1d(self.contacts(near, visible), self.contacts(person, visible), assume_unique=True)
        return int((shared != user).sum())

    def askers(self, person: int, user: int, visible: int, since: int) -> tuple[int, int]:
        """How many people, the user left out, contacted a person since a UTC second, and when the last one did."""
        window = self.histories.window(person, visible)
        event, other = self.event[window], self.other[window]
        mine = self.received[window] & self.log.is_contact[event] & (self.log.timestamp[event] >= since)
        mine &= other != user
        return len(np.unique(other[mine])), int(self.log.timestamp[event[mine]].max(initial=0))

    @cached_property
    def _said(self) -> tuple[np.ndarray, pl.DataFrame]:
        table = read_table(self.prepared / STATEMENTS_FILE, STATEMENTS).sort(USER, maintain_order=True)
        return _offsets(table, self.log.num_users), table

    @cached_property
    def _written(self) -> tuple[np.ndarray, pl.DataFrame]:
        table = read_table(self.prepared / TEXTS_FILE, TEXTS).sort(USER, TIMESTAMP, maintain_order=True)
        return _offsets(table, self.log.num_users), table

    @cached_property
    def _first_uses(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """UTC seconds, ascending: of each word when people wrote it first; and when they wrote anything first.

        Of a sample of all texts, and without words of one or two people, which are never common.
        """
        _, table = self._written
        some = table.gather_every(max(1, table.height // SAMPLED_TEXTS))
        uses: dict[str, list[int]] = defaultdict(list)
        begun: list[int] = []
        for _, own in some.group_by(USER, maintain_order=True):
            first: dict[str, int] = {}
            for second, text in own.select(TIMESTAMP, TEXT).iter_rows():
                for word in _words([text]):
                    first.setdefault(word, second)
            begun.append(int(own[TIMESTAMP][0]))
            for word, second in first.items():
                uses[word].append(second)
        kept = {word: np.sort(seconds) for word, seconds in uses.items() if len(seconds) > MOST_USERS}
        return kept, np.sort(np.array(begun, np.int64))

    def common_word(self, word: str, horizon: int) -> bool:
        """Whether many of those who wrote before a UTC second used a word."""
        uses, begun = self._first_uses
        count = np.searchsorted(uses.get(word, begun[:0]), horizon)
        return bool(count > max(MOST_USERS, COMMON_WORDS * np.searchsorted(begun, horizon)))

    def statements(self, user: int, horizon: int) -> list[str]:
        """What is said of a user before a UTC second; what has no time was known from the beginning."""
        start, table = self._said
        mine = table[int(start[user]) : int(start[user + 1])] if user < self.log.num_users else table[:0]
        return mine.filter(pl.col(TIMESTAMP).fill_null(-1) < horizon)[STATEMENT].to_list()

    def words(self, user: int, horizon: int) -> frozenset[str]:
        """Words of four letters at least that a user wrote before a UTC second."""
        start, table = self._written
        mine = table[int(start[user]) : int(start[user + 1])] if user < self.log.num_users else table[:0]
        if not mine.height:
            return frozenset()
        return _words(mine.filter(pl.col(TIMESTAMP) < horizon)[TEXT].to_list())

    def alike(self, user: int, person: int, horizon: int) -> tuple[str | None, str | None]:
        """A statement that holds for both, and a word that both and few others wrote; None without one."""
        said = set(self.statements(user, horizon)) & set(self.statements(person, horizon))
        words = sorted(self.words(user, horizon) & self.words(person, horizon), key=lambda word: (-len(word), word))
        return min(said, default=None), next((word for word in words if not self.common_word(word, horizon)), None)

    def same(self, user: int, person: int) -> tuple[str, str] | None:
        """A categorical attribute that both have, and its label; the one that fewest people share."""
        table = self.attributes.categorical
        if user >= len(table):
            return None
        found = [
            (int((table[:, column] == table[user, column]).sum()), name, labels[table[user, column] - 1])
            for column, (name, labels) in enumerate(self.attributes.vocabulary.items())
            if table[user, column] and table[user, column] == table[person, column]
        ]
        return min(found)[1:] if found else None

    def joined(self, person: int, horizon: int) -> int:
        """UTC second of a person's first event or text."""
        texts = self.observed.texts
        first = int(self.log.first_seen[person])
        if texts.width:
            start = int(torch.searchsorted(texts.user, person))
            if start < len(texts.user) and int(texts.user[start]) == person:
                first = min(first, int(texts.second[start]))
        return min(first, horizon)


def _offsets(table: pl.DataFrame, users: int) -> np.ndarray:
    """int64[users + 1]: where the rows of each user begin. table: by user."""
    return np.searchsorted(table[USER].to_numpy(), np.arange(users + 1))


def _words(texts: list[str]) -> frozenset[str]:
    return frozenset(word for text in texts for word in WORD.findall(text.lower()))
