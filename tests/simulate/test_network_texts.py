"""Texts of a simulated network reflect the communities, and do not change the events."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from befriend.simulate.network import simulate, write
from befriend.simulate.network_settings import SimulateSettings
from befriend.simulate.network_texts import (
    INTERESTS_PER_COMMUNITY,
    MAX_INTERESTS,
    MIN_INTERESTS,
    SimulatedTexts,
    draw_interests,
    simulate_texts,
)
from befriend.simulate.topics import TOPICS

DAY = 86_400
SMALL: dict[str, Any] = {"users": 600, "events": 8000, "communities": 10, "texts": 2.0}
NAME = re.compile(rf"\b({'|'.join(TOPICS)})\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def network() -> tuple[pl.DataFrame, pl.DataFrame]:
    return simulate(SimulateSettings(**SMALL))


@pytest.fixture(scope="module")
def simulated(network: tuple[pl.DataFrame, pl.DataFrame]) -> SimulatedTexts:
    return simulate_texts(SimulateSettings(**SMALL), *network)


def test_equal_settings_give_equal_tables_and_the_same_events_as_without_texts(tmp_path: Path) -> None:
    small = {"users": 60, "events": 500, "communities": 4}
    for folder, changes in (
        ("first", {"texts": 1.0}),
        ("second", {"texts": 1.0}),
        ("other", {"texts": 1.0, "seed": 1}),
        ("none", {}),
    ):
        write(SimulateSettings(**small | changes), tmp_path / folder)
    for name in ("events", "truth", "texts", "statements"):
        first, second, other_seed = (
            (tmp_path / folder / f"{name}.parquet").read_bytes() for folder in ("first", "second", "other")
        )
        assert first == second != other_seed
    assert sorted(path.name for path in (tmp_path / "none").iterdir()) == ["events.parquet", "truth.parquet"]
    with_texts, without = (pl.read_parquet(tmp_path / folder / "truth.parquet") for folder in ("first", "none"))
    assert (tmp_path / "first/events.parquet").read_bytes() == (tmp_path / "none/events.parquet").read_bytes()
    assert with_texts.join(without, on="user_id", how="semi").equals(without)


def test_most_users_begin_with_a_profile_and_write_posts_with_their_events(
    network: tuple[pl.DataFrame, pl.DataFrame], simulated: SimulatedTexts
) -> None:
    events, start = network[0], SimulateSettings().start
    profile_share, posts = (simulated.texts.filter(platform=kind) for kind in ("profile", "post"))
    with_join = profile_share.join(simulated.truth, on="user_id", validate="1:1")
    assert (with_join["timestamp"] == pl.Series([max(start, joined) for joined in with_join["joined"]])).all()
    assert with_join.height == pytest.approx(0.9 * 600, abs=40)
    assert simulated.texts.height == pytest.approx(2.0 * 606, abs=60)
    posts = posts.join(network[1], on="user_id", how="semi").select("user_id", "timestamp")
    without_event = posts.join(events, left_on=["user_id", "timestamp"], right_on=["actor_id", "timestamp"], how="anti")
    assert posts.height > 100 and not without_event.height
    assert simulated.texts["timestamp"].is_sorted()
    assert simulated.texts["timestamp"].max() <= start + 180 * DAY
    assert simulated.texts.schema == {
        "user_id": pl.Int64,
        "timestamp": pl.Int64,
        "platform": pl.String,
        "text": pl.String,
    }


def test_some_users_have_texts_only(network: tuple[pl.DataFrame, pl.DataFrame], simulated: SimulatedTexts) -> None:
    texts_only = simulated.truth.join(network[1], on="user_id", how="anti")
    assert (texts_only.height, simulated.truth.height, simulated.truth["user_id"].n_unique()) == (6, 606, 606)
    assert set(texts_only["user_id"]) <= set(simulated.texts["user_id"])
    assert not set(texts_only["user_id"]) & (set(network[0]["actor_id"]) | set(network[0]["target_id"]))
    assert texts_only["community"].is_between(0, 9).all()


@pytest.mark.parametrize("homophily", [0.0, 0.4, 1.0])
def test_homophily_sets_the_share_of_interests_from_the_community(homophily: float) -> None:
    community = np.arange(3000) % 10
    settings = SimulateSettings(users=3000, communities=10, homophily=homophily)
    community_interests, interests = draw_interests(settings, community, np.random.default_rng(0))
    is_interest = interests >= 0
    assert set(is_interest.sum(axis=1)) == set(range(MIN_INTERESTS, MAX_INTERESTS + 1))
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in interests)
    shared = (interests[:, :, None] == community_interests[community][:, None, :]).any(axis=2)[is_interest].mean()
    assert shared == pytest.approx(homophily + (1 - homophily) * INTERESTS_PER_COMMUNITY / len(TOPICS), abs=0.03)


def test_statements_name_some_of_the_interests(simulated: SimulatedTexts) -> None:
    statements = simulated.statements
    assert statements.columns == ["user_id", "statement"]
    assert set(statements["statement"]) <= {f"interested in {topic}" for topic in TOPICS}
    assert statements.is_unique().all()
    assert statements.height / 606 == pytest.approx(0.6 * (MIN_INTERESTS + MAX_INTERESTS) / 2, abs=0.15)
    # A topic named in a text is an interest of its author, and 60% of the interests are statements.
    named = simulated.texts.with_columns(
        pl.lit("interested in ") + pl.col("text").str.extract(rf"\b({'|'.join(TOPICS)})\b")
    )
    named = named.rename({"literal": "statement"}).drop_nulls("statement")
    assert named.join(statements, on=["user_id", "statement"], how="semi").height / named.height == pytest.approx(
        0.6, abs=0.05
    )


def test_half_of_the_texts_do_not_name_their_topic(simulated: SimulatedTexts) -> None:
    words = simulated.texts["text"].str.split(" ").list.len()
    assert words.is_between(6, 16).all()
    assert simulated.texts["text"].str.contains(r"\b(I|me|my|My|I'm)\b").all()
    named = [bool(NAME.search(text)) for text in simulated.texts["text"]]
    assert np.mean(named) == pytest.approx(0.5, abs=0.05)
    assert len(TOPICS) == 60
    phrases = [phrase for of_topic in TOPICS.values() for phrase in of_topic]
    assert len(phrases) == len(set(phrases)) == 8 * 60
    assert not [phrase for phrase in phrases if NAME.search(phrase)]
