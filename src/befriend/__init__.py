"""People recommendation, from event log to ranked lists of users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from befriend.api import Befriend

__all__ = ["load"]


def load(root: str | Path = ".") -> Befriend:
    """Loads a project after `dvc repro`: to recommend users, explain why, and export vectors. See `befriend.api`.

    Lists equal those of the command line to the last bit, provided that this call is what imports PyTorch first.
    """
    from befriend import kernels

    kernels.pin()
    from befriend.api import load  # only now: the command line does not need it to start

    return load(root)
