"""Settings of section data: how to read the event log and its side tables (attributes, texts, statements)."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from befriend.data.columns import EVENT_FIELDS, TIME_OF_DAY, USER, Role
from befriend.settings import Settings

UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ISO = "iso"


def _check_unit(unit: str) -> str:
    if "%Z" in unit:
        raise ValueError("names of zones (%Z) are not read, since they are ambiguous; offsets such as +01:00 are (%z)")
    if unit not in (*UNITS_PER_SECOND, ISO) and "%" not in unit:
        raise ValueError('must be s, ms, us, ns, iso or a format of strptime such as "%d/%m/%Y %H:%M"')
    return unit


TimestampUnit = Annotated[str, AfterValidator(_check_unit)]
Separator = Annotated[str, Field(min_length=1), AfterValidator(lambda text: text.replace("\\t", "\t"))]


class EventColumns(Settings):
    """The column of each field of an event: its name or, in a text file without header, its number, from 1.

    In JSON Lines, dots lead into objects: payload.user.id.
    """

    actor_id: str | int = "actor_id"
    """id of the user who acts"""
    action: str | int | None = "action"
    """what the actor does; null where the log has no such column"""
    target_id: str | int = "target_id"
    """id of the user who is acted on"""
    timestamp: str | int = "timestamp"
    """time of the event"""
    time_of_day: str | int | None = None
    """time of day, where the column timestamp has the date only; data.timestamp_unit is then for "DATE TIME" """


class AttributeSettings(Settings):
    """Attributes of users, such as country or age: a side table of the log, one row per user."""

    file: str | None = None
    """table of users, Parquet or CSV with a header: a file in the folder of the log that holds no events; null: none"""
    separator: Separator = ","
    """field separator of a CSV table"""
    user_id: str = "user_id"
    """column of user ids, of the type data.id_type"""
    categorical: list[str] = []
    """columns of labels, such as country or plan"""
    numeric: list[str] = []
    """columns of numbers, such as age"""
    opt_out: str | None = None
    """column that marks users who must not be recommended, with 1, true or yes; not an input of the models"""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        problems = []
        columns = [self.user_id, *self.categorical, *self.numeric, *([self.opt_out] if self.opt_out else [])]
        if self.file is None and len(columns) > 1:
            problems.append("columns are named, but no file")
        if self.file is not None and len(columns) == 1:
            problems.append("file is given, so name its columns under categorical, numeric or opt_out")
        if self.file is not None and (PurePath(self.file).is_absolute() or ".." in PurePath(self.file).parts):
            problems.append(f"file is {self.file}, but must be the name of a file inside the folder of the log")
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            problems.append(f"{', '.join(repeated)} is named more than once")
        if USER in columns[1:]:
            problems.append(f"an attribute cannot be called {USER}, the name of the internal ids; rename the column")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class TableSettings(Settings):
    """Common settings of the side tables texts and statements."""

    file: str | None = None
    """the table, Parquet or JSON Lines: a file in the folder of the log that holds no events; null: none"""
    user_id: str = "user_id"
    """column of user ids, of the type data.id_type"""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        problems = []
        columns = [name for name in self.model_dump(exclude={"file"}).values() if name is not None]
        if self.file is None and self.model_dump(exclude_defaults=True):
            problems.append("columns are named, but no file")
        if self.file is not None and (PurePath(self.file).is_absolute() or ".." in PurePath(self.file).parts):
            problems.append(f"file is {self.file}, but must be the name of a file inside the folder of the log")
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            problems.append(f"{', '.join(repeated)} is named more than once")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class TextSettings(TableSettings):
    """Texts that users wrote, such as posts, messages or profiles: a side table of the log, one row per text."""

    timestamp: str = "timestamp"
    """column of timestamps, in data.timestamp_unit"""
    platform: str | None = None
    """column with the place of publication of a text, such as profile or post; null: none"""
    text: str = "text"
    """column of texts"""
    title: str | None = None
    """column of titles; a title becomes a statement about the user, not part of the text; null: none"""
    tags: str | None = None
    """column of tags, lists or text as <a><b>, a,b or a|b; a tag becomes a statement, "interested in a"; null: none"""


class StatementSettings(TableSettings):
    """Statements about users, such as "interested in hiking", which are known at any time: one row per statement."""

    statement: str = "statement"
    """column of statements"""
    context: str | None = None
    """column with the source of a statement; null: none"""


NO_ATTRIBUTES = AttributeSettings()
NO_TEXTS = TextSettings()
NO_STATEMENTS = StatementSettings()


class DataSettings(Settings):
    """How to read the event log. `befriend use SOURCE` writes this section."""

    format: Literal["parquet", "arrow", "jsonl", "csv", "whitespace"] = "parquet"
    """parquet, arrow (IPC files, such as Feather), jsonl (JSON Lines), csv (with any separator), whitespace (as in the
    SNAP collection); each one file or a folder"""
    separator: Separator = ","
    """field separator of a CSV, one character or several"""
    quote: Literal['"'] | None = '"'
    """the character around fields with separators or line ends; null: quotes are characters like others, as in exports
    of PostgreSQL and Hive"""
    escape: Literal["\\"] | None = None
    """the character before a quote within a quoted field, if it is not another quote"""
    columns: EventColumns = EventColumns()
    """column of each field of an event; a text file whose columns have names here has a header"""
    id_type: Literal["integer", "string"] = "integer"
    """type of the user ids"""
    null_words: list[str] = ["NULL", "\\N", "NaN", "None", "NA"]
    """words that stand for a missing id, in exact case; an empty field always does"""
    timestamp_unit: TimestampUnit = "s"
    """s, ms, us or ns since 1970-01-01 UTC; iso for ISO 8601 text and datetime columns; or a format of strptime such as
    "%d/%m/%Y %H:%M" (UTC where no zone is named)"""
    action_from_file_name: bool = False
    """take the action from each file's name (up to its first dot), for logs with one file per action"""
    default_action: str = "event"
    """action of every event of a log that has no action column"""
    rename_actions: dict[str, str] = {}
    """action labels to rename, old: new"""
    actions: list[str] | None = None
    """allowed action labels (after renaming); null allows any"""
    roles: dict[str, Role] = {}
    """role of an action: contact (default), signal (only history) or exclude (hides the two users from each other)"""
    attributes: AttributeSettings = NO_ATTRIBUTES
    """attributes of the users"""
    texts: TextSettings = NO_TEXTS
    """texts of the users"""
    statements: StatementSettings = NO_STATEMENTS
    """statements about the users"""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        problems = []
        unlisted = sorted(set(self.roles) - set(self.actions)) if self.actions is not None else []
        if unlisted:
            problems.append(f"roles names {', '.join(unlisted)}, which data.actions does not list")
        if self.action_from_file_name and self.columns.action is not None:
            problems.append("action_from_file_name is true, so columns.action must be null")
        for field in (*EVENT_FIELDS, TIME_OF_DAY):
            column = getattr(self.columns, field)
            if column is None:
                continue
            if self.has_column_names and isinstance(column, int):
                problems.append(f"columns.{field} is the number {column}; this log's columns have names")
            if not self.has_column_names and not (isinstance(column, int) and column >= 1):
                problems.append(f"columns.{field} is {column!r}; without header it must be a column's number, from 1")
        if self.columns.time_of_day is not None and self.timestamp_unit in UNITS_PER_SECOND:
            problems.append(f"columns.time_of_day needs timestamp_unit iso or a format, not {self.timestamp_unit}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def has_column_names(self) -> bool:
        """Whether columns have names; without them, a text file has no header, and columns are numbered from 1."""
        return self.format not in ("csv", "whitespace") or isinstance(self.columns.actor_id, str)
