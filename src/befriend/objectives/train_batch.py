"""Training queries, and a batch of them with histories and candidates, as dataclasses of arrays and tensors.

Shapes: P queries of a batch; B windows, each one encoded history; K row candidates of each query; C shared negatives of
the batch; m recent neighbors and F features of a candidate. The terms are defined in `training_queries`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from befriend.features.two_hop import TwoHopNeighbors
from befriend.models.model_inputs import CandidateInputs, CandidatePairs, NextTargetPredictionBatch, Positions
from befriend.models.negatives import SharedNegatives
from befriend.nn.tensors import TensorBatch


@dataclass(frozen=True)
class TrainBatch(TensorBatch):
    """One batch: the histories of its windows, P queries at positions in them, and the candidates of each query."""

    histories: NextTargetPredictionBatch
    """one for each of the B windows"""
    positions: Positions
    """where each query reads a history, its action, its target and its regime"""
    weight: Tensor
    """float32[P], weight of each query in the loss"""
    is_first_contact: Tensor
    """bool[P], whether the event is a first contact: actor and target had no contact event with each other before"""
    candidates: CandidateInputs
    """inputs [P, 1 + K + C]: of the target, of the row candidates, and of the shared negatives"""
    pairs: CandidatePairs
    """of the history candidates and two-hop candidates among `candidates`"""
    is_negative: Tensor
    """bool[P, K + C], which candidates besides the target are negatives. The others are the target once more, other
    positives, the actor, users who are a candidate already or not yet eligible, or padding"""
    is_contact: Tensor
    """bool[P, K + C], which of these candidates had a contact event with the actor before the cutoff; for a shared
    negative False also if the contact has no event among the actor's latest `training_queries.CONTACT_LOOKUP_ENTRIES`
    entries"""
    log_q: Tensor
    """float32[K + C], the log-Q correction: that of the shared negatives, 0 for row candidates"""
    shared: SharedNegatives
    """C users"""
    num_visible: Tensor
    """int64[P], number of events of the log before the query's cutoff"""
    cutoff: Tensor
    """int64[P], UTC second before which events are visible to the query"""


@dataclass(frozen=True)
class TrainingQueries:
    """Training queries as arrays of one length. Each predicts the target of an event from the events before a
    cutoff."""

    event: np.ndarray
    """int64, index into the log"""
    num_visible: np.ndarray
    """int64, number of events of the log before the cutoff"""
    cutoff: np.ndarray
    """int64, UTC second before which events are visible"""
    regime: np.ndarray
    """int64, index into REGIMES"""

    def take(self, rows: np.ndarray | slice) -> TrainingQueries:
        """The queries of some rows. rows: indices, a mask, or a slice."""
        return TrainingQueries(*(getattr(self, field)[rows] for field in TrainingQueries.__dataclass_fields__))


@dataclass(frozen=True)
class RowCandidates:
    """The target (column 0) and the K row candidates (the other columns) of P queries.

    Row candidates are negatives unless `is_negative` excludes them: the target can be among them once more.
    """

    users: Tensor
    """int64[P, 1 + K], internal ids"""
    pairs: CandidatePairs
    """of the history candidates and two-hop candidates among them"""
    is_negative: Tensor
    """bool[P, K], which row candidates are negatives"""
    is_contact: Tensor
    """bool[P, 1 + K], which users had a contact event with the actor before"""
    is_valid: Tensor
    """bool[P, 1 + K]: False for padding, for the actor, and for a row candidate who has an earlier column among the row
    candidates. Users of valid columns, the target among them, are not shared negatives of the query as well"""
    neighbors: TwoHopNeighbors | None
    """the two-hop neighbors of the actors, None without a two-hop term"""
