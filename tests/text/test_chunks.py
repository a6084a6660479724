"""Chunks: packing of posts, cuts of long posts, and the snapshots at which a vector is computed again."""

from __future__ import annotations

from datetime import UTC, datetime

from befriend.text import Statement, UserChunk
from befriend.text.chunks import DAY, PostPiece, cut_into_pieces, pack_pieces, pack_pieces_at, snapshot_counts


def post(text: str, utc_second: int, tokens: int = 4, platform: str = "") -> PostPiece:
    return PostPiece(text, platform, utc_second, tokens)


def word_offsets(texts: list[str]) -> list[list[tuple[int, int]]]:
    """Character offsets of tokens; each word is a token."""
    offsets = []
    for text in texts:
        of_text, end = [], 0
        for word in text.split():
            start = text.index(word, end)
            end = start + len(word)
            of_text.append((start, end))
        offsets.append(of_text)
    return offsets


def test_chunks_stay_within_the_token_budget_and_the_newest_comes_first() -> None:
    chunks = pack_pieces([post("a", 10), post("b", 20), post("c", 30)], 8)
    assert [chunk.text for chunk in chunks] == ["c", "a\nb"]
    assert chunks[1].timestamp == datetime.fromtimestamp(20, UTC)


def test_posts_of_different_platforms_are_in_different_chunks() -> None:
    assert [
        c.platform for c in pack_pieces([post("a", 1, 1, "x"), post("b", 2, 1, "y"), post("c", 3, 1, "y")], 99)
    ] == [
        "y",
        "x",
    ]


def test_a_later_post_changes_the_newest_chunk_only() -> None:
    posts = [post(str(k), k, 3) for k in range(9)]
    before, after = pack_pieces(posts[:6], 7), pack_pieces(posts, 7)
    assert after[-len(before) + 1 :] == before[1:]


def test_packing_at_several_counts_equals_packing_the_first_posts() -> None:
    posts = [post(str(k), k, 1 + k % 3) for k in range(8)]
    assert pack_pieces_at(posts, 5, [1, 4, 8], 99) == [pack_pieces(posts[:n], 5) for n in (1, 4, 8)]
    assert pack_pieces_at(posts, 5, [8], 2) == [pack_pieces(posts, 5)[:2]]


def test_a_long_post_is_cut_between_tokens_and_nothing_is_lost() -> None:
    (pieces,) = cut_into_pieces(["one two three four five"], word_offsets, 2)
    assert pieces == [("one two", 2), ("three four", 2), ("five", 1)]
    assert cut_into_pieces(["", "  "], word_offsets, 2) == [[], []]


def test_snapshots_are_at_the_first_post_at_doubled_counts_and_daily() -> None:
    assert snapshot_counts([5]) == [1]
    assert snapshot_counts([5, 6, 7, 8, 9]) == [1, 2, 4]
    assert snapshot_counts([5, 6, DAY + 1, DAY + 2, DAY + 3, DAY + 4, 2 * DAY]) == [1, 2, 3, 4, 7]


def test_later_posts_change_no_earlier_snapshot() -> None:
    seconds = [5, 6, 90, DAY + 1, DAY + 2, DAY + 3, DAY + 4, 2 * DAY, 2 * DAY + 9]
    for n in range(1, len(seconds)):
        assert snapshot_counts(seconds[:n]) == [k for k in snapshot_counts(seconds) if k <= n]


def test_a_snapshot_includes_all_posts_of_its_second() -> None:
    assert snapshot_counts([5, 5, 5]) == [3]


def test_equal_statements_have_the_same_key() -> None:
    assert Statement("Likes  Tea").key == Statement("likes tea").key
    assert Statement("likes tea", "at work").key != Statement("likes tea").key


def test_a_time_without_zone_is_utc() -> None:
    assert UserChunk("x", timestamp=datetime(1970, 1, 2)).utc_second == DAY
