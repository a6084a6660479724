"""What the users of a simulated network write: interests they share with their community, and texts that reveal them.

It has a random generator of its own, so that events are the same with and without texts. Equal settings give equal
tables.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import polars as pl

from befriend.data.columns import ACTOR, PLATFORM, STATEMENT, TAGGED, TEXT, TIMESTAMP, USER_ID
from befriend.data.event_log import DAY
from befriend.simulate.network_settings import COMMUNITY, JOINED, SimulateSettings
from befriend.simulate.topics import POSTS_HINTED, POSTS_NAMED, PROFILES_HINTED, PROFILES_NAMED, TOPICS

NAMES: Final = list(TOPICS)
PHRASES: Final = list(TOPICS.values())
OF_A_COMMUNITY: Final = 5  # interests of a community
FEWEST, MOST = 2, 4  # interests of a user
INTRODUCED: Final = 0.9  # share of users who write a profile when they join
ONLY_WRITE: Final = 0.01  # users without any event, per user with events
NAMED: Final = 0.5  # share of texts that name their interest; the others only hint at it
STATED: Final = 0.6  # share of interests that appear in a statement


class SimulatedTexts(NamedTuple):
    """The texts, the statements, and all users."""

    texts: pl.DataFrame
    """user_id, timestamp, platform (profile or post) and text, in time order"""
    statements: pl.DataFrame
    """user_id and statement, by user"""
    truth: pl.DataFrame
    """user_id, community and joined, by user; includes users who only write"""


def simulate_texts(settings: SimulateSettings, events: pl.DataFrame, truth: pl.DataFrame) -> SimulatedTexts:
    """Texts and statements of the users of a network with these events, and of some users who only write.

    truth: by user_id. Profiles are written when their user joins, posts when their user acts.
    """
    s, rng = settings, np.random.Generator(np.random.PCG64((settings.seed, 1)))
    n, profiles = truth.height, min(INTRODUCED, settings.texts)
    all_users = pl.concat([truth, _users_who_only_write(s, truth, rng)])
    without_events = np.arange(n, all_users.height)
    interests = draw_interests(s, all_users[COMMUNITY].to_numpy(), rng)[1]
    joined = all_users[JOINED].to_numpy()
    introduced = np.concatenate([np.flatnonzero(rng.random(n) < profiles), without_events])
    rows = rng.choice(events.height, min(round((s.texts - profiles) * n), events.height), replace=False)
    actor = np.searchsorted(truth[USER_ID].to_numpy(), events[ACTOR].to_numpy()[rows])
    extra = np.repeat(without_events, rng.poisson(s.texts - profiles, len(without_events)))
    extra_seconds = joined[extra] + (rng.random(len(extra)) * (s.start + s.days * DAY - joined[extra])).astype(np.int64)
    writer = np.concatenate([introduced, actor, extra])
    second = np.concatenate(
        [np.maximum(joined[introduced], s.start), events[TIMESTAMP].to_numpy()[rows], extra_seconds]
    )
    text = [*_profiles(interests[introduced], rng), *_posts(interests[writer[len(introduced) :]], rng)]
    ids = all_users[USER_ID].to_numpy()
    texts = pl.DataFrame(
        {
            USER_ID: ids[writer],
            TIMESTAMP: second,
            PLATFORM: ["profile"] * len(introduced) + ["post"] * (len(text) - len(introduced)),
            TEXT: text,
        }
    )
    user, slot = np.nonzero((interests >= 0) & (rng.random(interests.shape) < STATED))
    stated = [TAGGED.format(NAMES[topic]) for topic in interests[user, slot]]
    statements = pl.DataFrame({USER_ID: ids[user], STATEMENT: stated}, schema_overrides={STATEMENT: pl.String})
    return SimulatedTexts(
        texts.sort(TIMESTAMP, USER_ID, PLATFORM, TEXT), statements.sort(USER_ID, STATEMENT), all_users.sort(USER_ID)
    )


def draw_interests(
    settings: SimulateSettings, community: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """int64[communities, OF_A_COMMUNITY] interests of each community, and int64[users, MOST] interests of each user.

    A user's interests have no order, and -1 fills the rest of the row. Each is one of the user's community with
    probability `homophily`, else any.
    """
    n = len(community)
    of_community = rng.random((settings.communities, len(NAMES))).argsort(axis=1)[:, :OF_A_COMMUNITY]
    order = rng.random((n, OF_A_COMMUNITY)).argsort(axis=1)[:, :MOST]
    at_home = rng.random((n, MOST)) < settings.homophily
    interests = np.where(at_home, np.take_along_axis(of_community[community], order, axis=1), -1)
    for slot in range(MOST):
        todo = np.flatnonzero(~at_home[:, slot])
        while len(todo):
            drawn = rng.integers(0, len(NAMES), len(todo))
            is_new = (interests[todo] != drawn[:, None]).all(axis=1)
            interests[todo[is_new], slot] = drawn[is_new]
            todo = todo[~is_new]
    interests[np.arange(MOST) >= rng.integers(FEWEST, MOST + 1, n)[:, None]] = -1
    return of_community, interests


def _users_who_only_write(settings: SimulateSettings, truth: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """user_id, community and joined of users with unused ids, who join at any time, larger communities more often."""
    count = max(1, round(ONLY_WRITE * truth.height))
    unused = np.setdiff1d(np.arange(1, 10 * settings.users + 1), truth[USER_ID].to_numpy())
    joined = settings.start + (rng.random(count) * settings.days * DAY).astype(np.int64)
    return pl.DataFrame(
        {
            USER_ID: np.sort(rng.choice(unused, count, replace=False)),
            COMMUNITY: rng.choice(truth[COMMUNITY].to_numpy(), count),
            JOINED: joined,
        }
    )


def _profiles(interests: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A profile for each row of interests, about the first two."""
    return _sentences(PROFILES_NAMED, PROFILES_HINTED, interests[:, 0], interests[:, 1], rng)


def _posts(interests: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A post for each row of interests, about one of them."""
    slot = (rng.random(len(interests)) * (interests >= 0).sum(axis=1)).astype(np.int64)
    topic = interests[np.arange(len(interests)), slot]
    return _sentences(POSTS_NAMED, POSTS_HINTED, topic, topic, rng)


def _sentences(
    named: tuple[str, ...],
    hinted: tuple[str, ...],
    topic: np.ndarray,
    second_topic: np.ndarray,
    rng: np.random.Generator,
) -> list[str]:
    """A sentence for each row from a random template, of `named` or `hinted`, filled with random phrases."""
    n = len(topic)
    is_named, template_draw = rng.random(n) < NAMED, rng.random(n)
    first_phrase, second_phrase = rng.random((n, len(PHRASES[0]))).argsort(axis=1)[:, :2].T
    sentences = []
    for name, draw, t, o, first, second in zip(
        is_named, template_draw, topic, second_topic, first_phrase, second_phrase, strict=True
    ):
        templates = named if name else hinted
        sentences.append(
            templates[int(draw * len(templates))].format(
                topic=NAMES[t],
                other=NAMES[o],
                phrase=PHRASES[t][first],
                second=PHRASES[t][second],
                distant=PHRASES[o][second],
            )
        )
    return sentences
