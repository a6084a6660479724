"""Delimited text: records, comments, quotes and separators; whatever is no row is counted or refused."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.errors import DataError
from befriend.readers import text_files
from befriend.readers.chunk import event_columns
from befriend.readers.data_settings import DataSettings
from befriend.readers.delimited import read_delimited_rows
from befriend.settings import parse

NUMBERED = {"actor_id": 1, "action": None, "target_id": 2, "timestamp": 3}
NAMED = {"actor_id": "src", "action": None, "target_id": "dst", "timestamp": "ts"}
HEADER = "src,dst,ts,note\n"


def read(path: Path, content: str | bytes, **settings: Any) -> tuple[list[tuple[Any, ...]], int]:
    """The rows of a file as (row, reason, actor, target, timestamp), and the number of comments."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    parsed = parse(DataSettings, {"format": "csv", "columns": NAMED} | settings, "test")
    chunks = list(read_delimited_rows(parsed, event_columns(parsed), path, path))
    rows = [
        row
        for chunk in chunks
        for row in chunk.rows.select("row", "reason", "actor_id", "target_id", "timestamp").rows()
    ]
    return rows, sum(chunk.num_comments for chunk in chunks)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_blanks_before_a_quote_are_no_part_of_the_field(path: Path) -> None:
    rows, _ = read(path, 'src, dst, ts\n"user 1", "user, 2", 3\n"user 1" , "user 2" , 3\n')
    assert rows == [(2, None, "user 1", "user, 2", "3"), (3, None, "user 1", "user 2", "3")]


def test_quoted_field_may_hold_line_ends_and_rows_after_it_are_rows(path: Path) -> None:
    text = HEADER + '1,2,3,"hi\n7,8,9,there\n\nbye ""now"""\n4,5,6,ok\n'
    expected = [(2, None, "1", "2", "3"), (6, None, "4", "5", "6")]
    assert read(path, text)[0] == expected
    assert len(list(csv.reader(io.StringIO(text)))) == 3


@pytest.mark.parametrize("size", [1, 7, 20, 64])
def test_a_record_may_cross_the_blocks_in_which_a_file_is_read(
    size: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", size)
    text = HEADER + '1,2,3,"one\ntwo\nthree"\n4,5,6,plain\n7,8,9,"a\nb"\n'
    assert [row[2:] for row in read(path, text)[0]] == [("1", "2", "3"), ("4", "5", "6"), ("7", "8", "9")]


def test_a_quote_that_is_never_closed_costs_its_own_line_only(path: Path) -> None:
    rows, _ = read(path, HEADER + '1,2,3,"hi\n4,5,6,ok\n7,8,9,"yes"\n10,11,12,"no\n')
    assert [row[:2] for row in rows] == [(2, "unclosed_quote"), (3, None), (4, None), (5, "unclosed_quote")]
    assert [row[2:] for row in rows[1:3]] == [("4", "5", "6"), ("7", "8", "9")]


def test_a_quote_in_the_middle_of_a_field_is_a_character(path: Path) -> None:
    rows, _ = read(path, HEADER + '1,2,3,5" nail\n4,5,6,say "hi" now\n')
    assert [row[1:] for row in rows] == [(None, "1", "2", "3"), (None, "4", "5", "6")]


def test_quotes_may_be_escaped_by_a_backslash(path: Path) -> None:
    text = HEADER + '"1","2",3,"say \\"hi\\", ok"\n"4","5",6,"x"\n'
    assert [row[1:] for row in read(path, text, escape="\\")[0]] == [(None, "1", "2", "3"), (None, "4", "5", "6")]
    assert read(path, text + 3 * "4,5,6,x\n")[0][0][1] == "ragged_row"


def test_separator_may_have_several_characters(path: Path) -> None:
    rows, _ = read(path, '1::2::3::"a::b"\n4::5::6::c\n', separator="::", columns=NUMBERED)
    assert [row[1:] for row in rows] == [(None, "1", "2", "3"), (None, "4", "5", "6")]


def test_comments_of_white_space_files_are_counted_and_an_id_that_begins_with_the_mark_is_no_comment(
    path: Path,
) -> None:
    text = "% sym signed\n# a\n%%\n1 2 3\n%E7 2 3\n#4 5 6\n# end\n"
    rows, num_comments = read(path, text, format="whitespace", columns=NUMBERED)
    assert num_comments == 4
    assert rows == [(4, None, "1", "2", "3"), (5, None, "%E7", "2", "3"), (6, None, "#4", "5", "6")]


def test_comments_of_a_csv_stand_above_its_first_row(path: Path) -> None:
    rows, num_comments = read(path, "# made by x\n#1,#2,3\n# 4,5,6\n", columns=NUMBERED)
    assert (num_comments, rows) == (1, [(2, None, "#1", "#2", "3"), (3, None, "# 4", "5", "6")])


def test_hint_of_the_separator_is_no_header(path: Path) -> None:
    rows, num_comments = read(path, "sep=;\nsrc;dst;ts\n1;2;3\n", separator=";")
    assert (rows, num_comments) == ([(3, None, "1", "2", "3")], 1)


def test_white_space_may_be_blanks_and_tabs_mixed(path: Path) -> None:
    assert read(path, "1 2\t1\t3\n", format="whitespace", columns=NUMBERED | {"timestamp": 4})[0] == [
        (1, None, "1", "2", "3")
    ]


def test_last_name_of_a_header_may_stand_for_a_list_but_not_for_one_more_column(path: Path) -> None:
    rows, _ = read(path, "src,dst,ts,features\n1,2,3,.1,.2,.3\n")
    assert rows == [(2, None, "1", "2", "3")]
    for header in ("src,dst,ts", "src,dst,ts,a,b,c"):
        with pytest.raises(DataError, match=rf"has {header.count(',') + 1} columns, its rows have 4"):
            read(path, f"{header}\n0,1,2,3\n")


@pytest.mark.parametrize("content", ["", "src,dst,ts\n", "\n\n"])
def test_files_without_rows_are_empty_parts(content: str, path: Path) -> None:
    assert read(path, content)[0] == []


def test_files_may_be_compressed_in_the_usual_ways(path: Path) -> None:
    text = b"src,dst,ts\n1,2,3\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("log.csv", text)
        zipped.writestr("__MACOSX/log.csv", b"x")
    for content in (text, gzip.compress(text), bz2.compress(text), lzma.compress(text), archive.getvalue()):
        assert read(path, content)[0] == [(2, None, "1", "2", "3")]


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_files_may_be_in_utf_8_and_utf_16(codec: str, size: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", size)
    text = "src,dst,ts\r\n" + "".join(f"Zo\u00e9 {k},\U0001f600,{k}\r\n" for k in range(20))
    assert read(path, text.encode(codec))[0] == [
        (k + 2, None, f"Zo\u00e9 {k}", "\U0001f600", str(k)) for k in range(20)
    ]


@pytest.mark.parametrize("end", [b"\x00\xd8,\x00", b"\x34"])
def test_what_is_no_utf_16_is_rejected(end: bytes, path: Path) -> None:
    head = "src,dst,ts\n1,2,3\n4,5,6".encode("utf-16")
    rows, _ = read(path, head + end)
    assert [row[:2] for row in rows] == [(2, None), (3, "invalid_utf8")]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'<?xml version="1.0"?>\n<votes>', "is XML"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "is a web page"),
        (b"From a@b.org Mon Jan  1 00:00:00 2024\nFrom: a@b.org\n", "is a mailbox"),
        (b"Obj\x01\x04\x14", "is Avro"),
        (b"ORC\x00\x01", "is ORC"),
        (b"SQLite format 3\x00", "is SQLite"),
        (b"PAR1\x15", "is a Parquet file"),
        (gzip.compress(b"PAR1\x15", mtime=0), "is a Parquet file"),
        (b"a" * 257 + b"ustar\x00", "is a tar archive"),
        (b"\x80\x04\x95", "is a Python pickle"),
        (b"1,2\x00,3\n", "is a binary file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    ],
)
def test_files_that_are_no_text_are_named(content: bytes, name: str, path: Path) -> None:
    with pytest.raises(DataError, match=name):
        read(path, content)


def test_archives_of_several_files_are_to_be_unpacked(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as zipped:
        for name in ("a.csv", "b.csv"):
            zipped.writestr(name, "src,dst,ts\n")
    with pytest.raises(DataError, match="is a zip archive of 2 files"):
        read(path, path.read_bytes())


def test_keys_of_partitioned_folders_are_columns(tmp_path: Path) -> None:
    folder = tmp_path / "log" / "action=friend%20request" / "day=2024-01-01"
    folder.mkdir(parents=True)
    (folder / "part-0.csv").write_text("src,dst,ts\n1,2,3\n")
    settings = parse(DataSettings, {"format": "csv", "columns": NAMED | {"action": "action"}}, "test")
    chunks = read_delimited_rows(settings, event_columns(settings), folder / "part-0.csv", tmp_path / "log")
    assert pl.concat([chunk.rows for chunk in chunks])["action"].to_list() == ["friend request"]
