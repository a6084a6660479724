"""Reads Parquet and Arrow files in batches of rows, and converts columns to types that the row rules can check."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import polars as pl

from befriend.data.columns import (
    ACTOR,
    CATEGORICAL,
    ID_FIELDS,
    NUMERIC,
    REASON,
    ROW,
    TAGS,
    TEXT,
    TIME_OF_DAY,
    TIMESTAMP,
)
from befriend.errors import DataError
from befriend.readers.chunk import Chunk, ColumnMapping, raise_damaged, relative_name, require_columns

BATCH_ROWS = 1_000_000
EXACT_FIELDS = (*ID_FIELDS, TIMESTAMP)
UUID_BYTES = 16
MAGIC: dict[bytes, Literal["parquet", "arrow"]] = {b"PAR1": "parquet", b"ARROW1": "arrow"}


def binary_format(file: Path) -> Literal["parquet", "arrow"] | None:
    """parquet or arrow, by the first bytes of the file, not by its name; None for another file."""
    with file.open("rb") as handle:
        head = handle.read(max(map(len, MAGIC)))
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def read_table_rows(mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Yields the rows of a Parquet or Arrow file in order.

    Raises a DataError if a column is missing, of a wrong type or damaged.
    """
    import pyarrow as pa

    names = sorted(set(map(str, mapping.columns.values())))
    dataset = _open_dataset(file, source, names)
    require_columns(mapping, dataset.schema.names, file)
    for field, column in mapping.columns.items():
        _check_type(field, dataset.schema.field(column), file, mapping.section)
    num_rows_read = 0
    try:
        for batch in dataset.to_batches(batch_size=BATCH_ROWS, fragment_readahead=1, batch_readahead=1):
            batch.select(names).validate(full=True)  # the file may be damaged, or hold text that is not UTF-8
            columns = {
                field: _to_polars(batch.column(column), field in ID_FIELDS) for field, column in mapping.columns.items()
            }
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

    dataset = _open_dataset(file, source, [""])
    try:
        head = dataset.head(rows)
    except (pa.ArrowException, OSError) as error:
        raise_damaged(error, f"{file.name} is damaged")
    repeated = sorted({name for name in dataset.schema.names if dataset.schema.names.count(name) > 1})
    if repeated:
        raise DataError(f"{file.name} has more than one column named {', '.join(repeated)}. Give each its own name.")
    return pl.DataFrame({column.name: _preview(head.column(column.name), column) for column in dataset.schema})


def _preview(column: Any, field: Any) -> pl.Series:
    """A pyarrow column as a polars Series; as text if its type could be no field. field: its pyarrow field."""
    column = column.combine_chunks()
    if any(_is_allowed_type(field.type, kind) for kind in (ACTOR, TIMESTAMP, TIME_OF_DAY)):
        return _to_polars(column, is_id=_is_allowed_type(field.type, ACTOR))
    return pl.Series([str(value) for value in column.to_pylist()], dtype=pl.String)


def _open_dataset(file: Path, source: Path, names: Collection[str]) -> Any:
    """The file as a pyarrow dataset. names: the columns to read.

    If the file lacks some of them and lies in a partitioned folder (action=like/part-0.parquet), the values in the
    folder names are added as columns.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        file_format = binary_format(file) or "parquet"
        dataset = ds.dataset(file, format=file_format)
        if source.is_dir() and not set(names) <= set(dataset.schema.names):
            keys = {folder.split("=")[0] for folder in file.relative_to(source).parts[:-1] if "=" in folder}
            if not keys & set(dataset.schema.names):
                dataset = ds.dataset(file, format=file_format, partitioning="hive", partition_base_dir=str(source))
        return dataset
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise_damaged(error, f"{file.name} is not a readable {file_format.capitalize()} file")


def _check_type(field: str, column: Any, file: Path, section: str) -> None:
    """Raises a DataError if the type of a column is not allowed for the field. column: its pyarrow field."""
    dtype = column.type
    if not _is_allowed_type(dtype, field):
        more_types = {
            **dict.fromkeys(ID_FIELDS, ", decimals, UUIDs, binary text"),
            TIMESTAMP: ", datetimes, decimals",
            TIME_OF_DAY: ", times of day",
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
    is_coarse = types.is_float16(dtype) or (types.is_float32(dtype) and field == TIMESTAMP)  # 64 s apart in 2026
    is_number = types.is_integer(dtype) or (types.is_floating(dtype) and not (is_coarse and field in EXACT_FIELDS))
    is_id = types.is_decimal(dtype) or _is_uuid(dtype) or types.is_binary(dtype) or types.is_large_binary(dtype)
    is_allowed_for_field = {
        **dict.fromkeys(ID_FIELDS, is_id),
        TIMESTAMP: types.is_timestamp(dtype) or types.is_date(dtype) or types.is_decimal(dtype),
        TIME_OF_DAY: types.is_time(dtype),
        CATEGORICAL: types.is_boolean(dtype),
        NUMERIC: types.is_boolean(dtype) or types.is_decimal(dtype),
        TAGS: (types.is_list(dtype) or types.is_large_list(dtype)) and _is_allowed_type(dtype.value_type, TEXT),
    }
    return is_text or is_number or is_allowed_for_field.get(field.split(".")[0], False)


def _is_uuid(dtype: Any) -> bool:
    """Whether a pyarrow type is that of UUIDs: the extension type, or the 16 bytes that other tools write."""
    from pyarrow import types

    return getattr(dtype, "extension_name", "") == "arrow.uuid" or (
        types.is_fixed_size_binary(dtype) and dtype.byte_width == UUID_BYTES
    )


def _to_polars(column: Any, is_id: bool = False) -> pl.Series:
    """A pyarrow column as a polars Series, with dictionaries decoded and times in UTC without a zone.

    is_id: decimals, UUIDs and binary text become text, with bytes that are not UTF-8 as \\xff.
    """
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_uuid(column.type):
        values = (column.storage if hasattr(column, "storage") else column).to_pylist()
        texts = [None if value is None else str(UUID(bytes=bytes(value))) for value in values]
        return pl.Series(texts, dtype=pl.String)
    if is_id and (types.is_binary(column.type) or types.is_large_binary(column.type)):
        texts = [None if value is None else value.decode(errors="backslashreplace") for value in column.to_pylist()]
        return pl.Series(texts, dtype=pl.String)
    if types.is_decimal(column.type):
        column = column.cast(pa.string())
    if types.is_timestamp(column.type):  # the stored value is UTC; the zone only matters for display
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    series: Any = pl.from_arrow(column)
    return series
