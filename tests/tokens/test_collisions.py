"""STUs are distinct for all vectors, and do not change when users join."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from befriend.errors import DataError
from befriend.tokens.collisions import append_digit, assign_by_distance, assign_in_order
from befriend.tokens.quantizer import decode, encode, nearest

NO_STUS = torch.zeros(0, 3, dtype=torch.long)


def codebooks(sizes: tuple[int, ...], width: int = 2, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(size, width, generator=g) / 2**level for level, size in enumerate(sizes)]


def distinct(stus: Tensor) -> bool:
    return len(stus.unique(dim=0)) == len(stus)


def test_each_code_is_the_nearest_to_the_residual() -> None:
    books = [torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [0.0], [2.0]])]
    codes = encode(torch.tensor([[9.0], [0.4], [12.5]]), books)
    assert codes.tolist() == [[1, 0], [0, 1], [1, 2]]
    assert decode(codes, books).squeeze(1).tolist() == [9, 0, 12]
    assert decode(codes[:, :1], books).squeeze(1).tolist() == [10, 0, 10]


def test_without_collisions_reassignment_changes_nothing() -> None:
    books = codebooks((4, 4, 4))
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)[::7]
    vectors = decode(codes, books)
    nearest_codes = encode(vectors, books)
    index, users_of_stu = torch.unique(nearest_codes, dim=0, return_inverse=True, return_counts=True)[1:]
    is_alone = (users_of_stu == 1)[index]
    assert is_alone.any()
    assert torch.equal(assign_by_distance(vectors[is_alone], books), nearest_codes[is_alone])


def test_the_farthest_of_colliding_users_moves_to_the_nearest_code_with_capacity() -> None:
    books = [torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0], [3.0]])]
    assert assign_by_distance(torch.tensor([[0.1], [0.3]]), books).tolist() == [[0, 0], [0, 1]]
    assert assign_by_distance(torch.tensor([[0.3], [0.1], [0.2]]), books).tolist() == [[0, 1], [0, 0], [0, 2]]


def test_the_later_of_colliding_users_who_join_gets_another_code() -> None:
    books = [torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0], [3.0]])]
    no_stus = NO_STUS[:, :2]
    assert assign_in_order(torch.tensor([[0.3], [0.1], [0.2]]), books, no_stus).tolist() == [[0, 0], [0, 1], [0, 2]]
    assert assign_in_order(torch.tensor([[0.1]]), books, torch.tensor([[0, 0]])).tolist() == [[0, 1]]
    # The first two users are nearest to code 0.0. The second gets 1.0, the nearest of the third, which gets 3.0.
    assert assign_in_order(torch.tensor([[0.1], [0.4], [0.9]]), books, no_stus).tolist() == [[0, 0], [0, 1], [0, 2]]


ADVERSARIAL = {
    "all equal": torch.zeros(60, 2),
    "two points": torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).repeat(30, 1),
    "duplicates": torch.randn(12, 2, generator=torch.Generator().manual_seed(1)).repeat_interleave(5, 0),
    "one user": torch.ones(1, 2),
    "as many users as STUs": torch.randn(64, 2, generator=torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("vectors", ADVERSARIAL.values(), ids=list(ADVERSARIAL))
def test_stus_are_distinct_for_adversarial_vectors(vectors: Tensor) -> None:
    books = codebooks((4, 4, 4))
    assert distinct(assign_by_distance(vectors, books))
    assert distinct(assign_in_order(vectors, books, NO_STUS))
    digits = append_digit(encode(vectors, books), torch.zeros(0, 4, dtype=torch.long), 64)
    assert distinct(digits)
    assert torch.equal(digits[:, :3], encode(vectors, books))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=40), st.integers(0, 40))
def test_users_who_join_get_new_stus_that_do_not_depend_on_later_users(points: list[tuple[int, int]], cut: int) -> None:
    vectors = torch.tensor(points, dtype=torch.float32).view(-1, 2)
    books = codebooks((3, 4, 5))
    first = assign_by_distance(vectors[:cut], books)
    later = assign_in_order(vectors[cut:], books, first)
    assert distinct(torch.cat([first, later]))
    for user, vector in enumerate(vectors[cut:]):  # as without the users who join later
        before = torch.cat([first, later[:user]])
        assert torch.equal(assign_in_order(vector[None], books, before)[0], later[user])
    first = append_digit(encode(vectors[:cut], books), torch.zeros(0, 4, dtype=torch.long), 64)
    later = append_digit(encode(vectors[cut:], books), first, 64)
    assert distinct(torch.cat([first, later]))


def test_balance_bounds_how_many_share_a_prefix() -> None:
    vectors = torch.randn(200, 2, generator=torch.Generator().manual_seed(4)) ** 3
    books = codebooks((5, 8, 20))
    unbalanced, balanced = (assign_by_distance(vectors, books, balance) for balance in (None, 1.2))
    assert unbalanced[:, 0].bincount().max() > 48 >= balanced[:, 0].bincount().max()  # 1.2 * 200 / 5
    assert distinct(balanced)


def test_more_users_than_stus_are_rejected() -> None:
    with pytest.raises(DataError, match="9 users need an STU, and 2 x 2 x 2 codes make 8"):
        assign_by_distance(torch.zeros(9, 2), codebooks((2, 2, 2)))
    with pytest.raises(DataError, match="9 users need an STU"):
        assign_in_order(torch.zeros(1, 2), codebooks((2, 2, 2)), torch.cartesian_prod(*[torch.arange(2)] * 3))
    with pytest.raises(DataError, match=r"5 users share the codes .* the extra digit has 4 values"):
        append_digit(torch.zeros(5, 3, dtype=torch.long), torch.zeros(0, 4, dtype=torch.long), 4)


def test_the_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(50, 2, generator=torch.Generator().manual_seed(3)) / 4
    books = codebooks((3, 3, 9))
    codes, stus = nearest(vectors, books[0]), assign_in_order(vectors, books, NO_STUS)
    for module in ("collisions", "quantizer"):
        monkeypatch.setattr(f"befriend.tokens.{module}.BLOCK", 40)
    assert torch.equal(nearest(vectors, books[0]), codes)
    assert torch.equal(assign_in_order(vectors, books, NO_STUS), stus)
    assert distinct(assign_by_distance(vectors, books))
