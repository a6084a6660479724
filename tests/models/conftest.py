"""Small two-tower models and batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from befriend.models.model_inputs import NextTargetPredictionBatch
from befriend.models.two_tower_model import NextTargetPredictionUserIDs

USERS, ACTIONS, B, N = 64, 3, 16, 10


def make_model(**options: Any) -> NextTargetPredictionUserIDs:
    """A small model in eval mode, always with the same weights."""
    torch.manual_seed(0)
    return NextTargetPredictionUserIDs(
        **{"num_users": USERS, "num_actions": ACTIONS, "embedding_dim": 16, "hidden_dim": 32, "dropout": 0.0} | options
    ).eval()


def make_batch(rows: int = B, columns: int = N, seed: int = 0) -> NextTargetPredictionBatch:
    """Histories of all lengths from 0 to `columns`, and distinct targets, none of whom is an actor."""
    g = torch.Generator().manual_seed(seed)
    length = torch.arange(rows) % (columns + 1)
    mask = torch.arange(columns) >= columns - length[:, None]
    step = torch.randint(1, 5000, (rows, columns), generator=g)
    return NextTargetPredictionBatch(
        actor_id=torch.arange(rows),
        actor_history_actions=torch.randint(ACTIONS, (rows, columns), generator=g) * mask,
        actor_history_targets=torch.randint(USERS, (rows, columns), generator=g) * mask,
        actor_history_mask=mask,
        example_action=torch.randint(ACTIONS, (rows,), generator=g),
        example_target=rows + torch.randperm(USERS - rows, generator=g)[:rows],
        actor_history_received=(torch.rand(rows, columns, generator=g) < 0.3) & mask,
        actor_history_timestamps=(1_600_000_000 + step.cumsum(1)) * mask,
    )


@pytest.fixture
def examples() -> NextTargetPredictionBatch:
    return make_batch()


def ids_only(b: NextTargetPredictionBatch) -> NextTargetPredictionBatch:
    """The batch without its optional fields."""
    return replace(b, actor_history_received=None, actor_history_timestamps=None)
