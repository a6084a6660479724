"""Retrieval with the STU model: everyone's probability by their tokens, and what changes with time on top."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.data.observed import Observed
from befriend.models.batch import Query
from befriend.models.paths import Paths
from befriend.models.settings import StuTowerSettings
from befriend.models.stu import NextTargetPredictionSTU
from befriend.retrieval.beam import Following, Maxima, search
from befriend.retrieval.knn import Neighbours
from befriend.retrieval.retriever import Pairs, Retriever, View, of_view
from befriend.tokens.trie import Trie

BEAM = 50  # prefixes kept on each level
SCORES = 2**24  # at a time: 64 MiB


@dataclass(frozen=True)
class StuView(View):
    """With the probabilities shared among those who are there at the moment."""

    paths: Paths
    following: Following | None
    """for a beam"""


class StuRetriever(Retriever[NextTargetPredictionSTU]):
    """Everyone of a log by their STUs."""

    @torch.no_grad()
    def __init__(
        self,
        model: NextTargetPredictionSTU,
        stus: Tensor,
        observed: Observed,
        tower: StuTowerSettings,
        width: int | None = None,
    ):
        """stus: int64[N, L], of everyone in the log; width: of the beam, None: score everyone."""
        model.with_users(stus)
        super().__init__("stu", model, observed, tower)
        self.width, self.trie = width, Trie.of(stus)

    def standing(self, users: Tensor) -> Tensor:
        return torch.empty(len(users), 0)

    @torch.no_grad()
    def prepared(self, view: View) -> StuView:
        paths = self.model.paths.among(self.model.tokens.stus, view.moment.findable)
        following = None if self.width is None else Following.of(self.model, self.trie, paths)
        return StuView(view.moment, view.vectors, view.social, paths, following)

    @torch.no_grad()
    def static(self, view: View, query: Query, users: Tensor) -> Tensor:
        assert isinstance(view, StuView)
        return self.exact.log_probs(query.static, users, paths=view.paths)

    @torch.no_grad()
    def scores(self, view: View, query: Query) -> Tensor:
        assert isinstance(view, StuView)
        changing = query.changing().float() @ view.vectors.T
        return self.model.log_probs(query.static.float(), view.moment.ids, paths=view.paths) + changing

    @torch.no_grad()
    def propose(self, view: View, query: Query, k: int, hidden: Pairs, allowed: Tensor | None) -> Neighbours:
        rows = max(1, SCORES // max(1, len(self.trie.users)))
        ids, scores = [torch.empty(0, k, dtype=torch.long)], [torch.empty(0, k)]
        away = None if allowed is None else ~allowed[view.moment.ids]
        row_of = torch.cat([view.moment.row, torch.tensor([-1])])
        for low in range(0, len(query.static), rows):
            some = query.of(slice(low, low + rows))
            mine = hidden.of_rows(torch.arange(low, low + len(some.static)))
            column = row_of[mine.user]
            row, column = mine.row[column >= 0], column[column >= 0]
            if self.width is None:
                total = self.scores(view, some)
                total[row, column] = -torch.inf
                if away is not None:
                    total[:, away] = -torch.inf
                best = total.topk(min(k, total.shape[1]), dim=1)
                found = of_view(view, Neighbours(best.indices, best.values))
                found.ids[best.values == -torch.inf] = -1
            else:
                found = self._beam(view, some, k, row, column, away)
            missing = (0, k - found.ids.shape[1])
            ids.append(torch.nn.functional.pad(found.ids, missing, value=-1))
            scores.append(torch.nn.functional.pad(found.scores, missing, value=-torch.inf))
        return Neighbours(torch.cat(ids), torch.cat(scores))

    def _beam(self, view: View, query: Query, k: int, row: Tensor, column: Tensor, away: Tensor | None) -> Neighbours:
        """row, column: pairs that may not meet, int64; away: bool[F], who may not be found."""
        assert self.width is not None and isinstance(view, StuView) and view.following is not None
        terms = view.vectors @ query.changing().T
        terms[column, row] = -torch.inf
        if away is not None:
            terms[away] = -torch.inf
        of_leaf = torch.full((len(self.trie.users), terms.shape[1]), -torch.inf)
        of_leaf[self.trie.leaves[view.moment.ids].long()] = terms
        bounds = Maxima(self.trie, of_leaf)
        return search(self.model, self.trie, view.following, query.static, bounds, max(self.width, k), k)
