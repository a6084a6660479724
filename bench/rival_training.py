"""Trains a neural rival epoch by epoch and keeps the best epoch, for `rival_tgn` and `rival_transformers`."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

MAX_EPOCHS, PATIENCE = 30, 3


def keep_best_epoch(name: str, train_epoch: Callable[[], nn.Module], value: Callable[[], float]) -> None:
    """Trains until PATIENCE epochs bring no gain, then gives the network the weights of its best epoch.

    train_epoch: trains for one epoch and returns the network, the same each time, ready to rank; value: its value on
    validation.
    """
    best, best_value, best_epoch = {}, -1.0, 0
    for epoch in range(MAX_EPOCHS):
        network = train_epoch()
        if (current := value()) > best_value:
            best, best_value, best_epoch = copy.deepcopy(network.state_dict()), current, epoch
        print(f"{name} epoch {epoch + 1}: {current:.4f}", flush=True)
        if epoch - best_epoch >= PATIENCE:
            break
    network.load_state_dict(best)
