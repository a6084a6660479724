"""Reasons: each sentence is a fact of the log, looked up here in the raw tables; the weights are what is lost without."""

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
from befriend.data.activity import DAY
from befriend.data.attributes import Attributes
from befriend.data.observed import Observed
from befriend.retrieval.explain import GENERAL, Evidence, Reason, chosen, sentences
from befriend.retrieval.facts import Between, Facts
from befriend.retrieval.request_table import requests_table
from tests.conftest import make_log
from tests.stages.conftest import small_project

MODELS: tuple[Any, ...] = ("both", "two-tower", "stu")
UNITS = {"year": 365 * DAY, "month": 30 * DAY, "day": DAY, "hour": 3600, "minute": 60}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_project(tmp_path_factory.mktemp("project"), texts=2.0)


@pytest.fixture(scope="module")
def people(project: Path) -> Befriend:
    return befriend.load(project)


class Truth:
    """The raw tables, as of a moment."""

    def __init__(self, project: Path, moment: int):
        raw = pl.read_parquet(project / "log" / "events.parquet")
        raw = raw.filter(pl.col("actor_id") != pl.col("target_id"))
        if raw["timestamp"].dtype.is_temporal():
            raw = raw.with_columns(pl.col("timestamp").dt.epoch("s"))
        self.moment, self.events = moment, raw.filter(pl.col("timestamp") < moment)
        self.contacts = self.events.filter(~pl.col("action").is_in(["view", "block"]))
        self.texts = pl.read_parquet(project / "log" / "texts.parquet").filter(pl.col("timestamp") < moment)
        self.said = pl.read_parquet(project / "log" / "statements.parquet")

    def near(self, user: int) -> set[int]:
        """In contact, and on neither side of a block."""
        blocks = self.events.filter(action="block")
        met, away = (
            set(table.filter(actor_id=user)["target_id"]) | set(table.filter(target_id=user)["actor_id"])
            for table in (self.contacts, blocks)
        )
        return met - away

    def between(self, one: int, other: int, table: pl.DataFrame | None = None) -> pl.DataFrame:
        table = self.contacts if table is None else table
        return table.filter(
            ((pl.col("actor_id") == one) & (pl.col("target_id") == other))
            | ((pl.col("actor_id") == other) & (pl.col("target_id") == one))
        )

    def ago(self, second: int, said: str) -> bool:
        if said == "just now":
            return self.moment - second < 60
        count, unit = re.fullmatch(r"(\d+) (\w+?)s? ago", said).groups()  # type: ignore[union-attr]
        return (self.moment - second) // UNITS[unit] == int(count)

    def holds(self, user: int, person: int, sentence: str) -> bool:
        """Whether a sentence is true."""
        ago = r"(just now|\d+ \w+ ago)"
        forms: dict[str, Any] = {
            rf"You and {person} have been in touch ([\d,]+) times, last {ago}\.": self._times,
            rf"You contacted {person} {ago}\.": lambda u, p, when: self._way(u, p, 1, when),
            rf"You contacted {person} ([\d,]+) times, last {ago}\.": lambda u, p, n, when: self._way(u, p, n, when),
            rf"{person} contacted you {ago}\.": lambda u, p, when: self._way(p, u, 1, when),
            rf"{person} contacted you ([\d,]+) times, last {ago}\.": lambda u, p, n, when: self._way(p, u, n, when),
            rf"There was a “(\w+)” from (you|{person}) to (you|{person}), {ago}\.": self._signal,
            rf"You and {person} have both been in touch with ([\d, ]+?)(?: and ([\d,]+) more)?\.": self._common,
            rf"You were in touch with (\d+) {ago}; ([\d,]+) other (?:person has|people have) been in touch with both (\d+) and {person}\.": self._bridge,
            rf"You and {person} have in common: (.+)\.": self._said,
            rf"You and {person} both wrote of “(\w+)”\.": self._word,
            rf"([\d,]+) other people contacted {person} within a week, last {ago}\.": self._asked,
            rf"Another person contacted {person} {ago}\.": lambda u, p, when: self._asked(u, p, "1", when),
            rf"{person} was last active {ago}\.": self._active,
            rf"{person} joined {ago}\.": lambda u, p, when: (
                self.ago(self._first(p), when) and self.moment - self._first(p) <= 7 * DAY
            ),
            rf"{person} has been here since (\S+)\.": lambda u, p, day: (
                f"{datetime.fromtimestamp(self._first(p), UTC):%Y-%m-%d}" == day
            ),
        }
        for form, check in forms.items():
            found = re.fullmatch(form, sentence)
            if found:
                return bool(check(user, person, *found.groups()))
        raise AssertionError(f"no such sentence: {sentence}")

    def _times(self, u: int, p: int, count: str, when: str) -> bool:
        rows = self.between(u, p)
        return rows.height == int(count.replace(",", "")) and self.ago(rows["timestamp"].max(), when)  # type: ignore[arg-type]

    def _way(self, a: int, b: int, count: Any, when: str) -> bool:
        rows, one_way = self.between(a, b), self.contacts.filter(actor_id=a, target_id=b)
        return rows.height == one_way.height == int(str(count).replace(",", "")) and self.ago(
            rows["timestamp"].max(), when
        )  # type: ignore[arg-type]

    def _signal(self, u: int, p: int, action: str, one: str, other: str, when: str) -> bool:
        rows = self.between(u, p, self.events.filter(pl.col("action") != "block"))
        last = rows.sort("timestamp", maintain_order=True).row(-1, named=True)
        who = {"you": u, str(p): p}
        right = (last["actor_id"], last["target_id"], last["action"]) == (who[one], who[other], action)
        return not self.between(u, p).height and right and self.ago(last["timestamp"], when)

    def _common(self, u: int, p: int, named: str, more: str | None) -> bool:
        both, listed = self.near(u) & self.near(p), {int(x) for x in named.split(", ")}
        return listed <= both and len(both) == len(listed) + int((more or "0").replace(",", ""))

    def _bridge(self, u: int, p: int, near: str, when: str, count: str, again: str) -> bool:
        a = int(near)
        last = self.between(u, a)["timestamp"].max()
        both = (self.near(a) & self.near(p)) - {u}
        return near == again and a in self.near(u) and self.ago(last, when) and len(both) == int(count.replace(",", ""))  # type: ignore[arg-type]

    def _said(self, u: int, p: int, statement: str) -> bool:
        return all(statement in set(self.said.filter(user_id=x)["statement"]) for x in (u, p))

    def _word(self, u: int, p: int, word: str) -> bool:
        return all(
            any(word in re.findall(r"[a-z]+", text.lower()) for text in self.texts.filter(user_id=x)["text"])
            for x in (u, p)
        )

    def _asked(self, u: int, p: int, count: str, when: str) -> bool:
        rows = self.contacts.filter(pl.col("timestamp") >= self.moment - 7 * DAY, target_id=p)
        rows = rows.filter(pl.col("actor_id") != u)
        return rows["actor_id"].n_unique() == int(count.replace(",", "")) and self.ago(rows["timestamp"].max(), when)  # type: ignore[arg-type]

    def _active(self, u: int, p: int, when: str) -> bool:
        done = self.events.filter((pl.col("action") != "block"), actor_id=p)["timestamp"]
        last = max(pl.concat([done.cast(pl.Int64), self.texts.filter(user_id=p)["timestamp"].cast(pl.Int64)]).to_list())
        return self.ago(last, when) and self.moment - last <= 7 * DAY

    def _first(self, p: int) -> int:
        events = self.events.filter((pl.col("actor_id") == p) | (pl.col("target_id") == p))["timestamp"]
        return min(
            pl.concat([events.cast(pl.Int64), self.texts.filter(user_id=p)["timestamp"].cast(pl.Int64)]).to_list()
        )


@pytest.mark.parametrize("model", MODELS)
def test_every_sentence_holds_in_the_log(model: Any, project: Path, people: Befriend) -> None:
    log = people.log
    kinds: set[str] = set()
    for event in (600, 1499):
        moment = int(log.timestamp[event])
        users = log.user_ids.gather(np.unique(log.actor[event - 60 : event].astype(int)))
        at = datetime.fromtimestamp(moment, UTC)
        truth = Truth(project, moment)
        for new_only in (True, False):
            requests = requests_table(users, at, regime="daily", new_only=new_only)
            lists = people.answer(requests, RecommendOptions(model, 8))
            kept: list[Evidence] = []

            def keep(evidence: Evidence, kept: list[Evidence] = kept) -> list[str]:
                kept.append(evidence)
                return sentences(evidence)

            reasons = people.reasons(requests, lists, model, keep)
            assert lists.height > 50 and all(reasons)
            for user, person, said in zip(lists["user"], lists["recommended"], reasons, strict=True):
                assert len(said) <= 3
                for sentence in said:
                    assert truth.holds(user, person, sentence), (user, person, sentence)
            kinds |= {reason.kind for evidence in kept for reason in chosen(evidence)}
    assert {"between", "common", "bridge", "statement", "word", "active"} <= kinds


def test_the_column_and_the_sentence_mean_the_same_by_last_active(project: Path, people: Befriend) -> None:
    users = people.log.user_ids[:20]
    requests = requests_table(users, regime="daily")
    lists = people.answer(requests, RecommendOptions("both", 10))
    moment = max(int(people.log.timestamp[-1]), people.models.texts.last) + 1
    truth, some = Truth(project, moment), 0
    for said, active in zip(people.reasons(requests, lists), lists["last_active"], strict=True):
        for sentence in said:
            found = re.search(r"was last active (.+)\.", sentence)
            if found:
                some += 1
                assert truth.ago(int(active.timestamp()), found[1])
    assert some


def test_sentences_are_plain_words() -> None:
    def say(*reasons: Reason) -> list[str]:
        return sentences(Evidence(1, 42, 100 * DAY, reasons))

    day, hours = 99 * DAY, 100 * DAY - 3 * 3600
    assert say(Reason("between", 1, between=Between(1, 3, day, None, True))) == [
        "You and 42 have been in touch 4 times, last 1 day ago."
    ]
    assert say(Reason("between", 1, between=Between(0, 1, day, None, True))) == ["42 contacted you 1 day ago."]
    assert say(Reason("between", 1, between=Between(2, 0, day, None, False))) == [
        "You contacted 42 2 times, last 1 day ago."
    ]
    assert say(Reason("between", 1, between=Between(0, 0, day, "view", True))) == [
        "There was a “view” from 42 to you, 1 day ago."
    ]
    assert say(Reason("common", 1, people=(7, 8, 9), count=4)) == [
        "You and 42 have both been in touch with 7, 8, 9 and 1 more."
    ]
    assert say(Reason("attribute", 1, texts=("town", "Bonn"))) == ["You and 42 have the same town: Bonn."]
    asked = Reason("asked for", 1, count=12, second=hours)
    assert say(asked) == ["12 other people contacted 42 within a week, last 3 hours ago."]
    assert say(Reason("asked for", 1, count=1, second=hours)) == ["Another person contacted 42 3 hours ago."]
    assert say(Reason("active", 1, second=hours)) == ["42 was last active 3 hours ago."]
    assert say(Reason("here", 0, second=0)) == ["42 has been here since 1970-01-01."]


def test_the_strongest_reasons_are_named_and_one_that_belongs_to_the_two() -> None:
    def kinds(*reasons: tuple[str, float]) -> list[str]:
        ordered = sorted(reasons, key=lambda reason: -reason[1])
        found = chosen(Evidence(1, 2, 0, tuple(Reason(kind, weight) for kind, weight in ordered)))
        return [reason.kind for reason in found]

    assert kinds(("common", 3), ("active", 2), ("asked for", 1), ("word", 0.5)) == ["common", "active", "asked for"]
    assert kinds(("asked for", 3), ("active", 2), ("joined", 1), ("word", -1)) == ["asked for", "active", "word"]
    assert kinds(("active", 1), ("here", 5)) == ["active"]
    assert kinds(("active", -1), ("here", 5)) == ["active"]
    assert kinds(("here", -1)) == ["here"]
    assert "here" in GENERAL


def facts(folder: Path, events: list[tuple[int, str, int, int]], texts: list[tuple[int, int, str]]) -> Facts:
    log = make_log(events)
    platform = {"platform": pl.Series(["forum"] * len(texts), dtype=pl.String)}
    rows = pl.DataFrame(texts, {"user": pl.Int32, "timestamp": pl.Int64, "text": pl.String}, orient="row")
    rows.with_columns(**platform).select("user", "timestamp", "platform", "text").write_parquet(
        folder / "texts.parquet"
    )
    said = {"user": pl.Int32, "timestamp": pl.Int64, "statement": pl.String, "context": pl.String}
    pl.DataFrame(schema=said).write_parquet(folder / "statements.parquet")
    nothing = Attributes(np.zeros((log.num_users, 0), np.int32), {}, np.zeros((log.num_users, 0), np.float32), ())
    return Facts(Observed.of(log), nothing, folder)


def test_a_word_that_two_share_is_common_only_once_many_wrote_it(tmp_path: Path) -> None:
    texts = [(0, 10, "gardening on balconies"), (1, 20, "balconies, gardening"), (2, 30, "Gardening!")]
    known = facts(tmp_path, [(0, "ask", 3, 1)], [*texts, (2, 40, "gardening again"), (3, 50, "gardening")])
    assert known.alike(0, 1, 20) == (None, None)  # the second text is not there yet
    assert known.alike(0, 1, 25) == (None, "balconies")  # the longer word
    assert known.alike(0, 2, 35) == (None, None)  # three wrote of gardening
    assert known.alike(1, 2, 35) == (None, None)
    assert not known.common_word("gardening", 30) and known.common_word("gardening", 31)


def test_who_asked_somebody_leaves_out_who_reads_it(tmp_path: Path) -> None:
    known = facts(tmp_path, [(0, "ask", 3, 10), (1, "ask", 3, 20), (1, "ask", 3, 21), (2, "ask", 3, 30)], [])
    assert [known.askers(3, user, 4, 0) for user in (0, 1, 9)] == [(2, 30), (2, 30), (3, 30)]
    assert known.askers(3, 0, 4, 25) == (1, 30) and known.askers(3, 9, 3, 0) == (2, 21)
    assert known.askers(3, 9, 4, 31) == (0, 0)


@pytest.mark.parametrize("model", ["two-tower", "stu"])
def test_nothing_changes_where_a_contact_is_left_out_that_there_is_not(model: Any, people: Befriend) -> None:
    """The score without nothing is the score of the list."""
    from befriend.retrieval.ablation import Without

    user = people.log.user_ids[int(np.bincount(people.log.actor).argmax())]
    requests = requests_table(pl.Series([user]))
    request, recommender = people.lists().request(requests), people.recommender()
    lists = people.answer(requests, RecommendOptions(model, 10))
    ranking = recommender.rank(request, (model,))
    snapshot = recommender.at(int(request.visible[0]), int(request.horizon[0]))
    who = people.log.numbers(lists["recommended"])
    one = Without(recommender.retrievers[model], snapshot.views[model], ranking.asked[model], request, who, [10**6])
    assert one.total.numpy() == pytest.approx(lists["score"].to_numpy(), abs=1e-5)
    assert one.without_contact(10**6).numpy() == pytest.approx(one.total.numpy(), abs=1e-9)
