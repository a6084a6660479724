"""The progress of loops, which the message of a stopped command shows."""

from __future__ import annotations

import pytest

from befriend import progress
from befriend.progress import current_progress, track


def test_current_progress_is_that_of_a_stopped_loop_and_empty_after_a_finished_one() -> None:
    for item in track("abcde", "letters", 5):
        if item == "d":
            break
    assert current_progress() == "letters: 3 of 5"
    assert list(track(iter("ab"), "more letters")) == ["a", "b"]
    assert current_progress() == ""


def test_lines_of_progress_estimate_the_time_left_once_an_item_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter(range(0, 1000, 120))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    assert list(track("a", "others")) == ["a"]
    assert capsys.readouterr().err.splitlines() == [
        "letters: 0 of 3, after 2 min of preparation",  # the first letter took long
        "letters: 1 of 3, about 8 min left",
        "letters: 2 of 3, about 3 min left",
        "others: 0 parts in 2 min",
    ]
