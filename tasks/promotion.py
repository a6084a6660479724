"""Prefect tasks that promote a run, make lists for all users, commit files, and free disk space.

The champion is the promoted run that is served. The gate checks a run before it is promoted.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from befriend import files, layout
from befriend.ops import registry
from tasks.command import run_befriend
from tasks.dvc import stage_task
from tasks.dvc_process import StageError, changed_stages
from tasks.page_artifacts import publish_link

MANIFEST_KEY, LISTS_KEY = "champion-manifest", "lists"


@stage_task("promote", "Serve the run from now on.", run_name="promote")
def promote(force: bool = False) -> int:
    """Promotes the current run, and returns the number of the champion. force: also if the gate refuses the run."""
    run_befriend("promote", *["--force"] * force)
    champion = registry.current_champion(Path())
    assert champion is not None
    publish(champion)
    return champion.number


def publish(champion: registry.PromotedRun) -> None:
    """Publishes the manifest of the champion, and the files to commit."""
    manifest = files.to_json(champion.manifest)
    paths = "\n".join(f"- {name}" for name in registry.files_to_commit(Path()))
    text = f"# Champion {champion.number}\n\nTo be able to reproduce it from git, commit:\n\n{paths}\n\n"
    text += f"```json\n{manifest}```\n"
    create_markdown_artifact(text, key=MANIFEST_KEY, description=f"Manifest of champion {champion.number}")


@stage_task("recommend", "Make lists for all users with the champion.", run_name="recommend")
def recommend(k: int = 20, new_only: bool = True, newest: bool = False) -> Path:
    """Makes lists for all users with the champion, and returns their file.

    k: length of a list; new_only: leave out existing contacts; newest: use the current log, instead of the log with
    which the champion was promoted.
    """
    options = [*["--new-only"] * new_only, *["--newest"] * newest]
    run_befriend("recommend", "--all", "-k", str(k), "--out", str(layout.LISTS), *options)
    champion = registry.current_champion(Path())
    files.write_json(layout.LISTS_OPTIONS, _lists_record(champion.number if champion else None, k, new_only, newest))
    publish_link(layout.LISTS, LISTS_KEY, "Lists for all users")
    return layout.LISTS


def served_unchanged() -> int | None:
    """The number of the champion, if it is the current run and no stage has to run; else None."""
    champion = registry.current_champion(Path())
    if champion is None or changed_stages() or champion.manifest["run"] != registry.run_digest(Path()):
        return None
    return champion.number


def lists_are_current(number: int, k: int = 20, new_only: bool = True, newest: bool = False) -> bool:
    """Whether runs/ has the lists that `recommend` would make with this champion and these options."""
    if not (layout.LISTS.is_file() and layout.LISTS_OPTIONS.is_file()):
        return False
    return files.read_json(layout.LISTS_OPTIONS) == _lists_record(number, k, new_only, newest)


def _lists_record(champion: int | None, k: int, new_only: bool, newest: bool) -> dict[str, Any]:
    """The champion and options of the file of lists, and its SHA-256, which detects a file that was replaced."""
    options = {"champion": champion, "k": k, "new_only": new_only, "newest": newest}
    return options | {"lists": files.sha256(layout.LISTS)}


@stage_task("commit", "Commit the files that reproduce the champion.", run_name="commit")
def commit(number: int) -> bool:
    """Commits the files that reproduce the champion, and no others. Returns False if there is nothing to commit."""
    paths = [name for name in registry.files_to_commit(Path()) if Path(name).exists()]
    commands = [["add", "--", *paths], ["commit", "--quiet", "-m", f"Champion {number}", "--", *paths]]
    for git in commands if paths else ():
        process = subprocess.run(["git", *git], capture_output=True, text=True)
        if process.returncode:
            raise StageError(f"git {git[0]} failed: {process.stderr.strip()}", began=True)
    return bool(paths)


@stage_task("tidy", "Free disk space.", run_name="tidy")
def tidy() -> None:
    """Removes old promoted runs, checkpoints and cached results, see section registry of params.yaml."""
    run_befriend("tidy")
