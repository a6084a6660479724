"""`befriend settings`: prints settings with their values in params.yaml, their defaults and what they do."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import typer
from pydantic_core import to_jsonable_python

from befriend import layout
from befriend.config import Params, load_params
from befriend.errors import CallError, SettingsError, one_of
from befriend.files import to_json
from befriend.progress import note
from befriend.settings import Settings
from befriend.simulate.network_settings import SimulateSettings

MAX_WIDTH = 100  # characters of a line of documentation
MAX_SUGGESTIONS = 3
MIN_SIMILARITY = 0.8  # of a suggestion to what was typed
PLAIN_TEXT = re.compile(r"[\w.+/-][\w .:+/-]*")
YAML_CONSTANTS = ("null", "true", "false", "yes", "no", "on", "off")  # texts that YAML reads as other values
"""text that needs no quotation marks in YAML"""


@dataclass(frozen=True)
class SettingRow:
    """One setting. Values are as in JSON."""

    name: str
    """with its sections, such as train_stu.epochs"""
    value: Any
    """in params.yaml of this folder; the default where it is not set there, and outside a project"""
    default: Any
    meaning: str


def show(name: str | None, as_json: bool) -> None:
    """Prints all settings, those of one section, or a single one.

    name: of a section or setting, such as train_stu or train_stu.epochs; None: all settings of params.yaml and of the
    simulator. CallError if there is none of that name.
    """
    rows = select(list(all_rows()), name)
    if as_json:
        typer.echo(to_json([asdict(row) for row in rows]))
        return
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH) - 4
    for row in rows:
        remark = "the default" if row.value == row.default else f"default: {to_yaml(row.default)}"
        typer.echo(f"{typer.style(row.name, bold=True)}: {to_yaml(row.value)}  ({remark})")
        typer.echo(textwrap.indent(textwrap.fill(row.meaning, width, break_on_hyphens=False), "    "))


def all_rows() -> Iterator[SettingRow]:
    """All settings of params.yaml and of the simulator. If params.yaml has mistakes, says so and gives the defaults."""
    current = Params()
    if layout.PARAMS.is_file():
        try:
            current = load_params()
        except SettingsError as error:
            note(f"{error}\nThe values below are the defaults.\n")
    yield from _rows(current, Params())
    simulate = SimulateSettings()
    yield from _rows(simulate, simulate, "simulate.")


def _rows(current: Settings, defaults: Settings, prefix: str = "") -> Iterator[SettingRow]:
    for name, field in type(current).model_fields.items():
        label, value, default = prefix + (field.alias or name), getattr(current, name), getattr(defaults, name)
        if isinstance(value, Settings):
            yield from _rows(value, default, f"{label}.")
        else:
            yield SettingRow(label, to_jsonable_python(value), to_jsonable_python(default), field.description or "")


def select(rows: list[SettingRow], name: str | None) -> list[SettingRow]:
    """The setting or the settings of the section of this name; all for None. CallError if there is none."""
    if name is None:
        return rows
    selected = [row for row in rows if row.name == name or row.name.startswith(f"{name}.")]
    if selected:
        return selected
    names = [row.name for row in rows]
    same = [other for other in names if other.split(".")[-1] == name.split(".")[-1]]
    close = same or difflib.get_close_matches(name, names, MAX_SUGGESTIONS, MIN_SIMILARITY)
    hint = f" Did you mean {one_of(close)}?" if close else ""
    sections = ", ".join(dict.fromkeys(other.split(".")[0] for other in names))
    raise CallError(f"there is no section or setting {name}.{hint} Sections: {sections}.")


def to_yaml(value: Any) -> str:
    """A value as it can be written in params.yaml, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(to_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {to_yaml(inner)}' for name, inner in value.items())}}}"
    is_plain = PLAIN_TEXT.fullmatch(str(value)) and str(value).lower() not in YAML_CONSTANTS
    return str(value) if is_plain or not isinstance(value, str) else json.dumps(value, ensure_ascii=False)
