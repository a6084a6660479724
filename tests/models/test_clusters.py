"""Clusters: what belonging to one means, by hand, and what the loss rewards."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from befriend.data.contacts import Contacts
from befriend.models.clusters import Clusters, UserClusters


def clusters(*rows: tuple[float, ...], temperature: float = 1.0) -> Clusters:
    found = Clusters(len(rows), len(rows[0]), temperature)
    with torch.no_grad():
        found.table.weight.copy_(torch.tensor(rows))
    return found.eval()


def test_the_clustered_representation_is_the_softmax_of_dot_products_times_the_table() -> None:
    c = clusters((1.0, 0.0), (0.0, 1.0))
    user = torch.tensor([[math.log(3.0), 0.0]])
    # Dot products log 3 and 0: shares 3/4 and 1/4.
    assert torch.allclose(c.log_shares(user).exp(), torch.tensor([[0.75, 0.25]]))
    assert torch.allclose(c(user), torch.tensor([[0.75, 0.25]]))
    table = F.normalize(torch.randn(5, 8), dim=1)
    users, some = torch.randn(7, 8), clusters(*map(tuple, table.tolist()))
    assert torch.allclose(some(users), (users @ table.T).softmax(1) @ table, atol=1e-6)
    cold = clusters((1.0, 0.0), (0.0, 1.0), temperature=0.5)
    assert torch.allclose(cold.log_shares(user).exp(), torch.tensor([[0.9, 0.1]]))  # 9 : 1


def test_gradients_reach_the_table() -> None:
    c = Clusters(4, 8)
    users = torch.randn(6, 8)
    c(users).square().sum().backward()
    assert c.table.weight.grad is not None and (c.table.weight.grad.norm(dim=1) > 0).all()
    c.zero_grad()
    c.losses(c.log_shares(users), c.log_shares(users.flip(0)))["next_cluster"].mean().backward()
    assert (c.table.weight.grad.norm(dim=1) > 0).all()


def test_next_cluster_is_the_gain_over_knowing_nothing() -> None:
    c = clusters((1.0, 0.0), (0.0, 1.0))  # in eval mode p(c) is as it was: one half each
    asked, target = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.9, 0.1]]).log()
    found = c.losses(asked, target)
    assert float(found["next_cluster"]) == pytest.approx(-math.log((0.8 * 0.9 + 0.2 * 0.1) / 0.5))
    assert float(found["balance"]) == pytest.approx(0.0, abs=1e-6)
    assert float(found["entropy"]) == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))


def test_one_huge_cluster_gains_nothing_and_is_out_of_balance() -> None:
    c = clusters((1.0, 0.0), (0.0, 1.0))
    c.share.copy_(torch.tensor([1.0, 0.0]))
    everybody = torch.tensor([[1.0, 1e-9]]).expand(5, -1).log()
    found = c.losses(everybody, everybody)
    assert torch.allclose(found["next_cluster"], torch.zeros(5), atol=1e-5)
    assert float(found["balance"]) == pytest.approx(math.log(2), abs=1e-4)


def test_as_many_clusters_as_users_end_one_to_one() -> None:
    torch.manual_seed(0)
    n = 8
    users = F.normalize(torch.randn(n, n) + 3 * torch.eye(n), dim=1)
    c = Clusters(n, n, temperature=0.05).train()
    with torch.no_grad():
        c.table.weight.copy_(users + 0.3 * torch.randn(n, n))
    optimizer = torch.optim.Adam(c.parameters(), lr=0.05)
    for _ in range(200):
        shares = c.log_shares(users)
        found = c.losses(shares, shares)  # everybody asks for themselves alone
        optimizer.zero_grad()
        found["next_cluster"].mean().backward()
        optimizer.step()
    shares = c.eval().log_shares(users).exp()
    assert sorted(shares.argmax(1).tolist()) == list(range(n))
    assert float(shares.amax(1).min().detach()) > 0.95


def test_somebody_who_joined_later_belongs_where_their_contacts_do() -> None:
    own = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    model = UserClusters(own, 2).eval()
    with torch.no_grad():
        model.clusters.table.weight.copy_(torch.eye(2))
    others, real = torch.tensor([[0, 1], [2, 2], [0, 2], [0, 0]]), torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]]).bool()
    found = model(Contacts(torch.tensor([3, 99, 2, 99]), others, real))
    half = torch.tensor([0.5, 1.5])  # own (0, 1) and the mean of (1, 0) and (0, 1)
    assert torch.allclose(found[0], torch.tensor([1.0, 0.0]))
    assert torch.allclose(found[1], torch.tensor([0.0, 1.0]))  # a number beyond the table
    assert torch.allclose(found[2], F.normalize(half, dim=0))
    assert torch.allclose(found[3], torch.zeros(2))  # nothing is known: between all clusters
    shares = model.log_shares(Contacts(torch.tensor([99]), others[3:], real[3:])).exp()
    assert torch.allclose(shares, torch.tensor([[0.5, 0.5]]))
