"""Users and statements, the input of the text towers, and how posts are packed into chunks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from befriend.data.event_log import DAY


@dataclass(frozen=True)
class UserChunk:
    """A passage of a user's texts: one post, a piece of a long post, or several posts packed together."""

    text: str
    platform: str = ""
    timestamp: datetime | None = None
    """time of the newest post in it; UTC if it has no time zone"""

    @property
    def utc_second(self) -> int | None:
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
        """(text, context) with case and white space normalised. Statements with equal keys are the same statement."""
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
class PostPiece:
    """A post, or a piece of a post that is too long for one chunk."""

    text: str
    platform: str
    timestamp: int
    """UTC second"""
    num_tokens: int


def cut_into_pieces(
    texts: Sequence[str], encode: Callable[[Sequence[str]], list[list[tuple[int, int]]]], max_tokens: int
) -> list[list[tuple[str, int]]]:
    """Each text as pieces of at most `max_tokens` tokens: (piece, number of tokens).

    encode: a function from texts to the character offsets (start, end) of every token of each text.
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


def pack_pieces(pieces: Sequence[PostPiece], max_tokens: int) -> list[UserChunk]:
    """Packs the pieces of a user's posts, in time order, into chunks of at most `max_tokens` tokens, the newest first.

    Adjacent pieces of one platform share a chunk as long as they fit. Chunks fill up from the oldest post on, so a
    later post extends the newest chunk or starts a new one, and changes no other.
    """
    return pack_pieces_at(pieces, max_tokens, [len(pieces)], len(pieces))[0]


def pack_pieces_at(
    pieces: Sequence[PostPiece], max_tokens: int, piece_counts: Sequence[int], max_chunks: int
) -> list[list[UserChunk]]:
    """`pack_pieces` of the first n pieces for each n in `piece_counts`, ascending; the newest `max_chunks` of each."""
    closed: list[UserChunk] = []
    open_pieces: list[PostPiece] = []
    packed: list[list[UserChunk]] = []
    counts = iter(piece_counts)
    next_count = next(counts, None)
    if next_count == 0:
        packed, next_count = [[]], next(counts, None)
    for number, piece in enumerate(pieces, 1):
        same_platform = open_pieces and open_pieces[-1].platform == piece.platform
        if same_platform and sum(p.num_tokens for p in open_pieces) + piece.num_tokens <= max_tokens:
            open_pieces.append(piece)
        else:
            closed += [_join_pieces(open_pieces)] if open_pieces else []
            open_pieces = [piece]
        if number == next_count:
            packed.append([_join_pieces(open_pieces), *closed[:-max_chunks:-1]])
            next_count = next(counts, None)
    return packed


def _join_pieces(pieces: Sequence[PostPiece]) -> UserChunk:
    last = pieces[-1]
    return UserChunk("\n".join(p.text for p in pieces), last.platform, datetime.fromtimestamp(last.timestamp, UTC))


def snapshot_counts(timestamps: Sequence[int]) -> list[int]:
    """Number of posts of a user at each of their text snapshots, at which their vector is computed again.

    timestamps: the UTC seconds of the posts, ascending. A snapshot is taken at the 1st, 2nd, 4th, 8th, ... post and at
    the first post of each UTC day: a new user has a vector immediately, and a vector lacks a day's posts at most. Later
    posts change no earlier snapshot.
    """
    n = len(timestamps)
    daily = {k for k in range(1, n + 1) if k == 1 or timestamps[k - 1] // DAY != timestamps[k - 2] // DAY}
    doubled = {2**k for k in range(n.bit_length()) if 2**k <= n}
    # Posts of the same second have no order: a snapshot includes all of them.
    return sorted({bisect_right(timestamps, timestamps[k - 1]) for k in daily | doubled})
