"""From posts to a vector for every user at every moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from befriend.data.texts import TextVectors
from befriend.text.corpus import Person
from befriend.text.data import Post, Statement, UserData, cut, moments, pack, packed
from befriend.text.encoder import Words
from befriend.text.settings import ModelConfig
from befriend.text.vectors import user_vectors

if TYPE_CHECKING:
    from befriend.text.trainer import UniversalUserEmbeddingTrainer

Posts = dict[int, list[list[Post]]]
"""user -> their posts in the order of time, each cut into pieces that fit into a chunk"""


def posts_of(
    user: np.ndarray, second: Iterable[int], platform: Iterable[str], text: Iterable[str], config: ModelConfig
) -> Posts:
    """From columns, by user, then time."""
    texts = list(text)
    pieces = cut(texts, Words(config.user_model_name).offsets, config.max_chunk_length)
    found: Posts = {}
    for who, when, where, parts in zip(user.tolist(), second, platform, pieces, strict=True):
        found.setdefault(who, []).append([Post(part, where, when, tokens) for part, tokens in parts])
    return found


def users_before(posts: Posts, said: Sequence[tuple[int, str, str]], until: int, config: ModelConfig) -> list[UserData]:
    """Everybody who wrote something before the UTC second `until`, by what they wrote and what is said of them.

    said: user, statement and context.
    """
    of: dict[int, list[Statement]] = {}
    for user, statement, context in said:
        of.setdefault(user, []).append(Statement(statement, context))
    found = []
    for user, own in posts.items():
        earlier = [piece for post in own if post and post[0].second < until for piece in post]
        if earlier:
            chunks = pack(earlier, config.max_chunk_length)[: config.num_chunks_per_user]
            found.append(UserData(str(user), chunks, of.get(user, [])))
    return found


def embedded(trainer: UniversalUserEmbeddingTrainer, posts: Posts, num_users: int) -> TextVectors:
    """A vector for each moment at which somebody's is made anew, and for each post the moment that counts from then."""
    corpus, config = trainer.corpus, trainer.config
    people: list[Person] = []
    users: list[int] = []
    seconds: list[int] = []
    rows: list[int] = []
    for user in sorted(posts):
        own = [post for post in posts[user] if post]
        if not own:
            continue
        times = [post[0].second for post in own]
        at = moments(times)
        pieces = [piece for post in own for piece in post]
        ends = np.cumsum([len(post) for post in own])
        made = packed(pieces, config.max_chunk_length, [int(ends[k - 1]) for k in at], config.num_chunks_per_user)
        first = len(people)
        people += [corpus.person(UserData(str(user), chunks)) for chunks in made]
        # The vector that a post is part of counts from the last post of it on; until then the one before.
        count = np.searchsorted(at, np.arange(1, len(own) + 1), side="right")
        users += [user] * len(own)
        seconds += times
        rows += (first + np.maximum(count - 1, 0)).tolist()
    if not people:
        return TextVectors.none(num_users)
    corpus.user_side.read(trainer.lexicon)
    trainer.model.eval()
    vectors = user_vectors(trainer.model.user, corpus, people)
    found = TextVectors.none(num_users)
    return replace(
        found,
        user=torch.tensor(users, dtype=torch.long),
        second=torch.tensor(seconds, dtype=torch.long),
        row=torch.tensor(rows, dtype=torch.long),
        vectors=vectors.contiguous(),
    )
