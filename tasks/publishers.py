"""Publishers: functions that show the results of a stage as artifacts on the page of its Prefect run.

A publisher reads what the stage wrote to reports/ and runs/. It publishes the report of the stage, its metrics next to
those of the last commit (`committed`), and links to its files. Its argument `ran` is False if the stage was up to date
already. `tasks.stage_tasks` assigns a publisher to each stage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from tasks.curve_report import METRICS_FILE, compare_with_committed, read_curves, report
from tasks.page_artifacts import publish_link, read_committed_json, without_images

METRIC = "ndcg@10"
HEADLINE = (("any", "all"), ("new", "new"))  # (kind of list, segment)
Metrics = dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]
"""regime -> kind of list -> segment -> model -> metric -> value, as in metrics.json; a segment is a kind of events"""


def artifact_key(stage: str, content: str) -> str:
    """The key of an artifact. Prefect allows dashes, but not the underscores in names of stages."""
    return f"{stage.replace('_', '-')}-{content}"


def stage_summary(stage: str) -> str:
    """The line that the stage printed at its end."""
    return files.read_json(layout.RUNS / f"{stage}.json")["summary"]


def publish_validation(ran: bool) -> None:
    """Publishes the report and the checks, as far as the stage wrote them before a failure."""
    if layout.VALIDATION_REPORT.exists():
        create_markdown_artifact(
            without_images(layout.VALIDATION_REPORT), key="validate-report", description="The event log"
        )
        publish_link(layout.VALIDATION_REPORT, "validate-files", "The report with its figure")
    if layout.VALIDATION.exists():
        create_table_artifact(
            rule_rows(files.read_json(layout.VALIDATION), read_committed_json(layout.VALIDATION)),
            key="validate-rules",
            description="The checks of the event log, and their values in the last committed run",
        )
    if layout.DATA_DOCS.exists():
        publish_link(layout.DATA_DOCS, "validate-data-docs", "Data Docs of Great Expectations")


def rule_rows(validation: dict[str, Any], committed: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each check: failed ones first, and critical ones before warnings.

    validation, committed: content of validation.json of this run and of the last commit.
    """
    committed_rules = (committed or {}).get("rules", {})
    rows = [
        {
            "rule": name,
            "verdict": "ok" if rule["passed"] else "failed",
            "severity": rule["severity"],
            "found": rule["observed"],
            "committed": committed_rules.get(name, {}).get("observed"),
            "allowed": rule["limit"],
        }
        for name, rule in validation["rules"].items()
    ]
    return sorted(rows, key=lambda row: (row["verdict"], row["severity"], row["rule"]))


def publish_texts(ran: bool) -> None:
    create_markdown_artifact(without_images(layout.TEXT_REPORT), key="embed-text-report", description="Texts of users")


def publish_tokens(ran: bool) -> None:
    create_markdown_artifact(without_images(layout.TOKEN_REPORT), key="tokenize-report", description="The STUs")
    publish_link(layout.TOKEN_REPORT, "tokenize-files", "The report with its figures")
    create_table_artifact(
        level_rows(files.read_json(layout.TOKEN_METRICS), read_committed_json(layout.TOKEN_METRICS)),
        key="tokenize-levels",
        description="How the codes of each level are used, and how they were used in the last committed run",
    )


def level_rows(metrics: dict[str, Any], committed: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each metric of each level. metrics, committed: content of tokens.json now and in the last commit."""
    committed_levels = (committed or {}).get("level", {})
    return [
        {"level": int(level), "figure": name, "found": value, "committed": committed_levels.get(level, {}).get(name)}
        for level, values in sorted(metrics["level"].items(), key=lambda item: int(item[0]))
        for name, value in values.items()
    ]


def training_publisher(stage: str, curves: Path) -> Callable[[bool], None]:
    """A publisher of training curves, and of the best epoch next to the committed one. curves: folder of the curves."""

    def publish(ran: bool) -> None:
        metrics = curves / METRICS_FILE
        if not metrics.exists():  # a training that failed in its first epoch wrote no metrics
            return
        text = report(read_curves(curves), stage)
        create_markdown_artifact(text, key=artifact_key(stage, "curves"), description="Training curves")
        committed = read_committed_json(metrics)
        create_table_artifact(
            compare_with_committed(files.read_json(metrics), committed),
            key=artifact_key(stage, "figures"),
            description="The best epoch, "
            + ("next to that of the last committed training" if committed else f"no {metrics} is committed yet"),
        )

    return publish


def publish_ranker(ran: bool) -> None:
    """Publishes what the ranker was trained on, if it was trained in this run."""
    if ran:
        stage = "train_ranker"
        create_markdown_artifact(
            stage_summary(stage), key=artifact_key(stage, "summary"), description="What the ranker was trained on"
        )


def publish_evaluation(ran: bool) -> None:
    if layout.EVALUATION_REPORT.exists():
        text = without_images(layout.EVALUATION_REPORT)
        create_markdown_artifact(text, key="evaluate-report", description="How well users are ranked")
    committed = read_committed_json(layout.METRICS)
    create_table_artifact(
        headline_rows(files.read_json(layout.METRICS), committed),
        key="evaluate-metrics",
        description=f"{METRIC.upper()} of every model, "
        + ("next to the last committed one" if committed else f"no {layout.METRICS} is committed yet"),
    )
    publish_link(layout.REPORTS, "reports", "All reports")


def headline_rows(metrics: Metrics, committed: Metrics | None) -> list[dict[str, Any]]:
    """A row for each regime, slice of HEADLINE and model, with the best model first.

    metrics, committed: content of metrics.json of this run and of the last commit. `change` is None without a committed
    value.
    """
    rows = []
    for regime, lists in metrics.items():
        for list_kind, segment in HEADLINE:
            models = lists.get(list_kind, {}).get(segment, {})
            for model, values in sorted(models.items(), key=lambda item: (-(item[1].get(METRIC) or 0), item[0])):
                new = values.get(METRIC)
                old = (committed or {}).get(regime, {}).get(list_kind, {}).get(segment, {}).get(model, {}).get(METRIC)
                rows.append(
                    {
                        "regime": regime,
                        "list": list_kind,
                        "segment": segment,
                        "model": model,
                        METRIC: new,
                        "committed": old,
                        "change": None if new is None or old is None else round(new - old, 6),
                    }
                )
    return rows


def publish_clusters(ran: bool) -> None:
    text = without_images(layout.CLUSTER_REPORT)
    create_markdown_artifact(text, key="cluster-report", description="The clusters, one summary each")
    publish_link(layout.CLUSTER_REPORT, "cluster-files", "The report with its figures")
    create_table_artifact(
        search_rows(files.read_json(layout.CLUSTER_METRICS), read_committed_json(layout.CLUSTER_METRICS)),
        key="cluster-search",
        description="Relative recall if a share of the users is searched, now and in the last committed run",
    )


def search_rows(metrics: dict[str, Any], committed: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each way to search, and each share of the users that is searched.

    metrics, committed: content of clusters.json now and in the last commit.
    """
    committed_curves = (committed or {}).get("search", {})
    return [
        {
            "searched": searched,
            "share": float(share),
            "relative recall": values["relative_recall"],
            "committed": committed_curves.get(searched, {}).get(share, {}).get("relative_recall"),
        }
        for searched, curve in sorted(metrics["search"].items())
        for share, values in sorted(curve.items(), key=lambda item: float(item[0]))
    ]


def publish_report(ran: bool) -> None:
    publish_link(layout.REPORT_PAGE, "report-page", "The report of the run")
    create_markdown_artifact(
        layout.MODEL_CARD.read_text(encoding="utf-8"),
        key="report-model-card",
        description="The purpose of the models, and how well they work for which users",
    )
