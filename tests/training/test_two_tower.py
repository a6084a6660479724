"""The two-tower trainee: each setting does what it says to the loss, and training learns what is planted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from befriend.data.attributes import Attributes
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.split import split_by_time
from befriend.evaluation.regimes import REGIMES
from befriend.models.batch import Query
from befriend.models.settings import TwoTowerSettings
from befriend.training.loop import fit
from befriend.training.optimizer import adamw
from befriend.training.two_tower import TwoTowerTrainee
from tests.conftest import make_log, random_log

SMALL: dict[str, Any] = {
    "embedding_dim": 16,
    "hidden_dim": 32,
    "layers": 1,
    "history_length": 10,
    "temporal_positions": 5,
    "positions_per_batch": 64,
    "recent_events": 4,
    "own_contacts": 6,
    "validation_events": 50,
    "threads": 1,
    "epochs": 1,
    "device": "cpu",
}


def trainee(log: EventLog, **options: Any) -> TwoTowerTrainee:
    settings = TwoTowerSettings(**SMALL | options)
    n = log.num_users
    nothing = Attributes(np.zeros((n, 0), np.int32), {}, np.zeros((n, 0), np.float32), ())
    observed = Observed.of(log, settings.received_events)
    return TwoTowerTrainee(observed, nothing, split_by_time(log.timestamp, 0.8, 0.9), settings)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=25, events=500, seed=2)


def loss_of(t: TwoTowerTrainee) -> float:
    t.model.eval()
    with torch.no_grad():
        return t.loss(t.batches(0)[len(t.batches(0)) - 1]).loss.item()  # the latest: most users are known


def test_the_loss_can_be_computed_in_bfloat16(log: EventLog) -> None:
    t = trainee(log)
    t.model.eval()
    batch = t.batches(0)[2]
    with torch.no_grad():
        exact = t.loss(batch).loss.item()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = t.loss(batch).loss.item()
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact


def test_what_the_moment_is_worth_is_learned_faster_than_the_rest(log: EventLog) -> None:
    t = trainee(log, moment_rate=4, learning_rate=0.001, weight_decay=0)
    optimizer = adamw(t.model, t.settings, t.scale)
    for group in optimizer.param_groups:
        group["lr"] *= group["scale"]
    before = {name: value.detach().clone() for name, value in t.model.named_parameters()}
    t.model.train()
    t.loss(t.batches(0)[2]).loss.backward()
    optimizer.step()
    step = {name: (value - before[name]).abs().max().item() for name, value in t.model.named_parameters()}
    assert step["to_moment.weight"] == pytest.approx(0.004, rel=1e-3)  # the first step of Adam is the rate
    assert step["to_static.weight"] == pytest.approx(0.001, rel=1e-3)


def test_clusters_inside_the_model_learn_from_the_next_one_asked_for(log: EventLog) -> None:
    t = trainee(log, clusters=5, cluster_weight=0.5)
    batch = t.batches(0)[len(t.batches(0)) - 1]
    torch.manual_seed(0)
    losses = t.loss(batch)
    clusters = t.model.users.clusters
    assert clusters is not None and clusters.table.weight.shape == (5, 16)
    losses.loss.backward()
    assert clusters.table.weight.grad is not None and (clusters.table.weight.grad.norm(dim=1) > 0).all()
    t.tower = t.tower.model_copy(update={"cluster_weight": 0.0})
    clusters.share.fill_(1 / 5)
    torch.manual_seed(0)
    without = t.loss(batch)
    assert losses.loss.item() == pytest.approx(
        without.loss.item() + 0.5 * losses.figures["next_cluster"].item(), rel=1e-4
    )
    rows, users = t.model.users.rows(), torch.arange(log.num_users)
    alone = t.model.users.alone(users, rows)
    assert torch.allclose(t.model.users(users, rows), alone + clusters(alone))


def test_every_setting_of_the_questions_changes_the_loss(log: EventLog) -> None:
    plain = loss_of(trainee(log))
    assert math.isfinite(plain)
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
        {"partners": 2},
    ):
        assert loss_of(trainee(log, **option)) != pytest.approx(plain, abs=1e-6), option


def test_the_sampled_loss_estimates_the_full_one(log: EventLog) -> None:
    """With enough random users both are the same sum."""
    full = loss_of(trainee(log, softmax="full"))
    assert loss_of(trainee(log, num_rand_negs=40)) == pytest.approx(full, rel=0.02)
    assert loss_of(trainee(log, negatives="random", num_rand_negs=40)) == pytest.approx(full, rel=0.02)


def test_what_users_are_is_learned_from_the_positions_that_learn(log: EventLog) -> None:
    t = trainee(log)
    batch = t.batches(0)[0]
    gradients = {}
    for learns in (None, torch.ones_like(batch.is_new), torch.zeros_like(batch.is_new)):
        t.model.zero_grad()
        torch.manual_seed(0)
        t.loss(replace(batch, positions=replace(batch.positions, learns=learns))).loss.backward()
        table, encoder = t.model.users.own.weight.grad, next(iter(t.model.encoder.parameters())).grad
        assert t.model.refresh.weight.grad is not None and t.model.refresh.weight.grad.abs().sum() > 0
        gradients[None if learns is None else bool(learns[0])] = table, encoder
    all_of_them, learning, still = gradients[None], gradients[True], gradients[False]
    assert all(torch.equal(a, b) for a, b in zip(all_of_them, learning, strict=True))
    assert all(a.abs().sum() > 0 for a in learning)
    assert all(a is None or not a.any() for a in still)


def test_hard_negatives_are_those_with_the_largest_products(log: EventLog) -> None:
    t = trainee(log, hard_negatives=4)
    t.model.eval()
    asked, rows = torch.randn(3, 16), t.model.users.rows()
    query = Query(static=asked, social=None, moment=None, hidden=asked)
    scores = asked @ t.model.users(t.examples.universe, rows).T
    best = t.examples.universe[scores.topk(4).indices]
    assert torch.equal(t._nearest(query, rows), best)


def test_validation_is_a_figure_a_list_and_regime_and_their_geometric_mean(log: EventLog) -> None:
    t = trainee(log)
    t.model.eval()
    with torch.no_grad():
        figures = t.validate()
    parts = [v for name, v in figures.items() if name != "ndcg@10"]
    assert len(parts) == 2 * len(REGIMES)
    assert figures["ndcg@10"] == pytest.approx(math.exp(np.mean([math.log(max(v, 1e-4)) for v in parts])))


def test_training_learns_who_follows_whom(tmp_path: Path) -> None:
    """Everyone always acts on the same two people in turn: what comes next is certain from the history alone."""
    users = 20
    events = []
    for k in range(800):
        actor, turn = k % users, k // users
        events.append((actor, "hi", (actor + (7 if turn % 2 else 11)) % users, 1_600_000_000 + 900 * k))
    t = trainee(make_log(events), epochs=3, learning_rate=0.01, id_dropout=0.0, dropout=0.0, regimes=["streaming"])
    fitted = fit(t, t.settings, tmp_path / "checkpoints", tmp_path / "curves")
    assert fitted.history[fitted.best_epoch - 1]["validation/any_streaming"] > 0.95
