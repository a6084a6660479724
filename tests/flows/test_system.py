"""The project under a real Prefect server and worker, as `make ui` starts them, in a copy of the checkout."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import polars as pl
import pytest

from tests.flows.checkout import Listener, Project, Server, serving, small_checkout

pytestmark = [pytest.mark.system, pytest.mark.timeout(1000)]


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    webhook = Listener()
    yield webhook
    webhook.server.shutdown()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Project:
    return small_checkout(tmp_path_factory.mktemp("checkout"), f"json://127.0.0.1:{listener.port}/messages")


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[Server]:
    with serving(project) as prefect_server:
        yield prefect_server


def read_ndcg(project: Project) -> dict[tuple[str, ...], float]:
    metrics = json.loads((project.root / "reports" / "metrics.json").read_text())
    return {
        (regime, list_kind, segment, model): values["ndcg@10"]
        for regime, lists in metrics.items()
        for list_kind, segment in (("any", "all"), ("new", "new"))
        for model, values in lists.get(list_kind, {}).get(segment, {}).items()
    }


def test_scheduled_runs_are_created(server: Server) -> None:
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


def test_first_retraining_is_promoted_and_does_not_run_at_the_same_time_as_a_validation(
    project: Project, server: Server, listener: Listener
) -> None:
    started = [server.start("retrain"), server.start("validate", force=True)]
    retrain, validate = (server.wait_until_finished(run) for run in started)
    for run in (retrain, validate):
        assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert retrain["name"].startswith("retrain 20") and validate["name"].startswith("validate 20")
    assert retrain["end_time"] <= validate["start_time"] or validate["end_time"] <= retrain["start_time"]
    champion = project.champion()
    assert champion is not None and (champion["number"], champion["previous"]) == (1, None)
    assert champion["data"]["events"] == 5300
    assert {check["name"] for check in champion["decision"]["checks"]} >= {"validation", "floor, list new, daily"}
    assert [message["title"] for message in listener.messages] == ["befriend: champion 1 is served"]
    assert "People you may know" in project.call("befriend", "summary").stdout  # lists for all users are there too

    checks = {"validate-report", "validate-rules", "validate-files", "validate-data-docs"}
    assert server.artifacts(started[1]).keys() == checks
    artifacts = server.artifacts(started[0])
    training = {
        f"train-{model}-{content}" for model in ("two-tower", "stu") for content in ("progress", "curves", "figures")
    }
    training.add("train-ranker-summary")
    tokens = {"tokenize-report", "tokenize-levels", "tokenize-files"}
    clusters = {f"cluster-{content}" for content in ("progress", "report", "search", "files")}
    others = {
        "embed-text-report",
        "embed-text-progress",
        "evaluate-report",
        "evaluate-metrics",
        "reports",
        "report-page",
        "report-model-card",
    }
    others |= {"gate-decision", "gate-checks", "champion-manifest", "lists"}
    assert artifacts.keys() == checks | tokens | training | clusters | others
    assert artifacts["gate-decision"].startswith("# Gate: promote")
    table = json.loads(artifacts["evaluate-metrics"])
    assert {(row["regime"], row["list"], row["segment"], row["model"]): row["ndcg@10"] for row in table} == read_ndcg(
        project
    )
    assert all(row["committed"] is None for row in table)
    assert {row["rule"] for row in json.loads(artifacts["validate-rules"])} == set(
        json.loads((project.root / "reports" / "validation.json").read_text())["rules"]
    )
    assert artifacts["validate-report"].startswith("# Event log: accepted")
    assert artifacts["train-two-tower-progress"] == artifacts["cluster-progress"] == 100
    assert artifacts["train-two-tower-curves"].startswith("# train_two_tower: epoch 1 of 1 is best")
    best_epoch = json.loads((project.root / "reports" / "training" / "two_tower" / "metrics.json").read_text())
    training_metrics = {row["figure"]: row["best epoch"] for row in json.loads(artifacts["train-two-tower-figures"])}
    assert training_metrics["validation/ndcg@10"] == pytest.approx(best_epoch["validation"]["ndcg@10"], rel=1e-5)
    assert (project.root / "reports").as_uri() in artifacts["reports"]


def test_retraining_on_unchanged_data_runs_no_stage_and_is_fast(project: Project, server: Server) -> None:
    start = time.monotonic()
    run = server.wait_until_finished(server.start("retrain"))
    assert run["state"]["message"] == "nothing has changed: no stage ran; champion 1 is this run"
    assert time.monotonic() - start < 90  # about 10 alone; other tests run at the same time


def test_watched_run_shows_its_log(project: Project, server: Server) -> None:
    watched = project.call("prefect", "deployment", "run", "retrain/retrain", "--watch", PREFECT_API_URL=str(server.client.base_url))
    assert watched.returncode == 0, watched.stderr
    assert "nothing has changed: no stage ran; champion 1 is this run" in " ".join(watched.stdout.split())


def test_retraining_on_new_events_with_shuffled_targets_is_refused_and_a_message_is_sent(
    project: Project, server: Server, listener: Listener
) -> None:
    before = project.champion()
    project.write_source(6000, num_shuffled=900)
    run = server.start("retrain")
    finished_run = server.wait_until_finished(run)
    assert (finished_run["state_type"], finished_run["state_name"]) == ("COMPLETED", "Refused")
    artifacts = server.artifacts(run)
    assert "champion-manifest" not in artifacts
    assert artifacts["drift-report"].startswith("# Drift: ")
    measures = {row["measure"] for row in json.loads(artifacts["drift-measures"])}
    assert {"actions", "first tokens", "contacts a user", "answered pairs"} <= measures
    checks = {row["name"]: row["passed"] for row in json.loads(artifacts["gate-checks"])}
    names = {"drift", "against the champion, list new, daily", "fall, list any, daily"}
    names.add("against the champion, newcomers, list new, streaming")
    assert names <= checks.keys()
    failed = {name for name, passed in checks.items() if not passed}
    assert "drift" in failed and any(name.startswith("fall") for name in failed)
    assert project.champion() == before
    message = listener.messages[-1]
    assert message["title"] == "befriend: the gate refused a run"
    assert "drift: severe" in message["message"] and "The champion stays" in message["message"]


def test_rollback_is_served_at_once(project: Project, server: Server) -> None:
    user = str(pl.read_parquet(project.source)["actor_id"][0])
    if project.champion()["number"] == 1:  # type: ignore[index]
        assert project.call("befriend", "promote", "--force").returncode == 0
    champion = project.champion()
    assert champion is not None and champion["number"] == 2
    start = time.monotonic()
    assert project.call("befriend", "rollback").returncode == 0
    assert time.monotonic() - start < 20  # well below 1 alone
    done = project.call("befriend", "recommend", "--user", user)
    assert done.returncode == 0 and "champion 1" in done.stderr


def test_flow_from_the_shell_runs_on_the_same_server(project: Project, server: Server) -> None:
    done = project.call("python", "-m", "flows.validate")
    assert done.returncode == 0, done.stderr
    assert "validate | Finished in state Completed()" in done.stderr
    completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
    last_run = server.post("flow_runs/filter", flow_runs=completed, sort="END_TIME_DESC", limit=1)[0]
    assert last_run["name"].startswith("validate 20") and last_run["deployment_id"] is None


def test_damaged_log_fails_the_run_with_the_message_of_the_stage_and_a_message_is_sent(
    project: Project, server: Server, listener: Listener
) -> None:
    original = project.source.read_bytes()
    try:
        pl.read_parquet(project.source).with_columns(pl.lit("a day").alias("timestamp")).write_parquet(project.source)
        run = server.start("validate")
        finished_run = server.wait_until_finished(run)
        record = json.loads((project.root / "runs" / "validate.json").read_text())
        assert record["status"] == "failed"
        assert finished_run["state_type"] == "FAILED"
        assert record["error"] in finished_run["state"]["message"]
        message = listener.wait_for_message("befriend: validate failed")["message"]
        assert record["error"] in message and "run it again" in message

        from_shell = project.call("python", "-m", "flows.validate")
        assert from_shell.returncode == record["exit_code"]
        assert from_shell.stderr.rstrip().endswith(f"validate: {record['error']}")
        assert "Traceback" not in from_shell.stdout + from_shell.stderr
    finally:
        project.source.write_bytes(original)
