"""rejected.parquet: every row that cannot be used, in its original form, with its file, row number and reason."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend.data.columns import FILE, RAW, REASON, ROW
from befriend.readers.chunk import Chunk

EXAMPLES = 5  # most refused rows shown in a message


class RejectedWriter:
    """Appends tables to one Parquet file; without any table, the file has the columns and no rows."""

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
    """The refused rows of one table: written to the file as they are read, counted by reason, the first few kept."""

    def __init__(self, writer: RejectedWriter):
        self._writer = writer
        self._counts: dict[str, int] = {}
        self._first: list[pl.DataFrame] = []

    def add(self, chunk: Chunk, checked: pl.DataFrame) -> None:
        """Takes the refused rows of a chunk. checked: the chunk's rows with `row` and, where refused, a `reason`."""
        is_refused = checked[REASON].is_not_null()
        if not is_refused.any():
            return
        table = checked.filter(is_refused).select(
            pl.lit(chunk.file).alias(FILE), ROW, REASON, chunk.raw_text(is_refused)
        )
        self._writer(table)
        self._first.append(table[:EXAMPLES])
        for reason, count in table.group_by(REASON).len().iter_rows():
            self._counts[reason] = self._counts.get(reason, 0) + count

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> number of refused rows, in alphabetical order."""
        return dict(sorted(self._counts.items()))

    @property
    def examples(self) -> pl.DataFrame:
        """The first refused rows, as in rejected.parquet."""
        return pl.concat(self._first)[:EXAMPLES] if self._first else pl.DataFrame()
