"""Sizes of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from befriend.config import load_params
from befriend.errors import CallError
from befriend.ops.sizes import check_size, chosen_size, estimated_minutes, fitting_size, settings_of
from tests.conftest import ROOT


def params_of(size: str) -> dict[str, Any]:
    return settings_of(size) | {"train_stu": settings_of(size)["train_stu"] | {"towers": "linear"}}


def test_a_log_with_more_events_gets_wider_models() -> None:
    assert [fitting_size(n) for n in (500, 29_999, 30_000, 10**7)] == ["small", "small", "medium", "medium"]
    minutes = [estimated_minutes(size, 200_000) for size in ("small", "medium", "large")]
    assert minutes == sorted(set(minutes))


def test_a_size_that_does_not_exist_is_an_error() -> None:
    assert check_size("large") == "large" and check_size(None) is None
    with pytest.raises(CallError, match="--size huge: it is one of auto, small, medium, large"):
        check_size("huge")


def test_auto_leaves_settings_that_somebody_changed() -> None:
    assert chosen_size(None, 500, params_of("medium")) == "small"
    assert chosen_size("large", 500, params_of("medium")) == "large"
    changed = params_of("medium") | {"train_two_tower": {"embedding_dim": 48, "hidden_dim": 128, "layers": 2}}
    assert chosen_size(None, 500, changed) is None
    assert chosen_size("auto", 500, changed) == "small"


def test_the_default_settings_are_those_of_a_size(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("data: {}\n")
    assert chosen_size(None, 500_000, load_params(path).model_dump(by_alias=True)) == "medium"
    sample = YAML(typ="safe").load(ROOT / "params.yaml")
    assert chosen_size(None, 500, sample) == "small"
    for section, settings in settings_of("small").items():
        assert settings.items() <= sample[section].items()
