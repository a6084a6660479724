"""`befriend use`: points data.dvc at an event log, writes the matching settings, and shows what it understood."""

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
from befriend.config import PARAMS_FILE, DataSettings, load_params
from befriend.data.columns import REASONS
from befriend.data.detect import detect
from befriend.errors import CallError, SourceError
from befriend.ops.understood import Seen, look, look_beside, show
from befriend.settings import parse

DATA_FILE = Path("data.dvc")
ASIDE, DONE = Path(".data.former"), Path(".data.replaced")
KEPT = {layout.DATA: ASIDE / "data", DATA_FILE: ASIDE / "import"}
"""where the former log and its data.dvc lie while another is imported; DVC would take any *.dvc for one of its own"""
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
"""settings with which a log of 500 users goes through all stages in less than a minute"""
MOST_ACTIONS = 50  # more labels than that are no fixed vocabulary


def use(
    source: str | None,
    columns: dict[str, str],
    unit: str | None,
    separator: str | None,
    header: bool | None,
    default_action: str | None,
    roles: dict[str, str],
    beside: dict[str, dict[str, Any]],
) -> None:
    """Points the pipeline at `source` (a path, or a URL that DVC can import; None for the embedded sample).

    beside: settings of the tables beside the events, as in data.attributes, data.texts and data.statements.
    """
    if not Path("dvc.yaml").is_file():
        raise CallError(f"there is no dvc.yaml here ({Path.cwd()}). Run befriend use in the project's root.")
    load_params()
    told = (columns, unit, separator, header, parse(DataSettings, beside, "befriend use"))
    if source is not None and "://" not in source:  # looked at before anything is moved
        if Path(source).absolute().is_relative_to(layout.DATA.absolute()):
            raise CallError(f"{source} lies in {layout.DATA}/, which befriend fills and empties: put it elsewhere.")
        settings = detect(Path(source), *told)
    with files.stage_lock(layout.LOCK), _restored():
        if source is None:
            settings = parse(DataSettings, SAMPLE_SETTINGS, "befriend use --sample")
            _import(str(layout.SAMPLE / "log"))
        else:
            _import(source)
            if "://" in source:
                settings = detect(layout.DATA, *told)
            if default_action is not None:
                settings = _name_action(settings, default_action)
        seen = look(settings)
        if not seen.actions:
            raise CallError(_nothing_usable(source or "the sample", seen))
        if source is not None:
            settings = _with_actions(settings, seen, roles)
        tables = look_beside(settings)
        _write_settings(settings)
    show(Console(), settings, seen, tables)


@contextmanager
def _restored() -> Iterator[None]:
    """Puts data and data.dvc back if anything fails; where the process was killed, the next call does so first.

    Both are moved aside: DVC would import into an existing folder, and keep the layout of the old data.dvc.
    """
    _put_back()
    files.remove(DONE)
    ASIDE.mkdir()
    try:
        for path, kept in KEPT.items():
            if os.path.lexists(path):
                path.rename(kept)
        try:
            yield
        except BaseException:
            for path in KEPT:  # what was imported
                files.remove(path)
            raise
    except BaseException:
        _put_back()
        raise
    ASIDE.rename(DONE)  # in this step the new log takes the place of the former one
    files.remove(DONE)


def _put_back() -> None:
    """Returns what a call that did not come to its end moved aside, if there is any."""
    for path, kept in KEPT.items():
        if os.path.lexists(kept):
            files.remove(path)
            kept.rename(path)
    files.remove(ASIDE)


def use_tiny() -> None:
    """Simulates a log of 500 users, points the pipeline at it, and makes the settings of the stages small."""
    from befriend.data.simulate import write
    from befriend.data.traits import PROFILES

    with files.stage_lock(layout.LOCK):
        write(PROFILES["tiny"], layout.TINY)
        roles = SAMPLE_SETTINGS["roles"]
        use(str(layout.TINY / "events.parquet"), {}, None, None, None, None, roles, {})
        _set(TINY)
    typer.echo(
        "\nThe settings of the stages are those of a quick look now, whose figures mean little. To go back:\n"
        "  git checkout params.yaml data.dvc"
    )


def _import(source: str) -> None:
    """`dvc import-url` in the form that `dvc repro` follows on a fresh clone: not frozen."""
    command = [str(Path(sys.executable).with_name("dvc")), "import-url", "--force", source, str(layout.DATA)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).removeprefix("ERROR: ")
        raise SourceError(f"DVC could not import {source}: {reason}")
    lines = [line for line in DATA_FILE.read_text().splitlines() if line.strip() != "frozen: true"]
    files.write_text(DATA_FILE, "\n".join(lines) + "\n")


def _name_action(settings: DataSettings, name: str) -> DataSettings:
    if settings.columns.action is not None or settings.action_from_file_name:
        where = "its files' names" if settings.action_from_file_name else f"column {settings.columns.action}"
        raise CallError(f"--default-action is for logs without actions; this one has them in {where}.")
    return settings.model_copy(update={"default_action": name})


def _nothing_usable(source: str, seen: Seen) -> str:
    reasons = "; ".join(f"{count:,} rows: {REASONS[reason]}" for reason, count in seen.refused.items())
    return f"no row of {source} can be used. {reasons or 'It has none'}. Say how to read it: befriend use --help"


def _with_actions(settings: DataSettings, seen: Seen, roles: dict[str, str]) -> DataSettings:
    """The settings with the action labels of the log, and the roles that were asked for."""
    unknown = sorted(set(roles) - set(seen.actions))
    if unknown:
        raise CallError(f"the log has no action {', '.join(unknown)}. It has: {', '.join(sorted(seen.actions))}.")
    actions = sorted(seen.actions) if len(seen.actions) <= MOST_ACTIONS else None
    return parse(DataSettings, settings.model_dump() | {"actions": actions, "roles": roles}, "befriend use")


def _write_settings(settings: DataSettings) -> None:
    """Replaces the data: section of params.yaml."""
    chosen = settings.model_dump(mode="json", exclude_defaults=True)
    always = {"format": settings.format, "columns": settings.columns.model_dump()}
    always |= {name: getattr(settings, name) for name in ("id_type", "timestamp_unit", "actions", "roles")}
    section = always | chosen
    if settings.actions is not None:
        section["actions"] = CommentedSeq(settings.actions)
        section["actions"].fa.set_flow_style()
    with _params() as params:
        params["data"] = section


def _set(chosen: dict[str, dict[str, Any]]) -> None:
    """Changes settings of params.yaml, section by section."""
    with _params() as params:
        for section, settings in chosen.items():
            params.setdefault(section, {}).update(settings)


@contextmanager
def _params() -> Iterator[Any]:
    """params.yaml, to be changed; what is not stays as it is, comments included."""
    yaml = YAML()
    yaml.preserve_quotes = True
    params = yaml.load(PARAMS_FILE) if PARAMS_FILE.is_file() else {}
    yield params
    text = io.StringIO()
    yaml.dump(params, text)
    files.write_text(
        PARAMS_FILE, re.sub(r"(?<!\n)\n(?=\w+:)", "\n\n", text.getvalue())
    )  # a blank line between sections
