"""The trie holds exactly the STUs of a table, and excluded users are not counted beneath any prefix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from befriend.errors import DataError
from befriend.tokens.trie import Trie

STUS = torch.tensor([[0, 1, 2], [0, 1, 0], [2, 1, 2], [2, 1, 0], [2, 0, 0]])  # middle and last tokens are shared

tables = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30, unique=True)


def walk(trie: Trie) -> list[list[int]]:
    """Every path from the root to a leaf, by `children` alone."""
    paths = [(0, [])]
    for level in range(trie.levels):
        child, exists = trie.children(level, torch.tensor([node for node, _ in paths], dtype=torch.long))
        paths = [
            (int(child[row, k]), [*path, int(trie.tokens[level][child[row, k]])])
            for row, (_, path) in enumerate(paths)
            for k in range(child.shape[1])
            if exists[row, k]
        ]
    return [path for _, path in paths]


def test_the_nodes_of_a_small_table_match_those_built_by_hand() -> None:
    trie = Trie.of(STUS)
    assert [tokens.tolist() for tokens in trie.tokens] == [[0, 2], [1, 0, 1], [0, 2, 0, 0, 2]]
    assert [child_ptr.tolist() for child_ptr in trie.child_ptr] == [[0, 2], [0, 1, 3], [0, 2, 3, 5]]
    assert trie.users.tolist() == [1, 0, 4, 3, 2]
    assert trie.find(torch.tensor([[2, 1], [2, 2], [1, 1]])).tolist() == [2, -1, -1]
    assert [bounds.tolist() for bounds in trie.leaf_range(0, torch.tensor([0, 1]))] == [[0, 2], [2, 5]]


@given(tables)
def test_the_paths_are_the_stus_and_lead_to_their_users(table: list[tuple[int, int, int]]) -> None:
    stus = torch.tensor(table)
    trie = Trie.of(stus)
    assert walk(trie) == sorted(map(list, table))
    assert torch.equal(trie.stus()[trie.leaves.long()], stus)
    assert torch.equal(trie.users[trie.find(stus)].long(), torch.arange(len(stus)))


@given(tables, st.integers(0, 30))
def test_inserting_users_gives_the_trie_of_all_users(table: list[tuple[int, int, int]], cut: int) -> None:
    stus, cut = torch.tensor(table), min(cut, len(table) - 1)
    users = torch.arange(len(stus))
    inserted = Trie.of(stus[: cut + 1]).insert(stus[cut + 1 :], users[cut + 1 :])
    of_all = Trie.of(stus)
    for array, expected in zip(
        (*inserted.tokens, *inserted.child_ptr), (*of_all.tokens, *of_all.child_ptr), strict=True
    ):
        assert torch.equal(array, expected)
    assert torch.equal(inserted.users, of_all.users) and torch.equal(inserted.leaves, of_all.leaves)


@given(tables, st.lists(st.lists(st.integers(-1, 35), max_size=40), min_size=1, max_size=4))
def test_counts_of_allowed_users_equal_those_of_brute_force(
    table: list[tuple[int, int, int]], requests: list[list[int]]
) -> None:
    trie = Trie.of(torch.tensor(table))
    indptr = torch.tensor([0, *map(len, requests)]).cumsum(0)
    exclusions = trie.exclusions(indptr, torch.tensor([user for users in requests for user in users], dtype=torch.long))
    for level in range(trie.levels):
        nodes = torch.arange(len(trie.tokens[level]))
        prefixes = trie.stus()[trie.leaf_range(level, nodes)[0], : level + 1].tolist()
        for row, users in enumerate(requests):
            allowed = trie.count_allowed(level, nodes, torch.full_like(nodes, row), exclusions)
            remaining = [stu for user, stu in enumerate(table) if user not in users]
            assert allowed.tolist() == [
                sum(list(stu[: level + 1]) == prefix for stu in remaining) for prefix in prefixes
            ]


def test_two_users_with_the_same_stu_are_an_error_that_names_them() -> None:
    with pytest.raises(DataError, match="users 1 and 3 have the same STU"):
        Trie.of(torch.tensor([[0, 0], [1, 5], [2, 0], [1, 5]]))


def test_tokens_out_of_range_are_rejected() -> None:
    for token in (-1, 2**15):
        with pytest.raises(DataError, match="tokens lie between 0 and 32767"):
            Trie.of(torch.tensor([[0, token]]))


def test_a_trie_may_be_empty() -> None:
    trie = Trie.of(torch.zeros(0, 3, dtype=torch.long))
    assert walk(trie) == [] and trie.stus().shape == (0, 3)
    assert trie.find(torch.tensor([[1], [0]])).tolist() == [-1, -1]
    users: Tensor = trie.insert(torch.tensor([[4, 5, 6]]), torch.tensor([7])).users
    assert users.tolist() == [7]
