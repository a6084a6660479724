from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not survive a power cut here: waiting for the disk would take half of the tests' time."""
    monkeypatch.setattr("os.fsync", lambda _: None)
