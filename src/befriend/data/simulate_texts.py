"""What the users of a simulated network write: interests they share with their community, and texts that show them.

A generator of its own, so that events are the same with texts and without. Equal settings give equal tables.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import polars as pl

from befriend.data.columns import ACTOR, PLATFORM, STATEMENT, TAGGED, TEXT, TIMESTAMP, USER_ID
from befriend.data.topics import POSTS_HINTED, POSTS_NAMED, PROFILES_HINTED, PROFILES_NAMED, TOPICS
from befriend.data.traits import COMMUNITY, DAY, JOINED, SimulateSettings

NAMES: Final = list(TOPICS)
PHRASES: Final = list(TOPICS.values())
OF_A_COMMUNITY: Final = 5  # interests
FEWEST, MOST = 2, 4  # interests of a user
INTRODUCED: Final = 0.9  # share of users who write a profile when they join
ONLY_WRITE: Final = 0.01  # users without any event, per user with
NAMED: Final = 0.5  # share of texts that name their interest; in the others it is to be guessed
STATED: Final = 0.6  # share of interests that a statement tells


class Written(NamedTuple):
    """What was written, and everybody there is."""

    texts: pl.DataFrame
    """user_id, timestamp, platform (profile or post) and text, in time order"""
    statements: pl.DataFrame
    """user_id and statement, by user"""
    truth: pl.DataFrame
    """user_id, community and joined, by user: those who only write too"""


def simulate_texts(settings: SimulateSettings, events: pl.DataFrame, truth: pl.DataFrame) -> Written:
    """Texts and statements of the users of a network with these events, and of some who only write.

    truth: by user_id. Profiles are written at the moment of joining, posts at moments at which their users act.
    """
    s, rng = settings, np.random.Generator(np.random.PCG64((settings.seed, 1)))
    n, profiles = truth.height, min(INTRODUCED, settings.texts)
    everybody = pl.concat([truth, _who_only_write(s, truth, rng)])
    silent = np.arange(n, everybody.height)
    interests = draw_interests(s, everybody[COMMUNITY].to_numpy(), rng)[1]
    joined = everybody[JOINED].to_numpy()
    introduced = np.concatenate([np.flatnonzero(rng.random(n) < profiles), silent])
    acts = rng.choice(events.height, min(round((s.texts - profiles) * n), events.height), replace=False)
    actor = np.searchsorted(truth[USER_ID].to_numpy(), events[ACTOR].to_numpy()[acts])
    more = np.repeat(silent, rng.poisson(s.texts - profiles, len(silent)))
    later = joined[more] + (rng.random(len(more)) * (s.start + s.days * DAY - joined[more])).astype(np.int64)
    writer = np.concatenate([introduced, actor, more])
    second = np.concatenate([np.maximum(joined[introduced], s.start), events[TIMESTAMP].to_numpy()[acts], later])
    text = [*_profiles(interests[introduced], rng), *_posts(interests[writer[len(introduced) :]], rng)]
    ids = everybody[USER_ID].to_numpy()
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
    return Written(
        texts.sort(TIMESTAMP, USER_ID, PLATFORM, TEXT), statements.sort(USER_ID, STATEMENT), everybody.sort(USER_ID)
    )


def draw_interests(
    settings: SimulateSettings, community: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """int64[communities, OF_A_COMMUNITY] interests of each community, and int64[users, MOST] those of each user.

    A user's are in no order, -1 behind the last. Each is of the own community with probability `homophily`, else any.
    """
    n = len(community)
    usual = rng.random((settings.communities, len(NAMES))).argsort(axis=1)[:, :OF_A_COMMUNITY]
    order = rng.random((n, OF_A_COMMUNITY)).argsort(axis=1)[:, :MOST]
    at_home = rng.random((n, MOST)) < settings.homophily
    found = np.where(at_home, np.take_along_axis(usual[community], order, axis=1), -1)
    for slot in range(MOST):
        todo = np.flatnonzero(~at_home[:, slot])
        while len(todo):
            drawn = rng.integers(0, len(NAMES), len(todo))
            new = (found[todo] != drawn[:, None]).all(axis=1)
            found[todo[new], slot] = drawn[new]
            todo = todo[~new]
    found[np.arange(MOST) >= rng.integers(FEWEST, MOST + 1, n)[:, None]] = -1
    return usual, found


def _who_only_write(settings: SimulateSettings, truth: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Users with ids of nobody else, who join at any moment a community as large as it is."""
    count = max(1, round(ONLY_WRITE * truth.height))
    free = np.setdiff1d(np.arange(1, 10 * settings.users + 1), truth[USER_ID].to_numpy())
    joined = settings.start + (rng.random(count) * settings.days * DAY).astype(np.int64)
    return pl.DataFrame(
        {
            USER_ID: np.sort(rng.choice(free, count, replace=False)),
            COMMUNITY: rng.choice(truth[COMMUNITY].to_numpy(), count),
            JOINED: joined,
        }
    )


def _profiles(interests: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A first text for each row of interests, about the first two."""
    return _sentences(PROFILES_NAMED, PROFILES_HINTED, interests[:, 0], interests[:, 1], rng)


def _posts(interests: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A text for each row of interests, about one of them."""
    place = (rng.random(len(interests)) * (interests >= 0).sum(axis=1)).astype(np.int64)
    topic = interests[np.arange(len(interests)), place]
    return _sentences(POSTS_NAMED, POSTS_HINTED, topic, topic, rng)


def _sentences(
    named: tuple[str, ...], hinted: tuple[str, ...], topic: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> list[str]:
    n = len(topic)
    names, chance = rng.random(n) < NAMED, rng.random(n)
    one, two = rng.random((n, len(PHRASES[0]))).argsort(axis=1)[:, :2].T
    found = []
    for name, share, t, o, first, second in zip(names, chance, topic, other, one, two, strict=True):
        templates = named if name else hinted
        found.append(
            templates[int(share * len(templates))].format(
                topic=NAMES[t],
                other=NAMES[o],
                phrase=PHRASES[t][first],
                second=PHRASES[t][second],
                distant=PHRASES[o][second],
            )
        )
    return found
