"""The rules a log is held to, checked by Great Expectations, with a site of Data Docs to look at.

Two tables are checked: the raw rows (evenly spaced ones of a very long log), and the facts, one row of counts
and shares over all rows. Critical rules stop the pipeline, warnings are reported.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from befriend.config import DataSettings, ValidateSettings
from befriend.data.columns import ACTION, EVENT_FIELDS, REASON, TIMESTAMP

Severity = Literal["critical", "warning"]
FIRST_PLAUSIBLE = 631_152_000  # 1990-01-01


@dataclass(frozen=True)
class Rule:
    """A bound on one fact, or (kind `rows`) an expectation on the raw rows."""

    name: str
    severity: Severity
    advice: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a rule."""

    name: str
    severity: Severity
    passed: bool
    observed: float | int | None
    limit: str
    advice: str

    def line(self) -> str:
        return f"{self.name}: found {self.observed}, allowed {self.limit}. {self.advice}"

    def to_json(self) -> dict[str, Any]:
        return {"severity": self.severity, "passed": self.passed, "observed": self.observed, "limit": self.limit}


def fact_rules(settings: ValidateSettings) -> list[Rule]:
    """The rules on facts, most basic first: the first critical one that fails says what is wrong.

    Those on attributes, texts and statements are for logs that come with some.
    """
    s = settings
    return [
        Rule("rows_read", "critical", "The log is empty: point `befriend use` at a log with events.", minimum=1),
        Rule(
            "rejected_share",
            "critical",
            "See rejected.parquet for every refused row and its reason; correct the log or the data: section of "
            "params.yaml, or raise validate.max_rejected.",
            maximum=s.max_rejected,
        ),
        Rule("events", "critical", "No event between two users is left: the log has only self-loops.", minimum=1),
        Rule("users", "critical", "People recommendation needs people: a log between many users.", minimum=3),
        Rule("train_events", "critical", _PART, minimum=1),
        Rule("validation_events", "critical", _PART, minimum=1),
        Rule("test_events", "critical", _PART, minimum=1),
        Rule("validation_contacts", "critical", _NO_CONTACT, minimum=1),
        Rule("test_contacts", "critical", _NO_CONTACT, minimum=1),
        Rule(
            "attributes_rejected_share",
            "critical",
            "Rows of the table of users: see rejected.parquet for each and its reason; correct the table or "
            "data.attributes, or raise validate.max_rejected.",
            maximum=s.max_rejected,
        ),
        Rule(
            "users_with_attributes",
            "critical",
            "No user of the log has a row in the table of users: are data.attributes.user_id and data.id_type right?",
            minimum=1,
        ),
        *(
            Rule(
                f"{table}_rejected_share",
                "critical",
                f"Rows of the table of {table}: see rejected.parquet for each and its reason; correct the table or "
                f"data.{table}, or raise validate.max_rejected.",
                maximum=s.max_rejected,
            )
            for table in ("texts", "statements")
        ),
        *(
            Rule(
                f"users_with_{table}_and_events",
                "warning",
                f"Nobody in the table of {table} is in an event: is data.{table}.user_id right?",
                minimum=1,
            )
            for table in ("texts", "statements")
        ),
        Rule("roles_without_events", "warning", "An action in data.roles never occurs: a misspelling?", maximum=0),
        Rule("self_loop_share", "warning", "They are dropped.", maximum=s.max_self_loops),
        Rule(
            "duplicate_share",
            "warning",
            "Set validate.duplicates: drop if an event is logged twice.",
            maximum=s.max_duplicates,
        ),
        Rule("cold_target_share", "warning", "These events nobody can predict.", maximum=s.max_cold_targets),
        Rule(
            "newcomer_share",
            "warning",
            "Retrain more often: most targets joined after training.",
            maximum=s.max_newcomers,
        ),
        Rule(
            "reciprocity",
            "warning",
            "Few people answer: is every action between two people?",
            minimum=s.min_reciprocity,
        ),
        Rule(
            "one_actor_share", "warning", "One user does much of everything: a bot?", maximum=s.max_share_of_one_actor
        ),
        Rule(
            "last_second",
            "warning",
            "The log ends before 1990: is data.timestamp_unit finer than its timestamps?",
            minimum=FIRST_PLAUSIBLE,
        ),
        Rule("days", "warning", "A short log says little about who stays: collect more.", minimum=s.min_days),
    ]


_NO_CONTACT = "All events of this part are signals or exclusions: check data.roles."
_PART = (
    "Too many events share one second, or there are too few: give a longer log with finer timestamps, or move "
    "validate.train_until and validate.validation_until."
)


def facts_row(figures: dict[str, Any], data: DataSettings) -> dict[str, float]:
    """The facts that rules are about, by rule name, from the figures of validation.json."""
    rows, shares, split = figures["rows"], figures["shares"], figures["split"]
    test = split.get("test_shares", {})
    found: dict[str, float] = {}
    if "attributes" in figures:
        attributes = figures["attributes"]
        found = {
            "attributes_rejected_share": attributes["rejected_share"],
            "users_with_attributes": attributes["users"],
        }
    for table in ("texts", "statements"):
        if table in figures:
            found[f"{table}_rejected_share"] = figures[table]["rejected_share"]
            found[f"users_with_{table}_and_events"] = figures[table]["users"] - figures[table]["users_without_events"]
    return found | {
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
    checked: pl.DataFrame, facts: dict[str, float], data: DataSettings, settings: ValidateSettings, docs: Path
) -> list[Verdict]:
    """Verdicts of all rules, in order; Data Docs are written to the folder `docs`.

    checked: raw rows with typed fields (null where unreadable) and `reason`.
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
    rules = {rule.name: rule for rule in fact_rules(settings) if rule.name in facts}
    on_facts = [
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
        "raw rows": (checked, _row_expectations(data, settings)),
        "facts of all rows": (pl.DataFrame([facts]), on_facts),
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
    verdicts: dict[str, Verdict] = {}
    for definition in definitions:
        checkpoint = gx.Checkpoint(
            name=definition.name,
            validation_definitions=[definition],
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": 5},
        )
        result = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": batches[definition.name]})
        for outcome in next(iter(result.run_results.values())).results:
            verdict = _verdict(outcome, rules, facts)
            verdicts[verdict.name] = verdict
    context.build_data_docs(site_names=["local_site"])
    return [verdicts[name] for name in rules] + [verdict for name, verdict in verdicts.items() if name not in rules]


def _row_expectations(data: DataSettings, settings: ValidateSettings) -> list[Any]:
    """What holds of the raw rows: each field is there, in type and range, but for the share that may be refused.

    Warnings, since they may see only some of the rows: what stops the pipeline is the share of all rows.
    """
    import great_expectations.expectations as gxe

    mostly = 1 - settings.max_rejected
    common = {"mostly": mostly, "severity": "warning"}
    found = [
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
        found.append(allowed)
    return found


def _verdict(outcome: Any, rules: dict[str, Rule], facts: dict[str, float]) -> Verdict:
    config = outcome.expectation_config
    name, passed = config.meta["rule"], bool(outcome.success)
    if name in rules:
        rule = rules[name]
        limit = f"at least {rule.minimum}" if rule.maximum is None else f"at most {rule.maximum}"
        return Verdict(name, rule.severity, passed, facts[name], limit, rule.advice)
    share = outcome.result.get("unexpected_percent")
    observed = None if share is None else round(float(share) / 100, 6)
    mostly = config.kwargs.get("mostly")
    limit = "all columns" if mostly is None else f"at most {round(1 - mostly, 6)} of the rows otherwise"
    return Verdict(name, config.severity.value, passed, observed, limit, "See the Data Docs for examples.")
