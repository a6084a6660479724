"""`befriend settings`: values of params.yaml, defaults and meaning, of all settings or of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from befriend.config import Params
from befriend.settings import describe_settings
from tests.conftest import call

DEFAULT = Params().evaluate.events


def test_a_setting_has_its_value_its_default_and_its_meaning(tmp_path: Path) -> None:
    outside = call(tmp_path, "settings", "evaluate.events").stdout
    assert outside.startswith(f"evaluate.events: {DEFAULT}  (the default)\n    ")
    (tmp_path / "params.yaml").write_text("evaluate: {events: 250, regimes: [daily]}\n")
    assert call(tmp_path, "settings", "evaluate.events").stdout.startswith(
        f"evaluate.events: 250  (default: {DEFAULT})\n    "
    )
    row = json.loads(call(tmp_path, "settings", "evaluate.regimes", "--json").stdout)[0]
    assert (row["name"], row["value"], row["default"][0]) == ("evaluate.regimes", ["daily"], "streaming")
    assert row["meaning"]


def test_a_section_may_have_sections(tmp_path: Path) -> None:
    rows = json.loads(call(tmp_path, "settings", "data.columns", "--json").stdout)
    assert [row["name"] for row in rows] == [
        f"data.columns.{x}" for x in ("actor_id", "action", "target_id", "timestamp", "time_of_day")
    ]


def test_no_name_is_cut_on_a_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = call(tmp_path, "settings").stdout
    for name, _, _ in describe_settings(Params):
        assert f"\n{name}: " in f"\n{shown}"
    assert max(len(line) for line in shown.splitlines() if line.startswith("    ")) <= 40


def test_values_can_be_copied_to_params_yaml(tmp_path: Path) -> None:
    shown = call(tmp_path, "settings").stdout
    values = {row["name"]: row["value"] for row in json.loads(call(tmp_path, "settings", "--json").stdout)}
    lines = [line.rpartition("  (")[0] for line in shown.splitlines() if not line.startswith(" ")]
    assert len(lines) == len(values) > 200
    for line in lines:
        name, _, value = line.partition(": ")
        assert YAML(typ="safe").load(value) == pytest.approx(values[name]), line


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("train_stu.epoch", "Did you mean train_stu.epochs?"),
        ("bootstrap", "Did you mean evaluate.bootstrap?"),
        ("nothing", "there is no section or setting nothing. Sections: data, "),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(tmp_path: Path, name: str, hint: str) -> None:
    done = call(tmp_path, "settings", name)
    assert done.returncode == 2 and hint in done.stderr


def test_mistakes_in_params_yaml_do_not_keep_settings_from_being_listed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("evaluate: {event: 250}\n")
    done = call(tmp_path, "settings", "evaluate.events")
    assert done.returncode == 0 and done.stdout.startswith(f"evaluate.events: {DEFAULT}  (the default)")
    assert "evaluate.event: there is no such setting. Did you mean events?" in done.stderr
