"""Vectors of what users wrote: known from the moment of writing on, and never before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.texts import STATISTICS, TextVectors, first_moments
from befriend.errors import DataError
from tests.conftest import make_log


def log_of(events: list[tuple[int, int, int]]) -> EventLog:
    return make_log([(actor, "hi", target, second) for actor, target, second in events])


VECTORS = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])


def texts(users: int = 4) -> TextVectors:
    """User 0 wrote at 100 and 200, user 2 at 150."""
    return TextVectors(users, torch.tensor([0, 0, 2]), torch.tensor([100, 200, 150]), torch.tensor([0, 1, 2]), VECTORS)


def at(user: int, second: int) -> list[float]:
    told, row = texts().told(torch.tensor(user), torch.tensor(second))
    return [*told.tolist(), *texts().of(row).tolist()]


def test_a_text_counts_from_the_second_after_it_was_written() -> None:
    assert at(0, 100) == [0.0] * 5
    assert at(0, 101)[STATISTICS:] == [1, 0]
    assert at(0, 200)[STATISTICS:] == [1, 0]
    assert at(0, 201)[STATISTICS:] == pytest.approx([0.6, 0.8])
    assert at(0, 10**10)[STATISTICS:] == pytest.approx([0.6, 0.8])


def test_how_long_ago_and_how_much() -> None:
    known, age, count = at(0, 231)[:STATISTICS]
    assert (known, age, count) == pytest.approx((1, torch.tensor(32.0).log().item(), torch.tensor(3.0).log().item()))


@pytest.mark.parametrize("user", [1, 3])
def test_who_wrote_nothing_has_0(user: int) -> None:
    assert at(user, 10**10) == [0.0] * 5
    assert texts().places(torch.tensor(user), torch.tensor(10**10)) == -1


def test_where_all_who_wrote_are_forgotten_nobody_wrote_anything() -> None:
    left = texts().without(torch.tensor([True, False, True, False]))
    told, row = left.told(torch.arange(4), torch.tensor(10**10))
    assert left.width == 2 and not told.any() and (row == -1).all()
    assert not left.latest(torch.arange(4), torch.tensor(10**10)).any()


def test_users_and_moments_broadcast() -> None:
    known = texts().known(torch.arange(4)[None], torch.tensor([[50], [160], [300]]))
    assert known.tolist() == [[False] * 4, [True, False, True, False], [True, False, True, False]]


def test_users_whom_the_texts_do_not_know_wrote_nothing() -> None:
    assert texts().known(torch.tensor([4, 99]), torch.tensor(10**10)).tolist() == [False, False]


def test_without_texts_features_are_those_of_the_events() -> None:
    observed = Observed.of(log_of([(0, 1, 100), (1, 2, 200)]))
    users, seen, now = torch.arange(3), torch.tensor(2), torch.tensor(300)
    place = observed.activity.places(users, seen)
    assert torch.equal(observed.features(users, place, seen, now), observed.activity.user_features(place, seen, now))


def test_somebody_is_there_from_the_first_event_or_text_on() -> None:
    log = log_of([(0, 1, 120), (1, 2, 140), (3, 0, 160)])
    assert first_moments(log, texts()).tolist() == [100, 120, 140, 160]


def test_vectors_are_of_one_log_and_its_later_versions(tmp_path: Path) -> None:
    log = log_of([(0, 1, 120), (1, 2, 140), (3, 0, 160)])
    (tmp_path / "text").mkdir()
    texts().save(tmp_path / "text", log)
    assert torch.equal(TextVectors.read(tmp_path / "text", log).vectors, VECTORS)
    later = log_of([(0, 1, 120), (1, 2, 140), (3, 0, 160), (4, 0, 170)])
    assert TextVectors.read(tmp_path / "text", later).num_users == 5
    with pytest.raises(DataError, match="belong to another log"):
        TextVectors.read(tmp_path / "text", log_of([(0, 1, 120)]))
    with pytest.raises(DataError, match="Run `dvc repro embed_text` first"):
        TextVectors.read(tmp_path, log)
