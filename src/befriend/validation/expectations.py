"""The rules that a log must satisfy, checked with Great Expectations, which also writes a site of Data Docs.

Two tables are checked: the raw rows (evenly spaced ones of a very long log), and the profile values, one row of counts
and shares over all rows. A failed critical rule stops the pipeline; a failed warning is reported.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from befriend.data.columns import ACTION, EVENT_FIELDS, REASON, TIMESTAMP
from befriend.readers.data_settings import DataSettings
from befriend.validation.validate_settings import ValidateSettings

Severity = Literal["critical", "warning"]
FIRST_PLAUSIBLE = 631_152_000  # 1990-01-01


@dataclass(frozen=True)
class LogRule:
    """A bound on one profile value; the name of the rule is the name of the value."""

    name: str
    severity: Severity
    advice: str
    minimum: float | None = None
    maximum: float | None = None

    def result(self, value: float, passed: bool) -> RuleResult:
        limit = f"at least {self.minimum}" if self.maximum is None else f"at most {self.maximum}"
        return RuleResult(self.name, self.severity, passed, value, limit, self.advice)


@dataclass(frozen=True)
class RuleResult:
    """The outcome of one rule: what was observed, and what was allowed."""

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
        return {"severity": self.severity, "passed": self.passed, "observed": self.observed, "limit": self.limit}


def profile_rules(settings: ValidateSettings) -> list[LogRule]:
    """The rules on profile values, most basic first: the first critical rule that fails names the cause.

    Rules on attributes, texts and statements apply only to logs that come with them.
    """
    return [
        *_critical_log_rules(settings),
        *_critical_side_table_rules(settings),
        *_side_table_warnings(),
        *_log_warnings(settings),
    ]


def _critical_log_rules(s: ValidateSettings) -> list[LogRule]:
    """Critical rules on the events and on the parts of the split."""
    return [
        LogRule("rows_read", "critical", "The log is empty: point `befriend use` at a log with events.", minimum=1),
        LogRule(
            "rejected_share",
            "critical",
            "See rejected.parquet for every refused row and its reason; correct the log or the data: section of "
            "params.yaml, or raise validate.max_rejected.",
            maximum=s.max_rejected,
        ),
        LogRule("events", "critical", "No event between two users remains: the log has only self-loops.", minimum=1),
        LogRule("users", "critical", "The log has too few users: give one with events between many.", minimum=3),
        LogRule("train_events", "critical", _EMPTY_PART, minimum=1),
        LogRule("validation_events", "critical", _EMPTY_PART, minimum=1),
        LogRule("test_events", "critical", _EMPTY_PART, minimum=1),
        LogRule("validation_contacts", "critical", _NO_CONTACT, minimum=1),
        LogRule("test_contacts", "critical", _NO_CONTACT, minimum=1),
    ]


def _critical_side_table_rules(s: ValidateSettings) -> list[LogRule]:
    """Critical rules on the tables of users, texts and statements."""
    return [
        LogRule(
            "attributes_rejected_share",
            "critical",
            "Rows of the table of users: see rejected.parquet for each and its reason; correct the table or "
            "data.attributes, or raise validate.max_rejected.",
            maximum=s.max_rejected,
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
                maximum=s.max_rejected,
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
            f"Nobody in the table of {table} is in an event: is data.{table}.user_id right?",
            minimum=1,
        )
        for table in ("texts", "statements")
    ]


def _log_warnings(s: ValidateSettings) -> list[LogRule]:
    """Warnings about the events."""
    return [
        LogRule("roles_without_events", "warning", "An action in data.roles never occurs: a misspelling?", maximum=0),
        LogRule("self_loop_share", "warning", "Self-loops are dropped.", maximum=s.max_self_loops),
        LogRule(
            "duplicate_share",
            "warning",
            "Set validate.duplicates: drop if an event is logged twice.",
            maximum=s.max_duplicates,
        ),
        LogRule("cold_target_share", "warning", "No model can predict these events.", maximum=s.max_cold_targets),
        LogRule(
            "newcomer_share",
            "warning",
            "Retrain more often: most targets joined after training.",
            maximum=s.max_newcomers,
        ),
        LogRule(
            "reciprocity",
            "warning",
            "Few users reply: is every action between two people?",
            minimum=s.min_reciprocity,
        ),
        LogRule(
            "one_actor_share", "warning", "One user does many of all events: a bot?", maximum=s.max_share_of_one_actor
        ),
        LogRule(
            "last_second",
            "warning",
            "The log ends before 1990: is data.timestamp_unit finer than its timestamps?",
            minimum=FIRST_PLAUSIBLE,
        ),
        LogRule("days", "warning", "A short log says little about retention: collect more.", minimum=s.min_days),
    ]


_NO_CONTACT = "All events of this part are signals or exclusions: check data.roles."
_EMPTY_PART = (
    "Too many events share one second, or there are too few: give a longer log with finer timestamps, or move "
    "validate.train_until and validate.validation_until."
)


def profile_values(figures: dict[str, Any], data: DataSettings) -> dict[str, float]:
    """Rule name -> the value that the rule bounds, from the figures of validation.json.

    Values about attributes, texts and statements are missing where the log has none.
    """
    rows, shares, split = figures["rows"], figures["shares"], figures["split"]
    test = split.get("test_shares", {})
    values: dict[str, float] = {}
    if "attributes" in figures:
        attributes = figures["attributes"]
        values = {
            "attributes_rejected_share": attributes["rejected_share"],
            "users_with_attributes": attributes["users"],
        }
    for table in ("texts", "statements"):
        if table in figures:
            values[f"{table}_rejected_share"] = figures[table]["rejected_share"]
            values[f"users_with_{table}_and_events"] = figures[table]["users"] - figures[table]["users_without_events"]
    return values | {
        "rows_read": rows["read"],
        "rejected_share": shares["rejected"],
        "events": rows["events"],
        "users": figures["users"],
        "train_events": split["train"],
        "validation_events": split["validation"],
        "test_events": split["test"],
        "validation_contacts": split.get("validation_contacts", 0),
        "test_contacts": split.get("test_contacts", 0),
        "roles_without_events": len(set(data.roles) - set(figures["actions"])),
        "self_loop_share": shares["self_loops"],
        "duplicate_share": shares["duplicates"],
        "cold_target_share": test.get("cold", 0.0),
        "newcomer_share": test.get("target_unseen_in_training", 0.0),
        "reciprocity": shares["reciprocated_pairs"],
        "one_actor_share": shares["one_actor"],
        "last_second": figures["time"]["last"] or 0,
        "days": figures["time"]["days"],
    }


def check_log(
    raw_rows: pl.DataFrame, values: dict[str, float], data: DataSettings, settings: ValidateSettings, docs: Path
) -> list[RuleResult]:
    """Checks all rules and returns their results, in the order of the rules; writes Data Docs to the folder `docs`.

    raw_rows: typed fields (null where unreadable) and `reason`. values: by rule name; rules without one are skipped.
    """
    import great_expectations as gx
    import great_expectations.expectations as gxe

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="great_expectations")
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.update_data_docs_site(
        "local_site",
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())},
        },
    )
    rules = {rule.name: rule for rule in profile_rules(settings) if rule.name in values}
    value_expectations = [
        gxe.ExpectColumnValuesToBeBetween(
            column=rule.name,
            min_value=rule.minimum,
            max_value=rule.maximum,
            severity=rule.severity,
            meta={"rule": rule.name},
        )
        for rule in rules.values()
    ]
    tables = {
        "raw rows": (raw_rows, _row_expectations(data, settings)),
        "facts of all rows": (pl.DataFrame([values]), value_expectations),
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
        run_result = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": batches[definition.name]})
        for outcome in next(iter(run_result.run_results.values())).results:
            result = _rule_result(outcome, rules, values)
            results[result.name] = result
    context.build_data_docs(site_names=["local_site"])
    return [results[name] for name in rules] + [result for name, result in results.items() if name not in rules]


def _row_expectations(data: DataSettings, settings: ValidateSettings) -> list[Any]:
    """Expectations on raw rows: fields are present and in range, except for the share of rows that may be refused.

    They are warnings, since they may see only a sample: the share of all rows is what stops the pipeline.
    """
    import great_expectations.expectations as gxe

    mostly = 1 - settings.max_rejected
    common = {"mostly": mostly, "severity": "warning"}
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
    if data.actions is not None:
        allowed = gxe.ExpectColumnValuesToBeInSet(
            column=ACTION, value_set=data.actions, meta={"rule": "rows: action is listed"}, **common
        )
        expectations.append(allowed)
    return expectations


def _rule_result(outcome: Any, rules: dict[str, LogRule], values: dict[str, float]) -> RuleResult:
    """The result of one expectation: a rule on a profile value, or an expectation on the raw rows."""
    config = outcome.expectation_config
    name, passed = config.meta["rule"], bool(outcome.success)
    if name in rules:
        return rules[name].result(values[name], passed)
    share = outcome.result.get("unexpected_percent")
    observed = None if share is None else round(float(share) / 100, 6)
    mostly = config.kwargs.get("mostly")
    limit = "all columns" if mostly is None else f"at most {round(1 - mostly, 6)} of the rows may fail"
    return RuleResult(name, config.severity.value, passed, observed, limit, "See the Data Docs for examples.")
