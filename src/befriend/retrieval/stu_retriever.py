"""Retrieval with the STU model: log-probabilities of users by their tokens, plus neighbor and dynamic terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.features.feature_view import FeatureView
from befriend.models.model_inputs import Query
from befriend.models.model_settings import StuTowerSettings
from befriend.models.prefix_tree import PrefixTree
from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.retrieval.beam import PrefixScores, TermBounds, beam_search
from befriend.retrieval.knn import SearchResult
from befriend.retrieval.retriever import ExcludedPairs, ModelView, Retriever, rows_to_users
from befriend.tokens.trie import Trie

BEAM = 50  # beam width: prefixes per level
SCORES_PER_BATCH = 2**24  # 64 MiB


@dataclass(frozen=True)
class StuView(ModelView):
    """A view whose probabilities sum to 1 over the users eligible as of the cutoff."""

    prefix_tree: PrefixTree
    """counts the eligible users"""
    prefix_scores: PrefixScores | None
    """for beam search; None: all users are scored"""


class StuRetriever(Retriever[NextTargetPredictionSTU]):
    """The STU model on a log, exact or with beam search."""

    @torch.no_grad()
    def __init__(
        self,
        model: NextTargetPredictionSTU,
        stus: Tensor,
        feature_view: FeatureView,
        query_settings: StuTowerSettings,
        beam_width: int | None = None,
    ):
        """stus: int64[N, L], of all users of the log; beam_width: None: score all users."""
        model.set_users(stus)
        super().__init__("stu", model, feature_view, query_settings)
        self.beam_width, self.trie = beam_width, Trie.of(stus)

    def static_vectors(self, users: Tensor) -> Tensor:
        return torch.empty(len(users), 0)

    @torch.no_grad()
    def prepared(self, view: ModelView) -> StuView:
        prefix_tree = self.model.paths.recount(self.model.tokens.stus, view.snapshot.eligible)
        prefix_scores = None if self.beam_width is None else PrefixScores.of(self.model, self.trie, prefix_tree)
        return StuView(view.snapshot, view.vectors, view.neighbor, prefix_tree, prefix_scores)

    @torch.no_grad()
    def static(self, view: ModelView, query: Query, users: Tensor) -> Tensor:
        assert isinstance(view, StuView)
        return self.exact.log_probs(query.static, users, paths=view.prefix_tree)

    @torch.no_grad()
    def scores(self, view: ModelView, query: Query) -> Tensor:
        assert isinstance(view, StuView)
        time_dependent = query.time_dependent().float() @ view.vectors.T
        return (
            self.model.log_probs(query.static.float(), view.snapshot.eligible_users, paths=view.prefix_tree)
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
            pairs = excluded.of_rows(torch.arange(low, low + len(batch.static)))
            column = row_of_user[pairs.user]
            row, column = pairs.row[column >= 0], column[column >= 0]
            if self.beam_width is None:
                total = self.scores(view, batch)
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
        """row, column: int64, excluded pairs of a query and a row of the view; disallowed: bool[E], rows of the view
        that must not be returned."""
        assert self.beam_width is not None and isinstance(view, StuView) and view.prefix_scores is not None
        terms = view.vectors @ query.time_dependent().T
        terms[column, row] = -torch.inf
        if disallowed is not None:
            terms[disallowed] = -torch.inf
        terms_of_leaf = torch.full((len(self.trie.users), terms.shape[1]), -torch.inf)
        terms_of_leaf[self.trie.leaves[view.snapshot.eligible_users].long()] = terms
        bounds = TermBounds(self.trie, terms_of_leaf)
        return beam_search(self.model, self.trie, view.prefix_scores, query.static, bounds, max(self.beam_width, k), k)
