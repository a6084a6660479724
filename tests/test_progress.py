"""Where tracked work stands, for whom it is stopped."""

from __future__ import annotations

from befriend.progress import current_progress, track


def test_work_that_is_stopped_says_where_and_work_that_is_done_nothing() -> None:
    for item in track("abcde", "letters", 5):
        if item == "d":
            break
    assert current_progress() == "letters: 3 of 5"
    assert list(track(iter("ab"), "more letters")) == ["a", "b"]
    assert current_progress() == ""
