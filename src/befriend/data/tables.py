"""Reads Parquet files: columns of whatever sensible type, as ones that the contract can judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.chunk import Chunk, Wanted, damaged, name_in, require
from befriend.data.columns import CATEGORICAL, NUMERIC, REASON, ROW, TAGS, TEXT, TIMESTAMP
from befriend.errors import DataError

ROWS_AT_ONCE = 1_000_000


def is_parquet(file: Path) -> bool:
    """Told by the file's first bytes, not by its name."""
    with file.open("rb") as handle:
        return handle.read(4) == b"PAR1"


def read_table(wanted: Wanted, file: Path, source: Path) -> Iterator[Chunk]:
    """The rows of a Parquet file in order."""
    import pyarrow as pa

    table = _open(file, source, set(map(str, wanted.places.values())))
    require(wanted, table.schema.names, file)
    for field, place in wanted.places.items():
        _check_type(field, table.schema.field(place), file, wanted.section)
    row = 0
    try:
        for batch in table.to_batches(batch_size=ROWS_AT_ONCE, fragment_readahead=1, batch_readahead=1):
            columns = {field: _plain(batch.column(place)) for field, place in wanted.places.items()}
            numbers = pl.int_range(row + 1, row + batch.num_rows + 1, dtype=pl.Int64, eager=True)
            rows = pl.DataFrame({ROW: numbers, **columns}).with_columns(pl.lit(None, pl.String).alias(REASON))
            yield Chunk(name_in(file, source), rows, batch)
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        damaged(error, f"{file.name} is damaged after row {row}")


def head(file: Path, source: Path, rows: int) -> pl.DataFrame:
    """The first rows, as a person would look at them to tell the columns; nested ones as text."""
    import pyarrow as pa

    table = _open(file, source, {""})
    try:
        first = table.head(rows)
    except (pa.ArrowException, OSError) as error:
        damaged(error, f"{file.name} is damaged")
    return pl.DataFrame({column.name: _look(first.column(column.name), column) for column in table.schema})


def _look(column: Any, field: Any) -> pl.Series:
    column = column.combine_chunks()
    if _allowed(field.type, TIMESTAMP):
        return _plain(column)
    return pl.Series([str(value) for value in column.to_pylist()], dtype=pl.String)


def _open(file: Path, source: Path, wanted: set[str]) -> Any:
    """The file as a dataset; in a partitioned folder (action=like/part-0.parquet) with the folders' names as columns,
    where the file itself does not have all that is wanted."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        table = ds.dataset(file, format="parquet")
        if source.is_dir() and not wanted <= set(table.schema.names):
            keys = {part.split("=")[0] for part in file.relative_to(source).parts[:-1] if "=" in part}
            if not keys & set(table.schema.names):
                table = ds.dataset(file, format="parquet", partitioning="hive", partition_base_dir=str(source))
        return table
    except (pa.ArrowException, OSError) as error:
        damaged(error, f"{file.name} is not a readable Parquet file")


def _check_type(field: str, column: Any, file: Path, section: str) -> None:
    """DataError where a column's type cannot be what the field is."""
    kind = column.type
    if not _allowed(kind, field):
        more = {TIMESTAMP: ", datetimes", CATEGORICAL: ", booleans", NUMERIC: ", booleans, decimals", TAGS: ", lists"}
        allowed = "integers, text" + more.get(field.split(".")[0], "")
        raise DataError(
            f"the column {column.name} of {file.name} holds {kind}, which cannot be a {field}: {allowed} can. "
            f"Name another column under {section} in params.yaml, or convert this one."
        )


def _allowed(kind: Any, field: str) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)
    number = types.is_integer(kind) or types.is_floating(kind)
    time = types.is_timestamp(kind) or types.is_date(kind)
    kinds = {
        TIMESTAMP: time,
        CATEGORICAL: types.is_boolean(kind),
        NUMERIC: types.is_boolean(kind) or types.is_decimal(kind),
        TAGS: (types.is_list(kind) or types.is_large_list(kind)) and _allowed(kind.value_type, TEXT),
    }
    return text or number or kinds.get(field.split(".")[0], False)


def _plain(column: Any) -> pl.Series:
    """A column as polars knows it: dictionaries decoded, times in UTC without a zone."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_timestamp(column.type):  # what is stored is UTC; the zone is only how it would be shown
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    series: Any = pl.from_arrow(column)
    return series
