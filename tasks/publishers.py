"""What each stage shows on the page of a run: its report, its figures beside the committed ones, links to its files.

A publisher reads what the stage left in reports/ and runs/, and makes artifacts of it. `tasks.stage_tasks` says which
publisher belongs to which stage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from tasks.curve_report import METRICS_FILE, compare_with_committed, read_curves, report
from tasks.page_artifacts import committed, link, readable

METRIC = "ndcg@10"
HEADLINE = (("any", "all"), ("new", "new"))  # (list, segment): everything, and people the user has not met
Metrics = dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]  # regime, list, segment, model, metric


def key(stage: str, shows: str) -> str:
    """An artifact's key: Prefect takes dashes, stages have underscores."""
    return f"{stage.replace('_', '-')}-{shows}"


def summary(stage: str) -> str:
    """What the stage printed when it was done."""
    return files.read_json(layout.RUNS / f"{stage}.json")["summary"]


def publish_validation(ran: bool) -> None:
    """The report and the rules; less where the stage failed early."""
    if layout.VALIDATION_REPORT.exists():
        create_markdown_artifact(readable(layout.VALIDATION_REPORT), key="validate-report", description="The event log")
        link(layout.VALIDATION_REPORT, "validate-files", "The report with its figure")
    if layout.VALIDATION.exists():
        create_table_artifact(
            rule_rows(files.read_json(layout.VALIDATION), committed(layout.VALIDATION)),
            key="validate-rules",
            description="What was checked, what was found, and what was found in the last committed run",
        )
    if layout.DATA_DOCS.exists():
        link(layout.DATA_DOCS, "validate-data-docs", "Data Docs of Great Expectations")


def rule_rows(validation: dict[str, Any], before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each rule, failed ones first, critical before warnings. before: the committed validation, if any."""
    committed_rules = (before or {}).get("rules", {})
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
    create_markdown_artifact(readable(layout.TEXT_REPORT), key="embed-text-report", description="What users wrote")


def publish_tokens(ran: bool) -> None:
    create_markdown_artifact(readable(layout.TOKEN_REPORT), key="tokenize-report", description="The STUs")
    link(layout.TOKEN_REPORT, "tokenize-files", "The report with its figures")
    create_table_artifact(
        level_rows(files.read_json(layout.TOKEN_METRICS), committed(layout.TOKEN_METRICS)),
        key="tokenize-levels",
        description="How the codes of each level are used, and how they were in the last committed run",
    )


def level_rows(metrics: dict[str, Any], before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each figure of each level. before: the committed metrics, if any."""
    committed_levels = (before or {}).get("level", {})
    return [
        {"level": int(level), "figure": name, "found": value, "committed": committed_levels.get(level, {}).get(name)}
        for level, figures in sorted(metrics["level"].items(), key=lambda item: int(item[0]))
        for name, value in figures.items()
    ]


def training_publisher(stage: str, curves: Path) -> Callable[[bool], None]:
    """Publishes the curves of a training, and the best epoch beside the committed one. curves: the stage's folder."""

    def publish(ran: bool) -> None:
        metrics = curves / METRICS_FILE
        if not metrics.exists():  # a training that broke down in its first epoch left nothing
            return
        text = report(read_curves(curves), stage)
        create_markdown_artifact(text, key=key(stage, "curves"), description="How the training went")
        before = committed(metrics)
        create_table_artifact(
            compare_with_committed(files.read_json(metrics), before),
            key=key(stage, "figures"),
            description="The best epoch, beside "
            + ("that of the last committed training." if before else f"nothing: no {metrics} is committed yet."),
        )

    return publish


def publish_ranker(ran: bool) -> None:
    """What the ranker learned from, where it was trained anew."""
    if ran:
        stage = "train_ranker"
        create_markdown_artifact(
            summary(stage), key=key(stage, "summary"), description="What the ranker has learned from"
        )


def publish_evaluation(ran: bool) -> None:
    if layout.EVALUATION_REPORT.exists():
        text = readable(layout.EVALUATION_REPORT)
        create_markdown_artifact(text, key="evaluate-report", description="How well people are ranked")
    before = committed(layout.METRICS)
    create_table_artifact(
        headline_rows(files.read_json(layout.METRICS), before),
        key="evaluate-metrics",
        description=f"{METRIC.upper()} of every model, beside "
        + ("the last committed one." if before else f"nothing: no {layout.METRICS} is committed yet."),
    )
    link(layout.REPORTS, "reports", "All reports")


def headline_rows(metrics: Metrics, before: Metrics | None) -> list[dict[str, Any]]:
    """A row for each regime, list of the headline and model, best model first; no change where none is committed."""
    rows = []
    for regime, lists in metrics.items():
        for kind, segment in HEADLINE:
            models = lists.get(kind, {}).get(segment, {})
            for model, figures in sorted(models.items(), key=lambda item: (-(item[1].get(METRIC) or 0), item[0])):
                now = figures.get(METRIC)
                then = (before or {}).get(regime, {}).get(kind, {}).get(segment, {}).get(model, {}).get(METRIC)
                rows.append(
                    {
                        "regime": regime,
                        "list": kind,
                        "segment": segment,
                        "model": model,
                        METRIC: now,
                        "committed": then,
                        "change": None if now is None or then is None else round(now - then, 6),
                    }
                )
    return rows


def publish_clusters(ran: bool) -> None:
    text = readable(layout.CLUSTER_REPORT)
    create_markdown_artifact(text, key="cluster-report", description="The clusters, one summary each")
    link(layout.CLUSTER_REPORT, "cluster-files", "The report with its figures")
    create_table_artifact(
        search_rows(files.read_json(layout.CLUSTER_METRICS), committed(layout.CLUSTER_METRICS)),
        key="cluster-search",
        description="Recall kept by searching a share of the users, and in the last committed run",
    )


def search_rows(metrics: dict[str, Any], before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each share of the users. before: the committed metrics, if any."""
    committed_curves = (before or {}).get("search", {})
    return [
        {
            "searched": searched,
            "share": float(share),
            "relative recall": figures["relative_recall"],
            "committed": committed_curves.get(searched, {}).get(share, {}).get("relative_recall"),
        }
        for searched, curve in sorted(metrics["search"].items())
        for share, figures in sorted(curve.items(), key=lambda item: float(item[0]))
    ]


def publish_report(ran: bool) -> None:
    link(layout.PAGE, "report-page", "The page of the run")
    create_markdown_artifact(
        layout.MODEL_CARD.read_text(encoding="utf-8"),
        key="report-model-card",
        description="What the models are for, and for whom they work how well",
    )
