"""Opens text files as blocks of whole lines, decompressed and in UTF-8; names files that are no text.

The first bytes of a file, not its name, decide how it is compressed and what it holds.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import polars as pl

from befriend.data.columns import RAW, REASON
from befriend.errors import DataError
from befriend.readers.chunk import raise_damaged

BLOCK_BYTES = 1 << 26  # about two million short lines
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError)
"""errors of decompressing libraries; of a zip archive with an unknown method or a password, those before OSError"""
HEAD_BYTES = 512  # enough for all signatures below
MIN_ZERO_SHARE = 0.4  # of the high bytes of a text in UTF-16: separators, digits and Latin letters have zeros there
_BYTE_ORDER_MARK = codecs.BOM_UTF8
_NO_UTF_8 = b"\xff"
_GZIP, _BZIP2, _XZ, _ZSTD, _ZIP = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"

# what a file begins with -> what it holds, and how to make a text or Parquet file of it ({} is the name of the file)
_OTHER_FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"Obj\x01", "Avro", "duckdb -c \"INSTALL avro; LOAD avro; COPY (FROM read_avro('{}')) TO 'log.parquet'\""),
    (b"ORC", "ORC", "python -c \"import pandas; pandas.read_orc('{}').to_parquet('log.parquet')\""),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream",
        'python -c "import pyarrow as p, pyarrow.feather as f; f.write_feather('
        "p.ipc.open_stream('{}').read_all(), 'log.feather')\"",
    ),
    (b"SQLite format 3\x00", "SQLite", "sqlite3 -header -csv {} 'SELECT * FROM ...' > log.csv"),
    (b"\x89HDF", "HDF5", "python -c \"import pandas; pandas.read_hdf('{}').to_parquet('log.parquet')\""),
    (b"\x93NUMPY", "a NumPy array", "python -c \"import numpy as n; n.savetxt('log.csv', n.load('{}'), '%d', ',')\""),
    (b"\x80", "a Python pickle", "python -c \"import pandas; pandas.read_pickle('{}').to_parquet('log.parquet')\""),
    (b"\x04\x22\x4d\x18", "compressed with LZ4", "lz4 -d {} log"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed with Snappy", "python -m snappy -d {} log"),
    (b"LZIP", "compressed with lzip", "lzip -d {}"),
    (b"\x1f\x9d", "compressed with compress", "zcat {} > log"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x {} -ofolder"),
    (b"Rar!", "a RAR archive", "unrar x {} folder/"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save its sheet as CSV, in UTF-8"),
    (b"%PDF", "a PDF", "export a table instead"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "git lfs pull"),
)
_READABLE_MAGIC = (b"ORC", b"LZIP", b"Rar!")  # text may begin so, too, but has no control characters
_MAILBOX = re.compile(rb"From \S+ .*\d{4}\r?\n[\w-]+:")
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257


def text_blocks(file: Path, size: int | None = None) -> Iterator[bytes]:
    """Yields a text file in blocks of whole lines in UTF-8, without a byte order mark. size: bytes of each read.

    Line ends are as in the file, LF or CRLF. Raises a DataError for a file that is no text, that cannot be decompressed
    to its end, or whose lines end in CR alone.
    """
    remainder, is_first = b"", True
    with _open(file) as handle:
        decode = None
        while True:
            try:
                block = handle.read(size or BLOCK_BYTES)
            except DAMAGED as error:
                raise_damaged(error, f"{file.name} cannot be decompressed to its end")
            if is_first:
                _require_text(block[:HEAD_BYTES], file)
                encoding = _utf_16(block)
                decode = codecs.getincrementaldecoder(encoding)("surrogatepass") if encoding else None
            is_end = not block
            if decode is not None:
                block = _to_utf_8(block, decode, is_end)
            if not block:
                if is_end:
                    break
                continue  # half of a character of UTF-16
            block = remainder + block
            if is_first:
                block, is_first = block.removeprefix(_BYTE_ORDER_MARK), False
            end = block.rfind(b"\n") + 1
            remainder = block[end:]
            if end:
                yield block[:end]
            elif b"\r" in remainder.removesuffix(b"\r"):
                raise _only_carriage_returns(file)
    if b"\r" in remainder.rstrip(b"\r"):
        raise _only_carriage_returns(file)
    if remainder:
        yield remainder


def _to_utf_8(block: bytes, decoder: codecs.IncrementalDecoder, is_end: bool) -> bytes:
    """A block of UTF-16 as UTF-8; what is no character becomes invalid UTF-8, so that its line is rejected."""
    try:
        return decoder.decode(block, final=is_end).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # half of a character at the end
        decoder.reset()
        return _NO_UTF_8


def decode_lines(block: bytes) -> pl.DataFrame:
    """A table with a row for each line: `raw`, the line without its line end, and `reason`, "invalid_utf8" or null."""
    body = block.removesuffix(b"\n")
    try:
        if b"\x00" in body:  # what a crash leaves in a file
            raise UnicodeDecodeError("utf-8", body, 0, 1, "zero byte")
        lines = pl.Series(RAW, [body.decode()]).str.split("\n").explode()
        reason = pl.Series(REASON, [None], dtype=pl.String).new_from_index(0, len(lines))
    except UnicodeDecodeError:
        raw: list[str] = []
        reasons: list[str | None] = []
        for line in body.split(b"\n"):
            try:
                raw.append(line.decode())
                reasons.append("invalid_utf8" if b"\x00" in line else None)
            except UnicodeDecodeError:
                raw.append(line.decode(errors="backslashreplace"))
                reasons.append("invalid_utf8")
        lines, reason = pl.Series(RAW, raw), pl.Series(REASON, reasons, dtype=pl.String)
    return pl.DataFrame([lines.str.strip_suffix("\r"), reason])


def _open(file: Path) -> IO[bytes]:
    """Opens a file for reading its decompressed bytes."""
    try:
        return _open_by_head(file)
    except DAMAGED as error:
        raise_damaged(error, f"{file.name} cannot be decompressed")


def _open_by_head(file: Path) -> IO[bytes]:
    """As `_open`, with the errors of the libraries."""
    with file.open("rb") as handle:
        head = handle.read(HEAD_BYTES)
    if head.startswith(_GZIP):
        return cast(IO[bytes], gzip.open(file, "rb"))
    if head.startswith(_BZIP2):
        return cast(IO[bytes], bz2.open(file, "rb"))
    if head.startswith(_XZ):
        return cast(IO[bytes], lzma.open(file, "rb"))
    if head.startswith(_ZSTD):
        import pyarrow as pa

        return cast(IO[bytes], pa.CompressedInputStream(pa.OSFile(str(file)), "zstd"))
    if head.startswith(_ZIP):
        return _open_zip(file)
    return file.open("rb")


def _open_zip(file: Path) -> IO[bytes]:
    """The only file in a zip archive."""
    archive = zipfile.ZipFile(file)
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir() and "__MACOSX" not in entry.filename]
    if "[Content_Types].xml" in names:
        raise DataError(f"{file.name} is an Excel workbook, which is not read: save its sheet as CSV, in UTF-8.")
    if len(names) != 1:
        raise DataError(
            f"{file.name} is a zip archive of {len(names)} files. Unpack it into a folder, and use that: "
            f"unzip {file.name} -d folder"
        )
    return archive.open(names[0])


def _require_text(head: bytes, file: Path) -> None:
    """Raises a DataError for a file that is no text, with what it is and how to convert it. head: decompressed."""
    for magic, name, command in _OTHER_FORMATS:
        if head.startswith(magic) and (magic not in _READABLE_MAGIC or re.search(rb"[\x00-\x08]", head)):
            raise DataError(f"{file.name} is {name}, which is not read. Convert it: {command.format(file.name)}")
    if head[_TAR_OFFSET:].startswith(_TAR_MAGIC):
        raise DataError(f"{file.name} is a tar archive. Unpack it into a folder, and use that: tar -xf {file.name}")
    if head.startswith((b"PAR1", b"ARROW1")):
        kind = "Parquet" if head.startswith(b"PAR1") else "Arrow"
        raise DataError(
            f"{file.name} is a {kind} file where text is expected. Decompress it if it is compressed; otherwise set "
            f"data.format: {kind.lower()}."
        )
    if _MAILBOX.match(head):
        raise DataError(f"{file.name} is a mailbox. Write a table of its messages: from, to, date.")
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{file.name} is a web page, perhaps a login or an error page. Fetch the log itself.")
    if text.startswith((b"<?xml", b"<!doctype")) or re.match(rb"<[a-z][^>\n]*>\s*<", text):
        raise DataError(
            f"{file.name} is XML, which is not read. Convert it to CSV, JSON Lines or Parquet, one row per event."
        )
    if not _utf_16(head) and b"\x00" in head:
        raise DataError(f"{file.name} is a binary file of an unknown format. Export it as CSV, JSON Lines or Parquet.")


def _utf_16(head: bytes) -> str | None:
    """The codec of a text in UTF-16, by its byte order mark or, without one, by the zero bytes of Latin letters."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    head = head[: min(len(head), HEAD_BYTES) // 2 * 2]
    for codec, high, low in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
        if len(high) >= 4 and high.count(0) >= MIN_ZERO_SHARE * len(high) and low.count(0) * 3 <= high.count(0):
            return codec
    return None


def _only_carriage_returns(file: Path) -> DataError:
    return DataError(f"the lines of {file.name} end in CR alone. Convert them: tr '\\r' '\\n'.")
