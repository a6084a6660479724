"""The learning rate of each step, and which parameters decay."""

from __future__ import annotations

import math

import torch
from torch import nn

from befriend.training.settings import TrainingSettings


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The rate of a step, counted from 1, of `steps`: up in a straight line, then down by half a cosine."""
    warm = round(settings.warmup * steps)
    if step <= warm:
        return settings.learning_rate * step / warm
    share = (1 + math.cos(math.pi * min(1.0, (step - warm) / (steps - warm)))) / 2
    return settings.learning_rate * (settings.final_learning_rate + (1 - settings.final_learning_rate) * share)


def adamw(model: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """Matrices and embeddings decay; biases, norms and scalars (less than two dimensions) do not."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate)
