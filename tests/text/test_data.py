"""Posts become chunks: what fits together, what is cut, and when a vector is made anew."""

from __future__ import annotations

from datetime import UTC, datetime

from befriend.text import Statement, UserChunk
from befriend.text.data import DAY, Post, cut, moments, pack, packed


def post(text: str, second: int, tokens: int = 4, platform: str = "") -> Post:
    return Post(text, platform, second, tokens)


def words(texts: list[str]) -> list[list[tuple[int, int]]]:
    """A token a word."""
    found = []
    for text in texts:
        places, at = [], 0
        for word in text.split():
            start = text.index(word, at)
            at = start + len(word)
            places.append((start, at))
        found.append(places)
    return found


def test_chunks_keep_within_the_budget_and_the_newest_comes_first() -> None:
    chunks = pack([post("a", 10), post("b", 20), post("c", 30)], 8)
    assert [chunk.text for chunk in chunks] == ["c", "a\nb"]
    assert chunks[1].timestamp == datetime.fromtimestamp(20, UTC)


def test_platforms_share_no_chunk() -> None:
    assert [c.platform for c in pack([post("a", 1, 1, "x"), post("b", 2, 1, "y"), post("c", 3, 1, "y")], 99)] == [
        "y",
        "x",
    ]


def test_a_later_post_changes_the_newest_chunk_alone() -> None:
    posts = [post(str(k), k, 3) for k in range(9)]
    before, after = pack(posts[:6], 7), pack(posts, 7)
    assert after[-len(before) + 1 :] == before[1:]


def test_what_was_there_at_a_moment_is_what_packing_up_to_there_gives() -> None:
    posts = [post(str(k), k, 1 + k % 3) for k in range(8)]
    assert packed(posts, 5, [1, 4, 8], 99) == [pack(posts[:n], 5) for n in (1, 4, 8)]
    assert packed(posts, 5, [8], 2) == [pack(posts, 5)[:2]]


def test_a_long_post_is_cut_between_tokens_and_nothing_is_lost() -> None:
    (pieces,) = cut(["one two three four five"], words, 2)
    assert pieces == [("one two", 2), ("three four", 2), ("five", 1)]
    assert cut(["", "  "], words, 2) == [[], []]


def test_somebody_new_has_a_vector_at_once_and_others_one_a_day() -> None:
    assert moments([5]) == [1]
    assert moments([5, 6, 7, 8, 9]) == [1, 2, 4]
    assert moments([5, 6, DAY + 1, DAY + 2, DAY + 3, DAY + 4, 2 * DAY]) == [1, 2, 3, 4, 7]


def test_later_posts_change_no_earlier_moment() -> None:
    seconds = [5, 6, 90, DAY + 1, DAY + 2, DAY + 3, DAY + 4, 2 * DAY, 2 * DAY + 9]
    for n in range(1, len(seconds)):
        assert moments(seconds[:n]) == [k for k in moments(seconds) if k <= n]


def test_posts_of_one_second_cannot_be_told_apart() -> None:
    assert moments([5, 5, 5]) == [3]


def test_statements_that_say_the_same_have_one_key() -> None:
    assert Statement("Likes  Tea").key == Statement("likes tea").key
    assert Statement("likes tea", "at work").key != Statement("likes tea").key


def test_a_time_without_zone_is_utc() -> None:
    assert UserChunk("x", timestamp=datetime(1970, 1, 2)).second == DAY
