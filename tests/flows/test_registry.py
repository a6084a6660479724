"""Lists for all users are made again unless the file of lists is from this champion with these options."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from befriend import layout
from tasks import promotion


@pytest.fixture
def recommend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The task `recommend`, with a fake command that writes its options to the file of lists."""

    def run_befriend(*arguments: str) -> None:
        layout.RUNS.mkdir(exist_ok=True)
        layout.LISTS.write_text(" ".join(arguments))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(promotion, "run_befriend", run_befriend)
    monkeypatch.setattr(promotion, "publish_link", lambda *_: None)
    monkeypatch.setattr(promotion.registry, "current_champion", lambda _: SimpleNamespace(number=3))
    return promotion.recommend.fn


def test_lists_of_another_champion_or_with_other_options_are_not_current(recommend: Any) -> None:
    assert not promotion.lists_are_current(3)
    recommend()
    assert promotion.lists_are_current(3) and not promotion.lists_are_current(4)
    for other in ({"k": 50}, {"new_only": False}, {"newest": True}):
        assert not promotion.lists_are_current(3, **other)
        recommend(**other)
        assert promotion.lists_are_current(3, **other) and not promotion.lists_are_current(3)


def test_lists_that_were_replaced_by_hand_are_not_current(recommend: Any) -> None:
    recommend()
    layout.LISTS.write_text("others")
    assert not promotion.lists_are_current(3)
