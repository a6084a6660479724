"""A copy of the checkout with a small log, its Prefect server and worker, and a webhook that receives messages.

Nothing is faked: DVC, the stages, prefect.yaml and the API are the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
from prefect.client.base import PrefectHttpxSyncClient

from tests.conftest import ROOT
from tests.flows.conftest import BIN

RUN_TIMEOUT = 480  # seconds; a retraining takes a third of it on two cores that other tests share


@dataclass(frozen=True)
class Project:
    """A copy of the checkout with a small log."""

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
            timeout=RUN_TIMEOUT,
        )

    @property
    def complete_log(self) -> Path:
        """All events, of which the source has the first ones."""
        return self.source.with_name("complete.parquet")

    def write_source(self, num_events: int, num_shuffled: int = 0) -> None:
        """Writes the first events to the source; the last `num_shuffled` of them get shuffled targets."""
        log = pl.read_parquet(self.complete_log).sort("timestamp", maintain_order=True)[:num_events]
        old, new = log[: num_events - num_shuffled], log[num_events - num_shuffled :]
        shuffled = new["target_id"].sample(fraction=1, shuffle=True, seed=0)
        pl.concat([old, new.with_columns(target_id=shuffled)]).write_parquet(self.source)

    def champion(self) -> dict[str, Any] | None:
        done = self.call("befriend", "champion", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def processes(self) -> list[str]:
        """Command lines of the processes whose working directory is in this folder."""
        commands = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").resolve().is_relative_to(self.root):
                    commands.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return commands


RUN_OUTPUTS = (
    "reports/",
    "prepared/split.json",
    "models/",
    "dvc.lock",
    "data.dvc",
    ".prefect/",
)  # written by a run, so not copied


class Listener:
    """A webhook that stores the messages it receives."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        messages = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for_message(self, title: str) -> dict[str, Any]:
        """The last message, which must have this title. Waits for it: a run may end before its message arrives."""
        end = time.monotonic() + 30
        while time.monotonic() < end and not (self.messages and self.messages[-1]["title"] == title):
            time.sleep(0.1)
        assert self.messages and self.messages[-1]["title"] == title, self.messages
        return self.messages[-1]


def small_checkout(folder: Path, webhook: str) -> Project:
    """A copy of the checkout with the log `tiny`, whose source has its first 5,300 events. webhook: Apprise URL or empty."""
    root = folder / "befriend"
    copy_checkout(root)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BEFRIEND_"))}
    python_path = [str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(python_path), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    environment["BEFRIEND_NOTIFY"] = webhook
    project = Project(root, root / "runs" / "tiny" / "events.parquet", environment)
    postpone(root / "prefect.yaml")
    done = project.call("befriend", "use", "--tiny")
    assert done.returncode == 0, done.stderr
    shutil.move(project.source, project.complete_log)
    project.write_source(5300)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a copy")
    return project


def copy_checkout(root: Path) -> None:
    """Copies the checkout with uncommitted changes, but without results of runs."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(RUN_OUTPUTS):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    git(root, "init", "-q")


def git(root: Path, *arguments: str) -> None:
    author = ["-c", "user.email=a@example.org", "-c", "user.name=a"]
    subprocess.run(["git", *author, *arguments], cwd=root, check=True, timeout=60, capture_output=True)


def postpone(deployments: Path) -> None:
    """Changes the schedules so that no scheduled run starts during the tests."""
    now, text = datetime.now(UTC), deployments.read_text()
    text = text.replace('"15 * * * *"', f'"{(now.minute + 40) % 60} * * * *"')
    deployments.write_text(text.replace('"0 3 * * *"', f'"0 {(now.hour + 12) % 24} * * *"'))


@dataclass(frozen=True)
class Server:
    """The API of a Prefect server."""

    client: PrefectHttpxSyncClient
    """retries if the server is busy (503), as it sometimes is with SQLite while a stage runs"""

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, json=body).json()

    def start(self, deployment: str, **parameters: bool) -> str:
        deployment_id = self.client.get(f"deployments/name/{deployment}/{deployment}").json()["id"]
        key = uuid.uuid4().hex  # the client retries after a timeout, when the first request may have been received
        run = self.post(f"deployments/{deployment_id}/create_flow_run", parameters=parameters, idempotency_key=key)
        return run["id"]

    def wait_until_finished(self, run_id: str) -> dict[str, Any]:
        """Waits for the end of a flow run, and returns the run; TimeoutError after RUN_TIMEOUT."""
        end, run = time.monotonic() + RUN_TIMEOUT, {"state_name": "unknown"}
        while time.monotonic() < end:
            run = self.client.get(f"flow_runs/{run_id}").json()
            if run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
                return run
            time.sleep(0.5)
        raise TimeoutError(f"the run is {run['state_name']} after {RUN_TIMEOUT} seconds")

    def artifacts(self, run_id: str) -> dict[str, Any]:
        """Key -> content of the artifacts of a flow run."""
        artifacts = self.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run_id]}})
        return {artifact["key"]: artifact["data"] for artifact in artifacts}


@dataclass(frozen=True)
class Ui:
    """A running `make ui`."""

    process: subprocess.Popen[bytes]
    output: Path
    server: Server

    def stop(self) -> None:
        """Stops it with Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=90) == 0, self.output.read_text()


@contextmanager
def started(project: Project, **extra: str) -> Iterator[Ui]:
    """Starts `make ui` in the copy. If the block does not stop it, it is stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = project.root.parent / "ui.log"
    with output.open("w") as log:
        ui = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", "--port", str(port)],
            cwd=project.root,
            env=project.environment | extra,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 240
        while "Ctrl-C stops it" not in output.read_text():
            assert ui.poll() is None and time.monotonic() < end, output.read_text()
            time.sleep(0.3)
        with PrefectHttpxSyncClient(base_url=f"http://127.0.0.1:{port}/api/", timeout=30) as client:
            yield Ui(ui, output, Server(client))
    finally:
        if ui.poll() is None:
            ui.send_signal(signal.SIGINT)
            try:
                ui.wait(timeout=90)
            except subprocess.TimeoutExpired:
                os.killpg(ui.pid, signal.SIGKILL)


@contextmanager
def serving(project: Project, **extra: str) -> Iterator[Server]:
    """Starts `make ui`, and stops it at the end with Ctrl-C, after which no process and no address file may be left."""
    with started(project, **extra) as ui:
        yield ui.server
        ui.stop()
        assert project.processes() == []
        assert not (project.root / ".prefect" / "ui-address").exists()
