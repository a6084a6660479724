"""The learning rate of each step, and the optimizer: which parameters have weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from befriend.training.training_settings import TrainingSettings


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The learning rate of a step, counted from 1, of `steps`: linear warm-up, then cosine decay."""
    warm = round(settings.warmup * steps)
    if step <= warm:
        return settings.learning_rate * step / warm
    share = (1 + math.cos(math.pi * ((step - warm) / (steps - warm)))) / 2
    return settings.learning_rate * (settings.final_learning_rate + (1 - settings.final_learning_rate) * share)


def adamw(
    model: nn.Module, settings: TrainingSettings, scale: Callable[[str], float] | None = None
) -> torch.optim.AdamW:
    """AdamW with weight decay of matrices and embeddings only, not of biases, norms and scalars (below two dimensions).

    scale: name of a parameter -> factor on its learning rate; the loop reads the `scale` of each parameter group. AdamW
    adapts each parameter separately, so groups with different rates are equivalent to separate optimizers.
    """
    learned = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    rates = {name: scale(name) if scale else 1.0 for name, _ in learned}
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in learned if (p.ndim >= 2) == decays and rates[name] == rate],
            "weight_decay": settings.weight_decay if decays else 0.0,
            "scale": rate,
        }
        for rate in dict.fromkeys(rates.values())
        for decays in (True, False)
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)
