"""Settings: frozen models closed to unknown names; every problem of a mapping is named at once.

Every field's docstring is its documentation: `befriend settings` prints them.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from befriend.errors import SettingsError

Share = Annotated[float, Field(ge=0, le=1)]
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Frozen, closed to unknown names, documented field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def parse(model: type[S], raw: dict[str, Any], where: str) -> S:
    """`raw` as a model; SettingsError names every problem, what was found, and the valid choices."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_describe(model, problem) for problem in error.errors()]
        raise SettingsError(
            f"{where}: {len(lines)} setting{'s' * (len(lines) > 1)} cannot be used\n" + "\n".join(lines)
        ) from None


def split_override(item: str) -> tuple[str, Any]:
    """`name=value`, the value read as YAML."""
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
    place = [str(part) for part in problem["loc"]]
    line = f"  {'.'.join(place)}: "
    if problem["type"] == "extra_forbidden":
        names = _names(_model_at(model, place[:-1]))
        close = difflib.get_close_matches(place[-1], names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"{line}there is no such setting.{hint} Valid here: {', '.join(names)}."
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in {"value_error", "missing"}:
        return f"{line}{message}."
    return f"{line}{message} (found {problem['input']!r})."


def _names(model: type[BaseModel]) -> list[str]:
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _model_at(model: type[BaseModel], place: list[str]) -> type[BaseModel]:
    for part in place:
        for name, field in model.model_fields.items():
            if (
                part in (name, field.alias)
                and isinstance(field.annotation, type)
                and issubclass(field.annotation, BaseModel)
            ):
                model = field.annotation
    return model


def describe(model: type[Settings], prefix: str = "") -> list[tuple[str, str, str]]:
    """(name, default, documentation) of every setting, in order, nested ones by dotted names."""
    rows = []
    for name, field in model.model_fields.items():
        label = prefix + (field.alias or name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            rows += describe(kind, f"{label}.")
        else:
            rows.append((label, _written(field.get_default(call_default_factory=True)), field.description or ""))
    return rows


def values(settings: Settings, prefix: str = "") -> dict[str, str]:
    """name -> value of every setting, as `describe` names them and writes their defaults."""
    found: dict[str, str] = {}
    for name, field in type(settings).model_fields.items():
        label, value = prefix + (field.alias or name), getattr(settings, name)
        found |= values(value, f"{label}.") if isinstance(value, Settings) else {label: _written(value)}
    return found


def _written(value: Any) -> str:
    return "null" if value is None else str(value)
