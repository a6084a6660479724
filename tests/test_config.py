"""params.yaml: unknown and invalid settings are errors, and all problems are reported at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from befriend.config import Params, load_params
from befriend.errors import SettingsError
from befriend.settings import describe_settings, parse
from tests.conftest import ROOT


def load(tmp_path: Path, text: str, *overrides: str, section: str | None = None) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return load_params(path, list(overrides), section)


def test_all_problems_are_reported_at_once_with_the_valid_choices(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, "data: {format: xml, colums: {}}\nvalidate: {max_rejected: 7}\nevalute: {}\n")
    text = str(error.value)
    assert "4 settings" in text
    assert "'parquet', 'arrow', 'jsonl', 'csv' or 'whitespace'" in text
    assert "data.colums: there is no such setting. Did you mean columns?" in text
    assert "validate.max_rejected: must be at most 1 (found 7)" in text
    assert "evalute: there is no such setting. Did you mean evaluate?" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {actions: [a], roles: {b: signal}}", "roles names b, which data.actions does not list"),
        ("data: {format: csv, columns: {actor_id: 1}}", "without header it must be a column's number, from 1"),
        ("data: {columns: {actor_id: 1}}", "columns.actor_id is the number 1; this log's columns have names"),
        ("data: {action_from_file_name: true}", "columns.action must be null"),
        ("validate: {train_until: 0.9, validation_until: 0.8}", "must lie below validation_until"),
        ("data: {attributes: {numeric: [age]}}", "columns are named, but no file"),
        ("data: {attributes: {file: users.csv}}", "name its columns under categorical, numeric or opt_out"),
        ("data: {attributes: {file: ../users.csv, numeric: [age]}}", "inside the folder of the log"),
        ("data: {attributes: {file: a, numeric: [age], categorical: [age]}}", "age is named more than once"),
        ("data: {attributes: {file: a, numeric: [user]}}", "cannot be called user"),
        ("data: {attributes: {files: a}}", "Did you mean file?"),
        ("data: {texts: {text: body}}", "data.texts: columns are named, but no file"),
        ("data: {texts: {file: /posts.jsonl}}", "inside the folder of the log"),
        ("data: {texts: {file: a, title: text}}", "text is named more than once"),
        ("data: {statements: {context: bio}}", "data.statements: columns are named, but no file"),
        ("data: {statements: {file: ../a}}", "inside the folder of the log"),
        ("evaluate: {regimes: []}", "evaluate.regimes: must be a list of at least 1 value"),
        ("data: [", "not valid YAML"),
        ("- a", "must hold sections"),
    ],
)
def test_invalid_settings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match="(?s)" + message.replace("(", r"\(")):
        load(tmp_path, text)


def test_the_value_of_an_override_is_yaml_and_its_name_is_relative_to_the_section(tmp_path: Path) -> None:
    params = load(tmp_path, "evaluate: {events: 5}", "events=9", "regimes=[daily]", section="evaluate")
    assert params.evaluate.events == 9
    assert params.evaluate.regimes == ["daily"]
    with pytest.raises(SettingsError, match="name=value"):
        load(tmp_path, "", "events", section="evaluate")
    with pytest.raises(SettingsError, match="single value"):
        load(tmp_path, "evaluate: {events: 5}", "events.x=1", section="evaluate")


def test_settings_are_immutable(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(tmp_path, "").evaluate.events = 3  # type: ignore[misc]


def test_every_setting_is_documented() -> None:
    assert all(documentation for _, _, documentation in describe_settings(Params))
    assert issubclass(Params, BaseModel)


def test_the_settings_of_the_project_are_valid() -> None:
    assert load_params(ROOT / "params.yaml").evaluate.part == "test"


def test_the_error_for_a_former_name_gives_the_current_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"train_stu\.moment_rate: this setting is called dynamic_lr_mult now"):
        load(tmp_path, "train_stu: {moment_rate: 2}")
    with pytest.raises(SettingsError, match=r"drift\.least_events: this setting is called min_events now"):
        load(tmp_path, "drift: {least_events: 100}")


@pytest.mark.parametrize("value", [{"?": [1]}, "?", -1, 1e99, 0.5, [], True, None], ids=str)
def test_messages_are_in_words_of_this_project(value: object) -> None:
    """For every setting and all kinds of values; none falls back to a general phrase."""
    num_messages = 0
    for name, _, _ in describe_settings(Params):
        raw: object = value
        for part in reversed(name.split(".")):
            raw = {part: raw}
        try:
            parse(Params, raw, "params.yaml")  # type: ignore[arg-type]
        except SettingsError as error:
            first, *lines = str(error).splitlines()
            assert first == "params.yaml: 1 setting cannot be used"
            assert not any(phrase in str(error) for phrase in ("Input", "Value error", "valid ", "another value")), (
                error
            )
            assert len(lines) == 1 and lines[0].endswith(".")
            num_messages += 1
    assert num_messages > 50


def test_the_types_of_a_value_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, "cluster: {clusters: 1}\ndata: {separator: '', columns: {actor_id: [1]}, actions: [a, 1]}\n")
    assert str(error.value).splitlines()[1:] == [
        "  data.separator: must be text of at least 1 character (found '').",
        "  data.columns.actor_id: must be text or a whole number (found [1]).",
        "  data.actions.1: must be text (found 1).",
        "  cluster.clusters: must be 'auto' or at least 2 (found 1).",
    ]
