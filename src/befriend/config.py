"""Reads params.yaml, which has one section of settings per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from befriend import layout
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.errors import SettingsError
from befriend.monitoring.monitoring_settings import DriftSettings, GateSettings, RegistrySettings
from befriend.objectives.cluster_settings import ClusterSettings
from befriend.objectives.objective_settings import StuSettings, TwoTowerSettings
from befriend.readers.data_settings import DataSettings
from befriend.report.report_settings import ReportSettings
from befriend.retrieval.ranker_settings import RankerSettings
from befriend.settings import Settings, parse, split_override
from befriend.text.text_settings import EmbedTextSettings
from befriend.tokens.token_settings import TokenizeSettings
from befriend.validation.validate_settings import ValidateSettings

PARAMS_FILE = layout.PARAMS
_KINDS: dict[type, str] = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}


class Params(Settings):
    """All sections of params.yaml."""

    data: DataSettings = DataSettings()
    """the event log"""
    validate_: Annotated[ValidateSettings, Field(alias="validate")] = ValidateSettings()
    """stage validate"""
    embed_text: EmbedTextSettings = EmbedTextSettings()
    """stage embed_text"""
    tokenize: TokenizeSettings = TokenizeSettings()
    """stage tokenize"""
    train_two_tower: TwoTowerSettings = TwoTowerSettings()
    """stage train_two_tower"""
    train_stu: StuSettings = StuSettings()
    """stage train_stu"""
    train_ranker: RankerSettings = RankerSettings()
    """stage train_ranker"""
    evaluate: EvaluateSettings = EvaluateSettings()
    """stage evaluate"""
    cluster: ClusterSettings = ClusterSettings()
    """stage cluster"""
    report: ReportSettings = ReportSettings()
    """stage report"""
    drift: DriftSettings = DriftSettings()
    """check before a promotion: how far new events may differ from those of the champion"""
    gate: GateSettings = GateSettings()
    """check before a promotion: how good the lists must be"""
    registry: RegistrySettings = RegistrySettings()
    """promoted runs"""


def load_params(path: Path = PARAMS_FILE, overrides: list[str] | None = None, section: str | None = None) -> Params:
    """Reads settings from a YAML file and applies overrides, `name=value`; SettingsError lists all problems at once.

    section: names of overrides are relative to it; in section `evaluate`, "events=500" sets evaluate.events.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if path == PARAMS_FILE and not path.exists():
        layout.require_project()
    try:
        raw = YAML(typ="safe").load(path) or {}
    except FileNotFoundError:
        raise SettingsError(
            f"there is no settings file {path} in {Path.cwd()}. An empty file has the defaults: touch {path}"
        ) from None
    except (YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        kind = _KINDS.get(type(raw), raw)
        raise SettingsError(f"{path} must hold sections (data:, validate:, ...), but holds {kind}.")
    raw = {name: {} if value is None else value for name, value in raw.items()}  # a section may be empty
    for item in overrides or []:
        name, value = split_override(item)
        _assign(raw, [*([section] if section else []), *name.split(".")], value)
    return parse(Params, raw, f"{path} with --set" if overrides else str(path))


def _assign(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets a value in nested mappings. keys: of each mapping, from the outermost."""
    for key in keys[:-1]:
        section = raw.setdefault(key, {})
        if not isinstance(section, dict):
            raise SettingsError(f"--set {'.'.join(keys)}: {key} is a single value, it has no settings below it")
        raw = section
    raw[keys[-1]] = value
