"""Promotion and what follows it, under Prefect."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from befriend import files, layout
from befriend.ops import registry
from tasks.command import befriend
from tasks.dvc import StageError, stage_task
from tasks.page_artifacts import link

MANIFEST_KEY, LISTS_KEY = "champion-manifest", "lists"


@stage_task("promote", "Serve the run from now on.", run_name="promote")
def promote(force: bool = False) -> int:
    """Returns the number of the champion. force: promote even what the gate refused; the manifest then says so."""
    befriend("promote", *["--force"] * force)
    now = registry.champion(Path())
    assert now is not None
    publish(now)
    return now.number


def publish(now: registry.PromotedRun) -> None:
    manifest = files.to_json(now.manifest)
    commit = "\n".join(f"- {name}" for name in registry.to_commit(Path()))
    text = f"# Champion {now.number}\n\nTo keep what made it in git, commit:\n\n{commit}\n\n```json\n{manifest}```\n"
    create_markdown_artifact(text, key=MANIFEST_KEY, description=f"Champion {now.number}, with all it takes to make it")


@stage_task("recommend", "Lists for everybody, by the champion.", run_name="recommend")
def recommend(k: int = 20, new_only: bool = True, newest: bool = False) -> Path:
    """The file of lists.

    k: people a list; new_only: without existing contacts; newest: from the log as it was prepared last.
    """
    options = [*["--new-only"] * new_only, *["--newest"] * newest]
    befriend("recommend", "--all", "-k", str(k), "--out", str(layout.LISTS), *options)
    now = registry.champion(Path())
    files.write_json(layout.LISTS_OF, _lists_of(now.number if now else None, k, new_only, newest))
    link(layout.LISTS, LISTS_KEY, "Lists for everybody")
    return layout.LISTS


def lists_are_current(number: int, k: int = 20, new_only: bool = True, newest: bool = False) -> bool:
    """Whether the lists for everybody in runs/ are those that `recommend` would make with this champion."""
    if not (layout.LISTS.is_file() and layout.LISTS_OF.is_file()):
        return False
    return files.read_json(layout.LISTS_OF) == _lists_of(number, k, new_only, newest)


def _lists_of(champion: int | None, k: int, new_only: bool, newest: bool) -> dict[str, Any]:
    """Which champion made the lists for everybody, with which options, and their digest, which differs for lists that
    somebody put there by hand."""
    options = {"champion": champion, "k": k, "new_only": new_only, "newest": newest}
    return options | {"lists": files.sha256(layout.LISTS)}


@stage_task("commit", "Commit what made the champion.", run_name="commit")
def commit(number: int) -> bool:
    """Commits the files that the promotion named, and nothing else. Returns False if there was nothing to commit."""
    paths = [name for name in registry.to_commit(Path()) if Path(name).exists()]
    commands = [["add", "--", *paths], ["commit", "--quiet", "-m", f"Champion {number}", "--", *paths]]
    for git in commands if paths else ():
        done = subprocess.run(["git", *git], capture_output=True, text=True)
        if done.returncode:
            raise StageError(f"git {git[0]} failed: {done.stderr.strip()}", began=True)
    return bool(paths)


@stage_task("tidy", "Remove what is no longer needed.", run_name="tidy")
def tidy() -> None:
    """Removes promoted runs, checkpoints and cached results beyond the limits in section registry."""
    befriend("tidy")
