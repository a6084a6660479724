"""Ingestion of texts and statements: all formats, internal ids of users, and a reason for every rejected row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.data.contracts import STATEMENTS, TEXTS, USERS, check_contract
from befriend.data.erasure import erasure_digest
from befriend.errors import DataError
from befriend.readers.data_settings import DataSettings
from befriend.validation.ingest_texts import IngestedTexts, ingest_texts
from befriend.validation.rejected_rows import RejectedWriter

IDS = [30, 10, 20]  # the users of a log, by internal id


def users(ids: list[Any] = IDS) -> pl.DataFrame:
    """The table of users from the events: each user has one event, at second 1."""
    count = pl.lit(1, pl.Int64)
    return (
        pl.DataFrame({"user_id": ids})
        .with_row_index("user")
        .select(
            pl.col("user").cast(pl.Int32), "user_id", count.alias("first_seen"), count.alias("last_seen"),
            count.alias("events_done"), count.alias("events_received"), count.alias("degree"),
            pl.lit(False).alias("opted_out"),
        )
    )  # fmt: skip


def read(
    folder: Path, known_users: pl.DataFrame | None = None, erased: frozenset[str] = frozenset(), latest: int | None = None, **data: Any
) -> IngestedTexts:  # fmt: skip
    """Ingests the tables in `folder`, and checks the contracts of the results."""
    with RejectedWriter(folder / "rejected.parquet") as writer:
        ingested = ingest_texts(
            folder, DataSettings(**data), latest, users() if known_users is None else known_users, writer, erased
        )
    check_contract(ingested.texts.table, TEXTS, folder)
    check_contract(ingested.statements.table, STATEMENTS, folder)
    check_contract(ingested.users, USERS, folder)
    return ingested


def rejected(folder: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(folder / "rejected.parquet").rows()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


POSTS: list[dict[str, Any]] = [
    {"user_id": 10, "timestamp": 50, "site": "chat", "text": " I like it ", "title": "On <b>", "tags": "<slow-food><tea_rooms>"},
    {"user_id": 30, "timestamp": 9, "site": None, "text": "later, by row order", "title": None, "tags": None},
    {"user_id": 30, "timestamp": 9, "site": "blog", "text": "é\nsecond line", "title": " ", "tags": ""},
    {"user_id": 10, "timestamp": 40, "site": "chat", "text": "Sooner", "title": "On <b>", "tags": "tea_rooms"},
]  # fmt: skip
ALL: dict[str, Any] = {"file": "t", "platform": "site", "title": "title", "tags": "tags"}
TEXT_ROWS = [
    (0, 9, "", "later, by row order"),
    (0, 9, "blog", "é\nsecond line"),
    (1, 40, "chat", "Sooner"),
    (1, 50, "chat", "I like it"),
]
STATEMENT_ROWS = [
    (1, 40, "On <b>", ""),
    (1, 40, "interested in tea rooms", ""),
    (1, 50, "interested in slow food", ""),
]


def test_all_formats_give_the_same_texts(tmp_path: Path) -> None:
    table = pl.DataFrame(POSTS)
    variants: list[pl.DataFrame] = [
        table,
        table.with_columns(pl.col("tags").str.extract_all(r"[^<>]+"), pl.col("site").cast(pl.Categorical)),
        table.with_columns(pl.from_epoch("timestamp"), pl.col("user_id").cast(pl.Float64)),
    ]
    for k, variant in enumerate(variants):
        variant.write_parquet(tmp_path / "t")
        ingested = read(tmp_path, texts=ALL, timestamp_unit="iso" if k == 2 else "s")
        assert (ingested.texts.table.rows(), ingested.statements.table.rows()) == (TEXT_ROWS, STATEMENT_ROWS)
    rows_with_lists = [row | {"tags": ["slow-food", "tea_rooms"]} if k == 0 else row for k, row in enumerate(POSTS)]
    other_types = [
        row | {"user_id": float(row["user_id"]), "timestamp": str(row["timestamp"])} for row in rows_with_lists
    ]
    for rows in (
        POSTS,
        rows_with_lists,
        other_types,
        [{k: v for k, v in row.items() if v is not None} for row in POSTS],
    ):
        write_lines(tmp_path / "t", rows)
        as_lines = (tmp_path / "t").read_bytes()
        for content in (as_lines, gzip.compress(as_lines), b"\xef\xbb\xbf" + as_lines.replace(b"\n", b"\r\n\r\n")):
            (tmp_path / "t").write_bytes(content)
            ingested = read(tmp_path, texts=ALL)
            assert (ingested.texts.table.rows(), ingested.statements.table.rows()) == (TEXT_ROWS, STATEMENT_ROWS)
    assert rejected(tmp_path) == []
    assert ingested.texts.metrics(ingested.users) == {
        "rows": 4, "rejected": 0, "rejected_share": 0.0, "rejected_by_reason": {}, "kept": 4,
        "users": 2, "users_without": 1, "users_without_events": 0, "per_user": {"median": 2.0, "max": 2},
    }  # fmt: skip


@pytest.mark.parametrize("tags", ["<a-b><c>", "a-b,c", "a_b | c", ["a-b", "", None, "c"]])
def test_tags_are_read_in_all_formats(tags: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "t", [{"user_id": 10, "timestamp": 5, "text": "x", "tags": tags}])
    statements = read(tmp_path, texts={"file": "t", "tags": "tags"}).statements.table
    assert statements["statement"].to_list() == ["interested in a b", "interested in c"]
    pl.read_ndjson(tmp_path / "t").write_parquet(tmp_path / "t")
    assert read(tmp_path, texts={"file": "t", "tags": "tags"}).statements.table.equals(statements)


def test_statements_have_no_timestamp_and_no_duplicates(tmp_path: Path) -> None:
    rows = [
        {"user_id": 10, "about": " interested in tea ", "from": "bio"},
        {"user_id": 20, "about": "interested in tea", "from": None},
        {"user_id": 10, "about": "interested in tea", "from": None},
        {"user_id": 20, "about": "interested in tea", "from": None},
        {"user_id": 10, "about": "a writer", "from": "bio"},
    ]
    write_lines(tmp_path / "s", rows)
    write_lines(tmp_path / "t", [{"user_id": 20, "timestamp": 7, "text": "x", "tags": ["tea", "chess"]}])
    columns = {"file": "s", "statement": "about", "context": "from"}
    ingested = read(tmp_path, statements=columns, texts={"file": "t", "tags": "tags"})
    assert ingested.statements.table.rows() == [
        (1, None, "a writer", "bio"),
        (1, None, "interested in tea", ""),
        (1, None, "interested in tea", "bio"),
        (2, None, "interested in tea", ""),  # also a tag of the text
        (2, 7, "interested in chess", ""),
    ]
    assert (ingested.statements.num_rows_read, ingested.texts.num_rows_read) == (5, 1)


def test_rejected_rows_are_written_unchanged_with_their_reason(tmp_path: Path) -> None:
    valid = '{"user_id": 10, "timestamp": 5, "text": "x"}'
    cases = [
        ('{"user_id": null, "timestamp": 5, "text": "x"}', "user_id_empty"),
        ('{"timestamp": 5, "text": "x"}', "user_id_empty"),
        ('{"user_id": "anna", "timestamp": 5, "text": "x"}', "user_id_type"),
        ('{"user_id": true, "timestamp": 5, "text": "x"}', "field_type"),
        ('{"user_id": 10, "timestamp": "", "text": "x"}', "timestamp_empty"),
        ('{"user_id": 10, "timestamp": "noon", "text": "x"}', "timestamp_type"),
        ('{"user_id": 10, "timestamp": -5, "text": "x"}', "timestamp_negative"),
        ('{"user_id": 10, "timestamp": 1600000000000, "text": "x"}', "timestamp_unit"),
        ('{"user_id": 10, "timestamp": 101, "text": "x"}', "timestamp_later"),
        ('{"user_id": 10, "timestamp": 5, "text": " \\n"}', "text_empty"),
        ('{"user_id": 10, "timestamp": 5, "text": {"en": "x"}}', "field_type"),
        ('{"user_id": 10, "timestamp": 5, "text"', "not_json"),
        ("[" * 99999, "not_json"),
        ("12", "not_json"),
        ('{"user_id": 10, "timestamp": 5, "text": "\udcff"}', "invalid_utf8"),
    ]
    lines = [valid, "", *(line for line, _ in cases), '{"user_id": 10, "timestamp": 6, "text": "half \\ud83d"}']
    (tmp_path / "t").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    (tmp_path / "s").write_text('{"user_id": 10, "statement": ""}\n{"user_id": 1.5, "statement": "x"}\n')
    ingested = read(tmp_path, latest=100, texts={"file": "t"}, statements={"file": "s"})
    assert ingested.texts.table.rows() == [(1, 5, "", "x"), (1, 6, "", "half ?")]
    expected = [("t", k, reason, line.replace("\udcff", "\\xff")) for k, (line, reason) in enumerate(cases, start=3)]
    expected += [
        ("s", 1, "statement_empty", '{"user_id": 10, "statement": ""}'),
        ("s", 2, "user_id_type", '{"user_id": 1.5, "statement": "x"}'),
    ]
    assert rejected(tmp_path) == expected
    reasons = [reason for _, reason in cases]
    assert ingested.texts.rejected_by_reason == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert (
        ingested.texts.num_rows_read,
        ingested.statements.num_rows_read,
        ingested.texts.rejected_examples.height,
    ) == (17, 2, 5)


def test_rejected_rows_of_a_parquet_table_are_written_as_json(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [10, None], "timestamp": 5, "text": "x", "more": [[1], [2]]}).write_parquet(tmp_path / "t")
    assert read(tmp_path, texts={"file": "t"}).texts.table.height == 1
    row = '{"user_id": null, "timestamp": 5, "text": "x", "more": [2]}'
    assert rejected(tmp_path) == [("t", 2, "user_id_empty", row)]


def test_users_with_only_texts_get_the_last_internal_ids_and_keep_them(tmp_path: Path) -> None:
    texts = [(77, 30), (10, 1), (5, 30), (66, 20), (77, 10)]
    write_lines(tmp_path / "t", [{"user_id": user, "timestamp": second, "text": "x"} for user, second in texts])
    write_lines(tmp_path / "s", [{"user_id": user, "statement": "y"} for user in (4, 20, 66, 3)])
    options = {"texts": {"file": "t"}, "statements": {"file": "s"}}
    ingested = read(tmp_path, **options)
    assert ingested.users["user_id"].to_list() == [*IDS, 77, 66, 5, 3, 4]
    assert ingested.users[:3].equals(users())
    assert ingested.users[3:].drop("user", "user_id").unique().rows() == [(None, None, 0, 0, 0, False)]
    assert ingested.texts.table["user"].to_list() == [1, 3, 3, 4, 5]
    assert ingested.statements.table["user"].to_list() == [2, 4, 6, 7]
    assert ingested.texts.metrics(ingested.users)["users_without_events"] == 3
    # Users 5 and 66 of an earlier run keep their internal ids.
    later = read(tmp_path, known_users=users([*IDS, 5, 66]), **options)
    assert later.users["user_id"].to_list() == [*IDS, 5, 66, 77, 3, 4]


def test_erased_users_have_no_texts_and_no_statements(tmp_path: Path) -> None:
    write_lines(tmp_path / "t", [{"user_id": 10, "timestamp": 5, "text": "x", "tags": "a"}] * 2)
    write_lines(tmp_path / "s", [{"user_id": user, "statement": "y"} for user in (10, 20, 99)])
    options = {"texts": {"file": "t", "tags": "tags"}, "statements": {"file": "s"}}
    ingested = read(tmp_path, erased=frozenset({erasure_digest(10), erasure_digest(99)}), **options)
    assert (ingested.texts.table.height, ingested.texts.num_rows_read, ingested.statements.num_rows_read) == (0, 0, 1)
    assert ingested.statements.table.rows() == [(2, None, "y", "")]
    assert ingested.users["user_id"].to_list() == IDS


def test_string_ids_are_not_converted_to_integers(tmp_path: Path) -> None:
    write_lines(tmp_path / "t", [{"user_id": user, "timestamp": 5, "text": "x"} for user in ("007", 7, "new")])
    ingested = read(tmp_path, users(["7", "007"]), id_type="string", texts={"file": "t"})
    assert ingested.texts.table["user"].to_list() == [0, 1, 2]
    assert ingested.users["user_id"].to_list() == ["7", "007", "new"]


@pytest.mark.parametrize("content", [b"", b"\n\n", None])
def test_an_empty_table_gives_the_same_as_no_table(content: bytes | None, tmp_path: Path) -> None:
    if content is None:
        pl.DataFrame(POSTS)[:0].write_parquet(tmp_path / "t")
    else:
        (tmp_path / "t").write_bytes(content)
    empty, without = read(tmp_path, texts=ALL), read(tmp_path)
    for ingested in (empty, without):
        assert ingested.users.equals(users())
        assert ingested.texts.table.equals(without.texts.table)
        assert ingested.statements.table.equals(without.statements.table)
    assert without.texts.table.schema == {
        "user": pl.Int32,
        "timestamp": pl.Int64,
        "platform": pl.String,
        "text": pl.String,
    }
    assert rejected(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user_id,timestamp,text\n", "t is neither Parquet nor JSON Lines: its first line begins with 'user_id"),
        (b'[{"user_id": 1}]', "is a JSON array, not JSON Lines. Convert it: jq"),
        (b'{"user_id": 1}\n{"body": "x"}\n', r"t has no column timestamp \(data.texts.timestamp\), text .*has: user_id, body"),
        (pl.DataFrame({"user_id": [1], "timestamp": 5, "text": [["x"]]}), "holds .*list.*, which cannot be a text"),
        (pl.DataFrame({"user_id": [1], "timestamp": 5, "text": "x"}).with_columns(pl.from_epoch("timestamp")), "Set data.timestamp_unit: iso"),
    ],
)  # fmt: skip
def test_an_unusable_file_is_an_error_with_its_name(content: Any, message: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / "t").write_bytes(content)
    else:
        content.write_parquet(tmp_path / "t")
    with pytest.raises(DataError, match=message):
        read(tmp_path, texts={"file": "t"})


def test_a_file_read_in_blocks_gives_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl.DataFrame(POSTS).write_parquet(tmp_path / "t")
    monkeypatch.setattr("befriend.readers.parquet.BATCH_ROWS", 1)
    assert read(tmp_path, texts=ALL).texts.table.rows() == TEXT_ROWS
    monkeypatch.setattr("befriend.readers.text_files.BLOCK_BYTES", 100)
    write_lines(tmp_path / "t", [*POSTS, {"timestamp": 5, "text": "x"}])
    assert read(tmp_path, texts=ALL).texts.table.rows() == TEXT_ROWS
    assert [row[1:3] for row in rejected(tmp_path)] == [(5, "user_id_empty")]
