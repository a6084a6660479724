"""SASRec, eSASRec and HSTU of RecTools as rivals, for `bench/rival_models.py`.

A user's history is the sequence of other users in events of either direction. Histories are cut into windows, so that
all their events are learned from: RecTools keeps the latest of each sequence. Other users have to be known from
training; those who are new then get no score of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from rival_training import keep_best_epoch

if TYPE_CHECKING:
    from rival_models import Log, Scores

HISTORY_LENGTH = 50
NEGATIVES = 256  # of sampled softmax
MAX_SOFTMAX_USERS = 5000  # with more, softmax over all users is too slow, and is sampled
TEMPERATURE = 0.05  # of HSTU's cosine similarities, as in the tutorial of RecTools


class Transformer:
    """A model of RecTools."""

    is_trained_once = True

    def __init__(
        self, name: str, log: Log, seed: int, settings: dict[str, Any], validate: Callable[[Transformer], float]
    ):
        """validate: the value on validation, by which the best epoch is chosen."""
        self.name, self.log, self.seed, self.settings, self.validate = name, log, seed, settings, validate

    def fit(self, second: int) -> None:
        from pytorch_lightning import seed_everything

        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        seed_everything(self.seed)
        torch.set_num_threads(1)
        dataset = self._dataset(second)
        self.model = self._model(sampled=dataset.item_id_map.size > MAX_SOFTMAX_USERS)

        def train_epoch() -> torch.nn.Module:
            self.model.fit_partial(dataset, min_epochs=1, max_epochs=1)
            self._prepare()
            network: torch.nn.Module = self.model.torch_model
            return network

        keep_best_epoch(self.name, train_epoch, lambda: self.validate(self))
        self._prepare()

    def _model(self, sampled: bool) -> Any:
        from rectools.models import HSTUModel, SASRecModel
        from rectools.models.nn.item_net import IdEmbeddingsItemNet
        from rectools.models.nn.transformers.ligr import LiGRLayers

        options: dict[str, Any] = {
            "n_factors": 64,
            "n_blocks": 2,
            "n_heads": 1,
            "session_max_len": HISTORY_LENGTH,
            "batch_size": 128,
            "loss": "softmax",
            "item_net_block_types": (IdEmbeddingsItemNet,),
            **self.settings,
        }
        if sampled or self.name == "esasrec":
            options |= {"loss": "sampled_softmax", "n_negatives": NEGATIVES}
        if self.name == "hstu":
            times = {"relative_time_attention": True, "relative_pos_attention": True}
            return HSTUModel(**options, **times, lightning_module_kwargs={"logits_t": TEMPERATURE})
        if self.name == "esasrec":
            options |= {"transformer_layers_type": LiGRLayers, "use_key_padding_mask": True}
        return SASRecModel(**options)

    def _dataset(self, second: int) -> Any:
        """The events before a second, from the sides of both users, in windows of HISTORY_LENGTH + 1."""
        from rectools import Columns
        from rectools.dataset import Dataset

        log, end = self.log, np.searchsorted(self.log.timestamp, second)
        table = pd.DataFrame(
            {
                "user": np.concatenate([log.actor[:end], log.target[:end]]),
                Columns.Item: np.concatenate([log.target[:end], log.actor[:end]]),
                Columns.Datetime: pd.to_datetime(np.tile(log.timestamp[:end], 2), unit="s"),
                Columns.Weight: 1,
                "event": np.tile(np.arange(end), 2),
            }
        ).sort_values("event", kind="stable")
        window, place = (f(table.groupby("user").cumcount(), HISTORY_LENGTH) for f in (np.floor_divide, np.mod))
        is_shared = (place == 0) & (window > 0)  # the first event of a window is the last target of the one before
        windows = pd.concat([table.assign(window=window), table[is_shared].assign(window=window[is_shared] - 1)])
        windows[Columns.User] = windows["user"].astype(str) + "/" + windows["window"].astype(str)
        windows = windows.sort_values("event", kind="stable").reset_index(drop=True)
        return Dataset.construct(windows[[Columns.User, Columns.Item, Columns.Weight, Columns.Datetime]])

    @torch.no_grad()
    def _prepare(self) -> None:
        """Computes the vectors of all users as targets. `token`: int64[N], a user's number in the model, 0 without."""
        network = self.model.torch_model.eval()
        self.vectors = network.item_model.get_all_embeddings()
        self.targets = network.similarity_module.item_tower_forward(self.vectors)
        known = self.model.data_preparator.get_known_item_ids().astype(np.int64)
        self.token = np.zeros(self.log.num_users, np.int64)
        self.token[known] = self.model.data_preparator.get_known_items_sorted_internal_ids()

    @torch.no_grad()
    def scores(self, user: int, cutoff: int) -> Scores:
        other, times = self.log.history(user, cutoff)
        is_known = self.token[other] > 0
        tokens, times = self.token[other[is_known]][-HISTORY_LENGTH:], times[is_known][-HISTORY_LENGTH:]
        result = np.full(self.log.num_users, -1e9, np.float32)  # users who are new since training come last
        if not len(tokens):
            return result
        x, seconds = np.zeros((1, HISTORY_LENGTH), np.int64), np.full((1, HISTORY_LENGTH + 1), times[0])
        x[0, -len(tokens) :] = tokens
        seconds[0, -len(tokens) - 1 :] = np.append(times, cutoff)
        batch = {"x": torch.from_numpy(x), "unix_ts": torch.from_numpy(seconds)}
        network = self.model.torch_model
        state = network.encode_sessions(batch, self.vectors)[:, -1]
        if self.name == "hstu":
            state, targets = (torch.nn.functional.normalize(v, dim=-1) for v in (state, self.targets))
        else:
            state, targets = network.similarity_module.session_tower_forward(state), self.targets
        values = (state @ targets.T)[0].numpy()
        return np.where(self.token > 0, values[self.token], result)
