"""Logs as exports write them, each read as what it is, without an option: ways in which logs were misread once.

All hold the same events of a small network, so a reading is right if it finds them.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from befriend.errors import BefriendError, CallError, DataError, SourceError
from befriend.ops import use_log
from befriend.ops.detect import AmbiguousLogError, Hints, detect
from befriend.ops.log_preview import preview_sample
from befriend.readers.data_settings import DataSettings
from tests.readers.random_logs import read_events

Event = tuple[int, int, int]


def network(num_events: int = 120, num_users: int = 20) -> list[Event]:
    """(actor, target, second) of users who write to each other, hours apart."""
    rng = random.Random(1)
    pairs = [rng.sample(range(1, num_users + 1), 2) for _ in range(num_events)]
    return [(actor, target, 1_700_000_000 + 3607 * k) for k, (actor, target) in enumerate(pairs)]


EVENTS = network()


def found(path: Path, **columns: str) -> tuple[list[tuple[str, str, int]], DataSettings]:
    """The events as `befriend use` would read them, with ids as text, and the settings it would write."""
    settings = detect(path, Hints(columns))
    events, num_rejected, _ = read_events(settings, path)
    assert num_rejected == 0
    return [(str(actor), str(target), second) for actor, _, target, second, _ in events], settings


def expected(id_format: str = "{}", unit: int = 1) -> list[tuple[str, str, int]]:
    """The events with ids in a format, and times rounded down to a unit of seconds."""
    return [(id_format.format(a), id_format.format(b), t // unit * unit) for a, b, t in EVENTS]


def utc(second: int, time_format: str) -> str:
    return datetime.fromtimestamp(second, UTC).strftime(time_format)


def write(path: Path, line: Callable[[Event], str], head: str = "", end: str = "\n") -> Path:
    """Writes a line for each event below a head."""
    path.write_text(head + "".join(line(event) + end for event in EVENTS))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.parametrize(
    ("head", "separator", "date", "clock", "unit"),
    [
        ("", " ", "%Y-%m-%d", "%H:%M:%S", 1),
        ("", "\t", "%Y-%m-%d", "%H:%M", 60),
        ("", ",", "%d.%m.%Y", "%H:%M:%S", 1),
        ("src,dst,date,time\n", ",", "%Y-%m-%d", "%H:%M:%S", 1),
        ("from;to;time;date\n", ";", "%H:%M:%S", "%Y-%m-%d", 1),
        ("src,dst,date,hour_of_day\n", ",", "%m/%d/%Y", "%I:%M:%S %p", 1),
    ],
)
def test_date_and_time_of_day_in_two_columns_are_one_time(
    head: str, separator: str, date: str, clock: str, unit: int, log: Path
) -> None:
    write(log, lambda e: separator.join([str(e[0]), str(e[1]), utc(e[2], date), utc(e[2], clock)]), head)
    events, settings = found(log)
    assert events == expected(unit=unit) and settings.columns.time_of_day is not None


@pytest.mark.parametrize(
    ("separator", "kind"),
    [
        ("\t", "whitespace"),
        ("  ", "whitespace"),
        (" \t ", "whitespace"),
        (", ", "csv"),
        (" | ", "csv"),
        ("::", "csv"),
        ("\x01", "csv"),
    ],
)
def test_the_separator_is_the_one_that_makes_a_network(separator: str, kind: str, log: Path) -> None:
    between = " " if kind == "whitespace" else separator  # KONECT writes a blank between ids, and tabs after them
    write(
        log,
        lambda e: f"{e[0]}{between}{e[1]}{separator}1{separator}{e[2]}",
        "% sym signed\n" if kind == "whitespace" else "",
    )
    events, settings = found(log)
    assert events == expected() and settings.format == kind


def test_names_with_blanks_are_no_columns_of_their_own(log: Path) -> None:
    write(log, lambda e: f"Ann {e[0]}\tAnn {e[1]}\t{e[2]}")
    assert found(log)[0] == expected("Ann {}")


@pytest.mark.parametrize("columns", ["{t} {a} {b}", "{a} {t} {b}", "{a} {b} {t}", "{k} {t} {a} {b}"])
@pytest.mark.parametrize("first_id", [1, 1_000_000_000, 1_690_000_000])
def test_the_column_of_times_is_the_one_in_order(columns: str, first_id: int, log: Path) -> None:
    lines = [columns.format(a=first_id + 7 * a, b=first_id + 7 * b, t=t, k=k) for k, (a, b, t) in enumerate(EVENTS, 1)]
    log.write_text("\n".join(lines))
    assert found(log)[0] == [(str(first_id + 7 * a), str(first_id + 7 * b), t) for a, b, t in EVENTS]


def test_two_columns_of_ordered_times_are_asked_about_with_both_commands(log: Path) -> None:
    write(log, lambda e: f"{e[0]},{e[1]},{e[2]},{e[2] + 60}")
    with pytest.raises(CallError, match=r"in two ways.* --timestamp [34] .* or .* --timestamp [34]"):
        detect(log, Hints({}))
    assert found(log, timestamp="3")[0] == expected()


HEADS: dict[str, tuple[str, str]] = {
    "hint of Excel": ("sep=;\nsrc;dst;ts\n", "{a};{b};{t}"),
    "decimal commas": ("src;dst;weight;value;ts\n", "{a};{b};1,5;2,5;{t}"),
    "row names of R": ('"","src","dst","ts"\n', '"{k}",{a},{b},{t}'),
    "row names of R in white space": ('"src" "dst" "ts"\n', '"{k}" {a} {b} {t}'),
    "index of pandas": (",src,dst,ts\n", "{k},{a},{b},{t}"),
    "list behind the last name": ("user_id,item_id,timestamp,label,features\n", "{a},{b},{t},0,0.1,0.2,-0.3"),
    "empty column": ("", "{a},,{b},{t}"),
    "constant column": ("", "{a},0,{b},{t}"),
    "quoted commas": ("from,to,subject,date\n", '{a},{b},"re: a, b, {k}",{t}'),
    "backslashes": ("src,dst,ts,note\n", r'"{a}","{b}",{t},"say \"hi\", ok"'),
    "backslashes in the middle": ("src,note,dst,ts\n", r'"{a}","J\"J\", Jr","{b}",{t}'),
    "line ends in quotes": ("src,dst,ts,note\n", '{a},{b},{t},"two\n1,2,1600000000"'),
    "white space with a header": ("source  target  timestamp\n", "{a}  {b}  {t}"),
    "comment above a header": ("# exported\nsrc,dst,ts\n", "{a},{b},{t}"),
    "ids of floats": ("src,dst,ts\n", "{a}.0,{b}.0,{t}.0"),
    "weights with fractions": ("", "{a} {b} 0.5{k} {t}"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_heads_and_dialects_of_text_files(name: str, end: str, log: Path) -> None:
    head, line = HEADS[name]
    text = head + "".join(line.format(a=a, b=b, t=t, k=k) + "\n" for k, (a, b, t) in enumerate(EVENTS, 1))
    log.write_bytes(text.replace("\n", end).encode())
    events, settings = found(log)
    assert events == expected()
    assert settings.columns.action is None and settings.id_type == "integer"


@pytest.mark.parametrize(("head", "row"), [("src,dst,ts\n", "1,2,3,4"), ("a,src,dst,ts\n", "1,2,3")])
def test_header_and_rows_of_two_widths_are_refused_with_both(head: str, row: str, log: Path) -> None:
    log.write_text(head + f"{row}\n" * 5)
    with pytest.raises(CallError, match=r"the header of log has [34] columns, its rows have [34]"):
        detect(log, Hints({}))


JSON_LINES: dict[str, tuple[Callable[[Event], dict[str, Any]], dict[str, str]]] = {
    "flat": (lambda e: {"src": e[0], "dst": e[1], "ts": e[2]}, {}),
    "text": (lambda e: {"from": str(e[0]), "to": str(e[1]), "time": utc(e[2], "%Y-%m-%dT%H:%M:%SZ")}, {}),
    "nested": (
        lambda e: {"id": str(e), "actor": {"id": e[0], "login": f"u{e[0]}"}, "target": {"id": e[1]}, "created_at": e[2]},
        {},
    ),
    "GitHub": (
        lambda e: {"type": "X", "actor": {"id": e[0]}, "payload": {"user": {"id": e[1]}}, "created_at": utc(e[2], "%Y-%m-%dT%H:%M:%SZ")},
        {"actor_id": "actor.id", "target_id": "payload.user.id"},
    ),
    "dots in keys": (lambda e: {"a.b": e[0], "a": {"c": e[1]}, "ts": e[2]}, {"actor_id": "a.b", "target_id": "a.c"}),
    "floats": (lambda e: {"src": float(e[0]), "dst": float(e[1]), "ts": e[2] + 0.25}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_LINES)
def test_json_lines_are_read_with_dotted_columns(name: str, log: Path) -> None:
    to_object, columns = JSON_LINES[name]
    write(log, lambda event: json.dumps(to_object(event)))
    events, settings = found(log, **columns)
    assert events == expected() and settings.format == "jsonl"


def test_json_arrays_are_refused_with_the_command_that_converts_them(log: Path) -> None:
    log.write_text(json.dumps([{"src": a, "dst": b, "ts": t} for a, b, t in EVENTS]))
    with pytest.raises(CallError, match=r"log is a JSON array. .*: jq -c '.\[\]' log"):
        detect(log, Hints({}))


def test_a_row_that_is_no_object_is_rejected(log: Path) -> None:
    log.write_text('{"src": 1, "dst": 2, "ts": 3}\nnot json\n{"src": {"id": 1}, "dst": 2, "ts": 3}\n')
    settings = DataSettings(
        format="jsonl", columns={"actor_id": "src", "action": None, "target_id": "dst", "timestamp": "ts"}
    )
    assert read_events(settings, log)[:2] == ([(1, "event", 2, 3, 3 * 10**9)], 2)


ID_TYPES: dict[str, tuple[Callable[[int], Any], pa.DataType, str]] = {
    "decimals": (Decimal, pa.decimal128(20, 2), "{}"),
    "unsigned": (int, pa.uint32(), "{}"),
    "text in bytes": (lambda k: f"u{k}".encode(), pa.binary(), "u{}"),
    "UUIDs in bytes": (lambda k: UUID(int=k).bytes, pa.binary(16), "00000000-0000-0000-0000-{:012x}"),
    "UUIDs": (lambda k: UUID(int=k).bytes, pa.uuid(), "00000000-0000-0000-0000-{:012x}"),
    "categories": (lambda k: f"u{k}", pa.string(), "u{}"),
}  # fmt: skip


TIME_TYPES = (pa.int64(), pa.uint64(), pa.timestamp("ms", "Europe/Rome"), pa.decimal128(38, 3))


@pytest.mark.parametrize("name", ID_TYPES)
@pytest.mark.parametrize("is_feather", [True, False])
def test_types_of_parquet_and_arrow(name: str, is_feather: bool, log: Path) -> None:
    times = TIME_TYPES[(list(ID_TYPES).index(name) + is_feather) % len(TIME_TYPES)]
    to_id, dtype, id_format = ID_TYPES[name]
    ids = [
        pa.array([to_id(event[side]) for event in EVENTS], pa.binary(16) if dtype == pa.uuid() else dtype)
        for side in (0, 1)
    ]
    if name == "categories":
        ids = [column.dictionary_encode() for column in ids]
    if dtype == pa.uuid():
        ids = [pa.ExtensionArray.from_storage(pa.uuid(), column) for column in ids]
    second = pa.array([event[2] for event in EVENTS], pa.int64())
    time = second.cast(pa.timestamp("s")).cast(times) if pa.types.is_timestamp(times) else second.cast(times)
    table = pa.table({"src": ids[0], "dst": ids[1], "ts": time})
    (feather.write_feather if is_feather else parquet.write_table)(table, str(log))
    events, settings = found(log)
    assert events == expected(id_format) and settings.format == ("arrow" if is_feather else "parquet")


def test_text_that_is_not_utf_8_in_parquet_is_an_error(log: Path) -> None:
    table = pa.table({"src": pa.array([b"a\xff", b"b"]).view(pa.string()), "dst": ["b", "c"], "ts": [1, 2]})
    parquet.write_table(table, str(log))
    settings = DataSettings(
        columns={"actor_id": "src", "action": None, "target_id": "dst", "timestamp": "ts"}, id_type="string"
    )
    with pytest.raises(DataError, match=r"log is damaged after row 0: .*UTF"):
        read_events(settings, log)


OTHERS: dict[str, tuple[str, str]] = {
    "nodes.csv": ("node_id,country\n1,DE\n2,FR\n", "nodes.csv has none of the columns src .*It has: node_id, country. If it is no part"),
    "README.md": ("# The log\n\nExported in May.\n", "README.md has none of the columns src"),
    "a.json": ('{"version": 1}\n', "a.json has none of the columns src"),
    "z.tar": ("a" * 257 + "ustar\0", "z.tar is a tar archive"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_in_the_folder_are_named(name: str, tmp_path: Path) -> None:
    write(tmp_path / "events.csv", lambda e: f"{e[0]},{e[1]},{e[2]}", "src,dst,ts\n")
    content, message = OTHERS[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        detect(tmp_path, Hints({}))
    (tmp_path / name).rename(tmp_path / f"_{name}")
    assert found(tmp_path)[0] == expected()


def test_a_table_of_another_format_beside_the_log_is_named(tmp_path: Path) -> None:
    actors, targets, seconds = zip(*EVENTS, strict=True)
    parquet.write_table(pa.table({"src": actors, "dst": targets, "ts": seconds}), tmp_path / "events.parquet")
    (tmp_path / "users.csv").write_text("user_id,country\n1,DE\n")
    with pytest.raises(DataError, match=r"users.csv is no Parquet file, .*name it with --attributes"):
        detect(tmp_path, Hints({}))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("_delta_log/00.json", r"is a table of Delta Lake, .*delta_scan\('.*'\)\) TO 'log.parquet'"),
        ("metadata/v1.metadata.json", r"is a table of Iceberg, .*iceberg_scan"),
        (".hoodie/hoodie.properties", "is a table of Hudi"),
    ],
)
def test_tables_with_deleted_rows_are_refused_with_the_export(path: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "part-0.csv", lambda e: f"{e[0]},{e[1]},{e[2]}", "src,dst,ts\n")
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).touch()
    with pytest.raises(SourceError, match=message):
        detect(tmp_path, Hints({}))


@pytest.mark.parametrize(("separator", "pad"), [(",", " "), (";", "  "), ("|", " "), ("::", "  ")])
def test_blanks_around_quotes_are_no_part_of_an_id(separator: str, pad: str, log: Path) -> None:
    line = f'{{}}{separator}{pad}"user {{}}"{pad}{separator}{pad}"user {{}}"'
    write(log, lambda e: line.format(e[2], *e[:2]), f"ts{separator}{pad}src{separator}{pad}dst\n")
    assert found(log)[0] == expected("user {}")


@pytest.mark.parametrize("base", [2**63, 2**64, 10**30])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_ids_beyond_64_bits_stay_what_they_are(base: int, kind: str, log: Path) -> None:
    big = [(base + a, base + b, t) for a, b, t in EVENTS]
    if kind == "parquet":
        columns = [list(map(Decimal, column)) for column in zip(*((a, b) for a, b, _ in big), strict=True)]
        ids = [pa.array(column, pa.decimal128(38, 0)) for column in columns]
        parquet.write_table(pa.table({"src": ids[0], "dst": ids[1], "ts": [t for _, _, t in big]}), str(log))
    elif kind == "jsonl":
        log.write_text("".join(json.dumps({"src": a, "dst": b, "ts": t}) + "\n" for a, b, t in big))
    else:
        log.write_text("src,dst,ts\n" + "".join(f"{a},{b},{t}\n" for a, b, t in big))
    assert found(log)[0] == [(str(a), str(b), t) for a, b, t in big]


@pytest.mark.parametrize("name", ["guest_1", "007", "7.5", str(2**63)])
@pytest.mark.parametrize("place", [0, 119])
def test_one_id_that_is_no_integer_makes_all_of_them_text(name: str, place: int, log: Path) -> None:
    rows = [[str(a), str(b), t] for a, b, t in EVENTS]
    rows[place][0] = name
    log.write_text("src,dst,ts\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    events, settings = found(log)
    assert settings.id_type == "string" and events[place][0] == name


@pytest.mark.parametrize(
    ("unit", "to_raw"),
    [
        ("ms", lambda ns: ns // 10**6),
        ("us", lambda ns: ns // 10**3),
        ("ns", lambda ns: ns),
        ("s", lambda ns: f"{ns // 10**9}.{ns % 10**9:09d}"),
        ("iso", lambda ns: f"{utc(ns // 10**9, '%Y-%m-%dT%H:%M:%S')}.{ns % 10**9 // 1000:06d}Z"),
        ("%d.%m.%Y %H:%M:%S%.f", lambda ns: f"{utc(ns // 10**9, '%d.%m.%Y %H:%M:%S')}.{ns % 10**9 // 1000:06d}"),
    ],
)
def test_events_of_one_second_are_as_fine_as_the_log(unit: str, to_raw: Callable[[int], Any], log: Path) -> None:
    nanoseconds = [(a, b, t * 10**9 + k % 2 * 600_000_000 + 1_000_000 * k) for k, (a, b, t) in enumerate(EVENTS)]
    log.write_text("src,dst,ts\n" + "".join(f"{a},{b},{to_raw(ns)}\n" for a, b, ns in nanoseconds))
    settings = detect(log, Hints({}))
    assert settings.timestamp_unit == unit
    assert [event[4] for event in read_events(settings, log)[0]] == [ns for _, _, ns in nanoseconds]


MARKED = {
    "numbers after the mark": ("", "#{a},#{b},{t}"),
    "percent encoding": ("", "%C3%A9{a} %C3%A9{b} {t}"),
    "several marks": ("", "##{a};##{b};{t}"),
    "below a header": ("src,dst,ts\n", "#{a},%{b},{t}"),
}


@pytest.mark.parametrize("name", MARKED)
def test_ids_that_begin_like_a_comment_are_ids(name: str, log: Path) -> None:
    head, line = MARKED[name]
    write(log, lambda e: line.format(a=e[0], b=e[1], t=e[2]), head)
    events, _ = found(log)
    assert len(events) == len(EVENTS) and [event[2] for event in events] == [event[2] for event in EVENTS]


HEADERS: dict[str, tuple[str, Callable[[Event], str]]] = {
    "dates of the US": ("source,target,time", lambda e: f"ann{e[0]},ann{e[1]},{utc(e[2], '%m/%d/%Y %H:%M')}"),
    "floats": ("src,dst,ts", lambda e: f"u{e[0]},u{e[1]},{e[2]}.5"),
    "exponents": ("sender,receiver,date", lambda e: f"u{e[0]},u{e[1]},{e[2] / 1e9:.9f}e9"),
    "capitals": ("SRC,DST,TS", lambda e: f"{e[0]},{e[1]},{e[2]}"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_seen_by_their_names(name: str, log: Path) -> None:
    head, line = HEADERS[name]
    write(log, line, f"{head}\n")
    events, settings = found(log)
    assert len(events) == len(EVENTS) and settings.columns.actor_id == head.split(",")[0]


def test_a_log_without_times_is_asked_for_them(log: Path) -> None:
    write(log, lambda e: f"u{e[0]},u{e[1]},like", "from,to,type\n")
    with pytest.raises(CallError, match=r"which column is timestamp\? The log has: from, to, type"):
        detect(log, Hints({}))


FUTURE: dict[str, Callable[[int], Any]] = {
    "s": lambda second: second,
    "ms": lambda second: 1000 * second,
    "iso": lambda second: utc(second, "%Y-%m-%d %H:%M:%S"),
    "%Y%m%d%H%M%S": lambda second: utc(second, "%Y%m%d%H%M%S"),
}


@pytest.mark.parametrize("unit", FUTURE)
def test_events_after_now_are_warned_of(unit: str, log: Path) -> None:
    times = [*(t for _, _, t in EVENTS[:-1]), 4_070_908_800]  # the first of January 2099
    rows = [f"{a},{b},{FUTURE[unit](t)}" for (a, b, _), t in zip(EVENTS, times, strict=True)]
    log.write_text("src,dst,ts\n" + "\n".join(rows))
    settings = detect(log, Hints({}))
    warnings = preview_sample(settings, log)[0].warnings("dst")
    assert settings.timestamp_unit == unit
    assert any("1 events are later than now, the last at 2099-01-01 00:00" in warning for warning in warnings)


@pytest.mark.parametrize("link", ["again", "sub/up", "sub/deeper/top"])
def test_a_folder_that_leads_back_to_itself_is_named_once(link: str, tmp_path: Path) -> None:
    write(tmp_path / "events.csv", lambda e: f"{e[0]},{e[1]},{e[2]}", "src,dst,ts\n")
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path)
    with pytest.raises(SourceError, match="leads back to") as raised:
        detect(tmp_path, Hints({}))
    assert str(raised.value).count(link) == 1


@pytest.mark.parametrize("name", ["pipe", "folder/pipe", "folder/sub/pipe"])
def test_pipes_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(SourceError, match=r"pipe is no file, but perhaps a pipe, which can be read only once"):
        detect(tmp_path / name.split("/")[0], Hints({}))


NAMED: dict[str, tuple[str, Callable[[int, Event], list[object]], tuple[str, str, str]]] = {
    "countries": (
        "from_country,from_user,to_country,to_user,ts",
        lambda k, e: [e[0] % 3, e[0], e[1] % 3, e[1], e[2]],
        ("from_user", "to_user", "ts"),
    ),
    "cities of phones": (
        "caller,callee,from_city,to_city,timestamp",
        lambda k, e: [e[0], e[1], e[0] % 4, e[1] % 4, e[2]],
        ("caller", "callee", "timestamp"),
    ),
    "names beside ids": (
        "user_id,user,friend_id,friend,time",
        lambda k, e: [e[0], f"n{e[0] % 9}", e[1], f"n{e[1] % 9}", e[2]],
        ("user_id", "friend_id", "time"),
    ),
    "owner of a mailbox": (
        "user_id,from_user,to_user,ts",
        lambda k, e: [e[k % 2], e[0], e[1], e[2]],
        ("from_user", "to_user", "ts"),
    ),
    "app as source": (
        "id,source,from_user_id,to_user_id,created_at",
        lambda k, e: [k, ("ios", "web")[k % 2], e[0], e[1], e[2]],
        ("from_user_id", "to_user_id", "created_at"),
    ),
    "date beside a datetime": (
        "from,to,date,created_at",
        lambda k, e: [e[0], e[1], utc(e[2], "%Y-%m-%d"), utc(e[2], "%Y-%m-%d %H:%M:%S")],
        ("from", "to", "created_at"),
    ),
    "time of the export": (
        "ts,from,to,created_at",
        lambda k, e: [1_800_000_000, e[0], e[1], e[2]],
        ("from", "to", "created_at"),
    ),
    "milliseconds since the start": (
        "from,to,time,created_at",
        lambda k, e: [e[0], e[1], e[2] - EVENTS[0][2], e[2]],
        ("from", "to", "created_at"),
    ),
    "day of the month": (
        "from,to,day,event_time",
        lambda k, e: [e[0], e[1], utc(e[2], "%d"), e[2]],
        ("from", "to", "event_time"),
    ),
    "unused columns of one name": (
        "x,from,to,ts,x",
        lambda k, e: [k, e[0], e[1], e[2], "b"],
        ("from", "to", "ts"),
    ),
    "separators at the end": ("from,to,ts,,", lambda k, e: [e[0], e[1], e[2], "", ""], ("from", "to", "ts")),
    "separator after the header": ("from,to,ts,", lambda k, e: [e[0], e[1], e[2]], ("from", "to", "ts")),
    "separator after the rows": ("from,to,ts", lambda k, e: [e[0], e[1], e[2], ""], ("from", "to", "ts")),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_of_several_columns_with_usual_names_those_of_the_network_are_taken(name: str, log: Path) -> None:
    head, row, columns = NAMED[name]
    log.write_text(f"{head}\n" + "".join(",".join(map(str, row(k, e))) + "\n" for k, e in enumerate(EVENTS)))
    events, settings = found(log)
    assert (settings.columns.actor_id, settings.columns.target_id, settings.columns.timestamp) == columns
    assert events == expected()


def test_columns_that_cannot_be_told_apart_are_asked_about(log: Path) -> None:
    rng = random.Random(3)
    towers = [(rng.randrange(20), rng.randrange(20)) for _ in EVENTS]
    rows = "".join(f"t{a},{e[0]},t{b},{e[1]},{e[2]}\n" for (a, b), e in zip(towers, EVENTS, strict=True))
    log.write_text("from_tower,from_number,to_tower,to_number,ts\n" + rows)
    with pytest.raises(AmbiguousLogError):
        detect(log, Hints({}))


@pytest.mark.parametrize("clock", ["duration", "end_time"])
def test_a_duration_is_no_time_of_day(clock: str, log: Path) -> None:
    write(log, lambda e: f"{e[0]},{e[1]},{utc(e[2], '%Y-%m-%d')},00:{e[0]:02d}:{e[1]:02d}", f"from,to,date,{clock}\n")
    events, settings = found(log)
    assert settings.columns.time_of_day is None and events == expected(unit=86_400)


@pytest.mark.parametrize("separator", ["\t", "\x01"])
@pytest.mark.parametrize("head", ["", "from{0}to{0}ts{0}text\n"])
def test_quotes_are_characters_where_databases_write_them_so(separator: str, head: str, log: Path) -> None:
    texts = ['"hello there', 'see you"', 'he said "hi"', "hello", "hello", "hello"]
    rows = [separator.join(map(str, [*e, texts[k % len(texts)]])) for k, e in enumerate(EVENTS)]
    log.write_text(head.format(separator) + "\n".join(rows))
    events, settings = found(log)
    assert events == expected() and settings.quote is None


@pytest.mark.parametrize(
    "text",
    [
        "Report generated 2024-01-01\ntime,receiver,sender\n{rows}",
        "Report generated 2024-01-01,,\n,,\ntime,receiver,sender\n{rows}",
        "time,receiver,sender\n{rows}time,sender,receiver\n{rows}",
    ],
)
def test_a_header_below_other_lines_is_an_error_that_names_it(text: str, log: Path) -> None:
    rows = "".join(f"{t},{b},{a}\n" for a, b, t in EVENTS)
    log.write_text(text.format(rows=rows))
    with pytest.raises(
        CallError, match=r"the row 'time,(receiver|sender),(receiver|sender)' names columns, but is not the first"
    ):
        detect(log, Hints({}))


def test_a_header_that_only_the_first_part_has_is_an_error(tmp_path: Path) -> None:
    rows = [f"{t},{b},{a}\n" for a, b, t in EVENTS]
    (tmp_path / "a.csv").write_text("ts,to,from\n" + "".join(rows[:60]))
    (tmp_path / "b.csv").write_text("".join(rows[60:]))
    with pytest.raises(CallError, match="the row 'ts,to,from' names columns"):
        detect(tmp_path, Hints({}))


@pytest.mark.parametrize("head", ["# time,to,from", "#time,to,from", "% made by x\n% ts,target,source"])
def test_names_in_a_comment_are_those_of_the_columns(head: str, log: Path) -> None:
    write(log, lambda e: f"{e[2]},{e[1]},{e[0]}", f"{head}\n")
    assert found(log)[0] == expected()


def test_columns_aligned_by_blanks_are_refused_with_the_command_that_parts_them(log: Path) -> None:
    write(log, lambda e: f"{f'Ann Lee{e[0]}':20}{f'Ann Lee{e[1]}':20}{e[2]}")
    with pytest.raises(CallError, match=r"aligned by blanks, .*: sed -E 's/ \{2,\}/\\t/g' log > log.tsv"):
        detect(log, Hints({}))


@pytest.mark.parametrize("copy", ["log.csv.gz", "log.csv.bak", "log.csv~"])
def test_a_file_and_its_copy_are_not_read_twice(copy: str, tmp_path: Path) -> None:
    for name in ("log.csv", copy):
        write(tmp_path / name, lambda e: f"{e[0]},{e[1]},{e[2]}", "src,dst,ts\n")
    with pytest.raises(SourceError, match=r"seem to be one file twice"):
        detect(tmp_path, Hints({}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n "src": 1,\n "dst": 2,\n "ts": 3\n}\n', "objects over several lines. .*: jq -c . log"),
        ('{"messages": [{"src": 1, "dst": 2, "ts": 3}]}\n', r"one object with a list. .*: jq -c '.messages\[\]' log"),
        ('["a", "b", 1700000000]\n["b", "a", 1700000001]\n', "arrays of values. .*: jq -r '@csv' log"),
    ],
)
def test_json_that_is_no_object_a_line_is_refused_with_a_command(content: str, message: str, log: Path) -> None:
    log.write_text(content)
    with pytest.raises(CallError, match=message):
        detect(log, Hints({}))


WARNINGS: dict[str, tuple[Callable[[int, Event], list[object]], str]] = {
    "nothing": (lambda k, e: list(e), ""),
    "several times": (lambda k, e: [e[0], e[1], e[2] // (1000 if k % 3 else 1)], "40 events are 53 years away"),
    "rounded": (lambda k, e: [e[0], e[1], e[2] // 10**6 * 10**6], "1.. of 120 events have the time of the event before"),
    "missing": (lambda k, e: [e[0], "<NA>" if k % 20 == 0 else e[1], e[2]], "the id <NA> is on 6 events"),
    "negative": (lambda k, e: [e[0], -1 if k % 20 == 0 else e[1], e[2]], "the id -1 is on 6 events"),
    "several": (lambda k, e: [f"u{e[0]}", f"u{e[1]}; u{e[0]}" if k % 2 else f"u{e[1]}", e[2]], "hold more than an id"),
    "addresses": (lambda k, e: [f"u{e[0]}@x.org", f"{'U <' * (k % 2)}u{e[1]}@x.org{'>' * (k % 2)}", e[2]], "hold more than an id"),
    "capitals": (lambda k, e: [f"u{e[0]}", f"{'uU'[k % 2]}{e[1]}", e[2]], "differ from others in capital letters only"),
    "two kinds": (lambda k, e: [f"u{e[0]}", f"p{e[1]}", e[2]], "hardly an id in common"),
    "since the start": (lambda k, e: [e[0], e[1], e[2] - 1_700_000_000], "the last event is at 1970-01-05"),
    "future": (lambda k, e: [e[0], e[1], e[2] + 3 * 10**9], "120 events are later than now"),
    "open quotes": (lambda k, e: [e[0], e[1], e[2], '"a\nb"'], "120 lines are parts of rows above them"),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_unusual_is_warned_of_with_a_number_and_a_value(name: str, log: Path) -> None:
    row, message = WARNINGS[name]
    rows = [",".join(map(str, row(k, e))) for k, e in enumerate(EVENTS)]
    log.write_text("src,dst,ts" + ",text" * (name == "open quotes") + "\n" + "\n".join(rows))
    settings = detect(log, Hints({}))
    warnings = preview_sample(settings, log)[0].warnings("dst")
    assert len(warnings) == bool(message)
    assert re.search(message, "".join(warnings))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_asked_which_of_two_readings_is_right(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(log, lambda e: f"{e[0]},{e[1]},{e[2]},{e[2] + 60}")
    arguments = (log, str(log), Hints({}), DataSettings(), " --signal=view")
    with pytest.raises(
        CallError, match=r"(?s)Choose one:.*--timestamp [34] .* --signal=view\n.*--timestamp [34] .* --signal=view"
    ):
        use_log._detect(*arguments)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("sys.stdin", Terminal("7\n2\n"))  # 7 is asked again
    monkeypatch.setattr("sys.stdout", output := Terminal())
    chosen = use_log._detect(*arguments)
    second = re.search(r"2: befriend use \S+ .* --timestamp (\d)", output.getvalue())
    assert second is not None and chosen.columns.timestamp == int(second[1])


def test_actions_are_words_that_are_no_ids(log: Path) -> None:
    names = ["ann", "bob", "cleo", "dan"]
    rng = random.Random(2)
    rows = [(*rng.sample(names, 2), rng.choice(["like", "follow"])) for _ in range(200)]
    for order in ("{a},{b},{x},{t}", "{x},{a},{b},{t}", "{a},{x},{b},{t}"):
        log.write_text(
            "".join(order.format(a=a, b=b, x=x, t=1_700_000_000 + k) + "\n" for k, (a, b, x) in enumerate(rows))
        )
        events, settings = found(log)
        assert [event[:2] for event in events] == [row[:2] for row in rows] and settings.columns.action is not None


def test_a_log_of_many_parts_is_read_by_all_of_them(tmp_path: Path) -> None:
    for k in range(60):
        rows = "".join(f"{k % 7},{(k + i) % 5 + 2},{1_700_000_000 + 60 * k + i}\n" for i in range(5))
        (tmp_path / f"part-{k:03d}.csv").write_text("src,dst,ts\n" + rows)
    (tmp_path / "part-059.csv").write_text("source,target,ts\n1,2,1700000000\n")
    with pytest.raises(BefriendError, match=r"part-059.csv has no column src"):
        detect(tmp_path, Hints({}))
