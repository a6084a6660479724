"""Promoted runs: which one is served, which were before it, and how one takes another's place.

models/registry/<number>/ holds a run whole: its prepared log, its models, its metrics, and a manifest with all that is
needed to make it again. models/champion is a link to the one that is served, and is moved in one step: whoever loads
it sees one run or the other, and a promotion that is killed leaves at most a folder that nobody serves.
"""

from __future__ import annotations

import fcntl
import hashlib
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

from befriend import files, layout
from befriend.errors import CallError, DataError
from befriend.evaluation.evaluated import PREPARED
from befriend.ops import caches

MANIFEST = "manifest.json"
HISTORY = "history.jsonl"
LOCK = ".lock"
RESTORE = ("dvc.yaml", "dvc.lock", "params.yaml", "data.dvc")
"""what git keeps of a run: with the code of its revision, `dvc repro` makes it again"""
STALE = 30 * 86_400  # seconds


@dataclass(frozen=True)
class Promoted:
    """A run in the registry."""

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def manifest(self) -> dict[str, Any]:
        return files.read_json(self.folder / MANIFEST)


def champion(root: Path) -> Promoted | None:
    """The run that is served, if one was ever promoted."""
    link = root / layout.CHAMPION
    if not link.is_symlink():
        return None
    found = link.resolve()
    if not (found / MANIFEST).is_file():
        raise DataError(f"{link} points to {found}, which is not there. Choose another: befriend rollback --to NUMBER.")
    return Promoted(found)


def promoted(root: Path) -> list[Promoted]:
    """All runs in the registry, the oldest first."""
    folder = root / layout.REGISTRY
    found = [path for path in folder.glob("[0-9]*") if (path / MANIFEST).is_file()] if folder.is_dir() else []
    return [Promoted(path) for path in sorted(found)]


def digest(root: Path) -> str:
    """Of the run that lies in a folder: its prepared log and its models."""
    paths = [root / layout.PREPARED / name for name in PREPARED]
    missing = [path for path in (*paths, root / layout.METRICS) if not path.is_file()]
    missing += [root / folder for folder in layout.TRAINED if not any((root / folder).glob("*"))]
    if missing:
        raise DataError(f"there is no {missing[0]}. Run `dvc repro` first.")
    paths += [path for folder in layout.TRAINED for path in sorted((root / folder).rglob("*")) if path.is_file()]
    told = "\n".join(f"{path.relative_to(root)} {files.sha256(path)}" for path in paths)
    return hashlib.sha256(told.encode()).hexdigest()


def promote(root: Path, decision: dict[str, Any], keep: int) -> Promoted:
    """Puts the run that lies in the project into the registry, and serves it.

    decision: what was said of it, which goes into its manifest; keep: how many runs stay in the registry.
    """
    from befriend.data.forgotten import add_marks, read_marks

    with locked(root):
        before = champion(root)
        manifest = _manifest(root, decision, before)
        number = 1 + max((entry.number for entry in promoted(root)), default=0)
        folder = root / layout.REGISTRY / f"{number:04d}"
        with files.atomic(folder) as new:
            for part in layout.TRAINED:
                shutil.copytree(root / part, new / part)
            kept = [layout.METRICS, *(layout.PREPARED / name for name in (*PREPARED, "forgotten.txt"))]
            places = {path: path for path in kept} | {Path(name): Path("restore") / name for name in RESTORE}
            for path, place in places.items():
                if (root / path).is_file():
                    (new / place).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(root / path, new / place)
            files.write_json(new / MANIFEST, manifest | {"number": number})
        if digest(folder) != manifest["run"]:
            files.remove(folder)
            raise DataError("the run changed while it was promoted. Wait until no stage runs, and promote again.")
        add_marks(
            folder / layout.PREPARED, read_marks(root / layout.PREPARED)
        )  # somebody may have been forgotten since
        _serve(root, folder, "promote")
        _prune(root, keep)
        return Promoted(folder)


def taken_back(root: Path) -> list[Promoted]:
    """Runs from which somebody went back, and which were not served again since."""
    gone, now = set[int](), None
    for line in _history(root):
        if line["how"] == "rollback" and now is not None:
            gone.add(now)
        now = line["number"]
        gone.discard(now)
    return [entry for entry in promoted(root) if entry.number in gone]


def rollback(root: Path, to: int | None = None) -> Promoted:
    """Serves the run that was served before the champion, or a certain one."""
    with locked(root):
        number = to
        if number is None:
            now = champion(root)
            if now is None:
                raise CallError("there is no champion yet: promote a run first (befriend promote).")
            number = now.manifest["previous"]
        entries = {entry.number: entry for entry in promoted(root)}
        if number not in entries:
            known = ", ".join(map(str, entries))
            what = "nothing was served before the champion" if number is None else f"run {number} is not kept any more"
            raise CallError(f"{what}. Kept runs: {known}; befriend rollback --to NUMBER.")
        _serve(root, entries[number].folder, "rollback")
        return entries[number]


def to_commit(root: Path) -> list[str]:
    """Files that git follows and the run changed, as git names them; all of them outside a checkout."""
    told = [*RESTORE, "prepared", "reports"]
    done = subprocess.run(["git", "-C", str(root), "status", "--porcelain", *told], capture_output=True, text=True)
    if done.returncode:
        return [name for name in told if (root / name).exists()]
    return [line[3:] for line in done.stdout.splitlines()] or ["nothing: it is all in git"]


def tidy(root: Path, keep: int, commits: int) -> int:
    """Removes promoted runs beyond `keep`, checkpoints that nobody went on with for a month, caches that may hold
    somebody who was forgotten, and what neither the workspace, nor branches, tags, experiments and the last commits
    need of DVC's cache. Returns bytes freed."""
    before = _size(root)
    with locked(root):
        if champion(root):
            _prune(root, keep)
    for path in (root / layout.CHECKPOINTS).glob("*/*"):
        if time.time() - path.stat().st_mtime > STALE:
            files.remove(path)
    caches.settle(root)
    dvc = [str(Path(sys.executable).with_name("dvc")), "gc", "--force", "--workspace", "--all-branches", "--all-tags"]
    dvc += ["--all-experiments", "--rev", "HEAD", "--num", str(commits)]
    done = subprocess.run(dvc, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"DVC could not tidy its cache: {done.stderr.strip()}")
    return before - _size(root)


def _size(root: Path) -> int:
    folders = (layout.REGISTRY, *caches.CACHES, Path(".dvc/cache"))
    return sum(path.stat().st_size for folder in folders for path in (root / folder).rglob("*") if path.is_file())


def _serve(root: Path, folder: Path, how: str) -> None:
    link = root / layout.CHAMPION
    new = link.with_name(f".{link.name}.tmp")  # one name for all: whoever serves holds the registry's lock
    files.remove(new)
    new.symlink_to(folder.relative_to(link.parent))
    new.replace(link)
    lines = [*_history(root), {"how": how, "number": int(folder.name), "when": _now()}]
    files.write_text(root / layout.REGISTRY / HISTORY, "".join(json.dumps(line) + "\n" for line in lines))


def _history(root: Path) -> list[dict[str, Any]]:
    """Who was served when, and how that came about; without a last line that was cut off, of which a warning tells."""
    path = root / layout.REGISTRY / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise DataError(f"line {number} of {path} is damaged: mend or remove it.") from None
            print(f"befriend: the last line of {path} was cut off, and does not count.", file=sys.stderr)
    return found


def sweep(root: Path) -> None:
    """Removes half a run, which nobody serves, where a promotion was killed; the caller holds the registry's lock."""
    for left in (root / layout.REGISTRY).glob(".*.tmp"):
        files.remove(left)


def _prune(root: Path, keep: int) -> None:
    """Removes the oldest runs beyond `keep`, but never the champion, or the one to which a rollback would go."""
    sweep(root)
    now = champion(root)
    assert now is not None
    spared = {now.number, now.manifest["previous"]}
    entries = promoted(root)
    for entry in entries[: max(0, len(entries) - keep)]:
        if entry.number not in spared:
            files.remove(entry.folder)


def _manifest(root: Path, decision: dict[str, Any], before: Promoted | None) -> dict[str, Any]:
    from befriend.evaluation.report import headline  # heavy, and nobody who goes back needs it

    run = digest(root)
    validation = files.read_json(root / layout.VALIDATION)
    best = headline(files.read_json(root / layout.METRICS)).filter(model="both")
    figures: dict[str, dict[str, float]] = {}
    for row in best.iter_rows(named=True):
        figures.setdefault(row["regime"], {})[row["list"]] = row["ndcg@10"]
    return {
        "run": run,
        "previous": before.number if before else None,
        "promoted": _now(),
        "code": _code(root),
        "params": files.sha256(root / "params.yaml") if (root / "params.yaml").is_file() else None,
        "dvc_lock": _outputs(root / "dvc.lock"),
        "data": {"users": validation["users"], "events": validation["rows"]["events"], **validation["time"]},
        "ndcg@10": figures,
        "decision": decision,
    }


def _code(root: Path) -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"revision": git("rev-parse", "HEAD"), "changed": [line[3:] for line in (changed or "").splitlines()]}


def _outputs(lock: Path) -> dict[str, str]:
    """path -> digest, as DVC has them."""
    if not lock.is_file():
        return {}
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load(lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One at a time: a second promotion waits for the first."""
    folder = root / layout.REGISTRY
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
