"""SASRec of RecTools on Amazon Beauty, the yardstick of `bench/amazon_beauty.py`, by the same leave-one-out protocol.

    RIVALS/bin/python bench/rival_beauty.py amazon-beauty.txt [--loss sampled_softmax] [--epochs 60]

Runs in the environment of bench/rivals.txt, without befriend. Architecture, loss, dropout and learning rate are those
of eSASRec's authors (one block, one head, 64 dimensions, dropout .2, 256 uniform negatives, Adam at .001). Histories
are cut to the latest 20 items, which are all for 19 of 20 customers: longer ones take longer, as RecTools pads all.
Prints Recall@10 and NDCG@10 on validation after each epoch, and on test at the best one, with the history ranked and
excluded; then the same after a refit on training and validation items, for as many epochs.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

HISTORY_LENGTH, PATIENCE = 20, 8
Metrics = tuple[float, float, float, float]
"""Recall@10 and NDCG@10 with the history ranked, then with it excluded"""


def read(path: Path) -> list[np.ndarray]:
    return [np.array(line.split()[1:], dtype=np.int64) for line in path.read_text().splitlines()]


def dataset_of(histories: list[np.ndarray]) -> Any:
    from rectools import Columns
    from rectools.dataset import Dataset

    lengths = [len(history) for history in histories]
    table = {
        Columns.User: np.repeat(np.arange(len(histories)), lengths),
        Columns.Item: np.concatenate(histories),
        Columns.Weight: 1,
        Columns.Datetime: pd.to_datetime(np.concatenate([np.arange(n) for n in lengths]), unit="D"),
    }
    return Dataset.construct(pd.DataFrame(table))


def make_model(loss: str) -> Any:
    from rectools.models import SASRecModel
    from rectools.models.nn.item_net import IdEmbeddingsItemNet

    return SASRecModel(
        n_factors=64,
        n_blocks=1,
        n_heads=1,
        dropout_rate=0.2,
        session_max_len=HISTORY_LENGTH,
        loss=loss,
        n_negatives=256 if loss == "sampled_softmax" else None,
        lr=0.001,
        batch_size=128,
        item_net_block_types=(IdEmbeddingsItemNet,),
    )


@torch.no_grad()
def evaluate(model: Any, customers: list[np.ndarray], from_end: int) -> Metrics:
    """Predicts each customer's item at index -`from_end` from all items before it."""
    network, preparator = model.torch_model.eval(), model.data_preparator
    vectors = network.item_model.get_all_embeddings()
    token = np.zeros(1 + max(int(items.max()) for items in customers), np.int64)
    token[preparator.get_known_item_ids().astype(np.int64)] = preparator.get_known_items_sorted_internal_ids()
    all_ranks, new_ranks = [], []
    for start in range(0, len(customers), 512):
        block = customers[start : start + 512]
        histories = [token[items[:-from_end]] for items in block]
        x = np.zeros((len(block), HISTORY_LENGTH), np.int64)
        for row, history in enumerate(histories):
            x[row, -len(history[-HISTORY_LENGTH:]) :] = history[-HISTORY_LENGTH:]
        scores = network.encode_sessions({"x": torch.from_numpy(x)}, vectors)[:, -1] @ vectors.T
        scores[:, 0] = -torch.inf
        target = torch.from_numpy(np.array([token[items[-from_end]] for items in block]))
        # A target that training does not know, number 0, scores -inf, and is ranked last.
        is_ahead = scores >= scores.gather(1, target[:, None])
        all_ranks.append(is_ahead.sum(1))
        for row, history in enumerate(histories):
            is_ahead[row, history] = False
        new_ranks.append(is_ahead.sum(1))
    metrics = []
    for ranks in (all_ranks, new_ranks):
        rank = torch.cat(ranks).double()
        hit = rank <= 10
        metrics += [float(hit.double().mean()), float((hit / (rank + 1).log2()).mean())]
    return metrics[0], metrics[1], metrics[2], metrics[3]


def text(metrics: Metrics) -> str:
    return "history ranked {:.4f} / {:.4f}, excluded {:.4f} / {:.4f}".format(*metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--loss", choices=("sampled_softmax", "softmax"), default="sampled_softmax")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from pytorch_lightning import seed_everything

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    customers = read(arguments.file)
    seed_everything(arguments.seed)
    model, training = make_model(arguments.loss), dataset_of([items[:-2] for items in customers])
    best_metrics, best_state, num_epochs, start = (0.0, 0.0, 0.0, 0.0), {}, 0, time.perf_counter()
    for epoch in range(1, arguments.epochs + 1):
        model.fit_partial(training, min_epochs=1, max_epochs=1)
        metrics = evaluate(model, customers, 2)
        print(f"epoch {epoch}, {time.perf_counter() - start:.0f} s, validation: {text(metrics)}", flush=True)
        if metrics[3] > best_metrics[3]:
            best_metrics, num_epochs = metrics, epoch
            best_state = copy.deepcopy(model.torch_model.state_dict())
        if epoch - num_epochs >= PATIENCE:
            break
    model.torch_model.load_state_dict(best_state)
    print(f"best epoch {num_epochs}, test: {text(evaluate(model, customers, 1))}", flush=True)
    seed_everything(arguments.seed)
    model, training = make_model(arguments.loss), dataset_of([items[:-1] for items in customers])
    model.fit_partial(training, min_epochs=num_epochs, max_epochs=num_epochs)
    print(f"refit, test: {text(evaluate(model, customers, 1))}", flush=True)


if __name__ == "__main__":
    main()
