"""`befriend use`: points data.dvc at an event log, writes the matching settings, and shows what it understood."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from befriend import files, layout
from befriend.config import PARAMS_FILE, DataSettings, parse
from befriend.data.columns import ACTION, ACTOR, REASON, REASONS, TARGET, TIMESTAMP
from befriend.data.contracts import judge
from befriend.data.detect import detect
from befriend.data.sources import read_chunks
from befriend.errors import CallError, SourceError
from befriend.progress import track

DATA_FILE = Path("data.dvc")
SAMPLE_SETTINGS: dict[str, Any] = {
    "actions": ["accept", "block", "message", "request", "view"],
    "roles": {"view": "signal", "block": "exclude"},
}
MOST_ACTIONS = 50  # more labels than that are no fixed vocabulary
SHOWN = 5


def use(
    source: str | None,
    columns: dict[str, str],
    unit: str | None,
    separator: str | None,
    header: bool | None,
    default_action: str | None,
    roles: dict[str, str],
) -> None:
    """Points the pipeline at `source` (a path, or a URL that DVC can import; None for the embedded sample)."""
    console = Console()
    if not Path("dvc.yaml").is_file():
        raise CallError(f"there is no dvc.yaml here ({Path.cwd()}). Run befriend use in the project's root.")
    before = DATA_FILE.read_text() if DATA_FILE.is_file() else None
    try:
        if source is None:
            settings = parse(DataSettings, SAMPLE_SETTINGS, "befriend use --sample")
            _import(str(layout.SAMPLE / "events.parquet"))
        else:
            remote = "://" in source
            if not remote:
                settings = detect(Path(source), columns, unit, separator, header)
            _import(source)
            if remote:
                settings = detect(layout.DATA, columns, unit, separator, header)
            if default_action is not None:
                settings = settings.model_copy(update={"default_action": default_action})
            settings = _with_actions(settings, roles)
        first, counts, refused = _look(settings)
    except BaseException:
        if before is not None:
            files.write_text(DATA_FILE, before)
        raise
    _write_settings(settings)
    _show(console, settings, first, counts, refused)


def _import(source: str) -> None:
    """`dvc import-url` in the form that `dvc repro` follows on a fresh clone: not frozen."""
    local = "://" not in source
    if local and not Path(source).exists():
        raise SourceError(f"the event log {source} does not exist. Give the path of a file or folder, or a URL.")
    command = [str(Path(sys.executable).with_name("dvc")), "import-url", "--force", source, str(layout.DATA)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).removeprefix("ERROR: ")
        raise SourceError(f"DVC could not import {source}: {reason}")
    lines = [line for line in DATA_FILE.read_text().splitlines() if line.strip() != "frozen: true"]
    files.write_text(DATA_FILE, "\n".join(lines) + "\n")


def _with_actions(settings: DataSettings, roles: dict[str, str]) -> DataSettings:
    """The settings with the action labels of the whole log, and the roles that were asked for."""
    labels: set[str] = set()
    for chunk in track(read_chunks(settings, layout.DATA), "reading the log"):
        labels |= set(judge(chunk.rows, settings, None).filter(pl.col(REASON).is_null())[ACTION].unique())
    unknown = sorted(set(roles) - labels)
    if unknown:
        raise CallError(f"the log has no action {', '.join(unknown)}. It has: {', '.join(sorted(labels))}.")
    actions = sorted(labels) if len(labels) <= MOST_ACTIONS else None
    return parse(DataSettings, settings.model_dump() | {"actions": actions, "roles": roles}, "befriend use")


def _look(settings: DataSettings) -> tuple[pl.DataFrame, dict[str, int], dict[str, int]]:
    """The first rows as understood, and over the whole log the rows by action and the refused ones by reason."""
    first, counts, refused = pl.DataFrame(), dict[str, int](), dict[str, int]()
    for chunk in read_chunks(settings, layout.DATA):
        rows = judge(chunk.rows, settings, None)
        first = first if first.height else rows[:SHOWN]
        good = pl.col(REASON).is_null()
        for tally, part, column in ((counts, rows.filter(good), ACTION), (refused, rows.filter(~good), REASON)):
            for name, count in part.group_by(column).len().iter_rows():
                tally[name] = tally.get(name, 0) + count
    return first, dict(sorted(counts.items())), dict(sorted(refused.items()))


def _write_settings(settings: DataSettings) -> None:
    """Replaces the data: section of params.yaml; everything else stays as it is, comments included."""
    yaml = YAML()
    yaml.preserve_quotes = True
    params = yaml.load(PARAMS_FILE) if PARAMS_FILE.is_file() else {}
    chosen = settings.model_dump(mode="json", exclude_defaults=True)
    always = {"format": settings.format, "columns": settings.columns.model_dump()}
    always |= {name: getattr(settings, name) for name in ("id_type", "timestamp_unit", "actions", "roles")}
    section = always | chosen
    if settings.actions is not None:
        section["actions"] = CommentedSeq(settings.actions)
        section["actions"].fa.set_flow_style()
    params["data"] = section
    text = io.StringIO()
    yaml.dump(params, text)
    files.write_text(
        PARAMS_FILE, re.sub(r"(?<!\n)\n(?=\w+:)", "\n\n", text.getvalue())
    )  # a blank line between sections


def _show(
    console: Console, settings: DataSettings, first: pl.DataFrame, counts: dict[str, int], refused: dict[str, int]
) -> None:
    table = Table(
        "actor",
        "action",
        "target",
        "time (UTC)",
        "refused because",
        title="The first rows, as understood",
        title_justify="left",
    )
    for actor, action, target, second, reason in first.select(ACTOR, ACTION, TARGET, TIMESTAMP, REASON).iter_rows():
        time = "" if second is None or reason else pl.select(pl.from_epoch(pl.lit(second))).item().isoformat(" ")
        table.add_row(str(actor), str(action), str(target), time, REASONS.get(reason, ""))
    console.print(table)
    total = sum(counts.values()) + sum(refused.values())
    actions = ", ".join(f"{name} {count:,} ({settings.roles.get(name, 'contact')})" for name, count in counts.items())
    console.print(f"{total:,} rows. Actions and their roles: {actions or 'none'}", highlight=False)
    for reason, count in refused.items():
        console.print(f"[yellow]{count:,} rows would be refused: {REASONS[reason]}[/]", highlight=False)
    console.print(
        "data.dvc and the data: section of params.yaml are written. If a row above is misread, correct params.yaml.\n"
        "Next: [bold]dvc repro[/]",
        highlight=False,
    )
