"""Stage validate with texts and statements: they add users, and do not change the events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend import files
from befriend.data.erasure import add_erasure_digests, erasure_digest
from befriend.data.renumber import renumber
from befriend.errors import DataError, SettingsError, SourceError
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_chunks
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import validate_log

OUTPUTS = ("events", "users", "attributes", "rejected", "texts", "statements")


class Project:
    """A log of 40 users, and texts of ten of them and of two other users."""

    def __init__(self, root: Path, events: pl.DataFrame):
        self.root, self.source, self.prepared, self.reports = root, root / "log", root / "prepared", root / "reports"
        self.source.mkdir()
        events.write_parquet(self.source / "events.parquet")
        self.writers = [*range(1, 11), 99, 77]
        texts = [{"user_id": user, "timestamp": 1_600_000_000, "text": f"text {user}"} for user in self.writers]
        (self.source / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
        statements = pl.DataFrame({"user_id": [77, 1], "statement": ["interested in tea", "interested in chess"]})
        statements.write_parquet(self.source / "statements.parquet")

    def run(self, rules: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
        """Runs the stage; returns validation.json."""
        options = {"texts": {"file": "texts.jsonl"}, "statements": {"file": "statements.parquet"}} | data
        data_settings, settings = DataSettings(**options), ValidateSettings(**rules or {})
        validate_log(data_settings, settings, self.source, self.prepared, self.reports)
        metrics: dict[str, Any] = files.read_json(self.reports / "validation.json")
        return metrics

    def table(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.prepared / f"{name}.parquet")

    def digests(self) -> dict[str, str]:
        return {name: files.sha256(self.prepared / f"{name}.parquet") for name in OUTPUTS}


@pytest.fixture
def project(tmp_path: Path, raw_events: pl.DataFrame) -> Project:
    return Project(tmp_path, raw_events)


def test_users_with_only_texts_are_in_every_table(project: Project) -> None:
    attributes = pl.DataFrame({"user_id": [99, 1, 2], "country": ["np", "de", "fr"], "private": ["yes", "no", "no"]})
    attributes.write_csv(project.source / "users.csv")
    attribute_settings = {"file": "users.csv", "categorical": ["country"], "opt_out": "private"}
    metrics = project.run(attributes=attribute_settings)
    users, ids = project.table("users"), project.table("users")["user_id"]
    assert ids[40:].to_list() == [77, 99]
    assert users["opted_out"].arg_true().to_list() == [41]
    countries = dict(zip(ids, project.table("attributes")["country"], strict=True))
    assert {user: country for user, country in countries.items() if country} == {99: "np", 1: "de", 2: "fr"}
    texts = project.table("texts").with_columns(ids.gather(project.table("texts")["user"]).alias("id"))
    assert dict(texts.select("id", "text").iter_rows()) == {user: f"text {user}" for user in project.writers}
    assert project.table("statements")["statement"].to_list() == ["interested in chess", "interested in tea"]
    assert metrics["users"] == 40  # users with events
    assert files.read_json(project.prepared / "split.json")["users"] == 42
    assert (metrics["texts"]["users"], metrics["texts"]["users_without_events"]) == (12, 2)
    assert (metrics["statements"]["kept"], metrics["statements"]["users_without"]) == (2, 40)
    report = (project.reports / "validation" / "report.md").read_text()
    assert "12 texts of 12 users (1 each at the median, at most 1); 2 of these users have no event." in report
    before = project.digests()
    project.run(attributes=attribute_settings)
    assert project.digests() == before


def test_a_later_run_keeps_internal_ids_and_leaves_out_erased_users(project: Project, raw_events: pl.DataFrame) -> None:
    late_user = raw_events["actor_id"].max()
    other_events = raw_events.filter((pl.col("actor_id") != late_user) & (pl.col("target_id") != late_user))
    other_events.write_parquet(project.source / "events.parquet")
    project.run()
    earlier_ids = project.table("users")["user_id"]
    assert earlier_ids[39:].to_list() == [77, 99]
    raw_events.write_parquet(project.source / "events.parquet")
    (project.prepared / "users.parquet").rename(project.root / "users.parquet")
    add_erasure_digests(project.prepared, [erasure_digest(99), erasure_digest(1)])
    project.run({"previous_users": project.root / "users.parquet"})
    ids = project.table("users")["user_id"]
    assert ids.to_list() == [*(user for user in earlier_ids if user not in (1, 99)), late_user]
    text_users = ids.gather(project.table("texts")["user"])
    assert sorted(text_users) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 77]
    assert project.table("statements").height == 1
    # With the internal ids of the earlier run, each text still belongs to its user.
    renumber(project.prepared, earlier_ids, project.root / "view")
    view_ids = pl.read_parquet(project.root / "view" / "users.parquet")["user_id"]
    texts = pl.read_parquet(project.root / "view" / "texts.parquet")
    assert view_ids[: len(earlier_ids)].equals(earlier_ids)
    assert texts["text"].to_list() == [f"text {user}" for user in view_ids.gather(texts["user"])]
    assert texts["user"].is_sorted()


def test_empty_tables_of_texts_and_statements_change_nothing(project: Project, raw_events: pl.DataFrame) -> None:
    (project.source / "texts.jsonl").write_bytes(b"")
    pl.read_parquet(project.source / "statements.parquet")[:0].write_parquet(project.source / "statements.parquet")
    project.run()
    digests, validation_json = project.digests(), (project.reports / "validation.json").read_bytes()
    for name in ("texts.jsonl", "statements.parquet"):
        (project.source / name).unlink()
    validate_log(DataSettings(), ValidateSettings(), project.source, project.prepared, project.reports)
    assert project.digests() == digests
    assert (project.reports / "validation.json").read_bytes() == validation_json
    assert (project.table("texts").height, project.table("statements").height) == (0, 0)


def test_too_many_rejected_rows_fail_the_stage_with_examples(project: Project) -> None:
    with (project.source / "texts.jsonl").open("a") as lines:
        lines.write('{"user_id": 1, "timestamp": 5, "text": ""}\n')
    with pytest.raises(DataError) as error:
        project.run()
    assert "texts_rejected_share: found 0.076923, allowed at most 0.01" in str(error.value)
    assert "1 of 13 rows: no text (texts)" in str(error.value)
    assert "texts.jsonl, row 13 (text_empty)" in str(error.value)
    assert project.table("rejected").height == 1
    assert [path.name for path in project.prepared.iterdir()] == ["rejected.parquet"]
    assert "| no text (texts) | 1 |" in (project.reports / "validation" / "report.md").read_text()


def test_statements_about_users_without_events_give_a_warning(project: Project) -> None:
    statements = pl.DataFrame({"user_id": [777], "statement": ["interested in tea"]})
    statements.write_parquet(project.source / "statements.parquet")
    rules = project.run()["rules"]
    assert rules["users_with_texts_and_events"]["passed"]
    assert not rules["users_with_statements_and_events"]["passed"]


def test_later_events_can_be_read_without_side_tables(project: Project, raw_events: pl.DataFrame) -> None:
    (project.source / "statements.parquet").unlink()
    data = DataSettings(texts={"file": "texts.jsonl"}, statements={"file": "statements.parquet"})
    for source in (project.source, project.source / "events.parquet"):
        assert sum(chunk.rows.height for chunk in read_chunks(data, source)) == raw_events.height


def test_a_missing_table_is_named_in_the_error(project: Project) -> None:
    with pytest.raises(SourceError, match=r"data.texts.file names posts, but there is no such file"):
        project.run(texts={"file": "posts"})
    project.source /= "events.parquet"
    with pytest.raises(SettingsError, match=r"data.texts.file names texts.jsonl .* is a single file"):
        project.run()
