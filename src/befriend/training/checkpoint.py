"""Checkpoint files: named tensors and a JSON state in one safetensors file, which is replaced atomically.

Only the file format is defined here; `training_state` decides what a checkpoint of a training contains. The metadata of
the file hold the state and a digest of the whole content, so that a damaged file is detected before it is used.
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
    """The content of a checkpoint file."""

    tensors: dict[str, Tensor]
    """name -> tensor; `load` puts them on the CPU"""
    state: dict[str, Any]
    """any JSON object; floats are restored exactly"""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint at `path`. After a kill at any time, the old file or the new one is there, complete."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    state = files.to_json(checkpoint.state)
    with files.atomic(path) as temporary:
        save_file(tensors, temporary, {"state": state, "sha256": _digest(tensors, state)})


def load(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`; None if there is no file, or if the file is unusable: a line on stderr says why."""
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
        warn_unusable(path, "it is damaged: its content does not match its digest")
    except KeyError:
        warn_unusable(path, "it is not a checkpoint of befriend")
    except (SafetensorError, OSError) as error:
        warn_unusable(path, f"it could not be read: {error}")
    return None


def warn_unusable(path: Path, reason: str) -> None:
    """Prints to stderr that training starts from the beginning, and why."""
    print(
        f"befriend: the checkpoint {path} cannot be used, so training starts from the beginning: {reason}",
        file=sys.stderr,
    )


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    """SHA-256 of the state, and of the names, dtypes, shapes and bytes of the tensors. state: JSON text."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
