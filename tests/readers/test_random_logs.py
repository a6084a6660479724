"""What was written is read, in every format and dialect; what was damaged is refused or counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from befriend.readers import text_files
from tests.readers.random_logs import check_damaged, check_detected, check_round_trip

STEP = 25


@pytest.fixture(autouse=True)
def _own_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", text_files.BLOCK_BYTES)  # restored, as the checks change it


def folders(tmp_path: Path, first: int, count: int = STEP) -> list[tuple[int, Path]]:
    """Seeds, each with an empty folder."""
    numbered = [(seed, tmp_path / str(seed)) for seed in range(first, first + count)]
    for _, folder in numbered:
        folder.mkdir()
    return numbered


@pytest.mark.parametrize("first", range(0, 200, STEP))
def test_random_logs_are_read_event_for_event(first: int, tmp_path: Path) -> None:
    for seed, folder in folders(tmp_path, first):
        check_round_trip(seed, folder)


@pytest.mark.parametrize("first", range(0, 300, 3 * STEP))
def test_damaged_logs_are_refused_or_read_as_the_reference_reads_them(first: int, tmp_path: Path) -> None:
    was_read = [check_damaged(seed, folder) for seed, folder in folders(tmp_path, first, 3 * STEP)]
    assert any(was_read) and not all(was_read)


def test_random_logs_are_detected_or_asked_about(tmp_path: Path) -> None:
    was_detected = [check_detected(seed, folder) for seed, folder in folders(tmp_path, 0)]
    assert sum(was_detected) > 0.9 * len(was_detected)
