"""Sizes of the models: settings that fit a log, and about how long all stages take with them.

The more events there are to learn from, the wider the models can be. The rule is the same for every log.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from befriend.errors import CallError

SizeName = Literal["auto", "small", "medium", "large"]
SIZES: tuple[SizeName, ...] = get_args(SizeName)
_WIDTHS: dict[str, dict[str, int]] = {
    "small": {"embedding_dim": 32, "hidden_dim": 64, "layers": 1},
    "medium": {"embedding_dim": 64, "hidden_dim": 128, "layers": 2},
    "large": {"embedding_dim": 128, "hidden_dim": 256, "layers": 2},
}
_LISTS = {"small": 1200, "medium": 2000, "large": 4000}
"""training lists of the ranker, and as many of first contacts alone"""
_MEASURED_FIRST_CONTACTS = {"small": 1500, "medium": 3000, "large": 3000}
MEDIUM_EVENTS = 30_000
"""number of events from which a log gets the medium size; large is for those who have the time"""
_MICROSECONDS = {"small": 4200, "medium": 6000, "large": 14_000}
"""time of all stages for each event of the log, on two cores"""
_FIXED_MINUTES = {"small": 2, "medium": 3, "large": 5}
"""time of all stages that does not depend on the number of events"""


def check_size(name: str | None) -> SizeName | None:
    """The size of this name, None for None; CallError if there is none."""
    for size in SIZES:
        if name == size:
            return size
    if name is not None:
        raise CallError(f"--size {name}: it is one of {', '.join(SIZES)}.")
    return None


def fitting_size(num_events: int) -> str:
    """The size that `auto` stands for, for a log of so many events."""
    return "medium" if num_events >= MEDIUM_EVENTS else "small"


def describe(size: str, num_events: int) -> str:
    """One line: the size, and how long all stages take with it."""
    width, layers = _WIDTHS[size]["embedding_dim"], _WIDTHS[size]["layers"]
    return (
        f"size: {size} (embeddings {width} wide, {layers} layer{'s' * (layers > 1)}); all stages take about "
        f"{estimated_minutes(size, num_events)} minutes on two cores. --size small, medium or large is another choice"
    )


def chosen_size(size: SizeName | None, num_events: int, params: dict[str, dict[str, Any]]) -> str | None:
    """The size for a log: `size`, or the one that fits the log; None to leave the settings as they are.

    They are left if no size is given and somebody has changed one of them. params: section -> setting -> value.
    """
    if size is None and not any(_is_size(name, params) for name in _WIDTHS):
        return None
    return fitting_size(num_events) if size in (None, "auto") else size


def _is_size(name: str, params: dict[str, dict[str, Any]]) -> bool:
    return all(
        params[section].get(setting, value) == value
        for section, settings in settings_of(name).items()
        for setting, value in settings.items()
    )


def settings_of(size: str) -> dict[str, dict[str, Any]]:
    """Section -> setting -> value. size: small, medium or large."""
    lists = {"events": _LISTS[size], "first_contacts": _LISTS[size]}
    return {
        "train_two_tower": dict(_WIDTHS[size]),
        "train_stu": dict(_WIDTHS[size]),
        "train_ranker": lists,
        "evaluate": {"first_contacts": _MEASURED_FIRST_CONTACTS[size]},
    }


def estimated_minutes(size: str, num_events: int) -> int:
    """About how long all stages take on two cores, in minutes."""
    return round(_FIXED_MINUTES[size] + num_events * _MICROSECONDS[size] / 6e7)
