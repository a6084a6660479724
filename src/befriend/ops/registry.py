"""The registry of promoted runs: copies a run into it, makes it the served one, goes back, removes old runs.

models/registry/<number>/ holds a complete run: its prepared log, its models, its metrics, and manifest.json, which says
how to reproduce the run. models/champion is a symbolic link to the champion, the run that is served. The link is
replaced in one step, so that a reader sees either run, and never a mixture. A promotion that is killed before this step
leaves the champion as it was; an incomplete copy is removed later. models/registry/history.jsonl records every change
of the champion, one a line.
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
from befriend.analysis.fingerprint import PREPARED_FILES
from befriend.errors import CallError, DataError
from befriend.ops import caches

MANIFEST = "manifest.json"
HISTORY = "history.jsonl"
LOCK = ".lock"
REPRODUCTION_FILES = ("dvc.yaml", "dvc.lock", "params.yaml", "data.dvc")
"""with these files, which git tracks, and the code of its git revision, `dvc repro` reproduces a run"""
MAX_CHECKPOINT_AGE = 30 * 86_400  # seconds


@dataclass(frozen=True)
class PromotedRun:
    """A run in the registry."""

    folder: Path

    @property
    def number(self) -> int:
        """The run's number in the registry: 1 for the first run that was promoted, 2 for the next."""
        return int(self.folder.name)

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json: the keys of `_make_manifest`, and `number`."""
        return files.read_json(self.folder / MANIFEST)


def current_champion(root: Path) -> PromotedRun | None:
    """The run that is served; None if no run was ever promoted. DataError if the folder of the champion is missing."""
    link = root / layout.CHAMPION
    if not link.is_symlink():
        return None
    folder = link.resolve()
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{link} points to {folder}, which does not exist. Choose another run: befriend rollback --to NUMBER."
        )
    return PromotedRun(folder)


def promoted_runs(root: Path) -> list[PromotedRun]:
    """All runs in the registry, oldest first."""
    registry = root / layout.REGISTRY
    folders = [path for path in registry.glob("[0-9]*") if (path / MANIFEST).is_file()] if registry.is_dir() else []
    return [PromotedRun(path) for path in sorted(folders)]


def run_digest(root: Path) -> str:
    """SHA-256 of the run in a folder: of PREPARED_FILES and of all models. DataError if the run is not complete."""
    paths = [root / layout.PREPARED / name for name in PREPARED_FILES]
    missing = [path for path in (*paths, root / layout.METRICS) if not path.is_file()]
    missing += [root / folder for folder in layout.MODEL_FOLDERS if not any((root / folder).glob("*"))]
    if missing:
        raise DataError(f"there is no {missing[0]}. Run `make run` first.")
    return artifacts.fingerprint(
        root, [*paths, *artifacts.files_in(*(root / folder for folder in layout.MODEL_FOLDERS))]
    )


def promote(root: Path, decision: dict[str, Any], keep: int) -> PromotedRun:
    """Copies the project's current run into the registry, and serves the copy from now on.

    decision: what the gate (the checks before a promotion) decided, for the manifest; keep: number of runs that stay in
    the registry. DataError if the run is not complete, or changes while it is copied.
    """
    from befriend.data.erasure import ERASED_FILE, add_erasure_digests, read_erasure_digests

    with registry_lock(root):
        manifest = _make_manifest(root, decision, current_champion(root))
        number = 1 + max((run.number for run in promoted_runs(root)), default=0)
        folder = root / layout.REGISTRY / f"{number:04d}"
        with files.atomic(folder) as new:
            for model in layout.MODEL_FOLDERS:
                shutil.copytree(root / model, new / model)
            same_path = [layout.METRICS, *(layout.PREPARED / name for name in (*PREPARED_FILES, ERASED_FILE))]
            copies = {path: path for path in same_path}
            copies |= {Path(name): Path("restore") / name for name in REPRODUCTION_FILES}
            for source, target in copies.items():
                if (root / source).is_file():
                    (new / target).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(root / source, new / target)
            files.write_json(new / MANIFEST, manifest | {"number": number})
        if run_digest(folder) != manifest["run"]:
            files.remove(folder)
            raise DataError("the run changed while it was promoted. Wait until no stage runs, and promote again.")
        # users may have been erased since the copy
        add_erasure_digests(folder / layout.PREPARED, read_erasure_digests(root / layout.PREPARED))
        _set_champion(root, folder, "promote")
        _remove_old_runs(root, keep)
        return PromotedRun(folder)


def rolled_back_runs(root: Path) -> list[PromotedRun]:
    """Runs in the registry that `befriend rollback` replaced as champion, and that were not served again since."""
    rolled_back, champion_number = set[int](), None
    for entry in _read_history(root):
        if entry["how"] == "rollback" and champion_number is not None:
            rolled_back.add(champion_number)
        champion_number = entry["number"]
        rolled_back.discard(champion_number)
    return [run for run in promoted_runs(root) if run.number in rolled_back]


def rollback(root: Path, to: int | None = None) -> PromotedRun:
    """Serves the run with number `to`; if None, the one that was champion when the current champion was promoted.

    CallError if that run is not in the registry.
    """
    with registry_lock(root):
        number = to
        if number is None:
            champion = current_champion(root)
            if champion is None:
                raise CallError("there is no champion yet: promote a run first (befriend promote).")
            number = champion.manifest["previous"]
        runs = {run.number: run for run in promoted_runs(root)}
        if not runs:
            raise CallError("no run was promoted yet: promote one first (befriend promote).")
        if number not in runs:
            numbers = ", ".join(map(str, runs))
            problem = (
                "no run was served before the champion" if number is None else f"run {number} is not in the registry"
            )
            raise CallError(f"{problem}. Runs in the registry: {numbers}. Choose one: befriend rollback --to NUMBER.")
        _set_champion(root, runs[number].folder, "rollback")
        return runs[number]


def files_to_commit(root: Path) -> list[str]:
    """Files with changes to commit after a promotion, as git names them.

    They are those of REPRODUCTION_FILES, prepared/ and reports/ that differ from the last commit; if none does, a
    single line that says so. Outside a git checkout, all of these that exist.
    """
    tracked = [*REPRODUCTION_FILES, "prepared", "reports"]
    process = subprocess.run(
        ["git", "-C", str(root), "status", "--porcelain", *tracked], capture_output=True, text=True
    )
    if process.returncode:
        return [name for name in tracked if (root / name).exists()]
    return [line[3:] for line in process.stdout.splitlines()] or ["nothing: all changes are in git"]


def tidy(root: Path, keep: int, commits: int) -> int:
    """Removes what is not needed any more, and returns the number of bytes freed. DataError if DVC fails.

    Removed are:
    - promoted runs, except the last `keep` ones, the champion and the run that `rollback` would serve
    - checkpoints of unfinished trainings that were last written more than MAX_CHECKPOINT_AGE ago
    - caches that may contain data of erased users
    - files of DVC's cache, except those that the workspace, a branch, a tag, an experiment or one of the last `commits`
      commits needs
    """
    size_before = _size(root)
    with registry_lock(root):
        if current_champion(root):
            _remove_old_runs(root, keep)
    for path in (root / layout.CHECKPOINTS).glob("*/*"):
        if time.time() - path.stat().st_mtime > MAX_CHECKPOINT_AGE:
            files.remove(path)
    caches.remove_outdated(root)
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


def _set_champion(root: Path, folder: Path, how: str) -> None:
    """Makes the run in `folder` the champion, and appends this to the history. how: promote or rollback."""
    link = root / layout.CHAMPION
    new = link.with_name(f".{link.name}.tmp")  # a fixed name is safe: the caller holds the registry's lock
    files.remove(new)
    new.symlink_to(folder.relative_to(link.parent))
    new.replace(link)
    entries = [*_read_history(root), {"how": how, "number": int(folder.name), "when": _utc_now()}]
    files.write_text(root / layout.REGISTRY / HISTORY, "".join(json.dumps(entry) + "\n" for entry in entries))


def _read_history(root: Path) -> list[dict[str, Any]]:
    """The changes of the champion, oldest first: how (promote or rollback), number of the new champion, and when.

    An incomplete last line is skipped with a warning. DataError if another line is damaged.
    """
    path = root / layout.REGISTRY / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    entries = []
    for line_number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            if line_number < len(lines):
                raise DataError(f"line {line_number} of {path} is damaged: repair or remove it.") from None
            print(f"befriend: the last line of {path} was cut off, and is ignored.", file=sys.stderr)
    return entries


def remove_incomplete_runs(root: Path) -> None:
    """Removes what killed promotions left in the registry. The caller holds the registry's lock."""
    for incomplete in (root / layout.REGISTRY).glob(".*.tmp"):
        files.remove(incomplete)


def _remove_old_runs(root: Path, keep: int) -> None:
    """Removes all but the last `keep` runs, but never the champion or the run that `rollback` would serve.

    Removes incomplete runs too. The caller holds the registry's lock, and there is a champion.
    """
    remove_incomplete_runs(root)
    champion = current_champion(root)
    assert champion is not None
    protected = {champion.number, champion.manifest["previous"]}
    runs = promoted_runs(root)
    for run in runs[: max(0, len(runs) - keep)]:
        if run.number not in protected:
            files.remove(run.folder)


def _make_manifest(root: Path, decision: dict[str, Any], previous: PromotedRun | None) -> dict[str, Any]:
    """The manifest of the current run. decision: what the gate decided; previous: the champion until now.

    Its keys:
        run        digest of the prepared log and the models
        previous   number of the champion until now, or None
        promoted   time of the promotion, UTC, ISO 8601
        code       git revision of the code, and tracked files that differ from it
        params     SHA-256 of params.yaml
        dvc_lock   digest of each output in dvc.lock
        data       numbers of users and events, and the times of the first and last event
        ndcg@10    NDCG@10 of the served model, ranker `both`, by regime and kind of list
        decision   what the gate decided
    """
    from befriend.analysis.metric_tables import headline  # heavy, and not needed for a rollback

    run = run_digest(root)
    validation = files.read_json(root / layout.VALIDATION)
    served_model = headline(files.read_json(root / layout.METRICS)).filter(model="both")
    ndcg: dict[str, dict[str, float]] = {}
    for row in served_model.iter_rows(named=True):
        ndcg.setdefault(row["regime"], {})[row["list"]] = row["ndcg@10"]
    return {
        "run": run,
        "previous": previous.number if previous else None,
        "promoted": _utc_now(),
        "code": _code(root),
        "params": files.sha256(root / "params.yaml") if (root / "params.yaml").is_file() else None,
        "dvc_lock": _output_digests(root / "dvc.lock"),
        "data": {"users": validation["users"], "events": validation["rows"]["events"], **validation["time"]},
        "ndcg@10": ndcg,
        "decision": decision,
    }


def _code(root: Path) -> dict[str, Any]:
    """The git revision of the code, and the tracked files that differ from it."""

    def git(*arguments: str) -> str | None:
        process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
        return process.stdout.strip() if process.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"revision": git("rev-parse", "HEAD"), "changed": [line[3:] for line in (changed or "").splitlines()]}


def _output_digests(lock: Path) -> dict[str, str]:
    """Path of each output -> its MD5 digest, as in dvc.lock; empty if there is no such file."""
    if not lock.is_file():
        return {}
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load(lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


@contextmanager
def registry_lock(root: Path) -> Iterator[None]:
    """Holds the registry's lock. A process that wants it too waits, so promotions run one after the other."""
    folder = root / layout.REGISTRY
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _utc_now() -> str:
    """The current time, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
