"""Where tracked work stands, for whom it is stopped."""

from __future__ import annotations

from befriend.progress import standing, track


def test_work_that_is_stopped_says_where_and_work_that_is_done_nothing() -> None:
    for item in track("abcde", "letters", 5):
        if item == "d":
            break
    assert standing() == "letters: 3 of 5"
    assert list(track(iter("ab"), "more letters")) == ["a", "b"]
    assert standing() == ""
