"""The base class of all settings, how they are validated, and how they are listed.

The docstring of a field is its documentation, which `befriend settings` prints.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from befriend.errors import SettingsError

Share = Annotated[float, Field(ge=0, le=1)]
S = TypeVar("S", bound="Settings")
MAX_SHOWN_VALUE = 60  # characters of a value in a message
_WORDING = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must hold names and values, as in {{name: value}}",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_type": "must be a whole number",
    "invalid_key": "must have a name that is text",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list, as in [a, b]",
    "literal_error": "must be {expected}",
    "missing": "has to be given",
    "model_type": "must hold settings, as in {{name: value}}",
    "path_type": "must be a path",
    "string_too_long": "must be text of at most {max_length} character(s)",
    "string_too_short": "must be text of at least {min_length} character(s)",
    "string_type": "must be text",
    "too_long": "must be a list of at most {max_length} value(s)",
    "too_short": "must be a list of at least {min_length} value(s)",
}
"""type of an error of pydantic -> what the message says, with values of the error's context"""


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
        problems: dict[tuple[str, ...], list[Any]] = {}
        for problem in error.errors():
            location, _ = _locate(model, problem["loc"])
            problems.setdefault(tuple(location), []).append(problem)
        lines = [_describe_problems(model, location, found) for location, found in problems.items()]
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


def _locate(model: type[Settings], location: Sequence[int | str]) -> tuple[list[str], type[Settings]]:
    """The names that lead to a setting, from the outermost section, and the settings class of the innermost section.

    location: of an error of pydantic. If a setting may have values of several types, pydantic adds the name of the type
    to it, which the result leaves out; it keeps the index in a list and the name in a mapping.
    """
    names = []
    for depth, part in enumerate(location):
        names.append(str(part))
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part not in fields:
            break  # there is no such setting
        annotation = fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
            rest = location[depth + 1 : depth + 2]
            names += [str(inner) for inner in rest if isinstance(inner, int) or get_origin(annotation) is dict]
            break
        model = annotation
    return names, model


def _describe_problems(model: type[Settings], location: tuple[str, ...], problems: list[Any]) -> str:
    """One line of an error message. problems: the errors of pydantic for one setting, one for each type it may have."""
    line, problem = f"  {'.'.join(location)}: ", problems[0]
    if problem["type"] == "extra_forbidden":
        _, section_model = _locate(model, problem["loc"])
        if location[-1] in section_model.former_names:
            return f"{line}this setting is called {section_model.former_names[location[-1]]} now."
        names = _names(section_model)
        close = difflib.get_close_matches(location[-1], names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"{line}there is no such setting.{hint} Valid here: {', '.join(names)}."
    if problem["type"] in ("value_error", "missing"):
        return f"{line if location else '  '}{describe_demand(problem)}."
    demands = [describe_demand(problem).removeprefix("must be ") for problem in problems]
    must = "" if demands[0].startswith("must ") else "must be "
    value = repr(problem["input"])
    shown = value if len(value) <= MAX_SHOWN_VALUE else f"{value[: MAX_SHOWN_VALUE - 3]}..."
    return f"{line}{must}{' or '.join(dict.fromkeys(demands))} (found {shown})."


def describe_demand(problem: Any) -> str:
    """What a value must be, or what is wrong with it. problem: an error of pydantic, as in `ValidationError.errors`."""
    kind = problem["type"]
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind.startswith(("date", "time")):
        return "must be a time, as in 2024-05-31 or 2024-05-31T18:00:00"
    limits = {name: f"{x:g}" if isinstance(x, float) else x for name, x in problem.get("ctx", {}).items()}
    text = _WORDING.get(kind, "must be another value").format(**limits)
    return text.replace("1 character(s)", "1 character").replace("1 value(s)", "1 value").replace("(s)", "s")


def _names(model: type[BaseModel]) -> list[str]:
    return sorted(field.alias or name for name, field in model.model_fields.items())


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
