"""Checkpoints: one file each, with named tensors and a JSON state, replaced atomically.

This module owns the file format and knows nothing of the training that fills it. The file is a safetensors file. Its
metadata holds the state and a digest of everything, so that a damaged file is detected before any of it is used.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from befriend import files


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    tensors: dict[str, Tensor]
    """name -> tensor, on the CPU when loaded"""
    state: dict[str, Any]
    """anything that JSON can hold; floats are restored exactly"""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint at `path`. A kill at any time leaves either the old one or the new one, complete."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    state = files.to_json(checkpoint.state)
    with files.atomic(path) as temporary:
        save_file(tensors, temporary, {"state": state, "sha256": _digest(tensors, state)})


def load(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`. None if there is none, or if it cannot be used: then a line on stderr says why."""
    from safetensors import SafetensorError, safe_open

    files.recover(path)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        state = metadata["state"]
        if metadata["sha256"] == _digest(tensors, state):
            return Checkpoint(tensors, json.loads(state))
        warn(path, "it is damaged: its content does not match its digest")
    except KeyError:
        warn(path, "it is not a checkpoint of befriend")
    except (SafetensorError, OSError) as error:
        warn(path, f"it could not be read: {error}")
    return None


def warn(path: Path, reason: str) -> None:
    """Prints that training starts from the beginning, and why."""
    print(f"befriend: the checkpoint {path} cannot be used, so training starts anew: {reason}", file=sys.stderr)


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    """SHA-256 of the state and of names, dtypes, shapes and bytes of the tensors."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
