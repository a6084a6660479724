"""Stage evaluate under Prefect: reproduces it, and shows the report and the headline beside the committed one."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from tasks.dvc import Reproduced, reproduce, stage_task
from tasks.publish import committed, link, readable

STAGE = "evaluate"
REPORT_KEY = "evaluate-report"
METRICS_KEY = "evaluate-metrics"
REPORTS_KEY = "reports"

METRIC = "ndcg@10"
HEADLINE = (("any", "all"), ("new", "new"))  # (list, segment): everything, and people one has not met

Metrics = dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]  # regime, list, segment, model, metric


@stage_task(STAGE, "Rank people for held-out events, measure the lists.", run_name=STAGE)
def evaluate(force: bool = False) -> Reproduced:
    """Reproduces the stage and publishes its figures; a run that failed has none."""
    outcome = reproduce(STAGE, force)
    publish()
    return outcome


def publish() -> None:
    if layout.EVALUATION_REPORT.exists():
        report = readable(layout.EVALUATION_REPORT)
        create_markdown_artifact(report, key=REPORT_KEY, description="How well people are ranked")
    before = committed(layout.METRICS)
    create_table_artifact(
        headline(files.read_json(layout.METRICS), before),
        key=METRICS_KEY,
        description=f"{METRIC.upper()} of every model, beside "
        + ("the last committed one." if before else f"nothing: no {layout.METRICS} is committed yet."),
    )
    link(layout.REPORTS, REPORTS_KEY, "All reports")


def headline(metrics: Metrics, committed: Metrics | None) -> list[dict[str, Any]]:
    """A row for each regime, list of the headline and model, best model first; no change where none is committed."""
    rows = []
    for regime, lists in metrics.items():
        for kind, segment in HEADLINE:
            models = lists.get(kind, {}).get(segment, {})
            for model, figures in sorted(models.items(), key=lambda item: (-(item[1].get(METRIC) or 0), item[0])):
                now, then = figures.get(METRIC), _figure(committed or {}, regime, kind, segment, model)
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


def _figure(metrics: Metrics, regime: str, kind: str, segment: str, model: str) -> float | None:
    return metrics.get(regime, {}).get(kind, {}).get(segment, {}).get(model, {}).get(METRIC)
