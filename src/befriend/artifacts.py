"""Reads and writes trained artifacts: a folder with one JSON file that describes it, and tensors in safetensors files.

Nothing is ever unpickled. If an artifact is missing or damaged, a DataError names the stage that makes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from befriend import files
from befriend.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def open_artifact(folder: Path, description_file: str, name: str, remedy: str) -> Iterator[dict[str, Any]]:
    """Yields the content of `description_file`, the JSON file in an artifact's folder that describes it.

    Raises a DataError if this file is missing, or if it or another file that the block reads is missing or damaged.
    name: of the artifact in messages. remedy: how to make it again, such as "Run `dvc repro cluster`".
    """
    from safetensors import SafetensorError

    if not (folder / description_file).is_file():
        raise DataError(f"{folder} holds no {name}. {remedy} first.")
    try:
        yield files.read_json(folder / description_file)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the {name} in {folder} cannot be read ({error}). {remedy}.") from None


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors, on any device, to a safetensors file."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file to the CPU."""
    from safetensors.torch import load_file

    return load_file(path)


def fingerprint(root: Path, paths: Iterable[Path], *texts: str) -> str:
    """SHA-256, in hexadecimal, of the paths (relative to root) and contents of files, in this order, and of texts."""
    lines = [f"{path.relative_to(root).as_posix()} {files.sha256(path)}" for path in paths]
    return hashlib.sha256("\n".join([*lines, *texts]).encode()).hexdigest()


def files_in(*folders: Path) -> list[Path]:
    """All files in folders and their subfolders, folder by folder, in the order of their paths."""
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
