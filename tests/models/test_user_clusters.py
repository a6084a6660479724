"""Soft clusters: memberships and losses against values computed by hand, and the optimum of the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from befriend.features.neighbor_bags import NeighborBags
from befriend.models.user_clusters import SoftClusters, UserClusters


def clusters(*rows: tuple[float, ...], temperature: float = 1.0) -> SoftClusters:
    model = SoftClusters(len(rows), len(rows[0]), temperature)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor(rows))
    return model.eval()


def test_the_clustered_representation_is_the_softmax_of_dot_products_times_the_table() -> None:
    c = clusters((1.0, 0.0), (0.0, 1.0))
    user = torch.tensor([[math.log(3.0), 0.0]])
    # Dot products log 3 and 0: memberships 3/4 and 1/4.
    assert torch.allclose(c.log_memberships(user).exp(), torch.tensor([[0.75, 0.25]]))
    assert torch.allclose(c(user), torch.tensor([[0.75, 0.25]]))
    table = F.normalize(torch.randn(5, 8), dim=1)
    users, random_clusters = torch.randn(7, 8), clusters(*map(tuple, table.tolist()))
    assert torch.allclose(random_clusters(users), (users @ table.T).softmax(1) @ table, atol=1e-6)
    sharp = clusters((1.0, 0.0), (0.0, 1.0), temperature=0.5)
    assert torch.allclose(sharp.log_memberships(user).exp(), torch.tensor([[0.9, 0.1]]))  # 9 : 1


def test_both_outputs_give_every_cluster_a_gradient() -> None:
    c = SoftClusters(4, 8)
    users = torch.randn(6, 8)
    c(users).square().sum().backward()
    assert c.table.weight.grad is not None and (c.table.weight.grad.norm(dim=1) > 0).all()
    c.zero_grad()
    c.losses(c.log_memberships(users), c.log_memberships(users.flip(0)))["next_cluster"].mean().backward()
    assert (c.table.weight.grad.norm(dim=1) > 0).all()


def test_the_next_cluster_loss_is_the_gain_over_the_prior() -> None:
    c = clusters((1.0, 0.0), (0.0, 1.0))  # eval mode keeps the prior p(c): one half each
    query, target = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.9, 0.1]]).log()
    losses = c.losses(query, target)
    assert float(losses["next_cluster"]) == pytest.approx(-math.log((0.8 * 0.9 + 0.2 * 0.1) / 0.5))
    assert float(losses["balance"]) == pytest.approx(0.0, abs=1e-6)
    assert float(losses["entropy"]) == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))


def test_one_huge_cluster_gains_nothing_and_is_out_of_balance() -> None:
    c = clusters((1.0, 0.0), (0.0, 1.0))
    c.prior.copy_(torch.tensor([1.0, 0.0]))
    all_in_first = torch.tensor([[1.0, 1e-9]]).expand(5, -1).log()
    losses = c.losses(all_in_first, all_in_first)
    assert torch.allclose(losses["next_cluster"], torch.zeros(5), atol=1e-5)
    assert float(losses["balance"]) == pytest.approx(math.log(2), abs=1e-4)


def test_as_many_clusters_as_users_end_one_to_one() -> None:
    torch.manual_seed(0)
    n = 8
    users = F.normalize(torch.randn(n, n) + 3 * torch.eye(n), dim=1)
    c = SoftClusters(n, n, temperature=0.05).train()
    with torch.no_grad():
        c.table.weight.copy_(users + 0.3 * torch.randn(n, n))
    optimizer = torch.optim.Adam(c.parameters(), lr=0.05)
    for _ in range(200):
        log_memberships = c.log_memberships(users)
        losses = c.losses(log_memberships, log_memberships)  # each user is its own target
        optimizer.zero_grad()
        losses["next_cluster"].mean().backward()
        optimizer.step()
    memberships = c.eval().log_memberships(users).exp()
    assert sorted(memberships.argmax(1).tolist()) == list(range(n))
    assert float(memberships.amax(1).min().detach()) > 0.95


def test_a_later_user_belongs_to_the_clusters_of_its_neighbors() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    model = UserClusters(embeddings, 2).eval()
    with torch.no_grad():
        model.clusters.table.weight.copy_(torch.eye(2))
    other_users = torch.tensor([[0, 1], [2, 2], [0, 2], [0, 0]])
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]]).bool()
    vectors = model(NeighborBags(torch.tensor([3, 99, 2, 99]), other_users, mask))
    mixed = torch.tensor([0.5, 1.5])  # embedding (0, 1) plus the mean of (1, 0) and (0, 1)
    assert torch.allclose(vectors[0], torch.tensor([1.0, 0.0]))
    assert torch.allclose(vectors[1], torch.tensor([0.0, 1.0]))  # an internal id beyond the table
    assert torch.allclose(vectors[2], F.normalize(mixed, dim=0))
    assert torch.allclose(vectors[3], torch.zeros(2))  # no embedding and no neighbors: equally close to all clusters
    memberships = model.log_memberships(NeighborBags(torch.tensor([99]), other_users[3:], mask[3:])).exp()
    assert torch.allclose(memberships, torch.tensor([[0.5, 0.5]]))
