"""User groups that have metrics of their own: by whether training has seen the user, and by activity so far."""

from __future__ import annotations

import numpy as np
import torch

from befriend.data.event_log import EventLog
from befriend.data.split import Split
from befriend.features.histories import Histories

SEEN, UNSEEN = TRAINING_GROUPS = ("seen in training", "unseen in training")
ACTIVITY_GROUPS = {"0": 0, "1-4": 1, "5-19": 5, "20-99": 20, "100+": 100}  # name -> minimum number of visible events


def training_group(log: EventLog, split: Split, users: np.ndarray) -> np.ndarray:
    """int64[n], index into TRAINING_GROUPS. users: int64[n], internal ids."""
    return (log.first_seen[users] >= split.t_validation).astype(np.int64)


def activity_group(histories: Histories, users: np.ndarray, num_visible: np.ndarray) -> np.ndarray:
    """int64[n], index into ACTIVITY_GROUPS, by the number of a user's visible events.

    users: int64[n], internal ids; num_visible: int64[n], for each user, how many events of the log are visible.
    """
    num_events = histories.counts(torch.from_numpy(users).long(), torch.from_numpy(num_visible)).numpy()
    return np.searchsorted(list(ACTIVITY_GROUPS.values()), num_events, side="right") - 1
