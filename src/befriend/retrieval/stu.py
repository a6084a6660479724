"""Retrieval with the STU model: everyone's probability by their tokens, and what changes with time on top."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from befriend.data.observed import Observed
from befriend.models.batch import Query
from befriend.models.settings import StuTowerSettings
from befriend.models.stu import NextTargetPredictionSTU
from befriend.models.terms import each
from befriend.retrieval.beam import Following, Maxima, exhaustive, search
from befriend.retrieval.knn import Neighbours
from befriend.retrieval.serving import Retriever, RetrieverRanker
from befriend.tokens.trie import Trie

BEAM = 50  # prefixes kept on each level
SCORES = 2**24  # at a time: 64 MiB


class StuRetriever(Retriever[NextTargetPredictionSTU]):
    """Everyone of a log by their STUs, in the order of the leaves of their trie."""

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
        super().__init__(model, observed, tower)
        self.width, self.trie = width, Trie.of(stus)
        self.leaves, self.users = self.trie.leaves.long(), self.trie.users.long()
        self.following = Following.of(model, self.trie)

    @torch.no_grad()
    def score(self, query: Query, users: Tensor) -> Tensor:
        changing = each(query.changing(), self.vectors[users])
        return self.model.log_probs(query.static, users) + changing

    @torch.no_grad()
    def search(self, query: Query, user: Tensor, k: int, exclude_indptr: np.ndarray, exclude: np.ndarray) -> Neighbours:
        near = self.contacts(query, user)
        rows = max(1, SCORES // len(self.users))
        found = []
        for low in range(0, len(user), rows):
            high = min(low + rows, len(user))
            hidden = slice(exclude_indptr[low], exclude_indptr[high])
            hidden_row = np.repeat(np.arange(high - low), np.diff(exclude_indptr[low : high + 1]))
            terms = (self.vectors @ query.of(slice(low, high)).changing().T)[self.users]
            here = near.real[low:high]
            row = here.nonzero(as_tuple=True)[0]
            terms[self.leaves[near.users[low:high][here]], row] += near.score[low:high][here]
            terms[~self.found[self.users]] = -torch.inf
            terms[self.leaves[torch.from_numpy(exclude[hidden])], torch.from_numpy(hidden_row)] = -torch.inf
            own = (user[low:high] < len(self.users)).nonzero().squeeze(1)
            terms[self.leaves[user[low:high][own]], own] = -torch.inf
            asked = query.static[low:high]
            if self.width is None:
                found.append(exhaustive(self.model, self.trie, asked, terms, k))
            else:
                bounds = Maxima(self.trie, terms)
                found.append(search(self.model, self.trie, self.following, asked, bounds, max(self.width, k), k))
        return Neighbours(torch.cat([part.ids for part in found]), torch.cat([part.scores for part in found]))


class StuRanker(RetrieverRanker[NextTargetPredictionSTU]):
    """The model as a Ranker of the evaluation protocol."""

    def __init__(
        self,
        model: NextTargetPredictionSTU,
        stus: Tensor,
        observed: Observed,
        tower: StuTowerSettings,
        width: int | None = None,
    ):
        super().__init__("stu", StuRetriever(model, stus, observed, tower, width))
