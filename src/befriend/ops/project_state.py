"""The state of a project, from small files that `dvc repro` writes: its log, its run, and whether it is up to date.

dvc.lock holds the digests and settings with which each stage ran last. Comparing them with data.dvc and params.yaml
takes milliseconds. `dvc status` takes seconds, and sees changes of code and of files as well.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from befriend import files, layout
from befriend.errors import BefriendError, DataError
from befriend.ops.registry import current_champion

DATA_FILE, LOCK_FILE = Path("data.dvc"), Path("dvc.lock")
ERASED = layout.PREPARED / "forgotten.txt"
EVENTS, USERS = layout.PREPARED / "events.parquet", layout.PREPARED / "users.parquet"
OUTPUTS = (layout.VALIDATION, EVENTS, USERS, *layout.MODEL_FOLDERS, layout.METRICS, layout.REPORT_PAGE)
"""what a complete run has, in the order of the stages"""


def describe_log(root: Path) -> dict[str, Any] | None:
    """Where the log comes from, and its size by the last validation; None without a log."""
    if not (root / DATA_FILE).is_file() and not (root / layout.DATA).exists():
        return None
    imported = _read_yaml(root / DATA_FILE).get("deps") or [{}]
    log: dict[str, Any] = {"source": imported[0].get("path"), "is_here": (root / layout.DATA).exists()}
    validation = _read_json(root / layout.VALIDATION)
    if validation:
        log |= {"users": validation["users"], "events": validation["rows"]["events"], **validation["time"]}
        if not validation.get("passed", True):
            log["refused"] = True
    return log


def missing_outputs(root: Path) -> list[Path]:
    """Those of OUTPUTS that the project does not have, relative to `root`."""
    return [path for path in OUTPUTS if not (root / path).exists()]


def damaged_outputs(root: Path) -> list[Path]:
    """Prepared tables and reports in JSON that are cut off or hold something else, by their first and last bytes."""
    tables = sorted((root / layout.PREPARED).glob("*.parquet"))
    damaged = [path for path in tables if not _is_parquet(path)]
    reports = [root / path for path in OUTPUTS if path.suffix == ".json" and (root / path).exists()]
    return [path.relative_to(root) for path in [*damaged, *(path for path in reports if not _is_json(path))]]


def _is_json(path: Path) -> bool:
    try:
        files.read_json(path)
    except DataError:
        return False
    return True


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-min(4, path.stat().st_size), os.SEEK_END)
        return head == file.read(4) == b"PAR1"


def unfinished_stage(root: Path) -> str | None:
    """What became of the stage that was started last, in words; None if it has ended without an error."""
    records = map(_read_json, (root / layout.RUNS).glob("*.json"))
    last = max((record for record in records if "stage" in record), key=lambda record: record["started"], default=None)
    if last is None or last["status"] == "done":
        return None
    if last["status"] == "running":
        return f"stage {last['stage']} is running, or was killed"
    return f"stage {last['stage']} failed: {last['error']}"


def outdated_stages(root: Path) -> dict[str, str]:
    """Stage -> why it is out of date, by dvc.lock, in the order of the stages. Stages after it may be so as well."""
    pipeline, ran = (_read_yaml(root / path).get("stages", {}) for path in (layout.PIPELINE, LOCK_FILE))
    current = {out["path"]: out["md5"] for out in _read_yaml(root / DATA_FILE).get("outs", []) if "md5" in out}
    for stage in ran.values():
        current |= {out["path"]: out["md5"] for out in stage.get("outs", [])}
    if (root / ERASED).is_file():
        current[str(ERASED)] = hashlib.md5((root / ERASED).read_bytes(), usedforsecurity=False).hexdigest()
    params = _read_yaml(root / layout.PARAMS)
    outdated = {}
    for name in pipeline:
        reason = _why_outdated(ran.get(name), current, params)
        if reason is not None:
            outdated[name] = reason
    return outdated


def _why_outdated(ran: dict[str, Any] | None, current: dict[str, str], params: dict[str, Any]) -> str | None:
    """Why a stage is out of date; None if it is not.

    ran: its entry in dvc.lock; current: path -> digest of the files that stages read; params: of params.yaml.
    """
    if ran is None:
        return "it has not run yet"
    for dependency in ran.get("deps", []):
        path, digest = dependency["path"], dependency.get("md5")
        if digest is not None and current.get(path, digest) != digest:
            return f"{path} has changed"
    for section, values in ran.get("params", {}).get(str(layout.PARAMS), {}).items():
        if params.get(section) != values:
            return f"section {section} of {layout.PARAMS} has changed"
    return None


def describe_champion(root: Path) -> dict[str, Any] | None:
    """Number and time of promotion of the run that is served; `problem` if it is damaged; None if there is none."""
    try:
        champion = current_champion(root)
        if champion is None:
            return None
        return {"number": champion.number, "promoted": champion.manifest["promoted"]}
    except (BefriendError, ValueError, KeyError) as error:
        return {"problem": str(error)}


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing, damaged, or holds none."""
    try:
        content = files.read_json(path) if path.is_file() else None
    except DataError:
        return {}
    return content if isinstance(content, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty if there is no such file, or if it holds none. DataError if it is damaged."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe").load(path) if path.is_file() else None
    except YAMLError as error:
        raise DataError(f"{path.name} is not valid YAML: {error}") from None
    return content if isinstance(content, dict) else {}
