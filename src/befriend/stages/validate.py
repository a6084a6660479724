"""Stage validate: checks the raw event log, and either writes prepared tables and the split, or refuses the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from befriend import files
from befriend.data.attributes import ATTRIBUTES_FILE
from befriend.data.columns import FILE, OPTED_OUT, RAW, REASON, REASONS, ROW, USER_ID
from befriend.data.contracts import ATTRIBUTES, EVENTS, REJECTED, STATEMENTS, TEXTS, USERS, check_contract
from befriend.data.erasure import read_erasure_digests
from befriend.data.event_log import (
    EVENTS_FILE,
    REJECTED_FILE,
    SPLIT_FILE,
    STATEMENTS_FILE,
    TEXTS_FILE,
    USERS_FILE,
    EventLog,
)
from befriend.data.split import split_by_time
from befriend.errors import DataError, SettingsError
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import require_log, require_tables
from befriend.validation.expectations import RuleResult, check_log, profile_values
from befriend.validation.ingest import IngestedEvents, ingest, previous_ids
from befriend.validation.ingest_attributes import IngestedAttributes, ingest_attributes
from befriend.validation.ingest_texts import IngestedTable, IngestedTexts, ingest_texts
from befriend.validation.log_profile import LogProfile, profile_log
from befriend.validation.rejected_rows import RejectedWriter
from befriend.validation.validate_settings import ValidateSettings
from befriend.validation.validation_report import write_report

RuleChecker = Callable[[pl.DataFrame, dict[str, float], DataSettings, ValidateSettings, Path], list[RuleResult]]
"""a function like `check_log`"""
ReportWriter = Callable[[Path, LogProfile, list[RuleResult], int], None]
"""a function like `write_report`"""
TABLES = (EVENTS_FILE, USERS_FILE, ATTRIBUTES_FILE, TEXTS_FILE, STATEMENTS_FILE)


@dataclass(frozen=True)
class ValidateResult:
    """Counts of rows, events and users, and the rules that failed as warnings."""

    num_rows_read: int
    num_rejected_rows: int
    num_events: int
    num_users: int
    warnings: list[str]

    def summary(self) -> str:
        names = f": {', '.join(line.split(':')[0] for line in self.warnings)}" if self.warnings else ""
        return (
            f"{self.num_rows_read:,} rows read, {self.num_rejected_rows:,} rejected; "
            f"{self.num_events:,} events between {self.num_users:,} users; "
            f"{len(self.warnings)} warning{'s' * (len(self.warnings) != 1)}{names}"
        )


def run(
    data_settings: DataSettings,
    settings: ValidateSettings,
    source: Path,
    prepared: Path,
    reports: Path,
    rule_checker: RuleChecker = check_log,
    report_writer: ReportWriter = write_report,
) -> ValidateResult:
    """Checks the log at `source` and writes its prepared tables, without the users in forgotten.txt of `prepared`.

    Writes events.parquet, users.parquet, attributes.parquet, texts.parquet, statements.parquet, split.json and
    rejected.parquet to `prepared`; validation.json, the folder validation/ (report and figure) and the website
    data_docs/ to `reports`. If a critical rule fails, only the reports and rejected.parquet are written, and a
    DataError names the rule and shows rejected rows.

    rule_checker: checks the rules and writes the Data Docs. report_writer: writes the report. Tests replace both.
    """
    outputs = [prepared / name for name in (*TABLES, SPLIT_FILE, REJECTED_FILE)]
    _require_no_output(settings.previous_users, outputs)
    require_tables(data_settings, source)
    require_log(data_settings, source)
    previous_ids(settings.previous_users, data_settings)
    # If the log is refused, the tables of an earlier log must not be mistaken for its own.
    for path in [*outputs, reports / "validation.json"]:
        path.unlink(missing_ok=True)
    with files.atomic(prepared / REJECTED_FILE) as rejected_file:
        with RejectedWriter(rejected_file) as writer:
            erased = read_erasure_digests(prepared)
            ingested = ingest(source, data_settings, settings, writer, erased)
            texts = ingest_texts(source, data_settings, settings.latest_second, ingested.users, writer, erased)
            attributes = ingest_attributes(source, data_settings, texts.users[USER_ID], writer, erased)
        check_contract(pl.read_parquet(rejected_file), REJECTED, prepared / REJECTED_FILE)
    log = EventLog.from_tables(ingested.events, texts.users[USER_ID])
    split = split_by_time(log.timestamp, settings.train_until, settings.validation_until) if log.num_events else None
    profile = profile_log(ingested, attributes, texts, log, split)
    with files.atomic(reports / "data_docs") as docs:
        rule_results = rule_checker(
            ingested.sampled_rows, profile_values(profile.metrics, data_settings), data_settings, settings, docs
        )
    failed = [result for result in rule_results if result.severity == "critical" and not result.passed]
    with files.atomic(reports / "validation") as folder:
        folder.mkdir()
        report_writer(folder, profile, rule_results, ingested.stride)
    checks = {result.name: result.to_json() for result in rule_results}
    files.write_json(reports / "validation.json", profile.metrics | {"passed": not failed, "rules": checks})
    if failed or split is None:
        raise DataError(
            _refusal_message(failed, ingested.settings_hint, [ingested, attributes, texts.texts, texts.statements])
        )
    _write_tables(prepared, ingested, texts, attributes)
    files.write_json(prepared / SPLIT_FILE, split.to_json() | {"users": log.num_users, "lineage": log.lineage()})
    warnings = [result.line() for result in rule_results if not result.passed]
    return ValidateResult(
        ingested.num_rows_read,
        sum(ingested.rejected_by_reason.values()),
        log.num_events,
        profile.metrics["users"],
        warnings,
    )


def _require_no_output(previous_users: Path | None, outputs: list[Path]) -> None:
    """Raises a SettingsError if the file of the setting previous_users is one of the outputs of this stage."""
    if previous_users is not None and previous_users.resolve() in [path.resolve() for path in outputs]:
        raise SettingsError(
            f"validate.previous_users names {previous_users}, which this stage overwrites. "
            "Copy the file elsewhere, and set validate.previous_users to the copy."
        )


def _write_tables(
    prepared: Path, ingested: IngestedEvents, texts: IngestedTexts, attributes: IngestedAttributes
) -> None:
    """Checks the contracts of the prepared tables, and writes them."""
    users = texts.users.with_columns(attributes.opted_out.alias(OPTED_OUT))
    tables = (ingested.events, users, attributes.table, texts.texts.table, texts.statements.table)
    for name, table, contract in zip(TABLES, tables, (EVENTS, USERS, ATTRIBUTES, TEXTS, STATEMENTS), strict=True):
        check_contract(table, contract, prepared / name)
        with files.atomic(prepared / name) as path:
            table.write_parquet(path, compression="zstd", statistics=True)


def _refusal_message(
    failed: list[RuleResult], settings_hint: str, tables: list[IngestedEvents | IngestedAttributes | IngestedTable]
) -> str:
    """The message for a refused log: the failed rule, the number of rejected rows by reason, and the first of them."""
    lines = [f"the event log was refused by the rule {failed[0].line()}"]
    if settings_hint:
        lines.append(settings_hint)
    for table in tables:
        for reason, count in sorted(table.rejected_by_reason.items(), key=lambda item: -item[1]):
            lines.append(f"  {count:,} of {table.num_rows_read:,} rows: {REASONS[reason]}")
        if table.rejected_examples.height:
            lines.append("The first rejected rows:")
            for file, row, reason, text in table.rejected_examples.select(FILE, ROW, REASON, RAW).iter_rows():
                lines.append(f"  {file}, row {row} ({reason}): {text[:120]}")
    also_failed = [result.name for result in failed[1:] if not result.name.startswith("rows:")]
    if also_failed:
        lines.append(f"Also failed: {', '.join(also_failed)}.")
    return "\n".join(lines)
