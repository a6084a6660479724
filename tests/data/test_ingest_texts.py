"""Texts and statements beside the log: read from every form, by the users' numbers, with a reason for every other row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.config import DataSettings
from befriend.data.contracts import STATEMENTS, TEXTS, USERS, check
from befriend.data.forgotten import mark
from befriend.data.ingest_texts import IngestedTexts, ingest_texts
from befriend.data.rejected import RejectedWriter
from befriend.errors import DataError

IDS = [30, 10, 20]  # the users of a log, in the order of their numbers


def users(ids: list[Any] = IDS) -> pl.DataFrame:
    """As the events give them: each is in one event, at second 1."""
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
    folder: Path, known: pl.DataFrame | None = None, marks: frozenset[str] = frozenset(), latest: int | None = None, **data: Any
) -> IngestedTexts:  # fmt: skip
    """The tables in `folder`; what comes out keeps the contracts."""
    with RejectedWriter(folder / "rejected.parquet") as keep:
        found = ingest_texts(folder, DataSettings(**data), latest, users() if known is None else known, keep, marks)
    check(found.texts.table, TEXTS, folder)
    check(found.statements.table, STATEMENTS, folder)
    check(found.users, USERS, folder)
    return found


def rejected(folder: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(folder / "rejected.parquet").rows()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


POSTS = [
    {"user_id": 10, "timestamp": 50, "site": "chat", "text": " I like it ", "title": "On <b>", "tags": "<slow-food><tea_rooms>"},
    {"user_id": 30, "timestamp": 9, "site": None, "text": "later, by order", "title": None, "tags": None},
    {"user_id": 30, "timestamp": 9, "site": "blog", "text": "é\nsecond line", "title": " ", "tags": ""},
    {"user_id": 10, "timestamp": 40, "site": "chat", "text": "Sooner", "title": "On <b>", "tags": "tea_rooms"},
]  # fmt: skip
ALL: dict[str, Any] = {"file": "t", "platform": "site", "title": "title", "tags": "tags"}
WRITTEN = [
    (0, 9, "", "later, by order"),
    (0, 9, "blog", "é\nsecond line"),
    (1, 40, "chat", "Sooner"),
    (1, 50, "chat", "I like it"),
]
SAID = [
    (1, 40, "On <b>", ""),
    (1, 40, "interested in tea rooms", ""),
    (1, 50, "interested in slow food", ""),
]


def test_the_same_texts_in_every_form(tmp_path: Path) -> None:
    table = pl.DataFrame(POSTS)
    forms: list[pl.DataFrame] = [
        table,
        table.with_columns(pl.col("tags").str.extract_all(r"[^<>]+"), pl.col("site").cast(pl.Categorical)),
        table.with_columns(pl.from_epoch("timestamp"), pl.col("user_id").cast(pl.Float64)),
    ]
    for k, form in enumerate(forms):
        form.write_parquet(tmp_path / "t")
        found = read(tmp_path, texts=ALL, timestamp_unit="iso" if k == 2 else "s")
        assert (found.texts.table.rows(), found.statements.table.rows()) == (WRITTEN, SAID)
    lists = [row | {"tags": ["slow-food", "tea_rooms"]} if k == 0 else row for k, row in enumerate(POSTS)]
    odd = [row | {"user_id": float(row["user_id"]), "timestamp": str(row["timestamp"])} for row in lists]
    for rows in (POSTS, lists, odd, [{k: v for k, v in row.items() if v is not None} for row in POSTS]):
        write_lines(tmp_path / "t", rows)
        plain = (tmp_path / "t").read_bytes()
        for content in (plain, gzip.compress(plain), b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n\r\n")):
            (tmp_path / "t").write_bytes(content)
            found = read(tmp_path, texts=ALL)
            assert (found.texts.table.rows(), found.statements.table.rows()) == (WRITTEN, SAID)
    assert rejected(tmp_path) == []
    assert found.texts.figures(found.users) == {
        "rows": 4, "rejected": 0, "rejected_share": 0.0, "rejected_by_reason": {}, "kept": 4,
        "users": 2, "users_without": 1, "users_without_events": 0, "per_user": {"median": 2.0, "max": 2},
    }  # fmt: skip


@pytest.mark.parametrize("tags", ["<a-b><c>", "a-b,c", "a_b | c", ["a-b", "", None, "c"]])
def test_tags_in_every_form(tags: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "t", [{"user_id": 10, "timestamp": 5, "text": "x", "tags": tags}])
    said = read(tmp_path, texts={"file": "t", "tags": "tags"}).statements.table
    assert said["statement"].to_list() == ["interested in a b", "interested in c"]
    pl.read_ndjson(tmp_path / "t").write_parquet(tmp_path / "t")
    assert read(tmp_path, texts={"file": "t", "tags": "tags"}).statements.table.equals(said)


def test_statements_are_known_from_the_beginning_and_said_once(tmp_path: Path) -> None:
    rows = [
        {"user_id": 10, "about": " interested in tea ", "from": "bio"},
        {"user_id": 20, "about": "interested in tea", "from": None},
        {"user_id": 10, "about": "interested in tea", "from": None},
        {"user_id": 20, "about": "interested in tea", "from": None},
        {"user_id": 10, "about": "a writer", "from": "bio"},
    ]
    write_lines(tmp_path / "s", rows)
    write_lines(tmp_path / "t", [{"user_id": 20, "timestamp": 7, "text": "x", "tags": ["tea", "chess"]}])
    named = {"file": "s", "statement": "about", "context": "from"}
    found = read(tmp_path, statements=named, texts={"file": "t", "tags": "tags"})
    assert found.statements.table.rows() == [
        (1, None, "a writer", "bio"),
        (1, None, "interested in tea", ""),
        (1, None, "interested in tea", "bio"),
        (2, None, "interested in tea", ""),  # the post's tag says it again
        (2, 7, "interested in chess", ""),
    ]
    assert (found.statements.read, found.texts.read) == (5, 1)


def test_rows_that_cannot_be_used_are_kept_as_they_were_with_their_reason(tmp_path: Path) -> None:
    good = '{"user_id": 10, "timestamp": 5, "text": "x"}'
    cases = [
        ('{"user_id": null, "timestamp": 5, "text": "x"}', "user_id_empty"),
        ('{"timestamp": 5, "text": "x"}', "user_id_empty"),
        ('{"user_id": "anna", "timestamp": 5, "text": "x"}', "user_id_type"),
        ('{"user_id": true, "timestamp": 5, "text": "x"}', "user_id_type"),
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
    lines = [good, "", *(line for line, _ in cases), '{"user_id": 10, "timestamp": 6, "text": "half \\ud83d"}']
    (tmp_path / "t").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    (tmp_path / "s").write_text('{"user_id": 10, "statement": ""}\n{"user_id": 1.5, "statement": "x"}\n')
    found = read(tmp_path, latest=100, texts={"file": "t"}, statements={"file": "s"})
    assert found.texts.table.rows() == [(1, 5, "", "x"), (1, 6, "", "half ?")]
    told = [("t", k, reason, line.replace("\udcff", "\\xff")) for k, (line, reason) in enumerate(cases, start=3)]
    told += [
        ("s", 1, "statement_empty", '{"user_id": 10, "statement": ""}'),
        ("s", 2, "user_id_type", '{"user_id": 1.5, "statement": "x"}'),
    ]
    assert rejected(tmp_path) == told
    reasons = [reason for _, reason in cases]
    assert found.texts.rejected == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert (found.texts.read, found.statements.read, found.texts.examples.height) == (17, 2, 5)


def test_rows_of_a_table_are_kept_as_json(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [10, None], "timestamp": 5, "text": "x", "more": [[1], [2]]}).write_parquet(tmp_path / "t")
    assert read(tmp_path, texts={"file": "t"}).texts.table.height == 1
    row = '{"user_id": null, "timestamp": 5, "text": "x", "more": [2]}'
    assert rejected(tmp_path) == [("t", 2, "user_id_empty", row)]


def test_who_only_writes_comes_behind_and_keeps_the_number(tmp_path: Path) -> None:
    texts = [(77, 30), (10, 1), (5, 30), (66, 20), (77, 10)]
    write_lines(tmp_path / "t", [{"user_id": user, "timestamp": when, "text": "x"} for user, when in texts])
    write_lines(tmp_path / "s", [{"user_id": user, "statement": "y"} for user in (4, 20, 66, 3)])
    chosen = {"texts": {"file": "t"}, "statements": {"file": "s"}}
    found = read(tmp_path, **chosen)
    assert found.users["user_id"].to_list() == [*IDS, 77, 66, 5, 3, 4]
    assert found.users[:3].equals(users())
    assert found.users[3:].drop("user", "user_id").unique().rows() == [(None, None, 0, 0, 0, False)]
    assert found.texts.table["user"].to_list() == [1, 3, 3, 4, 5]
    assert found.statements.table["user"].to_list() == [2, 4, 6, 7]
    assert found.texts.figures(found.users)["users_without_events"] == 3
    # An earlier run knew 5 and 66, in this order: they are no newcomers.
    again = read(tmp_path, known=users([*IDS, 5, 66]), **chosen)
    assert again.users["user_id"].to_list() == [*IDS, 5, 66, 77, 3, 4]


def test_forgotten_people_wrote_nothing_and_nothing_is_said_of_them(tmp_path: Path) -> None:
    write_lines(tmp_path / "t", [{"user_id": 10, "timestamp": 5, "text": "x", "tags": "a"}] * 2)
    write_lines(tmp_path / "s", [{"user_id": user, "statement": "y"} for user in (10, 20, 99)])
    chosen = {"texts": {"file": "t", "tags": "tags"}, "statements": {"file": "s"}}
    found = read(tmp_path, marks=frozenset({mark(10), mark(99)}), **chosen)
    assert (found.texts.table.height, found.texts.read, found.statements.read) == (0, 0, 1)
    assert found.statements.table.rows() == [(2, None, "y", "")]
    assert found.users["user_id"].to_list() == IDS


def test_ids_that_are_text(tmp_path: Path) -> None:
    write_lines(tmp_path / "t", [{"user_id": user, "timestamp": 5, "text": "x"} for user in ("007", 7, "new")])
    found = read(tmp_path, users(["7", "007"]), id_type="string", texts={"file": "t"})
    assert found.texts.table["user"].to_list() == [0, 1, 2]
    assert found.users["user_id"].to_list() == ["7", "007", "new"]


@pytest.mark.parametrize("content", [b"", b"\n\n", None])
def test_a_table_without_rows_is_as_none(content: bytes | None, tmp_path: Path) -> None:
    if content is None:
        pl.DataFrame(POSTS)[:0].write_parquet(tmp_path / "t")
    else:
        (tmp_path / "t").write_bytes(content)
    empty, without = read(tmp_path, texts=ALL), read(tmp_path)
    for found in (empty, without):
        assert found.users.equals(users())
        assert found.texts.table.equals(without.texts.table)
        assert found.statements.table.equals(without.statements.table)
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
        (b'[{"user_id": 1}]', "neither Parquet nor JSON Lines"),
        (b'{"user_id": 1}\n{"body": "x"}\n', r"t has no column timestamp \(data.texts.timestamp\), text .*has: user_id, body"),
        (pl.DataFrame({"user_id": [1], "timestamp": 5, "text": [["x"]]}), "holds .*list.*, which cannot be a text"),
        (pl.DataFrame({"user_id": [1], "timestamp": 5, "text": "x"}).with_columns(pl.from_epoch("timestamp")), "Set data.timestamp_unit: iso"),
    ],
)  # fmt: skip
def test_a_file_that_is_of_no_use_is_named(content: Any, message: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / "t").write_bytes(content)
    else:
        content.write_parquet(tmp_path / "t")
    with pytest.raises(DataError, match=message):
        read(tmp_path, texts={"file": "t"})


def test_parts_of_a_file_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl.DataFrame(POSTS).write_parquet(tmp_path / "t")
    monkeypatch.setattr("befriend.data.tables.ROWS_AT_ONCE", 1)
    assert read(tmp_path, texts=ALL).texts.table.rows() == WRITTEN
    monkeypatch.setattr("befriend.data.lines.blocks.__defaults__", (100,))
    write_lines(tmp_path / "t", [*POSTS, {"timestamp": 5, "text": "x"}])
    assert read(tmp_path, texts=ALL).texts.table.rows() == WRITTEN
    assert [row[1:3] for row in rejected(tmp_path)] == [(5, "user_id_empty")]
