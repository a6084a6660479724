"""User groups for which metrics are reported separately: by when users joined, and by their activity so far."""

from __future__ import annotations

import numpy as np
import torch

from befriend.data.event_log import EventLog
from befriend.data.split import Split
from befriend.features.histories import Histories

SEEN, UNSEEN = JOINED = ("seen in training", "unseen in training")
ACTIVITY = {"0": 0, "1-4": 1, "5-19": 5, "20-99": 20, "100+": 100}  # name -> minimum number of visible events


def joined(log: EventLog, split: Split, users: np.ndarray) -> np.ndarray:
    """int64[n], index into JOINED. users: int64[n]."""
    return (log.first_seen[users] >= split.t_validation).astype(np.int64)


def activity(histories: Histories, users: np.ndarray, num_visible: np.ndarray) -> np.ndarray:
    """int64[n], index into ACTIVITY, by each user's events among the first `num_visible`, int64[n], of the log."""
    count = histories.counts(torch.from_numpy(users).long(), torch.from_numpy(num_visible)).numpy()
    return np.searchsorted(list(ACTIVITY.values()), count, side="right") - 1
