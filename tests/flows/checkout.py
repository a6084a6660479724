"""A copy of the checkout with a small log of its own, its Prefect server and worker, and somebody who listens.

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

    @property
    def whole(self) -> Path:
        """The events of all time, of which the source has the first ones."""
        return self.source.with_name("whole.parquet")

    def grow(self, events: int, shuffled: int = 0) -> None:
        """The source has so many events now, the last of them with targets that were mixed up."""
        log = pl.read_parquet(self.whole).sort("timestamp", maintain_order=True)[:events]
        old, new = log[: events - shuffled], log[events - shuffled :]
        mixed = new["target_id"].sample(fraction=1, shuffle=True, seed=0)
        pl.concat([old, new.with_columns(target_id=mixed)]).write_parquet(self.source)

    def champion(self) -> dict[str, Any] | None:
        done = self.call("befriend", "champion", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

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
    "prepared/split.json",
    "models/",
    "dvc.lock",
    "data.dvc",
    ".prefect/",
)  # what a run leaves in a checkout, and its data


class Listener:
    """Somebody's webhook: remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        told = self.told

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hear(self, title: str) -> dict[str, Any]:
        """The last thing told, of this title: a run's end is to be seen before the word of it gets here."""
        patience = time.monotonic() + 30
        while time.monotonic() < patience and not (self.told and self.told[-1]["title"] == title):
            time.sleep(0.1)
        assert self.told and self.told[-1]["title"] == title, self.told
        return self.told[-1]


def small_checkout(folder: Path, told: str) -> Project:
    """A checkout with the profile `tiny`, whose source has the first 5,300 events yet. told: the webhook."""
    root = folder / "befriend"
    copy_checkout(root)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BEFRIEND_"))}
    python_path = [str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(python_path), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    environment["BEFRIEND_NOTIFY"] = told
    project = Project(root, root / "runs" / "tiny" / "events.parquet", environment)
    postpone(root / "prefect.yaml")
    done = project.call("befriend", "use", "--tiny")
    assert done.returncode == 0, done.stderr
    shutil.move(project.source, project.whole)
    project.grow(5300)
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

    client: PrefectHttpxSyncClient
    """asks again where the server says that it is busy (503), as SQLite's is now and then with a stage beside it"""

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, json=body).json()

    def start(self, deployment: str, **parameters: bool) -> str:
        found = self.client.get(f"deployments/name/{deployment}/{deployment}").json()
        once = uuid.uuid4().hex  # the client asks again after a timeout too, and the first time may have been heard
        run = self.post(f"deployments/{found['id']}/create_flow_run", parameters=parameters, idempotency_key=once)
        return run["id"]

    def finished(self, run: str) -> dict[str, Any]:
        end, found = time.monotonic() + RUN, {"state_name": "unknown"}
        while time.monotonic() < end:
            found = self.client.get(f"flow_runs/{run}").json()
            if found["state_type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
                return found
            time.sleep(0.5)
        raise TimeoutError(f"the run is {found['state_name']} after {RUN} seconds")

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {artifact["key"]: artifact["data"] for artifact in found}


@dataclass(frozen=True)
class Ui:
    """`make ui`, as a process."""

    process: subprocess.Popen[bytes]
    output: Path
    server: Server

    def stop(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=90) == 0, self.output.read_text()


@contextmanager
def started(project: Project, **extra: str) -> Iterator[Ui]:
    """`make ui` in the copy; whoever uses it ends it."""
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
    """The server of `make ui`; stopped with Ctrl-C, after which nothing may be left of it."""
    with started(project, **extra) as ui:
        yield ui.server
        ui.stop()
        assert project.processes() == []
        assert not (project.root / ".prefect" / "ui-address").exists()
