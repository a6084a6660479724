"""`make ui`: a Prefect server for this checkout, its deployments and a worker, until Ctrl-C.

Owns the processes it starts and what they find: one work pool of one place, the deployments of prefect.yaml, and no
remains of an earlier start. Everything it keeps lies in .prefect/ (see flows/__init__.py).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from befriend.errors import BefriendError, BusyError
from befriend.files import write_text
from flows import ROOT, UI_ADDRESS

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

POOL = "befriend"
HOME = "BEFRIEND_HOME"  # where prefect.yaml lets the worker look for the checkout
STARTING = 180  # seconds for the server to answer: the first start creates its database
POLLING = "2"  # seconds between the worker's looks for a run to start
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a service manager, a closed terminal
GOING = ("RUNNING", "PENDING", "CANCELLING")
CANCELLING = 40  # seconds for a run to end its stage and say so
STOPPING = 5  # seconds for a process that has nothing left to do


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__)
    arguments.add_argument("--port", type=int, default=4200, help="where the page is served (default: 4200)")
    for number in ENDINGS:
        signal.signal(number, _end)
    try:
        serve(arguments.parse_args().port)
    except BefriendError as error:
        print(f"make ui: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("make ui: stopped", file=sys.stderr)


def _end(*_: object) -> None:
    """Ends everything once: a second Ctrl-C must not leave behind what the first one is still stopping."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    print("\nmake ui: stopping", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


def serve(port: int) -> None:
    """Starts everything in order, each child ended in the opposite one: a run that is stopped can still say so."""
    page = f"http://127.0.0.1:{port}"
    _refuse_taken(port)
    os.environ["PREFECT_API_URL"] = f"{page}/api"
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    home.mkdir(parents=True, exist_ok=True)
    os.environ.pop(HOME, None)  # else the deployments would hold it for every worker
    with ExitStack() as children:
        print("make ui: starting the server", flush=True)
        log = children.enter_context((home / "server.log").open("w"))
        server = children.enter_context(
            _child("server", "start", "--host", "127.0.0.1", "--port", str(port), log=log.fileno())
        )
        _await(f"{page}/api/health", server, home / "server.log")
        prepare()
        worker = children.enter_context(_child("worker", "start", "--pool", POOL, "--name", POOL, here=True))
        children.callback(cancel)
        address = home / UI_ADDRESS
        children.callback(address.unlink, missing_ok=True)
        write_text(address, f"{page}/api\n")  # where flows that are started by hand find this server
        print(f"make ui: {page} (runs, reports, schedules; Ctrl-C stops it)", flush=True)
        while server.poll() is None and worker.poll() is None:
            time.sleep(0.5)
    raise BefriendError(f"the server or the worker ended by itself; see above, and {home / 'server.log'}")


def prepare() -> None:
    """The work pool and the deployments, and nothing left over that would keep them from running."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        _pool(client)
        clear(client)
    deployed = subprocess.run(_prefect("--no-prompt", "deploy", "--all"), capture_output=True, text=True, cwd=ROOT)
    if deployed.returncode != 0:
        raise BefriendError(f"prefect.yaml could not be deployed:\n{deployed.stdout}{deployed.stderr}")


def _pool(client: SyncPrefectClient) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template, concurrency_limit=1)
    client.create_work_pool(pool, overwrite=True)


def clear(client: SyncPrefectClient) -> None:
    """Ends runs whose worker is gone, which would hold the pool's one place for ever, and drops the scheduled ones
    nobody was there to start: after a week off, a week's hourly checks would run one after the other."""
    from prefect.states import Crashed
    from prefect.types._datetime import now

    for run in _runs(client, *GOING):
        client.set_flow_run_state(run.id, Crashed(message="The worker ended before this run did."), force=True)
    for run in _runs(client, "SCHEDULED"):
        if run.auto_scheduled and run.expected_start_time and run.expected_start_time < now("UTC"):
            client.delete_flow_run(run.id)


def cancel() -> None:
    """Cancels what runs, and returns when it has ended: a worker that is stopped leaves its runs going."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    end = time.monotonic() + CANCELLING
    try:
        with get_client(sync_client=True) as client:
            while time.monotonic() < end and (runs := _runs(client, *GOING)):
                for run in runs:
                    if run.state_name != "Cancelling":
                        print(f"make ui: cancelling {run.name}", flush=True)
                        client.set_flow_run_state(run.id, Cancelling())
                time.sleep(0.5)
    except httpx.HTTPError:
        return  # the server went first: nobody to tell


def _runs(client: SyncPrefectClient, *states: str) -> list[FlowRun]:
    """The pool's runs in these states, those that were to start first."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.client.schemas.sorting import FlowRunSort

    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": states}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )


@contextmanager
def _child(*arguments: str, log: int | None = None, here: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A Prefect process, ended with what it started. log: where its output goes. here: it runs stages of this checkout.

    In a process group of its own, so that Ctrl-C reaches it in our order, not all at once.
    """
    process = subprocess.Popen(
        _prefect(*arguments),
        cwd=ROOT,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=os.environ | ({HOME: str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": POLLING} if here else {}),
    )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                try:
                    process.wait(timeout=STOPPING)
                except subprocess.TimeoutExpired:
                    continue


def _prefect(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise BusyError(
                f"port {port} is in use, perhaps by another `make ui`. Stop that one, or choose another port: "
                "python -m flows.serve --port 4300"
            ) from None


def _await(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once the server answers."""
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        if server.poll() is not None:
            raise BefriendError(f"the server ended by itself:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise BefriendError(f"the server does not answer after {STARTING} seconds; see {log}")


if __name__ == "__main__":
    main()
