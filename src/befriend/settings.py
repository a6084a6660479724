"""The base class of all settings, how they are validated, and how they are listed.

The docstring of a field is its documentation, which `befriend settings` prints.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from befriend.errors import SettingsError

Share = Annotated[float, Field(ge=0, le=1)]
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Immutable settings. Unknown names are errors; the docstring of a field documents it."""

    former_names: ClassVar[dict[str, str]] = {}
    """name in earlier versions -> current name; the error for the earlier name gives the current one"""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def parse(model: type[S], raw: dict[str, Any], source: str) -> S:
    """Validates a mapping with the settings class `model`; SettingsError lists all problems, with the valid choices.

    source: where the mapping comes from, such as params.yaml, for the message.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_describe_problem(model, problem) for problem in error.errors()]
        raise SettingsError(
            f"{source}: {len(lines)} setting{'s' * (len(lines) > 1)} cannot be used\n" + "\n".join(lines)
        ) from None


def split_override(item: str) -> tuple[str, Any]:
    """Splits an override, `name=value`, into the name and the value, which is parsed as YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, sign, value = item.partition("=")
    if not sign or not name:
        raise SettingsError(f"--set {item}: write it as name=value, for example --set events=500")
    try:
        return name.strip(), YAML(typ="safe").load(value)
    except YAMLError:
        raise SettingsError(f"--set {item}: the value is not valid YAML.") from None


def _describe_problem(model: type[Settings], problem: Any) -> str:
    """One line of an error message, for one error of pydantic."""
    location = [str(name) for name in problem["loc"]]
    line = f"  {'.'.join(location)}: "
    if problem["type"] == "extra_forbidden":
        section_model = _model_at(model, location[:-1])
        if location[-1] in section_model.former_names:
            return f"{line}this setting is called {section_model.former_names[location[-1]]} now."
        names = _names(section_model)
        close = difflib.get_close_matches(location[-1], names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"{line}there is no such setting.{hint} Valid here: {', '.join(names)}."
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in {"value_error", "missing"}:
        return f"{line}{message}."
    return f"{line}{message} (found {problem['input']!r})."


def _names(model: type[BaseModel]) -> list[str]:
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _model_at(model: type[Settings], location: list[str]) -> type[Settings]:
    """The settings class of a nested section. location: names of the sections, from the outermost."""
    for section in location:
        for name, field in model.model_fields.items():
            if (
                section in (name, field.alias)
                and isinstance(field.annotation, type)
                and issubclass(field.annotation, Settings)
            ):
                model = field.annotation
    return model


def describe_settings(model: type[Settings], prefix: str = "") -> list[tuple[str, str, str]]:
    """(name, default, documentation) of every setting, in the order of the class; nested settings have dotted names."""
    rows = []
    for name, field in model.model_fields.items():
        label = prefix + (field.alias or name)
        field_type = field.annotation
        if isinstance(field_type, type) and issubclass(field_type, Settings):
            rows += describe_settings(field_type, f"{label}.")
        else:
            rows.append((label, _to_text(field.get_default(call_default_factory=True)), field.description or ""))
    return rows


def setting_values(settings: Settings, prefix: str = "") -> dict[str, str]:
    """name -> value of every setting, with names and values written as in `describe_settings`."""
    texts: dict[str, str] = {}
    for name, field in type(settings).model_fields.items():
        label, value = prefix + (field.alias or name), getattr(settings, name)
        texts |= setting_values(value, f"{label}.") if isinstance(value, Settings) else {label: _to_text(value)}
    return texts


def _to_text(value: Any) -> str:
    return "null" if value is None else str(value)
