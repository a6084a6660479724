"""Windows of time in which two runs are compared."""

from __future__ import annotations

import numpy as np

from befriend.analysis.metric_tables import FEW_LISTS
from befriend.analysis.paired_comparison import MAX_WINDOWS, window_differences


def test_windows_follow_each_other_in_time_and_have_as_many_lists() -> None:
    """The first half of the time gains .5, the second loses .25; the rows come in any order."""
    n = 2 * FEW_LISTS
    timestamp = np.random.default_rng(0).permutation(n)
    difference = np.where(timestamp < FEW_LISTS, 0.5, -0.25)
    assert window_differences(difference, timestamp) == [0.5, -0.25]


def test_short_logs_have_one_window_and_long_ones_a_limited_number() -> None:
    assert window_differences(np.array([1.0, 0.0]), np.array([3, 4])) == [0.5]
    n = 2 * MAX_WINDOWS * FEW_LISTS
    assert len(window_differences(np.zeros(n), np.arange(n))) == MAX_WINDOWS
