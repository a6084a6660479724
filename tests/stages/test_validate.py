"""Stage validate: valid logs in every format, rejected rows, and logs that are refused without partial outputs."""

from __future__ import annotations

import errno
import gzip
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from befriend import files
from befriend.data.columns import REASON
from befriend.data.event_log import EventLog
from befriend.errors import BefriendError, DataError, SettingsError, SourceError, StorageError
from befriend.readers.chunk import raise_damaged
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import find_files
from befriend.stages import validate
from befriend.stages.validate import ValidateResult
from befriend.validation.ingest import ingest
from befriend.validation.rejected_rows import RejectedWriter
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import validate_log

COLUMNS = {"actor_id": 1, "action": 2, "target_id": 3, "timestamp": 4}


class Project:
    """A folder in which to run the stage."""

    def __init__(self, root: Path):
        self.root, self.prepared, self.reports = root, root / "prepared", root / "reports"

    def run(self, source: Path, rules: dict[str, Any] | None = None, **data: Any) -> ValidateResult:
        return validate_log(DataSettings(**data), ValidateSettings(**rules or {}), source, self.prepared, self.reports)

    def run_and_fail(self, source: Path, rules: dict[str, Any] | None = None, **data: Any) -> str:
        """Runs the stage, which must fail without writing a log; returns the error message."""
        with pytest.raises(BefriendError) as error:
            self.run(source, rules, **data)
        assert error.value.exit_code in (1, 2)
        assert not (self.prepared / "events.parquet").exists()
        assert not (self.prepared / "users.parquet").exists()
        assert not list(self.root.rglob("*.tmp"))
        return str(error.value)

    def rejected(self) -> dict[int, str]:
        """Row number -> reason."""
        table = pl.read_parquet(self.prepared / "rejected.parquet")
        return dict(table.select("row", REASON).iter_rows())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def write_text(path: Path, table: pl.DataFrame, separator: str = ",", header: bool = True, end: str = "\n") -> Path:
    path.write_text(table.write_csv(separator=separator, include_header=header, line_terminator=end))
    return path


FORMATS: dict[str, tuple[Callable[[Path, pl.DataFrame], Any], dict[str, Any]]] = {
    "parquet folder": (lambda p, t: (p.mkdir(), t[:200].write_parquet(p / "a.pq"), t[200:].write_parquet(p / "b.pq")), {}),
    "partitioned parquet": (lambda p, t: t.write_parquet(pl.PartitionBy(p, key="action", include_key=False)), {}),
    "partitioned parquet with its key": (lambda p, t: t.write_parquet(pl.PartitionBy(p, key="action")), {}),
    "csv": (write_text, {"format": "csv"}),
    "csv with CRLF and BOM": (
        lambda p, t: p.write_bytes(b"\xef\xbb\xbf" + t.write_csv(line_terminator="\r\n").encode()),
        {"format": "csv"},
    ),
    "quoted csv": (lambda p, t: p.write_text(t.write_csv(quote_style="always")), {"format": "csv"}),
    "tsv without header": (
        lambda p, t: write_text(p, t, "\t", header=False),
        {"format": "csv", "separator": "\t", "columns": COLUMNS},
    ),
    "gzip": (lambda p, t: p.write_bytes(gzip.compress(t.write_csv().encode())), {"format": "csv"}),
    "zstd": (lambda p, t: p.write_bytes(pa.compress(t.write_csv().encode(), "zstd", asbytes=True)), {"format": "csv"}),
    "white space with comments": (
        lambda p, t: p.write_text("# actor action target time\n" + t.write_csv(separator=" ", include_header=False)),
        {"format": "whitespace", "columns": COLUMNS},
    ),
    "one file per action": (
        lambda p, t: [p.mkdir()]
        + [
            (p / f"{action}.txt").write_text(
                part.drop("action").write_csv(separator=" ", include_header=False)
            )
            for (action,), part in t.group_by("action")
        ],
        {
            "format": "whitespace",
            "columns": {"actor_id": 1, "action": None, "target_id": 2, "timestamp": 3},
            "action_from_file_name": True,
        },
    ),
    "milliseconds": (
        lambda p, t: t.with_columns(pl.col("timestamp") * 1000 + 1).write_parquet(p),
        {"timestamp_unit": "ms"},
    ),
    "ISO text": (
        lambda p, t: write_text(p, t.with_columns(pl.from_epoch("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S+00:00"))),
        {"format": "csv", "timestamp_unit": "iso"},
    ),
    "datetime column": (
        lambda p, t: t.with_columns(pl.from_epoch("timestamp").dt.replace_time_zone("UTC")).write_parquet(p),
        {"timestamp_unit": "iso"},
    ),
    "float ids": (lambda p, t: t.with_columns(pl.col("actor_id").cast(pl.Float64)).write_parquet(p), {}),
    "other names": (
        lambda p, t: t.rename({"actor_id": "src", "target_id": "dst"}).write_parquet(p),
        {"columns": {"actor_id": "src", "target_id": "dst"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_give_the_same_events(name: str, tmp_path: Path, raw_events: pl.DataFrame) -> None:
    # Timestamps are unique, since events of the same second are in file order, which depends on the format.
    raw = raw_events.unique("timestamp").sort("timestamp")
    raw.write_parquet(tmp_path / "plain")
    write, settings = FORMATS[name]
    write(tmp_path / "log", raw)
    expected, ingested = (
        ingest(tmp_path / source, DataSettings(**options), ValidateSettings(), RejectedWriter(tmp_path / "rejected"))
        for source, options in (("plain", {}), ("log", settings))
    )
    assert ingested.rejected_by_reason == {}
    assert ingested.events.equals(expected.events)
    assert ingested.users.equals(expected.users)


def test_internal_ids_are_in_order_of_first_events(project: Project) -> None:
    table = pl.DataFrame(
        {"actor_id": ["c", "a", "c"] * 10, "action": "x", "target_id": ["b", "c", "b"] * 10, "timestamp": range(30)}
    )
    table.write_parquet(project.root / "log")
    project.run(project.root / "log", id_type="string", roles={})
    users = pl.read_parquet(project.prepared / "users.parquet")
    assert users["user_id"].to_list() == ["b", "c", "a"]  # b and c have their first event in the same second
    assert users.row(1, named=True) == {
        "user": 1, "user_id": "c", "first_seen": 0, "last_seen": 29, "events_done": 20, "events_received": 10, "degree": 2,
        "opted_out": False,
    }  # fmt: skip


@pytest.mark.system
@pytest.mark.usefixtures("pictures")
def test_a_second_run_gives_the_same_bytes(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")

    def outputs() -> dict[str, str]:
        source = project.root / "log"
        data = DataSettings(roles={"view": "signal"})
        validate.run(data, ValidateSettings(), source, project.prepared, project.reports)
        output_files = [
            *project.prepared.iterdir(),
            *(project.reports / "validation").iterdir(),
            project.reports / "validation.json",
        ]
        return {path.name: files.sha256(path) for path in output_files}

    first_outputs = outputs()
    assert list((project.reports / "data_docs").rglob("index.html"))
    assert set(first_outputs) == {
        "events.parquet", "users.parquet", "attributes.parquet", "texts.parquet", "statements.parquet",
        "rejected.parquet", "split.json", "validation.json", "report.md", "log.png", "events_by_month.csv", "vega.js",
    }  # fmt: skip
    assert outputs() == first_outputs


def test_a_later_log_keeps_the_internal_ids_of_an_earlier_one(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events[200:].write_parquet(project.root / "late")
    project.run(project.root / "late")
    earlier = EventLog.read(project.prepared)
    (project.prepared / "users.parquet").rename(project.root / "users.parquet")
    raw_events.write_parquet(project.root / "all")
    project.run(project.root / "all", {"previous_users": project.root / "users.parquet"})
    later = EventLog.read(project.prepared)
    assert later.user_ids[: earlier.num_users].to_list() == earlier.user_ids.to_list()
    assert later.lineage(earlier.num_users) == earlier.lineage()
    project.run(project.root / "all")
    assert EventLog.read(project.prepared).lineage(earlier.num_users) != earlier.lineage()


def test_previous_users_must_not_be_an_output(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    with pytest.raises(SettingsError, match="Copy the file elsewhere"):
        project.run(project.root / "log", {"previous_users": project.prepared / "users.parquet"})
    assert (project.prepared / "users.parquet").is_file()


def test_users_of_an_earlier_log_without_events_are_not_counted(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    metrics = files.read_json(project.reports / "validation.json")
    other_events = raw_events.with_columns(pl.col("actor_id") + 500, pl.col("target_id") + 500)
    other_events.write_parquet(project.root / "others")
    project.run(project.root / "others")
    (project.prepared / "users.parquet").rename(project.root / "users.parquet")
    project.run(project.root / "log", {"previous_users": project.root / "users.parquet"})
    assert files.read_json(project.reports / "validation.json") == metrics
    assert EventLog.read(project.prepared).num_users == 2 * metrics["users"]


# --- rejected rows, fewer than the share that fails the stage


def test_rejected_rows_are_written_unchanged_with_row_number_and_reason(
    project: Project, raw_events: pl.DataFrame
) -> None:
    valid_lines = raw_events.write_csv().encode().splitlines()
    too_late = int(datetime(2031, 1, 1, tzinfo=UTC).timestamp())
    invalid_lines = {
        b"x,message,2,1600000000": "actor_id_type",
        b",message,2,1600000000": "actor_id_empty",
        b"1,message,,1600000000": "target_id_empty",
        b"1,message,2.5,1600000000": "target_id_type",
        b"1,,2,1600000000": "action_empty",
        b"1,poke,2,1600000000": "action_unknown",
        b"1,message,2,": "timestamp_empty",
        b"1,message,2,noon": "timestamp_type",
        b"1,message,2,-5": "timestamp_negative",
        b"1,message,2,1600000000000": "timestamp_unit",
        f"1,message,2,{too_late}".encode(): "timestamp_later",
        b"1,message,2": "ragged_row",
        b"1,message,2,1600000000,9": "ragged_row",
        b'1,"message,2,1600000000': "unclosed_quote",
        b"1,mess\xffage,2,1600000000": "invalid_utf8",
    }
    lines = [*valid_lines[:5], *invalid_lines, *valid_lines[5:]]
    (project.root / "log").write_bytes(b"\n".join(lines) + b"\n")
    rules = {"max_rejected": 0.1, "latest": "2030-01-01"}
    result = project.run(project.root / "log", rules, format="csv", actions=["message", "view"])
    assert (result.num_rows_read, result.num_rejected_rows) == (len(lines) - 1, len(invalid_lines))
    table = pl.read_parquet(project.prepared / "rejected.parquet")
    assert table["reason"].to_list() == list(invalid_lines.values())
    assert table["row"].to_list() == list(range(6, 6 + len(invalid_lines)))  # lines of the file, header included
    assert table["raw"].to_list() == [line.decode(errors="backslashreplace") for line in invalid_lines]
    assert table["file"].unique().to_list() == ["log"]
    metrics = files.read_json(project.reports / "validation.json")
    assert sum(metrics["rejected_by_reason"].values()) == len(invalid_lines)
    assert (
        metrics["rows"]["events"] + metrics["rows"]["rejected"] + metrics["rows"]["self_loops"]
        == metrics["rows"]["read"]
    )


def test_rejected_rows_of_a_parquet_file_are_written_as_json(project: Project, raw_events: pl.DataFrame) -> None:
    raw = raw_events.with_columns(pl.col("actor_id").cast(pl.String)).with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("eve")).otherwise("actor_id").alias("actor_id"),
        pl.when(pl.int_range(pl.len()) == 5).then(None).otherwise("timestamp").alias("timestamp"),
    )
    raw.write_parquet(project.root / "log")
    project.run(project.root / "log", {"max_rejected": 0.1})
    table = pl.read_parquet(project.prepared / "rejected.parquet")
    assert project.rejected() == {4: "actor_id_type", 6: "timestamp_empty"}
    assert table["raw"][0].startswith('{"actor_id": "eve", "action": "')


def test_self_loops_are_counted_but_not_rejected(project: Project, raw_events: pl.DataFrame) -> None:
    loops = raw_events[:30].with_columns(target_id="actor_id")
    pl.concat([raw_events, loops]).write_parquet(project.root / "log")
    result = project.run(project.root / "log")
    assert (result.num_rows_read, result.num_rejected_rows, result.num_events) == (
        raw_events.height + 30,
        0,
        raw_events.height,
    )
    assert files.read_json(project.reports / "validation.json")["rows"]["self_loops"] == 30


@pytest.mark.parametrize(("duplicates", "num_kept"), [("keep", 7), ("drop", 0)])
def test_exact_duplicates_are_counted_and_dropped_only_if_the_setting_says_so(
    duplicates: str, num_kept: int, project: Project, raw_events: pl.DataFrame
) -> None:
    unique_events = raw_events.unique()
    pl.concat([unique_events, unique_events[:7]]).write_parquet(project.root / "log")
    result = project.run(project.root / "log", {"duplicates": duplicates})
    assert result.num_events == unique_events.height + num_kept
    assert files.read_json(project.reports / "validation.json")["rows"]["duplicates"] == 7


# --- logs that are refused


def test_too_many_rejected_rows_fail_with_the_rule_and_five_examples(
    project: Project, raw_events: pl.DataFrame
) -> None:
    raw_events.with_columns(pl.col("timestamp") * 1000).write_parquet(project.root / "log")
    text = project.run_and_fail(project.root / "log")
    assert "rejected_share: found 1.0, allowed at most 0.01" in text
    assert "set data.timestamp_unit: ms" in text
    assert text.count("(timestamp_unit)") == 5
    assert len(project.rejected()) == raw_events.height
    assert "Event log: refused" in (project.reports / "validation" / "report.md").read_text()
    assert not files.read_json(project.reports / "validation.json")["passed"]


def test_unknown_actions_are_named(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    text = project.run_and_fail(project.root / "log", actions=["message"])
    assert "not listed in data.actions" in text
    assert "The log also has: view" in text


def test_the_error_for_a_missing_column_names_all_columns(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.rename({"target_id": "whom"}).write_parquet(project.root / "log")
    expected = "has no column target_id (data.columns.target_id). It has: actor_id, action, whom, timestamp"
    assert expected in project.run_and_fail(project.root / "log")
    write_text(project.root / "csv", raw_events.rename({"target_id": "whom"}))
    assert expected in project.run_and_fail(project.root / "csv", format="csv")
    write_text(project.root / "snap", raw_events, " ", header=False)
    columns = COLUMNS | {"timestamp": 5}
    assert "has 4 columns" in project.run_and_fail(project.root / "snap", format="whitespace", columns=columns)


def test_an_empty_log_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events[:0].write_parquet(project.root / "table")
    assert "The log is empty" in project.run_and_fail(project.root / "table")
    write_text(project.root / "header", raw_events[:0])
    assert "The log is empty" in project.run_and_fail(project.root / "header", format="csv")
    (project.root / "nothing").write_bytes(b"")
    assert "The log is empty" in project.run_and_fail(project.root / "nothing", format="csv")
    assert "The log is empty" in project.run_and_fail(project.root / "nothing", format="whitespace", columns=COLUMNS)
    (project.root / "folder").mkdir()
    assert "folder without files" in project.run_and_fail(project.root / "folder")


def test_a_log_of_one_user_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.with_columns(actor_id=1, target_id=1).write_parquet(project.root / "log")
    assert "only self-loops" in project.run_and_fail(project.root / "log")


def test_a_log_without_events_in_a_part_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.with_columns(timestamp=1_600_000_000).write_parquet(project.root / "log")
    assert "train_events: found 0" in project.run_and_fail(project.root / "log")
    views = raw_events.with_columns(action=pl.lit("view"))
    views.write_parquet(project.root / "views")
    assert "validation_contacts: found 0" in project.run_and_fail(project.root / "views", roles={"view": "signal"})


def test_a_truncated_file_is_an_error(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    content = (project.root / "log").read_bytes()
    (project.root / "log").write_bytes(content[: len(content) // 2])
    assert "not a readable Parquet file" in project.run_and_fail(project.root / "log")
    compressed = gzip.compress(raw_events.write_csv().encode())
    (project.root / "gz").write_bytes(compressed[: len(compressed) // 2])
    assert "cannot be decompressed to its end" in project.run_and_fail(project.root / "gz", format="csv")


def test_a_damaged_parquet_file_is_an_error(project: Project, raw_events: pl.DataFrame) -> None:
    pq.write_table(raw_events.to_arrow(), project.root / "log", compression="gzip", use_dictionary=False)
    content = bytearray((project.root / "log").read_bytes())
    content[40:140] = bytes(100)
    (project.root / "log").write_bytes(bytes(content))
    assert "is damaged" in project.run_and_fail(project.root / "log")


def test_a_disk_error_is_not_reported_as_a_damaged_file() -> None:
    with pytest.raises(StorageError, match="the disk reports an error"):
        raise_damaged(OSError(errno.EIO, "Input/output error"), "log.csv is damaged")
    with pytest.raises(DataError, match=r"log.csv is damaged: Corrupt snappy compressed data"):
        raise_damaged(OSError("Corrupt snappy compressed data"), "log.csv is damaged")


def test_a_file_of_another_format_than_the_setting_is_an_error(project: Project, raw_events: pl.DataFrame) -> None:
    write_text(project.root / "csv", raw_events)
    assert "csv is no Parquet file, as data.format says" in project.run_and_fail(project.root / "csv")
    raw_events.write_parquet(project.root / "pq")
    assert "set data.format: parquet" in project.run_and_fail(project.root / "pq", format="csv")


def test_a_column_of_an_unusable_type_is_named_in_the_error(project: Project, raw_events: pl.DataFrame) -> None:
    for expression in (
        pl.struct("actor_id"),
        pl.concat_list("actor_id"),
        pl.col("actor_id") > 3,
        pl.duration(days="actor_id"),
    ):
        raw_events.with_columns(expression.alias("actor_id")).write_parquet(project.root / "log")
        assert "the column actor_id of log holds" in project.run_and_fail(project.root / "log", id_type="string")


def test_other_columns_may_have_any_type_and_are_written_with_a_rejected_row(
    project: Project, raw_events: pl.DataFrame
) -> None:
    events = raw_events.with_columns(
        pl.lit(b"\xff\x00").alias("blob"), pl.struct("actor_id").alias("nested"), pl.lit(None).alias("nothing")
    )
    events = events.with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(-5).otherwise("timestamp").alias("timestamp")
    )
    events.write_parquet(project.root / "log")
    project.run(project.root / "log", {"max_rejected": 0.1})
    assert project.rejected() == {4: "timestamp_negative"}
    assert '"nested": {"actor_id":' in pl.read_parquet(project.prepared / "rejected.parquet")["raw"][0]


def test_the_time_zone_of_a_datetime_column_does_not_change_timestamps(
    project: Project, raw_events: pl.DataFrame
) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    expected = (project.prepared / "events.parquet").read_bytes()
    zoned = pl.from_epoch("timestamp").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kathmandu")
    raw_events.with_columns(zoned).write_parquet(project.root / "log")
    project.run(project.root / "log", timestamp_unit="iso")
    assert (project.prepared / "events.parquet").read_bytes() == expected


def test_different_ids_are_never_merged(project: Project, raw_events: pl.DataFrame) -> None:
    text = raw_events.write_csv()
    (project.root / "log").write_text(text + "007,message,+8,1608640001\n")
    project.run(project.root / "log", {"max_rejected": 0.1}, format="csv")
    assert list(project.rejected().values()) == ["actor_id_type"]


@pytest.mark.parametrize("spelling", [" {}", "{}.0", "'{}'", "\ufeff{}"])
def test_ids_that_an_export_spelled_differently_on_one_side_are_the_same_users(
    spelling: str, project: Project, raw_events: pl.DataFrame
) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log", id_type="string")
    expected = (project.prepared / "users.parquet").read_bytes(), (project.prepared / "events.parquet").read_bytes()
    table = raw_events.with_columns(pl.format(spelling, "actor_id").alias("actor_id")).cast({"target_id": pl.String})
    table.write_parquet(project.root / "log")
    project.run(project.root / "log", id_type="string")
    assert expected == (
        (project.prepared / "users.parquet").read_bytes(),
        (project.prepared / "events.parquet").read_bytes(),
    )


def test_events_within_a_second_are_in_the_order_of_its_fractions_and_no_duplicates(project: Project) -> None:
    rows = [(1, 2, 1_700_000_000_700), (2, 1, 1_700_000_000_100), (1, 2, 1_700_000_000_100), (1, 2, 1_700_000_000_100)]
    rows += [(3, k, 1_700_000_000_000 + 10**6 * k) for k in range(4, 40)]
    text = "actor_id,action,target_id,timestamp\n" + "".join(f"{a},m,{b},{t}\n" for a, b, t in rows)
    (project.root / "log").write_text(text)
    project.run(project.root / "log", {"duplicates": "drop"}, format="csv", timestamp_unit="ms")
    events, users = (pl.read_parquet(project.prepared / name) for name in ("events.parquet", "users.parquet"))
    first = events.filter(pl.col("timestamp") == 1_700_000_000).select(
        users["user_id"].gather(events["actor_id"].head(3).cast(pl.UInt32))
    )
    assert first["user_id"].to_list() == [2, 1, 1]


def test_timestamps_may_have_a_fraction_of_zeros(project: Project, raw_events: pl.DataFrame) -> None:
    write_text(project.root / "log", raw_events.with_columns(pl.format("{}.0", "timestamp").alias("timestamp")))
    assert project.run(project.root / "log", format="csv").num_rejected_rows == 0


def test_more_than_255_actions_are_refused(project: Project, raw_events: pl.DataFrame) -> None:
    many_actions = raw_events.with_columns(pl.format("act{}", pl.int_range(pl.len())).alias("action"))
    many_actions.write_parquet(project.root / "log")
    assert "more than 255 different actions" in project.run_and_fail(project.root / "log")


def test_a_role_without_events_gives_a_warning(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    warnings = project.run(project.root / "log", roles={"veiw": "signal"}).warnings
    assert any(warning.startswith("roles_without_events: found 1") for warning in warnings)


def test_linked_folders_are_read_and_broken_links_are_errors(project: Project, raw_events: pl.DataFrame) -> None:
    folder, elsewhere = project.root / "log", project.root / "elsewhere"
    for path in (folder, elsewhere):
        path.mkdir()
    raw_events[:100].write_parquet(folder / "a")
    raw_events[100:].write_parquet(elsewhere / "b")
    (folder / "linked").symlink_to(elsewhere)
    assert project.run(folder).num_rows_read == raw_events.height
    (folder / "broken").symlink_to(project.root / "nowhere")
    assert "is a link to nowhere" in project.run_and_fail(folder)


def test_a_file_with_several_links_is_read_once(project: Project, raw_events: pl.DataFrame) -> None:
    folder, elsewhere = project.root / "folder", project.root / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    raw_events[:150].write_parquet(folder / "sub" / "one")
    raw_events[150:300].write_parquet(folder / "two")
    raw_events[300:].write_parquet(elsewhere)
    (folder / "a_link_to_two").symlink_to("two")
    (folder / "latest").symlink_to("sub")
    for name in ("linked", "linked_again"):
        (folder / name).symlink_to(elsewhere)
    assert [file.name for file in find_files(DataSettings(), folder)] == ["linked", "one", "two"]
    assert project.run(folder).num_events == raw_events.height
    (folder / "users.csv").write_text("user_id,town\n1,Bern\n")
    (folder / "copy.csv").symlink_to("users.csv")
    settings = DataSettings(attributes={"file": "users.csv", "categorical": ["town"]})
    assert [file.name for file in find_files(settings, folder)] == ["linked", "one", "two"]


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("again", ".", "folder/again in the event log leads back to .*/folder, which contains it"),
        ("sub/up", "../..", "folder/sub/up in the event log leads back to .*, which contains it"),
        (
            "sub/other",
            "../third",
            "folder/sub/other/back in the event log leads back to .*/folder/sub, which contains it",
        ),
        ("itself", "itself", "folder/itself in the event log is a link that leads to itself"),
    ],
)
def test_a_loop_of_links_is_an_error_with_its_path(
    link: str, target: str, message: str, project: Project, raw_events: pl.DataFrame
) -> None:
    folder = project.root / "folder"
    (folder / "sub").mkdir(parents=True)
    raw_events.write_parquet(folder / "log")
    if link == "sub/other":
        (folder / "third").mkdir()
        (folder / "third" / "back").symlink_to("../sub")
    (folder / link).symlink_to(target)
    with pytest.raises(SourceError, match=message):
        find_files(DataSettings(), folder)


def test_corrupt_compressed_text_and_lines_that_end_in_cr_are_errors(
    project: Project, raw_events: pl.DataFrame
) -> None:
    compressed = bytearray(gzip.compress(raw_events.write_csv().encode()))
    compressed[200:260] = bytes(60)
    (project.root / "gz").write_bytes(bytes(compressed))
    assert "cannot be decompressed to its end" in project.run_and_fail(project.root / "gz", format="csv")
    (project.root / "mac").write_text(raw_events.write_csv(line_terminator="\r"), newline="")
    assert "end in CR alone" in project.run_and_fail(project.root / "mac", format="csv")


def test_a_header_that_names_a_column_twice_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    (project.root / "log").write_text("actor_id,action,target_id,timestamp,actor_id\n1,a,2,3,4\n")
    assert "more than one column named actor_id" in project.run_and_fail(project.root / "log", format="csv")


def test_fewer_rejected_rows_than_the_limit_never_fail_the_stage(project: Project, raw_events: pl.DataFrame) -> None:
    """Not even if every sampled row is rejected: the critical rule is on the share of all rows."""
    rows = (
        pl.concat([raw_events] * 20)
        .sort("timestamp")
        .with_columns(pl.when(pl.int_range(pl.len()) % 128 == 0).then(None).otherwise("actor_id").alias("actor_id"))
    )
    rows.write_parquet(project.root / "log")
    result = project.run(project.root / "log", {"checked_rows": 1000, "max_duplicates": 1})
    assert result.num_rejected_rows == -(-rows.height // 128)


def test_datetimes_with_a_unit_of_seconds_are_refused(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.with_columns(pl.from_epoch("timestamp")).write_parquet(project.root / "log")
    assert "Set data.timestamp_unit: iso" in project.run_and_fail(project.root / "log")


def test_a_missing_source_is_an_error(project: Project) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        project.run(project.root / "nowhere")
    assert list(project.root.rglob("*.parquet")) == []


def test_a_log_without_read_permission_is_an_error(raw_events: pl.DataFrame) -> None:
    with tempfile.TemporaryDirectory() as name:  # other users cannot open pytest's folders
        project = Project(Path(name))
        project.root.chmod(0o777)
        raw_events.write_parquet(project.root / "log")
        (project.root / "log").chmod(0)
        message = run_without_root(lambda: project.run(project.root / "log"))
        assert "may not be read by this user" in message
        assert not (project.prepared / "events.parquet").exists()


def run_without_root(work: Callable[[], Any]) -> str:
    """The message of the SourceError of `work` in a child process without root privileges."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        text = "no error"
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            work()
        except SourceError as error:
            text = str(error)
        except BaseException as error:
            text = f"unexpected {error!r}"
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with os.fdopen(read_end) as pipe:
        return pipe.read()


def test_a_refused_log_removes_the_tables_of_an_earlier_one(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    raw_events[:0].write_parquet(project.root / "log")
    project.run_and_fail(project.root / "log")


@pytest.mark.parametrize(
    ("source", "rules", "data", "message"),
    [
        ("nowhere", {}, {}, "the event log .* does not exist"),
        ("log", {"previous_users": Path("nowhere")}, {}, "previous_users names nowhere, which does not exist"),
        ("folder", {}, {"texts": {"file": "texts.parquet"}}, "names texts.parquet, but there is no such file"),
        ("empty", {}, {}, "is a folder without files"),
    ],
    ids=["log", "previous users", "table of texts", "folder"],
)
def test_missing_inputs_leave_all_outputs_unchanged(
    source: str, rules: dict[str, Any], data: dict[str, Any], message: str, project: Project, raw_events: pl.DataFrame
) -> None:
    for name in ("folder", "empty"):
        (project.root / name).mkdir()
    for name in ("log", "folder/log"):
        raw_events.write_parquet(project.root / name)
    project.run(project.root / "log")
    before = {path: files.sha256(path) for path in project.root.rglob("*") if path.is_file()}
    with pytest.raises(BefriendError, match=message):
        project.run(project.root / source, rules, **data)
    assert {path: files.sha256(path) for path in project.root.rglob("*") if path.is_file()} == before


def test_a_prepared_log_that_breaks_its_contract_is_an_error(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    path = project.prepared / "events.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    with pytest.raises(DataError, match="in time order"):
        EventLog.read(project.prepared)


def test_warnings_do_not_fail_the_stage(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    result = project.run(project.root / "log", {"min_days": 1000})
    assert [warning.split(":")[0] for warning in result.warnings] == ["days"]
    rules = files.read_json(project.reports / "validation.json")["rules"]
    assert rules["days"] == {
        "severity": "warning",
        "passed": False,
        "observed": rules["days"]["observed"],
        "limit": "at least 1000.0",
    }


def test_a_unit_finer_than_that_of_the_timestamps_gives_a_warning(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    warnings = project.run(project.root / "log", timestamp_unit="ms").warnings
    assert any("is data.timestamp_unit finer than its timestamps?" in warning for warning in warnings)


def test_rules_on_rows_are_checked_on_a_sample_of_a_long_log(project: Project, raw_events: pl.DataFrame) -> None:
    pl.concat([raw_events] * 20).sort("timestamp").write_parquet(project.root / "log")
    project.run(project.root / "log", {"checked_rows": 1000, "max_duplicates": 1})
    assert "checked on every 8th row" in (project.reports / "validation" / "report.md").read_text()
