"""`befriend use`: imports an event log with DVC, writes the settings to read it, and prints how it was read."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.prompt import Prompt
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from befriend import files, layout
from befriend.config import PARAMS_FILE, load_params
from befriend.data.columns import ACTION, REASONS
from befriend.errors import CallError, SourceError
from befriend.ops.detect import AmbiguousLogError, Hints, Reading, detect
from befriend.ops.log_preview import LogPreview, preview_log
from befriend.ops.preview import first_rows_table, preview_side_tables, print_preview
from befriend.ops.sizes import SizeName, chosen_size, settings_of
from befriend.readers.data_settings import DataSettings
from befriend.settings import parse

DATA_FILE = Path("data.dvc")
BACKUP, OLD_BACKUP = Path(".data.former"), Path(".data.replaced")
BACKUP_PATHS = {layout.DATA: BACKUP / "data", DATA_FILE: BACKUP / "import"}
"""where the old log and its data.dvc are during an import; not named *.dvc, since DVC reads all files of that name"""
SAMPLE_DATA_SETTINGS: dict[str, Any] = {
    "actions": ["accept", "block", "message", "request", "view"],
    "roles": {"view": "signal", "block": "exclude"},
    "texts": {"file": "texts.parquet", "platform": "platform"},
    "statements": {"file": "statements.parquet"},
}
"""section data of params.yaml for the sample of the project"""
TINY_SETTINGS: dict[str, dict[str, Any]] = {
    "train_two_tower": {"history_length": 20, "validation_events": 100, "regimes": ["streaming", "daily"]},
    "train_stu": {"history_length": 20, "validation_events": 100, "regimes": ["streaming", "daily"]},
    "train_ranker": {"events": 300, "first_contacts": 200, "trees": 30, "regimes": ["streaming", "daily"]},
    "evaluate": {"events": 250, "first_contacts": 100, "bootstrap": 200, "regimes": ["streaming", "daily"]},
    "cluster": {"epochs": 3, "validation_events": 200},
    "report": {"examples": 2},
}
"""settings for a quick run of all stages on a log of 500 users"""
ID_REASONS = {"actor_id_type", "target_id_type"}
MAX_EXAMPLE_LENGTH = 100  # characters of a rejected row in a message
MAX_LISTED_ACTIONS = 50  # with more actions, setting data.actions stays empty, and any action is accepted


def use(
    source: str | None,
    hints: Hints,
    actions: dict[str, Any],
    roles: dict[str, str],
    side_tables: dict[str, dict[str, Any]],
    size: SizeName | None = None,
) -> None:
    """Makes the pipeline read `source`: a path, or a URL that DVC can import; None: the sample of the project.

    hints: what is not to be guessed; actions: data.default_action or data.action_from_file_name, for a
    log without a column of actions; roles: action -> signal (history only) or exclude (a block); side_tables: settings
    of the side tables, as in data.attributes, data.texts and data.statements. The sample ignores all of these. size: of
    the models; None: auto, unless their settings have been changed to those of no size; small for the sample.

    CallError, SourceError or DataError if the source cannot be used; the log and the settings are then unchanged.
    """
    _require_pipeline()
    params = load_params()
    tables = parse(DataSettings, side_tables, "befriend use")
    others = _to_options(actions, roles, side_tables)
    if source is not None and "://" not in source:  # a local source is checked before the old log is moved
        if Path(source).absolute().is_relative_to(layout.DATA.absolute()):
            raise CallError(f"{source} is in {layout.DATA}/, whose content befriend replaces. Move it elsewhere.")
        settings = _detect(Path(source), source, hints, tables, others)
    _require_imported_data()
    with files.stage_lock(layout.STAGE_LOCK), _backup_of_old_log():
        if source is None:
            settings = parse(DataSettings, SAMPLE_DATA_SETTINGS, "befriend use --sample")
            _import(str(layout.SAMPLE / "log"))
        else:
            _import(source)
            if "://" in source:
                settings = _detect(layout.DATA, source, hints, tables, others)
            settings = _with_given_actions(settings, actions)
        settings, preview = _with_id_type(settings)
        _require_usable(source or "the sample", preview, params.validate_.max_rejected)
        if source is not None:
            settings = _with_actions(settings, preview, roles)
        side_previews = preview_side_tables(settings)
        _write_settings(settings)
        if source is None and size is None:
            size = "small"  # the sample is there for a quick look
        fitting = chosen_size(size, preview.num_events, params.model_dump(by_alias=True))
        if fitting is not None:
            _change_settings(settings_of(fitting))
    print_preview(Console(), settings, preview, side_previews, fitting)


def _detect(path: Path, source: str, hints: Hints, side_tables: DataSettings, other_options: str) -> DataSettings:
    """The settings for the log at `path`; where two readings are about as plausible, those of the user's choice.

    CallError with a command for each reading if nobody is there to choose. source, other_options: what the user typed.
    """
    try:
        return detect(path, hints, side_tables)
    except AmbiguousLogError as error:
        readings = error.readings
        commands = [f"befriend use {shlex.quote(source)} {reading.options()}{other_options}" for reading in readings]
        if sys.stdin.isatty() and sys.stdout.isatty():
            return _ask(readings, commands).settings
        raise CallError("\n  ".join([f"{source} can be read in two ways. Choose one:", *commands])) from None


def _ask(readings: tuple[Reading, Reading], commands: list[str]) -> Reading:
    """The reading that the user chooses, after a look at the first rows of both."""
    console = Console()
    console.print("The log can be read in two ways.")
    for number, (reading, command) in enumerate(zip(readings, commands, strict=True), 1):
        console.print(f"{number}: {command}", highlight=False, markup=False, soft_wrap=True)
        console.print(first_rows_table(reading.preview))
    choices = [str(number) for number in range(1, len(readings) + 1)]
    return readings[int(Prompt.ask("Which one is right?", choices=choices, console=console)) - 1]


def _to_options(actions: dict[str, Any], roles: dict[str, str], side_tables: dict[str, dict[str, Any]]) -> str:
    """The options of a call that are no hints, each with a blank before it."""
    options = ["--action-from-file-name"] if actions.get("action_from_file_name") else []
    options += [f"--default-action={actions['default_action']}"] if "default_action" in actions else []
    options += [f"--{role}={action}" for action, role in roles.items()]
    for name, table in side_tables.items():
        if not table.get("file"):
            continue
        options.append(f"--{name}={table['file']}")
        columns = {field: column for field, column in table.items() if field not in ("file", "separator") and column}
        for field, value in columns.items():
            if name == "attributes":
                values = value if isinstance(value, list) else [value]
                options += [f"--{field.replace('_', '-')}={column}" for column in values]
            else:
                options.append(f"--{name.removesuffix('s')}-column={field}={value}")
    return "".join(f" {shlex.quote(option)}" for option in options)


def _require_pipeline() -> None:
    """Raises CallError in a folder without dvc.yaml, where no pipeline could read the log."""
    layout.require_project()
    if not layout.PIPELINE.is_file():
        raise CallError(
            f"there is no {layout.PIPELINE} in {Path.cwd()}, so no pipeline could read the log. Change to the folder "
            "of a project that has one (cd FOLDER)."
        )


def _require_imported_data() -> None:
    """Raises CallError if data/ holds files that were not imported, or were changed since: an import deletes them."""
    if not layout.DATA.exists():
        return
    paths = [layout.DATA, *sorted(layout.DATA.rglob("*"))]
    changed = [str(path) for path in paths if path.is_file()]
    if DATA_FILE.is_file():
        command = [str(Path(sys.executable).with_name("dvc")), "data", "status", "--granular", "--json"]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            if not Path(".dvc").is_dir():  # then there will be no import, and its message says what to do
                return
            raise SourceError(f"DVC does not know what is in {layout.DATA}/: {process.stderr.strip()}")
        uncommitted = json.loads(process.stdout or "{}").get("uncommitted", {})
        names = [name for kind in ("added", "modified") for name in uncommitted.get(kind, [])]
        changed = [name for name in names if name == str(layout.DATA) or name.startswith(f"{layout.DATA}/")]
        changed = [name for name in changed if name != f"{layout.DATA}/"] or changed
    if changed:
        raise CallError(
            f"{changed[0]} was not imported, or was changed since. befriend replaces all that is in {layout.DATA}/: "
            "move it elsewhere first."
        )


@contextmanager
def _backup_of_old_log() -> Iterator[None]:
    """Moves data and data.dvc to BACKUP, and restores them if the block fails.

    If the process is killed, the next call restores them. Both have to be moved, because DVC would import into an
    existing folder, and would keep the layout of an existing data.dvc.
    """
    _restore_backup()
    files.remove(OLD_BACKUP)
    BACKUP.mkdir()
    try:
        for path, backup in BACKUP_PATHS.items():
            if os.path.lexists(path):
                path.rename(backup)
        try:
            yield
        except BaseException:
            for path in BACKUP_PATHS:  # the imported log
                files.remove(path)
            raise
    except BaseException:
        _restore_backup()
        raise
    BACKUP.rename(OLD_BACKUP)  # after this step a killed process does not restore the old log any more
    files.remove(OLD_BACKUP)


def _restore_backup() -> None:
    """Restores what an incomplete call moved to BACKUP; does nothing if there is no backup."""
    for path, backup in BACKUP_PATHS.items():
        if os.path.lexists(backup):
            files.remove(path)
            backup.rename(path)
    files.remove(BACKUP)


def use_tiny() -> None:
    """Simulates a log of 500 users, makes the pipeline read it, and writes settings with which all stages are fast."""
    from befriend.simulate.network import write
    from befriend.simulate.network_settings import PROFILES

    _require_pipeline()
    with files.stage_lock(layout.STAGE_LOCK):
        write(PROFILES["tiny"], layout.TINY_LOG)
        roles = SAMPLE_DATA_SETTINGS["roles"]
        use(str(layout.TINY_LOG / "events.parquet"), Hints({}), {}, roles, {})
        _change_settings(TINY_SETTINGS)
    typer.echo(
        "\nparams.yaml now has settings for a quick run, with which the metrics mean little. To go back:\n"
        "  git checkout params.yaml data.dvc"
    )


def _import(source: str) -> None:
    """Runs `dvc import-url`, and unfreezes data.dvc, since `dvc repro` does not update a frozen import."""
    command = [str(Path(sys.executable).with_name("dvc")), "import-url", "--force", "--", source, str(layout.DATA)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip() or process.stdout.strip()).removeprefix("ERROR: ")
        raise SourceError(f"DVC could not import {source}: {reason}")
    lines = [line for line in DATA_FILE.read_text().splitlines() if line.strip() != "frozen: true"]
    files.write_text(DATA_FILE, "\n".join(lines) + "\n")


def _with_given_actions(settings: DataSettings, actions: dict[str, Any]) -> DataSettings:
    """The settings with the actions of a log that has no column of them; CallError if it has one."""
    if actions and settings.columns.action is not None:
        raise CallError(
            f"--default-action and --action-from-file-name are for logs without actions; this one has them in column "
            f"{settings.columns.action}."
        )
    return settings.model_copy(update=actions)


def _with_id_type(settings: DataSettings) -> tuple[DataSettings, LogPreview]:
    """The settings with the type of ids that all rows have, and the log read with them.

    Ids are integers only if every id is one: a log may begin with numbers, and have names later.
    """
    preview = preview_log(settings)
    if settings.id_type == "integer" and ID_REASONS & preview.num_rejected_by_reason.keys():
        text_settings = settings.model_copy(update={"id_type": "string"})
        text_preview = preview_log(text_settings)
        if text_preview.num_rejected < preview.num_rejected:
            return text_settings, text_preview
    return settings, preview


def _require_usable(source: str, preview: LogPreview, max_rejected: float) -> None:
    """Raises CallError for a log that stage validate would refuse for its rejected rows."""
    if preview.num_events and preview.num_rejected <= max_rejected * preview.num_rows:
        return
    reasons = [
        f"{count:,} rows: {REASONS[reason]}, such as {preview.example_by_reason[reason][:MAX_EXAMPLE_LENGTH]}"
        for reason, count in preview.num_rejected_by_reason.items()
    ]
    problem = (
        f"{preview.num_rejected:,} of {preview.num_rows:,} rows of {source} cannot be used, more than "
        f"validate.max_rejected ({max_rejected:.0%})"
        if preview.num_events
        else f"no row of {source} can be used"
    )
    why = "; ".join(reasons) or "It has no events"
    raise CallError(f"{problem}. {why}. For options to read it: befriend use --help")


def _with_actions(settings: DataSettings, preview: LogPreview, roles: dict[str, str]) -> DataSettings:
    """The settings with the actions of the log and these roles. CallError if a role is for an action not in the log."""
    actions_of_log = sorted(preview.num_accepted_by_action)
    unknown = sorted(set(roles) - set(actions_of_log))
    if unknown:
        raise CallError(f"the log has no action {', '.join(unknown)}. It has: {', '.join(actions_of_log)}.")
    actions = actions_of_log if len(actions_of_log) <= MAX_LISTED_ACTIONS else None
    return parse(DataSettings, settings.model_dump() | {"actions": actions, "roles": roles}, "befriend use")


def _write_settings(settings: DataSettings) -> None:
    """Replaces section data of params.yaml. Writes the main settings always, the others if they are not the default."""
    not_default = settings.model_dump(mode="json", exclude_defaults=True)
    columns = settings.columns.model_dump()
    main = {"format": settings.format, "columns": {n: c for n, c in columns.items() if c is not None or n == ACTION}}
    main |= {name: getattr(settings, name) for name in ("id_type", "timestamp_unit", "actions", "roles")}
    section = main | not_default
    if settings.actions is not None:
        section["actions"] = CommentedSeq(settings.actions)
        section["actions"].fa.set_flow_style()
    with _editable_params() as params:
        params["data"] = section


def _change_settings(changes: dict[str, dict[str, Any]]) -> None:
    """Changes settings of params.yaml. changes: section -> name -> value."""
    with _editable_params() as params:
        for section, settings in changes.items():
            params.setdefault(section, {}).update(settings)


@contextmanager
def _editable_params() -> Iterator[Any]:
    """Yields the content of params.yaml, and writes it back with the changes of the caller. Comments stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    params = yaml.load(PARAMS_FILE) if PARAMS_FILE.is_file() else {}
    yield params
    text = io.StringIO()
    yaml.dump(params, text)
    # a blank line between sections
    files.write_text(PARAMS_FILE, re.sub(r"(?<!\n)\n(?=\w+:)", "\n\n", text.getvalue()))
