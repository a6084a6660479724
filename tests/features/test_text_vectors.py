"""Text vectors of users: a post is visible from the second after its timestamp on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from befriend.data.event_log import EventLog
from befriend.errors import DataError
from befriend.features.feature_view import FeatureView
from befriend.features.text_vectors import ABOUT_FILE, NUM_STATISTICS, VECTORS_FILE, TextVectors, first_known
from tests.conftest import make_log


def log_of(events: list[tuple[int, int, int]]) -> EventLog:
    return make_log([(actor, "hi", target, second) for actor, target, second in events])


VECTORS = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])


def texts(users: int = 4) -> TextVectors:
    """User 0 has posts at 100 and 200, user 2 at 150."""
    return TextVectors(users, torch.tensor([0, 0, 2]), torch.tensor([100, 200, 150]), torch.tensor([0, 1, 2]), VECTORS)


def statistics_and_vector(user: int, second: int) -> list[float]:
    statistics, row = texts().statistics_and_rows(torch.tensor(user), torch.tensor(second))
    return [*statistics.tolist(), *texts().vectors_at(row).tolist()]


def test_a_text_counts_from_the_second_after_it_was_written() -> None:
    assert statistics_and_vector(0, 100) == [0.0] * 5
    assert statistics_and_vector(0, 101)[NUM_STATISTICS:] == [1, 0]
    assert statistics_and_vector(0, 200)[NUM_STATISTICS:] == [1, 0]
    assert statistics_and_vector(0, 201)[NUM_STATISTICS:] == pytest.approx([0.6, 0.8])
    assert statistics_and_vector(0, 10**10)[NUM_STATISTICS:] == pytest.approx([0.6, 0.8])


def test_statistics_are_the_age_of_the_last_text_and_the_number_of_texts() -> None:
    has_text, age, count = statistics_and_vector(0, 231)[:NUM_STATISTICS]
    assert (has_text, age, count) == pytest.approx((1, torch.tensor(32.0).log().item(), torch.tensor(3.0).log().item()))


@pytest.mark.parametrize("user", [1, 3])
def test_a_user_without_texts_has_zeros_only(user: int) -> None:
    assert statistics_and_vector(user, 10**10) == [0.0] * 5
    assert texts().last_posts(torch.tensor(user), torch.tensor(10**10)) == -1


def test_a_table_without_all_its_authors_has_no_text_for_any_user() -> None:
    remaining = texts().without_users(torch.tensor([True, False, True, False]))
    statistics, row = remaining.statistics_and_rows(torch.arange(4), torch.tensor(10**10))
    assert remaining.width == 2 and not statistics.any() and (row == -1).all()
    assert not remaining.latest_vectors(torch.arange(4), torch.tensor(10**10)).any()


def test_users_and_cutoffs_broadcast() -> None:
    has_text = texts().has_text(torch.arange(4)[None], torch.tensor([[50], [160], [300]]))
    assert has_text.tolist() == [[False] * 4, [True, False, True, False], [True, False, True, False]]


def test_users_beyond_those_of_the_texts_have_no_text() -> None:
    assert texts().has_text(torch.tensor([4, 99]), torch.tensor(10**10)).tolist() == [False, False]


def test_without_texts_features_are_those_of_the_events() -> None:
    feature_view = FeatureView.of(log_of([(0, 1, 100), (1, 2, 200)]))
    users, num_visible, cutoff = torch.arange(3), torch.tensor(2), torch.tensor(300)
    entry = feature_view.activity.last_entries(users, num_visible)
    assert torch.equal(
        feature_view.features(users, entry, num_visible, cutoff),
        feature_view.activity.user_features(entry, num_visible, cutoff),
    )


def test_a_user_is_known_from_the_first_event_or_text_on() -> None:
    log = log_of([(0, 1, 120), (1, 2, 140), (3, 0, 160)])
    assert first_known(log, texts()).tolist() == [100, 120, 140, 160]


def test_vectors_can_be_read_for_their_log_and_its_later_versions_only(tmp_path: Path) -> None:
    log = log_of([(0, 1, 120), (1, 2, 140), (3, 0, 160)])
    (tmp_path / "text").mkdir()
    texts().save(tmp_path / "text", log)
    assert torch.equal(TextVectors.read(tmp_path / "text", log).vectors, VECTORS)
    later = log_of([(0, 1, 120), (1, 2, 140), (3, 0, 160), (4, 0, 170)])
    assert TextVectors.read(tmp_path / "text", later).num_users == 5
    with pytest.raises(DataError, match="belongs to another log"):
        TextVectors.read(tmp_path / "text", log_of([(0, 1, 120)]))
    with pytest.raises(DataError, match="Run `dvc repro embed_text` first"):
        TextVectors.read(tmp_path, log)


@pytest.mark.parametrize("file", [VECTORS_FILE, ABOUT_FILE])
def test_damaged_vectors_are_rejected(tmp_path: Path, file: str) -> None:
    log = log_of([(0, 1, 120), (1, 2, 140), (3, 0, 160)])
    texts().save(tmp_path, log)
    (tmp_path / file).write_bytes(b"{")
    with pytest.raises(DataError, match=r"the text vectors in .* cannot be read"):
        TextVectors.read(tmp_path, log)
