"""People recommendation, from event log to ranked people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from befriend.api import Befriend

__all__ = ["load"]


def load(root: str | Path = ".") -> Befriend:
    """A project after `dvc repro`, to recommend, explain, and take vectors from: see `befriend.api`.

    Lists are the command line's to the last bit where PyTorch is loaded by this, and not before.
    """
    from befriend import kernels

    kernels.hold()
    from befriend.api import load  # only now: the command line answers without it

    return load(root)
