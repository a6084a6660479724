"""AdamW and its learning-rate schedule: linear warm-up, then cosine decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from befriend.training.training_settings import TrainingSettings


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The learning rate of a step. step: from 1 to `steps`, the number of steps of the whole training."""
    warmup_steps = round(settings.warmup * steps)
    if step <= warmup_steps:
        return settings.learning_rate * step / warmup_steps
    share = (1 + math.cos(math.pi * ((step - warmup_steps) / (steps - warmup_steps)))) / 2
    return settings.learning_rate * (settings.final_learning_rate + (1 - settings.final_learning_rate) * share)


def adamw(
    model: nn.Module, settings: TrainingSettings, lr_multiplier: Callable[[str], float] | None = None
) -> torch.optim.AdamW:
    """AdamW. Parameters of two or more dimensions, such as matrices and embeddings, have weight decay, the others not.

    lr_multiplier: name of a parameter -> factor on its learning rate; None: 1 for all. Each parameter group has its
    factor under the key `lr_multiplier`. The training loop multiplies it with the learning rate of the step.
    """
    learned = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    multipliers = {name: lr_multiplier(name) if lr_multiplier else 1.0 for name, _ in learned}
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in learned if (p.ndim >= 2) == has_decay and multipliers[name] == multiplier],
            "weight_decay": settings.weight_decay if has_decay else 0.0,
            "lr_multiplier": multiplier,
        }
        for multiplier in dict.fromkeys(multipliers.values())
        for has_decay in (True, False)
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)
