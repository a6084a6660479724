"""rejected.parquet: every row that cannot be used, as it was, where it stood, and why; and the account of them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend.data.chunk import Chunk
from befriend.data.columns import FILE, RAW, REASON, ROW

EXAMPLES = 5  # refused rows shown in a message


class RejectedWriter:
    """Appends tables to one Parquet file; an empty file of the right columns if nothing comes."""

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


class Refused:
    """The refused rows of one source: kept in the file as they are met, counted by reason, the first ones at hand."""

    def __init__(self, keep: RejectedWriter):
        self._keep = keep
        self._counts: dict[str, int] = {}
        self._first: list[pl.DataFrame] = []

    def add(self, chunk: Chunk, judged: pl.DataFrame) -> None:
        """judged: the chunk's rows with `row` and, where a row is refused, a `reason`."""
        bad = judged[REASON].is_not_null()
        if not bad.any():
            return
        table = judged.filter(bad).select(pl.lit(chunk.file).alias(FILE), ROW, REASON, chunk.raw_text(bad))
        self._keep(table)
        self._first.append(table[:EXAMPLES])
        for reason, count in table.group_by(REASON).len().iter_rows():
            self._counts[reason] = self._counts.get(reason, 0) + count

    @property
    def counts(self) -> dict[str, int]:
        """Rows by reason, in the order of the reasons' names."""
        return dict(sorted(self._counts.items()))

    @property
    def examples(self) -> pl.DataFrame:
        return pl.concat(self._first)[:EXAMPLES] if self._first else pl.DataFrame()
