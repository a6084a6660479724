"""Stage validate: the raw event log becomes a checked, split one, or is refused with reasons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from befriend import files
from befriend.config import DataSettings, ValidateSettings
from befriend.data.attributes import ATTRIBUTES_FILE
from befriend.data.columns import FILE, OPTED_OUT, RAW, REASON, REASONS, ROW, USER_ID
from befriend.data.contracts import ATTRIBUTES, EVENTS, REJECTED, STATEMENTS, TEXTS, USERS, check
from befriend.data.expectations import Verdict, check_log, facts_row
from befriend.data.facts import describe
from befriend.data.forgotten import read_marks
from befriend.data.ingest import Ingested, ingest, previous_ids
from befriend.data.ingest_attributes import IngestedAttributes, ingest_attributes
from befriend.data.ingest_texts import IngestedTable, ingest_texts
from befriend.data.log import (
    EVENTS_FILE,
    REJECTED_FILE,
    SPLIT_FILE,
    STATEMENTS_FILE,
    TEXTS_FILE,
    USERS_FILE,
    EventLog,
)
from befriend.data.rejected import RejectedWriter
from befriend.data.sources import require_log, require_tables
from befriend.data.split import split_by_time
from befriend.data.validation_report import write_report
from befriend.errors import DataError, SettingsError

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


def run(data: DataSettings, rules: ValidateSettings, source: Path, prepared: Path, reports: Path) -> ValidateResult:
    """Checks the log at `source`, without the people of forgotten.txt in `prepared`, if it is there.

    Writes events.parquet, users.parquet, attributes.parquet, texts.parquet, statements.parquet, split.json and
    rejected.parquet to `prepared`; validation.json, the folder validation/ (report.md, figure) and the site data_docs/
    to `reports`. Where a critical rule fails, only the reports and rejected.parquet are written, and a DataError says
    which rule and shows rows.
    """
    outputs = [prepared / name for name in (*TABLES, SPLIT_FILE, REJECTED_FILE)]
    if rules.previous_users is not None and rules.previous_users.resolve() in [path.resolve() for path in outputs]:
        raise SettingsError(
            f"validate.previous_users names {rules.previous_users}, which this stage writes anew. "
            "Copy it to another place, and name that."
        )
    require_tables(data, source)
    require_log(data, source)
    previous_ids(rules.previous_users, data)
    # There is a log, which may be refused: the tables of an earlier one must not be taken for its own.
    for path in [*outputs, reports / "validation.json"]:
        path.unlink(missing_ok=True)
    with files.atomic(prepared / REJECTED_FILE) as rejected_file:
        with RejectedWriter(rejected_file) as keep:
            marks = read_marks(prepared)
            raw = ingest(source, data, rules, keep, marks)
            texts = ingest_texts(source, data, rules.latest_second, raw.users, keep, marks)
            attributes = ingest_attributes(source, data, texts.users[USER_ID], keep, marks)
        check(pl.read_parquet(rejected_file), REJECTED, prepared / REJECTED_FILE)
    log = EventLog.from_tables(raw.events, texts.users[USER_ID])
    split = split_by_time(log.timestamp, rules.train_until, rules.validation_until) if log.num_events else None
    facts = describe(raw, attributes, texts, log, split)
    with files.atomic(reports / "data_docs") as docs:
        verdicts = check_log(raw.checked, facts_row(facts.figures, data), data, rules, docs)
    critical = [verdict for verdict in verdicts if verdict.severity == "critical" and not verdict.passed]
    with files.atomic(reports / "validation") as folder:
        folder.mkdir()
        write_report(folder, facts, verdicts, stride=raw.stride)
    checks = {verdict.name: verdict.to_json() for verdict in verdicts}
    files.write_json(reports / "validation.json", facts.figures | {"passed": not critical, "rules": checks})
    if critical or split is None:
        raise DataError(_refusal(critical, raw.suggestion, [raw, attributes, texts.texts, texts.statements]))
    users = texts.users.with_columns(attributes.opted_out.alias(OPTED_OUT))
    tables = (raw.events, users, attributes.table, texts.texts.table, texts.statements.table)
    for name, table, contract in zip(TABLES, tables, (EVENTS, USERS, ATTRIBUTES, TEXTS, STATEMENTS), strict=True):
        check(table, contract, prepared / name)
        with files.atomic(prepared / name) as path:
            table.write_parquet(path, compression="zstd", statistics=True)
    files.write_json(prepared / SPLIT_FILE, split.to_json() | {"users": log.num_users, "lineage": log.lineage()})
    warned = [verdict.line() for verdict in verdicts if not verdict.passed]
    return ValidateResult(raw.read, sum(raw.rejected.values()), log.num_events, facts.figures["users"], warned)


def _refusal(
    critical: list[Verdict], suggestion: str, parts: list[Ingested | IngestedAttributes | IngestedTable]
) -> str:
    """Which rule failed, how many rows for which reason, and the first of them."""
    lines = [f"the event log was refused by the rule {critical[0].line()}"]
    if suggestion:
        lines.append(suggestion)
    for part in parts:
        for reason, count in sorted(part.rejected.items(), key=lambda item: -item[1]):
            lines.append(f"  {count:,} of {part.read:,} rows: {REASONS[reason]}")
        if part.examples.height:
            lines.append("The first refused rows:")
            for file, row, reason, text in part.examples.select(FILE, ROW, REASON, RAW).iter_rows():
                lines.append(f"  {file}, row {row} ({reason}): {text[:120]}")
    others = [verdict.name for verdict in critical[1:] if not verdict.name.startswith("rows:")]
    if others:
        lines.append(f"Also failed: {', '.join(others)}.")
    return "\n".join(lines)
