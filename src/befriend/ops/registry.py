"""The registry of promoted runs: which run is served (the champion), which were before it, and how to change that.

models/registry/<number>/ holds a complete run: its prepared log, its models, its metrics, and a manifest with all that
is needed to reproduce it. models/champion is a link to the run that is served. It is replaced in one step: a reader
sees one run or the other, and a promotion that is killed leaves at most a folder that is never served.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from befriend import artifacts, files, layout
from befriend.analysis.fingerprint import PREPARED
from befriend.errors import CallError, DataError
from befriend.ops import caches

MANIFEST = "manifest.json"
HISTORY = "history.jsonl"
LOCK = ".lock"
RESTORE = ("dvc.yaml", "dvc.lock", "params.yaml", "data.dvc")
"""files of a run that git tracks: with them and the code of its revision, `dvc repro` reproduces the run"""
STALE = 30 * 86_400  # seconds


@dataclass(frozen=True)
class PromotedRun:
    """A run in the registry."""

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def manifest(self) -> dict[str, Any]:
        return files.read_json(self.folder / MANIFEST)


def champion(root: Path) -> PromotedRun | None:
    """The run that is served; None if no run was ever promoted."""
    link = root / layout.CHAMPION
    if not link.is_symlink():
        return None
    folder = link.resolve()
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{link} points to {folder}, which does not exist. Choose another run: befriend rollback --to NUMBER."
        )
    return PromotedRun(folder)


def promoted(root: Path) -> list[PromotedRun]:
    """All runs in the registry, oldest first."""
    registry = root / layout.REGISTRY
    folders = [path for path in registry.glob("[0-9]*") if (path / MANIFEST).is_file()] if registry.is_dir() else []
    return [PromotedRun(path) for path in sorted(folders)]


def digest(root: Path) -> str:
    """Digest (sha256) of the run in a folder: its prepared log and its models."""
    paths = [root / layout.PREPARED / name for name in PREPARED]
    missing = [path for path in (*paths, root / layout.METRICS) if not path.is_file()]
    missing += [root / folder for folder in layout.TRAINED if not any((root / folder).glob("*"))]
    if missing:
        raise DataError(f"there is no {missing[0]}. Run `dvc repro` first.")
    return artifacts.fingerprint(root, [*paths, *artifacts.files_in(*(root / folder for folder in layout.TRAINED))])


def promote(root: Path, decision: dict[str, Any], keep: int) -> PromotedRun:
    """Copies the project's current run into the registry, and serves it from now on.

    decision: of the gate, for the manifest; keep: how many runs stay in the registry.
    """
    from befriend.data.erasure import add_erased, read_erased

    with locked(root):
        previous = champion(root)
        manifest = _manifest(root, decision, previous)
        number = 1 + max((entry.number for entry in promoted(root)), default=0)
        folder = root / layout.REGISTRY / f"{number:04d}"
        with files.atomic(folder) as new:
            for model in layout.TRAINED:
                shutil.copytree(root / model, new / model)
            same_path = [layout.METRICS, *(layout.PREPARED / name for name in (*PREPARED, "forgotten.txt"))]
            copies = {path: path for path in same_path} | {Path(name): Path("restore") / name for name in RESTORE}
            for source, target in copies.items():
                if (root / source).is_file():
                    (new / target).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(root / source, new / target)
            files.write_json(new / MANIFEST, manifest | {"number": number})
        if digest(folder) != manifest["run"]:
            files.remove(folder)
            raise DataError("the run changed while it was promoted. Wait until no stage runs, and promote again.")
        # users may have been erased since the copy
        add_erased(folder / layout.PREPARED, read_erased(root / layout.PREPARED))
        _serve(root, folder, "promote")
        _prune(root, keep)
        return PromotedRun(folder)


def taken_back(root: Path) -> list[PromotedRun]:
    """Runs that were rolled back and have not been served again since."""
    rolled_back, serving = set[int](), None
    for line in _history(root):
        if line["how"] == "rollback" and serving is not None:
            rolled_back.add(serving)
        serving = line["number"]
        rolled_back.discard(serving)
    return [entry for entry in promoted(root) if entry.number in rolled_back]


def rollback(root: Path, to: int | None = None) -> PromotedRun:
    """Serves the run that was served before the champion, or the run with number `to`."""
    with locked(root):
        number = to
        if number is None:
            serving = champion(root)
            if serving is None:
                raise CallError("there is no champion yet: promote a run first (befriend promote).")
            number = serving.manifest["previous"]
        entries = {entry.number: entry for entry in promoted(root)}
        if number not in entries:
            numbers = ", ".join(map(str, entries))
            problem = (
                "nothing was served before the champion" if number is None else f"run {number} is not kept any more"
            )
            raise CallError(f"{problem}. Kept runs: {numbers}; befriend rollback --to NUMBER.")
        _serve(root, entries[number].folder, "rollback")
        return entries[number]


def to_commit(root: Path) -> list[str]:
    """Tracked files that the run changed, by their names in git; outside a checkout, all files that belong into git."""
    tracked = [*RESTORE, "prepared", "reports"]
    process = subprocess.run(
        ["git", "-C", str(root), "status", "--porcelain", *tracked], capture_output=True, text=True
    )
    if process.returncode:
        return [name for name in tracked if (root / name).exists()]
    return [line[3:] for line in process.stdout.splitlines()] or ["nothing: it is all in git"]


def tidy(root: Path, keep: int, commits: int) -> int:
    """Removes what is not needed any more, and returns the number of bytes freed.

    Removed are promoted runs beyond `keep`; checkpoints that were not resumed for a month (STALE); caches that may hold
    erased users; and files of DVC's cache that neither the workspace, branches, tags and experiments nor the last
    `commits` commits need.
    """
    size_before = _size(root)
    with locked(root):
        if champion(root):
            _prune(root, keep)
    for path in (root / layout.CHECKPOINTS).glob("*/*"):
        if time.time() - path.stat().st_mtime > STALE:
            files.remove(path)
    caches.settle(root)
    dvc = [str(Path(sys.executable).with_name("dvc")), "gc", "--force", "--workspace", "--all-branches", "--all-tags"]
    dvc += ["--all-experiments", "--rev", "HEAD", "--num", str(commits)]
    process = subprocess.run(dvc, cwd=root, capture_output=True, text=True)
    if process.returncode:
        raise DataError(f"DVC could not tidy its cache: {process.stderr.strip()}")
    return size_before - _size(root)


def _size(root: Path) -> int:
    """Bytes in the registry, the caches and DVC's cache."""
    folders = (layout.REGISTRY, *caches.CACHES, Path(".dvc/cache"))
    return sum(path.stat().st_size for folder in folders for path in (root / folder).rglob("*") if path.is_file())


def _serve(root: Path, folder: Path, how: str) -> None:
    """Points the champion's link to a run, and appends to the history. how: promote or rollback."""
    link = root / layout.CHAMPION
    new = link.with_name(f".{link.name}.tmp")  # a fixed name is safe: the caller holds the registry's lock
    files.remove(new)
    new.symlink_to(folder.relative_to(link.parent))
    new.replace(link)
    lines = [*_history(root), {"how": how, "number": int(folder.name), "when": _now()}]
    files.write_text(root / layout.REGISTRY / HISTORY, "".join(json.dumps(line) + "\n" for line in lines))


def _history(root: Path) -> list[dict[str, Any]]:
    """Which run was served since when, and how that came about. Leaves out an incomplete last line, with a warning."""
    path = root / layout.REGISTRY / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise DataError(f"line {number} of {path} is damaged: repair or remove it.") from None
            print(f"befriend: the last line of {path} was cut off, and is ignored.", file=sys.stderr)
    return entries


def sweep(root: Path) -> None:
    """Removes incomplete runs of killed promotions. The caller holds the registry's lock."""
    for incomplete in (root / layout.REGISTRY).glob(".*.tmp"):
        files.remove(incomplete)


def _prune(root: Path, keep: int) -> None:
    """Removes the oldest runs beyond `keep`, but never the champion or the run that a rollback would serve."""
    sweep(root)
    serving = champion(root)
    assert serving is not None
    protected = {serving.number, serving.manifest["previous"]}
    entries = promoted(root)
    for entry in entries[: max(0, len(entries) - keep)]:
        if entry.number not in protected:
            files.remove(entry.folder)


def _manifest(root: Path, decision: dict[str, Any], previous: PromotedRun | None) -> dict[str, Any]:
    """The manifest of the current run. previous: the champion until now."""
    from befriend.analysis.evaluation_report import headline  # heavy, and not needed for a rollback

    run = digest(root)
    validation = files.read_json(root / layout.VALIDATION)
    best = headline(files.read_json(root / layout.METRICS)).filter(model="both")
    figures: dict[str, dict[str, float]] = {}
    for row in best.iter_rows(named=True):
        figures.setdefault(row["regime"], {})[row["list"]] = row["ndcg@10"]
    return {
        "run": run,
        "previous": previous.number if previous else None,
        "promoted": _now(),
        "code": _code(root),
        "params": files.sha256(root / "params.yaml") if (root / "params.yaml").is_file() else None,
        "dvc_lock": _outputs(root / "dvc.lock"),
        "data": {"users": validation["users"], "events": validation["rows"]["events"], **validation["time"]},
        "ndcg@10": figures,
        "decision": decision,
    }


def _code(root: Path) -> dict[str, Any]:
    """The git revision of the code, and the tracked files that differ from it."""

    def git(*arguments: str) -> str | None:
        process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
        return process.stdout.strip() if process.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"revision": git("rev-parse", "HEAD"), "changed": [line[3:] for line in (changed or "").splitlines()]}


def _outputs(lock: Path) -> dict[str, str]:
    """Path of each output -> its digest, as in dvc.lock."""
    if not lock.is_file():
        return {}
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load(lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds the registry's lock: a second promotion waits for the first."""
    folder = root / layout.REGISTRY
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
