"""`befriend reproduce` tells a fault in the code from the rounding of another processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.conftest import call, copy_checkout

pytestmark = [pytest.mark.proof, pytest.mark.timeout(3600)]

FAULTS = {
    "history in the wrong direction": (
        "src/befriend/features/histories.py",
        "other_user=self.other_user[entry].long()",
        "other_user=self.other_user[entry.flip(1)].long()",
    ),
    "a head of zeros": (
        "src/befriend/models/query_tower.py",
        "dynamic=self._dynamic_query(hidden, text),",
        "dynamic=0 * self._dynamic_query(hidden, text),",
    ),
    "tomorrow's events visible": (
        "src/befriend/retrieval/recommender.py",
        "FeatureSnapshot(self.feature_view, num_visible, cutoff,",
        "FeatureSnapshot(self.feature_view, num_visible + 300, cutoff,",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_called_a_difference(fault: str, tmp_path: Path) -> None:
    copy_checkout(tmp_path)
    name, right, wrong = FAULTS[fault]
    code = (tmp_path / name).read_text()
    assert code.count(right) == 1
    (tmp_path / name).write_text(code.replace(right, wrong))
    call(tmp_path, "git", "commit", "-qam", fault)
    done = call(tmp_path, "befriend", "reproduce", ok=False)
    assert done.returncode == 1 and "NOT reproduced" in done.stdout, done.stdout + done.stderr
    assert call(tmp_path, "git", "status", "--porcelain").stdout == ""


def test_the_committed_figures_are_reproduced(tmp_path: Path) -> None:
    copy_checkout(tmp_path)
    done = call(tmp_path, "befriend", "reproduce")
    assert "reproduced on" in done.stdout and "NOT" not in done.stdout
    assert call(tmp_path, "git", "status", "--porcelain").stdout == ""
