"""Hard negatives: users with the best static scores for a query, as additional candidates of a batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from befriend.models.model_inputs import CandidatePairs
from befriend.objectives.row_candidates import two_hop_features
from befriend.objectives.train_batch import TrainBatch
from befriend.objectives.training_queries import TrainingQueryBuilder


def with_hard_negatives(builder: TrainingQueryBuilder, batch: TrainBatch, users: Tensor) -> TrainBatch:
    """The batch with hard negatives as additional candidates, after the shared negatives.

    users: int64[P, H], distinct in each row. Masked are the actor, users who are not eligible, the query's target and
    row candidates, and shared negatives that are masked. An other positive who is in none of these is not recognised.
    The hard negatives that remain are masked as shared negatives, so that no user counts twice.
    """
    device, activity = users.device, builder.activity
    users, num_visible, cutoff = users.cpu().contiguous(), batch.num_visible.cpu(), batch.cutoff.cpu()
    shared, is_negative_before = batch.shared.to("cpu"), batch.is_negative.cpu().clone()
    num_row_candidates = is_negative_before.shape[1] - len(shared.users)
    candidates = batch.candidates.users.cpu()[:, : 1 + num_row_candidates]
    is_shared_negative = is_negative_before[:, num_row_candidates:]
    actor = batch.histories.actor_id.cpu()[batch.positions.row.cpu()]
    column = shared.columns(users)
    is_negative = (
        (builder.eligible_since_tensor[users] < cutoff[:, None])
        & (users != actor[:, None])
        & (users[:, :, None] != candidates[:, None]).all(-1)
    )
    # A user who is masked as a shared negative is no hard negative either.
    is_negative &= (column < 0) | is_shared_negative.gather(1, column.clamp(min=0))
    row = torch.arange(len(users))[:, None].expand_as(users)
    shared.mask_out(is_shared_negative, row[is_negative], users[is_negative])
    entry = activity.last_pair_entries(actor[:, None], users, num_visible[:, None])
    entry_end = activity.histories.end_offsets(actor, num_visible)
    has_pointer = entry >= (entry_end[:, None] - builder.settings.history_candidates).clamp(min=0)
    history = builder.row_candidates.pair_features(has_pointer, entry, entry_end, num_visible, cutoff)
    neighbors = None
    if builder.settings.two_hop_candidates:
        neighbors = builder.row_candidates.two_hop.neighbors(actor, num_visible, cutoff)
    two_hop = two_hop_features(neighbors, users, is_negative & ~has_pointer)
    history, two_hop = (
        replace(pairs, column=pairs.column + batch.candidates.users.shape[1]).to(device) for pairs in (history, two_hop)
    )
    inputs = builder.candidate_inputs(users, num_visible[:, None], cutoff[:, None]).to(device)
    is_contact = activity.has_contact_event(entry).to(device)
    return replace(
        batch,
        candidates=batch.candidates.concat(inputs),
        pairs=CandidatePairs(batch.pairs.history.concat(history), batch.pairs.two_hop.concat(two_hop)),
        is_negative=torch.cat([is_negative_before, is_negative], 1).to(device),
        is_contact=torch.cat([batch.is_contact, is_contact], 1),
        log_q=torch.cat([batch.log_q, batch.log_q.new_zeros(users.shape[1])]),
    )
