"""Retrieval with the STU model: everyone's probability by their tokens, and what changes with time on top."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from befriend.data.observed import Observed
from befriend.models.batch import Query
from befriend.models.settings import StuTowerSettings
from befriend.models.stu import NextTargetPredictionSTU
from befriend.retrieval.knn import Neighbours
from befriend.retrieval.serving import Retriever, RetrieverRanker

SCORES = 2**24  # at a time: 64 MiB


class StuRetriever(Retriever[NextTargetPredictionSTU]):
    """Everyone of a log by their STUs."""

    @torch.no_grad()
    def __init__(self, model: NextTargetPredictionSTU, stus: Tensor, observed: Observed, tower: StuTowerSettings):
        """stus: int64[N, L], of everyone in the log."""
        super().__init__(model, observed, tower)
        model.with_users(stus)

    @torch.no_grad()
    def search(self, query: Query, user: Tensor, k: int, exclude_indptr: np.ndarray, exclude: np.ndarray) -> Neighbours:
        near = self.contacts(query, user)
        hidden_row = torch.from_numpy(np.repeat(np.arange(len(user)), np.diff(exclude_indptr)))
        hidden = torch.from_numpy(exclude)
        rows = max(1, SCORES // len(self.place))
        parts = []
        for low in range(0, len(user), rows):
            part = slice(low, low + rows)
            scores = self.everyone(query.of(part))
            scores.scatter_add_(1, near.users[part], torch.where(near.real[part], near.score[part], 0))
            scores[:, self.place < 0] = -torch.inf
            here = (hidden_row >= low) & (hidden_row < low + rows)
            scores[hidden_row[here] - low, hidden[here]] = -torch.inf
            own = user[part] < len(self.place)
            scores[own.nonzero().squeeze(1), user[part][own]] = -torch.inf
            best = scores.topk(min(k, scores.shape[1]), dim=1)
            parts.append((torch.where(best.values > -torch.inf, best.indices, -1), best.values))
        ids, values = (torch.cat(part) for part in zip(*parts, strict=True))
        short = k - ids.shape[1]
        pad = torch.nn.functional.pad
        return Neighbours(pad(ids, (0, short), value=-1), pad(values, (0, short), value=-torch.inf))

    def everyone(self, query: Query) -> Tensor:
        """float32[B, N]: scores of everyone but for the pointer's term."""
        scores = self.model.log_probs(query.static, torch.arange(len(self.place)))
        return scores if query.moment is None else scores + query.moment @ self.moment.T


class StuRanker(RetrieverRanker[NextTargetPredictionSTU]):
    """The model as a Ranker of the evaluation protocol."""

    def __init__(self, model: NextTargetPredictionSTU, stus: Tensor, observed: Observed, tower: StuTowerSettings):
        super().__init__("stu", StuRetriever(model, stus, observed, tower))
