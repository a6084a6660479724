"""Writes rejected.parquet: every row that cannot be used, in its original form, with file, row number and reason."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend.data.columns import FILE, RAW, REASON, ROW
from befriend.readers.chunk import Chunk

NUM_EXAMPLES = 5  # rejected rows in a message


class RejectedWriter:
    """Writes tables one after the other to a Parquet file, which has the columns but no rows if there is no table."""

    def __init__(self, path: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        text = pa.large_string()
        self.schema = pa.schema([(FILE, text), (ROW, pa.int64()), (REASON, text), (RAW, text)])
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")

    def __enter__(self) -> RejectedWriter:
        return self

    def __call__(self, table: pl.DataFrame) -> None:
        self.writer.write_table(table.to_arrow().cast(self.schema))

    def __exit__(self, *_: object) -> None:
        self.writer.close()


class RejectedRows:
    """Collects the rejected rows of one table: writes them, counts them by reason, and keeps the first as examples."""

    def __init__(self, writer: RejectedWriter):
        self._writer = writer
        self._counts: dict[str, int] = {}
        self._examples: list[pl.DataFrame] = []

    def add(self, chunk: Chunk, rows: pl.DataFrame) -> None:
        """Adds the rejected rows of a chunk. rows: the rows of the chunk; `reason` is not null if a row is rejected."""
        is_rejected = rows[REASON].is_not_null()
        if not is_rejected.any():
            return
        table = rows.filter(is_rejected).select(
            pl.lit(chunk.file).alias(FILE), ROW, REASON, chunk.raw_text(is_rejected)
        )
        self._writer(table)
        self._examples.append(table[:NUM_EXAMPLES])
        for reason, count in table.group_by(REASON).len().iter_rows():
            self._counts[reason] = self._counts.get(reason, 0) + count

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> number of rejected rows, in alphabetical order."""
        return dict(sorted(self._counts.items()))

    @property
    def examples(self) -> pl.DataFrame:
        """The first rejected rows, as in rejected.parquet."""
        return pl.concat(self._examples)[:NUM_EXAMPLES] if self._examples else pl.DataFrame()
