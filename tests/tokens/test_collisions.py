"""STUs are one to one, whatever the vectors are like, and nobody's changes when others join."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from befriend.errors import DataError
from befriend.tokens.collisions import one_by_one, reassigned, with_digit
from befriend.tokens.quantizer import decode, encode, nearest

NOBODY = torch.zeros(0, 3, dtype=torch.long)


def codebooks(sizes: tuple[int, ...], width: int = 2, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(size, width, generator=g) / 2**level for level, size in enumerate(sizes)]


def distinct(stus: Tensor) -> bool:
    return len(stus.unique(dim=0)) == len(stus)


def test_codes_are_the_nearest_to_what_is_left() -> None:
    books = [torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [0.0], [2.0]])]
    codes = encode(torch.tensor([[9.0], [0.4], [12.5]]), books)
    assert codes.tolist() == [[1, 0], [0, 1], [1, 2]]
    assert decode(codes, books).squeeze(1).tolist() == [9, 0, 12]
    assert decode(codes[:, :1], books).squeeze(1).tolist() == [10, 0, 10]


def test_without_collisions_reassignment_changes_nothing() -> None:
    books = codebooks((4, 4, 4))
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)[::7]
    vectors = decode(codes, books)
    plain = encode(vectors, books)
    kept = torch.unique(plain, dim=0, return_inverse=True)[1].bincount()
    assert (kept == 1).any()
    alone = (kept == 1)[torch.unique(plain, dim=0, return_inverse=True)[1]]
    assert torch.equal(reassigned(vectors[alone], books), plain[alone])


def test_the_farthest_of_those_who_collide_moves_to_the_nearest_code_with_room() -> None:
    books = [torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0], [3.0]])]
    assert reassigned(torch.tensor([[0.1], [0.3]]), books).tolist() == [[0, 0], [0, 1]]
    assert reassigned(torch.tensor([[0.3], [0.1], [0.2]]), books).tolist() == [[0, 1], [0, 0], [0, 2]]


def test_of_those_who_join_the_later_one_moves() -> None:
    books = [torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0], [3.0]])]
    nobody = NOBODY[:, :2]
    assert one_by_one(torch.tensor([[0.3], [0.1], [0.2]]), books, nobody).tolist() == [[0, 0], [0, 1], [0, 2]]
    assert one_by_one(torch.tensor([[0.1]]), books, torch.tensor([[0, 0]])).tolist() == [[0, 1]]
    # Of three who want 0 the second takes 1, which the third is nearest to, and the third makes do with 3.
    assert one_by_one(torch.tensor([[0.1], [0.4], [0.9]]), books, nobody).tolist() == [[0, 0], [0, 1], [0, 2]]


ADVERSARIAL = {
    "all equal": torch.zeros(60, 2),
    "two points": torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).repeat(30, 1),
    "duplicates": torch.randn(12, 2, generator=torch.Generator().manual_seed(1)).repeat_interleave(5, 0),
    "one user": torch.ones(1, 2),
    "as many users as STUs": torch.randn(64, 2, generator=torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("vectors", ADVERSARIAL.values(), ids=list(ADVERSARIAL))
def test_whatever_the_vectors_everybody_has_an_stu_of_their_own(vectors: Tensor) -> None:
    books = codebooks((4, 4, 4))
    assert distinct(reassigned(vectors, books))
    assert distinct(one_by_one(vectors, books, NOBODY))
    digits = with_digit(encode(vectors, books), torch.zeros(0, 4, dtype=torch.long), 64)
    assert distinct(digits)
    assert torch.equal(digits[:, :3], encode(vectors, books))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=40), st.integers(0, 40))
def test_users_who_join_get_stus_that_nobody_has(points: list[tuple[int, int]], cut: int) -> None:
    vectors = torch.tensor(points, dtype=torch.float32).view(-1, 2)
    books = codebooks((3, 4, 5))
    first = reassigned(vectors[:cut], books)
    later = one_by_one(vectors[cut:], books, first)
    assert distinct(torch.cat([first, later]))
    for user, vector in enumerate(vectors[cut:]):  # the same as if nobody came behind
        before = torch.cat([first, later[:user]])
        assert torch.equal(one_by_one(vector[None], books, before)[0], later[user])
    first = with_digit(encode(vectors[:cut], books), torch.zeros(0, 4, dtype=torch.long), 64)
    later = with_digit(encode(vectors[cut:], books), first, 64)
    assert distinct(torch.cat([first, later]))


def test_balance_bounds_how_many_share_a_prefix() -> None:
    vectors = torch.randn(200, 2, generator=torch.Generator().manual_seed(4)) ** 3
    books = codebooks((5, 8, 20))
    plain, even = (reassigned(vectors, books, balance) for balance in (None, 1.2))
    assert plain[:, 0].bincount().max() > 48 >= even[:, 0].bincount().max()  # 1.2 * 200 / 5
    assert distinct(even)


def test_more_users_than_stus_are_refused() -> None:
    with pytest.raises(DataError, match="9 users need an STU, and 2 x 2 x 2 codes make 8"):
        reassigned(torch.zeros(9, 2), codebooks((2, 2, 2)))
    with pytest.raises(DataError, match="9 users need an STU"):
        one_by_one(torch.zeros(1, 2), codebooks((2, 2, 2)), torch.cartesian_prod(*[torch.arange(2)] * 3))
    with pytest.raises(DataError, match=r"5 users share the codes .* the extra digit has 4 values"):
        with_digit(torch.zeros(5, 3, dtype=torch.long), torch.zeros(0, 4, dtype=torch.long), 4)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(50, 2, generator=torch.Generator().manual_seed(3)) / 4
    books = codebooks((3, 3, 9))
    whole, later = nearest(vectors, books[0]), one_by_one(vectors, books, NOBODY)
    for module in ("collisions", "quantizer"):
        monkeypatch.setattr(f"befriend.tokens.{module}.BLOCK", 40)
    assert torch.equal(nearest(vectors, books[0]), whole)
    assert torch.equal(one_by_one(vectors, books, NOBODY), later)
    assert distinct(reassigned(vectors, books))
