"""Row candidates: the candidates of a single training query, as opposed to the negatives that a batch shares.

The terms are those of `training_queries`.

Shapes: P queries; H history candidates and T two-hop candidates of each; K row candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from befriend.features.feature_view import FeatureView
from befriend.features.two_hop import NUM_TWO_HOP_FEATURES, TwoHopNeighbors, log_features
from befriend.models.model_inputs import CandidatePairs, PairFeatures
from befriend.models.negatives import SharedNegatives
from befriend.objectives.objective_settings import RetrievalSettings
from befriend.objectives.train_batch import RowCandidates


class RowCandidateBuilder:
    """Finds the row candidates of training queries, and the features of their terms of pairs."""

    def __init__(self, feature_view: FeatureView, settings: RetrievalSettings):
        self.activity, self.two_hop, self.settings = feature_view.activity, feature_view.two_hop, settings

    def of(
        self,
        actor: Tensor,
        target: Tensor,
        num_visible: Tensor,
        cutoff: Tensor,
        entry_end: Tensor,
        other_positives: tuple[Tensor, Tensor],
    ) -> RowCandidates:
        """The target and the row candidates: history candidates, two-hop candidates, and users of the latest events.

        actor, target, num_visible, cutoff: int64[P]; entry_end: int64[P], one past the actor's last visible entry;
        other_positives: as in `TrainingQueryBuilder.batch`.

        Example: the actor's history has users 7 and 8, common contacts lead to user 5, the latest events are of users 8
        and 9, and the target is 7. Of the two columns with user 8, the second one is masked:

            column        0: 7     1: 7     2: 8      3: 5      4: 8     5: 9
            from          target   history  history   two-hop   latest   latest
            is_negative            False    True      True      False    True
            is_valid      True     True     True      True      False    True
            term of pair  pointer  pointer  pointer   two-hop

        The two-hop term is that of all candidates without a pointer term who have common contacts with the actor.
        """
        s, activity = self.settings, self.activity
        history_entry = activity.recent_distinct_entries(entry_end, actor, num_visible, s.history_candidates)
        history, history_mask = activity.neighbors(history_entry), history_entry >= 0
        neighbors = self.two_hop.neighbors(actor, num_visible, cutoff) if s.two_hop_candidates else None
        two_hop, two_hop_mask = self._two_hop_candidates(neighbors, history, history_mask)
        recent, recent_mask = activity.recent_users(num_visible, s.recent_events)
        # The target and the users of the latest events can be candidates already.
        users = torch.cat([target[:, None], recent], 1)
        is_candidate = ((users[:, :, None] == two_hop[:, None]) & two_hop_mask[:, None]).any(2)
        users = torch.cat([users, two_hop], 1)
        entry = activity.last_pair_entries(actor[:, None], users, num_visible[:, None])
        is_history = entry >= (entry_end[:, None] - s.history_candidates).clamp(min=0)
        size = [1, recent.shape[1], two_hop.shape[1]]
        target_is_history, recent_is_history, _ = is_history.split(size, 1)
        recent_mask &= (recent != actor[:, None]) & ~recent_is_history & ~is_candidate[:, 1:]
        target_entry, recent_entry, two_hop_entry = entry.split(size, 1)

        def columns(target: Tensor, history: Tensor, two_hop: Tensor, recent: Tensor) -> Tensor:
            """[P, 1 + K]: the four kinds of columns joined."""
            return torch.cat([target, history, two_hop, recent], 1)

        users = columns(target[:, None], history, two_hop, recent)
        entry = columns(target_entry, history_entry, two_hop_entry, recent_entry)
        is_valid = columns(torch.ones_like(target_is_history), history_mask, two_hop_mask, recent_mask)
        no_two_hop, no_recent = torch.zeros_like(two_hop_mask), torch.zeros_like(recent_mask)
        has_pointer = columns(target_is_history, history_mask, no_two_hop, no_recent)
        pairs = CandidatePairs(
            self.pair_features(has_pointer, entry, entry_end, num_visible, cutoff),
            two_hop_features(neighbors, users, is_valid & ~has_pointer),
        )
        is_negative = is_valid[:, 1:] & (users[:, 1:] != target[:, None])
        row, user = other_positives
        positive_index = (users[row, 1:] == user[:, None]).nonzero()  # int64[., 2]: index into `row`, row candidate
        is_negative[row[positive_index[:, 0]], positive_index[:, 1]] = False
        return RowCandidates(users, pairs, is_negative, activity.has_contact_event(entry), is_valid, neighbors)

    def _two_hop_candidates(
        self, neighbors: TwoHopNeighbors | None, history: Tensor, history_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two-hop candidates, int64[P, T], 0 in the padding, and which are valid, bool[P, T].

        neighbors: of the actors, None without a two-hop term; history, history_mask: int64 and bool[P, H], the history
        candidates, who are left out.
        """
        if neighbors is None:
            return history[:, :0], history_mask[:, :0]
        row, column = history_mask.nonzero(as_tuple=True)
        users = neighbors.closest(self.settings.two_hop_candidates, row, history[row, column])
        return users.clamp(min=0), users >= 0

    def pair_features(
        self, has_pointer: Tensor, entry: Tensor, entry_end: Tensor, num_visible: Tensor, cutoff: Tensor
    ) -> PairFeatures:
        """The features of the pairs of an actor and a candidate where `has_pointer`, bool[P, K], is True.

        entry: int64[P, K], the last visible entry of each pair in the actor's history; the others: int64[P].
        """
        row, column = has_pointer.nonzero(as_tuple=True)
        entry = entry[row, column]
        features = self.activity.pair_features(entry, entry_end[row], num_visible[row], cutoff[row])
        return PairFeatures(row, column, features, self.activity.edge_types(entry))


def two_hop_features(neighbors: TwoHopNeighbors | None, users: Tensor, mask: Tensor) -> PairFeatures:
    """The features of common contacts of candidates in `mask`, bool[P, K], who have any. users: int64[P, K].

    neighbors: of the actors, None without a two-hop term.
    """
    if neighbors is None:
        return _no_two_hop_features()
    index = neighbors.index_of(torch.arange(len(users))[:, None], users)
    row, column = (mask & (index >= 0)).nonzero(as_tuple=True)
    return PairFeatures(row, column, log_features(neighbors.features[index[row, column]]))


def shared_two_hop_features(
    neighbors: TwoHopNeighbors | None, shared: SharedNegatives, is_negative: Tensor
) -> PairFeatures:
    """As `two_hop_features`, of the C shared negatives of a batch. is_negative: bool[P, C]."""
    if neighbors is None:
        return _no_two_hop_features()
    row, column = neighbors.row, shared.columns(neighbors.neighbor)
    index = (column >= 0).nonzero().squeeze(1)
    index = index[is_negative[row[index], column[index]]]
    return PairFeatures(row[index], column[index], log_features(neighbors.features[index]))


def _no_two_hop_features() -> PairFeatures:
    nobody = torch.empty(0, dtype=torch.long)
    return PairFeatures(nobody, nobody, torch.empty(0, NUM_TWO_HOP_FEATURES))
