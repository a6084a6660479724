"""The project under a real Prefect server and worker, as `make ui` starts them, in a copy of the checkout."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import polars as pl
import pytest

from tests.flows.checkout import Listener, Project, Server, serving, small_checkout

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    found.server.shutdown()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Project:
    return small_checkout(tmp_path_factory.mktemp("checkout"), f"json://127.0.0.1:{listener.port}/told")


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[Server]:
    with serving(project) as found:
        yield found


def metrics_of(project: Project) -> dict[tuple[str, ...], float]:
    metrics = json.loads((project.root / "reports" / "metrics.json").read_text())
    return {
        (regime, kind, segment, model): figures["ndcg@10"]
        for regime, lists in metrics.items()
        for kind, segment in (("any", "all"), ("new", "new"))
        for model, figures in lists.get(kind, {}).get(segment, {}).items()
    }


def test_schedules_bring_runs(server: Server) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        runs = server.post("flow_runs/filter", flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}})
        scheduled = {
            run["name"]
            for run in server.post("deployments/filter")
            if run["id"] in {run["deployment_id"] for run in runs if run["auto_scheduled"]}
        }
        if scheduled == {"retrain", "validate"}:
            return
        time.sleep(1)
    raise AssertionError("no runs of retrain and validate are scheduled")


def test_the_first_retraining_is_promoted_beside_a_check_that_waits_for_its_turn(
    project: Project, server: Server, listener: Listener
) -> None:
    started = [server.start("retrain"), server.start("validate", force=True)]
    retrain, validate = (server.finished(run) for run in started)
    for run in (retrain, validate):
        assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert retrain["name"].startswith("retrain 20") and validate["name"].startswith("validate 20")
    assert retrain["end_time"] <= validate["start_time"] or validate["end_time"] <= retrain["start_time"]
    champion = project.champion()
    assert champion is not None and (champion["number"], champion["previous"]) == (1, None)
    assert champion["data"]["events"] == 5300
    assert {rule["name"] for rule in champion["decision"]["rules"]} >= {"validation", "floor, list new, daily"}
    assert [told["title"] for told in listener.told] == ["befriend: champion 1 is served"]
    assert "People you may know" in project.call("befriend", "summary").stdout  # lists for everybody lie there too

    checks = {"validate-report", "validate-rules", "validate-files", "validate-data-docs"}
    assert server.artifacts(started[1]).keys() == checks
    shown = server.artifacts(started[0])
    training = {f"train-{model}-{of}" for model in ("two-tower", "stu") for of in ("progress", "curves", "figures")}
    training.add("train-ranker-summary")
    tokens = {"tokenize-report", "tokenize-levels", "tokenize-files"}
    clusters = {f"cluster-{of}" for of in ("progress", "report", "search", "files")}
    told = {
        "embed-text-report",
        "embed-text-progress",
        "evaluate-report",
        "evaluate-metrics",
        "reports",
        "report-page",
        "report-model-card",
    }
    told |= {"gate-decision", "gate-rules", "champion-manifest", "lists"}
    assert shown.keys() == checks | tokens | training | clusters | told
    assert shown["gate-decision"].startswith("# Gate: promote")
    table = json.loads(shown["evaluate-metrics"])
    assert {(row["regime"], row["list"], row["segment"], row["model"]): row["ndcg@10"] for row in table} == metrics_of(
        project
    )
    assert all(row["committed"] is None for row in table)
    assert {row["rule"] for row in json.loads(shown["validate-rules"])} == set(
        json.loads((project.root / "reports" / "validation.json").read_text())["rules"]
    )
    assert shown["validate-report"].startswith("# Event log: accepted")
    assert shown["train-two-tower-progress"] == shown["cluster-progress"] == 100
    assert shown["train-two-tower-curves"].startswith("# train_two_tower: epoch 1 of 1 is best")
    kept = json.loads((project.root / "reports" / "training" / "two_tower" / "metrics.json").read_text())
    figures = {row["figure"]: row["best epoch"] for row in json.loads(shown["train-two-tower-figures"])}
    assert figures["validation/ndcg@10"] == pytest.approx(kept["validation"]["ndcg@10"], rel=1e-5)
    assert (project.root / "reports").as_uri() in shown["reports"]


def test_unchanged_data_runs_no_stage_and_says_so_soon(project: Project, server: Server) -> None:
    start = time.monotonic()
    run = server.finished(server.start("retrain"))
    assert run["state"]["message"] == "nothing has changed: no stage ran; champion 1 is this very run"
    assert time.monotonic() - start < 90  # some 10 alone; other tests run beside this one


def test_new_events_go_through_drift_and_gate(project: Project, server: Server, listener: Listener) -> None:
    project.grow(6000)
    run = server.start("retrain")
    assert server.finished(run)["state_type"] == "COMPLETED"
    shown = server.artifacts(run)
    assert shown["drift-report"].startswith("# Drift: ")
    measures = {row["measure"]: row["verdict"] for row in json.loads(shown["drift-measures"])}
    assert {"actions", "first tokens", "contacts a user", "answered pairs"} <= measures.keys()
    rules = {row["name"]: row for row in json.loads(shown["gate-rules"])}
    assert {"drift", "list new, daily", "newcomers, list new, streaming", "level, list any, daily"} <= rules.keys()
    champion = project.champion()
    assert champion is not None
    if all(row["passed"] for row in rules.values()):  # the decision is that which the rules ask for
        assert (champion["number"], champion["previous"], champion["data"]["events"]) == (2, 1, 6000)
        listener.hear("befriend: champion 2 is served")
    else:
        assert champion["number"] == 1
        listener.hear("befriend: the gate refused a run")


def test_mixed_up_targets_are_refused_and_somebody_is_told(
    project: Project, server: Server, listener: Listener
) -> None:
    before = project.champion()
    project.grow(6000, shuffled=900)
    run = server.start("retrain")
    done = server.finished(run)
    assert (done["state_type"], done["state_name"]) == ("COMPLETED", "Refused")
    shown = server.artifacts(run)
    assert "champion-manifest" not in shown
    failed = {row["name"] for row in json.loads(shown["gate-rules"]) if not row["passed"]}
    assert "drift" in failed and any(name.startswith("level") for name in failed)
    assert project.champion() == before
    told = listener.told[-1]
    assert told["title"] == "befriend: the gate refused a run"
    assert "drift: severe" in told["message"] and "The champion stays" in told["message"]


def test_a_rollback_is_served_at_once(project: Project, server: Server) -> None:
    user = str(pl.read_parquet(project.source)["actor_id"][0])
    if project.champion()["number"] == 1:  # type: ignore[index]
        assert project.call("befriend", "promote", "--force").returncode == 0
    now = project.champion()
    assert now is not None and now["number"] == 2
    start = time.monotonic()
    assert project.call("befriend", "rollback").returncode == 0
    assert time.monotonic() - start < 20  # well below one alone
    done = project.call("befriend", "recommend", "--user", user)
    assert done.returncode == 0 and "champion 1" in done.stderr


def test_a_run_by_hand_is_on_the_same_page(project: Project, server: Server) -> None:
    done = project.call("python", "-m", "flows.validate")
    assert done.returncode == 0, done.stderr
    assert "validate | Finished in state Completed()" in done.stderr
    completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
    newest = server.post("flow_runs/filter", flow_runs=completed, sort="END_TIME_DESC", limit=1)[0]
    assert newest["name"].startswith("validate 20") and newest["deployment_id"] is None


def test_a_broken_log_fails_the_run_in_the_words_of_the_stage_and_somebody_is_told(
    project: Project, server: Server, listener: Listener
) -> None:
    sound = project.source.read_bytes()
    try:
        pl.read_parquet(project.source).with_columns(pl.lit("a day").alias("timestamp")).write_parquet(project.source)
        run = server.start("validate")
        failed = server.finished(run)
        record = json.loads((project.root / "runs" / "validate.json").read_text())
        assert record["status"] == "failed"
        assert failed["state_type"] == "FAILED"
        assert record["error"] in failed["state"]["message"]
        message = listener.hear("befriend: validate failed")["message"]
        assert record["error"] in message and "run it again" in message

        by_hand = project.call("python", "-m", "flows.validate")
        assert by_hand.returncode == record["exit_code"]
        assert by_hand.stderr.rstrip().endswith(f"validate: {record['error']}")
        assert "Traceback" not in by_hand.stdout + by_hand.stderr
    finally:
        project.source.write_bytes(sound)
