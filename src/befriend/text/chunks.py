"""A user as the text towers see one (texts and true statements), and how posts are packed into chunks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from befriend.data.event_log import DAY


@dataclass(frozen=True)
class UserChunk:
    """A passage of a user's text: one post, or several packed together."""

    text: str
    platform: str = ""
    timestamp: datetime | None = None
    """time of its newest post; UTC if it has no time zone"""

    @property
    def second(self) -> int | None:
        """The timestamp as a UTC second."""
        if self.timestamp is None:
            return None
        zoned = self.timestamp if self.timestamp.tzinfo else self.timestamp.replace(tzinfo=UTC)
        return int(zoned.timestamp())


@dataclass(frozen=True)
class Statement:
    """Something that may be true of a user, such as "interested in hiking"."""

    text: str
    context: str = ""
    """where the statement was made, or what it refers to"""
    metadata: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """(text, context) without regard to case and white space: statements with equal keys are the same."""
        return " ".join(self.text.casefold().split()), " ".join(self.context.casefold().split())


@dataclass(frozen=True)
class UserData:
    """A user: chunks in any order, and the statements that are true of them."""

    user_id: str
    chunks: Sequence[UserChunk]
    statements: Sequence[str | Statement] = ()
    metadata: Mapping[str, float] = field(default_factory=dict)


def as_statement(statement: str | Statement) -> Statement:
    return Statement(statement) if isinstance(statement, str) else statement


@dataclass(frozen=True)
class Post:
    """A post, or a piece of a long one, with its UTC second and its number of tokens."""

    text: str
    platform: str
    second: int
    tokens: int


def cut_into_pieces(
    texts: Sequence[str], encode: Callable[[Sequence[str]], list[list[tuple[int, int]]]], max_tokens: int
) -> list[list[tuple[str, int]]]:
    """Each text as pieces of at most `max_tokens` tokens: (piece, number of tokens).

    encode: returns the character offsets (start, end) of every token of each text.
    """
    pieces_by_text = []
    for text, offsets in zip(texts, encode(texts), strict=True):
        first_tokens = range(0, max(len(offsets), 1), max_tokens)
        bounds = [0, *(offsets[token][0] for token in first_tokens[1:]), len(text)]
        pieces = []
        for token, start, end in zip(first_tokens, bounds[:-1], bounds[1:], strict=True):
            pieces.append((text[start:end].strip(), min(max_tokens, len(offsets) - token)))
        pieces_by_text.append([piece for piece in pieces if piece[0]])
    return pieces_by_text


def pack_posts(posts: Sequence[Post], max_tokens: int) -> list[UserChunk]:
    """Packs a user's posts, in time order, into chunks of at most `max_tokens` tokens; the newest chunk comes first.

    Adjacent posts of one platform share a chunk as long as they fit. Chunks fill up from the oldest post on, so a
    later post extends the newest chunk or starts a new one, and changes no other.
    """
    return pack_posts_at(posts, max_tokens, [len(posts)], len(posts))[0]


def pack_posts_at(
    posts: Sequence[Post], max_tokens: int, post_counts: Sequence[int], max_chunks: int
) -> list[list[UserChunk]]:
    """`pack_posts` of the first n posts for each n in `post_counts`, ascending; the newest `max_chunks` chunks each."""
    closed: list[UserChunk] = []
    open_posts: list[Post] = []
    packed: list[list[UserChunk]] = []
    counts = iter(post_counts)
    next_count = next(counts, None)
    if next_count == 0:
        packed, next_count = [[]], next(counts, None)
    for number, post in enumerate(posts, 1):
        same_platform = open_posts and open_posts[-1].platform == post.platform
        if same_platform and sum(p.tokens for p in open_posts) + post.tokens <= max_tokens:
            open_posts.append(post)
        else:
            closed += [_chunk_of(open_posts)] if open_posts else []
            open_posts = [post]
        if number == next_count:
            packed.append([_chunk_of(open_posts), *closed[:-max_chunks:-1]])
            next_count = next(counts, None)
    return packed


def _chunk_of(posts: Sequence[Post]) -> UserChunk:
    last = posts[-1]
    return UserChunk("\n".join(post.text for post in posts), last.platform, datetime.fromtimestamp(last.second, UTC))


def snapshot_counts(seconds: Sequence[int]) -> list[int]:
    """Number of posts of a user at each of their text snapshots, at which their vector is computed again.

    seconds: the UTC seconds of their posts, ascending. A snapshot is taken at the 1st, 2nd, 4th, 8th, ... post and at
    the first post of each UTC day: a new user has a vector at once, and a vector lacks a day's posts at most. Later
    posts change no earlier snapshot.
    """
    n = len(seconds)
    daily = {k for k in range(1, n + 1) if k == 1 or seconds[k - 1] // DAY != seconds[k - 2] // DAY}
    doubled = {2**k for k in range(n.bit_length()) if 2**k <= n}
    # Posts of the same second have no order: a snapshot includes all of them.
    return sorted({bisect_right(seconds, seconds[k - 1]) for k in daily | doubled})
