"""The table of users: attributes are aligned with internal ids, and every row that cannot be used has a reason."""

from __future__ import annotations

import gzip
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend import files
from befriend.data.attributes import Attributes
from befriend.errors import BefriendError, DataError, SettingsError, SourceError
from befriend.readers.data_settings import DataSettings
from befriend.stages.validate import ValidateResult
from befriend.validation.ingest_attributes import IngestedAttributes, ingest_attributes
from befriend.validation.rejected_rows import RejectedWriter
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import validate_log

COLUMNS = {"categorical": ["country"], "numeric": ["age"]}
USERS = pl.Series([30, 10, 20])  # the users of a log, by internal id


def read(
    folder: Path, users: pl.Series = USERS, data: dict[str, Any] | None = None, file: str = "users", **attributes: Any
) -> IngestedAttributes:
    """Ingests the table `file` in `folder`. users: external ids, by internal id."""
    settings = DataSettings(attributes={"file": file} | COLUMNS | attributes, **data or {})
    with RejectedWriter(folder / "rejected.parquet") as writer:
        return ingest_attributes(folder, settings, users, writer)


def rejected(folder: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(folder / "rejected.parquet").rows()


def test_the_table_has_one_row_per_user_in_order_of_internal_ids(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("age,other,country,user_id\n31,x, np ,10\n,y,de,30\n50,z,fr,99\n")
    ingested = read(tmp_path)
    assert ingested.table.rows() == [(0, "de", None), (1, "np", 31), (2, None, None)]
    assert ingested.table.schema == {"user": pl.Int32, "country": pl.Enum(["de", "np"]), "age": pl.Float32}
    assert rejected(tmp_path) == []
    assert ingested.metrics() == {
        "rows": 3,
        "rejected": 0,
        "rejected_share": 0.0,
        "rejected_by_reason": {},
        "not_in_log": 1,
        "users": 2,
        "users_without": 1,
        "opted_out": 0,
        "columns": {"country": {"missing": 1, "labels": 2}, "age": {"missing": 2, "not_finite": 0}},
    }


def test_all_formats_give_the_same_table(tmp_path: Path) -> None:
    text = "user_id,country,age\n10,np,31\n30,de,\n"
    table = pl.DataFrame({"user_id": [10, 30], "country": ["np", "de"], "age": [31, None]})
    (tmp_path / "users").write_text(text)
    (tmp_path / "packed").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "windows").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").replace(",", ";").encode())
    (tmp_path / "sub").mkdir()
    table.with_columns(pl.col("country").cast(pl.Categorical)).write_parquet(tmp_path / "sub" / "users")
    plain = read(tmp_path).table
    assert read(tmp_path, file="packed").table.equals(plain)
    assert read(tmp_path, file="windows", separator=";").table.equals(plain)
    assert read(tmp_path, file="sub/users").table.equals(plain)


def test_columns_of_many_types_become_labels_or_numbers(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "id": ["a", "b", "c"],
            "level": [3.0, None, float("nan")],  # integers in a column of floats, because of missing values
            "member": [True, False, None],
            "paid": [Decimal("1.50"), None, Decimal("2")],
            "adult": [True, None, False],
            "nothing": [None, None, None],
            "text": [" 1e2 ", "", ".5"],
        }
    )
    table.write_parquet(tmp_path / "users")
    ingested = read(
        tmp_path, pl.Series(["a", "b", "c"]), {"id_type": "string"}, user_id="id",
        categorical=["level", "member", "nothing"], numeric=["paid", "adult", "text"],
    )  # fmt: skip
    assert ingested.table.drop("user").rows() == [
        ("3", "true", None, 1.5, 1, 100),
        (None, "false", None, None, None, None),
        (None, None, None, 2, 0, 0.5),
    ]


def test_rejected_rows_are_written_unchanged_with_their_reason(tmp_path: Path) -> None:
    lines = [
        b"10,np,31",
        b",de,1",
        b"x,de,1",
        b"007,de,1",
        b"20,de,old",
        b"20,de",
        b"30,d\xff,1",
        b"10,fr,32",
        b"99,a,1",
        b"99,b,2",
    ]
    (tmp_path / "users").write_bytes(b"\n".join([b"user_id,country,age", *lines]) + b"\n")
    ingested = read(tmp_path)
    reasons = [
        "user_id_empty",
        "user_id_type",
        "user_id_type",
        "number_type",
        "ragged_row",
        "invalid_utf8",
        "user_id_again",
    ]
    assert rejected(tmp_path) == [
        ("users", k + 3, reason, lines[k + 1].decode(errors="backslashreplace")) for k, reason in enumerate(reasons)
    ]
    assert ingested.rejected_by_reason == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert ingested.table.rows() == [(0, None, None), (1, "np", 31), (2, None, None)]
    assert (ingested.num_rows_read, ingested.num_not_in_log) == (10, 2)
    assert ingested.rejected_examples.height == 5


def test_a_second_row_of_a_user_is_rejected_in_any_chunk_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("befriend.readers.parquet.BATCH_ROWS", 2)
    table = pl.DataFrame({"user_id": [10, 10, 20, 10, 99, 99], "country": list("abcdef"), "age": 1})
    table.write_parquet(tmp_path / "users")
    assert read(tmp_path).table["country"].to_list() == [None, "a", "c"]
    assert [row[1:3] for row in rejected(tmp_path)] == [(2, "user_id_again"), (4, "user_id_again")]


def test_infinite_numbers_and_nan_count_as_missing(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("user_id,country,age\n10,np,inf\n20,np,NaN\n30,np,1e300\n99,np,inf\n")
    ingested = read(tmp_path)
    assert ingested.table["age"].null_count() == 3
    assert ingested.metrics()["columns"]["age"] == {"missing": 3, "not_finite": 3}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": [10], "age": [1]}, r"no column user_id \(data.attributes.user_id\), country \(.*categorical.country\)"),
        ({"user_id": [10], "country": [[1]], "age": [1]}, "country of users holds .*list.* cannot be a categorical"),
        ({"user_id": [10], "country": ["a"], "age": [date(2020, 1, 1)]}, "cannot be a numeric.age: integers, text, bool"),
    ],
)  # fmt: skip
def test_a_missing_or_unusable_column_is_named_in_the_error(
    table: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pl.DataFrame(table).write_parquet(tmp_path / "users")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_without_attributes_the_table_has_only_internal_ids(tmp_path: Path) -> None:
    with RejectedWriter(tmp_path / "rejected.parquet") as writer:
        ingested = ingest_attributes(tmp_path, DataSettings(), USERS, writer)
    assert ingested.table.rows() == [(0,), (1,), (2,)]
    assert ingested.table.schema == {"user": pl.Int32}


# --- the stage


class Project:
    """A log of two files and a table of users in one folder."""

    def __init__(self, root: Path, events: pl.DataFrame):
        self.root, self.source, self.prepared, self.reports = root, root / "log", root / "prepared", root / "reports"
        self.source.mkdir()
        events[:200].write_parquet(self.source / "a.parquet")
        events[200:].write_parquet(self.source / "z.parquet")
        self.users = pl.DataFrame({"user_id": range(1, 51), "country": ["np", "de"] * 25, "age": range(50)})
        self.users.write_parquet(self.source / "users.parquet")

    def run(self, rules: dict[str, Any] | None = None, **attributes: Any) -> ValidateResult:
        data = DataSettings(attributes={"file": "users.parquet"} | COLUMNS | attributes)
        return validate_log(data, ValidateSettings(**rules or {}), self.source, self.prepared, self.reports)

    def run_and_fail(
        self, error_type: type[BefriendError], rules: dict[str, Any] | None = None, **attributes: Any
    ) -> str:
        with pytest.raises(error_type) as error:
            self.run(rules, **attributes)
        assert not (self.prepared / "attributes.parquet").exists()
        return str(error.value)

    def attributes_by_user(self) -> dict[int, tuple[Any, ...]]:
        """External id -> attributes."""
        ids = pl.read_parquet(self.prepared / "users.parquet")["user_id"]
        return dict(zip(ids, pl.read_parquet(self.prepared / "attributes.parquet").drop("user").rows(), strict=True))


@pytest.fixture
def project(tmp_path: Path, raw_events: pl.DataFrame) -> Project:
    return Project(tmp_path, raw_events)


def test_the_table_of_users_is_not_read_as_events(project: Project, raw_events: pl.DataFrame) -> None:
    result = project.run()
    assert (result.num_rows_read, result.num_rejected_rows, result.num_users) == (raw_events.height, 0, 40)
    assert project.attributes_by_user() == {user: (["np", "de"][(user - 1) % 2], user - 1) for user in range(1, 41)}
    metrics = files.read_json(project.reports / "validation.json")
    assert metrics["attributes"]["users"] == 40
    assert metrics["rules"]["users_with_attributes"]["passed"]
    report = (project.reports / "validation" / "report.md").read_text()
    assert "40 of 40 users have attributes (country, age). Of the 50 rows of their table, 10 were left out" in report


def test_without_attributes_the_reports_do_not_mention_them(project: Project) -> None:
    (project.source / "users.parquet").unlink()
    validate_log(DataSettings(), ValidateSettings(), project.source, project.prepared, project.reports)
    assert pl.read_parquet(project.prepared / "attributes.parquet").columns == ["user"]
    text = (project.reports / "validation.json").read_text() + (
        project.reports / "validation" / "report.md"
    ).read_text()
    assert "attributes" not in text


def test_users_keep_their_attributes_in_a_later_version_of_the_log(project: Project, raw_events: pl.DataFrame) -> None:
    (project.source / "a.parquet").unlink()
    late_events = raw_events[200:].filter((pl.col("actor_id") > 5) & (pl.col("target_id") > 5))
    late_events.write_parquet(project.source / "z.parquet")
    project.users.filter(pl.col("country") == "np").write_parquet(project.source / "users.parquet")
    project.run()
    earlier, before = project.attributes_by_user(), Attributes.read(project.prepared)
    (project.prepared / "users.parquet").rename(project.root / "users.parquet")
    raw_events.write_parquet(project.source / "z.parquet")
    project.users.reverse().write_parquet(project.source / "users.parquet")
    project.run({"previous_users": project.root / "users.parquet"})
    later, after = project.attributes_by_user(), Attributes.read(project.prepared)
    assert list(later)[: len(earlier)] == list(earlier)
    assert len(later) == 40 > len(earlier)
    assert all(later[user] == (values if user % 2 else ("de", user - 1)) for user, values in earlier.items())
    # The new label sorts before the first one, but the codes of a model stay the same.
    vocabulary = {"country": ["np"]}
    assert after.with_vocabulary(vocabulary).categorical[: len(earlier)].tolist() == before.categorical.tolist()


def test_too_many_rejected_rows_fail_the_stage_with_examples(project: Project) -> None:
    project.users.with_columns(pl.lit("?").alias("age")).write_parquet(project.source / "users.parquet")
    text = project.run_and_fail(DataError)
    assert "attributes_rejected_share: found 1.0, allowed at most 0.01" in text
    assert "50 of 50 rows: a number cannot be read" in text
    assert text.count("users.parquet, row") == 5
    assert pl.read_parquet(project.prepared / "rejected.parquet").height == 50
    assert not (project.prepared / "events.parquet").exists()


def test_a_table_without_users_of_the_log_is_refused(project: Project) -> None:
    project.users.with_columns(pl.col("user_id") + 1000).write_parquet(project.source / "users.parquet")
    assert "users_with_attributes: found 0" in project.run_and_fail(DataError)


def test_the_error_for_a_missing_table_names_the_files_of_the_folder(project: Project) -> None:
    text = project.run_and_fail(SourceError, file="people.csv")
    assert "names people.csv, but there is no such file" in text
    assert "It holds: a.parquet, users.parquet, z.parquet" in text
    (project.source / "a.parquet").unlink()
    (project.source / "z.parquet").unlink()
    assert "a folder without files other than users.parquet" in project.run_and_fail(SourceError)


def test_a_table_of_users_next_to_a_log_of_one_file_is_an_error(project: Project) -> None:
    project.source /= "a.parquet"
    assert "is a single file. Put both into one folder" in project.run_and_fail(SettingsError)


def test_a_second_run_gives_the_same_bytes(project: Project) -> None:
    def outputs() -> list[str]:
        project.run()
        return [
            files.sha256(project.prepared / "attributes.parquet"),
            files.sha256(project.reports / "validation.json"),
        ]

    assert outputs() == outputs()
