"""Explanations: every sentence states a fact of the log, checked in the raw tables; strong reasons come first."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import befriend
from befriend.api import Befriend, RecommendOptions
from befriend.data.attributes import Attributes
from befriend.data.event_log import DAY
from befriend.features.feature_view import FeatureView
from befriend.recommendation.explain import GENERAL, Explanation, Reason, sentences, strongest_reasons
from befriend.recommendation.fact_finder import FactFinder, PairHistory
from befriend.recommendation.request_table import requests_table
from tests.conftest import make_log

MODELS: tuple[Any, ...] = ("both", "two-tower", "stu")
UNITS = {"year": 365 * DAY, "month": 30 * DAY, "day": DAY, "hour": 3600, "minute": 60}


@pytest.fixture(scope="module")
def project(trained_project_with_texts: Path) -> Path:
    return trained_project_with_texts


@pytest.fixture(scope="module")
def loaded_project(project: Path) -> Befriend:
    return befriend.load(project)


def number(text: str) -> int:
    """A number as sentences show it, such as 1,234."""
    return int(text.replace(",", ""))


class RawTables:
    """The raw tables before a cutoff, and what they say about two users, in polars."""

    def __init__(self, project: Path, cutoff: int):
        raw = pl.read_parquet(project / "log" / "events.parquet")
        raw = raw.filter(pl.col("actor_id") != pl.col("target_id"))
        if raw["timestamp"].dtype.is_temporal():
            raw = raw.with_columns(pl.col("timestamp").dt.epoch("s"))
        self.cutoff, self.events = cutoff, raw.filter(pl.col("timestamp") < cutoff)
        self.contacts = self.events.filter(~pl.col("action").is_in(["view", "block"]))
        self.texts = pl.read_parquet(project / "log" / "texts.parquet").filter(pl.col("timestamp") < cutoff)
        self.statements = pl.read_parquet(project / "log" / "statements.parquet")

    def contacts_of(self, user: int) -> set[int]:
        """Users in contact with a user, without those whom one of the two blocked."""
        blocks = self.events.filter(action="block")
        contacts, blocked = (
            set(table.filter(actor_id=user)["target_id"]) | set(table.filter(target_id=user)["actor_id"])
            for table in (self.contacts, blocks)
        )
        return contacts - blocked

    def between(self, a: int, b: int, table: pl.DataFrame | None = None) -> pl.DataFrame:
        table = self.contacts if table is None else table
        return table.filter(
            ((pl.col("actor_id") == a) & (pl.col("target_id") == b))
            | ((pl.col("actor_id") == b) & (pl.col("target_id") == a))
        )

    def is_age_of(self, second: Any, age: str) -> bool:
        """Whether an age in words, such as "3 days ago", is that of a second at the cutoff."""
        if age == "just now":
            return self.cutoff - second < 60
        count, unit = re.fullmatch(r"(\d+) (\w+?)s? ago", age).groups()  # type: ignore[union-attr]
        return (self.cutoff - second) // UNITS[unit] == int(count)

    def holds(self, user: int, person: int, sentence: str) -> bool:
        """Whether a sentence is true."""
        age = r"(just now|\d+ \w+ ago)"
        patterns: dict[str, Any] = {
            rf"You and {person} have been in touch ([\d,]+) times, last {age}\.": self._times,
            rf"You contacted {person} {age}\.": lambda u, p, when: self._one_way(u, p, "1", when),
            rf"You contacted {person} ([\d,]+) times, last {age}\.": lambda u, p, n, when: self._one_way(u, p, n, when),
            rf"{person} contacted you {age}\.": lambda u, p, when: self._one_way(p, u, "1", when),
            rf"{person} contacted you ([\d,]+) times, last {age}\.": lambda u, p, n, when: self._one_way(p, u, n, when),
            rf"There was a “(\w+)” from (you|{person}) to (you|{person}), {age}\.": self._signal,
            rf"You and {person} have both been in touch with ([\d, ]+?)(?: and ([\d,]+) more)?\.": self._common,
            rf"You were in touch with (\d+) {age}; ([\d,]+) other (?:person has|people have) been in touch with both (\d+) and {person}\.": self._bridge,
            rf"You and {person} have in common: (.+)\.": self._statement,
            rf"You and {person} both wrote of “(\w+)”\.": self._wrote,
            rf"([\d,]+) other people contacted {person} within a week, last {age}\.": self._contacted,
            rf"Another person contacted {person} {age}\.": lambda u, p, when: self._contacted(u, p, "1", when),
            rf"{person} was last active {age}\.": self._last_active,
            rf"{person} joined {age}\.": lambda u, p, when: (
                self.is_age_of(self._first_seen(p), when) and self.cutoff - self._first_seen(p) <= 7 * DAY
            ),
            rf"{person} has been here since (\S+)\.": lambda u, p, day: (
                f"{datetime.fromtimestamp(self._first_seen(p), UTC):%Y-%m-%d}" == day
            ),
        }
        for pattern, check in patterns.items():
            match = re.fullmatch(pattern, sentence)
            if match:
                return bool(check(user, person, *match.groups()))
        raise AssertionError(f"an unknown kind of sentence: {sentence}")

    def _times(self, u: int, p: int, count: str, when: str) -> bool:
        rows = self.between(u, p)
        return rows.height == number(count) and self.is_age_of(rows["timestamp"].max(), when)

    def _one_way(self, a: int, b: int, count: str, when: str) -> bool:
        rows, done = self.between(a, b), self.contacts.filter(actor_id=a, target_id=b)
        return rows.height == done.height == number(count) and self.is_age_of(rows["timestamp"].max(), when)

    def _signal(self, u: int, p: int, action: str, sender: str, receiver: str, when: str) -> bool:
        rows = self.between(u, p, self.events.filter(pl.col("action") != "block"))
        last = rows.sort("timestamp", maintain_order=True).row(-1, named=True)
        users = {"you": u, str(p): p}
        is_last = (last["actor_id"], last["target_id"], last["action"]) == (users[sender], users[receiver], action)
        return not self.between(u, p).height and is_last and self.is_age_of(last["timestamp"], when)

    def _common(self, u: int, p: int, named: str, more: str | None) -> bool:
        shared, named_users = self.contacts_of(u) & self.contacts_of(p), {int(x) for x in named.split(", ")}
        return named_users <= shared and len(shared) == len(named_users) + number(more or "0")

    def _bridge(self, u: int, p: int, bridge: str, when: str, count: str, repeated: str) -> bool:
        contact = int(bridge)
        last = self.between(u, contact)["timestamp"].max()
        shared = (self.contacts_of(contact) & self.contacts_of(p)) - {u}
        return (
            bridge == repeated
            and contact in self.contacts_of(u)
            and self.is_age_of(last, when)
            and len(shared) == number(count)
        )

    def _statement(self, u: int, p: int, statement: str) -> bool:
        return all(statement in set(self.statements.filter(user_id=x)["statement"]) for x in (u, p))

    def _wrote(self, u: int, p: int, word: str) -> bool:
        return all(
            any(word in re.findall(r"[a-z]+", text.lower()) for text in self.texts.filter(user_id=x)["text"])
            for x in (u, p)
        )

    def _contacted(self, u: int, p: int, count: str, when: str) -> bool:
        rows = self.contacts.filter(pl.col("timestamp") >= self.cutoff - 7 * DAY, target_id=p)
        rows = rows.filter(pl.col("actor_id") != u)
        return rows["actor_id"].n_unique() == number(count) and self.is_age_of(rows["timestamp"].max(), when)

    def _last_active(self, u: int, p: int, when: str) -> bool:
        acts = self.events.filter((pl.col("action") != "block"), actor_id=p)["timestamp"]
        last = max(pl.concat([acts.cast(pl.Int64), self.texts.filter(user_id=p)["timestamp"].cast(pl.Int64)]).to_list())
        return self.is_age_of(last, when) and self.cutoff - last <= 7 * DAY

    def _first_seen(self, p: int) -> int:
        events = self.events.filter((pl.col("actor_id") == p) | (pl.col("target_id") == p))["timestamp"]
        return min(
            pl.concat([events.cast(pl.Int64), self.texts.filter(user_id=p)["timestamp"].cast(pl.Int64)]).to_list()
        )


@pytest.mark.system
@pytest.mark.parametrize("model", MODELS)
def test_every_sentence_holds_in_the_log(model: Any, project: Path, loaded_project: Befriend) -> None:
    log = loaded_project.log
    kinds: set[str] = set()
    for event in (600, 1499):
        cutoff = int(log.timestamp[event])
        users = log.user_ids.gather(np.unique(log.actor[event - 24 : event].astype(int)))
        at = datetime.fromtimestamp(cutoff, UTC)
        tables = RawTables(project, cutoff)
        for new_only in (True, False):
            requests = requests_table(users, at, regime="daily", new_only=new_only)
            options = RecommendOptions(model, 10)
            lists = loaded_project.recommend_requests(requests, options)
            explanations: list[Explanation] = []

            def record(explanation: Explanation, recorded: list[Explanation] = explanations) -> list[str]:
                recorded.append(explanation)
                return sentences(explanation)

            reasons = loaded_project.explain_lists(requests, lists, options, record)
            assert lists.height > 50 and all(reasons)
            for user, person, reason_sentences in zip(lists["user"], lists["recommended"], reasons, strict=True):
                assert len(reason_sentences) <= 3
                for sentence in reason_sentences:
                    assert tables.holds(user, person, sentence), (user, person, sentence)
            kinds |= {reason.kind for explanation in explanations for reason in strongest_reasons(explanation)}
    assert {"pair_history", "common_contacts", "bridge", "statement", "word", "active"} <= kinds


@pytest.mark.system
def test_sentence_and_column_agree_on_the_last_activity(project: Path, loaded_project: Befriend) -> None:
    users = loaded_project.log.user_ids[:20]
    requests = requests_table(users, regime="daily")
    lists = loaded_project.recommend_requests(requests, RecommendOptions("both", 10))
    cutoff = max(int(loaded_project.log.timestamp[-1]), loaded_project.models.texts.last_timestamp) + 1
    tables, compared = RawTables(project, cutoff), 0
    for reason_sentences, last_active in zip(
        loaded_project.explain_lists(requests, lists), lists["last_active"], strict=True
    ):
        for sentence in reason_sentences:
            match = re.search(r"was last active (.+)\.", sentence)
            if match:
                compared += 1
                assert tables.is_age_of(int(last_active.timestamp()), match[1])
    assert compared > 10


def test_each_kind_of_reason_has_its_sentence() -> None:
    def sentences_of(*reasons: Reason) -> list[str]:
        return sentences(Explanation(1, 42, 100 * DAY, reasons))

    one_day_ago, three_hours_ago = 99 * DAY, 100 * DAY - 3 * 3600
    assert sentences_of(Reason("pair_history", 1, pair_history=PairHistory(1, 3, one_day_ago, None, True))) == [
        "You and 42 have been in touch 4 times, last 1 day ago."
    ]
    assert sentences_of(Reason("pair_history", 1, pair_history=PairHistory(0, 1, one_day_ago, None, True))) == [
        "42 contacted you 1 day ago."
    ]
    assert sentences_of(Reason("pair_history", 1, pair_history=PairHistory(2, 0, one_day_ago, None, False))) == [
        "You contacted 42 2 times, last 1 day ago."
    ]
    assert sentences_of(Reason("pair_history", 1, pair_history=PairHistory(0, 0, one_day_ago, "view", True))) == [
        "There was a “view” from 42 to you, 1 day ago."
    ]
    assert sentences_of(Reason("common_contacts", 1, users=(7, 8, 9), count=4)) == [
        "You and 42 have both been in touch with 7, 8, 9 and 1 more."
    ]
    assert sentences_of(Reason("attribute", 1, texts=("town", "Bonn"))) == ["You and 42 have the same town: Bonn."]
    contacted = Reason("contacted", 1, count=12, second=three_hours_ago)
    assert sentences_of(contacted) == ["12 other people contacted 42 within a week, last 3 hours ago."]
    assert sentences_of(Reason("contacted", 1, count=1, second=three_hours_ago)) == [
        "Another person contacted 42 3 hours ago."
    ]
    assert sentences_of(Reason("active", 1, second=three_hours_ago)) == ["42 was last active 3 hours ago."]
    for age, words in ((59 * DAY, "59 days"), (60 * DAY, "2 months"), (100 * 60, "1 hour")):
        assert sentences_of(Reason("active", 1, second=100 * DAY - age)) == [f"42 was last active {words} ago."]
    assert sentences_of(Reason("member_since", 0, second=0)) == ["42 has been here since 1970-01-01."]


def test_the_strongest_reasons_are_given_and_one_about_the_two_users() -> None:
    def kinds(*reasons: tuple[str, float]) -> list[str]:
        ordered = sorted(reasons, key=lambda reason: -reason[1])
        strongest = strongest_reasons(Explanation(1, 2, 0, tuple(Reason(kind, weight) for kind, weight in ordered)))
        return [reason.kind for reason in strongest]

    assert kinds(("common_contacts", 3), ("active", 2), ("contacted", 1), ("word", 0.5)) == [
        "common_contacts",
        "active",
        "contacted",
    ]
    assert kinds(("contacted", 3), ("active", 2), ("joined", 1), ("word", -1)) == ["contacted", "active", "word"]
    assert kinds(("active", 1), ("member_since", 5)) == ["active"]
    assert kinds(("active", -1), ("member_since", 5)) == ["active"]
    assert kinds(("member_since", -1)) == ["member_since"]
    assert "member_since" in GENERAL


def explanation(folder: Path, events: list[tuple[int, str, int, int]], texts: list[tuple[int, int, str]]) -> FactFinder:
    """Facts in a log of these events, as in `make_log`, and texts (user, second, text)."""
    log = make_log(events)
    platform = {"platform": pl.Series(["forum"] * len(texts), dtype=pl.String)}
    rows = pl.DataFrame(texts, {"user": pl.Int32, "timestamp": pl.Int64, "text": pl.String}, orient="row")
    rows.with_columns(**platform).select("user", "timestamp", "platform", "text").write_parquet(
        folder / "texts.parquet"
    )
    schema = {"user": pl.Int32, "timestamp": pl.Int64, "statement": pl.String, "context": pl.String}
    pl.DataFrame(schema=schema).write_parquet(folder / "statements.parquet")
    no_attributes = Attributes(np.zeros((log.num_users, 0), np.int32), {}, np.zeros((log.num_users, 0), np.float32), ())
    return FactFinder(FeatureView.of(log), no_attributes, folder)


def test_a_shared_word_is_a_reason_until_many_users_wrote_it(tmp_path: Path) -> None:
    texts = [(0, 10, "gardening on balconies"), (1, 20, "balconies, gardening"), (2, 30, "Gardening!")]
    finder = explanation(tmp_path, [(0, "ask", 3, 1)], [*texts, (2, 40, "gardening again"), (3, 50, "gardening")])
    assert finder.shared_statement_and_word(0, 1, 20) == (None, None)  # the second text comes later
    assert finder.shared_statement_and_word(0, 1, 25) == (None, "balconies")  # the longer word
    assert finder.shared_statement_and_word(0, 2, 35) == (None, None)  # three users wrote of gardening
    assert finder.shared_statement_and_word(1, 2, 35) == (None, None)
    assert not finder.is_frequent_word("gardening", 30) and finder.is_frequent_word("gardening", 31)


def test_recent_senders_to_a_candidate_do_not_include_the_requesting_user(tmp_path: Path) -> None:
    finder = explanation(tmp_path, [(0, "ask", 3, 10), (1, "ask", 3, 20), (1, "ask", 3, 21), (2, "ask", 3, 30)], [])
    assert [finder.recent_senders(3, user, 4, 0) for user in (0, 1, 9)] == [(2, 30), (2, 30), (3, 30)]
    assert finder.recent_senders(3, 0, 4, 25) == (1, 30) and finder.recent_senders(3, 9, 3, 0) == (2, 21)
    assert finder.recent_senders(3, 9, 4, 31) == (0, 0)


@pytest.mark.system
@pytest.mark.parametrize("model", ["two-tower", "stu"])
def test_ablating_a_contact_that_does_not_exist_changes_no_score(model: Any, loaded_project: Befriend) -> None:
    """The score without an ablation is that of the list."""
    from befriend.recommendation.ablation import ScoreAblation

    user = loaded_project.log.user_ids[int(np.bincount(loaded_project.log.actor).argmax())]
    requests = requests_table(pl.Series([user]))
    request, recommender = loaded_project.list_maker().request_batch(requests), loaded_project.recommender()
    lists = loaded_project.recommend_requests(requests, RecommendOptions(model, 10))
    ranking = recommender.rank(request, (model,))
    snapshot = recommender.state_at(int(request.num_visible[0]), int(request.cutoff[0]))
    candidates = loaded_project.log.internal_ids(lists["recommended"])
    ablation = ScoreAblation(
        recommender.retrievers[model], snapshot.views[model], ranking.queries[model], request, candidates, [10**6]
    )
    assert ablation.total.numpy() == pytest.approx(lists["score"].to_numpy(), abs=1e-5)
    assert ablation.without_contact(10**6).numpy() == pytest.approx(ablation.total.numpy(), abs=1e-9)
