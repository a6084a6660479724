"""Universal user embeddings: vectors of users, from what they wrote, and of statements about them, in one space.

    from befriend.text import ModelConfig, UniversalUserEmbeddingTrainer, UserChunk, UserData

Two towers that share no weights: the user tower reads a user's texts, chunk by chunk; the statement tower (`item` in
settings and files) reads a statement. The package knows nothing of events: `befriend.features.text_vectors` and
the models use its vectors.
"""

from __future__ import annotations

from typing import Any

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


def __getattr__(name: str) -> Any:
    """Imports the classes that need torch on first access."""
    if name == "UniversalUserEmbeddingTrainer":
        from befriend.text.text_trainer import UniversalUserEmbeddingTrainer

        return UniversalUserEmbeddingTrainer
    if name == "UniversalUserEmbeddingEvaluator":
        from befriend.text.text_evaluator import UniversalUserEmbeddingEvaluator

        return UniversalUserEmbeddingEvaluator
    raise AttributeError(name)
