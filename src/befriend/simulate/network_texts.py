"""Simulates texts and statements: each user has interests, partly those of their community, and writes about them.

The random generator is not that of the events, so events are the same with and without texts. Equal settings give equal
tables.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import polars as pl

from befriend.data.columns import ACTOR, PLATFORM, STATEMENT, TAG_STATEMENT, TEXT, TIMESTAMP, USER_ID
from befriend.data.event_log import DAY
from befriend.simulate.network_settings import COMMUNITY, JOINED, SimulateSettings
from befriend.simulate.topics import POSTS_HINTED, POSTS_NAMED, PROFILES_HINTED, PROFILES_NAMED, TOPICS

TOPIC_NAMES: Final = list(TOPICS)
PHRASES: Final = list(TOPICS.values())
INTERESTS_PER_COMMUNITY: Final = 5
MIN_INTERESTS, MAX_INTERESTS = 2, 4  # of a user
PROFILE_SHARE: Final = 0.9  # share of users who write a profile when they join
TEXT_ONLY_SHARE: Final = 0.01  # number of users with texts and no event, per user of the events
NAMED_SHARE: Final = 0.5  # share of texts that contain the name of their interest; the others contain phrases only
STATED_SHARE: Final = 0.6  # share of interests that appear in a statement


class SimulatedTexts(NamedTuple):
    """The texts, the statements, and the table of all users."""

    texts: pl.DataFrame
    """user_id, timestamp, platform (profile or post) and text, in time order"""
    statements: pl.DataFrame
    """user_id and statement, by user"""
    truth: pl.DataFrame
    """user_id, community and joined, by user; includes users with texts and no event"""


def simulate_texts(settings: SimulateSettings, events: pl.DataFrame, truth: pl.DataFrame) -> SimulatedTexts:
    """Texts and statements of the users of a network, and of some more users who have texts and no event.

    events, truth: tables of `network.simulate`. A profile has the join time of its user, a post the time of one of the
    user's events, or any time for a user without events.
    """
    s, rng = settings, np.random.Generator(np.random.PCG64((settings.seed, 1)))
    n, profile_share = truth.height, min(PROFILE_SHARE, settings.texts)
    all_users = pl.concat([truth, _draw_text_only_users(s, truth, rng)])
    without_events = np.arange(n, all_users.height)
    interests = draw_interests(s, all_users[COMMUNITY].to_numpy(), rng)[1]
    join_times = all_users[JOINED].to_numpy()
    profile_users = np.concatenate([np.flatnonzero(rng.random(n) < profile_share), without_events])
    rows = rng.choice(events.height, min(round((s.texts - profile_share) * n), events.height), replace=False)
    actor = np.searchsorted(truth[USER_ID].to_numpy(), events[ACTOR].to_numpy()[rows])
    text_only_posts = np.repeat(without_events, rng.poisson(s.texts - profile_share, len(without_events)))
    author_join_times = join_times[text_only_posts]
    text_only_times = author_join_times + (
        rng.random(len(text_only_posts)) * (s.start + s.days * DAY - author_join_times)
    ).astype(np.int64)
    writer = np.concatenate([profile_users, actor, text_only_posts])
    second = np.concatenate(
        [np.maximum(join_times[profile_users], s.start), events[TIMESTAMP].to_numpy()[rows], text_only_times]
    )
    text = [
        *_write_profiles(interests[profile_users], rng),
        *_write_posts(interests[writer[len(profile_users) :]], rng),
    ]
    ids = all_users[USER_ID].to_numpy()
    texts = pl.DataFrame(
        {
            USER_ID: ids[writer],
            TIMESTAMP: second,
            PLATFORM: ["profile"] * len(profile_users) + ["post"] * (len(text) - len(profile_users)),
            TEXT: text,
        }
    )
    user, slot = np.nonzero((interests >= 0) & (rng.random(interests.shape) < STATED_SHARE))
    statement_texts = [TAG_STATEMENT.format(TOPIC_NAMES[topic]) for topic in interests[user, slot]]
    statements = pl.DataFrame({USER_ID: ids[user], STATEMENT: statement_texts}, schema_overrides={STATEMENT: pl.String})
    return SimulatedTexts(
        texts.sort(TIMESTAMP, USER_ID, PLATFORM, TEXT), statements.sort(USER_ID, STATEMENT), all_users.sort(USER_ID)
    )


def draw_interests(
    settings: SimulateSettings, community: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Interests of each community, int64[communities, INTERESTS_PER_COMMUNITY], and user, int64[users, MAX_INTERESTS].

    An interest is an index into TOPIC_NAMES; -1 fills the rest of a user's row. With probability `homophily` it is an
    interest of the user's community, otherwise any interest. community: int[users].
    """
    n = len(community)
    community_interests = rng.random((settings.communities, len(TOPIC_NAMES))).argsort(axis=1)[
        :, :INTERESTS_PER_COMMUNITY
    ]
    order = rng.random((n, INTERESTS_PER_COMMUNITY)).argsort(axis=1)[:, :MAX_INTERESTS]
    from_community = rng.random((n, MAX_INTERESTS)) < settings.homophily
    interests = np.where(from_community, np.take_along_axis(community_interests[community], order, axis=1), -1)
    for slot in range(MAX_INTERESTS):
        remaining = np.flatnonzero(~from_community[:, slot])
        while len(remaining):
            draws = rng.integers(0, len(TOPIC_NAMES), len(remaining))
            is_new = (interests[remaining] != draws[:, None]).all(axis=1)
            interests[remaining[is_new], slot] = draws[is_new]
            remaining = remaining[~is_new]
    interests[np.arange(MAX_INTERESTS) >= rng.integers(MIN_INTERESTS, MAX_INTERESTS + 1, n)[:, None]] = -1
    return community_interests, interests


def _draw_text_only_users(settings: SimulateSettings, truth: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """A table like `truth` of users with unused ids, uniform join times, and communities drawn by their size."""
    count = max(1, round(TEXT_ONLY_SHARE * truth.height))
    unused = np.setdiff1d(np.arange(1, 10 * settings.users + 1), truth[USER_ID].to_numpy())
    join_times = settings.start + (rng.random(count) * settings.days * DAY).astype(np.int64)
    return pl.DataFrame(
        {
            USER_ID: np.sort(rng.choice(unused, count, replace=False)),
            COMMUNITY: rng.choice(truth[COMMUNITY].to_numpy(), count),
            JOINED: join_times,
        }
    )


def _write_profiles(interests: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A profile for each row of interests, int64[n, MAX_INTERESTS], about the first two."""
    return _fill_templates(PROFILES_NAMED, PROFILES_HINTED, interests[:, 0], interests[:, 1], rng)


def _write_posts(interests: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A post for each row of interests, int64[n, MAX_INTERESTS], about one of them."""
    slot = (rng.random(len(interests)) * (interests >= 0).sum(axis=1)).astype(np.int64)
    topic = interests[np.arange(len(interests)), slot]
    return _fill_templates(POSTS_NAMED, POSTS_HINTED, topic, topic, rng)


def _fill_templates(
    named: tuple[str, ...],
    hinted: tuple[str, ...],
    topic: np.ndarray,
    second_topic: np.ndarray,
    rng: np.random.Generator,
) -> list[str]:
    """n sentences, each from a random template, filled with random phrases of its topics.

    named, hinted: templates with and without the name of a topic; topic, second_topic: int64[n], indices of topics.
    """
    n = len(topic)
    is_named, template_draw = rng.random(n) < NAMED_SHARE, rng.random(n)
    first_phrase, second_phrase = rng.random((n, len(PHRASES[0]))).argsort(axis=1)[:, :2].T
    sentences = []
    for use_name, draw, first_topic, other_topic, first, second in zip(
        is_named, template_draw, topic, second_topic, first_phrase, second_phrase, strict=True
    ):
        templates = named if use_name else hinted
        sentences.append(
            templates[int(draw * len(templates))].format(
                topic=TOPIC_NAMES[first_topic],
                other=TOPIC_NAMES[other_topic],
                phrase=PHRASES[first_topic][first],
                second=PHRASES[first_topic][second],
                distant=PHRASES[other_topic][second],
            )
        )
    return sentences
