"""Reads Parquet files: columns of any sensible type, converted to types that the row rules can check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import CATEGORICAL, NUMERIC, REASON, ROW, TAGS, TEXT, TIMESTAMP
from befriend.errors import DataError
from befriend.readers.chunk import Chunk, ColumnMapping, name_in, raise_damaged, require_columns

ROWS_AT_ONCE = 1_000_000


def is_parquet(file: Path) -> bool:
    """Whether the file is Parquet, by its first bytes, not by its name."""
    with file.open("rb") as handle:
        return handle.read(4) == b"PAR1"


def read_parquet_rows(mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Yields the rows of a Parquet file in order."""
    import pyarrow as pa

    table = _open(file, source, set(map(str, mapping.columns.values())))
    require_columns(mapping, table.schema.names, file)
    for field, column in mapping.columns.items():
        _check_type(field, table.schema.field(column), file, mapping.section)
    rows_read = 0
    try:
        for batch in table.to_batches(batch_size=ROWS_AT_ONCE, fragment_readahead=1, batch_readahead=1):
            columns = {field: _plain(batch.column(column)) for field, column in mapping.columns.items()}
            row_numbers = pl.int_range(rows_read + 1, rows_read + batch.num_rows + 1, dtype=pl.Int64, eager=True)
            rows = pl.DataFrame({ROW: row_numbers, **columns}).with_columns(pl.lit(None, pl.String).alias(REASON))
            yield Chunk(name_in(file, source), rows, batch)
            rows_read += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise_damaged(error, f"{file.name} is damaged after row {rows_read}")


def first_rows(file: Path, source: Path, rows: int) -> pl.DataFrame:
    """The first rows of a file, from which to guess what its columns are; nested columns as text."""
    import pyarrow as pa

    table = _open(file, source, {""})
    try:
        head = table.head(rows)
    except (pa.ArrowException, OSError) as error:
        raise_damaged(error, f"{file.name} is damaged")
    return pl.DataFrame({column.name: _preview(head.column(column.name), column) for column in table.schema})


def _preview(column: Any, field: Any) -> pl.Series:
    column = column.combine_chunks()
    if _allowed(field.type, TIMESTAMP):
        return _plain(column)
    return pl.Series([str(value) for value in column.to_pylist()], dtype=pl.String)


def _open(file: Path, source: Path, names: set[str]) -> Any:
    """The file as a pyarrow dataset. names: the columns to read.

    If the file lacks some of them and lies in a partitioned folder (action=like/part-0.parquet), the folders' names are
    added as columns.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        table = ds.dataset(file, format="parquet")
        if source.is_dir() and not names <= set(table.schema.names):
            keys = {folder.split("=")[0] for folder in file.relative_to(source).parts[:-1] if "=" in folder}
            if not keys & set(table.schema.names):
                table = ds.dataset(file, format="parquet", partitioning="hive", partition_base_dir=str(source))
        return table
    except (pa.ArrowException, OSError) as error:
        raise_damaged(error, f"{file.name} is not a readable Parquet file")


def _check_type(field: str, column: Any, file: Path, section: str) -> None:
    """DataError if a column's type is not allowed for the field."""
    dtype = column.type
    if not _allowed(dtype, field):
        also = {TIMESTAMP: ", datetimes", CATEGORICAL: ", booleans", NUMERIC: ", booleans, decimals", TAGS: ", lists"}
        allowed = "integers, text" + also.get(field.split(".")[0], "")
        raise DataError(
            f"the column {column.name} of {file.name} holds {dtype}, which cannot be a {field}: {allowed} can. "
            f"Name another column under {section} in params.yaml, or convert this one."
        )


def _allowed(dtype: Any, field: str) -> bool:
    from pyarrow import types

    dtype = dtype.value_type if types.is_dictionary(dtype) else dtype
    text = types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype) or types.is_null(dtype)
    number = types.is_integer(dtype) or types.is_floating(dtype)
    time = types.is_timestamp(dtype) or types.is_date(dtype)
    by_field = {
        TIMESTAMP: time,
        CATEGORICAL: types.is_boolean(dtype),
        NUMERIC: types.is_boolean(dtype) or types.is_decimal(dtype),
        TAGS: (types.is_list(dtype) or types.is_large_list(dtype)) and _allowed(dtype.value_type, TEXT),
    }
    return text or number or by_field.get(field.split(".")[0], False)


def _plain(column: Any) -> pl.Series:
    """A pyarrow column as a polars Series: dictionaries decoded, times in UTC without a zone."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_timestamp(column.type):  # the stored value is UTC; the zone only matters for display
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    series: Any = pl.from_arrow(column)
    return series
