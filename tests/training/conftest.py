from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not outlive one here: waiting for the disk would take half of the tests' time."""
    monkeypatch.setattr("os.fsync", lambda _: None)
