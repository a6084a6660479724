"""Detection of the format and columns of a log by `befriend use`."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.errors import BefriendError, CallError
from befriend.ops.detect import Hints, detect
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_chunks


def guess(path: Path, columns: dict[str, str] | None = None, **options: Any) -> DataSettings:
    return detect(path, Hints(columns or {}, **options))


SNAP = {"actor_id": 1, "action": None, "target_id": 2, "timestamp": 3}
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "csv with header": (
        "from,to,type,ts\n1,2,msg,1600000000\n2,1,msg,1600000001\n",
        {"format": "csv", "columns": {"actor_id": "from", "target_id": "to", "action": "type", "timestamp": "ts"}},
    ),
    "tsv of strings in milliseconds": (
        "sender\treceiver\ttime\nann\tbob\t1600000000000\nbob\tann\t1600000001000\n",
        {"separator": "\t", "id_type": "string", "timestamp_unit": "ms", "columns": {"action": None, "actor_id": "sender"}},
    ),
    "SNAP with white space": ("1 2 1082040961\n3 4 1082155839\n", {"format": "whitespace", "columns": SNAP, "timestamp_unit": "s"}),
    "KONECT with comments and weights": (
        "% asym\n1 2 1 1225000000\n3 4 1 1225000001\n",
        {"format": "whitespace", "columns": {"actor_id": 1, "target_id": 2, "action": None, "timestamp": 4}},
    ),
    "csv without header, with an action": (
        "1,like,2,1600000000\n3,follow,4,1600000001\n5,like,6,1600000002\n",
        {"columns": {"actor_id": 1, "action": 2, "target_id": 3, "timestamp": 4}},
    ),
    "ISO dates": ("user;friend;date\na;b;2020-01-02T03:04:05Z\nc;d;2020-01-03\n", {"separator": ";", "timestamp_unit": "iso"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_formats_of_text_files_are_detected(name: str, tmp_path: Path) -> None:
    text, expected = TEXTS[name]
    (tmp_path / "plain").write_text(text)
    (tmp_path / "compressed").write_bytes(gzip.compress(text.encode()))
    settings = guess(tmp_path / "plain")
    assert guess(tmp_path / "compressed") == settings
    for field, expected_value in expected.items():
        value = settings.columns.model_dump() if field == "columns" else getattr(settings, field)
        assert (value | expected_value if field == "columns" else expected_value) == value


def test_parquet_is_detected_by_its_content_and_ids_by_their_type(tmp_path: Path) -> None:
    table = pl.DataFrame({"actor": ["x", "y"], "target": ["y", "x"], "action": "m", "time": [1.6e9, 1.7e9]})
    table.with_columns(pl.col("time").cast(pl.Int64)).write_parquet(tmp_path / "log")
    settings = guess(tmp_path / "log")
    assert (settings.format, settings.id_type, settings.timestamp_unit) == ("parquet", "string", "s")
    table.with_columns(pl.from_epoch(pl.col("time").cast(pl.Int64))).write_parquet(tmp_path / "log")
    assert guess(tmp_path / "log").timestamp_unit == "iso"


def test_ids_with_leading_zeros_are_strings(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("actor,target,ts\n007,12,1600000000\n12,007,1600000001\n")
    assert guess(tmp_path / "log").id_type == "string"


def test_a_column_may_be_given_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a,b,c\n1,2,1600000000\n3,4,1600000001\n")
    settings = guess(tmp_path / "log", {"actor_id": "1", "target_id": "2", "timestamp": "3"})
    assert settings.columns.model_dump() == {
        "actor_id": "a",
        "action": None,
        "target_id": "b",
        "timestamp": "c",
        "time_of_day": None,
    }


def test_a_comment_above_the_header_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("# exported by x\nactor,target,ts\n1,2,1600000000\n3,4,1600000001\n")
    settings = guess(tmp_path / "log")
    assert settings.has_column_names and settings.columns.actor_id == "actor"
    rows = pl.concat([chunk.rows for chunk in read_chunks(settings, tmp_path / "log")])
    assert rows.select("row", "actor_id").rows() == [(3, "1"), (4, "3")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no lines except comments"),
        (b"actor,target,ts\n", "a header but no events"),
        (b"actor,actor,target,ts\n1,2,3,4\n", "more than one column named actor"),
        (gzip.compress(b"actor,target,ts\n1,2,1600000000\n" * 9000)[:60], "cannot be decompressed"),
    ],
    ids=["empty", "header only", "duplicate name", "truncated"],
)
def test_an_unreadable_log_is_an_error_with_its_reason(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(BefriendError, match=message):
        guess(tmp_path / "log")


@pytest.mark.parametrize("first", ["", "src,dst,ts\n", "\n\n"])
def test_parts_and_days_are_no_actions_and_may_be_empty(first: str, tmp_path: Path) -> None:
    (tmp_path / "part-00000.csv").write_text(first)
    for name in ("2024-01-01.csv", "part-00001.csv"):
        (tmp_path / name).write_text("src,dst,ts\n1,2,1082040961\n3,4,1082155839\n")
    settings = guess(tmp_path)
    rows = pl.concat([chunk.rows for chunk in read_chunks(settings, tmp_path)])
    assert rows["action"].to_list() == 4 * ["event"]


@pytest.mark.parametrize("header", ["src,dst,ts\n", "action,src,dst,ts\n"])
def test_keys_of_partitioned_folders_are_columns_unless_the_file_has_them(header: str, tmp_path: Path) -> None:
    value = "own," if header.startswith("action") else ""
    for action in ("like", "follow"):
        (tmp_path / f"action={action}").mkdir()
        (tmp_path / f"action={action}" / "part-0.csv").write_text(
            f"{header}{value}1,2,1082040961\n{value}3,4,1082155839\n"
        )
    settings = guess(tmp_path)
    rows = pl.concat([chunk.rows for chunk in read_chunks(settings, tmp_path)])
    assert set(rows["action"]) == ({"own"} if value else {"like", "follow"})


def test_given_columns_and_units_override_detection(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a,b,c,d\n1,2,1600000000,1500000000\n")
    with pytest.raises(CallError, match=r"which column is actor_id, target_id, timestamp\? The log has: a, b, c, d"):
        guess(tmp_path / "log")
    settings = guess(tmp_path / "log", {"actor_id": "b", "target_id": "a", "timestamp": "d"}, unit="ms")
    assert (settings.columns.actor_id, settings.columns.target_id, settings.columns.timestamp) == ("b", "a", "d")
    assert settings.timestamp_unit == "ms"
    with pytest.raises(CallError, match="no column --actor x"):
        guess(tmp_path / "log", {"actor_id": "x"})


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (["20231114", "20231115"], "%Y%m%d"),
        (["20231114221320", "20231115221320"], "%Y%m%d%H%M%S"),
        (["1.7e9", "1.700003600E+09"], "s"),
        (["1700000000.000001", "1700003600.5"], "s"),
        (["1700000000123.0", "1700003600456.0"], "ms"),
        (["11/14/2023 22:13", "11/15/2023 08:13"], "%m/%d/%Y %H:%M"),
        (["14/11/2023 10:13:20 PM", "01/02/2023 08:13:00 AM"], "%d/%m/%Y %I:%M:%S %p"),
        (["14.11.2023 22:13", "15.11.2023 22:13"], "%d.%m.%Y %H:%M"),
        (["Tue Nov 14 22:13:20 +0000 2023", "Wed Nov 15 00:13:20 +0000 2023"], "%a %b %d %H:%M:%S %z %Y"),
        (["2023-11-14 22:13:20", "2023-11-15"], "iso"),
    ],
)
def test_usual_ways_of_writing_times_are_detected_below_a_header_of_usual_names(
    times: list[str], unit: str, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("source,target,time\n" + "".join(f"ann{k},bob{k},{t}\n" for k, t in enumerate(times)))
    settings = guess(tmp_path / "log")
    assert (settings.has_column_names, settings.timestamp_unit, settings.columns.timestamp) == (True, unit, "time")


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("638355968000000000", "look like ticks of .NET"),
        ("1,700,000,000", "cannot be read. Say how to read them"),
        ("11/12/2023 10:13", "can be read in two ways.* --unit '%m/%d/%Y %H:%M' .* --unit '%d/%m/%Y %H:%M'"),
    ],
)
def test_times_that_cannot_be_told_are_asked_for(time: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f'source;target;time\nann;bob;"{time}"\nbob;ann;"{time}"\n')
    with pytest.raises(CallError, match=message):
        guess(tmp_path / "log")
    assert guess(tmp_path / "log", unit="s").timestamp_unit == "s"
