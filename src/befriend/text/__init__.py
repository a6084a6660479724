"""Universal user embeddings: what people wrote and what is said of them, in one space.

    from befriend.text import ModelConfig, UniversalUserEmbeddingTrainer, UserChunk, UserData

Two towers without a shared weight: one reads a user's texts, chunk by chunk, the other a statement. Knows nothing of
events: what the pipeline makes of the vectors is in `befriend.data.texts` and the models.
"""

from __future__ import annotations

from typing import Any

from befriend.text.data import Statement, UserChunk, UserData
from befriend.text.settings import ModelConfig

__all__ = [
    "ModelConfig",
    "Statement",
    "UniversalUserEmbeddingEvaluator",
    "UniversalUserEmbeddingTrainer",
    "UserChunk",
    "UserData",
]


def __getattr__(name: str) -> Any:
    """The classes that need torch are imported when they are asked for."""
    if name == "UniversalUserEmbeddingTrainer":
        from befriend.text.trainer import UniversalUserEmbeddingTrainer

        return UniversalUserEmbeddingTrainer
    if name == "UniversalUserEmbeddingEvaluator":
        from befriend.text.evaluator import UniversalUserEmbeddingEvaluator

        return UniversalUserEmbeddingEvaluator
    raise AttributeError(name)
