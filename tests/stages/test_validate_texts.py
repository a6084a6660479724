"""Stage validate with texts and statements beside the log: more people, and nothing else about the events changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend import files
from befriend.data.erasure import add_erased, erasure_digest
from befriend.data.renumber import renumber
from befriend.errors import DataError, SettingsError, SourceError
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_chunks
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import validate_log

OUTPUTS = ("events", "users", "attributes", "rejected", "texts", "statements")


class Project:
    """A log of 40 users, and texts of ten of them and of two others."""

    def __init__(self, root: Path, events: pl.DataFrame):
        self.root, self.source, self.prepared, self.reports = root, root / "log", root / "prepared", root / "reports"
        self.source.mkdir()
        events.write_parquet(self.source / "events.parquet")
        self.writers = [*range(1, 11), 99, 77]
        texts = [{"user_id": user, "timestamp": 1_600_000_000, "text": f"text {user}"} for user in self.writers]
        (self.source / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
        said = pl.DataFrame({"user_id": [77, 1], "statement": ["interested in tea", "interested in chess"]})
        said.write_parquet(self.source / "said.parquet")

    def run(self, rules: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
        """The figures of validation.json."""
        chosen = {"texts": {"file": "texts.jsonl"}, "statements": {"file": "said.parquet"}} | data
        settings, limits = DataSettings(**chosen), ValidateSettings(**rules or {})
        validate_log(settings, limits, self.source, self.prepared, self.reports)
        figures: dict[str, Any] = files.read_json(self.reports / "validation.json")
        return figures

    def table(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.prepared / f"{name}.parquet")

    def digests(self) -> dict[str, str]:
        return {name: files.sha256(self.prepared / f"{name}.parquet") for name in OUTPUTS}


@pytest.fixture
def project(tmp_path: Path, raw_events: pl.DataFrame) -> Project:
    return Project(tmp_path, raw_events)


def test_people_who_only_write_are_users_in_every_table(project: Project) -> None:
    people = pl.DataFrame({"user_id": [99, 1, 2], "country": ["np", "de", "fr"], "quiet": ["yes", "no", "no"]})
    people.write_csv(project.source / "people.csv")
    about = {"file": "people.csv", "categorical": ["country"], "opt_out": "quiet"}
    figures = project.run(attributes=about)
    users, ids = project.table("users"), project.table("users")["user_id"]
    assert ids[40:].to_list() == [77, 99]
    assert users["opted_out"].arg_true().to_list() == [41]
    countries = dict(zip(ids, project.table("attributes")["country"], strict=True))
    assert {user: country for user, country in countries.items() if country} == {99: "np", 1: "de", 2: "fr"}
    written = project.table("texts").with_columns(ids.gather(project.table("texts")["user"]).alias("id"))
    assert dict(written.select("id", "text").iter_rows()) == {user: f"text {user}" for user in project.writers}
    assert project.table("statements")["statement"].to_list() == ["interested in chess", "interested in tea"]
    assert figures["users"] == 40  # of the events, as ever
    assert files.read_json(project.prepared / "split.json")["users"] == 42
    assert (figures["texts"]["users"], figures["texts"]["users_without_events"]) == (12, 2)
    assert (figures["statements"]["kept"], figures["statements"]["users_without"]) == (2, 40)
    report = (project.reports / "validation" / "report.md").read_text()
    assert "12 texts of 12 users (1 each at the median, at most 1); 2 of these users are in no event." in report
    before = project.digests()
    project.run(attributes=about)
    assert project.digests() == before


def test_a_later_run_keeps_their_numbers_and_leaves_out_who_asked_for_it(
    project: Project, raw_events: pl.DataFrame
) -> None:
    late = raw_events["actor_id"].max()
    some = raw_events.filter((pl.col("actor_id") != late) & (pl.col("target_id") != late))
    some.write_parquet(project.source / "events.parquet")
    project.run()
    first = project.table("users")["user_id"]
    assert first[39:].to_list() == [77, 99]
    raw_events.write_parquet(project.source / "events.parquet")
    (project.prepared / "users.parquet").rename(project.root / "users.parquet")
    add_erased(project.prepared, [erasure_digest(99), erasure_digest(1)])
    project.run({"previous_users": project.root / "users.parquet"})
    now = project.table("users")["user_id"]
    assert now.to_list() == [*(user for user in first if user not in (1, 99)), late]
    known = now.gather(project.table("texts")["user"])
    assert sorted(known) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 77]
    assert project.table("statements").height == 1
    # In the numbers of the earlier run, texts are still those of their users.
    renumber(project.prepared, first, project.root / "view")
    view = pl.read_parquet(project.root / "view" / "users.parquet")["user_id"]
    texts = pl.read_parquet(project.root / "view" / "texts.parquet")
    assert view[: len(first)].equals(first)
    assert texts["text"].to_list() == [f"text {user}" for user in view.gather(texts["user"])]
    assert texts["user"].is_sorted()


def test_without_texts_nothing_changes(project: Project, raw_events: pl.DataFrame) -> None:
    (project.source / "texts.jsonl").write_bytes(b"")
    pl.read_parquet(project.source / "said.parquet")[:0].write_parquet(project.source / "said.parquet")
    project.run()
    empty, told = project.digests(), (project.reports / "validation.json").read_bytes()
    for name in ("texts.jsonl", "said.parquet"):
        (project.source / name).unlink()
    validate_log(DataSettings(), ValidateSettings(), project.source, project.prepared, project.reports)
    assert project.digests() == empty
    assert (project.reports / "validation.json").read_bytes() == told
    assert (project.table("texts").height, project.table("statements").height) == (0, 0)


def test_too_many_bad_rows_fail_the_stage_and_are_shown(project: Project) -> None:
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


def test_texts_of_other_people_are_warned_of(project: Project) -> None:
    said = pl.DataFrame({"user_id": [777], "statement": ["interested in tea"]})
    said.write_parquet(project.source / "said.parquet")
    rules = project.run()["rules"]
    assert rules["users_with_texts_and_events"]["passed"]
    assert not rules["users_with_statements_and_events"]["passed"]


def test_later_events_can_be_read_without_the_tables(project: Project, raw_events: pl.DataFrame) -> None:
    (project.source / "said.parquet").unlink()
    data = DataSettings(texts={"file": "texts.jsonl"}, statements={"file": "said.parquet"})
    for source in (project.source, project.source / "events.parquet"):
        assert sum(chunk.rows.height for chunk in read_chunks(data, source)) == raw_events.height


def test_a_table_that_is_not_there_is_named(project: Project) -> None:
    with pytest.raises(SourceError, match=r"data.texts.file names posts, but there is no such file"):
        project.run(texts={"file": "posts"})
    project.source /= "events.parquet"
    with pytest.raises(SettingsError, match=r"data.texts.file names texts.jsonl .* is a single file"):
        project.run()
