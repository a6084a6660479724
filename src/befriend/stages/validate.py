"""Stage validate: checks the raw event log, and writes prepared tables and a split, or refuses it with reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from befriend import files
from befriend.data.attributes import ATTRIBUTES_FILE
from befriend.data.columns import FILE, OPTED_OUT, RAW, REASON, REASONS, ROW, USER_ID
from befriend.data.contracts import ATTRIBUTES, EVENTS, REJECTED, STATEMENTS, TEXTS, USERS, check
from befriend.data.erasure import read_erased
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
from befriend.validation.ingest_texts import IngestedTable, ingest_texts
from befriend.validation.log_profile import LogProfile, profile_log
from befriend.validation.rejected import RejectedWriter
from befriend.validation.validate_settings import ValidateSettings
from befriend.validation.validation_report import write_report

RuleChecker = Callable[[pl.DataFrame, dict[str, float], DataSettings, ValidateSettings, Path], list[RuleResult]]
"""as `check_log`"""
ReportWriter = Callable[[Path, LogProfile, list[RuleResult], int], None]
"""as `write_report`"""
TABLES = (EVENTS_FILE, USERS_FILE, ATTRIBUTES_FILE, TEXTS_FILE, STATEMENTS_FILE)


@dataclass(frozen=True)
class ValidateResult:
    read: int
    rejected: int
    events: int
    users: int
    warnings: list[str]

    def summary(self) -> str:
        return (
            f"{self.read:,} rows read, {self.rejected:,} refused; {self.events:,} events between {self.users:,} users; "
            f"{len(self.warnings)} warning{'s' * (len(self.warnings) != 1)}"
        )


def run(
    data: DataSettings,
    rules: ValidateSettings,
    source: Path,
    prepared: Path,
    reports: Path,
    check_rules: RuleChecker = check_log,
    write: ReportWriter = write_report,
) -> ValidateResult:
    """Checks the log at `source`, without the erased users of forgotten.txt in `prepared`, if that file exists.

    Writes events.parquet, users.parquet, attributes.parquet, texts.parquet, statements.parquet, split.json and
    rejected.parquet to `prepared`; validation.json, the folder validation/ (report.md, figure) and the site data_docs/
    to `reports`. If a critical rule fails, only the reports and rejected.parquet are written, and a DataError names the
    rule and shows rows.

    check_rules: checks the rules and writes the Data Docs; write: writes the report.
    """
    outputs = [prepared / name for name in (*TABLES, SPLIT_FILE, REJECTED_FILE)]
    if rules.previous_users is not None and rules.previous_users.resolve() in [path.resolve() for path in outputs]:
        raise SettingsError(
            f"validate.previous_users names {rules.previous_users}, which this stage overwrites. "
            "Copy the file elsewhere, and set validate.previous_users to the copy."
        )
    require_tables(data, source)
    require_log(data, source)
    previous_ids(rules.previous_users, data)
    # The log may be refused; the tables of an earlier log must not be mistaken for its own.
    for path in [*outputs, reports / "validation.json"]:
        path.unlink(missing_ok=True)
    with files.atomic(prepared / REJECTED_FILE) as rejected_file:
        with RejectedWriter(rejected_file) as writer:
            erased = read_erased(prepared)
            raw = ingest(source, data, rules, writer, erased)
            texts = ingest_texts(source, data, rules.latest_second, raw.users, writer, erased)
            attributes = ingest_attributes(source, data, texts.users[USER_ID], writer, erased)
        check(pl.read_parquet(rejected_file), REJECTED, prepared / REJECTED_FILE)
    log = EventLog.from_tables(raw.events, texts.users[USER_ID])
    split = split_by_time(log.timestamp, rules.train_until, rules.validation_until) if log.num_events else None
    facts = profile_log(raw, attributes, texts, log, split)
    with files.atomic(reports / "data_docs") as docs:
        verdicts = check_rules(raw.checked, profile_values(facts.figures, data), data, rules, docs)
    failed = [verdict for verdict in verdicts if verdict.severity == "critical" and not verdict.passed]
    with files.atomic(reports / "validation") as folder:
        folder.mkdir()
        write(folder, facts, verdicts, raw.stride)
    checks = {verdict.name: verdict.to_json() for verdict in verdicts}
    files.write_json(reports / "validation.json", facts.figures | {"passed": not failed, "rules": checks})
    if failed or split is None:
        raise DataError(_refusal(failed, raw.suggestion, [raw, attributes, texts.texts, texts.statements]))
    users = texts.users.with_columns(attributes.opted_out.alias(OPTED_OUT))
    tables = (raw.events, users, attributes.table, texts.texts.table, texts.statements.table)
    for name, table, contract in zip(TABLES, tables, (EVENTS, USERS, ATTRIBUTES, TEXTS, STATEMENTS), strict=True):
        check(table, contract, prepared / name)
        with files.atomic(prepared / name) as path:
            table.write_parquet(path, compression="zstd", statistics=True)
    files.write_json(prepared / SPLIT_FILE, split.to_json() | {"users": log.num_users, "lineage": log.lineage()})
    warnings = [verdict.line() for verdict in verdicts if not verdict.passed]
    return ValidateResult(raw.read, sum(raw.rejected.values()), log.num_events, facts.figures["users"], warnings)


def _refusal(
    failed: list[RuleResult], suggestion: str, tables: list[IngestedEvents | IngestedAttributes | IngestedTable]
) -> str:
    """The message of a refused log: which rule failed, how many rows were refused for which reason, the first rows."""
    lines = [f"the event log was refused by the rule {failed[0].line()}"]
    if suggestion:
        lines.append(suggestion)
    for table in tables:
        for reason, count in sorted(table.rejected.items(), key=lambda item: -item[1]):
            lines.append(f"  {count:,} of {table.read:,} rows: {REASONS[reason]}")
        if table.examples.height:
            lines.append("The first refused rows:")
            for file, row, reason, text in table.examples.select(FILE, ROW, REASON, RAW).iter_rows():
                lines.append(f"  {file}, row {row} ({reason}): {text[:120]}")
    also_failed = [verdict.name for verdict in failed[1:] if not verdict.name.startswith("rows:")]
    if also_failed:
        lines.append(f"Also failed: {', '.join(also_failed)}.")
    return "\n".join(lines)
