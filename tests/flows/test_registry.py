"""Lists for everybody are made again unless those that lie here are the ones that are asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from befriend import layout
from tasks import promotion


@pytest.fixture
def recommend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The task; the command under it writes its options in the place of lists."""

    def befriend(*arguments: str) -> None:
        layout.RUNS.mkdir(exist_ok=True)
        layout.LISTS.write_text(" ".join(arguments))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(promotion, "befriend", befriend)
    monkeypatch.setattr(promotion, "link", lambda *_: None)
    monkeypatch.setattr(promotion.registry, "champion", lambda _: SimpleNamespace(number=3))
    return promotion.recommend.fn


def test_lists_of_another_champion_or_call_do_not_pass_for_those_of_the_night(recommend: Any) -> None:
    assert not promotion.lists_are_current(3)
    recommend()
    assert promotion.lists_are_current(3) and not promotion.lists_are_current(4)
    for other in ({"k": 50}, {"new_only": False}, {"newest": True}):
        assert not promotion.lists_are_current(3, **other)
        recommend(**other)
        assert promotion.lists_are_current(3, **other) and not promotion.lists_are_current(3)


def test_lists_that_were_put_there_by_hand_do_not_pass_for_those_of_the_night(recommend: Any) -> None:
    recommend()
    layout.LISTS.write_text("others")
    assert not promotion.lists_are_current(3)
