"""Text vectors of users over time: a vector at each snapshot of a user's posts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from befriend.features.text_vectors import TextVectors
from befriend.text.chunks import (
    PostPiece,
    Statement,
    UserData,
    cut_into_pieces,
    pack_pieces,
    pack_pieces_at,
    snapshot_counts,
)
from befriend.text.corpus import ChunkedUser
from befriend.text.embed import user_vectors
from befriend.text.text_encoder import TokenOffsets
from befriend.text.text_settings import ModelConfig

if TYPE_CHECKING:
    from befriend.text.text_trainer import UniversalUserEmbeddingTrainer

Posts = dict[int, list[list[PostPiece]]]
"""user -> posts in time order, each cut into pieces that fit into a chunk"""


def posts_by_user(
    user: np.ndarray, timestamps: Iterable[int], platform: Iterable[str], text: Iterable[str], config: ModelConfig
) -> Posts:
    """Posts by user, from the columns of a table that is sorted by user, then time."""
    texts = list(text)
    pieces_by_text = cut_into_pieces(texts, TokenOffsets(config.user_model_name).offsets, config.max_chunk_length)
    posts: Posts = {}
    for author, timestamp, source, pieces in zip(user.tolist(), timestamps, platform, pieces_by_text, strict=True):
        posts.setdefault(author, []).append([PostPiece(piece, source, timestamp, tokens) for piece, tokens in pieces])
    return posts


def users_before(
    posts: Posts, statements: Sequence[tuple[int, str, str]], cutoff: int, config: ModelConfig
) -> list[UserData]:
    """Users with a post before the UTC second `cutoff`, with chunks of these posts and their statements.

    statements: (user, statement, context); the caller leaves out those after the cutoff.
    """
    statements_by_user: dict[int, list[Statement]] = {}
    for user, statement, context in statements:
        statements_by_user.setdefault(user, []).append(Statement(statement, context))
    users = []
    for user, user_posts in posts.items():
        earlier = [piece for post in user_posts if post and post[0].timestamp < cutoff for piece in post]
        if earlier:
            chunks = pack_pieces(earlier, config.max_chunk_length)[: config.num_chunks_per_user]
            users.append(UserData(str(user), chunks, statements_by_user.get(user, [])))
    return users


def embed_over_time(trainer: UniversalUserEmbeddingTrainer, posts: Posts, num_users: int) -> TextVectors:
    """A vector for each snapshot of each user, and for each post the row of the vector that is valid from it on.

    Example: a user with five posts in one day has snapshots of the first 1, 2 and 4 posts, hence three vectors, in rows
    0, 1, 2. The result has five entries, one per post, with the rows 0, 1, 1, 2, 2: after the third post the vector of
    the first two still holds, and after the fifth that of the first four.
    """
    corpus, config = trainer.corpus, trainer.config
    snapshots: list[ChunkedUser] = []
    users: list[int] = []
    timestamps: list[int] = []
    vector_rows: list[int] = []
    for user in sorted(posts):
        user_posts = [post for post in posts[user] if post]
        if not user_posts:
            continue
        post_times = [post[0].timestamp for post in user_posts]
        posts_at_snapshot = snapshot_counts(post_times)
        pieces = [piece for post in user_posts for piece in post]
        num_pieces = np.cumsum([len(post) for post in user_posts])  # of the first k posts
        packed = pack_pieces_at(
            pieces,
            config.max_chunk_length,
            [int(num_pieces[k - 1]) for k in posts_at_snapshot],
            config.num_chunks_per_user,
        )
        first_row = len(snapshots)
        snapshots += [corpus.chunked_user(UserData(str(user), chunks)) for chunks in packed]
        # A snapshot's vector is valid from its last post on; until then the previous snapshot's is.
        num_snapshots = np.searchsorted(posts_at_snapshot, np.arange(1, len(user_posts) + 1), side="right")
        users += [user] * len(user_posts)
        timestamps += post_times
        vector_rows += (first_row + np.maximum(num_snapshots - 1, 0)).tolist()
    if not snapshots:
        return TextVectors.none(num_users)
    corpus.user_side.index_new_texts(trainer.lexicon)
    trainer.model.eval()
    vectors = user_vectors(trainer.model.user, corpus, snapshots)
    empty = TextVectors.none(num_users)
    return replace(
        empty,
        user=torch.tensor(users, dtype=torch.long),
        timestamp=torch.tensor(timestamps, dtype=torch.long),
        row=torch.tensor(vector_rows, dtype=torch.long),
        vectors=vectors.contiguous(),
    )
