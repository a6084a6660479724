"""Users by what they wrote and what is said of them, and how their posts become chunks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

DAY = 86_400


@dataclass(frozen=True)
class UserChunk:
    """Some text of a user: a post, or several that were packed together."""

    text: str
    platform: str = ""
    timestamp: datetime | None = None
    """of its newest post; without a zone it is UTC"""

    @property
    def second(self) -> int | None:
        """UTC second."""
        if self.timestamp is None:
            return None
        zoned = self.timestamp if self.timestamp.tzinfo else self.timestamp.replace(tzinfo=UTC)
        return int(zoned.timestamp())


@dataclass(frozen=True)
class Statement:
    """Something that may be true of a user."""

    text: str
    context: str = ""
    """where or of what it was said"""
    metadata: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """Statements of equal key say the same: letters' case and white space do not count."""
        return " ".join(self.text.casefold().split()), " ".join(self.context.casefold().split())


@dataclass(frozen=True)
class UserData:
    """A user: chunks in any order, and what is known to be true."""

    user_id: str
    chunks: Sequence[UserChunk]
    statements: Sequence[str | Statement] = ()
    metadata: Mapping[str, float] = field(default_factory=dict)


def as_statement(statement: str | Statement) -> Statement:
    return Statement(statement) if isinstance(statement, str) else statement


@dataclass(frozen=True)
class Post:
    """A text at its second, and how long it is."""

    text: str
    platform: str
    second: int
    tokens: int


def cut(
    texts: Sequence[str], encode: Callable[[Sequence[str]], list[list[tuple[int, int]]]], most: int
) -> list[list[tuple[str, int]]]:
    """Each text as pieces of at most so many tokens, with their numbers of tokens.

    encode: the offsets (from, to) of every token of each text, in letters.
    """
    found = []
    for text, offsets in zip(texts, encode(texts), strict=True):
        starts = range(0, max(len(offsets), 1), most)
        bounds = [0, *(offsets[start][0] for start in starts[1:]), len(text)]
        pieces = []
        for start, low, high in zip(starts, bounds[:-1], bounds[1:], strict=True):
            pieces.append((text[low:high].strip(), min(most, len(offsets) - start)))
        found.append([piece for piece in pieces if piece[0]])
    return found


def pack(posts: Sequence[Post], most: int) -> list[UserChunk]:
    """A user's posts, in the order of time, as chunks of at most so many tokens; the newest chunk first.

    Neighbouring posts of one platform share a chunk as long as they fit. Chunks fill up from the oldest post on, so
    that a later post changes the newest chunk or begins another, and none but that.
    """
    return packed(posts, most, [len(posts)], len(posts))[0]


def packed(posts: Sequence[Post], most: int, at: Sequence[int], newest: int) -> list[list[UserChunk]]:
    """As `pack`, of the first so many posts, for each of some ascending numbers; `newest` chunks at most."""
    closed: list[UserChunk] = []
    opened: list[Post] = []
    found: list[list[UserChunk]] = []
    wanted = iter(at)
    coming = next(wanted, None)
    if coming == 0:
        found, coming = [[]], next(wanted, None)
    for number, post in enumerate(posts, 1):
        fits = opened and opened[-1].platform == post.platform
        if fits and sum(p.tokens for p in opened) + post.tokens <= most:
            opened.append(post)
        else:
            closed += [_joined(opened)] if opened else []
            opened = [post]
        if number == coming:
            found.append([_joined(opened), *closed[:-newest:-1]])
            coming = next(wanted, None)
    return found


def _joined(posts: Sequence[Post]) -> UserChunk:
    last = posts[-1]
    return UserChunk("\n".join(post.text for post in posts), last.platform, datetime.fromtimestamp(last.second, UTC))


def moments(seconds: Sequence[int]) -> list[int]:
    """How many posts a user has at each moment at which their vector is made anew, from their seconds, ascending.

    With the 1st, 2nd, 4th, 8th, ... post, and with the first one of each UTC day: somebody new has a vector at once,
    and it lacks a day's posts at most. Later posts change none of that.
    """
    n = len(seconds)
    daily = {k for k in range(1, n + 1) if k == 1 or seconds[k - 1] // DAY != seconds[k - 2] // DAY}
    doubled = {2**k for k in range(n.bit_length()) if 2**k <= n}
    # Posts of one second cannot be told apart: a moment has all of them.
    return sorted({bisect_right(seconds, seconds[k - 1]) for k in daily | doubled})
