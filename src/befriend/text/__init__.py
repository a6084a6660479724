"""Universal user embeddings: vectors of users, from what they wrote, and of statements about them, in one space.

    from befriend.text import ModelConfig, UniversalUserEmbeddingTrainer, UserChunk, UserData

Two towers that share no weights: the user tower reads a user's texts, chunk by chunk; the statement tower (`item` in
settings and files) reads a statement. The package knows nothing of events: `befriend.features.text_vectors` and
the models use its vectors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from befriend.text.chunks import Statement, UserChunk, UserData
    from befriend.text.text_settings import ModelConfig

__all__ = [
    "ModelConfig",
    "Statement",
    "UniversalUserEmbeddingEvaluator",
    "UniversalUserEmbeddingTrainer",
    "UserChunk",
    "UserData",
]


_MODULES = {
    "ModelConfig": "text_settings",
    "Statement": "chunks",
    "UniversalUserEmbeddingEvaluator": "text_evaluator",
    "UniversalUserEmbeddingTrainer": "text_trainer",
    "UserChunk": "chunks",
    "UserData": "chunks",
}
"""name -> the module that defines it"""


def __getattr__(name: str) -> Any:
    """Imports a class on first access, so that the settings of this package load without PyTorch and polars."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
