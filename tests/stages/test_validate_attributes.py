"""Stage validate with a table of users beside the log: lined up with the users, nothing lost, nothing guessed."""

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
from befriend.validation.rejected import RejectedWriter
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import validate_log

COLUMNS = {"categorical": ["country"], "numeric": ["age"]}
USERS = pl.Series([30, 10, 20])  # the users of a log, in the order of their numbers


def read(
    folder: Path, users: pl.Series = USERS, data: dict[str, Any] | None = None, file: str = "users", **attributes: Any
) -> IngestedAttributes:
    """The table `file` in `folder`, lined up with `users`."""
    settings = DataSettings(attributes={"file": file} | COLUMNS | attributes, **data or {})
    with RejectedWriter(folder / "rejected.parquet") as writer:
        return ingest_attributes(folder, settings, users, writer)


def rejected(folder: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(folder / "rejected.parquet").rows()


def test_one_row_a_user_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("age,other,country,user_id\n31,x, np ,10\n,y,de,30\n50,z,fr,99\n")
    found = read(tmp_path)
    assert found.table.rows() == [(0, "de", None), (1, "np", 31), (2, None, None)]
    assert found.table.schema == {"user": pl.Int32, "country": pl.Enum(["de", "np"]), "age": pl.Float32}
    assert rejected(tmp_path) == []
    assert found.figures() == {
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


def test_the_same_table_in_every_form(tmp_path: Path) -> None:
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


def test_what_may_be_a_label_and_what_a_number(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "id": ["a", "b", "c"],
            "level": [3.0, None, float("nan")],  # integers, as a table that lacks some holds them
            "member": [True, False, None],
            "paid": [Decimal("1.50"), None, Decimal("2")],
            "adult": [True, None, False],
            "nothing": [None, None, None],
            "text": [" 1e2 ", "", ".5"],
        }
    )
    table.write_parquet(tmp_path / "users")
    found = read(
        tmp_path, pl.Series(["a", "b", "c"]), {"id_type": "string"}, user_id="id",
        categorical=["level", "member", "nothing"], numeric=["paid", "adult", "text"],
    )  # fmt: skip
    assert found.table.drop("user").rows() == [
        ("3", "true", None, 1.5, 1, 100),
        (None, "false", None, None, None, None),
        (None, None, None, 2, 0, 0.5),
    ]


def test_rows_that_cannot_be_used_are_kept_as_they_were_with_their_reason(tmp_path: Path) -> None:
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
    found = read(tmp_path)
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
    assert found.rejected == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert found.table.rows() == [(0, None, None), (1, "np", 31), (2, None, None)]
    assert (found.read, found.not_in_log) == (10, 2)
    assert found.examples.height == 5


def test_a_second_row_for_a_user_is_refused_in_whatever_part_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("befriend.readers.parquet.ROWS_AT_ONCE", 2)
    table = pl.DataFrame({"user_id": [10, 10, 20, 10, 99, 99], "country": list("abcdef"), "age": 1})
    table.write_parquet(tmp_path / "users")
    assert read(tmp_path).table["country"].to_list() == [None, "a", "c"]
    assert [row[1:3] for row in rejected(tmp_path)] == [(2, "user_id_again"), (4, "user_id_again")]


def test_infinite_numbers_and_nan_are_missing_and_counted(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("user_id,country,age\n10,np,inf\n20,np,NaN\n30,np,1e300\n99,np,inf\n")
    found = read(tmp_path)
    assert found.table["age"].null_count() == 3
    assert found.figures()["columns"]["age"] == {"missing": 3, "not_finite": 3}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": [10], "age": [1]}, r"no column user_id \(data.attributes.user_id\), country \(.*categorical.country\)"),
        ({"user_id": [10], "country": [[1]], "age": [1]}, "country of users holds .*list.* cannot be a categorical"),
        ({"user_id": [10], "country": ["a"], "age": [date(2020, 1, 1)]}, "cannot be a numeric.age: integers, text, bool"),
    ],
)  # fmt: skip
def test_a_column_that_is_missing_or_of_no_use_is_named(table: dict[str, Any], message: str, tmp_path: Path) -> None:
    pl.DataFrame(table).write_parquet(tmp_path / "users")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_without_attributes_the_table_holds_the_users_alone(tmp_path: Path) -> None:
    with RejectedWriter(tmp_path / "rejected.parquet") as writer:
        found = ingest_attributes(tmp_path, DataSettings(), USERS, writer)
    assert found.table.rows() == [(0,), (1,), (2,)]
    assert found.table.schema == {"user": pl.Int32}


# --- the stage


class Project:
    """A folder with a log in two files and a table of users beside them."""

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

    def refuse(self, kind: type[BefriendError], rules: dict[str, Any] | None = None, **attributes: Any) -> str:
        with pytest.raises(kind) as error:
            self.run(rules, **attributes)
        assert not (self.prepared / "attributes.parquet").exists()
        return str(error.value)

    def by_id(self) -> dict[int, tuple[Any, ...]]:
        """Attributes by original id."""
        ids = pl.read_parquet(self.prepared / "users.parquet")["user_id"]
        return dict(zip(ids, pl.read_parquet(self.prepared / "attributes.parquet").drop("user").rows(), strict=True))


@pytest.fixture
def project(tmp_path: Path, raw_events: pl.DataFrame) -> Project:
    return Project(tmp_path, raw_events)


def test_the_table_of_users_is_not_read_as_events(project: Project, raw_events: pl.DataFrame) -> None:
    result = project.run()
    assert (result.read, result.rejected, result.users) == (raw_events.height, 0, 40)
    assert project.by_id() == {user: (["np", "de"][(user - 1) % 2], user - 1) for user in range(1, 41)}
    figures = files.read_json(project.reports / "validation.json")
    assert figures["attributes"]["users"] == 40
    assert figures["rules"]["users_with_attributes"]["passed"]
    report = (project.reports / "validation" / "report.md").read_text()
    assert "40 of 40 users have attributes (country, age). Of the 50 rows of their table, 10 were left out" in report


def test_without_attributes_nothing_is_said_of_them(project: Project) -> None:
    (project.source / "users.parquet").unlink()
    validate_log(DataSettings(), ValidateSettings(), project.source, project.prepared, project.reports)
    assert pl.read_parquet(project.prepared / "attributes.parquet").columns == ["user"]
    text = (project.reports / "validation.json").read_text() + (
        project.reports / "validation" / "report.md"
    ).read_text()
    assert "attributes" not in text


def test_a_later_version_of_the_log_keeps_the_attributes_of_its_users(
    project: Project, raw_events: pl.DataFrame
) -> None:
    (project.source / "a.parquet").unlink()
    late = raw_events[200:].filter((pl.col("actor_id") > 5) & (pl.col("target_id") > 5))
    late.write_parquet(project.source / "z.parquet")
    project.users.filter(pl.col("country") == "np").write_parquet(project.source / "users.parquet")
    project.run()
    earlier, before = project.by_id(), Attributes.read(project.prepared)
    (project.prepared / "users.parquet").rename(project.root / "users.parquet")
    raw_events.write_parquet(project.source / "z.parquet")
    project.users.reverse().write_parquet(project.source / "users.parquet")
    project.run({"previous_users": project.root / "users.parquet"})
    later, after = project.by_id(), Attributes.read(project.prepared)
    assert list(later)[: len(earlier)] == list(earlier)
    assert len(later) == 40 > len(earlier)
    assert all(later[user] == (values if user % 2 else ("de", user - 1)) for user, values in earlier.items())
    # The new label comes before the known one, yet a model's codes stay what they were.
    known = {"country": ["np"]}
    assert after.with_vocabulary(known).categorical[: len(earlier)].tolist() == before.categorical.tolist()


def test_too_many_bad_rows_fail_the_stage_and_are_shown(project: Project) -> None:
    project.users.with_columns(pl.lit("?").alias("age")).write_parquet(project.source / "users.parquet")
    text = project.refuse(DataError)
    assert "attributes_rejected_share: found 1.0, allowed at most 0.01" in text
    assert "50 of 50 rows: a number cannot be read" in text
    assert text.count("users.parquet, row") == 5
    assert pl.read_parquet(project.prepared / "rejected.parquet").height == 50
    assert not (project.prepared / "events.parquet").exists()


def test_a_table_of_other_users_is_refused(project: Project) -> None:
    project.users.with_columns(pl.col("user_id") + 1000).write_parquet(project.source / "users.parquet")
    assert "users_with_attributes: found 0" in project.refuse(DataError)


def test_a_table_that_is_not_there_names_the_files_that_are(project: Project) -> None:
    text = project.refuse(SourceError, file="people.csv")
    assert "names people.csv, but there is no such file" in text
    assert "It holds: a.parquet, users.parquet, z.parquet" in text
    (project.source / "a.parquet").unlink()
    (project.source / "z.parquet").unlink()
    assert "a folder without files other than users.parquet" in project.refuse(SourceError)


def test_a_log_in_a_single_file_has_no_place_for_a_table_of_users(project: Project) -> None:
    project.source /= "a.parquet"
    assert "is a single file. Put both into one folder" in project.refuse(SettingsError)


def test_a_second_run_gives_the_same_bytes(project: Project) -> None:
    def outputs() -> list[str]:
        project.run()
        return [
            files.sha256(project.prepared / "attributes.parquet"),
            files.sha256(project.reports / "validation.json"),
        ]

    assert outputs() == outputs()
