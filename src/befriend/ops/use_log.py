"""`befriend use`: points data.dvc at an event log, writes the settings to read it, and shows how it was understood."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from befriend import files, layout
from befriend.config import PARAMS_FILE, load_params
from befriend.data.columns import REASONS
from befriend.errors import CallError, SourceError
from befriend.ops.preview import TablePreview, preview_log, preview_side_tables, print_preview
from befriend.readers.data_settings import DataSettings
from befriend.readers.detect import detect
from befriend.settings import parse

DATA_FILE = Path("data.dvc")
ASIDE, DONE = Path(".data.former"), Path(".data.replaced")
SET_ASIDE = {layout.DATA: ASIDE / "data", DATA_FILE: ASIDE / "import"}
"""where the old log and its data.dvc are during an import; not named *.dvc, which DVC would take for its own files"""
SAMPLE_SETTINGS: dict[str, Any] = {
    "actions": ["accept", "block", "message", "request", "view"],
    "roles": {"view": "signal", "block": "exclude"},
    "texts": {"file": "texts.parquet", "platform": "platform"},
    "statements": {"file": "statements.parquet"},
}
TINY: dict[str, dict[str, Any]] = {
    "train_two_tower": {"history_length": 20, "validation_events": 100, "regimes": ["streaming", "daily"]},
    "train_stu": {"history_length": 20, "validation_events": 100, "regimes": ["streaming", "daily"]},
    "train_ranker": {"events": 300, "trees": 30, "regimes": ["streaming", "daily"]},
    "evaluate": {"events": 250, "bootstrap": 200, "regimes": ["streaming", "daily"]},
    "cluster": {"epochs": 3, "validation_events": 200},
    "report": {"examples": 2},
}
"""settings with which all stages take less than a minute on a log of 500 users"""
MAX_ACTIONS = 50  # with more labels they are not treated as a fixed vocabulary


def use(
    source: str | None,
    columns: dict[str, str],
    unit: str | None,
    separator: str | None,
    header: bool | None,
    default_action: str | None,
    roles: dict[str, str],
    side_tables: dict[str, dict[str, Any]],
) -> None:
    """Points the pipeline at `source` (a path, or a URL that DVC can import; None for the embedded sample).

    columns: field -> column, for the fields that should not be guessed; unit, separator, header: how the source is
    written, guessed if None; default_action: the action of a log without actions; roles: action -> signal or exclude;
    side_tables: settings of the side tables, as in data.attributes, data.texts and data.statements.
    """
    if not Path("dvc.yaml").is_file():
        raise CallError(f"there is no dvc.yaml here ({Path.cwd()}). Run befriend use in the project's root.")
    load_params()
    hints = (columns, unit, separator, header, parse(DataSettings, side_tables, "befriend use"))
    if source is not None and "://" not in source:  # read before anything is moved
        if Path(source).absolute().is_relative_to(layout.DATA.absolute()):
            raise CallError(f"{source} lies in {layout.DATA}/, which befriend fills and empties: put it elsewhere.")
        settings = detect(Path(source), *hints)
    with files.stage_lock(layout.LOCK), _restored():
        if source is None:
            settings = parse(DataSettings, SAMPLE_SETTINGS, "befriend use --sample")
            _import(str(layout.SAMPLE / "log"))
        else:
            _import(source)
            if "://" in source:
                settings = detect(layout.DATA, *hints)
            if default_action is not None:
                settings = _name_action(settings, default_action)
        preview = preview_log(settings)
        if not preview.actions:
            raise CallError(_nothing_usable(source or "the sample", preview))
        if source is not None:
            settings = _with_actions(settings, preview, roles)
        side_previews = preview_side_tables(settings)
        _write_settings(settings)
    print_preview(Console(), settings, preview, side_previews)


@contextmanager
def _restored() -> Iterator[None]:
    """Moves data and data.dvc aside, and back if the block fails. After a killed process the next call restores them.

    Both have to be moved: DVC would import into an existing folder, and would keep the layout of the old data.dvc.
    """
    _put_back()
    files.remove(DONE)
    ASIDE.mkdir()
    try:
        for path, aside in SET_ASIDE.items():
            if os.path.lexists(path):
                path.rename(aside)
        try:
            yield
        except BaseException:
            for path in SET_ASIDE:  # the imported log
                files.remove(path)
            raise
    except BaseException:
        _put_back()
        raise
    ASIDE.rename(DONE)  # with this step the new log has replaced the old one
    files.remove(DONE)


def _put_back() -> None:
    """Restores what an incomplete call has moved aside, if there is any."""
    for path, aside in SET_ASIDE.items():
        if os.path.lexists(aside):
            files.remove(path)
            aside.rename(path)
    files.remove(ASIDE)


def use_tiny() -> None:
    """Simulates a log of 500 users, points the pipeline at it, and writes settings with which the stages are fast."""
    from befriend.simulate.network import write
    from befriend.simulate.network_settings import PROFILES

    with files.stage_lock(layout.LOCK):
        write(PROFILES["tiny"], layout.TINY)
        roles = SAMPLE_SETTINGS["roles"]
        use(str(layout.TINY / "events.parquet"), {}, None, None, None, None, roles, {})
        _set(TINY)
    typer.echo(
        "\nThe stages now have settings for a quick look, with which the metrics mean little. To go back:\n"
        "  git checkout params.yaml data.dvc"
    )


def _import(source: str) -> None:
    """Runs `dvc import-url`, and makes data.dvc not frozen, so that `dvc repro` updates it, on a fresh clone too."""
    command = [str(Path(sys.executable).with_name("dvc")), "import-url", "--force", source, str(layout.DATA)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip() or process.stdout.strip()).removeprefix("ERROR: ")
        raise SourceError(f"DVC could not import {source}: {reason}")
    lines = [line for line in DATA_FILE.read_text().splitlines() if line.strip() != "frozen: true"]
    files.write_text(DATA_FILE, "\n".join(lines) + "\n")


def _name_action(settings: DataSettings, name: str) -> DataSettings:
    """The settings with a default action; CallError if the log has actions."""
    if settings.columns.action is not None or settings.action_from_file_name:
        where = "its files' names" if settings.action_from_file_name else f"column {settings.columns.action}"
        raise CallError(f"--default-action is for logs without actions; this one has them in {where}.")
    return settings.model_copy(update={"default_action": name})


def _nothing_usable(source: str, preview: TablePreview) -> str:
    """The message for a log of which every row is refused."""
    reasons = "; ".join(f"{count:,} rows: {REASONS[reason]}" for reason, count in preview.refused.items())
    return f"no row of {source} can be used. {reasons or 'It has no rows'}. Options to read it: befriend use --help"


def _with_actions(settings: DataSettings, preview: TablePreview, roles: dict[str, str]) -> DataSettings:
    """The settings with the action labels of the log and the given roles; CallError if the log lacks one of them."""
    unknown = sorted(set(roles) - set(preview.actions))
    if unknown:
        raise CallError(f"the log has no action {', '.join(unknown)}. It has: {', '.join(sorted(preview.actions))}.")
    actions = sorted(preview.actions) if len(preview.actions) <= MAX_ACTIONS else None
    return parse(DataSettings, settings.model_dump() | {"actions": actions, "roles": roles}, "befriend use")


def _write_settings(settings: DataSettings) -> None:
    """Replaces the data: section of params.yaml."""
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    always = {"format": settings.format, "columns": settings.columns.model_dump()}
    always |= {name: getattr(settings, name) for name in ("id_type", "timestamp_unit", "actions", "roles")}
    section = always | changed
    if settings.actions is not None:
        section["actions"] = CommentedSeq(settings.actions)
        section["actions"].fa.set_flow_style()
    with _params() as params:
        params["data"] = section


def _set(changes: dict[str, dict[str, Any]]) -> None:
    """Changes settings of params.yaml. changes: section -> name -> value."""
    with _params() as params:
        for section, settings in changes.items():
            params.setdefault(section, {}).update(settings)


@contextmanager
def _params() -> Iterator[Any]:
    """Yields the content of params.yaml and writes it back with the caller's changes; keeps comments and all else."""
    yaml = YAML()
    yaml.preserve_quotes = True
    params = yaml.load(PARAMS_FILE) if PARAMS_FILE.is_file() else {}
    yield params
    text = io.StringIO()
    yaml.dump(params, text)
    # a blank line between sections
    files.write_text(PARAMS_FILE, re.sub(r"(?<!\n)\n(?=\w+:)", "\n\n", text.getvalue()))
