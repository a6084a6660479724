"""Retrieval with the STU model: log-probabilities of users by their tokens, plus neighbor, dynamic and pointer terms.

An STU (social tokenized user id) is the semantic ID of a user, as in TIGER: L tokens of a residual quantizer, unique to
the user. The model generates the STU of the next target token by token. A *view* holds the vectors of all eligible
users (those who may be recommended) as of one cutoff. Terms and views are explained in `befriend.retrieval.retriever`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.features.feature_view import FeatureView
from befriend.models.model_inputs import Query
from befriend.models.model_settings import StuModelSettings
from befriend.models.prefix_tree import PrefixTree
from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.retrieval.beam import PrefixScores, TermBounds, beam_search
from befriend.retrieval.knn import SearchResult
from befriend.retrieval.retriever import ExcludedPairs, ModelView, Retriever, rows_to_users
from befriend.tokens.trie import Trie

BEAM_WIDTH = 50  # minimum number of prefixes that beam search continues per level; more if it returns more users
SCORES_PER_BATCH = 2**24  # scores of users computed at a time, float32: 64 MiB


@dataclass(frozen=True)
class StuView(ModelView):
    """A view with what the softmax over tokens needs, so that probabilities sum to 1 over the eligible users."""

    prefix_tree: PrefixTree
    """the prefixes of all STUs, with the number of eligible users behind each"""
    prefix_scores: PrefixScores | None
    """for beam search; None where all users are scored"""


class StuRetriever(Retriever[NextTargetPredictionSTU]):
    """The STU model on an event log, with exact search or with beam search."""

    @torch.no_grad()
    def __init__(
        self,
        model: NextTargetPredictionSTU,
        stus: Tensor,
        feature_view: FeatureView,
        model_settings: StuModelSettings,
        beam_width: int | None = None,
    ):
        """stus: int64[N, L], of all users of the log, to be set in the model; feature_view: the log as the model reads
        it; model_settings: the architecture with which the model was trained; beam_width: minimum number of beams, None
        to score all users."""
        model.set_users(stus)
        super().__init__("stu", model, feature_view, model_settings)
        self.beam_width, self.trie = beam_width, Trie.of(stus)

    def static_vectors(self, users: Tensor) -> Tensor:
        return torch.empty(len(users), 0)  # the static term is no inner product: see `static_scores`

    @torch.no_grad()
    def prepare_view(self, view: ModelView) -> StuView:
        prefix_tree = self.model.prefix_tree.recount(self.model.tokens.stus, view.snapshot.eligible)
        prefix_scores = None if self.beam_width is None else PrefixScores.of(self.model, self.trie, prefix_tree)
        return StuView(view.snapshot, view.vectors, view.neighbor_vectors, prefix_tree, prefix_scores)

    @torch.no_grad()
    def static_scores(self, view: ModelView, query: Query, users: Tensor) -> Tensor:
        assert isinstance(view, StuView)
        return self.double_model.log_probs(query.static, users, prefix_tree=view.prefix_tree)

    @torch.no_grad()
    def eligible_scores(self, view: ModelView, query: Query) -> Tensor:
        assert isinstance(view, StuView)
        time_dependent = query.time_dependent().float() @ view.vectors.T
        return (
            self.model.log_probs(query.static.float(), view.snapshot.eligible_users, prefix_tree=view.prefix_tree)
            + time_dependent
        )

    @torch.no_grad()
    def propose(
        self, view: ModelView, query: Query, k: int, excluded: ExcludedPairs, allowed: Tensor | None
    ) -> SearchResult:
        rows = max(1, SCORES_PER_BATCH // max(1, len(self.trie.users)))
        ids, scores = [torch.empty(0, k, dtype=torch.long)], [torch.empty(0, k)]
        disallowed = None if allowed is None else ~allowed[view.snapshot.eligible_users]
        row_of_user = torch.cat([view.snapshot.row_of_user, torch.tensor([-1])])
        for low in range(0, len(query.static), rows):
            batch = query.select(slice(low, low + rows))
            pairs = excluded.select_rows(torch.arange(low, low + len(batch.static)))
            column = row_of_user[pairs.user]
            row, column = pairs.row[column >= 0], column[column >= 0]
            if self.beam_width is None:
                total = self.eligible_scores(view, batch)
                total[row, column] = -torch.inf
                if disallowed is not None:
                    total[:, disallowed] = -torch.inf
                best = total.topk(min(k, total.shape[1]), dim=1)
                result = rows_to_users(view, SearchResult(best.indices, best.values))
                result.ids[best.values == -torch.inf] = -1
            else:
                result = self._beam(view, batch, k, row, column, disallowed)
            missing = (0, k - result.ids.shape[1])
            ids.append(torch.nn.functional.pad(result.ids, missing, value=-1))
            scores.append(torch.nn.functional.pad(result.scores, missing, value=-torch.inf))
        return SearchResult(torch.cat(ids), torch.cat(scores))

    def _beam(
        self, view: ModelView, query: Query, k: int, row: Tensor, column: Tensor, disallowed: Tensor | None
    ) -> SearchResult:
        """The best users for each query by beam search; parameters and result as in `propose`.

        row, column: int64[P], excluded pairs of a query and a row of the view; disallowed: bool[E], rows of the view
        that must not be returned to any query.
        """
        assert self.beam_width is not None and isinstance(view, StuView) and view.prefix_scores is not None
        terms = view.vectors @ query.time_dependent().T
        terms[column, row] = -torch.inf
        if disallowed is not None:
            terms[disallowed] = -torch.inf
        leaf_terms = torch.full((len(self.trie.users), terms.shape[1]), -torch.inf)
        leaf_terms[self.trie.leaves[view.snapshot.eligible_users].long()] = terms
        bounds = TermBounds(self.trie, leaf_terms)
        return beam_search(self.model, self.trie, view.prefix_scores, query.static, bounds, max(self.beam_width, k), k)
