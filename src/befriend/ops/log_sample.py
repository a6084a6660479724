"""A sample of an event log: the beginning, the middle and the end of its files, which `befriend use` tries readings on.

The sample is a log of its own, with the same names of files and folders, so the readers read it as they read the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from befriend.readers.chunk import raise_damaged, relative_name
from befriend.readers.parquet import binary_format
from befriend.readers.text_files import text_blocks

MAX_FILES = 30
PIECE_BYTES = 1 << 15  # of text: some 1,000 events
PIECE_ROWS = 1000  # of Parquet and Arrow
MAX_LINE_ENDS = 100  # to look for one that is not within a quoted field


def write_sample(files: list[Path], source: Path, folder: Path) -> Path:
    """Writes a sample of a log into a folder, and returns the path of the sample.

    files: the event files, of which at most MAX_FILES are in the sample. Raises a DataError for a damaged file.
    """
    sample = folder / source.name if source.is_file() else folder
    for file in _evenly_spaced(files):
        copy = folder / relative_name(file, source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if binary_format(file):
            _write_table(file, copy)
        else:
            copy.write_bytes(b"".join(_text_pieces(file)))
    return sample


def _evenly_spaced(files: list[Path]) -> list[Path]:
    """At most MAX_FILES of the files, among them the first, the last and the largest."""
    if len(files) <= MAX_FILES:
        return files
    step = (len(files) - 1) / (MAX_FILES - 2)
    chosen = {files[round(k * step)] for k in range(MAX_FILES - 1)}
    return sorted({*chosen, max(files, key=lambda file: file.stat().st_size)})


def _text_pieces(file: Path) -> Iterator[bytes]:
    """Yields whole lines of a text file: the beginning and the middle of each block, and the end of the last one."""
    block = b""
    for block in text_blocks(file):
        if len(block) <= 3 * PIECE_BYTES:
            yield block
            continue
        first = _line_start(block, PIECE_BYTES)
        middle = _line_start(block, max(first, len(block) // 2))
        yield block[:first]
        yield block[middle : _line_start(block, middle + PIECE_BYTES)]
    if len(block) > 3 * PIECE_BYTES:
        last = _line_start(block, max(len(block) // 2 + 2 * PIECE_BYTES, len(block) - PIECE_BYTES))
        yield block[last:]


def _line_start(block: bytes, position: int) -> int:
    """The start of a line at or after a position that is, by the number of quotes before it, not within a record."""
    num_quotes = block.count(b'"', 0, position)
    first = end = position
    for k in range(MAX_LINE_ENDS):
        start, end = end, block.find(b"\n", end) + 1
        if end == 0:
            break
        first = first if k else end
        num_quotes += block.count(b'"', start, end)
        if num_quotes % 2 == 0:
            return end
    return first if first > position else len(block)


def _write_table(file: Path, copy: Path) -> None:
    """Writes the first rows of a Parquet or Arrow file, and of the middle and the last row group of Parquet."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    from pyarrow import ipc, parquet

    file_format = binary_format(file)
    try:
        fragments: list[Any] = list(ds.dataset(file, format=file_format).get_fragments())
        if file_format == "parquet":
            groups = fragments[0].split_by_row_group()
            fragments = [groups[k] for k in sorted({0, len(groups) // 2, len(groups) - 1})] if groups else fragments
        table = pa.concat_tables([fragment.head(PIECE_ROWS) for fragment in fragments])
    except (pa.ArrowException, OSError) as error:
        raise_damaged(error, f"{file.name} is damaged")
    if file_format == "parquet":
        parquet.write_table(table, copy)
        return
    with ipc.new_file(copy, table.schema) as writer:
        writer.write_table(table)
