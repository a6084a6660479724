"""Publishers: which artifacts each stage publishes, and what is in their tables."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tasks import page_artifacts, publishers, stage_tasks
from tasks.dvc_process import StageError, StageOutcome
from tests.flows.conftest import BIN


def metrics(popular: float, recent: float) -> dict[str, Any]:
    def cell(value: float) -> dict[str, float]:
        return {"n": 10, "ndcg@10": value, "hit@10": 1.0, "mrr@100": 1.0, "ndcg@10_low": 0.0, "ndcg@10_high": 1.0}

    models = {"popular": cell(popular), "recent": cell(recent)}
    segments = dict.fromkeys(("all", "repeat", "reply", "new"), models)
    return {"daily": {"any": segments, "new": segments}}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Key -> content of the artifacts that are published, in a folder without reports."""
    monkeypatch.chdir(tmp_path)
    artifacts: dict[str, Any] = {}
    for module in (publishers, page_artifacts):
        for kind in ("markdown", "table", "link"):
            name = f"create_{kind}_artifact"
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda content, key, **_: artifacts.update({key: content}))
    return artifacts


def write_validation(passed: bool) -> None:
    Path("reports/validation").mkdir(parents=True)
    Path("reports/validation/report.md").write_text("# Event log\n\n![four pictures](log.png)\n\nfine\n")
    rule = {"severity": "critical", "passed": passed, "observed": 0.2, "limit": "at most 0.01"}
    days_rule = {"severity": "warning", "passed": True, "observed": 3, "limit": "at least 1"}
    Path("reports/validation.json").write_text(json.dumps({"rules": {"days": days_rule, "rejected_share": rule}}))


def test_failed_rules_come_first() -> None:
    rule = {"severity": "warning", "passed": True, "observed": 1, "limit": "at most 2"}
    table = publishers.rule_rows(
        {"rules": {"a": rule, "b": rule | {"passed": False}, "c": rule | {"passed": False, "severity": "critical"}}},
        committed={"rules": {"c": rule | {"observed": 0}}},
    )
    assert [(row["rule"], row["verdict"]) for row in table] == [("c", "failed"), ("b", "failed"), ("a", "ok")]
    assert table[0] == {
        "rule": "c", "verdict": "failed", "severity": "critical", "found": 1, "committed": 0, "allowed": "at most 2",
    }  # fmt: skip
    assert table[1]["committed"] is None


def test_images_of_a_report_are_replaced_by_their_title_and_path(published: dict[str, Any]) -> None:
    write_validation(passed=True)
    text = page_artifacts.without_images(Path("reports/validation/report.md"))
    assert "![" not in text and "*Figure: four pictures, in `reports/validation/log.png`*" in text


def test_refused_log_publishes_its_report_and_fails(published: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(stage: str, force: bool, on_line: Any) -> StageOutcome:
        write_validation(passed=False)
        raise StageError("the event log was refused", began=True)

    monkeypatch.setattr(stage_tasks, "reproduce", refuse)
    with pytest.raises(StageError, match="the event log was refused"):
        stage_tasks.TASKS["validate"].fn()
    assert set(published) == {"validate-report", "validate-files", "validate-rules"}
    assert published["validate-rules"][0]["verdict"] == "failed"
    assert published["validate-files"].startswith("file:///")


def test_old_report_is_not_published_if_the_stage_did_not_start(
    published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(stage: str, force: bool, on_line: Any) -> StageOutcome:
        raise StageError("another process runs stages", is_transient=True)

    write_validation(passed=True)
    monkeypatch.setattr(stage_tasks, "reproduce", busy)
    with pytest.raises(StageError):
        stage_tasks.TASKS["validate"].fn()
    assert not published


def test_headline_has_the_best_model_first_and_the_committed_value() -> None:
    table = publishers.headline_rows(metrics(0.1, 0.3), metrics(0.1, 0.25))
    assert [(row["list"], row["segment"], row["model"]) for row in table] == [
        ("any", "all", "recent"),
        ("any", "all", "popular"),
        ("new", "new", "recent"),
        ("new", "new", "popular"),
    ]
    assert (table[0]["ndcg@10"], table[0]["committed"], table[0]["change"]) == (0.3, 0.25, 0.05)


def test_model_without_a_committed_value_has_no_change() -> None:
    before = metrics(0.1, 0.2)
    for lists in before["daily"].values():
        lists["all"], lists["new"] = {"popular": lists["all"]["popular"]}, {}
    changes = {
        (row["list"], row["model"]): row["change"] for row in publishers.headline_rows(metrics(0.1, 0.2), before)
    }
    assert changes == {
        ("any", "popular"): 0,
        ("any", "recent"): None,
        ("new", "popular"): None,
        ("new", "recent"): None,
    }


@pytest.mark.system
def test_committed_metrics_are_those_of_the_last_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page_artifacts._cache_folder.cache_clear()
    assert page_artifacts.read_committed_json(Path("reports/metrics.json")) is None
    Path("before.json").write_text(json.dumps(metrics(0.1, 0.2)))
    Path("dvc.yaml").write_text(
        "stages: {evaluate: {cmd: 'mkdir -p reports && cp before.json reports/metrics.json', "
        "deps: [before.json], outs: [reports/metrics.json]}}"
    )
    git = ["git", "-c", "user.email=a@example.org", "-c", "user.name=a"]
    commands = [[*git, "init", "-q"], [BIN / "dvc", "init", "-q"], [BIN / "dvc", "repro", "-q"]]
    for command in (*commands, [*git, "add", "-A"], [*git, "commit", "-qm", "metrics"]):
        subprocess.run(command, check=True, timeout=60)
    Path("reports/metrics.json").unlink()
    Path("reports/metrics.json").write_text(json.dumps(metrics(0.9, 0.9)))
    assert page_artifacts.read_committed_json(Path("reports/metrics.json")) == metrics(0.1, 0.2)


def test_evaluate_publishes_metrics_report_and_links(
    published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("reports/evaluation").mkdir(parents=True)
    Path("reports/evaluation/report.md").write_text("# Evaluation\n")
    Path("reports/metrics.json").write_text(json.dumps(metrics(0.1, 0.2)))
    monkeypatch.setattr(stage_tasks, "reproduce", lambda stage, force, on_line: StageOutcome(stage, True, 1.0))
    assert stage_tasks.TASKS["evaluate"].fn() == StageOutcome("evaluate", True, 1.0)
    assert set(published) == {"evaluate-report", "evaluate-metrics", "reports"}
    assert [row["committed"] for row in published["evaluate-metrics"]] == [None] * 4


def test_tokenize_publishes_the_usage_of_codes(published: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("reports/tokens").mkdir(parents=True)
    Path("reports/tokens/report.md").write_text("# STUs\n\n![users of each code](use.png)\n")
    levels = {str(level): {"used_share": 0.9 + level / 100, "perplexity": 3.0} for level in (0, 1)}
    Path("reports/tokens.json").write_text(json.dumps({"level": levels}))
    monkeypatch.setattr(stage_tasks, "reproduce", lambda stage, force, on_line: StageOutcome(stage, True, 1.0))
    assert stage_tasks.TASKS["tokenize"].fn() == StageOutcome("tokenize", True, 1.0)
    assert set(published) == {"tokenize-report", "tokenize-files", "tokenize-levels"}
    assert published["tokenize-levels"][2] == {"level": 1, "figure": "used_share", "found": 0.91, "committed": None}
    before = {"level": {"0": {"used_share": 0.5}}}
    assert publishers.level_rows({"level": levels}, before)[0]["committed"] == 0.5


def test_cluster_publishes_relative_recall_by_share_of_users(published: dict[str, Any]) -> None:
    Path("reports/clusters").mkdir(parents=True)
    Path("reports/clusters/report.md").write_text("# Clusters\n\n![users by cluster](map.png)\n")
    curve = {"1": {"relative_recall": 1.0}, "0.05": {"relative_recall": 0.9}}
    Path("reports/clusters.json").write_text(json.dumps({"search": {"alone": curve}}))
    publishers.publish_clusters(True)
    assert set(published) == {"cluster-report", "cluster-files", "cluster-search"}
    assert [row["relative recall"] for row in published["cluster-search"]] == [0.9, 1.0]  # smallest share first
    before = {"search": {"alone": {"1": {"relative_recall": 0.8}}}}
    assert publishers.search_rows({"search": {"alone": curve}}, before)[1]["committed"] == 0.8


def test_report_publishes_a_link_to_the_page_and_the_model_card(published: dict[str, Any]) -> None:
    Path("reports/report").mkdir(parents=True)
    Path("reports/report/model_card.md").write_text("# Model card\n")
    publishers.publish_report(True)
    assert published == {
        "report-page": Path("reports/report/index.html").resolve().as_uri(),
        "report-model-card": "# Model card\n",
    }
