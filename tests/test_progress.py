"""The progress of loops, which the message of a stopped command shows."""

from __future__ import annotations

from befriend.progress import current_progress, track


def test_current_progress_is_that_of_a_stopped_loop_and_empty_after_a_finished_one() -> None:
    for item in track("abcde", "letters", 5):
        if item == "d":
            break
    assert current_progress() == "letters: 3 of 5"
    assert list(track(iter("ab"), "more letters")) == ["a", "b"]
    assert current_progress() == ""
