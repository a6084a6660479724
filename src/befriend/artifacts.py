"""Trained artifacts on disk: one JSON file that describes them, tensors in safetensors, and how both are read safely.

Nothing is ever unpickled. An artifact that is missing or damaged raises a DataError that names the stage that makes it.
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
def reading(folder: Path, about_file: str, name: str, remedy: str) -> Iterator[dict[str, Any]]:
    """Yields the description of an artifact, from a JSON file in its folder.

    Raises a DataError if the file is missing, or if whatever the caller reads inside the block is damaged. name: how
    messages call the artifact; remedy: what makes it again, such as "Run `dvc repro cluster`".
    """
    from safetensors import SafetensorError

    if not (folder / about_file).is_file():
        raise DataError(f"{folder} holds no {name}. {remedy} first.")
    try:
        yield files.read_json(folder / about_file)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the {name} in {folder} cannot be read ({error}). {remedy}.") from None


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors of any device to a safetensors file."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU."""
    from safetensors.torch import load_file

    return load_file(path)


def fingerprint(root: Path, paths: Iterable[Path], *more: str) -> str:
    """SHA-256 of the names, relative to root, and contents of some files, in this order, and of more texts."""
    lines = [f"{path.relative_to(root).as_posix()} {files.sha256(path)}" for path in paths]
    return hashlib.sha256("\n".join([*lines, *more]).encode()).hexdigest()


def files_in(*folders: Path) -> list[Path]:
    """All files in some folders and below them, folder by folder, in the order of their paths."""
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
