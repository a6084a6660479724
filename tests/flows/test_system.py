"""The project under a real Prefect server and worker, as `make ui` starts them, in a copy of the checkout.

Nothing is stubbed: DVC, the stages, prefect.yaml and the API are those a person uses.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.flows.conftest import BIN

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

RUN = 240  # seconds a run may take


@dataclass(frozen=True)
class Project:
    """A copy of the checkout with a small log of its own."""

    root: Path
    source: Path
    environment: dict[str, str]

    def call(self, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.root,
            env=self.environment | extra,
            capture_output=True,
            text=True,
            timeout=RUN,
        )

    def set(self, section: str, **values: Any) -> None:
        yaml, path = YAML(), self.root / "params.yaml"
        params = yaml.load(path)
        params[section].update(values)
        yaml.dump(params, path)

    def processes(self) -> list[str]:
        """Whatever still runs in this folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").resolve().is_relative_to(self.root):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found


OWN = (
    "reports/",
    "prepared/",
    "models/",
    "dvc.lock",
    "data.dvc",
    ".prefect/",
)  # what a run leaves in a checkout, and its data


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root, source = tmp_path_factory.mktemp("checkout") / "befriend", tmp_path_factory.mktemp("source")
    copy_checkout(root)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BEFRIEND_"))}
    python_path = [str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(python_path), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    project = Project(root, source / "events.parquet", environment)
    project.set("train_two_tower", epochs=1, validation_events=100)
    project.set("train_stu", epochs=1, validation_events=100)
    project.set("train_ranker", events=100, trees=10)
    project.set("cluster", epochs=2)
    project.set("evaluate", events=200, bootstrap=100)
    postpone(root / "prefect.yaml")
    commands = (
        ["befriend", "simulate", "--users", "300", "--events", "6000", "--out", str(source)],
        ["dvc", "import-url", "--no-exec", str(project.source), "data"],
    )
    for command in commands:
        done = project.call(*command)
        assert done.returncode == 0, done.stderr
    data = root / "data.dvc"
    data.write_text(data.read_text().replace("frozen: true\n", ""))
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a copy")
    return project


def copy_checkout(root: Path) -> None:
    """The checkout as it is, uncommitted work included."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(OWN):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    git(root, "init", "-q")


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.email=a@example.org", "-c", "user.name=a"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, timeout=60, capture_output=True)


def postpone(deployments: Path) -> None:
    """No schedule comes due while the tests run."""
    now, text = datetime.now(UTC), deployments.read_text()
    text = text.replace('"15 * * * *"', f'"{(now.minute + 40) % 60} * * * *"')
    deployments.write_text(text.replace('"0 3 * * *"', f'"0 {(now.hour + 12) % 24} * * *"'))


@dataclass(frozen=True)
class Server:
    """Prefect's API, as one that looks at the page sees it."""

    client: httpx.Client

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, json=body).raise_for_status().json()

    def start(self, deployment: str, **parameters: bool) -> str:
        found = self.client.get(f"deployments/name/{deployment}/{deployment}").raise_for_status().json()
        return self.post(f"deployments/{found['id']}/create_flow_run", parameters=parameters)["id"]

    def finished(self, run: str) -> dict[str, Any]:
        end, found = time.monotonic() + RUN, {"state_name": "unknown"}
        while time.monotonic() < end:
            try:
                found = self.client.get(f"flow_runs/{run}").raise_for_status().json()
            except httpx.TimeoutException:
                continue  # a server on a busy machine, with a stage beside it
            if found["state_type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
                return found
            time.sleep(0.5)
        raise TimeoutError(f"the run is {found['state_name']} after {RUN} seconds")

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {artifact["key"]: artifact["data"] for artifact in found}


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[Server]:
    """`make ui` in the copy; stopped with Ctrl-C, after which nothing may be left of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = project.root.parent / "ui.log"
    with output.open("w") as log:
        ui = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", "--port", str(port)],
            cwd=project.root,
            env=project.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 240
        while "Ctrl-C stops it" not in output.read_text():
            assert ui.poll() is None and time.monotonic() < end, output.read_text()
            time.sleep(0.3)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/", timeout=30) as client:
            yield Server(client)
        ui.send_signal(signal.SIGINT)
        assert ui.wait(timeout=90) == 0, output.read_text()
        assert project.processes() == []
        assert not (project.root / ".prefect" / "ui-address").exists()
    finally:
        if ui.poll() is None:
            ui.send_signal(signal.SIGINT)
            try:
                ui.wait(timeout=90)
            except subprocess.TimeoutExpired:
                os.killpg(ui.pid, signal.SIGKILL)


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
        if len({run["deployment_id"] for run in runs if run["auto_scheduled"]}) == 2:
            return
        time.sleep(1)
    raise AssertionError("no runs of both deployments are scheduled")


def test_both_deployments_run_one_after_the_other_and_show_their_results(project: Project, server: Server) -> None:
    started = [server.start("pipeline", force=True), server.start("validate", force=True)]
    pipeline, validate = (server.finished(run) for run in started)
    for run in (pipeline, validate):
        assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert pipeline["name"].startswith("pipeline 20") and validate["name"].startswith("validate 20")
    assert pipeline["end_time"] <= validate["start_time"] or validate["end_time"] <= pipeline["start_time"]

    checks = {"validate-report", "validate-rules", "validate-files", "validate-data-docs"}
    assert server.artifacts(started[1]).keys() == checks
    shown = server.artifacts(started[0])
    training = {f"train-{model}-{of}" for model in ("two-tower", "stu") for of in ("progress", "curves", "figures")}
    training.add("train-ranker-summary")
    tokens = {"tokenize-report", "tokenize-levels", "tokenize-files"}
    clusters = {f"cluster-{of}" for of in ("progress", "report", "search", "files")}
    told = {"evaluate-report", "evaluate-metrics", "reports", "report-page", "report-model-card"}
    assert shown.keys() == checks | tokens | training | clusters | told
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


def test_a_run_by_hand_is_on_the_same_page(project: Project, server: Server) -> None:
    done = project.call("python", "-m", "flows.validate")
    assert done.returncode == 0, done.stderr
    assert "validate | Finished in state Completed()" in done.stderr
    completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
    newest = server.post("flow_runs/filter", flow_runs=completed, sort="END_TIME_DESC", limit=1)[0]
    assert newest["name"].startswith("validate 20") and newest["deployment_id"] is None


def test_a_broken_log_fails_the_run_in_the_words_of_the_stage(project: Project, server: Server) -> None:
    sound = project.source.read_bytes()
    try:
        pl.read_parquet(project.source).with_columns(pl.lit("a day").alias("timestamp")).write_parquet(project.source)
        run = server.start("validate")
        failed = server.finished(run)
        record = json.loads((project.root / "runs" / "validate.json").read_text())
        assert record["status"] == "failed"
        assert failed["state_type"] == "FAILED"
        assert record["error"] in failed["state"]["message"]

        by_hand = project.call("python", "-m", "flows.validate")
        assert by_hand.returncode == record["exit_code"]
        assert by_hand.stderr.rstrip().endswith(f"validate: {record['error']}")
        assert "Traceback" not in by_hand.stdout + by_hand.stderr
    finally:
        project.source.write_bytes(sound)
