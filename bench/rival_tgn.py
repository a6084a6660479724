"""TGN (Rossi et al. 2020) of PyTorch Geometric as a rival, for `bench/rival_models.py`.

Memory, messages, attention over the latest neighbors and one uniform negative per event are those of its example. All
users are embedded for each cutoff.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rival_training import keep_best_epoch
from torch import Tensor, nn
from torch_geometric.nn import TGNMemory, TransformerConv
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader

if TYPE_CHECKING:
    from rival_models import Log, Scores

WIDTH, NEIGHBORS, BATCH = 100, 10, 200
HOUR = 3600  # the unit of time: the encoding of times learns little from seconds


class Network(nn.Module):
    def __init__(self, num_users: int):
        super().__init__()
        message = IdentityMessage(1, WIDTH, WIDTH)
        self.memory = TGNMemory(num_users, 1, WIDTH, WIDTH, message, LastAggregator())
        self.attention = TransformerConv(WIDTH, WIDTH // 2, heads=2, dropout=0.1, edge_dim=1 + WIDTH)
        self.from_actor, self.from_target = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 1)

    def score(self, actor: Tensor, target: Tensor) -> Tensor:
        """float32[...]: the score of each target for its actor. actor, target: float32[..., WIDTH], embeddings."""
        hidden = (self.from_actor(actor) + self.from_target(target)).relu()
        return self.out(hidden).squeeze(-1)


class Tgn:
    is_trained_once = True

    def __init__(self, log: Log, seed: int, settings: dict[str, Any], validate: Callable[[Tgn], float]):
        """validate: the value on validation, by which the best epoch is chosen."""
        self.log, self.seed, self.settings, self.validate = log, seed, settings, validate
        self.actor, self.target = torch.from_numpy(log.actor).long(), torch.from_numpy(log.target).long()
        self.time = torch.from_numpy((log.timestamp - log.timestamp[0]) // HOUR)
        self.message = torch.ones(len(self.time), 1)

    def fit(self, second: int) -> None:
        torch.manual_seed(self.seed)
        torch.set_num_threads(1)
        end = int(np.searchsorted(self.log.timestamp, second))
        self.network = Network(self.log.num_users)
        self.loader = LastNeighborLoader(self.log.num_users, NEIGHBORS)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.settings["lr"])

        def train_epoch() -> nn.Module:
            self.network.train()
            self._reset()
            for low in range(0, end, BATCH):
                events = torch.arange(low, min(low + BATCH, end))
                actor, target = self.actor[events], self.target[events]
                negative = torch.randint(0, self.log.num_users, (len(events),))
                users, row = torch.cat([actor, target, negative]).unique(return_inverse=True)
                a, t, n = self._embed(users)[row].split(len(events))
                scores = torch.cat([self.network.score(a, t), self.network.score(a, n)])
                is_target = torch.arange(2 * len(events)) < len(events)
                loss = nn.functional.binary_cross_entropy_with_logits(scores, is_target.float())
                self._insert(events)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                self.network.memory.detach()
            self.network.eval()
            self._reset()
            return self.network

        keep_best_epoch("tgn", train_epoch, lambda: self.validate(self))
        self._reset()

    def _reset(self) -> None:
        """Forgets all events."""
        self.network.memory.reset_state()
        self.loader.reset_state()
        self.num_inserted = self.cutoff = 0

    def _insert(self, events: Tensor) -> None:
        actor, target = self.actor[events], self.target[events]
        self.network.memory.update_state(actor, target, self.time[events], self.message[events])
        self.loader.insert(actor, target)
        self.num_inserted = int(events[-1]) + 1

    def _embed(self, users: Tensor) -> Tensor:
        """float32[n, WIDTH]: the embeddings of distinct users after the inserted events."""
        nodes, edges, events = self.loader(users)
        vectors, last_update = self.network.memory(nodes)
        gap = (last_update[edges[0]] - self.time[events]).float()
        edge = torch.cat([self.message[events], self.network.memory.time_enc(gap)], -1)
        embedded = self.network.attention(vectors, edges, edge)
        return embedded[torch.searchsorted(nodes, users)]

    @torch.no_grad()
    def scores(self, user: int, cutoff: int) -> Scores:
        if self.cutoff != cutoff:
            end = int(np.searchsorted(self.log.timestamp, cutoff))
            if end < self.num_inserted:
                self._reset()
            for low in range(self.num_inserted, end, BATCH):
                self._insert(torch.arange(low, min(low + BATCH, end)))
            self.embedded, self.cutoff = self._embed(torch.arange(self.log.num_users)), cutoff
        return self.network.score(self.embedded[user], self.embedded).numpy()
