"""Checkpoints: one file each, named tensors and a JSON state, replaced atomically.

Owns the format and knows nothing of the training that fills it. The file is a safetensors file; its metadata
holds the state and a digest of everything, so that a damaged file is found out before any of it is used.
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
    tensors: dict[str, Tensor]
    """name -> tensor; loaded ones are on the CPU"""
    state: dict[str, Any]
    """anything JSON can hold; floats come back exactly as they were"""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint at `path`. A kill at any moment leaves the former one or this one, whole."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    state = files.to_json(checkpoint.state)
    with files.atomic(path) as temporary:
        save_file(tensors, temporary, {"state": state, "sha256": _digest(tensors, state)})


def load(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`. None if there is none, or none that can be used: then a line says why."""
    from safetensors import SafetensorError, safe_open

    files.recover(path)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        state = metadata["state"]
        if metadata["sha256"] == _digest(tensors, state):
            return Checkpoint(tensors, json.loads(state))
        warn(path, "it is damaged: its content does not have the digest it was written with")
    except KeyError:
        warn(path, "it is no checkpoint")
    except (SafetensorError, OSError) as error:
        warn(path, f"it could not be read: {error}")
    return None


def warn(path: Path, why: str) -> None:
    print(f"befriend: the checkpoint {path} cannot be used, so training starts anew: {why}", file=sys.stderr)


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    found = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
