"""Groups of people for which figures are told apart: by when they joined, and by how much they have done so far."""

from __future__ import annotations

import numpy as np
import torch

from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.data.split import Split

SEEN, UNSEEN = JOINED = ("seen in training", "unseen in training")
ACTIVITY = {"0": 0, "1-4": 1, "5-19": 5, "20-99": 20, "100+": 100}  # name -> fewest visible events


def joined(log: EventLog, split: Split, users: np.ndarray) -> np.ndarray:
    """int64[n], index into JOINED."""
    return (log.first_seen[users] >= split.t_validation).astype(np.int64)


def activity(histories: Histories, users: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """int64[n], index into ACTIVITY, by the user's events among the first `visible`, int64[n]."""
    count = histories.counts(torch.from_numpy(users).long(), torch.from_numpy(visible)).numpy()
    return np.searchsorted(list(ACTIVITY.values()), count, side="right") - 1
