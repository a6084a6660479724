"""params.yaml: one section a stage; nothing unknown gets through."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from befriend.data.columns import EVENT_FIELDS, USER, Role
from befriend.errors import SettingsError
from befriend.evaluation.regimes import REGIMES, Regime
from befriend.models.cluster_settings import ClusterSettings
from befriend.models.settings import StuSettings, TwoTowerSettings
from befriend.settings import Settings, Share, parse, split_override
from befriend.text.settings import EmbedTextSettings
from befriend.tokens.settings import TokenizeSettings

PARAMS_FILE = Path("params.yaml")
Separator = Annotated[str, Field(min_length=1, max_length=1)]


class Columns(Settings):
    """Where the four fields of an event stand: a column's name or, in a file without header, its place from 1."""

    actor_id: str | int = "actor_id"
    """who did it"""
    action: str | int | None = "action"
    """what was done; null where the log has no such column"""
    target_id: str | int = "target_id"
    """to whom"""
    timestamp: str | int = "timestamp"
    """when"""


class AttributeSettings(Settings):
    """What is known of users apart from what they do: a table beside the events, one row a user."""

    file: str | None = None
    """table of users inside the folder of the log, Parquet or CSV with a header; not read as events; null: none"""
    separator: Separator = ","
    """between the fields of the table, where it is CSV"""
    user_id: str = "user_id"
    """its column of user ids, of the type data.id_type"""
    categorical: list[str] = []
    """its columns of labels, such as a country or a plan"""
    numeric: list[str] = []
    """its columns of numbers, such as an age"""
    opt_out: str | None = None
    """its column of who must not be recommended to anybody: 1, true or yes; models never see it"""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = []
        columns = [self.user_id, *self.categorical, *self.numeric, *([self.opt_out] if self.opt_out else [])]
        if self.file is None and len(columns) > 1:
            problems.append("columns are named, but no file")
        if self.file is not None and len(columns) == 1:
            problems.append("file is given, so name its columns under categorical, numeric or opt_out")
        if self.file is not None and (PurePath(self.file).is_absolute() or ".." in PurePath(self.file).parts):
            problems.append(f"file is {self.file}, but must be the name of a file inside the folder of the log")
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            problems.append(f"{', '.join(twice)} is named more than once")
        if USER in columns[1:]:
            problems.append(f"an attribute cannot be called {USER}, the name of the users' numbers; rename the column")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class TableSettings(Settings):
    """A table beside the events, whose columns the settings name."""

    file: str | None = None
    """table inside the folder of the log, Parquet or JSON Lines (one object a line); not read as events; null: none"""
    user_id: str = "user_id"
    """its column of user ids, of the type data.id_type"""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = []
        columns = [name for name in self.model_dump(exclude={"file"}).values() if name is not None]
        if self.file is None and self.model_dump(exclude_defaults=True):
            problems.append("columns are named, but no file")
        if self.file is not None and (PurePath(self.file).is_absolute() or ".." in PurePath(self.file).parts):
            problems.append(f"file is {self.file}, but must be the name of a file inside the folder of the log")
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            problems.append(f"{', '.join(twice)} is named more than once")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class TextSettings(TableSettings):
    """What users wrote, such as posts, messages or a profile: one row a text."""

    timestamp: str = "timestamp"
    """its column of times, in data.timestamp_unit"""
    platform: str | None = None
    """its column of where a text stands, such as profile or post; null: nowhere in particular"""
    text: str = "text"
    """its column of texts"""
    title: str | None = None
    """its column of titles; a title is no part of the text, but a statement about the user; null: none"""
    tags: str | None = None
    """its column of tags, a list or text as <a><b>, a,b or a|b; each is a statement, "interested in a"; null: none"""


class StatementSettings(TableSettings):
    """What is said of users, such as "interested in hiking", known from the beginning: one row a statement."""

    statement: str = "statement"
    """its column of statements"""
    context: str | None = None
    """its column of where a statement comes from; null: nowhere in particular"""


NO_ATTRIBUTES = AttributeSettings()
NO_TEXTS = TextSettings()
NO_STATEMENTS = StatementSettings()


class DataSettings(Settings):
    """How the event log is to be read. `befriend use SOURCE` writes this section."""

    format: Literal["parquet", "csv", "whitespace"] = "parquet"
    """parquet (a file or a folder), csv (any one-character separator), whitespace (as SNAP publishes)"""
    separator: Separator = ","
    """between the fields of a csv"""
    header: bool = True
    """whether a text file's first line names its columns"""
    columns: Columns = Columns()
    """where the four fields of an event stand"""
    id_type: Literal["integer", "string"] = "integer"
    """type of the user ids"""
    timestamp_unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    """unit since 1970-01-01 UTC, or iso for ISO 8601 text and datetime columns (UTC where they name no zone)"""
    action_from_file_name: bool = False
    """take the action from each file's name (up to its first dot), for logs with one file an action"""
    default_action: str = "event"
    """the action of every event of a log that has no action column"""
    rename_actions: dict[str, str] = {}
    """action labels to replace, as found: as wanted"""
    actions: list[str] | None = None
    """the action labels allowed (after renaming); null allows any"""
    roles: dict[str, Role] = {}
    """role by action: contact makes two users contacts, signal is history only, exclude hides the two; else contact"""
    attributes: AttributeSettings = NO_ATTRIBUTES
    """attributes of the users"""
    texts: TextSettings = NO_TEXTS
    """texts of the users"""
    statements: StatementSettings = NO_STATEMENTS
    """statements about the users"""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = []
        unlisted = sorted(set(self.roles) - set(self.actions)) if self.actions is not None else []
        if unlisted:
            problems.append(f"roles names {', '.join(unlisted)}, which data.actions does not list")
        if self.action_from_file_name and self.columns.action is not None:
            problems.append("action_from_file_name is true, so columns.action must be null")
        named = self.format == "parquet" or (self.format == "csv" and self.header)
        for field in EVENT_FIELDS:
            place = getattr(self.columns, field)
            if place is None:
                continue
            if named and isinstance(place, int):
                problems.append(f"columns.{field} is the number {place}; this log's columns have names")
            if not named and not (isinstance(place, int) and place >= 1):
                problems.append(f"columns.{field} is {place!r}; without header it must be a column's place, from 1")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class ValidateSettings(Settings):
    """The contract's thresholds and the split. Critical rules fail the stage, warnings are reported."""

    train_until: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """share of the events, in time order, that are for training"""
    validation_until: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """share of the events up to which they are for validation; the rest is for testing"""
    latest: datetime | None = None
    """events after this moment (ISO 8601) are refused; null accepts any"""
    duplicates: Literal["keep", "drop"] = "keep"
    """what to do with exact duplicates of an event (they are counted either way)"""
    previous_users: Path | None = None
    """users.parquet of an earlier run: its users keep their numbers, new ones are added behind"""
    max_rejected: Share = 0.01
    """critical above: share of rows refused"""
    max_self_loops: Share = 0.3
    """warning above: share of events in which somebody acts on themselves"""
    max_duplicates: Share = 0.2
    """warning above: share of events that repeat an earlier one exactly"""
    max_cold_targets: Share = 0.3
    """warning above: share of test events whose target was never seen before"""
    max_newcomers: Share = 0.7
    """warning above: share of test events whose target joined after training"""
    min_reciprocity: Share = 0.02
    """warning below: share of pairs that acted in both directions"""
    max_share_of_one_actor: Share = 0.1
    """warning above: share of events done by the most active user"""
    min_days: Annotated[float, Field(ge=0)] = 14
    """warning below: days from the first event to the last"""
    checked_rows: Annotated[int, Field(ge=1000)] = 2_000_000
    """rows of the raw log shown to Great Expectations, evenly spaced; counts and shares are always of all rows"""

    @model_validator(mode="after")
    def _cuts_in_order(self) -> Self:
        if self.train_until >= self.validation_until:
            raise ValueError(
                f"train_until ({self.train_until}) must lie below validation_until ({self.validation_until})"
            )
        return self

    @property
    def latest_second(self) -> int | None:
        """`latest` in UTC seconds; a time without zone is UTC."""
        if self.latest is None:
            return None
        zoned = self.latest if self.latest.tzinfo else self.latest.replace(tzinfo=UTC)
        return int(zoned.timestamp())


class RankerSettings(Settings):
    """The ranker over the candidates of all models and rules, learned from validation events."""

    objective: Literal["contact", "answered"] = "contact"
    """contact: who is contacted next; answered: who is contacted and answers"""
    answer_days: Annotated[float, Field(gt=0)] = 7.0
    """answered: within so many days; events with fewer days left before the test part teach nothing"""
    events: Annotated[int, Field(ge=1)] = 2000
    """validation events, at most, evenly spaced, in each regime"""
    regimes: Annotated[list[Regime], Field(min_length=1)] = list(REGIMES)
    """what is visible when lists are made"""
    trees: Annotated[int, Field(ge=1)] = 100
    """trees"""
    leaves: Annotated[int, Field(ge=2)] = 15
    """leaves of a tree"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """weight of a tree"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of every random choice"""
    threads: Annotated[int, Field(ge=1)] = 2
    """CPU threads"""


class EvaluateSettings(Settings):
    """The protocol: which events are predicted, from what, and how sure the figures are."""

    part: Literal["test", "validation"] = "test"
    """choose settings on validation; look at test once"""
    events: Annotated[int, Field(ge=1)] = 3000
    """evaluated events, at most, evenly spaced over the part"""
    regimes: Annotated[list[Regime], Field(min_length=1)] = list(REGIMES)
    """what is visible: streaming (all before the event, which action is known), live (all before the event, without the
    action), daily (before its UTC day), frozen (before the part)"""
    served: Annotated[int, Field(ge=0)] = 60
    """requests, drawn from all, that are sent through the API and as a file as well: their lists have to be the same"""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """resamplings of the users behind each confidence interval"""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """level of the confidence intervals"""
    seed: int = 0
    """seed of the bootstrap"""


class ReportSettings(Settings):
    """The page of a run."""

    examples: Annotated[int, Field(ge=0, le=4)] = 4
    """users whose lists are shown, of each degree of activity one; 0: a page without anybody's lists"""
    people: Annotated[int, Field(ge=1, le=20)] = 5
    """people on each of their lists"""


class DriftSettings(Settings):
    """When new events differ from those of the champion: a warning is reported, what is severe stops a promotion."""

    psi_warning: Annotated[float, Field(gt=0)] = 0.1
    """population stability index of actions and tokens: warning above"""
    psi_severe: Annotated[float, Field(gt=0)] = 0.25
    """severe above"""
    ks_warning: Share = 0.1
    """Kolmogorov-Smirnov statistic of contacts a user and of times between events: warning above"""
    ks_severe: Share = 0.25
    """severe above"""
    share_warning: Share = 0.1
    """difference of a share (answered pairs, acts of newcomers, repeated contacts): warning above"""
    share_severe: Share = 0.2
    """severe above"""
    least_events: Annotated[int, Field(ge=1)] = 500
    """with fewer new events than these, the last tenths of the logs are compared instead"""

    def limits(self, kind: str) -> tuple[float, float]:
        """Warning and severe, of psi, ks or share."""
        return getattr(self, f"{kind}_warning"), getattr(self, f"{kind}_severe")


class GateSettings(Settings):
    """What a challenger has to show before it replaces the champion."""

    regimes: Annotated[list[Regime], Field(min_length=1)] = ["streaming", "daily"]
    """in which its lists are judged, of those that evaluate has"""
    tolerance: Share = 0.02
    """share of the champion's NDCG@10 on list new that may be lost, for all and for newcomers"""
    floor: Annotated[float, Field(ge=0)] = 0.8
    """its NDCG@10 on either list may not lie clearly below so many times that of the best rule"""
    fall: Share = 0.5
    """largest fall below the figures with which the champion was promoted"""
    drift: Literal["ok", "warning", "severe"] = "warning"
    """the worst drift that is let through"""


class RegistrySettings(Settings):
    """What is kept of runs that were promoted."""

    keep: Annotated[int, Field(ge=2)] = 5
    """promoted runs; the champion and the one before it are never removed"""
    commits: Annotated[int, Field(ge=1)] = 10
    """last commits whose results stay in DVC's cache when it is tidied, beside those of the workspace"""


class Params(Settings):
    """Everything in params.yaml."""

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
    """before a promotion: how new events may differ"""
    gate: GateSettings = GateSettings()
    """before a promotion: how good lists must be"""
    registry: RegistrySettings = RegistrySettings()
    """promoted runs"""


def load_params(path: Path = PARAMS_FILE, overrides: list[str] | None = None, section: str | None = None) -> Params:
    """Params of a YAML file, with `name=value` overrides on top; SettingsError lists every problem at once.

    An override's name is relative to `section` where one is given ("events=500" for evaluate.events).
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        raw = YAML(typ="safe").load(path) or {}
    except FileNotFoundError:
        raise SettingsError(
            f"there is no {path} here ({Path.cwd()}). Run befriend in the project's root, where params.yaml is."
        ) from None
    except (YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must hold sections (data:, validate:, ...), but holds a {type(raw).__name__}.")
    raw = {name: {} if value is None else value for name, value in raw.items()}  # a section may be empty
    for item in overrides or []:
        name, value = split_override(item)
        _assign(raw, [*([section] if section else []), *name.split(".")], value)
    return parse(Params, raw, str(path))


def _assign(raw: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        below = raw.setdefault(key, {})
        if not isinstance(below, dict):
            raise SettingsError(f"--set {'.'.join(path)}: {key} is a single value, it has no settings below it")
        raw = below
    raw[path[-1]] = value
