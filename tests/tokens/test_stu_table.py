"""The table of STUs: distinct rows, saving and loading, and later versions that begin with the same rows."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from befriend.errors import DataError
from befriend.tokens.stu_table import StuTable

STUS = torch.tensor([[0, 1], [0, 2], [3, 1], [0, 0]])


def test_a_saved_table_is_the_same(tmp_path: Path) -> None:
    table = StuTable(STUS, (4, 3))
    table.write(tmp_path / "table.parquet", pl.Series(["a", "b", "c", "d", "e"]))
    read = StuTable.read(tmp_path / "table.parquet", (4, 3))
    assert torch.equal(read.stus, STUS) and read.digest() == table.digest()
    assert pl.read_parquet(tmp_path / "table.parquet").rows()[2] == ("c", 3, 1)


def test_a_longer_table_begins_with_the_shorter() -> None:
    table = StuTable(STUS, (4, 3))
    longer = table.append(torch.tensor([[1, 1]]))
    assert longer.digest(4) == table.digest() != longer.digest()
    assert StuTable(STUS, (5, 3)).digest() != table.digest()


def test_users_with_same_prefix_are_the_other_users_with_the_same_first_tokens() -> None:
    table = StuTable(STUS, (4, 3))
    assert table.users_with_same_prefix(0, 1).tolist() == [1, 3]
    assert table.users_with_same_prefix(0, 2).tolist() == []
    assert table.users_with_same_prefix(2, 1).tolist() == []


def test_invalid_tables_are_rejected() -> None:
    with pytest.raises(DataError, match=r"users 1 and 2 have the same STU, \[0, 2\]"):
        StuTable(torch.tensor([[0, 1], [0, 2], [0, 2]]), (4, 3))
    with pytest.raises(DataError, match="outside of its vocabulary, 3 x 3"):
        StuTable(STUS, (3, 3))
    with pytest.raises(DataError, match="2 tokens, the vocabulary 3 levels"):
        StuTable(STUS, (4, 3, 2))
