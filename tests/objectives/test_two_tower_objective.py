"""The two-tower objective: each setting changes the loss as it says, and training learns a planted pattern."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from befriend.data.attributes import Attributes
from befriend.data.event_log import EventLog
from befriend.data.regimes import REGIMES
from befriend.data.split import split_by_time
from befriend.evaluation.model_validation import two_tower_validation
from befriend.features.feature_view import FeatureView
from befriend.models.model_inputs import Query
from befriend.objectives.objective_settings import TwoTowerSettings
from befriend.objectives.two_tower_objective import TwoTowerObjective
from befriend.training.loop import fit
from befriend.training.optimizer import adamw
from tests.conftest import make_log, random_log

SMALL: dict[str, Any] = {
    "embedding_dim": 16,
    "hidden_dim": 32,
    "layers": 1,
    "history_length": 10,
    "temporal_positions": 5,
    "positions_per_batch": 32,
    "recent_events": 4,
    "history_candidates": 6,
    "validation_events": 50,
    "threads": 1,
    "epochs": 1,
    "device": "cpu",
}


def make_objective(log: EventLog, **options: Any) -> TwoTowerObjective:
    settings = TwoTowerSettings(**SMALL | options)
    n = log.num_users
    no_attributes = Attributes(np.zeros((n, 0), np.int32), {}, np.zeros((n, 0), np.float32), ())
    feature_view = FeatureView.of(log, settings.received_events)
    split = split_by_time(log.timestamp, 0.8, 0.9)
    return TwoTowerObjective(
        feature_view, no_attributes, split, settings, two_tower_validation(feature_view, split, settings)
    )


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=25, events=500, seed=2)


def last_batch_loss(objective: TwoTowerObjective) -> float:
    objective.model.eval()
    with torch.no_grad():
        return objective.loss(
            objective.batches(0)[len(objective.batches(0)) - 1]
        ).loss.item()  # the latest batch, in which most users are eligible


def test_the_loss_can_be_computed_in_bfloat16(log: EventLog) -> None:
    objective = make_objective(log)
    objective.model.eval()
    batch = objective.batches(0)[2]
    with torch.no_grad():
        exact = objective.loss(batch).loss.item()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = objective.loss(batch).loss.item()
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact


def test_the_dynamic_term_learns_at_its_own_rate(log: EventLog) -> None:
    objective = make_objective(log, dynamic_lr_mult=4, learning_rate=0.001, weight_decay=0)
    optimizer = adamw(objective.model, objective.settings, objective.lr_multiplier)
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_multiplier"]
    before = {name: value.detach().clone() for name, value in objective.model.named_parameters()}
    objective.model.train()
    objective.loss(objective.batches(0)[2]).loss.backward()
    optimizer.step()
    step = {name: (value - before[name]).abs().max().item() for name, value in objective.model.named_parameters()}
    assert step["to_dynamic.weight"] == pytest.approx(
        0.004, rel=1e-3
    )  # the first step of Adam is as long as the learning rate
    assert step["to_static.weight"] == pytest.approx(0.001, rel=1e-3)


def test_clusters_inside_the_model_learn_to_predict_the_targets_cluster(log: EventLog) -> None:
    objective = make_objective(log, clusters=5, cluster_weight=0.5)
    batch = objective.batches(0)[len(objective.batches(0)) - 1]
    torch.manual_seed(0)
    losses = objective.loss(batch)
    clusters = objective.model.users.clusters
    assert clusters is not None and clusters.table.weight.shape == (5, 16)
    losses.loss.backward()
    assert clusters.table.weight.grad is not None and (clusters.table.weight.grad.norm(dim=1) > 0).all()
    objective.two_tower_settings = objective.two_tower_settings.model_copy(update={"cluster_weight": 0.0})
    clusters.prior.fill_(1 / 5)
    torch.manual_seed(0)
    without = objective.loss(batch)
    assert losses.loss.item() == pytest.approx(
        without.loss.item() + 0.5 * losses.metrics["next_cluster"].item(), rel=1e-4
    )
    lookup, users = objective.model.users.lookup(), torch.arange(log.num_users)
    without_clusters = objective.model.users.without_clusters(users, lookup)
    assert torch.allclose(objective.model.users(users, lookup), without_clusters + clusters(without_clusters))


def test_every_setting_of_training_queries_changes_the_loss(log: EventLog) -> None:
    default = last_batch_loss(make_objective(log))
    assert math.isfinite(default)
    for option in (
        {"negatives": "in_batch"},
        {"negatives": "random"},
        {"num_rand_negs": 3},
        {"log_q": False},
        {"softmax": "full"},
        {"hard_negatives": 3},
        {"recent_events": 0},
        {"new_weight": 0.0},
        {"temporal_weight": 0.1},
        {"order": "shuffled"},
        {"regimes": ["streaming"]},
        {"received_events": False},
        {"freshness": False},
        {"recent_neighbors": 2},
    ):
        assert last_batch_loss(make_objective(log, **option)) != pytest.approx(default, abs=1e-6), option


def test_the_sampled_loss_estimates_the_full_one(log: EventLog) -> None:
    """With enough random negatives both sum over all users."""
    full = last_batch_loss(make_objective(log, softmax="full"))
    assert last_batch_loss(make_objective(log, num_rand_negs=40)) == pytest.approx(full, rel=0.02)
    assert last_batch_loss(make_objective(log, negatives="random", num_rand_negs=40)) == pytest.approx(full, rel=0.02)


def test_only_positions_of_grad_mask_train_user_embeddings_and_encoder(log: EventLog) -> None:
    objective = make_objective(log)
    batch = objective.batches(0)[0]
    gradients = {}
    for grad_mask in (None, torch.ones_like(batch.is_first_contact), torch.zeros_like(batch.is_first_contact)):
        objective.model.zero_grad()
        torch.manual_seed(0)
        objective.loss(replace(batch, positions=replace(batch.positions, grad_mask=grad_mask))).loss.backward()
        table, encoder = (
            objective.model.users.id_embedding.weight.grad,
            next(iter(objective.model.encoder.parameters())).grad,
        )
        assert objective.model.regime.weight.grad is not None and objective.model.regime.weight.grad.abs().sum() > 0
        gradients[None if grad_mask is None else bool(grad_mask[0])] = table, encoder
    without_mask, all_true, all_false = gradients[None], gradients[True], gradients[False]
    assert all(
        torch.equal(gradient, masked_gradient) for gradient, masked_gradient in zip(without_mask, all_true, strict=True)
    )
    assert all(gradient.abs().sum() > 0 for gradient in all_true)
    assert all(gradient is None or not gradient.any() for gradient in all_false)


def test_hard_negatives_have_the_largest_inner_products(log: EventLog) -> None:
    objective = make_objective(log, hard_negatives=4)
    objective.model.eval()
    vectors, lookup = torch.randn(3, 16), objective.model.users.lookup()
    query = Query(static=vectors, neighbor=None, dynamic=None, hidden=vectors)
    scores = vectors @ objective.model.users(objective.query_builder.negative_pool, lookup).T
    best = objective.query_builder.negative_pool[scores.topk(4).indices]
    assert torch.equal(objective._hard_negatives(query, lookup), best)


def test_validation_gives_a_metric_per_list_and_regime_and_their_geometric_mean(log: EventLog) -> None:
    objective = make_objective(log)
    objective.model.eval()
    with torch.no_grad():
        metrics = objective.validate()
    values = [value for name, value in metrics.items() if name != "ndcg@10"]
    assert len(values) == 2 * len(REGIMES)
    assert metrics["ndcg@10"] == pytest.approx(math.exp(np.mean([math.log(max(value, 1e-4)) for value in values])))


def test_training_learns_a_pattern_that_the_history_determines(tmp_path: Path) -> None:
    """Each user acts on the same two users in turn, so the history determines the next target."""
    users = 20
    events = []
    for k in range(800):
        actor, turn = k % users, k // users
        events.append((actor, "hi", (actor + (7 if turn % 2 else 11)) % users, 1_600_000_000 + 900 * k))
    objective = make_objective(
        make_log(events), epochs=3, learning_rate=0.01, id_dropout=0.0, dropout=0.0, regimes=["streaming"]
    )
    fitted = fit(objective, objective.settings, tmp_path / "checkpoints", tmp_path / "curves")
    assert fitted.history[fitted.best_epoch - 1]["validation/any_streaming"] > 0.95
