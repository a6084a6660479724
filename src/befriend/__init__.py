"""People recommendation, from event log to ranked lists of users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from befriend.api import Befriend

__all__ = ["load"]


def load(root: str | Path = ".") -> Befriend:
    """Loads a project after `dvc repro`, to recommend users, explain lists and export vectors. See `befriend.api`.

    root: the folder of the project. Lists equal those of the command line bit for bit, unless PyTorch was imported
    before this call. Raises `befriend.errors.CallError` if the folder is no project.
    """
    from befriend import kernels, layout

    layout.require_project(Path(root))
    kernels.pin()
    from befriend.api import load  # here, since the command line starts without it

    return load(root)
