"""The rules on a log, checked with Great Expectations, which also writes a website, the Data Docs.

Two tables are checked: the raw rows (a sample if there are very many), and the profile values, which are counts and
shares over all rows. If a critical rule fails, the pipeline stops; if a warning fails, it is reported.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from befriend import files
from befriend.data.columns import ACTION, EVENT_FIELDS, REASON, TIMESTAMP
from befriend.readers.data_settings import DataSettings
from befriend.validation.validate_settings import ValidateSettings

Severity = Literal["critical", "warning"]
MIN_LAST_SECOND = 631_152_000  # UTC second of 1990-01-01


@dataclass(frozen=True)
class LogRule:
    """A bound on one profile value, which has the same name as the rule."""

    name: str
    severity: Severity
    advice: str
    minimum: float | None = None
    maximum: float | None = None

    @property
    def limit(self) -> str:
        """The bound in words."""
        return f"at least {self.minimum}" if self.maximum is None else f"at most {self.maximum}"

    def result(self, value: float, passed: bool) -> RuleResult:
        """The outcome of the rule for a value."""
        return RuleResult(self.name, self.severity, passed, value, self.limit, self.advice)


@dataclass(frozen=True)
class RuleResult:
    """The outcome of one rule: the observed value and the limit."""

    name: str
    severity: Severity
    passed: bool
    observed: float | int | None
    limit: str
    advice: str

    def line(self) -> str:
        """The outcome as one line of text, with advice."""
        return f"{self.name}: found {self.observed}, allowed {self.limit}. {self.advice}"

    def to_json(self) -> dict[str, Any]:
        """The outcome for validation.json."""
        return {"severity": self.severity, "passed": self.passed, "observed": self.observed, "limit": self.limit}


def profile_rules(settings: ValidateSettings) -> list[LogRule]:
    """The rules on profile values, the most basic first: the first critical rule that fails names the cause.

    Rules on attributes, texts and statements apply only to logs with these tables.
    """
    return [
        *_critical_log_rules(settings),
        *_critical_side_table_rules(settings),
        *_side_table_warnings(),
        *_log_warnings(settings),
    ]


def _critical_log_rules(settings: ValidateSettings) -> list[LogRule]:
    """Critical rules on the events and on the parts of the split."""
    return [
        LogRule("rows_read", "critical", "The log is empty: point `befriend use` at a log with events.", minimum=1),
        LogRule(
            "rejected_share",
            "critical",
            "See rejected.parquet for every rejected row and its reason; correct the log or the data: section of "
            "params.yaml, or raise validate.max_rejected.",
            maximum=settings.max_rejected,
        ),
        LogRule("events", "critical", "No event between two users remains: the log has only self-loops.", minimum=1),
        LogRule("users", "critical", "The log has too few users: give one with events between many.", minimum=3),
        LogRule("train_events", "critical", _EMPTY_PART, minimum=1),
        LogRule("validation_events", "critical", _EMPTY_PART, minimum=1),
        LogRule("test_events", "critical", _EMPTY_PART, minimum=1),
        LogRule("validation_contacts", "critical", _NO_CONTACT, minimum=1),
        LogRule("test_contacts", "critical", _NO_CONTACT, minimum=1),
    ]


def _critical_side_table_rules(settings: ValidateSettings) -> list[LogRule]:
    """Critical rules on the tables of users, texts and statements."""
    return [
        LogRule(
            "attributes_rejected_share",
            "critical",
            "Rows of the table of users: see rejected.parquet for each and its reason; correct the table or "
            "data.attributes, or raise validate.max_rejected.",
            maximum=settings.max_rejected,
        ),
        LogRule(
            "users_with_attributes",
            "critical",
            "No user of the log has a row in the table of users: are data.attributes.user_id and data.id_type right?",
            minimum=1,
        ),
        *(
            LogRule(
                f"{table}_rejected_share",
                "critical",
                f"Rows of the table of {table}: see rejected.parquet for each and its reason; correct the table or "
                f"data.{table}, or raise validate.max_rejected.",
                maximum=settings.max_rejected,
            )
            for table in ("texts", "statements")
        ),
    ]


def _side_table_warnings() -> list[LogRule]:
    """Warnings about the tables of texts and statements."""
    return [
        LogRule(
            f"users_with_{table}_and_events",
            "warning",
            f"No user in the table of {table} has an event: is data.{table}.user_id right?",
            minimum=1,
        )
        for table in ("texts", "statements")
    ]


def _log_warnings(settings: ValidateSettings) -> list[LogRule]:
    """Warnings about the events."""
    return [
        LogRule(
            "roles_without_events", "warning", "An action in data.roles never occurs: is it misspelled?", maximum=0
        ),
        LogRule("self_loop_share", "warning", "Self-loops are dropped.", maximum=settings.max_self_loops),
        LogRule(
            "duplicate_share",
            "warning",
            "Set validate.duplicates: drop if an event is logged twice.",
            maximum=settings.max_duplicates,
        ),
        LogRule(
            "cold_target_share", "warning", "No model can predict these events.", maximum=settings.max_cold_targets
        ),
        LogRule(
            "newcomer_share",
            "warning",
            "Retrain more often: most targets joined after training.",
            maximum=settings.max_newcomers,
        ),
        LogRule(
            "reciprocity",
            "warning",
            "Few users reply: is every action between two users?",
            minimum=settings.min_reciprocity,
        ),
        LogRule(
            "one_actor_share",
            "warning",
            "One user does many of the events: is it a bot?",
            maximum=settings.max_share_of_one_actor,
        ),
        LogRule(
            "last_second",
            "warning",
            "The log ends before 1990: is data.timestamp_unit finer than its timestamps?",
            minimum=MIN_LAST_SECOND,
        ),
        LogRule(
            "far_events",
            "warning",
            "These events are five years or more away from the others: are times in several units, or mistyped?",
            maximum=0,
        ),
        LogRule(
            "days",
            "warning",
            "A short log shows little about retention: collect more events.",
            minimum=settings.min_days,
        ),
    ]


_NO_CONTACT = "No event of this part has the role contact: check data.roles."
_EMPTY_PART = (
    "Too many events share one second, or there are too few: give a longer log with finer timestamps, or move "
    "validate.train_until and validate.validation_until."
)


def profile_values(metrics: dict[str, Any], data_settings: DataSettings) -> dict[str, float]:
    """Profile values by rule name, from the metrics of validation.json.

    Values of attributes, texts and statements are missing if the log has no such table.
    """
    rows, shares, split = metrics["rows"], metrics["shares"], metrics["split"]
    test = split.get("test_shares", {})
    values: dict[str, float] = {}
    if "attributes" in metrics:
        attributes = metrics["attributes"]
        values = {
            "attributes_rejected_share": attributes["rejected_share"],
            "users_with_attributes": attributes["users"],
        }
    for table in ("texts", "statements"):
        if table in metrics:
            values[f"{table}_rejected_share"] = metrics[table]["rejected_share"]
            values[f"users_with_{table}_and_events"] = metrics[table]["users"] - metrics[table]["users_without_events"]
    return values | {
        "rows_read": rows["read"],
        "rejected_share": shares["rejected"],
        "events": rows["events"],
        "users": metrics["users"],
        "train_events": split["train"],
        "validation_events": split["validation"],
        "test_events": split["test"],
        "validation_contacts": split.get("validation_contacts", 0),
        "test_contacts": split.get("test_contacts", 0),
        "roles_without_events": len(set(data_settings.roles) - set(metrics["actions"])),
        "self_loop_share": shares["self_loops"],
        "duplicate_share": shares["duplicates"],
        "cold_target_share": test.get("cold", 0.0),
        "newcomer_share": test.get("target_unseen_in_training", 0.0),
        "reciprocity": shares["reciprocated_pairs"],
        "one_actor_share": shares["one_actor"],
        "last_second": metrics["time"]["last"] or 0,
        "far_events": metrics["time"]["far_events"],
        "days": metrics["time"]["days"],
    }


def check_log(
    raw_rows: pl.DataFrame,
    values: dict[str, float],
    data_settings: DataSettings,
    settings: ValidateSettings,
    docs: Path,
) -> list[RuleResult]:
    """Checks all rules and returns their results, in the order of the rules; writes Data Docs to the folder `docs`.

    raw_rows: typed fields (null where unreadable) and `reason`. values: by rule name; a rule without value is skipped.
    """
    import great_expectations as gx

    from befriend.validation import data_docs

    context = _context(docs)
    rules = {rule.name: rule for rule in profile_rules(settings) if rule.name in values}
    tables = {
        "raw rows": (raw_rows, _row_expectations(data_settings, settings)),
        "profile values": (pl.DataFrame([values]), [_value_expectation(rule) for rule in rules.values()]),
    }
    source = context.data_sources.add_pandas("event log")
    definitions, batches = [], {}
    for name, (table, expectations) in tables.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        definitions.append(
            context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        )
        batches[name] = table.to_pandas()
    results: dict[str, RuleResult] = {}
    for definition in definitions:
        checkpoint = gx.Checkpoint(
            name=definition.name,
            validation_definitions=[definition],
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": 5},
        )
        run_result = context.checkpoints.add(checkpoint).run(
            batch_parameters={"dataframe": batches[definition.name]}, run_id=gx.RunIdentifier(_run_name(values))
        )
        for outcome in next(iter(run_result.run_results.values())).results:
            result = _rule_result(outcome, rules, values)
            results[result.name] = result
    context.build_data_docs(site_names=["local_site"])
    data_docs.remove_unused_files(docs)
    return [results[name] for name in rules] + [result for name, result in results.items() if name not in rules]


def _context(docs: Path) -> Any:
    """A Great Expectations context in memory, quiet, that builds its Data Docs in the folder `docs`."""
    import great_expectations as gx

    from befriend.validation import data_docs

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="great_expectations")
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.update_data_docs_site("local_site", data_docs.site_config(docs))
    return context


def _run_name(values: dict[str, float]) -> str:
    """A name for the Data Docs, the same for equal profile values: a digest of them, and the number of rows."""
    digest = hashlib.sha256(files.to_json(values).encode()).hexdigest()
    return f"log {digest[:8]}, {values['rows_read']:.0f} rows"


def _value_expectation(rule: LogRule) -> Any:
    """The expectation on a profile value, which is the only value of its column: so it is the largest one."""
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnMaxToBeBetween(
        column=rule.name,
        min_value=rule.minimum,
        max_value=rule.maximum,
        severity=rule.severity,
        description=f"{rule.limit}. Otherwise: {rule.advice}",
        meta={"rule": rule.name},
    )


def _row_expectations(data_settings: DataSettings, settings: ValidateSettings) -> list[Any]:
    """Expectations on raw rows: fields are present and in range, except in the share of rows that may be rejected.

    These are warnings, since they may be checked on a sample only. The share of all rows has a critical rule.
    """
    import great_expectations.expectations as gxe

    common = {"mostly": 1 - settings.max_rejected, "severity": "warning"}
    expectations = [
        gxe.ExpectTableColumnsToMatchSet(
            column_set=[*EVENT_FIELDS, REASON], severity="critical", meta={"rule": "rows: columns"}
        ),
        *(
            gxe.ExpectColumnValuesToNotBeNull(column=field, meta={"rule": f"rows: {field} is there"}, **common)
            for field in EVENT_FIELDS
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column=TIMESTAMP,
            min_value=0,
            max_value=settings.latest_second,
            meta={"rule": "rows: timestamp in range"},
            **common,
        ),
        gxe.ExpectColumnValuesToBeNull(column=REASON, meta={"rule": "rows: no reason to refuse"}, **common),
    ]
    if data_settings.actions is not None:
        allowed = gxe.ExpectColumnValuesToBeInSet(
            column=ACTION, value_set=data_settings.actions, meta={"rule": "rows: action is listed"}, **common
        )
        expectations.append(allowed)
    return expectations


def _rule_result(outcome: Any, rules: dict[str, LogRule], values: dict[str, float]) -> RuleResult:
    """The result of one expectation, on a profile value or on raw rows. outcome: as Great Expectations returns it."""
    config = outcome.expectation_config
    name, passed = config.meta["rule"], bool(outcome.success)
    if name in rules:
        return rules[name].result(values[name], passed)
    share = outcome.result.get("unexpected_percent")
    observed = None if share is None else round(float(share) / 100, 6)
    mostly = config.kwargs.get("mostly")
    limit = "all columns" if mostly is None else f"at most {round(1 - mostly, 6)} of the rows may fail"
    return RuleResult(name, config.severity.value, passed, observed, limit, "See the Data Docs for examples.")
