"""Two runs on the same inputs agree if no figure differs by more than seeds do."""

from __future__ import annotations

import pytest

from befriend.analysis.figure_comparison import compare_figures

REFERENCE = {
    "new/live/both": [0.47, 0.44, 0.50],
    "new/daily/both": [0.10, 0.08, 0.12],
    "any/daily/stu": [0.4, 0.3, 0.5],
}


def test_differences_up_to_four_deviations_of_two_seeds_are_noise() -> None:
    figures = {"new/live/both": [0.48, 0, 0], "new/daily/both": [0.112, 0, 0]}
    deviations = {"new/live/both": 0.002, "new/daily/both": 0.002}  # tolerance 4 * sqrt(2) * 0.002 = 0.0113
    live, daily = sorted(compare_figures(figures, REFERENCE, deviations), key=lambda d: d.value, reverse=True)
    assert (live.difference, live.tolerance) == (pytest.approx(0.01), pytest.approx(0.011314, abs=1e-6))
    assert live.is_within and not daily.is_within


def test_without_seeds_the_confidence_interval_is_the_tolerance() -> None:
    (difference,) = compare_figures({"new/daily/both": [0.115, 0, 0]}, REFERENCE, {})
    assert difference.tolerance == pytest.approx(0.02) and difference.is_within


def test_figures_outside_come_first_and_figures_of_one_run_alone_are_left_out() -> None:
    figures = {"new/live/both": [0.471, 0, 0], "any/daily/stu": [0.1, 0, 0], "new/live/other": [1, 0, 0]}
    names = [d.name for d in compare_figures(figures, REFERENCE, {})]
    assert names == ["any/daily/stu", "new/live/both"]
