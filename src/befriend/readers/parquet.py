"""Reads Parquet files in batches of rows, and converts columns to types that the row rules can check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import CATEGORICAL, NUMERIC, REASON, ROW, TAGS, TEXT, TIMESTAMP
from befriend.errors import DataError
from befriend.readers.chunk import Chunk, ColumnMapping, raise_damaged, relative_name, require_columns

BATCH_ROWS = 1_000_000


def is_parquet(file: Path) -> bool:
    """Whether the file is Parquet, by its first bytes, not by its name."""
    with file.open("rb") as handle:
        return handle.read(4) == b"PAR1"


def read_parquet_rows(mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Yields the rows of a Parquet file in order; DataError if a column is missing, of a wrong type or damaged."""
    import pyarrow as pa

    dataset = _open_dataset(file, source, set(map(str, mapping.columns.values())))
    require_columns(mapping, dataset.schema.names, file)
    for field, column in mapping.columns.items():
        _check_type(field, dataset.schema.field(column), file, mapping.section)
    num_rows_read = 0
    try:
        for batch in dataset.to_batches(batch_size=BATCH_ROWS, fragment_readahead=1, batch_readahead=1):
            columns = {field: _to_polars(batch.column(column)) for field, column in mapping.columns.items()}
            row_numbers = pl.int_range(
                num_rows_read + 1, num_rows_read + batch.num_rows + 1, dtype=pl.Int64, eager=True
            )
            rows = pl.DataFrame({ROW: row_numbers, **columns}).with_columns(pl.lit(None, pl.String).alias(REASON))
            yield Chunk(relative_name(file, source), rows, batch)
            num_rows_read += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise_damaged(error, f"{file.name} is damaged after row {num_rows_read}")


def first_rows(file: Path, source: Path, rows: int) -> pl.DataFrame:
    """All columns of the first rows of a file, for `befriend use`; columns of unusual types, such as lists, as text."""
    import pyarrow as pa

    dataset = _open_dataset(file, source, {""})
    try:
        head = dataset.head(rows)
    except (pa.ArrowException, OSError) as error:
        raise_damaged(error, f"{file.name} is damaged")
    return pl.DataFrame({column.name: _preview(head.column(column.name), column) for column in dataset.schema})


def _preview(column: Any, field: Any) -> pl.Series:
    """A pyarrow column as a polars Series; as text if its type could be no field. field: its pyarrow field."""
    column = column.combine_chunks()
    if _is_allowed_type(field.type, TIMESTAMP):
        return _to_polars(column)
    return pl.Series([str(value) for value in column.to_pylist()], dtype=pl.String)


def _open_dataset(file: Path, source: Path, names: set[str]) -> Any:
    """The file as a pyarrow dataset. names: the columns to read.

    If the file lacks some of them and lies in a partitioned folder (action=like/part-0.parquet), the values in the
    folder names are added as columns.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        dataset = ds.dataset(file, format="parquet")
        if source.is_dir() and not names <= set(dataset.schema.names):
            keys = {folder.split("=")[0] for folder in file.relative_to(source).parts[:-1] if "=" in folder}
            if not keys & set(dataset.schema.names):
                dataset = ds.dataset(file, format="parquet", partitioning="hive", partition_base_dir=str(source))
        return dataset
    except (pa.ArrowException, OSError) as error:
        raise_damaged(error, f"{file.name} is not a readable Parquet file")


def _check_type(field: str, column: Any, file: Path, section: str) -> None:
    """Raises a DataError if the type of a column is not allowed for the field. column: its pyarrow field."""
    dtype = column.type
    if not _is_allowed_type(dtype, field):
        more_types = {
            TIMESTAMP: ", datetimes",
            CATEGORICAL: ", booleans",
            NUMERIC: ", booleans, decimals",
            TAGS: ", lists",
        }
        allowed = "integers, text" + more_types.get(field.split(".")[0], "")
        raise DataError(
            f"the column {column.name} of {file.name} holds {dtype}, which cannot be a {field}: {allowed} can. "
            f"Name another column under {section} in params.yaml, or convert this one."
        )


def _is_allowed_type(dtype: Any, field: str) -> bool:
    """Whether a pyarrow type can be converted to a field such as `timestamp` or `categorical.country`."""
    from pyarrow import types

    dtype = dtype.value_type if types.is_dictionary(dtype) else dtype
    is_text = (
        types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype) or types.is_null(dtype)
    )
    is_number = types.is_integer(dtype) or types.is_floating(dtype)
    is_allowed_for_field = {
        TIMESTAMP: types.is_timestamp(dtype) or types.is_date(dtype),
        CATEGORICAL: types.is_boolean(dtype),
        NUMERIC: types.is_boolean(dtype) or types.is_decimal(dtype),
        TAGS: (types.is_list(dtype) or types.is_large_list(dtype)) and _is_allowed_type(dtype.value_type, TEXT),
    }
    return is_text or is_number or is_allowed_for_field.get(field.split(".")[0], False)


def _to_polars(column: Any) -> pl.Series:
    """A pyarrow column as a polars Series, with dictionaries decoded and times in UTC without a zone."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_timestamp(column.type):  # the stored value is UTC; the zone only matters for display
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    series: Any = pl.from_arrow(column)
    return series
