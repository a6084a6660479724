"""Stage validate on sound logs in every format, and on every kind of bad one: nothing is lost, nothing half-written."""

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
from befriend.validation.rejected import RejectedWriter
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import validate_log

COLUMNS = {"actor_id": 1, "action": 2, "target_id": 3, "timestamp": 4}


class Project:
    """A folder to run the stage in."""

    def __init__(self, root: Path):
        self.root, self.prepared, self.reports = root, root / "prepared", root / "reports"

    def run(self, source: Path, rules: dict[str, Any] | None = None, **data: Any) -> ValidateResult:
        return validate_log(DataSettings(**data), ValidateSettings(**rules or {}), source, self.prepared, self.reports)

    def refuse(self, source: Path, rules: dict[str, Any] | None = None, **data: Any) -> str:
        """The message of a run that must fail without writing a log."""
        with pytest.raises(BefriendError) as error:
            self.run(source, rules, **data)
        assert error.value.exit_code in (1, 2)
        assert not (self.prepared / "events.parquet").exists()
        assert not (self.prepared / "users.parquet").exists()
        assert not list(self.root.rglob("*.tmp"))
        return str(error.value)

    def rejected(self) -> dict[int, str]:
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
        {"format": "csv", "separator": "\t", "header": False, "columns": COLUMNS},
    ),
    "gzip": (lambda p, t: p.write_bytes(gzip.compress(t.write_csv().encode())), {"format": "csv"}),
    "zstd": (lambda p, t: p.write_bytes(pa.compress(t.write_csv().encode(), "zstd", asbytes=True)), {"format": "csv"}),
    "white space with comments": (
        lambda p, t: p.write_text("# who what whom when\n" + t.write_csv(separator=" ", include_header=False)),
        {"format": "whitespace", "columns": COLUMNS},
    ),
    "one file an action": (
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
def test_every_format_gives_the_same_events(name: str, tmp_path: Path, raw_events: pl.DataFrame) -> None:
    # One order of equal seconds for all: files split by action would else order them differently.
    raw = raw_events.unique("timestamp").sort("timestamp")
    raw.write_parquet(tmp_path / "plain")
    write, settings = FORMATS[name]
    write(tmp_path / "log", raw)
    plain, same = (
        ingest(tmp_path / source, DataSettings(**chosen), ValidateSettings(), RejectedWriter(tmp_path / "rejected"))
        for source, chosen in (("plain", {}), ("log", settings))
    )
    assert same.rejected == {}
    assert same.events.equals(plain.events)
    assert same.users.equals(plain.users)


def test_users_are_numbered_by_first_event_and_described(project: Project) -> None:
    table = pl.DataFrame(
        {"actor_id": ["c", "a", "c"] * 10, "action": "x", "target_id": ["b", "c", "b"] * 10, "timestamp": range(30)}
    )
    table.write_parquet(project.root / "log")
    project.run(project.root / "log", id_type="string", roles={})
    users = pl.read_parquet(project.prepared / "users.parquet")
    assert users["user_id"].to_list() == ["b", "c", "a"]  # b and c share the first second
    assert users.row(1, named=True) == {
        "user": 1, "user_id": "c", "first_seen": 0, "last_seen": 29, "events_done": 20, "events_received": 10, "degree": 2,
        "opted_out": False,
    }  # fmt: skip


def test_a_second_run_gives_the_same_bytes(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")

    def outputs() -> dict[str, str]:
        source = project.root / "log"
        data = DataSettings(roles={"view": "signal"})
        validate.run(data, ValidateSettings(), source, project.prepared, project.reports)
        found = [
            *project.prepared.iterdir(),
            *(project.reports / "validation").iterdir(),
            project.reports / "validation.json",
        ]
        return {path.name: files.sha256(path) for path in found}

    first = outputs()
    assert list((project.reports / "data_docs").rglob("index.html"))
    assert set(first) == {
        "events.parquet", "users.parquet", "attributes.parquet", "texts.parquet", "statements.parquet",
        "rejected.parquet", "split.json", "validation.json", "report.md", "log.png", "events_by_month.csv",
    }  # fmt: skip
    assert outputs() == first


def test_a_later_log_extends_the_numbers_of_an_earlier_one(project: Project, raw_events: pl.DataFrame) -> None:
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


def test_the_earlier_map_may_not_be_the_one_that_is_written(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    with pytest.raises(SettingsError, match="Copy the file elsewhere"):
        project.run(project.root / "log", {"previous_users": project.prepared / "users.parquet"})
    assert (project.prepared / "users.parquet").is_file()


def test_users_of_an_earlier_log_who_are_absent_do_not_count(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    alone = files.read_json(project.reports / "validation.json")
    others = raw_events.with_columns(pl.col("actor_id") + 500, pl.col("target_id") + 500)
    others.write_parquet(project.root / "others")
    project.run(project.root / "others")
    (project.prepared / "users.parquet").rename(project.root / "users.parquet")
    project.run(project.root / "log", {"previous_users": project.root / "users.parquet"})
    assert files.read_json(project.reports / "validation.json") == alone
    assert EventLog.read(project.prepared).num_users == 2 * alone["users"]


# --- bad rows: kept with their reason, below the share that fails the stage


def test_every_bad_row_is_kept_as_it_was_with_its_place_and_reason(project: Project, raw_events: pl.DataFrame) -> None:
    good = raw_events.write_csv().encode().splitlines()
    later = int(datetime(2031, 1, 1, tzinfo=UTC).timestamp())
    bad = {
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
        f"1,message,2,{later}".encode(): "timestamp_later",
        b"1,message,2": "ragged_row",
        b"1,message,2,1600000000,9": "ragged_row",
        b'1,"message,2,1600000000': "ragged_row",
        b"1,mess\xffage,2,1600000000": "invalid_utf8",
    }
    lines = [*good[:5], *bad, *good[5:]]
    (project.root / "log").write_bytes(b"\n".join(lines) + b"\n")
    rules = {"max_rejected": 0.1, "latest": "2030-01-01"}
    result = project.run(project.root / "log", rules, format="csv", actions=["message", "view"])
    assert (result.read, result.rejected) == (len(lines) - 1, len(bad))
    table = pl.read_parquet(project.prepared / "rejected.parquet")
    assert table["reason"].to_list() == list(bad.values())
    assert table["row"].to_list() == list(range(6, 6 + len(bad)))  # lines of the file, header included
    assert table["raw"].to_list() == [line.decode(errors="backslashreplace") for line in bad]
    assert table["file"].unique().to_list() == ["log"]
    facts = files.read_json(project.reports / "validation.json")
    assert sum(facts["rejected_by_reason"].values()) == len(bad)
    assert facts["rows"]["events"] + facts["rows"]["rejected"] + facts["rows"]["self_loops"] == facts["rows"]["read"]


def test_bad_rows_of_a_table_are_kept_as_json(project: Project, raw_events: pl.DataFrame) -> None:
    raw = raw_events.with_columns(pl.col("actor_id").cast(pl.String)).with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("eve")).otherwise("actor_id").alias("actor_id"),
        pl.when(pl.int_range(pl.len()) == 5).then(None).otherwise("timestamp").alias("timestamp"),
    )
    raw.write_parquet(project.root / "log")
    project.run(project.root / "log", {"max_rejected": 0.1})
    table = pl.read_parquet(project.prepared / "rejected.parquet")
    assert project.rejected() == {4: "actor_id_type", 6: "timestamp_empty"}
    assert table["raw"][0].startswith('{"actor_id": "eve", "action": "')


def test_self_loops_are_dropped_and_counted_not_refused(project: Project, raw_events: pl.DataFrame) -> None:
    loops = raw_events[:30].with_columns(target_id="actor_id")
    pl.concat([raw_events, loops]).write_parquet(project.root / "log")
    result = project.run(project.root / "log")
    assert (result.read, result.rejected, result.events) == (raw_events.height + 30, 0, raw_events.height)
    assert files.read_json(project.reports / "validation.json")["rows"]["self_loops"] == 30


@pytest.mark.parametrize(("duplicates", "kept"), [("keep", 7), ("drop", 0)])
def test_exact_duplicates_are_counted_and_kept_unless_set_otherwise(
    duplicates: str, kept: int, project: Project, raw_events: pl.DataFrame
) -> None:
    once = raw_events.unique()
    pl.concat([once, once[:7]]).write_parquet(project.root / "log")
    result = project.run(project.root / "log", {"duplicates": duplicates})
    assert result.events == once.height + kept
    assert files.read_json(project.reports / "validation.json")["rows"]["duplicates"] == 7


# --- bad logs: refused with one clear message


def test_too_many_bad_rows_fail_with_rule_count_and_the_first_five(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.with_columns(pl.col("timestamp") * 1000).write_parquet(project.root / "log")
    text = project.refuse(project.root / "log")
    assert "rejected_share: found 1.0, allowed at most 0.01" in text
    assert "set data.timestamp_unit: ms" in text
    assert text.count("(timestamp_unit)") == 5
    assert len(project.rejected()) == raw_events.height
    assert "Event log: refused" in (project.reports / "validation" / "report.md").read_text()
    assert not files.read_json(project.reports / "validation.json")["passed"]


def test_an_unknown_action_is_named(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    text = project.refuse(project.root / "log", actions=["message"])
    assert "not listed in data.actions" in text
    assert "The log also has: view" in text


def test_a_missing_column_names_those_that_are_there(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.rename({"target_id": "whom"}).write_parquet(project.root / "log")
    expected = "has no column target_id (data.columns.target_id). It has: actor_id, action, whom, timestamp"
    assert expected in project.refuse(project.root / "log")
    write_text(project.root / "csv", raw_events.rename({"target_id": "whom"}))
    assert expected in project.refuse(project.root / "csv", format="csv")
    write_text(project.root / "snap", raw_events, " ", header=False)
    places = COLUMNS | {"timestamp": 5}
    assert "has 4 columns" in project.refuse(project.root / "snap", format="whitespace", columns=places)


def test_an_empty_log_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events[:0].write_parquet(project.root / "table")
    assert "The log is empty" in project.refuse(project.root / "table")
    write_text(project.root / "header", raw_events[:0])
    assert "The log is empty" in project.refuse(project.root / "header", format="csv")
    (project.root / "nothing").write_bytes(b"")
    assert "is empty: not even a header line" in project.refuse(project.root / "nothing", format="csv")
    assert "The log is empty" in project.refuse(project.root / "nothing", format="whitespace", columns=COLUMNS)
    (project.root / "folder").mkdir()
    assert "folder without files" in project.refuse(project.root / "folder")


def test_a_log_of_one_user_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.with_columns(actor_id=1, target_id=1).write_parquet(project.root / "log")
    assert "only self-loops" in project.refuse(project.root / "log")


def test_a_log_without_events_in_a_part_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.with_columns(timestamp=1_600_000_000).write_parquet(project.root / "log")
    assert "train_events: found 0" in project.refuse(project.root / "log")
    views = raw_events.with_columns(action=pl.lit("view"))
    views.write_parquet(project.root / "views")
    assert "validation_contacts: found 0" in project.refuse(project.root / "views", roles={"view": "signal"})


def test_a_truncated_file_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    whole = (project.root / "log").read_bytes()
    (project.root / "log").write_bytes(whole[: len(whole) // 2])
    assert "not a readable Parquet file" in project.refuse(project.root / "log")
    packed = gzip.compress(raw_events.write_csv().encode())
    (project.root / "gz").write_bytes(packed[: len(packed) // 2])
    assert "cannot be decompressed to its end" in project.refuse(project.root / "gz", format="csv")


def test_a_parquet_file_damaged_inside_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    pq.write_table(raw_events.to_arrow(), project.root / "log", compression="gzip", use_dictionary=False)
    whole = bytearray((project.root / "log").read_bytes())
    whole[40:140] = bytes(100)
    (project.root / "log").write_bytes(bytes(whole))
    assert "is damaged" in project.refuse(project.root / "log")


def test_a_disk_that_fails_is_not_taken_for_a_damaged_file() -> None:
    with pytest.raises(StorageError, match="the disk reports an error"):
        raise_damaged(OSError(errno.EIO, "Input/output error"), "log.csv is damaged")
    with pytest.raises(DataError, match=r"log.csv is damaged: Corrupt snappy compressed data"):
        raise_damaged(OSError("Corrupt snappy compressed data"), "log.csv is damaged")


def test_text_said_to_be_parquet_and_the_other_way_round(project: Project, raw_events: pl.DataFrame) -> None:
    write_text(project.root / "csv", raw_events)
    assert "not a readable Parquet file" in project.refuse(project.root / "csv")
    raw_events.write_parquet(project.root / "pq")
    assert "Set data.format: parquet" in project.refuse(project.root / "pq", format="csv")


def test_a_column_that_cannot_be_the_field_is_named_with_its_type(project: Project, raw_events: pl.DataFrame) -> None:
    for odd in (
        pl.struct("actor_id"),
        pl.concat_list("actor_id"),
        pl.col("actor_id") > 3,
        pl.duration(days="actor_id"),
    ):
        raw_events.with_columns(odd.alias("actor_id")).write_parquet(project.root / "log")
        assert "the column actor_id of log holds" in project.refuse(project.root / "log", id_type="string")


def test_other_columns_may_hold_anything_and_are_kept_with_a_refused_row(
    project: Project, raw_events: pl.DataFrame
) -> None:
    odd = raw_events.with_columns(
        pl.lit(b"\xff\x00").alias("blob"), pl.struct("actor_id").alias("nested"), pl.lit(None).alias("nothing")
    )
    odd = odd.with_columns(pl.when(pl.int_range(pl.len()) == 3).then(-5).otherwise("timestamp").alias("timestamp"))
    odd.write_parquet(project.root / "log")
    project.run(project.root / "log", {"max_rejected": 0.1})
    assert project.rejected() == {4: "timestamp_negative"}
    assert '"nested": {"actor_id":' in pl.read_parquet(project.prepared / "rejected.parquet")["raw"][0]


def test_a_zone_says_how_a_time_is_shown_not_when_it_was(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    plain = (project.prepared / "events.parquet").read_bytes()
    zoned = pl.from_epoch("timestamp").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kathmandu")
    raw_events.with_columns(zoned).write_parquet(project.root / "log")
    project.run(project.root / "log", timestamp_unit="iso")
    assert (project.prepared / "events.parquet").read_bytes() == plain


def test_ids_are_never_changed_into_one_another(project: Project, raw_events: pl.DataFrame) -> None:
    text = raw_events.write_csv()
    (project.root / "log").write_text(text + "007,message,+8,1608640001\n")
    project.run(project.root / "log", {"max_rejected": 0.1}, format="csv")
    assert list(project.rejected().values()) == ["actor_id_type"]
    spaced = raw_events.with_columns(pl.format(" {}", pl.col("actor_id")).alias("actor_id")).cast(
        {"target_id": pl.String}
    )
    spaced.write_parquet(project.root / "spaced")
    project.run(project.root / "spaced", id_type="string")
    ids = pl.read_parquet(project.prepared / "users.parquet")["user_id"]
    assert {" 1", "1"} <= set(ids)


def test_timestamps_with_a_fraction_of_zeros_are_whole(project: Project, raw_events: pl.DataFrame) -> None:
    write_text(project.root / "log", raw_events.with_columns(pl.format("{}.0", "timestamp").alias("timestamp")))
    assert project.run(project.root / "log", format="csv").rejected == 0


def test_an_id_column_taken_for_the_action_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    many = raw_events.with_columns(pl.format("act{}", pl.int_range(pl.len())).alias("action"))
    many.write_parquet(project.root / "log")
    assert "more than 255 different actions" in project.refuse(project.root / "log")


def test_a_role_without_events_is_warned_of(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    warned = project.run(project.root / "log", roles={"veiw": "signal"}).warnings
    assert any(warning.startswith("roles_without_events: found 1") for warning in warned)


def test_no_part_of_a_folder_is_left_out_silently(project: Project, raw_events: pl.DataFrame) -> None:
    folder, elsewhere = project.root / "log", project.root / "elsewhere"
    for place in (folder, elsewhere):
        place.mkdir()
    raw_events[:100].write_parquet(folder / "a")
    raw_events[100:].write_parquet(elsewhere / "b")
    (folder / "linked").symlink_to(elsewhere)
    assert project.run(folder).read == raw_events.height
    (folder / "broken").symlink_to(project.root / "nowhere")
    assert "is a link to nowhere" in project.refuse(folder)


def test_a_file_counts_once_however_many_links_lead_to_it(project: Project, raw_events: pl.DataFrame) -> None:
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
    assert project.run(folder).events == raw_events.height
    (folder / "people.csv").write_text("user_id,town\n1,Bern\n")
    (folder / "copy.csv").symlink_to("people.csv")
    settings = DataSettings(attributes={"file": "people.csv", "categorical": ["town"]})
    assert [file.name for file in find_files(settings, folder)] == ["linked", "one", "two"]


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("again", ".", "folder/again in the event log leads back to .*/folder, which holds it"),
        ("sub/up", "../..", "folder/sub/up in the event log leads back to .*, which holds it"),
        ("sub/other", "../third", "folder/sub/other/back in the event log leads back to .*/folder/sub, which holds it"),
        ("itself", "itself", "folder/itself in the event log is a link that leads to itself"),
    ],
)
def test_a_loop_of_links_is_refused_by_name(
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


def test_corrupt_compressed_text_and_lines_ending_in_CR(project: Project, raw_events: pl.DataFrame) -> None:
    packed = bytearray(gzip.compress(raw_events.write_csv().encode()))
    packed[200:260] = bytes(60)
    (project.root / "gz").write_bytes(bytes(packed))
    assert "cannot be decompressed to its end" in project.refuse(project.root / "gz", format="csv")
    (project.root / "mac").write_text(raw_events.write_csv(line_terminator="\r"), newline="")
    assert "end in CR alone" in project.refuse(project.root / "mac", format="csv")


def test_a_header_that_names_a_column_twice_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    (project.root / "log").write_text("actor_id,action,target_id,timestamp,actor_id\n1,a,2,3,4\n")
    assert "more than one column named actor_id" in project.refuse(project.root / "log", format="csv")


def test_bad_rows_below_the_limit_never_fail_the_stage(project: Project, raw_events: pl.DataFrame) -> None:
    """Though each sampled row is a bad one: the share that counts is that of all rows."""
    rows = (
        pl.concat([raw_events] * 20)
        .sort("timestamp")
        .with_columns(pl.when(pl.int_range(pl.len()) % 128 == 0).then(None).otherwise("actor_id").alias("actor_id"))
    )
    rows.write_parquet(project.root / "log")
    result = project.run(project.root / "log", {"checked_rows": 1000, "max_duplicates": 1})
    assert result.rejected == -(-rows.height // 128)


def test_datetimes_where_seconds_were_declared(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.with_columns(pl.from_epoch("timestamp")).write_parquet(project.root / "log")
    assert "Set data.timestamp_unit: iso" in project.refuse(project.root / "log")


def test_a_source_that_is_not_there(project: Project) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        project.run(project.root / "nowhere")
    assert list(project.root.rglob("*.parquet")) == []


def test_a_log_that_an_ordinary_user_may_not_read(raw_events: pl.DataFrame) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        project = Project(Path(name))
        project.root.chmod(0o777)
        raw_events.write_parquet(project.root / "log")
        (project.root / "log").chmod(0)
        message = as_ordinary_user(lambda: project.run(project.root / "log"))
        assert "may not be read by this user" in message
        assert not (project.prepared / "events.parquet").exists()


def as_ordinary_user(work: Callable[[], Any]) -> str:
    """The message that `work` fails with in a child process without root's rights."""
    reading, writing = os.pipe()
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
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_an_earlier_log_does_not_survive_a_refused_one(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    raw_events[:0].write_parquet(project.root / "log")
    project.refuse(project.root / "log")


@pytest.mark.parametrize(
    ("source", "rules", "data", "message"),
    [
        ("nowhere", {}, {}, "the event log .* does not exist"),
        ("log", {"previous_users": Path("nowhere")}, {}, "previous_users names nowhere, which does not exist"),
        ("folder", {}, {"texts": {"file": "texts.parquet"}}, "names texts.parquet, but there is no such file"),
        ("empty", {}, {}, "is a folder without files"),
    ],
    ids=["log", "earlier users", "table of texts", "folder"],
)
def test_what_is_not_there_leaves_everything_as_it_was(
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


def test_a_prepared_log_that_was_tampered_with_is_refused(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    project.run(project.root / "log")
    path = project.prepared / "events.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    with pytest.raises(DataError, match="in time order"):
        EventLog.read(project.prepared)


def test_warnings_do_not_fail(project: Project, raw_events: pl.DataFrame) -> None:
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


def test_a_unit_finer_than_the_timestamps_is_warned_of(project: Project, raw_events: pl.DataFrame) -> None:
    raw_events.write_parquet(project.root / "log")
    warned = project.run(project.root / "log", timestamp_unit="ms").warnings
    assert any("is data.timestamp_unit finer than its timestamps?" in warning for warning in warned)


def test_the_rules_see_evenly_spaced_rows_of_a_long_log(project: Project, raw_events: pl.DataFrame) -> None:
    pl.concat([raw_events] * 20).sort("timestamp").write_parquet(project.root / "log")
    project.run(project.root / "log", {"checked_rows": 1000, "max_duplicates": 1})
    assert "saw every 8th row" in (project.reports / "validation" / "report.md").read_text()
