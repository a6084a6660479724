"""Base class of all settings: frozen, unknown names are errors, and all problems are reported at once.

The docstring of a field is its documentation: `befriend settings` prints it.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from befriend.errors import SettingsError

Share = Annotated[float, Field(ge=0, le=1)]
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Frozen, refuses unknown names, and documents each field with a docstring."""

    former_names: ClassVar[dict[str, str]] = {}
    """name in earlier versions -> current name: a file with the old one is refused; the message gives the new one"""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def parse(model: type[S], raw: dict[str, Any], where: str) -> S:
    """Validates `raw` against a model; SettingsError lists every problem, the value found, and the valid choices."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_describe(model, problem) for problem in error.errors()]
        raise SettingsError(
            f"{where}: {len(lines)} setting{'s' * (len(lines) > 1)} cannot be used\n" + "\n".join(lines)
        ) from None


def split_override(item: str) -> tuple[str, Any]:
    """Splits `name=value`; the value is parsed as YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, sign, value = item.partition("=")
    if not sign or not name:
        raise SettingsError(f"--set {item}: write it as name=value, for example --set events=500")
    try:
        return name.strip(), YAML(typ="safe").load(value)
    except YAMLError:
        raise SettingsError(f"--set {item}: the value is not valid YAML.") from None


def _describe(model: type[Settings], problem: Any) -> str:
    """One line of an error message, from one of pydantic's errors."""
    location = [str(name) for name in problem["loc"]]
    line = f"  {'.'.join(location)}: "
    if problem["type"] == "extra_forbidden":
        owner = _model_at(model, location[:-1])
        if location[-1] in owner.former_names:
            return f"{line}this setting is called {owner.former_names[location[-1]]} now."
        names = _names(owner)
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
    """The settings class of a nested section."""
    for section in location:
        for name, field in model.model_fields.items():
            if (
                section in (name, field.alias)
                and isinstance(field.annotation, type)
                and issubclass(field.annotation, Settings)
            ):
                model = field.annotation
    return model


def describe(model: type[Settings], prefix: str = "") -> list[tuple[str, str, str]]:
    """(name, default, documentation) of every setting, in order; nested settings have dotted names."""
    rows = []
    for name, field in model.model_fields.items():
        label = prefix + (field.alias or name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            rows += describe(kind, f"{label}.")
        else:
            rows.append((label, _to_text(field.get_default(call_default_factory=True)), field.description or ""))
    return rows


def values(settings: Settings, prefix: str = "") -> dict[str, str]:
    """name -> value of every setting, with the names and the text format of `describe`."""
    texts: dict[str, str] = {}
    for name, field in type(settings).model_fields.items():
        label, value = prefix + (field.alias or name), getattr(settings, name)
        texts |= values(value, f"{label}.") if isinstance(value, Settings) else {label: _to_text(value)}
    return texts


def _to_text(value: Any) -> str:
    return "null" if value is None else str(value)
