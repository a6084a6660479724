"""Which run serves lists, and whether it is complete. Needs no PyTorch: checks come before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from befriend import files, layout
from befriend.errors import CallError, DataError
from befriend.ops.registry import PromotedRun, current_champion

RANKING_MODELS = (layout.TEXT, layout.TOKENS, layout.TWO_TOWER, layout.STU, layout.RANKER)
"""what lists are made with; clusters only speed up a search"""


@dataclass(frozen=True)
class ServedRun:
    """A run that serves lists, and the log that they are made with."""

    folder: Path
    """has the trained models"""
    prepared: Path
    """has the prepared log; not in `folder` if a champion serves with the log that was prepared last"""
    champion: PromotedRun | None = None
    """the promoted run, if it is one"""

    @property
    def log_name(self) -> str:
        """The log in words, for messages."""
        if self.champion is not None and self.prepared.parent == self.folder:
            return f"the log of champion {self.champion.number}"
        return log_name(self.prepared)


def log_name(prepared: Path) -> str:
    """The log in a folder in words, for messages."""
    return f"the log ({prepared}/)"


def find_served_run(run: Path | None, use_latest_log: bool = False) -> ServedRun:
    """Finds the run that serves.

    run: folder of a run; None: the champion, the promoted run that is served, or without one, the run in this folder;
    use_latest_log: use the champion's models with the log that was prepared last, instead of the champion's own log.

    Raises CallError if the folder is no project, or for `use_latest_log` without a champion.
    """
    layout.require_project(run or Path())
    champion = current_champion(Path()) if run is None else None
    if use_latest_log and champion is None:
        raise CallError(
            "--newest is for a champion: leave out --run, and promote a run first (befriend gate, befriend promote)."
        )
    folder = run or (champion.folder if champion is not None else Path())
    return ServedRun(folder, (Path() if use_latest_log else folder) / layout.PREPARED, champion)


def require_outputs(folder: Path, *paths: Path) -> None:
    """Raises DataError if something is missing that `dvc repro` writes.

    folder: of a project or a run; paths: relative to it.
    """
    for path in paths:
        if not (folder / path).exists():
            files.recover(folder / path)  # after a stage that was killed while it replaced the folder
        if not (folder / path).exists():
            place = "" if folder == Path() else f" in {folder}"
            remedy = f"Run `make run`{place} first."
            if folder.resolve().parent == layout.REGISTRY.resolve():
                remedy = "Choose another promoted run: befriend rollback --to NUMBER (befriend champion lists them)."
            raise DataError(f"there is no {folder / path}. {remedy}")
