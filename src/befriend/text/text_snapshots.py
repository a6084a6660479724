"""Text vectors of every user over time, from their posts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from befriend.features.text_vectors import TextVectors
from befriend.text.chunks import Post, Statement, UserData, cut_into_pieces, pack_posts, pack_posts_at, snapshot_counts
from befriend.text.corpus import ChunkedUser
from befriend.text.embed import user_vectors
from befriend.text.text_encoder import TokenOffsets
from befriend.text.text_settings import ModelConfig

if TYPE_CHECKING:
    from befriend.text.text_trainer import UniversalUserEmbeddingTrainer

Posts = dict[int, list[list[Post]]]
"""user -> their posts in time order, each cut into pieces that fit into a chunk"""


def posts_of(
    user: np.ndarray, second: Iterable[int], platform: Iterable[str], text: Iterable[str], config: ModelConfig
) -> Posts:
    """Posts from the columns of a table that is sorted by user, then time."""
    texts = list(text)
    pieces_by_text = cut_into_pieces(texts, TokenOffsets(config.user_model_name).offsets, config.max_chunk_length)
    posts: Posts = {}
    for author, written, source, pieces in zip(user.tolist(), second, platform, pieces_by_text, strict=True):
        posts.setdefault(author, []).append([Post(piece, source, written, tokens) for piece, tokens in pieces])
    return posts


def users_before(
    posts: Posts, statements: Sequence[tuple[int, str, str]], cutoff: int, config: ModelConfig
) -> list[UserData]:
    """Every user who wrote something before the UTC second `cutoff`, with what they wrote before it.

    statements: (user, statement, context), used as given: the caller leaves out later ones.
    """
    statements_of: dict[int, list[Statement]] = {}
    for user, statement, context in statements:
        statements_of.setdefault(user, []).append(Statement(statement, context))
    users = []
    for user, user_posts in posts.items():
        earlier = [piece for post in user_posts if post and post[0].second < cutoff for piece in post]
        if earlier:
            chunks = pack_posts(earlier, config.max_chunk_length)[: config.num_chunks_per_user]
            users.append(UserData(str(user), chunks, statements_of.get(user, [])))
    return users


def embed_over_time(trainer: UniversalUserEmbeddingTrainer, posts: Posts, num_users: int) -> TextVectors:
    """A vector for each text snapshot of each user, and for each post the vector that is valid from it on."""
    corpus, config = trainer.corpus, trainer.config
    snapshots: list[ChunkedUser] = []
    users: list[int] = []
    seconds: list[int] = []
    rows: list[int] = []
    for user in sorted(posts):
        user_posts = [post for post in posts[user] if post]
        if not user_posts:
            continue
        times = [post[0].second for post in user_posts]
        counts = snapshot_counts(times)
        pieces = [piece for post in user_posts for piece in post]
        ends = np.cumsum([len(post) for post in user_posts])
        packed = pack_posts_at(
            pieces, config.max_chunk_length, [int(ends[k - 1]) for k in counts], config.num_chunks_per_user
        )
        first = len(snapshots)
        snapshots += [corpus.person(UserData(str(user), chunks)) for chunks in packed]
        # A snapshot's vector is valid from its last post on; until then the previous snapshot's is.
        reached = np.searchsorted(counts, np.arange(1, len(user_posts) + 1), side="right")
        users += [user] * len(user_posts)
        seconds += times
        rows += (first + np.maximum(reached - 1, 0)).tolist()
    if not snapshots:
        return TextVectors.none(num_users)
    corpus.user_side.read(trainer.lexicon)
    trainer.model.eval()
    vectors = user_vectors(trainer.model.user, corpus, snapshots)
    empty = TextVectors.none(num_users)
    return replace(
        empty,
        user=torch.tensor(users, dtype=torch.long),
        second=torch.tensor(seconds, dtype=torch.long),
        row=torch.tensor(rows, dtype=torch.long),
        vectors=vectors.contiguous(),
    )
