"""The table of STUs: one to one, the same after saving, only ever longer."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from befriend.errors import DataError
from befriend.tokens.table import Table

STUS = torch.tensor([[0, 1], [0, 2], [3, 1], [0, 0]])


def test_a_saved_table_is_the_same(tmp_path: Path) -> None:
    table = Table(STUS, (4, 3))
    table.write(tmp_path / "table.parquet", pl.Series(["a", "b", "c", "d", "e"]))
    again = Table.read(tmp_path / "table.parquet", (4, 3))
    assert torch.equal(again.stus, STUS) and again.digest() == table.digest()
    assert pl.read_parquet(tmp_path / "table.parquet").rows()[2] == ("c", 3, 1)


def test_a_longer_table_begins_with_the_shorter() -> None:
    table = Table(STUS, (4, 3))
    longer = table.extended(torch.tensor([[1, 1]]))
    assert longer.digest(4) == table.digest() != longer.digest()
    assert Table(STUS, (5, 3)).digest() != table.digest()


def test_who_begins_alike() -> None:
    table = Table(STUS, (4, 3))
    assert table.like(0, 1).tolist() == [1, 3]
    assert table.like(0, 2).tolist() == []
    assert table.like(2, 1).tolist() == []


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(DataError, match=r"users 1 and 2 have the same STU, \[0, 2\]"):
        Table(torch.tensor([[0, 1], [0, 2], [0, 2]]), (4, 3))
    with pytest.raises(DataError, match="outside of its vocabulary, 3 x 3"):
        Table(STUS, (3, 3))
    with pytest.raises(DataError, match="2 tokens, the vocabulary 3 levels"):
        Table(STUS, (4, 3, 2))
