"""`make ui`: runs a Prefect server for this checkout, with its deployments and a worker, until Ctrl-C.

The deployments are those of prefect.yaml. The work pool, from which the worker takes runs, runs one flow at a time.
Runs that an earlier `make ui` left unfinished are ended. All files are in .prefect/ (see flows/__init__.py).
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
CHECKOUT_VARIABLE = "BEFRIEND_HOME"  # environment variable with the path of the checkout, which prefect.yaml refers to
START_TIMEOUT = 180  # seconds until the server answers; the first start creates its database
POLL_SECONDS = "2"  # seconds between two checks of the worker for a run to start
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a service manager, a closed terminal
ACTIVE_STATES = ("RUNNING", "PENDING", "CANCELLING")
CANCEL_TIMEOUT = 40  # seconds in which a run may end its stage and report its state
STOP_TIMEOUT = 5  # seconds in which a process may end by itself


def main() -> None:
    """Serves until Ctrl-C. An error that the user can fix is one message and an exit code."""
    arguments = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__)
    arguments.add_argument("--port", type=int, default=4200, help="where the page is served (default: 4200)")
    for number in STOP_SIGNALS:
        signal.signal(number, _stop_once)
    try:
        serve(arguments.parse_args().port)
    except BefriendError as error:
        print(f"make ui: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("make ui: stopped", file=sys.stderr)


def _stop_once(*_: object) -> None:
    """Signal handler that starts the shutdown, and ignores further signals: a second Ctrl-C must not interrupt it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    print("\nmake ui: stopping", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


def serve(port: int) -> None:
    """Starts server, deployments and worker. Ends them in reverse order, so that a run can still report its state.

    Never returns: it ends by KeyboardInterrupt, or with a BefriendError if the server or the worker ends by itself.
    """
    page = f"http://127.0.0.1:{port}"
    _check_port_is_free(port)
    os.environ["PREFECT_API_URL"] = f"{page}/api"
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    home.mkdir(parents=True, exist_ok=True)
    os.environ.pop(CHECKOUT_VARIABLE, None)  # otherwise Prefect would write its value into the deployments
    with ExitStack() as children:
        print("make ui: starting the server", flush=True)
        log = children.enter_context((home / "server.log").open("w"))
        server = children.enter_context(
            _prefect_process("server", "start", "--host", "127.0.0.1", "--port", str(port), log=log.fileno())
        )
        _wait_for_server(f"{page}/api/health", server, home / "server.log")
        deploy()
        worker = children.enter_context(
            _prefect_process("worker", "start", "--pool", POOL, "--name", POOL, runs_stages=True)
        )
        children.callback(cancel_runs)
        address = home / UI_ADDRESS
        children.callback(address.unlink, missing_ok=True)
        write_text(address, f"{page}/api\n")  # read by `flows.run_from_shell`
        print(f"make ui: {page} (runs, reports, schedules; Ctrl-C stops it)", flush=True)
        while server.poll() is None and worker.poll() is None:
            time.sleep(0.5)
    raise BefriendError(f"the server or the worker ended by itself; see above, and {home / 'server.log'}")


def deploy() -> None:
    """Creates the work pool and the deployments, and removes runs of an earlier server that would block new ones."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        _create_pool(client)
        remove_leftover_runs(client)
    deployed = subprocess.run(_prefect("--no-prompt", "deploy", "--all"), capture_output=True, text=True, cwd=ROOT)
    if deployed.returncode != 0:
        raise BefriendError(f"prefect.yaml could not be deployed:\n{deployed.stdout}{deployed.stderr}")


def _create_pool(client: SyncPrefectClient) -> None:
    """Creates the work pool, which runs one flow at a time."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template, concurrency_limit=1)
    client.create_work_pool(pool, overwrite=True)


def remove_leftover_runs(client: SyncPrefectClient) -> None:
    """Ends runs whose worker has ended, since they would block the work pool, and removes overdue scheduled runs.

    Otherwise, after a week without a server, all hourly checks of the week would run one after the other.
    """
    from prefect.states import Crashed
    from prefect.types._datetime import now

    for run in _runs(client, *ACTIVE_STATES):
        client.set_flow_run_state(run.id, Crashed(message="The worker ended before this run did."), force=True)
    for run in _runs(client, "SCHEDULED"):
        if run.auto_scheduled and run.expected_start_time and run.expected_start_time < now("UTC"):
            client.delete_flow_run(run.id)


def cancel_runs() -> None:
    """Cancels all active runs, and waits until they have ended, at most CANCEL_TIMEOUT seconds.

    Without this, they would go on: a worker that is stopped does not end its runs.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    end = time.monotonic() + CANCEL_TIMEOUT
    try:
        with get_client(sync_client=True) as client:
            while time.monotonic() < end and (runs := _runs(client, *ACTIVE_STATES)):
                for run in runs:
                    if run.state_name != "Cancelling":
                        print(f"make ui: cancelling {run.name}", flush=True)
                        client.set_flow_run_state(run.id, Cancelling())
                time.sleep(0.5)
    except httpx.HTTPError:
        return  # the server has ended already


def _runs(client: SyncPrefectClient, *states: str) -> list[FlowRun]:
    """The runs of the work pool in these states, by their planned start."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.client.schemas.sorting import FlowRunSort

    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": states}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )


@contextmanager
def _prefect_process(
    *arguments: str, log: int | None = None, runs_stages: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a Prefect process, and ends it with its child processes when the block ends.

    log: file descriptor for its output, None: print it; runs_stages: the process is the worker. Each process is in its
    own process group, so that Ctrl-C does not reach all of them at once.
    """
    process = subprocess.Popen(
        _prefect(*arguments),
        cwd=ROOT,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=os.environ
        | ({CHECKOUT_VARIABLE: str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": POLL_SECONDS} if runs_stages else {}),
    )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                try:
                    process.wait(timeout=STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    continue


def _prefect(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def _check_port_is_free(port: int) -> None:
    """BusyError if another process uses the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise BusyError(
                f"port {port} is in use, perhaps by another `make ui`. Stop that one, or choose another port: "
                "python -m flows.serve --port 4300"
            ) from None


def _wait_for_server(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the server answers. BefriendError if it ends, or does not answer within START_TIMEOUT."""
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        if server.poll() is not None:
            raise BefriendError(f"the server ended by itself:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise BefriendError(f"the server does not answer after {START_TIMEOUT} seconds; see {log}")


if __name__ == "__main__":
    main()
